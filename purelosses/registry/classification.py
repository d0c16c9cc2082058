"""Entries of the classification losses."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import purelosses as pl
from purelosses.registry.core import (
    EXCHANGE,
    Array,
    Case,
    Domain,
    Equals,
    LossSpec,
    Problem,
    class_cases,
    class_domains,
    confident,
    one_hot,
    target_domain,
)


def _two_classes(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    pair = torch.stack([torch.zeros_like(logits), logits], -1)
    return pl.cross_entropy_loss(pair, target.long(), class_dim=-1, **options)


def _two_classes_focal(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    pair = torch.stack([torch.zeros_like(logits), logits], -1)
    return pl.softmax_focal_loss(pair, target.long(), class_dim=-1, **options)


def _unfocused(logits: Tensor, target: Tensor, *, gamma: float, **options: Any) -> Tensor:
    return pl.binary_cross_entropy_loss(logits, target, **options)


def _softmax_unfocused(logits: Tensor, target: Tensor, *, gamma: float, **options: Any) -> Tensor:
    return pl.cross_entropy_loss(logits, target, **options)


_CLASS_WEIGHTS = torch.tensor([0.5, 1.0, 3.0])
_LABELS = Array("labels", "B N")
_CLASS_LOGITS = Array("class_logits", "B C N")
_SMOOTHED = {"E2": "label smoothing gives every class a share of the target"}

_ENTROPIES = "a difference of entropies, which cancel where the distributions are alike"


def _plain_cross_entropy(*data: Tensor, **options: Any) -> Tensor:
    names = ("class_dim", "where", "weights", "reduction")
    return pl.cross_entropy_loss(*data, **{k: v for k, v in options.items() if k in names})


def _plain_bce(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    names = ("where", "weights", "reduction")
    kept = {k: v for k, v in options.items() if k in names}
    return pl.binary_cross_entropy_loss(logits, target, **kept)


def _bce_of_signs(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    return pl.binary_cross_entropy_loss(logits, target > 0, **options)


def _kl_of_teacher(
    logits: Tensor, teacher_logits: Tensor, *, temperature: float, **options: Any
) -> Tensor:
    target = teacher_logits.softmax(options.get("class_dim", 1))
    return pl.kl_divergence_loss(logits, target, **options)


def _signs(name: str, **options: Any) -> Case:
    args = {"logits": Array("logits", "B N"), "target": Array("sign", "B N")}
    return Case(name, args, unit="B N", where="B N", options=options, skip=EXCHANGE)


def _sign_domains(arguments: Mapping[str, Any]) -> Mapping[str, Domain | int]:
    return {"logits": "logits", "target": "sign"}


def _distributions(name: str, skip: Mapping[str, str] | None = None, **options: Any) -> Case:
    args = {"logits": Array("class_logits", "B C N"), "target": Array("distribution", "B C N")}
    return Case(name, args, unit="B N", where="B N", options=options, skip=skip or {})


def _distribution_domains(arguments: Mapping[str, Any]) -> Mapping[str, Domain | int]:
    return {"logits": "class_logits", "target": "unit"}


def _log_target(problem: Problem) -> Problem:
    return problem.having(logits=problem.tensors["target"].log())


def _thresholds(name: str, logits: str, **options: Any) -> Case:
    """One threshold less than there are classes."""
    return Case(
        name,
        {"logits": Array("logits", logits), "target": Array("labels", "B N")},
        unit="B N",
        where="B N",
        options=options,
        sizes={"B": 4, "K": 3, "C": 4, "N": 6},
    )


def _rank_domains(arguments: Mapping[str, Any]) -> Mapping[str, Domain | int]:
    return {
        "logits": "logits",
        "target": arguments["logits"].shape[arguments.get("class_dim", 1)] + 1,
    }


def _sure_of_ranks(problem: Problem) -> Problem:
    logits, target = problem.tensors["logits"], problem.tensors["target"]
    axis = problem.case.arrays["logits"].names.index("K")
    shape = [-1 if i == axis else 1 for i in range(logits.ndim)]
    ranks = torch.arange(logits.shape[axis], device=logits.device).reshape(shape)
    above = (target.unsqueeze(axis) > ranks).to(logits.dtype)
    return problem.having(logits=80 * above - 40)


def _cutpoint_domains(arguments: Mapping[str, Any]) -> Mapping[str, Domain | int]:
    classes = arguments["params"]["gaps"].shape[0] + 2
    return {"params": "real", "prediction": "real", "target": classes}


SPECS = (
    LossSpec(
        pl.binary_cross_entropy_loss,
        "element",
        (
            Case(
                "hard labels",
                {"logits": Array("logits", "B N"), "target": Array("mask", "B N")},
                unit="B N",
                where="B N",
                skip=EXCHANGE,
            ),
            Case(
                "probabilities",
                {"logits": Array("logits", "B N"), "target": Array("unit", "B N")},
                unit="B N",
                where="B N",
                skip=EXCHANGE,
            ),
        ),
        lambda arguments: {"logits": "logits", "target": "unit"},
        bounded=(0.0, torch.inf),
        perfect=confident,
        convex=True,
        monotone=True,
        permutable="B N",
        cross_entropy=True,
        equals=(Equals("cross_entropy_loss of two classes", _two_classes, cases=("hard labels",)),),
    ),
    LossSpec(
        pl.cross_entropy_loss,
        "sample (in images: pixel)",
        (
            Case("labels", {"logits": _CLASS_LOGITS, "target": _LABELS}, unit="B N", where="B N"),
            Case(
                "probabilities, last axis",
                {"logits": Array("class_logits", "B C"), "target": Array("distribution", "B C")},
                unit="B",
                where="B",
                options={"class_dim": -1, "label_smoothing": torch.tensor(0.1)},
                skip=_SMOOTHED,
            ),
            Case(
                "class weights and smoothing",
                {"logits": _CLASS_LOGITS, "target": _LABELS},
                unit="B N",
                where="B N",
                options={"label_smoothing": 0.1, "class_weights": _CLASS_WEIGHTS},
                skip=_SMOOTHED,
                mass=lambda problem: problem.options["class_weights"][problem.tensors["target"]],
            ),
        ),
        lambda arguments: {
            "logits": "class_logits",
            "target": target_domain(arguments),
            "class_weights": "positive",
        },
        bounded=(0.0, torch.inf),
        perfect=confident,
        convex=True,
        monotone=True,
        permutable="B N",
        cross_entropy=True,
        equals=(
            Equals(
                "itself with one-hot targets",
                one_hot(pl.cross_entropy_loss),
                cases=("labels", "class weights and smoothing"),
            ),
        ),
    ),
    LossSpec(
        pl.sigmoid_focal_loss,
        "element",
        (
            Case(
                "hard labels",
                {"logits": Array("logits", "B N"), "target": Array("mask", "B N")},
                unit="B N",
                where="B N",
                skip=EXCHANGE,
            ),
            Case(
                "probabilities",
                {"logits": Array("logits", "B N"), "target": Array("unit", "B N")},
                unit="B N",
                where="B N",
                options={"gamma": 0.5, "alpha": torch.tensor(0.25)},
                skip=EXCHANGE,
            ),
            Case(
                "learnt gamma",
                {"logits": Array("logits", "B N"), "target": Array("mask", "B N")},
                unit="B N",
                where="B N",
                options={"gamma": torch.tensor(1.5), "alpha": 0.25},
                skip=EXCHANGE,
            ),
        ),
        lambda arguments: {"logits": "logits", "target": "unit"},
        bounded=(0.0, torch.inf),
        perfect=confident,
        monotone=True,
        permutable="B N",
        cross_entropy=True,
        equals=(
            Equals(
                "binary_cross_entropy_loss for a gamma of 0",
                _unfocused,
                {"gamma": 0.0},
                cases=("hard labels",),
            ),
            Equals(
                "softmax_focal_loss of two classes",
                _two_classes_focal,
                {"gamma": 2.0},
                cases=("hard labels",),
            ),
        ),
    ),
    LossSpec(
        pl.softmax_focal_loss,
        "sample (in images: pixel)",
        (
            Case("labels", {"logits": _CLASS_LOGITS, "target": _LABELS}, unit="B N", where="B N"),
            Case(
                "probabilities, last axis",
                {"logits": Array("class_logits", "B C"), "target": Array("distribution", "B C")},
                unit="B",
                where="B",
                options={"class_dim": -1, "gamma": torch.tensor(0.5)},
            ),
            Case(
                "class weights",
                {"logits": _CLASS_LOGITS, "target": _LABELS},
                unit="B N",
                where="B N",
                options={"gamma": 0.5, "class_weights": _CLASS_WEIGHTS},
                mass=lambda problem: problem.options["class_weights"][problem.tensors["target"]],
            ),
        ),
        lambda arguments: {
            "logits": "class_logits",
            "target": target_domain(arguments),
            "class_weights": "positive",
        },
        bounded=(0.0, torch.inf),
        perfect=confident,
        monotone=True,
        permutable="B N",
        cross_entropy=True,
        equals=(
            Equals(
                "itself with one-hot targets",
                one_hot(pl.softmax_focal_loss),
                cases=("labels", "class weights"),
            ),
            Equals("cross_entropy_loss for a gamma of 0", _softmax_unfocused, {"gamma": 0.0}),
        ),
    ),
    LossSpec(
        pl.poly1_loss,
        "sample (in images: pixel)",
        (*class_cases(), class_cases("learnt epsilon", epsilon=torch.tensor(-0.5))[0]),
        class_domains,
        bounded=(0.0, torch.inf),
        perfect=confident,
        monotone=True,
        permutable="B N",
        cross_entropy=True,
        equals=(
            Equals("cross_entropy_loss at epsilon 0", _plain_cross_entropy, {"epsilon": 0.0}),
            Equals("itself with one-hot targets", one_hot(pl.poly1_loss), cases=("labels",)),
        ),
    ),
    LossSpec(
        pl.asymmetric_loss,
        "element",
        (
            Case(
                "hard labels",
                {"logits": Array("logits", "B N"), "target": Array("mask", "B N")},
                unit="B N",
                where="B N",
            ),
            Case(
                "probabilities, learnt options",
                {"logits": Array("logits", "B N"), "target": Array("unit", "B N")},
                unit="B N",
                where="B N",
                options={
                    "gamma_neg": torch.tensor(0.5),
                    "gamma_pos": torch.tensor(2.0),
                    "clip": torch.tensor(0.0),
                },
            ),
        ),
        lambda arguments: {"logits": "logits", "target": "unit"},
        bounded=(0.0, torch.inf),
        perfect=confident,
        monotone=True,
        permutable="B N",
        cross_entropy=True,
        equals=(
            Equals(
                "binary_cross_entropy_loss without focus and clip",
                _plain_bce,
                {"gamma_neg": 0.0, "gamma_pos": 0.0, "clip": 0.0},
            ),
        ),
    ),
    LossSpec(
        pl.hinge_loss,
        "element",
        (_signs("hinge"), _signs("squared hinge", power=2)),
        _sign_domains,
        bounded=(0.0, torch.inf),
        perfect=confident,
        convex=True,
        monotone=True,
        permutable="B N",
        cross_entropy=True,
    ),
    LossSpec(
        pl.soft_margin_loss,
        "element",
        (_signs("signs"),),
        _sign_domains,
        bounded=(0.0, torch.inf),
        perfect=confident,
        convex=True,
        monotone=True,
        permutable="B N",
        cross_entropy=True,
        equals=(Equals("binary_cross_entropy_loss of the signs", _bce_of_signs),),
    ),
    LossSpec(
        pl.multiclass_hinge_loss,
        "sample (in images: pixel)",
        (
            class_cases("Crammer and Singer")[0],
            class_cases("Weston and Watkins", kind="weston_watkins")[0],
        ),
        class_domains,
        bounded=(0.0, torch.inf),
        perfect=confident,
        convex=True,
        monotone=True,
        permutable="B N",
        cross_entropy=True,
    ),
    LossSpec(
        pl.kl_divergence_loss,
        "sample (in images: pixel)",
        (
            _distributions("forward"),
            _distributions(
                "reverse",
                direction="reverse",
                skip={
                    "E2": "a class without target that the prediction allows costs infinity",
                    "E4": "a target of 0 that the prediction allows costs infinity",
                },
            ),
        ),
        _distribution_domains,
        bounded=(0.0, torch.inf),
        perfect=_log_target,
        permutable="B N C",
        accuracy_floor=(0.1, _ENTROPIES),
    ),
    LossSpec(
        pl.js_divergence_loss,
        "sample (in images: pixel)",
        (
            _distributions("even"),
            _distributions("uneven, learnt", beta=torch.tensor(0.2)),
        ),
        _distribution_domains,
        bounded=(0.0, math.log(2)),
        perfect=_log_target,
        permutable="B N C",
        accuracy_floor=(0.1, _ENTROPIES),
    ),
    LossSpec(
        pl.knowledge_distillation_loss,
        "sample (in images: pixel)",
        tuple(
            Case(
                name,
                {
                    "logits": Array("class_logits", axes),
                    "teacher_logits": Array("class_logits", axes),
                },
                unit=unit,
                where=unit,
                options=options,
                skip={"E2": "the teacher gives every class a share"},
            )
            for name, axes, unit, options in (
                ("pixels", "B C N", "B N", {"temperature": 2.0}),
                (
                    "last axis, learnt",
                    "B C",
                    "B",
                    {"class_dim": -1, "temperature": torch.tensor(0.7)},
                ),
            )
        ),
        lambda arguments: {"logits": "class_logits", "teacher_logits": "class_logits"},
        bounded=(0.0, torch.inf),
        perfect=lambda problem: problem.having(logits=problem.tensors["teacher_logits"]),
        permutable="B N C",
        equals=(
            Equals(
                "kl_divergence_loss of the teacher's softmax at temperature 1",
                _kl_of_teacher,
                {"temperature": 1.0},
            ),
        ),
        accuracy_floor=(0.1, _ENTROPIES),
    ),
    LossSpec(
        pl.confidence_penalty_loss,
        "sample (in images: pixel)",
        (*class_cases(), class_cases("learnt beta", beta=torch.tensor(0.5))[0]),
        class_domains,
        permutable="B N",
        cross_entropy=True,
        equals=(Equals("cross_entropy_loss at beta 0", _plain_cross_entropy, {"beta": 0.0}),),
        accuracy_floor=(0.1, "a difference of the cross-entropy and the entropy"),
    ),
    LossSpec(
        pl.brier_loss,
        "sample (in images: pixel)",
        class_cases(),
        class_domains,
        bounded=(0.0, 2.0),
        perfect=confident,
        permutable="B N",
        equals=(Equals("itself with one-hot targets", one_hot(pl.brier_loss), cases=("labels",)),),
    ),
    LossSpec(
        pl.coral_loss,
        "sample (in images: pixel)",
        (_thresholds("ranks", "B K N"), _thresholds("last axis", "B N K", class_dim=-1)),
        _rank_domains,
        bounded=(0.0, torch.inf),
        perfect=_sure_of_ranks,
        convex=True,
        monotone=True,
        permutable="B N",
        cross_entropy=True,
    ),
    LossSpec(
        pl.corn_loss,
        "sample (in images: pixel)",
        (_thresholds("ranks", "B K N"), _thresholds("last axis", "B N K", class_dim=-1)),
        _rank_domains,
        bounded=(0.0, torch.inf),
        perfect=_sure_of_ranks,
        convex=True,
        monotone=True,
        permutable="B N",
        cross_entropy=True,
    ),
    LossSpec(
        pl.cumulative_link_loss,
        "element",
        (
            Case(
                "four classes",
                {
                    "params": {"first": Array("real"), "gaps": Array("real", "G")},
                    "prediction": Array("real", "B N"),
                    "target": Array("labels", "B N"),
                },
                unit="B N",
                where="B N",
                sizes={"B": 4, "N": 6, "C": 4, "G": 2},
            ),
        ),
        _cutpoint_domains,
        parameters="params",
        init={"four classes": 4},
        bounded=(0.0, torch.inf),
        convex=True,
        permutable="B N",
    ),
)

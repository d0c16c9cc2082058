"""Entries of the segmentation losses by rank, by distance and by skeleton."""

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
    confident,
    one_hot,
    target_domain,
)


def _domains(arguments: Mapping[str, Any]) -> Mapping[str, Domain]:
    target = target_domain({"class_dim": None, **arguments})
    activation: Mapping[str | None, Domain] = {"softmax": "class_logits", "sigmoid": "logits"}
    return {"prediction": activation.get(arguments.get("activation"), "unit"), "target": target}


def _map_domains(arguments: Mapping[str, Any]) -> Mapping[str, Domain]:
    return {"prediction": _domains({**arguments, "target": torch.zeros(())})["prediction"],
            "distance_map": "real"}  # fmt: skip


def _hinge_domains(arguments: Mapping[str, Any]) -> Mapping[str, Domain]:
    return {"logits": "logits", "target": "unit"}


def _softmax_domains(arguments: Mapping[str, Any]) -> Mapping[str, Domain]:
    return {"logits": "class_logits", "target": target_domain(arguments)}


def _nacl_domains(arguments: Mapping[str, Any]) -> Mapping[str, Domain]:
    return {"logits": "logits", "target": target_domain(arguments)}


def _present(problem: Problem) -> Tensor:
    """Which classes each sample has, of labels with the batch first."""
    target, where = problem.tensors["target"], problem.tensors.get("where")
    mask = torch.nn.functional.one_hot(target, 3).movedim(-1, 1)
    if where is not None:
        mask = torch.where(where.unsqueeze(1), mask, 0)
    return mask.flatten(2).sum(2) > 0


def _recall_statistics(*data: Tensor, smooth: Any = None, **options: Any) -> Any:
    return pl.overlap_statistics(*data, **options)


def _recall_of(statistics: Any, options: Mapping[str, Any]) -> Tensor:
    tp, fn = statistics["tp"], statistics["fn"]
    loss: Tensor = (fn / (tp + fn + options.get("smooth", 1.0))).mean()
    return loss


def _dice(
    prediction: Tensor,
    target: Tensor,
    *,
    dice_weight: float,
    cldice_weight: float,
    iters: int = 3,
    **options: Any,
) -> Tensor:
    return pl.dice_loss(prediction, target, **options)


def _cldice(
    prediction: Tensor,
    target: Tensor,
    *,
    dice_weight: float,
    cldice_weight: float,
    **options: Any,
) -> Tensor:
    return pl.cldice_loss(prediction, target, **options)


def _cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    penalty_weight: float,
    dim: Any = None,
    penalty: Any = None,
    kernel_size: Any = None,
    **options: Any,
) -> Tensor:
    return pl.cross_entropy_loss(logits, target, **options)


def _images(unit: str = "B", **options: Any) -> Case:
    """Probabilities and masks, every image a region."""
    return Case(
        "probabilities of images",
        {"prediction": Array("unit", "B H W"), "target": Array("mask", "B H W")},
        unit=unit,
        where="B H W",
        options={"dim": (1, 2), **options},
    )


def _channels(**options: Any) -> Case:
    return Case(
        "multi-label logits",
        {"prediction": Array("logits", "B C H W"), "target": Array("mask", "B C H W")},
        unit="B C",
        where="B H W",
        options={"activation": "sigmoid", "class_dim": 1, **options},
        skip=EXCHANGE,
    )


LABELS = "class logits and labels"


def _labels(skip: Mapping[str, str] = EXCHANGE, **options: Any) -> Case:
    present = options.get("classes") == "present"
    return Case(
        LABELS,
        {"prediction": Array("class_logits", "B C N"), "target": Array("labels", "B N")},
        unit="B C",
        where="B N",
        options={"activation": "softmax", "class_dim": 1, **options},
        present=_present if present else None,
        skip=skip,
    )


RANKED = {"R6": "the ranks of all pixels are no sums: a pooled region is not made of its parts"}

SPECS = (
    LossSpec(
        pl.lovasz_hinge_loss,
        "region",
        (
            Case(
                "one region per image",
                {"logits": Array("logits", "B H W"), "target": Array("mask", "B H W")},
                unit="B",
                where="B H W",
                options={"dim": (1, 2)},
            ),
            Case(
                "one region, by histogram",
                {"logits": Array("logits", "B N"), "target": Array("mask", "B N")},
                unit="",
                where="B N",
                options={"method": "histogram"},
                separable=False,
                skip=RANKED,
            ),
        ),
        _hinge_domains,
        bounded=(0.0, torch.inf),
        perfect=confident,
        convex=True,
        permutable="B H W N",
        cross_entropy=True,
    ),
    LossSpec(
        pl.lovasz_softmax_loss,
        "region",
        (
            Case(
                LABELS,
                {"logits": Array("class_logits", "B C N"), "target": Array("labels", "B N")},
                unit="B C",
                where="B N",
                present=_present,
            ),
            Case(
                "pooled over the batch, all classes, by histogram",
                {"logits": Array("class_logits", "B C N"), "target": Array("labels", "B N")},
                unit="C",
                where="B N",
                options={"dim": (0, 2), "classes": "all", "method": "histogram"},
                separable=False,
                skip=RANKED,
            ),
        ),
        _softmax_domains,
        bounded=(0.0, 1.0),
        perfect=confident,
        permutable="B N",
        equals=(
            Equals(
                "itself with one-hot targets", one_hot(pl.lovasz_softmax_loss), cases=(LABELS,)
            ),
        ),
    ),
    LossSpec(
        pl.boundary_loss,
        "region",
        (
            Case(
                "probabilities of images",
                # Of one sign: a sum of both may cancel, and its relative error says nothing then.
                {"prediction": Array("unit", "B H W"), "distance_map": Array("positive", "B H W")},
                unit="B",
                where="B H W",
                options={"dim": (1, 2)},
            ),
            Case(
                "class logits",
                {
                    "prediction": Array("class_logits", "B C N"),
                    "distance_map": Array("real", "B C N"),
                },
                unit="B C",
                where="B N",
                options={"activation": "softmax", "class_dim": 1},
            ),
        ),
        _map_domains,
        permutable="B H W N",
    ),
    LossSpec(
        pl.hausdorff_dt_loss,
        "region",
        (
            _images(),
            _channels(alpha=torch.tensor(1.5), spacing=(1.0, 0.5)),
            _labels(
                classes="present",
                skip={**EXCHANGE, "N7": "distances jump where a probability crosses one half, "
                      "and on the grid some do within a rounding"},
            ),
        ),
        _domains,
        bounded=(0.0, torch.inf),
        perfect=confident,
        symmetric=True,
        permutable="B",
        equals=(
            Equals(
                "itself with one-hot targets", one_hot(pl.hausdorff_dt_loss), cases=(LABELS,)
            ),
        ),
    ),
    LossSpec(
        pl.cldice_loss,
        "region",
        (_images(iters=2), _channels(iters=1, smooth=1e-3), _labels(classes="present")),
        _domains,
        bounded=(0.0, 1.0),
        perfect=confident,
        symmetric=True,
        permutable="B",
        equals=(Equals("itself with one-hot targets", one_hot(pl.cldice_loss), cases=(LABELS,)),),
    ),
    LossSpec(
        pl.dice_cldice_loss,
        "region",
        (_images(), _channels(iters=1, dice_weight=torch.tensor(0.25))),
        _domains,
        bounded=(0.0, 1.0),
        perfect=confident,
        symmetric=True,
        permutable="B",
        equals=(
            Equals("dice_loss alone", _dice, {"dice_weight": 1.0, "cldice_weight": 0.0}),
            Equals("cldice_loss alone", _cldice, {"dice_weight": 0.0, "cldice_weight": 1.0}),
        ),
    ),
    LossSpec(
        pl.skeleton_recall_loss,
        "region",
        (
            _images(),
            _channels(smooth=0.0),
            _labels(classes="present"),
            Case(
                "pooled over the batch",
                {"prediction": Array("unit", "B C N"), "target": Array("unit", "B C N")},
                unit="C",
                where="B N",
                options={"class_dim": 1, "dim": (0, 2)},
                separable=False,
            ),
        ),
        _domains,
        bounded=(0.0, 1.0),
        perfect=confident,
        permutable="B H W N",
        equals=(
            Equals(
                "itself with one-hot targets", one_hot(pl.skeleton_recall_loss), cases=(LABELS,)
            ),
        ),
        statistics=(_recall_statistics, _recall_of),
    ),
    LossSpec(
        pl.nacl_loss,
        "pixel",
        (
            Case(
                "labels",
                {"logits": Array("logits", "B C H W"), "target": Array("labels", "B H W")},
                unit="B H W",
                where="B H W",
            ),
            Case(
                "probabilities, squared penalty",
                {"logits": Array("logits", "B C N"), "target": Array("distribution", "B C N")},
                unit="B N",
                where="B N",
                options={"penalty": "l2", "penalty_weight": torch.tensor(0.5), "kernel_size": 5},
            ),
        ),
        _nacl_domains,
        bounded=(0.0, torch.inf),
        convex=True,
        permutable="B",
        equals=(
            Equals("cross_entropy_loss without the penalty", _cross_entropy,
                   {"penalty_weight": 0.0}),
            Equals("itself with one-hot targets", one_hot(pl.nacl_loss), cases=("labels",)),
        ),
    ),
)  # fmt: skip

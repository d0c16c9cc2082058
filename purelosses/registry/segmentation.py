"""Entries of the losses over regions."""

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


def _overlap_domains(arguments: Mapping[str, Any]) -> Mapping[str, Domain]:
    target = target_domain({"class_dim": None, **arguments})
    if "logits" in arguments:
        return {"logits": "logits", "target": target}
    activation: Mapping[str | None, Domain] = {"softmax": "class_logits", "sigmoid": "logits"}
    return {"prediction": activation.get(arguments.get("activation"), "unit"), "target": target}


def _dice_statistics(*data: Tensor, smooth: Any = None, classes: Any = None, **options: Any) -> Any:
    return pl.overlap_statistics(*data, **options)


def _dice_of(statistics: Any, options: Mapping[str, Any]) -> Tensor:
    return pl.dice_from_statistics(
        statistics, **{k: v for k, v in options.items() if k in ("smooth", "classes")}
    )


def _dice_bce_statistics(
    *data: Tensor,
    dice_weight: Any = None,
    bce_weight: Any = None,
    smooth: Any = None,
    classes: Any = None,
    **options: Any,
) -> Any:
    return pl.overlap_statistics(*data, activation="sigmoid", extra="bce", **options)


def _dice_bce_of(statistics: Any, options: Mapping[str, Any]) -> Tensor:
    names = ("dice_weight", "bce_weight", "smooth", "classes")
    return pl.dice_bce_from_statistics(
        statistics, **{k: v for k, v in options.items() if k in names}
    )


def _regions_with_target(problem: Problem) -> Tensor:
    target = problem.tensors["target"]
    where = problem.tensors.get("where")
    if where is not None:
        target = torch.where(where.unsqueeze(1), target, 0)
    return target.flatten(2).sum(2) > 0


def _dense(problem: Problem) -> Problem:
    target = torch.nn.functional.one_hot(problem.tensors["target"], 3).movedim(-1, 1)
    return problem.having(target=target)


def _dice_of_logits(
    logits: Tensor, target: Tensor, *, dice_weight: float, bce_weight: float, **options: Any
) -> Tensor:
    return pl.dice_loss(logits, target, activation="sigmoid", **options)


_LABELS = Array("labels", "B N")

SPECS = (
    LossSpec(
        pl.dice_loss,
        "region",
        (
            Case(
                "one region of probabilities",
                {"prediction": Array("unit", "B H W"), "target": Array("mask", "B H W")},
                unit="",
                where="B H W",
                separable=False,
            ),
            Case(
                "multi-label logits",
                {"prediction": Array("logits", "B C H W"), "target": Array("mask", "B C H W")},
                unit="B C",
                where="B H W",
                options={"activation": "sigmoid", "class_dim": 1},
                skip=EXCHANGE,
            ),
            Case(
                "class logits and labels, present classes",
                {"prediction": Array("class_logits", "B C N"), "target": _LABELS},
                unit="B C",
                where="B N",
                options={"activation": "softmax", "class_dim": 1, "classes": "present"},
                present=lambda problem: _regions_with_target(_dense(problem)),
                skip=EXCHANGE,
            ),
            Case(
                "pooled over the batch, soft target, no smoothing",
                {"prediction": Array("unit", "B C N"), "target": Array("unit", "B C N")},
                unit="C",
                where="B N",
                options={"class_dim": 1, "dim": (0, 2), "smooth": 0.0},
                separable=False,
            ),
        ),
        _overlap_domains,
        bounded=(0.0, 1.0),
        perfect=confident,
        symmetric=True,
        permutable="B H W N",
        equals=(
            Equals(
                "itself with one-hot targets",
                one_hot(pl.dice_loss),
                cases=("class logits and labels, present classes",),
            ),
        ),
        statistics=(_dice_statistics, _dice_of),
    ),
    LossSpec(
        pl.dice_bce_loss,
        "region",
        (
            Case(
                "one region",
                {"logits": Array("logits", "B H W"), "target": Array("mask", "B H W")},
                unit="",
                where="B H W",
                separable=False,
            ),
            Case(
                "channels",
                {"logits": Array("logits", "B C H W"), "target": Array("mask", "B C H W")},
                unit="B C",
                where="B H W",
                options={"class_dim": 1, "dice_weight": 1.0, "bce_weight": torch.tensor(2.0)},
            ),
        ),
        _overlap_domains,
        bounded=(0.0, torch.inf),
        perfect=confident,
        permutable="B H W",
        cross_entropy=True,
        equals=(
            Equals(
                "dice_loss of the probabilities without the cross-entropy",
                _dice_of_logits,
                {"dice_weight": 1.0, "bce_weight": 0.0},
            ),
        ),
        statistics=(_dice_bce_statistics, _dice_bce_of),
    ),
)

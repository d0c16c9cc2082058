"""Entries of the classification losses."""

from typing import Any

import torch
from torch import Tensor

import purelosses as pl
from purelosses.registry.core import (
    EXCHANGE,
    Array,
    Case,
    Equals,
    LossSpec,
    confident,
    one_hot,
    target_domain,
)


def _two_classes(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    pair = torch.stack([torch.zeros_like(logits), logits], -1)
    return pl.cross_entropy_loss(pair, target.long(), class_dim=-1, **options)


_CLASS_WEIGHTS = torch.tensor([0.5, 1.0, 3.0])
_LABELS = Array("labels", "B N")
_CLASS_LOGITS = Array("class_logits", "B C N")
_SMOOTHED = {"E2": "label smoothing gives every class a share of the target"}

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
)

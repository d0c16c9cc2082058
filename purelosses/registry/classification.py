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
)

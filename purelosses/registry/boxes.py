"""Entries of the losses of boxes."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

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
)

Loss: TypeAlias = Callable[..., Tensor]


def _domains(arguments: Mapping[str, Any]) -> Mapping[str, Domain]:
    domains: dict[str, Domain] = {"boxes": "boxes", "target": "boxes"}
    return {"state": "positive", **domains} if "state" in arguments else domains


_CONSTANT = "one of its factors is a constant in the gradient, as published"
_FROZEN = {"T6": _CONSTANT, "T7": _CONSTANT}


def _boxes(
    name: str = "boxes", *, axes: int = 2, skip: Mapping[str, str] | None = None, **options: Any
) -> Case:
    boxes = Array("boxes", "B corners")
    args = {"boxes": boxes, "target": boxes}
    sizes = {"B": 4, "corners": 2 * axes}
    return Case(name, args, "B", "B", options=options, skip=skip or {}, sizes=sizes)


def _scores(name: str, target: Domain, **options: Any) -> Case:
    args = {"logits": Array("logits", "B N"), "target": Array(target, "B N")}
    return Case(name, args, unit="B N", where="B N", options=options, skip=EXCHANGE)


def _exact(problem: Problem) -> Problem:
    """The boxes that equal their targets."""
    return problem.having(boxes=problem.tensors["target"])


def _corners(boxes: Tensor, fmt: str) -> Tensor:
    """The corners that belong to numbers in another format."""
    first, second = boxes.chunk(2, -1)
    low = first if fmt == "xywh" else first - second / 2
    return torch.cat([low, low + second], -1)


def _formats(loss: Loss) -> tuple[Equals, ...]:
    """The claims that a loss converts each format to corners."""

    def of_corners(*data: Tensor, fmt: str, **options: Any) -> Tensor:
        *state, boxes, target = data
        return loss(*state, _corners(boxes, fmt), _corners(target, fmt), **options)

    return tuple(
        Equals(f"itself of the corners of {fmt}", of_corners, {"fmt": fmt})
        for fmt in ("xywh", "cxcywh")
    )


def _binary(logits: Tensor, target: Tensor, *, gamma: float, **options: Any) -> Tensor:
    return pl.binary_cross_entropy_loss(logits, target, **options)


def _unweighted(
    logits: Tensor, target: Tensor, *, alpha: float, gamma: float, **options: Any
) -> Tensor:
    return pl.binary_cross_entropy_loss(logits, target, **options)


def _two_bins(
    logits: Tensor, target: Tensor, *, weights: Tensor | None = None, **options: Any
) -> Tensor:
    """Cross-entropy with the bins on both sides of the target, weighted by how near they are."""
    bin = target.detach().floor().clamp(0, logits.shape[-1] - 2)
    weight = 1.0 if weights is None else weights
    options |= {"class_dim": -1}
    low = pl.cross_entropy_loss(logits, bin.long(), weights=(bin + 1 - target) * weight, **options)
    high = pl.cross_entropy_loss(logits, bin.long() + 1, weights=(target - bin) * weight, **options)
    return low + high


def _eiou(boxes: Tensor, target: Tensor, *, gamma: float, **options: Any) -> Tensor:
    return pl.eiou_loss(boxes, target, **options)


def _plain(loss: Loss) -> Loss:
    """The loss that an alpha of 1 makes of a kind."""

    def call(boxes: Tensor, target: Tensor, *, kind: str, alpha: float, **options: Any) -> Tensor:
        return loss(boxes, target, **options)

    return call


def _spec(loss: Loss, *cases: Case, equals: tuple[Equals, ...] = (), **claims: Any) -> LossSpec:
    """What the losses between boxes have in common."""
    common: dict[str, Any] = {
        "perfect": _exact,
        "symmetric": True,
        "homogeneous": 0,
        "permutable": "B",
        "equals": (*_formats(loss), *equals),
    }
    return LossSpec(loss, "box", cases, _domains, **{**common, **claims})


_VOLUMES = _boxes("boxes in three dimensions", axes=3)
_STATE = {"mean": Array("positive")}

SPECS = (
    _spec(
        pl.iou_loss,
        _boxes(),
        _boxes("logarithm", kind="log"),
        _boxes("square", kind="square"),
        _VOLUMES,
        bounded=(0.0, 13.82),
    ),
    _spec(pl.giou_loss, _boxes(), _VOLUMES, bounded=(0.0, 2.0)),
    _spec(pl.diou_loss, _boxes(), _VOLUMES, bounded=(0.0, 2.0)),
    _spec(
        pl.ciou_loss,
        _boxes(skip=_FROZEN),
        _boxes("threshold", skip=_FROZEN, iou_threshold=0.5),
        bounded=(0.0, 2.5),
    ),
    _spec(pl.eiou_loss, _boxes(), _VOLUMES, bounded=(0.0, 5.0)),
    _spec(
        pl.siou_loss,
        _boxes(),
        _boxes("learnt exponent", theta=torch.tensor(2.5)),
        bounded=(0.0, 3.0),
    ),
    _spec(
        pl.alpha_iou_loss,
        _boxes(),
        _boxes("GIoU, learnt power", kind="giou", alpha=torch.tensor(0.7)),
        _boxes("DIoU", kind="diou"),
        _boxes("CIoU", kind="ciou", skip=_FROZEN),
        bounded=(0.0, 3.0),
        equals=tuple(
            Equals(
                f"{loss.__name__} for an alpha of 1",
                _plain(loss),
                {"alpha": 1.0, "kind": loss.__name__.removesuffix("_loss")},
            )
            for loss in (pl.iou_loss, pl.giou_loss, pl.diou_loss, pl.ciou_loss)
        ),
    ),
    _spec(
        pl.focal_eiou_loss,
        _boxes(skip=_FROZEN),
        bounded=(0.0, 4.0),
        equals=(Equals("eiou_loss for a gamma of 0", _eiou, {"gamma": 0.0}),),
    ),
    _spec(
        pl.wiou_loss,
        *(
            replace(case, args={"state": _STATE, **case.args})
            for case in (
                _boxes(skip=_FROZEN),
                _boxes("version 1", skip=_FROZEN, version="v1"),
                _boxes(
                    "version 2, learnt exponent",
                    skip=_FROZEN,
                    version="v2",
                    gamma=torch.tensor(0.7),
                ),
            )
        ),
        parameters="state",
        bounded=(0.0, torch.inf),
        homogeneous=None,  # scaling the tensors scales the state too
        stop_gradient=("state.mean",),
    ),
    _spec(
        pl.mpdiou_loss,
        _boxes(image_size=(6.0, 8.0)),
        bounded=(0.0, torch.inf),
        homogeneous=None,  # the image keeps its size
    ),
    LossSpec(
        pl.quality_focal_loss,
        "element",
        (_scores("labels", "mask"), _scores("qualities", "unit", gamma=torch.tensor(1.5))),
        lambda _: {"logits": "logits", "target": "unit"},
        bounded=(0.0, torch.inf),
        perfect=confident,
        permutable="B N",
        cross_entropy=True,
        equals=(Equals("binary_cross_entropy_loss for a gamma of 0", _binary, {"gamma": 0.0}),),
        accuracy_floor=(0.01, "the distance between quality and probability may cancel"),
    ),
    LossSpec(
        pl.varifocal_loss,
        "element",
        (
            _scores("labels", "mask"),
            _scores("qualities", "unit", alpha=torch.tensor(0.5), gamma=1.5),
        ),
        lambda _: {"logits": "logits", "target": "unit"},
        bounded=(0.0, torch.inf),
        perfect=confident,
        permutable="B N",
        cross_entropy=True,
        equals=(
            Equals(
                "binary_cross_entropy_loss of labels for an alpha of 1 and a gamma of 0",
                _unweighted,
                {"alpha": 1.0, "gamma": 0.0},
                cases=("labels",),
            ),
        ),
    ),
    LossSpec(
        pl.distribution_focal_loss,
        "edge",
        (
            Case(
                "edges",
                {"logits": Array("class_logits", "B N C"), "target": Array("positions", "B N")},
                unit="B N",
                where="B N",
                skip=EXCHANGE,
            ),
        ),
        lambda _: {"logits": "class_logits", "target": "positions"},
        bounded=(0.0, torch.inf),
        convex=True,
        permutable="B N",
        equals=(Equals("cross_entropy_loss of the two bins", _two_bins),),
    ),
)

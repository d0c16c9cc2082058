"""Two boxes in one place: the areas they share and do not share, and how far apart they are.

Everything is made of differences of coordinates, by operations that add positive numbers only. So
a loss keeps its digits as it goes to 0, and is 0 for equal boxes.
"""

import math
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from purelosses._checks import (
    check_choice,
    check_floating,
    check_reduction,
    check_same_shape,
    check_weights,
    check_where,
    complain,
)
from purelosses._numerics import power, promote, safe_divide, share
from purelosses._types import Reduction
from purelosses.boxes import kernel
from purelosses.boxes.kernel import Shares as Shares

Format: TypeAlias = Literal["xyxy", "xywh", "cxcywh"]


class Corners(NamedTuple):
    """Both corners of a predicted box and of its target, low and high, along the first axis."""

    prediction: Tensor
    target: Tensor


class Pair(NamedTuple):
    """The corners of predicted boxes and of their targets, side by side.

    The first axis of each tensor is that of space (x, y, z), the second one holds prediction and
    target, and the others are those of the boxes. So a coordinate lies in one piece of memory.
    """

    low: Tensor
    high: Tensor

    @property
    def size(self) -> Tensor:
        """Width, height (and depth); negative where a box is inverted."""
        return self.high - self.low

    @property
    def growth(self) -> Tensor:
        """By how much the prediction is larger than the target."""
        return difference(self.size)

    @property
    def offset(self) -> Tensor:
        """From the centre of the target to that of the prediction."""
        return (difference(self.low) + difference(self.high)) / 2

    @property
    def span(self) -> Tensor:
        """The size of the smallest box that holds all corners."""
        top = torch.maximum(self.low, self.high).unbind(1)
        bottom = torch.minimum(self.low, self.high).unbind(1)
        return torch.maximum(*top) - torch.minimum(*bottom)


def difference(coordinates: Tensor) -> Tensor:
    prediction, target = coordinates.unbind(1)
    return prediction - target


class Areas(NamedTuple):
    """The four parts of the enclosing box, by which of the two boxes covers them."""

    both: Tensor
    prediction: Tensor
    target: Tensor
    neither: Tensor

    @property
    def missed(self) -> Tensor:
        """1 - IoU: the share of the union that only one box covers; 1 if there is no union."""
        return share(self.prediction + self.target, self.both, empty=1.0)

    @property
    def iou(self) -> Tensor:
        """The share of the union that both boxes cover; 0 if there is no union."""
        return safe_divide(self.both, self.both + self.prediction + self.target)

    @property
    def uncovered(self) -> Tensor:
        """The share of the enclosing box that neither box covers."""
        return safe_divide(self.neither, sum(self[1:], self.both))


def corners(
    function: str,
    boxes: Tensor,
    target: Tensor,
    fmt: Format,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
    dimensions: tuple[int, ...] = (2, 3),
) -> Corners:
    """The corners of checked boxes; points at the origin where `where` is False."""
    check_floating(function, "boxes", boxes)
    if not boxes.ndim or boxes.shape[-1] not in [2 * n for n in dimensions]:
        lengths = " or ".join(f"{2 * n} numbers in {n} dimensions" for n in dimensions)
        must = f"have a last axis of {lengths}"
        raise ValueError(complain(function, "boxes", must, tuple(boxes.shape)))
    check_same_shape(function, "target", target, "boxes", boxes)
    check_choice(function, "fmt", fmt, get_args(Format))
    check_reduction(function, reduction)
    units = boxes.shape[:-1]
    if weights is not None:
        check_weights(function, weights, units, "`boxes` without their last axis", boxes)
    boxes = promote(boxes)
    target = target.to(boxes.dtype)
    if where is not None:
        check_where(function, where, units, "`boxes` without their last axis", boxes)
        boxes = torch.where(where.unsqueeze(-1), boxes, 0.0)
        target = torch.where(where.unsqueeze(-1), target, 0.0)
    return Corners(_corners(boxes, fmt), _corners(target, fmt))


def _corners(boxes: Tensor, fmt: Format) -> Tensor:
    boxes = boxes.movedim(-1, 0)
    first, second = boxes.chunk(2)
    if fmt == "xywh":
        return torch.cat([first, first + second])
    if fmt == "cxcywh":
        return torch.cat([first - second / 2, first + second / 2])
    return boxes


def pair(boxes: Corners) -> Pair:
    low, high = torch.stack(boxes, 1).chunk(2)
    return Pair(low, high)


def areas(boxes: Corners) -> Areas | Shares:
    """`missed`, `iou` and `uncovered` of boxes, by their areas or at once.

    Along each axis the enclosing box is made of four lengths: that of both boxes, of each alone,
    and of the gap between them. A part of the area is a sum of products of these, so all of its
    terms are positive: the union less the overlap, for example, is never a difference. An inverted
    box has no length of its own, and what it is inverted by is part of the gap.
    """
    found = kernel.shares(*boxes, _of_corners) if len(boxes.prediction) == 4 else None
    return _areas(pair(boxes)) if found is None else found


def _of_corners(x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    """The shares (N, 3) of boxes given as corners (N, 4)."""
    area = _areas(pair(Corners(x.mT, y.mT)))
    return torch.stack([area.missed, area.iou, area.uncovered], -1)


def _areas(boxes: Pair) -> Areas:
    overlap = torch.minimum(*boxes.high.unbind(1)) - torch.maximum(*boxes.low.unbind(1))
    first, last = difference(boxes.low), difference(boxes.high)
    # Rectified rather than subtracted: gradients that cancel would leave their rounding behind.
    size, target_size = boxes.size.clamp_min(0).unbind(1)
    prediction = torch.minimum(torch.relu(-first) + torch.relu(last), size)
    target = torch.minimum(torch.relu(first) + torch.relu(-last), target_size)
    both, gap = overlap.clamp_min(0), torch.relu(-overlap)
    lengths = zip(*(x.unbind() for x in (both, prediction, target, gap)), strict=True)
    area = Areas(*next(lengths))
    for b, p, t, g in lengths:
        area = Areas(
            area.both * b,
            area.prediction * (b + p) + area.both * p,
            area.target * (b + t) + area.both * t,
            area.neither * (b + p + t + g)
            + area.prediction * (t + g)
            + area.target * (p + g)
            + area.both * g,
        )
    return area


def distance(boxes: Pair) -> Tensor:
    """The squared distance of the centres over the squared diagonal of the enclosing box."""
    return safe_divide(boxes.offset.square().sum(0), boxes.span.square().sum(0))


def aspect(boxes: Pair, loss: Tensor) -> tuple[Tensor, Tensor]:
    """How much the proportions of the boxes differ, and the weight of that beside 1 - IoU."""
    width, height = boxes.size.unbind()
    point = (width == 0) & (height == 0)  # without proportions
    prediction, target = torch.atan2(width, torch.where(point, 1.0, height)).unbind()
    # Two places of a vector may differ in the last digit of the same arctangent.
    alike = point.any(0) | (boxes.growth == 0).all(0)
    v = torch.where(alike, 0.0, 2 / math.pi * (prediction - target)).square()
    return v, safe_divide(v, loss + v).detach()


def powered(area: Areas | Shares, exponent: float | Tensor) -> Tensor:
    """1 - IoU^exponent."""
    loss = area.missed
    near = loss < 0.5
    small = -torch.expm1(exponent * torch.log1p(-torch.where(near, loss, 0.0)))
    return torch.where(near, small, 1 - power(area.iou, exponent))

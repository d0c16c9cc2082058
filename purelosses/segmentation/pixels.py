"""What the losses over regions share: pixels before they are summed, regions before they reduce."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from purelosses._checks import (
    check_axis,
    check_choice,
    check_floating,
    check_labels,
    check_number,
    check_reduction,
    check_target,
    check_weights,
    check_where,
    complain,
)
from purelosses._numerics import class_mask, promote, softmax_and_complement
from purelosses._reduce import reduce
from purelosses._types import Activation, Reduction

Classes: TypeAlias = Literal["all", "present"] | Sequence[int]


class Axes(NamedTuple):
    """How the axes of a prediction are used, counted from the front."""

    class_dim: int | None
    dim: tuple[int, ...]  # of one region
    class_axis: int | None  # where the class axis is among the regions
    shape: torch.Size  # of the regions


def check_regions(
    function: str,
    name: str,
    prediction: Tensor,
    activation: Activation | None,
    class_dim: int | None,
    dim: int | tuple[int, ...] | None,
    *,
    images: bool = False,
) -> Axes:
    """The axes; with `images` a region is one image, in which the classes are no direction."""
    check_floating(function, name, prediction)
    check_choice(function, "activation", activation, (None, "sigmoid", "softmax"))
    if class_dim is not None:
        class_dim = check_axis(function, "class_dim", class_dim, prediction.ndim, name)
    if activation == "softmax" and (class_dim is None or prediction.shape[class_dim] < 2):
        must = "name an axis with at least two classes for a softmax"
        got = class_dim if class_dim is None else f"an axis of {prediction.shape[class_dim]}"
        raise ValueError(complain(function, "class_dim", must, got))
    axes = region_axes(function, name, prediction, class_dim, dim)
    if images and class_dim in axes:
        raise ValueError(complain(function, "dim", "name axes of space, not the class axis", dim))
    shape = torch.Size([n for axis, n in enumerate(prediction.shape) if axis not in axes])
    return Axes(class_dim, axes, class_axis(prediction.ndim, class_dim, axes), shape)


def region_axes(
    function: str,
    name: str,
    prediction: Tensor,
    class_dim: int | None,
    dim: int | tuple[int, ...] | None,
) -> tuple[int, ...]:
    """The axes of one region, counted from the front."""
    ndim = prediction.ndim
    if dim is None:
        axes = tuple(range(0 if class_dim is None else class_dim + 1, ndim))
    elif isinstance(dim, tuple):
        axes = tuple(check_axis(function, "dim", axis, ndim, name) for axis in dim)
    else:
        axes = (check_axis(function, "dim", dim, ndim, name),)
    if len(set(axes)) < len(axes) or (not axes and ndim):
        must = "name each axis of a region once (by default those after `class_dim`)"
        raise ValueError(complain(function, "dim", must, dim))
    return axes


def class_axis(ndim: int, class_dim: int | None, dim: int | tuple[int, ...] | None) -> int | None:
    """Where the class axis of a prediction ends up among its regions, None if it is summed."""
    if class_dim is None:
        return None
    class_dim %= ndim
    if dim is None:
        return class_dim
    axes = {axis % ndim for axis in (dim if isinstance(dim, tuple) else (dim,))}
    return None if class_dim in axes else class_dim - sum(axis < class_dim for axis in axes)


def pixel_mask(
    function: str, name: str, prediction: Tensor, class_dim: int | None, where: Tensor | None
) -> Tensor | None:
    """`where` with a class axis, so that it broadcasts against the prediction."""
    if where is None:
        return None
    shape, units = prediction.shape, f"`{name}`"
    if class_dim is not None:
        shape = shape[:class_dim] + shape[class_dim + 1 :]
        units += " without its class axis"
    check_where(function, where, shape, units, prediction)
    return where if class_dim is None else where.unsqueeze(class_dim)


def masked_pixels(
    function: str,
    name: str,
    prediction: Tensor,
    target: Tensor,
    class_dim: int | None,
    where: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The prediction, the target with its shape, both 0 where they do not count, and what counts.

    A label outside the classes is NaN in all of them.
    """
    check_target(function, target, prediction, name, class_dim)
    counted = pixel_mask(function, name, prediction, class_dim, where)
    return *clean_pixels(function, prediction, target, class_dim, counted), counted


def clean_pixels(
    function: str,
    prediction: Tensor,
    target: Tensor,
    class_dim: int | None,
    counted: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The same for inputs that were checked."""
    prediction = masked(promote(prediction), counted)
    if target.ndim == prediction.ndim:
        return prediction, masked(target.to(prediction.dtype), counted)
    assert class_dim is not None
    num_classes = prediction.shape[class_dim]
    target, valid = clean_labels(function, target, num_classes, class_dim, counted)
    target = class_mask(target, num_classes, class_dim).to(prediction.dtype)
    target = torch.where(valid.unsqueeze(class_dim), target, torch.nan)
    return prediction, masked(target, counted)


def clean_labels(
    function: str, labels: Tensor, num_classes: int, class_dim: int, counted: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Labels to index with, 0 where they do not count, and which of them are valid."""
    labels = labels.long()
    if counted is not None:
        labels = torch.where(counted.squeeze(class_dim), labels, 0)
    return check_labels(function, labels, num_classes)


def masked(values: Tensor, counted: Tensor | None) -> Tensor:
    return values if counted is None else torch.where(counted, values, 0.0)


def probabilities(
    prediction: Tensor, activation: Activation | None, class_dim: int | None
) -> tuple[Tensor, Tensor]:
    """p and 1 - p, both to full relative accuracy."""
    if activation == "softmax":
        assert class_dim is not None
        return softmax_and_complement(prediction, class_dim)
    if activation == "sigmoid":
        return prediction.sigmoid(), (-prediction).sigmoid()
    return prediction, 1 - prediction


def count_pixels(
    like: Tensor, counted: Tensor | None, dim: tuple[int, ...], dtype: torch.dtype | None = None
) -> Tensor:
    """How many pixels of each region count, as numbers of `dtype`, by default that of `like`."""
    dtype = like.dtype if dtype is None else dtype
    if counted is None:
        shape = [n for axis, n in enumerate(like.shape) if axis not in dim]
        return like.new_full(shape, math.prod([like.shape[axis] for axis in dim]), dtype=dtype)
    return counted.expand(like.shape).sum(dim).to(dtype)


def reduce_regions(
    function: str,
    losses: Tensor,
    count: Tensor,
    size: Tensor | None,
    classes: Classes,
    axis: int | None,
    weights: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """Reduce over the regions of the selected classes that have a pixel left.

    `size` is that of the true regions, None where the loss does not know it.
    """
    words = ("all",) if size is None else ("all", "present")
    if classes not in words:
        losses, count = select_classes(function, classes, words, [losses, count], axis)
    counted = count > 0
    if classes == "present" and size is not None:
        counted = counted & (size != 0)  # NaN, a bad label, counts
    check_reduction(function, reduction)
    if weights is not None:
        check_weights(function, weights, losses.shape, "the regions", losses)
    return reduce(losses, reduction, counted, weights)


def select_classes(
    function: str,
    classes: Classes,
    words: tuple[str, ...],
    regions: Sequence[Tensor],
    axis: int | None,
) -> list[Tensor]:
    """The given classes of tensors over regions; `words` are the other choices of the loss."""
    labels = [c for c in classes if isinstance(c, int)] if isinstance(classes, Sequence) else []
    allowed = " or ".join(map(repr, words))
    if not labels or len(labels) < len(classes):
        must = f"be {allowed} or a sequence of class labels"
        raise ValueError(complain(function, "classes", must, repr(classes)))
    if axis is None:
        must = f"be {allowed} where regions have no class axis"
        raise ValueError(complain(function, "classes", must, classes))
    length = regions[0].shape[axis]
    if not all(0 <= label < length for label in labels):
        must = f"name classes from 0 to {length - 1}"
        raise ValueError(complain(function, "classes", must, classes))
    return [torch.stack([x.select(axis, label) for label in labels], axis) for x in regions]


def check_steps(function: str, argument: str, value: object) -> int:
    """A count that is at least 0."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(complain(function, argument, "be an int", repr(value)))
    if value < 0:
        raise ValueError(complain(function, argument, "be at least 0", value))
    return value


def check_spacing(
    function: str, spacing: float | Sequence[float] | None, dim: tuple[int, ...]
) -> list[float]:
    """The distance of neighbouring pixels along each axis."""
    if spacing is None:
        return [1.0] * len(dim)
    if isinstance(spacing, str) or not isinstance(spacing, int | float | Sequence):
        must = "be a number or a sequence of numbers"
        raise TypeError(complain(function, "spacing", must, repr(spacing)))
    steps = list(spacing) if isinstance(spacing, Sequence) else [spacing] * len(dim)
    if len(steps) != len(dim):
        must = f"hold one number per axis of space, {len(dim)}"
        raise ValueError(complain(function, "spacing", must, spacing))
    for step in steps:
        if isinstance(step, Tensor):
            raise TypeError(complain(function, "spacing", "hold plain numbers", repr(step)))
        check_number(function, "spacing", step, above=0)
    return [float(step) for step in steps]

r"""Overlap statistics: the few sums per region that every overlap loss is made of."""

import math
from typing import Literal

import torch
from torch import Tensor

from purelosses._checks import (
    check_axis,
    check_choice,
    check_floating,
    check_labels,
    check_target,
    check_where,
    complain,
)
from purelosses._numerics import class_mask, promote, softmax_and_complement
from purelosses._types import Activation
from purelosses.classification import binary_cross_entropy_with_logits


def overlap_statistics(
    prediction: Tensor,
    target: Tensor,
    *,
    activation: Activation | None = None,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    where: Tensor | None = None,
    extra: Literal["bce"] | None = None,
) -> dict[str, Tensor]:
    r"""Sums over each region from which every overlap loss is computed.

    $$\mathrm{TP} = \sum_i p_i y_i, \quad \mathrm{FP} = \sum_i p_i (1 - y_i), \quad
    \mathrm{FN} = \sum_i (1 - p_i)\,y_i$$

    over the pixels $i$ of a region, with $p_i$ the predicted probability (`prediction` after
    `activation`) and $y_i$ the target. All terms are positive, and $1 - p_i$ is computed from the
    logits, so the sums keep their relative accuracy when the prediction is nearly perfect.

    The statistics of parts add up to the statistics of the whole:
    `optree.tree_map(torch.add, first, second)`.

    Args:
        prediction: Probabilities, or logits if `activation` is given. Half precision is summed in
            float32.
        target: With a `class_dim`, integers are class labels without the class axis; anything else
            is a mask (booleans, integers or probabilities) with the shape of `prediction`.
        activation: What turns `prediction` into probabilities: `"sigmoid"` for independent masks,
            `"softmax"` over `class_dim` for exclusive classes, None if they are probabilities.
        class_dim: The class axis of `prediction`, None if there is none.
        dim: The axes of one region, which are summed. By default those after `class_dim`, so that
            every sample and class is a region of its own; without a `class_dim` all of them, so
            that everything is one region. `(0, 2, 3)` pools the batch of (N, C, H, W) masks.
        where: Which pixels count; shape of `prediction` without the class axis, or 1 along an
            axis. What lies under False has no influence, whatever it is.
        extra: `"bce"` adds the sum of the binary cross-entropy from the logits (activation
            `"sigmoid"`), for losses that combine both.

    Returns:
        `{"tp", "fp", "fn", "count"}` (and `"bce"`): one entry per region, with `count` the number
        of pixels that count in it.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the statistics are NaN), an axis does not exist, or an
            option is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> probs = torch.tensor([[0.9, 0.8, 0.1], [0.6, 0.2, 0.0]])
        >>> mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
        >>> overlap_statistics(probs, mask, dim=1)["tp"]
        tensor([1.7000, 0.6000])

    Source:
        Definitions; the additive use is that of Tilborghs et al., arXiv:2207.09521.
    """
    return overlap(
        "overlap_statistics",
        "prediction",
        prediction,
        target,
        activation,
        class_dim,
        dim,
        where,
        extra,
    )


def overlap(
    function: str,
    name: str,
    prediction: Tensor,
    target: Tensor,
    activation: Activation | None,
    class_dim: int | None,
    dim: int | tuple[int, ...] | None,
    where: Tensor | None,
    extra: Literal["bce"] | None = None,
) -> dict[str, Tensor]:
    """The statistics, with messages that name the loss that was called."""
    check_floating(function, name, prediction)
    check_choice(function, "activation", activation, (None, "sigmoid", "softmax"))
    check_choice(function, "extra", extra, (None, "bce"))
    if class_dim is not None:
        class_dim = check_axis(function, "class_dim", class_dim, prediction.ndim, name)
    if extra == "bce" and activation != "sigmoid":
        raise ValueError(complain(function, "activation", "be 'sigmoid' for a BCE", activation))
    if activation == "softmax" and (class_dim is None or prediction.shape[class_dim] < 2):
        must = "name an axis with at least two classes for a softmax"
        got = class_dim if class_dim is None else f"an axis of {prediction.shape[class_dim]}"
        raise ValueError(complain(function, "class_dim", must, got))
    dim = _region_axes(function, name, prediction, class_dim, dim)
    labels = check_target(function, target, prediction, name, class_dim)

    prediction = promote(prediction)
    target = target.long() if labels else target.to(prediction.dtype)
    if where is not None:
        shape, units = prediction.shape, f"`{name}`"
        if class_dim is not None:
            shape = shape[:class_dim] + shape[class_dim + 1 :]
            units += " without its class axis"
        check_where(function, where, shape, units, prediction)
        pixels = where if class_dim is None else where.unsqueeze(class_dim)
        prediction = torch.where(pixels, prediction, 0.0)
        target = torch.where(where if labels else pixels, target, 0)
    if labels:
        assert class_dim is not None
        num_classes = prediction.shape[class_dim]
        target, valid = check_labels(function, target, num_classes)
        target = class_mask(target, num_classes, class_dim).to(prediction.dtype)
        target = torch.where(valid.unsqueeze(class_dim), target, torch.nan)

    if activation == "softmax":
        assert class_dim is not None
        probs, complement = softmax_and_complement(prediction, class_dim)
    elif activation == "sigmoid":
        probs, complement = prediction.sigmoid(), (-prediction).sigmoid()
    else:
        probs, complement = prediction, 1 - prediction
    sums = {"tp": probs * target, "fp": probs * (1 - target), "fn": complement * target}
    if extra == "bce":
        sums["bce"] = binary_cross_entropy_with_logits(prediction, target)
    if where is not None:
        sums = {key: torch.where(pixels, value, 0.0) for key, value in sums.items()}
    statistics = {key: value.sum(dim) for key, value in sums.items()}
    if where is None:
        pixels_per_region = math.prod([prediction.shape[axis] for axis in dim])
        count = torch.full_like(statistics["tp"], pixels_per_region)
    else:
        count = pixels.expand(prediction.shape).sum(dim).to(prediction.dtype)
    return {**statistics, "count": count}


def _region_axes(
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
    """Where the class axis of a prediction ends up in its statistics, None if it is summed."""
    if class_dim is None:
        return None
    class_dim %= ndim
    if dim is None:
        return class_dim
    axes = {axis % ndim for axis in (dim if isinstance(dim, tuple) else (dim,))}
    return None if class_dim in axes else class_dim - sum(axis < class_dim for axis in axes)

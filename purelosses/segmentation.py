r"""Losses of the overlap between a predicted and a true region.

Every loss here is arithmetic on a few sums per region, the *overlap statistics*. They add over
pixels, samples, micro-batches and ranks, so a loss computed from added statistics is exact where
an average of losses would not be.
"""

import math
from collections.abc import Mapping, Sequence, Set
from typing import Literal

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
from purelosses._numerics import class_mask, promote, share, softmax_and_complement
from purelosses._reduce import reduce
from purelosses._types import Activation, Reduction
from purelosses.classification import binary_cross_entropy_with_logits

Classes = Literal["all", "present"] | Sequence[int]


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
    return _overlap(
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


def _overlap(
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


def _class_axis(ndim: int, class_dim: int | None, dim: int | tuple[int, ...] | None) -> int | None:
    """Where the class axis of a prediction ends up in its statistics, None if it is summed."""
    if class_dim is None:
        return None
    class_dim %= ndim
    if dim is None:
        return class_dim
    axes = {axis % ndim for axis in (dim if isinstance(dim, tuple) else (dim,))}
    return None if class_dim in axes else class_dim - sum(axis < class_dim for axis in axes)


def _select(
    function: str,
    statistics: Mapping[str, Tensor],
    classes: Classes,
    class_dim: int | None,
    needed: Set[str] = frozenset({"tp", "fp", "fn", "count"}),
) -> tuple[dict[str, Tensor], Tensor]:
    """The statistics of the selected classes, and which of their regions count."""
    if not isinstance(statistics, Mapping) or not statistics.keys() >= needed:
        must = f"be what `overlap_statistics` returns, with {sorted(needed)}"
        got = sorted(statistics) if isinstance(statistics, Mapping) else repr(statistics)
        raise ValueError(complain(function, "statistics", must, got))
    selected = dict(statistics)
    if classes not in ("all", "present"):
        ndim = selected["tp"].ndim
        labels = [c for c in classes if isinstance(c, int)] if isinstance(classes, Sequence) else []
        if not labels or len(labels) < len(classes):
            must = "be 'all', 'present' or a sequence of class labels"
            raise ValueError(complain(function, "classes", must, repr(classes)))
        if class_dim is None or not ndim:
            must = "be 'all' or 'present' where regions have no class axis"
            raise ValueError(complain(function, "classes", must, classes))
        axis = check_axis(function, "class_dim", class_dim, ndim, "statistics")
        length = selected["tp"].shape[axis]
        if not all(0 <= label < length for label in labels):
            must = f"name classes from 0 to {length - 1}"
            raise ValueError(complain(function, "classes", must, classes))
        selected = {
            key: torch.stack([value.select(axis, label) for label in labels], axis)
            for key, value in selected.items()
        }
    counted = selected["count"] > 0
    if classes == "present":
        counted = counted & (selected["tp"] + selected["fn"] != 0)  # NaN, a bad label, counts
    return selected, counted


def _reduce_regions(
    function: str, losses: Tensor, counted: Tensor, weights: Tensor | None, reduction: Reduction
) -> Tensor:
    check_reduction(function, reduction)
    if weights is not None:
        check_weights(function, weights, losses.shape, "the regions", losses)
    return reduce(losses, reduction, counted, weights)


def _dice(statistics: Mapping[str, Tensor], smooth: float | Tensor) -> Tensor:
    return share(statistics["fp"] + statistics["fn"], 2 * statistics["tp"] + smooth)


def dice_from_statistics(
    statistics: Mapping[str, Tensor],
    *,
    smooth: float | Tensor = 1.0,
    classes: Classes = "all",
    class_dim: int | None = -1,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The Dice loss of overlap statistics, for example of sums over micro-batches or ranks.

    $$\ell = 1 - \frac{2\,\mathrm{TP} + s}{2\,\mathrm{TP} + \mathrm{FP} + \mathrm{FN} + s}
    = \frac{\mathrm{FP} + \mathrm{FN}}{2\,\mathrm{TP} + \mathrm{FP} + \mathrm{FN} + s}$$

    for each region, with the sums of [`overlap_statistics`][purelosses.overlap_statistics] and
    $s$ the `smooth` term.

    Args:
        statistics: What `overlap_statistics` returned, or a sum of several.
        smooth: See [`dice_loss`][purelosses.dice_loss].
        classes: See [`dice_loss`][purelosses.dice_loss].
        class_dim: The class axis of the statistics; used when `classes` lists some.
        weights: How much each region matters; shape of the statistics (selected classes only), or
            1 along an axis.
        reduction: See [`dice_loss`][purelosses.dice_loss].

    Returns:
        A scalar, or one loss per region with `reduction="none"`.

    Raises:
        ValueError: If `weights` do not fit or an option is unknown or out of its range.

    Examples:
        Two halves of a batch give the loss of the whole batch, which a mean of losses does not:

        >>> probs, mask = torch.tensor([0.9, 0.2, 0.7, 0.4]), torch.tensor([1, 0, 1, 1])
        >>> halves = [overlap_statistics(p, m) for p, m in zip(probs.split(2), mask.split(2))]
        >>> dice_from_statistics(optree.tree_map(torch.add, *halves))
        tensor(0.1935)
        >>> dice_loss(probs, mask)
        tensor(0.1935)

    Source:
        Milletari et al., arXiv:1606.04797, §3, without its squares (see `dice_loss`).
    """
    function = "dice_from_statistics"
    smooth = check_number(function, "smooth", smooth, minimum=0)
    statistics, counted = _select(function, statistics, classes, class_dim)
    return _reduce_regions(function, _dice(statistics, smooth), counted, weights, reduction)


def dice_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    activation: Activation | None = None,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    smooth: float | Tensor = 1.0,
    classes: Classes = "all",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""One minus the Dice coefficient: how far a predicted region is from overlapping the true one.

    $$\ell = 1 - \frac{2 \sum_i p_i y_i + s}{\sum_i p_i + \sum_i y_i + s}
    = \frac{\mathrm{FP} + \mathrm{FN}}{2\,\mathrm{TP} + \mathrm{FP} + \mathrm{FN} + s}$$

    for each region, with $p_i$ the predicted probability of pixel $i$ (`prediction` after
    `activation`), $y_i$ the target, $s$ the `smooth` term and TP, FP, FN the sums of
    [`overlap_statistics`][purelosses.overlap_statistics]. The second form is the one computed: it
    stays accurate as the loss goes to 0.

    Args:
        prediction: Probabilities, or logits if `activation` is given. Half precision is computed
            in float32.
        target: With a `class_dim`, integers are class labels without the class axis; anything else
            is a mask (booleans, integers or probabilities) with the shape of `prediction`.
        activation: What turns `prediction` into probabilities: `"sigmoid"` for independent masks,
            `"softmax"` over `class_dim` for exclusive classes, None if they are probabilities.
        class_dim: The class axis of `prediction`, None if there is none.
        dim: The axes of one region. By default those after `class_dim`, so that every sample and
            class is a region of its own; without a `class_dim` all of them, so that everything is
            one region. `(0, 2, 3)` pools the batch of (N, C, H, W) masks, `(1, 2, 3)` the classes.
        smooth: Added to numerator and denominator. 0 gives the plain coefficient, with 0/0 (nothing
            predicted, nothing there) a perfect match; larger values soften the loss of small
            regions and keep a gradient on empty ones.
        classes: Which classes count: `"all"`, `"present"` (regions that have a target), or a list
            of class labels.
        where: Which pixels count; shape of `prediction` without the class axis, or 1 along an
            axis. What lies under False has no influence, whatever it is. A region without any
            pixel left does not count.
        weights: How much each region matters; the shape that `reduction="none"` returns, or 1 along
            an axis.
        reduction: What happens to the losses, one per region: `"mean"` divides their weighted sum
            by the number of regions that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per region with `reduction="none"`. float32, or float64 for float64
        predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an axis does not exist, or an option
            is unknown or out of its range.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> probs, mask = torch.tensor([0.9, 0.8, 0.1, 0.0]), torch.tensor([1, 1, 0, 0])
        >>> dice_loss(probs, mask)
        tensor(0.0833)

        Multi-class logits with labels, one loss per sample and class:

        >>> logits = torch.tensor([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0]]])
        >>> labels = torch.tensor([[0, 1, 1]])
        >>> dice_loss(logits, labels, activation="softmax", class_dim=1, reduction="none")
        tensor([[0.1165, 0.1668, 0.2694]])

    Coming from:
        MONAI `DiceLoss(sigmoid=True)`: `activation="sigmoid", class_dim=1, smooth=1e-5`; its
        `batch=True` is `dim=(0, 2, 3)`. segmentation-models-pytorch `DiceLoss("multiclass")`:
        `activation="softmax", class_dim=1, dim=(0, 2, 3), smooth=0, classes="present"` (it divides
        by all classes). Its `smooth=s` and that of optax are `smooth=2 * s` here.

    Source:
        Milletari et al., arXiv:1606.04797, §3; without the squares in the denominator, as in
        Drozdzal et al., arXiv:1608.04117, eq. (2).
    """
    function = "dice_loss"
    smooth = check_number(function, "smooth", smooth, minimum=0)
    statistics = _overlap(
        function, "prediction", prediction, target, activation, class_dim, dim, where
    )
    class_axis = _class_axis(prediction.ndim, class_dim, dim)
    statistics, counted = _select(function, statistics, classes, class_axis)
    return _reduce_regions(function, _dice(statistics, smooth), counted, weights, reduction)


def dice_bce_loss(
    logits: Tensor,
    target: Tensor,
    *,
    dice_weight: float | Tensor = 0.5,
    bce_weight: float | Tensor = 0.5,
    smooth: float | Tensor = 1.0,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    classes: Classes = "all",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Dice plus binary cross-entropy: overlap of the region and likelihood of its pixels.

    $$\ell = a\,\ell_\mathrm{Dice} + b\,\frac{1}{n} \sum_i \ell_\mathrm{BCE}(x_i, y_i)$$

    for each region of $n$ pixels that count, with $a$ the `dice_weight`, $b$ the `bce_weight`,
    $\ell_\mathrm{Dice}$ the [`dice_loss`][purelosses.dice_loss] of the probabilities
    $\sigma(x_i)$ and $\ell_\mathrm{BCE}$ the
    [`binary_cross_entropy_loss`][purelosses.binary_cross_entropy_loss] of the logits $x_i$. Both
    come from one pass over the data.

    Args:
        logits: Scores before the sigmoid. Half precision is computed in float32.
        target: With a `class_dim`, integers are class labels without the class axis; anything else
            is a mask (booleans, integers or probabilities) with the shape of `logits`.
        dice_weight: The share of the Dice term.
        bce_weight: The share of the cross-entropy term.
        smooth: Added to numerator and denominator of the Dice term. 0 gives the plain coefficient;
            larger values soften the loss of small regions.
        class_dim: The class axis of `logits`, None if there is none.
        dim: The axes of one region. By default those after `class_dim`, so that every sample and
            class is a region of its own; without a `class_dim` all of them, so that everything is
            one region.
        classes: Which classes count, in both terms: `"all"`, `"present"` (regions that have a
            target), or a list of class labels.
        where: Which pixels count; shape of `logits` without the class axis, or 1 along an axis.
            What lies under False has no influence, whatever it is.
        weights: How much each region matters; the shape that `reduction="none"` returns, or 1 along
            an axis.
        reduction: What happens to the losses, one per region: `"mean"` divides their weighted sum
            by the number of regions that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per region with `reduction="none"`. float32, or float64 for float64
        logits. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an axis does not exist, or an option
            is unknown or out of its range.
        TypeError: If `logits` is not floating or `where` not boolean.

    Examples:
        >>> logits, mask = torch.tensor([2.0, 1.0, -2.0, -3.0]), torch.tensor([1, 1, 0, 0])
        >>> dice_bce_loss(logits, mask)
        tensor(0.1350)

    Coming from:
        MONAI `DiceCELoss(sigmoid=True)` with one channel: `dice_weight=1, bce_weight=1,
        class_dim=1, smooth=1e-5`.

    Source:
        Isensee et al., arXiv:1809.10486, eq. (1) (with the softmax cross-entropy).
    """
    function = "dice_bce_loss"
    statistics = _overlap(
        function, "logits", logits, target, "sigmoid", class_dim, dim, where, extra="bce"
    )
    return _dice_bce(
        function,
        statistics,
        dice_weight,
        bce_weight,
        smooth,
        classes,
        _class_axis(logits.ndim, class_dim, dim),
        weights,
        reduction,
    )


def dice_bce_from_statistics(
    statistics: Mapping[str, Tensor],
    *,
    dice_weight: float | Tensor = 0.5,
    bce_weight: float | Tensor = 0.5,
    smooth: float | Tensor = 1.0,
    classes: Classes = "all",
    class_dim: int | None = -1,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The Dice plus cross-entropy loss of overlap statistics with their `"bce"` entry.

    $$\ell = a\,\frac{\mathrm{FP} + \mathrm{FN}}{2\,\mathrm{TP} + \mathrm{FP} + \mathrm{FN} + s}
    + b\,\frac{\mathrm{BCE}}{n}$$

    for each region, with the sums of `overlap_statistics(..., extra="bce")`, $n$ their `"count"`,
    $a$ the `dice_weight`, $b$ the `bce_weight` and $s$ the `smooth` term.

    Args:
        statistics: What `overlap_statistics(..., extra="bce")` returned, or a sum of several.
        dice_weight: See [`dice_bce_loss`][purelosses.dice_bce_loss].
        bce_weight: See [`dice_bce_loss`][purelosses.dice_bce_loss].
        smooth: See [`dice_bce_loss`][purelosses.dice_bce_loss].
        classes: See [`dice_bce_loss`][purelosses.dice_bce_loss].
        class_dim: The class axis of the statistics; used when `classes` lists some.
        weights: How much each region matters; shape of the statistics (selected classes only), or
            1 along an axis.
        reduction: See [`dice_bce_loss`][purelosses.dice_bce_loss].

    Returns:
        A scalar, or one loss per region with `reduction="none"`.

    Raises:
        ValueError: If `weights` do not fit or an option is unknown or out of its range.

    Examples:
        >>> logits, mask = torch.tensor([2.0, 1.0, -2.0, -3.0]), torch.tensor([1, 1, 0, 0])
        >>> statistics = overlap_statistics(logits, mask, activation="sigmoid", extra="bce")
        >>> dice_bce_from_statistics(statistics)
        tensor(0.1350)

    Source:
        See [`dice_bce_loss`][purelosses.dice_bce_loss].
    """
    return _dice_bce(
        "dice_bce_from_statistics",
        statistics,
        dice_weight,
        bce_weight,
        smooth,
        classes,
        class_dim,
        weights,
        reduction,
    )


def _dice_bce(
    function: str,
    statistics: Mapping[str, Tensor],
    dice_weight: float | Tensor,
    bce_weight: float | Tensor,
    smooth: float | Tensor,
    classes: Classes,
    class_dim: int | None,
    weights: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    dice_weight = check_number(function, "dice_weight", dice_weight)
    bce_weight = check_number(function, "bce_weight", bce_weight)
    smooth = check_number(function, "smooth", smooth, minimum=0)
    needed = {"tp", "fp", "fn", "count", "bce"}
    statistics, counted = _select(function, statistics, classes, class_dim, needed)
    bce = statistics["bce"] / statistics["count"].clamp_min(1)
    losses = dice_weight * _dice(statistics, smooth) + bce_weight * bce
    return _reduce_regions(function, losses, counted, weights, reduction)

r"""Losses of the overlap between a predicted and a true region, computed from its statistics."""

from collections.abc import Mapping, Sequence, Set
from typing import Literal

import torch
from torch import Tensor

from purelosses._checks import (
    check_axis,
    check_number,
    check_reduction,
    check_weights,
    complain,
)
from purelosses._numerics import share
from purelosses._reduce import reduce
from purelosses._types import Activation, Reduction
from purelosses.segmentation.statistics import class_axis, overlap

Classes = Literal["all", "present"] | Sequence[int]


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
    statistics = overlap(
        function, "prediction", prediction, target, activation, class_dim, dim, where
    )
    axis = class_axis(prediction.ndim, class_dim, dim)
    statistics, counted = _select(function, statistics, classes, axis)
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
    statistics = overlap(
        function, "logits", logits, target, "sigmoid", class_dim, dim, where, extra="bce"
    )
    return _dice_bce(
        function,
        statistics,
        dice_weight,
        bce_weight,
        smooth,
        classes,
        class_axis(logits.ndim, class_dim, dim),
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

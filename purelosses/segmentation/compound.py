r"""Compound losses: the overlap of regions together with a loss of their pixels, in one pass."""

from collections.abc import Mapping
from typing import get_args

import torch
from torch import Tensor

from purelosses._checks import check_choice, check_flag, check_number
from purelosses._numerics import power
from purelosses._types import Activation, Reduction
from purelosses.segmentation.overlap import dice_ratio, tversky_ratio
from purelosses.segmentation.pixels import Classes
from purelosses.segmentation.regions import (
    Empty,
    Ending,
    Regions,
    Smooth,
    measure,
    select,
)
from purelosses.segmentation.statistics import Extra, Layout


def _dice_bce(
    regions: Regions,
    dice_weight: float | Tensor,
    bce_weight: float | Tensor,
    smooth: Smooth,
) -> Tensor:
    dice_weight = check_number(regions.function, "dice_weight", dice_weight)
    bce_weight = check_number(regions.function, "bce_weight", bce_weight)
    dice = regions.penalized(dice_ratio(regions, smooth))
    return regions.reduce(dice_weight * dice + bce_weight * regions.mean(regions["bce"]))


def dice_bce_loss(
    logits: Tensor,
    target: Tensor,
    *,
    dice_weight: float | Tensor = 0.5,
    bce_weight: float | Tensor = 0.5,
    smooth: Smooth = 1.0,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    empty: Empty = "smooth",
    squared: bool = False,
    soft_target: bool = False,
    classes: Classes = "all",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Dice plus binary cross-entropy: overlap of the region and likelihood of its pixels.

    $$\ell = a\,\ell_\mathrm{Dice} + b\,\frac{1}{n} \sum_i \ell_\mathrm{BCE}(x_i, y_i)$$

    for each region of $n$ pixels that count, with $a$ the `dice_weight`, $b$ the `bce_weight`,
    $\ell_\mathrm{Dice}$ the [`dice_loss`][purelosses.dice_loss] of the probabilities $\sigma(x_i)$
    and $\ell_\mathrm{BCE}$ the [`binary_cross_entropy_loss`][purelosses.binary_cross_entropy_loss]
    of the logits $x_i$. Both come from one pass over the data.

    Args:
        logits: Scores before the sigmoid. Half precision is computed in float32.
        target: With a `class_dim`, integers are class labels without the class axis; anything else
            is a mask (booleans, integers or probabilities) with the shape of `logits`.
        dice_weight: The share of the Dice term.
        bce_weight: The share of the cross-entropy term.
        smooth: Added to numerator and denominator of the Dice coefficient, or a pair of numbers
            with one for each. 0 gives the plain coefficient; larger values soften the loss of small
            regions.
        class_dim: The class axis of `logits`, None if there is none.
        dim: The axes of one region. By default those after `class_dim`, so that every sample and
            class is a region of its own; without a `class_dim` all of them, so that everything is
            one region.
        empty: What the Dice term of a region without target costs: `"smooth"`, what the formula
            says; `"penalize"`, the mean probability over its pixels (with `squared`, of its
            square), whose gradient stays alive.
        squared: In the Dice term, squares in the denominator: $\sum p^2 + \sum y^2$ for $\sum p +
            \sum y$ (see [`overlap_statistics`][purelosses.overlap_statistics]).
        soft_target: In the Dice term, sums under which a prediction equal to a soft target is
            perfect (see [`overlap_statistics`][purelosses.overlap_statistics]).
        classes: Which classes count, in both terms: `"all"`, `"present"` (regions that have a
            target), or a list of class labels.
        where: Which pixels count; shape of `logits` without the class axis, or 1 along an axis.
            What lies under False has no influence, whatever it is. A region without any pixel left
            does not count.
        weights: How much each region matters; the shape that `reduction="none"` returns, or 1 along
            an axis.
        reduction: What happens to the losses, one per region: `"mean"` divides their weighted sum
            by the number of regions that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or one loss per region with `reduction="none"`. float32, or float64 for float64
        logits. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an axis does not exist, or an option
            is unknown or out of its range.
        TypeError: If `logits` is not floating, `where` not boolean or a flag no boolean.

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
    regions = measure(
        "dice_bce_loss",
        (logits, target),
        Layout("sigmoid", class_dim, dim, where, squared, soft_target, ("bce",)),
        Ending(classes, empty, weights, reduction),
        name="logits",
    )
    return _dice_bce(regions, dice_weight, bce_weight, smooth)


def dice_bce_from_statistics(
    statistics: Mapping[str, Tensor],
    *,
    dice_weight: float | Tensor = 0.5,
    bce_weight: float | Tensor = 0.5,
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    classes: Classes = "all",
    class_dim: int | None = -1,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The Dice plus binary cross-entropy loss of overlap statistics with their `"bce"` entry.

    $$\ell = a\,\frac{\mathrm{FP} + \mathrm{FN}}{2\,\mathrm{TP} + \mathrm{FP} + \mathrm{FN} + s}
    + b\,\frac{\mathrm{BCE}}{n}$$

    for each region, with the sums of `overlap_statistics(..., extra="bce")`, $n$ their `"count"`,
    $a$ the `dice_weight`, $b$ the `bce_weight` and $s$ the `smooth` term.

    Args:
        statistics: What `overlap_statistics(..., extra="bce")` returned, or a sum of several.
        dice_weight: See [`dice_bce_loss`][purelosses.dice_bce_loss].
        bce_weight: See [`dice_bce_loss`][purelosses.dice_bce_loss].
        smooth: See [`dice_bce_loss`][purelosses.dice_bce_loss].
        empty: See [`dice_bce_loss`][purelosses.dice_bce_loss].
        classes: See [`dice_bce_loss`][purelosses.dice_bce_loss].
        class_dim: The class axis of the statistics; used when `classes` lists some.
        weights: How much each region matters; shape of the statistics (selected classes only), or 1
            along an axis.
        reduction: See [`dice_bce_loss`][purelosses.dice_bce_loss].

    Returns:
        A scalar, or one loss per region with `reduction="none"`.

    Raises:
        ValueError: If the statistics lack an entry, `weights` do not fit, or an option is unknown
            or out of its range.

    Examples:
        >>> logits, mask = torch.tensor([2.0, 1.0, -2.0, -3.0]), torch.tensor([1, 1, 0, 0])
        >>> statistics = overlap_statistics(logits, mask, activation="sigmoid", extra="bce")
        >>> dice_bce_from_statistics(statistics)
        tensor(0.1350)

    Source:
        See [`dice_bce_loss`][purelosses.dice_bce_loss].
    """
    ending = Ending(classes, empty, weights, reduction)
    regions = select("dice_bce_from_statistics", statistics, class_dim, ending, ("bce",))
    return _dice_bce(regions, dice_weight, bce_weight, smooth)


def _smoothed(label_smoothing: float | Tensor) -> tuple[Extra, ...]:
    """The sums of a cross-entropy with label smoothing."""
    smoothed = isinstance(label_smoothing, Tensor) or label_smoothing
    return ("ce", "surprisal") if smoothed else ("ce",)


def _dice_ce(
    regions: Regions,
    dice_weight: float | Tensor,
    ce_weight: float | Tensor,
    label_smoothing: float | Tensor,
    smooth: Smooth,
) -> Tensor:
    dice_weight = check_number(regions.function, "dice_weight", dice_weight)
    ce_weight = check_number(regions.function, "ce_weight", ce_weight)
    dice = regions.mean_over_classes(regions.penalized(dice_ratio(regions, smooth)))
    entropy = regions.whole["ce"]
    if len(_smoothed(label_smoothing)) > 1:
        even = regions.whole["surprisal"] / entropy.shape[regions.class_axis]
        entropy = (1 - label_smoothing) * entropy + label_smoothing * even
    return regions.reduce_units(dice_weight * dice + ce_weight * regions.pixel_mean(entropy))


def dice_ce_loss(
    logits: Tensor,
    target: Tensor,
    *,
    dice_weight: float | Tensor = 0.5,
    ce_weight: float | Tensor = 0.5,
    label_smoothing: float | Tensor = 0.0,
    smooth: Smooth = 1.0,
    class_dim: int = 1,
    dim: int | tuple[int, ...] | None = None,
    empty: Empty = "smooth",
    squared: bool = False,
    soft_target: bool = False,
    classes: Classes = "all",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Dice plus cross-entropy: overlap of every class and likelihood of the pixels' labels.

    $$\ell = \frac{a}{C} \sum_c \ell_{\mathrm{Dice}, c}
    + b\,\frac{1}{n} \sum_i \ell_\mathrm{CE}(x_i, y_i)$$

    for each sample with $n$ pixels that count, with $a$ the `dice_weight`, $b$ the `ce_weight`,
    $\ell_{\mathrm{Dice}, c}$ the [`dice_loss`][purelosses.dice_loss] of the softmax probabilities
    of one of $C$ classes and $\ell_\mathrm{CE}$ the
    [`cross_entropy_loss`][purelosses.cross_entropy_loss] of the logits $x_i$ of a pixel. Both come
    from one pass over the data.

    Args:
        logits: Scores before the softmax. Half precision is computed in float32.
        target: Integers: class labels, without the class axis. Floats or booleans: a mask or
            probabilities with the shape of `logits`.
        dice_weight: The share of the Dice term.
        ce_weight: The share of the cross-entropy term.
        label_smoothing: Moves this share of the target, from 0 to 1, onto all classes evenly, in
            the cross-entropy alone.
        smooth: Added to numerator and denominator of the Dice coefficient, or a pair of numbers
            with one for each. 0 gives the plain coefficient; larger values soften the loss of small
            regions.
        class_dim: The class axis of `logits`; negative values count from the end.
        dim: The axes of one region, by default those after `class_dim`, so that every sample has
            one; `(0, 2, 3)` pools the batch of (N, C, H, W) masks. Never the class axis.
        empty: What the Dice term of a region without target costs: `"smooth"`, what the formula
            says; `"penalize"`, the mean probability over its pixels (with `squared`, of its
            square), whose gradient stays alive.
        squared: In the Dice term, squares in the denominator: $\sum p^2 + \sum y^2$ for $\sum p +
            \sum y$ (see [`overlap_statistics`][purelosses.overlap_statistics]).
        soft_target: In the Dice term, sums under which a prediction equal to a soft target is
            perfect (see [`overlap_statistics`][purelosses.overlap_statistics]).
        classes: Which classes count in the Dice term: `"all"`, `"present"` (those that have a
            target), or a list of class labels. The cross-entropy has all of them, which exclude
            each other.
        where: Which pixels count; shape of `logits` without the class axis, or 1 along an axis.
            What lies under False has no influence, whatever it is. A region without any pixel left
            does not count.
        weights: How much each region matters; the shape that `reduction="none"` returns, or 1 along
            an axis.
        reduction: What happens to the losses, one per region: `"mean"` divides their weighted sum
            by the number of regions that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or one loss per region with `reduction="none"`. float32, or float64 for float64
        logits. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an axis does not exist, or an option
            is unknown or out of its range.
        TypeError: If `logits` is not floating, `where` not boolean or a flag no boolean.

    Examples:
        >>> logits = torch.tensor([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0]]])
        >>> labels = torch.tensor([[0, 1, 1]])
        >>> dice_ce_loss(logits, labels)
        tensor(0.2872)

    Coming from:
        MONAI `DiceCELoss(softmax=True, to_onehot_y=True)`: `dice_weight=1, ce_weight=1,
        smooth=1e-5`; its `include_background=False` lists the other `classes`. nnU-Net, whose loss
        is this minus 1: `dice_weight=1, ce_weight=1, dim=(0, 2, 3), smooth=1e-5,
        classes=range(1, C)`.

    Source:
        Isensee et al., arXiv:1809.10486, eq. (1).
    """
    function = "dice_ce_loss"
    label_smoothing = check_number(
        function, "label_smoothing", label_smoothing, minimum=0, maximum=1
    )
    extras = _smoothed(label_smoothing)
    regions = measure(
        function,
        (logits, target),
        Layout("softmax", class_dim, dim, where, squared, soft_target, extras),
        Ending(classes, empty, weights, reduction),
        name="logits",
        pooled=True,
    )
    return _dice_ce(regions, dice_weight, ce_weight, label_smoothing, smooth)


def dice_ce_from_statistics(
    statistics: Mapping[str, Tensor],
    *,
    dice_weight: float | Tensor = 0.5,
    ce_weight: float | Tensor = 0.5,
    label_smoothing: float | Tensor = 0.0,
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    classes: Classes = "all",
    class_dim: int = -1,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The Dice plus cross-entropy loss of overlap statistics with their `"ce"` entry.

    $$\ell = \frac{a}{C} \sum_c
    \frac{\mathrm{FP}_c + \mathrm{FN}_c}{2\,\mathrm{TP}_c + \mathrm{FP}_c + \mathrm{FN}_c + s}
    + \frac{b}{n} \sum_c \mathrm{CE}_c$$

    for each sample, over its classes $c$, with the sums of `overlap_statistics(..., extra="ce")`,
    $n$ their `"count"`, $a$ the `dice_weight`, $b$ the `ce_weight` and $s$ the `smooth` term. With
    label smoothing $\varepsilon$, $\mathrm{CE}_c$ is $(1 - \varepsilon)\,\mathrm{CE}_c +
    \varepsilon / C$ times the `"surprisal"`, which it then needs too.

    Args:
        statistics: What `overlap_statistics(..., extra="ce")` returned, or a sum of several.
        dice_weight: See [`dice_ce_loss`][purelosses.dice_ce_loss].
        ce_weight: See [`dice_ce_loss`][purelosses.dice_ce_loss].
        label_smoothing: See [`dice_ce_loss`][purelosses.dice_ce_loss].
        smooth: See [`dice_ce_loss`][purelosses.dice_ce_loss].
        empty: See [`dice_ce_loss`][purelosses.dice_ce_loss].
        classes: See [`dice_ce_loss`][purelosses.dice_ce_loss].
        class_dim: The class axis of the statistics.
        weights: How much each region matters; shape of the statistics without the class axis, or 1
            along an axis.
        reduction: See [`dice_ce_loss`][purelosses.dice_ce_loss].

    Returns:
        A scalar, or one loss per region with `reduction="none"`.

    Raises:
        ValueError: If the statistics lack an entry, `weights` do not fit, or an option is unknown
            or out of its range.

    Examples:
        >>> logits = torch.tensor([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0]]])
        >>> labels, options = torch.tensor([[0, 1, 1]]), {"activation": "softmax", "class_dim": 1}
        >>> dice_ce_from_statistics(overlap_statistics(logits, labels, **options, extra="ce"))
        tensor(0.2872)

    Source:
        See [`dice_ce_loss`][purelosses.dice_ce_loss].
    """
    function = "dice_ce_from_statistics"
    label_smoothing = check_number(
        function, "label_smoothing", label_smoothing, minimum=0, maximum=1
    )
    ending, extras = Ending(classes, empty, weights, reduction), _smoothed(label_smoothing)
    regions = select(function, statistics, class_dim, ending, extras, pooled=True)
    return _dice_ce(regions, dice_weight, ce_weight, label_smoothing, smooth)


def _dice_focal(
    regions: Regions,
    activation: Activation,
    dice_weight: float | Tensor,
    focal_weight: float | Tensor,
    smooth: Smooth,
) -> Tensor:
    dice_weight = check_number(regions.function, "dice_weight", dice_weight)
    focal_weight = check_number(regions.function, "focal_weight", focal_weight)
    dice = regions.penalized(dice_ratio(regions, smooth))
    if activation == "sigmoid":
        return regions.reduce(dice_weight * dice + focal_weight * regions.mean(regions["focal"]))
    dice, focal = regions.mean_over_classes(dice), regions.pixel_mean(regions.whole["focal"])
    return regions.reduce_units(dice_weight * dice + focal_weight * focal)


def dice_focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    activation: Activation = "sigmoid",
    dice_weight: float | Tensor = 0.5,
    focal_weight: float | Tensor = 0.5,
    gamma: float | Tensor = 2.0,
    smooth: Smooth = 1.0,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    empty: Empty = "smooth",
    squared: bool = False,
    soft_target: bool = False,
    classes: Classes = "all",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Dice plus focal loss: overlap of the region and a likelihood that minds its hard pixels.

    $$\ell = a\,\ell_\mathrm{Dice} + b\,\frac{1}{n} \sum_i \ell_\mathrm{focal}(x_i, y_i)$$

    for each region of $n$ pixels that count, with $a$ the `dice_weight`, $b$ the `focal_weight`,
    $\ell_\mathrm{Dice}$ the [`dice_loss`][purelosses.dice_loss] of the probabilities and
    $\ell_\mathrm{focal}$ the [`sigmoid_focal_loss`][purelosses.sigmoid_focal_loss] of the logits
    $x_i$. With a softmax the classes exclude each other, so there is one loss for all of them: the
    mean of their Dice losses, and the [`softmax_focal_loss`][purelosses.softmax_focal_loss] of the
    pixels. Both come from one pass over the data.

    Args:
        logits: Scores before the activation. Half precision is computed in float32.
        target: With a `class_dim`, integers are class labels without the class axis; anything else
            is a mask (booleans, integers or probabilities) with the shape of `logits`.
        activation: `"sigmoid"` for independent masks, `"softmax"` over `class_dim` for exclusive
            classes.
        dice_weight: The share of the Dice term.
        focal_weight: The share of the focal term.
        gamma: How much less a right pixel counts in the focal term, from 0 (not less).
        smooth: Added to numerator and denominator of the Dice coefficient, or a pair of numbers
            with one for each. 0 gives the plain coefficient; larger values soften the loss of small
            regions.
        class_dim: The class axis of `logits`, None if there is none.
        dim: The axes of one region. By default those after `class_dim`, so that every sample and
            class is a region of its own; without a `class_dim` all of them, so that everything is
            one region. With a softmax never the class axis.
        empty: What the Dice term of a region without target costs: `"smooth"`, what the formula
            says; `"penalize"`, the mean probability over its pixels (with `squared`, of its
            square), whose gradient stays alive.
        squared: In the Dice term, squares in the denominator: $\sum p^2 + \sum y^2$ for $\sum p +
            \sum y$ (see [`overlap_statistics`][purelosses.overlap_statistics]).
        soft_target: In the Dice term, sums under which a prediction equal to a soft target is
            perfect (see [`overlap_statistics`][purelosses.overlap_statistics]).
        classes: Which classes count: `"all"`, `"present"` (regions that have a target), or a list
            of class labels. With a softmax that is in the Dice term; the focal term has all of
            them.
        where: Which pixels count; shape of `logits` without the class axis, or 1 along an axis.
            What lies under False has no influence, whatever it is. A region without any pixel left
            does not count.
        weights: How much each region matters; the shape that `reduction="none"` returns, or 1 along
            an axis.
        reduction: What happens to the losses, one per region (with a softmax, one for all classes
            of it): `"mean"` divides their weighted sum by the number of regions that count,
            `"weighted_mean"` by the total weight, `"sum"` adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per region with `reduction="none"`. float32, or float64 for float64
        logits. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an axis does not exist, or an option
            is unknown or out of its range.
        TypeError: If `logits` is not floating, `where` not boolean or a flag no boolean.

    Examples:
        >>> logits, mask = torch.tensor([2.0, 1.0, -2.0, -3.0]), torch.tensor([1, 1, 0, 0])
        >>> dice_focal_loss(logits, mask)
        tensor(0.0613)

    Coming from:
        MONAI `DiceFocalLoss(sigmoid=True)`: `class_dim=1, dice_weight=1, focal_weight=1,
        smooth=1e-5`. With `softmax=True` its Dice term has a softmax and its focal term still a
        sigmoid: add `dice_loss` and `sigmoid_focal_loss`.

    Source:
        Zhu et al., arXiv:1808.05238, eq. (4).
    """
    function = "dice_focal_loss"
    check_choice(function, "activation", activation, get_args(Activation))
    regions = measure(
        function,
        (logits, target),
        Layout(activation, class_dim, dim, where, squared, soft_target, ("focal",), gamma),
        Ending(classes, empty, weights, reduction),
        name="logits",
        pooled=activation == "softmax",
    )
    return _dice_focal(regions, activation, dice_weight, focal_weight, smooth)


def dice_focal_from_statistics(
    statistics: Mapping[str, Tensor],
    *,
    activation: Activation = "sigmoid",
    dice_weight: float | Tensor = 0.5,
    focal_weight: float | Tensor = 0.5,
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    classes: Classes = "all",
    class_dim: int | None = -1,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The Dice plus focal loss of overlap statistics with their `"focal"` entry.

    $$\ell = a\,\frac{\mathrm{FP} + \mathrm{FN}}{2\,\mathrm{TP} + \mathrm{FP} + \mathrm{FN} + s}
    + b\,\frac{\mathrm{focal}}{n}$$

    for each region, with the sums of `overlap_statistics(..., extra="focal", gamma=...)`, $n$ their
    `"count"`, $a$ the `dice_weight`, $b$ the `focal_weight` and $s$ the `smooth` term; with a
    softmax, the mean of the first and the sum of the second over classes.

    Args:
        statistics: What `overlap_statistics(..., extra="focal")` returned, or a sum of several.
        activation: The activation that the statistics were made with.
        dice_weight: See [`dice_focal_loss`][purelosses.dice_focal_loss].
        focal_weight: See [`dice_focal_loss`][purelosses.dice_focal_loss].
        smooth: See [`dice_focal_loss`][purelosses.dice_focal_loss].
        empty: See [`dice_focal_loss`][purelosses.dice_focal_loss].
        classes: See [`dice_focal_loss`][purelosses.dice_focal_loss].
        class_dim: The class axis of the statistics; used with a softmax, and when `classes` lists
            some.
        weights: How much each region matters; the shape that `reduction="none"` returns, or 1 along
            an axis.
        reduction: See [`dice_focal_loss`][purelosses.dice_focal_loss].

    Returns:
        A scalar, or one loss per region with `reduction="none"`.

    Raises:
        ValueError: If the statistics lack an entry, `weights` do not fit, or an option is unknown
            or out of its range.

    Examples:
        >>> logits, mask = torch.tensor([2.0, 1.0, -2.0, -3.0]), torch.tensor([1, 1, 0, 0])
        >>> statistics = overlap_statistics(logits, mask, activation="sigmoid", extra="focal")
        >>> dice_focal_from_statistics(statistics)
        tensor(0.0613)

    Source:
        See [`dice_focal_loss`][purelosses.dice_focal_loss].
    """
    function = "dice_focal_from_statistics"
    check_choice(function, "activation", activation, get_args(Activation))
    ending, pooled = Ending(classes, empty, weights, reduction), activation == "softmax"
    regions = select(function, statistics, class_dim, ending, ("focal",), pooled=pooled)
    return _dice_focal(regions, activation, dice_weight, focal_weight, smooth)


def _focal_sums(asymmetric: bool) -> tuple[Extra, ...]:
    return ("ce", "focal") if asymmetric else ("focal",)


def _unified_focal(
    regions: Regions,
    tversky_weight: float | Tensor,
    focal_weight: float | Tensor,
    delta: float | Tensor,
    gamma: float | Tensor,
    asymmetric: bool,
    smooth: Smooth,
) -> Tensor:
    tversky_weight = check_number(regions.function, "tversky_weight", tversky_weight)
    focal_weight = check_number(regions.function, "focal_weight", focal_weight)
    ratio = tversky_ratio(regions, 1 - delta, delta, smooth)
    overlap = power(ratio, 1 - gamma)
    if asymmetric:
        overlap = torch.cat(
            [_background(regions, ratio), _foreground(regions, overlap)], regions.class_axis
        )
    overlap = regions.mean_over_classes(regions.penalized(overlap))
    rare = _foreground(regions, regions["ce" if asymmetric else "focal"])
    common = _background(regions, regions["focal"])
    terms = torch.cat([(1 - delta) * common, delta * rare], regions.class_axis)
    return regions.reduce_units(tversky_weight * overlap + focal_weight * regions.pixel_mean(terms))


def _background(regions: Regions, values: Tensor) -> Tensor:
    return values.narrow(regions.class_axis, 0, 1)


def _foreground(regions: Regions, values: Tensor) -> Tensor:
    return values.narrow(regions.class_axis, 1, values.shape[regions.class_axis] - 1)


def unified_focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    tversky_weight: float | Tensor = 0.5,
    focal_weight: float | Tensor = 0.5,
    delta: float | Tensor = 0.6,
    gamma: float | Tensor = 0.5,
    asymmetric: bool = True,
    smooth: Smooth = 1.0,
    class_dim: int = 1,
    dim: int | tuple[int, ...] | None = None,
    empty: Empty = "smooth",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""A focal Tversky and a focal cross-entropy with one pair of parameters for imbalance.

    $$\ell = \frac{a}{C} \Bigl(r_0 + \sum_{c > 0} r_c^{1 - \gamma}\Bigr)
    - \frac{b}{n} \sum_i \Bigl((1 - \delta)\,y_{i0}\,(1 - p_{i0})^\gamma \log p_{i0}
    + \delta \sum_{c > 0} y_{ic} \log p_{ic}\Bigr), \qquad
    r_c = \frac{(1 - \delta)\,\mathrm{FP}_c + \delta\,\mathrm{FN}_c}
    {\mathrm{TP}_c + (1 - \delta)\,\mathrm{FP}_c + \delta\,\mathrm{FN}_c + s}$$

    for each sample with $n$ pixels that count, over its $C$ classes of which 0 is the background,
    with $p_{ic}$ the softmax probabilities of a pixel, $y_{ic}$ its target, $a$ the
    `tversky_weight`, $b$ the `focal_weight`, $\delta$ and $\gamma$ the options of these names, $s$
    the `smooth` term and TP, FP, FN the sums of
    [`overlap_statistics`][purelosses.overlap_statistics]. With `asymmetric=False` the exponents $1
    - \gamma$ and $\gamma$ are those of every class. All terms come from one pass over the data.

    Args:
        logits: Scores before the softmax. Half precision is computed in float32.
        target: Integers: class labels, without the class axis. Floats or booleans: a mask or
            probabilities with the shape of `logits`.
        tversky_weight: The share of the Tversky term.
        focal_weight: The share of the focal term.
        delta: How much the foreground matters, from 0 to 1: the cost of a false negative in the
            Tversky term, the weight of foreground pixels in the other. The rest to 1 is that of
            false positives and of the background.
        gamma: From 0 to 1: how much rare classes are raised and easy background is lowered.
        asymmetric: Raise the foreground only, and lower the background only. False does both to all
            classes.
        smooth: Added to numerator and denominator of the Tversky index, or a pair of numbers with
            one for each.
        class_dim: The class axis of `logits`; negative values count from the end.
        dim: The axes of one region, by default those after `class_dim`, so that every sample has
            one; `(0, 2, 3)` pools the batch of (N, C, H, W) masks. Never the class axis.
        empty: What the Tversky term of a class without target costs: `"smooth"`, what the formula
            says; `"penalize"`, the mean probability over its pixels, whose gradient stays alive.
        where: Which pixels count; shape of `logits` without the class axis, or 1 along an axis.
            What lies under False has no influence, whatever it is. A region without any pixel left
            does not count.
        weights: How much each region matters; the shape that `reduction="none"` returns, or 1 along
            an axis.
        reduction: What happens to the losses, one per region: `"mean"` divides their weighted sum
            by the number of regions that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or one loss per region with `reduction="none"`. float32, or float64 for float64
        logits. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an axis does not exist, or an option
            is unknown or out of its range.
        TypeError: If `logits` is not floating, `where` not boolean or a flag no boolean.

    Examples:
        >>> logits = torch.tensor([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]]])
        >>> unified_focal_loss(logits, torch.tensor([[0, 1, 1]]))
        tensor(0.1803)

    Coming from:
        MONAI `AsymmetricUnifiedFocalLoss` takes probabilities, although its documentation says
        logits, has two classes and averages the focal term over them: `torch.log(probs)`,
        `delta=0.7, focal_weight=0.25, smooth=1e-7`.

    Source:
        Yeung et al., arXiv:2102.04525, §3.4, and the authors' code.
    """
    function = "unified_focal_loss"
    delta = check_number(function, "delta", delta, minimum=0, maximum=1)
    gamma = check_number(function, "gamma", gamma, minimum=0, maximum=1)
    check_flag(function, "asymmetric", asymmetric)
    regions = measure(
        function,
        (logits, target),
        Layout("softmax", class_dim, dim, where, extras=_focal_sums(asymmetric), gamma=gamma),
        Ending("all", empty, weights, reduction),
        name="logits",
        pooled=True,
    )
    return _unified_focal(regions, tversky_weight, focal_weight, delta, gamma, asymmetric, smooth)


def unified_focal_from_statistics(
    statistics: Mapping[str, Tensor],
    *,
    tversky_weight: float | Tensor = 0.5,
    focal_weight: float | Tensor = 0.5,
    delta: float | Tensor = 0.6,
    gamma: float | Tensor = 0.5,
    asymmetric: bool = True,
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    class_dim: int = -1,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The unified focal loss of overlap statistics with their `"ce"` and `"focal"` entries.

    The sums are those of `overlap_statistics(..., extra=("ce", "focal"), gamma=...)`, with the
    `gamma` that is given here.

    Args:
        statistics: What `overlap_statistics(..., extra=("ce", "focal"))` returned, or a sum of
            several.
        tversky_weight: See [`unified_focal_loss`][purelosses.unified_focal_loss].
        focal_weight: See [`unified_focal_loss`][purelosses.unified_focal_loss].
        delta: See [`unified_focal_loss`][purelosses.unified_focal_loss].
        gamma: See [`unified_focal_loss`][purelosses.unified_focal_loss].
        asymmetric: See [`unified_focal_loss`][purelosses.unified_focal_loss].
        smooth: See [`unified_focal_loss`][purelosses.unified_focal_loss].
        empty: See [`unified_focal_loss`][purelosses.unified_focal_loss].
        class_dim: The class axis of the statistics.
        weights: How much each region matters; shape of the statistics without the class axis, or 1
            along an axis.
        reduction: See [`unified_focal_loss`][purelosses.unified_focal_loss].

    Returns:
        A scalar, or one loss per region with `reduction="none"`.

    Raises:
        ValueError: If the statistics lack an entry, `weights` do not fit, or an option is unknown
            or out of its range.

    Examples:
        >>> logits = torch.tensor([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0]]])
        >>> labels, options = torch.tensor([[0, 1, 1]]), {"activation": "softmax", "class_dim": 1}
        >>> options |= {"extra": ("ce", "focal"), "gamma": 0.5}
        >>> statistics = overlap_statistics(logits, labels, **options)
        >>> unified_focal_from_statistics(statistics)
        tensor(0.1803)

    Source:
        See [`unified_focal_loss`][purelosses.unified_focal_loss].
    """
    function = "unified_focal_from_statistics"
    delta = check_number(function, "delta", delta, minimum=0, maximum=1)
    gamma = check_number(function, "gamma", gamma, minimum=0, maximum=1)
    check_flag(function, "asymmetric", asymmetric)
    ending, extras = Ending("all", empty, weights, reduction), _focal_sums(asymmetric)
    regions = select(function, statistics, class_dim, ending, extras, pooled=True)
    return _unified_focal(regions, tversky_weight, focal_weight, delta, gamma, asymmetric, smooth)

r"""Overlap losses that are one ratio over all classes."""

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from purelosses._checks import (
    check_choice,
    check_device,
    check_real,
    check_reduction,
    check_weights,
    complain,
)
from purelosses._numerics import safe_divide, share
from purelosses._reduce import reduce
from purelosses._types import Activation, Reduction
from purelosses.segmentation.pixels import Classes
from purelosses.segmentation.regions import (
    Empty,
    Ending,
    Regions,
    Smooth,
    check_smooth,
    measure,
    select,
)
from purelosses.segmentation.statistics import Layout, confusion

WeightType: TypeAlias = Literal["square", "simple", "uniform"]


def _generalized_dice(regions: Regions, weight_type: WeightType, smooth: Smooth) -> Tensor:
    check_choice(regions.function, "weight_type", weight_type, get_args(WeightType))
    top, bottom = check_smooth(regions.function, smooth)
    size = regions["tp"] + regions["fn"]
    there = regions.counted & (size > 0)
    smallest = torch.where(there, size, torch.inf).amin(regions.class_axis, keepdim=True)
    # An absent class weighs as much as the smallest one; if all are absent, all weigh 1.
    smallest = torch.where(smallest == torch.inf, 1.0, smallest)
    weight = smallest / torch.where(there, size, smallest)
    if weight_type != "simple":
        weight = weight.square() if weight_type == "square" else torch.ones_like(weight)
    mistakes = regions.over_classes(weight * (regions["fp"] + regions["fn"])) + (bottom - top)
    losses = share(mistakes, 2 * regions.over_classes(weight * regions["tp"]) + top)
    if regions.ending.empty == "penalize":
        predicted = regions.over_classes(regions["tp"] + regions["fp"])
        mean = predicted / regions.over_classes(regions["count"]).clamp_min(1)
        losses = torch.where(regions.over_classes(size) == 0, mean, losses)
    return regions.reduce_units(losses)


def generalized_dice_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    activation: Activation | None = None,
    class_dim: int = 1,
    dim: int | tuple[int, ...] | None = None,
    weight_type: WeightType = "square",
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    soft_target: bool = False,
    classes: Classes = "all",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""One Dice ratio over all classes, in which small classes weigh as much as large ones.

    $$\ell = 1 - \frac{2 \sum_c w_c\,\mathrm{TP}_c + s}
    {\sum_c w_c\,(2\,\mathrm{TP}_c + \mathrm{FP}_c + \mathrm{FN}_c) + s}, \qquad
    w_c = \Bigl(\frac{\min_k G_k}{G_c}\Bigr)^2$$

    for each sample, over its classes $c$, with $G_c = \mathrm{TP}_c + \mathrm{FN}_c$ the size of
    the target, $s$ the `smooth` term and TP, FP, FN the sums of
    [`overlap_statistics`][purelosses.overlap_statistics]. The ratio depends on the weights relative
    to each other only; here the largest is 1, so that `smooth` keeps its meaning for regions of any
    size. A mean over classes of [`dice_loss`][purelosses.dice_loss] is another loss.

    Args:
        prediction: Probabilities, or logits if `activation` is given. Half precision is computed in
            float32.
        target: Integers: class labels, without the class axis. Floats or booleans: a mask or
            probabilities with the shape of `prediction`.
        activation: What turns `prediction` into probabilities: `"sigmoid"` for independent masks,
            `"softmax"` over `class_dim` for exclusive classes, None if they are probabilities.
        class_dim: The class axis of `prediction`; negative values count from the end.
        dim: The axes of one region, by default those after `class_dim`, so that every sample has
            one; `(0, 2, 3)` pools the batch of (N, C, H, W) masks. Never the class axis.
        weight_type: How the weight of a class falls with its size $G_c$: `"square"`, `"simple"` (as
            $1 / G_c$) or `"uniform"` (not at all). A class without target weighs as much as the
            smallest one that has one.
        smooth: Added to numerator and denominator, on the scale of pixels of the smallest class, or
            a pair of numbers with one for each. 0 gives the plain ratio, with 0/0 a perfect match.
        empty: What it costs if no class has a target: `"smooth"`, what the formula says;
            `"penalize"`, the mean probability over pixels and classes, whose gradient stays alive.
        soft_target: Sums under which a prediction equal to a soft target is perfect (see
            [`overlap_statistics`][purelosses.overlap_statistics]).
        classes: Which classes count: `"all"`, `"present"` (those that have a target), or a list of
            class labels.
        where: Which pixels count; shape of `prediction` without the class axis, or 1 along an axis.
            What lies under False has no influence, whatever it is. A region without any pixel left
            does not count.
        weights: How much each region matters; the shape that `reduction="none"` returns, or 1 along
            an axis.
        reduction: What happens to the losses, one per region: `"mean"` divides their weighted sum
            by the number of regions that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or one loss per region with `reduction="none"`. float32, or float64 for float64
        predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an axis does not exist, or an option
            is unknown or out of its range.
        TypeError: If `prediction` is not floating, `where` not boolean or a flag no boolean.

    Examples:
        >>> logits = torch.tensor([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0]]])
        >>> labels = torch.tensor([[0, 1, 1]])
        >>> generalized_dice_loss(logits, labels, activation="softmax")
        tensor(0.2072)

    Coming from:
        MONAI `GeneralizedDiceLoss(softmax=True, to_onehot_y=True)`: `activation="softmax",
        smooth=0`. Its smoothing of 1e-5 is on the scale of $1 / G_c^2$, so it lowers the loss of
        large images, by 13 % in a test at 400 x 500 pixels. optax
        `multiclass_generalized_dice_loss` is a weighted mean of Dice losses.

    Source:
        Sudre et al., arXiv:1707.03237, §2.1.
    """
    regions = measure(
        "generalized_dice_loss",
        (prediction, target),
        Layout(activation, class_dim, dim, where, soft_target=soft_target),
        Ending(classes, empty, weights, reduction),
        pooled=True,
    )
    return _generalized_dice(regions, weight_type, smooth)


def generalized_dice_from_statistics(
    statistics: Mapping[str, Tensor],
    *,
    weight_type: WeightType = "square",
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    classes: Classes = "all",
    class_dim: int = -1,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The generalized Dice loss of overlap statistics.

    $$\ell = \frac{\sum_c w_c\,(\mathrm{FP}_c + \mathrm{FN}_c)}
    {\sum_c w_c\,(2\,\mathrm{TP}_c + \mathrm{FP}_c + \mathrm{FN}_c) + s}$$

    for each sample, over its classes $c$, with the sums of
    [`overlap_statistics`][purelosses.overlap_statistics], $w_c$ the weights of
    [`generalized_dice_loss`][purelosses.generalized_dice_loss] and $s$ the `smooth` term.

    Args:
        statistics: What `overlap_statistics` returned, or a sum of several.
        weight_type: See [`generalized_dice_loss`][purelosses.generalized_dice_loss].
        smooth: See [`generalized_dice_loss`][purelosses.generalized_dice_loss].
        empty: See [`generalized_dice_loss`][purelosses.generalized_dice_loss].
        classes: See [`generalized_dice_loss`][purelosses.generalized_dice_loss].
        class_dim: The class axis of the statistics.
        weights: How much each region matters; shape of the statistics without the class axis, or 1
            along an axis.
        reduction: See [`generalized_dice_loss`][purelosses.generalized_dice_loss].

    Returns:
        A scalar, or one loss per region with `reduction="none"`.

    Raises:
        ValueError: If the statistics lack an entry, `weights` do not fit, or an option is unknown
            or out of its range.

    Examples:
        >>> logits = torch.tensor([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0]]])
        >>> labels = torch.tensor([[0, 1, 1]])
        >>> statistics = overlap_statistics(logits, labels, activation="softmax", class_dim=1)
        >>> generalized_dice_from_statistics(statistics)
        tensor(0.2072)

    Source:
        See [`generalized_dice_loss`][purelosses.generalized_dice_loss].
    """
    ending = Ending(classes, empty, weights, reduction)
    regions = select("generalized_dice_from_statistics", statistics, class_dim, ending, pooled=True)
    return _generalized_dice(regions, weight_type, smooth)


def _wasserstein(
    function: str,
    statistics: Mapping[str, Tensor],
    distance: Tensor,
    smooth: Smooth,
    empty: Empty,
    weights: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    check_choice(function, "empty", empty, get_args(Empty))
    check_reduction(function, reduction)
    if not isinstance(statistics, Mapping) or not statistics.keys() >= {"confusion", "count"}:
        must = "be what `confusion_statistics` returns, with ['confusion', 'count']"
        got = sorted(statistics) if isinstance(statistics, Mapping) else repr(statistics)
        raise ValueError(complain(function, "statistics", must, got))
    matrix, count = statistics["confusion"], statistics["count"]
    check_real(function, "distance", distance)
    if distance.shape != matrix.shape[-2:]:
        must = f"hold a distance for each pair of classes, shape {tuple(matrix.shape[-2:])}"
        raise ValueError(complain(function, "distance", must, tuple(distance.shape)))
    check_device(function, "distance", distance, matrix)
    top, bottom = check_smooth(function, smooth)

    distance = distance.to(matrix.dtype)
    distance = safe_divide(distance, distance.amax())
    # An axis is kept until the end: see `select`.
    errors = (matrix * distance).sum(-2).sum(-1, keepdim=True)
    classes = matrix.shape[-1]
    foreground = matrix.narrow(-2, 1, classes - 1)
    right = (foreground * (1 - distance.narrow(0, 1, classes - 1))).sum(-2).sum(-1, keepdim=True)
    losses = share(errors + (bottom - top), 2 * right + top).squeeze(-1)
    if empty == "penalize":
        mean = errors.squeeze(-1) / count.clamp_min(1)
        losses = torch.where(foreground.sum((-2, -1)) == 0, mean, losses)
    if weights is not None:
        check_weights(function, weights, losses.shape, "the regions", losses)
    return reduce(losses, reduction, count > 0, weights)


def generalized_wasserstein_dice_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    distance: Tensor,
    activation: Activation | None = None,
    class_dim: int = 1,
    dim: int | tuple[int, ...] | None = None,
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""A Dice ratio in which confusing two classes costs the distance between them.

    $$\ell = \frac{E}{2\,T + E + s}, \qquad E = \sum_{l, c} K_{lc}\,M_{lc}, \qquad
    T = \sum_{l > 0} \sum_c K_{lc}\,(1 - M_{lc})$$

    for each sample, with $K_{lc} = \sum_i y_{il}\,p_{ic}$ the probability that pixels of the true
    class $l$ give to class $c$ (`prediction` after `activation`;
    [`confusion_statistics`][purelosses.confusion_statistics]), $M$ the `distance` divided by its
    largest entry, class 0 the background, $s$ the `smooth` term. For a pixel with a label, $\sum_c
    M_{lc}\,p_c$ is the Wasserstein distance between prediction and label.

    Args:
        prediction: Probabilities, or logits if `activation` is given. Half precision is computed in
            float32.
        target: Integers: class labels, without the class axis. Floats or booleans: a mask or
            probabilities with the shape of `prediction`.
        distance: How far apart each pair of classes is, shape (C, C): true classes by predicted
            ones, with zeros on the diagonal. Divided by its largest entry, so its scale does not
            matter.
        activation: What turns `prediction` into probabilities: `"sigmoid"` for independent masks,
            `"softmax"` over `class_dim` for exclusive classes, None if they are probabilities.
        class_dim: The class axis of `prediction`; negative values count from the end.
        dim: The axes of one region, by default those after `class_dim`, so that every sample has
            one; `(0, 2, 3)` pools the batch of (N, C, H, W) masks. Never the class axis.
        smooth: Added to numerator and denominator of the coefficient as written above, or a pair of
            numbers with one for each. 0 gives the plain coefficient, with 0/0 a perfect match.
        empty: What a region that is all background costs: `"smooth"`, what the formula says;
            `"penalize"`, the mean distance over its pixels, whose gradient stays alive.
        where: Which pixels count; shape of `prediction` without the class axis, or 1 along an axis.
            What lies under False has no influence, whatever it is. A region without any pixel left
            does not count.
        weights: How much each region matters; the shape that `reduction="none"` returns, or 1 along
            an axis.
        reduction: What happens to the losses, one per region: `"mean"` divides their weighted sum
            by the number of regions that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or one loss per region with `reduction="none"`. float32, or float64 for float64
        predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an axis does not exist, or an option
            is unknown or out of its range.
        TypeError: If `prediction` is not floating, `where` not boolean or a flag no boolean.

    Examples:
        Two kinds of tumour (1, 2) are closer to each other than to healthy tissue (0):

        >>> distance = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.5], [1.0, 0.5, 0.0]])
        >>> labels = torch.tensor([[0, 0, 1, 2]])
        >>> for guess in ([0, 0, 2, 2], [0, 0, 0, 2]):
        ...     probs = torch.eye(3)[guess].mT.unsqueeze(0)
        ...     generalized_wasserstein_dice_loss(probs, labels, distance=distance)
        tensor(0.1111)
        tensor(0.2500)

    Coming from:
        MONAI `GeneralizedWassersteinDiceLoss(matrix)`: `distance=matrix, activation="softmax",
        smooth=1e-5`.

    Source:
        Fidon et al., arXiv:1707.00478, §2, with the true positives of its authors' code: every
        foreground class counts 1 (in the paper its distance from the background, which is 1 there).
    """
    function = "generalized_wasserstein_dice_loss"
    statistics = confusion(function, prediction, target, activation, class_dim, dim, where)
    return _wasserstein(function, statistics, distance, smooth, empty, weights, reduction)


def generalized_wasserstein_dice_from_statistics(
    statistics: Mapping[str, Tensor],
    *,
    distance: Tensor,
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The generalized Wasserstein Dice loss of confusion statistics.

    $$\ell = \frac{E}{2\,T + E + s}, \qquad E = \sum_{l, c} K_{lc}\,M_{lc}, \qquad
    T = \sum_{l > 0} \sum_c K_{lc}\,(1 - M_{lc})$$

    for each sample, with $K$ the matrix of
    [`confusion_statistics`][purelosses.confusion_statistics], $M$ the `distance` divided by its
    largest entry, class 0 the background, $s$ the `smooth` term.

    Args:
        statistics: What `confusion_statistics` returned, or a sum of several.
        distance: See
            [`generalized_wasserstein_dice_loss`][purelosses.generalized_wasserstein_dice_loss].
        smooth: See
            [`generalized_wasserstein_dice_loss`][purelosses.generalized_wasserstein_dice_loss].
        empty: See
            [`generalized_wasserstein_dice_loss`][purelosses.generalized_wasserstein_dice_loss].
        weights: How much each region matters; shape of the counts, or 1 along an axis.
        reduction: See
            [`generalized_wasserstein_dice_loss`][purelosses.generalized_wasserstein_dice_loss].

    Returns:
        A scalar, or one loss per region with `reduction="none"`.

    Raises:
        ValueError: If the statistics lack an entry, `weights` do not fit, or an option is unknown
            or out of its range.

    Examples:
        >>> distance = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.5], [1.0, 0.5, 0.0]])
        >>> probs, labels = torch.eye(3)[[0, 0, 2, 2]].mT.unsqueeze(0), torch.tensor([[0, 0, 1, 2]])
        >>> statistics = confusion_statistics(probs, labels)
        >>> generalized_wasserstein_dice_from_statistics(statistics, distance=distance)
        tensor(0.1111)

    Source:
        See [`generalized_wasserstein_dice_loss`][purelosses.generalized_wasserstein_dice_loss].
    """
    function = "generalized_wasserstein_dice_from_statistics"
    return _wasserstein(function, statistics, distance, smooth, empty, weights, reduction)

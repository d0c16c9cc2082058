r"""Losses of the overlap between a predicted and a true region, one for each region.

All are arithmetic on the sums TP, FP and FN of `purelosses.segmentation.statistics`.
"""

from collections.abc import Mapping

from torch import Tensor

from purelosses._numerics import share
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
from purelosses.segmentation.statistics import Layout


def tversky_ratio(
    regions: Regions, alpha: float | Tensor, beta: float | Tensor, smooth: Smooth
) -> Tensor:
    """The share of weighted mistakes: of TP + alpha FP + beta FN, smoothed."""
    return _mistaken(regions, alpha * regions["fp"] + beta * regions["fn"], regions["tp"], smooth)


def dice_ratio(regions: Regions, smooth: Smooth) -> Tensor:
    """The share of mistakes: of 2 TP + FP + FN, smoothed."""
    return _mistaken(regions, regions["fp"] + regions["fn"], 2 * regions["tp"], smooth)


def _mistaken(regions: Regions, mistakes: Tensor, hits: Tensor, smooth: Smooth) -> Tensor:
    """Mistakes are sums of positive terms, never 1 - ratio: a loss of 1e-12 has all its digits."""
    top, bottom = check_smooth(regions.function, smooth)
    if bottom is not top:
        mistakes = mistakes + (bottom - top)
    # With smoothing that float32 sees there is no 0/0.
    smoothed = not isinstance(bottom, Tensor) and bottom > 1e-30
    return share(mistakes, hits + top, None if smoothed else 0.0)


def _dice(regions: Regions, smooth: Smooth) -> Tensor:
    return regions.reduce(regions.penalized(dice_ratio(regions, smooth)))


def dice_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    activation: Activation | None = None,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    squared: bool = False,
    soft_target: bool = False,
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
        prediction: Probabilities, or logits if `activation` is given. Half precision is computed in
            float32.
        target: With a `class_dim`, integers are class labels without the class axis; anything else
            is a mask (booleans, integers or probabilities) with the shape of `prediction`.
        activation: What turns `prediction` into probabilities: `"sigmoid"` for independent masks,
            `"softmax"` over `class_dim` for exclusive classes, None if they are probabilities.
        class_dim: The class axis of `prediction`, None if there is none.
        dim: The axes of one region. By default those after `class_dim`, so that every sample and
            class is a region of its own; without a `class_dim` all of them, so that everything is
            one region. `(0, 2, 3)` pools the batch of (N, C, H, W) masks, `(1, 2, 3)` the classes.
        smooth: Added to numerator and denominator of the coefficient as written above, or a pair of
            numbers with one for each. 0 gives the plain coefficient, with 0/0 (nothing predicted,
            nothing there) a perfect match; larger values soften the loss of small regions and keep
            a gradient on empty ones.
        empty: What a region without target costs: `"smooth"`, what the formula says; `"penalize"`,
            the mean probability over its pixels (with `squared`, of its square), whose gradient
            stays alive.
        squared: Squares in the denominator: $\sum p^2 + \sum y^2$ for $\sum p + \sum y$ (see
            [`overlap_statistics`][purelosses.overlap_statistics]).
        soft_target: Sums under which a prediction equal to a soft target is perfect (see
            [`overlap_statistics`][purelosses.overlap_statistics]).
        classes: Which classes count: `"all"`, `"present"` (regions that have a target), or a list
            of class labels.
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
        `batch=True` is `dim=(0, 2, 3)`, `squared_pred` is `squared`, `soft_label` is `soft_target`,
        `include_background=False` lists the other `classes`. segmentation-models-pytorch
        `DiceLoss("multiclass")`: `activation="softmax", class_dim=1, dim=(0, 2, 3), smooth=0,
        classes="present"` (it divides by all classes). Its `smooth=s` and that of optax are
        `smooth=2 * s` here.

    Source:
        Milletari et al., arXiv:1606.04797, §3 (with `squared`); without the squares in the
        denominator, as in Drozdzal et al., arXiv:1608.04117, eq. (2).
    """
    regions = measure(
        "dice_loss",
        (prediction, target),
        Layout(activation, class_dim, dim, where, squared, soft_target),
        Ending(classes, empty, weights, reduction),
    )
    return _dice(regions, smooth)


def dice_from_statistics(
    statistics: Mapping[str, Tensor],
    *,
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    classes: Classes = "all",
    class_dim: int | None = -1,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The Dice loss of overlap statistics, for example of sums over micro-batches or ranks.

    $$\ell = 1 - \frac{2\,\mathrm{TP} + s}{2\,\mathrm{TP} + \mathrm{FP} + \mathrm{FN} + s}
    = \frac{\mathrm{FP} + \mathrm{FN}}{2\,\mathrm{TP} + \mathrm{FP} + \mathrm{FN} + s}$$

    for each region, with the sums of [`overlap_statistics`][purelosses.overlap_statistics] and $s$
    the `smooth` term.

    Args:
        statistics: What `overlap_statistics` returned, or a sum of several.
        smooth: See [`dice_loss`][purelosses.dice_loss].
        empty: See [`dice_loss`][purelosses.dice_loss].
        classes: See [`dice_loss`][purelosses.dice_loss].
        class_dim: The class axis of the statistics; used when `classes` lists some.
        weights: How much each region matters; shape of the statistics (selected classes only), or 1
            along an axis.
        reduction: See [`dice_loss`][purelosses.dice_loss].

    Returns:
        A scalar, or one loss per region with `reduction="none"`.

    Raises:
        ValueError: If the statistics lack an entry, `weights` do not fit, or an option is unknown
            or out of its range.

    Examples:
        Two halves of a batch give the loss of the whole batch, which a mean of losses does not:

        >>> probs, mask = torch.tensor([0.9, 0.2, 0.7, 0.4]), torch.tensor([1, 0, 1, 1])
        >>> halves = [overlap_statistics(p, m) for p, m in zip(probs.split(2), mask.split(2))]
        >>> dice_from_statistics(optree.tree_map(torch.add, *halves))
        tensor(0.1935)
        >>> dice_loss(probs, mask)
        tensor(0.1935)

    Source:
        See [`dice_loss`][purelosses.dice_loss].
    """
    ending = Ending(classes, empty, weights, reduction)
    regions = select("dice_from_statistics", statistics, class_dim, ending)
    return _dice(regions, smooth)


def _jaccard(regions: Regions, smooth: Smooth) -> Tensor:
    return regions.reduce(regions.penalized(tversky_ratio(regions, 1, 1, smooth)))


def jaccard_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    activation: Activation | None = None,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    squared: bool = False,
    soft_target: bool = False,
    classes: Classes = "all",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""One minus the Jaccard coefficient, the intersection of two regions over their union.

    $$\ell = 1 - \frac{\mathrm{TP} + s}{\mathrm{TP} + \mathrm{FP} + \mathrm{FN} + s}
    = \frac{\mathrm{FP} + \mathrm{FN}}{\mathrm{TP} + \mathrm{FP} + \mathrm{FN} + s}$$

    for each region, with $s$ the `smooth` term and TP, FP, FN the sums of
    [`overlap_statistics`][purelosses.overlap_statistics]. With $s = 0$ it orders predictions as
    Dice does, $D = 2J / (1 + J)$ for the two coefficients, and is the larger of both losses.

    Args:
        prediction: Probabilities, or logits if `activation` is given. Half precision is computed in
            float32.
        target: With a `class_dim`, integers are class labels without the class axis; anything else
            is a mask (booleans, integers or probabilities) with the shape of `prediction`.
        activation: What turns `prediction` into probabilities: `"sigmoid"` for independent masks,
            `"softmax"` over `class_dim` for exclusive classes, None if they are probabilities.
        class_dim: The class axis of `prediction`, None if there is none.
        dim: The axes of one region. By default those after `class_dim`, so that every sample and
            class is a region of its own; without a `class_dim` all of them, so that everything is
            one region.
        smooth: Added to numerator and denominator of the coefficient as written above, or a pair of
            numbers with one for each. 0 gives the plain coefficient, with 0/0 (nothing predicted,
            nothing there) a perfect match; larger values soften the loss of small regions and keep
            a gradient on empty ones.
        empty: What a region without target costs: `"smooth"`, what the formula says; `"penalize"`,
            the mean probability over its pixels (with `squared`, of its square), whose gradient
            stays alive.
        squared: Squares in the denominator: $\sum p^2 + \sum y^2$ for $\sum p + \sum y$ (see
            [`overlap_statistics`][purelosses.overlap_statistics]).
        soft_target: Sums under which a prediction equal to a soft target is perfect (see
            [`overlap_statistics`][purelosses.overlap_statistics]).
        classes: Which classes count: `"all"`, `"present"` (regions that have a target), or a list
            of class labels.
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
        >>> probs, mask = torch.tensor([0.9, 0.8, 0.1, 0.0]), torch.tensor([1, 1, 0, 0])
        >>> jaccard_loss(probs, mask)
        tensor(0.1290)

    Coming from:
        MONAI `DiceLoss(jaccard=True, sigmoid=True)`, whose smoothing of 1e-5 is on twice this
        scale: `activation="sigmoid", class_dim=1, smooth=5e-6`. segmentation-models-pytorch
        `JaccardLoss("multiclass")`: `activation="softmax", class_dim=1, dim=(0, 2, 3), smooth=0`.

    Source:
        Rahman and Wang, *Optimizing Intersection-Over-Union in Deep Neural Networks for Image
        Segmentation* (2016), eq. (4).
    """
    regions = measure(
        "jaccard_loss",
        (prediction, target),
        Layout(activation, class_dim, dim, where, squared, soft_target),
        Ending(classes, empty, weights, reduction),
    )
    return _jaccard(regions, smooth)


def jaccard_from_statistics(
    statistics: Mapping[str, Tensor],
    *,
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    classes: Classes = "all",
    class_dim: int | None = -1,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The Jaccard loss of overlap statistics.

    $$\ell = \frac{\mathrm{FP} + \mathrm{FN}}{\mathrm{TP} + \mathrm{FP} + \mathrm{FN} + s}$$

    for each region, with the sums of [`overlap_statistics`][purelosses.overlap_statistics] and $s$
    the `smooth` term.

    Args:
        statistics: What `overlap_statistics` returned, or a sum of several.
        smooth: See [`jaccard_loss`][purelosses.jaccard_loss].
        empty: See [`jaccard_loss`][purelosses.jaccard_loss].
        classes: See [`jaccard_loss`][purelosses.jaccard_loss].
        class_dim: The class axis of the statistics; used when `classes` lists some.
        weights: How much each region matters; shape of the statistics (selected classes only), or 1
            along an axis.
        reduction: See [`jaccard_loss`][purelosses.jaccard_loss].

    Returns:
        A scalar, or one loss per region with `reduction="none"`.

    Raises:
        ValueError: If the statistics lack an entry, `weights` do not fit, or an option is unknown
            or out of its range.

    Examples:
        >>> probs, mask = torch.tensor([0.9, 0.8, 0.1, 0.0]), torch.tensor([1, 1, 0, 0])
        >>> jaccard_from_statistics(overlap_statistics(probs, mask))
        tensor(0.1290)

    Source:
        See [`jaccard_loss`][purelosses.jaccard_loss].
    """
    ending = Ending(classes, empty, weights, reduction)
    regions = select("jaccard_from_statistics", statistics, class_dim, ending)
    return _jaccard(regions, smooth)


def _log_cosh_dice(regions: Regions, smooth: Smooth) -> Tensor:
    # log cosh x = log(1 + 2 sinh²(x / 2)): nothing cancels as x goes to 0.
    losses = (2 * (dice_ratio(regions, smooth) / 2).sinh().square()).log1p()
    return regions.reduce(regions.penalized(losses))


def log_cosh_dice_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    activation: Activation | None = None,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    squared: bool = False,
    soft_target: bool = False,
    classes: Classes = "all",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The logarithm of the hyperbolic cosine of the Dice loss, quadratic near its optimum.

    $$\ell = \log \cosh \frac{\mathrm{FP} + \mathrm{FN}}
    {2\,\mathrm{TP} + \mathrm{FP} + \mathrm{FN} + s}$$

    for each region, with $s$ the `smooth` term and TP, FP, FN the sums of
    [`overlap_statistics`][purelosses.overlap_statistics]. The slope is $\tanh$ of the Dice loss: it
    fades as the prediction gets right.

    Args:
        prediction: Probabilities, or logits if `activation` is given. Half precision is computed in
            float32.
        target: With a `class_dim`, integers are class labels without the class axis; anything else
            is a mask (booleans, integers or probabilities) with the shape of `prediction`.
        activation: What turns `prediction` into probabilities: `"sigmoid"` for independent masks,
            `"softmax"` over `class_dim` for exclusive classes, None if they are probabilities.
        class_dim: The class axis of `prediction`, None if there is none.
        dim: The axes of one region. By default those after `class_dim`, so that every sample and
            class is a region of its own; without a `class_dim` all of them, so that everything is
            one region.
        smooth: Added to numerator and denominator of the coefficient as written above, or a pair of
            numbers with one for each. 0 gives the plain coefficient, with 0/0 (nothing predicted,
            nothing there) a perfect match; larger values soften the loss of small regions and keep
            a gradient on empty ones.
        empty: What a region without target costs: `"smooth"`, what the formula says; `"penalize"`,
            the mean probability over its pixels (with `squared`, of its square), whose gradient
            stays alive.
        squared: Squares in the denominator: $\sum p^2 + \sum y^2$ for $\sum p + \sum y$ (see
            [`overlap_statistics`][purelosses.overlap_statistics]).
        soft_target: Sums under which a prediction equal to a soft target is perfect (see
            [`overlap_statistics`][purelosses.overlap_statistics]).
        classes: Which classes count: `"all"`, `"present"` (regions that have a target), or a list
            of class labels.
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
        >>> probs, mask = torch.tensor([0.9, 0.8, 0.1, 0.0]), torch.tensor([1, 1, 0, 0])
        >>> log_cosh_dice_loss(probs, mask)
        tensor(0.0035)

    Coming from:
        `torch.log(torch.cosh(dice))`, as it is usually written: the same value, until the Dice loss
        is below 1e-4, where that is 0 in float32.

    Source:
        Jadon, arXiv:2006.14822, eq. (17).
    """
    regions = measure(
        "log_cosh_dice_loss",
        (prediction, target),
        Layout(activation, class_dim, dim, where, squared, soft_target),
        Ending(classes, empty, weights, reduction),
    )
    return _log_cosh_dice(regions, smooth)


def log_cosh_dice_from_statistics(
    statistics: Mapping[str, Tensor],
    *,
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    classes: Classes = "all",
    class_dim: int | None = -1,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The log-cosh Dice loss of overlap statistics.

    $$\ell = \log \cosh \frac{\mathrm{FP} + \mathrm{FN}}
    {2\,\mathrm{TP} + \mathrm{FP} + \mathrm{FN} + s}$$

    for each region, with the sums of [`overlap_statistics`][purelosses.overlap_statistics] and $s$
    the `smooth` term.

    Args:
        statistics: What `overlap_statistics` returned, or a sum of several.
        smooth: See [`log_cosh_dice_loss`][purelosses.log_cosh_dice_loss].
        empty: See [`log_cosh_dice_loss`][purelosses.log_cosh_dice_loss].
        classes: See [`log_cosh_dice_loss`][purelosses.log_cosh_dice_loss].
        class_dim: The class axis of the statistics; used when `classes` lists some.
        weights: How much each region matters; shape of the statistics (selected classes only), or 1
            along an axis.
        reduction: See [`log_cosh_dice_loss`][purelosses.log_cosh_dice_loss].

    Returns:
        A scalar, or one loss per region with `reduction="none"`.

    Raises:
        ValueError: If the statistics lack an entry, `weights` do not fit, or an option is unknown
            or out of its range.

    Examples:
        >>> probs, mask = torch.tensor([0.9, 0.8, 0.1, 0.0]), torch.tensor([1, 1, 0, 0])
        >>> log_cosh_dice_from_statistics(overlap_statistics(probs, mask))
        tensor(0.0035)

    Source:
        See [`log_cosh_dice_loss`][purelosses.log_cosh_dice_loss].
    """
    ending = Ending(classes, empty, weights, reduction)
    regions = select("log_cosh_dice_from_statistics", statistics, class_dim, ending)
    return _log_cosh_dice(regions, smooth)

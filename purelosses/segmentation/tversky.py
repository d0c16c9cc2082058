r"""Overlap losses that weigh what is invented and what is missed differently."""

from collections.abc import Mapping

from torch import Tensor

from purelosses._checks import check_number
from purelosses._numerics import power
from purelosses._types import Activation, Reduction
from purelosses.segmentation.overlap import tversky_ratio
from purelosses.segmentation.pixels import Classes
from purelosses.segmentation.regions import (
    Empty,
    Ending,
    Regions,
    Smooth,
    measure,
    select,
)
from purelosses.segmentation.statistics import Layout


def _tversky(
    regions: Regions, alpha: float | Tensor, beta: float | Tensor, smooth: Smooth
) -> Tensor:
    alpha = check_number(regions.function, "alpha", alpha, minimum=0)
    beta = check_number(regions.function, "beta", beta, minimum=0)
    return regions.reduce(regions.penalized(tversky_ratio(regions, alpha, beta, smooth)))


def tversky_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    activation: Activation | None = None,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    alpha: float | Tensor = 0.5,
    beta: float | Tensor = 0.5,
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    squared: bool = False,
    soft_target: bool = False,
    classes: Classes = "all",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""One minus the Tversky index: an overlap that weighs false positives and negatives apart.

    $$\ell = 1 - \frac{\mathrm{TP} + s}{\mathrm{TP} + \alpha\,\mathrm{FP} + \beta\,\mathrm{FN} + s}
    = \frac{\alpha\,\mathrm{FP} + \beta\,\mathrm{FN}}
    {\mathrm{TP} + \alpha\,\mathrm{FP} + \beta\,\mathrm{FN} + s}$$

    for each region, with $\alpha$ and $\beta$ the options of these names, $s$ the `smooth` term and
    TP, FP, FN the sums of [`overlap_statistics`][purelosses.overlap_statistics]. $\alpha = \beta =
    1$ is [`jaccard_loss`][purelosses.jaccard_loss], $\alpha = \beta = \frac{1}{2}$ is
    [`dice_loss`][purelosses.dice_loss] with twice the smoothing.

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
        alpha: What a false positive costs.
        beta: What a false negative costs; more than `alpha` favours recall.
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
        >>> tversky_loss(probs, mask, alpha=0.3, beta=0.7)
        tensor(0.0816)

    Coming from:
        MONAI `TverskyLoss(alpha=a, beta=b, sigmoid=True)`: `alpha=a, beta=b, activation="sigmoid",
        class_dim=1, smooth=1e-5`. segmentation-models-pytorch: the same names, with `dim=(0, 2, 3),
        smooth=0`. kornia `tversky_loss`: the same names, `smooth=(0, 1e-8), classes="present"`. In
        some code alpha belongs to the false negatives: check.

    Source:
        Salehi et al., arXiv:1706.05721, eq. (3).
    """
    regions = measure(
        "tversky_loss",
        (prediction, target),
        Layout(activation, class_dim, dim, where, squared, soft_target),
        Ending(classes, empty, weights, reduction),
    )
    return _tversky(regions, alpha, beta, smooth)


def tversky_from_statistics(
    statistics: Mapping[str, Tensor],
    *,
    alpha: float | Tensor = 0.5,
    beta: float | Tensor = 0.5,
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    classes: Classes = "all",
    class_dim: int | None = -1,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The Tversky loss of overlap statistics.

    $$\ell = \frac{\alpha\,\mathrm{FP} + \beta\,\mathrm{FN}}
    {\mathrm{TP} + \alpha\,\mathrm{FP} + \beta\,\mathrm{FN} + s}$$

    for each region, with the sums of [`overlap_statistics`][purelosses.overlap_statistics],
    $\alpha$ and $\beta$ the options of these names and $s$ the `smooth` term.

    Args:
        statistics: What `overlap_statistics` returned, or a sum of several.
        alpha: See [`tversky_loss`][purelosses.tversky_loss].
        beta: See [`tversky_loss`][purelosses.tversky_loss].
        smooth: See [`tversky_loss`][purelosses.tversky_loss].
        empty: See [`tversky_loss`][purelosses.tversky_loss].
        classes: See [`tversky_loss`][purelosses.tversky_loss].
        class_dim: The class axis of the statistics; used when `classes` lists some.
        weights: How much each region matters; shape of the statistics (selected classes only), or 1
            along an axis.
        reduction: See [`tversky_loss`][purelosses.tversky_loss].

    Returns:
        A scalar, or one loss per region with `reduction="none"`.

    Raises:
        ValueError: If the statistics lack an entry, `weights` do not fit, or an option is unknown
            or out of its range.

    Examples:
        >>> probs, mask = torch.tensor([0.9, 0.8, 0.1, 0.0]), torch.tensor([1, 1, 0, 0])
        >>> tversky_from_statistics(overlap_statistics(probs, mask), alpha=0.3, beta=0.7)
        tensor(0.0816)

    Source:
        See [`tversky_loss`][purelosses.tversky_loss].
    """
    ending = Ending(classes, empty, weights, reduction)
    regions = select("tversky_from_statistics", statistics, class_dim, ending)
    return _tversky(regions, alpha, beta, smooth)


def _focal_tversky(
    regions: Regions,
    alpha: float | Tensor,
    beta: float | Tensor,
    gamma: float | Tensor,
    smooth: Smooth,
) -> Tensor:
    alpha = check_number(regions.function, "alpha", alpha, minimum=0)
    beta = check_number(regions.function, "beta", beta, minimum=0)
    gamma = check_number(regions.function, "gamma", gamma, above=0)
    losses = power(tversky_ratio(regions, alpha, beta, smooth), gamma)
    return regions.reduce(regions.penalized(losses))


def focal_tversky_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    activation: Activation | None = None,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    alpha: float | Tensor = 0.3,
    beta: float | Tensor = 0.7,
    gamma: float | Tensor = 0.75,
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    squared: bool = False,
    soft_target: bool = False,
    classes: Classes = "all",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The Tversky loss of each region to a power, which shifts weight between easy and hard ones.

    $$\ell = \left(\frac{\alpha\,\mathrm{FP} + \beta\,\mathrm{FN}}
    {\mathrm{TP} + \alpha\,\mathrm{FP} + \beta\,\mathrm{FN} + s}\right)^\gamma$$

    for each region, with $\alpha$, $\beta$ and $\gamma$ the options of these names, $s$ the
    `smooth` term and TP, FP, FN the sums of [`overlap_statistics`][purelosses.overlap_statistics].
    The power is that of each region, before any mean. At a loss of 0, where the slope of an
    exponent below 1 is infinite, the gradient is 0.

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
        alpha: What a false positive costs.
        beta: What a false negative costs; more than `alpha` favours recall.
        gamma: The exponent. Below 1 it raises the loss of regions that are nearly right; 1 is the
            Tversky loss.
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
        >>> focal_tversky_loss(probs, mask)
        tensor(0.1527)

    Coming from:
        The paper's exponent is $1/\gamma$ with $\gamma = 4/3$: the default here.
        segmentation-models-pytorch `TverskyLoss(gamma=g)`: `gamma=g`, but it takes the power of the
        mean over classes, and its gradient at a perfect prediction is NaN.

    Source:
        Abraham and Khan, arXiv:1810.07842, eq. (4).
    """
    regions = measure(
        "focal_tversky_loss",
        (prediction, target),
        Layout(activation, class_dim, dim, where, squared, soft_target),
        Ending(classes, empty, weights, reduction),
    )
    return _focal_tversky(regions, alpha, beta, gamma, smooth)


def focal_tversky_from_statistics(
    statistics: Mapping[str, Tensor],
    *,
    alpha: float | Tensor = 0.3,
    beta: float | Tensor = 0.7,
    gamma: float | Tensor = 0.75,
    smooth: Smooth = 1.0,
    empty: Empty = "smooth",
    classes: Classes = "all",
    class_dim: int | None = -1,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The focal Tversky loss of overlap statistics.

    $$\ell = \left(\frac{\alpha\,\mathrm{FP} + \beta\,\mathrm{FN}}
    {\mathrm{TP} + \alpha\,\mathrm{FP} + \beta\,\mathrm{FN} + s}\right)^\gamma$$

    for each region, with the sums of [`overlap_statistics`][purelosses.overlap_statistics],
    $\alpha$, $\beta$ and $\gamma$ the options of these names and $s$ the `smooth` term.

    Args:
        statistics: What `overlap_statistics` returned, or a sum of several.
        alpha: See [`focal_tversky_loss`][purelosses.focal_tversky_loss].
        beta: See [`focal_tversky_loss`][purelosses.focal_tversky_loss].
        gamma: See [`focal_tversky_loss`][purelosses.focal_tversky_loss].
        smooth: See [`focal_tversky_loss`][purelosses.focal_tversky_loss].
        empty: See [`focal_tversky_loss`][purelosses.focal_tversky_loss].
        classes: See [`focal_tversky_loss`][purelosses.focal_tversky_loss].
        class_dim: The class axis of the statistics; used when `classes` lists some.
        weights: How much each region matters; shape of the statistics (selected classes only), or 1
            along an axis.
        reduction: See [`focal_tversky_loss`][purelosses.focal_tversky_loss].

    Returns:
        A scalar, or one loss per region with `reduction="none"`.

    Raises:
        ValueError: If the statistics lack an entry, `weights` do not fit, or an option is unknown
            or out of its range.

    Examples:
        >>> probs, mask = torch.tensor([0.9, 0.8, 0.1, 0.0]), torch.tensor([1, 1, 0, 0])
        >>> focal_tversky_from_statistics(overlap_statistics(probs, mask))
        tensor(0.1527)

    Source:
        See [`focal_tversky_loss`][purelosses.focal_tversky_loss].
    """
    ending = Ending(classes, empty, weights, reduction)
    regions = select("focal_tversky_from_statistics", statistics, class_dim, ending)
    return _focal_tversky(regions, alpha, beta, gamma, smooth)

r"""The loss of the Matthews correlation, which counts true negatives too."""

from collections.abc import Mapping

import torch
from torch import Tensor

from purelosses._checks import check_number
from purelosses._numerics import share
from purelosses._types import Activation, Reduction
from purelosses.segmentation.pixels import Classes
from purelosses.segmentation.regions import (
    Empty,
    Ending,
    Regions,
    measure,
    select,
)
from purelosses.segmentation.statistics import Layout


def _mcc(regions: Regions, smooth: float | Tensor) -> Tensor:
    smooth = check_number(regions.function, "smooth", smooth, minimum=0)
    tp, tn = regions["tp"] + smooth, regions["tn"] + smooth
    fp, fn = regions["fp"], regions["fn"]
    # MCC = √(precision · recall · the same two of the background) - the same of the complements.
    agreement = _cosine(tp, fp, fn) * _cosine(tn, fn, fp)
    disagreement = fp / _root(tp + fp) / _root(tn + fp) * fn / _root(tp + fn) / _root(tn + fn)
    # 1 - agreement² = 1 - uvwz, as a sum of positive terms.
    missing = torch.zeros_like(tp)
    for part, rest in ((fn, tn), (fp, tn), (fn, tp), (fp, tp)):
        wrong = share(part, rest)
        missing = wrong + (1 - wrong) * missing
    return regions.reduce(regions.penalized(missing / (1 + agreement) + disagreement))


def _root(x: Tensor) -> Tensor:
    return torch.where(x == 0, 1.0, x).sqrt()


def _cosine(hits: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """hits / √((hits + one) (hits + other)); 1 if nothing is there at all."""
    cosine = hits / _root(hits + one) / _root(hits + other)
    return torch.where(hits + one + other == 0, 1.0, cosine)


def mcc_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    activation: Activation | None = None,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    smooth: float | Tensor = 1.0,
    empty: Empty = "smooth",
    soft_target: bool = False,
    classes: Classes = "all",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""One minus the Matthews correlation coefficient, which minds the background as much.

    $$\ell = 1 - \frac{\mathrm{TP} \cdot \mathrm{TN} - \mathrm{FP} \cdot \mathrm{FN}}
    {\sqrt{(\mathrm{TP} + \mathrm{FP}) (\mathrm{TP} + \mathrm{FN})
    (\mathrm{TN} + \mathrm{FP}) (\mathrm{TN} + \mathrm{FN})}}$$

    for each region, with TP, FP, FN and $\mathrm{TN} = \sum_i (1 - p_i) (1 - y_i)$ the sums of
    [`overlap_statistics`][purelosses.overlap_statistics], and the `smooth` term added to TP and to
    TN. It is computed from ratios of these, which neither overflow nor cancel, whatever the size of
    a region. 0 is a perfect match, 1 no better than chance, 2 an inverted mask.

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
        smooth: Added to TP and to TN: that many pixels of each kind that are right. 0 gives the
            plain coefficient, where a region without target costs 1, with no gradient, as soon as
            anything is predicted.
        empty: What a region without target costs: `"smooth"`, what the formula says; `"penalize"`,
            the mean probability over its pixels, whose gradient stays alive.
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
        >>> mcc_loss(probs, mask)
        tensor(0.1314)
        >>> mcc_loss(1.0 - mask, mask, smooth=0.0)
        tensor(2.)

    Coming from:
        MONAI `MCCLoss(sigmoid=True)` adds 1e-5 in the root: `activation="sigmoid", class_dim=1,
        smooth=0` is the same up to that; segmentation-models-pytorch `MCCLoss`, on probabilities:
        `smooth=0` (it adds 1e-5 to all four counts).

    Source:
        Abhishek and Hamarneh, arXiv:2010.13454, eq. (4).
    """
    regions = measure(
        "mcc_loss",
        (prediction, target),
        Layout(activation, class_dim, dim, where, soft_target=soft_target, extras=("tn",)),
        Ending(classes, empty, weights, reduction),
    )
    return _mcc(regions, smooth)


def mcc_from_statistics(
    statistics: Mapping[str, Tensor],
    *,
    smooth: float | Tensor = 1.0,
    empty: Empty = "smooth",
    classes: Classes = "all",
    class_dim: int | None = -1,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The Matthews correlation loss of overlap statistics with their `"tn"` entry.

    $$\ell = 1 - \frac{\mathrm{TP} \cdot \mathrm{TN} - \mathrm{FP} \cdot \mathrm{FN}}
    {\sqrt{(\mathrm{TP} + \mathrm{FP}) (\mathrm{TP} + \mathrm{FN})
    (\mathrm{TN} + \mathrm{FP}) (\mathrm{TN} + \mathrm{FN})}}$$

    for each region, with the sums of `overlap_statistics(..., extra="tn")` and the `smooth` term
    added to TP and to TN.

    Args:
        statistics: What `overlap_statistics(..., extra="tn")` returned, or a sum of several.
        smooth: See [`mcc_loss`][purelosses.mcc_loss].
        empty: See [`mcc_loss`][purelosses.mcc_loss].
        classes: See [`mcc_loss`][purelosses.mcc_loss].
        class_dim: The class axis of the statistics; used when `classes` lists some.
        weights: How much each region matters; shape of the statistics (selected classes only), or 1
            along an axis.
        reduction: See [`mcc_loss`][purelosses.mcc_loss].

    Returns:
        A scalar, or one loss per region with `reduction="none"`.

    Raises:
        ValueError: If the statistics lack an entry, `weights` do not fit, or an option is unknown
            or out of its range.

    Examples:
        >>> probs, mask = torch.tensor([0.9, 0.8, 0.1, 0.0]), torch.tensor([1, 1, 0, 0])
        >>> mcc_from_statistics(overlap_statistics(probs, mask, extra="tn"))
        tensor(0.1314)

    Source:
        See [`mcc_loss`][purelosses.mcc_loss].
    """
    ending = Ending(classes, empty, weights, reduction)
    regions = select("mcc_from_statistics", statistics, class_dim, ending, ("tn",))
    return _mcc(regions, smooth)

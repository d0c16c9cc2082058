r"""Losses of dense detectors: scores that tell the quality of a box, and edges as distributions."""

import torch
from torch import Tensor

from purelosses._checks import (
    check_device,
    check_floating,
    check_number,
    check_real,
    check_reduction,
    check_same_shape,
    check_weights,
    check_where,
    complain,
)
from purelosses._numerics import log_partition, power, promote, softplus, weighted
from purelosses._reduce import reduce
from purelosses._types import Reduction
from purelosses.classification import binary_cross_entropy_with_logits as _cross_entropy


def _scores(
    function: str,
    logits: Tensor,
    target: Tensor,
    where: Tensor | None,
    weights: Tensor | None,
    reduction: Reduction,
) -> tuple[Tensor, Tensor]:
    """Checked logits and targets, 0 where `where` is False."""
    check_floating(function, "logits", logits)
    check_same_shape(function, "target", target, "logits", logits)
    check_reduction(function, reduction)
    if weights is not None:
        check_weights(function, weights, logits.shape, "`logits`", logits)
    logits = promote(logits)
    target = target.to(logits.dtype)
    if where is not None:
        check_where(function, where, logits.shape, "`logits`", logits)
        logits = torch.where(where, logits, 0.0)
        target = torch.where(where, target, 0.0)
    return logits, target


def quality_focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float | Tensor = 2.0,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Binary cross-entropy with a quality as its target, weighted by the distance from it.

    $$\ell_i = |y_i - p_i|^\gamma \bigl(-y_i \log p_i - (1 - y_i) \log(1 - p_i)\bigr)$$

    with $p_i = \sigma(x_i)$ the sigmoid of an element of `logits`, $y_i$ the quality of a box (its
    IoU with the true box) at the true class and 0 elsewhere, and $\gamma$ the exponent of the
    weight. The loss is 0 where $p_i = y_i$, and focal loss where $y_i$ is 0 or 1.

    Args:
        logits: Scores before the sigmoid, any shape. Half precision is computed in float32.
        target: Qualities from 0 to 1, of the same shape.
        gamma: How little elements near their target matter, at least 0. At 0 this is
            `binary_cross_entropy_loss`.
        where: Which elements count; shape of `logits`, or 1 along an axis. What lies under False
            has no influence, whatever it is.
        weights: How much each element matters; shape of `logits`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted
            sum by the number of elements that count, `"weighted_mean"` by the total weight,
            `"sum"` adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 for float64
        logits. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, `gamma` is negative, or
            `reduction` is unknown.
        TypeError: If `logits` is not floating or `where` not boolean.

    Examples:
        >>> logits, quality = torch.tensor([2.0, -1.0, 0.0]), torch.tensor([0.6, 0.0, 0.5])
        >>> quality_focal_loss(logits, quality, reduction="none")
        tensor([0.0731, 0.0227, 0.0000])

    Coming from:
        mmdetection's `QualityFocalLoss` calls the exponent `beta`, takes labels and scores, and
        sums over the classes: here the scores lie in a zero tensor at their labels, and the sum
        over boxes and classes divided by the number of positives is
        `quality_focal_loss(..., reduction="sum") / positives`.

    Source:
        Li et al., *Generalized Focal Loss*, arXiv:2006.04388, eq. (2).
    """
    gamma = check_number("quality_focal_loss", "gamma", gamma, minimum=0)
    x, y = _scores("quality_focal_loss", logits, target, where, weights, reduction)
    # y - p, where 1 - p is the sigmoid of the other sign: exact for a target of 0 or 1.
    distance = (y * torch.sigmoid(-x) - (1 - y) * torch.sigmoid(x)).abs()
    return reduce(power(distance, gamma) * _cross_entropy(x, y), reduction, where, weights)


def varifocal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float | Tensor = 0.75,
    gamma: float | Tensor = 2.0,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Binary cross-entropy with a quality as its target, which also weighs the positives.

    $$\ell_i = \begin{cases} y_i \bigl(-y_i \log p_i - (1 - y_i) \log(1 - p_i)\bigr) & y_i > 0 \\
    -\alpha\, p_i^\gamma \log(1 - p_i) & y_i = 0 \end{cases}$$

    with $p_i = \sigma(x_i)$ the sigmoid of an element of `logits`, $y_i$ the quality of a box (its
    IoU with the true box) at the true class and 0 elsewhere, $\alpha$ the weight of negatives and
    $\gamma$ the exponent of theirs. Only negatives are weighed down when they are easy.

    Args:
        logits: Scores before the sigmoid, any shape. Half precision is computed in float32.
        target: Qualities from 0 to 1, of the same shape; 0 is a negative.
        alpha: How much negatives matter, at least 0.
        gamma: How little easy negatives matter, at least 0.
        where: Which elements count; shape of `logits`, or 1 along an axis. What lies under False
            has no influence, whatever it is.
        weights: How much each element matters; shape of `logits`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted
            sum by the number of elements that count, `"weighted_mean"` by the total weight,
            `"sum"` adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 for float64
        logits. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, `alpha` or `gamma` is
            negative, or `reduction` is unknown.
        TypeError: If `logits` is not floating or `where` not boolean.

    Examples:
        >>> logits, quality = torch.tensor([2.0, -1.0, 0.0]), torch.tensor([0.6, 0.0, 0.5])
        >>> varifocal_loss(logits, quality, reduction="none")
        tensor([0.5562, 0.0170, 0.3466])

    Coming from:
        mmdetection's `VarifocalLoss`: same value. ultralytics' `VarifocalLoss()(x, quality, label)`
        is the sum over boxes of the mean over classes.

    Source:
        Zhang et al., *VarifocalNet*, arXiv:2008.13367, eq. (2).
    """
    alpha = check_number("varifocal_loss", "alpha", alpha, minimum=0)
    gamma = check_number("varifocal_loss", "gamma", gamma, minimum=0)
    x, y = _scores("varifocal_loss", logits, target, where, weights, reduction)
    weight = torch.where(y > 0, y, alpha * torch.exp(-gamma * softplus(-x)))  # p = e^-softplus(-x)
    return reduce(weight * _cross_entropy(x, y), reduction, where, weights)


def distribution_focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy of a distribution over bins, with a position between two bins as its target.

    $$\ell = -(k + 1 - y) \log p_k - (y - k) \log p_{k + 1}, \qquad k = \lfloor y \rfloor$$

    for every edge of a box, with $y$ its distance from an anchor point in units of a bin and
    $p_0, \dots, p_n$ the softmax of its `logits`. It is least where the two bins around $y$ share
    the probability so that its mean is $y$.

    Args:
        logits: Scores before the softmax, with the bins along the last axis. Half precision is
            computed in float32.
        target: Positions from 0 to $n$, the index of the last bin, shaped as `logits` without the
            last axis. Positions outside make the loss NaN: clamp them if they may occur.
        where: Which edges count; shape of `target`, or 1 along an axis. What lies under False has
            no influence, whatever it is.
        weights: How much each edge matters; shape of `target`, or 1 along an axis.
        reduction: What happens to the losses, one per edge: `"mean"` divides their weighted sum by
            the number of edges that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or one loss per edge with `reduction="none"`. float32, or float64 for float64
        logits. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, or `reduction` is unknown.
        TypeError: If `logits` is not floating or `where` not boolean.

    Examples:
        >>> logits = torch.tensor([[0.0, 2.0, 1.0, -1.0], [0.0, 0.0, 3.0, 0.0]])
        >>> distribution_focal_loss(logits, torch.tensor([1.25, 2.0]), reduction="none")
        tensor([0.6902, 0.1392])

    Coming from:
        mmdetection's `DistributionFocalLoss`: same value. ultralytics' `DFLoss` clamps its target
        to just below the last bin and takes the mean over the four edges of a box.

    Source:
        Li et al., *Generalized Focal Loss*, arXiv:2006.04388, eq. (6).
    """
    function = "distribution_focal_loss"
    check_floating(function, "logits", logits)
    check_real(function, "target", target)
    check_reduction(function, reduction)
    units = logits.shape[:-1]
    if not logits.ndim or logits.shape[-1] < 2:
        must = "have at least two bins along the last axis"
        raise ValueError(complain(function, "logits", must, tuple(logits.shape)))
    if target.shape != units:
        must = f"have the shape of `logits` without its last axis, {tuple(units)}"
        raise ValueError(complain(function, "target", must, tuple(target.shape)))
    check_device(function, "target", target, logits)
    if weights is not None:
        check_weights(function, weights, units, "`target`", logits)
    logits = promote(logits)
    target = target.to(logits.dtype)
    if where is not None:
        check_where(function, where, units, "`target`", logits)
        logits = torch.where(where.unsqueeze(-1), logits, 0.0)
        target = torch.where(where, target, 0.0)
    bins = torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    share = (1 - (target.unsqueeze(-1) - bins).abs()).clamp_min(0)
    below, excess = log_partition(logits, -1)
    losses = weighted(share, excess - below).sum(-1)
    inside = (target >= 0) & (target <= logits.shape[-1] - 1)
    return reduce(torch.where(inside, losses, torch.nan), reduction, where, weights)

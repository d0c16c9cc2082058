r"""Losses for classes that have an order: ratings, grades, stages."""

import math

import torch
from torch import Tensor

from purelosses._checks import (
    check_axis,
    check_device,
    check_floating,
    check_int,
    check_integer,
    check_labels,
    check_ranks,
    check_reduction,
    check_same_shape,
    check_weights,
    check_where,
    complain,
)
from purelosses._numerics import along, class_mask, promote, softplus
from purelosses._reduce import reduce
from purelosses._types import Reduction
from purelosses.classification.cross_entropy import binary_cross_entropy_with_logits
from purelosses.classification.rows import UNITS


def coral_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy of the questions "is it above the k-th rank?", for ordered classes.

    $$\ell = -\sum_{k=0}^{K-1} [t > k] \log \sigma(x_k) + [t \le k] \log(1 - \sigma(x_k))$$

    for every sample, with $x_k$ the logits of the $K$ thresholds between $K + 1$ ranks, $t$ the
    label and $[\cdot]$ 1 if true and 0 otherwise. The answers are consistent if the network shares
    one weight vector among the thresholds, which then differ in a bias only.

    Args:
        logits: Scores of being above each threshold, along `class_dim`: one less than there are
            ranks. Half precision is computed in float32.
        target: Ranks from 0 to the number of thresholds, integers, without the class axis.
        class_dim: The axis of the thresholds in `logits`; negative values count from the end.
        where: Which samples count; shape of `logits` without the class axis, or 1 along an axis.
            What lies under False has no influence, whatever it is.
        weights: How much each sample matters; shape of `logits` without the class axis, or 1 along
            an axis.
        reduction: What happens to the losses, one per sample: `"mean"` divides their weighted sum
            by the number of samples that count, `"weighted_mean"` by their total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or with `reduction="none"` one loss per sample, shaped as `logits` without the
        class axis. float32, or float64 for float64 logits. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an option is out of its range, or
            `reduction` is unknown.
        TypeError: If `logits` is not floating, `target` not integer or `where` not boolean.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, -1.0, -2.0]])
        >>> coral_loss(logits, torch.tensor([2, 0]))
        tensor(1.0238)

    Coming from:
        `coral_pytorch.losses.coral_loss(logits, levels)`: same value; its levels are made here, its
        `importance_weights` are not.

    Source:
        Cao, Mirjalili and Raschka, arXiv:1901.07884, eq. (4).
    """
    function = "coral_loss"
    logits, target, class_dim, valid, ranks = _thresholds(
        function, logits, target, class_dim, where, weights, reduction
    )
    levels = (ranks < target).to(logits.dtype)
    losses = binary_cross_entropy_with_logits(logits, levels).sum(class_dim)
    return reduce(torch.where(valid, losses, torch.nan), reduction, where, weights)


def corn_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy of "is it above the k-th rank, given that it is above those before?".

    $$\ell = -\sum_{k=0}^{t - 1} \log \sigma(x_k) - [t < K] \log(1 - \sigma(x_t))$$

    for every sample, with $x_k$ the logits of the $K$ thresholds between $K + 1$ ranks, $t$ the
    label and $[\cdot]$ 1 if true and 0 otherwise. It is the negative log-likelihood of the rank:
    each threshold is learnt from the samples that reach it, so the answers are always consistent.

    Conventions: `"mean"` divides by samples, so that what a sample costs does not depend on the
    others; the paper and its code divide by the number of questions asked.

    Args:
        logits: Scores of being above each threshold, given the one before, along `class_dim`: one
            less than there are ranks. Half precision is computed in float32.
        target: Ranks from 0 to the number of thresholds, integers, without the class axis.
        class_dim: The axis of the thresholds in `logits`; negative values count from the end.
        where: Which samples count; shape of `logits` without the class axis, or 1 along an axis.
            What lies under False has no influence, whatever it is.
        weights: How much each sample matters; shape of `logits` without the class axis, or 1 along
            an axis.
        reduction: What happens to the losses, one per sample: `"mean"` divides their weighted sum
            by the number of samples that count, `"weighted_mean"` by their total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or with `reduction="none"` one loss per sample, shaped as `logits` without the
        class axis. float32, or float64 for float64 logits. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an option is out of its range, or
            `reduction` is unknown.
        TypeError: If `logits` is not floating, `target` not integer or `where` not boolean.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, -1.0, -2.0]])
        >>> corn_loss(logits, torch.tensor([2, 0]))
        tensor(0.8037)

    Coming from:
        `coral_pytorch.losses.corn_loss` divides the sum by the number of questions asked (samples
        times the thresholds each reaches), the paper as well; `"mean"` divides by samples. Theirs
        is `"sum"` over `(target + 1).clamp_max(K).sum()`.

    Source:
        Shi, Cao and Raschka, arXiv:2111.08851, eq. (5).
    """
    function = "corn_loss"
    logits, target, class_dim, valid, ranks = _thresholds(
        function, logits, target, class_dim, where, weights, reduction
    )
    asked = ranks <= target
    levels = (ranks < target).to(logits.dtype)
    answers = binary_cross_entropy_with_logits(torch.where(asked, logits, 0.0), levels)
    losses = torch.where(asked, answers, 0.0).sum(class_dim)
    return reduce(torch.where(valid, losses, torch.nan), reduction, where, weights)


def _thresholds(
    function: str,
    logits: Tensor,
    target: Tensor,
    class_dim: int,
    where: Tensor | None,
    weights: Tensor | None,
    reduction: Reduction,
) -> tuple[Tensor, Tensor, int, Tensor, Tensor]:
    """Checked logits and target; their axis; which labels are valid; the thresholds along it."""
    check_floating(function, "logits", logits)
    class_dim = check_axis(function, "class_dim", class_dim, logits.ndim, "logits")
    samples = logits.shape[:class_dim] + logits.shape[class_dim + 1 :]
    check_ranks(function, target, samples, UNITS, logits)
    check_reduction(function, reduction)
    if weights is not None:
        check_weights(function, weights, samples, UNITS, logits)
    logits, target = promote(logits), target.long()
    if where is not None:
        check_where(function, where, samples, UNITS, logits)
        logits = torch.where(where.unsqueeze(class_dim), logits, 0.0)
        target = torch.where(where, target, 0)
    number = logits.shape[class_dim]
    target, valid = check_labels(function, target, number + 1)
    ranks = along(torch.arange(number, device=logits.device), class_dim, logits.ndim)
    return logits, target.unsqueeze(class_dim), class_dim, valid, ranks


def cumulative_link_init(num_classes: int) -> dict[str, Tensor]:
    """Evenly spaced cutpoints for [`cumulative_link_loss`][purelosses.cumulative_link_loss].

    Args:
        num_classes: The number of ordered classes, at least 2.

    Returns:
        `{"first", "gaps"}`: the lowest cutpoint, 0-dimensional, and the distances between the
        others before the softplus, shape (num_classes - 2,). The cutpoints are 1 apart, and 0 is
        in the middle.

    Raises:
        ValueError: If there are fewer than two classes.
        TypeError: If `num_classes` is not an int.

    Examples:
        >>> cumulative_link_init(4)
        {'first': tensor(-1.), 'gaps': tensor([0.5413, 0.5413])}
    """
    check_int("cumulative_link_init", "num_classes", num_classes, 2)
    one = math.log(math.expm1(1.0))  # whose softplus is 1
    first = -(num_classes - 2) / 2
    return {"first": torch.tensor(first), "gaps": torch.full((num_classes - 2,), one)}


def cumulative_link_loss(
    params: dict[str, Tensor],
    prediction: Tensor,
    target: Tensor,
    *,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Negative log-likelihood of ordered classes, which divide one line at learnt cutpoints.

    $$\ell = -\log\bigl(\sigma(c_t - f) - \sigma(c_{t-1} - f)\bigr), \qquad
    c_{k+1} = c_k + \mathrm{softplus}(g_k)$$

    with $f$ an element of `prediction`, $t$ its label, $\sigma(x) = 1 / (1 + e^{-x})$ and
    $c_0 < c_1 < \dots$ the cutpoints ($c_{-1} = -\infty$, and the last is $\infty$), of which
    $c_0$ and the $g_k$ are the parameters `"first"` and `"gaps"`. It is computed as
    $\mathrm{softplus}(f - c_t) + \mathrm{softplus}(c_{t-1} - f) + \mathrm{softplus}(-g_{t-1})$,
    which is the same.

    Args:
        params: The cutpoints, made by [`cumulative_link_init`][purelosses.cumulative_link_init] and
            trained along with the network.
        prediction: Real scores, any shape; higher scores are for higher classes. Half precision is
            computed in float32.
        target: Class labels, integers, of the same shape.
        where: Which elements count; shape of `prediction`, or 1 along an axis. What lies under
            False has no influence, whatever it is.
        weights: How much each element matters; shape of `prediction`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted
            sum by the number of elements that count, `"weighted_mean"` by the total weight,
            `"sum"` adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 for float64
        predictions. The mean of nothing is 0.

    Raises:
        ValueError: If `params` is not what the init makes, shapes differ, a label is outside the
            classes (eager on the CPU; under transforms and on other devices the loss is NaN), or
            `reduction` is unknown.
        TypeError: If `prediction` is not floating, `target` not integer or `where` not boolean.

    Examples:
        >>> params = cumulative_link_init(4)
        >>> cumulative_link_loss(params, torch.tensor([-2.0, 0.2, 3.0]), torch.tensor([0, 2, 3]))
        tensor(0.6227)

    Coming from:
        `statsmodels` `OrderedModel(distr="logit")` and spacecutter: same likelihood; there the
        cutpoints are exponentials of increments, or clipped after each step.

    Source:
        McCullagh, *Regression Models for Ordinal Data* (1980), §2.
    """
    function = "cumulative_link_loss"
    first, gaps = _check_cutpoints(function, params)
    check_floating(function, "prediction", prediction)
    check_device(function, "params", first, prediction)
    check_integer(function, "target", target)
    check_same_shape(function, "target", target, "prediction", prediction)
    check_reduction(function, reduction)
    if weights is not None:
        check_weights(function, weights, prediction.shape, "`prediction`", prediction)
    prediction, target = promote(prediction), target.long()
    if where is not None:
        check_where(function, where, prediction.shape, "`prediction`", prediction)
        prediction = torch.where(where, prediction, 0.0)
        target = torch.where(where, target, 0)
    first, gaps = first.to(prediction.dtype), gaps.to(prediction.dtype)
    last = gaps.shape[0] + 1  # the highest class
    target, valid = check_labels(function, target, last + 1)

    cutpoints = first + torch.cat([first.new_zeros(1), softplus(gaps).cumsum(0)])
    above, below = _at(cutpoints, target), _at(cutpoints, target - 1)
    losses = torch.where(target < last, softplus(prediction - above), 0.0)
    losses = losses + torch.where(target > 0, softplus(below - prediction), 0.0)
    if last > 1:
        gap = _at(gaps, target - 1)
        losses = losses + torch.where((target > 0) & (target < last), softplus(-gap), 0.0)
    return reduce(torch.where(valid, losses, torch.nan), reduction, where, weights)


def _at(values: Tensor, index: Tensor) -> Tensor:
    """Entries of a short vector, 0 for an index outside it.

    A sum over a mask: the gradient of a gather adds up one element after the other, and the error
    grows with each.
    """
    return torch.where(class_mask(index, values.shape[0], index.ndim), values, 0.0).sum(-1)


def _check_cutpoints(function: str, params: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    if not isinstance(params, dict) or params.keys() != {"first", "gaps"}:
        must = "be {'first', 'gaps'} as cumulative_link_init makes it"
        found = str(sorted(params)) if isinstance(params, dict) else type(params).__name__
        raise ValueError(complain(function, "params", must, found))
    for name, ndim in (("first", 0), ("gaps", 1)):
        argument = f"params[{name!r}]"
        check_floating(function, argument, params[name])
        if params[name].ndim != ndim:
            shape = f"shape {tuple(params[name].shape)}"
            raise ValueError(complain(function, argument, f"have {ndim} axes", shape))
    return params["first"], params["gaps"]

r"""Cross-entropy of yes-or-no labels and of one class among several."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from purelosses import _fused
from purelosses._checks import (
    check_axis,
    check_floating,
    check_labels,
    check_number,
    check_per_class,
    check_reduction,
    check_same_shape,
    check_target,
    check_weights,
    check_where,
)
from purelosses._numerics import (
    along,
    at_label,
    log_partition,
    picked,
    power,
    promote,
    softmax_and_complement,
    softplus,
    softplus_of_both,
    weighted,
)
from purelosses._reduce import reduce
from purelosses._types import Reduction


def binary_cross_entropy_with_logits(logits: Tensor, target: Tensor) -> Tensor:
    """The elements of the binary cross-entropy: a sum of positive terms, so nothing cancels."""
    if torch.compiler.is_compiling():  # the same with one exponential
        positive = logits > 0
        linear = torch.where(positive, (1 - target) * logits, -target * logits)
        return linear + torch.where(positive, -logits, logits).exp().log1p()
    return (1 - target) * softplus(logits) + target * softplus(-logits)


def sigmoid_focal_with_logits(
    logits: Tensor,
    target: Tensor,
    gamma: float | Tensor,
    alpha: float | Tensor | None = None,
) -> Tensor:
    """The elements of the sigmoid focal loss.

    1 - p is a sigmoid itself, never a difference, so a confident loss keeps its digits.
    """
    of_zero, of_one = softplus_of_both(logits)
    positive = target * power((-logits).sigmoid(), gamma) * of_one
    negative = (1 - target) * power(logits.sigmoid(), gamma) * of_zero
    if alpha is None:
        return positive + negative
    return alpha * positive + (1 - alpha) * negative


def binary_cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    *,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Negative log-likelihood of independent yes-or-no labels, from logits.

    $$\ell_i = -y_i \log \sigma(x_i) - (1 - y_i) \log(1 - \sigma(x_i))
    = (1 - y_i)\,\mathrm{softplus}(x_i) + y_i\,\mathrm{softplus}(-x_i)$$

    with $x_i$ an element of `logits`, $y_i \in [0, 1]$ the same element of `target`,
    $\sigma(x) = 1 / (1 + e^{-x})$ and $\mathrm{softplus}(x) = \log(1 + e^x)$. The second form is
    the one computed.

    Args:
        logits: Scores before the sigmoid, any shape. Half precision is computed in float32.
        target: Labels 0 or 1 (booleans, integers or floats) or probabilities, of the same shape.
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
        ValueError: If shapes differ, `where` or `weights` do not fit, or `reduction` is unknown.
        TypeError: If `logits` is not floating or `where` not boolean.

    Examples:
        >>> logits = torch.tensor([2.0, -1.0, 0.0])
        >>> binary_cross_entropy_loss(logits, torch.tensor([1, 0, 1]))
        tensor(0.3778)

    Coming from:
        `torch.nn.functional.binary_cross_entropy_with_logits`: same value, targets of any dtype;
        its `weight=` is `weights=`, its `pos_weight=w` is `weights=torch.where(target == 1, w, 1)`.
        `optax.sigmoid_binary_cross_entropy` is `reduction="none"`.

    Source:
        Cox, *The Regression Analysis of Binary Sequences*, J. R. Stat. Soc. B 20 (1958).
    """
    function = "binary_cross_entropy_loss"
    check_floating(function, "logits", logits)
    check_same_shape(function, "target", target, "logits", logits)
    check_reduction(function, reduction)
    if weights is not None:
        check_weights(function, weights, logits.shape, "`logits`", logits)
    if where is not None:
        check_where(function, where, logits.shape, "`logits`", logits)
    formula = binary_cross_entropy_with_logits
    return _binary(logits, target, 0.0, None, formula, where, weights, reduction)


def cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_dim: int = 1,
    label_smoothing: float | Tensor = 0.0,
    class_weights: Tensor | None = None,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Negative log-likelihood of one class among several, from logits.

    $$\ell = \sum_c w_c\,\bigl((1 - \varepsilon)\,y_c + \tfrac{\varepsilon}{C}\bigr)\,
    \Bigl(\log \sum_k e^{x_k} - x_c\Bigr)$$

    for every sample (in images: every pixel), with $x_c$ its logits, $y_c$ its target
    probabilities (1 at the label and 0 elsewhere for integer targets), $C$ the number of classes,
    $\varepsilon$ the `label_smoothing` and $w_c$ the `class_weights` (1 by default).

    Conventions: `"mean"` divides by the number of samples; torch with class weights divides by
    their sum, which is `"weighted_mean"` here.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32. A logit of minus infinity removes a class that has no target.
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `logits`.
        class_dim: The class axis of `logits`; negative values count from the end.
        label_smoothing: Moves this share of the target, from 0 to 1, onto all classes evenly.
        class_weights: One weight per class; multiplies the terms of that class.
        where: Which samples count; shape of `logits` without the class axis, or 1 along an axis.
            What lies under False has no influence, whatever it is.
        weights: How much each sample matters; shape of `logits` without the class axis, or 1 along
            an axis.
        reduction: What happens to the losses, one per sample: `"mean"` divides their weighted sum
            by the number of samples that count, `"weighted_mean"` by their total weight (that of
            their class included), `"sum"` adds them, `"none"` returns them.

    Returns:
        A scalar, or with `reduction="none"` one loss per sample, shaped as `logits` without the
        class axis. float32, or float64 for float64 logits. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an option is out of its range, or
            `reduction` is unknown.
        TypeError: If `logits` is not floating or `where` not boolean.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
        >>> cross_entropy_loss(logits, torch.tensor([0, 1]))
        tensor(0.3606)
        >>> cross_entropy_loss(logits, torch.tensor([0, 255]), where=torch.tensor([True, False]))
        tensor(0.1698)

    Coming from:
        `torch.nn.functional.cross_entropy`: same value; `ignore_index=255` is
        `where=target != 255`, and `weight=w` is `class_weights=w, reduction="weighted_mean"` for
        labels (torch divides by the total weight) or `class_weights=w` for probabilities (torch
        divides by the count). `optax.softmax_cross_entropy_with_integer_labels` is
        `reduction="none", class_dim=-1`.

    Source:
        Bridle, *Probabilistic Interpretation of Feedforward Classification Network Outputs* (1990),
        eq. (5); label smoothing: Szegedy et al., arXiv:1512.00567, §7.
    """
    function = "cross_entropy_loss"
    label_smoothing = check_number(
        function, "label_smoothing", label_smoothing, minimum=0, maximum=1
    )
    labels, class_dim = _check_classes(
        function, logits, target, class_dim, class_weights, where, weights, reduction
    )
    smoothed = isinstance(label_smoothing, Tensor) or label_smoothing != 0
    if labels and not (smoothed and class_weights is not None):
        fused = _fused.cross_entropy(
            function, logits, target, where, class_dim, label_smoothing=label_smoothing
        )
        if fused is not None:
            return _reduce_labels(fused, target, class_weights, where, weights, reduction)
    logits, target, mass = _clean_classes(logits, target, labels, class_dim, class_weights, where)
    if labels:
        target, valid = check_labels(function, target.unsqueeze(class_dim), logits.shape[class_dim])
    # Compiled, this takes fewer passes; in eager mode it is more calls.
    apart = labels and torch.compiler.is_compiling()
    if apart:
        split = at_label(logits, target.squeeze(class_dim), class_dim)
        below, excess = split.below, split.excess
    else:
        below, excess = log_partition(logits, class_dim)
    even = None  # the loss of a target spread evenly
    if smoothed:
        even = excess - below if mass is None else weighted(mass, excess - below)
        even = even.mean(class_dim, keepdim=True)
    if labels:
        losses = split.surprisal if apart else excess - picked(below, target, class_dim)
        losses = torch.where(valid, losses, torch.nan)
        if mass is not None:
            mass = picked(mass, target, class_dim)
            losses = weighted(mass, losses)
    else:
        shares = target if mass is None else mass * target
        losses = weighted(shares, excess - below).sum(class_dim, keepdim=True)
        mass = shares.sum(class_dim, keepdim=True)
    if even is not None:
        losses = (1 - label_smoothing) * losses + label_smoothing * even
    mass = None if mass is None else mass.squeeze(class_dim)
    return reduce(losses.squeeze(class_dim), reduction, where, weights, mass)


def _check_classes(
    function: str,
    logits: Tensor,
    target: Tensor,
    class_dim: int,
    class_weights: Tensor | None,
    where: Tensor | None,
    weights: Tensor | None,
    reduction: Reduction,
) -> tuple[bool, int]:
    """Whether the target holds labels, and the class axis counted from the front."""
    check_floating(function, "logits", logits)
    class_dim = check_axis(function, "class_dim", class_dim, logits.ndim, "logits")
    labels = check_target(function, target, logits, "logits", class_dim)
    check_reduction(function, reduction)
    samples = logits.shape[:class_dim] + logits.shape[class_dim + 1 :]
    if weights is not None:
        check_weights(function, weights, samples, "`logits` without its class axis", logits)
    if where is not None:
        check_where(function, where, samples, "`logits` without its class axis", logits)
    if class_weights is not None:
        check_per_class(function, "class_weights", class_weights, logits, class_dim)
    return labels, class_dim


def _clean_classes(
    logits: Tensor,
    target: Tensor,
    labels: bool,
    class_dim: int,
    class_weights: Tensor | None,
    where: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits and target, clean where they do not count, and the class weights laid along them."""
    logits = promote(logits)
    target = target.long() if labels else target.to(logits.dtype)
    if where is not None:
        logits = torch.where(where.unsqueeze(class_dim), logits, 0.0)
        target = torch.where(where if labels else where.unsqueeze(class_dim), target, 0)
    mass = None
    if class_weights is not None:
        mass = along(class_weights.to(logits.dtype), class_dim, logits.ndim).expand(logits.shape)
    return logits, target, mass


def _reduce_labels(
    losses: Tensor,
    labels: Tensor,
    class_weights: Tensor | None,
    where: Tensor | None,
    weights: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """Reduce one loss per sample, each with the weight of its class."""
    mass = None
    if class_weights is not None:
        labels = labels if where is None else torch.where(where, labels, 0)
        mass = class_weights.to(losses.dtype)[labels.long()]
        losses = weighted(mass, losses)
    return reduce(losses, reduction, where, weights, mass)


def sigmoid_focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float | Tensor = 2.0,
    alpha: float | Tensor | None = None,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy of yes-or-no labels that counts less where the prediction is right already.

    $$\ell_i = -\alpha\,y_i\,(1 - p_i)^\gamma \log p_i
    - (1 - \alpha)\,(1 - y_i)\,p_i^\gamma \log(1 - p_i)$$

    with $p_i = \sigma(x_i) = 1 / (1 + e^{-x_i})$ the probability of an element of `logits`,
    $y_i \in [0, 1]$ the same element of `target`, $\gamma$ the `gamma` and $\alpha$ the `alpha`;
    without an `alpha` both factors are 1. $1 - p_i$ is $\sigma(-x_i)$, so the loss keeps its
    digits where it is tiny.

    Conventions: `"mean"` divides by the number of elements, so that a $\gamma$ of 0 is the binary
    cross-entropy; detectors divide the `"sum"` by the number of positives. `alpha` is the weight of
    positives, and negatives get the rest.

    Args:
        logits: Scores before the sigmoid, any shape. Half precision is computed in float32.
        target: Labels 0 or 1 (booleans, integers or floats) or probabilities, of the same shape.
        gamma: How much less a right element counts, from 0; 0 is the plain cross-entropy. Below 1
            the gradient stays finite too.
        alpha: The share of the positives, from 0 to 1; that of the negatives is 1 - alpha. None
            weighs both by 1.
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
        ValueError: If shapes differ, `where` or `weights` do not fit, or an option is unknown or
            out of its range.
        TypeError: If `logits` is not floating or `where` not boolean.

    Examples:
        >>> logits = torch.tensor([2.0, -1.0, 0.0])
        >>> sigmoid_focal_loss(logits, torch.tensor([1, 0, 1]))
        tensor(0.0659)
        >>> sigmoid_focal_loss(logits, torch.tensor([1, 0, 1]), gamma=0.5, alpha=0.25)
        tensor(0.0851)

    Coming from:
        `torchvision.ops.sigmoid_focal_loss`: same value with `alpha=0.25` (its default) and
        `reduction="none"` (its default); detectors divide the `"sum"` by the number of positives.
        MONAI `FocalLoss()` and kornia `binary_focal_loss_with_logits`: same mean. timm and optax:
        same values for hard labels.

    Source:
        Lin et al., arXiv:1708.02002, eq. (5).
    """
    function = "sigmoid_focal_loss"
    check_floating(function, "logits", logits)
    check_same_shape(function, "target", target, "logits", logits)
    gamma = check_number(function, "gamma", gamma, minimum=0)
    if alpha is not None:
        alpha = check_number(function, "alpha", alpha, minimum=0, maximum=1)
    check_reduction(function, reduction)
    if weights is not None:
        check_weights(function, weights, logits.shape, "`logits`", logits)
    if where is not None:
        check_where(function, where, logits.shape, "`logits`", logits)
    formula = partial(sigmoid_focal_with_logits, gamma=gamma, alpha=alpha)
    return _binary(logits, target, gamma, alpha, formula, where, weights, reduction)


def _binary(
    logits: Tensor,
    target: Tensor,
    gamma: float | Tensor,
    alpha: float | Tensor | None,
    formula: Callable[[Tensor, Tensor], Tensor],
    where: Tensor | None,
    weights: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """The loss whose elements are `formula`: the focal loss, of which gamma 0 is the plain one."""
    total = weights is None and reduction != "none"
    fused = _fused.focal(logits, target, where, gamma, alpha, formula, total=total)
    if fused is not None and not total:
        return reduce(fused, reduction, where, weights)
    if fused is not None:
        if reduction == "sum":
            return fused
        count = logits.numel() if where is None else where.expand(logits.shape).sum().clamp_min(1)
        return fused / count
    logits = promote(logits)
    target = target.to(logits.dtype)
    if where is not None:
        logits = torch.where(where, logits, 0.0)
        target = torch.where(where, target, 0.0)
    return reduce(formula(logits, target), reduction, where, weights)


def softmax_focal_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_dim: int = 1,
    gamma: float | Tensor = 2.0,
    class_weights: Tensor | None = None,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy among several classes that counts less where the prediction is right already.

    $$\ell = -\sum_c w_c\,y_c\,(1 - p_c)^\gamma \log p_c, \qquad
    p_c = \frac{e^{x_c}}{\sum_k e^{x_k}}$$

    for every sample (in images: every pixel), with $x_c$ its logits, $y_c$ its target
    probabilities (1 at the label and 0 elsewhere for integer targets), $\gamma$ the `gamma` and
    $w_c$ the `class_weights` (1 by default). $1 - p_c$ is the sum of the other probabilities, so
    the loss keeps its digits where it is tiny.

    Conventions: `"mean"` divides by the number of samples, so that a $\gamma$ of 0 is the
    cross-entropy; some libraries divide by samples times classes.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32. A logit of minus infinity removes a class that has no target.
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `logits`.
        class_dim: The class axis of `logits`; negative values count from the end.
        gamma: How much less a right sample counts, from 0; 0 is the plain cross-entropy. Below 1
            the gradient stays finite too.
        class_weights: One weight per class (elsewhere called alpha); multiplies the terms of that
            class.
        where: Which samples count; shape of `logits` without the class axis, or 1 along an axis.
            What lies under False has no influence, whatever it is.
        weights: How much each sample matters; shape of `logits` without the class axis, or 1 along
            an axis.
        reduction: What happens to the losses, one per sample: `"mean"` divides their weighted sum
            by the number of samples that count, `"weighted_mean"` by their total weight (that of
            their class included), `"sum"` adds them, `"none"` returns them.

    Returns:
        A scalar, or with `reduction="none"` one loss per sample, shaped as `logits` without the
        class axis. float32, or float64 for float64 logits. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an option is out of its range, or
            `reduction` is unknown.
        TypeError: If `logits` is not floating or `where` not boolean.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
        >>> softmax_focal_loss(logits, torch.tensor([0, 1]))
        tensor(0.0516)

    Coming from:
        MONAI `FocalLoss(use_softmax=True, to_onehot_y=True)` and kornia `focal_loss` divide by
        pixels times classes: this is C times theirs. MONAI's scalar `alpha=a` is
        `class_weights=torch.tensor([1 - a, a, ..., a])`, kornia's a factor of the whole loss.
        segmentation-models-pytorch `FocalLoss("multiclass")` is another loss: the mean over
        classes of `sigmoid_focal_loss` against one-hot targets.

    Source:
        Lin et al., arXiv:1708.02002, eq. (5), with a softmax.
    """
    function = "softmax_focal_loss"
    gamma = check_number(function, "gamma", gamma, minimum=0)
    labels, class_dim = _check_classes(
        function, logits, target, class_dim, class_weights, where, weights, reduction
    )
    if labels:
        fused = _fused.cross_entropy(function, logits, target, where, class_dim, gamma=gamma)
        if fused is not None:
            return _reduce_labels(fused, target, class_weights, where, weights, reduction)
    logits, target, mass = _clean_classes(logits, target, labels, class_dim, class_weights, where)
    if labels:
        target, valid = check_labels(function, target, logits.shape[class_dim])
        split = at_label(logits, target, class_dim)
        losses = power(split.miss, gamma) * split.surprisal
        losses = torch.where(valid.unsqueeze(class_dim), losses, torch.nan)
        if mass is not None:
            mass = picked(mass, target.unsqueeze(class_dim), class_dim)
            losses = weighted(mass, losses)
    else:
        below, excess = log_partition(logits, class_dim)
        _, complement = softmax_and_complement(logits, class_dim)
        shares = target if mass is None else mass * target
        losses = weighted(shares * power(complement, gamma), excess - below)
        losses = losses.sum(class_dim, keepdim=True)
        mass = shares.sum(class_dim, keepdim=True)
    mass = None if mass is None else mass.squeeze(class_dim)
    return reduce(losses.squeeze(class_dim), reduction, where, weights, mass)

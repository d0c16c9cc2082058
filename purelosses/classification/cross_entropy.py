r"""Cross-entropy of yes-or-no labels and of one class among several."""

import torch
from torch import Tensor

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
from purelosses._numerics import along, log_partition, promote, softplus, weighted
from purelosses._reduce import reduce
from purelosses._types import Reduction


def binary_cross_entropy_with_logits(logits: Tensor, target: Tensor) -> Tensor:
    """The elements of the binary cross-entropy: a sum of positive terms, so nothing cancels."""
    return (1 - target) * softplus(logits) + target * softplus(-logits)


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
    logits = promote(logits)
    target = target.to(logits.dtype)
    if where is not None:
        check_where(function, where, logits.shape, "`logits`", logits)
        logits = torch.where(where, logits, 0.0)
        target = torch.where(where, target, 0.0)
    return reduce(binary_cross_entropy_with_logits(logits, target), reduction, where, weights)


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
    check_floating(function, "logits", logits)
    class_dim = check_axis(function, "class_dim", class_dim, logits.ndim, "logits")
    labels = check_target(function, target, logits, "logits", class_dim)
    label_smoothing = check_number(
        function, "label_smoothing", label_smoothing, minimum=0, maximum=1
    )
    check_reduction(function, reduction)
    samples = logits.shape[:class_dim] + logits.shape[class_dim + 1 :]
    if weights is not None:
        check_weights(function, weights, samples, "`logits` without its class axis", logits)
    logits = promote(logits)
    target = target.long() if labels else target.to(logits.dtype)
    if where is not None:
        check_where(function, where, samples, "`logits` without its class axis", logits)
        logits = torch.where(where.unsqueeze(class_dim), logits, 0.0)
        target = torch.where(where if labels else where.unsqueeze(class_dim), target, 0)

    below, excess = log_partition(logits, class_dim)
    mass = None
    if class_weights is not None:
        check_per_class(function, "class_weights", class_weights, logits, class_dim)
        mass = along(class_weights.to(logits.dtype), class_dim, logits.ndim).expand(logits.shape)

    even = None  # the loss of a target spread evenly
    if isinstance(label_smoothing, Tensor) or label_smoothing:
        even = excess - below if mass is None else weighted(mass, excess - below)
        even = even.mean(class_dim, keepdim=True)
    if labels:
        target, valid = check_labels(function, target.unsqueeze(class_dim), logits.shape[class_dim])
        losses = torch.where(valid, excess - below.gather(class_dim, target), torch.nan)
        if mass is not None:
            mass = mass.gather(class_dim, target)
            losses = weighted(mass, losses)
    else:
        shares = target if mass is None else mass * target
        losses = weighted(shares, excess - below).sum(class_dim, keepdim=True)
        mass = shares.sum(class_dim, keepdim=True)
    if even is not None:
        losses = (1 - label_smoothing) * losses + label_smoothing * even
    mass = None if mass is None else mass.squeeze(class_dim)
    return reduce(losses.squeeze(class_dim), reduction, where, weights, mass)

r"""Losses of the margin: how far the score of the label is above the others, or above zero."""

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from purelosses._checks import (
    check_choice,
    check_floating,
    check_labels,
    check_number,
    check_reduction,
    check_same_shape,
    check_signs,
    check_weights,
    check_where,
)
from purelosses._numerics import class_mask, picked, power, promote, softplus
from purelosses._reduce import reduce
from purelosses._types import Reduction
from purelosses.classification.rows import mean_link, prepare, prepare_labels

MulticlassHinge: TypeAlias = Literal["crammer_singer", "weston_watkins"]


def poly1_loss(
    logits: Tensor,
    target: Tensor,
    *,
    epsilon: float | Tensor = 1.0,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy plus a share of the missing probability: more or less push when nearly right.

    $$\ell = \sum_c y_c \bigl(-\log p_c + \varepsilon\,(1 - p_c)\bigr), \qquad
    p_c = \frac{e^{x_c}}{\sum_k e^{x_k}}$$

    for every sample, with $x_c$ its logits, $y_c$ its target probabilities (1 at the label and 0
    elsewhere for integer targets) and $\varepsilon$ the `epsilon`. It is the cross-entropy
    $\sum_i (1 - p)^i / i$ with another first coefficient.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32. A logit of minus infinity removes a class that has no target.
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `logits`.
        epsilon: What is added to the first coefficient, from -1 on; 0 is the cross-entropy.
        class_dim: The class axis of `logits`; negative values count from the end.
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
        TypeError: If `logits` is not floating or `where` not boolean.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
        >>> poly1_loss(logits, torch.tensor([0, 1]))
        tensor(0.6507)

    Coming from:
        `optax.poly_loss_cross_entropy(epsilon=2.0)` and timm `PolyCrossEntropy(epsilon=...)`: same
        value with the same epsilon; optax's default is 2, the paper's 1.

    Source:
        Leng et al., arXiv:2204.12511, eq. (6).
    """
    function = "poly1_loss"
    epsilon = check_number(function, "epsilon", epsilon, minimum=-1)
    logits, target, class_dim, labels = prepare(
        function, logits, target, class_dim, where, weights, reduction
    )

    def link(surprisal: Tensor, miss: Tensor) -> Tensor:
        return surprisal + epsilon * miss

    losses = mean_link(function, logits, target, class_dim, labels, link)
    return reduce(losses, reduction, where, weights)


def asymmetric_loss(
    logits: Tensor,
    target: Tensor,
    *,
    gamma_neg: float | Tensor = 4.0,
    gamma_pos: float | Tensor = 1.0,
    clip: float | Tensor = 0.05,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Focal loss for many labels, most of them negative: easy negatives count less, or not at all.

    $$\ell_i = -y_i\,(1 - p_i)^{\gamma_+} \log p_i
    - (1 - y_i)\,q_i^{\gamma_-} \log(1 - q_i), \qquad q_i = \max(p_i - m,\,0)$$

    with $p_i = \sigma(x_i)$ the probability of an element of `logits`, $y_i \in [0, 1]$ the same
    element of `target`, $\gamma_+$ the `gamma_pos`, $\gamma_-$ the `gamma_neg` and $m$ the `clip`.

    Args:
        logits: Scores before the sigmoid, any shape. Half precision is computed in float32.
        target: Labels 0 or 1 (booleans, integers or floats) or probabilities, of the same shape.
        gamma_neg: How much less an easy negative counts, from 0.
        gamma_pos: How much less an easy positive counts, from 0.
        clip: Negatives below this probability cost nothing; from 0, and below 1.
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
        >>> asymmetric_loss(logits, torch.tensor([1, 0, 1]))
        tensor(0.1208)

    Coming from:
        timm `AsymmetricLossMultiLabel` and the authors' code add up all elements
        (`reduction="sum"`) and clamp the probability at 1e-8, so a positive below a logit of -18
        has no gradient there. `optax` has none.

    Source:
        Ben-Baruch et al., arXiv:2009.14119, eq. (7).
    """
    function = "asymmetric_loss"
    check_floating(function, "logits", logits)
    check_same_shape(function, "target", target, "logits", logits)
    gamma_neg = check_number(function, "gamma_neg", gamma_neg, minimum=0)
    gamma_pos = check_number(function, "gamma_pos", gamma_pos, minimum=0)
    clip = check_number(function, "clip", clip, minimum=0, below=1)
    check_reduction(function, reduction)
    if weights is not None:
        check_weights(function, weights, logits.shape, "`logits`", logits)
    logits = promote(logits)
    target = target.to(logits.dtype)
    if where is not None:
        check_where(function, where, logits.shape, "`logits`", logits)
        logits = torch.where(where, logits, 0.0)
        target = torch.where(where, target, 0.0)

    positive = torch.exp(-gamma_pos * softplus(logits)) * softplus(-logits)
    miss = (-logits).sigmoid()
    # Each form has the derivative of its side, which the other would lose to rounding.
    shifted = torch.where(logits > 0, (1 - clip) - miss, logits.sigmoid() - clip)
    shifted = torch.where(shifted > 0, shifted, 0.0)
    # -log(1 - shifted), from the smaller of the two; without a clip 1 - shifted may underflow.
    rest = miss + clip
    small, extreme = rest < 0.5, rest < 1e-30
    by_rest = -torch.where(small & torch.logical_not(extreme), rest, 0.5).log()
    by_shifted = -(-torch.where(small, 0.0, shifted)).log1p()
    surprisal = torch.where(small, by_rest, by_shifted)
    surprisal = torch.where(extreme, softplus(logits), surprisal)
    negative = power(shifted, gamma_neg) * surprisal
    return reduce(target * positive + (1 - target) * negative, reduction, where, weights)


def hinge_loss(
    logits: Tensor,
    target: Tensor,
    *,
    power: Literal[1, 2] = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cost of scores on the wrong side of a margin of 1: the loss of support vector machines.

    $$\ell_i = \max(0,\,1 - y_i x_i)^k$$

    with $x_i$ an element of `logits`, $y_i \in \{-1, 1\}$ the same element of `target` and $k$ the
    `power`.

    Args:
        logits: Scores whose sign is the prediction, any shape. Half precision is computed in
            float32.
        target: -1 or 1 (floats or signed integers), of the same shape. Booleans are refused: of a
            mask it is `2 * mask.float() - 1`.
        power: 1, or 2 for the squared hinge.
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
        TypeError: If `logits` is not floating, `target` boolean or unsigned, or `where` not
            boolean.

    Examples:
        >>> logits = torch.tensor([2.0, 0.5, 0.0])
        >>> hinge_loss(logits, torch.tensor([1, 1, -1]))
        tensor(0.5000)

    Coming from:
        `sklearn.metrics.hinge_loss`: same value. `optax.hinge_loss` is `reduction="none"`. Keras
        turns targets of 0 into -1. `torch.nn.functional.hinge_embedding_loss` is something else.

    Source:
        Cortes and Vapnik, *Support-Vector Networks*, Machine Learning 20 (1995).
    """
    function = "hinge_loss"
    check_choice(function, "power", power, (1, 2))
    margin = _signed_margin(function, logits, target, where, weights, reduction)
    losses = torch.relu(1 - margin)
    return reduce(losses if power == 1 else losses.square(), reduction, where, weights)


def soft_margin_loss(
    logits: Tensor,
    target: Tensor,
    *,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Logistic loss of scores and signs: a hinge without a corner.

    $$\ell_i = \log\bigl(1 + e^{-y_i x_i}\bigr)$$

    with $x_i$ an element of `logits` and $y_i \in \{-1, 1\}$ the same element of `target`. It is
    the [`binary_cross_entropy_loss`][purelosses.binary_cross_entropy_loss] for targets that are
    signs.

    Args:
        logits: Scores whose sign is the prediction, any shape. Half precision is computed in
            float32.
        target: -1 or 1 (floats or signed integers), of the same shape. Booleans are refused: of a
            mask it is `2 * mask.float() - 1`.
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
        TypeError: If `logits` is not floating, `target` boolean or unsigned, or `where` not
            boolean.

    Examples:
        >>> soft_margin_loss(torch.tensor([2.0, -1.0, 0.0]), torch.tensor([1, -1, 1]))
        tensor(0.3778)

    Coming from:
        `torch.nn.functional.soft_margin_loss`: same value, but theirs is infinite from a margin of
        -89 on, and it broadcasts.

    Source:
        Friedman, Hastie and Tibshirani, *Additive Logistic Regression* (2000), §2.
    """
    margin = _signed_margin("soft_margin_loss", logits, target, where, weights, reduction)
    return reduce(softplus(-margin), reduction, where, weights)


def _signed_margin(
    function: str,
    logits: Tensor,
    target: Tensor,
    where: Tensor | None,
    weights: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """target * logits of checked arguments, 0 where `where` is False."""
    check_floating(function, "logits", logits)
    check_same_shape(function, "target", target, "logits", logits)
    check_signs(function, "target", target)
    check_reduction(function, reduction)
    if weights is not None:
        check_weights(function, weights, logits.shape, "`logits`", logits)
    logits = promote(logits)
    target = target.to(logits.dtype)
    if where is not None:
        check_where(function, where, logits.shape, "`logits`", logits)
        logits = torch.where(where, logits, 0.0)
        target = torch.where(where, target, 0.0)
    return target * logits


def multiclass_hinge_loss(
    logits: Tensor,
    target: Tensor,
    *,
    kind: MulticlassHinge = "crammer_singer",
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cost of every class, or of the best one, whose score is within 1 of that of the label.

    $$\ell = \max\bigl(0,\,1 + \max_{j \ne t} x_j - x_t\bigr) \qquad\text{or}\qquad
    \ell = \sum_{j \ne t} \max(0,\,1 + x_j - x_t)$$

    for every sample, with $x_j$ its scores and $t$ its label: the first for the `kind`
    `"crammer_singer"`, the second for `"weston_watkins"`.

    Conventions: the sum is not divided by the number of classes, as torch does.

    Args:
        logits: Scores, with the classes along `class_dim`. Half precision is computed in float32.
            A score of minus infinity removes a class that is nobody's label.
        target: Class labels, integers, without the class axis.
        kind: `"crammer_singer"` counts the strongest wrong class, `"weston_watkins"` all of them.
        class_dim: The class axis of `logits`; negative values count from the end.
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
        >>> logits = torch.tensor([[2.0, 1.5, -1.0], [0.0, 0.5, 0.0]])
        >>> multiclass_hinge_loss(logits, torch.tensor([0, 1]))
        tensor(0.5000)
        >>> multiclass_hinge_loss(logits, torch.tensor([0, 1]), kind="weston_watkins")
        tensor(0.7500)

    Coming from:
        `torch.nn.functional.multi_margin_loss` is `kind="weston_watkins"` divided by the number of
        classes. `sklearn.metrics.hinge_loss` and `optax.multiclass_hinge_loss` are
        `kind="crammer_singer"`.

    Source:
        Crammer and Singer, JMLR 2 (2001), eq. (6); Weston and Watkins, *Support Vector Machines
        for Multi-Class Pattern Recognition* (1999), eq. (7).
    """
    function = "multiclass_hinge_loss"
    check_choice(function, "kind", kind, get_args(MulticlassHinge))
    logits, target, class_dim = prepare_labels(
        function, logits, target, class_dim, where, weights, reduction
    )
    num_classes = logits.shape[class_dim]
    target, valid = check_labels(function, target, num_classes)
    own = picked(logits, target.unsqueeze(class_dim), class_dim)
    at_label = class_mask(target, num_classes, class_dim)
    slack = torch.where(at_label, 0.0, torch.relu(1 + torch.where(at_label, own, logits) - own))
    losses = slack.amax(class_dim) if kind == "crammer_singer" else slack.sum(class_dim)
    return reduce(torch.where(valid, losses, torch.nan), reduction, where, weights)

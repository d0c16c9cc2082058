r"""Bounded and reweighted losses of the margin, for labels that may be wrong."""

from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from purelosses._checks import check_choice, check_int, check_number
from purelosses._numerics import log_partition, margins, power, safe_divide, weighted
from purelosses._reduce import reduce
from purelosses._types import Reduction
from purelosses.classification.rows import mean_link, pick, prepare

Active: TypeAlias = Literal["nce", "nfl"]
Passive: TypeAlias = Literal["mae", "rce"]
Bootstrap: TypeAlias = Literal["soft", "hard"]


def generalized_cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    *,
    q: float | Tensor = 0.7,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Between cross-entropy and mean absolute error: labels that look wrong push less.

    $$\ell = \sum_c y_c \frac{1 - p_c^q}{q}, \qquad p_c = \frac{e^{x_c}}{\sum_k e^{x_k}}$$

    for every sample, with $x_c$ its logits, $y_c$ its target probabilities (1 at the label and 0
    elsewhere for integer targets) and $q$ the `q`. It lies between 0 and $1 / q$.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32. A logit of minus infinity removes a class that has no target.
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `logits`.
        q: 1 is $1 - p$, robust and slow to learn; towards 0 it is the cross-entropy. Above 0, at
            most 1.
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
        >>> generalized_cross_entropy_loss(logits, torch.tensor([0, 1]))
        tensor(0.3088)

    Coming from:
        Keras `CategoricalGeneralizedCrossEntropy(q=0.7)`: same value, from probabilities there.

    Source:
        Zhang and Sabuncu, arXiv:1805.07836, eq. (6).
    """
    function = "generalized_cross_entropy_loss"
    q = check_number(function, "q", q, above=0, maximum=1)
    logits, target, class_dim, labels = prepare(
        function, logits, target, class_dim, where, weights, reduction
    )

    def link(surprisal: Tensor, miss: Tensor) -> Tensor:
        return -torch.expm1(-q * surprisal) / q

    losses = mean_link(function, logits, target, class_dim, labels, link)
    return reduce(losses, reduction, where, weights)


def symmetric_cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    *,
    alpha: float | Tensor = 0.1,
    beta: float | Tensor = 1.0,
    log_zero: float | Tensor = -4.0,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy plus its reverse, in which a wrong label costs a bounded amount.

    $$\ell = \sum_c y_c \bigl(-\alpha \log p_c - \beta A\,(1 - p_c)\bigr), \qquad
    p_c = \frac{e^{x_c}}{\sum_k e^{x_k}}$$

    for every sample, with $x_c$ its logits, $y_c$ its target probabilities (1 at the label and 0
    elsewhere for integer targets), $\alpha$ the `alpha`, $\beta$ the `beta` and $A$ the `log_zero`.
    The second term is the cross-entropy of the label under the prediction,
    $-\sum_k p_k \log [k = c]$, with $A$ for the logarithm of 0.

    Conventions: $A = -4$ as in the paper; its code has the logarithm of 1e-4, -9.21.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32. A logit of minus infinity removes a class that has no target.
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `logits`.
        alpha: The share of the cross-entropy, which learns.
        beta: The share of the reverse cross-entropy, which is robust.
        log_zero: What stands for the logarithm of 0; at most 0.
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
        >>> symmetric_cross_entropy_loss(logits, torch.tensor([0, 1]))
        tensor(1.1962)

    Coming from:
        The authors' code clamps one-hot targets at 1e-4, so its logarithm of 0 is -9.21, and gives
        `alpha=0.1` for CIFAR-10, 6 for CIFAR-100.

    Source:
        Wang et al., arXiv:1908.06112, eq. (7), with A = -4 from §4.
    """
    function = "symmetric_cross_entropy_loss"
    alpha = check_number(function, "alpha", alpha, minimum=0)
    beta = check_number(function, "beta", beta, minimum=0)
    log_zero = check_number(function, "log_zero", log_zero, maximum=0)
    logits, target, class_dim, labels = prepare(
        function, logits, target, class_dim, where, weights, reduction
    )

    def link(surprisal: Tensor, miss: Tensor) -> Tensor:
        return alpha * surprisal - beta * log_zero * miss

    losses = mean_link(function, logits, target, class_dim, labels, link)
    return reduce(losses, reduction, where, weights)


def normalized_cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy as a share of the cross-entropies of all labels: bounded, and so robust.

    $$\ell = \frac{\sum_c y_c \log p_c}{\sum_k \log p_k}, \qquad
    p_c = \frac{e^{x_c}}{\sum_k e^{x_k}}$$

    for every sample, with $x_c$ its logits and $y_c$ its target probabilities (1 at the label and
    0 elsewhere for integer targets). It lies between 0 and 1, and summed over all labels a sample
    might have it is 1, whatever the prediction. On its own it learns slowly: see
    [`active_passive_loss`][purelosses.active_passive_loss].

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32. A logit of minus infinity removes a class from both sums.
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `logits`.
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
        >>> normalized_cross_entropy_loss(logits, torch.tensor([0, 1]))
        tensor(0.0909)

    Coming from:
        The authors' `NormalizedCrossEntropy(scale=1)`: same value.

    Source:
        Ma et al., arXiv:2006.13554, eq. (6).
    """
    function = "normalized_cross_entropy_loss"
    logits, target, class_dim, labels = prepare(
        function, logits, target, class_dim, where, weights, reduction
    )
    below, excess = log_partition(logits, class_dim)
    losses = _normalized(function, excess - below, target, class_dim, labels)
    return reduce(losses, reduction, where, weights)


def active_passive_loss(
    logits: Tensor,
    target: Tensor,
    *,
    active: Active = "nce",
    passive: Passive = "mae",
    active_weight: float | Tensor = 1.0,
    passive_weight: float | Tensor = 1.0,
    gamma: float | Tensor = 0.5,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""A robust loss that raises the label plus a robust one that lowers the others.

    $$\ell = \sum_c y_c \Bigl(a\,\frac{(1 - p_c)^\gamma \log p_c}{\sum_k (1 - p_k)^\gamma \log p_k}
    + b\,R\,(1 - p_c)\Bigr), \qquad p_c = \frac{e^{x_c}}{\sum_k e^{x_k}}$$

    for every sample, with $x_c$ its logits, $y_c$ its target probabilities (1 at the label and 0
    elsewhere for integer targets), $a$ the `active_weight` and $b$ the `passive_weight`. $\gamma$
    is 0 for the `active` term `"nce"` (normalized cross-entropy) and the `gamma` for `"nfl"`
    (normalized focal loss); $R$ is 2 for the `passive` term `"mae"` (mean absolute error) and 4 for
    `"rce"` (reverse cross-entropy).

    Conventions: the absolute error over all classes is $2\,(1 - p_c)$, as in the paper; its code
    leaves out the 2.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32. A logit of minus infinity removes a class from the sums.
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `logits`.
        active: `"nce"` or `"nfl"`.
        passive: `"mae"` or `"rce"`.
        active_weight: The share of the active term.
        passive_weight: The share of the passive term.
        gamma: The focusing exponent of `"nfl"`, from 0.
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
        >>> active_passive_loss(logits, torch.tensor([0, 1]))
        tensor(0.6710)

    Coming from:
        The authors' `NCEandMAE(alpha, beta)`, `NFLandRCE(alpha, beta, gamma)` and so on:
        `active_weight=alpha, passive_weight=beta`, but for the factor 2, which their code leaves
        out of the absolute error. Their logarithm of 0 is that of 1e-4, -9.21 rather than -4.

    Source:
        Ma et al., arXiv:2006.13554, eq. (9).
    """
    function = "active_passive_loss"
    check_choice(function, "active", active, get_args(Active))
    check_choice(function, "passive", passive, get_args(Passive))
    active_weight = check_number(function, "active_weight", active_weight, minimum=0)
    passive_weight = check_number(function, "passive_weight", passive_weight, minimum=0)
    gamma = check_number(function, "gamma", gamma, minimum=0)
    logits, target, class_dim, labels = prepare(
        function, logits, target, class_dim, where, weights, reduction
    )
    surprisal, miss = margins(logits, class_dim)
    costs = surprisal if active == "nce" else power(miss, gamma) * surprisal
    raising = _normalized(function, costs, target, class_dim, labels)
    lowering = pick(function, miss, target, class_dim, labels)
    factor = 2 if passive == "mae" else 4
    losses = active_weight * raising + passive_weight * factor * lowering
    return reduce(losses, reduction, where, weights)


def _normalized(
    function: str, costs: Tensor, target: Tensor, class_dim: int, labels: bool
) -> Tensor:
    """The cost of the target as a share of that of all classes that are not removed."""
    whole = torch.where(torch.isinf(costs), 0.0, costs).sum(class_dim)
    return safe_divide(pick(function, costs, target, class_dim, labels), whole)


def bootstrap_loss(
    logits: Tensor,
    target: Tensor,
    *,
    kind: Bootstrap = "soft",
    beta: float | Tensor = 0.95,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy to a mixture of the label and the network's own opinion.

    $$\ell = -\sum_c \bigl(\beta\,y_c + (1 - \beta)\,\hat y_c\bigr) \log p_c, \qquad
    p_c = \frac{e^{x_c}}{\sum_k e^{x_k}}$$

    for every sample, with $x_c$ its logits, $y_c$ its target probabilities (1 at the label and 0
    elsewhere for integer targets) and $\beta$ the `beta`. $\hat y$ is $p$ for the `kind` `"soft"`,
    which adds the entropy of the prediction, and 1 at the most probable class for `"hard"`.

    The gradient goes through $\hat y = p$ as well. A target cut off from it, as in some copies,
    would leave $\beta$ times the gradient of the cross-entropy and nothing else.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32. A logit of minus infinity removes a class that has no target.
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `logits`.
        kind: `"soft"` or `"hard"`.
        beta: How far to trust the labels, from 0 to 1; 1 is the cross-entropy. The paper has 0.95
            for `"soft"` and 0.8 for `"hard"`.
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
        >>> bootstrap_loss(logits, torch.tensor([0, 1]))
        tensor(0.3801)
        >>> bootstrap_loss(logits, torch.tensor([1, 1]), kind="hard", beta=0.8)
        tensor(1.1606)

    Coming from:
        No peer has it; public copies differ in whether they cut the gradient.

    Source:
        Reed et al., arXiv:1412.6596, eq. (6) and (8).
    """
    function = "bootstrap_loss"
    check_choice(function, "kind", kind, get_args(Bootstrap))
    beta = check_number(function, "beta", beta, minimum=0, maximum=1)
    logits, target, class_dim, labels = prepare(
        function, logits, target, class_dim, where, weights, reduction
    )
    below, excess = log_partition(logits, class_dim)
    surprisal = excess - below
    if kind == "soft":
        opinion = weighted((-surprisal).exp(), surprisal).sum(class_dim)
    else:
        opinion = excess.squeeze(class_dim)  # -log p of the largest logit
    losses = pick(function, surprisal, target, class_dim, labels)
    return reduce(beta * losses + (1 - beta) * opinion, reduction, where, weights)


def taylor_cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    *,
    order: int = 2,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The first terms of the series of the cross-entropy: 1 is robust, more learn faster.

    $$\ell = \sum_c y_c \sum_{i=1}^n \frac{(1 - p_c)^i}{i}, \qquad
    p_c = \frac{e^{x_c}}{\sum_k e^{x_k}}$$

    for every sample, with $x_c$ its logits, $y_c$ its target probabilities (1 at the label and 0
    elsewhere for integer targets) and $n$ the `order`. All terms together are the cross-entropy.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32. A logit of minus infinity removes a class that has no target.
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `logits`.
        order: The number of terms, from 1.
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
        >>> taylor_cross_entropy_loss(logits, torch.tensor([0, 1]))
        tensor(0.3411)

    Coming from:
        No peer has it.

    Source:
        Feng et al., *Can Cross Entropy Loss Be Robust to Label Noise?* (2020), eq. (8).
    """
    function = "taylor_cross_entropy_loss"
    check_int(function, "order", order, 1)
    logits, target, class_dim, labels = prepare(
        function, logits, target, class_dim, where, weights, reduction
    )

    def link(surprisal: Tensor, miss: Tensor) -> Tensor:
        series = miss / order
        for i in range(order - 1, 0, -1):
            series = miss * (1 / i + series)
        return series

    losses = mean_link(function, logits, target, class_dim, labels, link)
    return reduce(losses, reduction, where, weights)

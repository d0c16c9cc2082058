r"""Losses between distributions over classes: divergences, distillation, calibration."""

import math
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from purelosses._checks import check_choice, check_number
from purelosses._numerics import (
    log_partition,
    softmax_and_complement,
    softplus,
    weighted,
)
from purelosses._reduce import reduce
from purelosses._types import Reduction
from purelosses.classification.rows import (
    as_probabilities,
    pick,
    prepare,
    prepare_distributions,
)

Direction: TypeAlias = Literal["forward", "reverse"]


def kl_divergence_loss(
    logits: Tensor,
    target: Tensor,
    *,
    direction: Direction = "forward",
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Kullback-Leibler divergence between a predicted and a given distribution over classes.

    $$\ell = \sum_c y_c \log \frac{y_c}{p_c} \qquad\text{or}\qquad
    \ell = \sum_c p_c \log \frac{p_c}{y_c}, \qquad p_c = \frac{e^{x_c}}{\sum_k e^{x_k}}$$

    for every sample, with $x_c$ its logits and $y_c$ its `target`: the first for the `direction`
    `"forward"`, which is KL(target ‖ prediction), the second for `"reverse"`, which is
    KL(prediction ‖ target). $0 \log 0$ is 0; the reverse divergence is infinite where the target
    gives a class nothing that the prediction allows.

    Conventions: `"forward"` is the divergence of the target from the prediction, as in
    `torch.nn.functional.kl_div`. Its `"mean"` divides by classes too; its `"batchmean"` does not.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`; log-probabilities
            are such scores too. Half precision is computed in float32. A logit of minus infinity
            removes a class that has no target.
        target: Class probabilities, floating, with the shape of `logits`. Their gradient is 0 where
            they are 0.
        direction: `"forward"` covers all that the target allows, `"reverse"` settles on a part.
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
        ValueError: If shapes differ, `where` or `weights` do not fit, or an option is unknown or
            out of its range.
        TypeError: If `logits` or `target` is not floating or `where` not boolean.

    Examples:
        >>> logits = torch.tensor([[1.0, 0.0, 0.0]])
        >>> kl_divergence_loss(logits, torch.tensor([[0.5, 0.5, 0.0]]))
        tensor(0.3583)

    Coming from:
        `torch.nn.functional.kl_div(log_probs, target, reduction="batchmean")`: same value for a
        matrix; its `"mean"` divides by the number of classes as well. Its gradient by the target is
        NaN at 0. `optax.kl_divergence` is `reduction="none", class_dim=-1`.

    Source:
        Kullback and Leibler, *On Information and Sufficiency* (1951), eq. (2.4).
    """
    function = "kl_divergence_loss"
    check_choice(function, "direction", direction, get_args(Direction))
    logits, target, class_dim = prepare_distributions(
        function, logits, "target", target, class_dim, where, weights, reduction
    )
    below, excess = log_partition(logits, class_dim)
    if direction == "forward":
        some = target > 0
        surprisal = torch.where(some, excess - below, 0.0)
        terms = torch.where(some, target * (torch.where(some, target, 1.0).log() + surprisal), 0.0)
    else:
        log_probs = below - excess
        probs = log_probs.exp()
        some = probs > 0
        ratio = torch.where(some, log_probs, 0.0) - torch.where(some, target, 1.0).log()
        terms = torch.where(some, probs * ratio, 0.0)
    return reduce(terms.sum(class_dim), reduction, where, weights)


def js_divergence_loss(
    logits: Tensor,
    target: Tensor,
    *,
    beta: float | Tensor = 0.5,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Jensen-Shannon divergence: of both distributions from their mixture, so never infinite.

    $$\ell = \beta\,\mathrm{KL}(y \,\|\, m) + (1 - \beta)\,\mathrm{KL}(p \,\|\, m), \qquad
    m = \beta\,y + (1 - \beta)\,p$$

    for every sample, with $p$ the softmax of its logits, $y$ its `target`, $\beta$ the `beta` and
    $\mathrm{KL}(a \,\|\, b) = \sum_c a_c \log (a_c / b_c)$. At $\beta = \tfrac12$ it is symmetric
    and at most $\log 2$.

    Conventions: $\beta$ is the weight of the target, as in Liger's loss; it is the square of
    `scipy.spatial.distance.jensenshannon`.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`; log-probabilities
            are such scores too. Half precision is computed in float32.
        target: Class probabilities, floating, with the shape of `logits`. Their gradient is 0 where
            they are 0.
        beta: The share of the target in the mixture, between 0 and 1.
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
        ValueError: If shapes differ, `where` or `weights` do not fit, or an option is unknown or
            out of its range.
        TypeError: If `logits` or `target` is not floating or `where` not boolean.

    Examples:
        >>> logits = torch.tensor([[1.0, 0.0, 0.0]])
        >>> js_divergence_loss(logits, torch.tensor([[0.5, 0.5, 0.0]]))
        tensor(0.1048)

    Coming from:
        Liger `LigerFusedLinearJSD(jsd_beta=b)`: its beta is that of the teacher, as here, but it
        turns 0 and 1 into KL divergences; here they are limits that are 0. Englesson's and
        timm's forms divide by $-(1 - \beta) \log(1 - \beta)$ or take several views.

    Source:
        Lin, *Divergence Measures Based on the Shannon Entropy* (1991), eq. (4.1).
    """
    function = "js_divergence_loss"
    beta = check_number(function, "beta", beta, above=0, below=1)
    logits, target, class_dim = prepare_distributions(
        function, logits, "target", target, class_dim, where, weights, reduction
    )
    below, excess = log_partition(logits, class_dim)
    log_probs = below - excess
    probs = log_probs.exp()
    # log(m / y) and log(m / p) from r = log(p / y), which does not underflow with m.
    both = (probs > 0) & (target > 0)
    ratio = torch.where(both, log_probs, 0.0) - torch.where(both, target, 1.0).log()
    odds = _log(1 - beta) - _log(beta)
    mixture = _log(beta) + softplus(ratio + odds)
    reverse_mixture = _log(1 - beta) + softplus(-ratio - odds)
    terms = torch.where(target > 0, target * torch.where(both, mixture, _log(beta)), 0.0)
    terms = beta * terms + (1 - beta) * probs * torch.where(both, reverse_mixture, _log(1 - beta))
    return reduce(-terms.sum(class_dim), reduction, where, weights)


def _log(x: float | Tensor) -> float | Tensor:
    return x.log() if isinstance(x, Tensor) else math.log(x)


def knowledge_distillation_loss(
    logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float | Tensor = 1.0,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Divergence of a student's distribution from a teacher's, both softened by a temperature.

    $$\ell = T^2 \sum_c q_c \log \frac{q_c}{p_c}, \qquad
    p = \mathrm{softmax}(x / T), \quad q = \mathrm{softmax}(z / T)$$

    for every sample, with $x$ the student's logits, $z$ the teacher's and $T$ the `temperature`.
    The factor $T^2$ keeps the gradient at one scale whatever the temperature.

    Conventions: with $T^2$, as in the paper; some libraries leave the factor to the caller.

    Args:
        logits: The student's scores before the softmax, with the classes along `class_dim`. Half
            precision is computed in float32.
        teacher_logits: The teacher's, of the same shape. The gradient flows into them too: a
            teacher that is not to learn is `teacher_logits.detach()`.
        temperature: Larger values show more of the teacher's view of the wrong classes; above 0.
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
        ValueError: If shapes differ, `where` or `weights` do not fit, or an option is unknown or
            out of its range.
        TypeError: If `logits` or `teacher_logits` is not floating or `where` not boolean.

    Examples:
        >>> student, teacher = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]])
        >>> knowledge_distillation_loss(student, teacher, temperature=2.0)
        tensor(0.0678)

    Coming from:
        `F.kl_div(log_softmax(x / T), softmax(z / T), reduction="batchmean") * T**2`: same value.
        With the usual share of labels: `combined` of it and `cross_entropy_loss`. Some copies leave
        out $T^2$, or average over the classes.

    Source:
        Hinton, Vinyals and Dean, arXiv:1503.02531, §2.
    """
    function = "knowledge_distillation_loss"
    temperature = check_number(function, "temperature", temperature, above=0)
    name = "teacher_logits"
    logits, teacher, class_dim = prepare_distributions(
        function, logits, name, teacher_logits, class_dim, where, weights, reduction
    )
    below, excess = log_partition(logits / temperature, class_dim)
    teacher_below, teacher_excess = log_partition(teacher / temperature, class_dim)
    log_probs = teacher_below - teacher_excess
    terms = weighted(log_probs.exp(), log_probs - (below - excess))
    return reduce(temperature**2 * terms.sum(class_dim), reduction, where, weights)


def confidence_penalty_loss(
    logits: Tensor,
    target: Tensor,
    *,
    beta: float | Tensor = 0.1,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy less a share of the entropy of the prediction: being sure has a price.

    $$\ell = -\sum_c y_c \log p_c + \beta \sum_c p_c \log p_c, \qquad
    p_c = \frac{e^{x_c}}{\sum_k e^{x_k}}$$

    for every sample, with $x_c$ its logits, $y_c$ its target probabilities (1 at the label and 0
    elsewhere for integer targets) and $\beta$ the `beta`. It can be negative.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32. A logit of minus infinity removes a class that has no target.
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `logits`.
        beta: How much the entropy counts; 0 is the cross-entropy.
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
        >>> confidence_penalty_loss(logits, torch.tensor([0, 1]))
        tensor(0.2857)

    Coming from:
        No peer has it as one function.

    Source:
        Pereyra et al., arXiv:1701.06548, eq. (2).
    """
    function = "confidence_penalty_loss"
    beta = check_number(function, "beta", beta, minimum=0)
    logits, target, class_dim, labels = prepare(
        function, logits, target, class_dim, where, weights, reduction
    )
    below, excess = log_partition(logits, class_dim)
    surprisal = excess - below
    entropy = weighted((-surprisal).exp(), surprisal).sum(class_dim)
    losses = pick(function, surprisal, target, class_dim, labels) - beta * entropy
    return reduce(losses, reduction, where, weights)


def brier_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared distance between predicted and true class probabilities: a bounded, proper score.

    $$\ell = \sum_c (p_c - y_c)^2, \qquad p_c = \frac{e^{x_c}}{\sum_k e^{x_k}}$$

    for every sample, with $x_c$ its logits and $y_c$ its target probabilities (1 at the label and
    0 elsewhere for integer targets). It lies between 0 and 2; it is not halved.

    Conventions: summed over the classes and not halved: from 0 to 2, for two classes twice the
    binary score.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32. A logit of minus infinity removes a class that has no target.
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
        >>> brier_loss(logits, torch.tensor([0, 1]))
        tensor(0.1544)

    Coming from:
        `sklearn.metrics.brier_score_loss` of two classes is half of it.

    Source:
        Brier, *Verification of Forecasts Expressed in Terms of Probability* (1950), eq. (2).
    """
    function = "brier_loss"
    logits, target, class_dim, labels = prepare(
        function, logits, target, class_dim, where, weights, reduction
    )
    target = as_probabilities(function, target, logits, class_dim, labels)
    probs, miss = softmax_and_complement(logits, class_dim)
    residual = (1 - target) * probs - target * miss  # p - y, of which no digit is lost at 0 and 1
    return reduce(residual.square().sum(class_dim), reduction, where, weights)

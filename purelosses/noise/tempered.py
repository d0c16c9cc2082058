r"""The bi-tempered logistic loss."""

import math

import torch
from torch import Tensor

from purelosses._checks import check_labels, check_number
from purelosses._numerics import log_partition, power
from purelosses._reduce import reduce
from purelosses._types import Reduction
from purelosses.classification.rows import prepare

# Steps of Newton's method: 3 suffice for ten classes at t2 = 1.2, 12 for a thousand at t2 = 4.
_STEPS = 12


def bi_tempered_loss(
    logits: Tensor,
    target: Tensor,
    *,
    t1: float | Tensor = 0.8,
    t2: float | Tensor = 1.2,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Logistic loss, bounded for outliers (t1) and heavy-tailed for labels near the margin (t2).

    $$\ell = \sum_c y_c \bigl(\log_{t_1} y_c - \log_{t_1} p_c\bigr)
    - \frac{y_c^{2 - t_1} - p_c^{2 - t_1}}{2 - t_1}, \qquad p_c = \exp_{t_2}(x_c - \lambda)$$

    for every sample, with $x_c$ its logits, $y_c$ its target probabilities (1 at the label and 0
    elsewhere for integer targets), $\log_t a = (a^{1 - t} - 1) / (1 - t)$, its inverse
    $\exp_t a = \max(0, 1 + (1 - t)\,a)^{1 / (1 - t)}$, $t_1$ and $t_2$ the `t1` and `t2`, and
    $\lambda$ such that the $p_c$ sum to 1. At $t_1 = t_2 = 1$ it is the Kullback-Leibler
    divergence, which for labels is the cross-entropy.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32. A logit of minus infinity removes a class that has no target.
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `logits`.
        t1: From 0 to 1; below 1 a label that looks wrong costs at most $1 / (1 - t_1)$.
        t2: From 1 to 4; above 1 the tails are heavy, so a small margin is no near certainty.
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
        >>> bi_tempered_loss(logits, torch.tensor([0, 1]))
        tensor(0.3029)

    Coming from:
        google/bi-tempered-loss and pytorch-toolbelt `BiTemperedLogisticLoss(t1, t2)`: same value
        once their normalisation has converged; their 5 iterations leave probabilities that sum to
        1.0085 at `t2=4`. Their label smoothing spreads over the other classes only.

    Source:
        Amid et al., arXiv:1906.03361, eq. (5) and (6).
    """
    function = "bi_tempered_loss"
    t1 = check_number(function, "t1", t1, minimum=0, maximum=1)
    t2 = check_number(function, "t2", t2, minimum=1, maximum=4)
    logits, target, class_dim, labels = prepare(
        function, logits, target, class_dim, where, weights, reduction
    )
    probs, log_probs = _tempered_softmax(logits, t2, class_dim)
    # What a class costs that has no share of the target: p^(2 - t1), whose exponent float32 would
    # round, over 2 - t1.
    absent = probs * power(probs, 1 - t1) / (2 - t1)
    if labels:
        index, valid = check_labels(function, target.unsqueeze(class_dim), logits.shape[class_dim])
        losses = _divergence_from_one(log_probs.gather(class_dim, index), t1)
        losses = losses + absent.scatter(class_dim, index, 0.0).sum(class_dim, keepdim=True)
        losses = torch.where(valid, losses, torch.nan).squeeze(class_dim)
    else:
        some = target > 0
        log_target = torch.where(some, target, 1.0).log()
        log_probs = torch.where(some, log_probs, 0.0)
        present = target * (_log_t(log_target, t1) - _log_t(log_probs, t1))
        present = present - power(target, 2 - t1) / (2 - t1)
        losses = (absent + torch.where(some, present, 0.0)).sum(class_dim)
    return reduce(losses, reduction, where, weights)


def _divergence_from_one(log_p: Tensor, t: float | Tensor) -> Tensor:
    """-log_t p - (1 - p^(2 - t)) / (2 - t), which is about (1 - p)² / 2 where p is close to 1."""
    near = log_p > -0.5
    far = _log_t(torch.where(near, -1.0, log_p), t - 1) - _log_t(log_p, t)
    x, r = torch.where(near, log_p, 0.0), 1 - t
    series = torch.zeros_like(x)
    for n in range(20, 1, -1):
        series = x * series + ((r + 1) ** (n - 1.0) - r ** (n - 1.0)) / math.factorial(n)
    return torch.where(near, x * x * series, far)


def _tempered_softmax(logits: Tensor, t: float | Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """p = exp_t(x - λ) and its logarithm: λ = max x + δ, by Newton's method on log Σ p = 0.

    That is convex and falls with δ, so from below no step goes too far. The δ of t = 1 is below,
    and, as exp_t is convex, so is the δ of as many classes at the mean of the logits. The steps
    that find δ are cut off from the gradient; two more give it its first and second derivatives.
    """
    below, excess = log_partition(logits, dim)
    top = logits.argmax(dim, keepdim=True)
    number = torch.full_like(excess, logits.shape[dim]).log()
    even = below.mean(dim, keepdim=True) - _log_t(-number, t)
    delta = torch.maximum(excess, even).detach()

    def improved(below: Tensor, delta: Tensor) -> Tensor:
        log_probs = _log_exp_t(below - delta, t)
        # The largest probability less 1, and the others: no digit of a small δ is lost.
        largest = torch.expm1(log_probs.gather(dim, top))
        others = log_probs.exp().scatter(dim, top, 0.0).sum(dim, keepdim=True)
        slope = (t * log_probs).exp().sum(dim, keepdim=True) / (1 + largest + others)
        return delta + (largest + others).log1p() / slope

    for _ in range(_STEPS - 2):
        delta = improved(below.detach(), delta).detach()
    for _ in range(2):
        delta = improved(below, delta)
    x = below - delta
    log_probs = _log_exp_t(x, t)
    # Far out a power is more accurate: the larger log p, the fewer digits its exponential keeps.
    far = (t - 1) * x < -2
    rest = _but_for_zero(1 - t)
    power = torch.where(far, 1 + rest * x, 1.0) ** (1 / rest)
    return torch.where(far, power, log_probs.exp()), log_probs


def _log_exp_t(x: Tensor, t: float | Tensor) -> Tensor:
    """log exp_t x = log(1 + (1 - t) x) / (1 - t) for x up to 0; x at t = 1."""
    rest = _but_for_zero(1 - t)
    return _unless_one(t, torch.log1p(rest * x) / rest, x)


def _log_t(log_p: Tensor, t: float | Tensor) -> Tensor:
    """log_t p = (p^(1 - t) - 1) / (1 - t); log p at t = 1."""
    rest = _but_for_zero(1 - t)
    return _unless_one(t, torch.expm1(rest * log_p) / rest, log_p)


def _but_for_zero(x: float | Tensor) -> float | Tensor:
    return torch.where(x == 0, -1.0, x) if isinstance(x, Tensor) else x or -1.0


def _unless_one(t: float | Tensor, value: Tensor, at_one: Tensor) -> Tensor:
    if isinstance(t, Tensor):
        return torch.where(t == 1, at_one, value)
    return at_one if t == 1 else value

r"""Many losses, one number: hard examples, outliers, groups and worst cases.

Each function takes the losses of any units (elements, pixels, samples), as `reduction="none"`
returns them, and returns a scalar. Shapes are static, so all of them work under `vmap`, `grad` and
`torch.compile`. Which losses are selected, and the worst case where one is searched for, are
constants to the gradient.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from purelosses._checks import (
    check_choice,
    check_device,
    check_floating,
    check_int,
    check_integer,
    check_labels,
    check_number,
    check_same_shape,
    check_where,
    complain,
)
from purelosses._numerics import class_mask, promote, safe_divide
from purelosses.transform import name_of

Pace: TypeAlias = Literal["hard", "linear", "log"]


def topk_mean(
    losses: Tensor,
    *,
    k: int | None = None,
    fraction: float | Tensor | None = None,
    where: Tensor | None = None,
) -> Tensor:
    r"""Mean of the largest losses: only the hardest examples teach.

    $$\frac{1}{k} \sum_{i \le k} \ell_{(i)}$$

    with $\ell_{(1)} \ge \ell_{(2)} \ge \dots$ the losses that count.

    Args:
        losses: One loss per unit, any shape. Half precision is computed in float32.
        k: How many are averaged, at least 1; all of them if there are fewer.
        fraction: Instead of `k`: the share that is averaged, above 0 and at most 1, rounded to a
            number of at least 1.
        where: Which losses count; shape of `losses`, or 1 along an axis.

    Returns:
        A scalar; 0 if nothing counts.

    Raises:
        ValueError: If not exactly one of `k` and `fraction` is given, or one is out of its range.
        TypeError: If `losses` is not floating, `k` not an int or `where` not boolean.

    Examples:
        >>> topk_mean(torch.tensor([0.1, 3.0, 0.2, 1.0]), k=2)
        tensor(2.)
        >>> topk_mean(torch.tensor([0.1, 3.0, 0.2, 1.0]), fraction=0.25)
        tensor(3.)

    Source:
        Fan et al., *Learning with Average Top-k Loss*, arXiv:1705.08826.
    """
    function = "topk_mean"
    values, count = _ranked(function, losses, where)
    if (k is None) == (fraction is None):
        both = "neither" if k is None else f"{k} besides a fraction"
        raise ValueError(complain(function, "k", "be given, or else `fraction`", both))
    if fraction is None:
        check_int(function, "k", k, 1)
        number: Any = k
    else:
        number = _share(function, "fraction", fraction, count)
    return _mean_of(values, (_positions(values) < number) & (_positions(values) < count))


def ohem_mean(
    losses: Tensor,
    *,
    threshold: float | Tensor,
    min_kept: int = 1,
    where: Tensor | None = None,
) -> Tensor:
    r"""Mean of the losses above a threshold, or of the largest few if too few are.

    $$\frac{1}{|S|} \sum_{i \in S} \ell_{(i)}, \qquad
    S = \{i : \ell_{(i)} > \theta\} \cup \{1, \dots, m\}$$

    with $\ell_{(1)} \ge \ell_{(2)} \ge \dots$ the losses that count, $\theta$ the `threshold` and
    $m$ the `min_kept`.

    Args:
        losses: One loss per unit, any shape. Half precision is computed in float32.
        threshold: Losses above it are kept. For a cross-entropy, $-\log 0.7$ keeps every pixel
            whose label has a probability below 0.7.
        min_kept: How many are kept at least.
        where: Which losses count; shape of `losses`, or 1 along an axis.

    Returns:
        A scalar; 0 if nothing counts.

    Raises:
        ValueError: If `where` does not fit or an option is out of its range.
        TypeError: If `losses` is not floating, `min_kept` not an int or `where` not boolean.

    Examples:
        >>> ohem_mean(torch.tensor([0.1, 3.0, 0.2, 1.0]), threshold=0.5)
        tensor(2.)
        >>> ohem_mean(torch.tensor([0.1, 3.0, 0.2, 1.0]), threshold=5.0, min_kept=1)
        tensor(3.)

    Source:
        Shrivastava et al., arXiv:1604.03540; with a threshold, as in segmentation since Wu et al.,
        arXiv:1605.06885.
    """
    function = "ohem_mean"
    values, count = _ranked(function, losses, where)
    threshold = check_number(function, "threshold", threshold)
    check_int(function, "min_kept", min_kept, 1)
    positions = _positions(values)
    return _mean_of(values, ((values > threshold) | (positions < min_kept)) & (positions < count))


def trimmed_mean(losses: Tensor, *, keep: float | Tensor, where: Tensor | None = None) -> Tensor:
    r"""Mean of the smallest losses: the largest, which may be mistakes in the data, are left out.

    $$\frac{1}{k} \sum_{i > n - k} \ell_{(i)}, \qquad k = \mathrm{round}(\kappa\,n)$$

    with $\ell_{(1)} \ge \ell_{(2)} \ge \dots$ the $n$ losses that count and $\kappa$ the `keep`.
    Small-loss selection, as in co-teaching, is this.

    Args:
        losses: One loss per unit, any shape. Half precision is computed in float32.
        keep: The share that is averaged, above 0 and at most 1, rounded to a number of at least 1.
        where: Which losses count; shape of `losses`, or 1 along an axis.

    Returns:
        A scalar; 0 if nothing counts.

    Raises:
        ValueError: If `where` does not fit or `keep` is out of its range.
        TypeError: If `losses` is not floating or `where` not boolean.

    Examples:
        >>> trimmed_mean(torch.tensor([0.1, 3.0, 0.2, 1.0]), keep=0.5)
        tensor(0.1500)

    Source:
        Rousseeuw, *Least Median of Squares Regression* (1984); Han et al., arXiv:1804.06872.
    """
    function = "trimmed_mean"
    values, count = _ranked(function, losses, where)
    number = _share(function, "keep", keep, count)
    positions = _positions(values)
    return _mean_of(values, (positions >= count - number) & (positions < count))


def cvar(losses: Tensor, *, alpha: float | Tensor, where: Tensor | None = None) -> Tensor:
    r"""Mean of the worst share of the losses, exactly: conditional value at risk.

    $$\min_c\; c + \frac{1}{\alpha n} \sum_{i=1}^n \max(0,\,\ell_i - c)
    = \frac{1}{\alpha n} \sum_i \min\bigl(1,\,\max(0,\,\alpha n - i + 1)\bigr)\,\ell_{(i)}$$

    with $\ell_{(1)} \ge \ell_{(2)} \ge \dots$ the $n$ losses that count and $\alpha$ the `alpha`.
    At $\alpha = 1$ it is the mean, at $\alpha \le 1 / n$ the largest loss. The second form is the
    one computed: the last loss counts in part where $\alpha n$ is no whole number.

    Args:
        losses: One loss per unit, any shape. Half precision is computed in float32.
        alpha: The share that counts, above 0 and at most 1.
        where: Which losses count; shape of `losses`, or 1 along an axis.

    Returns:
        A scalar; 0 if nothing counts.

    Raises:
        ValueError: If `where` does not fit or `alpha` is out of its range.
        TypeError: If `losses` is not floating or `where` not boolean.

    Examples:
        >>> cvar(torch.tensor([0.1, 3.0, 0.2, 1.0]), alpha=0.375)
        tensor(2.3333)

    Source:
        Rockafellar and Uryasev, *Optimization of Conditional Value-at-Risk* (2000), eq. (4).
    """
    function = "cvar"
    values, count = _ranked(function, losses, where)
    alpha = check_number(function, "alpha", alpha, above=0, maximum=1)
    positions = _positions(values)
    weights = (alpha * count.to(values.dtype) - positions).clamp(0, 1).to(values.dtype)
    weights = torch.where(positions < count, weights, 0.0)
    return safe_divide((weights * values).sum(), weights.sum())


def tilted_mean(losses: Tensor, *, t: float | Tensor, where: Tensor | None = None) -> Tensor:
    r"""Mean that leans towards large losses, or towards small ones.

    $$\frac{1}{t} \log \frac{1}{n} \sum_{i=1}^n e^{t \ell_i}$$

    over the $n$ losses that count, with $t$ the `t`. For $t \to 0$ it is the mean, for
    $t \to \infty$ the largest loss and for $t \to -\infty$ the smallest.

    Args:
        losses: One loss per unit, any shape. Half precision is computed in float32.
        t: Above 0 to heed the hard examples, below 0 to ignore outliers.
        where: Which losses count; shape of `losses`, or 1 along an axis.

    Returns:
        A scalar; 0 if nothing counts.

    Raises:
        ValueError: If `where` does not fit.
        TypeError: If `losses` is not floating or `where` not boolean.

    Examples:
        >>> tilted_mean(torch.tensor([0.0, 2.0]), t=1.0)
        tensor(1.4338)
        >>> tilted_mean(torch.tensor([0.0, 2.0]), t=-1.0)
        tensor(0.5662)

    Source:
        Li et al., arXiv:2007.01162, eq. (2).
    """
    function = "tilted_mean"
    values, counts = _flat(function, losses, where)
    t = check_number(function, "t", t)
    zero = t == 0
    if not isinstance(zero, Tensor):
        if zero:
            return _mean_of(values, counts)
        return _tilted(values, counts, t)
    tilted = _tilted(values, counts, torch.where(zero, 1.0, t))
    return torch.where(zero, _mean_of(values, counts), tilted)


def kl_dro(losses: Tensor, *, rho: float | Tensor, where: Tensor | None = None) -> Tensor:
    r"""Worst mean over all weightings of the examples within a Kullback-Leibler ball.

    $$\max_q\; \sum_i q_i \ell_i \quad\text{with}\quad \sum_i q_i \log(n\,q_i) \le \rho
    \qquad = \min_{t > 0}\; \frac{\rho}{t} + \frac{1}{t} \log \frac{1}{n} \sum_i e^{t \ell_i}$$

    over the $n$ losses that count, with $\rho$ the `rho`. For $\rho \to 0$ it is the mean, from
    $\rho = \log n$ on the largest loss. The gradient is the worst weighting; it may be taken once,
    for the best $t$ is a constant to it.

    Args:
        losses: One loss per unit, any shape. Half precision is computed in float32.
        rho: How far the weights may be from even ones, from 0.
        where: Which losses count; shape of `losses`, or 1 along an axis.

    Returns:
        A scalar; 0 if nothing counts.

    Raises:
        ValueError: If `where` does not fit or `rho` is out of its range.
        TypeError: If `losses` is not floating or `where` not boolean.

    Examples:
        >>> kl_dro(torch.tensor([0.1, 3.0, 0.2, 1.0]), rho=0.2)
        tensor(1.8567)

    Source:
        Hu and Hong, *Kullback-Leibler Divergence Constrained Distributionally Robust Optimization*
        (2013), theorem 1.
    """
    function = "kl_dro"
    values, counts = _flat(function, losses, where)
    rho = check_number(function, "rho", rho, minimum=0)
    top, spread, scaled = _scaled(values, counts)
    # The divergence of the weights exp(t z) / Σ exp(t z) grows with t.
    fixed = scaled.detach()
    low, high = torch.full_like(spread, -14.0), torch.full_like(spread, 18.0)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        tilted = _tilted(fixed, counts, middle.exp())
        weights = torch.where(counts, (middle.exp() * (fixed - tilted)).exp(), 0.0)
        worst = safe_divide((weights * fixed).sum(), weights.sum())
        less = middle.exp() * (worst - tilted) < rho
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    t = high.exp()
    value = top + spread * (rho / t + _tilted(scaled, counts, t))
    return torch.where(counts.any(), torch.where(spread > 0, value, _mean_of(values, counts)), 0.0)


def chi2_dro(losses: Tensor, *, rho: float | Tensor, where: Tensor | None = None) -> Tensor:
    r"""Worst mean over all weightings of the examples within a chi-square ball.

    $$\max_q\; \sum_i q_i \ell_i \quad\text{with}\quad \frac{1}{2n} \sum_i (n\,q_i - 1)^2 \le \rho$$

    over the $n$ losses that count, with $q$ a distribution over them and $\rho$ the `rho`. As long
    as no weight is 0 it is $\bar\ell + \sqrt{2 \rho \mathrm{Var}(\ell)}$. The gradient is the worst
    weighting; it may be taken once.

    Conventions: the ½ is there; authors who leave it out have a radius twice as large.

    Args:
        losses: One loss per unit, any shape. Half precision is computed in float32.
        rho: How far the weights may be from even ones, from 0.
        where: Which losses count; shape of `losses`, or 1 along an axis.

    Returns:
        A scalar; 0 if nothing counts.

    Raises:
        ValueError: If `where` does not fit or `rho` is out of its range.
        TypeError: If `losses` is not floating or `where` not boolean.

    Examples:
        >>> chi2_dro(torch.tensor([0.1, 3.0, 0.2, 1.0]), rho=0.1)
        tensor(1.5959)

    Source:
        Namkoong and Duchi, *Variance-based Regularization with Convex Objectives*,
        arXiv:1610.02581, eq. (4); Levy et al., arXiv:2010.05893, §2.
    """
    function = "chi2_dro"
    values, counts = _flat(function, losses, where)
    rho = check_number(function, "rho", rho, minimum=0)
    _, spread, scaled = _scaled(values, counts)
    fixed = scaled.detach()

    def above(level: Tensor) -> Tensor:
        return torch.where(counts, (fixed - level).clamp_min(0.0), 0.0)

    # The weights are max(0, z - level): the higher the level, the farther they are from even ones.
    mean = _mean_of(fixed, counts)
    deviation = _mean_of((fixed - mean).square(), counts).sqrt()
    radius = rho if isinstance(rho, Tensor) else torch.full_like(spread, rho)
    low = mean - deviation / (2 * radius).clamp_min(1e-12).sqrt()
    high = torch.zeros_like(low)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        part = above(middle)
        ratio = safe_divide(_mean_of(part.square(), counts), _mean_of(part, counts).square())
        less = ratio < 1 + 2 * radius
        low, high = torch.where(less, middle, low), torch.where(less, high, middle)
    part = above(low)
    value = safe_divide((part * values).sum(), part.sum())
    return torch.where(spread > 0, value, _mean_of(values, counts))


def group_dro_init(num_groups: int) -> dict[str, Tensor]:
    """Even weights of groups, for [`group_dro`][purelosses.group_dro].

    Args:
        num_groups: The number of groups.

    Returns:
        `{"log_weights"}`: logarithms of the weights, shape (num_groups,).

    Raises:
        ValueError: If `num_groups` is below 1.
        TypeError: If `num_groups` is not an int.

    Examples:
        >>> group_dro_init(2)
        {'log_weights': tensor([-0.6931, -0.6931])}
    """
    check_int("group_dro_init", "num_groups", num_groups, 1)
    return {"log_weights": torch.full((num_groups,), -math.log(num_groups))}


def group_dro(
    state: dict[str, Tensor], losses: Tensor, groups: Tensor, *, where: Tensor | None = None
) -> Tensor:
    r"""Mean loss of every group, weighted by how badly the group has fared so far.

    $$\sum_g w_g\,\frac{1}{n_g} \sum_{i \in g} \ell_i$$

    with $w_g$ the weight of group $g$ in `state` and $n_g$ the number of its losses that count. A
    group without any has the mean 0.

    Args:
        state: Made by [`group_dro_init`][purelosses.group_dro_init] and
            [`group_dro_update`][purelosses.group_dro_update].
        losses: One loss per unit, any shape. Half precision is computed in float32.
        groups: The group of each, integers of the same shape.
        where: Which losses count; shape of `losses`, or 1 along an axis.

    Returns:
        A scalar.

    Raises:
        ValueError: If `state` is not what the init makes, shapes do not fit, or a group does not
            exist (eager on the CPU; under transforms and on other devices the result is NaN).
        TypeError: If `losses` is not floating, `groups` not integer or `where` not boolean.

    Examples:
        >>> state, groups = group_dro_init(2), torch.tensor([0, 0, 1])
        >>> losses = torch.tensor([1.0, 3.0, 6.0])
        >>> group_dro(state, losses, groups)
        tensor(4.)
        >>> state = group_dro_update(state, losses, groups, eta=0.5)
        >>> group_dro(state, losses, groups)
        tensor(5.5232)

    Source:
        Sagawa et al., arXiv:1911.08731, algorithm 1.
    """
    function = "group_dro"
    means, log_weights = _group_means(function, state, losses, groups, where)
    return (log_weights.exp() * means).sum()


def group_dro_update(
    state: dict[str, Tensor],
    losses: Tensor,
    groups: Tensor,
    *,
    eta: float | Tensor = 0.01,
    where: Tensor | None = None,
) -> dict[str, Tensor]:
    r"""Raise the weights of the groups with large losses, for [`group_dro`][purelosses.group_dro].

    $$w_g \leftarrow \frac{w_g\,e^{\eta \bar\ell_g}}{\sum_k w_k\,e^{\eta \bar\ell_k}}$$

    with $\bar\ell_g$ the mean loss of group $g$, 0 for a group without any, and $\eta$ the `eta`.
    The state that was given is left as it is, and no gradient flows into the new one.

    Args:
        state: Made by [`group_dro_init`][purelosses.group_dro_init].
        losses: One loss per unit, any shape. Half precision is computed in float32.
        groups: The group of each, integers of the same shape.
        eta: How fast the weights move, from 0.
        where: Which losses count; shape of `losses`, or 1 along an axis.

    Returns:
        The new state.

    Raises:
        ValueError: If `state` is not what the init makes, shapes do not fit, or a group does not
            exist.
        TypeError: If `losses` is not floating, `groups` not integer or `where` not boolean.

    Examples:
        >>> state = group_dro_init(2)
        >>> losses, groups = torch.tensor([1.0, 3.0, 6.0]), torch.tensor([0, 0, 1])
        >>> group_dro_update(state, losses, groups, eta=0.5)["log_weights"].exp()
        tensor([0.1192, 0.8808])
    """
    function = "group_dro_update"
    eta = check_number(function, "eta", eta, minimum=0)
    means, log_weights = _group_means(function, state, losses, groups, where)
    return {"log_weights": (log_weights + eta * means).detach().log_softmax(0)}


def _group_means(
    function: str,
    state: dict[str, Tensor],
    losses: Tensor,
    groups: Tensor,
    where: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if not isinstance(state, dict) or state.keys() != {"log_weights"}:
        must = "be {'log_weights'} as group_dro_init makes it"
        found = str(sorted(state)) if isinstance(state, dict) else type(state).__name__
        raise ValueError(complain(function, "state", must, found))
    log_weights = state["log_weights"]
    values, counts = _flat(function, losses, where)
    check_device(function, "state", log_weights, losses)
    check_integer(function, "groups", groups)
    check_same_shape(function, "groups", groups, "losses", losses)
    groups = torch.where(counts, groups.long().reshape(-1), 0)
    groups, valid = check_labels(function, groups, log_weights.shape[0], "groups")
    members = class_mask(groups, log_weights.shape[0], 0) & counts
    sums = torch.where(members, torch.where(valid, values, torch.nan), 0.0).sum(1)
    return sums / members.sum(1).clamp_min(1), log_weights.to(values.dtype)


def superloss(
    losses: Tensor,
    *,
    tau: float | Tensor,
    lam: float | Tensor = 1.0,
    where: Tensor | None = None,
) -> Tensor:
    r"""Mean of the losses, each discounted by a confidence that the loss itself suggests.

    $$\frac{1}{n} \sum_i (\ell_i - \tau)\,\sigma_i + \lambda \log^2 \sigma_i, \qquad
    \sigma_i = e^{-W(\max(-2 / e,\; (\ell_i - \tau) / \lambda) / 2)}$$

    over the $n$ losses that count, with $\tau$ the `tau`, $\lambda$ the `lam` and $W$ the principal
    branch of Lambert's function. $\sigma_i$, the best confidence, is a constant to the gradient, so
    losses above $\tau$ (hard, or wrong) push less and those below push more, at most $e$ times.

    Args:
        losses: One loss per unit, any shape. Half precision is computed in float32.
        tau: The loss between easy and hard: $\log C$ for a cross-entropy of C classes, or a running
            mean of the losses.
        lam: How mild the effect is, above 0; for large values it is the mean less tau.
        where: Which losses count; shape of `losses`, or 1 along an axis.

    Returns:
        A scalar; 0 if nothing counts. It can be negative.

    Raises:
        ValueError: If `where` does not fit or `lam` is out of its range.
        TypeError: If `losses` is not floating or `where` not boolean.

    Examples:
        >>> superloss(torch.tensor([0.1, 3.0]), tau=1.0)
        tensor(0.0047)

    Coming from:
        The authors' code calls `scipy.special.lambertw`, on the CPU and without a gradient; it is
        NaN at -1/e, where every easy example is.

    Source:
        Castells, Weinzaepfel and Revaud, *SuperLoss* (NeurIPS 2020), eq. (1) and (5).
    """
    function = "superloss"
    values, counts = _flat(function, losses, where)
    tau = check_number(function, "tau", tau)
    lam = check_number(function, "lam", lam, above=0)
    excess = values - tau
    log_sigma = -_lambert_w((excess / lam).detach().clamp_min(-2 / math.e) / 2)
    return _mean_of(excess * log_sigma.exp() + lam * log_sigma.square(), counts)


def _lambert_w(y: Tensor) -> Tensor:
    """The principal w with w e^w = y, for y from -1/e on."""
    root = (2 * (math.e * y + 1)).clamp_min(0.0).sqrt()
    near = -1 + root * (1 - root * (1 / 3 - root * (11 / 72)))
    log = y.clamp_min(-0.25).log1p()
    far = log * (1 - log.log1p() / (2 + log))
    w = torch.where(y < -0.25, near, far)
    for _ in range(4):  # Halley's method
        excess = w * w.exp() - y
        slope = 2 * w.exp() * (w + 1).square() - (w + 2) * excess
        w = w - safe_divide(2 * excess * (w + 1), slope)
    return w


def self_paced_weights(losses: Tensor, *, threshold: float | Tensor, kind: Pace = "hard") -> Tensor:
    r"""A weight for each example: first the easy ones, and as the threshold grows, all of them.

    $$w_i = [\ell_i < \theta], \qquad w_i = \max(0,\,1 - \ell_i / \theta) \qquad\text{or}\qquad
    w_i = \frac{\log(\ell_i + 1 - \theta)}{\log(1 - \theta)}\,[\ell_i < \theta]$$

    with $\ell_i$ the losses and $\theta$ the `threshold`: for the `kind` `"hard"`, `"linear"` or
    `"log"`. The weights are constants to the gradient: pass them as `weights` of the loss.

    Args:
        losses: One loss per unit, at least 0, any shape. Half precision is computed in float32.
        threshold: The loss from which on an example does not count, above 0; for `"log"` below 1.
        kind: `"hard"`, `"linear"` or `"log"`.

    Returns:
        Weights between 0 and 1 with the shape of `losses`.

    Raises:
        ValueError: If an option is unknown or out of its range.
        TypeError: If `losses` is not floating.

    Examples:
        >>> self_paced_weights(torch.tensor([0.0, 0.5, 2.0]), threshold=1.0, kind="linear")
        tensor([1.0000, 0.5000, 0.0000])

    Source:
        Kumar, Packer and Koller, *Self-Paced Learning for Latent Variable Models* (2010), eq. (5);
        Jiang et al., *Easy Samples First* (2014), eq. (6) and (8).
    """
    function = "self_paced_weights"
    check_floating(function, "losses", losses)
    check_choice(function, "kind", kind, get_args(Pace))
    below = 1 if kind == "log" else None
    threshold = check_number(function, "threshold", threshold, above=0, below=below)
    values = promote(losses.detach())
    threshold = threshold.detach() if isinstance(threshold, Tensor) else threshold
    easy = values < threshold
    if kind == "hard":
        return easy.to(values.dtype)
    if kind == "linear":
        return torch.where(easy, 1 - values / threshold, 0.0)
    rest = 1 - threshold
    scale = rest.log() if isinstance(rest, Tensor) else math.log(rest)
    return torch.where(easy, torch.where(easy, values + rest, 1.0).log() / scale, 0.0)


@dataclass(frozen=True, repr=False, init=False)
class aggregated:
    """A loss whose units are put together by another rule than the mean.

    Args:
        loss: Any loss with `reduction="none"`.
        aggregator: A function of the losses, such as [`topk_mean`][purelosses.topk_mean].
        **options: Passed to the aggregator by keyword.

    Returns:
        A loss with the arguments of `loss` (but for `reduction`). A `where` with as many axes as
        the losses have says which of them count, and is given to the aggregator too; one over
        pixels of losses per region is not.

    Raises:
        TypeError: If `loss` or `aggregator` cannot be called.

    Examples:
        >>> loss = aggregated(cross_entropy_loss, topk_mean, fraction=0.5)
        >>> loss
        aggregated(cross_entropy_loss, topk_mean, fraction=0.5)
        >>> loss(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
        tensor(1.3133)
    """

    loss: Callable[..., Tensor]
    aggregator: Callable[..., Tensor]
    options: Mapping[str, Any]

    def __init__(
        self, loss: Callable[..., Tensor], aggregator: Callable[..., Tensor], **options: Any
    ) -> None:
        for name, function in (("loss", loss), ("aggregator", aggregator)):
            if not callable(function):
                raise TypeError(complain("aggregated", name, "be a function", repr(function)))
        for name, value in (("loss", loss), ("aggregator", aggregator), ("options", options)):
            object.__setattr__(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _aggregated, (self.loss, self.aggregator, dict(self.options))

    def __repr__(self) -> str:
        options = [f"{key}={value!r}" for key, value in self.options.items()]
        return f"aggregated({', '.join([name_of(self.loss), name_of(self.aggregator), *options])})"

    def __call__(self, *args: Any, where: Tensor | None = None, **kwargs: Any) -> Tensor:
        if where is None:
            return self.aggregator(self.loss(*args, reduction="none", **kwargs), **self.options)
        losses = self.loss(*args, where=where, reduction="none", **kwargs)
        given = {"where": where} if where.ndim == losses.ndim else {}
        return self.aggregator(losses, **self.options, **given)


def _aggregated(
    loss: Callable[..., Tensor], aggregator: Callable[..., Tensor], options: Mapping[str, Any]
) -> aggregated:
    return aggregated(loss, aggregator, **options)


# Halvings of the interval in which a worst case is searched: past the last digit of float32.
_HALVINGS = 40


def _flat(function: str, losses: Tensor, where: Tensor | None) -> tuple[Tensor, Tensor]:
    """The losses in one axis, 0 where they do not count, and which of them do."""
    check_floating(function, "losses", losses)
    values = promote(losses)
    if where is None:
        return values.reshape(-1), torch.ones_like(values, dtype=torch.bool).reshape(-1)
    check_where(function, where, losses.shape, "`losses`", losses)
    values = torch.where(where, values, 0.0)
    return values.reshape(-1), where.expand(values.shape).reshape(-1)


def _ranked(function: str, losses: Tensor, where: Tensor | None) -> tuple[Tensor, Tensor]:
    """The losses from the largest on, those that do not count last and 0; how many count."""
    values, counts = _flat(function, losses, where)
    count = counts.sum()
    ranked = torch.where(counts, values, -torch.inf).sort(descending=True).values
    return torch.where(_positions(values) < count, ranked, 0.0), count


def _positions(values: Tensor) -> Tensor:
    return torch.arange(values.shape[0], device=values.device)


def _share(function: str, argument: str, share: float | Tensor, count: Tensor) -> Tensor:
    """The nearest number to a share of the count, at least 1."""
    share = check_number(function, argument, share, above=0, maximum=1)
    return (share * count).round().clamp_min(1)


def _mean_of(values: Tensor, counts: Tensor) -> Tensor:
    return torch.where(counts, values, 0.0).sum() / counts.sum().clamp_min(1)


def _tilted(values: Tensor, counts: Tensor, t: float | Tensor) -> Tensor:
    """log(mean exp(t x)) / t, for t other than 0."""
    tilted = torch.where(counts, t * values, -torch.inf)
    # The largest is a constant: it cancels, in value and gradient. Without any it is 0.
    largest = tilted.detach().amax() if tilted.shape[0] else tilted.detach().sum()
    largest = torch.where(counts.any(), largest, 0.0)
    exponents = torch.where(counts, tilted - largest, 0.0)
    count = counts.sum().clamp_min(1)
    less = torch.where(counts, exponents.expm1(), 0.0).sum() / count
    mean = torch.where(counts, exponents.exp(), 0.0).sum() / count
    # Near 0 the logarithm of the mean would lose the digits that all the losses share.
    near = less > -0.5
    log_mean = torch.where(
        near, torch.where(near, less, 0.0).log1p(), torch.where(near | (mean == 0), 1.0, mean).log()
    )
    return (largest + log_mean) / t


def _scaled(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The largest loss, how far the mean is below it, and the losses on that scale, from 0 down."""
    fixed = values.detach()
    top = torch.where(counts, fixed, -torch.inf)
    top = top.amax() if top.shape[0] else top.sum()
    top = torch.where(counts.any(), top, 0.0)
    spread = top - _mean_of(fixed, counts)
    scaled = torch.where(counts, values - top, 0.0) / torch.where(spread > 0, spread, 1.0)
    return top, spread, scaled

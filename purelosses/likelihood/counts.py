r"""-log density(target) of counts and positive values whose parameters are predicted."""

import math

import torch
from torch import Tensor

from purelosses._checks import check_flag, check_number, elements
from purelosses._numerics import (
    LARGE,
    as_scalar,
    expm1_minus,
    expm1_ratio,
    log1p_minus,
    log_minus,
    stirling,
    xlogy,
)
from purelosses._reduce import reduce
from purelosses._types import Reduction


def poisson_nll_loss(
    log_rate: Tensor,
    target: Tensor,
    *,
    full: bool = False,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Negative log-likelihood of counts whose rate is predicted by its logarithm.

    $$\ell_i = e^{s_i} - y_i s_i$$

    with $s_i$ an element of `log_rate` and $y_i \ge 0$ the same element of `target`. The loss can
    be negative.

    Conventions: $\log y!$ is left out unless `full`; it has no gradient.

    Args:
        log_rate: Logarithms of the predicted rates, any shape. Half precision is computed in
            float32.
        target: Counts of at least 0 (integers or floats) of the same shape.
        full: Whether to add $\log y!$, that is $\log \Gamma(y + 1)$. The sum is computed as the
            deviance from $y$ and a remainder, which keeps its digits where the rate is near $y$.
        where: Which elements count; shape of `log_rate`, or 1 along an axis. What lies under False
            has no influence, whatever it is.
        weights: How much each element matters; shape of `log_rate`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted sum
            by the number of elements that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 if `log_rate`
        is. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, or `reduction` is unknown.
        TypeError: If a prediction is not floating or `where` not boolean.

    Examples:
        >>> log_rate, target = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 2.0])
        >>> poisson_nll_loss(log_rate, target, reduction="none")
        tensor([1.0000, 0.7183])

    Coming from:
        `torch.nn.functional.poisson_nll_loss`: same value; its `full=True` adds Stirling's
        approximation, which gives 0.6518 for $\log 2! = 0.6931$ and nothing below 1.

    Source:
        Nelder and Wedderburn, *Generalized Linear Models*, J. R. Stat. Soc. A 135 (1972).
    """
    log_rate, target = elements(
        "poisson_nll_loss", where, weights, reduction, log_rate=log_rate, target=target
    )
    check_flag("poisson_nll_loss", "full", full)
    rate = log_rate.exp()
    if full:
        # exp(s) - y s + log y! as written loses its digits to y log y where the rate is nearly y.
        deviance = _deviance(rate, log_rate, rate - target, target)
        losses = deviance + _factorial_excess(target)
    else:
        losses = rate - target * log_rate
    return reduce(losses, reduction, where, weights)


def gamma_nll_loss(
    log_mean: Tensor,
    log_shape: Tensor,
    target: Tensor,
    *,
    full: bool = False,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Negative log-likelihood of positive values that scatter in proportion to their mean.

    $$\ell_i = k_i \Bigl( \frac{y_i}{\mu_i} - 1 - \log \frac{y_i}{\mu_i} \Bigr)
    + \log \Gamma(k_i) - k_i \log k_i + k_i$$

    with $\mu_i = e^{s_i}$ from an element of `log_mean`, $k_i = e^{\kappa_i}$ from the same element
    of `log_shape` and $y_i > 0$ that of `target`. The variance is $\mu^2 / k$, so $1/\sqrt k$ is
    the relative scatter; $k = 1$ is the exponential distribution. The loss can be negative. The
    bracket keeps its digits where $\mu \approx y$.

    Args:
        log_mean: Logarithms of the predicted means, any shape. Half precision is computed in
            float32.
        log_shape: Logarithms of the predicted shapes, of the shape of `log_mean`.
        target: Positive values (integers or floats) of the same shape.
        full: Whether to add $\log y$.
        where: Which elements count; shape of `log_mean`, or 1 along an axis. What lies under False
            has no influence, whatever it is.
        weights: How much each element matters; shape of `log_mean`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted sum
            by the number of elements that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 if `log_mean`
        is. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, or `reduction` is unknown.
        TypeError: If a prediction is not floating or `where` not boolean.

    Examples:
        >>> log_mean, target = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 1.0])
        >>> gamma_nll_loss(log_mean, torch.zeros(2), target, reduction="none")
        tensor([1.0000, 1.3679])

    Coming from:
        `-torch.distributions.Gamma(k, k / mu).log_prob(y)`: same value with `full=True,
        reduction="none"`. The gamma deviance of scikit-learn and LightGBM is
        [`tweedie_deviance_loss`][purelosses.tweedie_deviance_loss] with `power=2`.

    Source:
        McCullagh and Nelder, *Generalized Linear Models* (1989), §8.2.
    """
    # A target of 1 is harmless where nothing counts; 0 would have no logarithm.
    log_mean, log_shape, target = elements(
        "gamma_nll_loss",
        where,
        weights,
        reduction,
        fill=1.0,
        log_mean=log_mean,
        log_shape=log_shape,
        target=target,
    )
    check_flag("gamma_nll_loss", "full", full)
    log_target = target.log()
    gap, shape = log_target - log_mean, log_shape.exp()
    far = shape * (target * (-log_mean).exp() - (1 + gap))
    near = shape * expm1_minus(gap)
    losses = torch.where(gap.abs() < 0.5, near, far) + _gamma_excess(shape, log_shape)
    if full:
        losses = losses + log_target
    return reduce(losses, reduction, where, weights)


def negative_binomial_nll_loss(
    log_mean: Tensor,
    log_shape: Tensor,
    target: Tensor,
    *,
    full: bool = False,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Negative log-likelihood of counts that scatter more than Poisson counts do.

    $$\ell_i = (r_i + y_i) \log\Bigl(1 + \frac{\mu_i}{r_i}\Bigr) - y_i \log \frac{\mu_i}{r_i}
    - \log \frac{\Gamma(r_i + y_i)}{\Gamma(r_i)}$$

    with $\mu_i = e^{s_i}$ from an element of `log_mean`, $r_i = e^{\kappa_i}$ from the same element
    of `log_shape` and $y_i \ge 0$ that of `target`. The variance is $\mu + \mu^2 / r$: these are
    Poisson counts whose rates vary with a gamma distribution of shape $r$, and a large $r$ is
    [`poisson_nll_loss`][purelosses.poisson_nll_loss]. The loss can be negative.

    It is computed as a deviance and remainders of Stirling's formula (Loader 2000). The formula as
    written has no digit left in float32 at $r = 10^8$, nor with `full` where $r$, $\mu$ and $y$ are
    all large.

    Args:
        log_mean: Logarithms of the predicted means, any shape. Half precision is computed in
            float32.
        log_shape: Logarithms of the predicted shapes $r$, of the shape of `log_mean`.
        target: Counts of at least 0 (integers or floats) of the same shape.
        full: Whether to add $\log y!$.
        where: Which elements count; shape of `log_mean`, or 1 along an axis. What lies under False
            has no influence, whatever it is.
        weights: How much each element matters; shape of `log_mean`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted sum
            by the number of elements that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 if `log_mean`
        is. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, or `reduction` is unknown.
        TypeError: If a prediction is not floating or `where` not boolean.

    Examples:
        >>> log_mean, target = torch.tensor([0.0, 1.0]), torch.tensor([2.0, 2.0])
        >>> negative_binomial_nll_loss(log_mean, torch.zeros(2), target, reduction="none")
        tensor([1.3863, 1.2466])
        >>> negative_binomial_nll_loss(log_mean, torch.full((2,), 18.4), target, reduction="none")
        tensor([1.0000, 0.7183])

    Coming from:
        `-torch.distributions.NegativeBinomial(r, logits=s - r.log()).log_prob(y)` and `scvi`'s
        `log_nb_positive` (`theta` is $r$): same value with `full=True, reduction="none"`. Where a
        library has the dispersion $\alpha$ with variance $\mu + \alpha \mu^2$, `log_shape` is
        $-\log \alpha$.

    Source:
        Lawless, *Negative Binomial and Mixed Poisson Regression*, Canad. J. Statist. 15 (1987).
    """
    log_mean, log_shape, target = elements(
        "negative_binomial_nll_loss",
        where,
        weights,
        reduction,
        log_mean=log_mean,
        log_shape=log_shape,
        target=target,
    )
    check_flag("negative_binomial_nll_loss", "full", full)
    mean, shape = log_mean.exp(), log_shape.exp()
    gap = (target - mean) / (shape + mean)
    ratio = (shape + target) / (shape + mean)  # 1 + gap, also where that is nearly 0
    excess = log_minus(ratio, gap)
    # The deviance, y log(y / μ) - (r + y) log ratio, in a form whose parts do not cancel: that of
    # the count alone, less a correction, where r is the larger; elsewhere those of y and of r
    # from their shares of r + y.
    apart = (mean <= shape) & (gap < 2)
    scale = torch.where(apart, 1.0, ratio)
    difference = torch.where(apart, mean - target, -shape * gap)
    of_count = _deviance(mean * scale, log_mean + scale.log(), difference, target)
    if full:
        of_count = of_count + _factorial_excess(target)
    else:
        likelihood = of_count + target - xlogy(target, target)
        of_count = torch.where(apart, mean - target * log_mean, likelihood)
    of_shape = torch.where(apart, (mean - target) * gap, 0.0)
    of_shape = of_shape - torch.where(apart, shape + target, shape) * excess
    losses = of_count + of_shape + _gamma_excess_fall(shape, target)
    return reduce(losses, reduction, where, weights)


def tweedie_deviance_loss(
    log_mean: Tensor,
    target: Tensor,
    *,
    power: float | Tensor = 1.5,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Deviance of a power-variance family: squared error, Poisson, gamma and all between.

    $$\ell_i = 2 \Bigl( \frac{y_i^{2-p}}{(1-p)(2-p)} - \frac{y_i\,\mu_i^{1-p}}{1-p}
    + \frac{\mu_i^{2-p}}{2-p} \Bigr)$$

    with $\mu_i = e^{s_i}$ from an element of `log_mean`, $y_i$ the same element of `target` and $p$
    the `power`: the variance of the targets grows as $\mu^p$. The loss is 0 for $\mu = y$ and
    positive otherwise. At $p = 1$ and $p = 2$ the formula is 0/0, and its limit is computed:

    | $p$ | loss | targets |
    |---|---|---|
    | 0 | $(y - \mu)^2$ | at least 0 |
    | 1 | $2 (y \log \tfrac y\mu - y + \mu)$, Poisson | at least 0 |
    | 1 to 2 | above; zeros and positive values, as of rainfall or claims | at least 0 |
    | 2 | $2 (\tfrac y\mu - 1 - \log \tfrac y\mu)$, gamma | positive |
    | 3 | $(y - \mu)^2 / (y \mu^2)$, inverse Gaussian | positive |

    It is computed as a second divided difference of the exponential, which is smooth in $p$ and
    keeps its digits where $\mu \approx y$ and where $p$ is near 1 or 2. A target of 0 costs
    infinitely much from $p = 2$ on.

    Args:
        log_mean: Logarithms of the predicted means, any shape. Half precision is computed in
            float32.
        target: Values of at least 0 (integers or floats), positive if `power` is 2 or more, of the
            same shape.
        power: How the variance grows with the mean. A number of at least 0, or a 0-dimensional
            tensor (to schedule it).
        where: Which elements count; shape of `log_mean`, or 1 along an axis. What lies under False
            has no influence, whatever it is.
        weights: How much each element matters; shape of `log_mean`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted sum
            by the number of elements that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 if `log_mean`
        is. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, `power` is negative, or
            `reduction` is unknown.
        TypeError: If a prediction is not floating or `where` not boolean.

    Examples:
        >>> log_mean, target = torch.tensor([0.0, 0.0]), torch.tensor([0.0, 2.0])
        >>> tweedie_deviance_loss(log_mean, target, power=1.5, reduction="none")
        tensor([4.0000, 0.6863])

    Coming from:
        `sklearn.metrics.mean_tweedie_deviance(y, mu, power=p)` and `torchmetrics`: same value with
        `log_mean=mu.log()`.

    Source:
        Jørgensen, *Exponential Dispersion Models*, J. R. Stat. Soc. B 49 (1987).
    """
    power = check_number("tweedie_deviance_loss", "power", power, minimum=0)
    log_mean, target = elements(
        "tweedie_deviance_loss", where, weights, reduction, log_mean=log_mean, target=target
    )
    a = 2 - as_scalar(power, log_mean)
    none = target == 0
    losses = _unit_deviance(log_mean, torch.where(none, 1.0, target), a)
    of_none = torch.where(a > 0, (a * log_mean).exp() / torch.where(a > 0, a, 1.0), torch.inf)
    return reduce(2 * torch.where(none, of_none, losses), reduction, where, weights)


def _unit_deviance(log_mean: Tensor, y: Tensor, a: Tensor) -> Tensor:
    """Half the deviance of positive targets, with a = 2 - power.

    It is t² μ^a times exp[0, t, a t], the second divided difference of the exponential, with
    t = log(y / μ).
    """
    t = y.log() - log_mean
    at_mean, mixed = (a * log_mean).exp(), y * ((a - 1) * log_mean).exp()

    # Where t and a t are small, by the series of their complete homogeneous polynomials.
    near = torch.maximum(t.abs(), (a * t).abs()) < 0.5
    u = torch.where(near, t, 0.0)
    v = a * u
    power, term, series = torch.ones_like(u), torch.ones_like(u), torch.full_like(u, 0.5)
    for k in range(1, 13):
        power = power * v
        term = u * term + power
        series = series + term / math.factorial(k + 2)

    # Elsewhere by first differences. Of the two that may be 0/0, that of μ^a to y^a for a = 0
    # and that of y μ^(a-1) to y^a for a = 1, the one whose nodes are the closer.
    to_one = a > 0.5
    gap = torch.where(to_one, a - 1, a)
    anchor = torch.where(to_one, mixed, at_mean)
    close = (gap * t).abs() < 0.5
    slope = torch.where(
        close,
        t * anchor * expm1_ratio(torch.where(close, gap * t, 0.0)),
        (y**a - anchor) / torch.where(gap == 0, 1.0, gap),
    )
    far = (slope - (mixed - at_mean)) / torch.where(to_one, a, a - 1)
    return torch.where(near, at_mean * u.square() * series, far)


def _gamma_excess(shape: Tensor, log_shape: Tensor) -> Tensor:
    """log Γ(k) - k log k + k."""
    large = shape > LARGE
    small, log_small = torch.where(large, 1.0, shape), torch.where(large, 0.0, log_shape)
    direct = torch.lgamma(small) - small * log_small + small
    series = stirling(torch.where(large, shape, LARGE)) + 0.5 * (math.log(2 * math.pi) - log_shape)
    return torch.where(large, series, direct)


def _gamma_excess_fall(shape: Tensor, count: Tensor) -> Tensor:
    """How much less log Γ(k) - k log k + k is at `shape + count` than at `shape`."""
    large = shape > LARGE
    small, big = torch.where(large, 1.0, shape), torch.where(large, shape, LARGE)
    whole = small + count
    direct = _gamma_excess(small, small.log()) - _gamma_excess(whole, whole.log())
    series = stirling(big) - stirling(big + count) + 0.5 * (count / big).log1p()
    return torch.where(large, series, direct)


def _factorial_excess(y: Tensor) -> Tensor:
    """log Γ(y + 1) - y log y + y."""
    large = y > LARGE
    small, big = torch.where(large, 1.0, y), torch.where(large, y, LARGE)
    direct = torch.lgamma(small + 1) - xlogy(small, small) + small
    return torch.where(large, stirling(big) + 0.5 * (2 * math.pi * big).log(), direct)


def _deviance(mean: Tensor, log_mean: Tensor, difference: Tensor, y: Tensor) -> Tensor:
    """Half the Poisson deviance, y log(y / μ) - y + μ; `difference` is μ - y."""
    near = difference.abs() < 0.4 * y
    relative = torch.where(near, difference, 0.0) / torch.where(near, y, 1.0)
    far = xlogy(y, y) - y * log_mean - y + mean
    return torch.where(near, -y * log1p_minus(relative), far)

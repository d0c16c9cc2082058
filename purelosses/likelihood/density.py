r"""-log density(target) of continuous distributions whose parameters are predicted."""

import math

import torch
from torch import Tensor

from purelosses._checks import check_axis, check_flag, check_floating, check_number, elements
from purelosses._numerics import as_scalar, log1p_square, log_partition, log_rising
from purelosses._reduce import reduce
from purelosses._types import Reduction

_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
_ROOT_HALF = math.sqrt(0.5)


def _gaussian(
    mean: Tensor, log_var: Tensor, target: Tensor, root: float | Tensor = _ROOT_HALF
) -> Tensor:
    """root² (log_var + z²). The factor is inside the square, so that less overflows."""
    return root * root * log_var + (root * _standardized(mean, log_var, target)).square()


def _standardized(mean: Tensor, log_var: Tensor, target: Tensor) -> Tensor:
    return (target - mean) * (-0.5 * log_var).exp()


def _with_constant(function: str, losses: Tensor, full: bool, constant: float | Tensor) -> Tensor:
    """The losses, with what does not depend on the prediction only if they shall be `full`."""
    check_flag(function, "full", full)
    return losses + constant if full else losses


def gaussian_nll_loss(
    mean: Tensor,
    log_var: Tensor,
    target: Tensor,
    *,
    full: bool = False,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Negative log-likelihood of a normal distribution with predicted mean and variance.

    $$\ell_i = \tfrac12 \bigl( s_i + (y_i - \mu_i)^2 e^{-s_i} \bigr)$$

    with $\mu_i$ an element of `mean`, $s_i = \log \sigma_i^2$ the same element of `log_var` and
    $y_i$ that of `target`. The loss can be negative. The variance is given by its logarithm, so it
    is positive without a clamp.

    Conventions: the constant $\tfrac12 \log 2\pi$ is left out unless `full`; the ½ is there, so $s
    = 0$ gives half of [`mse_loss`][purelosses.mse_loss].

    Args:
        mean: Predicted means, any shape. Half precision is computed in float32.
        log_var: Logarithms of the predicted variances, of the shape of `mean`.
        target: Real values (or integers, or booleans) of the same shape.
        full: Whether to add the constant $\tfrac12 \log 2\pi$.
        where: Which elements count; shape of `mean`, or 1 along an axis. What lies under False has
            no influence, whatever it is.
        weights: How much each element matters; shape of `mean`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted sum
            by the number of elements that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 if `mean` is.
        The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, or `reduction` is unknown.
        TypeError: If a prediction is not floating or `where` not boolean.

    Examples:
        >>> mean, target = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 3.0])
        >>> gaussian_nll_loss(mean, torch.tensor([0.0, 2.0]), target, reduction="none")
        tensor([0.5000, 1.6090])

    Coming from:
        `torch.nn.functional.gaussian_nll_loss(mean, target, var)`: same value with
        `log_var=var.log()`; it clamps the variance, through which a gradient of $5 \cdot 10^{11}$
        passes, and reads values, so it neither compiles into one graph nor maps over `var`.

    Source:
        Nix and Weigend, *Estimating the Mean and Variance of the Target Probability Distribution*,
        ICNN (1994).
    """
    mean, log_var, target = elements(
        "gaussian_nll_loss", where, weights, reduction, mean=mean, log_var=log_var, target=target
    )
    losses = _gaussian(mean, log_var, target)
    return reduce(
        _with_constant("gaussian_nll_loss", losses, full, _HALF_LOG_2PI), reduction, where, weights
    )


def beta_gaussian_nll_loss(
    mean: Tensor,
    log_var: Tensor,
    target: Tensor,
    *,
    beta: float | Tensor = 0.5,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Gaussian likelihood whose gradient does not starve where the predicted variance is large.

    $$\ell_i = \lfloor \sigma_i^{2\beta} \rfloor\;
    \tfrac12 \bigl( s_i + (y_i - \mu_i)^2 e^{-s_i} \bigr)$$

    with $\mu_i$ an element of `mean`, $s_i = \log \sigma_i^2$ the same element of `log_var`, $y_i$
    that of `target`, and $\lfloor \cdot \rfloor$ a factor that is constant to the gradient. The
    Gaussian likelihood pulls the mean with $1/\sigma^2$, so what is fitted badly first, with a
    large variance, is hardly fitted any more. $\beta = 1$ pulls as
    [`mse_loss`][purelosses.mse_loss] does, $\beta = 0$ is
    [`gaussian_nll_loss`][purelosses.gaussian_nll_loss].

    Because of that factor this is not the gradient of the value: compare runs by
    `gaussian_nll_loss`.

    Args:
        mean: Predicted means, any shape. Half precision is computed in float32.
        log_var: Logarithms of the predicted variances, of the shape of `mean`.
        target: Real values (or integers, or booleans) of the same shape.
        beta: How far to undo the weight $1/\sigma^2$, from 0 to 1. A number of at least 0, or a
            0-dimensional tensor (to schedule it).
        where: Which elements count; shape of `mean`, or 1 along an axis. What lies under False has
            no influence, whatever it is.
        weights: How much each element matters; shape of `mean`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted sum
            by the number of elements that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 if `mean` is.
        The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, `beta` is negative, or
            `reduction` is unknown.
        TypeError: If a prediction is not floating or `where` not boolean.

    Examples:
        >>> mean, log_var = torch.zeros(2), torch.tensor([0.0, 2.0])
        >>> beta_gaussian_nll_loss(mean, log_var, torch.tensor([1.0, 3.0]), reduction="none")
        tensor([0.5000, 4.3737])

    Coming from:
        The authors' `beta_nll_loss(mean, variance, target, beta)`: same value with
        `log_var=variance.log()` and `reduction="none"`.

    Source:
        Seitzer et al., *On the Pitfalls of Heteroscedastic Uncertainty Estimation with
        Probabilistic Neural Networks*, arXiv:2203.09168, eq. (5).
    """
    beta = check_number("beta_gaussian_nll_loss", "beta", beta, minimum=0)
    mean, log_var, target = elements(
        "beta_gaussian_nll_loss",
        where,
        weights,
        reduction,
        mean=mean,
        log_var=log_var,
        target=target,
    )
    root = _ROOT_HALF * (0.5 * beta * log_var).exp().detach()
    return reduce(_gaussian(mean, log_var, target, root), reduction, where, weights)


def laplace_nll_loss(
    location: Tensor,
    log_scale: Tensor,
    target: Tensor,
    *,
    full: bool = False,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Negative log-likelihood of a Laplace distribution with predicted location and scale.

    $$\ell_i = t_i + |y_i - m_i|\,e^{-t_i}$$

    with $m_i$ an element of `location`, the mean and median, $t_i = \log b_i$ the same element of
    `log_scale` and $y_i$ that of `target`. The loss can be negative. It is to the absolute error
    what [`gaussian_nll_loss`][purelosses.gaussian_nll_loss] is to the squared one: outliers pull
    with a bounded force.

    Args:
        location: Predicted locations, any shape. Half precision is computed in float32.
        log_scale: Logarithms of the predicted scales, of the shape of `location`.
        target: Real values (or integers, or booleans) of the same shape.
        full: Whether to add the constant $\log 2$.
        where: Which elements count; shape of `location`, or 1 along an axis. What lies under False
            has no influence, whatever it is.
        weights: How much each element matters; shape of `location`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted sum
            by the number of elements that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 if `location`
        is. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, or `reduction` is unknown.
        TypeError: If a prediction is not floating or `where` not boolean.

    Examples:
        >>> location, target = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 3.0])
        >>> laplace_nll_loss(location, torch.tensor([0.0, 1.0]), target, reduction="none")
        tensor([1.0000, 2.1036])

    Coming from:
        `-torch.distributions.Laplace(m, b).log_prob(y)`: same value with `log_scale=b.log(),
        full=True, reduction="none"`.

    Source:
        Laplace, *Mémoire sur la probabilité des causes par les événements* (1774).
    """
    location, log_scale, target = elements(
        "laplace_nll_loss",
        where,
        weights,
        reduction,
        location=location,
        log_scale=log_scale,
        target=target,
    )
    losses = log_scale + (target - location).abs() * (-log_scale).exp()
    return reduce(
        _with_constant("laplace_nll_loss", losses, full, math.log(2)), reduction, where, weights
    )


def student_t_nll_loss(
    location: Tensor,
    log_scale: Tensor,
    target: Tensor,
    *,
    df: float | Tensor,
    full: bool = False,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Negative log-likelihood of a Student t distribution with predicted location and scale.

    $$\ell_i = t_i + \frac{\nu + 1}{2} \log\Bigl(1 + \frac{z_i^2}{\nu}\Bigr), \quad
    z_i = (y_i - m_i)\,e^{-t_i}$$

    with $m_i$ an element of `location`, $t_i$ the same element of `log_scale`, $y_i$ that of
    `target` and $\nu$ the degrees of freedom `df`. The loss can be negative. A large $\nu$ is the
    normal distribution, $\nu = 1$ the Cauchy distribution.

    `full` adds $\log \Gamma(\tfrac\nu2) - \log \Gamma(\tfrac{\nu+1}2) + \tfrac12 \log \nu\pi$, by a
    series that keeps its digits for large $\nu$. To learn $\nu$, that term is needed.

    Args:
        location: Predicted locations, any shape. Half precision is computed in float32.
        log_scale: Logarithms of the predicted scales, of the shape of `location`.
        target: Real values (or integers, or booleans) of the same shape.
        df: The degrees of freedom: smaller values expect more outliers. A positive number, or a
            0-dimensional tensor (to schedule or learn it).
        full: Whether to add the term that depends on `df` alone.
        where: Which elements count; shape of `location`, or 1 along an axis. What lies under False
            has no influence, whatever it is.
        weights: How much each element matters; shape of `location`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted sum
            by the number of elements that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 if `location`
        is. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, `df` is not positive, or
            `reduction` is unknown.
        TypeError: If a prediction is not floating or `where` not boolean.

    Examples:
        >>> location, target = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 100.0])
        >>> student_t_nll_loss(location, torch.zeros(2), target, df=3.0, reduction="none")
        tensor([ 0.5754, 16.2241])

    Coming from:
        `-torch.distributions.StudentT(df, m, scale).log_prob(y)` and `scipy.stats.t.logpdf`: same
        value with `log_scale=scale.log(), full=True, reduction="none"`.

    Source:
        Lange, Little, Taylor, *Robust Statistical Modeling Using the t Distribution*, JASA 84
        (1989).
    """
    df = check_number("student_t_nll_loss", "df", df, above=0)
    location, log_scale, target = elements(
        "student_t_nll_loss",
        where,
        weights,
        reduction,
        location=location,
        log_scale=log_scale,
        target=target,
    )
    df = as_scalar(df, location)
    residual = target - location
    z = residual * (-log_scale).exp() / df.sqrt()
    # Where z is large its logarithm will do; it does not overflow.
    huge = z.abs() > 1e10
    logarithm = torch.where(huge, residual, 1.0).abs().log() - log_scale - 0.5 * df.log()
    heavy = torch.where(huge, 2 * logarithm, log1p_square(torch.where(huge, 1.0, z)))
    losses = log_scale + 0.5 * (df + 1) * heavy
    constant = _HALF_LOG_2PI - log_rising(0.5 * df, torch.full_like(df, 0.5))
    return reduce(
        _with_constant("student_t_nll_loss", losses, full, constant), reduction, where, weights
    )


def gaussian_mixture_nll_loss(
    logits: Tensor,
    mean: Tensor,
    log_var: Tensor,
    target: Tensor,
    *,
    dim: int = -1,
    full: bool = False,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Negative log-likelihood of a mixture of normal distributions (mixture density network).

    $$\ell_i = -\log \sum_k \pi_{ik}\,e^{-\frac12 (s_{ik} + (y_i - \mu_{ik})^2 e^{-s_{ik}})}$$

    with $\pi_{ik}$ the softmax of `logits` over the components $k$, $\mu_{ik}$ an element of
    `mean`, $s_{ik} = \log \sigma_{ik}^2$ one of `log_var` and $y_i$ one of `target`. The loss can
    be negative. It is computed in logarithms throughout.

    It is not bounded below: a component may shrink onto one target. Bound `log_var` where it is
    made.

    Args:
        logits: Scores of the components before a softmax over `dim`. Half precision is computed in
            float32.
        mean: Means of the components, of the shape of `logits`.
        log_var: Logarithms of their variances, of the shape of `logits`.
        target: Real values (or integers), of the shape of `logits` without the axis `dim`.
        dim: The axis of the components.
        full: Whether to add the constant $\tfrac12 \log 2\pi$.
        where: Which elements count; shape of `target`, or 1 along an axis. What lies under False
            has no influence, whatever it is.
        weights: How much each element matters; shape of `target`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted sum
            by the number of elements that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element of `target` with `reduction="none"`. float32, or float64
        if `logits` is. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, `dim` is not an axis, or
            `reduction` is unknown.
        TypeError: If a prediction is not floating or `where` not boolean.

    Examples:
        >>> logits, mean = torch.zeros(3, 2), torch.tensor([[-1.0, 1.0]]).expand(3, 2)
        >>> target = torch.tensor([-1.0, 0.0, 1.0])
        >>> gaussian_mixture_nll_loss(logits, mean, torch.zeros(3, 2), target, reduction="none")
        tensor([0.5662, 0.5000, 0.5662])

    Coming from:
        `-MixtureSameFamily(Categorical(logits=a), Normal(m, s)).log_prob(y)` of
        `torch.distributions`: same value with `log_var=2 * s.log(), full=True, reduction="none"`.

    Source:
        Bishop, *Mixture Density Networks* (1994), eq. (29).
    """
    function = "gaussian_mixture_nll_loss"
    check_floating(function, "logits", logits)
    dim = check_axis(function, "dim", dim, logits.ndim, "logits")
    logits, mean, log_var, target = elements(
        function,
        where,
        weights,
        reduction,
        axes=(dim,),
        lacking=(dim,),
        logits=logits,
        mean=mean,
        log_var=log_var,
        target=target,
    )
    below, excess = log_partition(logits, dim)
    target = target.unsqueeze(dim)
    # A component whose square would overflow has no share; its gradient would be 0 times infinity.
    absent = _standardized(mean, log_var, target).abs() > 1e19
    density = -_gaussian(torch.where(absent, target, mean), log_var, target)
    terms = below - excess + torch.where(absent, -torch.inf, density)
    losses = -terms.logsumexp(dim)
    return reduce(_with_constant(function, losses, full, _HALF_LOG_2PI), reduction, where, weights)

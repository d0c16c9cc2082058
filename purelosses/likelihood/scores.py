r"""Proper scores of predicted distributions: lowest, on average, for the true one."""

import math

import torch
from torch import Tensor

from purelosses._checks import (
    check_axis,
    check_flag,
    check_floating,
    check_number,
    complain,
    elements,
)
from purelosses._numerics import along, norm
from purelosses._reduce import reduce
from purelosses._types import Reduction


def _check_members(function: str, prediction: Tensor, dim: int, fair: bool) -> int:
    """How many members an ensemble has."""
    check_flag(function, "fair", fair)
    members, least = prediction.shape[dim], 2 if fair else 1
    if members < least:
        must = f"have at least {least} members along axis {dim}"
        raise ValueError(complain(function, "prediction", must, members))
    return members


def crps_gaussian_loss(
    mean: Tensor,
    log_var: Tensor,
    target: Tensor,
    *,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Proper score of a predicted normal distribution, in units of the target.

    $$\ell_i = \sigma_i \Bigl( z_i\,\mathrm{erf}\frac{z_i}{\sqrt 2}
    + \sqrt{\tfrac2\pi}\,e^{-z_i^2 / 2} - \tfrac{1}{\sqrt\pi} \Bigr), \quad
    z_i = \frac{y_i - \mu_i}{\sigma_i}$$

    with $\mu_i$ an element of `mean`, $\sigma_i = e^{s_i / 2}$ from the same element $s_i$ of
    `log_var` and $y_i$ that of `target`. It is the continuous ranked probability score: the squared
    difference between the predicted distribution function and the step at the target, integrated.
    Unlike [`gaussian_nll_loss`][purelosses.gaussian_nll_loss] it is never negative and grows only
    linearly with the error; for $\sigma \to 0$ it is [`l1_loss`][purelosses.l1_loss].

    Args:
        mean: Predicted means, any shape. Half precision is computed in float32.
        log_var: Logarithms of the predicted variances, of the shape of `mean`.
        target: Real values (or integers, or booleans) of the same shape.
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
        >>> mean, target = torch.tensor([0.0, 0.0]), torch.tensor([0.0, 3.0])
        >>> crps_gaussian_loss(mean, torch.zeros(2), target, reduction="none")
        tensor([0.2337, 2.4366])

    Coming from:
        `properscoring.crps_gaussian(y, mu, sig)` and `scoringrules.crps_normal`: same value with
        `log_var=2 * log(sig), reduction="none"`.

    Source:
        Gneiting and Raftery, *Strictly Proper Scoring Rules, Prediction, and Estimation*, JASA 102
        (2007), eq. (21) and §4.2.
    """
    mean, log_var, target = elements(
        "crps_gaussian_loss", where, weights, reduction, mean=mean, log_var=log_var, target=target
    )
    residual, scale = target - mean, (0.5 * log_var).exp()
    # Beyond 40 standard deviations nothing changes, and z or its square could overflow.
    z = (residual * (-0.5 * log_var).exp()).clamp(-40, 40)
    bell = math.sqrt(2 / math.pi) * (-0.5 * z.square()).exp() - 1 / math.sqrt(math.pi)
    losses = residual * torch.erf(z * math.sqrt(0.5)) + scale * bell
    return reduce(losses, reduction, where, weights)


def crps_ensemble_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    dim: int = -1,
    fair: bool = False,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Proper score of an ensemble: its distance to the target less half its spread.

    $$\ell_i = \frac1M \sum_m |x_{im} - y_i| - \frac{1}{2 M^2} \sum_{m, n} |x_{im} - x_{in}|
    = \frac1M \sum_k \bigl( |d_{ik}| - c_k d_{ik} \bigr), \quad c_k = \frac{2k - M - 1}{M}$$

    with $x_{im}$ the $m$-th of $M$ members predicted for the element $y_i$ of `target`, and $d_{i1}
    \le \dots \le d_{iM}$ the sorted differences $x_{im} - y_i$. The second form is the one
    computed, in $O(M \log M)$: every term is at least 0, so nothing cancels. For one member it is
    the absolute error.

    Conventions: this is the score of the ensemble as a distribution. `fair` divides the spread by
    $M (M - 1)$ instead of $M^2$, so that ensembles of different sizes compare, and drawing more
    members from the same distribution gains nothing.

    Args:
        prediction: Members of an ensemble along `dim`, with any other axes. Half precision is
            computed in float32.
        target: Real values (or integers), of the shape of `prediction` without the axis `dim`.
        dim: The axis of the members.
        fair: Whether to score the distribution that the members were drawn from, rather than the
            members. Needs at least two.
        where: Which elements count; shape of `target`, or 1 along an axis. What lies under
            False has no influence, whatever it is.
        weights: How much each element matters; shape of `target`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted sum
            by the number of elements that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element of `target` with `reduction="none"`. float32, or float64
        for float64 predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, there are too few members, or
            `reduction` is unknown.
        TypeError: If a prediction is not floating or `where` not boolean.

    Examples:
        >>> members = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
        >>> crps_ensemble_loss(members, torch.tensor([1.0, 5.0]), reduction="none")
        tensor([0.2222, 3.5556])
        >>> crps_ensemble_loss(members, torch.tensor([1.0, 5.0]), fair=True, reduction="none")
        tensor([0.0000, 3.3333])

    Coming from:
        `properscoring.crps_ensemble(y, x)` and `scoringrules.crps_ensemble(y, x)`: same value with
        `reduction="none"`; `scoringrules`' `estimator="fair"` is `fair=True`. `torchmetrics` needs
        memory for all $M^2$ pairs.

    Source:
        Gneiting and Raftery, JASA 102 (2007), eq. (21); fair: Ferro, *Fair Scores for Ensemble
        Forecasts*, Q. J. R. Meteorol. Soc. 140 (2014).
    """
    function = "crps_ensemble_loss"
    check_floating(function, "prediction", prediction)
    dim = check_axis(function, "dim", dim, prediction.ndim, "prediction")
    members = _check_members(function, prediction, dim, fair)
    prediction, target = elements(
        function,
        where,
        weights,
        reduction,
        axes=(dim,),
        lacking=(dim,),
        prediction=prediction,
        target=target,
    )
    ranked = (prediction - target.unsqueeze(dim)).sort(dim).values
    rank = torch.arange(members, dtype=ranked.dtype, device=ranked.device)
    share = (2 * rank - (members - 1)) / (members - 1 if fair else members)
    losses = (ranked.abs() - along(share, dim, ranked.ndim) * ranked).mean(dim)
    return reduce(losses, reduction, where, weights)


def interval_score_loss(
    lower: Tensor,
    upper: Tensor,
    target: Tensor,
    *,
    alpha: float | Tensor,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Proper score of a central prediction interval: its width plus a charge for missing.

    $$\ell_i = (u_i - l_i) + \frac2\alpha (l_i - y_i)_+ + \frac2\alpha (y_i - u_i)_+$$

    with $l_i$ an element of `lower`, $u_i$ the same element of `upper`, $y_i$ that of `target`,
    $(\cdot)_+$ the positive part and $\alpha$ the share of targets that may lie outside. The best
    interval is between the $\tfrac\alpha2$ and the $1 - \tfrac\alpha2$ quantile. It is
    $\tfrac4\alpha$ times the mean [`quantile_loss`][purelosses.quantile_loss] of those two levels.

    Args:
        lower: Lower ends of the intervals, any shape. Half precision is computed in float32.
        upper: Upper ends, of the shape of `lower`.
        target: Real values (or integers, or booleans) of the same shape.
        alpha: The share of targets outside: 0.1 for an interval that covers 90 %. A number above 0
            and at most 1, or a 0-dimensional tensor (to schedule it).
        where: Which elements count; shape of `lower`, or 1 along an axis. What lies under False has
            no influence, whatever it is.
        weights: How much each element matters; shape of `lower`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted sum
            by the number of elements that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 if `lower`
        is. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, `alpha` is not above 0 and at
            most 1, or `reduction` is unknown.
        TypeError: If a prediction is not floating or `where` not boolean.

    Examples:
        >>> lower, upper, target = torch.zeros(3), torch.ones(3), torch.tensor([0.5, 1.1, -1.0])
        >>> interval_score_loss(lower, upper, target, alpha=0.1, reduction="none")
        tensor([ 1.0000,  3.0000, 21.0000])

    Coming from:
        `scoringrules.interval_score(y, l, u, alpha)`: same value with `reduction="none"`. Also
        called the Winkler score.

    Source:
        Gneiting and Raftery, JASA 102 (2007), eq. (43).
    """
    alpha = check_number("interval_score_loss", "alpha", alpha, above=0, maximum=1)
    lower, upper, target = elements(
        "interval_score_loss", where, weights, reduction, lower=lower, upper=upper, target=target
    )
    missed = torch.relu(lower - target) + torch.relu(target - upper)
    return reduce((upper - lower) + 2 / alpha * missed, reduction, where, weights)


def energy_score_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    dim: int = -1,
    ensemble_dim: int = -2,
    fair: bool = False,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Proper score of an ensemble of vectors: the CRPS with lengths for absolute values.

    $$\ell = \frac1M \sum_m \|x_m - y\| - \frac{1}{2 M^2} \sum_{m, n} \|x_m - x_n\|$$

    for every vector $y$ of `target` and the $M$ vectors $x_m$ predicted for it, with the Euclidean
    length, whose gradient at 0 is 0. For vectors of one number it is
    [`crps_ensemble_loss`][purelosses.crps_ensemble_loss]. It needs memory for all $M^2$ pairs.

    Conventions: `fair` is that of [`crps_ensemble_loss`][purelosses.crps_ensemble_loss]; lengths
    are not squared, and there is no square root over the whole.

    Args:
        prediction: Vectors along `dim`, one per member along `ensemble_dim`, with any other axes.
            Half precision is computed in float32.
        target: Real values (or integers), of the shape of `prediction` without the axis
            `ensemble_dim`.
        dim: The axis of `prediction` that one vector spans.
        ensemble_dim: The axis of `prediction` that holds the members.
        fair: Whether to divide the spread by $M (M - 1)$ instead of $M^2$: to score the
            distribution that the members were drawn from. Needs at least two.
        where: Which vectors count; shape of `target` without the axis of a vector, or 1 along an
            axis. What lies under False has no influence, whatever it is.
        weights: How much each vector matters; shape of `target` without the axis of a vector, or 1
            along an axis.
        reduction: What happens to the losses, one per vector: `"mean"` divides their weighted sum
            by the number of vectors that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per vector of `target` with `reduction="none"`. float32, or float64
        for float64 predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, `dim` and `ensemble_dim` are
            the same axis, there are too few members, or `reduction` is unknown.
        TypeError: If a prediction is not floating or `where` not boolean.

    Examples:
        >>> members = torch.tensor([[[3.0, 4.0], [-3.0, -4.0]]])
        >>> energy_score_loss(members, torch.zeros(1, 2), reduction="none")
        tensor([2.5000])

    Coming from:
        `scoringrules.es_ensemble(y, x)`: same value with `reduction="none"`; its `estimator="fair"`
        is `fair=True`.

    Source:
        Gneiting and Raftery, JASA 102 (2007), eq. (22).
    """
    function = "energy_score_loss"
    check_floating(function, "prediction", prediction)
    dim = check_axis(function, "dim", dim, prediction.ndim, "prediction")
    ensemble_dim = check_axis(function, "ensemble_dim", ensemble_dim, prediction.ndim, "prediction")
    if dim == ensemble_dim:
        must = "be another axis than `dim`"
        raise ValueError(complain(function, "ensemble_dim", must, ensemble_dim))
    members = _check_members(function, prediction, ensemble_dim, fair)
    prediction, target = elements(
        function,
        where,
        weights,
        reduction,
        axes=(ensemble_dim, dim),
        lacking=(ensemble_dim,),
        prediction=prediction,
        target=target,
    )
    residual = (prediction - target.unsqueeze(ensemble_dim)).movedim((ensemble_dim, dim), (-2, -1))
    pairs = residual.unsqueeze(-2) - residual.unsqueeze(-3)
    distance = norm(residual, (-1,)).mean((-2, -1))
    spread = norm(pairs, (-1,)).sum((-3, -2, -1)) / (members * (members - 1 if fair else members))
    return reduce(distance - 0.5 * spread, reduction, where, weights)

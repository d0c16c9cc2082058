r"""Losses that count residuals of one sign more: quantiles and expectiles."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from purelosses._checks import (
    check_axis,
    check_floating,
    check_number,
    check_real,
    complain,
    elements,
)
from purelosses._numerics import along, as_scalar
from purelosses._reduce import reduce
from purelosses._types import Reduction
from purelosses.regression.residual import residual_of


def _asymmetric(residual: Tensor, level: float | Tensor, rho: Callable[[Tensor], Tensor]) -> Tensor:
    """ρ(residual), times `level` where the target is above the prediction and 1 - level below."""
    return level * rho(torch.relu(-residual)) + (1 - level) * rho(torch.relu(residual))


def quantile_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    quantiles: float | Sequence[float] | Tensor = 0.5,
    dim: int = -1,
    crossing_penalty: float | Tensor = 0.0,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""The pinball loss: its best constant prediction is a quantile of the targets.

    $$\ell_i = \frac1K \sum_{k=1}^K
    \bigl( q_k\,(y_i - x_{ik})_+ + (1 - q_k)\,(x_{ik} - y_i)_+ \bigr)
    + \frac{\lambda}{K} \sum_{k=1}^{K-1} (x_{ik} - x_{i,k+1})_+$$

    with $y_i$ an element of `target`, $x_{ik}$ its predicted quantile for the level $q_k$ of
    `quantiles`, $(\cdot)_+$ the positive part and $\lambda$ the `crossing_penalty`, which charges
    quantiles that come out in the wrong order. For one quantile ($K = 1$) only the first term is
    left. The gradient at $x_{ik} = y_i$ is 0.

    Twice the mean over many evenly spaced levels approximates the
    [`crps_ensemble_loss`][purelosses.crps_ensemble_loss] of the predicted distribution.

    Args:
        prediction: Real values: of the shape of `target` for one quantile; with one more axis,
            `dim`, for several. Half precision is computed in float32.
        target: Real values (or integers, or booleans).
        quantiles: One level from 0 to 1, as a number or a 0-dimensional tensor; or several in
            rising order, as a sequence or a 1-dimensional tensor.
        dim: The axis of `prediction` that holds the quantiles, if there are several.
        crossing_penalty: What a unit of crossing costs. A number of at least 0, or a 0-dimensional
            tensor (to schedule it).
        where: Which elements count; shape of `target`, or 1 along an axis. What lies under False
            has no influence, whatever it is.
        weights: How much each element matters; shape of `target`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted sum
            by the number of elements that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 for float64
        predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, a level is not from 0 to 1 or
            not above the one before, or `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> target = torch.tensor([0.0, 1.0, 5.0])
        >>> quantile_loss(torch.full((3,), 1.0), target, quantiles=0.9, reduction="none")
        tensor([0.1000, 0.0000, 3.6000])
        >>> bands = torch.tensor([[-1.0, 0.0, 1.0]]).expand(3, 3)
        >>> quantile_loss(bands, target, quantiles=[0.1, 0.5, 0.9])
        tensor(0.8444)

    Coming from:
        `sklearn.metrics.mean_pinball_loss(y, x, alpha=q)`: same value. The $\max(q e, (q-1) e)$
        with $e = y - x$ of most code is this for one quantile; code for several often sums over the
        levels, where this is their mean.

    Source:
        Koenker and Bassett, *Regression Quantiles*, Econometrica 46 (1978).
    """
    function = "quantile_loss"
    check_floating(function, "prediction", prediction)
    levels = _check_levels(function, quantiles)
    crossing_penalty = check_number(function, "crossing_penalty", crossing_penalty, minimum=0)
    dim = check_axis(function, "dim", dim, max(prediction.ndim, 1), "prediction")
    if not isinstance(levels, list):
        residual = residual_of(function, prediction, target, where, weights, reduction)
        return reduce(_asymmetric(residual, levels, torch.abs), reduction, where, weights)

    if not prediction.ndim or prediction.shape[dim] != len(levels):
        must = f"have {len(levels)} entries along axis {dim}, one per quantile"
        raise ValueError(complain(function, "prediction", must, f"shape {tuple(prediction.shape)}"))
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
    level = along(torch.stack([as_scalar(q, prediction) for q in levels]), dim, prediction.ndim)
    residual = prediction - target.unsqueeze(dim)
    losses = _asymmetric(residual, level, torch.abs).mean(dim)
    if isinstance(crossing_penalty, Tensor) or crossing_penalty:
        rest = len(levels) - 1
        drop = prediction.narrow(dim, 0, rest) - prediction.narrow(dim, 1, rest)
        losses = losses + crossing_penalty * torch.relu(drop).sum(dim) / len(levels)
    return reduce(losses, reduction, where, weights)


def expectile_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    q: float | Tensor = 0.5,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared error that counts targets above and below the prediction differently.

    $$\ell_i = q\,(y_i - x_i)_+^2 + (1 - q)\,(x_i - y_i)_+^2$$

    with $x_i$ an element of `prediction`, $y_i$ the same element of `target` and $(\cdot)_+$ the
    positive part. The best constant prediction is the $q$-expectile of the targets, which is to the
    mean what a quantile is to the median; $q = \tfrac12$ is half of
    [`mse_loss`][purelosses.mse_loss].

    Args:
        prediction: Real values of any shape. Half precision is computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
        q: The share of targets above the prediction: larger values predict higher. A number from 0
            to 1, or a 0-dimensional tensor (to schedule it).
        where: Which elements count; shape of `prediction`, or 1 along an axis. What lies under
            False has no influence, whatever it is.
        weights: How much each element matters; shape of `prediction`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted sum
            by the number of elements that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 for float64
        predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, `q` is not from 0 to 1, or
            `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> expectile_loss(torch.zeros(2), torch.tensor([-1.0, 1.0]), q=0.9, reduction="none")
        tensor([0.1000, 0.9000])

    Coming from:
        The value loss of implicit Q-learning, `torch.where(diff > 0, tau, 1 - tau) * diff ** 2`
        with `diff = target - prediction`: same value. `scipy.stats.expectile(y, q)` is the constant
        that minimises it.

    Source:
        Newey and Powell, *Asymmetric Least Squares Estimation and Testing*, Econometrica 55 (1987).
    """
    q = check_number("expectile_loss", "q", q, minimum=0, maximum=1)
    residual = residual_of("expectile_loss", prediction, target, where, weights, reduction)
    return reduce(_asymmetric(residual, q, torch.square), reduction, where, weights)


def _check_levels(function: str, quantiles: Any) -> float | Tensor | list[float | Tensor]:
    """One level as it is; several, from a sequence or a 1-dimensional tensor, as a list."""
    several = isinstance(quantiles, Sequence) and not isinstance(quantiles, str)
    if isinstance(quantiles, Tensor) and quantiles.ndim:
        check_real(function, "quantiles", quantiles)
        if quantiles.ndim > 1 or not len(quantiles):
            must = "be one level, or several along one axis"
            raise ValueError(
                complain(function, "quantiles", must, f"shape {tuple(quantiles.shape)}")
            )
        return list(quantiles.unbind())
    if not several:
        return check_number(function, "quantiles", quantiles, minimum=0, maximum=1)
    levels = [
        check_number(function, f"quantiles[{k}]", level, minimum=0, maximum=1)
        for k, level in enumerate(quantiles)
    ]
    numbers = [level for level in levels if not isinstance(level, Tensor)]
    if not levels or any(a >= b for a, b in itertools.pairwise(numbers)):
        raise ValueError(complain(function, "quantiles", "rise", quantiles))
    return levels

r"""Losses of the residual between a prediction and a real-valued target."""

import torch
from torch import Tensor

from purelosses._checks import (
    check_floating,
    check_number,
    check_reduction,
    check_same_shape,
    check_weights,
    check_where,
)
from purelosses._numerics import promote
from purelosses._reduce import reduce
from purelosses._types import Reduction


def _residual(
    function: str,
    prediction: Tensor,
    target: Tensor,
    where: Tensor | None,
    weights: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """prediction - target of checked arguments, 0 where `where` is False."""
    check_floating(function, "prediction", prediction)
    check_same_shape(function, "target", target, "prediction", prediction)
    check_reduction(function, reduction)
    if weights is not None:
        check_weights(function, weights, prediction.shape, "`prediction`", prediction)
    prediction = promote(prediction)
    target = target.to(prediction.dtype)
    if where is not None:
        check_where(function, where, prediction.shape, "`prediction`", prediction)
        prediction = torch.where(where, prediction, 0.0)
        target = torch.where(where, target, 0.0)
    return prediction - target


def mse_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared difference between a prediction and a real-valued target.

    $$\ell_i = (x_i - y_i)^2$$

    with $x_i$ an element of `prediction` and $y_i$ the same element of `target`.

    Args:
        prediction: Real values of any shape. Half precision is computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
        where: Which elements count; shape of `prediction`, or 1 along an axis. What lies under
            False has no influence, whatever it is.
        weights: How much each element matters; shape of `prediction`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted
            sum by the number of elements that count, `"weighted_mean"` by the total weight,
            `"sum"` adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 for float64
        predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, or `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> prediction = torch.tensor([1.0, 2.0, 3.0])
        >>> target = torch.tensor([1.5, 2.5, 4.0])
        >>> mse_loss(prediction, target)
        tensor(0.5000)
        >>> mse_loss(prediction, target, weights=torch.tensor([0.5, 1.0, 2.0]))
        tensor(0.7917)

    Coming from:
        `torch.nn.functional.mse_loss`: same value; its `weight=` divides by the total weight,
        which is `reduction="weighted_mean"` here. `optax.squared_error` is `reduction="none"`.

    Source:
        Gauss, *Theoria motus corporum coelestium* (1809), §179.
    """
    residual = _residual("mse_loss", prediction, target, where, weights, reduction)
    return reduce(residual.square(), reduction, where, weights)


def l1_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Absolute difference between a prediction and a real-valued target.

    $$\ell_i = |x_i - y_i|$$

    with $x_i$ an element of `prediction` and $y_i$ the same element of `target`. The gradient is
    the sign of the residual, and 0 where the residual is 0.

    Args:
        prediction: Real values of any shape. Half precision is computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
        where: Which elements count; shape of `prediction`, or 1 along an axis. What lies under
            False has no influence, whatever it is.
        weights: How much each element matters; shape of `prediction`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted
            sum by the number of elements that count, `"weighted_mean"` by the total weight,
            `"sum"` adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 for float64
        predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, or `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> l1_loss(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.5, 2.5, 4.0]))
        tensor(0.6667)

    Coming from:
        `torch.nn.functional.l1_loss`: same value; its `weight=` divides by the total weight, which
        is `reduction="weighted_mean"` here.

    Source:
        Laplace, *Sur quelques points du système du monde* (1789).
    """
    residual = _residual("l1_loss", prediction, target, where, weights, reduction)
    return reduce(residual.abs(), reduction, where, weights)


def huber_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    delta: float | Tensor = 1.0,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared for small residuals, absolute for large ones: outliers pull with a bounded force.

    $$\ell_i = \begin{cases} \tfrac12 r_i^2 & |r_i| \le \delta \\
    \delta\,(|r_i| - \tfrac12\delta) & |r_i| > \delta \end{cases}
    \;=\; c_i\,(r_i - \tfrac12 c_i), \quad c_i = \min(\max(r_i, -\delta), \delta)$$

    with $r_i = x_i - y_i$ the residual of an element of `prediction` and of `target`, and $\delta$
    the residual at which the square becomes a line. The second form is the one computed; its
    derivative is $c_i$.

    Args:
        prediction: Real values of any shape. Half precision is computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
        delta: The largest force of one element, in units of the residual: smaller values ignore
            outliers more. A positive number, or a 0-dimensional tensor (to schedule or learn it).
        where: Which elements count; shape of `prediction`, or 1 along an axis. What lies under
            False has no influence, whatever it is.
        weights: How much each element matters; shape of `prediction`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted
            sum by the number of elements that count, `"weighted_mean"` by the total weight,
            `"sum"` adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 for float64
        predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, `delta` is not positive, or
            `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> prediction, target = torch.tensor([0.0, 0.0]), torch.tensor([0.5, 10.0])
        >>> huber_loss(prediction, target, delta=1.0, reduction="none")
        tensor([0.1250, 9.5000])

    Coming from:
        `torch.nn.functional.huber_loss`: same value; here `jacfwd(jacfwd(...))` works too.
        `torch.nn.functional.smooth_l1_loss(beta)` is this loss with `delta=beta`, divided by beta.
        `optax.huber_loss` is `reduction="none"`.

    Source:
        Huber, *Robust Estimation of a Location Parameter*, Ann. Math. Statist. 35 (1964), eq. (9).
    """
    delta = check_number("huber_loss", "delta", delta, above=0)
    residual = _residual("huber_loss", prediction, target, where, weights, reduction)
    clipped = residual.clamp(-delta, delta)  # type: ignore[arg-type]  # both bounds are of one type
    return reduce(clipped * (residual - 0.5 * clipped), reduction, where, weights)

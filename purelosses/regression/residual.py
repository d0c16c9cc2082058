r"""ρ(residual): losses that are one function of prediction minus target."""

import math

import torch
from torch import Tensor

from purelosses._checks import check_number, elements
from purelosses._numerics import as_scalar
from purelosses._reduce import reduce
from purelosses._types import Reduction


def residual_of(
    function: str,
    prediction: Tensor,
    target: Tensor,
    where: Tensor | None,
    weights: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    """prediction - target of checked arguments, 0 where `where` is False."""
    prediction, target = elements(
        function, where, weights, reduction, prediction=prediction, target=target
    )
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

    Conventions: without the ½ of `optax.l2_loss`.

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
    residual = residual_of("mse_loss", prediction, target, where, weights, reduction)
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
    residual = residual_of("l1_loss", prediction, target, where, weights, reduction)
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

    Conventions: the slope of the tails is $\delta$, so it is $\delta$ times the
    [`smooth_l1_loss`][purelosses.smooth_l1_loss] with `beta` = $\delta$, whose slope is 1.

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
    residual = residual_of("huber_loss", prediction, target, where, weights, reduction)
    clipped = residual.clamp(-delta, delta)  # type: ignore[arg-type]  # both bounds are of one type
    return reduce(clipped * (residual - 0.5 * clipped), reduction, where, weights)


def smooth_l1_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    beta: float | Tensor = 1.0,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Huber's loss in units of `beta`: the slope of the line is 1, whatever `beta` is.

    $$\ell_i = \begin{cases} \tfrac{1}{2\beta}\,r_i^2 & |r_i| \le \beta \\
    |r_i| - \tfrac12\beta & |r_i| > \beta \end{cases}$$

    with $r_i = x_i - y_i$ the residual of an element of `prediction` and of `target` and $\beta$
    the residual at which the square becomes a line. This is [`huber_loss`][purelosses.huber_loss]
    with $\delta = \beta$, divided by $\beta$: changing `beta` leaves the pull of outliers as it is,
    where changing Huber's `delta` scales it. $\beta = 0$ is the absolute error.

    Conventions: it is [`huber_loss`][purelosses.huber_loss] with `delta` = $\beta$, over $\beta$.

    Args:
        prediction: Real values of any shape. Half precision is computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
        beta: Where the square becomes a line, in units of the residual. A number of at least 0, or
            a 0-dimensional tensor (to schedule or learn it).
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
        ValueError: If shapes differ, `where` or `weights` do not fit, `beta` is negative, or
            `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> prediction, target = torch.tensor([0.0, 0.0]), torch.tensor([0.5, 10.0])
        >>> smooth_l1_loss(prediction, target, beta=2.0, reduction="none")
        tensor([0.0625, 9.0000])

    Coming from:
        `torch.nn.functional.smooth_l1_loss`: same value, including `beta=0`; here `beta` may be a
        tensor.

    Source:
        Girshick, *Fast R-CNN*, arXiv:1504.08083, eq. (3).
    """
    beta = check_number("smooth_l1_loss", "beta", beta, minimum=0)
    residual = residual_of("smooth_l1_loss", prediction, target, where, weights, reduction)

    clipped = residual.clamp(-beta, beta)  # type: ignore[arg-type]  # both bounds are of one type
    flat = beta == 0  # then nothing is square, and what is left of the slope is the sign
    slope = clipped / (beta + flat) + residual.sign() * flat
    return reduce(slope * (residual - 0.5 * clipped), reduction, where, weights)


def pseudo_huber_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    delta: float | Tensor = 1.0,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""A smooth Huber loss: a parabola that bends into a line, with derivatives of every order.

    $$\ell_i = \delta^2 \Bigl(\sqrt{1 + (r_i / \delta)^2} - 1\Bigr)
    = \frac{\delta\,r_i^2}{\sqrt{r_i^2 + \delta^2} + \delta}$$

    with $r_i = x_i - y_i$ the residual of an element of `prediction` and of `target` and $\delta$
    the residual around which the parabola $\tfrac12 r^2$ becomes a line of slope $\delta$. The
    second form is the one computed: nothing cancels at small residuals, nothing overflows at large
    ones.

    Conventions: divided by $\delta^2$ this is
    [`general_robust_loss`][purelosses.general_robust_loss] with $\alpha = 1$; divided by $\delta$
    and without its constant, [`charbonnier_loss`][purelosses.charbonnier_loss].

    Args:
        prediction: Real values of any shape. Half precision is computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
        delta: The largest force of one element, in units of the residual. A positive number, or a
            0-dimensional tensor (to schedule or learn it).
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
        ValueError: If shapes differ, `where` or `weights` do not fit, `delta` is not positive, or
            `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> prediction, target = torch.tensor([0.0, 0.0]), torch.tensor([0.5, 10.0])
        >>> pseudo_huber_loss(prediction, target, reduction="none")
        tensor([0.1180, 9.0499])

    Coming from:
        `kornia.losses.charbonnier_loss`: same value with `delta=1`.
        `scipy.special.pseudo_huber(delta, r)` is `reduction="none"`. The naive $\sqrt{1 + r^2} - 1$
        is 0 below $10^{-4}$ in float32.

    Source:
        Charbonnier et al., *Deterministic Edge-Preserving Regularization in Computed Imaging*, IEEE
        Trans. Image Process. 6 (1997); Hartley and Zisserman, *Multiple View Geometry* (2003),
        A6.8.
    """
    delta = check_number("pseudo_huber_loss", "delta", delta, above=0)
    residual = residual_of("pseudo_huber_loss", prediction, target, where, weights, reduction)

    delta = as_scalar(delta, residual)
    share = residual / (torch.hypot(residual, delta) + delta)  # from -1 to 1
    return reduce(residual * (delta * share), reduction, where, weights)


def charbonnier_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    eps: float | Tensor = 1e-3,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Absolute difference, rounded off at the bottom over a width `eps`.

    $$\ell_i = \sqrt{r_i^2 + \varepsilon^2}$$

    with $r_i = x_i - y_i$ the residual of an element of `prediction` and of `target` and
    $\varepsilon$ the width of the rounding. A perfect prediction costs $\varepsilon$, not 0.

    Conventions: image restoration writes it like this, without subtracting $\varepsilon$;
    [`pseudo_huber_loss`][purelosses.pseudo_huber_loss] subtracts it and multiplies by $\delta$.

    Args:
        prediction: Real values of any shape. Half precision is computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
        eps: The width of the rounding, in units of the residual. A positive number, or a
            0-dimensional tensor (to schedule or learn it).
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
        ValueError: If shapes differ, `where` or `weights` do not fit, `eps` is not positive, or
            `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> charbonnier_loss(torch.tensor([0.0, 3.0]), torch.zeros(2), eps=4.0, reduction="none")
        tensor([4., 5.])

    Coming from:
        `torch.sqrt((x - y) ** 2 + eps ** 2)` of restoration code (LapSRN, MIRNet): same value, but
        $r^2$ does not overflow here. Where the code adds `eps` itself under the root, pass its
        square root. `kornia.losses.charbonnier_loss` is
        [`pseudo_huber_loss`][purelosses.pseudo_huber_loss].

    Source:
        Lai et al., *Deep Laplacian Pyramid Networks*, arXiv:1704.03915, eq. (2).
    """
    eps = check_number("charbonnier_loss", "eps", eps, above=0)
    residual = residual_of("charbonnier_loss", prediction, target, where, weights, reduction)

    losses = torch.hypot(residual, as_scalar(eps, residual))
    return reduce(losses, reduction, where, weights)


def log_cosh_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Half the square for small residuals, the absolute value less log 2 for large ones.

    $$\ell_i = \log \cosh r_i = \begin{cases}
    \mathrm{log1p}(2 \sinh^2 \tfrac{r_i}{2}) & |r_i| < 1 \\
    |r_i| - \log 2 + \mathrm{log1p}(e^{-2 |r_i|}) & |r_i| \ge 1 \end{cases}$$

    with $r_i = x_i - y_i$ the residual of an element of `prediction` and of `target`. Its
    derivative is $\tanh r_i$, so no element pulls harder than 1. The second form is the one
    computed: the usual one, $|r| + \mathrm{log1p}(e^{-2|r|}) - \log 2$, is 0 below $10^{-4}$ in
    float32.

    Args:
        prediction: Real values of any shape. Half precision is computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
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
        ValueError: If shapes differ, `where` or `weights` do not fit, or `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> log_cosh_loss(torch.tensor([1e-4, 1.0, 100.0]), torch.zeros(3), reduction="none")
        tensor([5.0000e-09, 4.3378e-01, 9.9307e+01])

    Coming from:
        `optax.log_cosh` is `reduction="none"`, `keras.losses.LogCosh` and `torchmetrics` the mean:
        same value from $|r| = 0.1$ on, where theirs loses digits below. `torch.log(torch.cosh(x -
        y))` overflows from 89 on.

    Source:
        Chen, Ho, Jiang, Pan, *Log Hyperbolic Cosine Loss Improves Variational Auto-Encoder* (2019);
        Green, IEEE Trans. Med. Imaging 9 (1990), eq. (12).
    """
    residual = residual_of("log_cosh_loss", prediction, target, where, weights, reduction)

    near = residual.abs() < 1
    small = torch.where(near, residual, 0.0)
    large = torch.where(near, 1.0, residual.abs())
    inner = (2 * (0.5 * small).sinh().square()).log1p()
    outer = large - math.log(2) + (-2 * large).exp().log1p()
    return reduce(torch.where(near, inner, outer), reduction, where, weights)

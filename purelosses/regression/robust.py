r"""Robust losses: functions of the residual that limit what an outlier can do."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from purelosses._checks import check_device, check_floating, check_number, complain
from purelosses._numerics import as_scalar, expm1_ratio, log1p_square, one_minus_exp
from purelosses._reduce import reduce
from purelosses._types import Reduction
from purelosses.regression.residual import residual_of


def cauchy_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    scale: float | Tensor = 1.0,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Logarithmic in the residual: outliers pull ever less, though never quite nothing.

    $$\ell_i = \log\bigl(1 + \tfrac12 z_i^2\bigr)$$

    with $z_i = (x_i - y_i) / s$ the residual of an element of `prediction` and of `target` in units
    of $s$, the `scale`. The pull $z / (1 + \tfrac12 z^2) / s$ is strongest at $z = \sqrt 2$ and
    falls as $2 / z$. It is the negative log-likelihood of a Cauchy distribution whose scale is
    $\sqrt 2\,s$, and [`general_robust_loss`][purelosses.general_robust_loss] with $\alpha = 0$.
    Also called the Lorentzian. Nothing overflows: for $|z| > \sqrt 2$ it is computed as $2 \log |z|
    - \log 2 + \mathrm{log1p}(2 / z^2)$.

    Args:
        prediction: Real values of any shape. Half precision is computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
        scale: The size of an ordinary residual: what is much larger is an outlier. A positive
            number, or a 0-dimensional tensor (to schedule or learn it).
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
        ValueError: If shapes differ, `where` or `weights` do not fit, `scale` is not positive, or
            `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> cauchy_loss(torch.tensor([0.1, 1.0, 10.0]), torch.zeros(3), reduction="none")
        tensor([0.0050, 0.4055, 3.9318])

    Coming from:
        `kornia.losses.cauchy_loss` is `scale=1`. Where a library multiplies by $s^2$
        (`scipy.optimize.least_squares(loss="cauchy")`, Ceres), so must you: here $\ell \approx
        \tfrac12 z^2$ near 0.

    Source:
        Black and Anandan, *The Robust Estimation of Multiple Motions*, CVIU 63 (1996), fig. 5;
        Barron, arXiv:1701.03077, eq. (4).
    """
    scale = check_number("cauchy_loss", "scale", scale, above=0)
    residual = residual_of("cauchy_loss", prediction, target, where, weights, reduction)
    losses = log1p_square(residual / (scale * math.sqrt(2)))
    return reduce(losses, reduction, where, weights)


def geman_mcclure_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    scale: float | Tensor = 1.0,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Bounded: far outliers cost 2 and hardly pull at all.

    $$\ell_i = \frac{2 z_i^2}{z_i^2 + 4}$$

    with $z_i = (x_i - y_i) / s$ the residual of an element of `prediction` and of `target` in units
    of $s$, the `scale`. The pull falls as $16 / |z|^3$, so an element that starts far away may
    never be fetched: begin with a large `scale` and shrink it, or with a tamer loss. It is
    [`general_robust_loss`][purelosses.general_robust_loss] with $\alpha = -2$. For $|z| > 2$ it is
    computed from $1 / z$, so that nothing overflows.

    Args:
        prediction: Real values of any shape. Half precision is computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
        scale: The size of an ordinary residual: what is much larger is an outlier. A positive
            number, or a 0-dimensional tensor (to schedule or learn it).
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
        ValueError: If shapes differ, `where` or `weights` do not fit, `scale` is not positive, or
            `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> geman_mcclure_loss(torch.tensor([0.1, 2.0, 1e20]), torch.zeros(3), reduction="none")
        tensor([0.0050, 1.0000, 2.0000])

    Coming from:
        `kornia.losses.geman_mcclure_loss` is `scale=1` (and NaN from $10^{20}$ on). Geman and
        McClure's own $z^2 / (1 + z^2)$ is half of this with `scale=0.5`.

    Source:
        Geman and McClure, *Statistical Methods for Tomographic Image Reconstruction*, Bull. ISI 52
        (1987); this scaling: Barron, arXiv:1701.03077, eq. (5).
    """
    scale = check_number("geman_mcclure_loss", "scale", scale, above=0)
    residual = residual_of("geman_mcclure_loss", prediction, target, where, weights, reduction)
    half = residual / (2 * scale)
    large = half.abs() > 1
    fraction = torch.where(large, torch.where(large, half, 1.0).reciprocal(), half).square()
    losses = 2 * torch.where(large, 1.0, fraction) / (1 + fraction)
    return reduce(losses, reduction, where, weights)


def welsch_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    scale: float | Tensor = 1.0,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Bounded: beyond about three scales an outlier costs 1 and no longer pulls.

    $$\ell_i = 1 - e^{-z_i^2 / 2}$$

    with $z_i = (x_i - y_i) / s$ the residual of an element of `prediction` and of `target` in units
    of $s$, the `scale`. The pull vanishes as $e^{-z^2/2}$, so an element that starts far away is
    never fetched: begin with a large `scale` and shrink it, or with a tamer loss. It is the limit
    $\alpha \to -\infty$ of [`general_robust_loss`][purelosses.general_robust_loss]. Also called
    Leclerc's loss and, as a similarity, correntropy.

    Args:
        prediction: Real values of any shape. Half precision is computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
        scale: The size of an ordinary residual: what is much larger is an outlier. A positive
            number, or a 0-dimensional tensor (to schedule or learn it).
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
        ValueError: If shapes differ, `where` or `weights` do not fit, `scale` is not positive, or
            `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> welsch_loss(torch.tensor([1e-4, 1.0, 10.0]), torch.zeros(3), reduction="none")
        tensor([5.0000e-09, 3.9347e-01, 1.0000e+00])

    Coming from:
        `kornia.losses.welsch_loss` is `scale=1`. `1 - torch.exp(-0.5 * r ** 2)` is 0 below
        $10^{-4}$ in float32. The correntropy loss with kernel width $\sigma$ is `scale=sigma`.

    Source:
        Dennis and Welsch, *Techniques for Nonlinear Least Squares and Robust Regression* (1978);
        Liu, Pokharel, Principe, *Correntropy*, IEEE Trans. Signal Process. 55 (2007).
    """
    scale = check_number("welsch_loss", "scale", scale, above=0)
    residual = residual_of("welsch_loss", prediction, target, where, weights, reduction)
    losses = one_minus_exp(0.5 * (residual / scale).square())
    return reduce(losses, reduction, where, weights)


def tukey_biweight_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    c: float | Tensor = 4.685,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Half the square near 0, constant from `c` on: beyond `c` an outlier has no influence at all.

    $$\ell_i = \frac{c^2}{6} \Bigl(1 - (1 - t_i^2)^3\Bigr), \quad t_i = \min(|x_i - y_i| / c, 1)$$

    with $x_i$ an element of `prediction`, $y_i$ the same element of `target`, and $c$ the residual
    from which on nothing changes. The pull is $r (1 - t^2)^2$, exactly 0 beyond $c$: the residuals
    must be in units of their scale, and the start within reach.

    Args:
        prediction: Real values of any shape. Half precision is computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
        c: The residual from which on an element has no influence; 4.685 gives 95 % efficiency on
            normal residuals of variance 1. A positive number, or a 0-dimensional tensor (to
            schedule or learn it).
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
        ValueError: If shapes differ, `where` or `weights` do not fit, `c` is not positive, or
            `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> tukey_biweight_loss(torch.tensor([0.1, 1.0, 10.0]), torch.zeros(3), reduction="none")
        tensor([0.0050, 0.4776, 3.6582])

    Coming from:
        `statsmodels.robust.norms.TukeyBiweight(c).rho` is `reduction="none"`. `cv2` and
        scikit-image divide the residual by its scale first.

    Source:
        Beaton and Tukey, *The Fitting of Power Series, Meaning Polynomials*, Technometrics 16
        (1974).
    """
    c = check_number("tukey_biweight_loss", "c", c, above=0)
    residual = residual_of("tukey_biweight_loss", prediction, target, where, weights, reduction)

    ratio = residual.clamp(-c, c) / c  # type: ignore[arg-type]  # both bounds are of one type
    square = ratio.square()
    # Near 0 the difference from 1 would cancel; near 1 the derivative of its expansion would.
    inner = square * (3 - 3 * square + square.square())
    outer = 1 - ((1 - ratio) * (1 + ratio)) ** 3
    return reduce(c * c / 6 * torch.where(square < 0.5, inner, outer), reduction, where, weights)


def general_kernel(z: Tensor, alpha: Tensor) -> Tensor:
    """Barron's b / α ((z² / b + 1)^(α / 2) - 1) with b = |α - 2|, for every α."""
    eps = torch.finfo(z.dtype).eps
    alpha = alpha.clamp(-4 / eps, 4 / eps)  # beyond, only rounding changes
    below = alpha <= 2
    # Never 0, so that the derivative by α is finite.
    b = torch.where(below, 2 - alpha, alpha - 2) + eps**2
    root = b.sqrt()
    double_log = log1p_square(z / root)
    exponent = 0.5 * alpha * double_log
    middle, falls, rises = exponent.abs() <= 0.5, exponent < -0.5, exponent > 0.5

    # Around exponent 0, which includes α = 0: b / α expm1(exponent) without the division by α.
    smooth = 0.5 * b * double_log * expm1_ratio(torch.where(middle, exponent, 0.0))

    # Elsewhere α is far from 0: |exponent| > ½, and the logarithm is below 180.
    divisor = torch.where(alpha.abs() < 1e-3, 1.0, alpha)
    falling = b / divisor * (torch.where(falls, exponent, -1.0).exp() - 1)

    # A power is more accurate here than the exponential of a large number. Close to α = 2, where
    # z² / b would overflow, b^(1 - α/2) (z² + b)^(α/2) instead of b (z² / b + 1)^(α/2).
    close = (alpha - 2).abs() < 0.5
    unit = torch.where(close, 1.0, root)
    small = torch.where(close, b, 1.0)
    factor = torch.where(close, small ** torch.where(below, 0.5 * small, -0.5 * small), b)
    side = torch.where(rises, z, unit) / unit
    # Far out the root adds nothing, and torch multiplies a large slope by a large side.
    far = side.abs() > 1e9
    length = torch.where(far, side.abs(), torch.hypot(torch.where(far, 1.0, side), root / unit))
    rising = (factor * length ** torch.where(alpha > 0, alpha, 1.0) - b) / divisor
    return torch.where(middle, smooth, torch.where(falls, falling, rising))


def general_robust_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    alpha: float | Tensor = 1.0,
    scale: float | Tensor = 1.0,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""One family from the square to the Welsch loss: `alpha` says how little outliers count.

    $$\ell_i = \frac{|\alpha - 2|}{\alpha}
    \biggl(\Bigl(\frac{z_i^2}{|\alpha - 2|} + 1\Bigr)^{\alpha / 2} - 1\biggr)$$

    with $z_i = (x_i - y_i) / s$ the residual of an element of `prediction` and of `target` in units
    of $s$, the `scale`. At the values of $\alpha$ where the formula is 0/0 its limit is computed:

    | $\alpha$ | loss | |
    |---|---|---|
    | 2 | $\tfrac12 z^2$ | half of [`mse_loss`][purelosses.mse_loss] |
    | 1 | $\sqrt{z^2 + 1} - 1$ | [`pseudo_huber_loss`][purelosses.pseudo_huber_loss] |
    | 0 | $\log(\tfrac12 z^2 + 1)$ | [`cauchy_loss`][purelosses.cauchy_loss] |
    | −2 | $2 z^2 / (z^2 + 4)$ | [`geman_mcclure_loss`][purelosses.geman_mcclure_loss] |
    | −∞ | $1 - e^{-z^2/2}$ | [`welsch_loss`][purelosses.welsch_loss] |

    Every $\alpha$ keeps its digits, also beside those limits, and the derivative by $\alpha$ is
    finite everywhere. (At $\alpha = 2$ the true one is infinite, as $\log |\alpha - 2|$ is; there
    it is that of a neighbour.) To learn $\alpha$ by minimising the loss, use
    [`adaptive_robust_loss`][purelosses.adaptive_robust_loss]: this loss falls with $\alpha$
    whatever the data.

    Args:
        prediction: Real values of any shape. Half precision is computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
        alpha: The shape: smaller values ignore outliers more. Any number, infinities included, or a
            0-dimensional tensor (to schedule or differentiate it).
        scale: The size of an ordinary residual: what is much larger is an outlier. A positive
            number, or a 0-dimensional tensor (to schedule or learn it).
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
        ValueError: If shapes differ, `where` or `weights` do not fit, `alpha` is NaN, `scale` is
            not positive, or `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> residual = torch.tensor([0.1, 1.0, 100.0])
        >>> for alpha in (2.0, 1.0, 0.0, -torch.inf):
        ...     print(general_robust_loss(residual, torch.zeros(3), alpha=alpha, reduction="none"))
        tensor([5.0000e-03, 5.0000e-01, 5.0000e+03])
        tensor([4.9876e-03, 4.1421e-01, 9.9005e+01])
        tensor([4.9875e-03, 4.0547e-01, 8.5174e+00])
        tensor([0.0050, 0.3935, 1.0000])

    Coming from:
        `robust_loss_pytorch.general.lossfun(r, alpha, scale)` is `reduction="none"`; it moves
        $\alpha$ away from 0 and 2 by $10^{-6}$ unless `approximate=False`.

    Source:
        Barron, *A General and Adaptive Robust Loss Function*, arXiv:1701.03077, eq. (9).
    """
    alpha = check_number("general_robust_loss", "alpha", alpha, minimum=-math.inf)
    scale = check_number("general_robust_loss", "scale", scale, above=0)
    residual = residual_of("general_robust_loss", prediction, target, where, weights, reduction)

    losses = general_kernel(residual / scale, as_scalar(alpha, residual))
    return reduce(losses, reduction, where, weights)


def adaptive_robust_init(channels: int) -> dict[str, Tensor]:
    """Parameters for [`adaptive_robust_loss`][purelosses.adaptive_robust_loss]: α = 1, scale 1.

    Args:
        channels: How many losses to adapt: the length of the last axis of the predictions, or 1
            for one that all elements share.

    Returns:
        `{"alpha_logit": tensor, "log_scale": tensor}`, each of shape (channels,).

    Raises:
        ValueError: If there is not at least one channel.
        TypeError: If `channels` is not an integer.

    Examples:
        >>> adaptive_robust_init(2)
        {'alpha_logit': tensor([0., 0.]), 'log_scale': tensor([0., 0.])}
    """
    function = "adaptive_robust_init"
    if isinstance(channels, bool) or not isinstance(channels, int):
        raise TypeError(complain(function, "channels", "be an int", repr(channels)))
    if channels < 1:
        raise ValueError(complain(function, "channels", "be at least 1", channels))
    return {"alpha_logit": torch.zeros(channels), "log_scale": torch.zeros(channels)}


def adaptive_robust_loss(
    params: dict[str, Tensor],
    prediction: Tensor,
    target: Tensor,
    *,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""A robust loss that learns from the residuals how robust to be, channel by channel.

    $$\ell_i = \rho(z_i, \alpha_c) + \log s_c + \log Z(\alpha_c), \quad
    Z(\alpha) = \int_{-\infty}^{\infty} e^{-\rho(z, \alpha)}\,dz$$

    with $z_i = (x_i - y_i) / s_c$ the residual of an element of `prediction` and of `target`,
    $\rho$ the loss of [`general_robust_loss`][purelosses.general_robust_loss], and $c$ the place of
    the element along the last axis. Its parameters are learnt along with the network: $\alpha_c = 2
    \sigma(a_c)$ from `params["alpha_logit"]` $a_c$, and $s_c = e^{t_c}$ from `params["log_scale"]`
    $t_c$.

    It is a negative log-likelihood, so it can be negative: $\log Z$ makes robustness cost
    something, and the best $\alpha$ is that of the distribution of the residuals, from normal
    ($\alpha = 2$) to Cauchy ($\alpha = 0$). $Z$ is summed over 321 fixed points, exact to rounding.
    Weight decay on `params` distorts them.

    Args:
        params: What [`adaptive_robust_init`][purelosses.adaptive_robust_init] returns, as learnt so
            far.
        prediction: Real values with at least one axis; the last one holds the channels. Half
            precision is computed in float32.
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
        ValueError: If shapes differ, `where` or `weights` do not fit, the parameters do not fit, or
            `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> params = adaptive_robust_init(2)
        >>> prediction, target = torch.tensor([[0.1, 0.2], [0.3, 9.0]]), torch.zeros(2, 2)
        >>> adaptive_robust_loss(params, prediction, target)
        tensor(3.2165)
        >>> torch.func.grad(adaptive_robust_loss)(params, prediction, target)["log_scale"]
        tensor([ 0.4760, -1.7460])

    Coming from:
        `robust_loss_pytorch.AdaptiveLossFunction(num_dims).lossfun(r)` is `reduction="none"` with
        $\alpha$ from 0.001 to 1.999, a softplus for the scale, and $\log Z$ from a table.

    Source:
        Barron, *A General and Adaptive Robust Loss Function*, arXiv:1701.03077, §3 and eq. (16).
    """
    function = "adaptive_robust_loss"
    residual = residual_of(function, prediction, target, where, weights, reduction)
    logit, log_scale = _check_parameters(function, params, residual)
    alpha = 2 * logit.sigmoid()
    losses = general_kernel(residual * (-log_scale).exp(), alpha)
    return reduce(losses + (log_scale + _log_partition(alpha)), reduction, where, weights)


def _check_parameters(function: str, params: object, like: Tensor) -> tuple[Tensor, Tensor]:
    """The two parameters, in the dtype of the data."""
    names = ("alpha_logit", "log_scale")
    if not isinstance(params, Mapping) or set(params) != set(names):
        must = f"be a dict of the tensors {names[0]!r} and {names[1]!r}"
        got = sorted(map(str, params)) if isinstance(params, Mapping) else type(params).__name__
        raise ValueError(complain(function, "params", must, got))
    if not like.ndim:
        raise ValueError(complain(function, "prediction", "have at least one axis", "shape ()"))
    for name in names:
        argument, value = f"params[{name!r}]", params[name]
        check_floating(function, argument, value)
        if value.shape not in ((1,), like.shape[-1:]):
            must = f"have one entry, or one per channel, shape ({like.shape[-1]},)"
            raise ValueError(complain(function, argument, must, tuple(value.shape)))
        check_device(function, argument, value, like)
    return params[names[0]].to(like.dtype), params[names[1]].to(like.dtype)


def _log_partition(alpha: Tensor) -> Tensor:
    """log ∫ exp(-ρ(z, α)) dz for 0 ≤ α ≤ 2.

    With z = √b sinh u the integrand falls at least as e^(-|u|), and the trapezoidal rule converges
    geometrically: a step of 1/8 is exact to 1e-14.
    """
    alpha = alpha.unsqueeze(-1)
    # Any points give the same integral, so its derivative does not follow them.
    root = (2 - alpha.detach() + torch.finfo(alpha.dtype).eps ** 2).sqrt()
    u = torch.arange(321, dtype=alpha.dtype, device=alpha.device) / 8
    log_cosh = u - math.log(2) + (-2 * u).exp().log1p()
    # Every point but the first stands for -u too.
    log_weights = torch.where(u == 0, log_cosh - math.log(2), log_cosh)
    logs = log_weights - general_kernel(root * u.sinh(), alpha)
    return logs.logsumexp(-1) + root.squeeze(-1).log() - math.log(4)

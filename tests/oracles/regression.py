"""Oracles of the regression losses."""

import numpy as np
from mpmath import mp, mpf
from scipy.integrate import quad
from scipy.special import expit

from oracles.core import reduced


def mse_loss(prediction, target, *, where=None, weights=None, reduction="mean"):
    return reduced((prediction - target) ** 2, reduction, where, weights)


def l1_loss(prediction, target, *, where=None, weights=None, reduction="mean"):
    return reduced(np.abs(prediction - target), reduction, where, weights)


def huber_loss(prediction, target, *, delta=1.0, where=None, weights=None, reduction="mean"):
    r = np.abs(prediction - target)
    losses = np.where(r <= delta, r**2 / 2, delta * (r - delta / 2))
    return reduced(losses, reduction, where, weights)


def smooth_l1_loss(prediction, target, *, beta=1.0, where=None, weights=None, reduction="mean"):
    r = np.abs(prediction - target)
    if beta == 0:
        return reduced(r, reduction, where, weights)
    losses = np.where(r <= beta, r**2 / (2 * beta), r - beta / 2)
    return reduced(losses, reduction, where, weights)


def pseudo_huber_loss(prediction, target, *, delta=1.0, where=None, weights=None, reduction="mean"):
    losses = delta**2 * (np.sqrt(1 + ((prediction - target) / delta) ** 2) - 1)
    return reduced(losses, reduction, where, weights)


def charbonnier_loss(prediction, target, *, eps=1e-3, where=None, weights=None, reduction="mean"):
    return reduced(np.sqrt((prediction - target) ** 2 + eps**2), reduction, where, weights)


def log_cosh_loss(prediction, target, *, where=None, weights=None, reduction="mean"):
    return reduced(np.log(np.cosh(prediction - target)), reduction, where, weights)


def cauchy_loss(prediction, target, *, scale=1.0, where=None, weights=None, reduction="mean"):
    z = (prediction - target) / scale
    return reduced(np.log(1 + z**2 / 2), reduction, where, weights)


def geman_mcclure_loss(
    prediction, target, *, scale=1.0, where=None, weights=None, reduction="mean"
):
    z = (prediction - target) / scale
    return reduced(2 * z**2 / (z**2 + 4), reduction, where, weights)


def welsch_loss(prediction, target, *, scale=1.0, where=None, weights=None, reduction="mean"):
    z = (prediction - target) / scale
    return reduced(1 - np.exp(-(z**2) / 2), reduction, where, weights)


def tukey_biweight_loss(prediction, target, *, c=4.685, where=None, weights=None, reduction="mean"):
    t = np.minimum(np.abs(prediction - target) / c, 1)
    return reduced(c**2 / 6 * (1 - (1 - t**2) ** 3), reduction, where, weights)


def robust_kernel(z, alpha):
    """Barron's family; its limits where the formula is 0/0."""
    if alpha == 2:
        return z**2 / 2
    if alpha == 0:
        return np.log(z**2 / 2 + 1)
    if alpha == -np.inf:
        return 1 - np.exp(-(z**2) / 2)
    b = np.abs(alpha - 2)
    return b / alpha * ((z**2 / b + 1) ** (alpha / 2) - 1)


def general_robust_loss(
    prediction, target, *, alpha=1.0, scale=1.0, where=None, weights=None, reduction="mean"
):
    losses = robust_kernel((prediction - target) / scale, alpha)
    return reduced(losses, reduction, where, weights)


def adaptive_robust_loss(params, prediction, target, *, where=None, weights=None, reduction="mean"):
    alpha, scale = 2 * expit(params["alpha_logit"]), np.exp(params["log_scale"])
    partition = [
        # z = sinh(u), so that heavy tails end
        quad(lambda u, a=a: np.cosh(u) * np.exp(-robust_kernel(np.sinh(u), a)), -40, 40,
             epsabs=0, epsrel=1e-13, limit=500)[0]
        for a in alpha
    ]  # fmt: skip
    shape = np.broadcast_to(alpha, prediction.shape)
    kernel = np.vectorize(robust_kernel)((prediction - target) / scale, shape)
    return reduced(kernel + np.log(scale) + np.log(partition), reduction, where, weights)


def quantile_loss(
    prediction,
    target,
    *,
    quantiles=0.5,
    dim=-1,
    crossing_penalty=0.0,
    where=None,
    weights=None,
    reduction="mean",
):
    levels = np.atleast_1d(quantiles)
    x = prediction[..., None] if np.ndim(quantiles) == 0 else np.moveaxis(prediction, dim, -1)
    error = target[..., None] - x
    losses = np.maximum(levels * error, (levels - 1) * error).sum(-1)
    losses = losses + crossing_penalty * np.maximum(x[..., :-1] - x[..., 1:], 0).sum(-1)
    return reduced(losses / len(levels), reduction, where, weights)


def expectile_loss(prediction, target, *, q=0.5, where=None, weights=None, reduction="mean"):
    error = target - prediction
    return reduced(np.where(error > 0, q, 1 - q) * error**2, reduction, where, weights)


def squared_log_loss(prediction, target, *, where=None, weights=None, reduction="mean"):
    losses = (np.log(1 + prediction) - np.log(1 + target)) ** 2
    return reduced(losses, reduction, where, weights)


def absolute_percentage_loss(prediction, target, *, where=None, weights=None, reduction="mean"):
    return reduced(np.abs(prediction - target) / np.abs(target), reduction, where, weights)


def symmetric_percentage_loss(prediction, target, *, where=None, weights=None, reduction="mean"):
    losses = 2 * np.abs(prediction - target) / (np.abs(prediction) + np.abs(target))
    return reduced(losses, reduction, where, weights)


def cosine_distance_loss(prediction, target, *, dim=-1, where=None, weights=None, reduction="mean"):
    lengths = np.sqrt((prediction**2).sum(dim) * (target**2).sum(dim))
    losses = 1 - (prediction * target).sum(dim) / lengths
    return reduced(losses, reduction, where, weights)


def relative_l2_loss(prediction, target, *, dim=-1, where=None, weights=None, reduction="mean"):
    losses = np.sqrt(((prediction - target) ** 2).sum(dim) / (target**2).sum(dim))
    return reduced(losses, reduction, where, weights)


def exact_mse(x, y):
    return (mpf(x) - mpf(y)) ** 2


def exact_l1(x, y):
    return abs(mpf(x) - mpf(y))


def exact_huber(x, y, delta):
    r, delta = abs(mpf(x) - mpf(y)), mpf(delta)
    return r**2 / 2 if r <= delta else delta * (r - delta / 2)


def exact_smooth_l1(x, y, beta=1.0):
    return exact_huber(x, y, beta) / mpf(beta) if beta else exact_l1(x, y)


def exact_pseudo_huber(x, y, delta=1.0):
    r, delta = mpf(x) - mpf(y), mpf(delta)
    return delta**2 * (mp.sqrt(1 + (r / delta) ** 2) - 1)


def exact_charbonnier(x, y, eps=1e-3):
    return mp.sqrt((mpf(x) - mpf(y)) ** 2 + mpf(eps) ** 2)


def exact_log_cosh(x, y):
    r = abs(mpf(x) - mpf(y))
    return r + mp.log1p(mp.exp(-2 * r)) - mp.log(2)


def exact_general_robust(x, y, alpha=1.0, scale=1.0):
    square = ((mpf(x) - mpf(y)) / mpf(scale)) ** 2
    if alpha == -mp.inf:
        return -mp.expm1(-square / 2)
    alpha = mpf(alpha)
    if alpha in (0, 2):
        return square / 2 if alpha == 2 else mp.log1p(square / 2)
    b = abs(alpha - 2)
    return b / alpha * mp.expm1(alpha / 2 * mp.log1p(square / b))


def exact_cauchy(x, y, scale=1.0):
    return exact_general_robust(x, y, 0, scale)


def exact_geman_mcclure(x, y, scale=1.0):
    return exact_general_robust(x, y, -2, scale)


def exact_welsch(x, y, scale=1.0):
    return exact_general_robust(x, y, -mp.inf, scale)


def exact_tukey_biweight(x, y, c=4.685):
    c = mpf(c)
    t = min(abs(mpf(x) - mpf(y)) / c, 1)
    return c**2 / 6 * (1 - (1 - t**2) ** 3)


def exact_quantile(x, y, quantiles=0.5):
    error, q = mpf(y) - mpf(x), mpf(quantiles)
    return max(q * error, (q - 1) * error)


def exact_expectile(x, y, q=0.5):
    error, q = mpf(y) - mpf(x), mpf(q)
    return (q if error > 0 else 1 - q) * error**2


def exact_squared_log(x, y):
    return (mp.log1p(mpf(x)) - mp.log1p(mpf(y))) ** 2


def exact_absolute_percentage(x, y):
    return abs(mpf(x) - mpf(y)) / abs(mpf(y)) if x != y else mpf(0)


def exact_symmetric_percentage(x, y):
    return 2 * abs(mpf(x) - mpf(y)) / (abs(mpf(x)) + abs(mpf(y))) if x or y else mpf(0)


ORACLES = (
    mse_loss,
    l1_loss,
    huber_loss,
    smooth_l1_loss,
    pseudo_huber_loss,
    charbonnier_loss,
    log_cosh_loss,
    cauchy_loss,
    geman_mcclure_loss,
    welsch_loss,
    tukey_biweight_loss,
    general_robust_loss,
    adaptive_robust_loss,
    quantile_loss,
    expectile_loss,
    squared_log_loss,
    absolute_percentage_loss,
    symmetric_percentage_loss,
    cosine_distance_loss,
    relative_l2_loss,
)
EXACT = {
    "mse_loss": exact_mse,
    "l1_loss": exact_l1,
    "huber_loss": exact_huber,
    "smooth_l1_loss": exact_smooth_l1,
    "pseudo_huber_loss": exact_pseudo_huber,
    "charbonnier_loss": exact_charbonnier,
    "log_cosh_loss": exact_log_cosh,
    "cauchy_loss": exact_cauchy,
    "geman_mcclure_loss": exact_geman_mcclure,
    "welsch_loss": exact_welsch,
    "tukey_biweight_loss": exact_tukey_biweight,
    "general_robust_loss": exact_general_robust,
    "quantile_loss": exact_quantile,
    "expectile_loss": exact_expectile,
    "squared_log_loss": exact_squared_log,
    "absolute_percentage_loss": exact_absolute_percentage,
    "symmetric_percentage_loss": exact_symmetric_percentage,
}

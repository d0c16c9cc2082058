"""Oracles of the losses of predicted distributions; densities as SciPy writes them."""

import numpy as np
from mpmath import mp, mpf
from scipy import stats
from scipy.special import erf, gammaln, log_softmax, logsumexp

from oracles.core import reduced

HALF_LOG_2PI = np.log(2 * np.pi) / 2


def gaussian_nll_loss(
    mean, log_var, target, *, full=False, where=None, weights=None, reduction="mean"
):
    losses = -stats.norm.logpdf(target, mean, np.exp(log_var / 2))
    return reduced(losses - (0 if full else HALF_LOG_2PI), reduction, where, weights)


def beta_gaussian_nll_loss(
    mean, log_var, target, *, beta=0.5, where=None, weights=None, reduction="mean"
):
    losses = np.exp(beta * log_var) * (log_var + (target - mean) ** 2 / np.exp(log_var)) / 2
    return reduced(losses, reduction, where, weights)


def laplace_nll_loss(
    location, log_scale, target, *, full=False, where=None, weights=None, reduction="mean"
):
    losses = -stats.laplace.logpdf(target, location, np.exp(log_scale))
    return reduced(losses - (0 if full else np.log(2)), reduction, where, weights)


def student_t_nll_loss(
    location, log_scale, target, *, df, full=False, where=None, weights=None, reduction="mean"
):
    losses = -stats.t.logpdf(target, df, location, np.exp(log_scale))
    constant = gammaln(df / 2) - gammaln((df + 1) / 2) + np.log(df * np.pi) / 2
    return reduced(losses - (0 if full else constant), reduction, where, weights)


def gaussian_mixture_nll_loss(
    logits, mean, log_var, target, *, dim=-1, full=False, where=None, weights=None, reduction="mean"
):
    density = stats.norm.logpdf(np.expand_dims(target, dim), mean, np.exp(log_var / 2))
    losses = -logsumexp(log_softmax(logits, axis=dim) + density, axis=dim)
    return reduced(losses - (0 if full else HALF_LOG_2PI), reduction, where, weights)


def poisson_nll_loss(log_rate, target, *, full=False, where=None, weights=None, reduction="mean"):
    losses = -stats.poisson.logpmf(target, np.exp(log_rate))
    return reduced(losses - (0 if full else gammaln(target + 1)), reduction, where, weights)


def gamma_nll_loss(
    log_mean, log_shape, target, *, full=False, where=None, weights=None, reduction="mean"
):
    shape = np.exp(log_shape)
    losses = -stats.gamma.logpdf(target, shape, scale=np.exp(log_mean) / shape)
    return reduced(losses - (0 if full else np.log(target)), reduction, where, weights)


def negative_binomial_nll_loss(
    log_mean, log_shape, target, *, full=False, where=None, weights=None, reduction="mean"
):
    r, mu = np.exp(log_shape), np.exp(log_mean)
    losses = -stats.nbinom.logpmf(target, r, r / (r + mu))
    return reduced(losses - (0 if full else gammaln(target + 1)), reduction, where, weights)


def tweedie_deviance_loss(
    log_mean, target, *, power=1.5, where=None, weights=None, reduction="mean"
):
    p, y, mu = float(power), target, np.exp(log_mean)
    if p in (1, 2):
        logarithm = np.log(np.where(y > 0, y, 1) / mu)
        losses = y * logarithm - y + mu if p == 1 else y / mu - 1 - logarithm
    else:
        a = 2 - p
        losses = y**a / ((1 - p) * a) - y * mu ** (1 - p) / (1 - p) + mu**a / a
    return reduced(2 * losses, reduction, where, weights)


def crps_gaussian_loss(mean, log_var, target, *, where=None, weights=None, reduction="mean"):
    sigma = np.exp(log_var / 2)
    z = (target - mean) / sigma
    bell = np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2)
    losses = sigma * (z * erf(z / np.sqrt(2)) + bell - 1 / np.sqrt(np.pi))
    return reduced(losses, reduction, where, weights)


def energy(members, target, fair):
    """members (..., M, D), target (..., D): all pairs, as the definition has them."""
    count = members.shape[-2]
    distance = np.linalg.norm(members - target[..., None, :], axis=-1).mean(-1)
    pairs = members[..., :, None, :] - members[..., None, :, :]
    spread = np.linalg.norm(pairs, axis=-1).sum((-2, -1))
    return distance - spread / (2 * count * (count - 1 if fair else count))


def crps_ensemble_loss(
    prediction, target, *, dim=-1, fair=False, where=None, weights=None, reduction="mean"
):
    members = np.moveaxis(prediction, dim, -1)[..., None]
    return reduced(energy(members, target[..., None], fair), reduction, where, weights)


def interval_score_loss(lower, upper, target, *, alpha, where=None, weights=None, reduction="mean"):
    below, above = np.maximum(lower - target, 0), np.maximum(target - upper, 0)
    return reduced(upper - lower + 2 / alpha * (below + above), reduction, where, weights)


def energy_score_loss(
    prediction,
    target,
    *,
    dim=-1,
    ensemble_dim=-2,
    fair=False,
    where=None,
    weights=None,
    reduction="mean",
):
    members = np.moveaxis(prediction, (ensemble_dim, dim), (-2, -1))
    axis = dim % prediction.ndim
    axis -= ensemble_dim % prediction.ndim < axis  # in the target, which has no members
    return reduced(energy(members, np.moveaxis(target, axis, -1), fair), reduction, where, weights)


def exact_gaussian(mu, s, y, full=False):
    losses = (mpf(s) + (mpf(y) - mpf(mu)) ** 2 * mp.exp(-mpf(s))) / 2
    return losses + (mp.log(2 * mp.pi) / 2 if full else 0)


def exact_laplace(m, t, y):
    return mpf(t) + abs(mpf(y) - mpf(m)) * mp.exp(-mpf(t))


def exact_student_t(m, t, y, df, full=False):
    df, z = mpf(df), (mpf(y) - mpf(m)) * mp.exp(-mpf(t))
    losses = mpf(t) + (df + 1) / 2 * mp.log1p(z**2 / df)
    constant = mp.loggamma(df / 2) - mp.loggamma((df + 1) / 2) + mp.log(df * mp.pi) / 2
    return losses + (constant if full else 0)


def exact_poisson(s, y, full=False):
    return mp.exp(mpf(s)) - mpf(y) * mpf(s) + (mp.loggamma(mpf(y) + 1) if full else 0)


def exact_gamma(s, kappa, y, full=False):
    k, ratio = mp.exp(mpf(kappa)), mpf(y) / mp.exp(mpf(s))
    losses = k * (ratio - 1 - mp.log(ratio)) + mp.loggamma(k) - k * mp.log(k) + k
    return losses + (mp.log(mpf(y)) if full else 0)


def exact_negative_binomial(s, kappa, y, full=False):
    mu, r, y = mp.exp(mpf(s)), mp.exp(mpf(kappa)), mpf(y)
    losses = (r + y) * mp.log1p(mu / r) - y * mp.log(mu / r)
    losses -= mp.loggamma(r + y) - mp.loggamma(r)
    return losses + (mp.loggamma(y + 1) if full else 0)


def exact_tweedie(s, y, power=1.5):
    p, y, mu = mpf(power), mpf(y), mp.exp(mpf(s))
    if p == 1:
        return 2 * ((y * mp.log(y / mu) if y else 0) - y + mu)
    if p == 2:
        return 2 * (y / mu - 1 - mp.log(y / mu))
    a = 2 - p
    return 2 * (y**a / ((1 - p) * a) - y * mu ** (1 - p) / (1 - p) + mu**a / a)


def exact_crps_gaussian(mu, s, y):
    sigma = mp.exp(mpf(s) / 2)
    z = (mpf(y) - mpf(mu)) / sigma
    bell = mp.sqrt(2 / mp.pi) * mp.exp(-(z**2) / 2) - 1 / mp.sqrt(mp.pi)
    return sigma * (z * mp.erf(z / mp.sqrt(2)) + bell)


ORACLES = (
    gaussian_nll_loss,
    beta_gaussian_nll_loss,
    laplace_nll_loss,
    student_t_nll_loss,
    gaussian_mixture_nll_loss,
    poisson_nll_loss,
    gamma_nll_loss,
    negative_binomial_nll_loss,
    tweedie_deviance_loss,
    crps_gaussian_loss,
    crps_ensemble_loss,
    interval_score_loss,
    energy_score_loss,
)
EXACT = {
    "gaussian_nll_loss": exact_gaussian,
    "laplace_nll_loss": exact_laplace,
    "student_t_nll_loss": exact_student_t,
    "poisson_nll_loss": exact_poisson,
    "gamma_nll_loss": exact_gamma,
    "negative_binomial_nll_loss": exact_negative_binomial,
    "tweedie_deviance_loss": exact_tweedie,
    "crps_gaussian_loss": exact_crps_gaussian,
}

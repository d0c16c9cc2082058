r"""Losses of a predicted distribution: negative log-likelihoods, and proper scores.

Positive parameters are predicted by their logarithm (`log_var`, `log_scale`, `log_rate`, …), so no
clamp is needed and no output of a network is out of range.
"""

from purelosses.likelihood.counts import (
    gamma_nll_loss,
    negative_binomial_nll_loss,
    poisson_nll_loss,
    tweedie_deviance_loss,
)
from purelosses.likelihood.density import (
    beta_gaussian_nll_loss,
    gaussian_mixture_nll_loss,
    gaussian_nll_loss,
    laplace_nll_loss,
    student_t_nll_loss,
)
from purelosses.likelihood.scores import (
    crps_ensemble_loss,
    crps_gaussian_loss,
    energy_score_loss,
    interval_score_loss,
)

__all__ = [
    "beta_gaussian_nll_loss",
    "crps_ensemble_loss",
    "crps_gaussian_loss",
    "energy_score_loss",
    "gamma_nll_loss",
    "gaussian_mixture_nll_loss",
    "gaussian_nll_loss",
    "interval_score_loss",
    "laplace_nll_loss",
    "negative_binomial_nll_loss",
    "poisson_nll_loss",
    "student_t_nll_loss",
    "tweedie_deviance_loss",
]

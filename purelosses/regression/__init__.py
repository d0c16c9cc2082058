r"""Losses between a prediction and a real-valued target.

Most are one function of the residual, ρ(prediction - target): the square and its relatives, robust
kernels that limit what an outlier can do, and asymmetric ones for quantiles. The others measure the
error against the size of the target, or compare directions.
"""

from purelosses.regression.quantile import expectile_loss, quantile_loss
from purelosses.regression.relative import (
    absolute_percentage_loss,
    cosine_distance_loss,
    relative_l2_loss,
    squared_log_loss,
    symmetric_percentage_loss,
)
from purelosses.regression.residual import (
    charbonnier_loss,
    huber_loss,
    l1_loss,
    log_cosh_loss,
    mse_loss,
    pseudo_huber_loss,
    smooth_l1_loss,
)
from purelosses.regression.robust import (
    adaptive_robust_init,
    adaptive_robust_loss,
    cauchy_loss,
    geman_mcclure_loss,
    general_robust_loss,
    tukey_biweight_loss,
    welsch_loss,
)

__all__ = [
    "absolute_percentage_loss",
    "adaptive_robust_init",
    "adaptive_robust_loss",
    "cauchy_loss",
    "charbonnier_loss",
    "cosine_distance_loss",
    "expectile_loss",
    "geman_mcclure_loss",
    "general_robust_loss",
    "huber_loss",
    "l1_loss",
    "log_cosh_loss",
    "mse_loss",
    "pseudo_huber_loss",
    "quantile_loss",
    "relative_l2_loss",
    "smooth_l1_loss",
    "squared_log_loss",
    "symmetric_percentage_loss",
    "tukey_biweight_loss",
    "welsch_loss",
]

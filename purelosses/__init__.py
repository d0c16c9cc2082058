"""Losses as pure functions over tensors and explicit parameter pytrees, for PyTorch."""

from purelosses.balance import uncertainty_weighted_init, uncertainty_weighted_loss
from purelosses.checked import checked
from purelosses.classification import binary_cross_entropy_loss, cross_entropy_loss
from purelosses.regression import (
    absolute_percentage_loss,
    adaptive_robust_init,
    adaptive_robust_loss,
    cauchy_loss,
    charbonnier_loss,
    cosine_distance_loss,
    expectile_loss,
    geman_mcclure_loss,
    general_robust_loss,
    huber_loss,
    l1_loss,
    log_cosh_loss,
    mse_loss,
    pseudo_huber_loss,
    quantile_loss,
    relative_l2_loss,
    smooth_l1_loss,
    squared_log_loss,
    symmetric_percentage_loss,
    tukey_biweight_loss,
    welsch_loss,
)
from purelosses.segmentation import (
    dice_bce_from_statistics,
    dice_bce_loss,
    dice_from_statistics,
    dice_loss,
    overlap_statistics,
)
from purelosses.transform import combined, per_sample, per_sample_grad

__version__ = "0.1.0"

__all__ = [
    "absolute_percentage_loss",
    "adaptive_robust_init",
    "adaptive_robust_loss",
    "binary_cross_entropy_loss",
    "cauchy_loss",
    "charbonnier_loss",
    "checked",
    "combined",
    "cosine_distance_loss",
    "cross_entropy_loss",
    "dice_bce_from_statistics",
    "dice_bce_loss",
    "dice_from_statistics",
    "dice_loss",
    "expectile_loss",
    "geman_mcclure_loss",
    "general_robust_loss",
    "huber_loss",
    "l1_loss",
    "log_cosh_loss",
    "mse_loss",
    "overlap_statistics",
    "per_sample",
    "per_sample_grad",
    "pseudo_huber_loss",
    "quantile_loss",
    "relative_l2_loss",
    "smooth_l1_loss",
    "squared_log_loss",
    "symmetric_percentage_loss",
    "tukey_biweight_loss",
    "uncertainty_weighted_init",
    "uncertainty_weighted_loss",
    "welsch_loss",
]

"""Losses as pure functions over tensors and explicit parameter pytrees, for PyTorch."""

from purelosses.balance import uncertainty_weighted_init, uncertainty_weighted_loss
from purelosses.checked import checked
from purelosses.classification import binary_cross_entropy_loss, cross_entropy_loss
from purelosses.gradients import (
    aligned_mtl,
    cagrad,
    combine,
    config,
    conflict_report,
    dualproj,
    fair,
    feature_gramian,
    graddrop,
    gradvac_init,
    gradvac_update,
    gramian,
    imtl_g,
    mgda,
    pcgrad,
    random_order,
    upgrad,
    value_and_gramian,
    value_and_jacobian,
)
from purelosses.regression import huber_loss, l1_loss, mse_loss
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
    "aligned_mtl",
    "binary_cross_entropy_loss",
    "cagrad",
    "checked",
    "combine",
    "combined",
    "config",
    "conflict_report",
    "cross_entropy_loss",
    "dice_bce_from_statistics",
    "dice_bce_loss",
    "dice_from_statistics",
    "dice_loss",
    "dualproj",
    "fair",
    "feature_gramian",
    "graddrop",
    "gradvac_init",
    "gradvac_update",
    "gramian",
    "huber_loss",
    "imtl_g",
    "l1_loss",
    "mgda",
    "mse_loss",
    "overlap_statistics",
    "pcgrad",
    "per_sample",
    "per_sample_grad",
    "random_order",
    "uncertainty_weighted_init",
    "uncertainty_weighted_loss",
    "upgrad",
    "value_and_gramian",
    "value_and_jacobian",
]

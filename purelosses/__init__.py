"""Losses as pure functions over tensors and explicit parameter pytrees, for PyTorch."""

from purelosses.balance import uncertainty_weighted_init, uncertainty_weighted_loss
from purelosses.boxes import (
    alpha_iou_loss,
    ciou_loss,
    diou_loss,
    distribution_focal_loss,
    eiou_loss,
    focal_eiou_loss,
    giou_loss,
    iou_loss,
    mpdiou_loss,
    quality_focal_loss,
    siou_loss,
    varifocal_loss,
    wiou_init,
    wiou_loss,
    wiou_update,
)
from purelosses.checked import checked
from purelosses.classification import binary_cross_entropy_loss, cross_entropy_loss
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
    "alpha_iou_loss",
    "binary_cross_entropy_loss",
    "checked",
    "ciou_loss",
    "combined",
    "cross_entropy_loss",
    "dice_bce_from_statistics",
    "dice_bce_loss",
    "dice_from_statistics",
    "dice_loss",
    "diou_loss",
    "distribution_focal_loss",
    "eiou_loss",
    "focal_eiou_loss",
    "giou_loss",
    "huber_loss",
    "iou_loss",
    "l1_loss",
    "mpdiou_loss",
    "mse_loss",
    "overlap_statistics",
    "per_sample",
    "per_sample_grad",
    "quality_focal_loss",
    "siou_loss",
    "uncertainty_weighted_init",
    "uncertainty_weighted_loss",
    "varifocal_loss",
    "wiou_init",
    "wiou_loss",
    "wiou_update",
]

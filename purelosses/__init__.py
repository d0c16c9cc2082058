"""Losses as pure functions over tensors and explicit parameter pytrees, for PyTorch."""

from purelosses.balance import uncertainty_weighted_init, uncertainty_weighted_loss
from purelosses.checked import checked
from purelosses.classification import binary_cross_entropy_loss, cross_entropy_loss
from purelosses.regression import huber_loss, l1_loss, mse_loss
from purelosses.segmentation import (
    boundary_loss,
    cldice_loss,
    dice_bce_from_statistics,
    dice_bce_loss,
    dice_cldice_loss,
    dice_from_statistics,
    dice_loss,
    distance_transform,
    hausdorff_dt_loss,
    lovasz_hinge_loss,
    lovasz_softmax_loss,
    nacl_loss,
    overlap_statistics,
    signed_distance_map,
    skeleton_recall_loss,
    soft_skeletonize,
)
from purelosses.transform import combined, per_sample, per_sample_grad

__version__ = "0.1.0"

__all__ = [
    "binary_cross_entropy_loss",
    "boundary_loss",
    "checked",
    "cldice_loss",
    "combined",
    "cross_entropy_loss",
    "dice_bce_from_statistics",
    "dice_bce_loss",
    "dice_cldice_loss",
    "dice_from_statistics",
    "dice_loss",
    "distance_transform",
    "hausdorff_dt_loss",
    "huber_loss",
    "l1_loss",
    "lovasz_hinge_loss",
    "lovasz_softmax_loss",
    "mse_loss",
    "nacl_loss",
    "overlap_statistics",
    "per_sample",
    "per_sample_grad",
    "signed_distance_map",
    "skeleton_recall_loss",
    "soft_skeletonize",
    "uncertainty_weighted_init",
    "uncertainty_weighted_loss",
]

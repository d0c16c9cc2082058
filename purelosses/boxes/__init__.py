"""Losses between predicted boxes and their targets, and between scores and the quality of boxes."""

from purelosses.boxes.geometry import Format
from purelosses.boxes.overlap import (
    AlphaKind,
    IoUKind,
    alpha_iou_loss,
    ciou_loss,
    diou_loss,
    eiou_loss,
    focal_eiou_loss,
    giou_loss,
    iou_loss,
    mpdiou_loss,
    siou_loss,
)
from purelosses.boxes.quality import (
    distribution_focal_loss,
    quality_focal_loss,
    varifocal_loss,
)
from purelosses.boxes.wise import WIoUVersion, wiou_init, wiou_loss, wiou_update

__all__ = [
    "AlphaKind",
    "Format",
    "IoUKind",
    "WIoUVersion",
    "alpha_iou_loss",
    "ciou_loss",
    "diou_loss",
    "distribution_focal_loss",
    "eiou_loss",
    "focal_eiou_loss",
    "giou_loss",
    "iou_loss",
    "mpdiou_loss",
    "quality_focal_loss",
    "siou_loss",
    "varifocal_loss",
    "wiou_init",
    "wiou_loss",
    "wiou_update",
]

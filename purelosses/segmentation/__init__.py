r"""Losses of the overlap between a predicted and a true region.

Every loss here is arithmetic on a few sums per region, the *overlap statistics*. They add over
pixels, samples, micro-batches and ranks, so a loss computed from added statistics is exact where
an average of losses would not be.
"""

from purelosses.segmentation.overlap import (
    Classes,
    dice_bce_from_statistics,
    dice_bce_loss,
    dice_from_statistics,
    dice_loss,
)
from purelosses.segmentation.statistics import overlap_statistics

__all__ = [
    "Classes",
    "dice_bce_from_statistics",
    "dice_bce_loss",
    "dice_from_statistics",
    "dice_loss",
    "overlap_statistics",
]

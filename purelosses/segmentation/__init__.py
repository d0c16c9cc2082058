r"""Losses of the overlap between a predicted and a true region.

Every loss here is arithmetic on a few sums per region, the *overlap statistics*. They add over
pixels, samples, micro-batches and ranks, so a loss computed from added statistics is exact where
an average of losses would not be.
"""

from purelosses.segmentation.boundary import (
    boundary_loss,
    distance_transform,
    hausdorff_dt_loss,
    signed_distance_map,
)
from purelosses.segmentation.overlap import (
    Classes,
    dice_bce_from_statistics,
    dice_bce_loss,
    dice_from_statistics,
    dice_loss,
)
from purelosses.segmentation.ranking import lovasz_hinge_loss, lovasz_softmax_loss
from purelosses.segmentation.statistics import overlap_statistics
from purelosses.segmentation.topology import (
    cldice_loss,
    dice_cldice_loss,
    nacl_loss,
    skeleton_recall_loss,
    soft_skeletonize,
)

__all__ = [
    "Classes",
    "boundary_loss",
    "cldice_loss",
    "dice_bce_from_statistics",
    "dice_bce_loss",
    "dice_cldice_loss",
    "dice_from_statistics",
    "dice_loss",
    "distance_transform",
    "hausdorff_dt_loss",
    "lovasz_hinge_loss",
    "lovasz_softmax_loss",
    "nacl_loss",
    "overlap_statistics",
    "signed_distance_map",
    "skeleton_recall_loss",
    "soft_skeletonize",
]

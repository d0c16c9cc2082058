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
from purelosses.segmentation.compound import (
    dice_bce_from_statistics,
    dice_bce_loss,
    dice_ce_from_statistics,
    dice_ce_loss,
    dice_focal_from_statistics,
    dice_focal_loss,
    unified_focal_from_statistics,
    unified_focal_loss,
)
from purelosses.segmentation.correlation import mcc_from_statistics, mcc_loss
from purelosses.segmentation.generalized import (
    WeightType,
    generalized_dice_from_statistics,
    generalized_dice_loss,
    generalized_wasserstein_dice_from_statistics,
    generalized_wasserstein_dice_loss,
)
from purelosses.segmentation.overlap import (
    dice_from_statistics,
    dice_loss,
    jaccard_from_statistics,
    jaccard_loss,
    log_cosh_dice_from_statistics,
    log_cosh_dice_loss,
)
from purelosses.segmentation.pixels import Classes
from purelosses.segmentation.ranking import (
    lovasz_hinge_loss,
    lovasz_softmax_loss,
)
from purelosses.segmentation.regions import (
    Empty,
    Smooth,
)
from purelosses.segmentation.statistics import (
    confusion_statistics,
    overlap_statistics,
)
from purelosses.segmentation.topology import (
    cldice_loss,
    dice_cldice_loss,
    nacl_loss,
    skeleton_recall_loss,
    soft_skeletonize,
)
from purelosses.segmentation.tversky import (
    focal_tversky_from_statistics,
    focal_tversky_loss,
    tversky_from_statistics,
    tversky_loss,
)

__all__ = [
    "Classes",
    "Empty",
    "Smooth",
    "WeightType",
    "boundary_loss",
    "cldice_loss",
    "confusion_statistics",
    "dice_bce_from_statistics",
    "dice_bce_loss",
    "dice_ce_from_statistics",
    "dice_ce_loss",
    "dice_cldice_loss",
    "dice_focal_from_statistics",
    "dice_focal_loss",
    "dice_from_statistics",
    "dice_loss",
    "distance_transform",
    "focal_tversky_from_statistics",
    "focal_tversky_loss",
    "generalized_dice_from_statistics",
    "generalized_dice_loss",
    "generalized_wasserstein_dice_from_statistics",
    "generalized_wasserstein_dice_loss",
    "hausdorff_dt_loss",
    "jaccard_from_statistics",
    "jaccard_loss",
    "log_cosh_dice_from_statistics",
    "log_cosh_dice_loss",
    "lovasz_hinge_loss",
    "lovasz_softmax_loss",
    "mcc_from_statistics",
    "mcc_loss",
    "nacl_loss",
    "overlap_statistics",
    "signed_distance_map",
    "skeleton_recall_loss",
    "soft_skeletonize",
    "tversky_from_statistics",
    "tversky_loss",
    "unified_focal_from_statistics",
    "unified_focal_loss",
]

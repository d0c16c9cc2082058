"""Task gradients, and one direction from them."""

from purelosses.gradients.jacobian import (
    combine,
    feature_gramian,
    gramian,
    value_and_gramian,
    value_and_jacobian,
)
from purelosses.gradients.surgery import (
    graddrop,
    gradvac_init,
    gradvac_update,
    pcgrad,
    random_order,
)
from purelosses.gradients.weightings import (
    aligned_mtl,
    cagrad,
    config,
    conflict_report,
    dualproj,
    fair,
    imtl_g,
    mgda,
    upgrad,
)

__all__ = [
    "aligned_mtl",
    "cagrad",
    "combine",
    "config",
    "conflict_report",
    "dualproj",
    "fair",
    "feature_gramian",
    "graddrop",
    "gradvac_init",
    "gradvac_update",
    "gramian",
    "imtl_g",
    "mgda",
    "pcgrad",
    "random_order",
    "upgrad",
    "value_and_gramian",
    "value_and_jacobian",
]

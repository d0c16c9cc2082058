r"""Classification losses for labels of which some are wrong."""

from purelosses.noise.correction import backward_correction_loss, forward_correction_loss
from purelosses.noise.elr import elr_init, elr_loss, elr_update
from purelosses.noise.robust import (
    Active,
    Bootstrap,
    Passive,
    active_passive_loss,
    bootstrap_loss,
    generalized_cross_entropy_loss,
    normalized_cross_entropy_loss,
    symmetric_cross_entropy_loss,
    taylor_cross_entropy_loss,
)
from purelosses.noise.tempered import bi_tempered_loss

__all__ = [
    "Active",
    "Bootstrap",
    "Passive",
    "active_passive_loss",
    "backward_correction_loss",
    "bi_tempered_loss",
    "bootstrap_loss",
    "elr_init",
    "elr_loss",
    "elr_update",
    "forward_correction_loss",
    "generalized_cross_entropy_loss",
    "normalized_cross_entropy_loss",
    "symmetric_cross_entropy_loss",
    "taylor_cross_entropy_loss",
]

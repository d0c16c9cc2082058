r"""Losses between predicted class scores and labels, class probabilities or ranks.

Most are scalar functions of the *margin* of a class, how far the other logits are above its own;
the rest compare distributions, or cut a line into ordered classes.
"""

from purelosses.classification.cross_entropy import (
    binary_cross_entropy_loss,
    binary_cross_entropy_with_logits,
    cross_entropy_loss,
    sigmoid_focal_loss,
    sigmoid_focal_with_logits,
    softmax_focal_loss,
)
from purelosses.classification.distribution import (
    Direction,
    brier_loss,
    confidence_penalty_loss,
    js_divergence_loss,
    kl_divergence_loss,
    knowledge_distillation_loss,
)
from purelosses.classification.margin import (
    MulticlassHinge,
    asymmetric_loss,
    hinge_loss,
    multiclass_hinge_loss,
    poly1_loss,
    soft_margin_loss,
)
from purelosses.classification.ordinal import (
    coral_loss,
    corn_loss,
    cumulative_link_init,
    cumulative_link_loss,
)
from purelosses.classification.targets import (
    ClassWeights,
    Smoothing,
    class_weights,
    ldam_margins,
    logit_adjustment,
    smooth_labels,
)

__all__ = [
    "ClassWeights",
    "Direction",
    "MulticlassHinge",
    "Smoothing",
    "asymmetric_loss",
    "binary_cross_entropy_loss",
    "binary_cross_entropy_with_logits",
    "brier_loss",
    "class_weights",
    "confidence_penalty_loss",
    "coral_loss",
    "corn_loss",
    "cross_entropy_loss",
    "cumulative_link_init",
    "cumulative_link_loss",
    "hinge_loss",
    "js_divergence_loss",
    "kl_divergence_loss",
    "knowledge_distillation_loss",
    "ldam_margins",
    "logit_adjustment",
    "multiclass_hinge_loss",
    "poly1_loss",
    "sigmoid_focal_loss",
    "sigmoid_focal_with_logits",
    "smooth_labels",
    "soft_margin_loss",
    "softmax_focal_loss",
]

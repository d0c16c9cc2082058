"""Oracles of the classification losses."""

import numpy as np
from mpmath import mp, mpf
from scipy.special import expit, log_expit, log_softmax, rel_entr

from oracles.core import exact_sigmoid, exact_softmax, reduced


def binary_cross_entropy_loss(logits, target, *, where=None, weights=None, reduction="mean"):
    # 1 - σ(x) = σ(-x)
    losses = -target * log_expit(logits) - (1 - target) * log_expit(-logits)
    return reduced(losses, reduction, where, weights)


def one_hot(labels, classes, axis):
    return np.moveaxis(np.eye(classes)[labels], -1, axis)


def cross_entropy_loss(
    logits,
    target,
    *,
    class_dim=1,
    label_smoothing=0.0,
    class_weights=None,
    where=None,
    weights=None,
    reduction="mean",
):
    x = np.moveaxis(logits, class_dim, -1)
    classes = x.shape[-1]
    labels = np.issubdtype(target.dtype, np.integer)
    y = one_hot(target, classes, -1) if labels else np.moveaxis(target, class_dim, -1)
    w = np.ones(classes) if class_weights is None else class_weights

    share = (1 - label_smoothing) * y + label_smoothing / classes
    surprisal = np.where(share == 0, 0.0, -log_softmax(x, axis=-1))
    losses = (w * share * surprisal).sum(-1)
    return reduced(losses, reduction, where, weights, mass=(w * y).sum(-1))


def sigmoid_focal_loss(
    logits, target, *, gamma=2.0, alpha=None, where=None, weights=None, reduction="mean"
):
    positive, negative = (1, 1) if alpha is None else (alpha, 1 - alpha)
    right = positive * target * expit(-logits) ** gamma * -log_expit(logits)
    wrong = negative * (1 - target) * expit(logits) ** gamma * -log_expit(-logits)
    return reduced(right + wrong, reduction, where, weights)


def softmax_focal_loss(
    logits,
    target,
    *,
    class_dim=1,
    gamma=2.0,
    class_weights=None,
    where=None,
    weights=None,
    reduction="mean",
):
    x = np.moveaxis(logits, class_dim, -1)
    classes = x.shape[-1]
    labels = np.issubdtype(target.dtype, np.integer)
    if labels and where is not None:
        target = np.where(where, target, 0)
    y = one_hot(target, classes, -1) if labels else np.moveaxis(target, class_dim, -1)
    w = np.ones(classes) if class_weights is None else class_weights

    log_p = log_softmax(x, axis=-1)
    losses = np.where(y == 0, 0.0, -w * y * (1 - np.exp(log_p)) ** gamma * log_p).sum(-1)
    return reduced(losses, reduction, where, weights, mass=(w * y).sum(-1))


def exact_bce(x, y):
    return -mpf(y) * mp.log(exact_sigmoid(x)) - (1 - mpf(y)) * mp.log(exact_sigmoid(-mpf(x)))


def exact_sigmoid_focal(x, y, gamma):
    p, q, gamma = exact_sigmoid(x), exact_sigmoid(-mpf(x)), mpf(gamma)
    return -mpf(y) * q**gamma * mp.log(p) - (1 - mpf(y)) * p**gamma * mp.log(q)


def exact_softmax_focal(row, label, gamma):
    """For one row of logits; 1 - p as the sum of the others."""
    probs = exact_softmax(row)
    others = mp.fsum(p for c, p in enumerate(probs) if c != label)
    return -(others ** mpf(gamma)) * mp.log(probs[label])


def exact_cross_entropy(row, target):
    """For one row of logits and of target probabilities."""
    probs = exact_softmax(row)
    return mp.fsum(-mpf(y) * mp.log(p) for p, y in zip(probs, target, strict=True) if y != 0)


def exact_margin(row, label):
    """p of a label, and 1 - p as the sum of the others."""
    probs = exact_softmax(row)
    return probs[label], mp.fsum(p for c, p in enumerate(probs) if c != label)


def rows(logits, target, class_dim):
    """log p, p and the target probabilities, with the classes along the last axis."""
    x = np.moveaxis(logits, class_dim, -1)
    labels = np.issubdtype(target.dtype, np.integer)
    y = one_hot(target, x.shape[-1], -1) if labels else np.moveaxis(target, class_dim, -1)
    log_p = log_softmax(x, axis=-1)
    return log_p, np.exp(log_p), y


def poly1_loss(logits, target, *, epsilon=1.0, class_dim=1, where=None, weights=None,
               reduction="mean"):  # fmt: skip
    log_p, p, y = rows(logits, target, class_dim)
    return reduced((y * (-log_p + epsilon * (1 - p))).sum(-1), reduction, where, weights)


def asymmetric_loss(logits, target, *, gamma_neg=4.0, gamma_pos=1.0, clip=0.05, where=None,
                    weights=None, reduction="mean"):  # fmt: skip
    p = expit(logits)
    q = np.maximum(p - clip, 0.0)
    positive = -((1 - p) ** gamma_pos) * log_expit(logits)
    negative = -(q**gamma_neg) * np.log(1 - q)
    return reduced(target * positive + (1 - target) * negative, reduction, where, weights)


def hinge_loss(logits, target, *, power=1, where=None, weights=None, reduction="mean"):
    return reduced(np.maximum(0.0, 1 - target * logits) ** power, reduction, where, weights)


def soft_margin_loss(logits, target, *, where=None, weights=None, reduction="mean"):
    return reduced(np.logaddexp(0.0, -target * logits), reduction, where, weights)


def multiclass_hinge_loss(logits, target, *, kind="crammer_singer", class_dim=1, where=None,
                          weights=None, reduction="mean"):  # fmt: skip
    x = np.moveaxis(logits, class_dim, -1)
    own = np.take_along_axis(x, target[..., None], -1)
    others = one_hot(target, x.shape[-1], -1) == 0
    if kind == "crammer_singer":
        best = np.where(others, x, -np.inf).max(-1)
        losses = np.maximum(0.0, 1 + best - own[..., 0])
    else:
        losses = np.where(others, np.maximum(0.0, 1 + x - own), 0.0).sum(-1)
    return reduced(losses, reduction, where, weights)


def kl_divergence_loss(logits, target, *, direction="forward", class_dim=1, where=None,
                       weights=None, reduction="mean"):  # fmt: skip
    _, p, y = rows(logits, target, class_dim)
    terms = rel_entr(y, p) if direction == "forward" else rel_entr(p, y)
    return reduced(terms.sum(-1), reduction, where, weights)


def js_divergence_loss(logits, target, *, beta=0.5, class_dim=1, where=None, weights=None,
                       reduction="mean"):  # fmt: skip
    _, p, y = rows(logits, target, class_dim)
    m = beta * y + (1 - beta) * p
    terms = beta * rel_entr(y, m) + (1 - beta) * rel_entr(p, m)
    return reduced(terms.sum(-1), reduction, where, weights)


def knowledge_distillation_loss(logits, teacher_logits, *, temperature=1.0, class_dim=1,
                                where=None, weights=None, reduction="mean"):  # fmt: skip
    teacher = np.exp(log_softmax(teacher_logits / temperature, axis=class_dim))
    losses = kl_divergence_loss(
        logits / temperature, teacher, class_dim=class_dim, reduction="none"
    )
    return reduced(temperature**2 * losses, reduction, where, weights)


def confidence_penalty_loss(logits, target, *, beta=0.1, class_dim=1, where=None, weights=None,
                            reduction="mean"):  # fmt: skip
    log_p, p, y = rows(logits, target, class_dim)
    return reduced((-y * log_p + beta * p * log_p).sum(-1), reduction, where, weights)


def brier_loss(logits, target, *, class_dim=1, where=None, weights=None, reduction="mean"):
    _, p, y = rows(logits, target, class_dim)
    return reduced(((p - y) ** 2).sum(-1), reduction, where, weights)


def coral_loss(logits, target, *, class_dim=1, where=None, weights=None, reduction="mean"):
    x = np.moveaxis(logits, class_dim, -1)
    above = target[..., None] > np.arange(x.shape[-1])
    return reduced(-np.where(above, log_expit(x), log_expit(-x)).sum(-1), reduction, where, weights)


def corn_loss(logits, target, *, class_dim=1, where=None, weights=None, reduction="mean"):
    x = np.moveaxis(logits, class_dim, -1)
    losses = np.zeros(target.shape)
    for index, rank in np.ndenumerate(target):
        passed = log_expit(x[index][:rank]).sum()
        stopped = log_expit(-x[index][rank]) if rank < x.shape[-1] else 0.0
        losses[index] = -passed - stopped
    return reduced(losses, reduction, where, weights)


def cumulative_link_loss(params, prediction, target, *, where=None, weights=None, reduction="mean"):
    gaps = np.logaddexp(0.0, params["gaps"])
    inner = params["first"] + np.concatenate([[0.0], np.cumsum(gaps)])
    cutpoints = np.concatenate([[-np.inf], inner, [np.inf]])
    probability = expit(cutpoints[target + 1] - prediction) - expit(cutpoints[target] - prediction)
    return reduced(-np.log(probability), reduction, where, weights)


ORACLES = (
    binary_cross_entropy_loss,
    cross_entropy_loss,
    sigmoid_focal_loss,
    softmax_focal_loss,
    poly1_loss,
    asymmetric_loss,
    hinge_loss,
    soft_margin_loss,
    multiclass_hinge_loss,
    kl_divergence_loss,
    js_divergence_loss,
    knowledge_distillation_loss,
    confidence_penalty_loss,
    brier_loss,
    coral_loss,
    corn_loss,
    cumulative_link_loss,
)
EXACT = {
    "binary_cross_entropy_loss": exact_bce,
    "cross_entropy_loss": exact_cross_entropy,
    "sigmoid_focal_loss": exact_sigmoid_focal,
    "softmax_focal_loss": exact_softmax_focal,
}

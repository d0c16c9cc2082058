"""Oracles of the classification losses."""

import numpy as np
from mpmath import mp, mpf
from scipy.special import expit, log_expit, log_softmax

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


ORACLES = (
    binary_cross_entropy_loss,
    cross_entropy_loss,
    sigmoid_focal_loss,
    softmax_focal_loss,
)
EXACT = {
    "binary_cross_entropy_loss": exact_bce,
    "cross_entropy_loss": exact_cross_entropy,
    "sigmoid_focal_loss": exact_sigmoid_focal,
    "softmax_focal_loss": exact_softmax_focal,
}

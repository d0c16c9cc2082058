"""Oracles of the losses for labels of which some are wrong."""

import numpy as np
from scipy.optimize import brentq

from oracles.classification import rows
from oracles.core import reduced


def generalized_cross_entropy_loss(logits, target, *, q=0.7, class_dim=1, where=None,
                                   weights=None, reduction="mean"):  # fmt: skip
    _, p, y = rows(logits, target, class_dim)
    return reduced((y * (1 - p**q) / q).sum(-1), reduction, where, weights)


def symmetric_cross_entropy_loss(logits, target, *, alpha=0.1, beta=1.0, log_zero=-4.0,
                                 class_dim=1, where=None, weights=None,
                                 reduction="mean"):  # fmt: skip
    log_p, p, y = rows(logits, target, class_dim)
    reverse = -log_zero * (1 - p)
    return reduced((y * (-alpha * log_p + beta * reverse)).sum(-1), reduction, where, weights)


def normalized_cross_entropy_loss(logits, target, *, class_dim=1, where=None, weights=None,
                                  reduction="mean"):  # fmt: skip
    log_p, _, y = rows(logits, target, class_dim)
    return reduced((y * log_p).sum(-1) / log_p.sum(-1), reduction, where, weights)


def active_passive_loss(logits, target, *, active="nce", passive="mae", active_weight=1.0,
                        passive_weight=1.0, gamma=0.5, class_dim=1, where=None, weights=None,
                        reduction="mean"):  # fmt: skip
    log_p, p, y = rows(logits, target, class_dim)
    focal = (1 - p) ** (gamma if active == "nfl" else 0) * log_p
    raising = (y * focal).sum(-1) / focal.sum(-1)
    if passive == "mae":
        # Σ_k |p_k - [k = c]|, for each label c the sample might have
        distance = np.abs(p[..., None, :] - np.eye(p.shape[-1])).sum(-1)
    else:
        distance = (p[..., None, :] * (-4.0 * (np.eye(p.shape[-1]) - 1))).sum(-1)
    losses = active_weight * raising + passive_weight * (y * distance).sum(-1)
    return reduced(losses, reduction, where, weights)


def bootstrap_loss(logits, target, *, kind="soft", beta=0.95, class_dim=1, where=None,
                   weights=None, reduction="mean"):  # fmt: skip
    log_p, p, y = rows(logits, target, class_dim)
    opinion = p if kind == "soft" else np.eye(p.shape[-1])[p.argmax(-1)]
    mixed = beta * y + (1 - beta) * opinion
    return reduced(-(mixed * log_p).sum(-1), reduction, where, weights)


def forward_correction_loss(logits, target, *, transition, class_dim=1, where=None, weights=None,
                            reduction="mean"):  # fmt: skip
    _, p, y = rows(logits, target, class_dim)
    return reduced(-(y * np.log(p @ transition)).sum(-1), reduction, where, weights)


def backward_correction_loss(logits, target, *, transition, class_dim=1, where=None,
                             weights=None, reduction="mean"):  # fmt: skip
    log_p, _, y = rows(logits, target, class_dim)
    losses = -log_p @ np.linalg.inv(transition).T
    return reduced((y * losses).sum(-1), reduction, where, weights)


def taylor_cross_entropy_loss(logits, target, *, order=2, class_dim=1, where=None, weights=None,
                              reduction="mean"):  # fmt: skip
    _, p, y = rows(logits, target, class_dim)
    series = sum((1 - p) ** i / i for i in range(1, order + 1))
    return reduced((y * series).sum(-1), reduction, where, weights)


def log_t(a, t):
    return np.log(a) if t == 1 else (a ** (1 - t) - 1) / (1 - t)


def exp_t(a, t):
    return np.exp(a) if t == 1 else np.maximum(0, 1 + (1 - t) * a) ** (1 / (1 - t))


def tempered_softmax(row, t):
    """The shift is where the probabilities sum to 1, found by bisection."""

    def excess(shift):
        return exp_t(row - shift, t).sum() - 1

    top, classes = row.max(), len(row)
    shift = brentq(excess, top - 1e-12, top - log_t(1 / classes, t) + 1e-9, xtol=1e-15, rtol=1e-15)
    return exp_t(row - shift, t)


def bi_tempered_loss(logits, target, *, t1=0.8, t2=1.2, class_dim=1, where=None, weights=None,
                     reduction="mean"):  # fmt: skip
    _, _, y = rows(logits, target, class_dim)
    x = np.moveaxis(logits, class_dim, -1)
    p = np.apply_along_axis(tempered_softmax, -1, x, float(t2)) if x.size else x
    t1 = float(t1)
    some = np.where(y > 0, y, 1.0)
    terms = np.where(y > 0, y * (log_t(some, t1) - log_t(p, t1)), 0.0)
    losses = terms - (y ** (2 - t1) - p ** (2 - t1)) / (2 - t1)
    return reduced(losses.sum(-1), reduction, where, weights)


def elr_loss(logits, target, average, *, lam=3.0, class_dim=1, where=None, weights=None,
             reduction="mean"):  # fmt: skip
    log_p, p, y = rows(logits, target, class_dim)
    agreement = (p * np.moveaxis(average, class_dim, -1)).sum(-1)
    losses = -(y * log_p).sum(-1) + lam * np.log(np.maximum(1 - agreement, 1e-4))
    return reduced(losses, reduction, where, weights)


ORACLES = (
    generalized_cross_entropy_loss,
    symmetric_cross_entropy_loss,
    normalized_cross_entropy_loss,
    active_passive_loss,
    bootstrap_loss,
    forward_correction_loss,
    backward_correction_loss,
    taylor_cross_entropy_loss,
    bi_tempered_loss,
    elr_loss,
)
EXACT = {}

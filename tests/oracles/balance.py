"""Oracles of the losses of several tasks."""

import numpy as np
from mpmath import mp, mpf

from oracles.classification import cross_entropy_loss, exact_cross_entropy


def tasks(losses, mask, *others):
    """(loss, whether it has labels, the others) of every task, down a tree of losses."""
    if isinstance(losses, dict | list | tuple):
        keys = losses if isinstance(losses, dict) else range(len(losses))

        def of(tree, key):
            if isinstance(tree, dict | list | tuple):
                return tree[key]
            return tree[key] if isinstance(tree, np.ndarray) and tree.ndim else tree

        for key in keys:
            yield from tasks(losses[key], of(mask, key), *(of(other, key) for other in others))
    elif mask is None:
        yield float(losses), True, *others
    else:
        there = losses[mask] if losses.ndim else np.atleast_1d(losses)[np.atleast_1d(mask)]
        yield (there.mean() if there.size else 0.0), there.size > 0, *others


def weighted_sum_loss(losses, *, weights=1.0, mask=None):
    return sum(w * loss for loss, there, w in tasks(losses, mask, weights) if there)


def log_sum_loss(losses, *, mask=None):
    return sum(np.log(loss) for loss, there in tasks(losses, mask) if there)


def geometric_mean_loss(losses, *, mask=None):
    found = [mpf(loss) for loss, there in tasks(losses, mask) if there]
    return float(mp.fprod(found) ** (mpf(1) / len(found)))


def chebyshev_loss(losses, *, weights=1.0, ideal=0.0, mask=None):
    return max(w * (loss - z) for loss, there, w, z in tasks(losses, mask, weights, ideal) if there)


def smooth_chebyshev_loss(losses, *, mu=1.0, weights=1.0, ideal=0.0, mask=None):
    found = tasks(losses, mask, weights, ideal)
    terms = [mp.exp(mpf(w * (loss - z)) / mpf(float(mu))) for loss, there, w, z in found if there]
    return float(mu) * float(mp.log(mp.fsum(terms)))


def uncertainty_weighted_loss(
    log_vars, losses, *, likelihood="gaussian", form="kendall", dims=1, bounds=None, mask=None
):
    factors = {"gaussian": (0.5, 0.5), "laplace": (1, 1), "softmax": (1, 0.5)}
    total = 0.0
    for loss, there, s, kind, size in tasks(losses, mask, log_vars, likelihood, dims):
        a, b = factors[kind]
        used = s if bounds is None else min(max(s, bounds[0]), bounds[1])
        regulariser = b * used if form == "kendall" else np.log(1 + np.exp(used))
        if there:
            total += a * np.exp(-used) * loss + size * (regulariser + b * abs(s - used))
    return total


def tempered_cross_entropy_loss(logits, target, log_temperature, **options):
    return cross_entropy_loss(logits / np.exp(log_temperature), target, **options)


def exact_geometric_mean(losses):
    return mp.fprod(map(mpf, losses)) ** (mpf(1) / len(losses))


def exact_tempered_cross_entropy(row, target, log_temperature):
    """For one row of logits and of target probabilities."""
    return exact_cross_entropy([mpf(x) / mp.exp(mpf(log_temperature)) for x in row], target)


ORACLES = (
    weighted_sum_loss,
    log_sum_loss,
    geometric_mean_loss,
    chebyshev_loss,
    smooth_chebyshev_loss,
    uncertainty_weighted_loss,
    tempered_cross_entropy_loss,
)
EXACT = {
    "geometric_mean_loss": exact_geometric_mean,
    "tempered_cross_entropy_loss": exact_tempered_cross_entropy,
}

"""What the oracles of several families share."""

import numpy as np
from mpmath import mp, mpf

mp.dps = 60  # digits of the exact formulas


def reduced(losses, reduction, where=None, weights=None, mass=None):
    """Σ w ℓ over the units that count; "mean" over their number, "weighted_mean" over Σ w."""
    losses = np.asarray(losses, dtype=np.float64)
    where = np.broadcast_to(True if where is None else where, losses.shape)
    weights = np.broadcast_to(1.0 if weights is None else weights, losses.shape)
    mass = np.broadcast_to(1.0 if mass is None else mass, losses.shape)
    if reduction == "none":
        return np.where(where, weights * losses, 0.0)
    total = (weights * losses)[where].sum()
    if reduction == "sum":
        return total
    whole = {"mean": where.sum(), "weighted_mean": (weights * mass)[where].sum()}[reduction]
    return total / whole if whole != 0 else 0.0


def exact_sigmoid(x):
    return 1 / (1 + mp.exp(-mpf(x)))


def exact_softmax(row):
    top = max(map(mpf, row))  # a common shift changes nothing but the size of the numbers
    exponentials = [mp.exp(mpf(x) - top) for x in row]
    return [e / mp.fsum(exponentials) for e in exponentials]

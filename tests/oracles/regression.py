"""Oracles of the residual losses."""

import numpy as np
from mpmath import mpf

from oracles.core import reduced


def mse_loss(prediction, target, *, where=None, weights=None, reduction="mean"):
    return reduced((prediction - target) ** 2, reduction, where, weights)


def l1_loss(prediction, target, *, where=None, weights=None, reduction="mean"):
    return reduced(np.abs(prediction - target), reduction, where, weights)


def huber_loss(prediction, target, *, delta=1.0, where=None, weights=None, reduction="mean"):
    r = np.abs(prediction - target)
    losses = np.where(r <= delta, r**2 / 2, delta * (r - delta / 2))
    return reduced(losses, reduction, where, weights)


def exact_mse(x, y):
    return (mpf(x) - mpf(y)) ** 2


def exact_l1(x, y):
    return abs(mpf(x) - mpf(y))


def exact_huber(x, y, delta):
    r, delta = abs(mpf(x) - mpf(y)), mpf(delta)
    return r**2 / 2 if r <= delta else delta * (r - delta / 2)


ORACLES = (mse_loss, l1_loss, huber_loss)
EXACT = {"mse_loss": exact_mse, "l1_loss": exact_l1, "huber_loss": exact_huber}

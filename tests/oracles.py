"""The documented formulas once more, in NumPy and mpmath, without torch or the library's code.

An oracle has the arguments of its loss, as arrays, and computes in float64 from the formula in the
docstring, by the straightest way there is. `EXACT` holds the same formulas for one unit in mpmath,
with 60 digits, where even a formula that cancels is right.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from mpmath import mp, mpf
from scipy.special import expit, log_expit, log_softmax, softmax

# From one loss per unit to the result


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


# Residuals


def mse_loss(prediction, target, *, where=None, weights=None, reduction="mean"):
    return reduced((prediction - target) ** 2, reduction, where, weights)


def l1_loss(prediction, target, *, where=None, weights=None, reduction="mean"):
    return reduced(np.abs(prediction - target), reduction, where, weights)


def huber_loss(prediction, target, *, delta=1.0, where=None, weights=None, reduction="mean"):
    r = np.abs(prediction - target)
    losses = np.where(r <= delta, r**2 / 2, delta * (r - delta / 2))
    return reduced(losses, reduction, where, weights)


# Classes


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


# Regions


def regions(values, class_dim, dim):
    """Sums over the axes of a region; summed axes stay with length 1."""
    if dim is None:
        dim = range(0 if class_dim is None else class_dim % values.ndim + 1, values.ndim)
    axes = tuple(axis % values.ndim for axis in np.atleast_1d(dim))
    return values.sum(axes, keepdims=True), axes


def pixels(prediction, target, class_dim, where):
    """Target and mask with the shape of the prediction."""
    if class_dim is not None and np.issubdtype(target.dtype, np.integer):
        if where is not None:
            target = np.where(where, target, 0)
        target = one_hot(target, prediction.shape[class_dim], class_dim)
    where = np.ones_like(prediction, dtype=bool) if where is None else where
    if class_dim is not None and where.ndim < prediction.ndim:
        where = np.expand_dims(where, class_dim)
    return target.astype(np.float64), np.broadcast_to(where, prediction.shape)


def reduced_regions(losses, y, counts, classes, class_dim, axes, weights, reduction):
    """Select classes and drop the summed axes."""
    counted = counts > 0
    if isinstance(classes, str):
        counted &= (y > 0) if classes == "present" else True
    else:
        losses, counted = (np.take(a, classes, axis=class_dim) for a in (losses, counted))
    losses, counted = np.squeeze(losses, axes), np.squeeze(counted, axes)
    return reduced(losses, reduction, counted, weights)


def dice_loss(
    prediction,
    target,
    *,
    activation=None,
    class_dim=None,
    dim=None,
    smooth=1.0,
    classes="all",
    where=None,
    weights=None,
    reduction="mean",
):
    activate = {None: lambda x: x, "sigmoid": expit, "softmax": lambda x: softmax(x, class_dim)}
    y, where = pixels(prediction, target, class_dim, where)
    p = np.where(where, activate[activation](prediction), 0.0)
    y = np.where(where, y, 0.0)

    sum_p, axes = regions(p, class_dim, dim)
    sum_y, sum_py, counts = (regions(a, class_dim, dim)[0] for a in (y, p * y, where))
    bottom = sum_p + sum_y + smooth
    with np.errstate(invalid="ignore"):
        losses = np.where(bottom == 0, 0.0, 1 - (2 * sum_py + smooth) / bottom)
    return reduced_regions(losses, sum_y, counts, classes, class_dim, axes, weights, reduction)


def dice_bce_loss(
    logits,
    target,
    *,
    dice_weight=0.5,
    bce_weight=0.5,
    smooth=1.0,
    class_dim=None,
    dim=None,
    classes="all",
    where=None,
    weights=None,
    reduction="mean",
):
    y, mask = pixels(logits, target, class_dim, where)
    bce = np.where(mask, binary_cross_entropy_loss(logits, y, reduction="none"), 0.0)
    sum_bce, axes = regions(bce, class_dim, dim)
    sum_y, counts = (regions(a, class_dim, dim)[0] for a in (np.where(mask, y, 0.0), mask))
    dice = dice_loss(
        logits,
        target,
        activation="sigmoid",
        class_dim=class_dim,
        dim=dim,
        smooth=smooth,
        where=where,
        reduction="none",
    )
    losses = dice_weight * dice.reshape(sum_bce.shape) + bce_weight * sum_bce / np.maximum(
        counts, 1
    )
    return reduced_regions(losses, sum_y, counts, classes, class_dim, axes, weights, reduction)


# Tasks


def uncertainty_weighted_loss(log_vars, losses, *, likelihood="gaussian"):
    """Σ a exp(-s) L + b s, down a tree of losses; a likelihood holds for all tasks below it."""
    if isinstance(losses, dict | list | tuple):
        keys = losses if isinstance(losses, dict) else range(len(losses))

        def kind(key):
            return likelihood if isinstance(likelihood, str) else likelihood[key]

        return sum(
            uncertainty_weighted_loss(log_vars[key], losses[key], likelihood=kind(key))
            for key in keys
        )
    a, b = {"gaussian": (0.5, 0.5), "laplace": (1, 1), "softmax": (1, 0.5)}[likelihood]
    return a * np.exp(-log_vars) * losses + b * log_vars


ORACLES: dict[str, Callable[..., Any]] = {
    oracle.__name__: oracle
    for oracle in (
        mse_loss,
        l1_loss,
        huber_loss,
        binary_cross_entropy_loss,
        cross_entropy_loss,
        dice_loss,
        dice_bce_loss,
        uncertainty_weighted_loss,
    )
}


# The same formulas for one unit, with 60 digits

mp.dps = 60


def exact_mse(x, y):
    return (mpf(x) - mpf(y)) ** 2


def exact_l1(x, y):
    return abs(mpf(x) - mpf(y))


def exact_huber(x, y, delta):
    r, delta = abs(mpf(x) - mpf(y)), mpf(delta)
    return r**2 / 2 if r <= delta else delta * (r - delta / 2)


def exact_sigmoid(x):
    return 1 / (1 + mp.exp(-mpf(x)))


def exact_bce(x, y):
    return -mpf(y) * mp.log(exact_sigmoid(x)) - (1 - mpf(y)) * mp.log(exact_sigmoid(-mpf(x)))


def exact_softmax(row):
    top = max(map(mpf, row))  # a common shift changes nothing but the size of the numbers
    exponentials = [mp.exp(mpf(x) - top) for x in row]
    return [e / mp.fsum(exponentials) for e in exponentials]


def exact_cross_entropy(row, target):
    """For one row of logits and of target probabilities."""
    probs = exact_softmax(row)
    return mp.fsum(-mpf(y) * mp.log(p) for p, y in zip(probs, target, strict=True) if y != 0)


def exact_dice(probs, target, smooth):
    """For one region of probabilities (as mpf) and targets."""
    target = [mpf(y) for y in target]
    overlap = mp.fsum(p * y for p, y in zip(probs, target, strict=True))
    bottom = mp.fsum(probs) + mp.fsum(target) + mpf(smooth)
    return 1 - (2 * overlap + mpf(smooth)) / bottom if bottom else mpf(0)


EXACT: dict[str, Callable[..., Any]] = {
    "mse_loss": exact_mse,
    "l1_loss": exact_l1,
    "huber_loss": exact_huber,
    "binary_cross_entropy_loss": exact_bce,
    "cross_entropy_loss": exact_cross_entropy,
    "dice_loss": exact_dice,
}

"""Oracles of the losses over regions."""

import numpy as np
from mpmath import mp, mpf
from scipy.special import expit, softmax

from oracles.classification import binary_cross_entropy_loss, one_hot
from oracles.core import reduced


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


def exact_dice(probs, target, smooth):
    """For one region of probabilities (as mpf) and targets."""
    target = [mpf(y) for y in target]
    overlap = mp.fsum(p * y for p, y in zip(probs, target, strict=True))
    bottom = mp.fsum(probs) + mp.fsum(target) + mpf(smooth)
    return 1 - (2 * overlap + mpf(smooth)) / bottom if bottom else mpf(0)


ORACLES = (dice_loss, dice_bce_loss)
EXACT = {"dice_loss": exact_dice}

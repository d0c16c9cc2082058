"""Oracles of the losses over regions."""

import numpy as np
from mpmath import mp, mpf
from scipy.special import expit, log_softmax, softmax

from oracles.classification import (
    binary_cross_entropy_loss,
    cross_entropy_loss,
    one_hot,
    sigmoid_focal_loss,
    softmax_focal_loss,
)
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


def sums(
    prediction,
    target,
    activation=None,
    class_dim=None,
    dim=None,
    squared=False,
    soft_target=False,
    where=None,
):
    """TP, FP, FN, TN, the size of the target and the count, each with summed axes of length 1."""
    activate = {None: lambda x: x, "sigmoid": expit, "softmax": lambda x: softmax(x, class_dim)}
    y, mask = pixels(prediction, target, class_dim, where)
    p = activate[activation](prediction)
    terms = {"tp": p * y, "fp": p * (1 - y), "fn": (1 - p) * y, "tn": (1 - p) * (1 - y)}
    over, under = np.maximum(p - y, 0), np.maximum(y - p, 0)
    if squared:
        terms |= {"tp": p * y, "fp": over**2, "fn": under**2}
    elif soft_target:
        terms = {"tp": np.minimum(p, y), "fp": over, "fn": under, "tn": 1 - np.maximum(p, y)}
    terms |= {"size": y, "count": np.ones_like(p)}
    return {k: regions(np.where(mask, v, 0.0), class_dim, dim)[0] for k, v in terms.items()}


def pair(smooth):
    return smooth if isinstance(smooth, tuple) else (smooth, smooth)


def ratio(top, bottom):
    """1 - top / bottom, a perfect match for 0 / 0."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(bottom == 0, 0.0, 1 - top / bottom)


def tversky(s, alpha, beta, smooth, hits=1):
    top, bottom = pair(smooth)
    whole = hits * s["tp"] + alpha * s["fp"] + beta * s["fn"]
    return ratio(hits * s["tp"] + top, whole + bottom)


def absent(losses, s, empty):
    """The losses, with the mean probability where there is no target."""
    if empty == "smooth":
        return losses
    return np.where(s["size"] == 0, (s["tp"] + s["fp"]) / np.maximum(s["count"], 1), losses)


def finish(losses, s, shape, class_dim, dim, classes, weights, reduction):
    """Select classes, drop the summed axes, reduce."""
    counted = s["count"] > 0
    if isinstance(classes, str):
        counted &= (s["size"] > 0) if classes == "present" else True
    else:
        losses, counted = (np.take(a, classes, axis=class_dim) for a in (losses, counted))
    axes = regions(np.empty(shape), class_dim, dim)[1]
    return reduced(np.squeeze(losses, axes), reduction, np.squeeze(counted, axes), weights)


def of_regions(formula):
    """An oracle of one loss per region from a formula of its sums."""

    def oracle(
        prediction,
        target,
        *,
        activation=None,
        class_dim=None,
        dim=None,
        empty="smooth",
        squared=False,
        soft_target=False,
        classes="all",
        where=None,
        weights=None,
        reduction="mean",
        **options,
    ):
        s = sums(prediction, target, activation, class_dim, dim, squared, soft_target, where)
        losses = absent(formula(s, **options), s, empty)
        shape = prediction.shape
        return finish(losses, s, shape, class_dim, dim, classes, weights, reduction)

    oracle.__name__ = formula.__name__
    return oracle


@of_regions
def dice_loss(s, smooth=1.0):
    return tversky(s, 1, 1, smooth, hits=2)


@of_regions
def jaccard_loss(s, smooth=1.0):
    top, bottom = pair(smooth)
    return ratio(s["tp"] + top, s["tp"] + s["fp"] + s["fn"] + bottom)


@of_regions
def tversky_loss(s, alpha=0.5, beta=0.5, smooth=1.0):
    return tversky(s, alpha, beta, smooth)


@of_regions
def focal_tversky_loss(s, alpha=0.3, beta=0.7, gamma=0.75, smooth=1.0):
    return np.maximum(tversky(s, alpha, beta, smooth), 0) ** gamma


@of_regions
def log_cosh_dice_loss(s, smooth=1.0):
    return np.log(np.cosh(tversky(s, 1, 1, smooth, hits=2)))


@of_regions
def mcc_loss(s, smooth=1.0):
    tp, fp, fn, tn = s["tp"] + smooth, s["fp"], s["fn"], s["tn"] + smooth
    root = np.sqrt(tp + fp) * np.sqrt(tp + fn) * np.sqrt(tn + fp) * np.sqrt(tn + fn)
    with np.errstate(invalid="ignore", divide="ignore"):
        losses = np.where(root == 0, 1.0, 1 - (tp * tn - fp * fn) / root)
    return np.where((fp == 0) & (fn == 0), 0.0, losses)


def selected(values, counted, class_dim, classes):
    """Only the classes that count, each with its own weight of 0 or 1."""
    if not isinstance(classes, str):
        values, counted = (np.take(a, classes, axis=class_dim) for a in (values, counted))
    return np.where(counted, values, 0.0), counted


def generalized_dice_loss(
    prediction,
    target,
    *,
    activation=None,
    class_dim=1,
    dim=None,
    weight_type="square",
    smooth=1.0,
    empty="smooth",
    soft_target=False,
    classes="all",
    where=None,
    weights=None,
    reduction="mean",
):
    s = sums(prediction, target, activation, class_dim, dim, False, soft_target, where)
    counted = (s["count"] > 0) & ((s["size"] > 0) | (classes != "present"))
    axis = class_dim
    s = {key: selected(value, counted, axis, classes)[0] for key, value in s.items()}
    counted = selected(counted, counted, axis, classes)[1]

    size = np.where(s["size"] > 0, s["size"], np.inf)
    smallest = size.min(axis, keepdims=True)
    smallest = np.where(np.isinf(smallest), 1.0, smallest)
    power = {"square": 2, "simple": 1, "uniform": 0}[weight_type]
    w = (smallest / np.where(np.isinf(size), smallest, size)) ** power
    tp, fp, fn = ((w * s[key]).sum(axis, keepdims=True) for key in ("tp", "fp", "fn"))
    top, bottom = pair(smooth)
    losses = ratio(2 * tp + top, 2 * tp + fp + fn + bottom)
    total = {key: value.sum(axis, keepdims=True) for key, value in s.items()}
    losses = absent(losses, total, empty)
    axes = (axis % prediction.ndim, *regions(prediction, class_dim, dim)[1])
    counted = np.squeeze(counted.any(axis, keepdims=True), axes)
    return reduced(np.squeeze(losses, axes), reduction, counted, weights)


def generalized_wasserstein_dice_loss(
    prediction,
    target,
    *,
    distance,
    activation=None,
    class_dim=1,
    dim=None,
    smooth=1.0,
    empty="smooth",
    where=None,
    weights=None,
    reduction="mean",
):
    y, mask = pixels(prediction, target, class_dim, where)
    p = softmax(prediction, class_dim) if activation == "softmax" else prediction
    p = expit(prediction) if activation == "sigmoid" else p
    p, y, mask = (np.moveaxis(a, class_dim, -1) for a in (p, y, mask))
    m = distance / distance.max()
    cost = np.einsum("...l,lc,...c->...", y, m, p)
    right = np.einsum("...l,lc,...c->...", y[..., 1:], 1 - m[1:], p)
    foreground = np.einsum("...l,...c->...", y[..., 1:], p)
    _, axes = regions(prediction, class_dim, dim)
    axes = tuple(axis - (axis > class_dim % prediction.ndim) for axis in axes)
    mask = mask[..., 0]
    cost, right, foreground, count = (
        np.where(mask, a, 0.0).sum(axes) for a in (cost, right, foreground, np.ones_like(cost))
    )
    top, bottom = pair(smooth)
    losses = ratio(2 * right + top, 2 * right + cost + bottom)
    if empty == "penalize":
        losses = np.where(foreground == 0, cost / np.maximum(count, 1), losses)
    return reduced(losses, reduction, count > 0, weights)


def pixel_sums(losses, mask, class_dim, dim):
    return regions(np.where(mask, losses, 0.0), class_dim, dim)[0]


def dice_bce_loss(
    logits,
    target,
    *,
    dice_weight=0.5,
    bce_weight=0.5,
    smooth=1.0,
    class_dim=None,
    dim=None,
    empty="smooth",
    squared=False,
    soft_target=False,
    classes="all",
    where=None,
    weights=None,
    reduction="mean",
):
    s = sums(logits, target, "sigmoid", class_dim, dim, squared, soft_target, where)
    y, mask = pixels(logits, target, class_dim, where)
    entropy = binary_cross_entropy_loss(logits, y, reduction="none")
    entropy = pixel_sums(entropy, mask, class_dim, dim) / np.maximum(s["count"], 1)
    dice = absent(tversky(s, 1, 1, smooth, hits=2), s, empty)
    losses = dice_weight * dice + bce_weight * entropy
    return finish(losses, s, logits.shape, class_dim, dim, classes, weights, reduction)


def of_units(overlap, s, entropy, class_dim, dim, classes, shape, weights, reduction):
    """The mean of `overlap` over the classes that count plus the mean of `entropy` over pixels.

    `entropy` is summed over the pixels of a region, one value for all classes.
    """
    count = np.take(s["count"], [0], axis=class_dim)
    counted = (s["count"] > 0) & ((s["size"] > 0) | (classes != "present"))
    overlap, counted = selected(overlap, counted, class_dim, classes)
    number = np.maximum(counted.sum(class_dim, keepdims=True), 1)
    losses = overlap.sum(class_dim, keepdims=True) / number + entropy / np.maximum(count, 1)
    axes = (class_dim % len(shape), *regions(np.empty(shape), class_dim, dim)[1])
    counted = counted.any(class_dim, keepdims=True)
    return reduced(np.squeeze(losses, axes), reduction, np.squeeze(counted, axes), weights)


def dice_ce_loss(
    logits,
    target,
    *,
    dice_weight=0.5,
    ce_weight=0.5,
    label_smoothing=0.0,
    smooth=1.0,
    class_dim=1,
    dim=None,
    empty="smooth",
    squared=False,
    soft_target=False,
    classes="all",
    where=None,
    weights=None,
    reduction="mean",
):
    s = sums(logits, target, "softmax", class_dim, dim, squared, soft_target, where)
    y, mask = pixels(logits, target, class_dim, where)
    options = {"class_dim": class_dim, "label_smoothing": label_smoothing, "reduction": "none"}
    entropy = np.expand_dims(cross_entropy_loss(logits, y, **options), class_dim)
    entropy = pixel_sums(entropy, np.take(mask, [0], class_dim), class_dim, dim)
    dice = dice_weight * absent(tversky(s, 1, 1, smooth, hits=2), s, empty)
    shape = logits.shape
    return of_units(
        dice, s, ce_weight * entropy, class_dim, dim, classes, shape, weights, reduction
    )


def dice_focal_loss(
    logits,
    target,
    *,
    activation="sigmoid",
    dice_weight=0.5,
    focal_weight=0.5,
    gamma=2.0,
    smooth=1.0,
    class_dim=None,
    dim=None,
    empty="smooth",
    squared=False,
    soft_target=False,
    classes="all",
    where=None,
    weights=None,
    reduction="mean",
):
    s = sums(logits, target, activation, class_dim, dim, squared, soft_target, where)
    y, mask = pixels(logits, target, class_dim, where)
    dice = dice_weight * absent(tversky(s, 1, 1, smooth, hits=2), s, empty)
    shape = logits.shape
    if activation == "sigmoid":
        focal = sigmoid_focal_loss(logits, y, gamma=gamma, reduction="none")
        focal = pixel_sums(focal, mask, class_dim, dim) / np.maximum(s["count"], 1)
        losses = dice + focal_weight * focal
        return finish(losses, s, shape, class_dim, dim, classes, weights, reduction)
    focal = softmax_focal_loss(logits, y, class_dim=class_dim, gamma=gamma, reduction="none")
    mask = np.take(mask, [0], class_dim)
    focal = pixel_sums(np.expand_dims(focal, class_dim), mask, class_dim, dim)
    return of_units(
        dice, s, focal_weight * focal, class_dim, dim, classes, shape, weights, reduction
    )


def unified_focal_loss(
    logits,
    target,
    *,
    tversky_weight=0.5,
    focal_weight=0.5,
    delta=0.6,
    gamma=0.5,
    asymmetric=True,
    smooth=1.0,
    class_dim=1,
    dim=None,
    empty="smooth",
    where=None,
    weights=None,
    reduction="mean",
):
    s = sums(logits, target, "softmax", class_dim, dim, where=where)
    y, mask = pixels(logits, target, class_dim, where)
    background = np.arange(logits.shape[class_dim]) == 0
    background = np.expand_dims(
        background, [axis for axis in range(logits.ndim) if axis != class_dim % logits.ndim]
    )
    plain = tversky(s, 1 - delta, delta, smooth)
    raised = np.maximum(plain, 0) ** (1 - gamma)
    overlap = absent(np.where(background & asymmetric, plain, raised), s, empty)
    p = softmax(logits, class_dim)
    surprisal = np.where(y == 0, 0.0, -y * log_softmax(logits, class_dim))
    lowered = (1 - p) ** gamma * surprisal
    rare = surprisal if asymmetric else lowered
    entropy = np.where(background, (1 - delta) * lowered, delta * rare)
    entropy = pixel_sums(entropy, mask, class_dim, dim).sum(class_dim, keepdims=True)
    return of_units(
        tversky_weight * overlap, s, focal_weight * entropy, class_dim, dim, "all", logits.shape,
        weights, reduction,
    )  # fmt: skip


def exact_dice(probs, target, smooth):
    """For one region of probabilities (as mpf) and targets."""
    target = [mpf(y) for y in target]
    overlap = mp.fsum(p * y for p, y in zip(probs, target, strict=True))
    bottom = mp.fsum(probs) + mp.fsum(target) + mpf(smooth)
    return 1 - (2 * overlap + mpf(smooth)) / bottom if bottom else mpf(0)


ORACLES = (
    dice_loss,
    jaccard_loss,
    tversky_loss,
    focal_tversky_loss,
    log_cosh_dice_loss,
    mcc_loss,
    generalized_dice_loss,
    generalized_wasserstein_dice_loss,
    dice_bce_loss,
    dice_ce_loss,
    dice_focal_loss,
    unified_focal_loss,
)
EXACT = {"dice_loss": exact_dice}

"""Oracles of the segmentation losses by rank, by distance and by skeleton: one region at a time."""

import itertools

import numpy as np
from scipy.ndimage import distance_transform_edt, maximum_filter, minimum_filter
from scipy.special import expit, log_softmax, softmax

from oracles.core import reduced


def dense(target, prediction, class_dim, where):
    """Target and mask with the shape of the prediction."""
    where = np.ones(prediction.shape, dtype=bool) if where is None else where
    if class_dim is not None and where.ndim < prediction.ndim:
        where = np.expand_dims(where, class_dim)
    where = np.broadcast_to(where, prediction.shape)
    if target.shape != prediction.shape:
        labels = np.expand_dims(target, class_dim)
        shape = [1] * prediction.ndim
        shape[class_dim] = -1
        target = labels == np.arange(prediction.shape[class_dim]).reshape(shape)
    return np.where(where, target, 0.0).astype(np.float64), where


def each_region(formula, arrays, class_dim, dim, classes, present, weights, reduction):
    """The formula on the pixels of every region, then the reduction over selected ones.

    The formula takes the arrays of one region, the last of which says what counts.
    """
    ndim = arrays[0].ndim
    if dim is None:
        dim = range(0 if class_dim is None else class_dim % ndim + 1, ndim)
    dim = [axis % ndim for axis in np.atleast_1d(dim)]
    units = [axis for axis in range(ndim) if axis not in dim]
    arrays = [np.transpose(a, [*units, *dim]) for a in arrays]
    shape = arrays[0].shape[: len(units)]
    losses, counted = np.zeros(shape), np.zeros(shape, dtype=bool)
    for unit in itertools.product(*map(range, shape)):
        given = [a[unit] for a in arrays]
        counted[unit] = given[-1].any() and (classes != "present" or present(*given))
        losses[unit] = formula(*given) if given[-1].any() else 0.0
    if not isinstance(classes, str):
        axis = units.index(class_dim % ndim)
        losses, counted = (np.take(a, classes, axis) for a in (losses, counted))
    return reduced(losses, reduction, counted, weights)


def any_target(_, y, where):
    return (y[where] != 0).any()


def activated(prediction, activation, class_dim):
    if activation == "softmax":
        return softmax(prediction, class_dim)
    return expit(prediction) if activation == "sigmoid" else prediction


def jaccard_growth(y):
    """Δ_k - Δ_{k-1} when the first k pixels, in this order, are wrong."""
    jaccard = [0.0]
    for k in range(1, len(y) + 1):
        true, wrong_positives = y.sum(), y[:k].sum()
        jaccard.append(1 - (true - wrong_positives) / (true + k - wrong_positives))
    return np.diff(jaccard)


def lovasz(errors, y):
    order = np.argsort(-errors, kind="stable")
    return (errors[order] * jaccard_growth(y[order])).sum()


def lovasz_hinge_loss(
    logits,
    target,
    *,
    dim=None,
    method="sort",
    where=None,
    weights=None,
    reduction="mean",
):
    y, where = dense(target, logits, None, where)

    def formula(x, y, where):
        x, y = x[where], y[where]
        return lovasz(np.maximum(0, 1 - x * (2 * y - 1)), y)

    arrays = (np.where(where, logits, 0.0), y, where)
    return each_region(formula, arrays, None, dim, "all", any_target, weights, reduction)


def lovasz_softmax_loss(
    logits,
    target,
    *,
    class_dim=1,
    dim=None,
    classes="present",
    method="sort",
    where=None,
    weights=None,
    reduction="mean",
):
    y, where = dense(target, logits, class_dim, where)

    def formula(p, y, where):
        return lovasz(np.abs(y - p)[where], y[where])

    p = softmax(np.where(where, logits, 0.0), class_dim)
    return each_region(
        formula, (p, y, where), class_dim, dim, classes, any_target, weights, reduction
    )


def boundary_loss(
    prediction,
    distance_map,
    *,
    activation=None,
    class_dim=None,
    dim=None,
    classes="all",
    where=None,
    weights=None,
    reduction="mean",
):
    phi, where = dense(distance_map, prediction, class_dim, where)
    p = activated(np.where(where, prediction, 0.0), activation, class_dim)

    def formula(p, phi, where):
        return (p * phi)[where].mean()

    return each_region(formula, (p, phi, where), class_dim, dim, classes, None, weights, reduction)


def across(inside, where, spacing):
    """Distance to the nearest pixel on the other side, 0 if there is none."""
    distance = np.zeros(inside.shape)
    for side in (inside, ~inside):
        goals = ~side & where
        if goals.any():
            distance[side] = distance_transform_edt(~goals, sampling=spacing)[side]
    return distance


def hausdorff_dt_loss(
    prediction,
    target,
    *,
    activation=None,
    class_dim=None,
    dim=None,
    alpha=2.0,
    spacing=None,
    classes="all",
    where=None,
    weights=None,
    reduction="mean",
):
    y, where = dense(target, prediction, class_dim, where)
    p = activated(np.where(where, prediction, 0.0), activation, class_dim)

    def formula(p, y, where):
        both = across(y > 0.5, where, spacing) ** alpha + across(p > 0.5, where, spacing) ** alpha
        return ((p - y) ** 2 * both)[where].mean()

    return each_region(
        formula, (p, y, where), class_dim, dim, classes, any_target, weights, reduction
    )


def soft_skeleton(x, where, iters):
    def eroded(x):
        x = np.where(where, x, np.inf)
        shapes = [[3 if a == axis else 1 for a in range(x.ndim)] for axis in range(x.ndim)]
        return np.min([minimum_filter(x, shape, mode="nearest") for shape in shapes], 0)

    def removed_by_opening(x):
        return np.maximum(x - maximum_filter(np.where(where, eroded(x), -np.inf), 3), 0)

    skeleton = np.zeros(x.shape)
    for _ in range(iters + 1):
        skeleton = skeleton + np.where(where, removed_by_opening(x), 0) * (1 - skeleton)
        x = np.where(where, eroded(x), 0)
    return skeleton


def cldice_loss(
    prediction,
    target,
    *,
    activation=None,
    class_dim=None,
    dim=None,
    iters=3,
    smooth=1.0,
    classes="all",
    where=None,
    weights=None,
    reduction="mean",
):
    y, where = dense(target, prediction, class_dim, where)
    p = activated(np.where(where, prediction, 0.0), activation, class_dim)

    def formula(p, y, where):
        p, y = np.where(where, p, 0), np.where(where, y, 0)
        skeleton_p, skeleton_y = soft_skeleton(p, where, iters), soft_skeleton(y, where, iters)
        precision = ((skeleton_p * y).sum() + smooth) / (skeleton_p.sum() + smooth)
        sensitivity = ((skeleton_y * p).sum() + smooth) / (skeleton_y.sum() + smooth)
        return 1 - 2 * precision * sensitivity / (precision + sensitivity)

    return each_region(
        formula, (p, y, where), class_dim, dim, classes, any_target, weights, reduction
    )


def dice_cldice_loss(
    prediction,
    target,
    *,
    dice_weight=0.5,
    cldice_weight=0.5,
    activation=None,
    class_dim=None,
    dim=None,
    iters=3,
    smooth=1.0,
    classes="all",
    where=None,
    weights=None,
    reduction="mean",
):
    y, mask = dense(target, prediction, class_dim, where)
    p = activated(np.where(mask, prediction, 0.0), activation, class_dim)

    def dice(p, y, where):
        p, y = p[where], y[where]
        return 1 - (2 * (p * y).sum() + smooth) / (p.sum() + y.sum() + smooth)

    rest = (class_dim, dim, classes, any_target, weights, reduction)
    cldice = cldice_loss(
        prediction, target, activation=activation, class_dim=class_dim, dim=dim, iters=iters,
        smooth=smooth, classes=classes, where=where, weights=weights, reduction=reduction,
    )  # fmt: skip
    return dice_weight * each_region(dice, (p, y, mask), *rest) + cldice_weight * cldice


def skeleton_recall_loss(
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
    y, where = dense(target, prediction, class_dim, where)
    p = activated(np.where(where, prediction, 0.0), activation, class_dim)

    def formula(p, y, where):
        bottom = y[where].sum() + smooth
        return 1 - ((p * y)[where].sum() + smooth) / bottom if bottom else 0.0

    return each_region(
        formula, (p, y, where), class_dim, dim, classes, any_target, weights, reduction
    )


def nacl_loss(
    logits,
    target,
    *,
    class_dim=1,
    dim=None,
    kernel_size=3,
    penalty="l1",
    penalty_weight=0.1,
    where=None,
    weights=None,
    reduction="mean",
):
    y, mask = dense(target, logits, class_dim, where)
    x = np.where(mask, logits, 0.0)
    dim = range(class_dim % x.ndim + 1, x.ndim) if dim is None else np.atleast_1d(dim)
    half = kernel_size // 2
    wide = np.pad(y, [(half, half) if axis in dim else (0, 0) for axis in range(y.ndim)])
    shares = np.zeros(y.shape)
    for start in itertools.product(range(kernel_size), repeat=len(dim)):
        at = dict(zip(dim, start, strict=True))
        box = tuple(slice(at.get(a, 0), at.get(a, 0) + n) for a, n in enumerate(y.shape))
        shares += wide[box] / kernel_size ** len(dim)
    distance = np.abs(x - shares) if penalty == "l1" else (x - shares) ** 2
    cross_entropy = -(y * log_softmax(x, class_dim)).sum(class_dim)
    losses = cross_entropy + penalty_weight * distance.mean(class_dim)
    return reduced(losses, reduction, where, weights)


ORACLES = (
    lovasz_hinge_loss,
    lovasz_softmax_loss,
    boundary_loss,
    hausdorff_dt_loss,
    cldice_loss,
    dice_cldice_loss,
    skeleton_recall_loss,
    nacl_loss,
)
EXACT = {}

"""Oracles of the losses of boxes; those between boxes are for boxes that are not inverted."""

import numpy as np
from mpmath import mp, mpf
from scipy.special import expit, log_expit, log_softmax

from oracles.core import reduced


def corners(boxes, fmt):
    """Low and high corners, along the last axis."""
    first, second = np.split(np.asarray(boxes), 2, axis=-1)
    if fmt == "xyxy":
        return first, second
    if fmt == "xywh":
        return first, first + second
    return first - second / 2, first + second / 2


def quotient(a, b):
    """a / b, and 0 for 0 / 0."""
    return np.divide(a, b, out=np.zeros(np.broadcast(a, b).shape), where=b != 0)


class Geometry:
    """Everything that the formulas are made of."""

    def __init__(self, boxes, target, fmt):
        (low, high), (low_t, high_t) = corners(boxes, fmt), corners(target, fmt)
        self.size, self.size_t = high - low, high_t - low_t
        self.hull = np.maximum(high, high_t) - np.minimum(low, low_t)
        self.offset = (low + high) / 2 - (low_t + high_t) / 2
        self.corner_moves = ((low - low_t) ** 2).sum(-1) + ((high - high_t) ** 2).sum(-1)
        overlap = np.clip(np.minimum(high, high_t) - np.maximum(low, low_t), 0, None).prod(-1)
        self.union = self.size.prod(-1) + self.size_t.prod(-1) - overlap
        self.iou = quotient(overlap, self.union)

    @property
    def gap(self):
        whole = self.hull.prod(-1)
        return quotient(whole - self.union, whole)

    @property
    def distance(self):
        return quotient((self.offset**2).sum(-1), (self.hull**2).sum(-1))

    def aspect(self, iou_threshold=0.0):
        angle, angle_t = (np.arctan2(s[..., 0], s[..., 1]) for s in (self.size, self.size_t))
        point = ~(self.size.any(-1) & self.size_t.any(-1))
        v = np.where(point, 0.0, 4 / np.pi**2 * (angle - angle_t) ** 2)
        return np.where(self.iou >= iou_threshold, quotient(v * v, 1 - self.iou + v), 0.0)

    @property
    def eiou(self):
        extent = quotient(self.size - self.size_t, self.hull) ** 2
        return 1 - self.iou + self.distance + extent.sum(-1)


def iou_loss(boxes, target, *, kind="linear", fmt="xyxy", reduction="mean", **masks):
    iou = Geometry(boxes, target, fmt).iou
    losses = {
        "linear": 1 - iou,
        "square": 1 - iou**2,
        "log": -np.log(np.maximum(iou, 1e-6)),
    }
    return reduced(losses[kind], reduction, **masks)


def giou_loss(boxes, target, *, fmt="xyxy", reduction="mean", **masks):
    g = Geometry(boxes, target, fmt)
    return reduced(1 - g.iou + g.gap, reduction, **masks)


def diou_loss(boxes, target, *, fmt="xyxy", reduction="mean", **masks):
    g = Geometry(boxes, target, fmt)
    return reduced(1 - g.iou + g.distance, reduction, **masks)


def ciou_loss(boxes, target, *, iou_threshold=0.0, fmt="xyxy", reduction="mean", **masks):
    g = Geometry(boxes, target, fmt)
    return reduced(1 - g.iou + g.distance + g.aspect(iou_threshold), reduction, **masks)


def eiou_loss(boxes, target, *, fmt="xyxy", reduction="mean", **masks):
    return reduced(Geometry(boxes, target, fmt).eiou, reduction, **masks)


def siou_loss(boxes, target, *, theta=4.0, fmt="xyxy", reduction="mean", **masks):
    """By the angles of the paper: sigma is the distance of the centres, x the sine."""
    g = Geometry(boxes, target, fmt)
    sigma = np.sqrt((g.offset**2).sum(-1))
    x = quotient(np.abs(g.offset[..., 1]), sigma)
    angle = 1 - 2 * np.sin(np.arcsin(np.clip(x, 0, 1)) - np.pi / 4) ** 2
    far = 1 - np.exp((angle[..., None] - 2) * quotient(g.offset, g.hull) ** 2)
    omega = quotient(np.abs(g.size - g.size_t), np.maximum(g.size, g.size_t))
    shape = (1 - np.exp(-omega)) ** theta
    return reduced(1 - g.iou + (far.sum(-1) + shape.sum(-1)) / 2, reduction, **masks)


def alpha_iou_loss(boxes, target, *, kind="iou", alpha=3.0, fmt="xyxy", reduction="mean", **masks):
    g = Geometry(boxes, target, fmt)
    losses = 1 - g.iou**alpha
    if kind == "giou":
        losses = losses + g.gap**alpha
    if kind in ("diou", "ciou"):
        losses = losses + g.distance**alpha
    if kind == "ciou":
        losses = losses + g.aspect() ** alpha
    return reduced(losses, reduction, **masks)


def focal_eiou_loss(boxes, target, *, gamma=0.5, fmt="xyxy", reduction="mean", **masks):
    g = Geometry(boxes, target, fmt)
    return reduced(g.iou**gamma * g.eiou, reduction, **masks)


def wiou_loss(
    state,
    boxes,
    target,
    *,
    version="v3",
    gamma=0.5,
    alpha=1.9,
    delta=3.0,
    fmt="xyxy",
    reduction="mean",
    **masks,
):
    g = Geometry(boxes, target, fmt)
    beta = quotient(1 - g.iou, state["mean"])
    focus = {
        "v1": np.ones_like(beta),
        "v2": beta**gamma,
        "v3": beta / (delta * alpha ** (beta - delta)),
    }
    return reduced(focus[version] * np.exp(g.distance) * (1 - g.iou), reduction, **masks)


def mpdiou_loss(boxes, target, *, image_size, fmt="xyxy", reduction="mean", **masks):
    g = Geometry(boxes, target, fmt)
    height, width = image_size
    return reduced(1 - g.iou + g.corner_moves / (height**2 + width**2), reduction, **masks)


def binary_cross_entropy(x, y):
    return -y * log_expit(x) - (1 - y) * log_expit(-x)


def quality_focal_loss(logits, target, *, gamma=2.0, reduction="mean", **masks):
    losses = np.abs(target - expit(logits)) ** gamma * binary_cross_entropy(logits, target)
    return reduced(losses, reduction, **masks)


def varifocal_loss(logits, target, *, alpha=0.75, gamma=2.0, reduction="mean", **masks):
    weight = np.where(target > 0, target, alpha * expit(logits) ** gamma)
    return reduced(weight * binary_cross_entropy(logits, target), reduction, **masks)


def distribution_focal_loss(logits, target, *, reduction="mean", **masks):
    surprisal = -log_softmax(logits, axis=-1)
    left = np.clip(np.floor(target), 0, logits.shape[-1] - 2).astype(int)
    below, above = (
        np.take_along_axis(surprisal, bins[..., None], -1)[..., 0] for bins in (left, left + 1)
    )
    return reduced((left + 1 - target) * below + (target - left) * above, reduction, **masks)


ORACLES = (
    iou_loss,
    giou_loss,
    diou_loss,
    ciou_loss,
    eiou_loss,
    siou_loss,
    alpha_iou_loss,
    focal_eiou_loss,
    wiou_loss,
    mpdiou_loss,
    quality_focal_loss,
    varifocal_loss,
    distribution_focal_loss,
)


def exact(boxes, target):
    """All terms of two boxes in 2D with a union, in many digits."""
    (x, y, x2, y2), (a, b, a2, b2) = (map(mpf, box) for box in (boxes, target))
    size, size_t = (x2 - x, y2 - y), (a2 - a, b2 - b)
    lengths = (max(min(x2, a2) - max(x, a), 0), max(min(y2, b2) - max(y, b), 0))
    hull = (max(x2, a2) - min(x, a), max(y2, b2) - min(y, b))
    offset = ((x + x2 - a - a2) / 2, (y + y2 - b - b2) / 2)
    overlap = lengths[0] * lengths[1]
    union = size[0] * size[1] + size_t[0] * size_t[1] - overlap
    whole = hull[0] * hull[1]
    axes = range(2)
    sigma = mp.hypot(*offset)
    angle = 1 - 2 * mp.sin(mp.asin(abs(offset[1]) / sigma if sigma else 0) - mp.pi / 4) ** 2
    v = 4 / mp.pi**2 * (mp.atan2(*size) - mp.atan2(*size_t)) ** 2
    missed = 1 - overlap / union
    return {
        "iou": missed,
        "log": -mp.log(overlap / union) if overlap else mp.inf,
        "giou": missed + (whole - union) / whole,
        "distance": sigma**2 / (hull[0] ** 2 + hull[1] ** 2),
        "aspect": v * v / (missed + v) if v else mpf(0),
        "extent": sum(((size[k] - size_t[k]) / hull[k]) ** 2 for k in axes),
        "far": sum(1 - mp.exp((angle - 2) * (offset[k] / hull[k]) ** 2) for k in axes),
        "shape": sum(
            (1 - mp.exp(-abs(size[k] - size_t[k]) / max(size[k], size_t[k]))) ** 4 for k in axes
        ),
        "moves": (x - a) ** 2 + (y - b) ** 2 + (x2 - a2) ** 2 + (y2 - b2) ** 2,
    }


def total(*terms):
    return lambda boxes, target: mp.fsum(exact(boxes, target)[term] for term in terms)


EXACT = {
    "iou_loss": total("iou"),
    "giou_loss": total("giou"),
    "diou_loss": total("iou", "distance"),
    "ciou_loss": total("iou", "distance", "aspect"),
    "eiou_loss": total("iou", "distance", "extent"),
    "siou_loss": lambda *boxes: total("iou")(*boxes) + total("far", "shape")(*boxes) / 2,
    "mpdiou_loss": total("iou", "moves"),
    "alpha_iou_loss": lambda *boxes: 1 - (1 - total("iou")(*boxes)) ** 3,
}

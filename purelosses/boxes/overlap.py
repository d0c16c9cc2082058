r"""Losses of the overlap of a predicted box with its target, and what they add to it."""

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from purelosses._checks import check_choice, check_number, complain
from purelosses._numerics import power, safe_divide
from purelosses._reduce import reduce
from purelosses._types import Reduction
from purelosses.boxes.geometry import (
    Areas,
    Corners,
    Format,
    Pair,
    Shares,
    areas,
    aspect,
    corners,
    distance,
    pair,
    powered,
)

IoUKind: TypeAlias = Literal["linear", "log", "square"]
AlphaKind: TypeAlias = Literal["iou", "giou", "diou", "ciou"]

_PENALTIES: dict[str, Callable[[Corners, Areas | Shares], tuple[Tensor, ...]]] = {
    "iou": lambda boxes, area: (),
    "giou": lambda boxes, area: (area.uncovered,),
    "diou": lambda boxes, area: (distance(pair(boxes)),),
    "ciou": lambda boxes, area: (distance(pair(boxes)), _proportion(pair(boxes), area)),
}


def _proportion(boxes: Pair, area: Areas | Shares, iou_threshold: float | Tensor = 0.0) -> Tensor:
    """The penalty of CIoU for different proportions."""
    difference, weight = aspect(boxes, area.missed)
    return torch.where(area.iou >= iou_threshold, weight, 0.0) * difference


def _extents(boxes: Pair, area: Areas | Shares) -> Tensor:
    """The EIoU loss: besides the distance, the differences of width and height."""
    extent = safe_divide(boxes.growth, boxes.span).square().sum(0)
    return area.missed + distance(boxes) + extent


def iou_loss(
    boxes: Tensor,
    target: Tensor,
    *,
    kind: IoUKind = "linear",
    fmt: Format = "xyxy",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""One minus intersection over union: the share of the union that only one of two boxes covers.

    $$\ell = \begin{cases} 1 - \mathrm{IoU} & \text{linear} \\ -\log \mathrm{IoU} & \text{log} \\
    1 - \mathrm{IoU}^2 & \text{square} \end{cases} \qquad
    \mathrm{IoU} = \frac{|B \cap T|}{|B \cup T|}, \quad
    1 - \mathrm{IoU} = \frac{|B \setminus T| + |T \setminus B|}{|B \cup T|}$$

    with $B$ a predicted box, $T$ its target and $|\cdot|$ an area (in three dimensions a volume).
    The last form is the one computed: it stays accurate as the loss goes to 0. Boxes that do not
    overlap have no gradient. An inverted box has no area, and 0 / 0 is an IoU of 0. For the
    logarithm an IoU below $10^{-6}$ counts as $10^{-6}$.


    Args:
        boxes: Predicted boxes along the last axis, 4 numbers, or 6 in three dimensions (all low
            corners, then all high ones). Half precision is computed in float32.
        target: True boxes of the same shape and format.
        kind: Which function of the IoU; see the formula.
        fmt: What the numbers are: `"xyxy"` both corners, `"xywh"` the first corner and the size,
            `"cxcywh"` the centre and the size.
        where: Which boxes count; shape of `boxes` without its last axis, or 1 along an axis. What
            lies under False has no influence, whatever it is.
        weights: How much each box matters; shape of `boxes` without its last axis, or 1 along an
            axis.
        reduction: What happens to the losses, one per box: `"mean"` divides their weighted sum by
            the number of boxes that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or one loss per box with `reduction="none"`. float32, or float64 for float64
        boxes. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ or do not fit, `kind` is unknown, or `fmt` or
            `reduction` is unknown.
        TypeError: If `boxes` is not floating or `where` not boolean.

    Examples:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
        >>> target = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0]])
        >>> iou_loss(boxes, target, reduction="none")
        tensor([0.8571, 1.0000])

    Coming from:
        `1 - torchvision.ops.box_iou(...).diagonal()` is `kind="linear"`. mmdetection's `IoULoss`
        has `mode="log"` by default, and `"linear"` and `"square"`.

    Source:
        Yu et al., *UnitBox*, arXiv:1608.01471, for the logarithm; Rahman and Wang, ISVC 2016.
    """
    check_choice("iou_loss", "kind", kind, get_args(IoUKind))
    area = areas(corners("iou_loss", boxes, target, fmt, where, weights, reduction))
    loss = area.missed
    if kind == "square":
        loss = loss * (2 - loss)
    if kind == "log":
        near = loss < 0.5
        small = -torch.log1p(-torch.where(near, loss, 0.0))
        loss = torch.where(near, small, -area.iou.clamp_min(1e-6).log())
    return reduce(loss, reduction, where, weights)


def giou_loss(
    boxes: Tensor,
    target: Tensor,
    *,
    fmt: Format = "xyxy",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""IoU loss plus the share of the enclosing box that neither box covers.

    $$\ell = 1 - \mathrm{IoU} + \frac{|C| - |B \cup T|}{|C|}$$

    with $B$ a predicted box, $T$ its target, $C$ the smallest box around both and $|\cdot|$ an area
    (in three dimensions a volume). The second term pulls boxes together that do not overlap. It is
    computed as a sum of positive terms, and 0 / 0 is 0. An inverted box has no area, and makes $C$
    larger by what it is inverted.


    Args:
        boxes: Predicted boxes along the last axis, 4 numbers, or 6 in three dimensions (all low
            corners, then all high ones). Half precision is computed in float32.
        target: True boxes of the same shape and format.
        fmt: What the numbers are: `"xyxy"` both corners, `"xywh"` the first corner and the size,
            `"cxcywh"` the centre and the size.
        where: Which boxes count; shape of `boxes` without its last axis, or 1 along an axis. What
            lies under False has no influence, whatever it is.
        weights: How much each box matters; shape of `boxes` without its last axis, or 1 along an
            axis.
        reduction: What happens to the losses, one per box: `"mean"` divides their weighted sum by
            the number of boxes that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or one loss per box with `reduction="none"`. float32, or float64 for float64
        boxes. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ or do not fit, or `fmt` or `reduction` is unknown.
        TypeError: If `boxes` is not floating or `where` not boolean.

    Examples:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
        >>> target = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0]])
        >>> giou_loss(boxes, target, reduction="none")
        tensor([1.0794, 1.3333])

    Coming from:
        `torchvision.ops.generalized_box_iou_loss` adds an absolute 1e-7 to its divisors, so its
        value depends on the scale of small boxes; else the same value, with
        `reduction="none"` there by default. MONAI's `BoxGIoULoss` is this in 2D and 3D.

    Source:
        Rezatofighi et al., *Generalized Intersection over Union*, arXiv:1902.09630.
    """
    area = areas(corners("giou_loss", boxes, target, fmt, where, weights, reduction))
    return reduce(area.missed + area.uncovered, reduction, where, weights)


def diou_loss(
    boxes: Tensor,
    target: Tensor,
    *,
    fmt: Format = "xyxy",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""IoU loss plus the squared distance of the centres, relative to the enclosing box.

    $$\ell = 1 - \mathrm{IoU} + \frac{\rho^2}{c^2}$$

    with IoU as in [`iou_loss`][purelosses.iou_loss], $\rho$ the distance of the centres of a
    predicted box and its target, and $c$ the diagonal of the smallest box around both (around all
    corners, if one is inverted). 0 / 0 is 0.


    Args:
        boxes: Predicted boxes along the last axis, 4 numbers, or 6 in three dimensions (all low
            corners, then all high ones). Half precision is computed in float32.
        target: True boxes of the same shape and format.
        fmt: What the numbers are: `"xyxy"` both corners, `"xywh"` the first corner and the size,
            `"cxcywh"` the centre and the size.
        where: Which boxes count; shape of `boxes` without its last axis, or 1 along an axis. What
            lies under False has no influence, whatever it is.
        weights: How much each box matters; shape of `boxes` without its last axis, or 1 along an
            axis.
        reduction: What happens to the losses, one per box: `"mean"` divides their weighted sum by
            the number of boxes that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or one loss per box with `reduction="none"`. float32, or float64 for float64
        boxes. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ or do not fit, or `fmt` or `reduction` is unknown.
        TypeError: If `boxes` is not floating or `where` not boolean.

    Examples:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
        >>> target = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0]])
        >>> diou_loss(boxes, target, reduction="none")
        tensor([0.9683, 1.4000])

    Coming from:
        `torchvision.ops.distance_box_iou_loss` adds an absolute 1e-7 to its divisors; else the
        same value, with `reduction="none"` there by default.

    Source:
        Zheng et al., *Distance-IoU Loss*, arXiv:1911.08287.
    """
    found = corners("diou_loss", boxes, target, fmt, where, weights, reduction)
    return reduce(areas(found).missed + distance(pair(found)), reduction, where, weights)


def ciou_loss(
    boxes: Tensor,
    target: Tensor,
    *,
    iou_threshold: float | Tensor = 0.0,
    fmt: Format = "xyxy",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""DIoU loss plus a penalty for boxes of different proportions.

    $$\ell = 1 - \mathrm{IoU} + \frac{\rho^2}{c^2} + \alpha v, \qquad
    v = \frac{4}{\pi^2} \Bigl(\arctan \frac{w}{h} - \arctan \frac{w'}{h'}\Bigr)^2, \qquad
    \alpha = \begin{cases} \dfrac{v}{1 - \mathrm{IoU} + v} & \mathrm{IoU} \ge \tau \\
    0 & \text{else} \end{cases}$$

    with $\rho$ and $c$ as in [`diou_loss`][purelosses.diou_loss], $w, h$ the width and height of a
    predicted box, $w', h'$ those of its target and $\tau$ the `iou_threshold`. $\alpha$ is a
    constant in the gradient. The angles are computed by the two-argument arctangent, so a box
    without height has one; a point has none, and $v = 0$ beside it.


    Args:
        boxes: Predicted boxes, 4 numbers along the last axis. Half precision is computed in
            float32.
        target: True boxes of the same shape and format.
        iou_threshold: The IoU from which on proportions matter. At 0 they always do.
        fmt: What the numbers are: `"xyxy"` both corners, `"xywh"` the first corner and the size,
            `"cxcywh"` the centre and the size.
        where: Which boxes count; shape of `boxes` without its last axis, or 1 along an axis. What
            lies under False has no influence, whatever it is.
        weights: How much each box matters; shape of `boxes` without its last axis, or 1 along an
            axis.
        reduction: What happens to the losses, one per box: `"mean"` divides their weighted sum by
            the number of boxes that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or one loss per box with `reduction="none"`. float32, or float64 for float64
        boxes. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ or do not fit, `iou_threshold` is not between 0 and 1,
            or `fmt` or `reduction` is unknown.
        TypeError: If `boxes` is not floating or `where` not boolean.

    Examples:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
        >>> target = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0]])
        >>> ciou_loss(boxes, target, reduction="none")
        tensor([0.9683, 1.4000])

    Coming from:
        `torchvision.ops.complete_box_iou_loss` and YOLO: same value (an absolute 1e-7 aside), with
        `reduction="none"` there by default. The authors' code for arXiv:2005.03572 and mmdetection
        are `iou_threshold=0.5`.

    Source:
        Zheng et al., *Distance-IoU Loss*, arXiv:1911.08287.
    """
    iou_threshold = check_number("ciou_loss", "iou_threshold", iou_threshold, minimum=0, maximum=1)
    found = corners("ciou_loss", boxes, target, fmt, where, weights, reduction, (2,))
    both, area = pair(found), areas(found)
    loss = area.missed + distance(both) + _proportion(both, area, iou_threshold)
    return reduce(loss, reduction, where, weights)


def eiou_loss(
    boxes: Tensor,
    target: Tensor,
    *,
    fmt: Format = "xyxy",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Efficient IoU: DIoU loss plus the differences of width and height, each for itself.

    $$\ell = 1 - \mathrm{IoU} + \frac{\rho^2}{c^2} + \frac{(w - w')^2}{c_w^2}
    + \frac{(h - h')^2}{c_h^2}$$

    with $\rho$ and $c$ as in [`diou_loss`][purelosses.diou_loss], $w, h$ the width and height of a
    predicted box, $w', h'$ those of its target and $c_w, c_h$ those of the smallest box around
    both. In three dimensions the depths have such a term too. An inverted box has a negative
    width, so its gradient turns it round. 0 / 0 is 0.

    Another loss shares the name: the *extended* IoU of Peng and Yu (2021), which is mmdetection's
    `EIoULoss`.


    Args:
        boxes: Predicted boxes along the last axis, 4 numbers, or 6 in three dimensions (all low
            corners, then all high ones). Half precision is computed in float32.
        target: True boxes of the same shape and format.
        fmt: What the numbers are: `"xyxy"` both corners, `"xywh"` the first corner and the size,
            `"cxcywh"` the centre and the size.
        where: Which boxes count; shape of `boxes` without its last axis, or 1 along an axis. What
            lies under False has no influence, whatever it is.
        weights: How much each box matters; shape of `boxes` without its last axis, or 1 along an
            axis.
        reduction: What happens to the losses, one per box: `"mean"` divides their weighted sum by
            the number of boxes that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or one loss per box with `reduction="none"`. float32, or float64 for float64
        boxes. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ or do not fit, or `fmt` or `reduction` is unknown.
        TypeError: If `boxes` is not floating or `where` not boolean.

    Examples:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
        >>> target = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0]])
        >>> eiou_loss(boxes, 1.5 * target, reduction="none")
        tensor([1.2767, 1.5957])

    Coming from:
        The authors' loss. Not mmdetection's `EIoULoss`; see above.

    Source:
        Zhang et al., *Focal and Efficient IOU Loss*, arXiv:2101.08158.
    """
    found = corners("eiou_loss", boxes, target, fmt, where, weights, reduction)
    return reduce(_extents(pair(found), areas(found)), reduction, where, weights)


def siou_loss(
    boxes: Tensor,
    target: Tensor,
    *,
    theta: float | Tensor = 4.0,
    fmt: Format = "xyxy",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""IoU loss plus costs of the distance, by its direction, and of the shape.

    $$\ell = 1 - \mathrm{IoU} + \frac{\Delta + \Omega}{2}, \quad
    \Delta = \sum_{k} 1 - e^{(\Lambda - 2)\, d_k^2 / c_k^2}, \quad
    \Omega = \sum_{k} \bigl(1 - e^{-\omega_k}\bigr)^\theta, \quad
    \omega_k = \frac{|s_k - s_k'|}{\max(s_k, s_k')}, \quad
    \Lambda = \frac{2\,|d_x d_y|}{d_x^2 + d_y^2}$$

    with $k$ either axis, $d_k$ the distance of the centres of a predicted box and its target along
    it, $s_k$ and $s_k'$ their sizes, $c_k$ the size of the smallest box around both and $\theta$
    the exponent of the shape. $\Lambda$ is the sine of twice the angle under which the centres see
    each other, equal to the paper's $1 - 2 \sin^2(\arcsin x - \pi/4)$ but with a gradient
    everywhere. 0 / 0 is 0.


    Args:
        boxes: Predicted boxes, 4 numbers along the last axis. Half precision is computed in
            float32.
        target: True boxes of the same shape and format.
        theta: How little small differences of the shape cost; at least 1, in the paper 2 to 6.
        fmt: What the numbers are: `"xyxy"` both corners, `"xywh"` the first corner and the size,
            `"cxcywh"` the centre and the size.
        where: Which boxes count; shape of `boxes` without its last axis, or 1 along an axis. What
            lies under False has no influence, whatever it is.
        weights: How much each box matters; shape of `boxes` without its last axis, or 1 along an
            axis.
        reduction: What happens to the losses, one per box: `"mean"` divides their weighted sum by
            the number of boxes that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or one loss per box with `reduction="none"`. float32, or float64 for float64
        boxes. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ or do not fit, `theta` is below 1, or `fmt` or
            `reduction` is unknown.
        TypeError: If `boxes` is not floating or `where` not boolean.

    Examples:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
        >>> target = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0]])
        >>> siou_loss(boxes, target, reduction="none")
        tensor([0.9623, 1.2944])

    Coming from:
        mmyolo's `IoULoss(iou_mode="siou")` is this with `theta=4.0`, and NaN gradients where the
        centres agree.

    Source:
        Gevorgyan, *SIoU Loss*, arXiv:2205.12740.
    """
    theta = check_number("siou_loss", "theta", theta, minimum=1)
    found = corners("siou_loss", boxes, target, fmt, where, weights, reduction, (2,))
    both = pair(found)
    x, y = both.offset.abs().unbind()
    # By their ratio, which neither overflows nor divides by the square of a tiny number.
    ratio = safe_divide(torch.minimum(x, y), torch.maximum(x, y))
    direction = 2 * ratio / (1 + ratio.square())
    apart = safe_divide(both.offset, both.span).square()
    far = -torch.expm1((direction - 2) * apart).sum(0)
    larger = torch.maximum(*both.size.unbind(1)).clamp_min(0)
    relative = safe_divide(both.growth.abs(), larger)
    shape = power(-torch.expm1(-relative), theta).sum(0)
    return reduce(areas(found).missed + (far + shape) / 2, reduction, where, weights)


def alpha_iou_loss(
    boxes: Tensor,
    target: Tensor,
    *,
    kind: AlphaKind = "iou",
    alpha: float | Tensor = 3.0,
    fmt: Format = "xyxy",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""IoU, GIoU, DIoU or CIoU loss with the IoU and each penalty raised to a power.

    $$\ell = 1 - \mathrm{IoU}^\alpha + \sum_j \mathcal{R}_j^\alpha$$

    with IoU as in [`iou_loss`][purelosses.iou_loss], $\alpha$ the power and $\mathcal{R}_j$ the
    penalties of the `kind`: none for `"iou"`, that of [`giou_loss`][purelosses.giou_loss] for
    `"giou"`, that of [`diou_loss`][purelosses.diou_loss] for `"diou"`, both of
    [`ciou_loss`][purelosses.ciou_loss] for `"ciou"`. From $\alpha > 1$ on, boxes that overlap well
    weigh more. $1 - \mathrm{IoU}^\alpha$ is computed so that it stays accurate near 0.


    Args:
        boxes: Predicted boxes along the last axis, 4 numbers, or 6 in three dimensions (all low
            corners, then all high ones). Half precision is computed in float32.
        target: True boxes of the same shape and format.
        kind: Which penalties are added; see the formula. `"ciou"` takes boxes in 2D only.
        alpha: The power, positive.
        fmt: What the numbers are: `"xyxy"` both corners, `"xywh"` the first corner and the size,
            `"cxcywh"` the centre and the size.
        where: Which boxes count; shape of `boxes` without its last axis, or 1 along an axis. What
            lies under False has no influence, whatever it is.
        weights: How much each box matters; shape of `boxes` without its last axis, or 1 along an
            axis.
        reduction: What happens to the losses, one per box: `"mean"` divides their weighted sum by
            the number of boxes that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or one loss per box with `reduction="none"`. float32, or float64 for float64
        boxes. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ or do not fit, `kind` is unknown, `alpha` is not
            positive, or `fmt` or `reduction` is unknown.
        TypeError: If `boxes` is not floating or `where` not boolean.

    Examples:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
        >>> target = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0]])
        >>> alpha_iou_loss(boxes, target, kind="diou", reduction="none")
        tensor([0.9985, 1.0640])

    Coming from:
        The authors' `bbox_alpha_iou(..., GIoU=True)` is `1 - ` the loss of `kind="giou"`, and so
        on.

    Source:
        He et al., *Alpha-IoU*, arXiv:2110.13675.
    """
    function = "alpha_iou_loss"
    check_choice(function, "kind", kind, get_args(AlphaKind))
    alpha = check_number(function, "alpha", alpha, above=0)
    dimensions = (2,) if kind == "ciou" else (2, 3)
    found = corners(function, boxes, target, fmt, where, weights, reduction, dimensions)
    area = areas(found)
    penalties = (power(penalty, alpha) for penalty in _PENALTIES[kind](found, area))
    return reduce(sum(penalties, powered(area, alpha)), reduction, where, weights)


def focal_eiou_loss(
    boxes: Tensor,
    target: Tensor,
    *,
    gamma: float | Tensor = 0.5,
    fmt: Format = "xyxy",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""EIoU loss weighted by the IoU, so that boxes that overlap well weigh more.

    $$\ell = \mathrm{IoU}^\gamma \; \ell_\text{EIoU}$$

    with $\ell_\text{EIoU}$ as in [`eiou_loss`][purelosses.eiou_loss] and $\gamma$ the exponent of
    the weight. The weight is a constant in the gradient: else a small overlap would be pushed
    apart. A box that does not overlap its target costs nothing and learns nothing here.


    Args:
        boxes: Predicted boxes along the last axis, 4 numbers, or 6 in three dimensions (all low
            corners, then all high ones). Half precision is computed in float32.
        target: True boxes of the same shape and format.
        gamma: How much the IoU decides, at least 0. At 0 this is `eiou_loss`.
        fmt: What the numbers are: `"xyxy"` both corners, `"xywh"` the first corner and the size,
            `"cxcywh"` the centre and the size.
        where: Which boxes count; shape of `boxes` without its last axis, or 1 along an axis. What
            lies under False has no influence, whatever it is.
        weights: How much each box matters; shape of `boxes` without its last axis, or 1 along an
            axis.
        reduction: What happens to the losses, one per box: `"mean"` divides their weighted sum by
            the number of boxes that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or one loss per box with `reduction="none"`. float32, or float64 for float64
        boxes. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ or do not fit, `gamma` is negative, or `fmt` or
            `reduction` is unknown.
        TypeError: If `boxes` is not floating or `where` not boolean.

    Examples:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
        >>> target = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0]])
        >>> focal_eiou_loss(boxes, target, reduction="none")
        tensor([0.3660, 0.0000])

    Coming from:
        `bbox_iou(..., EIoU=True, Focal=True)` of many copies of YOLO returns 1 - EIoU loss and the
        weight, which their training loop detaches as here.

    Source:
        Zhang et al., *Focal and Efficient IOU Loss*, arXiv:2101.08158.
    """
    gamma = check_number("focal_eiou_loss", "gamma", gamma, minimum=0)
    found = corners("focal_eiou_loss", boxes, target, fmt, where, weights, reduction)
    area = areas(found)
    loss = power(area.iou.detach(), gamma) * _extents(pair(found), area)
    return reduce(loss, reduction, where, weights)


def mpdiou_loss(
    boxes: Tensor,
    target: Tensor,
    *,
    image_size: Sequence[float | Tensor],
    fmt: Format = "xyxy",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""IoU loss plus the squared distances of corresponding corners, relative to the image.

    $$\ell = 1 - \mathrm{IoU} + \frac{d_1^2 + d_2^2}{H^2 + W^2}$$

    with IoU as in [`iou_loss`][purelosses.iou_loss], $d_1$ the distance of the first corners of a
    predicted box and its target, $d_2$ that of the second corners, and $H, W$ the height and width
    of the image.


    Args:
        boxes: Predicted boxes, 4 numbers along the last axis. Half precision is computed in
            float32.
        target: True boxes of the same shape and format.
        image_size: Height and width of the image, in units of the boxes; (1, 1) for boxes in
            fractions of the image.
        fmt: What the numbers are: `"xyxy"` both corners, `"xywh"` the first corner and the size,
            `"cxcywh"` the centre and the size.
        where: Which boxes count; shape of `boxes` without its last axis, or 1 along an axis. What
            lies under False has no influence, whatever it is.
        weights: How much each box matters; shape of `boxes` without its last axis, or 1 along an
            axis.
        reduction: What happens to the losses, one per box: `"mean"` divides their weighted sum by
            the number of boxes that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or one loss per box with `reduction="none"`. float32, or float64 for float64
        boxes. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ or do not fit, `image_size` is not two positive
            numbers, or `fmt` or `reduction` is unknown.
        TypeError: If `boxes` is not floating or `where` not boolean.

    Examples:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
        >>> target = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0]])
        >>> mpdiou_loss(boxes, target, image_size=(10, 10), reduction="none")
        tensor([0.8771, 1.0400])

    Coming from:
        The authors' loss; their code for YOLO takes the size of the feature map.

    Source:
        Ma and Xu, *MPDIoU*, arXiv:2307.07662.
    """
    height, width = _check_image_size("mpdiou_loss", image_size)
    found = corners("mpdiou_loss", boxes, target, fmt, where, weights, reduction, (2,))
    moved = (found.prediction - found.target).square().sum(0)
    loss = areas(found).missed + moved / (height * height + width * width)
    return reduce(loss, reduction, where, weights)


def _check_image_size(
    function: str, image_size: Sequence[float | Tensor]
) -> tuple[float | Tensor, float | Tensor]:
    if not isinstance(image_size, Sequence) or len(image_size) != 2:
        must = "be the height and the width of the image"
        raise ValueError(complain(function, "image_size", must, repr(image_size)))
    height, width = (check_number(function, "image_size", x, above=0) for x in image_size)
    return height, width

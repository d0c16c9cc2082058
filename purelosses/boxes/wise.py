r"""Wise IoU: a box loss weighted by how a box compares with the running mean of all boxes."""

from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from purelosses._checks import check_choice, check_device, check_number, complain
from purelosses._numerics import power, promote, safe_divide
from purelosses._reduce import reduce
from purelosses._types import Reduction
from purelosses.boxes.geometry import Format, areas, corners, pair

WIoUVersion: TypeAlias = Literal["v1", "v2", "v3"]


def wiou_init() -> dict[str, Tensor]:
    """The state of `wiou_loss` before training: a mean IoU loss of 1.

    Args:

    Returns:
        `{"mean": tensor(1.)}`, a plain dict of tensors.

    Raises:
        TypeError: If it is given an argument.

    Examples:
        >>> wiou_init()
        {'mean': tensor(1.)}
    """
    return {"mean": torch.ones(())}


def wiou_loss(
    state: Mapping[str, Tensor],
    boxes: Tensor,
    target: Tensor,
    *,
    version: WIoUVersion = "v3",
    gamma: float | Tensor = 0.5,
    alpha: float | Tensor = 1.9,
    delta: float | Tensor = 3.0,
    fmt: Format = "xyxy",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Wise IoU: IoU loss weighted by the distance, and by the quality of a box among all boxes.

    $$\ell_1 = \exp\Bigl(\frac{\rho^2}{c^2}\Bigr) (1 - \mathrm{IoU}), \qquad
    \ell_2 = \beta^\gamma\, \ell_1, \qquad
    \ell_3 = \frac{\beta}{\delta\,\alpha^{\beta - \delta}}\, \ell_1, \qquad
    \beta = \frac{1 - \mathrm{IoU}}{m}$$

    with $\rho$ and $c$ as in [`diou_loss`][purelosses.diou_loss], $m$ the running mean of
    $1 - \mathrm{IoU}$ in `state` and $\beta$ the outlier degree of a box. Version 1 is $\ell_1$;
    version 2, $\ell_2$, looks away from boxes that are already good; version 3, $\ell_3$, also from
    hopeless ones: it weighs boxes with $\beta = \delta$ by 1. $c$ and $\beta$ are constants in the
    gradient.


    Args:
        state: What `wiou_init` or `wiou_update` returned. No gradient flows into it.
        boxes: Predicted boxes along the last axis, 4 numbers, or 6 in three dimensions (all low
            corners, then all high ones). Half precision is computed in float32.
        target: True boxes of the same shape and format.
        version: `"v1"`, `"v2"` or `"v3"`; see the formula. `"v1"` does not look at `state`.
        gamma: The exponent of version 2, at least 0.
        alpha: How fast version 3 looks away from outliers; positive.
        delta: The outlier degree that version 3 weighs by 1; positive.
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
        ValueError: If shapes differ or do not fit, `state` is not what `wiou_init` returns,
            an option is unknown or out of its range, or `fmt` or `reduction` is unknown.
        TypeError: If `boxes` is not floating or `where` not boolean.

    Examples:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
        >>> target = torch.tensor([[1.0, 1.0, 3.0, 3.0], [2.0, 0.0, 3.0, 1.0]])
        >>> state = wiou_update(wiou_init(), boxes, target)
        >>> wiou_loss(state, boxes, target, reduction="none")
        tensor([1.0832, 1.7956])

    Coming from:
        The authors' `IouLoss(ltype="WIoU", monotonous=None | True | False)` is version 1, 2, 3. It
        updates its mean inside the call; here `wiou_update` does, before the loss.

    Source:
        Tong et al., *Wise-IoU*, arXiv:2301.10051.
    """
    function = "wiou_loss"
    check_choice(function, "version", version, get_args(WIoUVersion))
    gamma = check_number(function, "gamma", gamma, minimum=0)
    alpha = check_number(function, "alpha", alpha, above=0)
    delta = check_number(function, "delta", delta, above=0)
    mean = _mean(function, state)
    found = corners(function, boxes, target, fmt, where, weights, reduction)
    check_device(function, "state", mean, boxes)
    loss = areas(found).missed
    degree = safe_divide(loss.detach(), mean.to(loss.dtype))
    both = pair(found)
    away = safe_divide(both.offset.square().sum(0), both.span.square().sum(0).detach())
    loss = torch.exp(away) * loss
    if version == "v2":
        loss = power(degree, gamma) * loss
    if version == "v3":
        loss = degree / delta * alpha ** (delta - degree) * loss
    return reduce(loss, reduction, where, weights)


def wiou_update(
    state: Mapping[str, Tensor],
    boxes: Tensor,
    target: Tensor,
    *,
    momentum: float | Tensor = 0.01,
    fmt: Format = "xyxy",
    where: Tensor | None = None,
) -> dict[str, Tensor]:
    """The state of `wiou_loss` after a batch: its running mean moved towards that of the batch.

    Args:
        state: What `wiou_init` or `wiou_update` returned; it stays as it is.
        boxes: Predicted boxes, as in [`wiou_loss`][purelosses.wiou_loss].
        target: True boxes of the same shape and format.
        momentum: The share of the new mean that is of this batch, from 0 to 1. The paper takes
            1 - 0.05 ** (1 / number of steps).
        fmt: See [`wiou_loss`][purelosses.wiou_loss].
        where: Which boxes count; see [`wiou_loss`][purelosses.wiou_loss].

    Returns:
        A new state without gradient, equal to the old one if no box counts.

    Raises:
        ValueError: If shapes do not fit, `state` is not what `wiou_init` returns, `momentum` is not
            between 0 and 1, or `fmt` is unknown.
        TypeError: If `boxes` is not floating or `where` not boolean.

    Examples:
        >>> boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
        >>> target = torch.tensor([[0.0, 0.0, 2.0, 1.0]])
        >>> wiou_update(wiou_init(), boxes, target, momentum=0.1)
        {'mean': tensor(0.9500)}
    """
    function = "wiou_update"
    momentum = check_number(function, "momentum", momentum, minimum=0, maximum=1)
    mean = _mean(function, state)
    found = corners(function, boxes, target, fmt, where)
    check_device(function, "state", mean, boxes)
    losses = areas(found).missed.detach()
    counted = torch.ones_like(losses, dtype=torch.bool) if where is None else where
    batch = reduce(losses, "mean", where).to(mean.dtype)
    return {"mean": torch.where(counted.any(), mean + momentum * (batch - mean), mean)}


def _mean(function: str, state: Mapping[str, Tensor]) -> Tensor:
    """The running mean of a checked state, without gradient."""
    mean = state.get("mean") if isinstance(state, Mapping) else None
    if not isinstance(mean, Tensor) or mean.ndim or not mean.is_floating_point():
        must = "be what `wiou_init` returns, {'mean': a 0-dimensional floating tensor}"
        raise ValueError(complain(function, "state", must, repr(state)))
    return promote(mean).detach()

r"""Losses of the distance to a boundary, and the exact distance transform they are made of."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from purelosses._checks import check_number, check_real, check_same_shape
from purelosses._fused import lines
from purelosses._numerics import promote
from purelosses._types import Activation, Reduction
from purelosses.segmentation.pixels import (
    Classes,
    check_regions,
    check_spacing,
    count_pixels,
    masked,
    masked_pixels,
    pixel_mask,
    probabilities,
    reduce_regions,
    region_axes,
)


def distance_transform(
    mask: Tensor,
    *,
    dim: int | tuple[int, ...] | None = None,
    spacing: float | Sequence[float] | None = None,
) -> Tensor:
    r"""Exact Euclidean distance from every pixel of a mask to the nearest pixel outside it.

    It runs on the device of the mask, under `vmap` and compiled, for any number of axes. The time
    grows with the pixels times the lengths of the axes after the first. The result has no gradient.

    Args:
        mask: Foreground where it is above one half (booleans, integers or floats).
        dim: The axes of one image, all of them by default; the others are a batch.
        spacing: The distance of neighbouring pixels, 1 by default: a number, or one per axis of
            `dim`.

    Returns:
        The distances: 0 outside the mask, infinity where all of an image is inside. float64 for
        float64 masks, otherwise float32.

    Raises:
        ValueError: If an axis does not exist, or `spacing` is not positive or does not fit `dim`.
        TypeError: If `mask` is not a real tensor.

    Examples:
        >>> distance_transform(torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]))
        tensor([[3.0000, 2.0000, 1.0000, 0.0000],
                [3.1623, 2.2361, 1.4142, 1.0000],
                [3.6056, 2.8284, 2.2361, 2.0000]])
    """
    function = "distance_transform"
    check_real(function, "mask", mask)
    axes = region_axes(function, "mask", mask, None, dim)
    steps = check_spacing(function, spacing, axes)
    return squared_distance(mask <= 0.5, axes, steps, promote_mask(mask)).sqrt()


def signed_distance_map(
    mask: Tensor,
    *,
    dim: int | tuple[int, ...] | None = None,
    spacing: float | Sequence[float] | None = None,
) -> Tensor:
    r"""Signed distance to the boundary of a mask: positive outside, at most 0 inside.

    $$\varphi_i = \begin{cases} d_i & \text{outside the mask} \\ -(d_i - h) & \text{inside it}
    \end{cases}$$

    with $d_i$ the distance from pixel $i$ to the nearest pixel on the other side and $h$ the
    smallest `spacing`, so that the pixels just inside the boundary have $\varphi = 0$. An empty or
    full mask has no boundary: $\varphi = 0$ everywhere.

    Args:
        mask: Foreground where it is above one half (booleans, integers or floats).
        dim: The axes of one image, all of them by default; the others are a batch.
        spacing: The distance of neighbouring pixels, 1 by default: a number, or one per axis of
            `dim`.

    Returns:
        The map, with the shape of `mask`. float64 for float64 masks, otherwise float32.

    Raises:
        ValueError: If an axis does not exist, or `spacing` is not positive or does not fit `dim`.
        TypeError: If `mask` is not a real tensor.

    Examples:
        >>> signed_distance_map(torch.tensor([0, 0, 1, 1, 1, 0]))
        tensor([ 2.,  1.,  0., -1.,  0.,  1.])

        Maps of classes from labels:

        >>> labels = torch.tensor([[0, 0, 1, 2, 2]])
        >>> masks = labels.unsqueeze(1) == torch.arange(3).reshape(1, 3, 1)
        >>> signed_distance_map(masks, dim=2)
        tensor([[[-1.,  0.,  1.,  2.,  3.],
                 [ 2.,  1.,  0.,  1.,  2.],
                 [ 3.,  2.,  1.,  0., -1.]]])
    """
    function = "signed_distance_map"
    check_real(function, "mask", mask)
    axes = region_axes(function, "mask", mask, None, dim)
    steps = check_spacing(function, spacing, axes)
    inside = mask > 0.5
    distance = squared_distance_across(inside, None, axes, steps, promote_mask(mask)).sqrt()
    step = min(steps, default=0.0)
    return torch.where(inside & (distance > 0), step - distance, distance)


def boundary_loss(
    prediction: Tensor,
    distance_map: Tensor,
    *,
    activation: Activation | None = None,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    classes: Classes = "all",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Mean signed distance of the predicted region from the true boundary.

    $$\ell = \frac{1}{n} \sum_i p_i \varphi_i$$

    for each region of $n$ pixels that count, with $p_i$ the predicted probability (`prediction`
    after `activation`) and $\varphi_i$ the signed distance to the boundary of the true mask. The
    loss is negative when the prediction is good. It is 0, with zero gradient, where the mask has no
    boundary: combine it with an overlap loss.

    Args:
        prediction: Probabilities, or logits if `activation` is given. Half precision is computed
            in float32.
        distance_map: The signed distances, of the same shape, from
            [`signed_distance_map`][purelosses.signed_distance_map]: negative inside the mask.
            They need no gradient and can be computed once per image.
        activation: What turns `prediction` into probabilities: `"sigmoid"` for independent masks,
            `"softmax"` over `class_dim` for exclusive classes, None if they are probabilities.
        class_dim: The class axis of `prediction`, None if there is none.
        dim: The axes of one region. By default those after `class_dim`, so that every sample and
            class is a region of its own; without a `class_dim` all of them, so that everything is
            one region.
        classes: Which classes count: `"all"`, or a list of class labels.
        where: Which pixels count; shape of `prediction` without the class axis, or 1 along an
            axis. What lies under False has no influence, whatever it is. A region without any
            pixel left does not count.
        weights: How much each region matters; the shape that `reduction="none"` returns, or 1 along
            an axis.
        reduction: What happens to the losses, one per region: `"mean"` divides their weighted sum
            by the number of regions that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per region with `reduction="none"`. float32, or float64 for float64
        predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, an axis does not exist, or an option is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> mask = torch.tensor([0, 0, 1, 1, 1, 0])
        >>> probs = torch.tensor([0.0, 0.2, 0.8, 0.9, 0.7, 0.5])
        >>> boundary_loss(probs, signed_distance_map(mask))
        tensor(-0.0333)

    Coming from:
        MONAI `BoundaryLoss(sigmoid=True)`: `activation="sigmoid", class_dim=1` with
        `signed_distance_map(target, dim=(2, 3))`; its `include_background=False` is
        `classes=[1, 2, ...]`. The authors' code sums over all pixels and classes with a nonzero
        map and divides by the same.

    Source:
        Kervadec et al., arXiv:1812.07032, eq. (5).
    """
    function = "boundary_loss"
    regions = check_regions(function, "prediction", prediction, activation, class_dim, dim)
    check_same_shape(function, "distance_map", distance_map, "prediction", prediction)
    counted = pixel_mask(function, "prediction", prediction, regions.class_dim, where)
    prediction = masked(promote(prediction), counted)
    distance_map = masked(distance_map.to(prediction.dtype), counted)
    probs, _ = probabilities(prediction, activation, regions.class_dim)
    count = count_pixels(prediction, counted, regions.dim)
    losses = masked(probs * distance_map, counted).sum(regions.dim) / count.clamp_min(1)
    return reduce_regions(
        function, losses, count, None, classes, regions.class_axis, weights, reduction
    )


def hausdorff_dt_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    activation: Activation | None = None,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    alpha: float | Tensor = 2.0,
    spacing: float | Sequence[float] | None = None,
    classes: Classes = "all",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared errors weighted by their distance from the true and from the predicted boundary.

    $$\ell = \frac{1}{n} \sum_i (p_i - y_i)^2 \bigl(d_i(y)^\alpha + d_i(p)^\alpha\bigr)$$

    for each region of $n$ pixels that count, with $p_i$ the predicted probability (`prediction`
    after `activation`), $y_i$ the target, and $d_i(y)$, $d_i(p)$ the distances from pixel $i$ to
    the nearest pixel on the other side of the mask $y > \frac12$ and of $p > \frac12$ (0 if there
    is none). No gradient flows through them. A smooth stand-in for the Hausdorff distance.

    Args:
        prediction: Probabilities, or logits if `activation` is given. Half precision is computed
            in float32.
        target: With a `class_dim`, integers are class labels without the class axis; anything else
            is a mask (booleans, integers or probabilities) with the shape of `prediction`.
        activation: What turns `prediction` into probabilities: `"sigmoid"` for independent masks,
            `"softmax"` over `class_dim` for exclusive classes, None if they are probabilities.
        class_dim: The class axis of `prediction`, None if there is none.
        dim: The axes of one image, which is a region: distances are measured along them. By
            default those after `class_dim`, without a `class_dim` all of them.
        alpha: The power of the distances, above 0; larger ones punish the largest error more.
        spacing: The distance of neighbouring pixels, 1 by default: a number, or one per axis of
            the image.
        classes: Which classes count: `"all"`, `"present"` (regions that have a target), or a list
            of class labels.
        where: Which pixels count; shape of `prediction` without the class axis, or 1 along an
            axis. What lies under False has no influence, whatever it is: no distance is measured to
            it. A region without any pixel left does not count.
        weights: How much each region matters; the shape that `reduction="none"` returns, or 1 along
            an axis.
        reduction: What happens to the losses, one per region: `"mean"` divides their weighted sum
            by the number of regions that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per region with `reduction="none"`. float32, or float64 for float64
        predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an axis does not exist, or an option
            is unknown or out of its range.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> mask = torch.tensor([0, 0, 0, 1, 1, 1])
        >>> hausdorff_dt_loss(torch.tensor([0.0, 0.0, 0.2, 0.8, 1.0, 1.0]), mask)
        tensor(0.0267)
        >>> hausdorff_dt_loss(torch.tensor([0.2, 0.0, 0.0, 1.0, 1.0, 0.8]), mask)
        tensor(0.2400)

    Coming from:
        MONAI `HausdorffDTLoss(sigmoid=True)`: `activation="sigmoid", class_dim=1`; its
        `LogHausdorffDTLoss` is `torch.log1p` of that. MONAI truncates distances to integers for
        integer targets.

    Source:
        Karimi and Salcudean, arXiv:1904.10030, eq. (8).
    """
    function = "hausdorff_dt_loss"
    regions = check_regions(
        function, "prediction", prediction, activation, class_dim, dim, images=True
    )
    alpha = check_number(function, "alpha", alpha, above=0)
    steps = check_spacing(function, spacing, regions.dim)
    prediction, target, counted = masked_pixels(
        function, "prediction", prediction, target, regions.class_dim, where
    )
    probs, complement = probabilities(prediction, activation, regions.class_dim)

    power = alpha / 2  # of squared distances, so that for 2 there is no root
    distances = [
        squared_distance_across(mask, counted, regions.dim, steps, probs.dtype) ** power
        for mask in (target > 0.5, probs > complement)
    ]
    # |p - y| as a sum of positive terms: exact when the prediction is nearly perfect.
    errors = (target * complement - (1 - target) * probs).square()
    losses = masked(errors * (distances[0] + distances[1]), counted).sum(regions.dim)
    count = count_pixels(probs, counted, regions.dim)
    return reduce_regions(
        function,
        losses / count.clamp_min(1),
        count,
        target.sum(regions.dim),
        classes,
        regions.class_axis,
        weights,
        reduction,
    )


def promote_mask(mask: Tensor) -> torch.dtype:
    return torch.float64 if mask.dtype == torch.float64 else torch.float32


def squared_distance_across(
    inside: Tensor,
    counted: Tensor | None,
    dim: tuple[int, ...],
    spacing: list[float],
    dtype: torch.dtype,
) -> Tensor:
    """Squared distance to the nearest pixel on the other side of a mask, 0 if there is none."""
    if counted is None:
        squared = torch.full_like(inside, torch.inf, dtype=dtype)
        for axis, step in zip(dim, spacing, strict=True):
            along = _nearest_across if axis == dim[0] else _lowest_across
            squared = _along(along, axis, step, squared, inside)
    else:
        inside, outside = inside & counted, torch.logical_not(inside) & counted
        to_outside, to_inside = (
            squared_distance(side, dim, spacing, dtype) for side in (outside, inside)
        )
        squared = torch.where(inside, to_outside, to_inside)
    return torch.where(squared.isinf(), 0.0, squared)


def squared_distance(
    goals: Tensor, dim: tuple[int, ...], spacing: list[float], dtype: torch.dtype
) -> Tensor:
    """Squared distance from every pixel to the nearest goal; infinity if there is none.

    Axis by axis: the first takes the nearest goal along its lines, each further one the lowest of
    the parabolas that stand on the pixels of a line.
    """
    zero = torch.zeros((), dtype=dtype, device=goals.device)
    squared = torch.where(goals, zero, torch.inf)
    for axis, step in zip(dim, spacing, strict=True):
        along = _nearest if axis == dim[0] else _lowest_parabola
        squared = _along(along, axis, step, squared)
    return squared


def _along(along: Callable[..., Tensor], axis: int, step: float, *fields: Tensor) -> Tensor:
    """A function of the lines along an axis, which it gets as the first: so all its operations
    stream through memory.
    """
    moved = [field.movedim(axis, 0) for field in fields]
    found = lines.in_blocks(partial(along, step), moved)
    if found is None:
        found = along(step, *moved)
    return found.movedim(0, axis)


def _nearest(step: float, lines: Tensor) -> Tensor:
    """Squared distance to the nearest 0 along the first axis."""
    goals = lines == 0
    return (step * _steps(goals, goals, lines.dtype)).square()


def _nearest_across(step: float, squared: Tensor, inside: Tensor) -> Tensor:
    """Squared distance to the nearest pixel on the other side along the first axis."""
    length = inside.shape[0]
    changes = inside.narrow(0, 1, length - 1) != inside.narrow(0, 0, length - 1)
    never = torch.zeros_like(inside.narrow(0, 0, 1))
    steps = _steps(torch.cat([never, changes]), torch.cat([changes, never]), squared.dtype)
    return (step * (steps + 1)).square()


def _lowest_across(step: float, squared: Tensor, inside: Tensor) -> Tensor:
    """The same, from the distances along the axes before: of both sides at once.

    Parabolas beyond the nearest pixel across are of distances to this side, but higher than the
    way to that pixel.
    """
    nearest = _nearest_across(step, squared, inside)
    return torch.minimum(nearest, _lowest_parabola(step, squared, nearest))


def _steps(before: Tensor, after: Tensor, dtype: torch.dtype) -> Tensor:
    """How far back the nearest place of `before` is, or ahead that of `after`: the nearer one."""
    length = before.shape[0]
    at = torch.arange(1, length + 1, dtype=dtype, device=before.device)
    at = at.reshape([-1] + [1] * (before.ndim - 1))
    # Elsewhere the quotients are infinite.
    back, ahead = (at - length - 1) / before, at / after
    extremes = lines.extremes(back, ahead)
    if extremes is None:
        extremes = back.cummax(0).values, ahead.flip(0).cummin(0).values.flip(0)
    back, ahead = extremes
    return torch.minimum(at - length - 1 - back, ahead - at)


def _lowest_parabola(step: float, lows: Tensor, known: Tensor | None = None) -> Tensor:
    """The minimum over j of lows[j] + (step (i - j))² for every i; right where below `known`."""
    at = torch.arange(lows.shape[0], dtype=lows.dtype, device=lows.device)
    cost = (step * (at.unsqueeze(1) - at)).square()
    cost = cost.reshape([*cost.shape] + [1] * (lows.ndim - 1))
    if torch.compiler.is_compiling():  # which fuses the sum into the minimum
        return (lows + cost).amin(1)
    found = lines.lowest_parabola(step, lows, cost, lows if known is None else known)
    if found is None:
        lows = lows.contiguous()
        found = torch.stack([(lows + row).amin(0) for row in cost.unbind()])
    return found

r"""Losses of connected shapes: overlap of skeletons, and agreement with neighbours."""

from functools import partial
from functools import reduce as fold
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from purelosses import _fused
from purelosses._checks import check_choice, check_floating, check_number, complain
from purelosses._numerics import class_mask, log_partition, promote, share
from purelosses._reduce import reduce
from purelosses._types import Activation, Reduction
from purelosses.classification.rows import pick, prepare
from purelosses.segmentation.overlap import dice_from_statistics
from purelosses.segmentation.pixels import (
    Axes,
    Classes,
    check_regions,
    check_steps,
    count_pixels,
    masked,
    masked_pixels,
    probabilities,
    reduce_regions,
    region_axes,
)

_RECOMPUTE_FROM = 2**16  # pixels, from which memory matters more than the time of a call


def soft_skeletonize(
    probs: Tensor, *, iters: int = 3, dim: int | tuple[int, ...] | None = None
) -> Tensor:
    r"""Soft skeleton of a soft mask: what is left of it by repeated erosion, thin and connected.

    With $E$ the minimum over each pixel and its neighbours along the axes, $O$ the opening by $E$
    and the maximum over a box of 3 pixels per axis, and $x_k = E^k(x)$:

    $$r_k = \max(0,\, x_k - O(x_k)), \qquad s_k = s_{k-1} + r_k\,(1 - s_{k-1}), \qquad s_{-1} = 0$$

    and the skeleton is $s_K$ after $K$ iterations. Between forward and backward only $x_k$ and
    $s_k$ are kept; the rest is computed again.

    Args:
        probs: Probabilities, or a mask as floats. Half precision is computed in float32.
        iters: The number of erosions $K$: at least half the width of the widest structure.
        dim: The axes of one image, all of them by default; the others are a batch.

    Returns:
        The skeleton, with the shape of `probs`. float32, or float64 for float64.

    Raises:
        ValueError: If an axis does not exist or `iters` is negative.
        TypeError: If `probs` is not floating or `iters` no int.

    Examples:
        >>> bar = torch.tensor([[0.0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]])
        >>> soft_skeletonize(torch.cat([torch.zeros(1, 6), bar, torch.zeros(1, 6)]), iters=2)
        tensor([[0., 0., 0., 0., 0., 0.],
                [0., 0., 0., 0., 0., 0.],
                [0., 0., 1., 1., 1., 1.],
                [0., 0., 0., 0., 0., 0.],
                [0., 0., 0., 0., 0., 0.]])
    """
    function = "soft_skeletonize"
    check_floating(function, "probs", probs)
    axes = region_axes(function, "probs", probs, None, dim)
    return _skeleton(promote(probs), None, axes, check_steps(function, "iters", iters))


def cldice_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    activation: Activation | None = None,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    iters: int = 3,
    smooth: float | Tensor = 1.0,
    classes: Classes = "all",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Centreline Dice: does each skeleton lie inside the other's mask? For vessels, roads, cracks.

    $$\ell = 1 - \frac{2\,P\,S}{P + S}, \qquad
    P = \frac{\sum_i s_i(p)\,y_i + s}{\sum_i s_i(p) + s}, \qquad
    S = \frac{\sum_i s_i(y)\,p_i + s}{\sum_i s_i(y) + s}$$

    for each region, with $p_i$ the predicted probability of pixel $i$ (`prediction` after
    `activation`), $y_i$ the target, $s_i(\cdot)$ their
    [`soft_skeletonize`][purelosses.soft_skeletonize]d masks and $s$ the `smooth` term. $P$ is the
    topological precision, $S$ the topological sensitivity.

    Args:
        prediction: Probabilities, or logits if `activation` is given. Half precision is computed
            in float32.
        target: With a `class_dim`, integers are class labels without the class axis; anything else
            is a mask (booleans, integers or probabilities) with the shape of `prediction`.
        activation: What turns `prediction` into probabilities: `"sigmoid"` for independent masks,
            `"softmax"` over `class_dim` for exclusive classes, None if they are probabilities.
        class_dim: The class axis of `prediction`, None if there is none.
        dim: The axes of one image, which is a region: skeletons are made along them. By default
            those after `class_dim`, without a `class_dim` all of them.
        iters: The erosions that make a skeleton: at least half the width of the widest structure.
        smooth: Added to numerators and denominators, above 0.
        classes: Which classes count: `"all"`, `"present"` (regions that have a target), or a list
            of class labels.
        where: Which pixels count; shape of `prediction` without the class axis, or 1 along an
            axis. What lies under False has no influence, whatever it is: skeletons are those of
            the rest. A region without any pixel left does not count.
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
        TypeError: If `prediction` is not floating, `where` not boolean or `iters` no int.

    Examples:
        A line, and the same line with a gap in it:

        >>> line = torch.tensor([[0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
        >>> gap = torch.tensor([[0.0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]])
        >>> cldice_loss(line.float(), line), cldice_loss(gap, line)
        (tensor(0.), tensor(0.1667))

    Coming from:
        MONAI `SoftclDiceLoss(sigmoid=True)` with one channel: `activation="sigmoid", class_dim=1`;
        it also adds 1e-4 below the harmonic mean, so that a perfect prediction costs 5e-5, and
        pools the channels of a sample. The authors' code pools the batch as well.

    Source:
        Shit et al., arXiv:2003.07311, eqs. (1) and (2), algorithms 1 and 2.
    """
    function = "cldice_loss"
    smooth = check_number(function, "smooth", smooth, above=0)
    regions, probs, complement, y, counted = _images(
        function, prediction, target, activation, class_dim, dim, where
    )
    iters = check_steps(function, "iters", iters)
    losses = _cldice(regions, probs, complement, y, counted, iters, smooth)
    count = count_pixels(probs, counted, regions.dim)
    size = y.sum(regions.dim)
    return reduce_regions(
        function, losses, count, size, classes, regions.class_axis, weights, reduction
    )


def dice_cldice_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    dice_weight: float | Tensor = 0.5,
    cldice_weight: float | Tensor = 0.5,
    activation: Activation | None = None,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    iters: int = 3,
    smooth: float | Tensor = 1.0,
    classes: Classes = "all",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Dice plus centreline Dice: overlap of the masks and of their skeletons.

    $$\ell = a\,\ell_\mathrm{Dice} + b\,\ell_\mathrm{clDice}$$

    for each region, with $a$ the `dice_weight`, $b$ the `cldice_weight`, $\ell_\mathrm{Dice}$ the
    [`dice_loss`][purelosses.dice_loss] and $\ell_\mathrm{clDice}$ the
    [`cldice_loss`][purelosses.cldice_loss] of the same probabilities.

    Args:
        prediction: Probabilities, or logits if `activation` is given. Half precision is computed
            in float32.
        target: With a `class_dim`, integers are class labels without the class axis; anything else
            is a mask (booleans, integers or probabilities) with the shape of `prediction`.
        dice_weight: The share of the Dice term.
        cldice_weight: The share of the centreline Dice term.
        activation: What turns `prediction` into probabilities: `"sigmoid"` for independent masks,
            `"softmax"` over `class_dim` for exclusive classes, None if they are probabilities.
        class_dim: The class axis of `prediction`, None if there is none.
        dim: The axes of one image, which is a region: skeletons are made along them. By default
            those after `class_dim`, without a `class_dim` all of them.
        iters: The erosions that make a skeleton: at least half the width of the widest structure.
        smooth: Added to numerators and denominators in both terms, above 0.
        classes: Which classes count: `"all"`, `"present"` (regions that have a target), or a list
            of class labels.
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
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an axis does not exist, or an option
            is unknown or out of its range.
        TypeError: If `prediction` is not floating, `where` not boolean or `iters` no int.

    Examples:
        >>> line = torch.tensor([[0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]])
        >>> gap = torch.tensor([[0.0, 0, 0, 0, 0, 0], [1, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]])
        >>> dice_cldice_loss(gap, line)
        tensor(0.1742)

    Coming from:
        MONAI `SoftDiceclDiceLoss(sigmoid=True, alpha=a)` with one channel: `activation="sigmoid",
        class_dim=1, dice_weight=1 - a, cldice_weight=a`, but for the 1e-4 of its clDice.

    Source:
        Shit et al., arXiv:2003.07311, eq. (3).
    """
    function = "dice_cldice_loss"
    smooth = check_number(function, "smooth", smooth, above=0)
    dice_weight = check_number(function, "dice_weight", dice_weight)
    cldice_weight = check_number(function, "cldice_weight", cldice_weight)
    regions, probs, complement, y, counted = _images(
        function, prediction, target, activation, class_dim, dim, where
    )
    iters = check_steps(function, "iters", iters)
    count = count_pixels(probs, counted, regions.dim)
    sums = {"tp": probs * y, "fp": probs * (1 - y), "fn": complement * y}
    statistics = {key: masked(x, counted).sum(regions.dim) for key, x in sums.items()}
    statistics["count"] = count
    dice = dice_from_statistics(statistics, smooth=smooth, reduction="none")
    cldice = _cldice(regions, probs, complement, y, counted, iters, smooth)
    return reduce_regions(
        function,
        dice_weight * dice + cldice_weight * cldice,
        count,
        y.sum(regions.dim),
        classes,
        regions.class_axis,
        weights,
        reduction,
    )


def skeleton_recall_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    activation: Activation | None = None,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    smooth: float | Tensor = 1.0,
    classes: Classes = "all",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""How much of the true skeleton the prediction misses: connectivity at the cost of one sum.

    $$\ell = 1 - \frac{\sum_i p_i s_i + s}{\sum_i s_i + s}
    = \frac{\sum_i (1 - p_i)\,s_i}{\sum_i s_i + s}$$

    for each region, with $p_i$ the predicted probability of pixel $i$ (`prediction` after
    `activation`), $s_i$ whether it belongs to the skeleton of the true mask, and $s$ the `smooth`
    term. The second form is the one computed. It says nothing about false positives: combine it
    with Dice or cross-entropy.

    Args:
        prediction: Probabilities, or logits if `activation` is given. Half precision is computed
            in float32.
        target: The skeleton of the true mask, usually widened by a pixel or two, made once per
            image. With a `class_dim`, integers are class labels without the class axis (the
            background's is not a skeleton: leave it out by `classes`); anything else is a mask
            (booleans, integers or probabilities) with the shape of `prediction`.
        activation: What turns `prediction` into probabilities: `"sigmoid"` for independent masks,
            `"softmax"` over `class_dim` for exclusive classes, None if they are probabilities.
        class_dim: The class axis of `prediction`, None if there is none.
        dim: The axes of one region. By default those after `class_dim`, so that every sample and
            class is a region of its own; without a `class_dim` all of them, so that everything is
            one region. `(0, 2, 3)` pools the batch of (N, C, H, W) masks.
        smooth: Added to numerator and denominator. 0 gives the plain recall, and 0 for a region
            without skeleton.
        classes: Which classes count: `"all"`, `"present"` (regions that have a target), or a list
            of class labels.
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
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an axis does not exist, or an option
            is unknown or out of its range.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> mask = torch.zeros(7, 9)
        >>> mask[2:5, 1:8] = 1
        >>> skeleton = soft_skeletonize(mask)
        >>> skeleton_recall_loss(0.9 * mask, skeleton)
        tensor(0.0833)

    Coming from:
        The authors' `SoftSkeletonRecallLoss(smooth=1)`: this minus 1, with `classes=[1, 2, ...]`;
        its `batch_dice=True` is `dim=(0, 2, 3)`.

    Source:
        Kirchhoff et al., arXiv:2404.03010, §3.
    """
    function = "skeleton_recall_loss"
    smooth = check_number(function, "smooth", smooth, minimum=0)
    regions, probs, complement, y, counted = _images(
        function, prediction, target, activation, class_dim, dim, where, images=False
    )
    hit, missed = (masked(x * y, counted).sum(regions.dim) for x in (probs, complement))
    count = count_pixels(probs, counted, regions.dim)
    return reduce_regions(
        function,
        share(missed, hit + smooth),
        count,
        y.sum(regions.dim),
        classes,
        regions.class_axis,
        weights,
        reduction,
    )


def nacl_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_dim: int = 1,
    dim: int | tuple[int, ...] | None = None,
    kernel_size: int = 3,
    penalty: Literal["l1", "l2"] = "l1",
    penalty_weight: float | Tensor = 0.1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Neighbour-aware calibration: cross-entropy, and logits near the class shares around a pixel.

    $$\ell = -\sum_c y_c \log p_c + \frac{\lambda}{C} \sum_c |x_c - u_c|, \qquad
    u_c = \frac{1}{|B|} \sum_{j \in B} y_{jc}$$

    for every pixel, with $x_c$ its logits, $p$ their softmax, $y_c$ its target, $u_c$ the share of
    class $c$ in the box $B$ of `kernel_size` pixels along each axis around it, $C$ the number of
    classes and $\lambda$ the `penalty_weight`. With `penalty="l2"` the differences are squared.
    Outside the image, and where a pixel does not count, no class has a share.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32.
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `logits`.
        class_dim: The class axis of `logits`; negative values count from the end.
        dim: The axes of one image, by default those after `class_dim`: neighbours are along them.
        kernel_size: The width of the box, an odd number.
        penalty: `"l1"` for absolute, `"l2"` for squared differences.
        penalty_weight: The share of the penalty.
        where: Which pixels count; shape of `logits` without the class axis, or 1 along an axis.
            What lies under False has no influence, whatever it is.
        weights: How much each pixel matters; shape of `logits` without the class axis, or 1 along
            an axis.
        reduction: What happens to the losses, one per pixel: `"mean"` divides their weighted sum
            by the number of pixels that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or with `reduction="none"` one loss per pixel, shaped as `logits` without the
        class axis. float32, or float64 for float64 logits. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an axis does not exist, or an option
            is unknown or out of its range.
        TypeError: If `logits` is not floating, `where` not boolean or `kernel_size` no int.

    Examples:
        >>> logits = torch.tensor([[[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]])
        >>> nacl_loss(logits, torch.tensor([[0, 0, 1]]))
        tensor(0.3879)

    Coming from:
        MONAI `NACLLoss(classes, dim)`: the defaults; its `distance_type` is `penalty`, its `alpha`
        `penalty_weight`.

    Source:
        Murugesan et al., arXiv:2303.06268, eqs. (4) and (6).
    """
    function, given = "nacl_loss", logits
    logits, target, class_dim, labels = prepare(
        function, logits, target, class_dim, where, weights, reduction
    )
    regions = check_regions(function, "logits", logits, None, class_dim, dim, images=True)
    check_choice(function, "penalty", penalty, ("l1", "l2"))
    penalty_weight = check_number(function, "penalty_weight", penalty_weight)
    if check_steps(function, "kernel_size", kernel_size) % 2 == 0:
        raise ValueError(complain(function, "kernel_size", "be odd", kernel_size))

    losses = _fused.cross_entropy(function, given, target, where, class_dim) if labels else None
    if losses is None:
        below, excess = log_partition(logits, class_dim)
        losses = pick(function, excess - below, target, class_dim, labels)
    num_classes, box = logits.shape[class_dim], kernel_size ** len(regions.dim)
    if labels:  # counted in a quarter of the memory, as far as its numbers go
        target = class_mask(target, num_classes, class_dim)
        if where is not None:
            target = target & where.unsqueeze(class_dim)
        target = target.to(torch.uint8 if box < 256 else logits.dtype)
    counts = fold(partial(_box_sum, size=kernel_size), regions.dim, target)
    differences = logits - counts.to(logits.dtype) / box
    penalties = differences.abs() if penalty == "l1" else differences.square()
    losses = losses + penalty_weight / num_classes * penalties.sum(class_dim)
    return reduce(losses, reduction, where, weights)


def _box_sum(x: Tensor, axis: int, size: int) -> Tensor:
    """The sum over `size` pixels along an axis, with zeros outside."""
    edge = torch.zeros_like(x.narrow(axis, 0, 1)) if x.shape[axis] else x
    wide = torch.cat([edge] * (size // 2) + [x] + [edge] * (size // 2), axis)
    return fold(torch.add, [wide.narrow(axis, start, x.shape[axis]) for start in range(size)])


def _images(
    function: str,
    prediction: Tensor,
    target: Tensor,
    activation: Activation | None,
    class_dim: int | None,
    dim: int | tuple[int, ...] | None,
    where: Tensor | None,
    images: bool = True,
) -> tuple[Axes, Tensor, Tensor, Tensor, Tensor | None]:
    """Axes, p, 1 - p, y and what counts."""
    regions = check_regions(
        function, "prediction", prediction, activation, class_dim, dim, images=images
    )
    prediction, y, counted = masked_pixels(
        function, "prediction", prediction, target, regions.class_dim, where
    )
    probs, complement = probabilities(prediction, activation, regions.class_dim)
    return regions, probs, complement, y, counted


def _cldice(
    regions: Axes,
    probs: Tensor,
    complement: Tensor,
    y: Tensor,
    counted: Tensor | None,
    iters: int,
    smooth: float | Tensor,
) -> Tensor:
    """1 - 2 P S / (P + S), as a share of sums of positive terms."""
    predicted = _skeleton(probs, counted, regions.dim, iters)
    true = _skeleton(y, counted, regions.dim, iters)
    hit, outside, found, missed = (
        masked(x, counted).sum(regions.dim)
        for x in (predicted * y, predicted * (1 - y), true * probs, true * complement)
    )
    hit, found = hit + smooth, found + smooth
    return share(outside * found + missed * hit, 2 * hit * found)


def _skeleton(image: Tensor, counted: Tensor | None, dim: tuple[int, ...], iters: int) -> Tensor:
    skeleton = torch.zeros_like(image)
    step = _Thinning.apply if _recomputes(image) else _thin
    for _ in range(iters + 1):
        image, skeleton = step(image, skeleton, counted, dim)
    return skeleton


def _thin(
    image: Tensor, skeleton: Tensor, counted: Tensor | None, dim: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """One iteration: the eroded image, and the skeleton with what the opening removes."""
    # What does not count is neutral: 1 for a minimum, 0 for a maximum.
    solid = image if counted is None else torch.where(counted, image, 1.0)
    eroded = fold(torch.minimum, [_window(torch.minimum, solid, axis) for axis in dim], solid)
    opened = fold(partial(_window, torch.maximum), dim, masked(eroded, counted))
    removed = masked((image - opened).relu(), counted)
    return eroded, skeleton + (removed - skeleton * removed).relu()


def _window(extreme: Any, x: Tensor, axis: int) -> Tensor:
    """The minimum or maximum of each pixel and its two neighbours along an axis."""
    length = x.shape[axis]
    if length < 2:
        return x
    pairs = extreme(x.narrow(axis, 0, length - 1), x.narrow(axis, 1, length - 1))
    inner = extreme(pairs.narrow(axis, 0, length - 2), pairs.narrow(axis, 1, length - 2))
    return torch.cat([pairs.narrow(axis, 0, 1), inner, pairs.narrow(axis, length - 2, 1)], axis)


# An iteration makes some twenty images that its derivative needs. Ten iterations on a volume would
# keep hundreds; instead each one keeps its two inputs and is computed again in backward.


def _recomputes(image: Tensor) -> bool:
    """Whether the iterations are computed again: not for compilers, which plan memory themselves,

    and not in forward mode, which a `Function` without `jvp` does not have.
    """
    if torch.compiler.is_compiling() or image.numel() < _RECOMPUTE_FROM:
        return False
    return bool(getattr(forward_ad, "_current_level", 0) < 0)


def _pull(
    image: Tensor,
    skeleton: Tensor,
    counted: Tensor | None,
    dim: tuple[int, ...],
    *gradients: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gradient of an iteration with respect to the image and the skeleton."""
    step = partial(_thin, counted=counted, dim=dim)
    pull = torch.func.vjp(step, image, skeleton)[1]
    result: tuple[Tensor, Tensor] = pull(gradients)
    return result


class _Thinning(Function):
    """`_thin`, keeping its inputs alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(image: Tensor, skeleton: Tensor, counted: Tensor | None, dim: Any) -> Any:
        return _thin(image, skeleton, counted, dim)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        *tensors, ctx.dim = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        image, skeleton, counted = ctx.saved_tensors
        inputs = (image, skeleton, counted, ctx.dim, *gradients)
        found = _ThinningGradient.apply(*inputs)  # type: ignore[no-untyped-call]
        return *found, None, None


class _ThinningGradient(Function):
    """`_pull`, which `func.grad` would otherwise record in full; its derivative is plain."""

    generate_vmap_rule = True

    @staticmethod
    def forward(image: Tensor, skeleton: Tensor, counted: Any, dim: Any, *gradients: Tensor) -> Any:
        return _pull(image, skeleton, counted, dim, *gradients)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        image, skeleton, counted, ctx.dim, *gradients = inputs
        ctx.save_for_backward(image, skeleton, counted, *gradients)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> Any:
        image, skeleton, counted, *gradients = ctx.saved_tensors

        def pull(image: Tensor, skeleton: Tensor, *gradients: Tensor) -> tuple[Tensor, Tensor]:
            return _pull(image, skeleton, counted, ctx.dim, *gradients)

        by_image, by_skeleton, *by_gradients = torch.func.vjp(pull, image, skeleton, *gradients)[1](
            outer
        )
        return by_image, by_skeleton, None, None, *by_gradients

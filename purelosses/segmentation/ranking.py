r"""Lovász losses: the Jaccard loss extended from masks to errors that are ranked by size."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from purelosses._checks import check_axis, check_choice, check_floating, check_target
from purelosses._fused import ranks
from purelosses._fused.blocks import number, regions_last
from purelosses._numerics import softmax_and_complement
from purelosses._types import Reduction
from purelosses.segmentation.pixels import (
    Classes,
    check_regions,
    clean_pixels,
    count_pixels,
    masked,
    pixel_mask,
    reduce_regions,
)

# The buckets of a histogram are floating-point numbers without their last digits: 32 powers of two,
# each in 2 ** 11 steps.
_OCTAVES, _DIGITS = 32, 11
_BUCKETS = _OCTAVES << _DIGITS
_SORT_BELOW = 2**15  # pixels of a region, below which sorting is faster
_BLOCK = 2**15  # pixels whose intermediate results fit the cache


def lovasz_hinge_loss(
    logits: Tensor,
    target: Tensor,
    *,
    dim: int | tuple[int, ...] | None = None,
    method: Literal["sort", "histogram"] = "sort",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Convex surrogate of the Jaccard loss of a mask, from logits: hinge errors by their rank.

    $$\ell = \sum_{k=1}^{n} e_{(k)} \bigl(\Delta_k - \Delta_{k-1}\bigr), \qquad
    e_i = \max\bigl(0,\, 1 - x_i (2 y_i - 1)\bigr), \qquad
    \Delta_k = 1 - \frac{G - P_k}{G + N_k}$$

    for each region of $n$ pixels, with $x_i$ a logit, $y_i$ its target, $e_{(1)} \ge e_{(2)} \ge
    \dots$ the errors in decreasing order, $P_k$ and $N_k$ the foreground and background pixels
    among the first $k$, $G$ all foreground pixels, and $\Delta_k$ the Jaccard loss of getting just
    the first $k$ wrong ($\Delta_0 = 0$). For a region without foreground it is the largest error.

    Args:
        logits: Scores, positive for the foreground. Half precision is computed in float32.
        target: The mask, of the same shape: foreground where it is above one half.
        dim: The axes of one region, all of them by default. `(1, 2)` makes every image of a batch
            (N, H, W) a region of its own.
        method: `"sort"` is exact. `"histogram"` needs no sorting, which pays on large regions:
            errors of the same power of two that agree in 11 binary digits (a relative difference
            below 1/2048) count as tied, and tied pixels share their weight. Errors below
            $2^{-16}$ are all tied, and so are those above $2^{16}$. The gradient, in units of its
            largest element, differs from the exact one by less than 1e-3 on images.
        where: Which pixels count; shape of `logits`, or 1 along an axis. What lies under False has
            no influence, whatever it is. A region without any pixel left does not count.
        weights: How much each region matters; the shape that `reduction="none"` returns, or 1 along
            an axis.
        reduction: What happens to the losses, one per region: `"mean"` divides their weighted sum
            by the number of regions that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per region with `reduction="none"`. float32, or float64 for float64
        logits. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, an axis does not exist, or an option is unknown.
        TypeError: If `logits` is not floating or `where` not boolean.

    Examples:
        >>> logits, mask = torch.tensor([2.0, 0.5, -2.0, 1.0]), torch.tensor([1, 1, 0, 0])
        >>> lovasz_hinge_loss(logits, mask)
        tensor(0.8333)

        One region per image of a batch:

        >>> lovasz_hinge_loss(logits.reshape(2, 1, 2), mask.reshape(2, 1, 2), dim=(1, 2))
        tensor(1.1250)

    Coming from:
        segmentation-models-pytorch `LovaszLoss("binary")`: the defaults, and with `per_image=True`
        `dim=(1, 2, 3)`; its `ignore_index=255` is `where=target != 255`. kornia
        `lovasz_hinge_loss`: `dim=(1, 2, 3)`.

    Source:
        Yu and Blaschko, *Learning Submodular Losses with the Lovász Hinge*, ICML 2015; Berman et
        al., arXiv:1705.08790, §2.2.
    """
    function = "lovasz_hinge_loss"
    regions = check_regions(function, "logits", logits, None, None, dim)
    check_choice(function, "method", method, ("sort", "histogram"))
    check_target(function, target, logits, "logits", None)
    where = pixel_mask(function, "logits", logits, None, where)
    formula, rank = partial(_hinge_losses, method), partial(_rank, method, 16)
    losses = ranks.hinge(logits, target, where, regions.dim, rank, formula)
    if losses is None:
        losses = formula(logits, target, where, regions.dim)
    count = count_pixels(logits, where, regions.dim, losses.dtype)
    return reduce_regions(function, losses, count, None, "all", None, weights, reduction)


def lovasz_softmax_loss(
    logits: Tensor,
    target: Tensor,
    *,
    class_dim: int = 1,
    dim: int | tuple[int, ...] | None = None,
    classes: Classes = "present",
    method: Literal["sort", "histogram"] = "sort",
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Surrogate of the Jaccard loss of every class, from logits: errors of probabilities by rank.

    $$\ell = \sum_{k=1}^{n} e_{(k)} \bigl(\Delta_k - \Delta_{k-1}\bigr), \qquad
    e_i = |y_i - p_i|, \qquad \Delta_k = 1 - \frac{G - P_k}{G + N_k}$$

    for each region of $n$ pixels of one class, with $p_i$ the softmax probability of the class,
    $y_i$ whether the pixel belongs to it, $e_{(1)} \ge e_{(2)} \ge \dots$ the errors in decreasing
    order, $P_k$ and $N_k$ the pixels of the class and the others among the first $k$, $G$ all
    pixels of the class, and $\Delta_k$ the Jaccard loss of getting just the first $k$ wrong
    ($\Delta_0 = 0$). For hard predictions it is the Jaccard loss.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32. For probabilities $p$, give $\log p$.
        target: Integers: class labels, without the class axis. Floats or booleans: masks of the
            classes, with the shape of `logits` (foreground where above one half).
        class_dim: The class axis of `logits`; negative values count from the end.
        dim: The axes of one region. By default those after `class_dim`, so that every sample and
            class is a region of its own; `(0, 2, 3)` pools the batch of (N, C, H, W) logits.
        classes: Which classes count: `"present"` (regions that have a target), `"all"`, or a list
            of class labels. A region of a class that is absent costs its largest probability.
        method: `"sort"` is exact. `"histogram"` needs no sorting, which pays on large regions:
            errors of the same power of two that agree in 11 binary digits (a relative difference
            below 1/2048) count as tied, and tied pixels share their weight. Errors below
            $2^{-31}$ are all tied. The gradient, in units of its largest element, differs from the
            exact one by less than 1e-3 on images.
        where: Which pixels count; shape of `logits` without the class axis, or 1 along an axis.
            What lies under False has no influence, whatever it is. A region without any pixel
            left does not count.
        weights: How much each region matters; the shape that `reduction="none"` returns, or 1 along
            an axis.
        reduction: What happens to the losses, one per region: `"mean"` divides their weighted sum
            by the number of regions that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per region with `reduction="none"`. float32, or float64 for float64
        logits. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), an axis does not exist, or an option
            is unknown.
        TypeError: If `logits` is not floating or `where` not boolean.

    Examples:
        >>> logits = torch.tensor([[[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 0.0]]])
        >>> labels = torch.tensor([[0, 1, 1]])
        >>> lovasz_softmax_loss(logits, labels)
        tensor(0.2677)
        >>> lovasz_softmax_loss(logits, labels, classes="all", reduction="none")
        tensor([[0.1843, 0.3510, 0.3333]])

    Coming from:
        segmentation-models-pytorch `LovaszLoss("multiclass")`: `dim=(0, 2, 3)`; its
        `ignore_index=255` is `where=target != 255`, and its `per_image=True` the default `dim`,
        but for classes that only some images have (there each image counts the same, here each
        region). kornia `lovasz_softmax_loss`: `classes="all"`.

    Source:
        Berman et al., arXiv:1705.08790, eqs. (8), (9) and (11).
    """
    function = "lovasz_softmax_loss"
    check_floating(function, "logits", logits)
    class_dim = check_axis(function, "class_dim", class_dim, logits.ndim, "logits")
    regions = check_regions(function, "logits", logits, "softmax", class_dim, dim)
    check_choice(function, "method", method, ("sort", "histogram"))
    check_target(function, target, logits, "logits", class_dim)
    where = pixel_mask(function, "logits", logits, class_dim, where)
    formula, rank = partial(_softmax_losses, method), partial(_rank, method, 1)
    present = classes == "present"
    found = ranks.softmax(
        function, logits, target, where, class_dim, regions.dim, present, rank, formula
    )
    if found is None:
        found = formula(logits, target, where, class_dim, regions.dim)
    losses, size = found.unbind(-1)
    count = count_pixels(logits, where, regions.dim, losses.dtype)
    return reduce_regions(
        function, losses, count, size, classes, regions.class_axis, weights, reduction
    )


def _hinge_losses(
    method: str, logits: Tensor, target: Tensor, counted: Tensor | None, dim: tuple[int, ...]
) -> Tensor:
    """The loss of every region."""
    logits, target = clean_pixels("lovasz_hinge_loss", logits, target, None, counted)
    positive = target > 0.5
    # 1 - x (2 y - 1), with as few tensors of full size as can be: they are what costs time here.
    sign = torch.rsub(positive.to(logits.dtype), 1, alpha=2)
    errors = masked(torch.addcmul(logits.new_ones(()), logits, sign).relu(), counted)
    return _lovasz_extension(errors, positive, dim, method, 16)


def _softmax_losses(
    method: str,
    logits: Tensor,
    target: Tensor,
    counted: Tensor | None,
    class_dim: int,
    dim: tuple[int, ...],
) -> Tensor:
    """The loss of every region, and how much of it is of the class."""
    logits, target = clean_pixels("lovasz_softmax_loss", logits, target, class_dim, counted)
    probs, complement = softmax_and_complement(logits, class_dim)
    # A product, so that a bad label, NaN, is NaN here.
    errors = masked(target * complement + (1 - target) * probs, counted)
    losses = _lovasz_extension(errors, target > 0.5, dim, method, 1)
    return torch.stack([losses, target.sum(dim)], -1)


def _lovasz_extension(
    errors: Tensor, positive: Tensor, dim: tuple[int, ...], method: str, largest: int
) -> Tensor:
    """Σ errors × weights, where the weight of a pixel depends on the ranks alone: no gradient.

    An error of 0 is behind all others, and its weight does not matter.
    """
    errors, positive = regions_last(errors, dim), regions_last(positive, dim)
    few = _few(errors.shape[-1]) or not errors.numel()
    weigh: Callable[[Tensor, Tensor], Tensor] = partial(_weights_by_counting, largest)
    if few or method == "sort":
        weigh = _weights_by_sorting
    if few or torch.compiler.is_compiling():
        weights = weigh(errors.detach(), positive)
    else:  # in the memory of one region, and torch has a faster sort for a single axis
        rows = (x.reshape(-1, x.shape[-1]).unbind(0) for x in (errors.detach(), positive))
        weights = torch.stack(list(map(weigh, *rows))).reshape(errors.shape)
    return (errors * weights).sum(-1)


def _few(pixels: int) -> bool:
    """Whether sorting is faster. An exported program is one for all sizes: it sorts if in doubt."""
    if torch.compiler.is_exporting():
        from torch.fx.experimental.symbolic_shapes import statically_known_true

        return not statically_known_true(pixels >= _SORT_BELOW)
    return pixels < _SORT_BELOW


def _rank(method: str, largest: int, errors: Tensor, positive: Tensor, total: int) -> float:
    """The loss of one region, and in the place of its errors the slopes: see `ranks.Rank`."""
    if method == "sort" or _few(len(errors)):
        return _rank_by_sorting(errors, positive, total)
    return _rank_by_counting(largest, errors, positive, total)


# By sorting: whole numbers, which is faster


def _weights_by_sorting(errors: Tensor, positive: Tensor) -> Tensor:
    order = _pattern(errors).bitwise_not().argsort(dim=-1, stable=True)
    found = positive.gather(-1, order).int()
    total = found.sum(-1, keepdim=True)
    place = torch.arange(errors.shape[-1], device=errors.device)
    growth = _growth(found.to(errors.dtype), total - found.cumsum(-1) + found, place)
    # Without foreground, the first mistake makes the Jaccard loss 1.
    growth = torch.where((total == 0) & (place == 0), 1.0, growth)
    return torch.zeros_like(growth).scatter(-1, order, growth)


def _rank_by_sorting(errors: Tensor, positive: Tensor, total: int) -> float:
    """In the memory of the errors and of what `sort` returns."""
    patterns, order = _pattern(errors).bitwise_not_().sort(stable=True)
    ordered = patterns.bitwise_not_().view(errors.dtype)
    found = positive.index_select(0, order).view(torch.uint8)
    numbers = torch.arange(min(len(errors), _BLOCK), dtype=torch.int32)
    loss, left = 0.0, total
    for start in range(0, len(errors), _BLOCK):
        error, one = (x[start : start + _BLOCK] for x in (ordered, found))
        missed = (one - one.cumsum(0, dtype=torch.int32)).add_(left)
        foreground, place = one.to(error.dtype), numbers[: len(error)] + start
        growth = _growth(foreground, missed, place)
        if not total and not start:
            growth[0] = 1.0
        left = number(missed[-1] - one[-1])
        loss += number((error * growth).sum())
        error.sign_().mul_(growth).mul_(torch.rsub(foreground, 1.0, alpha=2.0))
    errors.scatter_(0, order, ordered)
    return loss


def _growth(found: Tensor, missed: Tensor, place: Tensor) -> Tensor:
    """How much the Jaccard loss grows when a pixel joins all those of larger error.

    From counts, which are exact, rather than as differences of neighbouring Jaccard losses: of
    larger error are `place` pixels, and not of larger error are `missed` pixels of the foreground.
    """
    union = (missed + place).clamp_min(1).to(found.dtype)
    return ((1 - found) * missed.to(found.dtype) / (union + 1) + found) / union


# By counting


def _weights_by_counting(largest: int, errors: Tensor, positive: Tensor) -> Tensor:
    bucket = _bucket(errors, positive, largest).long()
    shape = [*errors.shape[:-1], 2 * _BUCKETS]
    counts = torch.zeros(shape, dtype=torch.float64, device=errors.device)
    counts = counts.scatter_add(-1, bucket, (errors > 0).double())
    growth = _growth_of_buckets(counts, positive.sum(-1, keepdim=True))
    return growth.to(errors.dtype).gather(-1, bucket)


def _rank_by_counting(largest: int, errors: Tensor, positive: Tensor, total: int) -> float:
    """In blocks that fit the cache, so that no integers are written to memory."""
    blocks = list(zip(torch.split(errors, _BLOCK), torch.split(positive, _BLOCK), strict=True))
    counts = torch.zeros(2 * _BUCKETS, dtype=torch.float64)
    for error, foreground in blocks:
        bucket = _bucket(error, foreground, largest)
        counts.scatter_add_(0, bucket.long(), error.sign().double())
    slopes, loss = _growth_of_buckets(counts, total).to(errors.dtype), 0.0
    slopes[_BUCKETS:].neg_()
    for error, foreground in blocks:
        slope = slopes.index_select(0, _bucket(error, foreground, largest))
        loss += number((error * slope).abs_().sum())
        error.sign_().mul_(slope)
    return loss


def _growth_of_buckets(counts: Tensor, total: Tensor | int) -> Tensor:
    """The same for the pixels of a bucket. Errors of 0 need no counting: they are behind all."""
    counts = counts.reshape(*counts.shape[:-1], 2, _BUCKETS)
    negatives, positives = counts.unbind(-2)
    # Those of the bucket itself included, and then without them.
    larger_negatives, larger_positives = counts.cumsum(-1).unbind(-2)
    after = 1 / (total + larger_negatives).clamp_min(1)
    before = 1 / (total + larger_negatives - negatives).clamp_min(1)
    # Within a bucket either kind may come first: a pixel gets the mean of both orders, and the
    # weights of a bucket add up to the growth of the Jaccard loss over it.
    rest = total - larger_positives + positives / 2
    # Without foreground the first mistake counts alone, here the pixels of the first bucket.
    first = (negatives > 0) & (total + larger_negatives == negatives)
    of_negatives = torch.where(first, 1 / negatives.clamp_min(1), rest * before * after)
    return torch.cat([of_negatives, (before + after) / 2], -1)


def _bucket(errors: Tensor, positive: Tensor, largest: int) -> Tensor:
    """The number of the bucket, from the largest errors on; those of the foreground follow."""
    mantissa, bias = (52, 1023) if errors.dtype == torch.float64 else (23, 127)
    highest = ((bias + largest) << _DIGITS) - 1
    bucket = (highest - (_pattern(errors) >> (mantissa - _DIGITS))).clamp(0, _BUCKETS - 1)
    return bucket + _BUCKETS * positive.to(bucket.dtype)


def _pattern(errors: Tensor) -> Tensor:
    """The bits of floating-point numbers: of positive ones, a whole number that grows with them."""
    return errors.view(torch.int64 if errors.dtype == torch.float64 else torch.int32)

"""Losses whose errors are weighted by their rank, of masks and of exclusive classes.

From logits (R, P) and masks (R, P): the loss of every row, (R,). From logits (A, C, P) and labels
(A, P): the loss and the size of every class, (A, C, 2). The weight of an error depends on the order
alone, so the slopes of the loss are known with it: they are kept, and the gradient takes their
place.
"""

import math
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import TypeAlias

import torch
from torch import Tensor

from purelosses._fused import launch
from purelosses._fused.blocks import block_size, cleaned, number, regions_last, wide_dtype
from purelosses._fused.classes import pixels_in_blocks, put
from purelosses._fused.launch import Kernel

# Pixels of a region, below which it is faster to sort all regions at once.
FEWEST = 1 << 12

# The loss of a region, from its errors, what is foreground, and how much that is. In the place of
# the errors come the slopes by the predictions: negative for the foreground, 0 where the error is.
Rank: TypeAlias = Callable[[Tensor, Tensor, int], float]
Formula: TypeAlias = Callable[..., Tensor]


def hinge(
    logits: Tensor,
    target: Tensor,
    where: Tensor | None,
    dim: tuple[int, ...],
    rank: Rank,
    formula: Formula,
) -> Tensor | None:
    """The loss of every region, which the formula gives of the same tensors."""
    if not _pays(logits, target, where, dim):
        return None
    x, y = regions_last(logits, dim), regions_last(target, dim)
    keep = None if where is None else regions_last(where.expand(logits.shape), dim)
    rows = [None if t is None else t.reshape(-1, t.shape[-1]) for t in (x, y, keep)]
    kernel = _kernel(partial(_hinge, rank), _hinge_gradient, partial(formula, dim=(1,)))
    return launch.run(kernel, *rows).reshape(x.shape[:-1])


def softmax(
    function: str,
    logits: Tensor,
    labels: Tensor,
    where: Tensor | None,
    class_dim: int,
    dim: tuple[int, ...],
    present: bool,
    rank: Rank,
    formula: Formula,
) -> Tensor | None:
    """The loss of every region, or only of those that have a target; and how large that is."""
    if labels.ndim == logits.ndim or class_dim in dim or not _pays(logits, labels, where, dim):
        return None
    axis = class_dim - sum(axis < class_dim for axis in dim)  # of the classes among the regions
    x = regions_last(logits, dim).movedim(axis, -2)
    dim = tuple(axis - (axis > class_dim) for axis in dim)
    y = regions_last(labels, dim).reshape(-1, x.shape[-1])
    keep = None
    if where is not None:
        keep = regions_last(where.squeeze(class_dim).expand(labels.shape), dim).reshape(y.shape)
    kernel = _kernel(
        partial(_softmax, function, present, rank),
        _softmax_gradient,
        partial(_of_labels, partial(formula, class_dim=1, dim=(2,))),
    )
    found = launch.run(kernel, x.reshape(len(y), *x.shape[-2:]), y, keep)
    return found.reshape(*x.shape[:-1], 2).movedim(-2, axis)


def _of_labels(formula: Formula, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    result: Tensor = formula(x, y, None if where is None else where.unsqueeze(1))
    return result


def _pays(first: Tensor, target: Tensor, where: Tensor | None, dim: tuple[int, ...]) -> bool:
    pixels = math.prod([first.shape[axis] for axis in dim])
    return pixels >= FEWEST and launch.applies(first, target, where, times=0.5)


def _kernel(
    value: Callable[..., tuple[Tensor, Tensor]], gradient: Callable[..., Tensor], formula: Formula
) -> Kernel:
    return Kernel(
        lambda x, y, where: value(x, y, where)[0],
        lambda x, y, where, g: gradient(value(x, y, where)[1], x, y, where, g),
        formula,
        (value, gradient),
    )


def _hinge(rank: Rank, x: Tensor, y: Tensor, where: Tensor | None) -> tuple[Tensor, Tensor]:
    slopes = x.new_empty(x.shape, dtype=wide_dtype(x))
    one, losses = slopes.new_ones(()), []
    for row, errors in enumerate(slopes):
        positive = y[row] > 0.5
        if where is not None:
            positive &= where[row]
        size = block_size(x, 16)
        for start in range(0, len(errors), size):
            block = slice(start, start + size)
            keep = None if where is None else where[row, block]
            target, error = cleaned(positive[block], one.dtype, None), errors[block]
            # 1 - x (2 y - 1), 0 where it does not count
            torch.sub(one, target, alpha=2, out=error)
            error.mul_(cleaned(x[row, block], error.dtype, keep)).add_(one).clamp_min_(0.0)
            if keep is not None:
                error.mul_(cleaned(keep, error.dtype, None))
        losses.append(rank(errors, positive, number(positive.sum())))
    return slopes.new_tensor(losses), slopes


def _hinge_gradient(
    slopes: Tensor, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor
) -> Tensor:
    return slopes.mul_(g.unsqueeze(-1)).to(x.dtype)


def _softmax(
    function: str, present: bool, rank: Rank, x: Tensor, y: Tensor, where: Tensor | None
) -> tuple[Tensor, Tensor]:
    slopes = x.new_empty(x.shape, dtype=wide_dtype(x))
    for a, columns, block in pixels_in_blocks(x, y, where, function):
        errors = torch.mul(block.others, block.scale, out=slopes[a, :, columns])
        errors.scatter_(0, block.labels.unsqueeze(0), (block.rest * block.scale).unsqueeze(0))
    found = []
    for a, c in product(range(x.shape[0]), range(x.shape[1])):
        positive = y[a] == c
        if where is not None:
            positive &= where[a]
        size = number(positive.sum())
        if present and not size:
            slopes[a, c].zero_()
            found.append([0.0, 0])
        else:
            found.append([rank(slopes[a, c], positive, size), size])
    return slopes.new_tensor(found).view(*x.shape[:2], 2), slopes


def _softmax_gradient(
    slopes: Tensor, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor
) -> Tensor:
    result = slopes if x.dtype == slopes.dtype else torch.empty_like(slopes, dtype=x.dtype)
    for a, columns, (labels, others, label, rest, scale, *_) in pixels_in_blocks(x, y, where, None):
        # With G the slope by each p, that by a logit is p (G - sum of p G).
        out = slopes[a, :, columns].mul_(g[a, :, :1])
        p, q, of_label = label * scale, rest * scale, out.gather(0, labels.unsqueeze(0)).squeeze(0)
        mean_of_others = (others.mul_(scale) * out).sum(0)
        at_label = of_label.mul(q).sub_(mean_of_others).mul_(p)
        out.sub_(mean_of_others.addcmul_(p, of_label)).mul_(others)
        # Where another p is near 1 that cancels; all slopes of a pixel add up to 0.
        largest, top = others.max(0, keepdim=True)
        at_top = out.gather(0, top)
        rest_of_sum = out.scatter_(0, top, 0.0).sum(0, keepdim=True).add_(at_label)
        out.scatter_(0, top, torch.where(largest > 0.5, -rest_of_sum, at_top))
        put(out if result is slopes else result[a, :, columns], out, at_label, labels)
    return result

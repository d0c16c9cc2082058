"""The parts of the enclosing boxes of many boxes in a plane at once, without a graph of them all.

What `geometry.areas` computes, with the gradient written out; that function is the specification.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from purelosses import _fused

# Boxes of a block: a coordinate of them stays in cache, and calls are few.
BLOCK = 50_000


class _Axes(NamedTuple):
    """Lengths along x and y, (2, n) each: of both boxes, of each alone, of the gap."""

    both: Tensor
    prediction: Tensor
    target: Tensor
    gap: Tensor


class _Signs(NamedTuple):
    """What the slopes of the lengths depend on, (2, n) each."""

    low: Tensor  # of the prediction's low corner less the target's
    high: Tensor
    overlap: Tensor
    prediction: Tensor  # of the size less what sticks out
    target: Tensor
    size: Tensor


def areas(
    prediction: Tensor,
    target: Tensor,
    formula: Callable[[Tensor, Tensor, Tensor | None], Tensor],
) -> tuple[Tensor, ...] | None:
    """The four parts, for corners (4, ...); `formula` is that of corners (N, 4)."""
    if not _fused.applies(prediction, target):
        return None
    x, y = (corners.reshape(4, -1).mT for corners in (prediction, target))
    found = _fused.run(_fused.Kernel(_value, _gradient, formula), x, y, None)
    return found.mT.reshape(prediction.shape).unbind()


def _value(x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    result = x.new_empty(4, len(x))
    memory = _memory(x, 15)
    for at in range(0, len(x), BLOCK):
        block = slice(at, at + BLOCK)
        new = _new(memory, len(x) - at)
        (b, c), (p, q), (t, u), (g, h) = _axes(x[block], y[block], new)[0]
        both, prediction, target, neither = result[:, block]
        sums = next(new)[0]
        torch.mul(b, c, out=both)
        torch.mul(p, torch.add(c, q, out=sums), out=prediction).addcmul_(b, q)
        torch.mul(t, torch.add(c, u, out=sums), out=target).addcmul_(b, u)
        torch.mul(g, sums.add_(q).add_(h), out=neither).addcmul_(b, h)
        neither.addcmul_(p, torch.add(u, h, out=sums)).addcmul_(t, torch.add(q, h, out=sums))
    return result.mT


def _gradient(x: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor:
    result = x.new_empty(4, len(x))
    memory = _memory(x, 19)
    for at in range(0, len(x), BLOCK):
        block = slice(at, at + BLOCK)
        new = _new(memory, len(x) - at)
        lengths, sign = _axes(x[block], y[block], new)
        # The parts are products of one length along x and one along y.
        both, prediction, target, gap = (length.flip(0) for length in lengths)
        of_both, of_prediction, of_target, of_neither = g[block].mT

        by_both = torch.mul(both, of_both, out=next(new)).addcmul_(prediction, of_prediction)
        by_both.addcmul_(target, of_target).addcmul_(gap, of_neither)
        by_prediction = torch.add(both, prediction, out=next(new)).mul_(of_prediction)
        sums = torch.add(target, gap, out=next(new))
        by_prediction.addcmul_(sums, of_neither)
        by_gap = sums.add_(both).add_(prediction).mul_(of_neither)
        by_target = both.add_(target).mul_(of_target)
        by_target.addcmul_(prediction.add_(gap), of_neither)

        overlaps = sign.overlap.add_(1.0).clamp_max_(1.0)  # 1 where the boxes touch, too
        by_overlap = by_both.add_(by_gap).mul_(overlaps).sub_(by_gap)
        # A minimum of equal numbers gives half of its slope to each.
        sticks = sign.prediction.mul_(0.5).add_(0.5).mul_(by_prediction)
        by_size = by_prediction.sub_(sticks).mul_(sign.size.add_(1.0).clamp_max_(1.0))
        by_target.mul_(sign.target.mul_(0.5).add_(0.5))

        low, high = result[:, block].view(2, 2, -1)
        half = next(new)
        torch.mul(by_overlap, torch.mul(sign.low, -0.5, out=half).sub_(0.5), out=low)
        low.sub_(by_size).addcmul_(by_target, torch.clamp_min(sign.low, 0.0, out=half))
        low.addcmul_(sticks, sign.low.clamp_max_(0.0))
        torch.mul(by_overlap, torch.mul(sign.high, -0.5, out=half).add_(0.5), out=high)
        high.add_(by_size).addcmul_(by_target, torch.clamp_max(sign.high, 0.0, out=half))
        high.addcmul_(sticks, sign.high.clamp_min_(0.0))
    return result.mT


def _axes(x: Tensor, y: Tensor, new: Iterator[Tensor]) -> tuple[_Axes, _Signs]:
    def separated(boxes: Tensor) -> list[Tensor]:
        corners = [next(new), next(new)]
        for corner, columns in zip(corners, boxes.mT.view(2, 2, -1), strict=True):
            corner.copy_(columns)
        return corners

    low, high = separated(x)
    target_low, target_high = separated(y)
    first = torch.sub(low, target_low, out=next(new))
    last = torch.sub(high, target_high, out=next(new))
    signs = [torch.sign(first, out=next(new)), torch.sign(last, out=next(new))]
    size = torch.sub(high, low, out=next(new))
    overlap = torch.minimum(high, target_high, out=high)
    target_size = torch.sub(target_high, target_low, out=target_high).clamp_min_(0.0)
    overlap.sub_(torch.maximum(low, target_low, out=low))
    signs += [torch.sign(overlap, out=next(new))]
    of_size = torch.sign(size, out=next(new))
    size.clamp_min_(0.0)
    prediction = torch.clamp_min(last, 0.0, out=low)
    prediction.sub_(torch.clamp_max(first, 0.0, out=target_low))
    target = first.clamp_min_(0.0).sub_(last.clamp_max_(0.0))
    signs += [
        torch.sub(size, prediction, out=last).sign_(),
        torch.sub(target_size, target, out=next(new)).sign_(),
        of_size,
    ]
    lengths = _Axes(
        torch.clamp_min(overlap, 0.0, out=target_low),
        torch.minimum(prediction, size, out=prediction),
        torch.minimum(target, target_size, out=target),
        overlap.clamp_max_(0.0).neg_(),
    )
    return lengths, _Signs(*signs)


# Memory that is used again for every block: fresh memory costs more than what is done with it.


def _memory(x: Tensor, tensors: int) -> Tensor:
    return x.new_empty(tensors, 2 * min(len(x), BLOCK))


def _new(memory: Tensor, left: int) -> Iterator[Tensor]:
    """Tensors (2, n) for a block of the boxes that are left."""
    n = min(left, BLOCK)
    return iter(memory[:, : 2 * n].view(-1, 2, n))

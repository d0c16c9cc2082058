"""What the losses need of many pairs of boxes in a plane, without a graph of it all.

The shares that `geometry.Areas` gives, with the gradient written out; that class specifies them.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from purelosses import _fused

# Boxes of a block: few enough to stay in cache, enough to amortise the calls.
BLOCK = 25_000


class Shares(NamedTuple):
    """Of the union, what only one box covers and what both do; of the enclosing box, the rest."""

    missed: Tensor
    iou: Tensor
    uncovered: Tensor


def shares(
    prediction: Tensor,
    target: Tensor,
    formula: Callable[[Tensor, Tensor, Tensor | None], Tensor],
) -> Shares | None:
    """The shares for corners (4, ...); `formula` gives them (N, 3) for corners (N, 4)."""
    if not _fused.applies(prediction, target):
        return None
    x, y = (corners.reshape(4, -1).mT for corners in (prediction, target))
    found = _fused.run(_fused.Kernel(_value, _gradient, formula), x, y, None)
    return Shares(*found.mT.reshape(3, *prediction.shape[1:]).unbind())


class _Parts(NamedTuple):
    """The enclosing boxes of a block in parts.

    Along an axis a box is made of four lengths: that of both boxes, of the prediction alone, of the
    target alone, and of the gap between them. A part of its area is a sum of products of a length
    along x and one along y.
    """

    areas: tuple[Tensor, ...]  # (n,), of both boxes, of only one, of neither
    across: tuple[Tensor, ...]  # (axes, n), the four lengths along the other axis
    of_one: tuple[Tensor, ...]  # (axes, n), what p, t and b are multiplied by in the second area
    of_neither: tuple[Tensor, ...]  # (axes, n), what p, t and g are multiplied by in the third
    inset: Tensor  # (2, 2, n), by how much the prediction lies inside of the target, at each end
    overlap: Tensor  # (2, n)
    sizes: Tensor  # (2, 2, n), of the prediction and of the target
    outside: Tensor  # (2, 2, n), how much of that lies outside of the other box, if they meet


def _value(x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    result = x.new_empty(3, len(x))
    unit = x.new_ones(())
    for block, parts in _parts(x, y, axes=1):
        missed, iou, uncovered = result[:, block]
        both, one, neither = parts.areas
        union = both + one
        whole = union + neither
        whole += unit - whole.sign()
        empty = unit - union.sign()
        union += empty
        one += empty
        torch.div(one, union, out=missed)
        torch.div(both, union, out=iou)
        torch.div(neither, whole, out=uncovered)
    return result.mT


def _gradient(x: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor:
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    unit, zero, half = x.new_ones(()), x.new_zeros(()), x.new_full((), 0.5)
    for block, parts in _parts(x, y, axes=2):
        # Half of the slopes by the areas; where a divisor is 0 there are none.
        by_missed, by_iou, by_uncovered = half * g[block].mT
        both, one, neither = parts.areas
        union = both + one
        whole = union + neither
        whole += unit - whole.sign()
        by_uncovered /= whole
        by_neither = (union / whole).mul_(by_uncovered)
        by_whole = neither.div_(whole).mul_(by_uncovered)
        union += unit - union.sign()
        by_union = by_iou.sub_(by_missed).div_(union)
        by_both = one.div_(union).mul_(by_union).sub_(by_whole)
        by_one = by_whole.addcmul_(both.div_(union), by_union).neg_()

        # By the lengths, all of them in the place of a factor.
        b, _, _, g_ = parts.across
        p, t, by_b = (factor.mul_(by_one) for factor in parts.of_one)
        by_p = p.addcmul_(parts.of_neither[0], by_neither)
        by_t = t.addcmul_(parts.of_neither[1], by_neither)
        by_b.addcmul_(b, by_both).addcmul_(g_, by_neither)
        by_gap = parts.of_neither[2].mul_(by_neither.neg_())
        by_overlap = torch.lerp(by_gap, by_b, torch.ge(parts.overlap, zero, out=b), out=by_b)

        # A minimum of equal numbers gives half of its slope to each.
        valid = torch.ge(parts.sizes[0], zero, out=g_)
        sign, target_sign = parts.sizes.sub_(parts.outside).sign_()
        by_size = torch.addcmul(by_p, by_p, sign, value=-1.0, out=by_gap).mul_(valid)
        by_p.addcmul_(by_p, sign)
        by_t.addcmul_(by_t, target_sign)

        sign, positive, slope = parts.inset.sign_(), parts.outside, torch.empty_like(parts.inset)
        torch.addcmul(by_overlap, by_overlap, sign, out=slope).add_(by_size)
        slope.addcmul_(by_t, torch.clamp_min(sign, 0.0, out=positive), value=-1.0)
        slope.addcmul_(by_p, positive.sub_(sign))
        slope[0].neg_()
        result[block] = _transposed(slope.view(4, -1))
    return result


def _parts(x: Tensor, y: Tensor, axes: int) -> Iterator[tuple[slice, _Parts]]:
    """All blocks, in memory that is used again: fresh memory costs more than what is done there.

    All have the same size; the last one begins earlier instead.
    """
    n = -(-len(x) // -(-len(x) // BLOCK))

    def new(*shape: int) -> Tensor:
        return x.new_empty(*shape, n)

    inset, sizes, outside = new(3, 2, 2)
    (inset_low, inset_high), (size, target_size) = inset, sizes
    outside_prediction, outside_target = outside
    # Along x, y and, for the slopes of both, x again; the other axis is always the next one.
    lengths = new(4, 1 + axes)
    both, gap, alone = lengths[0, :2], lengths[3, :2], lengths[1:3, :2]
    again, first = lengths[:, -1], lengths[:, 0]
    along, across = first.unbind(), lengths[:, 1:].unbind()
    factors = new(6, axes).unbind()
    areas = new(3).unbind()
    for at in range(0, len(x), n):
        block = slice(min(at, len(x) - n), min(at, len(x) - n) + n)
        (low, high), (target_low, target_high) = both_corners = [
            _transposed(corners[block]).view(2, 2, n) for corners in (x, y)
        ]
        torch.sub(low, target_low, out=inset_low)
        torch.sub(target_high, high, out=inset_high)
        torch.sub(high, low, out=size)
        torch.sub(target_high, target_low, out=target_size)
        overlap = torch.minimum(high, target_high, out=high)
        overlap.sub_(torch.maximum(low, target_low, out=low))
        positive = torch.clamp_min(inset, 0.0, out=both_corners[1])
        torch.add(*positive, out=outside_target)
        torch.add(*positive.sub_(inset), out=outside_prediction)
        torch.minimum(outside, sizes, out=alone).clamp_min_(0.0)
        torch.clamp_min(overlap, 0.0, out=both)
        torch.sub(both, overlap, out=gap)
        if axes == 2:
            again.copy_(first)
        b, p, t, g = across
        torch.add(b, p, out=factors[0])
        torch.add(b, t, out=factors[1])
        torch.add(p, t, out=factors[2])
        torch.add(t, g, out=factors[3])
        torch.add(p, g, out=factors[4])
        torch.add(factors[0], factors[3], out=factors[5])
        (b_, p_, t_, g_), f = along, [factor[0] for factor in factors]
        torch.mul(b_, b[0], out=areas[0])
        torch.mul(p_, f[0], out=areas[1]).addcmul_(t_, f[1]).addcmul_(b_, f[2])
        torch.mul(p_, f[3], out=areas[2]).addcmul_(t_, f[4]).addcmul_(g_, f[5]).addcmul_(b_, g[0])
        yield block, _Parts(areas, across, factors[:3], factors[3:], inset, overlap, sizes, outside)


def _transposed(rows: Tensor) -> Tensor:
    """In memory of its own. To shuffle channels is the fastest way."""
    if not rows.is_contiguous():
        return rows.mT.clone(memory_format=torch.contiguous_format)
    channels = rows.view(1, 1, 1, -1).permute(0, 3, 1, 2)
    return torch.channel_shuffle(channels, len(rows)).view(-1, len(rows))

"""What the losses need of many pairs of boxes in a plane, without a graph of it all.

The shares that `geometry.Areas` gives, with the gradient written out; that class specifies them.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from purelosses._fused import launch

# Boxes of a block: few enough to stay in cache, enough to amortise the calls.
BLOCK = 12_500


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
    if not launch.applies(prediction, target):
        return None
    x, y = (corners.reshape(4, -1).mT for corners in (prediction, target))
    found = launch.run(launch.Kernel(_value, _gradient, formula), x, y, None)
    return Shares(*found.mT.reshape(3, *prediction.shape[1:]).unbind())


class _Parts(NamedTuple):
    """The enclosing boxes of a block in parts, in memory that every block uses again.

    Along an axis a box is made of four lengths: that of both boxes b, of the prediction alone p, of
    the target alone t, and of the gap between them g. Every area is a sum of products of a length
    along x and one along y, both positive.
    """

    areas: Tensor  # (3, n), of both boxes, of only one of them, of neither
    sums: Tensor  # (2, n), of the first two and of all; 1 in place of 0 for the latter
    empty: Tensor  # (n,), 1 where the former is 0
    across: Tensor  # (4, axes, n), the lengths b, p, t, g along the other axis
    factors: Tensor  # (6, axes, n), of p, t, b in the area of one, of p, t, g in that of neither
    inset: Tensor  # (2, 2, n), how far either end of the prediction is inside of the target
    overlap: Tensor  # (2, n), negative for a gap
    sizes: Tensor  # (2, 2, n), of prediction and target
    outside: Tensor  # (2, 2, n), how far prediction and target extend beyond the other one


def _value(x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    result = x.new_empty(3, len(x))
    for block, parts in _parts(x, y, axes=1):
        missed, iou, uncovered = result[:, block]
        (both, one, neither), (union, whole) = parts.areas, parts.sums
        union.add_(parts.empty)
        torch.div(one.add_(parts.empty), union, out=missed)
        torch.div(both, union, out=iou)
        torch.div(neither, whole, out=uncovered)
    return result.mT


def _gradient(x: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor:
    result = torch.empty_like(x, memory_format=torch.contiguous_format)
    zero, quarter, steepest = x.new_zeros(()), x.new_tensor(0.25), torch.finfo(x.dtype).max / 4
    ends = x.new_tensor([-2.0, 2.0]).view(2, 1, 1)
    of_union, of_whole = x.new_empty(2, _size(len(x)))
    for block, parts in _parts(x, y, axes=2):
        # A quarter of the slopes by the areas, so that those that overflow can be made finite.
        # There are none where a divisor is 0.
        (both, one, neither), (union, whole) = parts.areas, parts.sums
        of_missed, of_iou, of_uncovered = g[block].mT
        torch.mul(of_uncovered, quarter, out=of_whole).div_(whole).clamp_(-steepest, steepest)
        by_whole = neither.div_(whole).mul_(of_whole)
        by_neither = torch.div(union, whole, out=whole).mul_(of_whole)
        union.add_(parts.empty)
        torch.sub(of_iou, of_missed, out=of_union).mul_(quarter)
        of_union.div_(union).clamp_(-steepest, steepest)
        by_both = one.div_(union).mul_(of_union).sub_(by_whole)
        by_one = by_whole.addcmul_(both.div_(union), of_union).neg_()

        # Those by the lengths take the place of the factors.
        b, _, _, gap = parts.across
        by_p, by_t, by_b, neither_p, neither_t, by_g = parts.factors
        by_p.mul_(by_one).addcmul_(neither_p, by_neither)
        by_t.mul_(by_one).addcmul_(neither_t, by_neither)
        by_b.mul_(by_one).addcmul_(b, by_both).addcmul_(gap, by_neither)
        by_gap = by_g.mul_(by_neither).neg_()
        by_overlap = torch.lerp(by_gap, by_b, torch.ge(parts.overlap, zero, out=b), out=by_b)

        # An edge has (1 + sign) / 2 of such a slope; where two are equal, each has half.
        valid = torch.ge(parts.sizes[0], zero, out=gap)
        sign, target_sign = parts.sizes.sub_(parts.outside).sign_()
        by_size = torch.addcmul(by_p, by_p, sign, value=-1.0, out=by_gap).mul_(valid)
        by_p.addcmul_(by_p, sign)
        by_t.addcmul_(by_t, target_sign)
        sign = parts.inset.sign_()
        slope = torch.addcmul(by_overlap, by_overlap, sign, out=parts.sizes).add_(by_size)
        positive = torch.clamp_min(sign, 0.0, out=parts.outside)
        slope.addcmul_(by_t, positive, value=-1.0).addcmul_(by_p, positive.sub_(sign))
        slope.mul_(ends)
        result[block] = _transposed(slope.view(4, -1))
    return result


def _size(total: int) -> int:
    """The boxes of a block, when all blocks have the same size."""
    return math.ceil(total / math.ceil(total / BLOCK))


def _parts(x: Tensor, y: Tensor, axes: int) -> Iterator[tuple[slice, _Parts]]:
    """All blocks. The last one begins early, so that it is as long as the others.

    They share memory: fresh memory costs more than what is done with it.
    """
    n = _size(len(x))

    def new(*shape: int) -> Tensor:
        return x.new_empty(*shape, n)

    inset, sizes, outside, overlap = new(2, 2), new(2, 2), new(2, 2), new(2)
    (inset_low, inset_high), (size, target_size) = inset, sizes
    # Along x, y and, for slopes along both, x again: what follows an axis is the other one.
    lengths, factors = new(4, 1 + axes), new(6, axes)
    first, again, across = lengths[:, 0], lengths[:, -1], lengths[:, 1:]
    both, alone, gap = lengths[0, :2], lengths[1:3, :2], lengths[3, :2]
    areas, sums, empty = new(3), new(2), new(2)
    parts = _Parts(areas, sums, empty[0], across, factors, inset, overlap, sizes, outside)
    zero, largest = x.new_zeros(()), torch.finfo(x.dtype).max
    b, p, t, g = across
    one_p, one_t, one_b, neither_p, neither_t, neither_g = factors
    # Areas are products of lengths along x and what is first in the others.
    b_x, p_x, t_x, g_x = first
    b_y, g_y = b[0], g[0]
    factors_y = factors[:, 0].unbind()
    area_both, area_one, area_neither = areas
    union, whole = sums
    for at in range(0, len(x), n):
        start = min(at, len(x) - n)
        block = slice(start, start + n)
        low, high = _transposed(x[block]).view(2, 2, n)
        target = _transposed(y[block]).view(2, 2, n)
        target_low, target_high = target
        torch.sub(low, target_low, out=inset_low)
        torch.sub(target_high, high, out=inset_high)
        torch.sub(high, low, out=size)
        torch.sub(target_high, target_low, out=target_size)
        torch.minimum(high, target_high, out=overlap).sub_(torch.maximum(low, target_low, out=low))
        positive = torch.clamp_min(inset, 0.0, out=target)
        torch.add(*positive, out=outside[1])
        torch.add(*positive.sub_(inset), out=outside[0])
        torch.minimum(outside, sizes, out=alone).clamp_min_(0.0)
        torch.clamp_min(overlap, 0.0, out=both)
        torch.sub(both, overlap, out=gap)
        if axes == 2:
            again.copy_(first)
        torch.add(b, p, out=one_p)
        torch.add(b, t, out=one_t)
        torch.add(p, t, out=one_b)
        torch.add(t, g, out=neither_p)
        torch.add(p, g, out=neither_t)
        torch.add(one_p, neither_p, out=neither_g)
        torch.mul(b_x, b_y, out=area_both)
        torch.mul(p_x, factors_y[0], out=area_one)
        area_one.addcmul_(t_x, factors_y[1]).addcmul_(b_x, factors_y[2])
        torch.mul(p_x, factors_y[3], out=area_neither).addcmul_(t_x, factors_y[4])
        area_neither.addcmul_(g_x, factors_y[5]).addcmul_(b_x, g_y)
        areas.clamp_max_(largest)  # so that no share is infinity by infinity
        torch.add(area_both, area_one, out=union)
        torch.add(union, area_neither, out=whole)
        sums.clamp_max_(largest)
        torch.eq(sums, zero, out=empty)
        whole.add_(empty[1])
        yield block, parts


def _transposed(rows: Tensor) -> Tensor:
    """In memory of its own. To shuffle channels is the fastest way."""
    if not rows.is_contiguous():
        return rows.mT.clone(memory_format=torch.contiguous_format)
    channels = rows.view(1, 1, 1, -1).permute(0, 3, 1, 2)
    return torch.channel_shuffle(channels, len(rows)).view(-1, len(rows))

"""What a distance transform does with the lines along an axis, the first one of its tensors.

Each returns None where the values of a tensor cannot be read.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from purelosses._fused import launch

# Pixels of lines that are computed together, so that they stay in cache.
BLOCK = 1 << 17


def in_blocks(function: Callable[..., Tensor], fields: Sequence[Tensor]) -> Tensor | None:
    """A function of lines, a block of them at a time."""
    first = fields[0]
    if not first.numel() or not all(map(launch.readable, fields)):
        return None
    length = first.shape[0]
    result = first.new_empty(first.shape).reshape(length, -1)
    parts = [launch.unwrapped(x).reshape(length, -1) for x in fields]
    size = BLOCK // length + 1
    for start in range(0, result.shape[1], size):
        block = slice(start, start + size)
        result[:, block] = function(*(part[:, block].contiguous() for part in parts))
    return result.reshape(first.shape)


def extremes(back: Tensor, ahead: Tensor) -> tuple[Tensor, Tensor] | None:
    """The largest of `back` up to every place, and the smallest of `ahead` from there on."""
    if not launch.readable(back):
        return None
    rows, others = back.unbind(), ahead.unbind()[::-1]
    for i in range(1, len(rows)):
        torch.maximum(rows[i - 1], rows[i], out=rows[i])
        torch.minimum(others[i - 1], others[i], out=others[i])
    return back, ahead


def lowest_parabola(step: float, lows: Tensor, cost: Tensor, known: Tensor) -> Tensor | None:
    """The minimum over j of lows[j] + cost[i, j], with the costs (step (i - j))², for every i;
    right where below `known`.
    """
    if not lows.numel() or not launch.readable(lows):
        return None
    # The root of the minimum changes by at most `step` from one i to the next, and no j that is
    # farther away than that root can be the lowest; nor one that is infinite.
    known = torch.minimum(lows, known)
    known = torch.where(known.amin(0).isfinite(), known, 0.0).amax(1).sqrt() / step
    at = torch.arange(lows.shape[0], dtype=lows.dtype)
    reach = ((known + (at.unsqueeze(1) - at).abs()).amin(1) + 1).floor()
    sources = [j for j, low in enumerate(lows.amin(1).tolist()) if low < torch.inf] or [0]
    first, last = (x.clamp(sources[0], sources[-1]).long() for x in (at - reach, at + reach))
    result = torch.empty_like(lows)
    for row, costs, j, k in zip(
        result.unbind(), cost.unbind(), first.tolist(), (last + 1).tolist(), strict=True
    ):
        torch.amin(lows[j:k] + costs[j:k], 0, out=row)
    return result

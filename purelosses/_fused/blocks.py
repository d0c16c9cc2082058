"""Data as rows, in blocks that stay in cache, and what kernels of masks do with one."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

# Elements below which a row is too short for blocks.
SHORTEST = 1 << 10
# Elements of all classes together below which a block of one such row costs more than the formula.
SMALLEST = 1 << 14
# Elements of a block: few enough to stay in cache, enough to amortise the calls.
BLOCK = 1 << 19
# Numbers from 1/2 to 1 whose product is far from underflow.
FACTORS = 64


def tail(dim: tuple[int, ...], end: int) -> int:
    """Where the axes before `end` begin that are all in `dim`."""
    while end and end - 1 in dim:
        end -= 1
    return end


def is_short(pixels: int, classes: int | None = None) -> bool:
    """Whether a row is not worth blocks; with classes, each block is of one row."""
    return pixels < SHORTEST or (classes is not None and pixels * classes < SMALLEST)


def as_rows(x: Tensor | None, shape: torch.Size, split: int) -> Tensor | None:
    """x, broadcast, with the axes before `split` and those after as two."""
    if x is None:
        return None
    x = x if x.shape == shape else x.expand(shape)
    return x.reshape(math.prod(shape[:split]), math.prod(shape[split:]))


def regions_last(x: Tensor, dim: tuple[int, ...]) -> Tensor:
    """The elements of a region along one last axis."""
    units = [axis for axis in range(x.ndim) if axis not in dim]
    shape = [x.shape[axis] for axis in units]
    elements = math.prod([x.shape[axis] for axis in dim])
    return x.permute(*units, *dim).reshape([*shape, elements])


def number(x: Tensor) -> Any:
    """The value of a scalar. `tolist`, unlike `item`, is no operation that a tracer sees."""
    return x.tolist()


def in_blocks(rows: int, columns: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Whole rows while they fit, else parts of one row."""
    height = min(rows, max(1, size // max(columns, 1)))
    width = min(columns, size)
    for row in range(0, rows, height or 1):
        for column in range(0, columns, width or 1):
            yield slice(row, row + height), slice(column, column + width)


def block_size(x: Tensor, part: int) -> int:
    """The elements of a block: at most this part of the data, so that memory hardly grows."""
    return min(BLOCK, max(BLOCK >> 2, x.numel() // part))


def wide_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def cleaned(block: Tensor, dtype: torch.dtype, keep: Tensor | None) -> Tensor:
    """A block in a floating dtype, 0 where it does not count, whatever is there."""
    if block.dtype != dtype:
        if block.dtype == torch.bool:
            block = block.view(torch.uint8)  # converted many times faster
        block = block.to(dtype)
    if keep is None:
        return block
    # A mask of bits clears NaN too, and takes a twentieth of the time of `torch.where`.
    bits = torch.int64 if dtype == torch.float64 else torch.int32
    return block.view(bits).bitwise_and(keep.view(torch.uint8).to(bits).neg_()).view(dtype)


# The errors of masks


def is_hard(target: Tensor, one: Tensor, memory: Tensor) -> bool:
    """Whether all targets of a block are 0 or 1: then all y (1 - y) are 0, and so is their sum.

    On the CPU the number is at hand, and `tolist` is no operation of its own.
    """
    rest = torch.sub(one, target, out=memory)
    return not torch.dot(rest.view(-1), target.reshape(-1)).tolist()


def error_logits(logits: Tensor, target: Tensor, out: Tensor) -> Tensor:
    """z = x for the target 0 and -x for 1, the logit of the error; infinite if 2x is."""
    return torch.addcmul(logits, target, logits, value=-2.0, out=out)


def positive_sums(z: Tensor, logits: Tensor, target: Tensor, one: Tensor) -> list[float]:
    """The sum over each row of max(z, 0), which takes the place of z."""
    sums: list[float] = z.clamp_min_(0.0).sum(-1).tolist()
    if math.inf in sums:
        torch.sub(one, target, alpha=2.0, out=z).mul_(logits)
        sums = z.clamp_min_(0.0).sum(-1).tolist()
    return sums


def either(of_rest: float, of_target: float, target: Tensor, one: Tensor, out: Tensor) -> Tensor:
    """`of_rest` where the target is 0, `of_target` where it is 1."""
    if abs(of_rest) <= 4.0 * abs(of_target):
        return torch.add(one * of_rest, target, alpha=of_target - of_rest, out=out)
    # That sum would lose digits of the target's.
    return torch.sub(one, target, out=out).mul_(of_rest).add_(target, alpha=of_target)


def logs_of_rest(error: Tensor, wrong: list[float], one: Tensor, out: Tensor) -> list[float]:
    """The sum over each row of -log(1 - share), with share the smaller of e and 1 - e.

    Of many wrong pixels, product by product: then the rounding of the 1 - share that are near 1 is
    nothing to the sum of all losses, which is at least the sum of the errors. Of few, shares are
    merged by u + v - uv, which keeps the digits of small ones; a quarter needs a logarithm.
    """
    rest = torch.sub(one, error, out=out)
    if error.shape[1] % FACTORS == 0 and 16 * min(wrong) >= error.shape[1]:
        products = torch.maximum(error, rest, out=rest).view(len(rest), -1, FACTORS).prod(-1)
        logs = products.log_()
    else:
        share = torch.minimum(error, rest, out=rest)
        for _ in range(2):
            if share.shape[1] > 1:
                share, more = share.chunk(2, 1)
                (share if share.shape == more.shape else share[:, :-1]).lerp_(one, more)
        logs = share.neg_().log1p_()
    result: list[float] = logs.sum(-1).neg_().tolist()
    return result


def error_terms(z: Tensor, error: Tensor, rest: Tensor, log: Tensor) -> tuple[Tensor, ...]:
    """sigmoid(z), 1 - sigmoid(z) and softplus(z), which takes the place of z.

    softplus(z) = max(z, 0) - log(1 - e) with e the smaller one of both, and e is at hand.
    """
    torch.sigmoid(z, out=error)
    torch.sub(z.new_ones(()), error, out=rest)
    torch.minimum(error, rest, out=log).neg_().log1p_()
    return error, rest, z.clamp_min_(0.0).sub_(log)


def slope_of(gamma: float, error: Tensor, rest: Tensor, surprise: Tensor) -> Tensor:
    """The derivative of e^gamma softplus(z) by z, in the place of what `error_terms` gave."""
    torch.addcmul(error, surprise, rest, value=gamma, out=surprise)
    return surprise.mul_(torch.pow(error, gamma, out=rest))


# Sums


def summed(sums: Tensor, names: Sequence[str], dim: Sequence[int]) -> dict[str, Tensor]:
    """What the last axis has, by name, summed over axes that rows do not cover."""
    for axis in sorted(dim, reverse=True):
        sums = sums.sum(axis)
    return dict(zip(names, sums.unbind(-1), strict=False))

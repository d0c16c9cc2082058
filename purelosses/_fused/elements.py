"""The sigmoid focal loss and the binary cross-entropy of every element, or their sum."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from purelosses._fused import launch
from purelosses._fused.blocks import (
    as_rows,
    block_size,
    cleaned,
    either,
    error_logits,
    error_terms,
    in_blocks,
    is_hard,
    is_short,
    logs_of_rest,
    positive_sums,
    slope_of,
    wide_dtype,
)
from purelosses._fused.launch import Kernel
from purelosses._numerics import promote


def focal(
    logits: Tensor,
    target: Tensor,
    where: Tensor | None,
    gamma: float | Tensor,
    alpha: float | Tensor | None,
    formula: Callable[[Tensor, Tensor], Tensor],
    *,
    total: bool,
) -> Tensor | None:
    """The focal loss of every element or, with `total`, the sum over those that count.

    `formula` is that of clean logits and targets.
    """
    if isinstance(gamma, Tensor) or isinstance(alpha, Tensor):
        return None
    if not launch.applies(logits, target, where) or (total and is_short(logits.numel())):
        return None
    if gamma == 0 and not total:  # the formula is as fast
        return None
    shares = None if alpha is None else (1.0 - alpha, float(alpha))
    loss = _Focal(float(gamma), shares, formula)
    x, y, keep = (as_rows(t, logits.shape, 0) for t in (logits, target, where))
    if total:
        kernel = _kernel_of_sums(loss, logits.dtype == wide_dtype(logits))
        return launch.run(kernel, x, y, keep).squeeze(0)
    value, gradient = partial(_focal_value, loss), partial(_focal_gradient, loss)
    kernel = Kernel(value, gradient, partial(_focal_formula, formula))
    return launch.run(kernel, x, y, keep).reshape(logits.shape)


class _Focal(NamedTuple):
    """A focal loss."""

    gamma: float
    shares: tuple[float, float] | None  # the weights of the targets 0 and 1
    formula: Callable[[Tensor, Tensor], Tensor]  # of clean logits and targets


def _kernel_of_sums(loss: _Focal, keeps: bool) -> Kernel:
    value: Callable[..., Tensor]
    gradient: Callable[..., Tensor]
    keeping: Any
    if loss.gamma == 0 and loss.shares is None:
        value, gradient = _entropy_sum, _entropy_gradient
        keeping = _entropy_and_slopes, _entropy_from_slopes
    else:
        value, gradient = partial(_focal_sum, loss), partial(_focal_sum_gradient, loss)
        keeping = partial(_focal_and_errors, loss), partial(_focal_from_errors, loss)
    formula = partial(_focal_sum_formula, loss.formula)
    return Kernel(value, gradient, formula, keeping if keeps else None)


# The focal loss of each element, (R, P); under `where` False that of nothing.


def _focal_value(loss: _Focal, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    result = x.new_empty(x.shape, dtype=wide_dtype(x))
    for at, terms in _errors(x, y, where, loss.shares):
        into = result[at]
        for i, (error, _, surprise, slope) in enumerate(terms):
            factor = error.pow_(loss.gamma)
            if slope is not None:
                factor.mul_(slope.abs_())
            if i == 0:
                torch.mul(surprise, factor, out=into)
            else:
                into.addcmul_(surprise, factor)
    return result


def _focal_gradient(loss: _Focal, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor:
    result = torch.empty_like(x)
    for at, terms in _errors(x, y, where, loss.shares or (1.0, 1.0)):
        slopes = []
        for error, rest, surprise, slope in terms:
            slopes.append(slope_of(loss.gamma, error, rest, surprise).mul_(slope))
        total = slopes[0] if len(slopes) == 1 else slopes[0].add_(slopes[1])
        torch.mul(total, g[at], out=result[at])
    return result


def _errors(
    x: Tensor, y: Tensor, where: Tensor | None, shares: tuple[float, float] | None
) -> Iterator[tuple[tuple[slice, slice], list[tuple[Any, ...]]]]:
    """Blocks of the error e = sigmoid(z), 1 - e, softplus(z) and dz/dx times a weight.

    One of each for hard targets, else two. Without shares, hard targets have no last one.
    """
    wide, size, (of_rest, of_target) = wide_dtype(x), block_size(x, 16), shares or (1.0, 1.0)
    memory = x.new_empty(4, size, dtype=wide)
    one = x.new_ones((), dtype=wide)
    for at in in_blocks(x.shape[0], x.shape[1], size):
        keep = None if where is None else where[at]
        logits, target = (cleaned(t[at], wide, keep) for t in (x, y))
        buffers = memory[:, : target.numel()].view(4, *target.shape)
        if is_hard(target, one, buffers[0]):
            z = torch.sub(one, target, alpha=2, out=buffers[0]).mul_(logits)
            error, rest, surprise = error_terms(z, *buffers[1:])
            slope = None
            if shares is not None:
                slope = torch.sub(one, target, out=buffers[3])
                slope.mul_(of_rest).sub_(target, alpha=of_target)
            yield at, [(error, rest, surprise, slope)]
        else:
            of_zero = *error_terms(logits.clone(), *buffers[1:]), (one - target).mul_(of_rest)
            of_one = *error_terms(-logits, *torch.empty_like(buffers[1:])), target * -of_target
            yield at, [of_zero, of_one]


def _focal_formula(
    formula: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, where: Tensor | None
) -> Tensor:
    x, y = promote(x), y.to(wide_dtype(x))
    if where is not None:
        x, y = torch.where(where, x, 0.0), torch.where(where, y, 0.0)
    return formula(x, y)


# Their sum over each row, (R,).


def _focal_sum(loss: _Focal, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    return _focal_sums(loss, x, y, where, None)[0]


def _focal_and_errors(
    loss: _Focal, x: Tensor, y: Tensor, where: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    errors = torch.empty_like(x)
    sums, hard = _focal_sums(loss, x, y, where, errors)
    return sums, errors if hard else None


def _focal_sums(
    loss: _Focal, x: Tensor, y: Tensor, where: Tensor | None, errors: Tensor | None
) -> tuple[Tensor, bool]:
    """The sums, and whether all targets are 0 or 1: then `errors` are those of all elements."""
    wide, size = wide_dtype(x), block_size(x, 8)
    sums, one, all_hard = [0.0] * len(x), x.new_ones((), dtype=wide), True
    memory = x.new_empty(3 if errors is None else 2, size, dtype=wide)
    for rows, columns in in_blocks(x.shape[0], x.shape[1], size):
        keep = None if where is None else where[rows, columns]
        logits, target = (cleaned(t[rows, columns], wide, keep) for t in (x, y))
        z, spare, *more = memory[:, : target.numel()].view(-1, *target.shape).unbind()
        error = more.pop() if errors is None else errors[rows, columns]
        if y.dtype == torch.bool or is_hard(target, one, z):
            torch.sigmoid(error_logits(logits, target, z), out=error)
            if keep is not None:
                error.mul_(cleaned(keep, wide, None))
            positive_sums(z, logits, target, one)
            rest = torch.sub(one, error, out=spare)
            z.sub_(torch.minimum(error, rest, out=spare).neg_().log1p_())
            z.mul_(torch.pow(error, loss.gamma, out=spare))
            if loss.shares is not None:
                z.mul_(either(*loss.shares, target, one, out=spare))
            found = z.sum(-1).tolist()
        else:
            all_hard = False
            losses = loss.formula(logits, target)
            found = (losses if keep is None else torch.where(keep, losses, 0.0)).sum(-1).tolist()
        sums[rows] = map(sum, zip(sums[rows], found, strict=True))
    return torch.tensor(sums, dtype=wide), all_hard


def _focal_sum_gradient(
    loss: _Focal, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor
) -> Tensor:
    g = g.unsqueeze(1)
    g = g.expand(x.shape) if where is None else g * where
    return _focal_gradient(loss, x, y, where, g)


def _focal_from_errors(
    loss: _Focal, errors: Tensor, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor
) -> Tensor:
    """e^gamma (gamma (1 - e) softplus(z) + e), times the weight, in the place of the errors."""
    gamma, shares, _ = loss
    of_rest, of_target = shares or (1.0, 1.0)
    size, one = block_size(errors, 8), errors.new_ones(())
    # The softplus of the largest error below 1: where that is too small, 1 - e is 0.
    largest = 1.0 - torch.finfo(errors.dtype).eps / 2
    memory = errors.new_empty(2 if gamma else 1, size)
    for rows, columns in in_blocks(errors.shape[0], errors.shape[1], size):
        keep = None if where is None else where[rows, columns]
        error, target = errors[rows, columns], cleaned(y[rows, columns], errors.dtype, keep)
        spare, *more = memory[:, : target.numel()].view(-1, *target.shape).unbind()
        if gamma:
            (slope,) = more
            torch.clamp_max(error, largest, out=slope).neg_().log1p_()
            torch.addcmul(error, slope, torch.sub(one, error, out=spare), value=-gamma, out=slope)
            torch.mul(torch.pow(error, gamma, out=spare), slope, out=error)
        error.mul_(either(of_rest, -of_target, target, one, out=spare)).mul_(g[rows].unsqueeze(1))
    return errors


def _focal_sum_formula(
    formula: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, where: Tensor | None
) -> Tensor:
    losses = _focal_formula(formula, x, y, where)
    return (losses if where is None else torch.where(where, losses, 0.0)).sum(1)


# The sum over each row of the binary cross-entropy, (R,). The gradient is its cotangent times the
# slopes p (1 - y) - (1 - p) y, which are known in the forward pass.


def _entropy_sum(x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    return _entropy_sums(x, y, where, None)


def _entropy_and_slopes(x: Tensor, y: Tensor, where: Tensor | None) -> tuple[Tensor, Tensor]:
    slopes = torch.empty_like(x)
    return _entropy_sums(x, y, where, slopes), slopes


def _entropy_sums(x: Tensor, y: Tensor, where: Tensor | None, slopes: Tensor | None) -> Tensor:
    wide, size = wide_dtype(x), block_size(x, 8)
    sums, one = [0.0] * len(x), x.new_ones((), dtype=wide)
    memory = x.new_empty(2 if slopes is None else 1, size, dtype=wide)
    for rows, columns in in_blocks(x.shape[0], x.shape[1], size):
        keep = None if where is None else where[rows, columns]
        counts = None if keep is None else cleaned(keep, wide, None)
        logits, target = (cleaned(t[rows, columns], wide, keep) for t in (x, y))
        z, *more = memory[:, : target.numel()].view(-1, *target.shape).unbind()
        slope = more.pop() if slopes is None else slopes[rows, columns]
        if y.dtype == torch.bool or is_hard(target, one, z):
            error = torch.sigmoid(error_logits(logits, target, z), out=slope)
            if counts is not None:
                error.mul_(counts)
            positive = positive_sums(z, logits, target, one)
            logs = logs_of_rest(error, error.sum(-1).tolist(), one, z)
            slope.addcmul_(error, target, value=-2.0)  # the sign is 1 - 2y
        else:
            rest, above = one - target, logits.clamp_min(0.0)
            p, q = torch.sigmoid(logits, out=z), torch.neg(logits).sigmoid_()
            torch.mul(p, rest, out=slope).addcmul_(q, target, value=-1.0)
            share = torch.minimum(p, q, out=p)
            if counts is not None:
                slope.mul_(counts)
                share.mul_(counts)
            logs = logs_of_rest(share, share.sum(-1).tolist(), one, q)
            # (1 - y) max(x, 0) + y max(-x, 0)
            positive = rest.mul_(above).addcmul_(target, above.sub(logits)).sum(-1).tolist()
        sums[rows] = map(sum, zip(sums[rows], positive, logs, strict=True))
    return torch.tensor(sums, dtype=wide)


def _entropy_from_slopes(
    slopes: Tensor, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor
) -> Tensor:
    return slopes.mul_(g.unsqueeze(1))


def _entropy_gradient(x: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor:
    result = torch.empty_like(x)
    for at in in_blocks(x.shape[0], x.shape[1], block_size(x, 16)):
        slopes = x[at].to(wide_dtype(x), copy=True)
        _entropy_sums(x[at], y[at], None if where is None else where[at], slopes)
        result[at] = slopes.mul_(g[at[0]].unsqueeze(1))
    return result

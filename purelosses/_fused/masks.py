"""The overlap of independent masks, with a focal loss or the cross-entropy.

TP, FP, FN, TN of every row of logits, (R, 4); with an exponent gamma its focal loss too, (R, 5),
which for 0 is the binary cross-entropy. Where all targets are 0 or 1, errors and their slopes
follow from one sigmoid per pixel, that of z = x or -x, the logit of the error. A soft target is a
mixture of both.

A kernel of its own has the TP, FP and FN of sums of squares, (R, 3).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

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
    summed,
    tail,
    wide_dtype,
)
from purelosses._fused.launch import Kernel
from purelosses._numerics import excess, power, promote, safe_divide, softplus

# Elements of a row from which on its errors are kept: the gradient takes them row by row.
KEPT = 1 << 15


def overlap(
    prediction: Tensor,
    target: Tensor,
    where: Tensor | None,
    class_dim: int | None,
    dim: tuple[int, ...],
    extras: Sequence[str],
    gamma: float | Tensor,
    squared: bool,
) -> dict[str, Tensor] | None:
    # The formula has few operations without a loss of every pixel, and not many with squares.
    times = 2 if squared else 1 if {"bce", "focal"} & set(extras) else 4
    if not launch.applies(prediction, target, where, times=times):
        return None
    if not set(extras) <= {"tn", "bce", "focal"} or {"bce", "focal"} <= set(extras):
        return None
    if "focal" in extras and isinstance(gamma, Tensor):
        return None
    split = tail(dim, prediction.ndim)
    pixels = math.prod(prediction.shape[split:])
    if is_short(pixels):
        return None
    if times == 4 and pixels < KEPT and not launch.applies(prediction, times=16):
        return None
    if where is not None and class_dim is not None:
        where = where.unsqueeze(class_dim)
    exponent = 0.0 if "bce" in extras else float(gamma) if "focal" in extras else None
    wide = prediction.dtype == wide_dtype(prediction)
    keeps = not exponent and wide and pixels >= KEPT
    x, y, keep = (as_rows(t, prediction.shape, split) for t in (prediction, target, where))
    if extras or not squared:
        sums = launch.run(_kernel(exponent, keeps), x, y, keep)
    if squared:
        squares = launch.run(SQUARES_KEPT if wide else SQUARES, x, y, keep)
        sums = torch.cat([squares, sums[:, 3:]], 1) if extras else squares
    if split != 1:
        sums = sums.reshape(*prediction.shape[:split], -1)
    names = "tp", "fp", "fn", "tn", "bce" if "bce" in extras else "focal"
    return summed(sums, names, [axis for axis in dim if axis < split])


@lru_cache(maxsize=8)
def _kernel(exponent: float | None, keeps: bool) -> Kernel:
    keeping = partial(_value_and_errors, exponent), _from_errors
    return Kernel(
        partial(_value, exponent),
        partial(_gradient, exponent),
        partial(_formula, partial(_products, exponent)),
        keeping if keeps else None,
    )


def _value(gamma: float | None, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    return _sums(gamma, x, y, where, None)[0]


def _value_and_errors(
    gamma: float | None, x: Tensor, y: Tensor, where: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    errors = torch.empty_like(x)
    sums, hard = _sums(gamma, x, y, where, errors)
    return sums, errors if hard else None


def _sums(
    gamma: float | None, x: Tensor, y: Tensor, where: Tensor | None, errors: Tensor | None
) -> tuple[Tensor, bool]:
    """The sums, and whether all targets are 0 or 1.

    Then `errors` are those of all elements, negative where the target is 1, or, without a gamma,
    the smaller one of e and 1 - e.
    """
    wide, size = wide_dtype(x), block_size(x, 8)
    sums = [[0.0] * (4 if gamma is None else 5) for _ in range(len(x))]
    memory = x.new_empty((errors is None) + (2 if gamma else 1), size, dtype=wide)
    one, all_hard = x.new_ones((), dtype=wide), True
    for rows, columns in in_blocks(x.shape[0], x.shape[1], size):
        keep = None if where is None else where[rows, columns]
        counts = None if keep is None else cleaned(keep, wide, None)
        logits, target = (cleaned(t[rows, columns], wide, keep) for t in (x, y))
        z, *more = memory[:, : target.numel()].view(-1, *target.shape).unbind()
        error = more.pop() if errors is None else errors[rows, columns]
        shared = errors is not None and gamma is None  # its place is that of the product
        signed = errors is not None and gamma == 0
        spare = more[0] if gamma else error if shared else z

        if y.dtype == torch.bool or is_hard(target, one, z):
            whole = target.sum(-1).tolist()
            inside = [target.shape[-1]] * len(whole) if counts is None else counts.sum(-1).tolist()
            torch.sigmoid(error_logits(logits, target, z), out=error)
            if counts is not None:
                error.mul_(counts)
            wrong = error.sum(-1).tolist()
            # softplus(z) = max(z, 0) - log(1 - share), with share the smaller of e and 1 - e
            if gamma is not None:
                positive = positive_sums(z, logits, target, one)
            if gamma == 0:
                logs = logs_of_rest(error, wrong, one, spare)
                losses = [a + b for a, b in zip(positive, logs, strict=True)]
            if signed:  # then the sum of errors is FP + FN, and that of signed ones FP - FN
                error.addcmul_(error, target, value=-2.0)
                fn = [(a - b) / 2 for a, b in zip(wrong, error.sum(-1).tolist(), strict=True)]
            if not signed or _lost(fn, wrong):
                fn = [abs(a) for a in _dot(error, target, spare)]
            fp, rest = _less(wrong, fn), _less(inside, whole)
            if _lost(fp, wrong):
                others = (one if counts is None else counts) - target
                fp = _dot(torch.sigmoid(z) if shared else error, others, spare)
            tp, tn = _less(whole, fn), _less(rest, fp)
            if _lost(tp, whole) or _lost(tn, rest):
                right = torch.sigmoid(error_logits(logits, target, spare).neg_())
                others = (one if counts is None else counts) - target
                tp, tn = _dot(right, target, spare), _dot(right, others, spare)
            parts = [tp, fp, fn, tn]
            if shared:
                torch.sigmoid(z.abs_().neg_(), out=spare)
                if counts is not None:
                    spare.mul_(counts)
            if gamma:
                log = torch.minimum(error, one - error, out=spare).neg_().log1p_()
                parts.append(_dot(z.sub_(log), error.pow_(gamma), spare))
            elif gamma == 0:
                parts.append(losses)
        else:
            all_hard = False
            others = (one if counts is None else counts) - target
            p, q = torch.sigmoid(logits), torch.sigmoid(-logits)
            parts = [_dot(a, b, spare) for a in (p, q) for b in (target, others)]
            if gamma is not None:
                of_zero = _dot(others.mul_(softplus(logits)), p.pow_(gamma), spare)
                of_one = _dot(target * softplus(-logits), q.pow_(gamma), spare)
                parts.append([a + b for a, b in zip(of_zero, of_one, strict=True)])
        for total, *found in zip(sums[rows], *parts, strict=True):
            total[:] = map(sum, zip(total, found, strict=True))
    return torch.tensor(sums, dtype=wide), all_hard


def _dot(a: Tensor, b: Tensor, out: Tensor) -> list[float]:
    result: list[float] = torch.mul(a, b, out=out).sum(-1).tolist()
    return result


def _less(whole: list[float], part: list[float]) -> list[float]:
    return [a - b for a, b in zip(whole, part, strict=True)]


def _lost(rest: list[float], whole: list[float]) -> bool:
    """Whether one of these differences is so small that it has lost digits."""
    return any(4.0 * a < b for a, b in zip(rest, whole, strict=True))


def _from_errors(
    errors: Tensor, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor
) -> Tensor | None:
    """The gradient, in the place of what `_sums` left."""
    return (_from_signed if g.shape[1] == 5 else _from_shares)(errors, y, where, g)


def _from_shares(errors: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor:
    size = block_size(errors, 8)
    memory, one = errors.new_empty(size), errors.new_ones(())
    for i, (tp, fp, fn, tn) in enumerate(g.tolist()):
        for at in range(0, errors.shape[1], size):
            block = i, slice(at, at + size)
            keep = None if where is None else where[block]
            share, target = errors[block], cleaned(y[block], errors.dtype, keep)
            slope = either(fp - tn, tp - fn, target, one, out=memory[: len(share)])
            torch.ops.aten.sigmoid_backward.grad_input(slope, share, grad_input=share)
    return errors


def _from_signed(errors: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor | None:
    """With the cross-entropy, whose slope hides that e (1 - e) has few digits where e is near 1.

    The factor of e (1 - e) is one number for each sign.
    """
    of_rest, of_target = g[:, 1] - g[:, 3], g[:, 0] - g[:, 2]
    if ((g[:, 4] == 0) | (of_rest.abs() < 1e-6 * of_target.abs())).any().tolist():
        return None
    size = block_size(errors, 8)
    memory, ratios, entropy = (
        errors.new_empty(size),
        safe_divide(of_target, of_rest).tolist(),
        g[:, 4].tolist(),
    )
    for row, factor, ratio, ce in zip(errors, of_rest, ratios, entropy, strict=True):
        for error in row.split(size):
            slope = torch.abs(error, out=memory[: len(error)])
            torch.ops.aten.sigmoid_backward.grad_input(factor, slope, grad_input=slope)
            torch.ops.aten.leaky_relu_backward.grad_input(
                slope, error, ratio, False, grad_input=slope
            )
            torch.add(slope, error, alpha=ce, out=error)
    return errors


def _gradient(gamma: float | None, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor:
    wide, size = wide_dtype(x), block_size(x, 16)
    result = torch.empty_like(x)
    g = g.to(wide).unsqueeze(-1)
    if gamma is not None and not g[:, 4].any().tolist():
        gamma = None
    memory = x.new_empty(4 if gamma else 2, size, dtype=wide)
    one = x.new_ones((), dtype=wide)
    of_rest, of_target = g[:, 1] - g[:, 3], g[:, 2] - g[:, 0]
    jump = -of_target - of_rest
    # Whether adding the jump keeps the digits of the target's slope; `lerp` always does, slowly.
    steady = bool((of_rest.abs() <= 4 * of_target.abs()).all().tolist())
    for rows, columns in in_blocks(x.shape[0], x.shape[1], size):
        keep = None if where is None else where[rows, columns]
        logits, target = (cleaned(t[rows, columns], wide, keep) for t in (x, y))
        sign, error, *more = memory[:, : target.numel()].view(-1, *target.shape).unbind()
        into = result[rows, columns]
        out = into if into.dtype == wide else torch.empty_like(logits)
        hard = is_hard(target, one, sign)
        torch.sub(one, target, alpha=2, out=sign)
        if hard:
            if gamma:
                slope = slope_of(gamma, *error_terms(sign * logits, error, *more))
            else:
                torch.mul(sign, logits, out=error)
                if gamma is None:  # else its slope, the error itself, hides what is lost here:
                    error.abs_().neg_()  # p (1 - p) keeps its digits where p is not near 1
                slope = error.sigmoid_()
            # The slope by the error, times the sign of z.
            if steady:
                torch.mul(target, jump[rows], out=out).add_(of_rest[rows])
            else:
                torch.lerp(of_rest[rows], -of_target[rows], target, out=out)
            torch.ops.aten.sigmoid_backward.grad_input(out, error, grad_input=out)
            if gamma is not None:
                out.addcmul_(slope.mul_(g[rows, 4]), sign)
        else:
            # The slopes of both errors, p of the rest and 1 - p of the target.
            p, q = torch.sigmoid(logits, out=error), torch.sigmoid(-logits, out=sign)
            of_zero, of_one = torch.mul(p, q, out=out) * of_rest[rows], out * of_target[rows]
            if gamma is not None:
                for z, e, of in ((logits, p, of_zero), (-logits, q, of_one)):
                    if gamma:
                        e = slope_of(gamma, *error_terms(z.clone(), *e.new_empty(3, *e.shape)))
                    of.addcmul_(e, g[rows, 4])
            torch.mul(of_zero, one - target, out=out).addcmul_(of_one, target, value=-1.0)
        if keep is not None:
            out.mul_(cleaned(keep, wide, None))
        if out is not into:
            into.copy_(out)
    return result


def _formula(
    terms: Callable[[Tensor, Tensor], list[Tensor]], x: Tensor, y: Tensor, where: Tensor | None
) -> Tensor:
    x, y = promote(x), y.to(wide_dtype(x))
    if where is not None:
        x, y = torch.where(where, x, 0.0), torch.where(where, y, 0.0)
    values = terms(x, y)
    if where is not None:
        values = [torch.where(where, value, 0.0) for value in values]
    return torch.stack([value.sum(1) for value in values], -1)


def _products(gamma: float | None, x: Tensor, y: Tensor) -> list[Tensor]:
    p, q = x.sigmoid(), (-x).sigmoid()
    terms = [p * y, p * (1 - y), q * y, q * (1 - y)]
    if gamma is not None:
        of_zero, of_one = softplus(x), softplus(-x)
        if gamma:
            of_zero, of_one = of_zero * power(p, gamma), of_one * power(q, gamma)
        terms.append((1 - y) * of_zero + y * of_one)
    return terms


# Sums of squares


def _squares(x: Tensor, y: Tensor) -> list[Tensor]:
    p = x.sigmoid()
    above = excess(p, (-x).sigmoid(), y)
    over = above.relu()
    return [p * y, over.square(), (over - above).square()]


def _squares_value(x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    return _square_sums(x, y, where, None)


def _squares_and_excess(x: Tensor, y: Tensor, where: Tensor | None) -> tuple[Tensor, Tensor]:
    above = torch.empty_like(x)
    return _square_sums(x, y, where, above), above


def _square_sums(x: Tensor, y: Tensor, where: Tensor | None, kept: Tensor | None) -> Tensor:
    sums = [[0.0] * 3 for _ in range(len(x))]
    for block, logits, target, counts, spare, above in _square_blocks(x, y, where, kept):
        hard = _excess(logits, target, counts, spare, above)
        fp = torch.clamp_min(above, 0.0, out=spare).square_().sum(-1).tolist()
        missed = torch.clamp_max(above, 0.0, out=spare).sum(-1).tolist()
        fn = spare.square_().sum(-1).tolist()
        whole = target.sum(-1).tolist()
        tp = [a + b for a, b in zip(whole, missed, strict=True)]
        if not hard or _lost(tp, whole):
            tp = _dot(torch.sigmoid(logits), target, spare)
        for total, *found in zip(sums[block[0]], tp, fp, fn, strict=True):
            total[:] = map(sum, zip(total, found, strict=True))
    return torch.tensor(sums, dtype=wide_dtype(x))


def _squares_gradient(x: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor:
    return _from_excess(None, x, y, where, g)


def _from_excess(
    kept: Tensor | None, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor
) -> Tensor:
    """The gradient, in the place of what was kept."""
    result = torch.empty_like(x) if kept is None else kept
    of_tp, of_fp, of_fn = g.to(wide_dtype(x)).unsqueeze(-1).unbind(1)
    of_fp, of_fn = 2.0 * of_fp, 2.0 * of_fn
    for block, logits, target, counts, slope, above in _square_blocks(x, y, where, kept):
        if kept is None:
            _excess(logits, target, counts, slope, above)
        rows, into = block[0], result[block]
        torch.clamp_min(above, 0.0, out=slope).mul_(of_fp[rows])
        slope.addcmul_(above.clamp_max_(0.0), of_fn[rows]).addcmul_(target, of_tp[rows])
        share = torch.abs(logits, out=above).neg_().sigmoid_()  # the smaller one of p and 1 - p
        out = into if into.dtype == slope.dtype else slope
        torch.ops.aten.sigmoid_backward.grad_input(slope, share, grad_input=out)
        if out is not into:
            into.copy_(out)
    return result


def _square_blocks(
    x: Tensor, y: Tensor, where: Tensor | None, kept: Tensor | None
) -> Iterator[tuple[Any, ...]]:
    """Blocks of the data and of memory, and the place of p - y."""
    wide, size = wide_dtype(x), block_size(x, 8)
    memory = x.new_empty(1 + (kept is None), size, dtype=wide)
    for block in in_blocks(x.shape[0], x.shape[1], size):
        keep = None if where is None else where[block]
        counts = None if keep is None else cleaned(keep, wide, None)
        logits, target = (cleaned(t[block], wide, keep) for t in (x, y))
        spare, *above = memory[:, : target.numel()].view(-1, *target.shape).unbind()
        yield block, logits, target, counts, spare, above[0] if kept is None else kept[block]


def _excess(
    logits: Tensor, target: Tensor, counts: Tensor | None, spare: Tensor, out: Tensor
) -> bool:
    """p - y to full relative accuracy, and whether all targets are 0 or 1."""
    hard = is_hard(target, target.new_ones(()), spare)
    near = target if hard else target.clamp(0.0, 1.0).round_()
    error = torch.sigmoid(error_logits(logits, near, spare), out=out)
    error.addcmul_(error, near, value=-2.0)  # near 0 it is p, near 1 it is p - 1
    if not hard:
        error.sub_(target - near)
    if counts is not None:
        error.mul_(counts)
    return hard


SQUARES = Kernel(_squares_value, _squares_gradient, partial(_formula, _squares))
SQUARES_KEPT = replace(SQUARES, keeping=(_squares_and_excess, _from_excess))

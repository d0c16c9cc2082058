"""The overlap of independent masks, with a focal loss or the cross-entropy.

TP, FP, FN, TN of every row of logits, (R, 4); with an exponent gamma its focal loss too, (R, 5),
which for 0 is the binary cross-entropy. Where all targets are 0 or 1, errors and their slopes
follow from one sigmoid per pixel, that of z = x or -x, the logit of the error. A soft target is a
mixture of both.
"""

import math
from collections.abc import Sequence
from functools import lru_cache, partial

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
from purelosses._numerics import power, promote, softplus

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
) -> dict[str, Tensor] | None:
    # Without a loss of every pixel the formula has few operations.
    few = not {"bce", "focal"} & set(extras)
    if not launch.applies(prediction, target, where, times=4 if few else 1):
        return None
    if not set(extras) <= {"tn", "bce", "focal"} or {"bce", "focal"} <= set(extras):
        return None
    if "focal" in extras and isinstance(gamma, Tensor):
        return None
    split = tail(dim, prediction.ndim)
    pixels = math.prod(prediction.shape[split:])
    if is_short(pixels):
        return None
    if where is not None and class_dim is not None:
        where = where.unsqueeze(class_dim)
    exponent = 0.0 if "bce" in extras else float(gamma) if "focal" in extras else None
    keeps = not exponent and prediction.dtype == wide_dtype(prediction) and pixels >= KEPT
    x, y, keep = (as_rows(t, prediction.shape, split) for t in (prediction, target, where))
    sums = launch.run(_kernel(exponent, keeps), x, y, keep)
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
        partial(_formula, exponent),
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
        (of_target / of_rest).tolist(),
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


def _formula(gamma: float | None, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    x, y = promote(x), y.to(wide_dtype(x))
    if where is not None:
        x, y = torch.where(where, x, 0.0), torch.where(where, y, 0.0)
    p, q = x.sigmoid(), (-x).sigmoid()
    terms = [p * y, p * (1 - y), q * y, q * (1 - y)]
    if gamma is not None:
        of_zero, of_one = softplus(x), softplus(-x)
        if gamma:
            of_zero, of_one = of_zero * power(p, gamma), of_one * power(q, gamma)
        terms.append((1 - y) * of_zero + y * of_one)
    if where is not None:
        terms = [torch.where(where, term, 0.0) for term in terms]
    return torch.stack([term.sum(1) for term in terms], -1)

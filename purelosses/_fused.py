"""The fused path: losses over large tensors in one pass, in the memory of the gradient.

The plain formulas of the library are the specification; here the same numbers come from kernels
that stream the data in blocks that stay in cache. What autograd would have saved is recomputed in
the backward pass, or lies where the gradient will. `applies` decides; whatever it refuses runs the
plain formula. A kernel sees plain tensors only, so in-place operations and the value of a tensor on
the CPU are safe inside one.

Everything that rests on private parts of torch is in this file, with the plain formula as fallback.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from purelosses._checks import check_labels
from purelosses._numerics import (
    at_label,
    log_partition,
    power,
    promote,
    replaced,
    softplus,
)

try:  # the private parts
    from torch._C import (
        _AutoDispatchBelowAutograd,
        _functorch,
        _get_dispatch_mode,
        _TorchDispatchModeKey,
    )
    from torch._ops import _get_dispatch_mode_pre_dispatch

    _MODES = _get_dispatch_mode, _get_dispatch_mode_pre_dispatch

    _is_wrapped, _unwrap = _functorch.is_functorch_wrapped_tensor, _functorch.get_unwrapped
    _LEVELS, _is_legacy = _functorch.get_interpreter_stack, _functorch.is_legacy_batchedtensor
    _unwrap_if_dead = _functorch.unwrap_if_dead
    _ALLOWED = (_functorch.TransformType.Grad, _functorch.TransformType.Vmap)
    _FAKE = _TorchDispatchModeKey.FAKE
    _TRACERS = (_TorchDispatchModeKey.PROXY, _TorchDispatchModeKey.FUNCTIONAL)
    forward_ad._current_level  # noqa: B018
    AVAILABLE = True
except (ImportError, AttributeError):  # pragma: no cover
    AVAILABLE = False

# Elements below which the plain formula is faster.
THRESHOLD = 1 << 17
# Elements below which a row is too short for blocks.
SHORTEST = 1 << 10
# Elements of a block: few enough to stay in cache, enough to amortise the calls.
BLOCK = 1 << 19
# Elements of a row from which on its errors are kept: the gradient takes them row by row.
KEPT = 1 << 15
# Numbers from 1/2 to 1 whose product is far from underflow.
FACTORS = 64
# Sums of exponentials below which those that the fast form of exp takes for 0 would show.
UNDERFLOW = 1e-37


# When


def applies(first: Tensor, *others: Tensor | None, times: int = 1) -> bool:
    """Whether the fused path may run on these tensors, of which the first is the largest."""
    least = times * THRESHOLD
    if not AVAILABLE or torch.compiler.is_compiling():
        return False
    if first.numel() < least and not _LEVELS():  # vmap hides how large it is
        return False
    if not _eager():
        return False
    for tensor in others:
        if tensor is not None and not _dense(_unwrapped(tensor)):
            return False
    first = _unwrapped(first)
    return _dense(first) and first.numel() >= least


def _eager() -> bool:
    """No tracing, and no forward mode: a Function's `jvp` is silently wrong when nested."""
    return (
        forward_ad._current_level < 0
        and not _get_dispatch_mode(_FAKE)
        and not any(mode(key) for mode in _MODES for key in _TRACERS)
        and all(level.key() in _ALLOWED for level in _LEVELS() or ())
    )


def _unwrapped(tensor: Tensor) -> Tensor:
    """The tensor below whatever grad and vmap wrap around it."""
    while _is_wrapped(tensor):
        tensor = _unwrap(tensor)
    return tensor


def _dense(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and not _is_legacy(tensor)
    )


# What: each of these returns None where only the plain formula does it


def overlap(
    function: str,
    prediction: Tensor,
    target: Tensor,
    where: Tensor | None,
    activation: str | None,
    class_dim: int | None,
    dim: tuple[int, ...],
    extras: Sequence[str],
    gamma: float | Tensor,
) -> dict[str, Tensor] | None:
    """TP, FP, FN and the extras of every region, from logits."""
    # Of masks alone the formula has few operations.
    few = activation == "sigmoid" and not {"bce", "focal"} & set(extras)
    if not applies(prediction, target, where, times=4 if few else 1):
        return None
    labels = target.ndim < prediction.ndim
    if activation == "sigmoid" and not labels and set(extras) <= {"tn", "bce", "focal"}:
        if {"bce", "focal"} <= set(extras) or ("focal" in extras and isinstance(gamma, Tensor)):
            return None
        split = _tail(dim, prediction.ndim)
        if math.prod(prediction.shape[split:]) < SHORTEST:
            return None
        if where is not None and class_dim is not None:
            where = where.unsqueeze(class_dim)
        exponent = 0.0 if "bce" in extras else float(gamma) if "focal" in extras else None
        keeps = not exponent and prediction.dtype == _wide(prediction)
        kernel = _mask_kernel(exponent, keeps and math.prod(prediction.shape[split:]) >= KEPT)
        x, y, keep = (_rows(t, prediction.shape, split) for t in (prediction, target, where))
        sums = run(kernel, x, y, keep)
        if split != 1:
            sums = sums.reshape(*prediction.shape[:split], -1)
        names = ["tp", "fp", "fn", "tn", "bce" if "bce" in extras else "focal"]
        left = [axis for axis in dim if axis < split]
    elif activation == "softmax" and labels and set(extras) <= {"ce"}:
        assert class_dim is not None
        last = class_dim == prediction.ndim - 1
        split = _tail(dim, class_dim) if last else class_dim
        if not last and not set(range(class_dim + 1, prediction.ndim)) <= set(dim):
            return None
        if math.prod(target.shape[split:]) < SHORTEST:
            return None
        kernel = _kernel(_class_value, _class_gradient, _class_formula, function, "ce" in extras)
        y, keep = (_rows(t, target.shape, split) for t in (target, where))
        sums = run(kernel, _classes(prediction, split, class_dim), y, keep)
        sums = sums.reshape(*prediction.shape[:split], *sums.shape[1:])
        names = ["tp", "fp", "fn", "ce"]
        left = [axis for axis in dim if axis < split] + [split] * (class_dim in dim)
    else:
        return None
    for axis in sorted(left, reverse=True):
        sums = sums.sum(axis)
    found = dict(zip(names, sums.unbind(-1), strict=False))
    return {name: found[name] for name in ("tp", "fp", "fn", *extras)}


def cross_entropy(
    function: str, logits: Tensor, labels: Tensor, where: Tensor | None, class_dim: int
) -> Tensor | None:
    """The cross-entropy of every sample, 0 where it does not count."""
    if not applies(logits, labels, where):
        return None
    split = 0 if class_dim == logits.ndim - 1 else class_dim
    if math.prod(labels.shape[split:]) < SHORTEST:
        return None
    kernel = _kernel(_ce_value, _ce_gradient, _ce_formula, function)
    y, keep = (_rows(t, labels.shape, split) for t in (labels, where))
    return run(kernel, _classes(logits, split, class_dim), y, keep).reshape(labels.shape)


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
    if not applies(logits, target, where) or (total and logits.numel() < SHORTEST):
        return None
    if gamma == 0 and not total:  # the formula is as fast
        return None
    options = float(gamma), None if alpha is None else (1.0 - alpha, float(alpha))
    x, y, keep = (_rows(t, logits.shape, 0) for t in (logits, target, where))
    if not total:
        plain = partial(_focal_formula, formula)
        kernel = Kernel(partial(_focal_value, *options), partial(_focal_gradient, *options), plain)
        return run(kernel, x, y, keep).reshape(logits.shape)
    plain = partial(_focal_sum_formula, formula)
    keeping: Any
    if options == (0.0, None):
        kernel = Kernel(_entropy_sum, _entropy_gradient, plain)
        keeping = _entropy_and_slopes, _entropy_from_slopes
    else:
        value, gradient = (
            partial(_focal_sum, *options, formula),
            partial(_focal_sum_gradient, *options),
        )
        kernel = Kernel(value, gradient, plain)
        keeping = (
            partial(_focal_and_errors, *options, formula),
            partial(_focal_from_errors, *options),
        )
    if logits.dtype == _wide(logits):
        kernel = replace(kernel, keeping=keeping)
    return run(kernel, x, y, keep).squeeze(0)


def _tail(dim: tuple[int, ...], end: int) -> int:
    """Where the axes before `end` begin that are all in `dim`."""
    while end and end - 1 in dim:
        end -= 1
    return end


def _rows(x: Tensor | None, shape: torch.Size, split: int) -> Tensor | None:
    """x, broadcast, with the axes before `split` and those after as two."""
    if x is None:
        return None
    x = x if x.shape == shape else x.expand(shape)
    return x.reshape(math.prod(shape[:split]), math.prod(shape[split:]))


def _classes(logits: Tensor, split: int, class_dim: int) -> Tensor:
    """Logits as (A, C, P), also where they lie with the classes last."""
    lead, classes = math.prod(logits.shape[:split]), logits.shape[class_dim]
    if class_dim == logits.ndim - 1:
        return logits.reshape(lead, -1, classes).mT
    return logits.reshape(lead, classes, -1)


# How: two Functions for all kernels


@dataclass(frozen=True)
class Kernel:
    """A function of (x, y, where), its gradient, and the formula both of them follow.

    The first axis of all tensors is the one that vmap adds to; x is differentiated, and y too if it
    is floating. `keeping` are a value that comes with a tensor as large as x, or None, and a
    gradient in the place of this tensor, or None.
    """

    value: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    gradient: Callable[[Tensor, Tensor, Tensor | None, Tensor], Tensor]
    formula: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    keeping: tuple[Callable[..., tuple[Tensor, Tensor | None]], Callable[..., Any]] | None = None


class _Kept:
    """What a forward pass leaves for the first backward pass over the same tensors."""

    def __init__(self) -> None:
        self.tensor: Tensor | None = None
        self.key: object = None

    def put(self, tensor: Tensor | None, *inputs: Tensor | None) -> None:
        self.tensor, self.key = tensor, self._identity(inputs)

    def take(self, *inputs: Tensor | None) -> tuple[bool, Tensor | None]:
        """Whether it is here, and it; a tensor is given away once."""
        if self.key != self._identity(inputs):
            return False, None
        tensor = self.tensor
        if tensor is not None:
            self.tensor = self.key = None
        return True, tensor

    @staticmethod
    def _identity(inputs: Sequence[Tensor | None]) -> object:
        """Equal only while memory, shape and contents are the same."""
        return [t if t is None else (t.data_ptr(), t._version, t.shape, t.stride()) for t in inputs]


class _Value(Function):
    @staticmethod
    def forward(
        kernel: Kernel, kept: _Kept | None, x: Tensor, y: Tensor, where: Tensor | None
    ) -> Tensor:
        with _AutoDispatchBelowAutograd(), _without_autocast(x):
            if kept is None:
                return kernel.value(x, y, where)
            assert kernel.keeping is not None
            value, tensor = kernel.keeping[0](x, y, where)
            kept.put(tensor, x, y, where)
            return value

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.kernel, ctx.kept, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _fold(_Value, info, in_dims, inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, y, where = _saved(ctx)
        *_, needs_x, needs_y, _ = ctx.needs_input_grad
        gx = _gradient(ctx.kernel, ctx.kept, x, y, where, g) if needs_x else None
        gy = _pull(lambda y: ctx.kernel.formula(x, y, where), g, y)[0] if needs_y else None
        return None, None, gx, gy, None


class _Gradient(Function):
    @staticmethod
    def forward(
        kernel: Kernel, kept: _Kept | None, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor
    ) -> Tensor:
        with _AutoDispatchBelowAutograd(), _without_autocast(x):
            if kept is not None:
                assert kernel.keeping is not None
                value, gradient = kernel.keeping
                here, tensor = kept.take(x, y, where)
                if not here:  # made again, so that a second gradient is the first to the bit
                    tensor = value(x, y, where)[1]
                result: Tensor | None = None if tensor is None else gradient(tensor, y, where, g)
                if result is not None:
                    return result
            return kernel.gradient(x, y, where, g)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.kernel, _, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *inputs: Any) -> Any:
        return _fold(_Gradient, info, in_dims, inputs)

    @staticmethod
    def backward(ctx: Any, gg: Tensor) -> Any:
        x, y, where, g = _saved(ctx)
        formula = ctx.kernel.formula
        if not ctx.needs_input_grad[3]:
            gx, gg = _pull(lambda x, g: _formula_gradient(formula, x, y, where, g), gg, x, g)
            return None, None, gx, None, None, gg
        gx, gy, gg = _pull(lambda x, y, g: _formula_gradient(formula, x, y, where, g), gg, x, y, g)
        return None, None, gx, gy, None, gg


def _kernel(
    value: Callable[..., Tensor],
    gradient: Callable[..., Tensor],
    formula: Callable[..., Tensor],
    *options: Any,
) -> Kernel:
    return Kernel(partial(value, *options), partial(gradient, *options), partial(formula, *options))


@lru_cache(maxsize=8)
def _mask_kernel(exponent: float | None, keeps: bool) -> Kernel:
    kernel = _kernel(_binary_value, _binary_gradient, _binary_formula, exponent)
    keeping = partial(_binary_and_errors, exponent), _binary_from_errors
    return replace(kernel, keeping=keeping) if keeps else kernel


def _saved(ctx: Any) -> list[Any]:
    """What was saved, without the levels of torch.func that have ended since."""
    return [None if t is None else _unwrap_if_dead(t) for t in ctx.saved_tensors]


def run(kernel: Kernel, x: Tensor | None, y: Tensor | None, where: Tensor | None) -> Tensor:
    assert x is not None
    recorded = torch.is_grad_enabled() and (x.requires_grad or _LEVELS())
    kept = _Kept() if kernel.keeping and recorded else None
    wrapped = _LEVELS() or any(t is not None and _is_wrapped(t) for t in (x, y, where))
    # For plain tensors past the `apply` that looks up the signature of `forward` in every call.
    apply: Callable[..., Tensor] = _Value.apply if wrapped else super(Function, _Value).apply
    return apply(kernel, kept, x, y, where)


def _gradient(
    kernel: Kernel, kept: _Kept | None, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor
) -> Tensor:
    """By the kernel, unless forward mode, tracing or `is_grads_batched` came between."""
    if _eager() and not _is_legacy(g):
        recorded = torch.is_grad_enabled() or _LEVELS()
        gradient: Callable[..., Tensor] = _Gradient.apply if recorded else _Gradient.forward
        return gradient(kernel, kept, x, y, where, g)
    return _formula_gradient(kernel.formula, x, y, where, g)


def _formula_gradient(
    formula: Callable[..., Tensor], x: Tensor, y: Tensor, where: Tensor | None, g: Tensor
) -> Tensor:
    result: Tensor = _pull(lambda x: formula(x, y, where), g, x)[0]
    return result


def _pull(function: Callable[..., Tensor], cotangent: Tensor, *inputs: Tensor) -> tuple[Any, ...]:
    """The gradients of a function with respect to its inputs; differentiable themselves."""
    result: tuple[Any, ...] = torch.func.vjp(function, *inputs)[1](cotangent)
    return result


def _fold(
    function: type[Function], info: Any, in_dims: tuple[Any, ...], inputs: Sequence[Any]
) -> tuple[Tensor, int]:
    """The mapped axis becomes part of the first one."""
    kernel, kept, *tensors = inputs

    def fold(x: Tensor | None, dim: int | None) -> Tensor | None:
        if x is None:
            return None
        x = x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
        return x.flatten(0, 1)

    folded = [fold(x, dim) for x, dim in zip(tensors, in_dims[2:], strict=True)]
    result: Tensor = function.apply(kernel, kept, *folded)  # type: ignore[no-untyped-call]
    return result.reshape(info.batch_size, -1, *result.shape[1:]), 0


def _without_autocast(x: Tensor) -> Any:
    """Products of vectors stay in the precision of the data."""
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


# Blocks


def _blocks(rows: int, columns: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Whole rows while they fit, else parts of one row."""
    height = min(rows, max(1, size // max(columns, 1)))
    width = min(columns, size)
    for row in range(0, rows, height or 1):
        for column in range(0, columns, width or 1):
            yield slice(row, row + height), slice(column, column + width)


def _size(x: Tensor, part: int) -> int:
    """The elements of a block: at most this part of the data, so that memory hardly grows."""
    return min(BLOCK, max(BLOCK >> 2, x.numel() // part))


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _cleaned(block: Tensor, dtype: torch.dtype, keep: Tensor | None) -> Tensor:
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


def _hard(target: Tensor, one: Tensor, memory: Tensor) -> bool:
    """Whether all targets of a block are 0 or 1: then all y (1 - y) are 0, and so is their sum.

    On the CPU the number is at hand, and `tolist` is no operation of its own.
    """
    rest = torch.sub(one, target, out=memory)
    return not torch.dot(rest.view(-1), target.reshape(-1)).tolist()


def _wrong(logits: Tensor, target: Tensor, out: Tensor) -> Tensor:
    """z = x for the target 0 and -x for 1, the logit of the error; infinite if 2x is."""
    return torch.addcmul(logits, target, logits, value=-2.0, out=out)


def _positive(z: Tensor, logits: Tensor, target: Tensor, one: Tensor) -> list[float]:
    """The sum over each row of max(z, 0), which takes the place of z."""
    sums: list[float] = z.clamp_min_(0.0).sum(-1).tolist()
    if math.inf in sums:
        torch.sub(one, target, alpha=2.0, out=z).mul_(logits)
        sums = z.clamp_min_(0.0).sum(-1).tolist()
    return sums


def _either(of_rest: float, of_target: float, target: Tensor, one: Tensor, out: Tensor) -> Tensor:
    """`of_rest` where the target is 0, `of_target` where it is 1."""
    if abs(of_rest) <= 4.0 * abs(of_target):
        return torch.add(one * of_rest, target, alpha=of_target - of_rest, out=out)
    # That sum would lose digits of the target's.
    return torch.sub(one, target, out=out).mul_(of_rest).add_(target, alpha=of_target)


def _log_of_rest(error: Tensor, wrong: list[float], one: Tensor, out: Tensor) -> list[float]:
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


# Independent masks: TP, FP, FN, TN of every row of logits, (R, 4); with an exponent gamma its focal
# loss too, (R, 5), which for 0 is the binary cross-entropy. Where all targets are 0 or 1, errors
# and their slopes follow from one sigmoid per pixel, that of z = x or -x, the logit of the error. A
# soft target is a mixture of both.


def _binary_value(gamma: float | None, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    return _binary_sums(gamma, x, y, where, None)[0]


def _binary_and_errors(
    gamma: float | None, x: Tensor, y: Tensor, where: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    errors = torch.empty_like(x)
    sums, hard = _binary_sums(gamma, x, y, where, errors)
    return sums, errors if hard else None


def _binary_sums(
    gamma: float | None, x: Tensor, y: Tensor, where: Tensor | None, errors: Tensor | None
) -> tuple[Tensor, bool]:
    """The sums, and whether all targets are 0 or 1.

    Then `errors` are those of all elements, negative where the target is 1, or, without a gamma,
    the smaller one of e and 1 - e.
    """
    wide, size = _wide(x), _size(x, 8)
    sums = [[0.0] * (4 if gamma is None else 5) for _ in range(len(x))]
    memory = x.new_empty((errors is None) + (2 if gamma else 1), size, dtype=wide)
    one, all_hard = x.new_ones((), dtype=wide), True
    for rows, columns in _blocks(x.shape[0], x.shape[1], size):
        keep = None if where is None else where[rows, columns]
        counts = None if keep is None else _cleaned(keep, wide, None)
        logits, target = (_cleaned(t[rows, columns], wide, keep) for t in (x, y))
        z, *more = memory[:, : target.numel()].view(-1, *target.shape).unbind()
        error = more.pop() if errors is None else errors[rows, columns]
        shared = errors is not None and gamma is None  # its place is that of the product
        signed = errors is not None and gamma == 0
        spare = more[0] if gamma else error if shared else z

        if y.dtype == torch.bool or _hard(target, one, z):
            whole = target.sum(-1).tolist()
            inside = [target.shape[-1]] * len(whole) if counts is None else counts.sum(-1).tolist()
            torch.sigmoid(_wrong(logits, target, z), out=error)
            if counts is not None:
                error.mul_(counts)
            wrong = error.sum(-1).tolist()
            # softplus(z) = max(z, 0) - log(1 - share), with share the smaller of e and 1 - e
            if gamma is not None:
                positive = _positive(z, logits, target, one)
            if gamma == 0:
                logs = _log_of_rest(error, wrong, one, spare)
                losses = [a + b for a, b in zip(positive, logs, strict=True)]
            if signed:
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
                right = torch.sigmoid(_wrong(logits, target, spare).neg_())
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


def _binary_from_errors(
    errors: Tensor, y: Tensor, where: Tensor | None, g: Tensor
) -> Tensor | None:
    """The gradient, in the place of what `_binary_sums` left."""
    return (_from_signed if g.shape[1] == 5 else _from_shares)(errors, y, where, g)


def _from_shares(errors: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor:
    size = _size(errors, 8)
    memory, one = errors.new_empty(size), errors.new_ones(())
    for i, (tp, fp, fn, tn) in enumerate(g.tolist()):
        for at in range(0, errors.shape[1], size):
            block = i, slice(at, at + size)
            keep = None if where is None else where[block]
            share, target = errors[block], _cleaned(y[block], errors.dtype, keep)
            slope = _either(fp - tn, tp - fn, target, one, out=memory[: len(share)])
            torch.ops.aten.sigmoid_backward.grad_input(slope, share, grad_input=share)
    return errors


def _from_signed(errors: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor | None:
    """With the cross-entropy, whose slope hides that e (1 - e) has few digits where e is near 1.

    The factor of e (1 - e) is one number for each sign.
    """
    of_rest, of_target = g[:, 1] - g[:, 3], g[:, 0] - g[:, 2]
    if ((g[:, 4] == 0) | (of_rest.abs() < 1e-6 * of_target.abs())).any().tolist():
        return None
    size = _size(errors, 8)
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


def _binary_gradient(
    gamma: float | None, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor
) -> Tensor:
    wide, size = _wide(x), _size(x, 16)
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
    for rows, columns in _blocks(x.shape[0], x.shape[1], size):
        keep = None if where is None else where[rows, columns]
        logits, target = (_cleaned(t[rows, columns], wide, keep) for t in (x, y))
        sign, error, *more = memory[:, : target.numel()].view(-1, *target.shape).unbind()
        into = result[rows, columns]
        out = into if into.dtype == wide else torch.empty_like(logits)
        hard = _hard(target, one, sign)
        torch.sub(one, target, alpha=2, out=sign)
        if hard:
            if gamma:
                slope = _slope(gamma, *_surprise(sign * logits, error, *more))
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
                        e = _slope(gamma, *_surprise(z.clone(), *e.new_empty(3, *e.shape)))
                    of.addcmul_(e, g[rows, 4])
            torch.mul(of_zero, one - target, out=out).addcmul_(of_one, target, value=-1.0)
        if keep is not None:
            out.mul_(_cleaned(keep, wide, None))
        if out is not into:
            into.copy_(out)
    return result


def _binary_formula(gamma: float | None, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    x, y = promote(x), y.to(_wide(x))
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


def _slope(gamma: float, error: Tensor, rest: Tensor, surprise: Tensor) -> Tensor:
    """The derivative of e^gamma softplus(z) by z, from what `_surprise` gives; overwrites that."""
    torch.addcmul(error, surprise, rest, value=gamma, out=surprise)
    return surprise.mul_(torch.pow(error, gamma, out=rest))


# Elements: the sigmoid focal loss of each, (R, P); under `where` False that of nothing.


def _focal_value(
    gamma: float, shares: tuple[float, float] | None, x: Tensor, y: Tensor, where: Tensor | None
) -> Tensor:
    result = x.new_empty(x.shape, dtype=_wide(x))
    for at, terms in _errors(x, y, where, shares):
        into = result[at]
        for i, (error, _, surprise, slope) in enumerate(terms):
            factor = error.pow_(gamma)
            if slope is not None:
                factor.mul_(slope.abs_())
            if i == 0:
                torch.mul(surprise, factor, out=into)
            else:
                into.addcmul_(surprise, factor)
    return result


def _focal_gradient(
    gamma: float,
    shares: tuple[float, float] | None,
    x: Tensor,
    y: Tensor,
    where: Tensor | None,
    g: Tensor,
) -> Tensor:
    result = torch.empty_like(x)
    for at, terms in _errors(x, y, where, shares or (1.0, 1.0)):
        slopes = []
        for error, rest, surprise, slope in terms:
            slopes.append(_slope(gamma, error, rest, surprise).mul_(slope))
        total = slopes[0] if len(slopes) == 1 else slopes[0].add_(slopes[1])
        torch.mul(total, g[at], out=result[at])
    return result


def _errors(
    x: Tensor, y: Tensor, where: Tensor | None, shares: tuple[float, float] | None
) -> Iterator[tuple[tuple[slice, slice], list[tuple[Any, ...]]]]:
    """Blocks of the error e = sigmoid(z), 1 - e, softplus(z) and dz/dx times a weight.

    One of each for hard targets, else two. Without shares, hard targets have no last one.
    """
    wide, size, (of_rest, of_target) = _wide(x), _size(x, 16), shares or (1.0, 1.0)
    memory = x.new_empty(4, size, dtype=wide)
    one = x.new_ones((), dtype=wide)
    for at in _blocks(x.shape[0], x.shape[1], size):
        keep = None if where is None else where[at]
        logits, target = (_cleaned(t[at], wide, keep) for t in (x, y))
        buffers = memory[:, : target.numel()].view(4, *target.shape)
        if _hard(target, one, buffers[0]):
            z = torch.sub(one, target, alpha=2, out=buffers[0]).mul_(logits)
            error, rest, surprise = _surprise(z, *buffers[1:])
            slope = None
            if shares is not None:
                slope = torch.sub(one, target, out=buffers[3])
                slope.mul_(of_rest).sub_(target, alpha=of_target)
            yield at, [(error, rest, surprise, slope)]
        else:
            of_zero = *_surprise(logits.clone(), *buffers[1:]), (one - target).mul_(of_rest)
            of_one = *_surprise(-logits, *torch.empty_like(buffers[1:])), target * -of_target
            yield at, [of_zero, of_one]


def _surprise(z: Tensor, error: Tensor, rest: Tensor, log: Tensor) -> tuple[Tensor, ...]:
    """sigmoid(z), 1 - sigmoid(z) and softplus(z), which takes the place of z.

    softplus(z) = max(z, 0) - log(1 - e) with e the smaller one of both, and e is at hand.
    """
    torch.sigmoid(z, out=error)
    torch.sub(z.new_ones(()), error, out=rest)
    torch.minimum(error, rest, out=log).neg_().log1p_()
    return error, rest, z.clamp_min_(0.0).sub_(log)


def _focal_formula(
    formula: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor, where: Tensor | None
) -> Tensor:
    x, y = promote(x), y.to(_wide(x))
    if where is not None:
        x, y = torch.where(where, x, 0.0), torch.where(where, y, 0.0)
    return formula(x, y)


# Their sum over each row, (R,).


def _focal_sum(
    gamma: float,
    shares: tuple[float, float] | None,
    formula: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    where: Tensor | None,
) -> Tensor:
    return _focal_sums(gamma, shares, formula, x, y, where, None)[0]


def _focal_and_errors(
    gamma: float,
    shares: tuple[float, float] | None,
    formula: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    where: Tensor | None,
) -> tuple[Tensor, Tensor | None]:
    errors = torch.empty_like(x)
    sums, hard = _focal_sums(gamma, shares, formula, x, y, where, errors)
    return sums, errors if hard else None


def _focal_sums(
    gamma: float,
    shares: tuple[float, float] | None,
    formula: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    where: Tensor | None,
    errors: Tensor | None,
) -> tuple[Tensor, bool]:
    """The sums, and whether all targets are 0 or 1: then `errors` are those of all elements."""
    wide, size = _wide(x), _size(x, 8)
    sums, one, all_hard = [0.0] * len(x), x.new_ones((), dtype=wide), True
    memory = x.new_empty(3 if errors is None else 2, size, dtype=wide)
    for rows, columns in _blocks(x.shape[0], x.shape[1], size):
        keep = None if where is None else where[rows, columns]
        logits, target = (_cleaned(t[rows, columns], wide, keep) for t in (x, y))
        z, spare, *more = memory[:, : target.numel()].view(-1, *target.shape).unbind()
        error = more.pop() if errors is None else errors[rows, columns]
        if y.dtype == torch.bool or _hard(target, one, z):
            torch.sigmoid(_wrong(logits, target, z), out=error)
            if keep is not None:
                error.mul_(_cleaned(keep, wide, None))
            _positive(z, logits, target, one)
            rest = torch.sub(one, error, out=spare)
            z.sub_(torch.minimum(error, rest, out=spare).neg_().log1p_())
            z.mul_(torch.pow(error, gamma, out=spare))
            if shares is not None:
                z.mul_(_either(*shares, target, one, out=spare))
            found = z.sum(-1).tolist()
        else:
            all_hard = False
            losses = formula(logits, target)
            found = (losses if keep is None else torch.where(keep, losses, 0.0)).sum(-1).tolist()
        sums[rows] = map(sum, zip(sums[rows], found, strict=True))
    return torch.tensor(sums, dtype=wide), all_hard


def _focal_sum_gradient(
    gamma: float,
    shares: tuple[float, float] | None,
    x: Tensor,
    y: Tensor,
    where: Tensor | None,
    g: Tensor,
) -> Tensor:
    g = g.unsqueeze(1)
    g = g.expand(x.shape) if where is None else g * where
    return _focal_gradient(gamma, shares, x, y, where, g)


def _focal_from_errors(
    gamma: float,
    shares: tuple[float, float] | None,
    errors: Tensor,
    y: Tensor,
    where: Tensor | None,
    g: Tensor,
) -> Tensor:
    """e^gamma (gamma (1 - e) softplus(z) + e), times the weight, in the place of the errors."""
    of_rest, of_target = shares or (1.0, 1.0)
    size, one = _size(errors, 8), errors.new_ones(())
    # The softplus of the largest error below 1: where that is too small, 1 - e is 0.
    largest = 1.0 - torch.finfo(errors.dtype).eps / 2
    memory = errors.new_empty(2 if gamma else 1, size)
    for rows, columns in _blocks(errors.shape[0], errors.shape[1], size):
        keep = None if where is None else where[rows, columns]
        error, target = errors[rows, columns], _cleaned(y[rows, columns], errors.dtype, keep)
        spare, *more = memory[:, : target.numel()].view(-1, *target.shape).unbind()
        if gamma:
            (slope,) = more
            torch.clamp_max(error, largest, out=slope).neg_().log1p_()
            torch.addcmul(error, slope, torch.sub(one, error, out=spare), value=-gamma, out=slope)
            torch.mul(torch.pow(error, gamma, out=spare), slope, out=error)
        error.mul_(_either(of_rest, -of_target, target, one, out=spare)).mul_(g[rows].unsqueeze(1))
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
    wide, size = _wide(x), _size(x, 8)
    sums, one = [0.0] * len(x), x.new_ones((), dtype=wide)
    memory = x.new_empty(2 if slopes is None else 1, size, dtype=wide)
    for rows, columns in _blocks(x.shape[0], x.shape[1], size):
        keep = None if where is None else where[rows, columns]
        counts = None if keep is None else _cleaned(keep, wide, None)
        logits, target = (_cleaned(t[rows, columns], wide, keep) for t in (x, y))
        z, *more = memory[:, : target.numel()].view(-1, *target.shape).unbind()
        slope = more.pop() if slopes is None else slopes[rows, columns]
        if y.dtype == torch.bool or _hard(target, one, z):
            error = torch.sigmoid(_wrong(logits, target, z), out=slope)
            if counts is not None:
                error.mul_(counts)
            positive = _positive(z, logits, target, one)
            logs = _log_of_rest(error, error.sum(-1).tolist(), one, z)
            slope.addcmul_(error, target, value=-2.0)  # the sign is 1 - 2y
        else:
            rest, above = one - target, logits.clamp_min(0.0)
            p, q = torch.sigmoid(logits, out=z), torch.neg(logits).sigmoid_()
            torch.mul(p, rest, out=slope).addcmul_(q, target, value=-1.0)
            share = torch.minimum(p, q, out=p)
            if counts is not None:
                slope.mul_(counts)
                share.mul_(counts)
            logs = _log_of_rest(share, share.sum(-1).tolist(), one, q)
            # (1 - y) max(x, 0) + y max(-x, 0)
            positive = rest.mul_(above).addcmul_(target, above.sub(logits)).sum(-1).tolist()
        sums[rows] = map(sum, zip(sums[rows], positive, logs, strict=True))
    return torch.tensor(sums, dtype=wide)


def _entropy_from_slopes(slopes: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor:
    return slopes.mul_(g.unsqueeze(1))


def _entropy_gradient(x: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor:
    result = torch.empty_like(x)
    for at in _blocks(x.shape[0], x.shape[1], _size(x, 16)):
        slopes = x[at].to(_wide(x), copy=True)
        _entropy_sums(x[at], y[at], None if where is None else where[at], slopes)
        result[at] = slopes.mul_(g[at[0]].unsqueeze(1))
    return result


# Exclusive classes: logits (A, C, P) and labels (A, P). TP, FP, FN and, if asked for, CE of every
# class, (A, C, 3) or (A, C, 4), the cross-entropy of a pixel counting for the class of its label;
# or the cross-entropy of every pixel, (A, P).


class _Pixels(NamedTuple):
    """The softmax of a block of pixels, split at the label, and not yet multiplied by `scale`.

    All sums are of positive terms, so that 1 - p of the label, `rest * scale`, keeps its digits.
    """

    labels: Tensor  # (n,)
    others: Tensor  # (C, n), 0 at the label
    label: Tensor  # (n,)
    rest: Tensor  # (n,), the sum of `others`
    scale: Tensor  # (n,), 0 where the pixel does not count
    below: Tensor | None  # (n,), the logit of the label less the largest, for values
    keep: Tensor | None  # (n,)

    def cross_entropy(self) -> Tensor:
        # Where the label has the largest logit, `below` is 0 and `rest` alone goes into log1p.
        assert self.below is not None
        losses = (self.label - 1.0).add_(self.rest).log1p_().sub_(self.below)
        return losses if self.keep is None else torch.where(self.keep, losses, 0.0)


def _pixels(
    x: Tensor, y: Tensor, where: Tensor | None, function: str | None
) -> Iterator[tuple[int, slice, _Pixels]]:
    """All blocks. With the name of a function labels are checked, and `below` is made."""
    wide, classes = _wide(x), x.shape[1]
    memory = x.new_empty(max(_size(x, 16), classes), dtype=wide)
    numbers = torch.arange(len(memory) // classes)
    for a in range(len(x)):
        for start in range(0, x.shape[2], len(numbers)):
            columns = slice(start, start + len(numbers))
            keep = None if where is None else where[a, columns]
            logits = _cleaned(x[a, :, columns], wide, keep)
            labels = y[a, columns].long()
            if keep is not None:
                labels = labels * keep
            if function is not None:
                lowest, highest = torch.stack(labels.aminmax()).tolist()
                if lowest < 0 or highest >= classes:
                    check_labels(function, labels, classes)  # raises
            pixels = len(labels)
            flat = memory[: classes * pixels]
            if logits.stride(0) == 1:  # the memory of the data has the classes last, and so here
                others = flat.view(pixels, classes).mT
                at = torch.add(labels, numbers[:pixels], alpha=classes)
            else:
                others = flat.view(classes, pixels)
                at = torch.add(numbers[:pixels], labels, alpha=pixels)
            torch.sub(logits, logits.amax(0), out=others)
            below = None if function is None else flat.index_select(0, at)
            label, rest = _exponentials(others, flat, at, exact=wide == torch.float64)
            if bool((rest.amin() < UNDERFLOW).tolist()):
                torch.sub(logits, logits.amax(0), out=others)
                label, rest = _exponentials(others, flat, at, exact=True)
            scale = (rest + label).reciprocal_()
            if keep is not None:
                scale.mul_(_cleaned(keep, wide, None))
            yield a, columns, _Pixels(labels, others, label, rest, scale, below, keep)


def _exponentials(others: Tensor, flat: Tensor, at: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """exp of the logits in place, that of the labels moved out; and the sum of what is left."""
    if exact:
        others.exp_()
    else:
        # e^b = 1 / (1 / s - 1) with s = sigmoid(b), faster than `exp`; b is at most 0, so that
        # 1 / s is at least 2 and nothing cancels. Below -88 it is 0.
        others.sigmoid_().reciprocal_().sub_(1.0).reciprocal_()
    label = flat.index_select(0, at)
    flat.scatter_(0, at, torch.zeros_like(label))
    return label, others.sum(0)


def _class_value(function: str, ce: bool, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    sums = x.new_zeros(len(x), 3 + ce, x.shape[1], dtype=torch.float64)
    for a, _, block in _pixels(x, y, where, function):
        by_label = {0: block.label * block.scale, 2: block.rest * block.scale}
        if ce:
            by_label[3] = block.cross_entropy()
        for row, values in by_label.items():
            sums[a, row].scatter_add_(0, block.labels, values.double())
        # Not by `mv`, which adds one after another and loses digits.
        sums[a, 1] += block.others.mul_(block.scale).sum(1)
    return sums.mT.to(_wide(x))


def _class_gradient(
    function: str, ce: bool, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor
) -> Tensor:
    result = torch.empty_like(x)
    g = g.mT.to(_wide(x)).contiguous()
    for a, columns, (labels, others, label, rest, scale, *_) in _pixels(x, y, where, None):
        p, q = label * scale, rest * scale
        # With G the derivative by each p, that by a logit is p (G - sum of p G).
        of_others = g[a, 1]
        of_label = (g[a, 0] - g[a, 2]).index_select(0, labels)
        mean_of_others = torch.mv(others.mT, of_others).mul_(scale)
        shift = mean_of_others.addcmul(p, of_label).neg_()
        at_label = of_label.mul_(q).sub_(mean_of_others).mul_(p)
        if ce:
            of_ce = g[a, 3].index_select(0, labels)
            shift.add_(of_ce)
            at_label.sub_(of_ce.mul_(q))
        into = result[a, :, columns]
        out = into if into.dtype == others.dtype else torch.empty_like(others)
        torch.addr(shift.mul_(scale), of_others, scale, out=out).mul_(others)
        _put(into, out, at_label, labels)
    return result


def _ce_value(function: str, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    result = x.new_empty(y.shape, dtype=_wide(x))
    for a, columns, block in _pixels(x, y, where, function):
        result[a, columns] = block.cross_entropy()
    return result


def _ce_gradient(function: str, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor:
    result = torch.empty_like(x)
    for a, columns, (labels, others, _, rest, scale, *_) in _pixels(x, y, where, None):
        factor = scale.mul_(g[a, columns])
        into = result[a, :, columns]
        out = into if into.dtype == others.dtype else others
        torch.mul(others, factor, out=out)
        _put(into, out, rest.mul_(factor).neg_(), labels)
    return result


def _put(into: Tensor, out: Tensor, at_label: Tensor, labels: Tensor) -> None:
    """Finish the gradient of a block: what is given for the labels, and the dtype of the data."""
    if out is not into:
        into.copy_(out)
    into.scatter_(0, labels.unsqueeze(0), at_label.to(into.dtype).unsqueeze(0))


def _masked_pixels(x: Tensor, y: Tensor, where: Tensor | None) -> tuple[Tensor, Tensor]:
    if where is None:
        return promote(x), y.long()
    return torch.where(where.unsqueeze(1), promote(x), 0.0), torch.where(where, y, 0).long()


def _class_formula(function: str, ce: bool, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    x, y = _masked_pixels(x, y, where)
    split, at = at_label(x, y, 1), y.unsqueeze(1)
    scale, *values = (split.scale, split.prob, split.miss, split.surprisal)[: 3 + ce]
    if where is not None:
        scale, *values = (torch.where(where.unsqueeze(1), v, 0.0) for v in (scale, *values))
    tp, *others = (replaced(torch.zeros_like(x), at, 1, value) for value in values)
    terms = tp, split.others * scale, *others
    return torch.stack([term.sum(2) for term in terms], -1)


def _ce_formula(function: str, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    x, y = _masked_pixels(x, y, where)
    below, excess = log_partition(x, 1)
    losses = (excess - below.gather(1, y.unsqueeze(1))).squeeze(1)
    return losses if where is None else torch.where(where, losses, 0.0)

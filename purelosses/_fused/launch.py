"""When a kernel may run in the place of a formula, and how torch differentiates it.

Everything that rests on private parts of torch is in this file, with the plain formula as fallback.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

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


# When


def applies(first: Tensor, *others: Tensor | None, times: float = 1) -> bool:
    """Whether the fused path may run on these tensors, of which the first is the largest."""
    least = times * THRESHOLD
    if not AVAILABLE or torch.compiler.is_compiling():
        return False
    if first.numel() < least and not _LEVELS():  # vmap hides how large it is
        return False
    if not _eager():
        return False
    for tensor in others:
        if tensor is not None and not _dense(unwrapped(tensor)):
            return False
    first = unwrapped(first)
    return _dense(first) and first.numel() >= least


def readable(tensor: Tensor) -> bool:
    """Whether a formula may look at the values of a tensor: of this one, not one for many."""
    return (
        AVAILABLE
        and not torch.compiler.is_compiling()
        and _eager()
        and all(level.key() != _functorch.TransformType.Vmap for level in _LEVELS() or ())
        and _dense(unwrapped(tensor))
    )


def _eager() -> bool:
    """No tracing, and no forward mode: a Function's `jvp` is silently wrong when nested."""
    return (
        forward_ad._current_level < 0
        and not _get_dispatch_mode(_FAKE)
        and not any(mode(key) for mode in _MODES for key in _TRACERS)
        and all(level.key() in _ALLOWED for level in _LEVELS() or ())
    )


def unwrapped(tensor: Tensor) -> Tensor:
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


# How: two Functions for all kernels


@dataclass(frozen=True)
class Kernel:
    """A function of (x, y, where), its gradient, and the formula both of them follow.

    The first axis of all tensors is the one that vmap adds to; x is differentiated, and y too if it
    is floating. `keeping` are a value that comes with a tensor as large as x, or None, and a
    gradient in the place of this tensor (the first argument, before the others), or None.
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
                result: Tensor | None = None if tensor is None else gradient(tensor, x, y, where, g)
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

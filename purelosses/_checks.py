"""Static checks of arguments: shapes, dtypes, options. No value of a tensor is read here.

Every message has one form: ``function: `argument` must …, got …``.
"""

import re
from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor

from purelosses._numerics import promote
from purelosses._types import Reduction

REDUCTIONS = get_args(Reduction)


def complain(function: str, argument: str, must: str, got: object) -> str:
    """The text of every error message in the library."""
    return f"{function}: `{argument}` must {must}, got {got}"


def check_choice(function: str, argument: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        names = ", ".join(map(repr, allowed))
        raise ValueError(complain(function, argument, f"be one of {names}", repr(value)))


def check_tensor(function: str, argument: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(complain(function, argument, "be a tensor", type(value).__name__))


def check_floating(function: str, argument: str, value: object) -> None:
    check_tensor(function, argument, value)
    if not value.is_floating_point():  # type: ignore[attr-defined]
        raise TypeError(complain(function, argument, "be a floating tensor", value.dtype))  # type: ignore[attr-defined]


def check_same_shape(function: str, argument: str, value: Tensor, other: str, like: Tensor) -> None:
    """`value` has the shape of `like` exactly (they never broadcast) and lies on its device."""
    check_shape(function, argument, value, like.shape, f"`{other}`", like)


def check_shape(
    function: str, argument: str, value: Tensor, shape: Sequence[int], of: str, like: Tensor
) -> None:
    check_real(function, argument, value)
    if value.shape != shape:
        must = f"have the shape of {of}, {tuple(shape)}"
        raise ValueError(complain(function, argument, must, tuple(value.shape)))
    check_device(function, argument, value, like)


def check_real(function: str, argument: str, value: Tensor) -> None:
    check_tensor(function, argument, value)
    if value.is_complex():
        raise TypeError(complain(function, argument, "be a real tensor", value.dtype))


def check_integer(function: str, argument: str, value: object) -> None:
    """`value` holds integers, such as labels; a boolean is a mask."""
    check_tensor(function, argument, value)
    dtype = value.dtype  # type: ignore[attr-defined]
    if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        raise TypeError(complain(function, argument, "hold integers", dtype))


def check_signs(function: str, argument: str, value: Tensor) -> None:
    """The type of `value` can hold -1 and 1."""
    if not value.dtype.is_signed:
        must = "hold -1 and 1 (of a mask: 2 * mask.float() - 1)"
        raise TypeError(complain(function, argument, must, value.dtype))


def check_device(function: str, argument: str, value: Tensor, like: Tensor) -> None:
    if value.device != like.device:
        must = f"be on the device of the prediction, {like.device}"
        raise ValueError(complain(function, argument, must, value.device))


def check_broadcast(
    function: str, argument: str, value: Tensor, shape: Sequence[int], units: str
) -> None:
    """`value` has as many axes as `shape`, and each is as long as there or 1."""
    check_tensor(function, argument, value)
    if value.ndim != len(shape) or any(
        n != 1 and n != m for n, m in zip(value.shape, shape, strict=True)
    ):
        must = f"have the shape of {units}, {tuple(shape)}, or 1 along an axis"
        raise ValueError(complain(function, argument, must, tuple(value.shape)))


def check_where(
    function: str, where: Tensor, shape: Sequence[int], units: str, like: Tensor
) -> None:
    check_broadcast(function, "where", where, shape, units)
    if where.dtype != torch.bool:
        raise TypeError(complain(function, "where", "be a bool tensor", where.dtype))
    check_device(function, "where", where, like)


def check_target(
    function: str, target: Tensor, like: Tensor, other: str, class_dim: int | None
) -> bool:
    """Whether the target holds class labels (integers, no class axis) rather than dense values.

    Decided by dtype, never by size: floats and booleans have the shape of the prediction.
    """
    check_real(function, "target", target)
    if class_dim is None or target.is_floating_point() or target.dtype == torch.bool:
        check_same_shape(function, "target", target, other, like)
        return False
    shape = like.shape[:class_dim] + like.shape[class_dim + 1 :]
    if target.shape != shape:
        must = f"hold labels with the shape of `{other}` without its class axis, {tuple(shape)}"
        got = f"{tuple(target.shape)}"
        if target.shape == like.shape:
            must += ", or be boolean or floating"
            got += f" of {target.dtype}"
        raise ValueError(complain(function, "target", must, got))
    check_device(function, "target", target, like)
    return True


def check_ranks(
    function: str, target: Tensor, shape: Sequence[int], units: str, like: Tensor
) -> None:
    """`target` holds labels of another number of classes than `like` has entries."""
    check_integer(function, "target", target)
    if target.shape != torch.Size(shape):
        must = f"hold labels with the shape of {units}, {tuple(shape)}"
        raise ValueError(complain(function, "target", must, tuple(target.shape)))
    check_device(function, "target", target, like)


def check_per_class(
    function: str, argument: str, value: Tensor, like: Tensor, class_dim: int
) -> None:
    check_real(function, argument, value)
    if value.shape != (like.shape[class_dim],):
        must = f"hold one number per class, shape ({like.shape[class_dim]},)"
        raise ValueError(complain(function, argument, must, tuple(value.shape)))
    check_device(function, argument, value, like)


def check_weights(
    function: str, weights: Tensor, shape: Sequence[int], units: str, like: Tensor
) -> None:
    check_real(function, "weights", weights)
    check_broadcast(function, "weights", weights, shape, units)
    check_device(function, "weights", weights, like)


def check_reduction(function: str, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        check_choice(function, "reduction", reduction, REDUCTIONS)


def check_number(
    function: str,
    argument: str,
    value: float | Tensor,
    *,
    above: float | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    below: float | None = None,
) -> float | Tensor:
    """A Python number within its bounds, or a 0-dimensional tensor (whose value is not read).

    Returned as it is, but for half precision, which becomes float32.
    """
    if isinstance(value, Tensor):
        check_real(function, argument, value)
        if value.ndim:
            must = "be a number or a 0-dimensional tensor"
            raise ValueError(complain(function, argument, must, f"shape {tuple(value.shape)}"))
        return promote(value)
    if isinstance(value, bool) or not isinstance(
        value, int | float | torch.SymFloat | torch.SymInt
    ):
        raise TypeError(complain(function, argument, "be a number or a tensor", repr(value)))
    # Written so that NaN fails every comparison and is refused.
    if above is not None and not value > above:
        raise ValueError(complain(function, argument, f"be greater than {above}", value))
    if minimum is not None and not value >= minimum:
        raise ValueError(complain(function, argument, f"be at least {minimum}", value))
    if maximum is not None and not value <= maximum:
        raise ValueError(complain(function, argument, f"be at most {maximum}", value))
    if below is not None and not value < below:
        raise ValueError(complain(function, argument, f"be less than {below}", value))
    return value


def check_flag(function: str, argument: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(complain(function, argument, "be True or False", repr(value)))


def check_int(function: str, argument: str, value: object, minimum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(complain(function, argument, "be an int", repr(value)))
    if value < minimum:
        raise ValueError(complain(function, argument, f"be at least {minimum}", value))


def check_axis(function: str, argument: str, axis: object, ndim: int, of: str) -> int:
    """The axis counted from the front."""
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise TypeError(complain(function, argument, "be an int", repr(axis)))
    if not -ndim <= axis < ndim:
        must = f"be an axis of `{of}`, which has {ndim}"
        raise ValueError(complain(function, argument, must, axis))
    return axis % ndim


def check_labels(
    function: str, labels: Tensor, num_classes: int, argument: str = "target"
) -> tuple[Tensor, Tensor]:
    """Labels that are safe to index with, and which of them are valid.

    Where one is not, the loss must be NaN; plain eager code on the CPU raises instead. Nothing is
    read for that: `gather` itself refuses a bad index there, while on a GPU it would take the whole
    process down.
    """
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        try:
            labels.new_empty(num_classes).gather(0, labels.reshape(-1))
        except RuntimeError as error:
            found = re.search(r"index (-?\d+) is out of bounds", str(error))
            if found is None:
                raise
            must = f"hold class labels from 0 to {num_classes - 1} (mask others with `where`)"
            raise ValueError(complain(function, argument, must, found[1])) from None
    valid = (labels >= 0) & (labels < num_classes)
    return torch.where(valid, labels, 0), valid


def elements(
    function: str,
    where: Tensor | None,
    weights: Tensor | None,
    reduction: str,
    *,
    axes: Sequence[int] = (),
    lacking: Sequence[int] = (),
    fill: float = 0.0,
    **data: Tensor,
) -> list[Tensor]:
    """Data of one shape, checked, in the dtype of the first, and `fill` where `where` is False.

    All are floating but the target, which may hold integers or booleans. `axes` are those that one
    unit spans, and `lacking` those of them that the target does not have.
    """
    name, like = next(iter(data.items()))
    check_floating(function, name, like)
    for argument, value in data.items():
        missing = lacking if argument == "target" else ()
        if argument != "target":
            check_floating(function, argument, value)
        shape = without(like.shape, missing)
        check_shape(function, argument, value, shape, _lacking(name, missing), like)
    check_reduction(function, reduction)
    units, of = without(like.shape, axes), _lacking(name, axes)
    if weights is not None:
        check_weights(function, weights, units, of, like)
    dtype = promote(like).dtype
    found = {argument: value.to(dtype) for argument, value in data.items()}
    if where is not None:
        check_where(function, where, units, of, like)
        whole = with_axes(where, axes)
        for argument, value in found.items():
            mask = whole.squeeze(tuple(lacking)) if argument == "target" and lacking else whole
            found[argument] = torch.where(mask, value, fill)
    return list(found.values())


def _lacking(name: str, axes: Sequence[int]) -> str:
    listed = ", ".join(map(str, sorted(axes)))
    return f"`{name}` without axis {listed}" if axes else f"`{name}`"


def check_axes(
    function: str, argument: str, axes: object, ndim: int, of: str, span: str
) -> tuple[int, ...]:
    """One axis or several, counted from the front; `span` says what lies along them."""
    given = axes if isinstance(axes, tuple) else (axes,)
    found = tuple(check_axis(function, argument, axis, ndim, of) for axis in given)
    if not found or len(set(found)) < len(found):
        must = f"name each axis of {span} once"
        raise ValueError(complain(function, argument, must, axes))
    return found


def without(shape: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """A shape without these axes, which are counted from the front."""
    return tuple(n for axis, n in enumerate(shape) if axis not in axes)


def with_axes(value: Tensor, axes: Sequence[int]) -> Tensor:
    """A tensor that lacks these axes, with axes of 1 there."""
    for axis in sorted(axes):
        value = value.unsqueeze(axis)
    return value

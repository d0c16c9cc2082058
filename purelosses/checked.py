"""Checks of values, opt-in, that work inside every transform and in compiled code.

The check is an operator of its own with an ordered effect, so a compiler neither drops nor moves
it, and with a rule for `vmap`. This rests on an experimental part of torch, used in this file
alone; where it is missing the check still runs, but a compiler may drop it.
"""

import inspect
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import optree
import torch
from torch import Tensor

from purelosses._checks import complain
from purelosses._types import PyTree
from purelosses.balance._tasks import spread
from purelosses.transform import combined, name_of, per_sample, per_sample_grad

# The bounds of each domain, and whether minus infinity is allowed besides.
_BOUNDS: dict[str, tuple[float, float, bool]] = {
    "real": (-torch.inf, torch.inf, False),
    "positive": (0.0, torch.inf, False),
    "counts": (0.0, torch.inf, False),
    "log_scale": (-torch.inf, torch.inf, False),
    "weights": (0.0, torch.inf, False),
    "logits": (-torch.inf, torch.inf, False),
    "class_logits": (-torch.inf, torch.inf, True),
    "unit": (0.0, 1.0, False),
    "boxes": (-torch.inf, torch.inf, False),
    "sign": (-1.0, 1.0, False),
}

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@cache
def _define_operator() -> None:
    """Define `torch.ops.purelosses.check`: on first use, because it loads the compiler."""

    @torch.library.custom_op("purelosses::check", mutates_args=())
    def check(
        values: Tensor, low: float, high: float, infinite: bool, function: str, argument: str
    ) -> None:
        good = torch.isfinite(values) & (values >= low) & (values <= high)
        if infinite:
            good = good | torch.isneginf(values)
        if not bool(good.all()):
            bounds = "finite" if high == torch.inf else f"between {low:g} and {high:g}"
            must = f"be {bounds}{' and at least 0' if low == 0 and high == torch.inf else ''}"
            worst = values[~good].flatten()[0].item()
            raise ValueError(complain(function, argument, must, worst))

    @check.register_fake
    def _(
        values: Tensor, low: float, high: float, infinite: bool, function: str, argument: str
    ) -> None:
        return None

    @check.register_vmap
    def _(info: Any, in_dims: Any, *args: Any) -> tuple[None, None]:
        torch.ops.purelosses.check(*args)
        return None, None

    with suppress(ImportError, AttributeError):
        from torch._library.effects import EffectType

        check.register_effect(EffectType.ORDERED)


@dataclass(frozen=True, repr=False)
class checked:
    """The same loss, with its values checked: for finding bad data, at the price of synchronising.

    Predictions and targets must be finite and in their domain (probabilities in [0, 1], labels
    among the classes), weights at least 0. What `where` or `mask` exclude is not looked at. A loss
    that this library does not know is checked for finite tensors. The checks fire in eager code and
    under `grad`, `vmap`, `jvp` and `torch.compile`.

    Args:
        loss: A loss, or a `functools.partial` of one.

    Returns:
        A loss with the same arguments and results.

    Raises:
        TypeError: If it is made of a module or of `combined`, `per_sample`, `per_sample_grad`:
            check the losses inside, as in `per_sample(checked(loss))`.
        ValueError: When it is called with a value outside its domain.

    Examples:
        >>> loss = checked(dice_loss)
        >>> loss(torch.tensor([0.5, 255.0]), torch.tensor([1, 0]))
        Traceback (most recent call last):
        ValueError: dice_loss: `prediction` must be between 0 and 1, got 255.0
    """

    loss: Callable[..., Any]
    _names: tuple[str, ...] = field(init=False, compare=False)
    _data: tuple[str, ...] = field(init=False, compare=False)
    _spec: Any = field(init=False, compare=False)

    def __post_init__(self) -> None:
        # Large, and most programs never need them.
        from purelosses._adapter import Adapter
        from purelosses.registry import LOSSES

        if isinstance(self.loss, Adapter | combined | per_sample | per_sample_grad):
            must = "be a function; check what a wrapper is made of, as in per_sample(checked(loss))"
            raise TypeError(complain("checked", "loss", must, repr(self.loss)))
        function = self._function
        spec = LOSSES.get(name_of(function))
        spec = spec if spec and spec.loss is function else None
        signature = inspect.signature(function).parameters.values()
        positional = [p.name for p in signature if p.default is p.empty and p.kind in _POSITIONAL]
        data = [name for name in positional if spec is None or name != spec.parameters]
        object.__setattr__(self, "_names", tuple(parameter.name for parameter in signature))
        object.__setattr__(self, "_data", tuple(data))
        object.__setattr__(self, "_spec", spec)
        _define_operator()

    def __reduce__(self) -> tuple[Any, ...]:
        return checked, (self.loss,)

    def __repr__(self) -> str:
        return f"checked({name_of(self.loss)})"

    @property
    def _function(self) -> Callable[..., Any]:
        return self.loss.func if isinstance(self.loss, partial) else self.loss

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        result = self.loss(*args, **kwargs)  # first, so that shapes are known to fit
        arguments = kwargs
        if isinstance(self.loss, partial):
            args, arguments = (*self.loss.args, *args), {**self.loss.keywords, **kwargs}
        arguments = {**dict(zip(self._names, args, strict=False)), **arguments}
        function = name_of(self._function)
        if self._spec is None:
            domains = dict.fromkeys(arguments, "real")
        else:
            domains = {**self._spec.domains(arguments), "weights": "weights"}
        for argument, domain in domains.items():
            tree: PyTree = arguments.get(argument)
            leaves: list[Any] = optree.tree_leaves(tree)
            masks: list[Any] = [None] * len(leaves)
            if argument == "losses" and self._spec is not None and "mask" in arguments:
                masks = spread(function, "mask", arguments["mask"], tree)
            for values, mask in zip(leaves, masks, strict=True):
                if isinstance(values, Tensor):
                    values = values if mask is None else torch.where(mask, values, 0)
                    values = self._counted(argument, values, arguments)
                    low, high, infinite = self._bounds(domain, arguments)
                    torch.ops.purelosses.check(
                        values.detach(), low, high, infinite, function, argument
                    )
        return result

    def _class_axis(self, arguments: Mapping[str, Any]) -> int:
        """The axis that `where` lacks: that of the classes, of the bins or of the coordinates."""
        default = 1 if "class_dim" in self._names else -1
        axis: int = arguments.get("class_dim", default)
        return axis

    def _bounds(self, domain: str | int, arguments: Mapping[str, Any]) -> tuple[float, float, bool]:
        if isinstance(domain, str) and domain in _BOUNDS:
            return _BOUNDS[domain]
        classes = domain
        if isinstance(domain, str):
            classes = arguments[self._data[0]].shape[self._class_axis(arguments)]
        return 0.0, float(classes) - 1, False

    def _counted(self, argument: str, values: Tensor, arguments: Mapping[str, Any]) -> Tensor:
        """The values with 0, which every domain has, where `where` is False."""
        where = arguments.get("where")
        regions = self._spec is not None and self._spec.unit.startswith("region")
        if where is None or argument not in (*self._data, *(["weights"] * (not regions))):
            return values
        if where.ndim and not values.ndim:
            return values  # one number, that of all samples
        whole = self._spread(where, values, arguments[self._data[0]], arguments)
        return torch.where(whole, values, 0)

    def _spread(
        self, where: Tensor, values: Tensor, prediction: Tensor, arguments: Mapping[str, Any]
    ) -> Tensor:
        """`where` with the axes that the values have besides."""
        if where.ndim == values.ndim:
            return where
        parameters = inspect.signature(self._function).parameters
        names = ("class_dim",) if "class_dim" in parameters else ("dim", "ensemble_dim")
        options = {k: arguments.get(k, parameters[k].default) for k in names if k in parameters}
        # Without any such option it is the last axis: corners of a box, bins of an edge.
        options = options or {"last": -1}
        axes = {k: axis if isinstance(axis, tuple) else (axis,) for k, axis in options.items()}
        for axis in sorted(axis % prediction.ndim for spanned in axes.values() for axis in spanned):
            where = where.unsqueeze(axis)
        # The target of an ensemble of vectors has no members.
        return where if where.ndim == values.ndim else where.squeeze(axes["ensemble_dim"])

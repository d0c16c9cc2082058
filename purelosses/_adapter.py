"""What the generated modules of `purelosses.nn` share, and the two written by hand.

Adapters hold options and parameters; they compute nothing.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import optree
import torch
from torch import Tensor, nn

from purelosses._types import PyTree
from purelosses.regression import l1_loss, mse_loss
from purelosses.transform import combined, name_of


class Adapter(nn.Module):
    """A module that keeps its options as attributes, tensors among them as buffers.

    The buffers move with `.to()` but stay out of `state_dict`: options belong to the code that
    builds the module, not to the checkpoint.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self._options = tuple(options)
        for name, value in options.items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value, persistent=False)
            else:
                setattr(self, name, value)

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={_code(getattr(self, name))}" for name in self._options)
        return f"{type(self).__name__}({options})"


def _code(value: object) -> str:
    """The code that makes a value."""
    if isinstance(value, Tensor):
        device = "" if value.device.type == "cpu" else f", device={str(value.device)!r}"
        return f"torch.tensor({_code(value.tolist())}, dtype={value.dtype}{device})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {_code(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_code, value)) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return name_of(value) if callable(value) else repr(value)


def structure_of(tree: PyTree) -> PyTree:
    """A tree without its tensors, for modules that need only its structure."""
    if any(isinstance(leaf, Tensor) for leaf in optree.tree_leaves(tree)):
        return optree.tree_map(lambda _: 0, tree)
    return tree


def as_parameters(tree: PyTree) -> nn.Parameter | nn.Module:
    """A tree of tensors as named parameters: dicts by key, lists by index."""
    if isinstance(tree, Mapping):
        return nn.ParameterDict({key: as_parameters(value) for key, value in tree.items()})
    if isinstance(tree, list | tuple):
        return nn.ParameterList([as_parameters(value) for value in tree])
    return nn.Parameter(tree)


def as_tree(parameters: nn.Parameter | nn.Module) -> PyTree:
    """The tree that `as_parameters` was made from (tuples come back as lists)."""
    if isinstance(parameters, Buffers):
        return parameters.tree()
    if isinstance(parameters, nn.ParameterDict):
        return {key: as_tree(parameters[key]) for key in parameters}
    if isinstance(parameters, nn.ParameterList):
        return [as_tree(value) for value in parameters]
    return parameters


class Buffers(nn.Module):
    """A tree of tensors as named buffers: dicts by key, lists by index (tuples become lists).

    Every leaf is there from the start, so a checkpoint loads into a module that has just been made.
    """

    def __init__(self, tree: PyTree) -> None:
        super().__init__()
        self._named = isinstance(tree, Mapping)
        self._keys = list(tree) if self._named else list(range(len(tree)))
        for key in self._keys:
            # Not by `register_buffer`, which refuses tasks with names such as "type".
            if isinstance(tree[key], Tensor):
                self._buffers[str(key)] = tree[key]
            else:
                self._modules[str(key)] = Buffers(tree[key])

    def tree(self) -> PyTree:
        leaves = {key: self._buffers.get(str(key)) for key in self._keys}
        for key in self._keys:
            if leaves[key] is None:
                leaves[key] = self._modules[str(key)].tree()  # type: ignore[union-attr, operator]
        return leaves if self._named else list(leaves.values())

    def write(self, tree: PyTree) -> None:
        for key in self._keys:
            old = self._buffers.get(str(key))
            if old is None:
                self._modules[str(key)].write(tree[key])  # type: ignore[union-attr, operator]
            else:
                with torch.no_grad():
                    old.copy_(tree[key])


class StatefulAdapter(Adapter):
    """A module that keeps a state in buffers. Calling it changes nothing; `update` does."""

    state: Buffers

    def _move(self, result: tuple[PyTree, PyTree]) -> PyTree:
        weights, state = result
        self.state.write(state)
        return weights


class Balancing(StatefulAdapter):
    """Your own pair of functions, or a combinator of one, as a module with its state in buffers.

    Args:
        balancer: A [`Balancer`][purelosses.Balancer], [`ema`][purelosses.ema],
            [`every`][purelosses.every] or [`clip`][purelosses.clip].
        tasks: What its `init` is called with.
        **options: Passed to every update by keyword; tensors become buffers that move with `.to()`.

    Examples:
        >>> balance = Balancing(ema(Balancer(dwa_init, dwa_update), decay=0.9), ["mask", "depth"])
        >>> balance.update({"mask": torch.tensor(1.0), "depth": torch.tensor(4.0)})
        {'mask': tensor(1.), 'depth': tensor(1.)}
        >>> balance.state_dict()["state.inner.previous.depth"]
        tensor(4.)
    """

    balancer: Any

    def __init__(self, balancer: Any, tasks: PyTree, **options: Any) -> None:
        super().__init__(balancer=balancer, tasks=structure_of(tasks), **options)
        self.state = Buffers(balancer.init(tasks))

    def forward(self, *observed: Any, **kwargs: Any) -> tuple[PyTree, PyTree]:
        """`(weights, state)`, as the function returns them."""
        options = {name: getattr(self, name) for name in self._options[2:]}
        result: tuple[PyTree, PyTree] = self.balancer.update(
            self.state.tree(), *observed, **options, **kwargs
        )
        return result

    def update(self, *observed: Any, **kwargs: Any) -> PyTree:
        """The weights; the new state is kept."""
        return self._move(self(*observed, **kwargs))

    if TYPE_CHECKING:
        __call__ = forward


class Criterion(Adapter):
    """Your own loss function as a module: `Criterion(loss, **options)(*data)`.

    Args:
        loss: Any function of tensors.
        **options: Passed to every call by keyword; tensors become buffers that move with `.to()`.

    Examples:
        >>> def scaled_error(prediction, target, scale):
        ...     return ((prediction - target).abs() * scale).mean()
        >>> criterion = Criterion(scaled_error, scale=2.0)
        >>> criterion
        Criterion(loss=scaled_error, scale=2.0)
        >>> criterion(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.5]))
        tensor(1.)
    """

    loss: Callable[..., Any]

    def __init__(self, loss: Callable[..., Any], **options: Any) -> None:
        super().__init__(loss=loss, **options)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        options = {name: getattr(self, name) for name in self._options[1:]}
        return self.loss(*args, **options, **kwargs)


class CombinedLoss(Adapter):
    """Module of [`combined`][purelosses.combined]: a weighted sum of losses of the same data.

    Args:
        losses: `{name: loss}`, functions or modules. By default the textbook's pair,
            `{"mse": mse_loss, "l1": l1_loss}`.
        weights: `{name: weight}` with the same names. By default every weight is 1.

    Examples:
        >>> criterion = CombinedLoss(weights={"mse": 0.7, "l1": 0.3})
        >>> criterion
        CombinedLoss(losses={'mse': mse_loss, 'l1': l1_loss}, weights={'mse': 0.7, 'l1': 0.3})
        >>> total, terms = criterion(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.5]))
        >>> total
        tensor(0.3250)
    """

    losses: dict[str, Callable[..., Tensor]]
    weights: dict[str, float] | None

    def __init__(
        self,
        losses: Mapping[str, Callable[..., Tensor]] | None = None,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        losses = {"mse": mse_loss, "l1": l1_loss} if losses is None else dict(losses)
        super().__init__(losses=losses, weights=None if weights is None else dict(weights))
        combined(self.losses, self.weights)  # complains now rather than at the first call
        # A dict hides modules from `.to()` and `state_dict()`; registering them shows them.
        for name, loss in losses.items():
            if isinstance(loss, nn.Module):
                self.add_module(name, loss)

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return combined(self.losses, self.weights)(*args, **kwargs)

    if TYPE_CHECKING:
        __call__ = forward

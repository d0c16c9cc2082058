"""What the generated modules of `purelosses.nn` share, and the two written by hand.

Adapters hold options and parameters; they compute nothing.
"""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import optree
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


class State(nn.Module):
    """A flat dict of tensors as buffers, for state that no gradient trains."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for key, value in tensors.items():
            self.register_buffer(key, value)

    def replace(self, tensors: Mapping[str, Tensor]) -> None:
        for key, value in tensors.items():
            setattr(self, key, value)


def as_tree(parameters: nn.Parameter | nn.Module) -> PyTree:
    """The tree that `as_parameters` was made from (tuples come back as lists)."""
    if isinstance(parameters, State):
        return dict(parameters.named_buffers())
    if isinstance(parameters, nn.ParameterDict):
        return {key: as_tree(parameters[key]) for key in parameters}
    if isinstance(parameters, nn.ParameterList):
        return [as_tree(value) for value in parameters]
    return parameters


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

r"""Functions of losses: they take a loss and return a loss.

Each is a small frozen value rather than a closure, so it compares, pickles and prints as what it
is. Bind options, and parameters that all samples share, with `functools.partial`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import optree
import torch
from torch import Tensor

from purelosses._checks import complain
from purelosses._types import PyTree


def name_of(loss: Callable[..., Any]) -> str:
    """How a loss is written in code."""
    if isinstance(loss, partial):
        bound = [repr(argument) for argument in loss.args]
        bound += [f"{key}={value!r}" for key, value in loss.keywords.items()]
        return f"partial({', '.join([name_of(loss.func), *bound])})"
    return getattr(loss, "__name__", None) or repr(loss)


@dataclass(frozen=True, repr=False)
class combined:
    r"""Weighted sum of several losses of the same data, with its terms for logging.

    $$\ell = \sum_k \alpha_k \ell_k$$

    with $\ell_k$ one of `losses` and $\alpha_k$ its entry in `weights`.

    Args:
        losses: `{name: loss}`; each is called with everything the combination is called with.
        weights: `{name: weight}` with the same names, numbers or 0-dimensional tensors. By default
            every weight is 1.

    Returns:
        A loss that returns the total, and `{name: term}`: the terms before weighting, detached.

    Raises:
        ValueError: If there are no losses, or the names of `weights` are not those of `losses`.

    Examples:
        >>> loss = combined({"mse": mse_loss, "l1": l1_loss}, {"mse": 0.7, "l1": 0.3})
        >>> total, terms = loss(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 2.5]))
        >>> total
        tensor(0.3250)
        >>> terms
        {'mse': tensor(0.2500), 'l1': tensor(0.5000)}
    """

    losses: Mapping[str, Callable[..., Tensor]]
    weights: Mapping[str, float | Tensor] | None = None

    def __post_init__(self) -> None:
        if not self.losses:
            raise ValueError(complain("combined", "losses", "name at least one loss", self.losses))
        if self.weights is not None and self.weights.keys() != self.losses.keys():
            must = f"have the names of `losses`, {sorted(self.losses)}"
            raise ValueError(complain("combined", "weights", must, sorted(self.weights)))

    def __call__(self, *args: Any, **kwargs: Any) -> tuple[Tensor, dict[str, Tensor]]:
        terms = {name: loss(*args, **kwargs) for name, loss in self.losses.items()}
        weights = self.weights or dict.fromkeys(terms, 1.0)
        total = torch.stack([weights[name] * term for name, term in terms.items()]).sum(0)
        return total, {name: term.detach() for name, term in terms.items()}

    def __repr__(self) -> str:
        losses = ", ".join(f"{name!r}: {name_of(loss)}" for name, loss in self.losses.items())
        return f"combined({{{losses}}}, {self.weights!r})"


@dataclass(frozen=True, repr=False)
class per_sample:
    """The loss of every sample of a batch, each computed as a batch of one.

    Every tensor of the call, keywords such as `where` and `weights` included, is taken apart along
    its first axis. What all samples share (options, parameters) is bound with `functools.partial`.

    Args:
        loss: Any loss; it may return a tree of tensors.

    Returns:
        A loss that returns what `loss` returns, with a first axis for the samples.

    Raises:
        ValueError: If a tensor of the call has no axis, or the tensors disagree on the number of
            samples.

    Examples:
        >>> loss = per_sample(partial(cross_entropy_loss, label_smoothing=0.1))
        >>> loss(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
        tensor([0.2269, 0.3633])
    """

    loss: Callable[..., PyTree]

    def __call__(self, *args: Any, **kwargs: Any) -> PyTree:
        return _over_samples("per_sample", self.loss, None, args, kwargs)

    def __repr__(self) -> str:
        return f"per_sample({name_of(self.loss)})"


@dataclass(frozen=True, repr=False)
class per_sample_grad:
    """The gradient of every sample's loss with respect to the first argument.

    The first argument (a tensor or a tree of parameters) is shared; every tensor of the others is
    taken apart along its first axis, and each sample is computed as a batch of one.

    Args:
        loss: A function `loss(params, *data)` that returns a scalar.
        chunk_size: How many samples to compute at once; None for all. Smaller values need less
            memory.

    Returns:
        A function of the same arguments. It returns the structure of `params` with a first axis for
        the samples; its mean over that axis is the gradient of the mean loss.

    Raises:
        ValueError: If a tensor of the data has no axis, or the tensors disagree on the number of
            samples.

    Examples:
        >>> def objective(params, x, y):
        ...     return mse_loss(x @ params["w"], y)
        >>> x, y = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([0.0, 1.0])
        >>> per_sample_grad(objective)({"w": torch.tensor([1.0, 0.0])}, x, y)
        {'w': tensor([[ 2.,  4.],
                [12., 16.]])}
    """

    loss: Callable[..., Tensor]
    chunk_size: int | None = None

    def __call__(self, params: PyTree, *data: Any, **kwargs: Any) -> PyTree:
        gradient = partial(torch.func.grad(self.loss), params)
        return _over_samples("per_sample_grad", gradient, self.chunk_size, data, kwargs)

    def __repr__(self) -> str:
        return f"per_sample_grad({name_of(self.loss)}, chunk_size={self.chunk_size})"


def _over_samples(
    function: str,
    call: Callable[..., PyTree],
    chunk_size: int | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> PyTree:
    """`torch.vmap` does not map keyword arguments; this maps every tensor, wherever it stands."""
    # A tuple: the compiler does not follow optree into a dict that was made on the way.
    data: PyTree = (*args, *kwargs.values())
    leaves, structure = optree.tree_flatten(data)
    mapped = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    lengths = {leaves[index].shape[:1] for index in mapped}
    if len(lengths) != 1 or lengths == {torch.Size()}:
        must = "be tensors with one first axis for the samples (bind others with functools.partial)"
        shapes = [tuple(leaves[index].shape) for index in mapped]
        raise ValueError(complain(function, "*args, **kwargs", must, f"shapes {shapes}"))

    def one_sample(*tensors: Tensor) -> PyTree:
        sample = list(leaves)
        for index, tensor in zip(mapped, tensors, strict=True):
            sample[index] = tensor.unsqueeze(0)
        one = optree.tree_unflatten(structure, sample)
        return call(*one[: len(args)], **dict(zip(kwargs, one[len(args) :], strict=True)))

    return torch.vmap(one_sample, chunk_size=chunk_size)(*(leaves[index] for index in mapped))

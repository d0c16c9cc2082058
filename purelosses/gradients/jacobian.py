"""Gradients of several losses: each of them, their inner products, and weighted sums of them.

Only flat lists of tensors pass through torch.func: optree sorts the keys of a dict, torch's own
trees do not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, get_args

import optree
import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge
from torch.overrides import TorchFunctionMode

from purelosses._checks import check_choice, complain
from purelosses._numerics import promote
from purelosses._types import PyTree

Method = Literal["jacobian", "jvp", "layers"]
HeadWeights = Literal["unit", "same"]

# Of every leaf of the parameters, its gradients by each task: stacked, or one by one.
Rows = Sequence[Tensor | Sequence[Tensor]]


def value_and_jacobian(
    f: Callable[..., Any],
    params: PyTree,
    *args: Any,
    mode: Literal["rows", "vmap"] | int = "rows",
    has_aux: bool = False,
) -> tuple[PyTree, ...]:
    """The losses of several tasks, and the gradient of each.

    Inside `torch.no_grad()` it needs less time and memory; the results then have no gradient of
    their own.

    Args:
        f: A function `f(params, *args)` that returns a tree of losses, 0-dimensional.
        params: A tree of tensors.
        *args: Passed on to `f`.
        mode: How the gradients are computed: one after the other (`"rows"`), all at once under vmap
            (`"vmap"`), which is faster for small networks, or so many at a time.
        has_aux: Whether `f` returns `(losses, aux)`, with tensors in `aux`.

    Returns:
        The losses, and a tree of tasks with a gradient (a tree with the structure of `params`) for
        each; this is the structure of `torch.func.jacrev`. Then `aux`, if there is one.

    Raises:
        ValueError: If there are no losses, one is not 0-dimensional, or `mode` is unknown.
        TypeError: If a loss is not a floating tensor.

    Examples:
        >>> def losses(params, x):
        ...     y = params["w"] * x
        ...     return {"near": mse_loss(y, x), "small": l1_loss(y, torch.zeros_like(x))}
        >>> values, jacobian = value_and_jacobian(
        ...     losses, {"w": torch.tensor(2.0)}, torch.tensor([1.0, 3.0])
        ... )
        >>> values
        {'near': tensor(5.), 'small': tensor(4.)}
        >>> jacobian
        {'near': {'w': tensor(10.)}, 'small': {'w': tensor(2.)}}
    """
    tape = _Tape("value_and_jacobian", f, params, args, has_aux)
    jacobian = tape.tree(tape.rows(mode))
    return (tape.losses, jacobian, tape.aux) if has_aux else (tape.losses, jacobian)


def value_and_gramian(
    f: Callable[..., Any],
    params: PyTree,
    *args: Any,
    method: Method = "jacobian",
    mode: Literal["rows", "vmap"] | int = "rows",
    has_aux: bool = False,
) -> tuple[Any, ...]:
    r"""The losses of several tasks, the inner products of their gradients, and weighted gradients.

    | method | time, for $m$ tasks | memory |
    |---|---|---|
    | `"jacobian"` | $m$ backward passes | $m$ gradients |
    | `"jvp"` | $m$ backward and $m$ forward-mode passes | one gradient |
    | `"layers"` | less than $m$ backward passes | $m$ times the activations |

    `"layers"` computes no gradient of a linear layer's weight: inner products follow from the
    inputs of the layer and the gradients of its outputs.
    [`feature_gramian`][purelosses.feature_gramian] costs about as much as one backward pass,
    whatever the number of tasks. Inside `torch.no_grad()` all of them need less time and memory.

    Args:
        f: A function `f(params, *args)` that returns a tree of losses, 0-dimensional.
        params: A tree of tensors.
        *args: Passed on to `f`.
        method: One of the table. The results are the same. `"layers"` finds the calls of
            `torch.nn.functional.linear` with a weight in `params` and works on torch's tape: not
            inside another transform, nor compiled. All other parameters are treated as by
            `"jacobian"` with `mode="vmap"`.
        mode: For `"jacobian"`, how gradients are computed, as for
            [`value_and_jacobian`][purelosses.value_and_jacobian].
        has_aux: Whether `f` returns `(losses, aux)`, with tensors in `aux`.

    Returns:
        The losses; the Gramian, a tree of tasks, with the inner products of a task's gradient with
        all gradients in each, in the order of `optree.tree_leaves(losses)`; and a function from a
        tree of weights to the weighted sum of the gradients, with the structure of `params`. Then
        `aux`, if there is one.

    Raises:
        ValueError: If there are no losses, one is not 0-dimensional, or `method` or `mode` is
            unknown.
        TypeError: If a loss is not a floating tensor.

    Examples:
        >>> def losses(params, x):
        ...     y = x @ params["w"]
        ...     return {"one": mse_loss(y, torch.ones(2)), "zero": mse_loss(y, torch.zeros(2))}
        >>> params = {"w": torch.tensor([0.5, 0.5])}
        >>> values, gramian, pullback = value_and_gramian(losses, params, torch.eye(2))
        >>> gramian
        {'one': tensor([ 0.5000, -0.5000]), 'zero': tensor([-0.5000,  0.5000])}
        >>> pullback({"one": torch.tensor(2.0), "zero": torch.tensor(1.0)})
        {'w': tensor([-0.5000, -0.5000])}
    """
    function = "value_and_gramian"
    check_choice(function, "method", method, get_args(Method))
    if method == "layers":
        return _by_layers(function, f, params, args, has_aux)
    tape = _Tape(function, f, params, args, has_aux)
    if method == "jvp":
        columns = [
            torch.func.jvp(tape.stacked, tape.leaves, tape.pull(row))[1] for row in tape.units()
        ]
        matrix = torch.stack(columns, dim=-1)
        combined = tape.pull
    else:
        rows = tape.rows(mode)
        matrix = _inner_products(rows, tape.dtype)

        def combined(weights: Tensor) -> tuple[Tensor, ...]:
            return tuple(_weighted_sum(weights, row) for row in rows)

    def pullback(weights: PyTree) -> PyTree:
        vector = _as_vector("pullback", weights, tape.losses).to(tape.dtype)
        return optree.tree_unflatten(tape.structure, combined(vector))

    gramian = optree.tree_unflatten(tape.tasks, matrix.unbind())
    return (tape.losses, gramian, pullback, *([tape.aux] if has_aux else []))


def feature_gramian(
    trunk: Callable[..., Any],
    heads: PyTree,
    shared: PyTree,
    own: PyTree,
    *args: Any,
    head_weights: HeadWeights = "unit",
    has_aux: bool = False,
) -> tuple[Any, ...]:
    """The Gramian of gradients with respect to shared features: all tasks for one backward pass.

    The gradients of two tasks that agree on the features agree on every layer below, so weights
    from this Gramian serve as well as those from the parameters' in most cases; they are not the
    same. Look at `conflict_report` of [`value_and_gramian`][purelosses.value_and_gramian] now and
    then.

    Over several ranks, each with its part of the batch, it adds up: sum or average the rows
    (`optree.tree_map(all_reduce_mean, gramian)`) before making weights of them.

    Args:
        trunk: A function `trunk(shared, *args)` that returns the features, a tensor or a tree.
        heads: A tree of tasks with a function `head(own, features, *args)` for each, which returns
            the loss, 0-dimensional.
        shared: The parameters of the trunk, a tree of tensors.
        own: The parameters of the heads, a tree of them for each task; `{}` for none.
        *args: Passed on to trunk and heads.
        head_weights: Whether the parameters of a head get the gradient of its loss as it is
            (`"unit"`), or weighted as in the trunk (`"same"`).
        has_aux: Whether `trunk` returns `(features, aux)`, with tensors in `aux`.

    Returns:
        The losses; the Gramian, a tree of tasks, with the inner products of a task's gradient with
        all gradients in each, in the order of `optree.tree_leaves(losses)`; and a function from a
        tree of weights to the gradients of `shared` and of `own`. Then `aux`, if there is one.

    Raises:
        ValueError: If there are no heads, a loss is not 0-dimensional, `own` has not the structure
            of `heads`, or `head_weights` is unknown.
        TypeError: If a loss is not a floating tensor.

    Examples:
        >>> def trunk(shared, x):
        ...     return torch.tanh(x @ shared["w"])
        >>> def head(own, features, x):
        ...     return (own["scale"] * features).square().mean()
        >>> scale = {"scale": torch.tensor(2.0)}
        >>> losses, gramian, pullback = feature_gramian(
        ...     trunk, {"a": head, "b": head}, {"w": torch.eye(2)}, {"a": scale, "b": scale},
        ...     torch.tensor([[0.5, -0.5]]),
        ... )
        >>> gramian
        {'a': tensor([6.8337, 6.8337]), 'b': tensor([6.8337, 6.8337])}
        >>> weights, aux = upgrad(gramian)
        >>> for_trunk, for_heads = pullback(weights)
    """
    function = "feature_gramian"
    check_choice(function, "head_weights", head_weights, get_args(HeadWeights))
    calls, tasks = optree.tree_flatten(heads)
    if not calls:
        raise ValueError(complain(function, "heads", "hold at least one head", repr(heads)))
    try:
        owned = tasks.flatten_up_to(own)
    except ValueError:
        must = f"have the structure of `heads`, {_outline(tasks)}"
        got = _outline(optree.tree_structure(own))
        raise ValueError(complain(function, "own", must, got)) from None
    below, structure = optree.tree_flatten(shared)

    def flat_trunk(*leaves: Tensor) -> tuple[tuple[Tensor, ...], tuple[PyTree, PyTree]]:
        out = trunk(optree.tree_unflatten(structure, leaves), *args)
        features, aux = out if has_aux else (out, ())
        return tuple(optree.tree_leaves(features)), (features, aux)

    traced: Any = torch.func.vjp(flat_trunk, *below, has_aux=True)
    _, pull, (features, aux) = traced
    surface, shape = optree.tree_flatten(features)
    opened = [optree.tree_flatten(parameters) for parameters in owned]

    def all_heads(*leaves: Tensor) -> tuple[Tensor, list[Tensor]]:
        remaining, losses = iter(leaves), []
        for head, (its, spec) in zip(calls, opened, strict=True):
            parameters = optree.tree_unflatten(spec, list(islice(remaining, len(its))))
            copy = optree.tree_unflatten(shape, list(islice(remaining, len(surface))))
            losses.append(head(parameters, copy, *args))
        return _stack_losses(function, "heads", losses).sum(), losses

    # Each head has the features to itself, so one backward pass of the sum tells the tasks apart.
    leaves = [leaf for its, _ in opened for leaf in (*its, *surface)]
    places = tuple(range(len(leaves)))
    gradients, losses = torch.func.grad(all_heads, argnums=places, has_aux=True)(*leaves)
    remaining = iter(gradients)
    upper, lower = [], []
    for its, _ in opened:
        upper.append(list(islice(remaining, len(its))))
        lower.append(list(islice(remaining, len(surface))))
    rows = tuple(zip(*lower, strict=True))
    matrix = _inner_products(rows, torch.stack([promote(loss) for loss in losses]).dtype)
    values = optree.tree_unflatten(tasks, losses)

    def pullback(weights: PyTree) -> tuple[PyTree, PyTree]:
        vector = _as_vector("pullback", weights, values)
        below = pull(tuple(_weighted_sum(vector, row) for row in rows))
        above = [
            optree.tree_unflatten(spec, [part * weight.to(part.dtype) for part in parts])
            for parts, (_, spec), weight in zip(upper, opened, factors(vector), strict=True)
        ]
        return optree.tree_unflatten(structure, below), optree.tree_unflatten(tasks, above)

    def factors(vector: Tensor) -> tuple[Tensor, ...]:
        return (torch.ones_like(vector) if head_weights == "unit" else vector).unbind()

    gramian = optree.tree_unflatten(tasks, matrix.unbind())
    return (values, gramian, pullback, *([aux] if has_aux else []))


def gramian(jacobian: PyTree, tasks: PyTree) -> PyTree:
    """The inner products of task gradients.

    Args:
        jacobian: A tree of tasks with a gradient, itself a tree, for each.
        tasks: The losses, or any other tree of tasks: says where in `jacobian` a gradient begins.

    Returns:
        A tree of tasks, with the inner products of a task's gradient with all gradients in each, in
        the order of `optree.tree_leaves(tasks)`.

    Raises:
        ValueError: If `jacobian` has not the structure of `tasks`, or two gradients differ in
            structure.

    Examples:
        >>> jacobian = {"mask": {"w": torch.tensor([1.0, 2.0])}, "edge": {"w": torch.ones(2)}}
        >>> gramian(jacobian, {"mask": 0, "edge": 0})
        {'mask': tensor([3., 5.]), 'edge': tensor([2., 3.])}
    """
    gradients, structure = _take_apart("gramian", jacobian, tasks, "tasks")
    rows = tuple(zip(*gradients, strict=True))
    dtype = torch.promote_types(gradients[0][0].dtype, torch.float32)
    return optree.tree_unflatten(structure, _inner_products(rows, dtype).unbind())


def combine(jacobian: PyTree, weights: PyTree) -> PyTree:
    """The weighted sum of task gradients.

    Args:
        jacobian: A tree of tasks with a gradient, itself a tree, for each.
        weights: A tree of tasks with a number for each.

    Returns:
        A gradient, with the structure of each of those in `jacobian`.

    Raises:
        ValueError: If `jacobian` has not the structure of `weights`, or two gradients differ in
            structure.

    Examples:
        >>> jacobian = {"mask": {"w": torch.tensor([1.0, 2.0])}, "edge": {"w": torch.ones(2)}}
        >>> combine(jacobian, {"edge": torch.tensor(10.0), "mask": torch.tensor(1.0)})
        {'w': tensor([11., 12.])}
    """
    gradients, _ = _take_apart("combine", jacobian, weights, "weights")
    vector = torch.stack([torch.as_tensor(weight) for weight in optree.tree_leaves(weights)])
    total = [_weighted_sum(vector, row) for row in zip(*gradients, strict=True)]
    first = optree.tree_structure(weights).flatten_up_to(jacobian)[0]
    return optree.tree_unflatten(optree.tree_structure(first), total)


# Losses and their pullback ----------------------------------------------------------------------


class _Tape:
    """The losses of a call with all that its gradients need; trees are taken apart by optree."""

    def __init__(
        self, function: str, f: Callable[..., Any], params: PyTree, args: Any, has_aux: bool
    ) -> None:
        self.function = function
        leaves, self.structure = optree.tree_flatten(params)
        self.leaves = tuple(leaves)

        def stacked(*leaves: Tensor) -> tuple[Tensor, tuple[PyTree, PyTree]]:
            out = f(optree.tree_unflatten(self.structure, leaves), *args)
            losses, aux = out if has_aux else (out, ())
            return _stack_losses(function, "f", losses), (losses, aux)

        self.stacked = lambda *leaves: stacked(*leaves)[0]
        traced: Any = torch.func.vjp(stacked, *self.leaves, has_aux=True)
        values, self.pull, (self.losses, self.aux) = traced
        self.tasks = optree.tree_structure(self.losses)
        self.dtype, self.device, self.number = values.dtype, values.device, len(values)

    def units(self) -> tuple[Tensor, ...]:
        return torch.eye(self.number, dtype=self.dtype, device=self.device).unbind()

    def rows(self, mode: str | int) -> Rows:
        if mode == "rows":
            return tuple(zip(*(self.pull(unit) for unit in self.units()), strict=True))
        whole = isinstance(mode, int) and not isinstance(mode, bool)
        if mode != "vmap" and not (whole and int(mode) > 0):
            must = "be 'rows', 'vmap' or a number of gradients at a time"
            raise ValueError(complain(self.function, "mode", must, repr(mode)))
        chunk = int(mode) if whole else None
        rows: Rows = torch.vmap(self.pull, chunk_size=chunk)(torch.stack(self.units()))
        return rows

    def tree(self, rows: Rows) -> PyTree:
        gradients = [
            optree.tree_unflatten(self.structure, [leaf[task] for leaf in rows])
            for task in range(self.number)
        ]
        return optree.tree_unflatten(self.tasks, gradients)


def _stack_losses(function: str, argument: str, losses: PyTree) -> Tensor:
    leaves = optree.tree_leaves(losses)
    if not leaves:
        must = "return at least one loss"
        raise ValueError(complain(function, argument, must, repr(losses)))
    for leaf in leaves:
        _check_loss(function, argument, leaf)
    return torch.stack([promote(leaf) for leaf in leaves])


def _check_loss(function: str, argument: str, loss: object) -> None:
    must = "return 0-dimensional floating tensors"
    if not isinstance(loss, Tensor) or not loss.is_floating_point():
        got = loss.dtype if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(complain(function, argument, must, got))
    if loss.ndim:
        raise ValueError(complain(function, argument, must, f"shape {tuple(loss.shape)}"))


def _inner_products(rows: Rows, dtype: torch.dtype) -> Tensor:
    """The Gramian, leaf by leaf; their sum in float64, as one leaf may outweigh another."""
    total: Tensor | float = 0.0
    for row in rows:
        stacked = row if isinstance(row, Tensor) else torch.stack(tuple(row))
        matrix = promote(stacked).reshape(len(row), -1)
        total = total + (matrix @ matrix.T).to(torch.float64)
    return torch.as_tensor(total).to(dtype)


def _weighted_sum(weights: Tensor, row: Tensor | Sequence[Tensor]) -> Tensor:
    if isinstance(row, Tensor):
        total: Tensor = torch.tensordot(weights.to(row.dtype), row, 1)
        return total
    scaled = [
        part * weight.to(part.dtype) for part, weight in zip(row, weights.unbind(), strict=True)
    ]
    total = scaled[0]
    for part in scaled[1:]:
        total = total + part
    return total


def _as_vector(function: str, weights: PyTree, tasks: PyTree) -> Tensor:
    """One number per task, from a tree of tasks or a vector in the order of its leaves."""
    structure = optree.tree_structure(tasks)
    if isinstance(weights, Tensor) and weights.shape == (structure.num_leaves,):
        return weights
    if optree.tree_structure(weights) != structure:
        must = f"have the structure of the losses, {_outline(structure)}"
        got = _outline(optree.tree_structure(weights))
        raise ValueError(complain(function, "weights", must, got))
    return torch.stack([torch.as_tensor(weight) for weight in optree.tree_leaves(weights)])


def _take_apart(
    function: str, jacobian: PyTree, tasks: PyTree, argument: str
) -> tuple[list[list[Tensor]], Any]:
    """The leaves of each gradient, and the structure of the tasks."""
    structure = optree.tree_structure(tasks)
    try:
        gradients = structure.flatten_up_to(jacobian)
    except ValueError:
        must = f"have the structure of `{argument}`, {_outline(structure)}"
        got = _outline(optree.tree_structure(jacobian))
        raise ValueError(complain(function, "jacobian", must, got)) from None
    leaves = [optree.tree_leaves(gradient) for gradient in gradients]
    if not leaves or not leaves[0] or len({optree.tree_structure(g) for g in gradients}) > 1:
        got = _outline(optree.tree_structure(jacobian))
        must = "have gradients of one structure"
        raise ValueError(complain(function, "jacobian", must, got))
    return leaves, structure


def _outline(structure: Any) -> str:
    """A structure, with a star at each leaf."""
    return str(structure).removeprefix("PyTreeSpec(").removesuffix(")")


# Layers -----------------------------------------------------------------------------------------


class _Taps(TorchFunctionMode):
    """Notes input and output of every linear layer whose weight is among the parameters.

    The weight is detached there: no backward pass computes its gradient, which is the product of
    the output's gradient and the input. The output is noted as an edge of the tape, as a later
    operation in place makes it another tensor.
    """

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        super().__init__()
        self.places = {id(leaf): place for place, leaf in enumerate(leaves)}
        self.found: list[tuple[int, int | None, Tensor, Any]] = []  # weight, bias, input, output

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not torch.nn.functional.linear or not torch.is_grad_enabled():
            return func(*args, **(kwargs or {}))
        x, weight, bias = _arguments_of_linear(*args, **(kwargs or {}))
        place, place_of_bias = self.places.get(id(weight)), None
        if place is None or weight.ndim != 2:
            return func(x, weight, bias)
        if bias is not None and bias.shape == weight.shape[:1]:
            place_of_bias = self.places.get(id(bias))
            bias = bias if place_of_bias is None else bias.detach()
        source = x if x.requires_grad else x.detach().requires_grad_()
        y = func(source, weight.detach(), bias)
        self.found.append((place, place_of_bias, x.detach(), get_gradient_edge(y)))
        return y


def _arguments_of_linear(
    input: Tensor, weight: Tensor, bias: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    return input, weight, bias


@dataclass
class _Parameter:
    """A parameter's gradients by each task; those from linear layers stay products."""

    inputs: list[Tensor] = field(default_factory=list)  # (uses, inputs); ones for a bias
    errors: list[Tensor] = field(default_factory=list)  # (tasks, uses, outputs)
    rest: Tensor | None = None  # (tasks, *shape)

    def inner_products(self, others: "Sequence[_Parameter]") -> Tensor | float:
        """Summed over this and others of the same errors: a weight for their inputs together."""
        rest = self.rest
        if self.inputs:
            inputs = [promote(_joined(parameter.inputs, 0)) for parameter in (self, *others)]
            error = promote(_joined(self.errors, 1))
            wide, (tasks, uses, high) = sum(x.shape[1] for x in inputs), error.shape
            if rest is None and uses * (wide + tasks * high) < tasks * wide * high:
                # ⟨Σ e xᵀ, Σ e' xᵀ⟩ = Σ (e · e') (x · x), over pairs of uses.
                mixed = torch.stack([x @ x.T for x in inputs]).sum(0) @ error
                return (mixed.flatten(1) @ error.flatten(1).T).to(torch.float64)
            products = error.mT @ _joined(inputs, 1)
            rest = products if rest is None else products.reshape(rest.shape) + rest
        return 0.0 if rest is None else _inner_products([rest], torch.float64)

    def weighted(self, weights: Tensor, like: Tensor) -> Tensor:
        total = torch.zeros_like(like) if self.rest is None else _weighted_sum(weights, self.rest)
        for x, error in zip(self.inputs, self.errors, strict=True):
            product = _weighted_sum(weights, promote(error)).T @ promote(x)
            total = total + product.reshape(like.shape)
        return total.to(like.dtype)


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    """Without a copy for a layer that is used once, as most are."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _by_layers(
    function: str, f: Callable[..., Any], params: PyTree, args: Any, has_aux: bool
) -> tuple[Any, ...]:
    """`value_and_gramian` without the gradients of linear layers' weights."""
    leaves, structure = optree.tree_flatten(params)
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    with torch.enable_grad(), _Taps(leaves) as taps:
        out = f(optree.tree_unflatten(structure, leaves), *args)
        losses, aux = out if has_aux else (out, ())
        values = _stack_losses(function, "f", losses)
    wanted = [*(y for *_, y in taps.found), *leaves]
    used: list[int] = []

    def pull(unit: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(values, wanted, unit, retain_graph=True, allow_unused=True)
        used[:] = [place for place, gradient in enumerate(found) if gradient is not None]
        return [gradient for gradient in found if gradient is not None]

    tasks = len(values)
    units = torch.eye(tasks, dtype=values.dtype, device=values.device)
    parameters = [_Parameter() for _ in leaves]
    for place, gradient in zip(used, torch.vmap(pull)(units), strict=True):
        if place >= len(taps.found):
            parameters[place - len(taps.found)].rest = gradient
            continue
        weight, bias, x, _ = taps.found[place]
        error = gradient.reshape(tasks, -1, gradient.shape[-1])
        parameters[weight].inputs.append(x.reshape(-1, x.shape[-1]))
        parameters[weight].errors.append(error)
        if bias is not None:
            parameters[bias].inputs.append(error.new_ones(error.shape[1], 1))
            parameters[bias].errors.append(error)
    layers: dict[Any, list[_Parameter]] = {}
    for parameter in parameters:
        # A weight and its bias have the same errors; a gradient from elsewhere sets it apart.
        errors = tuple(map(id, parameter.errors)) if parameter.rest is None else ()
        layers.setdefault(errors or id(parameter), []).append(parameter)
    total = sum(first.inner_products(others) for first, *others in layers.values())
    matrix = torch.as_tensor(total).to(values.dtype)
    both: PyTree = (losses, aux)
    losses, aux = optree.tree_map(lambda x: x.detach(), both)

    def pullback(weights: PyTree) -> PyTree:
        vector = _as_vector("pullback", weights, losses)
        gradient = [
            parameter.weighted(vector, leaf.detach())
            for parameter, leaf in zip(parameters, leaves, strict=True)
        ]
        return optree.tree_unflatten(structure, gradient)

    gramian = optree.tree_unflatten(optree.tree_structure(losses), matrix.unbind())
    return (losses, gramian, pullback, *([aux] if has_aux else []))

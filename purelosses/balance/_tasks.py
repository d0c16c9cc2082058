"""Trees of named tasks: checked, stacked before any arithmetic, given back as trees."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import optree
import torch
from torch import Tensor

from purelosses._checks import check_number, complain
from purelosses._numerics import promote, safe_divide
from purelosses._types import PyTree

# Adds or averages a tensor over ranks; every statistic goes through it as a sum beside its count.
Sync: TypeAlias = Callable[[Tensor], Tensor]

CONTAINERS = (dict, list, tuple)  # a constant: the compiler does not know `dict | list`


def new_tasks(function: str, tasks: int | Sequence[str] | PyTree, value: Tensor) -> PyTree:
    """A number for every task: a row for a number of tasks, else a tree with a leaf for each."""
    if isinstance(tasks, int) and not isinstance(tasks, bool):
        if tasks < 1:
            raise ValueError(complain(function, "tasks", "be at least 1", tasks))
        return value.repeat(tasks)
    if isinstance(tasks, list | tuple) and tasks and all(isinstance(task, str) for task in tasks):
        if len(set(tasks)) < len(tasks):
            raise ValueError(complain(function, "tasks", "name each task once", tasks))
        tasks = dict.fromkeys(tasks, 0)
    tree: PyTree = tasks
    numbers = optree.tree_map(lambda _: value.clone(), tree)
    if not optree.tree_leaves(numbers):
        raise ValueError(complain(function, "tasks", "have at least one task", tasks))
    return numbers


@dataclass(frozen=True)
class Tasks:
    """The losses of one call: one number per task, in the order of the leaves of the tree."""

    function: str
    losses: PyTree
    structure: Any
    raw: Tensor  # (tasks,), in the precision they came in; 0 for a task without labels
    present: Tensor | None  # (tasks,), or None if no mask was given

    @property
    def values(self) -> Tensor:
        return promote(self.raw)

    def counted(self, x: Tensor, otherwise: float | Tensor = 0.0) -> Tensor:
        """`x` for the tasks that have labels in this call."""
        return x if self.present is None else torch.where(self.present, x, otherwise)

    def number(self) -> Tensor | int:
        """How many tasks have labels, at least 1."""
        if self.present is None:
            return self.raw.shape[0]
        return self.present.sum().clamp_min(1)

    def softmax(self, x: Tensor) -> Tensor:
        """Over the tasks that have labels."""
        return self.counted(torch.softmax(self.counted(x, torch.finfo(x.dtype).min), 0))

    def tree(self, vector: Tensor) -> PyTree:
        return optree.tree_unflatten(self.structure, vector.unbind())

    def aux(self, weights: Tensor) -> dict[str, PyTree]:
        """For logging: the losses before weighting, and the derivative of the total by each."""
        return {"losses": self.tree(self.raw.detach()), "weights": self.tree(weights.detach())}

    def vector(self, argument: str, tree: PyTree, *, floating: bool = True) -> Tensor:
        """One tensor per task, from a tree with exactly the structure of the losses."""
        if isinstance(tree, Tensor) and tree.ndim:
            row = self._row(argument, tree)
            if row.is_floating_point() < floating:
                must = "be a floating tensor"
                raise TypeError(complain(self.function, argument, must, row.dtype))
            return row
        leaves, structure = optree.tree_flatten(tree)
        if structure != self.structure:
            must = f"have the structure of `losses`, {outline(self.losses)}"
            raise ValueError(complain(self.function, argument, must, outline(tree)))
        return stack(self.function, argument, tree, leaves, self.raw, floating=floating)

    def numbers(self, argument: str, tree: PyTree) -> Tensor | float:
        """One number per task, from numbers or tensors: a tree, its first levels, or a row."""
        if isinstance(tree, Tensor) and tree.ndim:
            return promote(self._row(argument, tree))
        if not isinstance(tree, CONTAINERS):
            return self._number(argument, tree)
        names = optree.tree_accessors(self.losses)
        return self.column(
            [
                self._number(argument, value, names[index])
                for index, value in enumerate(self.spread(argument, tree))
            ]
        )

    def _number(self, argument: str, value: Any, task: Any = None) -> float | Tensor:
        def name() -> str:
            return argument if task is None else task.codify(argument)

        if isinstance(value, Tensor) and value.device != self.raw.device:
            must = f"be on the device of the losses, {self.raw.device}"
            raise ValueError(complain(self.function, name(), must, value.device))
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        return check_number(self.function, name(), value)

    def column(self, values: Sequence[float | Tensor]) -> Tensor | float:
        """Numbers as a tensor on the device of the losses, without a copy from the host."""
        if all(isinstance(value, Tensor) for value in values):
            return torch.stack(list(values))  # type: ignore[arg-type]
        if not any(isinstance(value, Tensor) for value in values) and len(set(values)) == 1:
            return values[0]
        filled = {x: self.values.new_full((), x) for x in values if not isinstance(x, Tensor)}
        return torch.stack([x if isinstance(x, Tensor) else filled[x] for x in values])

    def spread(self, argument: str, tree: PyTree) -> list[Any]:
        """One entry per loss, from a tree with the structure of the losses or its first levels."""
        if not isinstance(tree, CONTAINERS):
            return [tree] * self.raw.shape[0]
        return spread(self.function, argument, tree, self.losses)

    def _row(self, argument: str, tree: Tensor) -> Tensor:
        if not isinstance(self.losses, list | tuple) or tree.shape != self.raw.shape:
            must = f"have one entry per loss: shape ({len(self.raw)},) for a list, else a tree"
            got = f"shape {tuple(tree.shape)} for {outline(self.losses)}"
            raise ValueError(complain(self.function, argument, must, got))
        if tree.is_complex():
            raise TypeError(complain(self.function, argument, "be a real tensor", tree.dtype))
        if tree.device != self.raw.device:
            must = f"be on the device of the losses, {self.raw.device}"
            raise ValueError(complain(self.function, argument, must, tree.device))
        return tree


def gather(function: str, losses: PyTree, mask: PyTree = None, argument: str = "losses") -> Tasks:
    """The loss of every task, or with a mask the mean of those present; 0 where none is."""
    leaves, structure = optree.tree_flatten(losses)
    if mask is None:
        return Tasks(function, losses, structure, stack(function, argument, losses, leaves), None)
    sums, counts = masked_sums(function, losses, leaves, mask, argument)
    return Tasks(function, losses, structure, sums / counts.clamp_min(1), counts > 0)


def observe(
    function: str,
    losses: PyTree,
    mask: PyTree = None,
    sync: Sync | None = None,
    argument: str = "losses",
    **others: PyTree,
) -> tuple[Tasks, ...]:
    """What `gather` makes of the losses, and other numbers per task, over all ranks, detached.

    The others are counted where the task has labels.
    """
    tasks = gather(function, losses, mask, argument)
    vectors = [promote(tasks.vector(name, tree)) for name, tree in others.items()]
    found = [tasks, *(replace(tasks, raw=vector) for vector in vectors)]
    if sync is not None:
        counts = torch.ones_like(tasks.values)
        sums = tasks.values
        if mask is not None:
            sums, counts = masked_sums(function, losses, optree.tree_leaves(losses), mask)
        here = (counts > 0).to(counts.dtype)
        rows = [sums, counts]
        for vector in vectors:
            rows += [torch.where(counts > 0, vector, 0.0), here]
        means = exchange(function, sync, rows)
        found = [replace(tasks, raw=mean, present=count > 0) for mean, count in means]
    return tuple(replace(each, raw=each.raw.detach()) for each in found)


def exchange(function: str, sync: Sync, rows: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(mean, count) over all ranks of rows that are sums and their counts by turns.

    A quotient of two shared numbers: it does not matter whether `sync` adds or averages, and ranks
    with more labels count for more.
    """
    if not callable(sync):
        must = "be a function that adds or averages a tensor over ranks"
        raise TypeError(complain(function, "sync", must, repr(sync)))
    shared = sync(torch.stack([row.detach() for row in rows])).unbind()
    pairs = zip(shared[::2], shared[1::2], strict=True)
    return [(safe_divide(total, count), count) for total, count in pairs]


def masked_sums(
    function: str, losses: PyTree, leaves: list[Any], mask: PyTree, argument: str = "losses"
) -> tuple[Tensor, Tensor]:
    """The sum of the losses of every task that are present, and their number."""
    for index, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point():
            name = leaf_name(argument, losses, index)
            got = leaf.dtype if isinstance(leaf, Tensor) else repr(leaf)
            raise TypeError(complain(function, name, "be a floating tensor", got))
        check_device(function, argument, losses, index, leaf, leaves[0])
    if not leaves:
        raise ValueError(complain(function, argument, "hold at least one loss", repr(losses)))
    masks, structure = optree.tree_flatten(mask, none_is_leaf=True)
    if structure != optree.tree_structure(losses, none_is_leaf=True):
        masks = spread(function, "mask", mask, losses)
    for index, (leaf, where) in enumerate(zip(leaves, masks, strict=True)):
        if where is None:
            masks[index] = torch.ones_like(leaf, dtype=torch.bool)
        else:
            check_mask(function, mask, losses, index, where, leaf)

    # Tasks of one shape and precision are summed together. (No dict: symbolic shapes have no hash.)
    groups: list[list[int]] = []
    for index, leaf in enumerate(leaves):
        for group in groups:
            if leaves[group[0]].shape == leaf.shape and leaves[group[0]].dtype == leaf.dtype:
                group.append(index)
                break
        else:
            groups.append([index])
    sums, counts = list(leaves), list(leaves)
    for group in groups:
        where = torch.stack([masks[index] for index in group])
        x = promote(torch.stack([leaves[index] for index in group]))
        x = torch.where(where, x, 0.0).reshape(len(group), -1).sum(1)
        number = where.reshape(len(group), -1).sum(1).to(x.dtype)
        if len(groups) == 1:
            return x, number
        for index, a, b in zip(group, x.unbind(), number.unbind(), strict=True):
            sums[index], counts[index] = a, b
    return torch.stack(sums), torch.stack(counts)


def check_mask(
    function: str, mask: PyTree, losses: PyTree, index: int, where: object, leaf: Tensor
) -> None:
    def name() -> str:
        return "mask" if isinstance(mask, Tensor) else leaf_name("mask", losses, index)

    if not isinstance(where, Tensor) or where.dtype != torch.bool:
        got = where.dtype if isinstance(where, Tensor) else repr(where)
        raise TypeError(complain(function, name(), "be a bool tensor (or None)", got))
    if where.shape != leaf.shape:
        must = f"have the shape of its losses, {tuple(leaf.shape)}"
        raise ValueError(complain(function, name(), must, tuple(where.shape)))
    if where.device != leaf.device:
        must = f"be on the device of the losses, {leaf.device}"
        raise ValueError(complain(function, name(), must, where.device))


def stack(
    function: str,
    argument: str,
    tree: PyTree,
    leaves: list[Any],
    like: Tensor | None = None,
    *,
    floating: bool = True,
) -> Tensor:
    """0-dimensional tensors as one; says which leaf is none."""
    if not leaves:
        raise ValueError(complain(function, argument, "hold at least one loss", repr(tree)))
    must = "be a 0-dimensional floating tensor" if floating else "be a 0-dimensional tensor"
    like = leaves[0] if like is None else like
    device = like.device if isinstance(like, Tensor) else None
    for index, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor):
            name = leaf_name(argument, tree, index)
            raise TypeError(complain(function, name, must, repr(leaf)))
        if leaf.ndim or (floating and not leaf.is_floating_point()):
            name = leaf_name(argument, tree, index)
            got = f"shape {tuple(leaf.shape)} of {leaf.dtype}"
            raise ValueError(complain(function, name, must, got))
        if leaf.device != device:
            check_device(function, argument, tree, index, leaf, like)
    return torch.stack(leaves)


def check_device(
    function: str, argument: str, tree: PyTree, index: int, leaf: Tensor, like: Tensor
) -> None:
    if leaf.device != like.device:
        name = leaf_name(argument, tree, index)
        must = f"be on the device of the first loss, {like.device}"
        raise ValueError(complain(function, name, must, leaf.device))


def leaf_name(argument: str, tree: PyTree, index: int) -> str:
    """How a leaf of a tree is written in code."""
    return optree.tree_accessors(tree)[index].codify(argument)


def spread(function: str, argument: str, tree: PyTree, losses: PyTree) -> list[Any]:
    try:
        # One list per entry: the entries are not always tensors, and a list has an order.
        entries = optree.tree_map(
            lambda x, part: [x] * len(optree.tree_leaves(part)), tree, losses, none_is_leaf=True
        )
    except ValueError:
        must = f"have the structure of `losses`, {outline(losses)}"
        raise ValueError(complain(function, argument, must, outline(tree))) from None
    return optree.tree_leaves(entries, none_is_leaf=True)


def outline(tree: PyTree) -> str:
    """The structure of a tree, with a star at each leaf."""
    return str(optree.tree_structure(tree)).removeprefix("PyTreeSpec(").removesuffix(")")

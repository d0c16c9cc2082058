"""States of balancers: trees of tensors, with the tasks by name where they have names."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import optree
import torch
from torch import Tensor

from purelosses._checks import complain
from purelosses._types import PyTree
from purelosses.balance._tasks import Tasks, new_tasks

State: TypeAlias = dict[str, PyTree]


def memory(function: str, tasks: int | Sequence[str] | PyTree, **values: float) -> State:
    """A state with numbers for every task, floating or (for an int) whole."""
    return {name: new_tasks(function, tasks, torch.tensor(value)) for name, value in values.items()}


def recall(tasks: Tasks, state: Any, *names: str) -> list[Tensor]:
    """Parts of a state that have a number for every task."""
    check_state(tasks.function, state, names)
    return [
        tasks.vector(f"state[{name!r}]", state[name], floating=name not in ("count", "known"))
        for name in names
    ]


def check_state(function: str, state: Any, names: Sequence[str]) -> None:
    if not isinstance(state, Mapping) or any(name not in state for name in names):
        got = sorted(state) if isinstance(state, Mapping) else repr(state)
        must = f"be what `{function.removesuffix('_update')}_init` or the last update returned"
        raise ValueError(complain(function, "state", must, got))


def remember(state: State, **vectors: Tensor) -> State:
    """The same state with new numbers, in the form, precision and place that it has."""
    changed = dict(state)
    for name, vector in vectors.items():
        old = state[name]
        if isinstance(old, Tensor):
            changed[name] = vector.to(old.dtype)
        else:
            leaves, structure = optree.tree_flatten(old)
            new = vector.to(leaves[0].dtype).unbind()
            changed[name] = optree.tree_unflatten(structure, new)
    return changed

r"""Functions of balancers: they take a pair of functions and return a pair.

Each is a small frozen value with the methods `init` and `update`, so it compares, pickles and
prints as what it is, and they nest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import optree
import torch
from torch import Tensor

from purelosses._checks import check_number, complain
from purelosses._types import PyTree
from purelosses.balance._state import State, check_state, remember
from purelosses.balance._tasks import gather, new_tasks


class AnyBalancer(Protocol):
    """What `Balancer` and the combinators have in common."""

    @property
    def init(self) -> Callable[..., State]: ...

    @property
    def update(self) -> Callable[..., tuple[PyTree, State]]: ...


@dataclass(frozen=True, repr=False)
class Balancer:
    """A pair of functions `init(tasks)` and `update(state, …)`, to be changed by a combinator.

    Args:
        init: Returns the first state.
        update: Returns `(weights, state)`.

    Returns:
        A value with `init` and `update`.

    Raises:
        TypeError: If one of them is not callable.

    Examples:
        >>> Balancer(dwa_init, dwa_update)
        Balancer(dwa_init, dwa_update)
    """

    init: Callable[..., State]
    update: Callable[..., tuple[PyTree, State]]

    def __post_init__(self) -> None:
        for name, function in (("init", self.init), ("update", self.update)):
            if not callable(function):
                raise TypeError(complain("Balancer", name, "be a function", repr(function)))

    def __repr__(self) -> str:
        names = (getattr(part, "__name__", repr(part)) for part in (self.init, self.update))
        return f"Balancer({', '.join(names)})"


def _check_balancer(function: str, balancer: object) -> None:
    if not (hasattr(balancer, "init") and hasattr(balancer, "update")):
        must = "be a Balancer(init, update)"
        raise TypeError(complain(function, "balancer", must, repr(balancer)))


@dataclass(frozen=True)
class ema:
    r"""A balancer whose weights are a running mean of those of another.

    $$\bar w \leftarrow \beta \bar w + (1 - \beta) w$$

    It starts at the first weights, so weights that always sum to a number still do.

    Args:
        balancer: A [`Balancer`][purelosses.Balancer] or another combinator.
        decay: $\beta$, how much of the mean stays.

    Returns:
        A balancer with the same arguments.

    Raises:
        TypeError: If it is not made of a balancer.
        ValueError: If `decay` is not between 0 and 1.

    Examples:
        >>> smooth = ema(Balancer(random_weights_init, random_weights_update), decay=0.5)
        >>> state = smooth.init(2)
        >>> losses = [torch.tensor(1.0), torch.tensor(1.0)]
        >>> for noise in ([0.0, 0.0], [20.0, 0.0]):
        ...     weights, state = smooth.update(state, losses, torch.tensor(noise))
        >>> weights
        [tensor(0.7500), tensor(0.2500)]
    """

    balancer: AnyBalancer
    decay: float | Tensor

    def __post_init__(self) -> None:
        _check_balancer("ema", self.balancer)
        check_number("ema", "decay", self.decay, minimum=0, maximum=1)

    def init(self, tasks: PyTree, **options: Any) -> State:
        return _around(self.balancer, tasks, options)

    def update(self, state: State, *observed: Any, **options: Any) -> tuple[PyTree, State]:
        check_state("ema.update", state, ("inner", "weights", "count"))
        weights, inner = self.balancer.update(state["inner"], *observed, **options)
        tasks = gather("ema.update", weights)
        old = tasks.vector("state['weights']", state["weights"])
        mean = self.decay * old + (1 - self.decay) * tasks.values
        mean = torch.where(state["count"] == 0, tasks.values, mean)
        new = remember({**state, "inner": inner, "count": state["count"] + 1}, weights=mean)
        return tasks.tree(mean), new


@dataclass(frozen=True)
class every:
    """A balancer that moves at the first of every `k` calls, and repeats its weights at the others.

    The arithmetic of a balancer costs little, so it is done at every call and kept or not: nothing
    waits for the GPU. What is worth saving is what goes in, such as gradient norms. Leave them out
    by asking for `step % k` in your loop.

    Args:
        balancer: A [`Balancer`][purelosses.Balancer] or another combinator.
        k: How many calls the weights stay.

    Returns:
        A balancer with the same arguments.

    Raises:
        TypeError: If it is not made of a balancer.
        ValueError: If `k` is not a positive whole number.

    Examples:
        >>> seldom = every(Balancer(random_weights_init, random_weights_update), k=2)
        >>> state = seldom.init(2)
        >>> losses = [torch.tensor(1.0), torch.tensor(1.0)]
        >>> for noise in ([0.0, 0.0], [20.0, 0.0]):
        ...     weights, state = seldom.update(state, losses, torch.tensor(noise))
        >>> weights
        [tensor(0.5000), tensor(0.5000)]
    """

    balancer: AnyBalancer
    k: int

    def __post_init__(self) -> None:
        _check_balancer("every", self.balancer)
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(complain("every", "k", "be a positive whole number", repr(self.k)))

    def init(self, tasks: PyTree, **options: Any) -> State:
        return _around(self.balancer, tasks, options)

    def update(self, state: State, *observed: Any, **options: Any) -> tuple[PyTree, State]:
        check_state("every.update", state, ("inner", "weights", "count"))
        weights, inner = self.balancer.update(state["inner"], *observed, **options)
        due = state["count"] % self.k == 0
        tasks = gather("every.update", weights)
        old = tasks.vector("state['weights']", state["weights"])
        kept = torch.where(due, tasks.values, old)
        moved, still = (cast(PyTree, part) for part in (inner, state["inner"]))
        inside = optree.tree_map(lambda new, old: torch.where(due, new, old), moved, still)
        new = remember({**state, "inner": inside, "count": state["count"] + 1}, weights=kept)
        return tasks.tree(kept), new


@dataclass(frozen=True)
class clip:
    """A balancer with its weights kept between two bounds; its state is what it was.

    Args:
        balancer: A [`Balancer`][purelosses.Balancer] or another combinator.
        low: The least weight.
        high: The largest weight.

    Returns:
        A balancer with the same arguments.

    Raises:
        TypeError: If it is not made of a balancer.
        ValueError: If `low` is above `high`.

    Examples:
        >>> careful = clip(Balancer(random_weights_init, random_weights_update), 0.1, 0.9)
        >>> losses = [torch.tensor(1.0), torch.tensor(1.0)]
        >>> careful.update(careful.init(2), losses, torch.tensor([20.0, 0.0]))[0]
        [tensor(0.9000), tensor(0.1000)]
    """

    balancer: AnyBalancer
    low: float
    high: float

    def __post_init__(self) -> None:
        _check_balancer("clip", self.balancer)
        check_number("clip", "low", self.low)
        check_number("clip", "high", self.high, minimum=self.low)

    def init(self, tasks: PyTree, **options: Any) -> State:
        return self.balancer.init(tasks, **options)

    def update(self, state: State, *observed: Any, **options: Any) -> tuple[PyTree, State]:
        weights, state = self.balancer.update(state, *observed, **options)
        tasks = gather("clip.update", weights)
        return tasks.tree(tasks.values.clamp(self.low, self.high)), state


def _around(balancer: AnyBalancer, tasks: PyTree, options: dict[str, Any]) -> State:
    return {
        "inner": balancer.init(tasks, **options),
        "weights": new_tasks("init", tasks, torch.ones(())),
        "count": torch.tensor(0),
    }

"""Task gradients that meet each other one by one, and what is left of them."""

from collections.abc import Sequence

import optree
import torch
from torch import Tensor

from purelosses._checks import check_number, check_tensor, complain
from purelosses._numerics import safe_divide
from purelosses._types import PyTree
from purelosses.balance._state import State, check_state, remember
from purelosses.balance._tasks import new_tasks
from purelosses.gradients.reading import Weights, read, root


def random_order(number: int, generator: torch.Generator) -> Tensor:
    """Who comes when, for [`pcgrad`][purelosses.pcgrad]: a random permutation for each task.

    Args:
        number: The number of tasks.
        generator: The source of randomness; the permutations lie on its device.

    Returns:
        A tensor of integers of shape (number, number), each row a permutation.

    Raises:
        ValueError: If there are no tasks.

    Examples:
        >>> order = random_order(3, torch.Generator().manual_seed(0))
        >>> order.sort().values[0]
        tensor([0, 1, 2])
    """
    if number < 1:
        raise ValueError(complain("random_order", "number", "be at least 1", number))
    return torch.rand(number, number, generator=generator, device=generator.device).argsort(-1)


def _visits(function: str, order: Tensor, m: int) -> list[Tensor]:
    """For each turn, a mask (m, m): which other task each task meets in it."""
    check_tensor(function, "order", order)
    if order.is_floating_point() or order.is_complex() or order.dtype == torch.bool:
        raise TypeError(complain(function, "order", "hold integers", order.dtype))
    if order.shape != (m, m):
        must = f"have a permutation of the tasks for each, shape {(m, m)}"
        raise ValueError(complain(function, "order", must, tuple(order.shape)))
    places = torch.arange(m, device=order.device)
    itself = places == places.unsqueeze(-1)
    return [
        torch.logical_and(turn.unsqueeze(-1) == places, torch.logical_not(itself))
        for turn in order.unbind(-1)
    ]


def pcgrad(gramian: PyTree, order: Tensor) -> Weights:
    r"""Weights of the sum of gradients, each cleared of what opposes another (PCGrad).

    $$\sum_i g_i', \qquad g_i' \leftarrow
      g_i' - \frac{\min(\langle g_i', g_j \rangle, 0)}{\lVert g_j \rVert^2}\, g_j
      \quad\text{for the } j \ne i \text{ in a given order}$$

    with $g_i$ the task gradients. With more than two tasks the sum may still conflict with one.

    Args:
        gramian: A tree with a row of $\langle g_i, g_j \rangle$ for each task, as made by
            [`value_and_gramian`][purelosses.value_and_gramian], or the matrix.
        order: In row $i$, the order in which $g_i$ meets the others: integers of shape
            (number of tasks, number of tasks), from [`random_order`][purelosses.random_order]. The
            tasks are counted as optree lists them, a dict by its sorted keys.

    Returns:
        The weights of the task gradients, a tree of tasks (or a vector, for a matrix), and
        `{"stationary": ...}`: whether the weighted gradients cancel, in which case all weights
        are 0.

    Raises:
        ValueError: If the Gramian is not square, or `order` has another shape.
        TypeError: If the Gramian is not floating, or `order` not of integers.

    Examples:
        >>> gramian = {"depth": torch.tensor([4.0, -1.0]), "mask": torch.tensor([-1.0, 1.0])}
        >>> order = random_order(2, torch.Generator().manual_seed(0))
        >>> pcgrad(gramian, order)[0]
        {'depth': tensor(1.2500), 'mask': tensor(2.)}

    Coming from:
        torchjd's and LibMTL's `PCGrad` draw the order from the global random state.

    Source:
        Yu et al., arXiv:2001.06782, Algorithm 1.
    """
    g = read("pcgrad", gramian)
    parts = torch.diag(g.norms)  # row i: g_i', as a sum of unit gradients
    for meets in _visits("pcgrad", order, len(parts)):
        along = parts @ g.cosines  # ⟨g_i', g_j⟩ / ‖g_j‖
        parts = parts - torch.where(meets & (along < 0), along, 0.0)
    return g.answer(g.inverse * parts.sum(0))


def gradvac_init(tasks: int | Sequence[str] | PyTree) -> State:
    """The state of [`gradvac_update`][purelosses.gradvac_update] before the first step.

    Args:
        tasks: The number of tasks, their names, or any tree with the structure of the losses.

    Returns:
        `{"cosines": ..., "stationary": ...}`: for every task, a row with its mean cosine to each
        task, at first 0, and whether the weighted gradients of the last step cancelled.

    Raises:
        ValueError: If there are no tasks, or a name occurs twice.

    Examples:
        >>> gradvac_init(["mask", "depth"])["cosines"]["mask"]
        tensor([0., 0.], dtype=torch.float64)
    """
    named = new_tasks("gradvac_init", tasks, torch.zeros((), dtype=torch.float64))
    count = len(named) if isinstance(named, Tensor) else len(optree.tree_leaves(named))
    if isinstance(named, Tensor):
        cosines: PyTree = named.new_zeros(count, count)
    else:
        cosines = optree.tree_map(lambda number: number.new_zeros(count), named)
    return {"cosines": cosines, "stationary": torch.zeros((), dtype=torch.bool)}


def gradvac_update(
    state: State, gramian: PyTree, order: Tensor, *, beta: float | Tensor = 0.5
) -> tuple[PyTree, State]:
    r"""Weights of the sum of gradients, each turned towards its usual cosines (GradVac).

    As [`pcgrad`][purelosses.pcgrad], with a goal $\hat\varphi_{ij}$ in place of 0: where the cosine
    $\varphi_{ij}$ of $g_i'$ with $g_j$ is below it,

    $$g_i' \leftarrow g_i' + \frac{\lVert g_i' \rVert}{\lVert g_j \rVert}
      \Bigl(\hat\varphi_{ij} \sqrt{1 - \varphi_{ij}^2} / \sqrt{1 - \hat\varphi_{ij}^2}
      - \varphi_{ij}\Bigr)\, g_j$$

    and then $\hat\varphi_{ij} \leftarrow (1 - \beta)\,\hat\varphi_{ij} + \beta\,\varphi_{ij}$.

    Args:
        state: Of the last step, or from [`gradvac_init`][purelosses.gradvac_init].
        gramian: A tree with a row of $\langle g_i, g_j \rangle$ for each task, as made by
            [`value_and_gramian`][purelosses.value_and_gramian], or the matrix.
        order: In row $i$, the order in which $g_i$ meets the others, as for
            [`pcgrad`][purelosses.pcgrad].
        beta: $\beta$, how fast the goals follow the cosines, between 0 and 1.

    Returns:
        The weights of the task gradients, a tree of tasks (or a vector, for a matrix), and the
        state for the next step. Its `"stationary"` is whether the weighted gradients cancel, in
        which case all weights are 0.

    Raises:
        ValueError: If the Gramian is not square, the state is that of other tasks, `order` has
            another shape, or `beta` is out of range.
        TypeError: If the Gramian is not floating, or `order` not of integers.

    Examples:
        >>> gramian = {"depth": torch.tensor([4.0, -1.0]), "mask": torch.tensor([-1.0, 1.0])}
        >>> order = random_order(2, torch.Generator().manual_seed(0))
        >>> weights, state = gradvac_update(gradvac_init(gramian), gramian, order)
        >>> weights
        {'depth': tensor(1.2500), 'mask': tensor(2.)}
        >>> state["cosines"]["depth"]
        tensor([ 0.0000, -0.2500], dtype=torch.float64)

    Coming from:
        torchjd's and LibMTL's `GradVac`: the same, with the order from the global random state;
        torchjd's state cannot be loaded into a new object, LibMTL's is not saved.

    Source:
        Wang et al., arXiv:2010.05874, Algorithm 1.
    """
    function = "gradvac_update"
    g = read(function, gramian)
    beta = check_number(function, "beta", beta, minimum=0, maximum=1)
    check_state(function, state, ("cosines",))
    rows = state["cosines"]
    goals = rows if isinstance(rows, Tensor) else torch.stack(optree.tree_leaves(rows))
    if goals.shape != g.cosines.shape:
        must = f"be that of {len(g.cosines)} tasks"
        raise ValueError(complain(function, "state", must, f"shape {tuple(goals.shape)}"))
    theirs, own = optree.tree_structure(gramian), optree.tree_structure(rows)
    if not isinstance(gramian, Tensor) and not isinstance(rows, Tensor) and own != theirs:
        raise ValueError(complain(function, "state", f"be that of the tasks {theirs}", own))
    goals = goals.to(g.cosines)
    parts = torch.diag(g.norms)
    for meets in _visits(function, order, len(parts)):
        along = parts @ g.cosines
        length = root((along * parts).sum(-1, keepdim=True))
        cosines = safe_divide(along, length)
        turned = safe_divide(goals * root(1 - cosines**2), root(1 - goals**2)) - cosines
        meets = meets & g.alive
        parts = parts + torch.where(meets & (cosines < goals), length * turned, 0.0)
        goals = torch.where(meets, goals + beta * (cosines - goals), goals)
    weights, aux = g.answer(g.inverse * parts.sum(0))
    return weights, remember(state, cosines=goals.detach(), **aux)


def graddrop(jacobian: PyTree, noise: PyTree) -> PyTree:
    r"""A sum of task gradients that keeps, in each entry, only those of one sign (GradDrop).

    $$\sum_i g_i\, [\, \operatorname{sign} g_i = s\,], \qquad
      s = +1 \text{ if } \tfrac12 \Bigl(1 + \frac{\sum_i g_i}{\sum_i |g_i|}\Bigr) > u,
      \text{ else } -1$$

    in each entry, with $g_i$ the task gradients and $u$ the noise: the sign that outweighs the
    other is the more probable one.

    Args:
        jacobian: A tree of tasks with a gradient, itself a tree, for each.
        noise: A tree with the structure of a gradient, uniform between 0 and 1.

    Returns:
        A direction, with the structure of a gradient.

    Raises:
        ValueError: If a gradient has not the structure, or a leaf not the shape, of `noise`.

    Examples:
        >>> jacobian = {"mask": {"w": torch.tensor([1.0, 2.0])},
        ...             "edge": {"w": torch.tensor([1.0, -1.0])}}
        >>> graddrop(jacobian, {"w": torch.tensor([0.5, 0.5])})
        {'w': tensor([2., 2.])}

    Coming from:
        torchjd's `GradDrop` draws the noise from the global random state, and gives NaN where all
        gradients are 0.

    Source:
        Chen et al., arXiv:2010.06808, Algorithm 1.
    """
    places, structure = optree.tree_flatten(noise)
    leaves = optree.tree_leaves(jacobian)
    count = len(places)
    shapes = [leaf.shape for leaf in leaves]
    if not leaves or not count or shapes != [p.shape for p in places] * (len(leaves) // count):
        must = f"have the structure of a gradient, with {[tuple(s) for s in shapes]} for all tasks"
        got = [tuple(place.shape) for place in places]
        raise ValueError(complain("graddrop", "noise", must, got))
    directions = []
    for place, u in enumerate(places):
        stacked = torch.stack(leaves[place::count])
        reach = stacked.abs().sum(0)
        nothing = reach == 0
        purity = (1 + stacked.sum(0) / torch.where(nothing, 1.0, reach)) / 2
        kept = torch.where(purity > u, stacked.clamp_min(0), stacked.clamp_max(0))
        directions.append(kept.sum(0))
    return optree.tree_unflatten(structure, directions)

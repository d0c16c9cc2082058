r"""From the Gramian of the task gradients to one weight per task.

Every method sees norms and cosines only, in float64. Norms may differ by orders of magnitude and
losses may be scaled at will: no tolerance is absolute.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import optree
import torch
from torch import Tensor

from purelosses._checks import check_choice, check_number, check_tensor, complain
from purelosses._numerics import safe_divide
from purelosses._types import PyTree
from purelosses.gradients.solvers import identity, solve_fair, solve_lcp, solve_within_ball

Scale = Literal["min", "rmse"]
Weights = tuple[PyTree, dict[str, Tensor]]


@dataclass(slots=True)
class Gramian:
    """A Gramian as norms and cosines, and the way back to the tree it came as."""

    matrix: Tensor
    alive: Tensor  # which tasks have a gradient
    norms: Tensor
    inverse: Tensor  # of the norms; 0 for a task without gradient
    cosines: Tensor
    dtype: torch.dtype  # of what it came as, in which results are given
    restore: Callable[[Tensor], PyTree]  # one number (or row) per task, as a tree of tasks

    @property
    def noise(self) -> float:
        """How much rounding may have moved an eigenvalue of the cosines."""
        return len(self.norms) * torch.finfo(self.dtype).eps

    @property
    def definite(self) -> Tensor:
        """The cosines, with more on the diagonal than rounding may have taken from an eigenvalue.

        A problem that several weights would solve then has one solution, of ordinary size.
        """
        return self.cosines + self.noise * identity(self.cosines)

    def answer(
        self, weights: Tensor, residual: Tensor | None = None, stationary: Tensor | None = None
    ) -> Weights:
        """The weights, all 0 where the gradients that they weigh cancel to rounding."""
        length, reach = weights @ self.matrix @ weights, weights.abs() @ self.norms
        cancelled = torch.logical_not(length > 8 * self.noise * reach * reach)
        stationary = cancelled if stationary is None else cancelled | stationary
        aux = {"stationary": stationary}
        if residual is not None:
            aux["residual"] = residual
        return self.restore(torch.where(stationary, 0.0, weights).to(self.dtype)), aux


def read(function: str, gramian: PyTree) -> Gramian:
    """Check a Gramian and take it apart."""
    if isinstance(gramian, Tensor) and gramian.ndim == 2:
        matrix, tasks = gramian, None
    else:
        rows, tasks = optree.tree_flatten(gramian)
        for row in rows:
            check_tensor(function, "gramian", row)
            if row.shape != (len(rows),):
                must = f"have a row of shape ({len(rows)},) per task"
                raise ValueError(complain(function, "gramian", must, f"shape {tuple(row.shape)}"))
        if not rows:
            raise ValueError(complain(function, "gramian", "hold at least one task", repr(gramian)))
        matrix = torch.stack(rows)
    if matrix.shape[0] != matrix.shape[1] or not matrix.shape[0]:
        must = "be a square matrix, or a tree of its rows"
        raise ValueError(complain(function, "gramian", must, f"shape {tuple(matrix.shape)}"))
    if not matrix.is_floating_point():
        raise TypeError(complain(function, "gramian", "be floating", matrix.dtype))
    dtype = torch.promote_types(matrix.dtype, torch.float32)

    def restore(values: Tensor) -> PyTree:
        return values if tasks is None else optree.tree_unflatten(tasks, values.unbind())

    matrix = matrix.to(torch.float64)
    squares = matrix.diagonal()
    alive = squares > 0
    inverse = torch.where(alive, squares, torch.inf).rsqrt()
    cosines = matrix * inverse * inverse.unsqueeze(-1)
    return Gramian(matrix, alive, squares * inverse, inverse, cosines, dtype, restore)


def mgda(gramian: PyTree) -> Weights:
    r"""Weights of the shortest convex combination of the task gradients (MGDA).

    $$\min_{w \ge 0,\ \sum_i w_i = 1} w^\top G\, w$$

    with $G_{ij} = \langle g_i, g_j \rangle$ for the task gradients $g_i$. The combination
    improves every task equally, as far as it goes; the shortest gradient decides its length. A task
    without any gradient makes it 0.

    Args:
        gramian: A tree with a row of $G$ for each task, as made by
            [`value_and_gramian`][purelosses.value_and_gramian], or the matrix.

    Returns:
        The weights $w$, a tree of tasks (or a vector, for a matrix), and
        `{"stationary": ..., "residual": ...}`: whether no direction improves every task, in which
        case all weights are 0; and by how much the conditions of the minimum are missed, relative.

    Raises:
        ValueError: If the Gramian is not square.
        TypeError: If it is not floating.

    Examples:
        >>> gramian = {"depth": torch.tensor([1.0, 0.0]), "mask": torch.tensor([0.0, 4.0])}
        >>> mgda(gramian)[0]
        {'depth': tensor(0.8000), 'mask': tensor(0.2000)}

    Coming from:
        torchjd's `MGDA` and LibMTL's stop early: with norms a hundred times apart the result is up
        to ten times too long. This one is the minimum.

    Source:
        Désidéri, Comptes Rendus Mathématique 350 (2012); Sener and Koltun, arXiv:1810.04650.
    """
    g = read("mgda", gramian)
    return g.answer(*_shortest(g))


def _shortest(g: Gramian) -> tuple[Tensor, Tensor, Tensor]:
    """The weights of `mgda`, the residual, and whether a task has no gradient."""
    # With y = w · norms, up to a factor: a problem of least squares with y ≥ 0. t is the inverse of
    # the norms; the larger it is, the more a unit of y adds to the sum of the weights.
    t = safe_divide(g.inverse, g.inverse.amax())
    y, residual = solve_lcp(g.definite + t * t.unsqueeze(-1), -t.unsqueeze(-1))
    weights = y.squeeze(-1) * t
    return safe_divide(weights, weights.sum()), residual, torch.logical_not(g.alive.all())


def upgrad(gramian: PyTree) -> Weights:
    r"""Weights of a mean direction that conflicts with no task (UPGrad).

    $$\frac1m \sum_i \pi(g_i), \qquad
      \pi(g) = \arg\min_{d:\ \langle d, g_j \rangle \ge 0\ \forall j} \lVert d - g \rVert$$

    with $g_i$ the $m$ task gradients: each is first moved, as little as possible, to where no task
    gets worse. Without conflicts it is the mean gradient.

    Args:
        gramian: A tree with a row of $\langle g_i, g_j \rangle$ for each task, as made by
            [`value_and_gramian`][purelosses.value_and_gramian], or the matrix.

    Returns:
        The weights of the task gradients, a tree of tasks (or a vector, for a matrix), and
        `{"stationary": ..., "residual": ...}`: whether the weighted gradients cancel, in which case
        all weights are 0; and by how much the conditions of a projection are missed, relative.

    Raises:
        ValueError: If the Gramian is not square.
        TypeError: If it is not floating.

    Examples:
        >>> gramian = {"depth": torch.tensor([4.0, -1.0]), "mask": torch.tensor([-1.0, 1.0])}
        >>> weights, aux = upgrad(gramian)
        >>> weights
        {'depth': tensor(0.6250), 'mask': tensor(1.0000)}

    Coming from:
        torchjd's `UPGrad` adds 1e-4 to the diagonal of the normalised Gramian and returns the mean
        when all gradients together are shorter than 0.01. With norms a hundred times apart its
        direction conflicts with a task in most cases; this one never does.

    Source:
        Quinton and Rey, arXiv:2406.16232.
    """
    g = read("upgrad", gramian)
    x, residual = solve_lcp(g.definite, g.cosines)  # column i: what π adds to g_i, in units
    return g.answer((1 + g.inverse * (x @ g.norms)) / len(x), residual)


def dualproj(gramian: PyTree) -> Weights:
    r"""Weights of the mean gradient, moved as little as possible to where no task gets worse.

    $$\pi(\bar g) = \arg\min_{d:\ \langle d, g_j \rangle \ge 0\ \forall j}
      \lVert d - \bar g \rVert, \qquad \bar g = \frac1m \sum_i g_i$$

    with $g_i$ the $m$ task gradients. Known as DualProj, and as GEM in continual learning.

    Args:
        gramian: A tree with a row of $\langle g_i, g_j \rangle$ for each task, as made by
            [`value_and_gramian`][purelosses.value_and_gramian], or the matrix.

    Returns:
        The weights of the task gradients, a tree of tasks (or a vector, for a matrix), and
        `{"stationary": ..., "residual": ...}`: whether the weighted gradients cancel, in which case
        all weights are 0; and by how much the conditions of a projection are missed, relative.

    Raises:
        ValueError: If the Gramian is not square.
        TypeError: If it is not floating.

    Examples:
        >>> gramian = {"depth": torch.tensor([4.0, -3.0]), "mask": torch.tensor([-3.0, 3.0])}
        >>> dualproj(gramian)[0]
        {'depth': tensor(0.5000), 'mask': tensor(0.5000)}

    Coming from:
        torchjd's `DualProj` adds 1e-4 to the diagonal of the normalised Gramian.

    Source:
        Lopez-Paz and Ranzato, arXiv:1706.08840, eq. (11).
    """
    g = read("dualproj", gramian)
    longest = g.norms.amax()
    relative = safe_divide(g.norms, longest)
    against = (g.cosines @ relative).unsqueeze(-1) / len(relative)
    x, residual = solve_lcp(g.definite, against)
    return g.answer(1 / len(relative) + g.inverse * longest * x.squeeze(-1), residual)


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


def gradvac_init(tasks: PyTree) -> dict[str, Tensor]:
    """The state of [`gradvac_update`][purelosses.gradvac_update] before the first step.

    Args:
        tasks: A tree with the structure of the losses; only its structure and, where a leaf is a
            tensor, its device matter.

    Returns:
        `{"cosines": ..., "stationary": ...}`: the mean cosine of each pair of tasks, at first 0,
        and whether the weighted gradients of the last step cancelled.

    Raises:
        ValueError: If there are no tasks.

    Examples:
        >>> gradvac_init({"mask": 0, "depth": 0})["cosines"]
        tensor([[0., 0.],
                [0., 0.]], dtype=torch.float64)
    """
    leaves = optree.tree_leaves(tasks)
    if not leaves:
        raise ValueError(complain("gradvac_init", "tasks", "have at least one task", tasks))
    device = leaves[0].device if isinstance(leaves[0], Tensor) else None
    return {
        "cosines": torch.zeros(len(leaves), len(leaves), dtype=torch.float64, device=device),
        "stationary": torch.zeros((), dtype=torch.bool, device=device),
    }


def gradvac_update(
    state: dict[str, Tensor], gramian: PyTree, order: Tensor, *, beta: float | Tensor = 0.5
) -> tuple[PyTree, dict[str, Tensor]]:
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
        ValueError: If the Gramian is not square, the state is that of another number of tasks,
            `order` has another shape, or `beta` is out of range.
        TypeError: If the Gramian is not floating, or `order` not of integers.

    Examples:
        >>> gramian = {"depth": torch.tensor([4.0, -1.0]), "mask": torch.tensor([-1.0, 1.0])}
        >>> order = random_order(2, torch.Generator().manual_seed(0))
        >>> weights, state = gradvac_update(gradvac_init(gramian), gramian, order)
        >>> weights
        {'depth': tensor(1.2500), 'mask': tensor(2.)}
        >>> state["cosines"][0, 1]
        tensor(-0.2500, dtype=torch.float64)

    Coming from:
        torchjd's and LibMTL's `GradVac`: the same, with the order from the global random state;
        torchjd's state cannot be loaded into a new object, LibMTL's is not saved.

    Source:
        Wang et al., arXiv:2010.05874, Algorithm 1.
    """
    function = "gradvac_update"
    g = read(function, gramian)
    beta = check_number(function, "beta", beta, minimum=0, maximum=1)
    goals = state["cosines"]
    if goals.shape != g.cosines.shape:
        must = f"be that of {len(g.cosines)} tasks"
        raise ValueError(complain(function, "state", must, f"shape {tuple(goals.shape)}"))
    parts = torch.diag(g.norms)
    for meets in _visits(function, order, len(parts)):
        along = parts @ g.cosines
        length = _sqrt((along * parts).sum(-1, keepdim=True))
        cosines = safe_divide(along, length)
        turned = safe_divide(goals * _sqrt(1 - cosines**2), _sqrt(1 - goals**2)) - cosines
        meets = meets & g.alive
        parts = parts + torch.where(meets & (cosines < goals), length * turned, 0.0)
        goals = torch.where(meets, goals + beta * (cosines - goals), goals)
    weights, aux = g.answer(g.inverse * parts.sum(0))
    return weights, {"cosines": goals.detach(), **aux}


def _sqrt(x: Tensor) -> Tensor:
    """The root of a number that rounding may have made negative; 0, with gradient 0, there."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)


def cagrad(gramian: PyTree, *, c: float | Tensor = 0.5) -> Weights:
    r"""Weights of the direction near the mean gradient whose worst task gains most (CAGrad).

    $$\max_d \min_i\, \langle g_i, d \rangle \quad\text{with}\quad
      \lVert d - \bar g \rVert \le c\, \lVert \bar g \rVert, \qquad \bar g = \frac1m \sum_i g_i$$

    with $g_i$ the $m$ task gradients.

    Args:
        gramian: A tree with a row of $\langle g_i, g_j \rangle$ for each task, as made by
            [`value_and_gramian`][purelosses.value_and_gramian], or the matrix.
        c: How far from the mean to look, relative to its length, at least 0. At 0 it is the mean;
            below 1 training still ends where the mean loss is least.

    Returns:
        The weights of the task gradients, a tree of tasks (or a vector, for a matrix), and
        `{"stationary": ..., "residual": ...}`: whether the weighted gradients cancel, in which case
        all weights are 0; and by how much the conditions of the maximum are missed, relative.

    Raises:
        ValueError: If the Gramian is not square, or `c` is negative.
        TypeError: If the Gramian is not floating.

    Examples:
        >>> gramian = {"depth": torch.tensor([4.0, -1.0]), "mask": torch.tensor([-1.0, 1.0])}
        >>> cagrad(gramian, c=0.5)[0]
        {'depth': tensor(0.5000), 'mask': tensor(0.9330)}

    Coming from:
        The authors' code divides the direction by $1 + c^2$ (LibMTL's `rescale`); this one and
        torchjd's `CAGrad` do not.

    Source:
        Liu et al., arXiv:2110.14048.
    """
    g = read("cagrad", gramian)
    c = check_number("cagrad", "c", c, minimum=0)
    m = len(g.norms)
    mean = g.norms / m  # in unit gradients
    length = _sqrt(mean @ g.cosines @ mean)
    along = g.cosines @ safe_divide(mean, length)
    t = safe_divide(g.inverse, g.inverse.amax())
    added, residual = solve_within_ball(g.definite, along, t, c)
    return g.answer(1 / m + g.inverse * length * added, residual)


def fair(gramian: PyTree, *, alpha: float | Tensor = 1.0) -> Weights:
    r"""Weights that share the improvement fairly among tasks (FairGrad); Nash-MTL at α = 1.

    $$G w = w^{-1/\alpha}$$

    entry by entry, with $G_{ij} = \langle g_i, g_j \rangle$ for the task gradients $g_i$. Small α
    look at the sum of the gains, large ones at the smallest gain. At α = 1 the direction does not
    depend on how each loss is scaled. Its length does not shrink with the gradients.

    Args:
        gramian: A tree with a row of $G$ for each task, as made by
            [`value_and_gramian`][purelosses.value_and_gramian], or the matrix.
        alpha: α, greater than 0.

    Returns:
        The weights $w$, a tree of tasks (or a vector, for a matrix), and
        `{"stationary": ..., "residual": ...}`: whether no direction improves every task, in which
        case all weights are 0; and the largest relative difference of the two sides.

    Raises:
        ValueError: If the Gramian is not square, or `alpha` is not positive.
        TypeError: If the Gramian is not floating.

    Examples:
        >>> gramian = {"depth": torch.tensor([4.0, 0.0]), "mask": torch.tensor([0.0, 1.0])}
        >>> fair(gramian)[0]
        {'depth': tensor(0.5000), 'mask': tensor(1.)}

    Coming from:
        torchjd's `NashMTL` and LibMTL's `Nash_MTL` also clip the length of the direction to
        `max_norm`, and are scaled by the norm of the Gramian.

    Source:
        Ban and Ji, arXiv:2402.15638, eq. (4); Navon et al., arXiv:2202.01017.
    """
    g = read("fair", gramian)
    power = 1 / check_number("fair", "alpha", alpha, above=0)
    # In w · norms, and in units of the geometric mean of the norms, or of 1.
    logarithms = torch.where(g.alive, torch.where(g.alive, g.norms, 1.0).log(), 0.0)
    middle = (logarithms.sum() / g.alive.sum().clamp_min(1)).exp()
    relative = torch.where(g.alive, g.norms / middle, 1.0)
    own = torch.diag(torch.where(g.alive, 0.0, 1.0))  # for a task without gradient, w = 1
    x, residual = solve_fair(g.cosines + own, relative ** (power - 1), power)
    return g.answer(g.inverse * middle * middle ** (-2 / (1 + power)) * x, residual)


def _equal_shares(g: Gramian) -> Tensor:
    """C⁺ 1: in unit gradients, the direction with the same cosine to every task."""
    # By eigenvalues: with dependent gradients there may be no such direction, but a nearest one.
    symmetric = (g.cosines + g.cosines.T) / 2
    shares: Tensor = torch.linalg.pinv(symmetric, rtol=g.noise, hermitian=True).sum(-1)
    return shares


def imtl_g(gramian: PyTree) -> Weights:
    r"""Weights that sum to 1, of the direction with the same cosine to every task (IMTL-G).

    $$\Bigl\langle \sum_j w_j g_j,\ g_i / \lVert g_i \rVert \Bigr\rangle
      \text{ the same for all } i, \qquad \sum_i w_i = 1$$

    with $g_i$ the task gradients. Weights may be negative, and where the inverse norms so require,
    the direction points away from every task.

    Args:
        gramian: A tree with a row of $\langle g_i, g_j \rangle$ for each task, as made by
            [`value_and_gramian`][purelosses.value_and_gramian], or the matrix.

    Returns:
        The weights $w$, a tree of tasks (or a vector, for a matrix), and `{"stationary": ...}`:
        whether the weighted gradients cancel, or the weights do, in which case all weights are 0.

    Raises:
        ValueError: If the Gramian is not square.
        TypeError: If it is not floating.

    Examples:
        >>> gramian = {"depth": torch.tensor([4.0, 0.0]), "mask": torch.tensor([0.0, 1.0])}
        >>> imtl_g(gramian)[0]
        {'depth': tensor(0.3333), 'mask': tensor(0.6667)}

    Coming from:
        torchjd's `IMTLG` and LibMTL's `IMTL`: the same weights.
        [`config`][purelosses.config] has the same direction with a length that cannot turn it.

    Source:
        Liu et al., Towards Impartial Multi-task Learning, ICLR 2021.
    """
    g = read("imtl_g", gramian)
    weights = g.inverse * _equal_shares(g)
    total = weights.sum()
    nothing = total.abs() <= 8 * g.noise * weights.abs().sum()
    return g.answer(safe_divide(weights, torch.where(nothing, 0.0, total)), stationary=nothing)


def config(gramian: PyTree) -> Weights:
    r"""Weights of the direction with the same cosine to every task, its length their sum (ConFIG).

    $$d = \Bigl(\sum_i \langle g_i, u \rangle\Bigr)\, u$$

    with $u$ the unit vector that has the same cosine to every task gradient $g_i$.

    Args:
        gramian: A tree with a row of $\langle g_i, g_j \rangle$ for each task, as made by
            [`value_and_gramian`][purelosses.value_and_gramian], or the matrix.

    Returns:
        The weights of the task gradients, a tree of tasks (or a vector, for a matrix), and
        `{"stationary": ...}`: whether the weighted gradients cancel, in which case all weights
        are 0.

    Raises:
        ValueError: If the Gramian is not square.
        TypeError: If it is not floating.

    Examples:
        >>> gramian = {"depth": torch.tensor([4.0, 0.0]), "mask": torch.tensor([0.0, 1.0])}
        >>> config(gramian)[0]
        {'depth': tensor(0.7500), 'mask': tensor(1.5000)}

    Coming from:
        The authors' code and torchjd's `ConFIG` invert the Jacobian; the Gramian is enough, and a
        matrix of the size of the number of tasks.

    Source:
        Liu, Chu and Thuerey, arXiv:2408.11104, eq. (2).
    """
    g = read("config", gramian)
    shares = _equal_shares(g)
    along = g.cosines @ shares
    return g.answer(safe_divide(g.norms @ along, shares @ along) * g.inverse * shares)


def aligned_mtl(gramian: PyTree, *, scale: Scale = "min") -> Weights:
    r"""Weights of the mean of gradients that were made orthogonal and equally long (Aligned-MTL).

    $$w = \frac{\sigma}{m}\, G^{-1/2}\, \mathbf 1$$

    with $G_{ij} = \langle g_i, g_j \rangle$ for the $m$ task gradients $g_i$, its inverse root
    taken where its eigenvalues are not 0, and $\sigma$ the length that the gradients get.

    Args:
        gramian: A tree with a row of $G$ for each task, as made by
            [`value_and_gramian`][purelosses.value_and_gramian], or the matrix.
        scale: σ: the root of the smallest eigenvalue that is not 0 (`"min"`), or of the mean of
            those (`"rmse"`).

    Returns:
        The weights $w$, a tree of tasks (or a vector, for a matrix), and `{"stationary": ...}`:
        whether the weighted gradients cancel, in which case all weights are 0.

    Raises:
        ValueError: If the Gramian is not square, or `scale` is unknown.
        TypeError: If the Gramian is not floating.

    Examples:
        >>> gramian = {"depth": torch.tensor([4.0, 0.0]), "mask": torch.tensor([0.0, 1.0])}
        >>> aligned_mtl(gramian)[0]
        {'depth': tensor(0.2500), 'mask': tensor(0.5000)}

    Coming from:
        torchjd's `AlignedMTL`: the same. The authors' code has `scale="rmse"`.

    Source:
        Senushkin et al., arXiv:2305.19000, Algorithm 1.
    """
    g = read("aligned_mtl", gramian)
    check_choice("aligned_mtl", "scale", scale, get_args(Scale))
    m = len(g.norms)
    longest = g.norms.amax()
    matrix = safe_divide((g.matrix + g.matrix.T) / 2, longest**2)
    eigenvalues, basis = torch.linalg.eigh(matrix.detach())
    kept = eigenvalues > g.noise * eigenvalues.amax()
    roots = torch.where(kept, _sqrt(eigenvalues), torch.inf)
    # The derivative of eigenvectors is infinite where eigenvalues are equal, that of the inverse
    # root is not: in the basis, the change of G over -√λᵢ √λⱼ (√λᵢ + √λⱼ).
    change = basis.T @ (matrix - matrix.detach()) @ basis
    pairs = roots * roots.unsqueeze(-1) * (roots + roots.unsqueeze(-1))
    inverse_root = torch.diag(1 / roots) - change / pairs
    eigenvalues = torch.where(kept, eigenvalues + change.diagonal(), torch.inf)
    if scale == "min":
        square = eigenvalues.amin()
    else:
        square = torch.where(kept, eigenvalues, 0.0).sum() / kept.sum().clamp_min(1)
    sigma = _sqrt(torch.where(torch.isfinite(square), square, 0.0))
    weights = sigma * (basis @ (inverse_root @ basis.sum(0))) / m
    return g.answer(weights)


def conflict_report(gramian: PyTree) -> dict[str, PyTree]:
    """How the task gradients of one step stand to each other.

    Look at it before choosing a method. Where no cosine is below 0, the plain sum harms nobody;
    where norms differ by a factor of ten, fixed weights already help.

    Args:
        gramian: A tree with a row of inner products for each task, as made by
            [`value_and_gramian`][purelosses.value_and_gramian], or the matrix.

    Returns:
        A dict of trees of tasks (of vectors and matrices, for a matrix): `"norms"` of the
        gradients, `"cosines"` of each with each, and `"conflicts"`, whether that is below 0; and
        of two tensors: `"stationarity"`, the norm of the shortest convex combination of the
        gradients, and `"stationary"`, whether it is 0 to rounding: no direction then improves
        every task.

    Raises:
        ValueError: If the Gramian is not square.
        TypeError: If it is not floating.

    Examples:
        >>> gramian = {"depth": torch.tensor([4.0, -1.0]), "mask": torch.tensor([-1.0, 1.0])}
        >>> report = conflict_report(gramian)
        >>> report["norms"]
        {'depth': tensor(2.), 'mask': tensor(1.)}
        >>> report["cosines"]["depth"]
        {'depth': tensor(1.), 'mask': tensor(-0.5000)}
        >>> report["conflicts"]["depth"]["mask"], report["stationarity"]
        (tensor(True), tensor(0.6547))
    """
    g = read("conflict_report", gramian)
    weights, _, no_gradient = _shortest(g)
    shortest = g.answer(weights, stationary=no_gradient)[1]["stationary"]
    square = torch.where(shortest, 0.0, weights @ g.matrix @ weights)

    def pairs(matrix: Tensor) -> PyTree:
        return optree.tree_map(g.restore, g.restore(matrix))

    return {
        "norms": g.restore(g.norms.to(g.dtype)),
        "cosines": pairs(g.cosines.to(g.dtype)),
        "conflicts": pairs(g.cosines < -g.noise),
        "stationarity": _sqrt(square).to(g.dtype),
        "stationary": shortest,
    }

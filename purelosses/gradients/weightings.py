r"""From the Gramian of the task gradients to one weight per task.

Every method sees norms and cosines only, in float64. Norms may differ by orders of magnitude and
losses may be scaled at will: no tolerance is absolute.
"""

from typing import Literal, get_args

import optree
import torch
from torch import Tensor

from purelosses._checks import check_choice, check_number
from purelosses._numerics import safe_divide
from purelosses._types import PyTree
from purelosses.gradients.reading import Gramian, Weights, read, root
from purelosses.gradients.solvers import solve_fair, solve_lcp, solve_within_ball

Scale = Literal["min", "rmse"]


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
    y, residual = solve_lcp(g.definite + t * t.unsqueeze(-1), -t.unsqueeze(0))
    weights = y.squeeze(0).clamp_min(0) * t
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
    x, residual = solve_lcp(g.definite, g.cosines.T)  # row i: what π adds to g_i, in units
    return g.answer((1 + g.inverse * (g.norms @ x)) / len(x), residual)


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
    against = (g.cosines @ relative).unsqueeze(0) / len(relative)
    x, residual = solve_lcp(g.definite, against)
    return g.answer(1 / len(relative) + g.inverse * longest * x.squeeze(0), residual)


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
    gains = g.cosines @ mean
    length = root(mean @ gains)
    t = torch.where(g.alive.any(), safe_divide(g.inverse, g.inverse.amax()), 1.0)
    added, residual = solve_within_ball(g.definite, safe_divide(gains, length), t, c)
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
        {'depth': tensor(0.5000), 'mask': tensor(1.0000)}

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
    x, residual = solve_fair(g.definite + own, relative ** (power - 1), power)
    return g.answer(g.inverse * middle * middle ** (-2 / (1 + power)) * x, residual)


def _equal_shares(g: Gramian) -> Tensor:
    """C⁺ 1: in unit gradients, the direction with the same cosine to every task."""
    # By eigenvalues: with dependent gradients there may be no such direction, but a nearest one.
    symmetric = (g.cosines + g.cosines.T) / 2
    inverse: Tensor = torch.linalg.pinv(symmetric, rtol=g.noise, hermitian=True)
    shares = inverse.sum(-1)
    nothing = shares.abs().sum() <= g.noise * inverse.abs().sum()
    return torch.where(nothing, 0.0, shares)


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
    roots = torch.where(kept, root(eigenvalues), torch.inf)
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
    sigma = root(torch.where(torch.isfinite(square), square, 0.0))
    weights = sigma * (basis @ (inverse_root @ basis.sum(0))) / m
    # Gradients that sum to 0: the ones lie where the eigenvalues are 0, and the rest is rounding.
    nothing = torch.where(kept, basis.sum(0), 0.0).square().sum() <= m * (8 * g.noise) ** 2
    return g.answer(weights, stationary=nothing)


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
        "stationarity": root(square).to(g.dtype),
        "stationary": shortest,
    }

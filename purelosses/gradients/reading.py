"""A Gramian as it comes, taken apart into norms and cosines, and what it says on its own."""

from collections.abc import Callable
from dataclasses import dataclass

import optree
import torch
from torch import Tensor

from purelosses._checks import check_tensor, complain
from purelosses._types import PyTree
from purelosses.gradients.solvers import identity

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
        return torch.add(self.cosines, identity(self.cosines), alpha=self.noise)

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


def root(x: Tensor) -> Tensor:
    """The root of a number that rounding may have made negative; 0, with gradient 0, there."""
    positive = x > 0
    return torch.where(positive, torch.where(positive, x, 1.0).sqrt(), 0.0)

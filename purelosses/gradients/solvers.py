r"""Exact solvers with as many unknowns as there are tasks, in tensors only.

They work on the cosines C of a Gramian, in float64. What a solution rests on, a support or a root,
carries no gradient; the solution that follows from it does.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

# Up to so many unknowns all supports can be tried at once.
ENUMERATED = 8

# From supports of shape (b, m) to numbers of shape (b, m, k), for k problems: the solution x on the
# support, where y = 0, and y outside it, where x = 0. None of them is negative for the right one.
Candidate = Callable[[Tensor], Tensor]


def solve_lcp(C: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    r"""The linear complementarity problem $x \ge 0$, $y = C x + q \ge 0$, $x^\top y = 0$.

    Args:
        C: Positive definite with a diagonal of about 1, shape (m, m).
        q: A problem in each row, shape (k, m), with entries up to about 1.

    Returns:
        x, of shape (k, m), and by how much the worst of its conditions is missed.
    """
    own, opposite = -q, -identity(C)

    def candidate(right: Tensor, support: Tensor) -> Tensor:
        """C x − y = −q, with a column of C for each unknown x and one of −1 for each y."""
        system = torch.where(support.unsqueeze(-2), C, opposite)
        # Not `solve`, which waits for the GPU to say whether a matrix is singular.
        unknown: Tensor = torch.linalg.solve_ex(system, right).result
        return unknown

    def together(supports: Tensor) -> Tensor:
        # Expanded, as vmap does not broadcast the batches of a system and its right-hand sides.
        return candidate(own.T.expand(*supports.shape, -1), supports)

    each = partial(candidate, own.unsqueeze(-1))
    unknown, support = solve_by_support(each, together, q < 0)
    x = torch.where(support, unknown, 0.0)
    return x, residual(x, x @ C.T + q)


def identity(C: Tensor) -> Tensor:
    return torch.eye(C.shape[-1], dtype=C.dtype, device=C.device)


def residual(x: Tensor, y: Tensor) -> Tensor:
    """By how much x ≥ 0, y ≥ 0 and xy = 0 are missed at worst."""
    worst: Tensor = torch.linalg.vector_norm(torch.minimum(x, y).detach(), torch.inf)
    return worst


def every_support(m: int, device: torch.device) -> Tensor:
    """All subsets of m things, shape (2^m, m)."""
    subset, member = torch.arange(2**m, device=device), torch.arange(m, device=device)
    return torch.bitwise_and(subset.unsqueeze(-1) >> member, 1).bool()


def solve_by_support(
    each: Candidate, together: Candidate, support: Tensor
) -> tuple[Tensor, Tensor]:
    """For each of k problems the support where nothing is negative, and the numbers on it: (k, m).

    By block principal pivoting: who is on the wrong side changes sides, all at once, and when that
    has not helped three times in a row, only the last of them, which cannot run in circles (Júdice
    and Pires 1994; Kim and Park 2011). A few rounds are the rule; many are for almost dependent
    gradients. Where nobody may look whether a round was the last one, few unknowns are better
    served by trying all supports.

    Args:
        each: For supports (k, m), one for each problem.
        together: For supports (b, m), each with all k problems.
        support: Where to begin, shape (k, m).
    """
    m = support.shape[-1]
    look = may_look(support)
    if look or m > ENUMERATED:
        for turn in range(2 * m + 8):
            unknown = each(support).squeeze(-1)
            largest = torch.linalg.vector_norm(unknown, torch.inf, -1, keepdim=True)
            wrong = torch.add(unknown, largest, alpha=1e-13) < -1e-13
            if look and not wrong.any():
                return unknown, support
            if turn == 3:
                places = torch.arange(m, device=support.device)
                fewest = torch.full((len(support), 1), m + 1, device=support.device)
                patience = torch.zeros_like(fewest)
            if turn >= 3:
                count = wrong.sum(-1, keepdim=True)
                patience = torch.where(count < fewest, 3, patience - 1)
                fewest = torch.minimum(fewest, count)
                last = places == torch.where(wrong, places, -1).amax(-1, keepdim=True)
                wrong = wrong & (last | (patience >= 0))
            support = support ^ wrong
    if m <= ENUMERATED:
        support = best_support(together, every_support(m, support.device))
    return each(support).squeeze(-1), support


def may_look(x: Tensor) -> bool:
    """Whether to look at values costs nothing: in plain code on the CPU.

    On a GPU it means to wait, and a compiler and vmap have no values. What is seen only ends a loop
    early, when further rounds would change nothing.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    try:
        bool(x.any())
    except RuntimeError:  # a batched, fake or traced tensor
        return False
    return True


def best_support(candidate: Candidate, supports: Tensor) -> Tensor:
    """For each of k problems the one support (of b) that comes nearest to its conditions: (k, m).

    The nearest one, not the first within a tolerance: rounding then needs no allowance.
    """
    least = candidate(supports).amin(-2).detach()
    # A singular system gives NaN, which is as far as can be.
    return supports.index_select(0, least.nan_to_num(nan=-torch.inf).argmax(0))


def solve_within_ball(
    C: Tensor, b: Tensor, t: Tensor, radius: float | Tensor
) -> tuple[Tensor, Tensor]:
    r"""$r \ge 0$ with $r^\top C r = \text{radius}^2$, $y = C r + b - \mu t \ge 0$, $r^\top y = 0$.

    Args:
        C: Positive definite with a diagonal of about 1, shape (m, m).
        b: Shape (m,), with entries up to about 1.
        t: Shape (m,), not negative, with entries up to about 1.
        radius: A number.

    Returns:
        r, of shape (m,), and by how much the worst of its conditions is missed.
    """

    def candidate(support: Tensor) -> Tensor:
        r, y = on_support(C, b, t, radius, support)
        return torch.where(support, r, y).unsqueeze(-1)

    places = torch.arange(len(b), device=b.device)
    first = torch.where(t > 0, b / t, torch.inf).argmin()
    _, support = solve_by_support(candidate, candidate, (places == first).unsqueeze(0))
    r, y = on_support(C, b, t, radius, support)
    return r.squeeze(0), residual(r, y)


def on_support(
    C: Tensor, b: Tensor, t: Tensor, radius: float | Tensor, support: Tensor
) -> tuple[Tensor, Tensor]:
    r"""On supports, $r = \mu p - h$ with $C p = t$, $C h = b$; its length is a quadratic in μ."""
    inside, right = support.unsqueeze(-1), torch.stack([t, b], -1)
    system, right = torch.where(inside, C, identity(C)), torch.where(inside, right, 0.0)
    p, h = torch.linalg.solve_ex(system, right).result.unbind(-1)
    tp, th = p @ t, h @ t
    discriminant = th**2 - tp * (h @ b - radius**2)
    some = discriminant > 0
    root = torch.where(some, torch.where(some, discriminant, 1.0).sqrt(), 0.0)
    # The empty support has no r of this length: 0 / 0 is as far from a solution as can be.
    mu = ((th + root) / tp).unsqueeze(-1)
    r = mu * p - h
    return r, r @ C.T + b - mu * t


# Newton steps are tried at these lengths, as sums and as factors. Long ones save rounds where the
# solution is far out, among gradients that almost cancel; factors, where it is almost 0.
STRIDES = tuple(2.0**k for k in range(6, -10, -1))


def solve_fair(C: Tensor, s: Tensor, power: float | Tensor) -> tuple[Tensor, Tensor]:
    r"""x > 0 with $C x = s\,x^{-p}$: the least of the convex $x^\top C x / 2 - \sum s \int x^{-p}$.

    Args:
        C: Positive semidefinite with a diagonal of 1, shape (m, m).
        s: Positive, shape (m,).
        power: p, a positive number.

    Returns:
        x, of shape (m,), and the largest relative difference of the two sides.
    """
    fixed, scale, p = C.detach(), s.detach(), _detached(power)
    strides = torch.tensor(STRIDES, dtype=C.dtype, device=C.device).unsqueeze(-1)
    x = scale ** (1 / (1 + p))  # the solution for orthogonal gradients
    look = may_look(x > 0)
    for _ in range(24):
        pull = scale * x**-p
        step = -newton_step(fixed, pull, x, p, fixed @ x - pull)
        shrinking = (-step / x).amax()
        # At most 95 % of the way to where some x would be 0.
        reach = torch.where(shrinking > 0, 0.95 / shrinking.clamp_min(1e-300), torch.inf)
        added = x + torch.minimum(strides, reach) * step
        multiplied = x * (strides * step / x).clamp(-60, 60).exp()
        tried = torch.cat([added, multiplied])
        # Divided by a constant, the error falls along the step.
        distance = ((tried @ fixed.T - scale * tried**-p) / pull).square().sum(-1)
        distance = torch.where(torch.isfinite(distance), distance, torch.inf)
        x = tried.index_select(0, distance.argmin(0, keepdim=True)).squeeze(0)
        if look and not (imbalance(fixed, x, scale * x**-p) > 1e-12).any():
            break
    # One more step, from a constant: too short to matter, but its derivative is the one that the
    # implicit function theorem gives.
    pull = s * x**-power
    x = x - newton_step(fixed, pull.detach(), x, p, C @ x - pull)
    return x, imbalance(C, x, s * x**-power).amax().detach()


def newton_step(C: Tensor, pull: Tensor, x: Tensor, power: float | Tensor, error: Tensor) -> Tensor:
    step: Tensor = torch.linalg.solve_ex(C + torch.diag(power * pull / x), error).result
    return step


def imbalance(C: Tensor, x: Tensor, pull: Tensor) -> Tensor:
    return (C @ x - pull).abs() / (C.abs() @ x + pull)


def _detached(number: float | Tensor) -> float | Tensor:
    return number.detach() if isinstance(number, Tensor) else number

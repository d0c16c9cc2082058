r"""Exact solvers with as many unknowns as there are tasks, in tensors only.

They work on the cosines C of a Gramian, in float64. What a solution rests on, a support or a root,
carries no gradient; the solution that follows from it does.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Up to so many unknowns all supports can be tried at once.
ENUMERATED = 8

# From supports to numbers: the solution x on a support, where y = 0, and y outside it, where x = 0.
# None of them is negative for the right one.
Candidate = Callable[[Tensor], Tensor]


def solve_lcp(C: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    r"""The linear complementarity problem $x \ge 0$, $y = C x + q \ge 0$, $x^\top y = 0$.

    Args:
        C: Positive definite with a diagonal of about 1, shape (m, m).
        q: A problem in each row, shape (k, m), with entries up to about 1.

    Returns:
        x, of shape (k, m), and by how much the worst of its conditions is missed.
    """
    opposite = -identity(C)
    own, common = -q.unsqueeze(-1), -q.T.unsqueeze(0)

    def each(support: Tensor) -> Tensor:
        """C x − y = −q, with a column of C for each unknown x and one of −1 for each y."""
        return solve(torch.where(support.unsqueeze(-2), C, opposite), own).squeeze(-1)

    def together(support: Tensor) -> Tensor:
        return solve(torch.where(support.unsqueeze(-2), C, opposite), common)

    unknown, support = solve_by_support(each, together, q < 0)
    x = torch.where(support, unknown, 0.0)
    return x, residual(x, x @ C.T + q)


def solve(system: Tensor, right: Tensor) -> Tensor:
    # Not torch's `solve`, which waits for the GPU to say whether a matrix is singular.
    x: Tensor = torch.linalg.solve_ex(system, right).result
    return x


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
        each: From supports (k, m), one for each problem, to (k, m).
        together: From supports (b, m), each for all k problems, to (b, m, k).
        support: Where to begin, shape (k, m).
    """
    m = support.shape[-1]
    look = may_look(support)
    rounding = torch.full((), -1e-13, dtype=torch.float64, device=support.device)
    if look or m > ENUMERATED:
        for turn in range(2 * m + 8):
            unknown = each(support)
            largest = torch.linalg.vector_norm(unknown, torch.inf, -1, keepdim=True)
            wrong = unknown < torch.addcmul(rounding, rounding, largest)
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
    return each(support), support


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
    right, opposite = torch.stack([t, b], -1).unsqueeze(0), -identity(C)
    # Tensors, not numbers: so small a thing costs torch a third of the time.
    radius = torch.as_tensor(radius, dtype=C.dtype, device=C.device)
    nothing, square = torch.zeros_like(radius), radius * radius

    def candidate(support: Tensor) -> Tensor:
        """On a support r = μp − h with C p = t and C h = b, whose length is a quadratic in μ."""
        both = solve(torch.where(support.unsqueeze(-2), C, opposite), right)
        products = right.mT @ torch.where(support.unsqueeze(-1), both, nothing)
        tp, th, _, bh = products.flatten(-2).unbind(-1)
        # Not at least 0, where the derivative of the root would be infinite.
        discriminant = torch.addcmul(th * th, tp, square - bh).clamp_min(1e-300)
        # The empty support has no r of this length: 1 / 0 is as far from a solution as can be.
        mu = (th + discriminant.sqrt()) / tp
        p, h = both.unbind(-1)
        return mu.unsqueeze(-1) * p - h

    # The best alone, and whom it harms.
    first = torch.where(t > 0, b / t, torch.inf).argmin(0, keepdim=True)
    cosines, pull, its = (x.index_select(0, first) for x in (C, b, t))
    harmed = radius * cosines + b < (radius + pull) / its * t
    alone = torch.arange(len(b), device=b.device) == first
    unknown, support = solve_by_support(
        candidate, lambda support: candidate(support).unsqueeze(-1), harmed | alone
    )
    r, its = torch.where(support, torch.cat([unknown, t.unsqueeze(0)]), nothing)
    pull = torch.addmv(b, C, r)
    return r, residual(r, torch.addcmul(pull, t, -(pull @ its) / (t @ its)))


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
    return solve(C + torch.diag(power * pull / x), error)


def imbalance(C: Tensor, x: Tensor, pull: Tensor) -> Tensor:
    return (C @ x - pull).abs() / (C.abs() @ x + pull)


def _detached(number: float | Tensor) -> float | Tensor:
    return number.detach() if isinstance(number, Tensor) else number

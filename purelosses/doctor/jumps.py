"""L23: jumps of the loss, found by bisection along random lines, and the decision that flips."""

import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from purelosses.doctor.report import Finding, finding
from purelosses.doctor.severed import output_of, straight_through
from purelosses.doctor.subject import Run, Subject
from purelosses.doctor.trace import Node

POINTS, HALVINGS, LINES = 25, 30, 4


def discontinuity(subject: Subject, run: Run, budget: float = 0.25) -> Iterator[Finding]:
    assert run.trace is not None
    decided = any(n.decides for n in run.trace.nodes) or run.trace.branches
    if not subject.predictions or not decided or not bool(run.gradient.any()):
        return
    if straight_through(subject, run):
        return
    # Jumps in what gets no gradient on purpose (a teacher, a pseudo-label) are not rattled on.
    reached = [
        i
        for i, g in zip(subject.predictions, run.gradients, strict=False)
        if g is not None and bool(g.any())
    ]
    subject = replace(subject, predictions=tuple(reached))
    started = time.perf_counter()
    for seed in range(LINES):
        found = _along(subject, seed)
        if found is not None:
            low, high, jump, reach = found
            node = _flipped(subject, seed, low, high)
            named = f"`{node.name}` flips" if node else "something flips"
            message = (
                f"The loss jumps by {jump:.3g} where {named}, {jump / reach:.0%} of how it changes "
                "along a line."
            )
            severe = jump > 0.01 * reach
            site = node.site if node else None
            yield finding("L23", message, site, "warning" if severe else "advice")
            return
        if time.perf_counter() - started > budget:
            return


def _at(subject: Subject, seed: int, t: float) -> Subject:
    generator = torch.Generator().manual_seed(seed)
    moved: dict[int, Tensor] = {}
    for i in subject.predictions:
        x = subject.leaves[i].double()
        step = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        if subject.kind in ("probabilities", "masks"):
            other = torch.rand(x.shape, generator=generator, dtype=torch.float64)
            moved[i] = x + t * (other - x)
        elif subject.kind == "boxes":
            low, size = step.chunk(2, -1)
            other = torch.cat([low, low + 0.1 + size.abs()], -1)
            moved[i] = x + t * float(x.std()) * (other - x)
        else:
            moved[i] = x + 2 * t * float(x.std() if x.numel() > 1 else 1.0) * step
    return subject.having(moved)


def _value(subject: Subject, seed: int, t: float) -> float:
    run = _at(subject, seed, t).run(gradient=False, dtype=torch.float64)
    return run.number if run.error is None and run.value is not None else float("nan")


def _along(subject: Subject, seed: int) -> tuple[float, float, float, float] | None:
    """An interval that still holds a jump when it is 2^-30 of a step, the jump, and the range."""
    grid = [i / (POINTS - 1) for i in range(POINTS)]
    values = [_value(subject, seed, t) for t in grid]
    if any(v != v or abs(v) == float("inf") for v in values):
        return None
    reach = max(values) - min(values)
    if reach <= 1e-9 * max(map(abs, values)):
        return None
    # The steps that differ most from their neighbours, of which a smooth loss has none.
    steps = [b - a for a, b in pairwise(values)]
    bends = []
    for i, step in enumerate(steps):
        around = steps[max(i - 1, 0) : i] + steps[i + 1 : i + 2]
        bends.append((abs(step - sum(around) / max(len(around), 1)), i))
    for _, i in sorted(bends, reverse=True)[:3]:
        low, high, a, b = grid[i], grid[i + 1], values[i], values[i + 1]
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            m = _value(subject, seed, middle)
            if m != m:
                break
            if abs(m - a) >= abs(b - m):
                high, b = middle, m
            else:
                low, a = middle, m
            if abs(b - a) < 1e-4 * reach:
                break
        if abs(b - a) > 1e-3 * reach:
            return low, high, abs(b - a), reach
    return None


def _flipped(subject: Subject, seed: int, low: float, high: float) -> Node | None:
    """The first decision that differs on both sides."""
    before = _at(subject, seed, low).trace(dtype=torch.float64, gradient=False)
    after = _at(subject, seed, high).trace(dtype=torch.float64, gradient=False)
    assert before.trace is not None
    assert after.trace is not None
    for a, b in zip(before.trace.branches, after.trace.branches, strict=False):
        if a.value != b.value:
            made = before.trace.nodes[a.inputs[0]] if a.inputs else a
            return made
    for a, b in zip(before.trace.nodes, after.trace.nodes, strict=False):
        if a.name == b.name and a.decides and not _same(a.value, b.value):
            return a
    return output_of(before)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.detach(), b.detach())

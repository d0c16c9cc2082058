"""Clauses R: reductions, weights and masks."""

from collections.abc import Iterator
from functools import partial
from itertools import product

import optree
import torch
from torch import Tensor

from purelosses.laws.core import (
    Check,
    NotApplicable,
    Subject,
    close,
    law,
    ordinary,
    raises,
    same,
    true,
    zero,
)
from purelosses.registry import Array, Problem


def counted_units(problem: Problem) -> Tensor:
    """Which units count: those that `where` leaves any input of, and that the loss selects."""
    case = problem.case
    assert case.unit is not None
    units = case.unit.split()
    shape = problem.tensors["weights"].shape
    if case.present is not None:
        return case.present(problem)
    where = problem.tensors.get("where")
    if where is None:
        return torch.ones(shape, dtype=torch.bool)
    axes = list(case.arrays["where"].names)
    for axis in [axis for axis in axes if axis not in units]:
        where = where.any(axes.index(axis))
        axes.remove(axis)
    for position, axis in enumerate(units):
        if axis not in axes:
            where = where.unsqueeze(position)
    return where.expand(shape)


@law("R1", "'sum' adds 'none', 'mean' divides by the count, 'weighted_mean' by the weight.")
def _(subject: Subject) -> Iterator[Check]:
    subject.reductions()
    has_where = subject.case.where is not None
    for masked in (False, True) if has_where else (False,):
        problem = subject.case.problem(2, where=masked, weights=True)
        losses = subject.value(problem, reduction="none")
        counts = counted_units(problem)
        outside = torch.where(counts, 0.0, losses)
        yield same("losses of units that do not count", outside, torch.zeros_like(losses))
        weights = problem.tensors["weights"]
        mass = weights if subject.case.mass is None else weights * subject.case.mass(problem)
        mass = torch.where(counts, mass, 0.0).sum()
        total = losses.double().sum()
        for reduction, expected in (
            ("sum", total),
            ("mean", total / counts.sum()),
            ("weighted_mean", total / mass.double()),
        ):
            value = subject.value(problem, reduction=reduction)
            yield close(reduction, value, expected, rtol=1e-5, atol=1e-6)
        unweighted = problem.having(weights=torch.ones_like(weights))
        plain = subject.value(unweighted, reduction="none")
        yield close("weights multiply", losses, plain * weights, rtol=1e-5, atol=1e-7)
    nothing = problem.having(weights=torch.zeros_like(weights))
    for reduction in ("sum", "mean", "weighted_mean"):
        yield from zero(f"{reduction} without weight", subject, nothing, reduction=reduction)


@law("R2", "Another reduction raises ValueError that names the allowed ones.")
def _(subject: Subject) -> Iterator[Check]:
    allowed = subject.reductions()
    problem = subject.case.problem(0)
    for bad in ("avarage", "Mean", None):
        yield raises(
            f"reduction={bad!r}",
            (ValueError,),
            partial(subject.value, problem, reduction=bad),
            *map(repr, allowed),
        )


@law("R3", "The result is 0-dimensional, and 'none' returns the documented unit.")
def _(subject: Subject) -> Iterator[Check]:
    for problem in ordinary(subject):
        for reduction in ("mean", "weighted_mean", "sum") if subject.case.unit is not None else ():
            value = subject.value(problem, reduction=reduction)
            yield Check(f"axes of the {reduction}", float(value.ndim))
        yield Check("axes of the loss", float(subject.value(problem).ndim))
    if subject.case.unit is not None:
        shape = subject.case.problem(0, weights=True).tensors["weights"].shape
        losses = subject.value(subject.case.problem(0), reduction="none")
        yield true(f"none has shape {tuple(losses.shape)}", losses.shape == shape)


def poison(problem: Problem, garbage: float) -> Problem:
    """Garbage under everything that `where` excludes."""
    where, axes = problem.tensors["where"], problem.case.arrays["where"].names

    def spoil(x: Tensor, array: Array) -> Tensor:
        if array.domain == "where" or any(axis not in array.names for axis in axes):
            return x
        mask = where
        for position, axis in enumerate(array.names):
            if axis not in axes:
                mask = mask.unsqueeze(position)
        wrong = garbage
        if array.domain == "labels":
            wrong = 255 if garbage != garbage else -1
        return torch.where(mask, x, torch.full_like(x, wrong))

    return problem.map(spoil)


@law("R4", "What `where` excludes has no influence, whatever it is, as if it were cropped away.")
def _(subject: Subject) -> Iterator[Check]:
    axes = subject.where_axes()
    for weighted, reduction in product((False, True), subject.reductions()):
        problem = subject.case.problem(3, where=True, weights=weighted)
        value, gradients = subject.differentiate(problem, reduction=reduction)
        for garbage in (torch.nan, torch.inf, -torch.inf, 1e30):
            spoilt = poison(problem, garbage)
            poisoned, spoilt_gradients = subject.differentiate(spoilt, reduction=reduction)
            yield same(f"{reduction} with {garbage} under the mask", poisoned, value)
            for name, gradient in spoilt_gradients.items():
                yield same(f"gradient of {name}, {garbage} masked", gradient, gradients[name])
        for name, gradient in gradients.items():
            outside = gradient - poison(problem.having(**{name: gradient}), 0.0).tensors[name]
            yield same(f"gradient of masked {name}", outside, torch.zeros_like(outside))
        if reduction == "none":
            continue
        for axis in axes:
            # Exclude the last entry along an axis, and compare with the problem without it.
            whole = subject.case.problem(4, where=True, weights=weighted)
            where = whole.tensors["where"]
            position = axes.index(axis)
            kept = torch.arange(where.shape[position] - 1)
            keep = torch.zeros_like(where).index_fill(position, kept, True)
            cropped = whole.having(where=torch.ones_like(where)).take(axis, kept)
            yield close(
                f"{reduction} with the last {axis} excluded",
                subject.value(whole.having(where=keep), reduction=reduction),
                subject.value(cropped, reduction=reduction),
                rtol=1e-5,
                atol=1e-7,
            )


@law("R5", "A weight of k equals repeating the unit k times, a weight of 0 its absence.")
def _(subject: Subject) -> Iterator[Check]:
    subject.reductions()
    assert subject.case.unit is not None
    if "B" not in subject.case.unit.split():
        raise NotApplicable("its unit spans the batch, so no single unit can be repeated")
    problem = subject.case.problem(5, weights=True)
    batch = problem.tensors["weights"].shape[0]
    times = torch.tensor([2, 0, 3, 1] * batch)[:batch]
    shape = [-1] + [1] * (problem.tensors["weights"].ndim - 1)
    weighted = problem.having(weights=times.reshape(shape).expand_as(problem.tensors["weights"]))
    index = torch.arange(batch).repeat_interleave(times)
    repeated = problem.having(weights=torch.ones_like(problem.tensors["weights"])).take("B", index)
    for reduction in ("sum", "weighted_mean"):
        yield close(
            reduction,
            subject.value(weighted, reduction=reduction),
            subject.value(repeated, reduction=reduction),
            rtol=1e-5,
        )


@law("R6", "The sum is additive over the batch, or the loss has statistics that are.")
def _(subject: Subject) -> Iterator[Check]:
    subject.reductions()
    subject.batched()
    has_where = subject.case.where is not None
    problem = subject.case.problem(6, where=has_where, dtype=torch.float64)
    halves = torch.arange(problem.case.sizes["B"]).tensor_split(2)
    if subject.case.separable:
        parts = [subject.value(problem.take("B", half), reduction="sum") for half in halves]
        whole = subject.value(problem, reduction="sum")
        yield close("sum over parts", torch.stack(parts).sum(), whole, rtol=1e-12)
        return
    if subject.spec.statistics is None:
        yield Check("it is not separable and has no statistics", 1.0)
        return
    statistics, finish = subject.spec.statistics

    def accumulated(*tensors: Tensor) -> Tensor:
        given = problem.having(**dict(zip(problem.differentiable, tensors, strict=True)))
        sums = [given.take("B", half)(statistics) for half in halves]
        return finish(optree.tree_map(lambda *x: torch.stack(x).sum(0), *sums), problem.options)

    inputs = tuple(problem.tensors[k] for k in problem.differentiable)
    positions = tuple(range(len(inputs)))
    parts_gradient, total = torch.func.grad_and_value(accumulated, positions)(*inputs)
    gradient, value = torch.func.grad_and_value(subject.function(problem), positions)(*inputs)
    yield close("loss of added statistics", total, value, rtol=1e-12)
    for mine, whole in zip(parts_gradient, gradient, strict=True):
        yield close("gradient through added statistics", mine, whole, rtol=1e-10, atol=1e-15)

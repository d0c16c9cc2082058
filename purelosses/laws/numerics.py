"""Clauses N: accuracy, against float64 on the same (rounded) inputs."""

from collections.abc import Iterator

import torch
from torch import Tensor

from purelosses.laws.core import (
    Check,
    Subject,
    law,
    ordinary,
    true,
    with_options,
)
from purelosses.registry import Array, Case, Domain, Problem


def exact(problem: Problem) -> Problem:
    return with_options(problem, lambda x: x.double() if x.is_floating_point() else x)


def against_float64(
    subject: Subject,
    problem: Problem,
    value_limit: float,
    gradient_limit: float | None,
    *,
    autocast: bool = False,
) -> Iterator[Check]:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value, gradients = subject.differentiate(problem)
    reference, exact_gradients = subject.differentiate(exact(problem))
    yield true(f"the loss is {value.dtype}", value.dtype == torch.float32)
    error = float((value.double() - reference).abs() / reference.abs().clamp_min(0.01))
    yield Check("relative error of the value", error, value_limit)
    if gradient_limit is None:
        return
    for name, gradient in gradients.items():
        yield true(f"gradient of {name} keeps dtype", gradient.dtype == problem.tensors[name].dtype)
        truth = exact_gradients[name]
        error = float((gradient.double() - truth).norm() / truth.norm().clamp_min(1e-30))
        yield Check(f"relative error of the gradient of {name}", error, gradient_limit)


def large(subject: Subject, dtype: torch.dtype) -> Problem:
    """A problem whose prediction has about 1e5 elements."""
    subject.batched()
    per_sample = (
        subject.case.problem(0).tensors[subject.prediction].numel() // subject.case.sizes["B"]
    )
    return subject.case.problem(0, dtype=dtype, sizes={"B": 100_000 // per_sample})


@law("N1", "float32: value within 2e-6, gradient within 1e-5 of float64.")
def _(subject: Subject) -> Iterator[Check]:
    for problem in ordinary(subject):
        yield from against_float64(subject, problem, 2e-6, 1e-5)


@law("N2", "float32, 1e5 elements: value within 1e-5 of float64.")
def _(subject: Subject) -> Iterator[Check]:
    yield from against_float64(subject, large(subject, torch.float32), 1e-5, None)


@law("N3", "bfloat16: computed in float32, value within 2e-6, gradient within 4e-3.")
def _(subject: Subject) -> Iterator[Check]:
    for problem in ordinary(subject, dtype=torch.bfloat16):
        yield from against_float64(subject, problem, 2e-6, 4e-3)


@law("N4", "float16: computed in float32, value within 2e-6, gradient within 1e-3.")
def _(subject: Subject) -> Iterator[Check]:
    for problem in ordinary(subject, dtype=torch.float16):
        yield from against_float64(subject, problem, 2e-6, 1e-3)


@law("N5", "Half precision, 1e5 elements: value within 2e-6 and finite.")
def _(subject: Subject) -> Iterator[Check]:
    for dtype in (torch.float16, torch.bfloat16):
        yield from against_float64(subject, large(subject, dtype), 2e-6, None)


@law("N6", "Under autocast: value within 2e-6, gradient within 1e-5.")
def _(subject: Subject) -> Iterator[Check]:
    for problem in ordinary(subject):
        yield from against_float64(subject, problem, 2e-6, 1e-5, autocast=True)


LARGEST = torch.finfo(torch.float32).max
HOSTILE: dict[Domain, tuple[float, ...]] = {
    "real": (0.0, 1e-30, -1e-30, 1e-8, 1.0, -1.0, 17.0, -88.0, 1e4, -1e15, 1e30),
    "positive": (1e-30, 1e-8, 1.0, 88.0, 1e4, 1e15),
    "counts": (0.0, 1.0, 2.0, 17.0, 1e4),
    "log_scale": (0.0, 1e-30, -1e-8, 1.0, -1.0, 17.0, -17.0, 40.0, -40.0),
    "logits": (0.0, 1e-30, -1e-8, 1.0, -1.0, 17.0, -17.0, 40.0, -40.0, 88.0, -88.0, 1e4, -1e4),
    "class_logits": (0.0, 1e-30, -1e-8, 1.0, -1.0, 17.0, 40.0, -40.0, 88.0, -88.0, 1e4, -1e4),
    "unit": (0.0, 1e-30, 1e-8, 0.5, 1 - 2**-24, 1.0),
    # Neighbours among floats, so that boxes are alike but for rounding.
    "boxes": (
        0.0,
        1e-8,
        0.1,
        0.1 + 2**-27,
        0.9,
        0.9 + 2**-24,
        1.0,
        1.0 + 2**-23,
        1e3,
        1e3 + 2**-14,
    ),
}


def per_unit(case: Case, name: str, holds: Tensor) -> Tensor:
    """Whether something holds for all entries of a tensor that belong to a unit."""
    units = (case.unit or "").split()
    names = list(case.arrays[name].names)
    for axis in [axis for axis in names if axis not in units]:
        holds = holds.all(names.index(axis))
        names.remove(axis)
    for position, axis in enumerate(units):
        if axis not in names:
            holds = holds.unsqueeze(position)
    return holds


@law("N7", "float32 on a hostile grid: every loss within 2e-6, relative to itself.")
def _(subject: Subject) -> Iterator[Check]:
    subject.holding(*HOSTILE)
    floor = subject.spec.accuracy_floor[0] if subject.spec.accuracy_floor else 1e-36
    options = {"reduction": "none"} if subject.case.unit is not None else {}
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)

        def pick(x: Tensor, array: Array, generator: torch.Generator = generator) -> Tensor:
            grid = torch.tensor(HOSTILE[array.domain])
            return grid[torch.randint(len(grid), x.shape, generator=generator)]

        problem = subject.case.problem(seed)
        for name, array in problem.case.arrays.items():
            own = subject.spec.parameters and name.split(".")[0] == subject.spec.parameters
            if name in problem.tensors and array.domain in HOSTILE and not own:
                problem = problem.having(**{name: pick(problem.tensors[name], array)})
        value = subject.value(problem, **options)
        truth = subject.value(exact(problem), **options)
        fits = truth.abs() < LARGEST
        error = (value.double() - truth).abs() / truth.abs().clamp_min(floor)
        worst = float(torch.where(fits, error, 0.0).max())
        yield Check("relative error", worst, 2e-6)
        # Gradients are judged on the units of which loss and gradient can be represented, with
        # room for a factor on the way.
        if subject.case.where is not None and subject.case.where == subject.case.unit:
            _, gradients = subject.differentiate(exact(problem.having(where=fits)), **options)
            for name, gradient in gradients.items():
                fits = fits & per_unit(subject.case, name, gradient.abs() < LARGEST / 16)
            problem = problem.having(where=fits)
        if fits.all() or "where" in problem.tensors:
            _, gradients = subject.differentiate(problem, **options)
            for name, gradient in gradients.items():
                bad = float((~gradient.isfinite()).sum())
                yield Check(f"gradients of {name} that are not finite", bad)

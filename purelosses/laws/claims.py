"""Clauses C: what a loss claims of itself in the registry."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import torch

from purelosses.laws.core import (
    Check,
    NotApplicable,
    Subject,
    close,
    each_close,
    law,
    ordinary,
    replacing,
    same,
)
from purelosses.registry import Problem


@law("C1", "The loss stays within its declared bounds.")
def _(subject: Subject) -> Iterator[Check]:
    subject.claims("bounded", subject.spec.bounded)
    low, high = subject.spec.bounded or (0.0, 0.0)
    for seed in range(10):
        value = float(subject.value(subject.case.problem(seed)))
        yield Check("below the lower bound by", low - value, 1e-7)
        yield Check("above the upper bound by", value - high if high < torch.inf else 0.0, 1e-7)


def segment(subject: Subject, seed: int) -> tuple[Problem, Problem]:
    """Two problems that differ in the prediction alone."""
    problem, other = subject.case.problem(seed), subject.case.problem(seed + 100)
    return problem, replacing(problem, subject.prediction, other.tensors[subject.prediction])


def between(subject: Subject, a: Problem, b: Problem, t: float) -> Problem:
    name = subject.prediction
    return replacing(a, name, torch.lerp(a.tensors[name], b.tensors[name], t))


@law("C2", "The loss is convex in the prediction.")
def _(subject: Subject) -> Iterator[Check]:
    subject.claims("convex", subject.spec.convex)
    for seed in range(10):
        a, b = segment(subject, seed)
        chord = (subject.value(a) + subject.value(b)) / 2
        excess = float(subject.value(between(subject, a, b, 0.5)) - chord)
        yield Check("middle above the chord by", excess, 1e-6)


@law("C3", "Prediction and target can be exchanged.")
def _(subject: Subject) -> Iterator[Check]:
    subject.claims("symmetric", subject.spec.symmetric)
    problem = subject.case.problem(0)
    names = (subject.prediction, subject.targets[-1])
    one, two = (problem.tensors[k] for k in names)
    swapped = problem.having(**{names[0]: two.to(one.dtype), names[1]: one})
    yield close("exchanged", subject.value(swapped), subject.value(problem), rtol=1e-6)


@law("C4", "Moving away from a perfect prediction costs more.")
def _(subject: Subject) -> Iterator[Check]:
    subject.claims("monotone", subject.spec.monotone)
    assert subject.spec.perfect is not None
    for seed in range(5):
        problem = subject.case.problem(seed)
        best = subject.spec.perfect(problem)
        if best is None:
            raise NotApplicable("a soft target has no perfect prediction")
        steps = [between(subject, best, problem, t) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
        values = torch.stack([subject.value(step) for step in steps])
        yield Check("a step away gains", float((values[:-1] - values[1:]).max()), 1e-6)


@law("C5", "Scaling prediction and target scales the loss by the declared power.")
def _(subject: Subject) -> Iterator[Check]:
    degree = subject.spec.homogeneous
    subject.claims("homogeneous", degree is not None)
    problem = subject.case.problem(0)
    for factor in (1e-4, 3.0, 1e4):
        scaled = problem.having(**{k: x * factor for k, x in problem.tensors.items()})
        expected = subject.value(problem) * factor**degree  # type: ignore[operator]
        yield close(f"scaled by {factor}", subject.value(scaled), expected, rtol=1e-5)


@law("C6", "The order along the declared axes does not matter.")
def _(subject: Subject) -> Iterator[Check]:
    names = {name for array in subject.case.arrays.values() for name in array.names}
    axes = [axis for axis in subject.spec.permutable.split() if axis in names]
    subject.claims("invariant to permutations", axes)
    masked = subject.case.where is not None
    problem = subject.case.problem(0, where=masked, weights=subject.case.unit is not None)
    for axis in axes:
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(subject.case.sizes[axis], generator=generator)
        shuffled = subject.value(problem.take(axis, order))
        yield close(f"shuffled along {axis}", shuffled, subject.value(problem), rtol=1e-5)


@law("C7", "At the declared options the loss is the declared other one, in value and gradient.")
def _(subject: Subject) -> Iterator[Check]:
    claims = [c for c in subject.spec.equals if not c.cases or subject.case.name in c.cases]
    subject.claims("equal to another loss at some options", claims)
    for claim, problem in product(claims, ordinary(subject)):
        options = {**problem.options, **claim.options}
        given = Problem(problem.case, problem.tensors, options)
        other = Subject(replace(subject.spec, loss=claim.other), subject.case)
        value, gradients = subject.differentiate(given)
        expected, expected_gradients = other.differentiate(given)
        yield close(claim.text, value, expected, rtol=1e-5, atol=1e-7)
        yield from each_close(claim.text, gradients, expected_gradients, 1e-4, 1e-7)


@law("C8", "No gradient flows into the declared arguments.")
def _(subject: Subject) -> Iterator[Check]:
    subject.claims("free of gradient in any argument", subject.spec.stop_gradient)
    _, gradients = subject.differentiate(subject.case.problem(0))
    for name in subject.spec.stop_gradient:
        gradient = gradients[name]
        yield same(f"gradient of {name}", gradient, torch.zeros_like(gradient))

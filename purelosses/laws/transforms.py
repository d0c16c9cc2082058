"""Clauses T: every transform of torch.func, and derivatives against finite differences."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from purelosses.laws.core import (
    Check,
    NotApplicable,
    Subject,
    close,
    each_close,
    inputs,
    law,
    ordinary,
    positions,
    total,
    true,
)
from purelosses.registry import Problem
from purelosses.transform import per_sample


def stacked(problems: list[Problem]) -> Problem:
    """Several problems as one whose tensors have a new first axis."""
    names = problems[0].tensors
    tensors = {k: torch.stack([problem.tensors[k] for problem in problems]) for k in names}
    return problems[0].having(**tensors)


def mapped(subject: Subject, problem: Problem, call: Callable[[Problem], Any]) -> Any:
    """`call` under vmap over the first axis of every tensor of a problem."""
    names = list(problem.tensors)

    def one(*tensors: Tensor) -> Any:
        return call(problem.having(**dict(zip(names, tensors, strict=True))))

    return torch.vmap(one)(*problem.tensors.values())


@law("T1", "func.grad equals backward.")
def _(subject: Subject) -> Iterator[Check]:
    for problem in ordinary(subject):
        _, gradients = subject.differentiate(problem)
        function = torch.func.grad(subject.function(problem), positions(problem))
        by_transform = dict(zip(gradients, function(*inputs(problem)), strict=True))
        yield from each_close("gradient", by_transform, gradients, rtol=1e-6, atol=1e-8)


def family_of_problems(subject: Subject) -> list[list[Problem]]:
    """Lists of three problems each: plain, and with `where` and `weights`."""
    rows = [[subject.case.problem(seed) for seed in range(3)]]
    if subject.case.unit is not None:
        masked = subject.case.where is not None
        rows.append([subject.case.problem(s, where=masked, weights=True) for s in range(3)])
    return rows


@law("T2", "vmap equals a loop, and per_sample maps tensor keywords too.")
def _(subject: Subject) -> Iterator[Check]:
    for problems in family_of_problems(subject):
        loop = torch.stack([subject.value(problem) for problem in problems])
        together = mapped(subject, stacked(problems), subject.value)
        yield close("vmap", together, loop, rtol=1e-5, atol=1e-6)
        problem = problems[0]
        arrays = [problem.case.arrays[k] for k in problem.tensors]
        if all(array.names[:1] == ("B",) for array in arrays):
            batch = range(problem.case.sizes["B"])
            singles = [problem.take("B", torch.tensor([i])) for i in batch]
            loop = torch.stack([subject.value(single) for single in singles])
            data, keywords = problem.arguments
            options = {k: v for k, v in keywords.items() if k in problem.options}
            tensors = {k: v for k, v in keywords.items() if k not in problem.options}
            loss = per_sample(partial(subject.spec.loss, **options))
            yield close("per_sample", loss(*data, **tensors), loop, rtol=1e-5, atol=1e-6)


@law("T3", "vmap of the gradient equals a loop.")
def _(subject: Subject) -> Iterator[Check]:
    for problems in family_of_problems(subject):

        def gradient(problem: Problem) -> tuple[Tensor, ...]:
            function = torch.func.grad(subject.function(problem), positions(problem))
            result: tuple[Tensor, ...] = function(*inputs(problem))
            return result

        loop = [torch.stack(x) for x in zip(*map(gradient, problems), strict=True)]
        together = mapped(subject, stacked(problems), gradient)
        for name, a, b in zip(problems[0].differentiable, together, loop, strict=True):
            yield close(f"gradient of {name}", a, b, rtol=1e-4, atol=1e-6)


@law("T4", "Forward mode agrees with reverse mode, in value and in precision.")
def _(subject: Subject) -> Iterator[Check]:
    for problem in ordinary(subject, dtype=torch.float64):
        derivative = slope(subject, problem)[1]
        tangents = directions(problem)
        gradient = torch.func.grad(subject.function(problem), positions(problem))(*inputs(problem))
        product = sum((g * t).sum() for g, t in zip(gradient, tangents, strict=True))
        yield close("jvp", derivative, torch.as_tensor(product), rtol=1e-3, atol=1e-9)
    for problem in ordinary(subject):
        value, derivative = slope(subject, problem)
        what = f"jvp in the dtype of the loss: {derivative.dtype} of {value.dtype}"
        yield true(what, derivative.dtype == value.dtype)


def directions(problem: Problem) -> tuple[Tensor, ...]:
    """Tangents of the differentiable tensors, in their dtypes."""
    dtype = inputs(problem)[0].dtype
    return inputs(problem.case.problem(9, dtype=dtype))


def slope(subject: Subject, problem: Problem) -> tuple[Tensor, Tensor]:
    """The loss and its derivative along the tangents, by forward mode."""
    found = torch.func.jvp(subject.function(problem), inputs(problem), directions(problem))
    return found[0], found[1]


SMALL = {"B": 2, "C": 3, "H": 2, "W": 2, "N": 2}


@law("T5", "Forward over reverse equals reverse over reverse.")
def _(subject: Subject) -> Iterator[Check]:
    subject.twice_differentiable()
    problem = small(subject)
    function, at = subject.function(problem), positions(problem)
    reverse = torch.func.jacrev(function, at)
    forward_reverse = torch.func.jacfwd(reverse, at)(*inputs(problem))
    reverse_reverse = torch.func.jacrev(reverse, at)(*inputs(problem))
    for row_a, row_b in zip(forward_reverse, reverse_reverse, strict=True):
        for a, b in zip(row_a, row_b, strict=True):
            yield close("second derivative", a, b, rtol=1e-3, atol=1e-4)


def small(subject: Subject) -> Problem:
    """A problem with few elements, in float64, for derivatives by differences."""
    sizes = {k: min(n, SMALL.get(k, n)) for k, n in subject.case.sizes.items()}
    masked = subject.case.where is not None
    return subject.case.problem(7, dtype=torch.float64, where=masked, sizes=sizes)


@law("T6", "The gradient equals finite differences in float64.")
def _(subject: Subject) -> Iterator[Check]:
    problem = small(subject)
    leaves = tuple(x.clone().requires_grad_() for x in inputs(problem))
    with_forward = torch.autograd.gradcheck(
        subject.function(problem), leaves, check_forward_ad=True, raise_exception=True
    )
    yield true("gradcheck", with_forward)


@law("T7", "The second derivative equals finite differences in float64.")
def _(subject: Subject) -> Iterator[Check]:
    subject.twice_differentiable()
    problem = small(subject)
    leaves = tuple(x.clone().requires_grad_() for x in inputs(problem))
    yield true("gradgradcheck", torch.autograd.gradgradcheck(subject.function(problem), leaves))


@law("T8", "functional_call, and vmap over the loss's own parameters.")
def _(subject: Subject) -> Iterator[Check]:
    if not subject.spec.parameters:
        raise NotApplicable("it has no parameters of its own")
    module = subject.build()
    problems = [subject.case.problem(seed) for seed in range(3)]
    own = subject.parameters
    ensemble = [problems[0].having(**{k: p.tensors[k] for k in own}) for p in problems]
    loop = torch.stack([subject.value(problem) for problem in ensemble])
    for value, problem in zip(loop, ensemble, strict=True):
        result = subject.call_module(module, problem)
        yield close("functional_call", total(result), value, rtol=1e-6)

    def one(*params: Tensor) -> Tensor:
        return subject.value(problems[0].having(**dict(zip(own, params, strict=True))))

    params = [torch.stack([p.tensors[k] for p in problems]) for k in own]
    yield close("ensemble", torch.vmap(one)(*params), loop, rtol=1e-5, atol=1e-6)

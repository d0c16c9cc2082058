"""Clauses P: a loss changes nothing and depends on nothing but its arguments."""

import random
from collections.abc import Iterator
from typing import Any

import optree
import torch
from torch import Tensor

from purelosses._types import PyTree
from purelosses.laws.core import (
    Check,
    Operations,
    Subject,
    law,
    ordinary,
    same,
    true,
)


@law("P1", "Inputs are unchanged after forward and backward.")
def _(subject: Subject) -> Iterator[Check]:
    for problem in ordinary(subject):
        before = {k: x.clone() for k, x in problem.tensors.items()}
        leaves = {k: problem.tensors[k].requires_grad_() for k in problem.differentiable}
        versions = {k: x._version for k, x in problem.tensors.items()}
        torch.autograd.grad(
            subject.value(problem.having(**leaves)),
            list(leaves.values()),
            allow_unused=True,
        )
        for name, tensor in problem.tensors.items():
            yield same(f"{name} changed", tensor.detach(), before[name])
            yield Check(f"{name} written to", float(tensor._version - versions[name]))


@law("P2", "A module is unchanged by `forward`: attributes, buffers and parameters.")
def _(subject: Subject) -> Iterator[Check]:
    module = subject.build()

    def state() -> list[Any]:
        parts: PyTree = [dict(vars(part)) for part in module.modules()]
        leaves = optree.tree_leaves(parts)
        return [x.clone() if isinstance(x, Tensor) else x for x in leaves]

    before = state()
    subject.call_module(module, subject.case.problem(0))
    after = state()
    yield Check("attributes added", float(abs(len(after) - len(before))))
    for old, new in zip(before, after, strict=True):
        if isinstance(old, Tensor):
            yield same("a tensor of the module", new, old)
        else:
            yield true(f"{old!r} is still there", new is old or new == old)


@law("P3", "Two calls with another call between them agree bitwise in value and gradient.")
def _(subject: Subject) -> Iterator[Check]:
    problem, other = subject.case.problem(0), subject.case.problem(1)
    value, gradients = subject.differentiate(problem)
    subject.differentiate(other)
    again, gradients_again = subject.differentiate(problem)
    yield same("value", again, value)
    for name, gradient in gradients.items():
        yield same(f"gradient of {name}", gradients_again[name], gradient)


@law("P4", "The state of the random number generators is untouched.")
def _(subject: Subject) -> Iterator[Check]:
    problem = subject.case.problem(0)
    ours, pythons = torch.get_rng_state(), random.getstate()
    subject.differentiate(problem)
    yield same("torch's generator", torch.get_rng_state(), ours)
    yield true("Python's generator is unchanged", random.getstate() == pythons)


@law("P5", "float64 in: float64 throughout.")
def _(subject: Subject) -> Iterator[Check]:
    for problem in ordinary(subject, dtype=torch.float64):
        with Operations() as operations:
            value, gradients = subject.differentiate(problem)
        yield true(f"the value is {value.dtype}", value.dtype == torch.float64)
        for name, gradient in gradients.items():
            yield true(
                f"the gradient of {name} is {gradient.dtype}", gradient.dtype == torch.float64
            )
        narrow = {
            name
            for name, _, made in operations.calls
            if any(x.is_floating_point() and x.dtype != torch.float64 for x in made)
        }
        yield Check(f"operations in less than float64 {sorted(narrow)}", float(len(narrow)))

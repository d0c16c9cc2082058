"""The laws: what every loss promises, each clause a function that returns evidence.

A law yields `Check`s, each something measured against a limit. It passes if there was at least one
and none is over its limit; it does not apply if it raises `NotApplicable`, with the reason. Laws
know a loss only through its `LossSpec` and the named axes of its samples, so the same code judges
the library and the functions of its users.
"""

import copy
import inspect
import pickle
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal, TypeAlias

import optree
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from purelosses._checks import REDUCTIONS
from purelosses.registry import Array, Case, Domain, LossSpec, Problem
from purelosses.transform import per_sample

Status: TypeAlias = Literal["pass", "fail", "n/a"]


@dataclass(frozen=True)
class Check:
    """One measurement; it holds if it is at most the limit (NaN never is)."""

    what: str
    measured: float
    limit: float = 0.0

    @property
    def holds(self) -> bool:
        return self.measured <= self.limit

    def __str__(self) -> str:
        return f"{self.what}: {self.measured:.3g} (limit {self.limit:.3g})"


class NotApplicable(Exception):
    """The clause does not apply, for the reason it carries."""


@dataclass(frozen=True)
class Evidence:
    """What a law found about one case of a loss."""

    law: str
    loss: str
    case: str
    status: Status
    detail: str


@dataclass(frozen=True)
class Subject:
    """A loss in one of its cases, and the class of its module if it has one."""

    spec: LossSpec
    case: Case
    module: Callable[..., nn.Module] | None = None

    def value(self, problem: Problem, **options: Any) -> Tensor:
        """The loss; of a loss that returns (total, aux), the total."""
        result = problem(self.spec.loss, **options)
        value: Tensor = result[0] if isinstance(result, tuple) else result
        return value

    def differentiate(self, problem: Problem, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The value, and the gradient with respect to each differentiable tensor."""
        leaves = {k: problem.tensors[k].detach().requires_grad_() for k in problem.differentiable}
        value = self.value(problem.having(**leaves), **options)
        gradients = torch.autograd.grad(
            value.sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
        )
        return value.detach(), dict(zip(leaves, gradients, strict=True))

    def function(self, problem: Problem, **options: Any) -> Callable[..., Tensor]:
        """The loss as a function of the differentiable tensors alone."""
        names = problem.differentiable

        def call(*tensors: Tensor) -> Tensor:
            return self.value(problem.having(**dict(zip(names, tensors, strict=True))), **options)

        return call

    def build(self) -> nn.Module:
        """The module of this case."""
        if self.module is None:
            raise NotApplicable("it has no module")
        init = [self.spec.init[self.case.name]] if self.spec.parameters else []
        return self.module(*init, **self.case.options)

    def call_module(self, module: nn.Module, problem: Problem) -> Any:
        """The module on the data of a problem, whose parameters it is given first."""
        data, keywords = problem.arguments
        given = {k: v for k, v in keywords.items() if k not in problem.options}
        parameters = {k: problem.tensors[k] for k, _ in module.named_parameters()}
        return torch.func.functional_call(
            module, parameters, tuple(data[1:] if self.spec.parameters else data), given
        )

    # What a law asks for; each raises NotApplicable where it is missing.

    def reductions(self) -> tuple[Any, ...]:
        if self.case.unit is None:
            raise NotApplicable("it has no reduction")
        return REDUCTIONS

    def where_axes(self) -> list[str]:
        if self.case.where is None:
            raise NotApplicable("it has no `where`")
        return self.case.where.split()

    def batched(self) -> None:
        if not self.case.batched:
            raise NotApplicable("it has no batch axis")

    def holding(self, *domains: Domain) -> list[str]:
        """The paths of the data in these domains."""
        names = [k for k, array in self.case.arrays.items() if array.domain in domains]
        if not names:
            raise NotApplicable(f"no argument holds {' or '.join(domains)}")
        return names

    def twice_differentiable(self) -> None:
        if self.spec.smooth < 2:
            raise NotApplicable("it is declared to be differentiable once")

    def claims(self, what: str, claim: object) -> None:
        if not claim:
            raise NotApplicable(f"it does not claim to be {what}")

    @property
    def prediction(self) -> str:
        """The name of the prediction."""
        return list(self.case.args)[1 if self.spec.parameters else 0]

    @property
    def targets(self) -> list[str]:
        """The names of the data after the prediction."""
        return list(self.case.args)[2 if self.spec.parameters else 1 :]


@dataclass(frozen=True)
class Law:
    """One clause of the contract."""

    code: str
    statement: str
    examine: Callable[[Subject], Iterator[Check]]
    kind: Literal["eager", "graph", "slow"] = "eager"


LAWS: dict[str, Law] = {}


def law(
    code: str, statement: str, kind: Literal["eager", "graph", "slow"] = "eager"
) -> Callable[[Callable[[Subject], Iterator[Check]]], Callable[[Subject], Iterator[Check]]]:
    def register(
        examine: Callable[[Subject], Iterator[Check]],
    ) -> Callable[[Subject], Iterator[Check]]:
        LAWS[code] = Law(code, statement, examine, kind)
        return examine

    return register


def judge(law: Law, subject: Subject) -> Evidence:
    """Run one law on one case of a loss."""

    def evidence(status: Status, detail: str) -> Evidence:
        return Evidence(law.code, subject.spec.name, subject.case.name, status, detail)

    if law.code in subject.case.skip:
        return evidence("n/a", subject.case.skip[law.code])
    checks: list[Check] = []
    try:
        for check in law.examine(subject):
            checks.append(check)
            if not check.holds:
                return evidence("fail", str(check))
    except NotApplicable as reason:
        return evidence("n/a", str(reason))
    except Exception as error:
        done = f" after {checks[-1].what!r}" if checks else ""
        return evidence("fail", f"{type(error).__name__}{done}: {str(error).strip()[:500]}")
    if not checks:
        return evidence("fail", "nothing was checked")
    tightest = max(checks, key=lambda check: check.measured / check.limit if check.limit else 0.0)
    return evidence("pass", f"{len(checks)} checks; {tightest}")


# Measurements


def true(what: str, holds: bool) -> Check:
    return Check(what, 0.0 if holds else 1.0)


def same(what: str, a: Tensor, b: Tensor) -> Check:
    """Equal bit by bit: the number of elements that differ."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return Check(f"{what}: {a.dtype}{list(a.shape)} for {b.dtype}{list(b.shape)}", torch.inf)
    return Check(what, float(((a != b) & ~((a != a) & (b != b))).sum()))


def close(what: str, a: Tensor, b: Tensor, rtol: float, atol: float = 0.0) -> Check:
    """|a - b| as a multiple of the tolerance, at worst."""
    if a.shape != b.shape:
        return Check(f"{what}: {list(a.shape)} for {list(b.shape)}", torch.inf)
    a, b = a.detach().double(), b.detach().double()
    excess = (a - b).abs() / (atol + rtol * b.abs()).clamp_min(1e-300)
    worst = torch.where(a == b, 0.0, excess)
    return Check(what, float(worst.max()) if worst.numel() else 0.0, 1.0)


def each_close(
    what: str, a: dict[str, Tensor], b: dict[str, Tensor], rtol: float, atol: float = 0.0
) -> Iterator[Check]:
    for name in b:
        yield close(f"{what} with respect to {name}", a[name], b[name], rtol, atol)


def finite(what: str, subject: Subject, problem: Problem, **options: Any) -> Iterator[Check]:
    value, gradients = subject.differentiate(problem, **options)
    yield Check(f"{what}: values that are not finite", float((~value.isfinite()).sum()))
    for name, gradient in gradients.items():
        bad = float((~gradient.isfinite()).sum())
        yield Check(f"{what}: gradients of {name} that are not finite", bad)


def zero(what: str, subject: Subject, problem: Problem, **options: Any) -> Iterator[Check]:
    """The value and every gradient are exactly 0."""
    value, gradients = subject.differentiate(problem, **options)
    yield same(f"{what}: value", value, torch.zeros_like(value))
    for name, gradient in gradients.items():
        yield same(f"{what}: gradient of {name}", gradient, torch.zeros_like(gradient))


def raises(
    what: str, kinds: tuple[type[Exception], ...], call: Callable[[], Any], *fragments: str
) -> Check:
    """The call raises one of these errors, and its message contains the fragments."""
    try:
        call()
    except kinds as error:
        missing = [fragment for fragment in fragments if fragment not in str(error)]
        return Check(f"{what}: {str(error)!r} lacks {missing}", float(len(missing)))
    except Exception as error:
        return Check(f"{what}: raised {type(error).__name__}: {str(error)[:200]}", 1.0)
    return Check(f"{what}: nothing raised", 1.0)


def ordinary(subject: Subject, **options: Any) -> list[Problem]:
    """A plain problem, and one with `where` and `weights` where the loss has them."""
    problems = [subject.case.problem(0, **options)]
    if subject.case.unit is not None:
        masked = subject.case.where is not None
        problems.append(subject.case.problem(1, where=masked, weights=True, **options))
    return problems


# Purity


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
        leaves = optree.tree_leaves([dict(vars(m)) for m in module.modules()])  # type: ignore[arg-type]
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


class _Operations(TorchDispatchMode):
    """Record every operation with the tensors it took and made."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, list[Tensor], list[Tensor]]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        taken = [x for x in optree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in optree.tree_leaves(result) if isinstance(x, Tensor)]
        self.calls.append((str(function), taken, made))
        return result


@law("P5", "float64 in: float64 throughout.")
def _(subject: Subject) -> Iterator[Check]:
    for problem in ordinary(subject, dtype=torch.float64):
        with _Operations() as operations:
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


# Reductions, weights, masks


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
            lambda bad=bad: subject.value(problem, reduction=bad),  # type: ignore[misc]
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
    batch = torch.arange(problem.case.sizes["B"])
    if subject.case.separable:
        parts = [subject.value(problem.take("B", half), reduction="sum") for half in batch.split(3)]
        whole = subject.value(problem, reduction="sum")
        yield close("sum over parts", torch.stack(parts).sum(), whole, rtol=1e-12)
        return
    if subject.spec.statistics is None:
        yield Check("it is not separable and has no statistics", 1.0)
        return
    statistics, finish = subject.spec.statistics

    def accumulated(*tensors: Tensor) -> Tensor:
        given = problem.having(**dict(zip(problem.differentiable, tensors, strict=True)))
        sums = [given.take("B", half)(statistics) for half in batch.split(3)]
        return finish(optree.tree_map(lambda *x: torch.stack(x).sum(0), *sums), problem.options)

    inputs = tuple(problem.tensors[k] for k in problem.differentiable)
    positions = tuple(range(len(inputs)))
    parts_gradient, total = torch.func.grad_and_value(accumulated, positions)(*inputs)
    gradient, value = torch.func.grad_and_value(subject.function(problem), positions)(*inputs)
    yield close("loss of added statistics", total, value, rtol=1e-12)
    for mine, whole in zip(parts_gradient, gradient, strict=True):
        yield close("gradient through added statistics", mine, whole, rtol=1e-10, atol=1e-15)


# Transforms


def positions(problem: Problem) -> tuple[int, ...]:
    return tuple(range(len(problem.differentiable)))


def inputs(problem: Problem) -> tuple[Tensor, ...]:
    return tuple(problem.tensors[k] for k in problem.differentiable)


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
            loss = per_sample(lambda *args, **kwargs: subject.spec.loss(*args, **kwargs, **options))
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


@law("T4", "Forward mode agrees with reverse mode.")
def _(subject: Subject) -> Iterator[Check]:
    for problem in ordinary(subject, dtype=torch.float64):
        function = subject.function(problem)
        tangents = inputs(problem.case.problem(9, dtype=torch.float64))
        _, derivative = torch.func.jvp(function, inputs(problem), tangents)
        gradient = torch.func.grad(function, positions(problem))(*inputs(problem))
        product = sum((g * t).sum() for g, t in zip(gradient, tangents, strict=True))
        yield close("jvp", derivative, torch.as_tensor(product), rtol=1e-3, atol=1e-9)


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
    return subject.case.problem(7, dtype=torch.float64, where=masked, **sizes)


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
    own = [k for k in problems[0].tensors if k.split(".")[0] == subject.spec.parameters]
    ensemble = [problems[0].having(**{k: p.tensors[k] for k in own}) for p in problems]
    loop = torch.stack([subject.value(problem) for problem in ensemble])
    for value, problem in zip(loop, ensemble, strict=True):
        result = subject.call_module(module, problem)
        yield close("functional_call", result[0], value, rtol=1e-6)

    def one(*params: Tensor) -> Tensor:
        return subject.value(problems[0].having(**dict(zip(own, params, strict=True))))

    params = [torch.stack([p.tensors[k] for p in problems]) for k in own]
    yield close("ensemble", torch.vmap(one)(*params), loop, rtol=1e-5, atol=1e-6)


# Graphs


def scalar(loss: Callable[..., Any]) -> Callable[..., Tensor]:
    """A loss that returns its total alone."""

    def call(*args: Any, **kwargs: Any) -> Tensor:
        result = loss(*args, **kwargs)
        return result[0] if isinstance(result, tuple) else result  # type: ignore[no-any-return]

    return call


@law("G1", "torch.compile makes one full graph for all batch sizes.", kind="graph")
def _(subject: Subject) -> Iterator[Check]:
    import torch._dynamo.testing

    for masked in (False, True) if subject.case.where is not None else (False,):
        torch._dynamo.reset()
        counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(scalar(subject.spec.loss), fullgraph=True, backend=counter)
        for batch in (18, 22, 26):
            problem = subject.case.problem(0, where=masked, B=batch)
            leaves = {}
            for name, tensor in problem.tensors.items():
                axes = problem.case.arrays[name].names
                tensor = tensor.clone().requires_grad_(name in problem.differentiable)
                if "B" in axes:
                    torch._dynamo.mark_dynamic(tensor, axes.index("B"))
                leaves[name] = tensor
            value = problem.having(**leaves)(compiled)
            expected, gradients = subject.differentiate(problem)
            yield close(f"value at batch {batch}", value, expected, rtol=1e-5, atol=1e-6)
            found = torch.autograd.grad(value, [leaves[k] for k in gradients])
            by_name = dict(zip(gradients, found, strict=True))
            yield from each_close("gradient", by_name, gradients, rtol=1e-4, atol=1e-6)
        yield Check("graphs beyond the first", float(counter.frame_count - 1))


class _Exportable(nn.Module):
    """The loss of a problem as a module of its tensors."""

    def __init__(self, subject: Subject, problem: Problem) -> None:
        super().__init__()
        self.subject, self.problem = subject, problem

    def forward(self, tensors: dict[str, Tensor]) -> Tensor:
        return self.subject.value(self.problem.having(**tensors))


@law("G2", "torch.export with a dynamic batch runs at another size.", kind="graph")
def _(subject: Subject) -> Iterator[Check]:
    problem, other = (subject.case.problem(0, B=batch) for batch in (4, 7))
    batch = torch.export.Dim("batch")
    dynamic = {
        k: {problem.case.arrays[k].names.index("B"): batch}
        if "B" in problem.case.arrays[k].names
        else None
        for k in problem.tensors
    }
    module = _Exportable(subject, problem)
    exported = torch.export.export(
        module, (dict(problem.tensors),), dynamic_shapes=(dynamic,)
    ).module()
    for given in (problem, other):
        result = exported(dict(given.tensors))
        yield close("exported", result, subject.value(given), rtol=1e-5, atol=1e-6)


@law("G3", "Value and gradient trace symbolically.", kind="graph")
def _(subject: Subject) -> Iterator[Check]:
    problem = subject.case.problem(0)
    options = {k: x for k, x in problem.options.items() if isinstance(x, Tensor)}

    def function(tensors: dict[str, Tensor], options: dict[str, Tensor]) -> Any:
        given = Problem(problem.case, tensors, {**problem.options, **options})
        derivative = torch.func.grad_and_value(subject.function(given), positions(given))
        return derivative(*inputs(given))

    graph = make_fx(function, tracing_mode="symbolic")(dict(problem.tensors), options)
    gradient, value = graph(dict(problem.tensors), options)
    expected, gradients = subject.differentiate(problem)
    yield close("value", value, expected, rtol=1e-5, atol=1e-6)
    traced = dict(zip(gradients, gradient, strict=True))
    yield from each_close("gradient", traced, gradients, rtol=1e-5, atol=1e-6)


def with_options(problem: Problem, convert: Callable[[Tensor], Tensor]) -> Problem:
    """A problem with its tensors, those among the options too, converted."""
    options = optree.tree_map(
        lambda x: convert(x) if isinstance(x, Tensor) else x, dict(problem.options)
    )
    moved = problem.map(lambda x, _: convert(x))
    return Problem(moved.case, moved.tensors, options)


@law("G4", "Meta tensors in, meta tensor out.")
def _(subject: Subject) -> Iterator[Check]:
    for problem in ordinary(subject):
        meta = with_options(problem, lambda x: x.to("meta"))
        value, gradients = subject.differentiate(meta)
        yield true(f"the value is on {value.device}", value.is_meta and value.ndim == 0)
        for name, gradient in gradients.items():
            shape = meta.tensors[name].shape
            yield true(f"gradient of {name} is meta", gradient.is_meta and gradient.shape == shape)


SYNCHRONISING = re.compile(
    r"aten\.(_local_scalar_dense|nonzero|masked_select|_?unique\w*|is_nonzero|equal|item)\b"
)


@law("G5", "No operation that synchronises or whose output shape depends on data.")
def _(subject: Subject) -> Iterator[Check]:
    for problem in ordinary(subject):
        with _Operations() as operations:
            subject.differentiate(problem)
        for name, taken, _ in operations.calls:
            yield true(f"{name} synchronises", not SYNCHRONISING.match(name))
            if name.startswith("aten.index.") or name.startswith("aten.index_put"):
                masks = sum(x.dtype in (torch.bool, torch.uint8) for x in taken[1:])
                yield Check("boolean indices", float(masks))


@law("G6", "Fake CUDA tensors in, fake CUDA out, nothing larger than a number copied across.")
def _(subject: Subject) -> Iterator[Check]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        for problem in ordinary(subject):
            fake = with_options(problem, lambda x: torch.empty_like(x, device="cuda"))
            # Forward only: without a GPU, torch aborts the process where autograd meets fake CUDA.
            with _Operations() as operations:
                value = subject.value(fake)
            yield true(f"the result is on {value.device}", value.device.type == "cuda")
            for name, taken, made in operations.calls:
                if name.startswith(("aten._to_copy", "aten.copy_")):
                    devices = {x.device.type for x in (*taken, *made) if x.numel() > 1}
                    yield true(f"{name} between {devices}", len(devices) < 2)


@law("G7", "Compiled by inductor, value and gradient equal eager ones.", kind="slow")
def _(subject: Subject) -> Iterator[Check]:
    torch._dynamo.reset()
    problem = subject.case.problem(0)
    function = torch.func.grad_and_value(subject.function(problem), positions(problem))
    gradients, value = torch.compile(function, fullgraph=True)(*inputs(problem))
    expected, by_name = subject.differentiate(problem)
    yield close("value", value, expected, rtol=1e-5, atol=1e-6)
    compiled = dict(zip(by_name, gradients, strict=True))
    yield from each_close("gradient", compiled, by_name, rtol=1e-5, atol=1e-6)
    many = torch.vmap(torch.func.grad(subject.function(problem), positions(problem)))
    rows = tuple(torch.stack([x, x.flip(0) if x.ndim else x]) for x in inputs(problem))
    for a, b in zip(torch.compile(many, fullgraph=True)(*rows), many(*rows), strict=True):
        yield close("compiled vmap of the gradient", a, b, rtol=1e-5, atol=1e-6)


# Numerics: against float64 on the same (rounded) inputs


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
    return subject.case.problem(0, dtype=dtype, B=100_000 // per_sample)


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


HOSTILE: dict[Domain, tuple[float, ...]] = {
    "real": (0.0, 1e-30, -1e-30, 1e-8, 1.0, -1.0, 17.0, -88.0, 1e4, -1e15, 1e30),
    "positive": (1e-30, 1e-8, 1.0, 88.0, 1e4, 1e15),
    "logits": (0.0, 1e-30, -1e-8, 1.0, -1.0, 17.0, -17.0, 40.0, -40.0, 88.0, -88.0, 1e4, -1e4),
    "class_logits": (0.0, 1e-30, -1e-8, 1.0, -1.0, 17.0, 40.0, -40.0, 88.0, -88.0, 1e4, -1e4),
    "unit": (0.0, 1e-30, 1e-8, 0.5, 1 - 2**-24, 1.0),
}


@law("N7", "float32 on a hostile grid: every loss within 2e-6, relative to itself.")
def _(subject: Subject) -> Iterator[Check]:
    subject.holding(*HOSTILE)
    floor = subject.spec.accuracy_floor[0] if subject.spec.accuracy_floor else 1e-36
    options = {"reduction": "none"} if subject.case.unit is not None else {}
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)

        def pick(x: Tensor, array: Array, generator: torch.Generator = generator) -> Tensor:
            if array.domain not in HOSTILE or subject.spec.parameters and array.domain == "real":
                return x
            grid = torch.tensor(HOSTILE[array.domain])
            return grid[torch.randint(len(grid), x.shape, generator=generator)]

        problem = subject.case.problem(seed).map(pick)
        value, gradients = subject.differentiate(problem, **options)
        truth = subject.value(exact(problem), **options)
        fits = truth.abs() < torch.finfo(torch.float32).max
        error = (value.double() - truth).abs() / truth.abs().clamp_min(floor)
        worst = float(torch.where(fits, error, 0.0).max())
        yield Check("relative error", worst, 2e-6)
        if fits.all():
            for name, gradient in gradients.items():
                bad = float((~gradient.isfinite()).sum())
                yield Check(f"gradients of {name} that are not finite", bad)


# Edges


def replacing(problem: Problem, name: str, value: float | Tensor) -> Problem:
    tensor = problem.tensors[name]
    filled = value if isinstance(value, Tensor) else torch.full_like(tensor, value)
    return problem.having(**{name: filled.to(tensor.dtype)})


@law("E1", "Logits of 1e4, right and wrong: finite, value within 1e-5 of float64.")
def _(subject: Subject) -> Iterator[Check]:
    for name in subject.holding("logits", "class_logits"):
        for seed in range(4):
            problem = subject.case.problem(seed)
            problem = replacing(problem, name, problem.tensors[name].sign() * 1e4)
            yield from finite("logits of 1e4", subject, problem)
            yield from against_float64(subject, problem, 1e-5, None)


def remove_a_class(problem: Problem, name: str) -> Problem:
    """Minus infinity at a class that has no target, for every sample."""
    arrays = problem.case.arrays
    logits, target = problem.tensors[name], problem.tensors["target"]
    axis = arrays[name].names.index("C")
    if arrays["target"].domain == "labels":
        label = (target + 1) % logits.shape[axis]
        index = torch.arange(logits.shape[axis]).reshape([-1] + [1] * (logits.ndim - axis - 1))
        removed = index == label.unsqueeze(axis)
    else:
        removed = torch.zeros_like(target, dtype=torch.bool).index_fill(axis, torch.tensor(0), True)
        target = torch.where(removed, 0.0, target)
        target = target / target.sum(axis, keepdim=True)
    return problem.having(**{name: torch.where(removed, -torch.inf, logits), "target": target})


@law("E2", "A logit of minus infinity at a class without target: finite.")
def _(subject: Subject) -> Iterator[Check]:
    for name in subject.holding("class_logits"):
        problem = remove_a_class(subject.case.problem(0), name)
        yield from finite("a removed class", subject, problem)
        lower = torch.where(problem.tensors[name].isneginf(), -1e4, problem.tensors[name])
        limit = subject.value(problem.having(**{name: lower}))
        yield close("limit of a falling logit", subject.value(problem), limit, 1e-5, 1e-6)


@law("E3", "Empty, full, both empty, both full masks, and an absent class: finite.")
def _(subject: Subject) -> Iterator[Check]:
    names = [k for k in subject.holding("mask", "labels", "unit") if k in subject.targets]
    if not names:
        raise NotApplicable("its target is no mask")
    prediction = subject.prediction
    unit = subject.case.arrays[prediction].domain == "unit"
    for name, full, sure in product(names, (0, 1), (0, 1, None)):
        problem = replacing(subject.case.problem(0), name, full)
        if sure is not None:
            problem = replacing(problem, prediction, sure if unit else 80 * sure - 40)
        yield from finite(f"target {full}, prediction {sure}", subject, problem)


@law("E4", "Probabilities of exactly 0 and 1: finite.")
def _(subject: Subject) -> Iterator[Check]:
    names = subject.holding("unit", "distribution")
    problem = subject.case.problem(0)
    for name in names:
        tensor = problem.tensors[name]
        hard = (tensor > 0.5).to(tensor.dtype)
        if subject.case.arrays[name].domain == "distribution":
            axis = subject.case.arrays[name].names.index("C")
            hard = (tensor == tensor.amax(axis, keepdim=True)).to(tensor.dtype)
        problem = replacing(problem, name, hard)
        yield from finite(f"hard {name}", subject, problem)


@law("E5", "Prediction equal to target, zeros and constants: finite.")
def _(subject: Subject) -> Iterator[Check]:
    arrays, prediction = subject.case.arrays, subject.prediction
    alike = [
        k
        for k in subject.targets
        if k in arrays and arrays[k].axes == arrays.get(prediction, Array("real", "-")).axes
    ]
    if not alike or arrays[prediction].domain in ("logits", "class_logits"):
        raise NotApplicable("its prediction and target are of different kinds")
    problem = subject.case.problem(0)
    yield from finite("equal", subject, replacing(problem, prediction, problem.tensors[alike[0]]))
    for value in (0.0, 1.0):
        constant = replacing(replacing(problem, prediction, value), alike[0], value)
        yield from finite(f"both {value}", subject, constant)


@law("E6", "Zero-area, inverted and disjoint boxes: finite.")
def _(subject: Subject) -> Iterator[Check]:
    raise NotApplicable("it is no loss of boxes")
    yield


@law("E7", "One sample, without positives, without negatives: finite.")
def _(subject: Subject) -> Iterator[Check]:
    subject.batched()
    problem = subject.case.problem(0, B=1)
    yield from finite("one sample", subject, problem)
    for name in subject.targets:
        if subject.case.arrays[name].domain in ("mask", "labels", "unit"):
            for value in (0, 1):
                alone = replacing(problem, name, value)
                yield from finite(f"one sample of {value}", subject, alone)


@law("E8", "An empty batch costs 0, with zero gradient.")
def _(subject: Subject) -> Iterator[Check]:
    subject.batched()
    for reduction in ("mean", "weighted_mean", "sum") if subject.reductions() else ():
        yield from zero(reduction, subject, subject.case.problem(0, B=0), reduction=reduction)
        if subject.case.where is not None:
            masked = subject.case.problem(0, B=0, where=True, weights=True)
            yield from zero(f"masked {reduction}", subject, masked, reduction=reduction)


@law("E9", "With everything masked the loss is 0, with zero gradient.")
def _(subject: Subject) -> Iterator[Check]:
    subject.where_axes()
    for weighted, reduction in product((False, True), REDUCTIONS):
        problem = subject.case.problem(0, where=True, weights=weighted)
        problem = replacing(problem, "where", False)
        yield from zero(reduction, subject, problem, reduction=reduction)


@law("E11", "The gradient stays alive on confident mistakes.")
def _(subject: Subject) -> Iterator[Check]:
    subject.claims("of the cross-entropy kind", subject.spec.cross_entropy)
    (name,) = subject.holding("logits", "class_logits")
    problem = subject.case.problem(0)
    target, domain = problem.tensors["target"], subject.case.arrays["target"].domain
    if domain not in ("mask", "labels"):
        raise NotApplicable("a soft target has no confident mistake")
    best = subject.spec.perfect(problem) if subject.spec.perfect else None
    direction = problem.tensors[name] * 0 - 1 if best is None else best.tensors[name].sign()
    norms = []
    for margin in (-40.0, -5.0):
        wrong = replacing(problem, name, direction * margin / (2 if domain == "labels" else 1))
        _, gradients = subject.differentiate(wrong.having(target=target))
        norms.append(float(gradients[name].norm()))
    yield Check("gradient at margin -5, in thousands of that at -40", norms[1] / norms[0], 1000.0)


@law("E12", "A perfect prediction attains the declared minimum, on empty targets as on full ones.")
def _(subject: Subject) -> Iterator[Check]:
    perfect = subject.spec.perfect
    if perfect is None:
        raise NotApplicable("it declares no perfect prediction")
    problem = subject.case.problem(0)
    problems = [problem]
    for name in subject.targets:
        if subject.case.arrays[name].domain in ("mask", "labels"):
            problems += [replacing(problem, name, value) for value in (0, 1)]
    best = [found for found in map(perfect, problems) if found is not None]
    if not best:
        raise NotApplicable("a soft target has no perfect prediction")
    for found in best:
        excess = float((subject.value(found) - subject.spec.minimum).abs())
        yield Check("distance from the minimum", excess, 1e-6)


# Guards


def misfits(subject: Subject) -> Iterator[tuple[str, Problem, tuple[int, ...], tuple[int, ...]]]:
    """Problems with one tensor of a wrong shape: its name, the problem, both shapes."""
    problem = subject.case.problem(0, where=subject.case.where is not None, weights=True)
    arrays = subject.case.arrays
    for name in [*subject.targets, "where", "weights"]:
        if name not in problem.tensors:
            continue
        x = problem.tensors[name]
        wrong = [x.unsqueeze(-1), x.unsqueeze(0), torch.cat([x, x[:1]]) if x.ndim else x[None]]
        if x.ndim:
            wrong.append(x[0])
        if name in subject.targets and arrays[name].domain != "labels":
            wrong += [x[:1]] if x.ndim else []
        for y in wrong:
            yield name, problem.having(**{name: y}), tuple(y.shape), tuple(x.shape)


@law("S1", "Shapes that do not fit raise ValueError with function, argument and both shapes.")
def _(subject: Subject) -> Iterator[Check]:
    if subject.spec.parameters:
        problem = subject.case.problem(0)
        data, options = problem.arguments
        for wrong in ({}, {"another": torch.zeros(())}, torch.zeros(7), [torch.zeros(())]):
            yield raises(
                f"parameters {wrong!r}",
                (ValueError,),
                lambda wrong=wrong: subject.spec.loss(wrong, *data[1:], **options),  # type: ignore[misc]
                f"{subject.spec.name}: `{subject.spec.parameters}",
            )
        return
    for name, problem, got, fits in misfits(subject):
        yield raises(
            f"`{name}` of shape {got} for {fits}",
            (ValueError,),
            lambda problem=problem: subject.value(problem),  # type: ignore[misc]
            f"{subject.spec.name}: `{name}` must ",
            str(got),
        )
    problem = subject.case.problem(1, where=subject.case.where is not None, weights=True)
    for name in ("where", "weights"):
        x = problem.tensors.get(name)
        if x is not None and x.ndim:
            narrow = x.narrow(x.ndim - 1, 0, 1)
            wide = problem.having(**{name: narrow.expand_as(x)})
            value = subject.value(problem.having(**{name: narrow}))
            yield close(f"{name} along an axis of 1", value, subject.value(wide), rtol=1e-6)


INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64,
            torch.uint8, torch.uint16, torch.uint32, torch.uint64)  # fmt: skip


@law("S2", "Integer and boolean targets give the result of float ones.")
def _(subject: Subject) -> Iterator[Check]:
    names = [k for k in subject.holding("mask", "labels") if k in subject.targets]
    for name, masked in product(names, (False, True) if subject.case.where else (False,)):
        problem = subject.case.problem(0, where=masked)
        expected = subject.value(problem)
        hard = subject.case.arrays[name].domain == "mask"
        dense = subject.spec.domains(
            {
                **dict(zip(subject.case.args, problem.arguments[0], strict=True)),
                **problem.options,
                name: problem.tensors[name].long(),
            }
        )
        for dtype in INTEGERS:
            if hard and dense.get(name) == "labels":
                continue  # with a class axis, integers are labels
            given = problem.having(**{name: problem.tensors[name].to(dtype)})
            yield same(f"{name} as {dtype}", subject.value(given), expected)
        if hard:
            given = problem.having(**{name: problem.tensors[name].bool()})
            yield same(f"{name} as bool", subject.value(given), expected)


@law("S3", "A label outside the classes never gives a finite loss.")
def _(subject: Subject) -> Iterator[Check]:
    for name in subject.holding("labels"):
        problem = subject.case.problem(0)
        for bad in (-1, problem.case.sizes["C"], 255):
            labels = problem.tensors[name].clone()
            labels.view(-1)[0] = bad
            wrong = problem.having(**{name: labels})
            fragments = (f"{subject.spec.name}: `{name}` must", str(bad))
            yield raises(
                f"label {bad}", (ValueError,), lambda w=wrong: subject.value(w), *fragments
            )  # type: ignore[misc]
            meta = with_options(wrong, lambda x: x.to("meta"))
            yield true("meta tensors pass", subject.value(meta).is_meta)
            torch._dynamo.reset()
            compiled = torch.compile(scalar(subject.spec.loss), backend="eager", fullgraph=True)
            try:
                value = wrong(compiled)
            except Exception as error:
                yield true(f"compiled, it raises {type(error).__name__}", True)
            else:
                yield true(f"compiled, it is {value}", not bool(value.isfinite().any()))


def layouts(x: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The same values in other layouts of memory."""
    if x.ndim:
        yield "every other element", torch.stack([x, x], -1)[..., 0]
    if x.ndim > 1:
        yield "transposed", x.transpose(0, -1).contiguous().transpose(0, -1)
    if x.ndim == 4:
        yield "channels last", x.contiguous(memory_format=torch.channels_last)


@law("S4", "Any layout of memory gives the same value and gradient.")
def _(subject: Subject) -> Iterator[Check]:
    for problem in ordinary(subject):
        value, gradients = subject.differentiate(problem)
        for name, tensor in problem.tensors.items():
            for layout, other in layouts(tensor):
                given = problem.having(**{name: other})
                found, found_gradients = subject.differentiate(given)
                yield close(f"{layout} {name}", found, value, rtol=1e-6, atol=1e-7)
                yield from each_close("gradient", found_gradients, gradients, 1e-5, 1e-7)
    if subject.case.batched:
        one = subject.case.problem(0, B=1)
        size = subject.case.sizes["B"]
        wide = one.map(
            lambda x, a: x.expand(*(size if n == "B" else -1 for n in a.names)) if a.names else x
        )
        copied = wide.map(lambda x, _: x.clone(memory_format=torch.contiguous_format))
        expanded = subject.value(wide)
        yield close("expanded", expanded, subject.value(copied), rtol=1e-6, atol=1e-7)
    yield true("layouts compared", True)


@law("S5", "Every argument refuses nonsense with one form of message.")
def _(subject: Subject) -> Iterator[Check]:
    loss, name = subject.spec.loss, subject.spec.name
    problem = subject.case.problem(0, where=subject.case.where is not None, weights=True)
    data, keywords = problem.arguments
    parameters = inspect.signature(loss).parameters.values()
    nonsense = (object(), "nonsense", [object()])
    for position, argument in enumerate(parameters):
        for wrong in nonsense:
            args, options = list(data), dict(keywords)
            if argument.kind is argument.KEYWORD_ONLY:
                options[argument.name] = wrong
            else:
                args[position] = wrong
            form = rf"^{name}: `{argument.name}\b.*` must .+, got .+"
            try:
                loss(*args, **options)
            except (ValueError, TypeError) as error:
                yield true(f"{argument.name}={wrong!r}: {error}", bool(re.match(form, str(error))))
            else:
                yield Check(f"{argument.name}={wrong!r} was accepted", 1.0)


# Modules


def rebuilt(module: nn.Module) -> nn.Module:
    """What the repr of a module evaluates to."""
    family = vars(sys.modules[type(module).__module__])
    names = {**vars(sys.modules["purelosses"]), **family, "torch": torch}
    result: nn.Module = eval(repr(module), names)
    return result


@law("M1", "A module survives pickle, deepcopy and state_dict, and its repr rebuilds it.")
def _(subject: Subject) -> Iterator[Check]:
    module = subject.build()
    problem = subject.case.problem(0)
    expected = subject.value(problem)
    again = rebuilt(module)
    again.load_state_dict(module.state_dict())
    copies = {
        "pickle": pickle.loads(pickle.dumps(module)),
        "deepcopy": copy.deepcopy(module),
        "repr": again,
    }
    for what, twin in copies.items():
        result = subject.call_module(twin, problem)
        value = result[0] if isinstance(result, tuple) else result
        yield same(what, value, expected)
        yield true(f"the {what} prints the same", repr(twin) == repr(module))
    for parameter in inspect.signature(type(module).__init__).parameters.values():
        if parameter.name != "self":
            yield true(f"repr shows {parameter.name}", f"{parameter.name}=" in repr(module))


@law("M2", "Every tensor of a module is a registered buffer or parameter.")
def _(subject: Subject) -> Iterator[Check]:
    init = [subject.spec.init[subject.case.name]] if subject.spec.parameters else []
    subject.build()
    assert subject.module is not None
    as_tensors = {
        k: torch.tensor(v) if isinstance(v, float) else v for k, v in subject.case.options.items()
    }
    module = subject.module(*init, **as_tensors)
    moved = copy.deepcopy(module).to("meta")
    registered = {id(x) for x in (*moved.parameters(), *moved.buffers())}
    loose = 0
    for part in moved.modules():
        plain = {k: v for k, v in vars(part).items() if not k.startswith("_")}
        leaves = [x for x in optree.tree_leaves(plain) if isinstance(x, Tensor)]
        loose += sum(id(x) not in registered for x in leaves)
    yield Check("tensors that .to() does not move", float(loose))
    for name, value in as_tensors.items():
        if isinstance(value, Tensor):
            yield true(f"{name} moves with .to()", getattr(moved, name).is_meta)


@law("M3", "A module equals its function bitwise, and its state is what `*_init` returns.")
def _(subject: Subject) -> Iterator[Check]:
    module = subject.build()
    for problem in ordinary(subject):
        result = subject.call_module(module, problem)
        value = result[0] if isinstance(result, tuple) else result
        yield same("module and function", value, subject.value(problem))
    problem = subject.case.problem(0)
    own = {k for k in problem.tensors if k.split(".")[0] == subject.spec.parameters}
    yield true(f"state_dict holds {sorted(module.state_dict())}", set(module.state_dict()) == own)


# Claims


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
    names = (subject.prediction, subject.targets[0])
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
        scaled = problem.map(lambda x, _, factor=factor: x * factor)  # type: ignore[misc]
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


def subjects(spec: LossSpec, module: Callable[..., nn.Module] | None = None) -> list[Subject]:
    return [Subject(spec, case, module) for case in spec.cases]


def combine(evidence: Iterable[Evidence]) -> Evidence:
    """One cell of the matrix: a law and a loss, over its cases."""
    found = list(evidence)
    for status in ("fail", "pass", "n/a"):
        chosen = [item for item in found if item.status == status]
        if chosen:
            detail = "; ".join(dict.fromkeys(f"{item.case}: {item.detail}" for item in chosen))
            return Evidence(chosen[0].law, chosen[0].loss, "", chosen[0].status, detail)
    raise ValueError("combine: `evidence` must have at least one item, got none")

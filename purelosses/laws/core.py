"""What a law is made of: subjects, checks, evidence, and the measurements laws share."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import optree
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from purelosses._checks import REDUCTIONS
from purelosses._types import PyTree
from purelosses.registry import Case, Domain, LossSpec, Problem
from purelosses.registry.core import PER_CALL

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


def total(result: Any) -> Tensor:
    """The loss itself, of a result that may be (total, aux)."""
    value: Tensor = result[0] if isinstance(result, tuple) else result
    return value


@dataclass(frozen=True)
class Subject:
    """A loss in one of its cases, and the class of its module if it has one."""

    spec: LossSpec
    case: Case
    module: Callable[..., nn.Module] | None = None

    def value(self, problem: Problem, **options: Any) -> Tensor:
        """The loss; of a loss that returns (total, aux), the total."""
        return total(problem(self.spec.loss, **options))

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
        options = {k: v for k, v in self.case.options.items() if k not in PER_CALL}
        return self.module(*self.init, **options)

    @property
    def init(self) -> list[Any]:
        """What `<name>_init` is called with, and so the module."""
        return [self.spec.init[self.case.name]] if self.case.name in self.spec.init else []

    def call_module(self, module: nn.Module, problem: Problem) -> Any:
        """The module on the data of a problem, whose parameters it is given first."""
        data, keywords = problem.arguments
        given = {k: v for k, v in keywords.items() if k in PER_CALL}
        parameters = {k: problem.tensors[k] for k in module.state_dict()}
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
    def parameters(self) -> list[str]:
        """The paths of the loss's own parameters."""
        return [k for k in self.case.arrays if k.split(".")[0] == self.spec.parameters]

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


REGISTERED: dict[str, Law] = {}


def law(
    code: str, statement: str, kind: Literal["eager", "graph", "slow"] = "eager"
) -> Callable[[Callable[[Subject], Iterator[Check]]], Callable[[Subject], Iterator[Check]]]:
    def register(
        examine: Callable[[Subject], Iterator[Check]],
    ) -> Callable[[Subject], Iterator[Check]]:
        REGISTERED[code] = Law(code, statement, examine, kind)
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


def tensors_of(tree: PyTree) -> list[Tensor]:
    return [leaf for leaf in optree.tree_leaves(tree) if isinstance(leaf, Tensor)]


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Record every operation with the tensors it took and made."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[str, list[Tensor], list[Tensor]]] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        taken, made = tensors_of((args, kwargs)), tensors_of(result)
        self.calls.append((str(function), taken, made))
        return result


def positions(problem: Problem) -> tuple[int, ...]:
    return tuple(range(len(problem.differentiable)))


def inputs(problem: Problem) -> tuple[Tensor, ...]:
    return tuple(problem.tensors[k] for k in problem.differentiable)


def scalar(loss: Callable[..., Any]) -> Callable[..., Tensor]:
    """A loss that returns its total alone."""

    def call(*args: Any, **kwargs: Any) -> Tensor:
        return total(loss(*args, **kwargs))

    return call


def with_options(problem: Problem, convert: Callable[[Tensor], Tensor]) -> Problem:
    """A problem with its tensors, those among the options too, converted."""
    given: PyTree = dict(problem.options)
    options: Any = optree.tree_map(lambda x: convert(x) if isinstance(x, Tensor) else x, given)
    moved = problem.map(lambda x, _: convert(x))
    return Problem(moved.case, moved.tensors, options)


def replacing(problem: Problem, name: str, value: float | Tensor) -> Problem:
    tensor = problem.tensors[name]
    filled = value if isinstance(value, Tensor) else torch.full_like(tensor, value)
    return problem.having(**{name: filled.to(tensor.dtype)})


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

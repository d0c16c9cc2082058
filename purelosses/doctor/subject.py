"""The loss under examination, its sample, and how it is called without leaving a mark."""

import contextlib
import copy
import inspect
import io
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import optree
import torch
from torch import Tensor, nn

from purelosses.doctor.report import Site
from purelosses.doctor.trace import Trace, Tracer, flatten, site_of_error

TARGET_NAMES = (
    "target", "label", "true", "gt", "truth", "mask", "weight", "reward", "y", "where", "tgt",
    "ref", "teacher", "actual", "observed", "advantage", "valid", "ids", "ignore",
)  # fmt: skip


@dataclass
class Run:
    """One call: what it returned, the gradients, or the error."""

    result: Any = None
    value: Tensor | None = None  # the loss, if the result holds one
    gradients: list[Tensor | None] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)  # what the gradients are of
    given: list[Any] = field(default_factory=list)  # what the loss was called with
    error: BaseException | None = None
    trace: Trace | None = None
    module: nn.Module | None = None

    @property
    def site(self) -> Site | None:
        return site_of_error(self.error) if self.error is not None else None

    @property
    def number(self) -> float:
        return float("nan") if self.value is None else float(self.value.detach().double().sum())

    @property
    def gradient(self) -> Tensor:
        """All gradients as one vector; what was not reached is zero."""
        gradients = self.gradients or [None] * len(self.leaves)
        pairs = zip(gradients, self.leaves, strict=True)
        parts = [(torch.zeros_like(x) if g is None else g).reshape(-1) for g, x in pairs]
        return torch.cat(parts).double() if parts else torch.zeros(0, dtype=torch.float64)

    @property
    def finite(self) -> bool:
        fine = self.value is None or bool(self.value.detach().isfinite().all())
        return fine and bool(self.gradient.isfinite().all())


def total(result: Any) -> Tensor | None:
    """The loss in what was returned: a tensor, or the first of (total, things to log)."""
    if isinstance(result, tuple) and len(result) == 2 and _only_logged(result[1]):
        result = result[0]
    if not isinstance(result, Tensor) or not result.is_floating_point():
        return None
    return None if result.is_meta or result.layout != torch.strided else result


def _only_logged(aux: Any) -> bool:
    leaves, _ = flatten(aux)
    return isinstance(aux, dict) and not any(
        isinstance(x, Tensor) and x.requires_grad and x.ndim > 0 for x in leaves
    )


@contextlib.contextmanager
def unmarked(seed: int | None = 0) -> Iterator[None]:
    """Random numbers start from a seed and are given back; nothing is printed or warned of."""
    python = random.getstate()
    legacy: Any = None
    with contextlib.suppress(ImportError):
        import numpy

        legacy = numpy.random.get_state()
    with (
        torch.random.fork_rng(devices=[]),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        torch.enable_grad(),
    ):
        warnings.simplefilter("ignore")
        if seed is not None:
            torch.manual_seed(seed)
            random.seed(seed)
            if legacy is not None:
                numpy.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            if legacy is not None:
                numpy.random.set_state(legacy)


@dataclass(frozen=True)
class Subject:
    """A loss, one batch taken apart into leaves, and which of them the model predicts."""

    loss: Callable[..., Any]
    leaves: tuple[Any, ...]
    structure: Any
    predictions: tuple[int, ...]  # leaves that a gradient is taken of
    targets: tuple[int, ...]
    names: tuple[str, ...]  # of the parameters that the leaves belong to
    kind: str | None = None
    declared: bool = False
    level: str = "train"
    stop_gradient: frozenset[int] = frozenset()

    @property
    def module(self) -> nn.Module | None:
        inner = self.loss.func if isinstance(self.loss, partial) else self.loss
        return inner if isinstance(inner, nn.Module) else None

    @property
    def prediction(self) -> Tensor:
        tensor: Tensor = self.leaves[self.predictions[0]]
        return tensor

    @property
    def target(self) -> Tensor | None:
        return self.leaves[self.targets[0]] if self.targets else None

    @property
    def parameters(self) -> list[str]:
        """The names of what the loss can be called with."""
        return list(signature_of(self.loss))

    def having(self, changes: dict[int, Any]) -> "Subject":
        leaves = tuple(changes.get(i, leaf) for i, leaf in enumerate(self.leaves))
        return replace(self, leaves=leaves)

    def predicting(self, prediction: Tensor, target: Tensor | None = None) -> "Subject":
        """The same problem with another first prediction (and first target)."""
        changes: dict[int, Any] = {self.predictions[0]: prediction}
        if target is not None and self.targets:
            changes[self.targets[0]] = target
        return self.having(changes)

    def bind(self, **options: Any) -> "Subject":
        return replace(self, loss=partial(self.loss, **options))

    def run(
        self,
        tracer: Callable[[Sequence[Any]], Tracer] | None = None,
        *,
        dtype: torch.dtype | None = None,
        gradient: bool = True,
        seed: int | None = 0,
        as_is: bool = False,
    ) -> Run:
        """Call the loss on copies of everything, with random numbers that start from a seed.

        Args:
            tracer: Makes the mode under which the call is made, from the leaves it is given.
            dtype: Converts floating-point leaves and modules to it.
            gradient: Whether to compute the gradient.
            seed: Where random numbers start; None leaves them as they are.
            as_is: Call the very object, whose state may change, instead of a copy.
        """
        run = Run()
        with unmarked(seed):
            loss = self.loss if as_is else _copied(self.loss, dtype)
            run.module = _module_in(loss)
            leaves = [self._leaf(i, leaf, dtype, run.leaves) for i, leaf in enumerate(self.leaves)]
            run.given = leaves
            for module in (run.module, *(x for x in leaves if isinstance(x, nn.Module))):
                if module is not None:
                    run.leaves += [p for p in module.parameters() if p.requires_grad]
            mode = None
            if tracer is not None:
                known = [*leaves, *(p for p in run.leaves if p.is_leaf and _is_parameter(p))]
                mode = tracer(known)
                run.trace = mode.trace
            args = _unflatten(self.structure, leaves)
            try:
                with mode or contextlib.nullcontext():
                    run.result = loss(*args)
                run.value = total(run.result)
                if gradient and run.value is not None:
                    run.gradients = self._differentiate(run)
            except (Exception, SystemExit) as error:
                run.error = error
        return run

    def trace(self, **options: Any) -> Run:
        return self.run(Tracer, **options)

    def _leaf(self, i: int, leaf: Any, dtype: torch.dtype | None, leaves: list[Tensor]) -> Any:
        if isinstance(leaf, nn.Module):
            return _copied(leaf, dtype)
        if not isinstance(leaf, Tensor):
            return leaf
        leaf = leaf.detach().clone()
        if dtype is not None and leaf.is_floating_point():
            leaf = leaf.to(dtype)
        if i not in self.predictions:
            return leaf
        leaves.append(leaf.requires_grad_())
        # As in training, where a prediction is not a leaf and may be changed in place.
        return leaf.clone()

    def _differentiate(self, run: Run) -> list[Tensor | None]:
        assert run.value is not None
        nothing: list[Tensor | None] = [None] * len(run.leaves)
        if not run.value.requires_grad or not run.leaves:
            return nothing
        return list(
            torch.autograd.grad(run.value.sum(), run.leaves, allow_unused=True, retain_graph=True)
        )


def _is_parameter(x: Tensor) -> bool:
    return isinstance(x, nn.Parameter)


def _unflatten(structure: Any, leaves: list[Any]) -> tuple[Any, ...]:
    args: Any = optree.tree_unflatten(structure, leaves)
    return tuple(args)


def _module_in(loss: Any) -> nn.Module | None:
    inner = loss.func if isinstance(loss, partial) else loss
    return inner if isinstance(inner, nn.Module) else None


def _copied(loss: Any, dtype: torch.dtype | None) -> Any:
    """A copy of a module, and of one that a partial holds; functions are as they are."""
    if isinstance(loss, partial) and isinstance(loss.func, nn.Module):
        return partial(_copied(loss.func, dtype), *loss.args, **loss.keywords)
    if not isinstance(loss, nn.Module):
        return loss
    try:
        loss = copy.deepcopy(loss)
    except Exception:
        return loss
    return loss if dtype is None else loss.to(dtype)


def values_of(tensor: Tensor) -> set[float]:
    """The values that occur in a tensor."""
    return set(tensor.detach().double().reshape(-1).tolist())


def signature_of(loss: Any) -> dict[str, inspect.Parameter]:
    """The parameters of a loss; empty if it does not tell."""
    try:
        target = loss.forward if isinstance(loss, nn.Module) else loss
        return dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return {}


def sounds_like(name: str, words: Sequence[str]) -> bool:
    parts = name.lower().strip("_").rstrip("0123456789").split("_")
    plural = {part.rstrip("s") for part in parts} | set(parts)
    return any(word in plural for word in words)


def subject_of(
    loss: Callable[..., Any],
    sample: Sequence[Any],
    *,
    kind: str | None = None,
    declared: bool = False,
    level: str = "train",
    stop_gradient: Sequence[int | str] = (),
) -> Subject:
    """Find out which of the arguments are predictions and which are targets."""
    names = [
        name
        for name, parameter in signature_of(loss).items()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    roles = kind if declared else None  # a guess is not enough to call a tensor a target
    leaves, structure = flatten(tuple(sample))
    owner: list[int] = []
    for position, argument in enumerate(sample):
        owner += [position] * len(flatten(argument)[0])
    called = [names[i] if i < len(names) else f"argument {i}" for i in owner]
    stopped = frozenset(
        i for i, at in enumerate(owner) if at in stop_gradient or called[i] in stop_gradient
    )
    floating = [
        i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()
    ]
    tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    first = owner[floating[0]] if floating else -1
    predictions = [
        i
        for i in floating
        if i not in stopped
        and (
            owner[i] == first
            or not (
                sounds_like(called[i], TARGET_NAMES) or _is_target(leaves, floating[0], i, roles)
            )
        )
    ]
    if any(isinstance(leaf, nn.Module) for leaf in leaves):
        # A model is given: what it is called with is data, and its parameters are learnt.
        predictions = []
    targets = [i for i in tensors if i not in predictions]
    return Subject(
        loss, tuple(leaves), structure, tuple(predictions), tuple(targets), tuple(called), kind,
        declared, level, stopped,
    )  # fmt: skip


def _is_target(leaves: list[Any], first: int, i: int, kind: str | None) -> bool:
    """A second tensor is the target for all kinds but those that compare predictions."""
    if kind in ("embeddings", "scores", None):
        return values_of(leaves[i]) <= {0.0, 1.0, -1.0} if leaves[i].numel() else True
    return i != first

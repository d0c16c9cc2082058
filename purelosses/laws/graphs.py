"""Clauses G: tracing, compiling, exporting, and what must not happen there."""

import inspect
import re
from collections.abc import Iterator
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from purelosses.laws.core import (
    Check,
    NotApplicable,
    Operations,
    Subject,
    close,
    each_close,
    inputs,
    law,
    ordinary,
    positions,
    scalar,
    tensors_of,
    true,
    with_options,
)
from purelosses.registry import Problem


@law("G1", "torch.compile makes one full graph for all batch sizes.", kind="graph")
def _(subject: Subject) -> Iterator[Check]:
    import torch._dynamo.testing

    masked = subject.case.where is not None  # G2 and G3 trace without a mask
    torch._dynamo.reset()
    # Dynamo's graph, guards and symbolic shapes; G3 traces the gradient, G7 compiles it.
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(scalar(subject.spec.loss), fullgraph=True, backend=counter)
    for batch in (18, 22, 26):
        problem = subject.case.problem(0, where=masked, sizes={"B": batch})
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
        found = torch.autograd.grad(
            value, [leaves[k] for k in gradients], allow_unused=True, materialize_grads=True
        )
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
    problem, other = (subject.case.problem(0, sizes={"B": batch}) for batch in (4, 7))
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


@law("G3", "Value and gradient trace symbolically, once for all batch sizes.", kind="graph")
def _(subject: Subject) -> Iterator[Check]:
    # No other axis is as long as these batches, so that none is taken for the batch.
    problem, other = (subject.case.problem(0, sizes={"B": batch}) for batch in (7, 9))
    options = {k: x for k, x in problem.options.items() if tensors_of(x)}

    def function(tensors: dict[str, Tensor], options: dict[str, Any]) -> Any:
        given = Problem(problem.case, tensors, {**problem.options, **options})
        derivative = torch.func.grad_and_value(subject.function(given), positions(given))
        return derivative(*inputs(given))

    graph = make_fx(function, tracing_mode="symbolic")(dict(problem.tensors), options)
    for given in (problem, other):
        gradient, value = graph(dict(given.tensors), options)
        expected, gradients = subject.differentiate(given)
        yield close("value", value, expected, rtol=1e-5, atol=1e-6)
        traced = dict(zip(gradients, gradient, strict=True))
        yield from each_close("gradient", traced, gradients, rtol=1e-5, atol=1e-6)


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
        with Operations() as operations:
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
            try:
                with Operations() as operations:
                    value = subject.value(fake)
            except RuntimeError as error:
                if "not linked with support for cuda" not in str(error):
                    raise
                # Python's `~x` and `x[...]` ask for the device itself.
                raise NotApplicable("it needs a build of torch with CUDA to be judged") from None
            yield true(f"the result is on {value.device}", value.device.type == "cuda")
            for name, taken, made in operations.calls:
                if name.startswith(("aten._to_copy", "aten.copy_")):
                    devices = {x.device.type for x in (*taken, *made) if x.numel() > 1}
                    yield true(f"{name} between {devices}", len(devices) < 2)


def scheduled(subject: Subject) -> dict[str, float]:
    """The options that may be a number or a tensor, where they are a number here."""
    problem, found = subject.case.problem(0), {}
    for name, parameter in inspect.signature(subject.spec.loss).parameters.items():
        kinds = get_args(parameter.annotation)
        value = problem.options.get(name, parameter.default)
        if isinstance(value, Tensor) and not value.ndim:
            value = float(value)
        if float in kinds and Tensor in kinds and isinstance(value, int | float):
            found[name] = float(value)
    if not found:
        raise NotApplicable("it has no option that may be a number or a tensor")
    return found


@law("G8", "Options scheduled as tensors equal numbers, and one graph serves all values.", "graph")
def _(subject: Subject) -> Iterator[Check]:
    import torch._dynamo.testing

    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(scalar(subject.spec.loss), fullgraph=True, backend=counter)
    problem, numbers = subject.case.problem(0), scheduled(subject)
    for step in (0.0, 0.01, 0.02):
        now = {name: value * (1 - step) if value else step for name, value in numbers.items()}
        as_tensors = {name: torch.tensor(value) for name, value in now.items()}
        value = problem(compiled, **as_tensors)
        yield close(f"at {now}", value, subject.value(problem, **now), rtol=1e-5, atol=1e-6)
    yield Check("graphs beyond the first", float(counter.frame_count - 1))


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

"""Clauses S and M: bad input is refused, and modules add nothing to their functions."""

import copy
import inspect
import pickle
import re
import sys
from collections.abc import Iterator
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

from purelosses.laws.core import (
    Check,
    Subject,
    close,
    each_close,
    law,
    ordinary,
    raises,
    same,
    scalar,
    tensors_of,
    total,
    true,
    with_options,
)
from purelosses.registry import Array, Problem
from purelosses.registry.core import PER_CALL


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
                partial(subject.spec.loss, wrong, *data[1:], **options),
                f"{subject.spec.name}: `{subject.spec.parameters}",
            )
    trees = [name for name, tree in subject.case.args.items() if not isinstance(tree, Array)]
    for name in trees:
        problem = subject.case.problem(0)
        data, options = problem.arguments
        tensor = next(x for k, x in problem.tensors.items() if k.split(".")[0] == name)
        for wrong in ({}, [], tensor.unsqueeze(-1), {"another": tensor.unsqueeze(-1)}):
            args = [wrong if k == name else x for k, x in zip(subject.case.args, data, strict=True)]
            yield raises(
                f"{name} {wrong!r}",
                (ValueError,),
                partial(subject.spec.loss, *args, **options),
                f"{subject.spec.name}: `",
                " must ",
            )
    if trees or subject.case.unit is None:
        return
    for name, problem, got, fits in misfits(subject):
        yield raises(
            f"`{name}` of shape {got} for {fits}",
            (ValueError,),
            partial(subject.value, problem),
            f"{subject.spec.name}: `{name}` must ",
            str(got),
            str(fits),
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
    names = [k for k in subject.holding("mask", "sign", "labels", "counts") if k in subject.targets]
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
            if subject.case.arrays[name].domain == "sign" and not dtype.is_signed:
                continue
            given = problem.having(**{name: problem.tensors[name].to(dtype)})
            yield same(f"{name} as {dtype}", subject.value(given), expected)
        if hard:
            given = problem.having(**{name: problem.tensors[name].bool()})
            yield same(f"{name} as bool", subject.value(given), expected)


@law("S3", "A label outside the classes never gives a finite loss.")
def _(subject: Subject) -> Iterator[Check]:
    for name in subject.holding("labels"):
        problem = subject.case.problem(0)
        torch._dynamo.reset()
        compiled = torch.compile(scalar(subject.spec.loss), backend="eager", fullgraph=True)
        for bad in (-1, problem.case.sizes["C"], 255):
            labels = problem.tensors[name].clone()
            labels.view(-1)[0] = bad
            wrong = problem.having(**{name: labels})
            fragments = (f"{subject.spec.name}: `{name}` must", str(bad))
            call = partial(subject.value, wrong)
            yield raises(f"label {bad}", (ValueError,), call, *fragments)
            meta = with_options(wrong, lambda x: x.to("meta"))
            yield true("meta tensors pass", subject.value(meta).is_meta)
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
        one = subject.case.problem(0, sizes={"B": 1})
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
    expected = total(subject.call_module(module, problem))
    again = rebuilt(module)
    again.load_state_dict(module.state_dict())
    copies = {
        "pickle": pickle.loads(pickle.dumps(module)),
        "deepcopy": copy.deepcopy(module),
        "repr": again,
    }
    for what, twin in copies.items():
        yield same(what, total(subject.call_module(twin, problem)), expected)
        yield true(f"the {what} prints the same", repr(twin) == repr(module))
    for parameter in inspect.signature(type(module).__init__).parameters.values():
        if parameter.name != "self":
            yield true(f"repr shows {parameter.name}", f"{parameter.name}=" in repr(module))


@law("M2", "Every tensor of a module is a registered buffer or parameter.")
def _(subject: Subject) -> Iterator[Check]:
    subject.build()
    assert subject.module is not None
    as_tensors = {
        k: torch.tensor(v) if isinstance(v, float) else v
        for k, v in subject.case.options.items()
        if k not in PER_CALL
    }
    module = subject.module(*subject.init, **as_tensors)
    moved = copy.deepcopy(module).to("meta")
    registered = {id(x) for x in (*moved.parameters(), *moved.buffers())}
    loose = 0
    for part in moved.modules():
        plain = {k: v for k, v in vars(part).items() if not k.startswith("_")}
        leaves = tensors_of(plain)
        loose += sum(id(x) not in registered for x in leaves)
    yield Check("tensors that .to() does not move", float(loose))
    for name, value in as_tensors.items():
        if isinstance(value, Tensor):
            yield true(f"{name} moves with .to()", getattr(moved, name).is_meta)


@law("M3", "A module equals its function bitwise, and its state is what `*_init` returns.")
def _(subject: Subject) -> Iterator[Check]:
    module = subject.build()
    for problem in ordinary(subject):
        result = total(subject.call_module(module, problem))
        yield same("module and function", result, subject.value(problem))
    own = set(subject.parameters)
    yield true(f"state_dict holds {sorted(module.state_dict())}", set(module.state_dict()) == own)

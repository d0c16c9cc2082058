"""L20, L21, L25, L26, L27: torch.func, the compiler, export, and waiting for the device."""

from collections.abc import Callable, Iterator
from typing import Any

import optree
import torch
from torch import Tensor

from purelosses.doctor.report import Finding, Site, finding
from purelosses.doctor.subject import Run, Subject, unmarked
from purelosses.doctor.trace import site_of_error


def synchronisation(subject: Subject, run: Run) -> Iterator[Finding]:
    """L20: Python waits for a value."""
    trace = run.trace
    assert trace is not None
    severity = "warning" if subject.level in ("deploy", "library") else "advice"
    for node in [*trace.numbers, *trace.branches, *trace.synchronising]:
        message = f"`{node.name}` waits for the device at each call."
        yield finding("L20", message, node.site, severity)  # type: ignore[arg-type]


def _function(subject: Subject) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """The loss as a function of its tensors alone."""
    at = [i for i, x in enumerate(subject.leaves) if isinstance(x, Tensor)]

    loss, given = subject.loss, subject.leaves
    positions = optree.tree_unflatten(subject.structure, range(len(given)))

    def call(*tensors: Tensor) -> Tensor:
        leaves = list(given)
        for i, tensor in zip(at, tensors, strict=True):
            leaves[i] = tensor
        result = loss(*_placed(positions, leaves))
        value: Tensor = result[0] if isinstance(result, tuple) else result
        return value

    return call, [subject.leaves[i].detach().clone() for i in at]


def _placed(positions: Any, leaves: list[Any]) -> Any:
    """Leaves in their tree; plain Python, which the compiler can follow."""
    if isinstance(positions, int):
        return leaves[positions]
    if isinstance(positions, dict):
        return {key: _placed(item, leaves) for key, item in positions.items()}
    return type(positions)([_placed(item, leaves) for item in positions])


def _learnt(subject: Subject) -> tuple[int, ...]:
    at = [i for i, x in enumerate(subject.leaves) if isinstance(x, Tensor)]
    return tuple(at.index(i) for i in subject.predictions)


def forward_mode(subject: Subject, run: Run) -> Iterator[Finding]:
    """L25: jvp against the gradient."""
    call, tensors = _function(subject)
    learnt = _learnt(subject)
    tensors = [x.double() if x.is_floating_point() else x for x in tensors]
    generator = torch.Generator().manual_seed(0)
    tangents = tuple(
        torch.randn(tensors[i].shape, generator=generator, dtype=torch.float64) for i in learnt
    )

    def along(*moved: Tensor) -> Tensor:
        all_of = list(tensors)
        for i, tensor in zip(learnt, moved, strict=True):
            all_of[i] = tensor
        return call(*all_of)

    at = tuple(tensors[i] for i in learnt)
    with unmarked():
        try:
            leaves = [x.clone().requires_grad_() for x in at]
            value = along(*leaves)
            gradients = torch.autograd.grad(value.sum(), leaves, allow_unused=True)
            reverse = sum(
                float((g * t).sum())
                for g, t in zip(gradients, tangents, strict=True)
                if g is not None
            )
        except Exception:
            return
        try:
            forward = float(torch.func.jvp(along, at, tangents)[1].sum())
        except Exception as error:
            yield finding("L25", _told("forward mode", error), _site(error, run), "advice")
            return
    if abs(forward - reverse) > 1e-3 * max(abs(forward), abs(reverse)) + 1e-9:
        message = f"Along one direction jvp gives {forward:.5g}, backward {reverse:.5g}."
        yield finding("L25", message, _unrecorded(run))


def _unrecorded(run: Run) -> Site | None:
    from purelosses.doctor.severed import _last_unrecorded, custom_functions

    assert run.trace is not None
    blocked = [n for n in run.trace.nodes if not n.recording and n.smooth and n.site]
    if blocked:
        return _last_unrecorded(run.trace, blocked[:1])
    functions = custom_functions(run)
    if functions:
        import inspect

        try:
            return Site(
                inspect.getsourcefile(functions[0]) or "", inspect.getsourcelines(functions[0])[1]
            )
        except (OSError, TypeError):
            return None
    return None


def _told(what: str, error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0]
    return f"{what} raises {type(error).__name__}: {first[:240]}"


def _site(error: BaseException, run: Run) -> Site | None:
    return site_of_error(error)


def mapped(subject: Subject, run: Run) -> Iterator[Finding]:
    """L26: vmap, and vmap of the gradient, against a loop."""
    call, tensors = _function(subject)
    learnt = _learnt(subject)
    stacks = [
        torch.stack([x, x.flip(0) if x.ndim else x, x.roll(1, 0) if x.ndim else x]) for x in tensors
    ]
    with unmarked():
        try:
            loop = torch.stack([call(*(s[k] for s in stacks)) for k in range(3)])
        except Exception:
            return
    gradient = torch.func.grad(lambda *x: call(*x).sum(), learnt) if learnt else None
    for what, function in (("vmap", call), ("vmap of the gradient", gradient)):
        if function is None:
            continue
        with unmarked():
            try:
                together = torch.vmap(function, randomness="same")(*stacks)
            except Exception as error:
                yield finding("L26", _told(what, error), _site(error, run))
                return
            if what == "vmap":
                expected: Any = loop
            else:
                expected = _loop_of_gradients(call, stacks, learnt)
        pairs = list(zip(_tuple(together), _tuple(expected), strict=True))
        if not all(a.shape == b.shape and torch.allclose(a, b, 1e-3, 1e-5) for a, b in pairs):
            off = [float((a - b).abs().max()) for a, b in pairs if a.shape == b.shape]
            measured = f"by {max(off):.3g}" if off else "in shape"
            yield finding("L26", f"{what} differs from a loop {measured}.", None, "error")
            return


def _tuple(x: Any) -> tuple[Tensor, ...]:
    return x if isinstance(x, tuple) else (x,)


def _loop_of_gradients(
    call: Callable[..., Tensor], stacks: list[Tensor], learnt: tuple[int, ...]
) -> tuple[Tensor, ...]:
    rows = []
    for k in range(3):
        tensors = [s[k].clone() for s in stacks]
        leaves = [tensors[i].requires_grad_() for i in learnt]
        value = call(*tensors).sum()
        found = tuple(torch.zeros_like(x) for x in leaves)
        if value.requires_grad:
            found = torch.autograd.grad(value, leaves, allow_unused=True, materialize_grads=True)
        rows.append(found)
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))


def compiled(subject: Subject, run: Run) -> Iterator[Finding]:
    """L21 and L27: one graph, exportable, with the same value."""
    call, tensors = _function(subject)
    torch._dynamo.reset()
    with unmarked():
        try:
            value = torch.compile(call, fullgraph=True, backend="aot_eager")(*tensors)
        except Exception as error:
            yield finding(
                "L21", _told("torch.compile(fullgraph=True)", error), _broken_at(error, run)
            )
            return
    with unmarked():
        eager = call(*tensors)
    if not torch.allclose(value, eager, 1e-4, 1e-6, equal_nan=True):
        message = f"Compiled it is {float(value.sum()):.6g}, else {float(eager.sum()):.6g}."
        yield finding("L27", message, _asks_the_compiler(subject))
    with unmarked():
        try:
            torch.export.export(_Exportable(call), tuple(tensors))
        except Exception as error:
            yield finding("L21", _told("torch.export", error), _broken_at(error, run))


def _asks_the_compiler(subject: Subject) -> Site | None:
    """The line that behaves otherwise when it is compiled."""
    from purelosses.doctor.severed import source_line

    return source_line(subject, r"is_compiling|is_dynamo_compiling|is_exporting")


class _Exportable(torch.nn.Module):
    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.call(*tensors)


def _broken_at(error: BaseException, run: Run) -> Site | None:
    """The compiler tells the line in its message; else it is where Python takes a value."""
    import re

    from purelosses.doctor.trace import is_users

    for file, line in reversed(re.findall(r'File "([^"]+)", line (\d+)', str(error))):
        if is_users(file):
            return Site(file, int(line))
    assert run.trace is not None
    taken = [*run.trace.numbers, *run.trace.branches, *run.trace.synchronising]
    return taken[0].site if taken else site_of_error(error)

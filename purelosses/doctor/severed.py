"""L01, L02, L05, L07, L22: where the gradient is lost, found by asking what would be without."""

import inspect
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from purelosses.doctor.report import Finding, Site, finding
from purelosses.doctor.subject import Run, Subject
from purelosses.doctor.trace import (
    ADDITIVE,
    COPIES,
    LINEAR,
    Lying,
    Node,
    Reconnecting,
    Trace,
    graph_of,
)

CUTTING_SOURCE = re.compile(r"Variable\(|Parameter\(|FloatTensor\(|torch\.Tensor\(|from_numpy\(")


def lost_gradient(subject: Subject, run: Run) -> Iterator[Finding]:
    """All ways in which the gradient of the prediction is lost."""
    assert run.trace is not None
    numbers = list(numbers_that_flow(subject, run))
    yield from numbers
    dead = not bool(run.gradient.any())
    cuts = list(cuts_that_matter(subject, run, dead))
    yield from cuts
    if not numbers and not any(f.code == "L05" and f.severity != "advice" for f in cuts):
        yield from decisions(subject, run, dead)


def numbers_that_flow(subject: Subject, run: Run) -> Iterator[Finding]:
    """L01: make each line that takes a number lie by 1 %; the loss must not notice."""
    trace = run.trace
    assert trace is not None
    copies = [node for node in trace.nodes if node.name in COPIES]
    taken = [*trace.numbers, *copies]
    before = _answer(run)
    for site in dict.fromkeys(node.site for node in taken):
        here = [node for node in taken if node.site == site]
        learnt = [node for node in here if node.smooth & set(_predicted(subject, trace))]
        if site is None or not learnt:
            continue
        other = subject.run(partial(Lying, site=site), gradient=False)
        after = _answer(other)
        if before is None or after is None or before.shape != after.shape:
            continue
        move = float((after - before).abs().max())
        if move > 1e-6 * float(before.abs().max()) + 1e-12:
            names = ", ".join(sorted({node.name for node in here}))
            share = move / max(float(before.abs().max()), 1e-12)
            yield finding(
                "L01",
                f"`{names}` takes a number out of the graph, and the loss is made of it: "
                f"1 % more there moves the loss by {100 * share:.2g} %.",
                site,
            )


def _answer(run: Run) -> Tensor | None:
    """What was returned, as numbers."""
    result = run.result[0] if isinstance(run.result, tuple) and run.result else run.result
    try:
        return torch.as_tensor(result).detach().double().reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        return None


def _predicted(subject: Subject, trace: Trace) -> list[int]:
    """The arguments of a trace that are learnt: predictions, and parameters after the leaves."""
    return [*subject.predictions, *range(len(subject.leaves), trace.arguments)]


def output_of(run: Run) -> Node | None:
    return run.trace.node(run.value) if run.trace is not None and run.value is not None else None


def _cuts(subject: Subject, trace: Trace) -> list[Node]:
    """Nodes that depend smoothly on the prediction and of which autograd knows nothing."""
    learnt = set(_predicted(subject, trace))
    return [
        node
        for node in trace.nodes
        if node.name != "argument"
        and node.smooth & learnt
        and not node.live
        and not node.decides
        and any(i.live or i.name == "argument" for i in trace.inputs(node))
    ]


def cuts_that_matter(subject: Subject, run: Run, dead: bool) -> Iterator[Finding]:
    """L05: undo each cut; what gradient appears was lost."""
    trace = run.trace
    assert trace is not None
    output, given = output_of(run), run.gradient
    ancestors = {node.index for node in trace.ancestors(output)} if output else None
    cuts = [n for n in _cuts(subject, trace) if ancestors is None or n.index in ancestors]
    sites = [site for site in dict.fromkeys(node.site for node in cuts) if site is not None]
    everything = len(sites) > 1 and dead
    for site in sites:
        here = [node for node in cuts if node.site == site]
        blocks = any(not n.recording for n in here)
        other = subject.run(partial(Reconnecting, site=None if everything else site, blocks=blocks))
        if other.error is not None or other.value is None or len(other.gradients) == 0:
            continue
        whole = other.gradient
        lost = float((whole - given).norm() / whole.norm().clamp_min(1e-30))
        if not bool(whole.any()):
            continue  # straight-through: without the cut there is no gradient at all
        if lost < 1e-3:
            continue
        names = "no_grad" if blocks else here[0].name
        at = _last_unrecorded(trace, here) or site if blocks else site
        message = f"`{names}` removes {100 * min(lost, 1.0):.0f} % of the gradient."
        if dead:
            yield finding("L05", message, at)
            if everything:
                return
        elif _constant_term(trace, here, output):
            yield finding("L05", f"{message} A whole term is a constant to autograd.", at)
        else:
            silent = (given == 0) & (whole.abs() > 1e-3 * whole.abs().max())
            share = float(silent.double().mean())
            compared = _compared_with_live(trace, here)
            lower = compared or share < 0.1
            yield finding(
                "L05",
                f"{message} {100 * share:.0f} % of the entries get none at all.",
                at,
                "advice" if lower else "warning",
            )


def _last_unrecorded(trace: Trace, start: list[Node]) -> Site | None:
    """The last line under `no_grad` before what it computed is used outside."""
    consumers, stack, seen = trace.consumers(), [n.index for n in start], set[int]()
    while stack:
        index = stack.pop()
        if index not in seen:
            seen.add(index)
            stack += [c.index for c in consumers.get(index, ()) if not c.recording]
    return trace.nodes[max(seen)].site if seen else None


def _descend(trace: Trace, start: list[Node]) -> Iterator[tuple[Node, Node]]:
    """Where what is dead meets what is alive: (dead node, live node made from it)."""
    consumers = trace.consumers()
    stack, seen = [node.index for node in start], set[int]()
    while stack:
        index = stack.pop()
        if index in seen:
            continue
        seen.add(index)
        for consumer in consumers.get(index, ()):
            if consumer.live and consumer.smooth:
                yield trace.nodes[index], consumer
            else:
                stack.append(consumer.index)


def _linear_to(trace: Trace, start: Node, output: Node | None) -> bool:
    """Whether a node reaches the loss through sums and constant factors alone."""
    if output is None:
        return False
    consumers, stack, seen = trace.consumers(), [start.index], set[int]()
    while stack:
        index = stack.pop()
        if index == output.index:
            return True
        if index in seen:
            continue
        seen.add(index)
        for consumer in consumers.get(index, ()):
            if consumer.name not in LINEAR:
                continue
            others = [n for n in trace.inputs(consumer) if n.index != index and n.depends]
            if consumer.name in ADDITIVE or not any(o.live and o.smooth for o in others):
                stack.append(consumer.index)
    return False


def _constant_term(trace: Trace, start: list[Node], output: Node | None) -> bool:
    """Whether dead nodes are added to the loss as a constant."""
    return any(
        meet.name in ADDITIVE and _linear_to(trace, meet, output)
        for _, meet in _descend(trace, start)
    )


def _compared_with_live(trace: Trace, start: list[Node]) -> bool:
    """Whether the detached value is the target of another live tensor (stop-gradient)."""
    mine = start[0].smooth
    for dead, meet in _descend(trace, start):
        others = [n for n in trace.inputs(meet) if n.index != dead.index and n.live]
        if any(n.smooth - mine for n in others) and all(not (n.smooth & mine) for n in others):
            return True
    return False


def decisions(subject: Subject, run: Run, dead: bool) -> Iterator[Finding]:
    """L02: decisions from which the loss is made without anything soft beside them."""
    trace, output = run.trace, output_of(run)
    assert trace is not None
    learnt = set(_predicted(subject, trace))
    if output is None:
        return
    ancestors = trace.ancestors(output)
    made = [n for n in ancestors if n.decides and n.hard & learnt]
    if not made:
        return
    if dead and not output.smooth & learnt:
        yield _decision(made[0], "The gradient of the loss is zero everywhere.")
        return
    if dead and not any(n.smooth & learnt and n.live and n.name != "argument" for n in ancestors):
        yield _decision(made[0], "The gradient of the loss is zero everywhere.")
        return
    if dead:
        softly = [n for n in trace.inputs(output) if n.smooth & learnt]
        if not softly:
            yield _decision(made[0], "The gradient of the loss is zero everywhere.")
        return
    if straight_through(subject, run):
        return
    for node in made:
        if _constant_term(trace, [node], output):
            yield _decision(node, "A whole term of the loss has no gradient.")


def _decision(node: Node, message: str) -> Finding:
    return finding("L02", f"`{node.name}` is a decision. {message}", node.site)


def straight_through(subject: Subject, run: Run) -> bool:
    """Whether gradients disappear once nothing is detached: then detaching is the method."""
    trace = run.trace
    assert trace is not None
    for site in dict.fromkeys(node.site for node in _cuts(subject, trace)):
        if site is None:
            continue
        other = subject.run(partial(Reconnecting, site=site, blocks=True))
        if other.error is None and other.gradients and not bool(other.gradient.any()):
            return True
    return False


# Against finite differences


def slope_errors(subject: Subject, run: Run) -> list[tuple[float, float]]:
    """Derivatives along random directions: by finite differences, and by autograd."""
    found = []
    for seed in range(4):
        pair = _slope(subject, seed)
        if pair is not None:
            found.append(pair)
    return found


def _slope(subject: Subject, seed: int) -> tuple[float, float] | None:
    generator = torch.Generator().manual_seed(seed)
    base, ahead = {}, {}
    for i in subject.predictions:
        x = subject.leaves[i].detach().double()
        scale = float(x.std()) if x.numel() > 1 else 1.0
        scale = scale if 0 < scale < 1e6 else 1.0
        jitter = 0.02 * scale * torch.randn(x.shape, generator=generator, dtype=torch.float64)
        base[i] = (x + jitter * (seed > 0)).clamp(x.min(), x.max()) if x.numel() else x
        ahead[i] = scale * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    if not base:
        return None
    here = subject.having(base).run(dtype=torch.float64)
    if here.error is not None or here.value is None or not here.finite or not here.gradients:
        return None
    exact = here.value.dtype == torch.float64
    step = 1e-6 if exact else 1e-2
    up = subject.having({i: base[i] + step * ahead[i] for i in base}).run(
        dtype=torch.float64, gradient=False
    )
    down = subject.having({i: base[i] - step * ahead[i] for i in base}).run(
        dtype=torch.float64, gradient=False
    )
    if up.value is None or down.value is None:
        return None
    difference = (up.number - down.number) / (2 * step)
    gradients = here.gradients[: len(base)]
    by_autograd = sum(
        float((g.double() * ahead[i]).sum())
        for i, g in zip(base, gradients, strict=True)
        if g is not None
    )
    noise = 1e-9 * abs(here.number) / step * (1e-6 if exact else 1.0) + 1e-12
    if abs(difference - by_autograd) <= (1e-4 if exact else 0.1) * abs(difference) + noise * 10:
        return difference, difference
    return difference, by_autograd


def custom_functions(run: Run) -> list[Any]:
    """The handwritten autograd Functions in a graph."""
    if run.value is None or run.value.grad_fn is None:
        return []
    nodes = [f for f, _ in graph_of(run.value)]
    return list(
        dict.fromkeys(
            type(f)._forward_cls  # type: ignore[attr-defined]
            for f in nodes
            if isinstance(f, torch.autograd.function.BackwardCFunction)
        )
    )


def wrong_derivative(subject: Subject, run: Run, found: list[Finding]) -> Iterator[Finding]:
    """L07, and L05 where autograd disagrees with differences and no cut was seen."""
    if any(f.code in ("L01", "L02", "L05") for f in found) or run.trace is None:
        return
    slopes = slope_errors(subject, run)
    wrong = [(d, a) for d, a in slopes if d != a]
    if len(slopes) < 3 or len(wrong) < len(slopes) - 1:
        return
    difference, by_autograd = wrong[0]
    measured = (
        f"the loss changes by {difference:.4g} along a direction, autograd says {by_autograd:.4g}"
    )
    functions = custom_functions(run)
    if functions:
        if all(abs(d) <= 1e-8 + 1e-6 * abs(a) for d, a in wrong) or straight_through(subject, run):
            return  # straight-through: the value stands still and the gradient is chosen
        if _chosen(run, functions[0]):
            return
        yield finding("L07", f"{functions[0].__name__}: {measured}.", _backward(functions[0]))
        return
    if all(abs(d) < 1e-9 for d, _ in wrong):
        return
    # In part: only where a line is seen that cuts; there are honest reasons for the rest.
    if all(a == 0 for _, a in wrong) or hidden_cut(subject) is not None:
        yield finding("L05", f"{measured[0].upper()}{measured[1:]}.", hidden_cut(subject))


def _chosen(run: Run, function: Any) -> bool:
    """A forward that changes nothing: gradient reversal, scaling or clipping is the purpose."""
    try:
        source = inspect.getsource(function.forward)
    except (OSError, TypeError):
        return False
    return bool(re.search(r"return \w+(\.view_as\(\w+\)|\.clone\(\))?\s*$", source.rstrip()))


def _backward(function: Any) -> Site | None:
    try:
        text, first = inspect.getsourcelines(function.backward)
        file = inspect.getsourcefile(function)
    except (OSError, TypeError):
        return None
    returns = [i for i, line in enumerate(text) if line.strip().startswith("return")]
    return Site(file or "", first + (returns[-1] if returns else 0))


def hidden_cut(subject: Subject) -> Site | None:
    """A line that cuts the graph where no mode can see it."""
    return source_line(subject, CUTTING_SOURCE)


def source_line(subject: Subject, pattern: str | re.Pattern[str]) -> Site | None:
    """The first line of the loss that has a pattern."""
    target: Any = subject.loss.func if isinstance(subject.loss, partial) else subject.loss
    target = type(target) if isinstance(target, nn.Module) else target
    try:
        text, first = inspect.getsourcelines(target)
        file = inspect.getsourcefile(target) or ""
    except (OSError, TypeError):
        return None
    for i, line in enumerate(text):
        if re.search(pattern, line.split("#")[0]):
            return Site(file, first + i)
    return None


def idle_parameters(subject: Subject, run: Run) -> Iterator[Finding]:
    """L22: parameters that the loss does not reach, and tensors that look like parameters."""
    module = run.module
    if module is None or run.value is None:
        return
    own = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
    gradients = {id(x): g for x, g in zip(run.leaves, run.gradients, strict=False)}
    for name, parameter in own:
        gradient = gradients.get(id(parameter))
        if gradient is None or not bool(gradient.any()):
            site = _cut_of(subject, run, parameter) or _assignment(module, name.split(".")[0])
            yield finding("L22", f"`{name}` gets no gradient on this batch.", site)
    for name, value in vars(module).items():
        items = value if isinstance(value, (list, tuple)) else [value]
        items = list(value.values()) if isinstance(value, dict) and name[0] != "_" else items
        if any(isinstance(x, Tensor) and x.requires_grad and x.is_leaf for x in items):
            message = f"`{name}` requires a gradient but is not registered as a parameter."
            yield finding("L22", message, _assignment(module, name))


def _cut_of(subject: Subject, run: Run, parameter: Tensor) -> Site | None:
    """The line that takes a parameter out of the graph."""
    assert run.trace is not None
    node = run.trace.node(parameter)
    if node is None:
        return None
    mine = [n for n in [*run.trace.nodes, *run.trace.numbers] if n.smooth == node.smooth]
    cut = [n for n in mine if n.name != "argument" and (not n.live or n in run.trace.numbers)]
    return cut[0].site if cut else None


def _assignment(module: nn.Module, name: str) -> Site | None:
    try:
        text, first = inspect.getsourcelines(type(module))
        file = inspect.getsourcefile(type(module)) or ""
    except (OSError, TypeError):
        return None
    for i, line in enumerate(text):
        if re.search(rf"self\.{re.escape(name)}\b.*=|[\"']{re.escape(name)}[\"']", line):
            return Site(file, first + i)
    return Site(file, first)

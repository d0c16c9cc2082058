"""L03, L04, L06, L08, L09, L18, L19: what comes out, what is left behind, and where it breaks."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from purelosses.doctor.codes import Severity
from purelosses.doctor.kinds import UNIT, edges
from purelosses.doctor.report import Finding, Site, finding
from purelosses.doctor.severed import output_of, source_line
from purelosses.doctor.subject import Run, Subject
from purelosses.doctor.trace import (
    ADDITIVE,
    Node,
    Trace,
    Tracer,
    first_bad_backward,
    first_not_finite,
)

REMEDIES = {
    "log": "log of 0 is -inf",
    "log2": "log of 0 is -inf",
    "log10": "log of 0 is -inf",
    "sqrt": "the root has an infinite slope at 0",
    "norm": "the norm has no slope at 0",
    "exp": "exp overflows above 88 in float32",
    "div": "a division by 0",
    "__truediv__": "a division by 0",
    "__rtruediv__": "a division by 0",
    "__rdiv__": "a division by 0",
    "reciprocal": "a division by 0",
}


def reduction(subject: Subject, run: Run) -> Iterator[Finding]:
    """L03: a result with axes, or one that doubles with the batch."""
    assert run.value is not None
    if run.value.numel() > 1:
        message = f"It returns shape {tuple(run.value.shape)}, not one number."
        yield finding("L03", message, _returned_at(subject, run))
        return
    if "sum" in str(_option(subject, "reduction")):
        return
    twice = doubled(subject)
    if twice is None:
        return
    other = twice.run()
    if other.value is None or other.error is not None or not run.finite or not run.number:
        return
    ratio = other.number / run.number
    steeper = float(other.gradient.abs().sum() / run.gradient.abs().sum().clamp_min(1e-30))
    # Twice for a sum over samples, four times for a sum over pairs.
    if any(abs(ratio - k) < 1e-3 * k and abs(steeper - k) < 0.02 * k for k in (2, 4)):
        message = f"A batch twice as large costs {ratio:.3g} times as much: it sums over the batch."
        yield finding("L03", message, _sum_site(run), "warning")


def _returned_at(subject: Subject, run: Run) -> Site | None:
    """The line that returns, where there is one; else the last operation."""
    last = _last_site(run)
    if last is not None and last.source.startswith("return"):
        return last
    returning = source_line(subject, r"^\s*return\b")
    return returning or last


def _option(subject: Subject, name: str) -> Any:
    module = subject.module
    if module is not None and hasattr(module, name):
        return getattr(module, name)
    return getattr(subject.loss, "keywords", {}).get(name, "")


def doubled(subject: Subject) -> Subject | None:
    """The batch twice, or None if the arguments share no first axis."""
    tensors = {i: x for i, x in enumerate(subject.leaves) if isinstance(x, Tensor)}
    sizes = {x.shape[0] for x in tensors.values() if x.ndim > 0}
    if len(sizes) != 1 or any(isinstance(x, nn.Module) for x in subject.leaves):
        return None
    return subject.having({i: torch.cat([x, x]) for i, x in tensors.items() if x.ndim > 0})


def _last_site(run: Run) -> Site | None:
    node = output_of(run)
    return node.site if node else None


def _sum_site(run: Run) -> Site | None:
    """The last sum before the result."""
    node = output_of(run)
    if node is None or run.trace is None:
        return None
    sums = [n for n in run.trace.ancestors(node) if n.name in ("sum", "nansum", "norm") or (
        n.keywords.get("reduction") == "sum")]  # fmt: skip
    depending = [n for n in sums if n.depends]
    return (depending or [node])[-1].site


# Stability


def stability(subject: Subject, run: Run) -> Iterator[Finding]:
    """L04: the first operation that is not finite, and the input that shows it."""
    if not run.finite:
        yield _broken(subject, "this very batch", True)
        return
    seen: set[tuple[str | None, int | None]] = set()
    for name, trial, ordinary in _trials(subject):
        result = trial.run()
        if result.error is not None or result.value is None or result.finite:
            continue
        found = _broken(trial, name, ordinary)
        if (found.file, found.line) in seen:
            continue
        seen.add((found.file, found.line))
        yield found


def _trials(subject: Subject) -> Iterator[tuple[str, Subject, bool]]:
    if not subject.predictions:
        return
    for probe in edges(subject.kind, subject.prediction, subject.target):
        yield probe.name, subject.predicting(probe.prediction, probe.target), probe.ordinary
    if subject.kind in ("embeddings", None):
        same = [
            i for i in subject.predictions if subject.leaves[i].shape == subject.prediction.shape
        ]
        if len(same) > 1:
            equal = {i: subject.prediction.clone() for i in same}
            yield "equal predictions", subject.having(equal), subject.kind == "embeddings"
            zero = {i: torch.zeros_like(subject.prediction) for i in same}
            yield "predictions of 0", subject.having(zero), subject.kind == "embeddings"
    if subject.kind is None:
        scores = subject.prediction.ndim > 1 and subject.prediction.shape[-1] == 1
        for value in (20.0, 200.0) if scores else ():
            for sign in (1, -1):
                filled = {
                    i: torch.full_like(subject.leaves[i], sign * value) for i in subject.predictions
                }
                yield f"scores of {sign * value:.0f}", subject.having(filled), True


def _broken(subject: Subject, name: str, ordinary: bool) -> Finding:
    run = subject.trace()
    assert run.trace is not None
    severity = None if ordinary else "warning"
    if run.value is not None and not bool(run.value.detach().isfinite().all()):
        node = first_not_finite(run.trace)
        operation = node.name if node else "an operation"
        value = float(run.value.detach().reshape(-1)[~run.value.detach().isfinite().reshape(-1)][0])
        message = (
            f"On {name} the loss is {value}: the first to go is `{operation}`{_remedy(operation)}."
        )
        return finding("L04", message, node.site if node else None, severity)  # type: ignore[arg-type]
    if run.value is None:
        return finding("L04", f"On {name} there is no value.", None, severity)  # type: ignore[arg-type]
    operation, site = first_bad_backward(run.trace, run.value, run.leaves)
    message = (
        f"On {name} the loss is finite ({run.number:.4g}) but its gradient is not: the first to go "
        f"is the backward of `{operation}`{_remedy(operation.lower())}."
    )
    return finding("L04", message, site, severity)  # type: ignore[arg-type]


def _remedy(operation: str) -> str:
    for name, text in REMEDIES.items():
        if name in operation.lower():
            return f" ({text})"
    return ""


# Side effects


class Watching(Tracer):
    """Notice the first operation after which an argument is another."""

    def __init__(self, arguments: Any) -> None:
        super().__init__(arguments)
        self.watched = [(x, x.detach().clone()) for x in arguments if isinstance(x, Tensor)]
        self.culprit: tuple[str, Site | None] | None = None

    def perform(self, function: Any, name: str, site: Site | None, args: Any, kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        in_place = name.endswith("_") or name.startswith("__") or "out" in kwargs
        if in_place and self.culprit is None and not all(map(_unchanged, self.watched)):
            self.culprit = name, site
        return result


def _unchanged(pair: tuple[Tensor, Tensor]) -> bool:
    now, before = pair
    with torch._C.DisableTorchFunction():
        now = now.detach()
        return now.shape == before.shape and bool(
            ((now == before) | ((now != now) & (before != before))).all()
        )


def changed_inputs(subject: Subject) -> Iterator[Finding]:
    """L06: an argument is another after the call."""
    modes: list[Watching] = []

    def watch(arguments: Any) -> Tracer:
        modes.append(Watching(arguments[: len(subject.leaves)]))
        return modes[0]

    subject.run(watch)
    if modes and modes[0].culprit is not None:
        name, site = modes[0].culprit
        yield finding("L06", f"`{name}` changes an argument of the loss.", site)
    elif modes and not all(map(_unchanged, modes[0].watched)):
        site = source_line(subject, r"[-+*/]=|\]\s*=[^=]|\.\w+_\(|out=")
        yield finding("L06", "An argument of the loss has other values after the call.", site)


RANDOM = {
    "rand", "randn", "rand_like", "randn_like", "dropout", "randperm", "randint", "bernoulli",
    "multinomial", "normal", "normal_", "uniform_", "bernoulli_", "gumbel_softmax", "randint_like",
    "exponential_", "poisson", "feature_dropout", "dropout2d", "alpha_dropout", "dropout1d",
    "manual_seed", "rrelu", "dropout_", "random_",
}  # fmt: skip


def hidden_state(subject: Subject, run: Run) -> Iterator[Finding]:
    """L08: two calls on the same batch disagree, or a module is another after the call."""
    assert run.trace is not None
    # Several seeds: a dropout can drop the same, or nothing, twice.
    first, second = subject.run(), subject.run(seed=1)
    for seed in (2, 3, 4):
        if not _differ(first, second):
            second = subject.run(seed=seed)
    random = [n for n in run.trace.nodes if n.name in RANDOM]
    if _differ(first, second):
        site = random[0].site if random else _state_site(subject)
        many = f"{first.number:.6g} and {second.number:.6g}"
        yield finding("L08", f"Two calls on the same batch return {many}.", site)
        return
    module = subject.module
    if module is None:
        return
    one = subject.run(as_is=False)
    copy_of = one.module
    if copy_of is None:
        return
    before, after = _state(module), _state(copy_of)
    changed = [
        name for name in {**before, **after} if not _equal(before.get(name), after.get(name))
    ]
    if changed:
        once, twice = replace(subject, loss=copy_of).run(), subject.run()
        matters = _differ(once, twice)
        message = f"Calling it changes `{changed[0]}` of the module."
        level: Severity = "warning" if matters else "advice"
        yield finding("L08", message, _store_site(module, changed[0]), level)


def _differ(a: Run, b: Run) -> bool:
    if a.value is None or b.value is None or a.error or b.error:
        return False
    if a.number == b.number and torch.equal(a.gradient, b.gradient):
        return False
    if a.number != a.number and b.number != b.number:
        return False
    close = abs(a.number - b.number) <= 1e-6 * abs(a.number) + 1e-9
    return not (close and torch.allclose(a.gradient, b.gradient, rtol=1e-4, atol=1e-7))


def _state(module: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = dict(module.state_dict())
    found.update(module.named_buffers())
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if not name.startswith("_"):
                found[f"{prefix}.{name}".strip(".")] = value
    return found


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a.detach(), b.detach())
    if isinstance(a, (int, float, str, bool, type(None))) or isinstance(b, (int, float, str, bool)):
        return bool(type(a) is type(b) and a == b)
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return False
    if isinstance(a, (list, dict, tuple)) and isinstance(b, (list, dict, tuple)):
        return len(a) == len(b)
    return True


def _store_site(module: nn.Module, name: str) -> Site | None:
    import inspect
    import re

    last = name.split(".")[-1]
    try:
        text, first = inspect.getsourcelines(type(module))
        file = inspect.getsourcefile(type(module)) or ""
    except (OSError, TypeError):
        return None
    change = r"([-+*/]?=[^=]|\.(append|update|extend)\b|\.\w+_\()"
    pattern = rf"self\.{re.escape(last)}\b(\[.*\])?\s*{change}"
    found = [i for i, line in enumerate(text) if re.search(pattern, line)]
    inside = [i for i in found if "register_buffer" not in text[i]]
    return Site(file, first + inside[-1]) if inside else None


def _state_site(subject: Subject) -> Site | None:
    """A global that is changed, or Python's own random numbers."""
    import inspect
    import re

    target: Any = getattr(subject.loss, "func", subject.loss)
    target = type(target).forward if isinstance(target, nn.Module) else target
    try:
        text, first = inspect.getsourcelines(target)
        file = inspect.getsourcefile(target) or ""
    except (OSError, TypeError):
        return None
    for pattern in (
        r"random\.\w+\(|np\.random",
        r"\w+\[[^\]]+\]\s*[-+*/]?=[^=]|\.append\(",
        r"[-+*/]=",
    ):
        for i, line in enumerate(text):
            if re.search(pattern, line):
                return Site(file, first + i)
    return None


# Shapes

PAIRWISE_LOSSES = (
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "poisson_nll_loss",
    "soft_margin_loss", "multilabel_soft_margin_loss", "hinge_embedding_loss", "gaussian_nll_loss",
)  # fmt: skip
ELEMENTWISE = {*ADDITIVE, "mul", "__mul__", "__rmul__", "div", "__truediv__", "eq", "__eq__",
               "maximum", "minimum", "where", "pow", "lt", "gt", "le", "ge", "max",
               "min"}  # fmt: skip
ON_PURPOSE = {"unsqueeze", "__getitem__", "view", "reshape", "expand", "transpose", "T", "t", "mT"}


def broadcasting(subject: Subject, run: Run) -> Iterator[Finding]:
    """L09: (N, 1) meets (N,) and makes (N, N)."""
    trace = run.trace
    assert trace is not None
    for node in trace.nodes:
        if len(node.operands) < 2 or not _comes_from_several(trace, node):
            continue
        a, b = node.operands[:2]
        if node.name in PAIRWISE_LOSSES and a != b:
            yield _combined(node, a, b)
            return
        if node.name not in ELEMENTWISE or not isinstance(node.value, Tensor):
            continue
        result = tuple(node.value.shape)
        larger = node.value.numel() > max(_size(a), _size(b))
        if larger and len(a) != len(b) and _size(a) > 1 and _size(b) > 1 and _aligned(a, b):
            if subject.kind == "embeddings" and any(
                i.name in ON_PURPOSE for i in trace.inputs(node)
            ):
                continue
            yield _combined(node, a, b, result)
            return


def _combined(node: Node, a: Any, b: Any, result: Any = None) -> Finding:
    made = f" into {result}" if result else ""
    return finding("L09", f"`{node.name}` combines shapes {a} and {b}{made}.", node.site)


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


def _aligned(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """The shorter shape lies along an axis where the longer has 1, and has the batch's length."""
    short, long = sorted((a, b), key=len)
    return long[-1] == 1 and short[-1] == long[0]


def _comes_from_several(trace: Trace, node: Node) -> bool:
    """Both operands come from the data, and not from one argument compared with itself."""
    inputs = trace.inputs(node)
    if len(inputs) < 2:
        return False
    a, b = inputs[0], inputs[1]
    if not a.depends or not b.depends:
        return False
    return a.depends != b.depends or a.name not in ("unsqueeze", "argument")


# Where nothing is learnt, and half precision


def dead_on_empty(subject: Subject, run: Run) -> Iterator[Finding]:
    """L18: no gradient pushes a wrong prediction down where the target is empty."""
    target, kind = subject.target, subject.kind
    binary = kind in ("binary_logits", *UNIT) and target is not None
    if not binary or target is None or target.shape != subject.prediction.shape:
        return
    if float(target.min()) < 0 or not bool(run.gradient.any()):
        return
    empty = subject.predicting(subject.prediction, torch.zeros_like(target)).run()
    if empty.error is not None or empty.value is None or not empty.finite:
        return
    share = float(empty.gradient.norm() / run.gradient.norm())
    if share < 1e-3:
        level = None if share < 1e-5 else "advice"
        left = f"{share:.1g} times that with them" if share else "0"
        message = f"On targets without positives the gradient is {left}."
        yield finding("L18", message, _last_division(run), level)  # type: ignore[arg-type]


def _last_division(run: Run) -> Site | None:
    node = output_of(run)
    if node is None or run.trace is None:
        return None
    found = [n for n in run.trace.ancestors(node) if "div" in n.name and n.depends]
    return (found or [node])[-1].site


HALF = (torch.float16, torch.bfloat16)


def half_precision(subject: Subject, run: Run) -> Iterator[Finding]:
    """L19: in float16 it is not finite, though in float32 it is."""
    trace = run.trace
    assert trace is not None
    given_half = any(isinstance(x, Tensor) and x.dtype in HALF for x in subject.leaves)
    if not run.finite and not given_half:
        return
    made_half = [n for n in trace.nodes if _is_half(n) and not any(map(_is_half, trace.inputs(n)))]
    made_half = [n for n in made_half if n.name != "argument" and n.depends]
    if given_half:
        full = subject.run(dtype=torch.float32)
        if full.value is None or not full.finite:
            return
        off = abs(run.number - full.number) / max(abs(full.number), 1e-3)
        if not run.finite or off > 0.05:
            node = first_not_finite(trace)
            yield finding(
                "L19",
                f"In {str(subject.prediction.dtype)[6:]} it is {run.number:.4g}, in float32 "
                f"{full.number:.4g}.",
                node.site if node else _sum_site(run),
            )
        return
    if made_half:
        message = f"`{made_half[0].name}` converts to {str(made_half[0].value.dtype)[6:]} inside."
        yield finding("L19", message, made_half[0].site)
        return
    big = enlarged(subject, run)
    if big is None:
        return
    half, full = big.run(dtype=torch.float16), big.run()
    if half.value is None or half.error is not None or full.value is None or not full.finite:
        return
    if not bool(half.value.isfinite().all()):
        again = big.trace(dtype=torch.float16)
        node = first_not_finite(again.trace) if again.trace else None
        message = f"In float16 a large batch gives {half.number:.4g} instead of {full.number:.4g}."
        yield finding("L19", message, node.site if node else None, "advice")


def _is_half(node: Node) -> bool:
    return isinstance(node.value, Tensor) and node.value.dtype in HALF


def enlarged(subject: Subject, run: Run) -> Subject | None:
    """The batch repeated to about 10^5 elements, unless the loss is quadratic in the batch."""
    twice = doubled(subject)
    if twice is None or run.trace is None:
        return None
    other = twice.trace(gradient=False)

    one, two = run.trace.nodes, other.trace.nodes if other.trace else []
    if len(one) != len(two) or any(
        isinstance(b.value, Tensor) and b.value.numel() > 2.5 * a.value.numel() + 1
        for a, b in zip(one, two, strict=True)
        if isinstance(a.value, Tensor)
    ):
        return None
    times = 100_000 // max(subject.prediction.numel(), 1) + 1
    return subject.having(
        {
            i: torch.cat([x] * times)
            for i, x in enumerate(subject.leaves)
            if isinstance(x, Tensor) and x.ndim > 0
        }
    )


__all__ = [
    "broadcasting",
    "changed_inputs",
    "dead_on_empty",
    "half_precision",
    "hidden_state",
    "reduction",
    "stability",
]

"""Every entry of the corpus is what it is said to be, measured without the doctor."""

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from doctor_corpus import DEFECTS, HEALTHY, Entry
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

# What torch says of `float(loss)`; the entries do it as users do.
pytestmark = [
    pytest.mark.slow,  # four minutes of finite differences
    pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad"),
]

Sample = tuple[Any, ...]


def total(loss: Callable[..., Any], *sample: Any) -> Tensor:
    """The loss, without what it returns for the log; randomness is the same in every call."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    result = loss(*sample)
    return result[0] if isinstance(result, tuple) else result


def copied(sample: Sample, dtype: torch.dtype | None = None) -> Sample:
    """Clones; the floating ones in another dtype."""
    return tuple(x.to(dtype) if x.is_floating_point() and dtype else x.clone() for x in sample)


def gradient(loss: Callable[..., Any], sample: Sample) -> list[Tensor]:
    """The gradient of the sum of the loss, of each floating argument; 0 where there is none."""
    sample = copied(sample)
    leaves = [x.requires_grad_() for x in sample if x.is_floating_point()]
    # Clones, because a loss that changes its input may not change a leaf.
    value = total(loss, *(x.clone() for x in sample))
    if not value.requires_grad:
        return [torch.zeros_like(x) for x in leaves]
    found = torch.autograd.grad(value.sum(), leaves, allow_unused=True, materialize_grads=True)
    return list(found)


def slopes(entry: Entry, argument: int = 0, step: float = 1e-6) -> tuple[float, float]:
    """The derivative along a random line in one argument: by autograd, by differences."""
    sample = copied(entry.sample(), torch.float64)
    loss = made(entry, torch.float64)
    x = sample[argument]
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(7)).to(x)

    def at(t: float) -> float:
        moved = [*copied(sample)]
        moved[argument] = x + t * direction
        return float(total(loss, *moved).detach().sum())

    index = sum(y.is_floating_point() for y in sample[:argument])
    exact = float((gradient(loss, sample)[index] * direction).sum())
    return exact, (at(step) - at(-step)) / (2 * step)


def made(entry: Entry, dtype: torch.dtype = torch.float32) -> Callable[..., Any]:
    """The loss; its parameters, and those of networks it closes over, in the dtype."""
    loss = entry.loss
    cells = [cell.cell_contents for cell in getattr(loss, "__closure__", None) or ()]
    for module in (loss, *cells):
        if isinstance(module, nn.Module):
            module.to(dtype)
    return loss


def differ(a: float, b: float, tolerance: float = 1e-4) -> bool:
    return abs(a - b) > tolerance * max(abs(a), abs(b), 1e-3)


def perfect(entry: Entry, target: Tensor) -> Tensor:
    """The prediction that cannot be better."""
    match entry.kind:
        case "binary_logits":
            return 80.0 * target - 40
        case "class_logits" | "segmentation":
            classes = entry.sample()[0].shape[1]
            return 80 * nn.functional.one_hot(target, classes).movedim(-1, 1).float() - 40
        case _:
            return target.clone()


def wrong(entry: Entry, target: Tensor) -> Tensor:
    """A prediction as bad as can be."""
    match entry.kind:
        case "binary_logits" | "class_logits" | "segmentation":
            return -perfect(entry, target)
        case "probabilities" | "masks":
            return 1 - target
        case "boxes":
            return target + 100
        case _:
            return -3 * target + 5


def edges(entry: Entry) -> Iterator[Sample]:
    """Batches at the edges of the domain."""
    first, *rest = entry.sample()
    match entry.kind:
        case "binary_logits" | "class_logits" | "segmentation":
            target = rest[0]
            for scale in (0.0, 1.0, 250.0):  # gaps up to 1e4
                yield perfect(entry, target) * scale, *rest
                yield wrong(entry, target) * scale, *rest
            if target.is_floating_point():
                yield first, torch.zeros_like(target), *rest[1:]
                yield first, torch.ones_like(target), *rest[1:]
            else:
                yield first, torch.zeros_like(target), *rest[1:]
        case "probabilities" | "masks":
            for p in (torch.zeros_like(first), torch.ones_like(first), rest[0], 1 - rest[0]):
                for y in (torch.zeros_like(first), torch.ones_like(first), rest[0]):
                    yield p, y
        case "regression":
            yield first, first.clone(), *rest[1:]
            yield first, torch.zeros_like(rest[0]), *rest[1:]
            yield torch.zeros_like(first), torch.zeros_like(rest[0]), *rest[1:]
            yield 1e4 * first, *rest
        case "embeddings":
            others = [x if not x.is_floating_point() else None for x in rest]
            alike = [first.clone() if x is None and x_.shape == first.shape else x_
                     for x, x_ in zip(others, rest, strict=True)]  # fmt: skip
            yield first, *alike
            yield torch.zeros_like(first), *rest
            yield first[:1].expand_as(first).clone(), *rest
        case "boxes":
            target = rest[0]
            point = torch.cat([first[:, :2], first[:, :2]], 1)
            for a in (first, target, point, target + 5, torch.zeros_like(first)):
                for b in (target, point, torch.zeros_like(first)):
                    yield a.clone(), b.clone()


def unhealthy_at(entry: Entry) -> list[int]:
    """The edges with a value or gradient that is not finite."""
    found = []
    for i, sample in enumerate(edges(entry)):
        value = total(entry.loss, *copied(sample)).detach()
        finite = value.isfinite().all() and all(
            g.isfinite().all() for g in gradient(entry.loss, sample)
        )
        if not finite:
            found.append(i)
    return found


def largest_jump(entry: Entry) -> float:
    """The largest change of value that no bisection makes smaller, relative to the range."""
    sample = copied(entry.sample(), torch.float64)
    loss = made(entry, torch.float64)
    generator = torch.Generator().manual_seed(3)
    largest = 0.0
    for _ in range(3):
        x = sample[0]
        # Of the size of the values, so that small boxes stay boxes.
        direction = torch.randn(x.shape, generator=generator).to(x) * x.std()

        def at(t: float, x: Tensor = x, direction: Tensor = direction) -> float:
            return float(total(loss, x + t * direction, *copied(sample[1:])).detach())

        grid = [i / 32 for i in range(33)]
        values = [at(t) for t in grid]
        gaps = [abs(b - a) for a, b in pairwise(values)]
        for i in sorted(range(32), key=lambda i: -gaps[i])[:3]:
            low, high = grid[i], grid[i + 1]
            a, b = values[i], values[i + 1]
            for _ in range(35):
                middle = (low + high) / 2
                m = at(middle)
                low, a, high, b = (
                    (middle, m, high, b) if abs(b - m) > abs(m - a) else (low, a, middle, m)
                )
            largest = max(largest, abs(b - a) / (max(values) - min(values) + 1e-12))
    return largest


def moved(sample: Sample) -> Sample:
    return (sample[0] + 0.1, *sample[1:])


def graph_values(entry: Entry) -> tuple[Tensor, Tensor]:
    """Eager and compiled; raises if there is no single graph."""
    torch.compiler.reset()
    compiled = torch.compile(entry.loss, backend="eager", fullgraph=True)
    return total(entry.loss, *entry.sample()), total(compiled, *entry.sample())


def forward_and_reverse(entry: Entry) -> tuple[float, float]:
    first, *rest = copied(entry.sample(), torch.float64)
    tangent = torch.randn(first.shape, generator=torch.Generator().manual_seed(1)).to(first)
    _, forward = torch.func.jvp(lambda x: total(entry.loss, x, *rest), (first,), (tangent,))
    reverse = torch.func.grad(lambda x: total(entry.loss, x, *rest))(first)
    return float(forward), float((reverse * tangent).sum())


def vmapped(entry: Entry) -> bool:
    """vmap over two batches equals the loop."""
    one, two = entry.sample(), moved(entry.sample())
    stacked = [torch.stack(pair) for pair in zip(one, two, strict=True)]
    mapped = torch.vmap(lambda *sample: entry.loss(*sample))(*stacked)
    loop = torch.stack([entry.loss(*one), entry.loss(*two)])
    return torch.allclose(mapped, loop, rtol=1e-5)


# One proof for each code: true if the loss has the defect.


def takes_a_number(e: Entry) -> bool:
    return differ(*slopes(e))


def is_locally_constant(e: Entry) -> bool:
    exact, difference = slopes(e)
    return exact == 0 == difference and total(e.loss, *e.sample()) != total(
        e.loss, -e.sample()[0].flip(0), *e.sample()[1:]
    )


def is_not_a_mean(e: Entry) -> bool:
    once = total(e.loss, *e.sample())
    twice = total(e.loss, *(torch.cat([x, x]) for x in e.sample()))
    return once.ndim > 0 or bool(torch.isclose(twice, 2 * once))


def changes_its_input(e: Entry) -> bool:
    before, sample = e.sample(), e.sample()
    total(e.loss, *sample)
    return any(not torch.equal(x, y) for x, y in zip(before, sample, strict=True))


def differs_from_call_to_call(e: Entry) -> bool:
    loss, sample = e.loss, e.sample()
    return not torch.equal(loss(*copied(sample)), loss(*copied(sample)))


def broadcasts(e: Entry) -> bool:
    a, b = e.sample()
    together = total(e.loss, a.flatten(), b.flatten())
    return a.shape != b.shape and not torch.isclose(total(e.loss, a, b), together)


def is_upside_down(e: Entry) -> bool:
    first, target = e.sample()
    if e.kind == "embeddings":  # of a class one point against of all classes one
        best = torch.eye(16)[target] + 0.01 * first
        return bool(total(e.loss, best, target) > total(e.loss, first, target))
    return bool(
        total(e.loss, perfect(e, target), target) > total(e.loss, wrong(e, target), target) + 0.1
    )


def has_no_fixed_minimum(e: Entry) -> bool:
    target = e.sample()[1]
    few = torch.zeros_like(target)
    few[..., 0, 0] = 1
    return differ(*(float(total(e.loss, t.clone(), t)) for t in (few, torch.ones_like(few))), 0.01)


def cannot_be_satisfied(e: Entry) -> bool:
    target = e.sample()[1]
    rest = abs(total(e.loss, perfect(e, target), target))
    return bool(rest > 0.1 or gradient(e.loss, (wrong(e, target), target))[0].abs().max() == 0)


def takes_255(e: Entry) -> bool:
    return bool(e.sample()[1].max() == 255 and total(e.loss, *e.sample()).isfinite())


def takes_any_label(e: Entry) -> bool:
    logits, target = e.sample()
    for label in (-1, logits.shape[1]):
        bad = target.clone()
        bad.view(-1)[0] = label
        try:
            if total(e.loss, logits, bad).isfinite():
                return True
        except (RuntimeError, IndexError):
            pass
    return False


def counts_what_is_ignored(e: Entry) -> bool:
    first, target, *mask = e.sample()
    nothing = (torch.zeros_like(mask[0]),) if mask else ()
    ignored = target if mask else torch.full_like(target, 255)
    more = [torch.cat(p) for p in zip((first, target, *mask), (first, ignored, *nothing),
                                      strict=True)]  # fmt: skip
    return differ(float(total(e.loss, *more)), float(total(e.loss, first, target, *mask)))


def has_another_sum(e: Entry) -> bool:
    parts = e.loss(*e.sample(), reduction="none")
    return differ(float(parts.sum()), float(e.loss(*e.sample(), reduction="sum")))


def is_dead_on_empty(e: Entry) -> bool:
    first, target = e.sample()
    empty = gradient(e.loss, (first, torch.zeros_like(target)))[0].norm()
    return bool(empty < 1e-6 * gradient(e.loss, (first, target))[0].norm())


def overflows(e: Entry) -> bool:
    half = total(e.loss, *e.sample())
    exact = total(e.loss, *copied(e.sample(), torch.float64))
    return not half.isfinite() or differ(float(half), float(exact), 0.01)


def depends_on_scale(e: Entry) -> bool:
    a, b = e.sample()
    return differ(float(total(e.loss, a, b)), float(total(e.loss, 100 * a, 100 * b)), 0.01)


class Waits(TorchDispatchMode):
    """Count the operations that need values on the host."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        chosen = args[1] if func.overloadpacket is torch.ops.aten.index else ()
        by_mask = any(x is not None and x.dtype == torch.bool for x in chosen)
        waiting = (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
        self.count += by_mask or func.overloadpacket in waiting
        return func(*args, **(kwargs or {}))


def waits_for_the_device(e: Entry) -> bool:
    with Waits() as waits:
        total(e.loss, *e.sample())
    return waits.count > 0


def has_no_graph(e: Entry) -> bool:
    try:
        graph_values(e)
    except torch._dynamo.exc.Unsupported:
        return True
    return False


def fails_under_vmap(e: Entry) -> bool:
    try:
        return not vmapped(e)
    except RuntimeError:
        return True


def has_idle_parameters(e: Entry) -> bool:
    loss = e.loss
    value = total(loss, *(x.requires_grad_(x.is_floating_point()) for x in e.sample()))
    value.backward()
    return any(p.grad is None or not p.grad.any() for p in loss.parameters())


def differs_when_compiled(e: Entry) -> bool:
    eager, compiled = graph_values(e)
    return differ(float(eager), float(compiled), 0.01)


PROOFS: dict[str, Callable[[Entry], bool]] = {
    "L01": takes_a_number,
    "L02": is_locally_constant,
    "L03": is_not_a_mean,
    "L04": lambda e: bool(unhealthy_at(e)),
    "L05": takes_a_number,
    "L06": changes_its_input,
    "L07": takes_a_number,
    "L08": differs_from_call_to_call,
    "L09": broadcasts,
    "L10": is_upside_down,
    "L11": has_no_fixed_minimum,
    "L12": cannot_be_satisfied,
    "L13": cannot_be_satisfied,
    "L14": takes_255,
    "L15": takes_any_label,
    "L16": counts_what_is_ignored,
    "L17": has_another_sum,
    "L18": is_dead_on_empty,
    "L19": overflows,
    "L20": waits_for_the_device,
    "L21": has_no_graph,
    "L22": has_idle_parameters,
    "L23": lambda e: largest_jump(e) > 1e-3,
    "L24": depends_on_scale,
    "L25": lambda e: differ(*forward_and_reverse(e)),
    "L26": fails_under_vmap,
    "L27": differs_when_compiled,
}
PITFALLS = ("L01", "L02", "L03", "L04", "L05")  # of the textbook's table


def test_the_corpus_is_large_enough() -> None:
    counts = Counter(entry.code for entry in DEFECTS.values())
    assert len(DEFECTS) >= 64
    assert len(HEALTHY) >= 44
    assert set(counts) == set(PROOFS)
    assert all(count >= 2 for count in counts.values())
    assert all(counts[code] >= 8 for code in PITFALLS)


@pytest.mark.parametrize("entry", DEFECTS.values(), ids=DEFECTS)
def test_the_defect_is_there(entry: Entry) -> None:
    assert entry.code is not None
    assert PROOFS[entry.code](entry)
    assert entry.lines
    total(entry.loss, *entry.sample())


@pytest.mark.parametrize("entry", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_loss_is_healthy(entry: Entry) -> None:
    loss = entry.loss
    value = total(loss, *entry.sample())
    assert value.ndim == 0
    assert value.isfinite()
    grads = gradient(loss, entry.sample())
    assert all(g.isfinite().all() for g in grads)
    assert grads[0].any()
    assert not changes_its_input(entry)
    assert torch.equal(value, total(loss, *entry.sample()))
    assert unhealthy_at(entry) == []
    if isinstance(loss, nn.Module) and list(loss.parameters()):
        assert not has_idle_parameters(copy.copy(entry))


@pytest.mark.parametrize("entry", HEALTHY.values(), ids=HEALTHY)
def test_the_gradient_of_a_healthy_loss_is_its_derivative(entry: Entry) -> None:
    if entry.surrogate:
        pytest.skip("differs on purpose")
    for i, x in enumerate(entry.sample()):
        # Targets and masks of 0 and 1 select; nobody asks for their gradient.
        if x.is_floating_point() and not set(x.unique().tolist()) <= {0.0, 1.0}:
            exact, difference = slopes(entry, i)
            assert not differ(exact, difference), (i, exact, difference)


@pytest.mark.parametrize("entry", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_loss_does_not_jump(entry: Entry) -> None:
    if entry.surrogate and entry.kind != "boxes":
        pytest.skip("rounds or selects on purpose")
    assert largest_jump(entry) < 1e-6


@pytest.mark.parametrize(
    "entry", [e for e in HEALTHY.values() if e.level != "train"], ids=lambda e: e.name
)
def test_a_healthy_loss_is_healthy_at_its_level(entry: Entry) -> None:
    assert not differ(*forward_and_reverse(entry))
    assert vmapped(entry)
    if entry.level == "deploy":
        assert not waits_for_the_device(entry)
        assert torch.isclose(*graph_values(entry))


@pytest.mark.parametrize(
    "entry",
    [e for e in HEALTHY.values() if e.kind not in (None, "embeddings")],
    ids=lambda e: e.name,
)
def test_a_healthy_loss_prefers_the_right_answer(entry: Entry) -> None:
    target, *rest = entry.sample()[1:]
    best = total(entry.loss, perfect(entry, target), target, *rest)
    assert best < total(entry.loss, wrong(entry, target), target, *rest)

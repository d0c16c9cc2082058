"""What balancing several tasks costs.

    make bench

The peer is torchjd with its extras (`pip install "torchjd[full]"`); without it, its rows are left
out. A row with a limit says whether it holds.
Everything is measured in one process, side by side, by torch.utils.benchmark: medians, and for
ratios the shortest of many times taken in turn, which others on the machine disturb least.
Ratios travel between machines better than times do.
"""

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.benchmark import Timer

import purelosses as pl

try:
    import torchjd.aggregation as peer
    from torchjd.autogram import Engine
    from torchjd.linalg import QuadprogProjector
except ImportError:
    peer = None


def microseconds(call: Callable[..., Any], *args: Any) -> float:
    timer = Timer("call(*args)", globals={"call": call, "args": args}, num_threads=1)
    return timer.blocked_autorange(min_run_time=0.3).median * 1e6


def in_turn(*calls: Callable[[], Any], seconds: float = 2.0) -> list[float]:
    """Microseconds of each, the shortest of rounds in which all take their turn."""
    timers = [Timer("call()", globals={"call": call}, num_threads=1) for call in calls]
    once = [max(timer.timeit(2).mean, 1e-6) for timer in timers]
    rounds = max(5, min(40, int(seconds / sum(once))))
    loops = [max(1, int(1e-3 / time)) for time in once]
    times = [
        [timer.timeit(n).mean for timer, n in zip(timers, loops, strict=True)]
        for _ in range(rounds)
    ]
    return [1e6 * min(column) for column in zip(*times, strict=True)]


def losses_of(count: int) -> dict[str, Tensor]:
    return {f"task {i}": torch.tensor(1.0 + i, requires_grad=True) for i in range(count)}


def chapter(log_vars: list[Tensor], losses: list[Tensor]) -> Tensor:
    """The textbook's loop over tasks."""
    total = torch.zeros(())
    for s, loss in zip(log_vars, losses, strict=True):
        total = total + 0.5 * torch.exp(-s) * loss + 0.5 * s
    return total


def per_task(log_vars: list[Tensor], losses: list[Tensor]) -> Tensor:
    """The same, with what ours returns for logging besides."""
    weights = [0.5 * torch.exp(-s) for s in log_vars]
    terms = [w * loss + 0.5 * s for w, loss, s in zip(weights, losses, log_vars, strict=True)]
    _ = [w.detach() for w in weights], [loss.detach() for loss in losses]
    return torch.stack(terms).sum()


def balancing(console: Console) -> None:
    """Losses of 5 and of 50 tasks: leaves are stacked before any arithmetic."""
    table = Table(title=f"Balancing tasks, torch {torch.__version__}, one thread")
    for heading in ("what", "5 tasks, µs", "50 tasks, µs", "ratio"):
        table.add_column(heading, justify="left" if heading == "what" else "right")

    def row(what: str, of: Callable[[int], tuple[Any, ...]]) -> None:
        five, fifty = (microseconds(*of(count)) for count in (5, 50))
        table.add_row(what, f"{five:.0f}", f"{fifty:.0f}", f"{fifty / five:.1f}")

    def tensors(count: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return pl.uncertainty_weighted_init(losses_of(count)), losses_of(count)

    def listed(count: int) -> tuple[list[Tensor], list[Tensor]]:
        log_vars, losses = tensors(count)
        return list(log_vars.values()), list(losses.values())

    def there(count: int) -> dict[str, Tensor]:
        return dict.fromkeys(losses_of(count), torch.tensor(True))

    row("uncertainty_weighted_loss", lambda n: (pl.uncertainty_weighted_loss, *tensors(n)))
    row(
        "  with labels missing",
        lambda n: (
            lambda s, losses, mask: pl.uncertainty_weighted_loss(s, losses, mask=mask),
            *tensors(n),
            there(n),
        ),
    )
    row("  a task at a time", lambda n: (per_task, *listed(n)))
    row("  the textbook's loop, total alone", lambda n: (chapter, *listed(n)))
    row("weighted_sum_loss", lambda n: (pl.weighted_sum_loss, losses_of(n)))
    row("log_sum_loss", lambda n: (pl.log_sum_loss, losses_of(n)))
    row(
        "dwa_update",
        lambda n: (pl.dwa_update, pl.dwa_init(losses_of(n)), losses_of(n)),
    )
    row(
        "famo_update",
        lambda n: (pl.famo_update, pl.famo_init(losses_of(n)), losses_of(n)),
    )
    console.print(table)


class Against:
    """A table of times next to a reference, and whether each ratio is within its limit."""

    def __init__(self, title: str, reference: str) -> None:
        self.table = Table(title=f"{title}, torch {torch.__version__}, one thread")
        for heading in ("what", "ms", f"{reference}, ms", "ratio", "at most", ""):
            self.table.add_column(heading, justify="left" if heading == "what" else "right")

    def row(self, what: str, time: float, reference: float, limit: float | None = None) -> None:
        ratio = time / reference
        verdict = "" if limit is None else "pass" if ratio <= limit else f"{ratio / limit:.2f} × it"
        allowed = "" if limit is None else f"{limit:.3g}"
        numbers = (f"{time / 1e3:.3g}", f"{reference / 1e3:.3g}", f"{ratio:.2f}")
        self.table.add_row(what, *numbers, allowed, verdict)


def perceptron(width: int, depth: int) -> nn.Module:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers)


def convolutions(width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs in (3, width, width, width):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())


def features(console: Console) -> None:
    """One direction for a trunk with a head per task, next to the gradient of the sum."""
    table = Against("Feature Gramian, UPGrad and one trunk backward", "plain backward")
    for name, net, x in (
        ("perceptron", perceptron(512, 4), torch.randn(256, 512)),
        ("convolutions", convolutions(32), torch.randn(16, 3, 32, 32)),
    ):
        wide = net(x).shape[-1]
        for count in (3, 8):
            readers = nn.ModuleList(nn.Linear(wide, 1) for _ in range(count))
            targets = torch.randn(count, len(x))

            def plain(net=net, readers=readers, targets=targets, x=x):  # type: ignore[no-untyped-def]
                z = net(x)
                losses = [pl.mse_loss(r(z)[:, 0], y) for r, y in zip(readers, targets, strict=True)]
                wanted = [*net.parameters(), *readers.parameters()]
                return torch.autograd.grad(torch.stack(losses).sum(), wanted)

            def trunk(shared: Any, x: Tensor, net: nn.Module = net) -> Any:
                return functional_call(net, shared, (x,))

            def head(own: Any, z: Tensor, x: Tensor, y: Tensor) -> Tensor:
                return pl.mse_loss(torch.nn.functional.linear(z, **own)[:, 0], y)

            heads = [partial(head, y=y) for y in targets]
            shared = {k: v.detach() for k, v in net.named_parameters()}
            own = [{k: v.detach() for k, v in r.named_parameters()} for r in readers]

            def ours(trunk=trunk, heads=heads, shared=shared, own=own, x=x):  # type: ignore[no-untyped-def]
                with torch.no_grad():
                    _, gramian, pullback = pl.feature_gramian(trunk, heads, shared, own, x)
                    return pullback(pl.upgrad(gramian)[0])

            limit = 1.4 if count == 8 else None
            table.row(f"{name}, {count} tasks", *in_turn(ours, plain), limit)
    console.print(table.table)


def layers(console: Console) -> None:
    """The Gramian of all parameters of a perceptron, from inputs and errors of its layers."""
    table = Against("Layer-wise Gramian of 4 tasks", "reference")
    net, x = nn.Sequential(perceptron(1024, 4), nn.Linear(1024, 4)), torch.randn(64, 1024)
    targets = torch.randn(4, 64)
    params = {k: v.detach() for k, v in net.named_parameters()}

    def losses_of(params: Any, x: Tensor) -> list[Tensor]:
        y = functional_call(net, params, (x,))
        return [pl.mse_loss(y[:, i], targets[i]) for i in range(4)]

    def plain() -> Any:
        total = torch.stack(losses_of(dict(net.named_parameters()), x)).sum()
        return torch.autograd.grad(total, list(net.parameters()))

    def by(method: Any) -> Tensor:
        with torch.no_grad():
            return torch.stack(pl.value_and_gramian(losses_of, params, x, method=method)[1])

    ours, rows, backward = in_turn(partial(by, "layers"), partial(by, "jacobian"), plain)
    table.row("against one backward", ours, backward, 1.5)
    table.row("  by the Jacobian", rows, backward)
    if peer:
        hooked = copy.deepcopy(net)
        engine = Engine(hooked, batch_dim=None)

        def theirs() -> Tensor:
            y = hooked(x)
            rows = [pl.mse_loss(y[:, i], targets[i]) for i in range(4)]
            return engine.compute_gramian(torch.stack(rows))

        torch.testing.assert_close(by("layers"), theirs(), rtol=1e-3, atol=1e-5)
        times = in_turn(partial(by, "layers"), theirs)
        table.row("against torchjd's autogram", *times, 0.35)
    console.print(table.table)


def solvers(console: Console) -> None:
    """Weights from a Gramian."""
    if not peer:
        return
    table = Against("Weights from a Gramian", "torchjd")
    exact = {"projector": QuadprogProjector(norm_eps=0, reg_eps=1e-12)}
    for m in (2, 4, 8, 16):
        rows = torch.randn(m, 3 * m, generator=torch.Generator().manual_seed(m)).double()
        gramian = rows @ rows.T
        nash = peer.NashMTL(n_tasks=m)
        for name, ours, theirs, limit in (
            ("upgrad", pl.upgrad, peer.UPGradWeighting(**exact), 1.3),
            ("cagrad", pl.cagrad, peer.CAGradWeighting(c=0.5, norm_eps=0), 1 / 8),
        ):
            times = in_turn(partial(ours, gramian), partial(theirs, gramian), seconds=0.5)
            table.row(f"{name}, {m} tasks", *times, limit)

        def step(nash: Any = nash, rows: Tensor = rows) -> Tensor:
            nash.reset()
            result: Tensor = nash(rows)
            return result

        times = in_turn(partial(pl.fair, gramian), step, seconds=0.5)
        table.row(f"Nash, {m} tasks", *times, 1 / 8)
    console.print(table.table)


def main() -> None:
    warnings.filterwarnings("ignore")
    console = Console()
    balancing(console)
    features(console)
    layers(console)
    solvers(console)


if __name__ == "__main__":
    main()

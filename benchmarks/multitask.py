"""What balancing several tasks costs, beside torchjd, and whether the goals are met.

    make bench

or `python benchmarks/multitask.py`; `--json FILE` keeps the result. The peer is torchjd with its
extras (`pip install "torchjd[full]"`); without it, its rows and goals are left out. Everything runs
on one thread of one process. Ratios are of the shortest of many times that both sides take in turn,
which others on the machine disturb least; they travel between machines better than times do.
"""

import argparse
import copy
import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from circumstances import circumstances
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.benchmark import Timer

import purelosses as pl

try:
    import torchjd.aggregation as peer
    from torchjd.autogram import Engine
    from torchjd.autojac import backward, jac_to_grad
    from torchjd.linalg import QuadprogProjector
except ImportError:
    peer = None


def microseconds(call: Callable[..., Any], *args: Any) -> float:
    timer = Timer("call(*args)", globals={"call": call, "args": args}, num_threads=1)
    return timer.blocked_autorange(min_run_time=0.3).median * 1e6


def in_turn(*calls: Callable[[], Any], seconds: float = 2.0) -> list[float]:
    """Microseconds of each, the shortest of rounds in which all take their turn."""
    timers = [Timer("call()", globals={"call": call}, num_threads=1) for call in calls]
    once = [max(timer.timeit(5).mean, 1e-6) for timer in timers]
    loops = [max(1, int(1e-3 / time)) for time in once]
    a_round = sum(n * time for n, time in zip(loops, once, strict=True))
    rounds = max(8, min(100, int(seconds / a_round)))
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


class Comparison:
    """Times next to a reference; a row with a limit is a goal."""

    def __init__(self, title: str, reference: str) -> None:
        self.title, self.reference = title, reference
        self.rows: list[dict[str, Any]] = []

    def row(
        self, what: str, times: list[float], limit: float | None = None, text: str | None = None
    ) -> None:
        ours, reference = times
        row = {"what": what, "us": ours, "reference_us": reference, "ratio": ours / reference}
        if limit is not None:
            row["goal"] = {"text": text or f"{self.title}, {what}", "limit": limit}
        self.rows.append(row)

    def result(self, console: Console) -> dict[str, Any]:
        table = Table(title=self.title)
        for heading in ("", "ms", f"{self.reference}, ms", "ratio"):
            table.add_column(heading, justify="left" if not heading else "right")
        for row in self.rows:
            times = (f"{row[key] / 1e3:.3g}" for key in ("us", "reference_us"))
            table.add_row(row["what"], *times, f"{row['ratio']:.3g}")
        console.print(table)
        goals = [{**row.pop("goal"), "reached": row["ratio"]} for row in self.rows if "goal" in row]
        return {
            "row": self.title, "reference": self.reference, "rows": self.rows, "goals": goals
        }  # fmt: skip


def balancing(console: Console) -> dict[str, Any]:
    """Losses of 5 and of 50 tasks: leaves are stacked before any arithmetic."""
    title, rows = "Balancing tasks", []
    table = Table(title=title)
    for heading in ("", "5 tasks, µs", "50 tasks, µs", "ratio"):
        table.add_column(heading, justify="left" if not heading else "right")

    def row(what: str, of: Callable[[int], tuple[Any, ...]]) -> None:
        five, fifty = (microseconds(*of(count)) for count in (5, 50))
        table.add_row(what, f"{five:.0f}", f"{fifty:.0f}", f"{fifty / five:.1f}")
        rows.append({"what": what.strip(), "us_of_5": five, "us_of_50": fifty})

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
    return {"row": title, "rows": rows, "goals": []}


def perceptron(width: int, depth: int) -> nn.Module:
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers)


def convolutions(width: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs in (3, width, width, width):
        layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())


def features(console: Console) -> dict[str, Any]:
    """One direction for a trunk with a head per task, next to the gradient of the sum."""
    found = Comparison("Feature Gramian, UPGrad and one trunk backward", "plain backward")
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
            found.row(f"{name}, {count} tasks", in_turn(ours, plain), limit)
    return found.result(console)


def layers(console: Console) -> list[dict[str, Any]]:
    """The Gramian of all parameters of a perceptron, from inputs and errors of its layers."""
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

    ours, rows, plain_time = in_turn(partial(by, "layers"), partial(by, "jacobian"), plain)
    found = Comparison("Layer-wise Gramian of 4 tasks", "one backward")
    found.row("layer-wise", [ours, plain_time], 1.5)
    found.row("by the Jacobian", [rows, plain_time])
    results = [found.result(console)]
    if peer:
        hooked = copy.deepcopy(net)
        engine = Engine(hooked, batch_dim=None)

        def theirs() -> Tensor:
            y = hooked(x)
            rows = [pl.mse_loss(y[:, i], targets[i]) for i in range(4)]
            return engine.compute_gramian(torch.stack(rows))

        torch.testing.assert_close(by("layers"), theirs(), rtol=1e-3, atol=1e-5)
        found = Comparison("Layer-wise Gramian of 4 tasks, beside a peer", "torchjd's autogram")
        found.row("layer-wise", in_turn(partial(by, "layers"), theirs), 0.35)
        results.append(found.result(console))
    return results


def weightings(console: Console) -> dict[str, Any]:
    """Weights from Gramians, five of each size. Their UPGrad is set to be exact, as ours is."""
    found = Comparison("Weights from a Gramian", "torchjd")
    exact = {"projector": QuadprogProjector(norm_eps=0, reg_eps=1e-12)}

    def each(method: Callable[[Tensor], Any], matrices: Tensor) -> Callable[[], Any]:
        return lambda: [method(matrix) for matrix in matrices]

    def nash_of(m: int) -> Callable[[Tensor], Tensor]:
        nash = peer.NashMTL(n_tasks=m)

        def step(rows: Tensor) -> Tensor:
            nash.reset()
            direction: Tensor = nash(rows)
            return direction

        return step

    for m in (2, 4, 8, 16):
        jacobians = torch.randn(5, m, 3 * m, dtype=torch.float64)
        gramians = jacobians @ jacobians.mT
        for name, ours, theirs, limit in (
            ("UPGrad", pl.upgrad, each(peer.UPGradWeighting(**exact), gramians), 1.3),
            ("CAGrad", pl.cagrad, each(peer.CAGradWeighting(0.5, norm_eps=0), gramians), 1 / 8),
            ("Nash", pl.fair, each(nash_of(m), jacobians), 1 / 8),
        ):
            times = [time / len(gramians) for time in in_turn(each(ours, gramians), theirs)]
            found.row(f"{name}, {m} tasks", times, limit)
    return found.result(console)


def whole_steps(console: Console) -> dict[str, Any]:
    """From a batch to the direction of UPGrad: Jacobian, Gramian, weights and their sum."""
    found = Comparison("UPGrad from losses to direction", "torchjd")
    exact = peer.UPGrad(projector=QuadprogProjector(norm_eps=0, reg_eps=1e-12))
    for m in (2, 4, 8, 16):
        net, x = nn.Sequential(perceptron(64, 2), nn.Linear(64, m)), torch.randn(32, 64)
        targets = torch.randn(m, 32)
        params = {k: v.detach() for k, v in net.named_parameters()}

        def losses_of(y: Tensor, targets: Tensor = targets) -> list[Tensor]:
            return [pl.mse_loss(y[:, i], target) for i, target in enumerate(targets)]

        def task_losses(params: Any, x: Tensor, net: Any = net, of: Any = losses_of) -> Any:
            return of(functional_call(net, params, (x,)))

        def ours(f: Any = task_losses, params: Any = params, x: Tensor = x) -> Any:
            with torch.no_grad():
                _, gramian, pullback = pl.value_and_gramian(f, params, x, mode="vmap")
                return pullback(pl.upgrad(gramian)[0])

        def theirs(net: Any = net, x: Tensor = x, of: Any = losses_of) -> Any:
            net.zero_grad()
            backward(of(net(x)), inputs=net.parameters())
            jac_to_grad(net.parameters(), exact)
            return {k: v.grad for k, v in net.named_parameters()}

        torch.testing.assert_close(ours(), theirs())
        found.row(f"{m} tasks", in_turn(ours, theirs), 1.3)
    return found.result(console)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the results to this file")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    console = Console()
    results = [balancing(console), features(console), *layers(console)]
    if peer:
        results += [weightings(console), whole_steps(console)]
    goals = [goal for result in results for goal in result["goals"]]
    for goal in goals:
        reached, limit = goal["reached"], goal["limit"]
        verdict = "[green]pass[/green]"
        if reached > limit:
            verdict = f"[red]short by {100 * (reached / limit - 1):.0f} %[/red]"
        console.print(f"{goal['text']}: {reached:.3g} (limit {limit:.3g}) {verdict}")
    met = sum(goal["reached"] <= goal["limit"] for goal in goals)
    console.print(f"{met} of {len(goals)} goals met")
    if not peer:
        console.print("Not measured, as torchjd is missing: all goals beside it")
    if options.json:
        about = circumstances(*["torchjd"] if peer else [])
        options.json.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

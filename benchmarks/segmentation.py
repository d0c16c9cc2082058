"""Losses of masks and boxes beside their peers: time, peak memory, and whether the goals are met.

    make bench

or, for some rows, `python benchmarks/segmentation.py --rows binary focal`; `--json FILE` keeps the
result. Every number is of one forward and backward pass on one thread. The candidates of a row take
turns in one process, in another order each round, so that a noisy moment, and the memory and caches
that another one left, hit all of them alike: ratios mean more than times, which are medians.

The rows run once for each way to get memory from the system. "default": glibc as it comes, which
returns large blocks, so that every large tensor is made of fresh pages. "huge": the same with huge
pages (THP_MEM_ALLOC_ENABLE=1). "warm": memory is kept, as the caching allocator of a GPU does.

Peak memory is counted from the profiler's record of every allocation, in units of the gradient.
"""

import argparse
import gc
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
import torch._dynamo.testing
import torch.nn.functional as F
from circumstances import circumstances
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils.benchmark import Measurement, TaskSpec

import purelosses as pl
from purelosses._fused import launch

# torchvision's compiled operators belong to one build of torch. Its losses are plain Python and
# need no more of them than that these two names exist.
_stubs = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _stubs.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import kornia.losses as kornia  # noqa: E402
import monai.losses as monai  # noqa: E402
import segmentation_models_pytorch.losses as smp  # noqa: E402
import torchvision.ops as vision  # noqa: E402

OURS = "purelosses"
ALLOCATORS = {
    "default": {},
    "huge": {"THP_MEM_ALLOC_ENABLE": "1"},
    # 32 MiB is the largest threshold that glibc takes.
    "warm": {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 40)},
}

Call = Callable[[], Any]


@dataclass
class Goal:
    """What one candidate may take at most, as a share of another or of the gradient."""

    what: Literal["time", "memory"]
    candidate: str
    than: str | None
    limit: float
    reached: float | None = None

    @property
    def text(self) -> str:
        than = f"× {self.than}" if self.than else "× the gradient"
        return f"{self.what} of {self.candidate} at most {self.limit:g} {than}"


@dataclass
class Row:
    title: str
    gradient: Tensor  # its size is the unit of memory
    candidates: dict[str, Call]
    goals: list[Goal] = field(default_factory=list)
    rounds: int = 25


def step(loss: Callable[..., Tensor], x: Tensor, *rest: Tensor) -> Call:
    """One forward and backward pass."""
    x = x.requires_grad_()
    return lambda: torch.autograd.grad(loss(x, *rest), x)


def compiled_step(loss: Callable[..., Tensor], x: Tensor, *rest: Tensor) -> Call:
    return step(torch.compile(loss, fullgraph=True), x, *rest)


def compiled_gradient(loss: Callable[..., Tensor], x: Tensor, *rest: Tensor) -> Call:
    both = torch.compile(torch.func.grad_and_value(loss), fullgraph=True)
    x = x.detach()
    return lambda: both(x, *rest)


def added(*losses: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *arguments: sum(loss(*arguments) for loss in losses)


# Rows


def masks() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(8, 1, 512, 512, generator=generator)
    return logits, (torch.rand(logits.shape, generator=generator) > 0.7).float()


def binary() -> Row:
    x, y = masks()
    ours = partial(pl.dice_bce_loss, dim=(1, 2, 3))
    theirs = monai.DiceCELoss(sigmoid=True)
    smps = added(smp.DiceLoss("binary"), smp.SoftBCEWithLogitsLoss())
    return Row(
        "Dice + BCE, 8×1×512×512",
        x,
        {
            OURS: step(ours, x, y),
            "ours, bool mask": step(ours, x, y.bool()),
            "ours, compiled": compiled_gradient(ours, x, y),
            "MONAI": step(theirs, x, y),
            "MONAI, compiled": compiled_step(theirs, x, y),
            "SMP": step(smps, x, y),
            "SMP, compiled": compiled_step(smps, x, y),
            "ours, BCE alone": step(pl.binary_cross_entropy_loss, x, y),
            "torch, BCE alone": step(F.binary_cross_entropy_with_logits, x, y),
        },
        [
            Goal("time", OURS, "MONAI", 0.6),
            Goal("time", OURS, "SMP", 0.33),
            Goal("memory", OURS, None, 1.15),
        ],
    )


def terms() -> Row:
    x, y = masks()
    region: dict[str, Any] = {"activation": "sigmoid", "dim": (1, 2, 3)}

    def together(x: Tensor, y: Tensor) -> Tensor:
        statistics = pl.overlap_statistics(x, y, extra="bce", **region)
        return (
            pl.dice_from_statistics(statistics)
            + pl.jaccard_from_statistics(statistics)
            + pl.tversky_from_statistics(statistics, alpha=0.3, beta=0.7)
            + pl.focal_tversky_from_statistics(statistics)
            + (statistics["bce"] / statistics["count"]).mean()
        )

    alone = {
        "Dice": partial(pl.dice_loss, **region),
        "Jaccard": partial(pl.jaccard_loss, **region),
        "Tversky": partial(pl.tversky_loss, alpha=0.3, beta=0.7, **region),
        "focal Tversky": partial(pl.focal_tversky_loss, **region),
        "BCE": pl.binary_cross_entropy_loss,
    }
    smps = added(
        smp.DiceLoss("binary"),
        smp.JaccardLoss("binary"),
        smp.TverskyLoss("binary", alpha=0.3, beta=0.7),
        smp.TverskyLoss("binary", alpha=0.3, beta=0.7, gamma=0.75),
        smp.SoftBCEWithLogitsLoss(),
    )
    return Row(
        "Dice + Jaccard + Tversky + focal Tversky + BCE, 8×1×512×512",
        x,
        {
            OURS: step(together, x, y),
            **{f"{name} alone": step(loss, x, y) for name, loss in alone.items()},
            "SMP": step(smps, x, y),
        },
        [Goal("time", OURS, "costliest alone", 1.2)],
        rounds=60,
    )


def labels(batch: int, classes: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(batch, classes, height, width, generator=generator)
    return logits, torch.randint(classes, (batch, height, width), generator=generator)


def classes_19() -> Row:
    x, t = labels(4, 19, 256, 512)
    return _classes("Dice + CE of labels, 4×19×256×512", x, t, 15, compiled=True)


def classes_150() -> Row:
    x, t = labels(1, 150, 640, 640)
    return _classes("Dice + CE of labels, 1×150×640×640", x, t, 5, compiled=False)


def _classes(title: str, x: Tensor, t: Tensor, rounds: int, *, compiled: bool) -> Row:
    theirs = monai.DiceCELoss(softmax=True, to_onehot_y=True)
    smps = added(smp.DiceLoss("multiclass"), F.cross_entropy)
    candidates = {
        OURS: step(pl.dice_ce_loss, x, t),
        "ours, CE alone": step(pl.cross_entropy_loss, x, t),
        "torch, CE alone": step(F.cross_entropy, x, t),
        "MONAI": step(theirs, x, t.unsqueeze(1)),
        "SMP": step(smps, x, t),
    }
    if compiled:
        candidates["ours, compiled"] = compiled_gradient(pl.dice_ce_loss, x, t)
        candidates["MONAI, compiled"] = compiled_step(theirs, x, t.unsqueeze(1))
        candidates["SMP, compiled"] = compiled_step(smps, x, t)
    goals = [
        Goal("time", OURS, "torch, CE alone", 1.15),
        Goal("time", OURS, "MONAI", 0.5),
        Goal("time", OURS, "SMP", 0.3),
        Goal("memory", OURS, None, 1.25),
    ]
    return Row(title, x, candidates, goals, rounds)


def focal() -> Row:
    x, y = masks()
    ours = partial(pl.sigmoid_focal_loss, alpha=0.25)
    theirs = partial(vision.sigmoid_focal_loss, reduction="mean")
    kornias = partial(kornia.binary_focal_loss_with_logits, alpha=0.25, gamma=2.0, reduction="mean")
    return Row(
        "sigmoid focal, 8×1×512×512",
        x,
        {
            OURS: step(ours, x, y),
            "ours, compiled": compiled_gradient(ours, x, y),
            "torchvision": step(theirs, x, y),
            "torchvision, compiled": compiled_step(theirs, x, y),
            "kornia": step(kornias, x, y),
            "kornia, compiled": compiled_step(kornias, x, y),
            "MONAI": step(monai.FocalLoss(alpha=0.25), x, y),
            "SMP": step(smp.FocalLoss("binary", alpha=0.25), x, y),
        },
        [
            Goal("time", OURS, "torchvision", 0.65),
            Goal("time", OURS, "kornia", 0.33),
            Goal("memory", OURS, None, 1.3),
        ],
    )


def lovasz() -> Row:
    x, y = masks()
    ours = partial(pl.lovasz_hinge_loss, method="histogram")
    return Row(
        "Lovász hinge, 8×1×512×512",
        x,
        {
            OURS: step(ours, x, y),
            "ours, by sorting": step(pl.lovasz_hinge_loss, x, y),
            "SMP": step(smp.LovaszLoss("binary"), x, y),
            "kornia": step(lambda x, y: kornia.lovasz_hinge_loss(x, y.squeeze(1).long()), x, y),
        },
        [Goal("time", OURS, "SMP", 0.2)],
        rounds=7,
    )


def cldice() -> Row:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, 96, 96, 96, generator=generator)
    y = (torch.rand(x.shape, generator=generator) > 0.7).float()
    ours = partial(pl.cldice_loss, dim=(2, 3, 4), iters=10)
    return Row(
        "clDice of 10 iterations, 96×96×96",
        x,
        {OURS: step(ours, x, y), "MONAI": step(monai.SoftclDiceLoss(iter_=10), x, y)},
        [Goal("memory", OURS, "MONAI", 0.25)],
        rounds=3,
    )


def giou() -> Row:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 100_000, 4, generator=generator).double()
    corners[..., 2:] += corners[..., :2] + 0.1
    x, y = corners.float().unbind()
    theirs = partial(vision.generalized_box_iou_loss, reduction="mean")
    return Row(
        "GIoU of 100 000 boxes",
        x,
        {
            OURS: step(pl.giou_loss, x, y),
            "ours, compiled": compiled_gradient(pl.giou_loss, x, y),
            "torchvision": step(theirs, x, y),
            "torchvision, compiled": compiled_step(theirs, x, y),
        },
        [
            Goal("time", OURS, "torchvision", 0.55),
            Goal("time", "ours, compiled", "torchvision", 0.15),
        ],
        rounds=40,
    )


# A row is left out while the losses that it is about do not exist.
ROWS: dict[str, tuple[Callable[[], Row], tuple[str, ...]]] = {
    "binary": (binary, ("dice_bce_loss",)),
    "terms": (terms, ("focal_tversky_from_statistics",)),
    "classes": (classes_19, ("dice_ce_loss",)),
    "classes_150": (classes_150, ("dice_ce_loss",)),
    "focal": (focal, ("sigmoid_focal_loss",)),
    "lovasz": (lovasz, ("lovasz_hinge_loss",)),
    "cldice": (cldice, ("cldice_loss",)),
    "giou": (giou, ("giou_loss",)),
}


# Measuring


def interleaved(candidates: dict[str, Call], rounds: int) -> dict[str, Measurement]:
    """All candidates in turn, in another order each time: what one leaves, the next one finds."""
    names, shuffle = list(candidates), random.Random(0).shuffle
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        shuffle(names)
        for name in names:
            start = time.perf_counter()
            candidates[name]()
            times[name].append(time.perf_counter() - start)
    return {
        name: Measurement(number_per_run=1, raw_times=t, task_spec=TaskSpec(name, ""))
        for name, t in times.items()
    }


def peak(call: Call) -> int:
    """The most bytes that the call had at a time beyond those before it."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = call()
    del result
    assert record.profiler is not None
    assert record.profiler.kineto_results is not None
    events = [e for e in record.profiler.kineto_results.events() if e.name() == "[memory]"]
    level = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        level += event.nbytes()
        most = max(most, level)
    return most


def measure(row: Row) -> dict[str, Any]:
    unit = row.gradient.nbytes
    failed = []
    for name, call in list(row.candidates.items()):
        try:
            for _ in range(2):  # compile, and settle the allocator
                call()
        except Exception as error:
            failed.append(f"{name}: {type(error).__name__}")
            del row.candidates[name]
    times = interleaved(row.candidates, row.rounds)
    found = {
        name: {"ms": 1e3 * time.median, "iqr": 1e3 * time.iqr, "memory": peak(call) / unit}
        for (name, call), time in zip(row.candidates.items(), times.values(), strict=True)
    }
    alone = [found[name] for name in found if name.endswith(" alone")]
    for goal in row.goals:
        key = "ms" if goal.what == "time" else "memory"
        if goal.than == "costliest alone":
            other = max(result[key] for result in alone)
        else:
            other = 1.0 if goal.than is None else found[goal.than][key]
        goal.reached = found[goal.candidate][key] / other
    goals = [{"text": goal.text, **asdict(goal)} for goal in row.goals]
    return {"row": row.title, "candidates": found, "goals": goals, "failed": failed}


# Checks that are no comparison of times


def lovasz_error() -> dict[str, Any]:
    """The gradient by histogram, in float32, against that by sorting in float64."""
    x, y = masks()
    exact = torch.func.grad(pl.lovasz_hinge_loss)(x.double(), y)
    found = torch.func.grad(partial(pl.lovasz_hinge_loss, method="histogram"))(x, y)
    error = float((found - exact).abs().max() / exact.abs().max())
    goal = {"text": "largest error of the gradient, of its largest entry", "limit": 1e-3}
    return {"row": "Lovász by histogram", "goals": [{**goal, "reached": error}]}


def recompilation() -> dict[str, Any]:
    """Graphs that value and gradient need for five batch sizes."""
    goals = []
    for loss, make in (
        (pl.dice_bce_loss, lambda n: (torch.randn(n, 1, 64, 64), torch.rand(n, 1, 64, 64).round())),
        (pl.sigmoid_focal_loss, lambda n: (torch.randn(n, 64), torch.rand(n, 64).round())),
        (pl.dice_ce_loss, lambda n: (torch.randn(n, 5, 32, 32), torch.randint(5, (n, 32, 32)))),
        (pl.cross_entropy_loss, lambda n: (torch.randn(n, 10), torch.randint(10, (n,)))),
    ):
        torch._dynamo.reset()
        counter = torch._dynamo.testing.CompileCounterWithBackend("inductor")
        both = torch.compile(
            torch.func.grad_and_value(loss), fullgraph=True, dynamic=True, backend=counter
        )
        for batch in (8, 12, 18, 22, 30):
            both(*make(batch))
        text = f"graphs of {loss.__name__} and its gradient for five batch sizes"
        goals.append({"text": text, "limit": 1, "reached": counter.frame_count})
    return {"row": "Recompilation", "goals": goals}


def sweep() -> dict[str, Any]:
    """The fused path and the dispatcher against the plain formula, at all sizes."""

    def mask(n: int) -> tuple[Tensor, Tensor]:
        return torch.randn(n), torch.rand(n).round()

    def classes(n: int) -> tuple[Tensor, Tensor]:
        pixels = max(1, n // 8)
        return torch.randn(1, 8, pixels), torch.randint(8, (1, pixels))

    def many(n: int) -> int:
        return max(1, n >> 12)  # regions of 64 × 64 pixels

    def many_masks(n: int) -> tuple[Tensor, Tensor]:
        x, y = mask(n)
        return x.view(many(n), -1), y.view(many(n), -1)

    def many_classes(n: int) -> tuple[Tensor, Tensor]:
        x, y = classes(n)
        images = many(y.numel())
        return x.view(8, images, -1).transpose(0, 1).contiguous(), y.view(images, -1)

    losses: dict[str, tuple[Callable[..., Tensor], Callable[[int], tuple[Tensor, Tensor]]]] = {
        "dice_loss": (partial(pl.dice_loss, activation="sigmoid"), mask),
        "dice_bce_loss": (pl.dice_bce_loss, mask),
        "dice_ce_loss": (pl.dice_ce_loss, classes),
        "cross_entropy_loss": (pl.cross_entropy_loss, classes),
        "sigmoid_focal_loss": (pl.sigmoid_focal_loss, mask),
        "binary_cross_entropy_loss": (pl.binary_cross_entropy_loss, mask),
        "softmax_focal_loss": (pl.softmax_focal_loss, classes),
        "cross_entropy_loss, smoothed": (
            partial(pl.cross_entropy_loss, label_smoothing=0.1),
            classes,
        ),
        "dice_loss of many regions": (
            partial(pl.dice_loss, activation="sigmoid", dim=1),
            many_masks,
        ),
        "dice_ce_loss of many regions": (pl.dice_ce_loss, many_classes),
    }
    sizes = [1 << power for power in range(4, 25)]
    ratios: dict[str, list[float]] = {name: [] for name in losses}
    goals = []
    for name, (loss, make) in losses.items():
        for size in sizes:
            call = step(loss, *make(size))

            def plain(call: Call = call) -> None:
                launch.AVAILABLE = False
                try:
                    call()
                finally:
                    launch.AVAILABLE = True

            def fused(call: Call = call) -> None:
                launch.AVAILABLE = True
                call()

            rounds = max(7, min(400, (1 << 24) // size))
            pair = {"fused": fused, "plain": plain}
            interleaved(pair, 2)
            times = interleaved(pair, rounds)
            ratios[name].append(times["fused"].median / times["plain"].median)
        worst = max(ratios[name])
        at = sizes[ratios[name].index(worst)]
        text = f"{name} by the formula's time, at most, over 2^4 to 2^24 elements (here {at})"
        goals.append({"text": text, "limit": 1.05, "reached": worst})
    return {"row": "Fused against plain", "sizes": sizes, "ratios": ratios, "goals": goals}


CHECKS: dict[str, tuple[Callable[[], dict[str, Any]], tuple[str, ...]]] = {
    "lovasz_error": (lovasz_error, ("lovasz_hinge_loss",)),
    "recompilation": (recompilation, ("dice_ce_loss", "sigmoid_focal_loss")),
    "sweep": (sweep, ("dice_ce_loss", "sigmoid_focal_loss")),
}


def exists(names: tuple[str, ...]) -> bool:
    return all(hasattr(pl, name) for name in names)


def work(allocator: str, chosen: list[str]) -> Iterator[dict[str, Any]]:
    """What one process measures: the rows, and with the default allocator the checks."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for name, (make, needed) in ROWS.items():
        if name in chosen and exists(needed):
            yield {"allocator": allocator, "name": name, **measure(make())}
            torch._dynamo.reset()
            gc.collect()
    for name, (check, needed) in CHECKS.items():
        if name in chosen and allocator == "default" and exists(needed):
            yield {"allocator": allocator, "name": name, **check()}


# Showing


def show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    title = f"{result['row']} ({result['allocator']} allocator)"
    if "candidates" in result:
        table = Table(title=title, title_justify="left")
        for heading in ("", "ms", "± ms", "× purelosses", "peak × gradient"):
            table.add_column(heading, justify="left" if not heading else "right")
        for name, found in result["candidates"].items():
            ratio = found["ms"] / result["candidates"][OURS]["ms"]
            table.add_row(
                name,
                f"{found['ms']:.1f}",
                f"{found['iqr']:.1f}",
                f"{ratio:.2f}",
                f"{found['memory']:.2f}",
            )
        console.print(table)
        for text in result["failed"]:
            console.print(f"  [dim]{text}, left out[/dim]")
    else:
        console.print(f"[italic]{title}[/italic]")
    for goal in result["goals"]:
        reached, limit = goal["reached"], goal["limit"]
        verdict = "[green]pass[/green]"
        if reached > limit:
            verdict = f"[red]short by {100 * (reached / limit - 1):.0f} %[/red]"
        console.print(f"  {goal['text']}: {reached:.3g} (limit {limit:g}) {verdict}")
    console.print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*ROWS, *CHECKS]
    parser.add_argument("--rows", nargs="+", choices=names, default=names, metavar="ROW")
    parser.add_argument("--allocators", nargs="+", choices=ALLOCATORS, default=["default", "warm"])
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        with options.json.open("w") as file:
            for result in work(options.worker, options.rows):
                show(result)
                file.write(json.dumps(result) + "\n")
                file.flush()
        return
    results: list[dict[str, Any]] = []
    for allocator in options.allocators:
        with tempfile.TemporaryDirectory() as folder:
            lines = Path(folder) / "results"
            subprocess.run(
                [
                    sys.executable,
                    __file__,
                    "--worker",
                    allocator,
                    "--json",
                    lines,
                    "--rows",
                    *options.rows,
                ],
                env={**os.environ, "OMP_NUM_THREADS": "1", **ALLOCATORS[allocator]},
                check=True,
            )
            results += map(json.loads, lines.read_text().splitlines())
    goals = [goal for result in results for goal in result["goals"]]
    met = sum(goal["reached"] <= goal["limit"] for goal in goals)
    print(f"{met} of {len(goals)} goals met")
    if options.json:
        about = circumstances("monai", "segmentation-models-pytorch", "kornia", "torchvision")
        options.json.write_text(json.dumps({**about, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()

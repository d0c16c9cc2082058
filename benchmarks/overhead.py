"""What a call costs beyond its arithmetic: validation, module, import.

    make bench

Everything is measured in one process, side by side, by torch.utils.benchmark; times are medians.
Ratios travel between machines better than times do.
"""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.benchmark import Timer

import purelosses as pl
import purelosses.nn as pnn
from purelosses import _checks

PREDICTION, TARGET = torch.rand(4, 8), torch.rand(4, 8)
LOGITS, LABELS = torch.randn(4, 8), torch.randint(8, (4,))


def microseconds(call: Callable[..., Any], *args: Any) -> float:
    timer = Timer("call(*args)", globals={"call": call, "args": args}, num_threads=1)
    return timer.blocked_autorange(min_run_time=0.3).median * 1e6


def validation(prediction: Tensor, target: Tensor) -> None:
    """The checks of an element-wise loss without `where` and `weights`."""
    _checks.check_floating("mse_loss", "prediction", prediction)
    _checks.check_same_shape("mse_loss", "target", target, "prediction", prediction)
    _checks.check_reduction("mse_loss", "mean")


def nothing(prediction: Tensor, target: Tensor) -> None:
    pass


def formula(prediction: Tensor, target: Tensor) -> Tensor:
    return (prediction - target).square().mean()


def textbook_dice(prediction: Tensor, target: Tensor) -> Tensor:
    return 1 - (2 * (prediction * target).sum() + 1) / (prediction.sum() + target.sum() + 1)


def import_times(rounds: int = 5) -> tuple[float, float]:
    """Milliseconds of `import purelosses` after torch and optree, and of those before it."""
    program = (
        "import time; a = time.perf_counter(); import torch, optree; b = time.perf_counter();"
        "import purelosses; c = time.perf_counter(); print(b - a, c - b)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        for _ in range(rounds)
    ]
    times = sorted(tuple(map(float, run.stdout.split())) for run in runs)
    before, ours = times[len(times) // 2]
    return 1e3 * ours, 1e3 * before


def main() -> None:
    table = Table(title=f"Cost of a call on (4, 8) tensors, torch {torch.__version__}, one thread")
    for heading in ("what", "µs", "compared with", "µs", "ratio"):
        table.add_column(heading, justify="left" if "w" in heading else "right")
    pairs: list[tuple[str, Callable[..., Any], str, Callable[..., Any], tuple[Any, ...]]] = [
        ("mse_loss", pl.mse_loss, "F.mse_loss", F.mse_loss, (PREDICTION, TARGET)),
        ("mse_loss", pl.mse_loss, "its formula", formula, (PREDICTION, TARGET)),
        ("nn.MSELoss", pnn.MSELoss(), "mse_loss", pl.mse_loss, (PREDICTION, TARGET)),
        ("huber_loss", pl.huber_loss, "F.huber_loss", F.huber_loss, (PREDICTION, TARGET)),
        (
            "cross_entropy_loss",
            pl.cross_entropy_loss,
            "F.cross_entropy",
            F.cross_entropy,
            (LOGITS, LABELS),
        ),
        ("dice_loss", pl.dice_loss, "the textbook's formula", textbook_dice, (PREDICTION, TARGET)),
    ]
    for ours, call, theirs, other, args in pairs:
        a, b = microseconds(call, *args), microseconds(other, *args)
        table.add_row(ours, f"{a:.1f}", theirs, f"{b:.1f}", f"{a / b:.2f}")
    console = Console()
    console.print(table)

    checks = microseconds(validation, PREDICTION, TARGET) - microseconds(
        nothing, PREDICTION, TARGET
    )
    console.print(f"validation of an element-wise loss: {checks:.2f} µs (goal: at most 2)")
    ours_ms, torch_ms = import_times()
    console.print(
        f"import purelosses: {ours_ms:.0f} ms on top of {torch_ms:.0f} ms for torch and optree "
        "(goal: at most 50)"
    )


if __name__ == "__main__":
    main()

"""What balancing several tasks costs.

    make bench

Everything is measured in one process, side by side, by torch.utils.benchmark; times are medians.
Ratios travel between machines better than times do.
"""

from collections.abc import Callable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils.benchmark import Timer

import purelosses as pl


def microseconds(call: Callable[..., Any], *args: Any) -> float:
    timer = Timer("call(*args)", globals={"call": call, "args": args}, num_threads=1)
    return timer.blocked_autorange(min_run_time=0.3).median * 1e6


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


def main() -> None:
    balancing(Console())


if __name__ == "__main__":
    main()

"""Predict how far off a prediction may be: quantile bands and Gaussians, and what they cover.

What 235 Belgian households of 1857 spent on food, by their income: Engel's data, where the spread
grows with the income. Three models are lines in the income: quantiles at 10, 50 and 90 percent, a
Gaussian whose variance follows a power of the income, and one with the same variance for all. In
ten folds, each household is predicted by models that have not seen it. A band of 80 % should cover
80 %, of the rich third as of the poor. With --docs, the picture and the table go to the
documentation as well.
"""

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from results import publish
from rich.progress import track
from torch import Tensor

from purelosses import gaussian_nll_loss, interval_score_loss, quantile_loss

FOLDS, STEPS, LEVELS = 10, 500, (0.1, 0.5, 0.9)
NORMAL = 1.2815515655446004  # a normal distribution has 80 % within ± this
UNIT = 100.0  # francs
BLUE, ORANGE = "#0072b2", "#e69f00"

Band = tuple[Tensor, Tensor, Tensor]  # low, middle, high
Model = Callable[[Tensor, Tensor, Tensor], tuple[Band, Tensor | None]]


def load() -> tuple[Tensor, Tensor]:
    """Income and expenditure for food, in hundreds of francs."""
    with (Path(__file__).parent / "data" / "engel.csv").open() as file:
        rows = [[float(x) for x in row] for row in list(csv.reader(file))[1:]]
    income, food = (torch.tensor(rows) / UNIT).unbind(1)
    return income, food


def fit(
    loss: Callable[[Tensor], Tensor], inputs: Tensor, start: list[Tensor]
) -> Callable[[Tensor], Tensor]:
    """A line in each column of the inputs, together at the least loss, from constants on."""
    middle, spread = inputs.mean(0), inputs.std(0)
    weights = torch.stack([torch.stack(start), torch.zeros(len(start))]).requires_grad_()

    def lines(inputs: Tensor) -> Tensor:
        return weights[0] + weights[1] * (inputs - middle) / spread

    optimizer = torch.optim.Adam([weights], lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(lines(inputs)).backward()
        optimizer.step()
        schedule.step()
    return torch.no_grad()(lines)


def quantiles(income: Tensor, food: Tensor, new: Tensor) -> tuple[Band, None]:
    def thrice(income: Tensor) -> Tensor:
        return torch.stack([income] * 3, -1)

    start = [food.quantile(level) for level in LEVELS]
    lines = fit(lambda out: quantile_loss(out, food, quantiles=LEVELS), thrice(income), start)
    low, middle, high = lines(thrice(new)).unbind(-1)
    return (low, middle, high), None


def gaussian(income: Tensor, food: Tensor, new: Tensor, *, own: bool) -> tuple[Band, Tensor]:
    """A mean that follows the income, and a variance that follows a power of it, or none."""

    def inputs(income: Tensor) -> Tensor:
        return torch.stack([income, income.log()], -1)

    def split(out: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = out.unbind(-1)
        return mean, log_var if own else log_var.mean().expand_as(mean)

    start = [food.mean(), food.var().log()]
    lines = fit(lambda out: gaussian_nll_loss(*split(out), food), inputs(income), start)
    mean, log_var = split(lines(inputs(new)))
    spread = NORMAL * (0.5 * log_var).exp()
    return (mean - spread, mean, mean + spread), log_var


MODELS: dict[str, Model] = {
    "quantiles": quantiles,
    "Gaussian, own variance": partial(gaussian, own=True),
    "Gaussian, one variance": partial(gaussian, own=False),
}


def main() -> None:
    income, food = load()
    folds = torch.randperm(len(food), generator=torch.manual_seed(0)).chunk(FOLDS)
    rows = []
    for name, model in MODELS.items():
        band = [torch.empty_like(food) for _ in range(3)]
        log_var = torch.empty_like(food)
        for test in track(folds, name):
            train = torch.ones(len(food), dtype=torch.bool).index_fill(0, test, False)
            found, spread = model(income[train], food[train], income[test])
            for whole, part in zip(band, found, strict=True):
                whole[test] = part
            if spread is not None:
                log_var[test] = spread
        low, middle, high = band
        inside = ((low <= food) & (food <= high)).float()
        thirds = [inside[part].mean() for part in income.argsort().chunk(3)]
        nll = "–"
        if name != "quantiles":
            nll = f"{gaussian_nll_loss(middle, log_var, food, full=True):.2f}"
        score = UNIT * interval_score_loss(low, high, food, alpha=0.2)
        shares = [f"{share:.0%}" for share in (inside.mean(), *thirds)]
        rows.append([name, *shares, f"{UNIT * (high - low).mean():.0f}", f"{score:.0f}", nll])
    columns = ["model", "covered", "poor", "middling", "rich", "width", "interval score", "NLL"]
    title = f"Bands of 80 % for {len(food)} households, out of sample in {FOLDS} folds"
    publish("engel", title, columns, rows, draw(income, food))


def draw(income: Tensor, food: Tensor) -> Figure:
    """The models fitted to all households."""
    style = {"axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False}
    grid = torch.linspace(float(income.min()), float(income.max()), 100)
    with plt.rc_context(style):
        figure, axes = plt.subplots(1, 3, figsize=(11, 4), sharey=True, layout="constrained")
        for plot, (name, model) in zip(axes, MODELS.items(), strict=True):
            low, middle, high = (UNIT * line for line in model(income, food, grid)[0])
            at = model(income, food, income)[0]
            inside = (at[0] <= food) & (food <= at[2])
            plot.fill_between(UNIT * grid, low, high, color=BLUE, alpha=0.15, linewidth=0)
            plot.plot(UNIT * grid, middle, color=BLUE)
            for chosen, color in ((inside, BLUE), (~inside, ORANGE)):
                plot.scatter(UNIT * income[chosen], UNIT * food[chosen], color=color, s=6)
            plot.set(title=name, xlabel="income, francs a year", ylim=(0, 2200))
        axes[0].set(ylabel="expenditure for food, francs")
    return figure


if __name__ == "__main__":
    main()

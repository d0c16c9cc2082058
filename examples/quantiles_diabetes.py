"""Predict how far off a prediction may be: quantile bands and a Gaussian, and what they cover.

The progression of diabetes in 442 patients from ten measurements, the real data set for regression
that scikit-learn ships. (Engel's food expenditures, the classic of quantile regression, are not in
it.) Three linear models of mean and spread are compared: quantiles at 5, 50 and 95 percent, a
Gaussian with a variance of its own for each patient, and one with the same for all. In five folds,
each patient is predicted by a model that has not seen them. A band of 90 % should cover 90 %, in
every third of the patients by how ill the model thinks they will be.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_diabetes
from sklearn.model_selection import KFold
from torch import Tensor

from purelosses import crps_gaussian_loss, gaussian_nll_loss, interval_score_loss, quantile_loss

STEPS, NORMAL = 250, 1.6448536269514722  # a normal distribution has 90 % within ± this
OUTPUT = Path(__file__).with_name("output")
BLUE, ORANGE = "#0072b2", "#e69f00"

Band = tuple[Tensor, Tensor, Tensor]  # low, middle, high


def main() -> None:
    data = load_diabetes()
    x = torch.tensor(data.data * len(data.data) ** 0.5, dtype=torch.float32)
    y = torch.tensor((data.target - data.target.mean()) / data.target.std(), dtype=torch.float32)
    models: dict[str, Callable[[Tensor, Tensor, Tensor], Band]] = {
        "quantiles": quantiles,
        "Gaussian, own variance": gaussian,
        "Gaussian, one variance": partial(gaussian, own=False),
        "CRPS, own variance": partial(gaussian, loss=crps_gaussian_loss),
    }
    bands = {name: [torch.empty_like(y) for _ in range(3)] for name in models}
    folds = list(KFold(5, shuffle=True, random_state=0).split(x))
    for train, test in track(folds, "Fitting in five folds"):
        for name, fit in models.items():
            for whole, part in zip(bands[name], fit(x[train], y[train], x[test]), strict=True):
                whole[test] = part
    report({name: (low, middle, high) for name, (low, middle, high) in bands.items()}, y)


def fit(loss: Callable[[Tensor], Tensor], outputs: int, x: Tensor) -> Tensor:
    """The weights of a linear model, the last of which is its constant."""
    weights = torch.zeros(x.shape[1] + 1, outputs, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.03)
    for _ in range(STEPS):
        optimizer.zero_grad()
        # A little decay: some of the ten measurements are nearly sums of others.
        (loss(x @ weights[:-1] + weights[-1]) + 1e-3 * weights[:-1].square().sum()).backward()
        optimizer.step()
    return weights.detach()


def quantiles(x: Tensor, y: Tensor, new: Tensor) -> Band:
    levels = [0.05, 0.5, 0.95]
    weights = fit(lambda out: quantile_loss(out, y, quantiles=levels, crossing_penalty=1.0), 3, x)
    low, middle, high = (new @ weights[:-1] + weights[-1]).unbind(-1)
    return low, middle, high


def gaussian(
    x: Tensor,
    y: Tensor,
    new: Tensor,
    *,
    own: bool = True,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor] = gaussian_nll_loss,
) -> Band:
    def split(out: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_var = out.unbind(-1)
        return mean, log_var if own else log_var.mean().expand_as(mean)

    weights = fit(lambda out: loss(*split(out, x), y), 2, x)
    mean, log_var = split(new @ weights[:-1] + weights[-1], new)
    spread = NORMAL * (0.5 * log_var).exp()
    return mean - spread, mean, mean + spread


def report(bands: dict[str, Band], y: Tensor) -> None:
    table = Table(title=f"Bands of 90 % for {len(y)} patients, out of sample")
    table.add_column("model")
    for column in ("covered", "milder third", "middle", "severer third", "width", "interval score"):
        table.add_column(column, justify="right")
    for name, (low, middle, high) in bands.items():
        inside = ((low <= y) & (y <= high)).float()
        thirds = [inside[part].mean() for part in middle.argsort().chunk(3)]
        score = interval_score_loss(low, high, y, alpha=0.1)
        shares = [f"{share:.1%}" for share in (inside.mean(), *thirds)]
        table.add_row(name, *shares, f"{(high - low).mean():.2f}", f"{score:.3f}")
    console = Console()
    console.print(table)
    OUTPUT.mkdir(exist_ok=True)
    path = OUTPUT / "quantiles_diabetes.png"
    draw(bands, y).savefig(path, dpi=120)
    console.print(f"Picture: {os.path.relpath(path)}", soft_wrap=True)


def draw(bands: dict[str, Band], y: Tensor) -> Figure:
    style = {"axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        figure, grid = plt.subplots(2, 2, figsize=(10, 6), sharey=True, layout="constrained")
        for axes, (name, (low, middle, high)) in zip(grid.flat, bands.items(), strict=True):
            order = middle.argsort()
            inside = (low <= y) & (y <= high)
            axes.vlines(range(len(y)), low[order], high[order], color=BLUE, alpha=0.25, lw=1)
            axes.plot(middle[order], color=BLUE, lw=1)
            for chosen, color in ((inside[order], BLUE), (~inside[order], ORANGE)):
                where = chosen.nonzero()[:, 0]
                axes.scatter(where, y[order][where], color=color, s=5)
            axes.set(title=f"{name}: {inside.float().mean():.1%} covered")
        for axes in grid[1]:
            axes.set(xlabel="patients, by predicted progression")
        for axes in grid[:, 0]:
            axes.set(ylabel="progression (standardised)")
    return figure


if __name__ == "__main__":
    main()

"""Find wrong labels by the gradient that each sample asks for.

One in ten of scikit-learn's handwritten digits gets a wrong label. A small network trains on all of
them for a short while: it learns what most samples agree on before it learns mistakes by heart.
Then `per_sample_grad` tells how far each sample, on its own, would still move the network. Those
with the largest gradients influence the training most, and are the first to look at.
"""

import os
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.func import functional_call

from purelosses import cross_entropy_loss, per_sample_grad

EPOCHS = 20
OUTPUT = Path(__file__).with_name("output")
BLUE, ORANGE = "#0072b2", "#e69f00"  # from Okabe and Ito's palette, safe for colour-blind eyes

Params = dict[str, Tensor]


def main() -> None:
    generator = torch.manual_seed(0)  # of the wrong labels, the first parameters and the batches
    images, true = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    images = images.float().reshape(-1, 1, 8, 8) / 16
    given = with_wrong_labels(true, generator)

    net = train(images, given, generator)
    params = {name: value.detach() for name, value in net.named_parameters()}
    norms = gradient_norms(net, params, images, given)
    losses = cross_entropy_loss(functional_call(net, params, images), given, reduction="none")
    report(images, given, true, norms, losses)


def with_wrong_labels(true: Tensor, generator: torch.Generator, share: float = 0.1) -> Tensor:
    """The labels, a share of them replaced by another class at random."""
    chosen = torch.randperm(len(true), generator=generator)[: round(share * len(true))]
    shift = torch.randint(1, 10, chosen.shape, generator=generator)
    return true.index_put((chosen,), (true[chosen] + shift) % 10)


def train(images: Tensor, labels: Tensor, generator: torch.Generator) -> nn.Module:
    """The usual training loop: per-sample gradients ask nothing of it."""
    net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(128, 10)),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in track(range(EPOCHS), "Training with wrong labels"):
        for batch in torch.randperm(len(images), generator=generator).split(128):
            optimizer.zero_grad()
            cross_entropy_loss(net(images[batch]), labels[batch]).backward()
            optimizer.step()
    return net


def gradient_norms(net: nn.Module, params: Params, images: Tensor, labels: Tensor) -> Tensor:
    """How long the gradient of each sample is, over all parameters."""

    def objective(params: Params, image: Tensor, label: Tensor) -> Tensor:
        return cross_entropy_loss(functional_call(net, params, image), label)

    gradients = per_sample_grad(objective)
    norms = []
    # Every gradient is as large as the network: 256 at a time, of which only the norms are kept.
    for batch in zip(images.split(256), labels.split(256), strict=True):
        leaves = [g.flatten(1) for g in gradients(params, *batch).values()]
        norms.append(torch.cat(leaves, dim=1).norm(dim=1))
    return torch.cat(norms)


def report(images: Tensor, given: Tensor, true: Tensor, norms: Tensor, losses: Tensor) -> None:
    """Print how well the ranking finds the wrong labels, and save a picture of its top."""
    wrong = given != true
    count = int(wrong.sum())
    table = Table(title=f"Looking for {count} wrong labels among {len(wrong)}")
    table.add_column("ranked by")
    for column in ("precision at 50", f"at {count}", "average precision"):
        table.add_column(column, justify="right")
    for name, scores in (("gradient norm", norms), ("loss", losses)):
        found = precision(scores, wrong)
        average = average_precision_score(wrong, scores)
        table.add_row(name, f"{found[49]:.1%}", f"{found[count - 1]:.1%}", f"{average:.3f}")
    chance = wrong.float().mean()
    table.add_row("chance", f"{chance:.1%}", f"{chance:.1%}", f"{chance:.3f}")
    console = Console()
    console.print(table)

    OUTPUT.mkdir(exist_ok=True)
    path = OUTPUT / "per_sample_digits.png"
    draw(images, given, true, norms).savefig(path, dpi=120)
    console.print(f"Picture: {os.path.relpath(path)}", soft_wrap=True)


def precision(scores: Tensor, wrong: Tensor) -> Tensor:
    """The share of wrong labels among the first 1, 2, 3, ... samples by score."""
    hits = wrong[scores.argsort(descending=True)]
    return hits.cumsum(0) / torch.arange(1, len(hits) + 1)


def draw(images: Tensor, given: Tensor, true: Tensor, norms: Tensor) -> Figure:
    wrong = given != true
    count = int(wrong.sum())
    order = norms.argsort(descending=True)
    style = {"axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        figure = plt.figure(figsize=(11, 5.6), layout="constrained")
        left, right = figure.subfigures(1, 2, width_ratios=(1.45, 1), wspace=0.03)
        top, bottom = left.subfigures(2, 1, height_ratios=(3.6, 1))
        top.suptitle("Largest gradients: given label → true label", x=0.02, ha="left")
        bottom.suptitle("Largest gradients among correct labels", x=0.02, ha="left")
        for part, rows, chosen in ((top, 4, order[:32]), (bottom, 1, order[~wrong[order]][:8])):
            for axes, sample in zip(part.subplots(rows, 8).flat, chosen, strict=True):
                axes.imshow(images[sample, 0], cmap="gray_r")
                axes.set(xticks=[], yticks=[])
                label(axes, int(given[sample]), int(true[sample]))

        spread, found = right.subplots(2, 1)
        spread.set(title="Gradient norm", xscale="log", ylabel="samples")
        low, high = norms.min().log10(), norms.max().log10()
        bins = torch.logspace(low, high, 40)
        spread.hist(norms[~wrong], bins, color=BLUE, alpha=0.8, label="correct label")
        spread.hist(norms[wrong], bins, color=ORANGE, alpha=0.8, label="wrong label")
        spread.legend(frameon=False)

        found.set(title="Share of wrong labels among the first n", xlabel="n", ylim=(0, 1.05))
        found.plot(range(1, 2 * count + 1), precision(norms, wrong)[: 2 * count], color=ORANGE)
        found.axhline(count / len(wrong), color="0.6", linestyle="--", linewidth=1)
        found.text(2 * count, count / len(wrong) + 0.02, "chance", color="0.4", ha="right")
        found.axvline(count, color="0.6", linewidth=1)
        found.text(count + 4, 0.3, f"{count} are wrong", color="0.4")
    return figure


def label(axes: Axes, given: int, true: int) -> None:
    right = given == true
    color = BLUE if right else ORANGE
    text = f"{true}" if right else f"{given} → {true}"
    axes.set_title(text, loc="center", color=color, weight="bold", fontsize=10, pad=3)
    axes.spines[:].set(visible=True, color=color, linewidth=2)


if __name__ == "__main__":
    main()

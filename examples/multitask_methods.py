"""Three tasks, one network, three ways to weigh them: the sum, learnt weights, UPGrad.

The small U-Net of the nuclei examples learns where nuclei are (a mask), how far their pixels are
from the border, and where the border is. Every method starts from the same first parameters and
sees the same crops, three seeds each. While it trains, the gradients of the tasks are compared on
the features that the heads share. With --docs, the picture and the table go to the documentation
as well.
"""

from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from nuclei import BLUE, ORANGE, SKY, Batch, UNet, load_nuclei, random_crops
from results import publish
from rich.progress import track
from torch import Tensor
from torch.func import functional_call

import purelosses as pl

SEEDS, STEPS = 3, 60
RATE, RATE_OF_WEIGHTS = 3e-3, 3e-2
TASKS = ("border", "distance", "mask")
COLOURS, COLOURS_OF_PAIRS = (ORANGE, SKY, BLUE), ("#cc79a7", "#009e73", "0.3")

Tree = dict[str, Any]


class Trunk(UNet):
    """All of the U-Net but its last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = torch.nn.Identity()

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        fine: Tensor = self.fine(image)
        middle = self.middle(F.max_pool2d(fine, 2))
        coarse = self.coarse(F.max_pool2d(middle, 2))
        middle = self.up_middle(torch.cat([F.interpolate(coarse, scale_factor=2), middle], 1))
        fine = self.up_fine(torch.cat([F.interpolate(middle, scale_factor=2), fine], 1))
        return fine


def border_of(mask: Tensor) -> Tensor:
    """Pixels of nuclei that touch the background."""
    return mask - (1 - F.max_pool2d(1 - mask, 3, stride=1, padding=1))


def read(own: Tree, features: Tensor) -> Tensor:
    return F.conv2d(features, own["weight"], own["bias"])


def mask_loss(own: Tree, features: Tensor, batch: Batch) -> Tensor:
    return pl.dice_bce_loss(read(own, features), batch["mask"])


def distance_loss(own: Tree, features: Tensor, batch: Batch) -> Tensor:
    where = batch["mask"] > 0  # outside the nuclei there is no distance to predict
    return pl.huber_loss(read(own, features), batch["distance"], where=where)


def border_loss(own: Tree, features: Tensor, batch: Batch) -> Tensor:
    return pl.dice_bce_loss(read(own, features), border_of(batch["mask"]))


HEADS = {"border": border_loss, "distance": distance_loss, "mask": mask_loss}

# From log-variances, losses and the Gramian to weights of the tasks.
Method = Callable[[Tree, Tree, Tree], Tree]


def plain_sum(log_vars: Tree, losses: Tree, gramian: Tree) -> Tree:
    return {task: torch.ones(()) for task in losses}


def uncertainty(log_vars: Tree, losses: Tree, gramian: Tree) -> Tree:
    weights: Tree = pl.uncertainty_weighted_loss(log_vars, losses)[1]["weights"]
    return weights


def upgrad(log_vars: Tree, losses: Tree, gramian: Tree) -> Tree:
    weights: Tree = pl.upgrad(gramian)[0]
    return weights


METHODS: dict[str, Method] = {
    "sum": plain_sum,
    "uncertainty": uncertainty,
    "UPGrad": upgrad,
}


def main() -> None:
    train, held_out = load_nuclei()
    runs = {
        name: [trained_by(method, train, held_out, seed) for seed in track(range(SEEDS), name)]
        for name, method in METHODS.items()
    }
    report(runs)


def trained_by(method: Method, train: Batch, held_out: Batch, seed: int) -> Tree:
    """What happened in training, a row per step, and what the held-out part says."""
    generator = torch.manual_seed(seed)  # of the first parameters and of the crops
    trunk, layers = Trunk(), {task: torch.nn.Conv2d(16, 1, 1) for task in TASKS}
    shared = dict(trunk.named_parameters())
    own = {task: dict(layer.named_parameters()) for task, layer in layers.items()}
    log_vars = {task: s.requires_grad_() for task, s in pl.uncertainty_weighted_init(TASKS).items()}
    network = [*shared.values(), *(x for tree in own.values() for x in tree.values())]
    optimizer = torch.optim.Adam(
        [{"params": network, "lr": RATE},
         {"params": list(log_vars.values()), "lr": RATE_OF_WEIGHTS}]
    )  # fmt: skip

    def features(shared: Tree, batch: Batch) -> Any:
        return functional_call(trunk, shared, (batch["image"],))

    rows = []
    for _ in range(STEPS):
        batch = random_crops(train, generator, count=4, size=64)
        with torch.no_grad():
            losses, gramian, pullback = pl.feature_gramian(
                features, HEADS, shared, own, batch, head_weights="same"
            )
            weights = method(log_vars, losses, gramian)
            gradients = pullback(weights)
        optimizer.zero_grad()
        pl.uncertainty_weighted_loss(log_vars, losses)[0].backward()
        give(shared, gradients[0])
        for task in TASKS:
            give(own[task], gradients[1][task])
        optimizer.step()
        cosines = pl.conflict_report(gramian)["cosines"]
        rows.append({
            "losses": torch.stack([losses[task] for task in TASKS]),
            "weights": torch.stack([weights[task] for task in TASKS]),
            "cosines": torch.stack([cosines[a][b] for a, b in PAIRS]),
        })  # fmt: skip
    with torch.no_grad():
        z = features(shared, held_out)
        found = {task: read(own[task], z) for task in ("mask", "distance")}
    inside = held_out["mask"] > 0
    scores = {
        "mask, Dice": dice(found["mask"], held_out["mask"]),
        "border, loss": border_loss(own["border"], z, held_out),
        "distance, px": pl.l1_loss(found["distance"], held_out["distance"], where=inside),
    }
    history = {key: torch.stack([row[key] for row in rows]).detach() for key in rows[0]}
    return {"history": history, "scores": scores}


PAIRS = (("border", "distance"), ("border", "mask"), ("distance", "mask"))


def give(parameters: Tree, gradients: Tree) -> None:
    for name, parameter in parameters.items():
        parameter.grad = gradients[name].detach()


def dice(logits: Tensor, truth: Tensor) -> Tensor:
    return 1 - pl.dice_loss((logits > 0).float(), truth, smooth=0)


def report(runs: dict[str, list[Tree]]) -> None:
    title = f"Held out, after {STEPS} steps; mean and range of {SEEDS} seeds"
    columns = ["method", *runs["sum"][0]["scores"], "steps with a conflict"]
    rows = []
    for name, results in runs.items():
        cells = []
        for score in results[0]["scores"]:
            values = torch.stack([run["scores"][score] for run in results])
            cells.append(f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})")
        cosines = torch.stack([run["history"]["cosines"] for run in results])
        rows.append([name, *cells, f"{(cosines < 0).any(-1).float().mean():.0%}"])
    publish("multitask_methods", title, columns, rows, draw(runs))


def draw(runs: dict[str, list[Tree]]) -> Figure:
    style = {"axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False}
    pairs = [" and ".join(pair) for pair in PAIRS]
    panels = {
        "weights": ("share of the weights", dict(zip(TASKS, COLOURS, strict=True))),
        "losses": ("loss", dict(zip(TASKS, COLOURS, strict=True))),
        "cosines": ("cosine of two gradients", dict(zip(pairs, COLOURS_OF_PAIRS, strict=True))),
    }
    with plt.rc_context(style):
        figure, axes = plt.subplots(3, len(runs), figsize=(11, 8), sharex=True, sharey="row",
                                    layout="constrained")  # fmt: skip
        for column, (name, results) in enumerate(runs.items()):
            for row, (key, (label, lines)) in enumerate(panels.items()):
                plot = axes[row, column]
                curves = torch.stack([run["history"][key] for run in results])
                if key == "weights":
                    curves = curves / curves.sum(-1, keepdim=True)
                for i, (line, colour) in enumerate(lines.items()):
                    low, middle, high = curves[..., i].sort(0).values[[0, SEEDS // 2, -1]]
                    plot.fill_between(range(STEPS), low, high, color=colour, alpha=0.2, linewidth=0)
                    # Dashes that fill each other's gaps, where all lines are one.
                    dashes = (4 * i, (4, 8)) if curves.std() < 1e-6 else "-"
                    plot.plot(middle, color=colour, label=line, linestyle=dashes)
                if column == 0:
                    plot.set_ylabel(label)
            axes[0, column].set_title(name)
            axes[2, column].axhline(0, color="0.4", linewidth=0.8)
            axes[2, column].set_xlabel("step")
        for plot in axes[:, -1]:
            plot.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
        ticks = (0.3, 0.5, 1, 2, 4)
        axes[1, 0].set_yscale("log")
        axes[1, 0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes[1, 0].minorticks_off()
    return figure


if __name__ == "__main__":
    main()

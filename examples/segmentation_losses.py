"""One network, five losses: what each makes of the same nuclei.

The small U-Net of the nuclei examples learns the mask alone, under one loss after another, from the
same first parameters and the same crops. Three seeds each: on one picture with so few nuclei, two
losses differ only if their spreads do not overlap.
"""

from collections.abc import Callable
from functools import partial

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from nuclei import BLUE, ORANGE, Batch, UNet, load_nuclei, random_crops, show
from results import publish
from rich.progress import track
from torch import Tensor

from purelosses import (
    boundary_loss,
    dice_bce_loss,
    dice_loss,
    lovasz_hinge_loss,
    sigmoid_focal_loss,
    signed_distance_map,
    tversky_loss,
)

SEEDS, STEPS = 3, 60


def dice_and_boundary(logits: Tensor, mask: Tensor) -> Tensor:
    """The boundary loss says where the border is; alone it has no opinion on the size."""
    distance = signed_distance_map(mask, dim=(-2, -1))
    # In units of the distance inside a nucleus, so that neither term drowns the other.
    border = boundary_loss(logits, distance, activation="sigmoid") / 10
    return dice_loss(logits, mask, activation="sigmoid") + 0.1 * border


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Dice + BCE": dice_bce_loss,
    "Tversky": partial(tversky_loss, activation="sigmoid", alpha=0.3, beta=0.7),
    "Lovász hinge": lovasz_hinge_loss,
    "focal": sigmoid_focal_loss,
    "Dice + boundary": dice_and_boundary,
}


def main() -> None:
    train, held_out = load_nuclei()
    scores = {name: torch.zeros(SEEDS) for name in LOSSES}
    probabilities = {}
    for name, loss in LOSSES.items():
        for seed in track(range(SEEDS), name):
            logits = trained_on(loss, train, seed)(held_out["image"])["mask"].detach()
            scores[name][seed] = 1 - dice_loss((logits > 0).float(), held_out["mask"], smooth=0)
            if seed == 0:
                probabilities[name] = logits.sigmoid()
    report(scores, probabilities, held_out)


def trained_on(loss: Callable[[Tensor, Tensor], Tensor], train: Batch, seed: int) -> UNet:
    generator = torch.manual_seed(seed)  # of the first parameters and of the crops
    net = UNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(STEPS):
        batch = random_crops(train, generator)
        optimizer.zero_grad()
        loss(net(batch["image"])["mask"], batch["mask"]).backward()
        optimizer.step()
    return net


def report(scores: dict[str, Tensor], probabilities: dict[str, Tensor], truth: Batch) -> None:
    rows = [
        [name, *(f"{x:.3f}" for x in (values.mean(), values.min(), values.max()))]
        for name, values in scores.items()
    ]
    title = f"Held-out Dice after {STEPS} steps, {SEEDS} seeds"
    columns = ["loss", "mean", "lowest", "highest"]
    publish("segmentation_losses", title, columns, rows, draw(scores, probabilities, truth))


def draw(scores: dict[str, Tensor], probabilities: dict[str, Tensor], truth: Batch) -> Figure:
    style = {"axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False}
    corner = (slice(0, 128), slice(60, 260))  # where nuclei touch
    with plt.rc_context(style):
        figure = plt.figure(figsize=(11, 6.4), layout="constrained")
        top, bottom = figure.subfigures(2, 1, height_ratios=(2, 1))
        pictures = iter(top.subplots(2, 3).flat)
        image = truth["image"][0, 0]
        gray = {"cmap": "gray", "vmin": image.min(), "vmax": image.quantile(0.998)}
        outlined = next(pictures)
        show(outlined, image[corner], "Image and true outlines", **gray)
        outlined.contour(truth["mask"][0, 0][corner], [0.5], colors="#56b4e9", linewidths=1.5)
        for name, probability in probabilities.items():
            show(next(pictures), probability[0, 0][corner], name, cmap="gray", vmin=0, vmax=1)

        axes = bottom.subplots()
        axes.set(title=f"Held-out Dice, {SEEDS} seeds", xlabel="Dice")
        for row, values in enumerate(scores.values()):
            axes.plot(values, [row] * len(values), "o", color=BLUE, alpha=0.8)
            axes.plot(values.mean(), row, "|", color=ORANGE, markersize=16, markeredgewidth=3)
        axes.set_yticks(range(len(scores)), list(scores))
        axes.set_ylim(len(scores) - 0.5, -0.5)
        axes.grid(axis="x", color="0.9")
    return figure


if __name__ == "__main__":
    main()

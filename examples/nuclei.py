"""What both nuclei examples share: the picture, the network, the training log, the report.

The losses and the training loops are in `multitask_nuclei.py` and `multitask_nuclei_module.py`.
"""

import os
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import optree
import tifffile
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from scipy.ndimage import distance_transform_edt
from torch import Tensor, nn

from purelosses import dice_loss, l1_loss

TASKS = ("mask", "distance")
HELD_OUT = 192  # rows at the bottom of the picture that training never sees
OUTPUT = Path(__file__).with_name("output")
# From Okabe and Ito's palette, safe for colour-blind eyes.
BLUE, SKY, ORANGE = "#0072b2", "#56b4e9", "#e69f00"

Batch = dict[str, Tensor]  # "image", "mask", "distance": each (sample, 1, height, width)
Aux = dict[str, dict[str, Tensor]]  # what `uncertainty_weighted_loss` returns beside the total

# Data -------------------------------------------------------------------------------------------


def load_nuclei() -> tuple[Batch, Batch]:
    """A picture of nuclei with 125 outlines drawn by hand, as a training and a held-out part.

    It comes from the 2018 Data Science Bowl and ships inside the stardist wheel. It is cut in two
    before anything is computed from it, so that nothing of one part leaks into the other.
    """
    image, outlines = (read_picture(name) for name in ("img2d.tif", "mask2d.tif"))
    # The noise of counted photons grows with brightness; the square root evens it out.
    image = np.sqrt(image, dtype=np.float32)
    train, held_out = slice(None, -HELD_OUT), slice(-HELD_OUT, None)
    image = (image - image[train].mean()) / image[train].std()
    return as_batch(image[train], outlines[train]), as_batch(image[held_out], outlines[held_out])


def read_picture(name: str) -> np.ndarray:
    """A picture that stardist ships, which is not imported: what it depends on is not installed."""
    try:
        return tifffile.imread(distribution("stardist").locate_file(f"stardist/data/images/{name}"))
    except (PackageNotFoundError, FileNotFoundError):
        raise SystemExit(
            "The picture ships inside the stardist wheel. Run `make demo`, or install the wheel "
            "for its data alone:\n    python -m pip install --no-deps stardist"
        ) from None


def as_batch(image: np.ndarray, outlines: np.ndarray) -> Batch:
    """One picture with its targets: inside a nucleus or not, and how many pixels from its border.

    Distances are taken nucleus by nucleus, so there is a border where two of them touch.
    """
    distance = np.zeros_like(image)
    for nucleus in np.unique(outlines[outlines > 0]):
        inside = outlines == nucleus
        distance[inside] = distance_transform_edt(inside)[inside]
    mask = (outlines > 0).astype(np.float32)
    arrays = {"image": image, "mask": mask, "distance": distance}
    return {name: torch.from_numpy(array)[None, None] for name, array in arrays.items()}


def random_crops(
    picture: Batch, generator: torch.Generator, count: int = 8, size: int = 96
) -> Batch:
    """Square pieces of a picture, each turned and mirrored at random."""

    def below(limit: int) -> int:
        return int(torch.randint(limit, (), generator=generator))

    stacked = torch.stack(list(picture.values()))
    height, width = stacked.shape[-2:]
    crops = []
    for _ in range(count):
        top, left = below(height - size + 1), below(width - size + 1)
        crop = stacked[..., top : top + size, left : left + size].rot90(below(4), (-2, -1))
        crops.append(crop.flip(-1) if below(2) else crop)
    return dict(zip(picture, torch.cat(crops, dim=1), strict=True))


# Network ----------------------------------------------------------------------------------------


class UNet(nn.Module):
    """A U-Net of three levels with one output channel per task.

    Group norm instead of batch norm: the output is a function of parameters and image alone.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.fine = conv_block(1, width)
        self.middle = conv_block(width, 2 * width)
        self.coarse = conv_block(2 * width, 4 * width)
        self.up_middle = conv_block((4 + 2) * width, 2 * width)
        self.up_fine = conv_block((2 + 1) * width, width)
        self.heads = nn.Conv2d(width, len(TASKS), 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        fine = self.fine(image)
        middle = self.middle(F.max_pool2d(fine, 2))
        coarse = self.coarse(F.max_pool2d(middle, 2))
        middle = self.up_middle(torch.cat([F.interpolate(coarse, scale_factor=2), middle], 1))
        fine = self.up_fine(torch.cat([F.interpolate(middle, scale_factor=2), fine], 1))
        return dict(zip(TASKS, self.heads(fine).split(1, dim=1), strict=True))


def conv_block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(4, outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.GroupNorm(4, outputs),
        nn.ReLU(),
    )


# Log and report ---------------------------------------------------------------------------------


class Log:
    """Counts training steps on a progress bar and keeps the loss and the weight of each task.

    Tensors are kept as they come. Reading a number waits until it is computed (on a GPU, until
    everything before it is), so only every tenth step is read, for the bar.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.seconds = 0.0
        self.history: list[Aux] = []

    def __iter__(self) -> Iterator[int]:
        start = time.perf_counter()
        columns = BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn()
        with Progress(*columns, TextColumn("{task.description}")) as progress:
            bar = progress.add_task("", total=self.steps)
            for step in range(self.steps):
                yield step
                if (step + 1) % 10 == 0:
                    progress.update(bar, completed=step + 1, description=self.latest())
            progress.update(bar, completed=self.steps)
        self.seconds = time.perf_counter() - start

    def __call__(self, aux: Aux) -> None:
        self.history.append(aux)

    def latest(self) -> str:
        losses, weights = self.history[-1]["losses"], self.history[-1]["weights"]
        return "  ".join(f"{task} {weights[task]:.2f} × {losses[task]:.3f}" for task in TASKS)

    def curves(self) -> Aux:
        """The history with a first axis for the steps."""
        return optree.tree_map(lambda *steps: torch.stack(steps), *self.history)


@torch.no_grad()
def report(name: str, prediction: dict[str, Tensor], truth: Batch, log: Log) -> None:
    """Print the learnt weights and the held-out scores, and save the picture of them."""
    found = (prediction["mask"] > 0).float()  # a logit above 0 is a probability above ½
    dice = 1 - dice_loss(found, truth["mask"], smooth=0)
    error = l1_loss(prediction["distance"], truth["distance"], where=truth["mask"] > 0)
    scores = {"mask": f"Dice {dice:.3f}", "distance": f"off by {error:.2f} px"}

    curves = log.curves()
    table = Table(title=f"{name}: {log.steps} steps in {log.seconds:.0f} s")
    table.add_column("task")
    for column in ("first loss", "last loss", "weight", "weight × loss", "held out"):
        table.add_column(column, justify="right")
    for task in TASKS:
        losses, weight = curves["losses"][task], curves["weights"][task][-1]
        last = losses[-20:].mean()  # one batch is luckier than another
        numbers = f"{losses[0]:.3f}", f"{last:.3f}", f"{weight:.2f}", f"{weight * last:.2f}"
        table.add_row(task, *numbers, scores[task])
    console = Console()
    console.print(table)

    OUTPUT.mkdir(exist_ok=True)
    path = OUTPUT / f"{name}.png"
    title = f"Held-out nuclei: {scores['mask']}, distance {scores['distance']}"
    draw(title, prediction, truth, curves).savefig(path, dpi=120)
    console.print(f"Picture: {os.path.relpath(path)}", soft_wrap=True)


def draw(title: str, prediction: dict[str, Tensor], truth: Batch, curves: Aux) -> Figure:
    image, mask, distance = (truth[name][0, 0] for name in ("image", "mask", "distance"))
    probability = prediction["mask"][0, 0].sigmoid()
    # A distance to the border means something inside a nucleus only.
    distance = torch.where(mask > 0, distance, torch.nan)
    guess = torch.where(probability > 0.5, prediction["distance"][0, 0], torch.nan)

    style = {"axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        figure, axes = plt.subplots(4, 2, figsize=(11, 9.2), layout="constrained")
        figure.suptitle(title, fontsize=14)
        (plain, outlined), masks, distances, (losses, weights) = axes

        gray = {"cmap": "gray", "vmin": image.min(), "vmax": image.quantile(0.998)}
        show(plain, image, "Image", **gray)
        plain.plot([452, 502], [182, 182], color="white", linewidth=3)
        plain.text(477, 178, "50 px", color="white", ha="center", va="bottom")
        show(outlined, image, "Outlines", **gray)
        outlined.contour(mask, [0.5], colors=SKY, linewidths=2)
        outlined.contour(probability, [0.5], colors=ORANGE, linewidths=1)
        for x, name, color in ((0.8, "true", SKY), (1, "predicted", ORANGE)):
            where = {"transform": outlined.transAxes, "ha": "right", "va": "bottom"}
            outlined.text(x, 1.03, name, color=color, weight="bold", fontsize=11, **where)

        show(masks[0], mask, "Mask, true", cmap="gray")
        show(masks[1], probability, "Mask, predicted probability", cmap="gray")
        scale = {"cmap": "viridis", "vmin": 0, "vmax": truth["distance"].max()}
        show(distances[0], distance, "Distance to the border, true", **scale)
        shown = show(distances[1], guess, "Distance to the border, predicted", **scale)
        bar = distances[1].inset_axes((1.02, 0, 0.02, 1))
        figure.colorbar(shown, cax=bar, label="pixels", ticks=[0, 4, 8, 12])

        plot(losses, curves["losses"], "Losses", ticks=[0.05, 0.1, 0.2, 0.5, 1, 2])
        plot(weights, curves["weights"], "Learnt weights", ticks=[0.5, 1, 2, 5, 10])
    return figure


def show(axes: Axes, picture: Tensor, title: str, **options: Any) -> AxesImage:
    axes.set(title=title, xticks=[], yticks=[], facecolor="black")
    axes.spines[:].set_visible(False)
    return axes.imshow(picture, **options)


def plot(axes: Axes, curves: dict[str, Tensor], title: str, ticks: list[float]) -> None:
    axes.set(title=title, xlabel="step", yscale="log", ylim=(0.6 * ticks[0], 1.6 * ticks[-1]))
    for (task, values), color in zip(curves.items(), (BLUE, ORANGE), strict=True):
        axes.plot(values, color=color, linewidth=1.3)
        name = {"color": color, "weight": "bold", "ha": "right", "va": "bottom"}
        axes.text(len(values), 1.15 * values[-50:].max(), task, **name)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="y", color="0.9")

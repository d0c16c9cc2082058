"""Train with wrong labels: cross-entropy against losses that withstand them.

Four in ten of the training labels of scikit-learn's handwritten digits are replaced by another
class at random. Cross-entropy first learns what most samples agree on and then the mistakes by
heart; symmetric and generalized cross-entropy cap what one label can cost, and keep the first.
Five seeds each, of the split, the noise, the first parameters and the batches. With --docs, the
picture and the table go to the documentation as well.
"""

from collections.abc import Callable
from functools import partial

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure
from results import publish
from rich.progress import track
from sklearn.datasets import load_digits
from torch import Tensor, nn

from purelosses import (
    cross_entropy_loss,
    generalized_cross_entropy_loss,
    symmetric_cross_entropy_loss,
)

EPOCHS, SEEDS, NOISE = 30, 5, 0.4
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cross-entropy": cross_entropy_loss,
    "symmetric": partial(symmetric_cross_entropy_loss, alpha=0.1, beta=1.0),
    "generalized, q = 0.7": partial(generalized_cross_entropy_loss, q=0.7),
}
COLORS = ("#0072b2", "#e69f00", "#009e73")  # from Okabe and Ito's palette


def main() -> None:
    images, labels = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    images = images.float() / 16
    runs = [(name, seed) for name in LOSSES for seed in range(SEEDS)]
    curves: dict[str, list[Tensor]] = {name: [] for name in LOSSES}
    for name, seed in track(runs, f"Training with {NOISE:.0%} wrong labels"):
        curves[name].append(train(LOSSES[name], images, labels, seed))
    report({name: torch.stack(each) for name, each in curves.items()})


def train(
    loss: Callable[[Tensor, Tensor], Tensor], images: Tensor, labels: Tensor, seed: int
) -> Tensor:
    """The share of right predictions after each epoch, on clean data that was held out."""
    generator = torch.manual_seed(seed)
    order = torch.randperm(len(images), generator=generator)
    training, test = order[:1200], order[1200:]
    wrong = torch.rand(len(training), generator=generator) < NOISE
    shift = torch.randint(1, 10, training.shape, generator=generator)
    given = torch.where(wrong, (labels[training] + shift) % 10, labels[training])

    net = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    accuracy = []
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(training), generator=generator).split(128):
            optimizer.zero_grad()
            loss(net(images[training[batch]]), given[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            right = net(images[test]).argmax(1) == labels[test]
        accuracy.append(right.float().mean())
    return torch.stack(accuracy)


def report(curves: dict[str, Tensor]) -> None:
    title = f"Accuracy on clean digits, {NOISE:.0%} of training labels wrong, {SEEDS} seeds"
    columns = ["loss", "best epoch", "last epoch", "± over seeds"]
    rows = []
    for name, each in curves.items():
        numbers = (each.amax(1).mean(), each[:, -1].mean(), each[:, -1].std())
        rows.append([name, *(f"{number:.1%}" for number in numbers)])
    publish("noisy_labels", title, columns, rows, draw(curves))


def draw(curves: dict[str, Tensor]) -> Figure:
    style = {"axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
        axes.set(title=f"Accuracy on clean digits, {NOISE:.0%} of training labels wrong",
                 xlabel="epoch", xlim=(1, EPOCHS))  # fmt: skip
        epochs = range(1, EPOCHS + 1)
        for color, (name, each) in zip(COLORS, curves.items(), strict=True):
            axes.fill_between(epochs, each.amin(0), each.amax(0), color=color, alpha=0.15, lw=0)
            axes.plot(epochs, each.mean(0), color=color, label=name)
        axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()

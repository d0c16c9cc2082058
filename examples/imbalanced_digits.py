"""Find a rare class: weights, focal loss and logit adjustment against plain cross-entropy.

Is this digit an 8? Of the training images one in forty is. A small network answers after training
with each remedy; what counts is how many of the eights in a balanced test it finds (recall), how
often it is wrong otherwise, and the mean of both rates, the balanced accuracy. With --docs, the
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
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from purelosses import class_weights, cross_entropy_loss, logit_adjustment, softmax_focal_loss

EPOCHS, SEEDS, RARE = 20, 5, 20
COLORS = ("#0072b2", "#56b4e9", "#e69f00", "#cc79a7", "#009e73")  # Okabe and Ito

Loss = Callable[[Tensor, Tensor], Tensor]


def remedies(counts: Tensor) -> dict[str, Loss]:
    """The losses to compare, from how often each class occurs."""
    log_prior = (counts / counts.sum()).log()

    def adjusted(logits: Tensor, labels: Tensor) -> Tensor:
        return cross_entropy_loss(logit_adjustment(logits, log_prior), labels)

    weights = class_weights(counts, kind="inverse")
    return {
        "cross-entropy": cross_entropy_loss,
        "class weights": partial(cross_entropy_loss, class_weights=weights),
        "focal, γ = 2": softmax_focal_loss,
        "focal, weighted": partial(softmax_focal_loss, class_weights=weights),
        "logit adjustment": adjusted,
    }


def main() -> None:
    images, digits = (torch.from_numpy(array) for array in load_digits(return_X_y=True))
    images, labels = images.float() / 16, (digits == 8).long()
    names = list(remedies(torch.ones(2)))
    scores: dict[str, list[Tensor]] = {name: [] for name in names}
    for seed in track(range(SEEDS), "Training on rare eights"):
        generator = torch.manual_seed(seed)
        eights, others = (
            group[torch.randperm(len(group), generator=generator)]
            for group in (labels.nonzero()[:, 0], (labels == 0).nonzero()[:, 0])
        )
        training = torch.cat([eights[:RARE], others[:800]])
        test = torch.cat([eights[RARE:], others[800:]])
        counts = labels[training].bincount().float()
        for name, loss in remedies(counts).items():
            torch.manual_seed(seed)
            net = train(loss, images[training], labels[training])
            with torch.no_grad():
                scores[name].append(measure(net(images[test]), labels[test]))
    report({name: torch.stack(each) for name, each in scores.items()})


def train(loss: Loss, images: Tensor, labels: Tensor) -> nn.Module:
    net = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(128):
            optimizer.zero_grad()
            loss(net(images[batch]), labels[batch]).backward()
            optimizer.step()
    return net


def measure(logits: Tensor, labels: Tensor) -> Tensor:
    """Recall, false alarms, balanced accuracy, and average precision, which no threshold moves."""
    found = logits.argmax(1) == 1
    recall, alarms = found[labels == 1].float().mean(), found[labels == 0].float().mean()
    precision = average_precision_score(labels, logits[:, 1] - logits[:, 0])
    return torch.stack([recall, alarms, (recall + 1 - alarms) / 2, torch.tensor(precision)])


def report(scores: dict[str, Tensor]) -> None:
    title = f'"Is it an 8?", {RARE} eights in {RARE + 800} images, {SEEDS} seeds'
    columns = ["loss", "eights found", "false alarms", "balanced accuracy", "average precision"]
    rows = []
    for name, each in scores.items():
        *shares, precision = each.mean(0).tolist()
        rows.append([name, *(f"{share:.1%}" for share in shares), f"{precision:.3f}"])
    publish("imbalanced_digits", title, columns, rows, draw(scores))


def draw(scores: dict[str, Tensor]) -> Figure:
    style = {"axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        axes.set(title="Each dot is a seed, each cross a mean", xlabel="false alarms",
                 ylabel="eights found")  # fmt: skip
        for color, (name, each) in zip(COLORS, scores.items(), strict=True):
            axes.scatter(each[:, 1], each[:, 0], color=color, alpha=0.4, s=20)
            mean = each.mean(0)
            axes.scatter(mean[1], mean[0], color=color, marker="X", s=90, label=name)
        axes.legend(frameon=False, loc="lower right")
    return figure


if __name__ == "__main__":
    main()

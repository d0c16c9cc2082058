"""What the pages of docs/integrations rest on; the pages themselves are run as they stand."""

import re
import tomllib
from pathlib import Path

import pytest
import torch

import purelosses as pl
from purelosses import nn

ROOT = Path(__file__).parent.parent
DISTRIBUTION = {"ignite": "pytorch-ignite"}

pytestmark = pytest.mark.filterwarnings("default")  # theirs


def test_every_framework_that_a_page_imports_is_in_the_group():
    """Else its page would be skipped everywhere, in silence."""
    pages = "\n".join(page.read_text() for page in (ROOT / "docs/integrations").glob("*.md"))
    imported = set(re.findall(r"^(?:from|import) (\w+)", pages, re.M))
    ours = {"purelosses", "torch", "functools", "sklearn", "tempfile"}
    group = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    assert {DISTRIBUTION.get(name, name) for name in imported - ours} == set(group["integrations"])
    pins = (ROOT / "constraints.txt").read_text()
    for name in group["integrations"]:
        assert re.search(rf"^{name}==", pins, re.M)


def uneven():
    """Logits of eight samples of which two, six, one and no parts have labels."""
    logits = torch.randn(8, 4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(32).reshape(8, 4) % 3
    labels[torch.arange(32).reshape(8, 4) % 7 > torch.arange(8)[:, None]] = -100
    labels[6:] = -100
    return logits, labels


def accumulated(trainer, net, logits, labels):
    """The gradient that a Trainer adds up over four micro-batches, as it does in a step."""
    net.zero_grad()
    batches = [{"x": x, "labels": y} for x, y in zip(logits.split(2), labels.split(2), strict=True)]
    count = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
    trainer.current_gradient_accumulation_steps = len(batches)
    for batch in batches:
        trainer.training_step(net, batch, num_items_in_batch=count)
    return net.scale.grad.clone()


@pytest.mark.parametrize("sums", [True, False])
def test_transformers_adds_up_sums_over_the_items_of_a_step_and_not_means(sums, tmp_path):
    transformers = pytest.importorskip("transformers")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor([1.0, 0.5, 2.0]))

        def forward(self, x):
            return {"logits": x * self.scale}

    def loss(outputs, labels, num_items_in_batch=None):
        options = {"class_dim": -1, "where": labels != -100}
        if sums:
            total = pl.cross_entropy_loss(outputs["logits"], labels, reduction="sum", **options)
            return total / num_items_in_batch
        return pl.cross_entropy_loss(outputs["logits"], labels, **options) / 4

    net = Net()
    arguments = transformers.TrainingArguments(output_dir=tmp_path, use_cpu=True, report_to=[])
    trainer = transformers.Trainer(net, arguments, compute_loss_func=loss)
    logits, labels = uneven()
    found = accumulated(trainer, net, logits, labels)

    whole = pl.cross_entropy_loss(logits * net.scale, labels, class_dim=-1, where=labels != -100)
    (exact,) = torch.autograd.grad(whole, net.scale)
    error = (found - exact).norm() / exact.norm()
    assert error < 1e-5 if sums else error > 0.1


def test_skorch_refuses_a_function_and_takes_a_class():
    """Why there are modules."""
    skorch = pytest.importorskip("skorch")
    x, y = torch.randn(8, 3), torch.zeros(8, dtype=torch.long)
    options = {"max_epochs": 1, "train_split": None, "verbose": 0}
    layer = {"module": torch.nn.Linear, "module__in_features": 3, "module__out_features": 2}
    with pytest.raises(TypeError):
        skorch.NeuralNet(**layer, criterion=pl.cross_entropy_loss, **options).fit(x, y)
    net = skorch.NeuralNet(
        **layer, criterion=nn.CrossEntropyLoss, criterion__label_smoothing=0.1, **options
    )
    assert net.fit(x, y).criterion_.label_smoothing == 0.1

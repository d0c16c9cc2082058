"""Every number of the textbook's chapter on custom losses, and its own code as the reference."""

import pytest
import torch
import torch.nn.functional as F

import purelosses as pl
from purelosses import nn

PRED, TARGET = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.5, 2.5, 3.5])
WEIGHTS = torch.tensor([0.5, 1.0, 2.0])

TRUE_MASK = torch.zeros(5, 5)
TRUE_MASK[1:4, 1:4] = 1
GOOD_PRED = torch.zeros(5, 5)
GOOD_PRED[1:4, 1:4] = torch.tensor([[0.9, 0.8, 0.9], [0.85, 0.95, 0.85], [0.9, 0.8, 0.9]])
BAD_PRED = torch.zeros(5, 5)
BAD_PRED[2:4, 0:3] = torch.tensor([[0.8, 0.9, 0.85], [0.9, 0.8, 0.9]])


# The chapter's code, as printed


class ChapterWeightedMSELoss(torch.nn.Module):
    def forward(self, predictions, targets, weights=None):
        squared_error = (predictions - targets) ** 2
        if weights is not None:
            squared_error = squared_error * weights
        return torch.mean(squared_error)


class ChapterDiceLoss(torch.nn.Module):
    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, predictions, targets):
        predictions = predictions.view(-1)
        targets = targets.view(-1)
        intersection = (predictions * targets).sum()
        union = predictions.sum() + targets.sum()
        dice = (2.0 * intersection + self.smooth) / (union + self.smooth)
        return 1 - dice


class ChapterDiceBCELoss(torch.nn.Module):
    def __init__(self, dice_weight=0.5, bce_weight=0.5, smooth=1.0):
        super().__init__()
        self.dice_weight = dice_weight
        self.bce_weight = bce_weight
        self.dice = ChapterDiceLoss(smooth=smooth)

    def forward(self, logits, targets):
        probs = torch.sigmoid(logits)
        dice_loss = self.dice(probs, targets)
        bce_loss = F.binary_cross_entropy_with_logits(logits, targets)
        return self.dice_weight * dice_loss + self.bce_weight * bce_loss


class ChapterUncertaintyWeightedLoss(torch.nn.Module):
    def __init__(self, num_tasks):
        super().__init__()
        self.log_vars = torch.nn.Parameter(torch.zeros(num_tasks))

    def forward(self, losses):
        total = 0
        for i, loss in enumerate(losses):
            precision = torch.exp(-self.log_vars[i])
            total += precision * loss + self.log_vars[i]
        return total


# Mean squared error


def test_custom_mse_prints_0_2500():
    assert f"{pl.mse_loss(PRED, TARGET):.4f}" == "0.2500"
    assert f"{nn.MSELoss()(PRED, TARGET):.4f}" == "0.2500"


def test_weighted_mse_is_the_mean_of_w_times_the_squared_error():
    expected = (0.5 + 1.0 + 2.0) * 0.25 / 3
    assert pl.mse_loss(PRED, TARGET, weights=WEIGHTS).item() == pytest.approx(expected)
    assert nn.MSELoss()(PRED, TARGET, weights=WEIGHTS).item() == pytest.approx(expected)
    assert ChapterWeightedMSELoss()(PRED, TARGET, WEIGHTS).item() == pytest.approx(expected)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_weighted_mse_reductions(reduction):
    terms = WEIGHTS * 0.25
    expected = terms.sum() if reduction == "sum" else terms
    found = nn.MSELoss(reduction=reduction)(PRED, TARGET, weights=WEIGHTS)
    torch.testing.assert_close(found, expected)


# Dice


def test_dice_demonstration():
    """The chapter's comments say about 0.12 and 0.70; its own formula gives these."""
    for dice in (pl.dice_loss, nn.DiceLoss(), nn.DiceLoss(smooth=1.0)):
        assert f"{dice(GOOD_PRED, TRUE_MASK):.4f}" == "0.0644"
        assert f"{dice(BAD_PRED, TRUE_MASK):.4f}" == "0.4785"
    assert pl.dice_loss(GOOD_PRED, TRUE_MASK).item() == pytest.approx(0.064426, abs=5e-7)
    # Overlap 3.45, predicted 5.15, true 9.
    expected = 1 - (2 * 3.45 + 1) / (5.15 + 9 + 1)
    assert expected == pytest.approx(1 - 7.9 / 15.15)
    assert pl.dice_loss(BAD_PRED, TRUE_MASK).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("prediction", [GOOD_PRED, BAD_PRED], ids=["good", "bad"])
@pytest.mark.parametrize("smooth", [1e-5, 1.0, 10.0])
def test_dice_is_the_chapters_in_value_and_gradient(prediction, smooth):
    x = prediction.double().requires_grad_()
    mine = nn.DiceLoss(smooth=smooth)(x, TRUE_MASK)
    theirs = ChapterDiceLoss(smooth)(x, TRUE_MASK.double())
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(loss, x)[0] for loss in (mine, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


def test_a_transposed_input_breaks_the_chapter_and_not_us():
    x = GOOD_PRED.T
    with pytest.raises(RuntimeError, match="view size is not compatible"):
        ChapterDiceLoss()(x, TRUE_MASK)
    assert f"{nn.DiceLoss()(x, TRUE_MASK.T):.4f}" == "0.0644"


@pytest.mark.parametrize("shares", [(0.5, 0.5), (1.0, 0.0), (0.3, 2.0)])
def test_dice_bce_is_the_chapters_in_value_and_gradient(shares):
    dice_weight, bce_weight = shares
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5, 5, generator=generator, dtype=torch.float64).requires_grad_()
    mask = TRUE_MASK.double()
    mine = nn.DiceBCELoss(dice_weight=dice_weight, bce_weight=bce_weight, smooth=2.0)(x, mask)
    theirs = ChapterDiceBCELoss(dice_weight, bce_weight, smooth=2.0)(x, mask)
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(loss, x)[0] for loss in (mine, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=1e-12)


# Combined


def test_combined_with_fixed_weights():
    """0.7 · 0.25 + 0.3 · 0.5; the terms are tensors, where the chapter calls .item()."""
    function = pl.combined({"mse": pl.mse_loss, "l1": pl.l1_loss}, {"mse": 0.7, "l1": 0.3})
    for criterion in (function, nn.CombinedLoss(weights={"mse": 0.7, "l1": 0.3})):
        total, terms = criterion(PRED, TARGET)
        assert f"{total:.4f}" == "0.3250"
        assert {name: term.item() for name, term in terms.items()} == {"mse": 0.25, "l1": 0.5}
        assert all(isinstance(term, torch.Tensor) for term in terms.values())


def test_combined_default_weights_are_1():
    total, _ = nn.CombinedLoss()(PRED, TARGET)
    assert total.item() == pytest.approx(0.75)


# Uncertainty weighting

LOSSES = [torch.tensor(0.25), torch.tensor(0.5), torch.tensor(4.0)]


def test_uncertainty_weighting_at_zero():
    """The chapter's formula gives ½ ΣL, its code ΣL: the laplace likelihood."""
    log_vars = pl.uncertainty_weighted_init(3)
    total, _ = pl.uncertainty_weighted_loss(log_vars, LOSSES)
    assert total.item() == 4.75 / 2
    assert nn.UncertaintyWeightedLoss(3)(LOSSES)[0].item() == 4.75 / 2
    total, _ = pl.uncertainty_weighted_loss(log_vars, LOSSES, likelihood="laplace")
    assert total.item() == 4.75
    assert ChapterUncertaintyWeightedLoss(3)(LOSSES).item() == 4.75


@pytest.mark.parametrize("log_vars", [(0.0, 0.0, 0.0), (1.0, -2.0, 0.3), (-5.0, 5.0, 0.0)], ids=str)
def test_laplace_is_the_chapters_code_in_value_and_gradient(log_vars):
    theirs, mine = (
        ChapterUncertaintyWeightedLoss(3),
        nn.UncertaintyWeightedLoss(3, likelihood="laplace"),
    )
    totals, gradients = [], []
    for module in (theirs.double(), mine.double()):
        losses = [loss.double().requires_grad_() for loss in LOSSES]
        state = {"log_vars": torch.tensor(log_vars, dtype=torch.float64)}
        module.load_state_dict(state)  # the same name in both
        total = module(losses)
        total = total[0] if isinstance(total, tuple) else total
        totals.append(total)
        gradients.append(torch.autograd.grad(total, [module.log_vars, *losses]))
    torch.testing.assert_close(*totals, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(*gradients, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("log_vars", [(0.0, 0.0, 0.0), (1.0, -2.0, 0.3)], ids=str)
def test_gaussian_is_the_chapters_formula(log_vars):
    """L / 2σ² + log σ with s = log σ²: half of its code, at every s."""
    s = torch.tensor(log_vars, dtype=torch.float64)
    sigma = torch.exp(s / 2)
    losses = [loss.double() for loss in LOSSES]
    expected = (torch.stack(losses) / (2 * sigma**2) + sigma.log()).sum()
    total, _ = pl.uncertainty_weighted_loss(s, losses)
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=1e-12)
    code, _ = pl.uncertainty_weighted_loss(s, losses, likelihood="laplace")
    torch.testing.assert_close(code, 2 * expected, rtol=1e-12, atol=1e-12)


# "Testing custom losses"


@pytest.mark.parametrize("loss", [pl.mse_loss, pl.l1_loss, pl.huber_loss], ids=lambda f: f.__name__)
def test_the_chapters_three_checks(loss):
    generator = torch.Generator().manual_seed(0)
    pred = torch.randn(10, generator=generator).requires_grad_()
    value = loss(pred, torch.randn(10, generator=generator))
    assert value.dim() == 0
    value.backward()
    assert pred.grad is not None
    edge = loss(torch.tensor([0.0, 1e-10, 1e10]), torch.tensor([0.0, 0.0, 1e10]))
    assert edge.isfinite()

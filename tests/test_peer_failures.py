"""What other libraries get wrong, on the same input: each test is named after a peer's failure.

The values of peers are numbers here, so that no peer is needed: measured on the CPU with torch
2.13, MONAI 1.6.1, segmentation-models-pytorch (SMP) 0.6.0, kornia 0.9.0 and timm.
"""

import math
import pickle
from functools import partial

import pytest
import torch
from torch.func import grad, jacfwd, jacrev, vmap

import purelosses as pl
from purelosses import nn

NAN, INF = float("nan"), float("inf")


def gradient(loss, x, *data, **options):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(x, *data, **options), x)[0]


# Masks


def test_torch_cross_entropy_with_nan_at_an_ignored_position():
    """F.cross_entropy(ignore_index): a finite loss and a NaN gradient row, so NaN weights."""
    logits = torch.tensor([[2.0, 0.0, -1.0], [NAN, NAN, NAN]])
    target = torch.tensor([0, 255])
    found = gradient(pl.cross_entropy_loss, logits, target, where=target != 255)
    assert found.isfinite().all()
    assert (found[1] == 0).all()
    torch.testing.assert_close(found[:1], gradient(pl.cross_entropy_loss, logits[:1], target[:1]))


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "sum"])
def test_torch_cross_entropy_with_all_targets_ignored(reduction):
    """F.cross_entropy: NaN. kornia Dice: 1. SMP focal: NaN."""
    logits, target = torch.randn(4, 3), torch.full((4,), 255)
    options = {"where": target != 255, "reduction": reduction}
    assert pl.cross_entropy_loss(logits, target, **options) == 0
    assert (gradient(pl.cross_entropy_loss, logits, target, **options) == 0).all()


def test_smp_binary_cross_entropy_averages_over_ignored_pixels():
    """SMP SoftBCEWithLogitsLoss(ignore_index=255): 1.0635 for a mean over valid ones of 2.1269."""
    logits, target = torch.tensor([[2.0, -1.0]]), torch.tensor([[0.0, 255.0]])
    valid = math.log1p(math.exp(2.0))
    assert valid == pytest.approx(2 * 1.0634640455, rel=1e-6)
    for loss in (pl.binary_cross_entropy_loss, partial(pl.dice_bce_loss, dice_weight=0.0)):
        masked = loss(logits, target, where=target != 255)
        torch.testing.assert_close(masked, loss(logits[:, :1], target[:, :1]))
    masked = pl.binary_cross_entropy_loss(logits, target, where=target != 255)
    assert masked.item() == pytest.approx(valid)


def test_smp_and_toolbelt_cross_entropy_average_over_ignored_pixels():
    """SMP SoftCrossEntropyLoss: 0.8408 for a mean over valid pixels of 1.6816, half of them.

    pytorch-toolbelt's: 0.635 for 1.270.
    """
    logits = torch.tensor([[1.0, 2.0, 0.0], [0.5, 0.1, 0.2]])
    target = torch.tensor([0, 255])
    masked = pl.cross_entropy_loss(logits, target, where=target != 255)
    torch.testing.assert_close(masked, pl.cross_entropy_loss(logits[:1], target[:1]))


def test_monai_focal_changes_its_scale_when_a_mask_is_given_that_excludes_nothing():
    """MONAI FocalLoss: 1.2524 with ignore_index set, 0.3131 without, and nothing ignored."""
    x, y = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 3, 4)
    where = torch.ones(2, 4, dtype=torch.bool)
    for loss in (pl.dice_loss, pl.dice_bce_loss):
        options = {"class_dim": 1}
        torch.testing.assert_close(loss(x, y, where=where, **options), loss(x, y, **options))
    labels = torch.zeros(2, 4, dtype=torch.long)
    torch.testing.assert_close(
        pl.cross_entropy_loss(x, labels, where=where), pl.cross_entropy_loss(x, labels)
    )


@pytest.mark.parametrize("garbage", [NAN, INF, -INF])
@pytest.mark.parametrize("activation", [None, "sigmoid", "softmax"])
def test_monai_smp_and_kornia_dice_with_nan_at_an_ignored_voxel(activation, garbage):
    """They multiply by the mask: value and gradient NaN."""
    x = torch.rand(1, 2, 6, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([[0, 1, 1, 0, 1, 255]])
    where = y != 255
    loss = partial(pl.dice_loss, activation=activation, class_dim=1)
    spoilt = torch.where(where.unsqueeze(1), x, garbage)
    assert loss(spoilt, y, where=where) == loss(x[..., :5], y[..., :5])
    found = gradient(loss, spoilt, y, where=where)
    assert (found[..., 5] == 0).all()
    torch.testing.assert_close(found[..., :5], gradient(loss, x[..., :5], y[..., :5]))


# Empty masks


def test_monai_dice_of_a_nearly_perfect_prediction_on_an_empty_mask():
    """MONAI DiceLoss, default smoothing 1e-5: 6e-6 everywhere on an empty 4x4 mask costs 0.908."""
    prediction, mask = torch.full((4, 4), 6e-6), torch.zeros(4, 4)
    expected = 16 * 6e-6 / (16 * 6e-6 + 1)
    assert pl.dice_loss(prediction, mask).item() == pytest.approx(expected, rel=1e-6)
    # It is their default that is harsh, not their formula.
    assert pl.dice_loss(prediction, mask, smooth=1e-5).item() == pytest.approx(0.908, abs=5e-3)


@pytest.mark.parametrize("smooth", [1e-5, 1.0])
@pytest.mark.parametrize(
    "size",
    [
        8,
        64,
        512,
    ],
)
def test_ten_of_fifteen_peers_have_no_gradient_on_an_empty_mask(size, smooth):
    """Logits of 2 on an empty 8x8 mask. SMP: 0, gradient 0; MONAI default: 1, gradient 1.6e-10.

    The gradient is small, and must be right all the same: s p (1 - p) / (Σ p + s)².
    """
    logits, mask = torch.full((size, size), 2.0), torch.zeros(size, size)
    loss = partial(pl.dice_loss, activation="sigmoid", smooth=smooth)
    p = 1 / (1 + math.exp(-2.0))
    total = size * size * p + smooth
    assert loss(logits, mask).item() == pytest.approx(1 - smooth / total, rel=1e-6)
    if (size, smooth) == (8, 1.0):
        assert loss(logits, mask).item() == pytest.approx(0.983, abs=5e-4)  # MONAI with smooth=1
    slope = torch.full((size, size), smooth * p * (1 - p) / total**2)
    torch.testing.assert_close(gradient(loss, logits, mask), slope, rtol=1e-5, atol=0)


@pytest.mark.parametrize("predicted", ["foreground", "background"])
def test_lovasz_softmax_of_all_classes_is_alive_on_an_empty_mask(predicted):
    """Beside Lovász hinge the only one of 15 peer losses that is; with "present" it is not.

    An absent class costs its largest probability.
    """
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(1, 2, 8, 8, generator=generator), torch.zeros(1, 8, 8).long()
    logits = (
        logits
        + torch.tensor([-2.0, 2.0] if predicted == "foreground" else [2.0, -2.0])[:, None, None]
    )
    loss = partial(pl.lovasz_softmax_loss, reduction="none")
    largest = logits.softmax(1)[:, 1].max()
    torch.testing.assert_close(loss(logits, labels, classes="all")[0, 1], largest)
    found = gradient(lambda x: loss(x, labels, classes=[1]).sum(), logits)
    torch.testing.assert_close(found[0, 1].sum(), largest * (1 - largest))
    assert loss(logits, labels, classes="present")[0, 1] == 0


def test_dice_bce_is_alive_on_an_empty_mask():
    """Why compound losses win: more than 1e-3 per pixel, where Dice alone has 3e-5."""
    logits, mask = torch.full((8, 8), 2.0), torch.zeros(8, 8)
    assert (gradient(pl.dice_bce_loss, logits, mask) > 1e-3).all()


@pytest.mark.parametrize("smooth", [0.0, 1e-5, 1.0])
def test_keras_dice_of_a_perfect_empty_mask(smooth):
    """keras and MONAI MCC: a loss of 1 for logits of -30 on an empty mask."""
    empty = torch.zeros(4, 4)
    assert pl.dice_loss(empty, empty, smooth=smooth) == 0
    # Every pixel is wrong by 1e-13, which only smoothing makes small beside nothing at all.
    if smooth:
        logits = torch.full((4, 4), -30.0)
        assert pl.dice_loss(logits, empty, activation="sigmoid", smooth=smooth) < 2e-7


def test_public_soft_dice_reaches_minus_one_on_empty_masks():
    """`1 - 2 * (i + s) / (a + b + s)`: at least 5 of 10 public copies."""
    empty = torch.zeros(1, 8)
    assert 1 - 2 * (0 + 1.0) / (0 + 0 + 1.0) == -1
    assert pl.dice_loss(empty, empty, smooth=1.0) == 0


# Half precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [320, 512])
def test_monai_and_smp_dice_in_half_precision(size, dtype):
    """MONAI, SMP and the chapter: NaN in float16, where a sum passes 65504 (true: 0.0526)."""
    prediction = torch.full((size, size), 0.9, dtype=dtype)
    mask = torch.ones(size, size, dtype=dtype)
    p = prediction[0, 0].item()
    loss = pl.dice_loss(prediction, mask)
    assert loss.dtype == torch.float32
    pixels = size * size
    assert loss.item() == pytest.approx(pixels * (1 - p) / (pixels * (1 + p) + 1), rel=2e-6)
    if size == 320 and dtype == torch.float16:
        assert loss.item() == pytest.approx(0.0526, abs=1e-4)
    found = gradient(pl.dice_loss, prediction, mask)
    assert found.dtype == dtype
    assert found.isfinite().all()


def test_torch_cross_entropy_of_a_hundred_thousand_float16_elements():
    """F.cross_entropy on the CPU: NaN, with and without label smoothing."""
    logits = torch.zeros(100_000, 4, dtype=torch.float16)
    target = torch.zeros(100_000, dtype=torch.long)
    for options in ({}, {"label_smoothing": 0.1}):
        loss = pl.cross_entropy_loss(logits, target, **options)
        assert loss.item() == pytest.approx(math.log(4), rel=2e-6)


def test_monai_dice_ce_in_bfloat16():
    """MONAI DiceCE in bfloat16: 6.0217 for a true 6.1365."""
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(1, 1, 64, 64, generator=generator)).bfloat16()
    mask = (torch.rand(1, 1, 64, 64, generator=generator) > 0.5).bfloat16()
    options = {"class_dim": 1}
    exact = pl.dice_bce_loss(logits.double(), mask.double(), **options)
    assert pl.dice_bce_loss(logits, mask, **options).item() == pytest.approx(exact.item(), rel=2e-6)


# Accuracy


@pytest.mark.parametrize("margin", [10.0, 15.0, 20.0, 30.0])
def test_peers_dice_near_the_optimum(margin):
    """Margin 15: exact 6.118e-7, MONAI 7.15e-7, SMP 6.36e-7, kornia 6.66e-7; at 20 all print 0."""
    labels = torch.tensor([[0, 1, 2]])
    logits = margin * torch.eye(3).unsqueeze(0)
    missed = 2 * math.exp(-margin) / (1 + 2 * math.exp(-margin))
    if margin == 15.0:
        assert missed == pytest.approx(6.118e-7, rel=1e-4)
    loss = pl.dice_loss(logits, labels, activation="softmax", class_dim=1, smooth=0.0)
    assert loss.item() == pytest.approx(missed, rel=2e-6)


def test_torch_cross_entropy_near_the_optimum():
    """F.cross_entropy in float32: 0 from a gap of 17, and so is its gradient at the label."""
    logits = torch.tensor([[20.0, 0.0, 0.0]])
    loss = pl.cross_entropy_loss(logits, torch.tensor([0]))
    missed = 2 * math.exp(-20)
    assert loss.item() == pytest.approx(missed, rel=2e-6)
    found = gradient(pl.cross_entropy_loss, logits, torch.tensor([0]))
    expected = torch.tensor([[-missed, missed / 2, missed / 2]])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("logit", [-17.0, -20.0, -40.0, -88.0])
def test_timm_asymmetric_loss_gradient_dies_on_confident_misses(logit):
    """timm AsymmetricLossMultiLabel: -1.0 at -17, -3.8e-8 at -20, -7.8e-17 at -40."""
    x, y = torch.tensor([logit]), torch.tensor([1.0])
    assert gradient(pl.binary_cross_entropy_loss, x, y).item() == pytest.approx(-1.0)
    assert gradient(partial(pl.dice_bce_loss, dice_weight=0.0), x, y).item() == pytest.approx(-0.5)
    row = torch.tensor([[logit, 0.0]])
    assert gradient(pl.cross_entropy_loss, row, torch.tensor([0]))[0, 0].item() == (
        pytest.approx(-1.0)
    )


@pytest.mark.parametrize("logit", [-89.0, -1e4])
def test_torch_soft_margin_loss_overflows(logit):
    """F.soft_margin_loss: inf at a margin of -89."""
    x = torch.tensor([logit])
    assert pl.binary_cross_entropy_loss(x, torch.tensor([1])).item() == -logit


def test_timm_asymmetric_loss_keeps_the_batch_on_the_module():
    """timm AsymmetricLossSingleLabel: two tensors of the batch stay on it after every call."""
    module = nn.AsymmetricLoss()
    before = {name: id(value) for name, value in vars(module).items()}
    module(torch.randn(4, 3), torch.ones(4, 3))
    assert {name: id(value) for name, value in vars(module).items()} == before


# Classes removed and labels out of range


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_soft_target_cross_entropy_with_a_removed_class(smoothing):
    """A logit of -inf whose target is 0: NaN in F.cross_entropy, F.kl_div and timm (0 · inf)."""
    logits = torch.tensor([[1.0, -INF, 0.5], [0.0, 2.0, 1.0]])
    target = torch.tensor([[0.7, 0.0, 0.3], [0.2, 0.3, 0.5]])
    loss = partial(pl.cross_entropy_loss, reduction="none", label_smoothing=smoothing)
    if smoothing:
        # A share of the target goes to the removed class: infinite, and never NaN.
        assert loss(logits, target)[0] == INF
        return
    kept = torch.tensor([[1.0, 0.5]]), torch.tensor([[0.7, 0.3]])
    torch.testing.assert_close(loss(logits, target)[:1], loss(*kept))
    found = gradient(lambda *data: loss(*data).sum(), logits, target)
    assert found.isfinite().all()
    assert found[0, 1] == 0
    torch.testing.assert_close(found[:1, [0, 2]], gradient(lambda *data: loss(*data).sum(), *kept))


LABEL_LOSSES = {
    "cross_entropy_loss": pl.cross_entropy_loss,
    "dice_loss": partial(pl.dice_loss, activation="softmax", class_dim=1),
    "dice_bce_loss": partial(pl.dice_bce_loss, class_dim=1),
}


@pytest.mark.parametrize("name", LABEL_LOSSES)
@pytest.mark.parametrize("label", [7, 3, -1, 255])
def test_smp_accepts_label_7_of_3_classes(name, label):
    """SMP FocalLoss: 0.4264, without a word."""
    logits, labels = torch.zeros(1, 3, 4), torch.tensor([[0, 1, label, 2]])
    with pytest.raises(ValueError, match=f"{name}: `target` must hold class labels.*got {label}$"):
        LABEL_LOSSES[name](logits, labels)


@pytest.mark.parametrize("name", LABEL_LOSSES)
def test_a_bad_label_where_nothing_can_raise_gives_nan(name):
    """mmseg clamps 255 to the last class and counts it."""
    labels = torch.tensor([[0, 1, 7, 2]])
    torch.compiler.reset()
    compiled = torch.compile(LABEL_LOSSES[name], backend="eager", fullgraph=True)
    assert compiled(torch.zeros(1, 3, 4), labels).isnan()


# Options


def test_smp_accepts_the_reduction_avarage():
    with pytest.raises(ValueError, match="'mean', 'weighted_mean', 'sum', 'none', got 'avarage'"):
        pl.cross_entropy_loss(torch.zeros(1, 3), torch.tensor([0]), reduction="avarage")


def test_smp_reduction_none_returns_a_scalar():
    """SMP FocalLoss('multiclass', reduction='none'): one number."""
    logits, labels = torch.zeros(2, 3, 4), torch.zeros(2, 4, dtype=torch.long)
    assert pl.cross_entropy_loss(logits, labels, reduction="none").shape == (2, 4)
    options = {"class_dim": 1, "reduction": "none"}
    assert pl.dice_loss(logits, labels, activation="softmax", **options).shape == (2, 3)
    assert pl.dice_bce_loss(logits, labels, **options).shape == (2, 3)


def test_monai_focal_sum_is_not_a_sum():
    """MONAI FocalLoss(reduction='sum'): 2.91 for a sum of 186.15, a hidden mean over space."""
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    y = (x > 1).float()
    for loss in (pl.binary_cross_entropy_loss, partial(pl.dice_bce_loss, class_dim=1)):
        torch.testing.assert_close(loss(x, y, reduction="sum"), loss(x, y, reduction="none").sum())


def test_smp_cross_entropy_with_default_arguments_raises():
    """SMP SoftCrossEntropyLoss(): TypeError, since 2021."""
    assert nn.CrossEntropyLoss()(torch.zeros(2, 3), torch.tensor([0, 2])).item() == (
        pytest.approx(math.log(3))
    )


@pytest.mark.parametrize(
    ("module", "name", "shape"),
    [
        (nn.CrossEntropyLoss, "class_weights", (3,)),  # SMP
        (nn.SoftmaxFocalLoss, "class_weights", (3,)),  # MONAI's alpha
        (nn.GeneralizedWassersteinDiceLoss, "distance", (3, 3)),  # MONAI's matrix
    ],
)
def test_tensors_of_smp_and_monai_stay_behind_when_the_module_moves(module, name, shape):
    """They are plain attributes there; `.to()` leaves them on the old device."""
    criterion = module(**{name: torch.ones(shape)}).to("meta")
    assert getattr(criterion, name).is_meta


def test_monai_masked_dice_recurses_after_pickle():
    """MaskedDiceLoss keeps a bound `super().forward`: RecursionError at the first call."""
    x, y = torch.rand(1, 2, 6), torch.tensor([[0, 1, 1, 0, 1, 0]])
    where = torch.arange(6).reshape(1, 6) < 4
    criterion = nn.DiceLoss(activation="softmax", class_dim=1)
    again = pickle.loads(pickle.dumps(criterion))
    assert again(x, y, where=where) == criterion(x, y, where=where)


@pytest.mark.parametrize("channels", [1, None])
def test_monai_softmax_of_one_channel(channels):
    """MONAI warns and uses raw logits: -0.2366. kornia: a constant. clDice: 0."""
    logits = torch.randn(1, 1, 4)
    class_dim = None if channels is None else 1
    with pytest.raises(ValueError, match="`class_dim` must name an axis with at least two classes"):
        pl.dice_loss(logits, torch.zeros(1, 1, 4), activation="softmax", class_dim=class_dim)


def test_a_mask_of_0_and_255_looks_perfect():
    """Forgotten / 255: MONAI and the chapter's formula give 0.0039 for any bright prediction."""
    prediction, mask = torch.full((4, 4), 1.0), torch.full((4, 4), 255.0)
    with pytest.raises(ValueError, match="dice_loss: `target` must be between 0 and 1, got 255"):
        pl.checked(pl.dice_loss)(prediction, mask)


# Shapes


ELEMENTWISE = {
    "mse_loss": pl.mse_loss,
    "l1_loss": pl.l1_loss,
    "huber_loss": pl.huber_loss,
    "binary_cross_entropy_loss": pl.binary_cross_entropy_loss,
    "dice_loss": pl.dice_loss,
    "dice_bce_loss": pl.dice_bce_loss,
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_torch_multilabel_soft_margin_broadcasts_a_column_against_a_row(name):
    """F.multilabel_soft_margin_loss of (6, 1) and (6,): 5.21 instead of 0.84."""
    column, row = torch.rand(6, 1), torch.rand(6)
    for data in ((column, row), (row, column)):
        with pytest.raises(ValueError, match=f"{name}: `target` must have the shape of"):
            ELEMENTWISE[name](*data)


def test_a_mask_of_the_wrong_rank_does_not_broadcast():
    with pytest.raises(ValueError, match="`where` must have the shape of"):
        pl.mse_loss(torch.zeros(6, 1), torch.zeros(6, 1), where=torch.ones(6, dtype=torch.bool))


# Transforms


@pytest.mark.parametrize("name", LABEL_LOSSES)
def test_torch_one_hot_breaks_per_sample_gradients(name):
    """F.one_hot calls .item(): so 12 losses of SMP, kornia, MONAI, timm, pml and toolbelt."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 1, 3, 4, generator=generator)
    labels = torch.randint(3, (5, 1, 4), generator=generator)
    loss = LABEL_LOSSES[name]
    loop = torch.stack([grad(loss)(x, y) for x, y in zip(logits, labels, strict=True)])
    torch.testing.assert_close(vmap(grad(loss))(logits, labels), loop)


def test_torch_huber_has_no_second_derivative_in_forward_mode():
    """jacfwd(jacfwd) of F.huber_loss: NotImplementedError."""
    x, y = torch.tensor([0.1, -0.5, 3.0]), torch.zeros(3)
    loss = partial(pl.huber_loss, reduction="sum")
    expected = torch.diag(torch.tensor([1.0, 1.0, 0.0]))
    for second in (jacfwd(jacfwd(loss)), jacfwd(jacrev(loss)), jacrev(jacrev(loss))):
        torch.testing.assert_close(second(x, y), expected)


def test_torch_logaddexp_has_a_second_derivative_of_nan():
    """torch.logaddexp where a logit is -inf, a class that was removed; ours is p (1 - p)."""
    row = torch.tensor([[0.0, 0.0, -INF]])
    loss = partial(pl.cross_entropy_loss, target=torch.tensor([0]))
    expected = torch.tensor([[0.25, -0.25, 0.0], [-0.25, 0.25, 0.0], [0.0, 0.0, 0.0]])
    for second in (jacfwd(jacrev(loss)), jacrev(jacrev(loss))):
        torch.testing.assert_close(second(row)[0, :, 0, :], expected)


def test_torch_gaussian_nll_synchronises_and_breaks_vmap():
    """F.gaussian_nll_loss asks `torch.any(var < 0)`: no vmap, no meta tensors. Ours takes both."""
    s = torch.tensor([[0.0, 1.0], [-1.0, 0.5]])
    losses = [torch.tensor(1.0), torch.tensor(2.0)]
    assert vmap(lambda s: pl.uncertainty_weighted_loss(s, losses)[0])(s).shape == (2,)
    meta = [loss.to("meta") for loss in losses]
    assert pl.uncertainty_weighted_loss(torch.zeros(2, device="meta"), meta)[0].is_meta


# Balance


def test_libmtl_uncertainty_weighting_calls_backward_itself():
    """LibMTL's UW returns a NumPy array. Ours is a tensor inside a larger objective."""
    x = torch.tensor(2.0, requires_grad=True)
    total, aux = pl.uncertainty_weighted_loss(torch.zeros(2), [x**2, 3 * x])
    assert x.grad is None
    (total + x).backward()
    assert x.grad == 0.5 * 4 + 0.5 * 3 + 1
    assert all(isinstance(weight, torch.Tensor) for weight in aux["weights"])


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "softmax"])
def test_automatic_weighted_loss_divides_by_a_learnt_zero(likelihood):
    """AutomaticWeightedLoss learns σ in 1 / σ²: infinite at 0. exp(-s) has no forbidden value."""
    for s in (-60.0, 0.0, 60.0):
        slope = grad(
            lambda s: pl.uncertainty_weighted_loss([s], [torch.tensor(1.0)], likelihood=likelihood)[
                0
            ]
        )(torch.tensor(s))
        assert slope.isfinite()


def test_torchjd_upgrad_of_short_gradients_is_the_mean():
    """torchjd 0.18 UPGrad(), ‖J‖ < 0.01: the mean, which makes one task worse (J d = -2, 8)."""
    rows = 1e-3 * torch.tensor([[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]])
    mean = rows.mean(0)
    torch.testing.assert_close(1e6 * rows @ mean, torch.tensor([-2.0, 8.0]))
    weights, aux = pl.upgrad(rows @ rows.T)
    gains = rows @ (weights @ rows)
    assert (gains >= -1e-6 * rows.norm(dim=1) * (weights @ rows).norm()).all()
    assert not aux["stationary"]


def test_torchjd_and_libmtl_balancers_forget_their_state():
    """torchjd 0.18 DWA keeps nothing in its state_dict, FAMO loses its Adam; LibMTL has none."""
    for module in (nn.DWA(["a", "b"]), nn.FAMO(["a", "b"])):
        other = type(module)(["a", "b"])
        for step in (1.0, 0.7):
            module.update({"a": torch.tensor(step), "b": torch.tensor(2 * step**2)})
        other.load_state_dict(module.state_dict())
        last = {"a": torch.tensor(0.5), "b": torch.tensor(0.9)}
        first, second = module.update(last), other.update(last)
        assert first == second
        assert first["a"] != first["b"]

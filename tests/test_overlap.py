"""Overlap losses: values of peers, identities, empty masks, accuracy, half precision.

Values of peers were computed once, in float64 on the CPU with torch 2.13, on the tensors below:
MONAI 1.6.1, segmentation-models-pytorch (SMP) 0.6.0, kornia 0.9.0. Of torchvision, optax,
mmsegmentation and Keras it is the formula of their source.
"""

import inspect
import math
from functools import partial
from itertools import pairwise

import optree
import pytest
import torch
from hostile import assert_half, eighths
from oracles import EXACT, exact_sigmoid
from torch.func import grad, vmap

import purelosses as pl

# The tensors of docs/which-dice.md: class 2 is absent from the first sample.
k = torch.arange(120)
LOGITS = (2 * torch.sin((k * k).double())).reshape(2, 3, 4, 5)
SOFT = (2 * torch.cos((k * k).double())).reshape(2, 3, 4, 5).softmax(1)
i = torch.arange(20)
LABELS = torch.stack([(i * i // 3) % 2, (i * i // 3) % 3]).reshape(2, 4, 5)
ONE_HOT = torch.nn.functional.one_hot(LABELS, 3).movedim(-1, 1).double()
IGNORED = torch.cat([LABELS[..., :4], torch.full((2, 4, 1), 255)], -1)
DEEP, DEEP_LABELS = LOGITS.reshape(2, 3, 2, 2, 5), LABELS.reshape(2, 2, 2, 5)
BINARY, MASK = LOGITS[:, :1], ONE_HOT[:, 1:2]
TWO, TWO_LABELS = LOGITS[:, :2], (LABELS > 0).long()
WEIGHTS = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)
TREE = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.5], [1.0, 0.5, 0.0]])
LOPSIDED = torch.tensor([[0.0, 1.0, 0.8], [1.0, 0.0, 0.5], [0.8, 0.5, 0.0]])

SOFTMAX = {"activation": "softmax", "class_dim": 1}
SIGMOID = {"activation": "sigmoid", "class_dim": 1}
BATCH = {"dim": (0, 2, 3)}
ONES = {"dice_weight": 1.0}


def dice(*data, **options):
    return pl.dice_loss(*data, **{**SOFTMAX, **options})


def gradient(loss, x, *data, **options):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(x, *data, **options).sum(), x)[0]


# What it is called elsewhere: (our call, their value)
PARITY = {
    # Dice
    "MONAI DiceLoss": (dice(LOGITS, LABELS, smooth=1e-5), 0.703323183246),
    "MONAI DiceLoss(batch)": (dice(LOGITS, LABELS, smooth=1e-5, **BATCH), 0.690399146839),
    "MONAI DiceLoss(include_background=False)": (
        dice(LOGITS, LABELS, smooth=1e-5, classes=(1, 2)),
        0.761730137667,
    ),
    "MONAI DiceLoss(squared_pred)": (
        dice(LOGITS, LABELS, smooth=1e-5, squared=True),
        0.631725088108,
    ),
    "MONAI DiceLoss(squared_pred), smooth 1; mmsegmentation DiceLoss": (
        dice(LOGITS, LABELS, squared=True),
        0.563366875756,
    ),
    "MONAI DiceLoss, smooth 1; nnU-Net": (dice(LOGITS, LABELS), 0.646755943022),
    "MONAI DiceLoss(smooth_nr=0)": (dice(LOGITS, LABELS, smooth=(0.0, 1e-5)), 0.703324014213),
    "MONAI DiceLoss(weight), which multiplies and divides by the count": (
        dice(LOGITS, LABELS, smooth=1e-5, weights=WEIGHTS.reshape(1, 3)),
        1.157341709538,
    ),
    "MONAI DiceLoss(soft_label)": (
        dice(LOGITS, SOFT, smooth=1e-5, soft_target=True),
        0.503540286575,
    ),
    "MONAI DiceLoss of a soft target": (dice(LOGITS, SOFT, smooth=1e-5), 0.676299465655),
    "MONAI DiceLoss(squared_pred) of a soft target": (
        dice(LOGITS, SOFT, smooth=1e-5, squared=True),
        0.440282580438,
    ),
    "MONAI DiceLoss(ignore_index=255)": (
        dice(LOGITS, IGNORED, smooth=1e-5, where=IGNORED != 255),
        0.711856249919,
    ),
    "MONAI DiceLoss of volumes": (dice(DEEP, DEEP_LABELS, smooth=1e-5), 0.703323183246),
    "SMP DiceLoss(multiclass)": (dice(LOGITS, LABELS, smooth=0.0, **BATCH), 0.690399439665),
    "SMP DiceLoss(multiclass, smooth=1)": (
        dice(LOGITS, LABELS, smooth=2.0, **BATCH),
        0.636729390848,
    ),
    "SMP DiceLoss(multiclass, classes=[1, 2])": (
        dice(LOGITS, LABELS, smooth=0.0, classes=[1, 2], **BATCH),
        0.743574388133,
    ),
    "SMP DiceLoss(multiclass, ignore_index=255)": (
        dice(LOGITS, IGNORED, smooth=0.0, where=IGNORED != 255, **BATCH),
        0.705302956551,
    ),
    "SMP DiceLoss(multiclass, class_weights=[0.5, 1, 3])": (
        dice(
            LOGITS, LABELS, smooth=0.0, weights=WEIGHTS, reduction="weighted_mean", **BATCH
        ),
        0.756001547277,
    ),
    "SMP JaccardLoss(multiclass, class_weights=[0.5, 1, 3])": (
        pl.jaccard_loss(
            LOGITS, LABELS, smooth=0.0, weights=WEIGHTS, reduction="weighted_mean",
            **SOFTMAX, **BATCH,
        ),
        0.858416413270,
    ),
    "SMP DiceLoss(multilabel)": (
        dice(LOGITS, ONE_HOT, activation="sigmoid", smooth=0.0, **BATCH),
        0.633447101426,
    ),
    "SMP DiceLoss(binary)": (
        pl.dice_loss(BINARY, MASK, activation="sigmoid", smooth=0.0),
        0.617043275201,
    ),
    "kornia dice_loss": (
        dice(LOGITS, LABELS, smooth=(0.0, 1e-8), dim=(1, 2, 3)),
        0.664386495988,
    ),
    "Keras Dice, which is the same for images of one size": (
        dice(LOGITS, LABELS, smooth=(0.0, 1e-7), dim=(0, 1, 2, 3)),
        0.664386496324,
    ),
    "kornia dice_loss(average=macro), ignore_index": (
        dice(LOGITS, IGNORED, smooth=0.0, classes="present", where=IGNORED != 255,
             reduction="none").sum(1).div(torch.tensor([2, 3])).mean(),
        0.636491786837,
    ),
    "kornia dice_loss(average=macro, weight), by the weight of the present classes": (
        dice(LOGITS, LABELS, smooth=0.0, classes="present", weights=WEIGHTS.reshape(1, 3),
             reduction="none").sum(1).div(torch.tensor([1.5, 4.5])).mean(),
        0.637885251821,
    ),
    "optax dice_loss": (dice(LOGITS, LABELS, smooth=2.0), 0.599201008678),
    "the chapter": (dice(LOGITS, LABELS, dim=(0, 1, 2, 3)), 0.656184193486),
    # Jaccard and Tversky
    "MONAI DiceLoss(jaccard)": (
        pl.jaccard_loss(LOGITS, LABELS, smooth=5e-6, **SOFTMAX),
        0.817044543011,
    ),
    "SMP JaccardLoss": (
        pl.jaccard_loss(LOGITS, LABELS, smooth=0.0, **SOFTMAX, **BATCH),
        0.813265609569,
    ),
    "MONAI TverskyLoss(0.3, 0.7)": (
        pl.tversky_loss(LOGITS, LABELS, alpha=0.3, beta=0.7, smooth=1e-5, **SOFTMAX),
        0.712945397234,
    ),
    "MONAI TverskyLoss(0.3, 0.7, soft_label)": (
        pl.tversky_loss(
            LOGITS, SOFT, alpha=0.3, beta=0.7, smooth=1e-5, soft_target=True, **SOFTMAX
        ),
        0.504075257408,
    ),
    "MONAI TverskyLoss(0.3, 0.7, ignore_index=255)": (
        pl.tversky_loss(
            LOGITS, IGNORED, alpha=0.3, beta=0.7, smooth=1e-5, where=IGNORED != 255, **SOFTMAX
        ),
        0.718053301735,
    ),
    "SMP TverskyLoss(0.3, 0.7)": (
        pl.tversky_loss(LOGITS, LABELS, alpha=0.3, beta=0.7, smooth=0.0, **SOFTMAX, **BATCH),
        0.686095087437,
    ),
    "kornia tversky_loss(0.3, 0.7), a mean over samples of the mean over present classes": (
        pl.tversky_loss(
            LOGITS, LABELS, alpha=0.3, beta=0.7, smooth=(0.0, 1e-8), classes="present",
            reduction="none", **SOFTMAX,
        ).sum(1).div(torch.tensor([2, 3])).mean(),
        0.652503366595,
    ),
    "kornia tversky_loss(0.3, 0.7, ignore_index=255)": (
        pl.tversky_loss(
            LOGITS, IGNORED, alpha=0.3, beta=0.7, smooth=0.0, classes="present",
            where=IGNORED != 255, reduction="none", **SOFTMAX,
        ).sum(1).div(torch.tensor([2, 3])).mean(),
        0.647258115858,
    ),
    "SMP TverskyLoss(binary, gamma=0.75)": (
        pl.focal_tversky_loss(BINARY, MASK, activation="sigmoid", smooth=0.0),
        0.667484311152,
    ),
    "SMP TverskyLoss(multiclass, gamma=0.75), a power of the mean over classes": (
        pl.tversky_loss(
            LOGITS, LABELS, alpha=0.3, beta=0.7, smooth=0.0, **SOFTMAX, **BATCH
        ) ** 0.75,
        0.753855716224,
    ),
    # MCC
    "MONAI MCCLoss(batch), nothing in the root": (
        pl.mcc_loss(LOGITS, LABELS, smooth=0.0, **SOFTMAX, **BATCH),
        0.984711413151,
    ),
    "MONAI MCCLoss(sigmoid)": (
        pl.mcc_loss(LOGITS[1:], ONE_HOT[1:], smooth=0.0, **SIGMOID),
        1.008171068830,
    ),
    "SMP MCCLoss(eps=0)": (
        pl.mcc_loss(BINARY.sigmoid(), MASK, smooth=0.0),
        1.013513188187,
    ),
    # Generalized
    "MONAI GeneralizedDiceLoss, no smoothing": (
        pl.generalized_dice_loss(LOGITS, LABELS, smooth=0.0, **SOFTMAX),
        0.703425256866,
    ),
    "MONAI GeneralizedDiceLoss(simple)": (
        pl.generalized_dice_loss(LOGITS, LABELS, weight_type="simple", smooth=0.0, **SOFTMAX),
        0.688267209159,
    ),
    "MONAI GeneralizedDiceLoss(uniform), with its smoothing": (
        pl.generalized_dice_loss(LOGITS, LABELS, weight_type="uniform", smooth=1e-5, **SOFTMAX),
        0.664386329808,
    ),
    "MONAI GeneralizedDiceLoss(include_background=False)": (
        pl.generalized_dice_loss(LOGITS, LABELS, smooth=0.0, classes=(1, 2), **SOFTMAX),
        0.730239939405,
    ),
    "MONAI GeneralizedDiceLoss(batch), no smoothing": (
        pl.generalized_dice_loss(LOGITS, LABELS, smooth=0.0, **SOFTMAX, **BATCH),
        0.783828993336,
    ),
    # Its 1e-5 is on the scale of 1 / G², that of the weights.
    "MONAI GeneralizedDiceLoss(batch), with the square of the smallest class, 4 pixels": (
        pl.generalized_dice_loss(LOGITS, LABELS, smooth=1e-5 * 4**2, **SOFTMAX, **BATCH),
        0.783823087605,
    ),
    "MONAI GeneralizedDiceLoss(batch, simple), with the size of the smallest class": (
        pl.generalized_dice_loss(
            LOGITS, LABELS, weight_type="simple", smooth=1e-5 * 4, **SOFTMAX, **BATCH
        ),
        0.732604467021,
    ),
    "MONAI GeneralizedWassersteinDiceLoss": (
        pl.generalized_wasserstein_dice_loss(
            LOGITS, LABELS, distance=TREE, smooth=1e-5, **SOFTMAX
        ),
        0.580298473212,
    ),
    "MONAI GeneralizedWassersteinDiceLoss, a class near the background": (
        pl.generalized_wasserstein_dice_loss(
            LOGITS, LABELS, distance=LOPSIDED.double(), smooth=1e-5, **SOFTMAX
        ),
        0.553160683392,
    ),
    # Focal
    "MONAI FocalLoss; kornia binary_focal_loss_with_logits; SMP FocalLoss(multiclass)": (
        pl.sigmoid_focal_loss(LOGITS, ONE_HOT),
        0.511433890212,
    ),
    "MONAI FocalLoss(alpha=0.25, gamma=1.5)": (
        pl.sigmoid_focal_loss(LOGITS, ONE_HOT, alpha=0.25, gamma=1.5),
        0.330084860325,
    ),
    "MONAI FocalLoss(reduction=none), summed": (
        pl.sigmoid_focal_loss(LOGITS, ONE_HOT, reduction="sum"),
        61.372070312500,
    ),
    "torchvision sigmoid_focal_loss": (
        pl.sigmoid_focal_loss(LOGITS, ONE_HOT, alpha=0.25),
        0.291548619866,
    ),
    "SMP FocalLoss(binary)": (pl.sigmoid_focal_loss(BINARY, MASK), 0.559630960342),
    "SMP softmax_focal_loss_with_logits": (pl.softmax_focal_loss(LOGITS, LABELS), 1.301206692138),
    "kornia focal_loss, which divides by the classes too": (
        pl.softmax_focal_loss(LOGITS, LABELS) / 3,
        0.433735564046,
    ),
    "MONAI FocalLoss(use_softmax, ignore_index=255), which divides by the pixels alone": (
        pl.softmax_focal_loss(LOGITS, LABELS, where=LABELS != 255),
        1.301206588745,
    ),
    "MONAI FocalLoss(use_softmax, alpha=0.25), which divides by the classes too": (
        pl.softmax_focal_loss(
            LOGITS, LABELS, class_weights=torch.tensor([0.75, 0.25, 0.25])
        ) / 3,
        0.218116119504,
    ),
    # Compound
    "MONAI DiceCELoss": (
        pl.dice_ce_loss(LOGITS, LABELS, smooth=1e-5, **ONES, ce_weight=1.0),
        2.382001753726,
    ),
    "MONAI DiceCELoss of volumes": (
        pl.dice_ce_loss(DEEP, DEEP_LABELS, smooth=1e-5, **ONES, ce_weight=1.0),
        2.382001753726,
    ),
    "MONAI DiceCELoss(label_smoothing=0.1)": (
        pl.dice_ce_loss(LOGITS, LABELS, smooth=1e-5, label_smoothing=0.1, **ONES, ce_weight=1.0),
        2.381043905475,
    ),
    "MONAI DiceCELoss(include_background=False)": (
        pl.dice_ce_loss(LOGITS, LABELS, smooth=1e-5, classes=(1, 2), **ONES, ce_weight=1.0),
        2.440408708147,
    ),
    "MONAI DiceCELoss(sigmoid)": (
        pl.dice_bce_loss(BINARY, MASK, class_dim=1, smooth=1e-5, **ONES, bce_weight=1.0),
        1.570486761805,
    ),
    "MONAI DiceFocalLoss(sigmoid)": (
        pl.dice_focal_loss(LOGITS, ONE_HOT, class_dim=1, smooth=1e-5, **ONES, focal_weight=1.0),
        1.157640689511,
    ),
    "MONAI DiceFocalLoss(softmax), whose focal term has a sigmoid": (
        dice(LOGITS, LABELS, smooth=1e-5) + pl.sigmoid_focal_loss(LOGITS, ONE_HOT),
        1.214757082648,
    ),
    "MONAI AsymmetricUnifiedFocalLoss of probabilities, a mean over two classes": (
        pl.unified_focal_loss(
            TWO.log_softmax(1), TWO_LABELS, delta=0.7, focal_weight=0.25, smooth=1e-7
        ),
        0.447035271808,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PARITY)
def test_the_value_of_a_peer(name):
    value, theirs = PARITY[name]
    # MONAI and SMP compute parts of these in float32, and add 1e-7 or 1e-8 here and there.
    assert value.item() == pytest.approx(theirs, rel=5e-7)


def test_monai_dice_of_every_region():
    theirs = torch.tensor(
        [[0.612258836083, 0.592324896369, 0.999998749276],
         [0.560759712723, 0.79928543822, 0.655311466802]],
        dtype=torch.float64,
    )  # fmt: skip
    ours = dice(LOGITS, LABELS, smooth=1e-5, reduction="none")
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=0)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        pytest.param(
            0.25,
            [0.0975679312099, 0.000511335794145, 0.00162407180481,
             0.370076225286, 0.0108574000755, 0.446870738504],
            id="torchvision sigmoid_focal_loss",
        ),
        pytest.param(
            None,
            [0.390271724839, 0.00204534317658, 0.00216542907307,
             1.48030490114, 0.0144765334340, 0.595827651338],
            id="kornia binary_focal_loss_with_logits; MONAI FocalLoss (float32)",
        ),
    ],
)  # fmt: skip
def test_focal_loss_of_every_pixel(alpha, expected):
    """reduction="none" of the second image: its first six pixels."""
    found = pl.sigmoid_focal_loss(LOGITS, ONE_HOT, alpha=alpha, reduction="none")[1].flatten()
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found[:6], expected, rtol=1e-10, atol=0)


def test_torchmetrics_dice_score_of_hard_predictions():
    """functional.segmentation.dice_score of one-hot masks; torchmetrics 1.8 computes in float32."""
    hard = (LOGITS.argmax(1, keepdim=True) == torch.arange(3).reshape(1, 3, 1, 1)).double()
    by_class = [
        [0.2666666805744171, 0.3529411852359772, 0.0],
        [0.42105263471603394, 0.1818181872367859, 0.4000000059604645],
    ]
    scores = {(2, 3): torch.tensor(by_class), (1, 2, 3): torch.tensor([0.25, 0.3499999940395355])}
    for dim, expected in scores.items():
        found = 1 - pl.dice_loss(hard, ONE_HOT, dim=dim, smooth=0.0, reduction="none")
        torch.testing.assert_close(found, expected.double(), rtol=0, atol=3e-8)


def test_kornia_averages_the_present_classes_of_a_sample_before_the_samples():
    """0.637039; the mean over all (sample, class) that are present is another number."""
    losses = dice(LOGITS, LABELS, smooth=0.0, classes="present", reduction="none")
    assert losses.sum(1).div(torch.tensor([2, 3])).mean().item() == pytest.approx(
        0.637039177214, rel=1e-7
    )
    mean = dice(LOGITS, LABELS, smooth=0.0, classes="present")
    torch.testing.assert_close(mean, losses.sum() / 5)


def test_smp_log_dice_is_a_logarithm_of_the_mean_loss_of_each_class():
    losses = dice(LOGITS, LABELS, smooth=0.0, reduction="none", **BATCH)
    assert -torch.log1p(-losses).mean().item() == pytest.approx(1.223863258458, rel=1e-7)


# Identities

PER_REGION = (pl.dice_loss, pl.jaccard_loss, pl.tversky_loss, pl.focal_tversky_loss,
              pl.log_cosh_dice_loss, pl.mcc_loss)  # fmt: skip
LOSSES = {
    **{f.__name__: partial(f, **SOFTMAX) for f in PER_REGION},
    "generalized_dice_loss": partial(pl.generalized_dice_loss, **SOFTMAX),
    "generalized_wasserstein_dice_loss": partial(
        pl.generalized_wasserstein_dice_loss, distance=TREE, **SOFTMAX
    ),
    "dice_bce_loss": partial(pl.dice_bce_loss, class_dim=1),
    "dice_ce_loss": pl.dice_ce_loss,
    "dice_focal_loss": partial(pl.dice_focal_loss, class_dim=1),
    "dice_focal_loss of classes": partial(pl.dice_focal_loss, **SOFTMAX),
    "unified_focal_loss": pl.unified_focal_loss,
}
each = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())

VOCABULARY = {"activation", "class_dim", "dim", "smooth", "empty", "squared", "soft_target",
              "classes", "where", "weights", "reduction"}  # fmt: skip
LACKING = {  # and why
    "mcc_loss": {"squared"},  # counts of pixels, of which squares are none
    "generalized_dice_loss": {"squared"},  # its weights are the squares
    # Every class matters to it: the distance says how much.
    "generalized_wasserstein_dice_loss": {"squared", "soft_target", "classes"},
    "dice_ce_loss": {"activation"},  # a cross-entropy of a softmax
    "dice_bce_loss": {"activation"},  # a cross-entropy of sigmoids
    # Softmax; its `delta` weighs the classes, its exponents the rest.
    "unified_focal_loss": {"activation", "squared", "soft_target", "classes"},
}
OF_ITS_OWN = {
    "tversky_loss": {"alpha", "beta"},
    "focal_tversky_loss": {"alpha", "beta", "gamma"},
    "generalized_dice_loss": {"weight_type"},
    "generalized_wasserstein_dice_loss": {"distance"},
    "dice_ce_loss": {"dice_weight", "ce_weight", "label_smoothing"},
    "dice_bce_loss": {"dice_weight", "bce_weight"},
    "dice_focal_loss": {"dice_weight", "focal_weight", "gamma"},
    "unified_focal_loss": {"tversky_weight", "focal_weight", "delta", "gamma", "asymmetric"},
}


@pytest.mark.parametrize("name", [name for name in LOSSES if " " not in name])
def test_all_overlap_losses_speak_one_language(name):
    """The same options, spelt alike, with the same defaults."""
    known = inspect.signature(getattr(pl, name)).parameters
    options = {key: known[key].default for key in known if known[key].kind.name == "KEYWORD_ONLY"}
    assert options.keys() == VOCABULARY - LACKING.get(name, set()) | OF_ITS_OWN.get(name, set())
    usual = {"smooth": 1.0, "empty": "smooth", "squared": False, "soft_target": False,
             "classes": "all", "where": None, "weights": None, "reduction": "mean"}  # fmt: skip
    assert {key: options[key] for key in usual if key in options} == {
        key: usual[key] for key in usual if key in options
    }


def assert_same(ours, theirs, target):
    """In value, of every region, and in gradient."""
    torch.testing.assert_close(ours(LOGITS, target), theirs(LOGITS, target))
    slopes = gradient(ours, LOGITS, target), gradient(theirs, LOGITS, target)
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("smooth", [0.0, 1e-5, 1.0, (0.0, 1e-5), (0.5, 2.0)])
@pytest.mark.parametrize("flags", [{}, {"squared": True}, {"soft_target": True}], ids=str)
def test_dice_and_jaccard_are_tversky(smooth, flags):
    options = {**SOFTMAX, **flags, "reduction": "none"}
    half = tuple(s / 2 for s in smooth) if isinstance(smooth, tuple) else smooth / 2
    for target in (LABELS, SOFT):
        assert_same(
            partial(pl.dice_loss, smooth=smooth, **options),
            partial(pl.tversky_loss, alpha=0.5, beta=0.5, smooth=half, **options),
            target,
        )
        assert_same(
            partial(pl.jaccard_loss, smooth=smooth, **options),
            partial(pl.tversky_loss, alpha=1, beta=1, smooth=smooth, **options),
            target,
        )


def test_dice_is_two_j_over_one_plus_j():
    options = {**SOFTMAX, "smooth": 0.0, "reduction": "none"}

    def from_jaccard(logits, labels):
        j = 1 - pl.jaccard_loss(logits, labels, **options)
        return 1 - 2 * j / (1 + j)

    assert_same(partial(pl.dice_loss, **options), from_jaccard, LABELS)


@each
def test_one_hot_targets_are_labels_in_value_and_gradient(loss):
    torch.testing.assert_close(loss(LOGITS, LABELS), loss(LOGITS, ONE_HOT), rtol=1e-14, atol=0)
    torch.testing.assert_close(
        gradient(loss, LOGITS, LABELS), gradient(loss, LOGITS, ONE_HOT), rtol=1e-12, atol=1e-16
    )


def measured(function, x, y):
    """The statistics from which `<function>_from_statistics` makes its loss."""
    if "wasserstein" in function:
        return pl.confusion_statistics(x, y, activation="softmax")
    softmax = not function.startswith(("dice_bce", "dice_focal"))
    extra = ["tn", "focal", *(("ce", "surprisal") if softmax else ("bce",))]
    options = {"activation": "softmax" if softmax else "sigmoid", "class_dim": 1}
    gamma = 0.5 if function.startswith("unified") else 2.0
    return pl.overlap_statistics(x, y, extra=extra, gamma=gamma, **options)


@pytest.mark.parametrize("name", [name for name in LOSSES if " " not in name])
def test_statistics_of_tiles_add_up_to_the_loss_of_the_whole(name):
    """Tiles of each image: cut in the middle, summed, turned into the loss; gradient included."""
    finish = getattr(pl, name.replace("_loss", "_from_statistics"))
    options = {"distance": TREE} if "wasserstein" in name else {}

    def tiled(x):
        tiles = zip(x.split(3, -1), LABELS.split(3, -1), strict=True)
        sums = [measured(name, *tile) for tile in tiles]
        return finish(optree.tree_map(lambda *s: sum(s), *sums), **options)

    torch.testing.assert_close(tiled(LOGITS), LOSSES[name](LOGITS, LABELS), rtol=1e-13, atol=0)
    torch.testing.assert_close(
        gradient(tiled, LOGITS), gradient(LOSSES[name], LOGITS, LABELS), rtol=1e-11, atol=1e-16
    )


def test_one_pass_serves_any_combination():
    extra = ("tn", "ce", "focal")
    sums = pl.overlap_statistics(LOGITS, LABELS, **SOFTMAX, extra=extra, gamma=2.0)
    for name in ("dice", "jaccard", "tversky", "focal_tversky", "log_cosh_dice", "mcc",
                 "generalized_dice", "dice_ce"):  # fmt: skip
        finish, loss = getattr(pl, f"{name}_from_statistics"), LOSSES[f"{name}_loss"]
        torch.testing.assert_close(finish(sums), loss(LOGITS, LABELS))
    focal = pl.dice_focal_from_statistics(sums, activation="softmax")
    torch.testing.assert_close(focal, LOSSES["dice_focal_loss of classes"](LOGITS, LABELS))


def test_every_loss_has_its_statistics():
    losses = {name for name in pl.__all__ if name in {key.split()[0] for key in LOSSES}}
    assert {name.replace("_loss", "_from_statistics") for name in losses} == {
        name for name in pl.__all__ if name.endswith("_from_statistics")
    } - {"losses_from_statistics"}  # a balancer's: statistics of losses


def test_the_parts_of_compound_losses():
    where = torch.ones_like(LABELS, dtype=torch.bool)
    where[:, 0] = False  # as many pixels of each sample
    ce = pl.cross_entropy_loss(LOGITS, LABELS, where=where, label_smoothing=0.2)
    ours = pl.dice_ce_loss(LOGITS, LABELS, where=where, label_smoothing=0.2, dice_weight=0.0)
    torch.testing.assert_close(2 * ours, ce)
    focal = pl.softmax_focal_loss(LOGITS, LABELS, where=where, gamma=1.5)
    ours = pl.dice_focal_loss(LOGITS, LABELS, where=where, gamma=1.5, dice_weight=0.0, **SOFTMAX)
    torch.testing.assert_close(2 * ours, focal)
    focal = pl.sigmoid_focal_loss(LOGITS, ONE_HOT, gamma=1.5)
    ours = pl.dice_focal_loss(LOGITS, LABELS, gamma=1.5, dice_weight=0.0, class_dim=1)
    torch.testing.assert_close(2 * ours, focal)


def test_wasserstein_dice_of_two_classes_is_dice_of_the_foreground():
    distance = 1 - torch.eye(2)
    ours = pl.generalized_wasserstein_dice_loss(TWO, TWO_LABELS, distance=distance, **SOFTMAX)
    torch.testing.assert_close(ours, pl.dice_loss(TWO, TWO_LABELS, classes=[1], **SOFTMAX))


def test_wasserstein_dice_does_not_depend_on_the_scale_of_distances():
    loss = partial(pl.generalized_wasserstein_dice_loss, LOGITS, LABELS, **SOFTMAX)
    torch.testing.assert_close(loss(distance=TREE), loss(distance=10 * TREE))
    assert loss(distance=0 * TREE) == 0


def test_generalized_dice_does_not_depend_on_the_size_of_an_image():
    """Every pixel 10,000 times: MONAI has 0.7034 before and 0.6140 after.

    Its smoothing of 1e-5 is added to sums that are weighted by 1 / G², so by size they vanish.
    """
    wide = LOGITS.repeat(1, 1, 100, 100), LABELS.repeat(1, 100, 100)
    loss = partial(pl.generalized_dice_loss, smooth=1e-5, **SOFTMAX)
    assert loss(LOGITS, LABELS).item() == pytest.approx(0.703425, abs=1e-6)
    assert loss(*wide).item() == pytest.approx(0.703425, abs=1e-6)


@each
def test_a_class_axis_at_the_end_is_the_same_loss(loss):
    moved = {"class_dim": -1, "dim": (1, 2)}
    torch.testing.assert_close(
        loss(LOGITS.movedim(1, -1), LABELS, **moved), loss(LOGITS, LABELS), rtol=1e-13, atol=0
    )


@each
def test_three_spatial_axes(loss):
    deep = LOGITS.reshape(2, 3, 2, 2, 5), LABELS.reshape(2, 2, 2, 5)
    torch.testing.assert_close(loss(*deep), loss(LOGITS, LABELS), rtol=1e-13, atol=0)


@each
def test_ignored_is_cropped(loss):
    where = IGNORED != 255
    spoilt = torch.where(where.unsqueeze(1), LOGITS, torch.nan)
    cropped = LOGITS[..., :4], LABELS[..., :4]
    torch.testing.assert_close(
        loss(spoilt, IGNORED, where=where), loss(*cropped), rtol=1e-13, atol=0
    )
    found = gradient(loss, spoilt, IGNORED, where=where)
    assert (found[..., 4] == 0).all()
    torch.testing.assert_close(found[..., :4], gradient(loss, *cropped), rtol=1e-11, atol=1e-16)


@each
def test_everything_ignored_costs_nothing(loss):
    """torch CE: NaN. kornia Dice: 1."""
    nowhere = torch.zeros_like(LABELS, dtype=torch.bool)
    assert loss(LOGITS, LABELS, where=nowhere) == 0
    assert (gradient(loss, LOGITS, LABELS, where=nowhere) == 0).all()


# Soft targets

SOFT_LOSSES = [f for f in (*PER_REGION, pl.generalized_dice_loss)
               if "soft_target" in inspect.signature(f).parameters]  # fmt: skip


@pytest.mark.parametrize("loss", SOFT_LOSSES, ids=lambda f: f.__name__)
def test_a_soft_target_is_its_own_perfect_prediction(loss):
    """MONAI DiceLoss and TverskyLoss of p = t: 0.408 here; with soft_label 0."""
    options = {"class_dim": 1}
    perfect = loss(SOFT, SOFT, soft_target=True, **options)
    assert perfect == 0
    assert (gradient(loss, SOFT, SOFT, soft_target=True, **options) == 0).all()
    worse = loss((0.9 * SOFT + 0.1 / 3), SOFT, soft_target=True, **options)
    assert worse > 0
    if "squared" in inspect.signature(loss).parameters:
        assert loss(SOFT, SOFT, squared=True, **options) == 0
    if loss is pl.dice_loss:
        p = LOGITS.softmax(1)
        assert loss(p, p, smooth=1e-5, **options).item() == pytest.approx(0.408255902260, rel=1e-9)


@pytest.mark.parametrize("loss", SOFT_LOSSES, ids=lambda f: f.__name__)
def test_on_hard_targets_the_semimetric_is_the_plain_loss(loss):
    plain = partial(loss, **SOFTMAX)
    soft = partial(loss, soft_target=True, **SOFTMAX)
    torch.testing.assert_close(soft(LOGITS, LABELS), plain(LOGITS, LABELS), rtol=1e-13, atol=0)
    torch.testing.assert_close(gradient(soft, LOGITS, LABELS), gradient(plain, LOGITS, LABELS))


@pytest.mark.parametrize("name", ["dice_ce_loss", "dice_focal_loss of classes"])
def test_the_overlap_term_of_a_compound_loss_takes_soft_targets(name):
    """MONAI DiceCELoss has no soft_label."""
    share = "ce_weight" if "ce" in name.split("_") else "focal_weight"
    loss = partial(LOSSES[name], soft_target=True, **{share: 0.0})
    assert loss(SOFT.log(), SOFT).item() == pytest.approx(0.0, abs=1e-15)
    assert loss(LOGITS, SOFT).item() == pytest.approx(dice(LOGITS, SOFT, soft_target=True) / 2)


def test_the_product_of_a_half_and_a_prediction_is_best_at_1():
    """The plain loss of a target of one half falls all the way to p = 1; others stop at p = y."""
    target = torch.full((4,), 0.5, dtype=torch.float64)
    path = torch.linspace(0, 1, 21, dtype=torch.float64)
    for options, best in (({}, 1.0), ({"squared": True}, 0.5), ({"soft_target": True}, 0.5)):
        losses = [pl.dice_loss(p.expand(4), target, **options) for p in path]
        assert path[torch.stack(losses).argmin()].item() == pytest.approx(best)


# Empty targets

EMPTY = torch.zeros(2, 8, 8, dtype=torch.long)
ABSENT = {  # losses of a foreground that is nowhere, of logits
    **{
        f.__name__: partial(f, activation="sigmoid", class_dim=1)
        for f in (*PER_REGION, pl.generalized_dice_loss)
    },
    "dice_bce_loss": partial(pl.dice_bce_loss, class_dim=1),
    "dice_focal_loss": partial(pl.dice_focal_loss, class_dim=1),
}


def confident(target, margin, classes=2):
    """Logits of this margin for the target, and target itself."""
    return margin * (2 * torch.nn.functional.one_hot(target, classes).movedim(-1, 1).float() - 1)


@pytest.mark.parametrize("smooth", [1.0, 1e-5])
@pytest.mark.parametrize("empty", ["smooth", "penalize"])
@pytest.mark.parametrize("name", ABSENT)
def test_a_perfect_prediction_of_nothing_costs_nothing(name, empty, smooth):
    """Logits of -40 on an empty mask. MONAI MCC, keras, MONAI smooth_nr=0: a loss of 1."""
    mask = torch.zeros(2, 3, 8, 8)
    loss = partial(ABSENT[name], empty=empty, smooth=smooth)
    x = torch.full((2, 3, 8, 8), -40.0)
    assert loss(x, mask) < 1e-7
    if "activation" in getattr(pl, name).__annotations__ and "focal_loss" not in name:
        probabilities = {"activation": None}
        assert loss(torch.zeros_like(x), mask, **probabilities) == 0
        assert gradient(loss, torch.zeros_like(x), mask, **probabilities).isfinite().all()


@pytest.mark.parametrize("empty", ["smooth", "penalize"])
@each
def test_a_perfect_prediction_where_classes_are_absent_costs_nothing(loss, empty):
    """MONAI AsymmetricUnifiedFocalLoss of a perfect empty foreground: 0.2274, gradient 0."""
    for target in (EMPTY, EMPTY + 1):
        x = confident(target, 40.0, classes=3)
        assert loss(x, target, empty=empty) < 1e-7
        assert gradient(loss, x, target, empty=empty).isfinite().all()


@pytest.mark.parametrize("name", ABSENT)
def test_penalized_empty_masks_have_a_live_gradient(name):
    """Logits of 2 on an empty mask: 10 of 15 peer losses have a gradient of exactly 0 there.

    The mean probability has the slope p (1 - p) / n at every pixel.
    """
    x, mask = torch.full((1, 1, 8, 8), 2.0), torch.zeros(1, 1, 8, 8)
    p = 1 / (1 + math.exp(-2.0))
    shares = {"dice_weight": 1.0, "bce_weight": 0.0, "focal_weight": 0.0}
    parameters = inspect.signature(getattr(pl, name)).parameters
    shares = {key: value for key, value in shares.items() if key in parameters}
    for smooth in (0.0, 1e-5, 1.0):
        loss = partial(ABSENT[name], empty="penalize", smooth=smooth, **shares)
        assert loss(x, mask).item() == pytest.approx(p, rel=1e-6)
        slope = torch.full_like(x, p * (1 - p) / 64)
        torch.testing.assert_close(gradient(loss, x, mask), slope, rtol=1e-5, atol=0)


def test_penalized_squares_cost_the_mean_square():
    x, mask = torch.full((8, 8), 0.5), torch.zeros(8, 8)
    assert pl.dice_loss(x, mask, squared=True, empty="penalize") == 0.25


@pytest.mark.parametrize("name", ["dice_ce_loss", "dice_focal_loss of classes",
                                  "unified_focal_loss",
                                  "generalized_wasserstein_dice_loss"])  # fmt: skip
def test_penalized_absent_classes_have_a_live_gradient(name):
    """A foreground that is nowhere, in the overlap term alone."""
    x = confident(EMPTY + 1, 1.0, classes=3)
    only = {"dice_ce_loss": {"ce_weight": 0.0}, "dice_focal_loss of classes": {"focal_weight": 0.0},
            "unified_focal_loss": {"focal_weight": 0.0}}  # fmt: skip
    loss = partial(LOSSES[name], empty="penalize", **only.get(name, {}))
    slope = gradient(loss, x, EMPTY)
    assert (slope[:, 0] < -1e-4).all()
    assert (slope[:, 1] > 1e-4).all()
    without = gradient(partial(loss, empty="smooth", smooth=0.0), x, EMPTY)
    assert without[:, 1].abs().max() < slope[:, 1].abs().min()


def test_wasserstein_dice_of_background_alone_is_the_mean_distance():
    x = confident(EMPTY + 1, 1.0, classes=3)
    loss = pl.generalized_wasserstein_dice_loss(
        x, EMPTY, activation="softmax", distance=TREE, empty="penalize"
    )
    torch.testing.assert_close(loss, 1 - x.softmax(1)[:, 0].mean())


def test_generalized_dice_weighs_absent_classes_as_the_smallest_and_all_absent_evenly():
    """MONAI with include_background=False on an empty foreground: loss 0, gradient 0."""
    mask = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    mask[:, 0, :2], mask[:, 1, 2:] = 1, 1  # 8 pixels each, class 2 absent
    probs = torch.full_like(mask, 0.25)
    loss = partial(pl.generalized_dice_loss, smooth=0.0)
    sums = 0.25 * 16 * 3 + 16  # Σ p + Σ y, all weights alike
    assert loss(probs, mask).item() == pytest.approx(1 - 2 * 0.25 * 16 / sums)
    nothing = torch.zeros_like(mask)
    assert loss(probs, nothing) == 1
    assert loss(nothing, nothing) == 0
    sums = 0.25 * 16 * 3
    assert loss(probs, nothing, smooth=1.0).item() == pytest.approx(sums / (sums + 1))
    assert (gradient(partial(loss, smooth=1.0), probs, nothing) > 0).all()


def test_mcc_of_an_empty_mask_has_a_live_gradient_through_its_smoothing():
    """MONAI: 1, gradient 0. Here MCC² = s TN' / ((s + FP) (TN' + FP)) with TN' = TN + s."""
    x, mask = torch.full((8, 8), 2.0, dtype=torch.float64), torch.zeros(8, 8)
    loss = partial(pl.mcc_loss, activation="sigmoid")
    p = 1 / (1 + math.exp(-2.0))
    fp, tn = 64 * p, 64 * (1 - p) + 1
    expected = 1 - math.sqrt(tn / ((1 + fp) * (tn + fp)))
    assert loss(x, mask).item() == pytest.approx(expected, rel=1e-12)
    assert (gradient(loss, x, mask) > 1e-4).all()


# Accuracy


@pytest.mark.parametrize("margin", [5.0, 10.0, 15.0, 20.0, 27.6, 40.0])
def test_relative_accuracy_near_the_optimum(margin):
    """Down to 1e-17 in float32, against float64; MONAI, SMP and kornia print 0 from 20 on."""
    mask = torch.tensor([1.0] * 5 + [0.0] * 5).reshape(1, 1, 10)
    x = margin * (2 * mask - 1)
    for name, loss in ABSENT.items():
        value = loss(x, mask, smooth=0.0)
        truth = loss(x.double(), mask.double(), smooth=0.0)
        assert value > 0
        limit = 2e-6 if "log_cosh" not in name or margin < 40 else 1.0  # 1e-35, a denormal factor
        assert value.item() == pytest.approx(truth.item(), rel=limit), name
    p = float(exact_sigmoid(margin))
    wrong = float(EXACT["dice_loss"]([exact_sigmoid(margin)] * 5 + [exact_sigmoid(-margin)] * 5,
                                     [1.0] * 5 + [0.0] * 5, 0.0))  # fmt: skip
    assert 0 < wrong <= 1 - p + 1e-2
    assert pl.dice_loss(x, mask, smooth=0.0, **SIGMOID).item() == pytest.approx(wrong, rel=2e-6)


@pytest.mark.parametrize("margin", [5.0, 15.0, 27.6, 40.0])
def test_relative_accuracy_of_classes_near_the_optimum(margin):
    target = torch.tensor([[0, 1, 2, 0, 1, 1]])
    x = margin * torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    for name, loss in LOSSES.items():
        if name in ("dice_bce_loss", "dice_focal_loss"):
            continue  # above
        value, truth = loss(x, target, smooth=0.0), loss(x.double(), target, smooth=0.0)
        assert value > 0
        limit = 2e-6 if "log_cosh" not in name or margin < 40 else 1.0
        assert value.item() == pytest.approx(truth.item(), rel=limit), name


def test_losses_of_1e_12():
    """Every pixel is missed by 1e-12, whatever the loss: Dice 1e-12, Jaccard 2e-12, MCC 2e-12."""
    mask = torch.tensor([1.0] * 5 + [0.0] * 5)
    x = 27.63102111 * (2 * mask - 1)
    missed = float(exact_sigmoid(-x[0].item()))
    options = {"activation": "sigmoid", "smooth": 0.0}
    for loss, times in ((pl.dice_loss, 1), (pl.jaccard_loss, 2), (pl.tversky_loss, 1),
                        (pl.mcc_loss, 2)):  # fmt: skip
        assert loss(x, mask, **options).item() == pytest.approx(times * missed, rel=2e-6)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6, 1e-12])
def test_hostile_mcc(scale):
    """Against the formula in exact arithmetic, where a numerator of 1 - ratio would cancel."""
    from mpmath import mp, mpf

    tp, fp, fn, tn = (mpf(x) for x in (3.0, 2.0 * scale, 0.5 * scale, 7.0))
    root = mp.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    truth = 1 - (tp * tn - fp * fn) / root
    sums = {"tp": tp, "fp": fp, "fn": fn, "tn": tn, "count": 20}
    sums = {key: torch.tensor(float(value)) for key, value in sums.items()}
    loss = pl.mcc_from_statistics(sums, smooth=0.0)
    assert loss.item() == pytest.approx(float(truth), rel=2e-6)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_mcc_neither_overflows_nor_underflows(size):
    """A product of four counts of 1e8 is 1e32, its square beyond float32."""
    sums = {"tp": 0.6, "fp": 0.1, "fn": 0.2, "tn": 0.9, "count": 2.0}
    sums = {key: torch.tensor(size * value) for key, value in sums.items()}
    expected = 1 - (0.6 * 0.9 - 0.1 * 0.2) / math.sqrt(0.7 * 0.8 * 1.0 * 1.1)
    assert pl.mcc_from_statistics(sums, smooth=0.0).item() == pytest.approx(expected, rel=2e-6)


def test_mcc_bounds():
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0])
    loss = partial(pl.mcc_loss, target=mask, smooth=0.0)
    assert loss(mask) == 0
    assert loss(1 - mask) == 2
    assert loss(torch.full_like(mask, 0.5)).item() == pytest.approx(1.0)


@pytest.mark.parametrize("gap", [1.0, 12.0, 20.0, 40.0, 60.0, 80.0])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_losses_are_accurate_through_a_gap_of_80(gap, gamma):
    """At 12 torchvision is off by 2 %, MONAI and kornia by 3 %; at 20 they return 0."""
    smallest = torch.finfo(torch.float32).tiny
    for sign in (1.0, -1.0):
        x = torch.tensor(sign * gap)
        truth = float(EXACT["sigmoid_focal_loss"](sign * gap, 1.0, gamma))
        loss = pl.sigmoid_focal_loss(x, torch.tensor(1.0), gamma=gamma).item()
        assert loss == pytest.approx(truth, rel=2e-6, abs=smallest)
        row = torch.tensor([[sign * gap, 0.0, -1.0]])
        truth = float(EXACT["softmax_focal_loss"](row[0].tolist(), 0, gamma))
        loss = pl.softmax_focal_loss(row, torch.tensor([0]), gamma=gamma).item()
        assert loss == pytest.approx(truth, rel=2e-6, abs=smallest)


@pytest.mark.parametrize("gamma", [0.25, 0.5, 0.999, torch.tensor(0.5)], ids=str)
@pytest.mark.parametrize("x", [20.0, 88.0, 104.0, 1e4, 1e30])
def test_focal_gradients_below_a_gamma_of_1_are_finite(x, gamma):
    """torchvision, SMP, MONAI: NaN for saturated logits that are right."""
    for logits, target in (
        (torch.tensor(x), torch.tensor(1.0)),
        (torch.tensor(-x), torch.tensor(0.0)),
        (torch.tensor(x), torch.tensor(0.0)),
    ):
        loss = partial(pl.sigmoid_focal_loss, gamma=gamma)
        assert loss(logits, target).isfinite()
        assert gradient(loss, logits, target).isfinite()
    row = torch.tensor([[x, 0.0]])
    for label in (0, 1):
        assert gradient(partial(pl.softmax_focal_loss, gamma=gamma), row, torch.tensor([label])
                        ).isfinite().all()  # fmt: skip


# Half precision

LARGE = pytest.mark.parametrize("shape", [(512, 512), (96, 96, 96)], ids=str)


@LARGE
@pytest.mark.parametrize("name", ABSENT)
def test_half_precision_of_large_masks(name, shape):
    """Half of it foreground: 11 of 15 peer losses are NaN in float16."""
    mask = (eighths((1, 1, *shape), seed=1) > 0).float()
    assert_half(ABSENT[name], eighths((1, 1, *shape)), mask)


@LARGE
@pytest.mark.parametrize("name", [key for key in LOSSES if "bce" not in key])
def test_half_precision_of_many_classes(name, shape):
    """MONAI DiceCE of 105 classes at 96³ in bfloat16: 6.02 for 6.14."""
    x = eighths((1, 3, *shape))
    assert_half(LOSSES[name], x, eighths((1, *shape), seed=1).long().abs() % 3)


def test_sums_over_axes_that_are_apart_are_accurate():
    """torch.sum((0, 2)) of short rows is off by 3e-6 from 1e5 elements on."""
    x = torch.rand(33_000, 3, 6, generator=torch.Generator().manual_seed(0))
    sums = pl.overlap_statistics(x, torch.ones_like(x), class_dim=1, dim=(0, 2))
    torch.testing.assert_close(sums["tp"].double(), x.double().sum((0, 2)), rtol=2e-7, atol=0)


# Defects of peers


@pytest.mark.parametrize("gamma", [0.5, 0.75, torch.tensor(0.75)], ids=str)
def test_smp_focal_tversky_of_a_perfect_prediction_has_nan_gradients(gamma):
    """SMP TverskyLoss(gamma=0.75), and `(1 - tversky) ** 0.75` in public code."""
    mask = torch.tensor([1.0, 1.0, 0.0, 0.0])
    loss = partial(pl.focal_tversky_loss, gamma=gamma)
    for smooth in (0.0, 1.0):
        assert loss(mask, mask, smooth=smooth) == 0
        assert (gradient(loss, mask, mask, smooth=smooth) == 0).all()
        for margin in (20.0, 100.0, 1e4):
            x = margin * (2 * mask - 1)
            found = gradient(loss, x, mask, smooth=smooth, activation="sigmoid")
            assert found.isfinite().all()


def test_smp_focal_tversky_takes_the_power_of_the_mean_over_classes():
    loss = partial(pl.focal_tversky_loss, alpha=0.3, beta=0.7, smooth=0.0, **SOFTMAX, **BATCH)
    each_class = pl.tversky_loss(
        LOGITS, LABELS, alpha=0.3, beta=0.7, smooth=0.0, reduction="none", **SOFTMAX, **BATCH
    )
    torch.testing.assert_close(loss(LOGITS, LABELS), (each_class**0.75).mean())


def test_monai_focal_multiplies_by_the_classes_when_an_ignore_index_is_set():
    """0.4337 without it, 1.3012 with ignore_index=255 and nothing ignored."""
    where = torch.ones_like(LABELS, dtype=torch.bool)
    plain = pl.softmax_focal_loss(LOGITS, LABELS)
    torch.testing.assert_close(pl.softmax_focal_loss(LOGITS, LABELS, where=where), plain)


def test_monai_focal_sum_averages_space():
    """3.0686 for a sum of 61.3721."""
    for loss, target in ((pl.sigmoid_focal_loss, ONE_HOT), (pl.softmax_focal_loss, LABELS)):
        total = loss(LOGITS, target, reduction="none").sum()
        torch.testing.assert_close(loss(LOGITS, target, reduction="sum"), total)


def test_kornia_focal_averages_over_ignored_pixels():
    where = IGNORED != 255
    masked = pl.softmax_focal_loss(LOGITS, IGNORED, where=where)
    torch.testing.assert_close(masked, pl.softmax_focal_loss(LOGITS[..., :4], LABELS[..., :4]))


def test_focal_without_focus_is_cross_entropy():
    where = IGNORED != 255
    torch.testing.assert_close(
        pl.softmax_focal_loss(LOGITS, IGNORED, gamma=0, where=where),
        torch.nn.functional.cross_entropy(LOGITS, IGNORED, ignore_index=255),
    )


def test_smp_multiclass_focal_is_one_against_the_rest():
    """SMP FocalLoss('multiclass') is no softmax; ours say which they are."""
    assert pl.sigmoid_focal_loss(LOGITS, ONE_HOT).item() == pytest.approx(0.511433890212, rel=1e-7)
    assert pl.softmax_focal_loss(LOGITS, LABELS).item() == pytest.approx(1.301206692138, rel=1e-7)


@pytest.mark.parametrize("label", [3, -1, 255])
@each
def test_labels_outside_the_classes(loss, label):
    """SMP focal and Lovász accept label 7 of 3 classes, mmsegmentation counts 255 as the last."""
    bad = torch.where(torch.arange(5) == 2, label, LABELS)
    with pytest.raises(ValueError, match=f"`target` must hold class labels .* got {label}"):
        loss(LOGITS, bad)
    torch.compiler.reset()
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    assert compiled(LOGITS, bad).isnan()


def test_monai_unified_focal_takes_probabilities_and_says_logits():
    """Logits in: 1.562 there. Ours takes logits, and only their differences matter."""
    plain = pl.unified_focal_loss(TWO, TWO_LABELS)
    torch.testing.assert_close(pl.unified_focal_loss(TWO.log_softmax(1), TWO_LABELS), plain)
    torch.testing.assert_close(pl.unified_focal_loss(TWO + 7, TWO_LABELS), plain)


@pytest.mark.parametrize("loss", [pl.dice_loss, pl.mcc_loss, pl.generalized_dice_loss],
                         ids=lambda f: f.__name__)  # fmt: skip
def test_softmax_of_one_channel_is_refused(loss):
    """MONAI warns and uses the raw logits: a Dice loss of -0.2366."""
    with pytest.raises(ValueError, match="`class_dim` must name an axis with at least two classes"):
        loss(LOGITS[:, :1], ONE_HOT[:, :1], **SOFTMAX)


def test_optax_generalized_dice_is_a_mean_of_dice():
    """So was MONAI's, twice. Sudre's is one ratio: a class that is twice as wrong is not lost."""
    weights = 1 / ONE_HOT.sum((2, 3))[1:] ** 2
    losses = dice(LOGITS[1:], LABELS[1:], smooth=0.0, reduction="none")
    mean = (weights * losses).sum() / weights.sum()
    sums = pl.overlap_statistics(LOGITS[1:], LABELS[1:], **SOFTMAX)
    wrong, right = sums["fp"] + sums["fn"], 2 * sums["tp"]
    ratio = (weights * wrong).sum() / (weights * (wrong + right)).sum()
    ours = pl.generalized_dice_loss(LOGITS[1:], LABELS[1:], smooth=0.0, **SOFTMAX)
    torch.testing.assert_close(ours, ratio)
    assert abs(ours - mean) > 1e-3


def test_monai_dice_rewrites_its_own_class_weights():
    weights = torch.tensor([[2.0]], dtype=torch.float64)
    before = weights.clone()
    dice(LOGITS, LABELS, weights=weights)
    assert torch.equal(weights, before)


@each
def test_per_sample_gradients_of_labels(loss):
    """vmap(grad): 11 of 37 peer losses; F.one_hot alone breaks it."""
    found = vmap(grad(loss))(LOGITS.unsqueeze(1), LABELS.unsqueeze(1))
    loop = [grad(loss)(x[None], y[None]) for x, y in zip(LOGITS, LABELS, strict=True)]
    torch.testing.assert_close(found, torch.stack(loop))


def test_a_small_object_that_is_missed_with_confidence():
    """Dice alone has a gradient of 1e-7 there; what compound losses are for."""
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :2, :2] = 1
    x = torch.full_like(mask, -12.0)

    def largest(loss):
        return gradient(partial(loss, class_dim=1), x, mask).abs().max().item()

    assert largest(partial(pl.dice_loss, activation="sigmoid")) < 1e-5
    for loss in (pl.dice_bce_loss, pl.dice_focal_loss):
        assert largest(loss) > 1e-4


def test_losses_fall_as_the_prediction_improves():
    """Every loss orders a path of logits from wrong to right."""
    target = torch.randint(3, (1, 8, 8), generator=torch.Generator().manual_seed(0))
    right = torch.nn.functional.one_hot(target, 3).movedim(-1, 1).float()
    for name, loss in LOSSES.items():
        values = [
            loss(margin * right, target).item() for margin in (-4.0, -1.0, 0.0, 1.0, 4.0, 9.0)
        ]
        assert all(a > b for a, b in pairwise(values)), name

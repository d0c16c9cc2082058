"""Losses by rank, by distance and by skeleton: peers' values, exactness, and what they cost."""

from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from hostile import assert_half, eighths
from scipy.ndimage import distance_transform_edt
from torch.func import grad, jacfwd, jacrev, vmap

import purelosses as pl
from purelosses import nn
from purelosses.laws import LAWS, judge, subjects
from purelosses.registry import LOSSES
from purelosses.segmentation import ranking, topology


def slope(loss, x, *data, **options):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(x, *data, **options), x)[0]


# What peers say of the same tensors: MONAI 1.6.1, segmentation-models-pytorch (SMP) 0.6.0 and
# kornia 0.9.0, computed once with torch 2.13 in float64 where the peer takes it.

count = torch.arange(2 * 3 * 8 * 9, dtype=torch.float64)
X = 2 * torch.sin(1.7 * count + 0.3 * (count % 7) ** 2).reshape(2, 3, 8, 9)
LABELS = (torch.arange(144) * 7 // 11 % 3).reshape(2, 8, 9)
X1, MASK = X[:, :1], (torch.arange(144) * 5 // 13 % 3 == 0).reshape(2, 1, 8, 9)
VOLUME, VOLUME_MASK = (
    X.reshape(1, 1, 6, 8, 9),
    (torch.arange(432) * 5 // 13 % 3 == 0).reshape(1, 1, 6, 8, 9),
)
IGNORED = torch.arange(144).reshape(2, 8, 9) % 5 == 0
ONE_HOT = LABELS.unsqueeze(1) == torch.arange(3).reshape(1, 3, 1, 1)

softmax = {"activation": "softmax", "class_dim": 1}
sigmoid = {"activation": "sigmoid", "class_dim": 1}
image, batch, volume = {"dim": (2, 3)}, {"dim": (0, 2, 3)}, {"dim": (2, 3, 4)}


def maps(mask, **options):
    return pl.signed_distance_map(mask.double(), **options)


PEERS = {
    "SMP LovaszLoss('multiclass')": (
        lambda: pl.lovasz_softmax_loss(X, LABELS, **batch), 0.7076076865196228, 1e-6,
    ),
    "SMP LovaszLoss('multiclass', per_image=True)": (
        lambda: pl.lovasz_softmax_loss(X, LABELS), 0.7076621651649475, 1e-6,
    ),
    "SMP LovaszLoss('multiclass', ignore_index=255)": (
        lambda: pl.lovasz_softmax_loss(
            X, torch.where(IGNORED, 255, LABELS), where=torch.logical_not(IGNORED), **batch
        ), 0.711921751499176, 1e-6,
    ),
    "kornia lovasz_softmax_loss": (
        lambda: pl.lovasz_softmax_loss(X, LABELS, classes="all"), 0.7076621251178065, 1e-14,
    ),
    "SMP LovaszLoss('binary')": (
        lambda: pl.lovasz_hinge_loss(X1, MASK), 1.801983118057251, 1e-6,
    ),
    "SMP LovaszLoss('binary', per_image=True)": (
        lambda: pl.lovasz_hinge_loss(X1, MASK, dim=(1, 2, 3)), 1.8017454147338867, 1e-6,
    ),
    "SMP LovaszLoss('binary', ignore_index=255)": (
        lambda: pl.lovasz_hinge_loss(X1, MASK, where=torch.logical_not(IGNORED.unsqueeze(1))),
        1.7836365699768066, 1e-6,
    ),
    "kornia lovasz_hinge_loss": (
        lambda: pl.lovasz_hinge_loss(X1, MASK, dim=(1, 2, 3)), 1.8017453474556115, 1e-14,
    ),
    "MONAI BoundaryLoss(sigmoid=True)": (
        lambda: pl.boundary_loss(X1, maps(MASK, **image), **sigmoid), 0.43244266510009766, 1e-6,
    ),
    "MONAI BoundaryLoss(softmax=True)": (
        lambda: pl.boundary_loss(X, maps(ONE_HOT, **image), **softmax), 0.2823755741119385, 1e-6,
    ),
    "MONAI BoundaryLoss(softmax=True, include_background=False, reduction='none')": (
        lambda: pl.boundary_loss(
            X, maps(ONE_HOT, **image), classes=[1, 2], reduction="none", **softmax
        ),
        [[0.26709386706352234, 0.2875134348869324], [0.25386327505111694, 0.2866623103618622]],
        1e-6,
    ),
    "MONAI BoundaryLoss(sigmoid=True) of a volume": (
        lambda: pl.boundary_loss(VOLUME, maps(VOLUME_MASK, **volume), **sigmoid),
        0.37269580364227295, 1e-6,
    ),
    "MONAI HausdorffDTLoss(sigmoid=True)": (
        lambda: pl.hausdorff_dt_loss(X1, MASK, **sigmoid), 0.8827892541885376, 1e-6,
    ),
    "MONAI HausdorffDTLoss(softmax=True), which leaves out the background": (
        lambda: pl.hausdorff_dt_loss(X, LABELS, classes=[1, 2], **softmax),
        0.7008696794509888, 1e-6,
    ),
    "MONAI HausdorffDTLoss(softmax=True, alpha=1.0, reduction='none')": (
        lambda: pl.hausdorff_dt_loss(
            X, LABELS, classes=[1, 2], alpha=1.0, reduction="none", **softmax
        ),
        [[0.5691158771514893, 0.6453185677528381], [0.5626273155212402, 0.6223836541175842]],
        1e-6,
    ),
    "MONAI LogHausdorffDTLoss(sigmoid=True)": (
        lambda: torch.log1p(pl.hausdorff_dt_loss(X1, MASK, **sigmoid)), 0.6327543258666992, 1e-6,
    ),
    "MONAI LogHausdorffDTLoss(softmax=True), the logarithm of the mean": (
        lambda: torch.log1p(pl.hausdorff_dt_loss(X, LABELS, classes=[1, 2], **softmax)),
        0.5311396898196825, 1e-6,
    ),
    "MONAI LogHausdorffDTLoss(sigmoid=True) of a volume": (
        lambda: torch.log1p(pl.hausdorff_dt_loss(VOLUME, VOLUME_MASK.double(), **sigmoid)),
        0.5421039639626207, 1e-6,
    ),
    "MONAI HausdorffDTLoss(sigmoid=True) of a volume": (
        lambda: pl.hausdorff_dt_loss(VOLUME, VOLUME_MASK.double(), **sigmoid),
        0.7196211814880371, 1e-6,
    ),
    "MONAI SoftclDiceLoss(sigmoid=True, smooth=1e-15)": (
        lambda: pl.cldice_loss(X1, MASK, **sigmoid), 0.5193482444611162, 1e-13,
    ),
    "MONAI SoftclDiceLoss(sigmoid=True), which adds 1e-4": (
        lambda: pl.cldice_loss(X1, MASK, **sigmoid), 0.5193968803378711, 1e-4,
    ),
    "MONAI SoftclDiceLoss(iter_=10, sigmoid=True, smooth=1e-15)": (
        lambda: pl.cldice_loss(X1, MASK, iters=10, **sigmoid), 0.5192824085388692, 1e-13,
    ),
    "MONAI SoftclDiceLoss(sigmoid=True, smooth=1e-15) of a volume": (
        lambda: pl.cldice_loss(VOLUME, VOLUME_MASK.double(), **sigmoid),
        0.5767646219789858, 1e-13,
    ),
    "MONAI SoftclDiceLoss(sigmoid=True, smooth=1e-15, reduction='none')": (
        lambda: pl.cldice_loss(X1, MASK, reduction="none", **sigmoid).squeeze(1),
        [0.5098854760484173, 0.528811012873815], 1e-13,
    ),
    "MONAI SoftDiceclDiceLoss(sigmoid=True, smooth=1e-15, alpha=0.3)": (
        lambda: pl.dice_cldice_loss(X1, MASK, dice_weight=0.7, cldice_weight=0.3, **sigmoid),
        0.5431340251584376, 1e-13,
    ),
    "MONAI SoftDiceclDiceLoss(sigmoid=True, smooth=1e-15, alpha=0.3) of a volume": (
        lambda: pl.dice_cldice_loss(
            VOLUME, VOLUME_MASK.double(), dice_weight=0.7, cldice_weight=0.3, **sigmoid
        ), 0.5810132673151571, 1e-13,
    ),
    "MONAI soft_skel(x, 3).sum()": (
        lambda: pl.soft_skeletonize(X1.sigmoid(), dim=(2, 3)).sum(), 42.75290151504356, 1e-13,
    ),
    # MONAI's kernel is in float32: a share of 1/9 is wrong in the eighth digit.
    "MONAI NACLLoss(3, 2)": (lambda: pl.nacl_loss(X, LABELS), 1.6431010388645273, 1e-7),
    "MONAI NACLLoss(3, 2, kernel_size=5, distance_type='l2', alpha=0.3)": (
        lambda: pl.nacl_loss(X, LABELS, kernel_size=5, penalty="l2", penalty_weight=0.3),
        2.134964422054914, 1e-7,
    ),
    "MONAI NACLLoss(3, 3)": (
        lambda: pl.nacl_loss(
            X.movedim(1, 0).reshape(1, 3, 4, 4, 9), LABELS.reshape(1, 4, 4, 9)
        ), 1.6422834396362305, 1e-6,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "value", "rtol"), PEERS.values(), ids=PEERS)
def test_the_value_of_a_peer(call, value, rtol):
    torch.testing.assert_close(
        call(), torch.tensor(value, dtype=torch.float64), rtol=rtol, atol=0.0
    )


# Distances


def to_the_nearest(goals, spacing):
    """Distance of every pixel to the nearest goal, in float64."""
    goals = goals.numpy()
    if not goals.any():
        return torch.full(goals.shape, torch.inf, dtype=torch.float64)
    return torch.from_numpy(np.asarray(distance_transform_edt(~goals, sampling=spacing)))


SHAPES = [(1,), (17,), (1, 6), (23, 31), (9, 1, 5), (12, 15, 10), (2, 5, 4, 3)]


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 0.98, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_distances_are_those_of_scipy(shape, density):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density
    for spacing in (None, 0.3, tuple(0.5 + axis for axis in range(len(shape)))):
        expected = to_the_nearest(torch.logical_not(mask), spacing)
        found = pl.distance_transform(mask.double(), spacing=spacing)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0.0)
        found = pl.distance_transform(mask, spacing=spacing)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0.0)


def test_distances_in_an_image_and_a_volume():
    """Where squared distances are integers, float32 is right to its last digit."""
    for shape in ((200, 300), (40, 50, 60)):
        grid = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij")).double()
        centre = torch.tensor(shape).reshape(-1, *[1] * len(shape)) / 2
        mask = (grid - centre).norm(dim=0) < 0.45 * min(shape)
        exact = to_the_nearest(torch.logical_not(mask), None)
        torch.testing.assert_close(
            pl.distance_transform(mask).double(), exact, rtol=2**-23, atol=0.0
        )


def test_distances_of_a_batch_are_those_of_its_images():
    mask = torch.rand(3, 2, 7, 9, generator=torch.Generator().manual_seed(0)) > 0.2
    loop = torch.stack([torch.stack([pl.distance_transform(m) for m in row]) for row in mask])
    torch.testing.assert_close(pl.distance_transform(mask, dim=(2, 3)), loop, rtol=0, atol=0)
    torch.testing.assert_close(pl.distance_transform(mask, dim=(-1, 2)), loop, rtol=0, atol=0)
    mapped = vmap(vmap(pl.distance_transform))(mask)
    torch.testing.assert_close(mapped, loop, rtol=0, atol=0)
    torch.compiler.reset()
    compiled = torch.compile(pl.distance_transform, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(mask, dim=(2, 3)), loop, rtol=0, atol=0)


@pytest.mark.parametrize("spacing", [None, (2.0, 0.5)])
def test_the_signed_map_is_made_of_both_distances(spacing):
    mask = torch.rand(11, 14, generator=torch.Generator().manual_seed(1)) > 0.4
    inside = to_the_nearest(torch.logical_not(mask), spacing)
    outside = to_the_nearest(mask, spacing)
    step = 1.0 if spacing is None else min(spacing)
    expected = torch.where(mask, step - inside, outside)
    found = pl.signed_distance_map(mask.double(), spacing=spacing)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert ((found <= 0) == mask).all()
    # Distances are lengths: in another unit all of them change alike.
    scaled = [10.0 * step for step in spacing or (1.0, 1.0)]
    torch.testing.assert_close(
        pl.signed_distance_map(mask.double(), spacing=scaled), 10 * found, rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("value", [False, True])
def test_a_mask_without_boundary_has_a_map_of_zeros(value):
    mask = torch.full((2, 4, 5), value)
    assert (pl.signed_distance_map(mask, dim=(1, 2)) == 0).all()
    probs = torch.rand(2, 4, 5)
    assert pl.boundary_loss(probs, pl.signed_distance_map(mask)) == 0
    assert pl.hausdorff_dt_loss(probs.round(), mask, dim=(1, 2)).isfinite()


def test_the_map_of_an_empty_sample_does_not_depend_on_the_others():
    mask = torch.zeros(2, 4, 5)
    mask[1, 1:3, 2:4] = 1
    found = pl.signed_distance_map(mask, dim=(1, 2))
    assert (found[0] == 0).all()
    torch.testing.assert_close(found[1], pl.signed_distance_map(mask[1]))


def test_signed_maps_of_a_batch_under_vmap():
    mask = torch.rand(3, 2, 7, 9, generator=torch.Generator().manual_seed(0)) > 0.2
    mask[0, 0] = False  # without a boundary, which its neighbours have
    signed = partial(pl.signed_distance_map, spacing=(2.0, 0.5))
    loop = torch.stack([torch.stack([signed(image) for image in row]) for row in mask])
    torch.testing.assert_close(vmap(vmap(signed))(mask), loop, rtol=0, atol=0)
    torch.testing.assert_close(signed(mask, dim=(2, 3)), loop, rtol=0, atol=0)


def test_no_distance_is_measured_to_what_does_not_count():
    mask = torch.tensor([0.0, 0.0, 1.0, 0.0, 1.0])
    probs = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0])
    where = torch.tensor([True, True, False, True, True])
    # Pixel 1 is wrong: the nearest true foreground that counts is 3 away, predicted background 1.
    # Pixel 4 too: true background is 1 away, the nearest predicted foreground 3.
    expected = ((9 + 1) + (1 + 9)) / 4
    assert pl.hausdorff_dt_loss(probs, mask, where=where) == expected


# Lovász


def hard(seed, shape=(6, 40)):
    generator = torch.Generator().manual_seed(seed)
    return [(torch.rand(shape, generator=generator) > 0.5).double() for _ in range(2)]


def test_lovasz_softmax_of_hard_predictions_is_the_jaccard_loss():
    labels = torch.arange(60).reshape(2, 30) * 7 // 5 % 4
    found = torch.arange(60).reshape(2, 30) * 5 // 3 % 4
    logits = 100.0 * (found.unsqueeze(1) == torch.arange(4).reshape(1, 4, 1)).double()
    losses = pl.lovasz_softmax_loss(logits, labels, classes="all", reduction="none")
    for sample, c in product(range(2), range(4)):
        a, b = found[sample] == c, labels[sample] == c
        jaccard = 1 - (a & b).sum().double() / (a | b).sum()
        torch.testing.assert_close(losses[sample, c], jaccard)


def test_lovasz_hinge_of_logits_of_one_is_twice_the_jaccard_loss():
    found, mask = hard(0)
    losses = pl.lovasz_hinge_loss(2 * found - 1, mask, dim=1, reduction="none")
    jaccard = 1 - (found * mask).sum(1) / (1 - (1 - found) * (1 - mask)).sum(1)
    torch.testing.assert_close(losses, 2 * jaccard)


def test_ties_of_errors_in_any_order_have_the_same_value():
    x = torch.tensor([1.0, -1.0, 2.0, -2.0] * 5)
    mask = torch.tensor([0, 1, 0, 1, 1] * 4)
    value = pl.lovasz_hinge_loss(x, mask)
    for seed in range(5):
        order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(pl.lovasz_hinge_loss(x[order], mask[order]), value)


def test_no_present_class_counts_for_nothing():
    x, labels = torch.randn(2, 3, 5), torch.zeros(2, 5, dtype=torch.long)
    where = torch.zeros(2, 5, dtype=torch.bool)
    assert pl.lovasz_softmax_loss(x, labels, where=where) == 0
    x = x.requires_grad_()
    masks = torch.zeros(2, 3, 5)  # of no class at all
    (slopes,) = torch.autograd.grad(pl.lovasz_softmax_loss(x, masks), x)
    assert (slopes == 0).all()


def picture(shape, classes=None):
    """Logits that know something of a mask of blobs, as those of a network in training."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(shape[0], 1, *shape[1:], generator=generator, dtype=torch.float64)
    smooth = torch.nn.functional.avg_pool2d(noise, 15, stride=1, padding=7)
    if classes is None:
        mask = (smooth > 0.05).double()
        return 2 * torch.randn(mask.shape, generator=generator).double() + 2 * mask - 1, mask
    edges = torch.linspace(-0.1, 0.1, classes - 1, dtype=torch.float64)
    labels = torch.bucketize(smooth.squeeze(1), edges)
    x = 2 * torch.randn(shape[0], classes, *shape[1:], generator=generator).double()
    return x + 2 * (labels.unsqueeze(1) == torch.arange(classes).reshape(1, -1, 1, 1)), labels


BY_RANK = {
    "hinge": (partial(pl.lovasz_hinge_loss), picture((2, 256, 256))),
    "hinge per image": (
        partial(pl.lovasz_hinge_loss, dim=(1, 2, 3)), picture((2, 256, 256)),
    ),
    "softmax per image": (partial(pl.lovasz_softmax_loss), picture((2, 192, 192), 5)),
    "softmax of the batch": (
        partial(pl.lovasz_softmax_loss, dim=(0, 2, 3)), picture((2, 192, 192), 5),
    ),
}  # fmt: skip


@pytest.mark.parametrize(("loss", "data"), BY_RANK.values(), ids=BY_RANK)
def test_the_histogram_is_close_to_the_sort(loss, data):
    x, y = data
    where = torch.ones(x.shape[0], *[1] * (y.ndim - 1), dtype=torch.bool)
    exact, exact_slope = loss(x, y), slope(loss, x, y)
    for given in (x, x.float()):
        for options in ({}, {"where": where}):
            fast = partial(loss, method="histogram", **options)
            assert abs(fast(given, y) - exact) <= 1e-5 * exact
            error = (slope(fast, given, y) - exact_slope).abs().max()
            assert error <= 1e-3 * exact_slope.abs().max()


def test_smp_lovasz_differences_of_sums_in_float32():
    """SMP takes the weights from differences of cumulative sums: a gradient error of 3.75e-2."""
    x, mask = picture((8, 512, 512))
    exact = slope(pl.lovasz_hinge_loss, x, mask)
    error = (slope(pl.lovasz_hinge_loss, x.float(), mask) - exact).abs().max()
    assert error <= 1e-6 * exact.abs().max()


def test_the_weights_of_the_histogram_add_up_to_the_jaccard_loss():
    """For errors that are all 1, whatever the bucket says of their order."""
    found, mask = hard(1, (1, 2**15 + 3))
    options = {"dim": 1, "reduction": "none", "method": "histogram"}
    jaccard = 1 - (found * mask).sum(1) / (1 - (1 - found) * (1 - mask)).sum(1)
    torch.testing.assert_close(pl.lovasz_hinge_loss(2 * found - 1, mask, **options), 2 * jaccard)


def test_the_histogram_of_a_region_without_foreground_is_its_largest_error():
    x = torch.linspace(-3, 3, 2**15)
    loss = partial(pl.lovasz_hinge_loss, method="histogram")
    torch.testing.assert_close(loss(x, torch.zeros(2**15)), torch.tensor(4.0), rtol=5e-4, atol=0)
    slopes = slope(loss, x, torch.zeros(2**15))
    torch.testing.assert_close(slopes.sum(), torch.tensor(1.0))
    assert (slopes[x < 2.99] == 0).all()


def coarse_histogram(monkeypatch):
    """The histogram also of the small regions that laws draw, with few buckets."""
    monkeypatch.setattr(ranking, "_SORT_BELOW", 0)
    monkeypatch.setattr(ranking, "_BLOCK", 5)


# Not judged with buckets: one error more or less in a bucket is another function, as between
# float32 and float64 or by finite differences of ties; N2 and N5 have thousands of tiny regions.
RANKED_LAWS = [law for law in LAWS.values() if law.kind == "eager" and law.code not in "N2 N5"]


@pytest.mark.parametrize("law", RANKED_LAWS, ids=lambda law: law.code)
@pytest.mark.parametrize("name", ["lovasz_hinge_loss", "lovasz_softmax_loss"])
def test_laws_of_the_histogram(name, law, monkeypatch):
    coarse_histogram(monkeypatch)
    _, subject = subjects(LOSSES[name], getattr(nn, LOSSES[name].module))
    assert subject.case.options["method"] == "histogram"
    evidence = judge(law, subject)
    assert evidence.status != "fail", evidence.detail


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_regions_of_a_histogram_are_apart(reduction, monkeypatch):
    x, labels = torch.randn(3, 4, 5, 6), torch.randint(4, (3, 5, 6))
    expected = pl.lovasz_softmax_loss(x, labels, classes=[0, 2], reduction=reduction)
    coarse_histogram(monkeypatch)
    options = {"classes": [0, 2], "reduction": reduction, "method": "histogram"}
    found = pl.lovasz_softmax_loss(x, labels, **options)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    torch.compiler.reset()
    compiled = torch.compile(pl.lovasz_softmax_loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, labels, **options), found)


# Skeletons


def test_the_skeleton_of_a_bar_is_its_axis():
    bar = torch.zeros(9, 20)
    bar[2:7, 3:17] = 1
    skeleton = pl.soft_skeletonize(bar, iters=2)
    assert (skeleton[4, 5:15] == 1).all()
    assert skeleton.sum() < 0.4 * bar.sum()
    assert ((skeleton > 0) <= (bar > 0)).all()


def test_skeletons_of_a_batch_are_those_of_its_images():
    probs = torch.rand(2, 3, 6, 7, 5)
    loop = torch.stack([torch.stack([pl.soft_skeletonize(p) for p in row]) for row in probs])
    torch.testing.assert_close(pl.soft_skeletonize(probs, dim=(2, 3, 4)), loop)
    torch.testing.assert_close(vmap(vmap(pl.soft_skeletonize))(probs), loop)


def test_a_gap_costs_more_than_a_thin_line():
    line = torch.zeros(9, 20)
    line[3:6, 2:18] = 1
    gap, thin = line.clone(), torch.zeros_like(line)
    gap[:, 9:11] = 0
    thin[4, 2:18] = 1
    assert pl.dice_loss(gap, line) < pl.dice_loss(thin, line)
    assert pl.cldice_loss(gap, line) > pl.cldice_loss(thin, line)


def recompute(monkeypatch):
    """The path that computes iterations again also for the small images that laws draw."""
    monkeypatch.setattr(topology, "_RECOMPUTE_FROM", 0)


@pytest.mark.parametrize(
    "law",
    [
        pytest.param(law, marks=() if law.kind == "eager" else pytest.mark.slow)
        for law in LAWS.values()
    ],
    ids=LAWS,
)
def test_laws_of_recomputed_iterations(law, monkeypatch):
    recompute(monkeypatch)
    for subject in subjects(LOSSES["cldice_loss"], nn.ClDiceLoss):
        evidence = judge(law, subject)
        assert evidence.status != "fail", evidence.detail


def test_recomputed_iterations_have_the_derivatives_of_plain_ones(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 1, 4, 5, 3, generator=generator, dtype=torch.float64)
    y = (torch.rand(x.shape, generator=generator) > 0.5).double()
    where = torch.rand(2, 4, 5, 3, generator=generator) > 0.2
    loss = partial(pl.cldice_loss, target=y, where=where, iters=2, **sigmoid)

    def derivatives():
        yield grad(loss)(x)
        yield slope(loss, x)
        one = partial(pl.cldice_loss, iters=2, activation="sigmoid", class_dim=0)
        yield vmap(grad(one))(x, y)
        for second in (jacrev(jacrev(loss)), jacfwd(jacrev(loss)), jacrev(jacfwd(loss))):
            yield second(x)
        yield torch.autograd.functional.hessian(loss, x, vectorize=True)
        direction = torch.ones_like(x)
        yield torch.func.jvp(grad(loss), (x,), (direction,))[1]

    plain = list(derivatives())
    assert plain[3].abs().max() > 0
    recompute(monkeypatch)
    for found, expected in zip(derivatives(), plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def allocated(call):
    """The most bytes in use at once, above those at the start, from the allocator's records."""
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        call()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    in_use = np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())])
    return int(in_use.max())


@pytest.mark.parametrize("how", ["backward", "func.grad"])
def test_memory_of_ten_iterations_on_a_volume(how):
    """MONAI SoftclDiceLoss: 349 volumes. At most a quarter of that."""
    x = torch.randn(1, 1, 41, 41, 41, generator=torch.Generator().manual_seed(0))
    y = (x > 0).float()
    assert x.numel() >= topology._RECOMPUTE_FROM
    loss = partial(pl.cldice_loss, target=y, iters=10, **sigmoid)
    calls = {"backward": lambda: slope(loss, x), "func.grad": lambda: grad(loss)(x)}
    assert allocated(calls[how]) <= 349 / 4 * x.numel() * 4


# Skeleton recall and NACL


def test_skeleton_recall_looks_at_the_skeleton_alone():
    skeleton = torch.zeros(5, 6)
    skeleton[2, 1:5] = 1
    probs = torch.rand(5, 6)
    value = pl.skeleton_recall_loss(probs, skeleton)
    elsewhere = torch.where(skeleton > 0, probs, 1 - probs)
    torch.testing.assert_close(pl.skeleton_recall_loss(elsewhere, skeleton), value)
    # The authors' loss: minus the recall.
    recall = ((probs * skeleton).sum() + 1) / (skeleton.sum() + 1)
    torch.testing.assert_close(value, 1 - recall)


def test_nacl_pulls_logits_to_the_shares_of_their_neighbourhood():
    labels = torch.tensor([[[0, 0, 0], [0, 0, 1], [0, 1, 1]]])
    logits = torch.zeros(1, 2, 3, 3)
    logits[0, :, 1, 1] = torch.tensor([6 / 9, 3 / 9])
    both = pl.nacl_loss(logits, labels, reduction="none")
    alone = pl.cross_entropy_loss(logits, labels, reduction="none")
    torch.testing.assert_close(both[0, 1, 1], alone[0, 1, 1])
    # A corner has four pixels of its box inside the image.
    torch.testing.assert_close(both[0, 0, 0] - alone[0, 0, 0], torch.tensor(0.1 * 4 / 9 / 2))


def test_channels_last_images():
    x, y = X.float(), LABELS
    last = x.movedim(1, -1)
    for loss in (pl.nacl_loss, pl.lovasz_softmax_loss):
        torch.testing.assert_close(loss(last, y, class_dim=-1, dim=(1, 2)), loss(x, y))
    for loss in (pl.cldice_loss, pl.hausdorff_dt_loss, pl.skeleton_recall_loss):
        options = {"activation": "softmax", "class_dim": -1, "dim": (1, 2)}
        torch.testing.assert_close(loss(last, y, **options), loss(x, y, **softmax))


ONE_HOT_LOSSES = {
    "lovasz_softmax_loss": pl.lovasz_softmax_loss,
    "nacl_loss": pl.nacl_loss,
    "hausdorff_dt_loss": partial(pl.hausdorff_dt_loss, **softmax),
    "cldice_loss": partial(pl.cldice_loss, **softmax),
    "dice_cldice_loss": partial(pl.dice_cldice_loss, **softmax),
    "skeleton_recall_loss": partial(pl.skeleton_recall_loss, **softmax),
}


@pytest.mark.parametrize("loss", ONE_HOT_LOSSES.values(), ids=ONE_HOT_LOSSES)
def test_one_hot_targets_are_labels_in_value_and_gradient(loss):
    torch.testing.assert_close(loss(X, LABELS), loss(X, ONE_HOT), rtol=1e-14, atol=0)
    slopes = slope(loss, X, LABELS), slope(loss, X, ONE_HOT)
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("name", ["hausdorff_dt_loss", "cldice_loss", "skeleton_recall_loss"])
def test_every_class_has_its_own_mask(name):
    """mmsegmentation's Hausdorff loss has one mask for all; many a clDice, channel 0 alone."""
    losses = ONE_HOT_LOSSES[name](X, LABELS, reduction="none")
    probs = X.softmax(1)
    for c in range(3):
        alone = getattr(pl, name)(probs[:, [c]], ONE_HOT[:, [c]], class_dim=1, reduction="none")
        torch.testing.assert_close(losses[:, [c]], alone, rtol=1e-12, atol=0)


# What peers get wrong, on the same input


def test_monai_hausdorff_truncates_distances_of_integer_masks():
    """MONAI HausdorffDTLoss of an int64 mask: 0.7690 for 0.8828, without a warning."""
    options = {"activation": "sigmoid", "dim": (1, 2, 3)}
    integers = pl.hausdorff_dt_loss(X1, MASK.long(), **options)
    assert integers == pl.hausdorff_dt_loss(X1, MASK.double(), **options)
    assert integers.item() == pytest.approx(0.8827892541885376, rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_monai_cldice_of_a_perfect_prediction(value):
    """MONAI SoftclDiceLoss: 5e-5."""
    mask = MASK.double() * value
    assert pl.cldice_loss(mask, mask) == 0
    assert pl.dice_cldice_loss(mask, mask) == 0


def test_monai_cldice_of_a_softmax_of_one_channel():
    """MONAI: 0.000 whatever is predicted."""
    for loss in (pl.cldice_loss, pl.dice_cldice_loss, pl.hausdorff_dt_loss):
        with pytest.raises(ValueError, match="an axis with at least two classes"):
            loss(X1, MASK, **softmax)


HALVES = {
    "lovasz_hinge_loss": pl.lovasz_hinge_loss,
    "lovasz_hinge_loss by histogram": partial(pl.lovasz_hinge_loss, method="histogram"),
    "hausdorff_dt_loss": partial(pl.hausdorff_dt_loss, **sigmoid),
    "boundary_loss": lambda x, y: pl.boundary_loss(x, 3 - 5 * y, **sigmoid),
    "cldice_loss": partial(pl.cldice_loss, iters=1, **sigmoid),
    "skeleton_recall_loss": partial(pl.skeleton_recall_loss, **sigmoid),
    "lovasz_softmax_loss": lambda x, y: pl.lovasz_softmax_loss(both(x), y[:, 0].long()),
    "nacl_loss": lambda x, y: pl.nacl_loss(both(x), y[:, 0].long()),
}


def both(x):
    """Logits of two classes, without ties of what is too high with what is too low."""
    return torch.cat([-x, x + 1 / 16], 1)


@pytest.mark.parametrize("shape", [(512, 512), (96, 96, 96)], ids=str)
@pytest.mark.parametrize("loss", HALVES.values(), ids=HALVES)
def test_peers_overflow_in_half_precision(loss, shape):
    """SMP Lovász and MONAI clDice of 512 x 512 logits in float16: NaN.

    kornia HausdorffERLoss in bfloat16: a gradient that is 36 % off.
    """
    x = eighths((1, 1, *shape))
    assert_half(loss, x, (x + eighths(x.shape, seed=1) > 0).float())


def test_smp_lovasz_of_float64():
    """SMP LovaszLoss: an error, float and double in one product."""
    assert pl.lovasz_hinge_loss(X1, MASK).dtype == torch.float64
    assert pl.lovasz_softmax_loss(X, LABELS).dtype == torch.float64


@pytest.mark.parametrize("label", [-1, 3, 7])
def test_smp_lovasz_accepts_a_label_that_is_no_class(label):
    """SMP LovaszLoss('multiclass'): a finite loss."""
    labels = LABELS.clone()
    labels[0, 0, 0] = label
    with pytest.raises(ValueError, match=f"lovasz_softmax_loss: `target` must .*, got {label}$"):
        pl.lovasz_softmax_loss(X, labels)
    torch.compiler.reset()
    compiled = torch.compile(pl.lovasz_softmax_loss, backend="eager", fullgraph=True)
    for method in ("sort", "histogram"):
        assert compiled(X, labels, method=method).isnan()


def test_kornia_lovasz_hinge_of_an_ignored_label_is_negative():
    """kornia lovasz_hinge_loss takes -100 for a label. Mask it; `checked` finds it."""
    mask = MASK.long().masked_fill(IGNORED.unsqueeze(1), -100)
    loss = pl.lovasz_hinge_loss(X1, mask, where=mask != -100)
    assert loss == pl.lovasz_hinge_loss(X1, MASK, where=torch.logical_not(IGNORED.unsqueeze(1)))
    with pytest.raises(ValueError, match="`target` must be between 0 and 1, got -100"):
        pl.checked(pl.lovasz_hinge_loss)(X1, mask)


@pytest.mark.parametrize("loss", [pl.hausdorff_dt_loss, pl.boundary_loss])
def test_monai_distances_fail_under_func_grad(loss):
    """MONAI BoundaryLoss and HausdorffDTLoss go through NumPy: no func.grad, no vmap."""
    y = MASK.double() if loss is pl.hausdorff_dt_loss else maps(MASK, **image)
    loop = torch.stack([grad(partial(loss, activation="sigmoid"))(*pair)
                        for pair in zip(X1, y, strict=True)])  # fmt: skip
    torch.testing.assert_close(vmap(grad(partial(loss, activation="sigmoid")))(X1, y), loop)


def test_an_empty_mask_has_a_live_gradient():
    """MONAI clDice, HausdorffDT and Boundary: zero. Distances need a boundary, ranks do not."""
    x = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)) + 2
    empty = torch.zeros(8, 8)
    assert slope(pl.lovasz_hinge_loss, x, empty).norm() == 1
    for loss in (pl.cldice_loss, pl.dice_cldice_loss):
        assert slope(partial(loss, activation="sigmoid"), x, empty).norm() > 1e-3


def test_a_confident_mistake_on_nan_that_does_not_count():
    """kornia and SMP multiply by the mask: NaN."""
    x = X.float()
    where = torch.ones(2, 8, 9, dtype=torch.bool)
    where[:, 2:4, 3:6] = False
    spoilt = torch.where(where.unsqueeze(1), x, torch.nan)
    labels = torch.where(where, LABELS, 255)
    for loss in (
        pl.lovasz_softmax_loss,
        pl.nacl_loss,
        partial(pl.cldice_loss, **softmax),
        partial(pl.hausdorff_dt_loss, **softmax),
    ):
        found = slope(loss, spoilt, labels, where=where)
        assert found.isfinite().all()
        torch.testing.assert_close(found, slope(loss, x, LABELS, where=where), rtol=0, atol=0)

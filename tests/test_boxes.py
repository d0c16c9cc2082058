"""Losses of boxes: peers' values, invariances, degenerate boxes, accuracy, pairs, state.

Values of peers were computed once, in float64 unless said, with torchvision 0.28.0 and MONAI 1.6.1
(their Python, on the CPU) and from the published formulas of mmyolo 0.6, mmdetection 3 and the
authors of Wise IoU and Alpha IoU. Their absolute 1e-7 in a divisor is why tolerances are 1e-7.
"""

import math
from functools import partial
from itertools import product

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from mpmath import mp
from oracles import EXACT, ORACLES
from torch.func import grad, jacrev, vmap

import purelosses as pl
import purelosses.nn as pnn

close = partial(torch.testing.assert_close, rtol=1e-12, atol=1e-12)
STATE = {"mean": torch.tensor(0.6, dtype=torch.float64)}
LOSSES = {
    "iou": pl.iou_loss,
    "iou log": partial(pl.iou_loss, kind="log"),
    "iou square": partial(pl.iou_loss, kind="square"),
    "giou": pl.giou_loss,
    "diou": pl.diou_loss,
    "ciou": pl.ciou_loss,
    "ciou threshold": partial(pl.ciou_loss, iou_threshold=0.5),
    "eiou": pl.eiou_loss,
    "siou": pl.siou_loss,
    "alpha iou": pl.alpha_iou_loss,
    "alpha giou": partial(pl.alpha_iou_loss, kind="giou", alpha=0.5),
    "alpha diou": partial(pl.alpha_iou_loss, kind="diou"),
    "alpha ciou": partial(pl.alpha_iou_loss, kind="ciou"),
    "focal eiou": pl.focal_eiou_loss,
    "mpdiou": partial(pl.mpdiou_loss, image_size=(48, 64)),
    "wiou 1": partial(pl.wiou_loss, STATE, version="v1"),
    "wiou 2": partial(pl.wiou_loss, STATE, version="v2"),
    "wiou 3": partial(pl.wiou_loss, STATE, version="v3"),
}
FLAT = ("ciou", "ciou threshold", "siou", "alpha ciou", "mpdiou")  # in 2D only
EACH = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
none = {"reduction": "none"}


def double(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def gradients(loss, *boxes, **options):
    boxes = [x.clone().requires_grad_() for x in boxes]
    return torch.autograd.grad(loss(*boxes, **options).sum(), boxes)


# What peers compute

BOXES = double([10, 20, 40, 60], [0, 0, 10, 10], [5, 5, 25, 15], [0, 0, 8, 8])
TARGET = double([15, 18, 45, 70], [20, 5, 32, 11], [0, 0, 30, 30], [2, 2, 6, 6])
OFF_CENTRE = torch.cat([TARGET[:3], double([2, 3, 6, 6])])  # no zero offset, where SIoU is NaN

PEERS = {
    "1 - torchvision.ops.box_iou": (
        pl.iou_loss, TARGET, [0.43181818181818177, 1.0, 0.7777777777777778, 0.75],
    ),
    "torchvision.ops.generalized_box_iou_loss": (
        pl.giou_loss, TARGET,
        [0.4647852148156866, 1.5113636362183627, 0.7777777778024692, 0.750000000390625],
    ),
    "torchvision.ops.distance_box_iou_loss": (
        pl.diou_loss, TARGET,
        [0.4422534070983541, 1.393013100402357, 0.7916666666905864, 0.750000000390625],
    ),
    "torchvision.ops.complete_box_iou_loss": (
        pl.ciou_loss, TARGET,
        [0.44233180687922224, 1.3947025611017525, 0.7938141241981395, 0.750000000390625],
    ),
    "monai.losses.BoxGIoULoss": (  # computes in float32
        pl.giou_loss, TARGET,
        [0.46478521823883057, 1.5113636255264282, 0.7777777910232544, 0.75],
    ),
    "mmyolo IoULoss(iou_mode='siou')": (
        pl.siou_loss, OFF_CENTRE,
        [0.44608597011280504, 1.3278486112405306, 0.836054801171554, 0.8516994548985526],
    ),
    "Wise-IoU, monotonous=None": (
        LOSSES["wiou 1"], OFF_CENTRE,
        [0.4363478949955813, 1.4814377966841943, 0.788655612571228, 0.8140884647926898],
    ),
    "Wise-IoU, monotonous=True": (
        LOSSES["wiou 2"], OFF_CENTRE,
        [0.3701755431177429, 1.9125279716666979, 0.8979239148127868, 0.9473438949357051],
    ),
    "Wise-IoU, monotonous=False": (
        LOSSES["wiou 3"], OFF_CENTRE,
        [0.4523806138237026, 1.936789329144661, 1.017147570761517, 1.0568282986374236],
    ),
    "1 - bbox_alpha_iou": (
        pl.alpha_iou_loss, OFF_CENTRE,
        [0.8165735339867187, 1.0, 0.9890260629538546, 0.9934082030235482],
    ),
    "1 - bbox_alpha_iou(GIoU=True)": (
        partial(pl.alpha_iou_loss, kind="giou"), OFF_CENTRE,
        [0.8166093633941348, 1.1337178937658638, 0.9890260629538546, 0.9934082030235482],
    ),
    "1 - bbox_alpha_iou(DIoU=True)": (
        partial(pl.alpha_iou_loss, kind="diou"), OFF_CENTRE,
        [0.8165746703193645, 1.0607045272503788, 0.989028742137668, 0.9934082104741288],
    ),
    "1 - bbox_alpha_iou(CIoU=True)": (
        LOSSES["alpha ciou"], OFF_CENTRE,
        [0.8165746703198463, 1.0607045320725783, 0.9890287520408441, 0.993408210474663],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("loss", "target", "expected"), PEERS.values(), ids=PEERS)
def test_value_of_a_peer(loss, target, expected):
    torch.testing.assert_close(loss(BOXES, target, **none), double(*expected), rtol=0, atol=1e-7)


TORCHVISION_GRADIENTS = {
    "giou": [
        [-0.018564714505, 0.015337645308, -0.022727272726, -0.015337645308],
        [0.013139204537, -0.016012396703, -0.028409090901, -0.028409090901],
        [0.01111111111, 0.02222222222, -0.01111111111, -0.02222222222],
        [-0.031249999902, -0.031249999902, 0.031249999902, 0.031249999902],
    ],
    "diou": [
        [-0.013999895125, 0.011572321805, -0.023999861171, -0.013608463317],
        [0.003626933123, 0.004931256077, -0.018340611352, -0.002620087336],
        [0.01111111111, 0.019444444442, -0.01111111111, -0.024999999997],
        [-0.031249999902, -0.031249999902, 0.031249999902, 0.031249999902],
    ],
    "ciou": [
        [-0.014020762991, 0.011587972705, -0.023978993305, -0.013624114217],
        [0.004152017128, 0.004406172071, -0.018865695358, -0.00209500333],
        [0.010844139386, 0.019978387891, -0.010844139386, -0.025533943446],
        [-0.031249999902, -0.031249999902, 0.031249999902, 0.031249999902],
    ],
}


@pytest.mark.parametrize("name", TORCHVISION_GRADIENTS)
def test_gradient_of_torchvision(name):
    found, _ = gradients(LOSSES[name], BOXES, TARGET, reduction="sum")
    expected = double(*TORCHVISION_GRADIENTS[name])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


def test_gradient_of_wise_iou_of_its_authors():
    expected = {
        "wiou 1": [-0.01360397236, 0.012278231012, -0.023520969973, -0.013166697075],
        "wiou 2": [-0.011540923915, 0.010416231832, -0.019954004441, -0.011169961622],
        "wiou 3": [-0.014103822746, 0.01272936972, -0.024385200333, -0.013650480667],
    }
    for name, row in expected.items():
        found, _ = gradients(LOSSES[name], BOXES[:1], TARGET[:1])
        torch.testing.assert_close(found, double(row), rtol=0, atol=1e-11)


def test_giou_of_volumes_in_monai():
    boxes = double([0, 0, 0, 4, 6, 8], [1, 1, 1, 3, 3, 3], [0, 0, 0, 2, 2, 2])
    target = double([1, 2, 3, 5, 5, 9], [4, 0, 2, 6, 2, 3], [0, 0, 0, 2, 2, 2])
    expected = double(0.9834094047546387, 1.600000023841858, 0.0)
    found = pl.giou_loss(boxes, target, **none)
    # MONAI computes in float32.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-7)


def test_mmdetection_quality_varifocal_and_distribution_focal_loss():
    logits = double([2.0, -1.0, 0.5], [-3.0, 0.0, 1.0])
    quality = double([0.6, 0.0, 0.0], [0.0, 0.0, 0.0])
    close(
        pl.quality_focal_loss(logits, quality, **none),
        double([0.07308549196062718, 0.022658057508467326, 0.3774116008594098],
               [0.0001092833244969975, 0.17328679513998632, 0.701868303411385]),
    )  # fmt: skip
    close(
        pl.varifocal_loss(logits, quality, **none),
        double([0.5561568066257835, 0.016993543131350493, 0.28305870064455735],
               [8.196249337274813e-05, 0.12996509635498973, 0.5264012275585387]),
    )  # fmt: skip
    logits = double([0.5, 2.0, -1.0, 0.0, 1.0], [0.0, 0.0, 3.0, 1.0, -2.0])
    found = pl.distribution_focal_loss(logits, double(1.25, 2.9), **none)
    close(found, double(1.324437939627796, 2.016439019663896))


# What peers get wrong

TURNED = double([20, 20, 10, 10])
UPRIGHT = double([10, 10, 20, 20])


def test_torchvision_giou_of_an_inverted_box_is_perfect():
    """generalized_box_iou_loss: 1e-9, since (-10)(-10) is an area of 100. Ours is far from 0."""
    assert pl.giou_loss(TURNED, UPRIGHT) == 1.75  # three quarters of the box with sides of 20


@pytest.mark.parametrize("name", ["giou", "ciou", "eiou", "siou", "mpdiou"])
def test_torchvision_diou_and_ciou_of_an_inverted_box_have_no_gradient(name):
    """distance_ and complete_box_iou_loss: 1, gradient 0. A step along ours makes it less inverted.

    For IoU and DIoU the formula has no gradient: without area, the centre is all that counts.
    """
    boxes = double([18, 17, 12, 13])
    step = -1e-4 * gradients(LOSSES[name], boxes, UPRIGHT)[0]
    low, high = step[0].chunk(2)
    turned = high - low
    assert turned.max() > 0
    assert name == "ciou" or turned.min() > 0  # that one turns the box round a corner


def test_an_inverted_box_is_turned_back_by_descent():
    boxes = torch.tensor([[17.0, 18.0, 12.0, 11.0]], dtype=torch.float64)
    for _ in range(2000):
        boxes = boxes - 2.0 * grad(pl.giou_loss)(boxes, UPRIGHT)
    assert pl.iou_loss(boxes, UPRIGHT) < 0.1


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1e-3, 1.0, 1e6, 1e15])
@EACH
def test_torchvision_and_monai_of_small_boxes(loss, scale):
    """Two equal boxes with sides of 1e-3: GIoU 0.0909 (MONAI 0.1065); 0.3826 for a pair of 0.3302.

    MPDIoU depends on the size of the image, which shrinks along.
    """
    boxes, target = double([0.0, 0.0, 2.0, 2.0]), double([0.2, 0.2, 2.4, 2.0])
    changed = {}
    if "image_size" in loss.keywords if isinstance(loss, partial) else False:
        changed = {"image_size": (48 * scale, 64 * scale)}
    expected = loss(boxes, target)
    torch.testing.assert_close(loss(scale * boxes, scale * target, **changed), expected)
    assert loss(scale * boxes, scale * boxes, **changed) == 0


def test_torchvision_ciou_of_a_box_without_height():
    """complete_box_iou_loss: a NaN gradient, and for a point a NaN loss (atan of w / h)."""
    target = double([0.0, 0.0, 4.0, 2.0])
    flat, point = double([1.0, 1.0, 3.0, 1.0]), double([1.0, 1.0, 1.0, 1.0])
    angle = math.pi / 2 - math.atan(2)
    v = 4 / math.pi**2 * angle**2
    close(pl.ciou_loss(flat, target), torch.tensor(1 + v * v / (1 + v), dtype=torch.float64))
    assert pl.ciou_loss(point, target) == pl.diou_loss(point, target)
    for boxes in (flat, point):
        assert all(x.isfinite().all() for x in gradients(pl.ciou_loss, boxes, target))


def test_torchvision_ciou_in_forward_mode():
    """`no_grad` does not stop forward mode: 0.04765 where reverse mode says 0.04109."""
    tangent = torch.linspace(-1, 1, 16, dtype=torch.float64).reshape(4, 4)
    forward = torch.func.jvp(lambda x: pl.ciou_loss(x, TARGET), (BOXES,), (tangent,))[1]
    close(forward, (grad(pl.ciou_loss)(BOXES, TARGET) * tangent).sum())


def test_ciou_of_the_authors_and_of_torchvision_differ_by_a_threshold():
    boxes, target = double([0, 0, 8, 2], [0, 0, 8, 6]), double([0, 0, 4, 8], [0, 0, 8, 8])
    always = pl.ciou_loss(boxes, target, **none)
    late = pl.ciou_loss(boxes, target, iou_threshold=0.5, **none)
    assert (pl.iou_loss(boxes, target, **none) > 0.5).tolist() == [True, False]
    assert late[0] == pl.diou_loss(boxes, target, **none)[0] < always[0]
    assert late[1] == always[1]


@pytest.mark.parametrize(
    "boxes",
    [
        pytest.param([2.0, 2.0, 6.0, 6.0], id="identical"),
        pytest.param([1.0, 1.0, 7.0, 7.0], id="concentric"),
        pytest.param([3.0, 2.0, 7.0, 6.0], id="centres on a level"),
        pytest.param([2.0, 3.0, 6.0, 7.0], id="centres above each other"),
        pytest.param([3.0, 3.0, 7.0, 7.0], id="centres on a diagonal"),
    ],
)
def test_mmyolo_siou_where_the_published_form_has_no_gradient(boxes):
    """arcsin and sqrt: NaN at concentric and identical boxes and at centres on an axis."""
    boxes, target = double(boxes), double([2.0, 2.0, 6.0, 6.0])
    assert all(x.isfinite().all() for x in gradients(pl.siou_loss, boxes, target))
    close(
        pl.siou_loss(boxes, target),
        torch.tensor(ORACLES["siou_loss"](boxes.numpy(), target.numpy())),
    )


@EACH
def test_torchvision_broadcasts_boxes(loss):
    """(4, 4) against (1, 4) gives a number in all its box losses."""
    with pytest.raises(ValueError, match="`target` must have the shape of `boxes`"):
        loss(BOXES, TARGET[:1])


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 1e-3), (torch.bfloat16, 4e-3)])
@EACH
def test_half_precision_of_boxes_in_pixels(loss, dtype, limit):
    """An area of 640² does not fit into float16."""
    boxes, target = (x.to(dtype) for x in (10 * BOXES, 10 * OFF_CENTRE))
    changed = {"image_size": (480, 640)} if loss is LOSSES["mpdiou"] else {}
    value = loss(boxes, target, **changed)
    assert value.dtype == torch.float32
    expected = loss(boxes.double(), target.double(), **changed)
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=0)
    scaled = partial(lambda *boxes, **changed: 2**10 * loss(*boxes, **changed), **changed)
    found = gradients(scaled, boxes, target)
    exact = gradients(scaled, boxes.double(), target.double())
    for ours, truth in zip(found, exact, strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - truth).norm() <= limit * truth.norm()


# Degenerate boxes

DEGENERATE = {
    "a box": (0.0, 0.0, 2.0, 1.0),
    "a box inside": (0.5, 0.25, 1.0, 0.75),
    "a box that touches": (2.0, 0.0, 3.0, 1.0),
    "a box apart": (5.0, 5.0, 6.0, 7.0),
    "a point": (1.0, 0.5, 1.0, 0.5),
    "a corner": (0.0, 0.0, 0.0, 0.0),
    "a level line": (0.0, 0.5, 2.0, 0.5),
    "an upright line": (1.0, 0.0, 1.0, 3.0),
    "inverted": (2.0, 1.0, 0.0, 0.0),
    "inverted across": (2.0, 0.0, 0.0, 1.0),
    "inverted along": (0.0, 1.0, 2.0, 0.0),
    "inverted apart": (6.0, 7.0, 5.0, 5.0),
}
PAIRS = torch.tensor(list(product(DEGENERATE.values(), repeat=2)))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
@pytest.mark.parametrize("fmt", ["xyxy", "xywh", "cxcywh"])
@EACH
def test_every_pair_of_degenerate_boxes_is_finite(loss, fmt, dtype):
    """As corners, and the same numbers as sizes, which are then negative here and there."""
    boxes, target = PAIRS.to(dtype).unbind(1)
    losses = loss(boxes, target, fmt=fmt, **none)
    assert losses.isfinite().all()
    assert (losses >= 0).all()
    for found in gradients(loss, boxes, target, fmt=fmt, reduction="sum"):
        assert found.isfinite().all()


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in FLAT])
def test_every_pair_of_degenerate_volumes_is_finite(name):
    deep = [0, 1, 1, 2, 3, 3]
    boxes, target = PAIRS.double()[..., deep].unbind(1)
    losses = LOSSES[name](boxes, target, **none)
    assert losses.isfinite().all()
    for found in gradients(LOSSES[name], boxes, target, reduction="sum"):
        assert found.isfinite().all()


DOCUMENTED = {  # of the table in docs/losses/iou_loss.md: IoU, GIoU, DIoU
    ("a point", "a point"): (1.0, 1.0, 1.0),
    ("a point", "a box"): (1.0, 1.0, 1.0),
    ("a level line", "a level line"): (1.0, 1.0, 1.0),
    ("a box that touches", "a box"): (1.0, 1.0, 1 + 2.25 / 10),
    ("a box apart", "a box"): (1.0, 1 + 38 / 42, 1 + (4.5**2 + 5.5**2) / (36 + 49)),
    ("inverted", "a box"): (1.0, 1 + 6 / 8, 1.0),
    ("a box", "a box"): (0.0, 0.0, 0.0),
    ("inverted", "inverted"): (1.0, 2.0, 1.0),
}


@pytest.mark.parametrize(
    ("kinds", "expected"), DOCUMENTED.items(), ids=map(" for ".join, DOCUMENTED)
)
def test_degenerate_boxes_cost_what_is_documented(kinds, expected):
    boxes, target = (double(DEGENERATE[kind]) for kind in kinds)
    for loss, value in zip((pl.iou_loss, pl.giou_loss, pl.diou_loss), expected, strict=True):
        close(loss(boxes, target), torch.tensor(value, dtype=torch.float64))


def test_log_iou_of_boxes_that_do_not_overlap():
    """-log 0 would be infinite; mmdetection's floor of 1e-6 is ours."""
    boxes, target = double(DEGENERATE["a box"]), double(DEGENERATE["a box apart"])
    loss = LOSSES["iou log"]
    close(loss(boxes, target), torch.tensor(-math.log(1e-6), dtype=torch.float64))
    assert all((found == 0).all() for found in gradients(loss, boxes, target))


# Properties

drawn = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@st.composite
def boxes_of_any_shape(draw, axes=(2, 3)):
    """Boxes and targets with sides from 0 on, among small integers and halves (exact in binary)."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    n = draw(st.sampled_from(axes))
    sides = draw(st.sampled_from((0, 1)))

    def draw_boxes():
        low = rng.integers(-8, 8, (*shape, n))
        return torch.from_numpy(np.concatenate([low, low + rng.integers(sides, 9, low.shape)], -1))

    return draw_boxes().double() / 2, draw_boxes().double() / 2


def flat(boxes):
    return boxes.shape[-1] == 4


def formatted(corners, fmt):
    low, high = corners.chunk(2, -1)
    if fmt == "xyxy":
        return corners
    return torch.cat([low if fmt == "xywh" else (low + high) / 2, high - low], -1)


@drawn
@given(boxes_of_any_shape(), st.data())
def test_oracles_on_any_shape_format_and_option(problem, data):
    boxes, target = problem
    units = boxes.shape[:-1]
    rng = np.random.default_rng(0)
    fmt = data.draw(st.sampled_from(("xyxy", "xywh", "cxcywh")))
    masks = {"reduction": data.draw(st.sampled_from(("mean", "weighted_mean", "sum", "none")))}
    if data.draw(st.booleans()):
        masks["where"] = torch.from_numpy(np.asarray(rng.random(units) < 0.6))
    if data.draw(st.booleans()):
        masks["weights"] = torch.from_numpy(np.asarray(rng.random(units)))
    number = data.draw(st.floats(0.2, 5.0))
    calls = [
        ("iou_loss", {"kind": data.draw(st.sampled_from(("linear", "log", "square")))}),
        ("giou_loss", {}),
        ("diou_loss", {}),
        ("eiou_loss", {}),
        ("focal_eiou_loss", {"gamma": number}),
        ("alpha_iou_loss", {"kind": data.draw(st.sampled_from(("iou", "giou", "diou"))),
                            "alpha": number}),
    ]  # fmt: skip
    if flat(boxes):
        calls += [
            ("ciou_loss", {"iou_threshold": data.draw(st.sampled_from((0.0, 0.3, 1.0)))}),
            ("siou_loss", {"theta": 1 + number}),
            ("mpdiou_loss", {"image_size": (number, 7)}),
            ("alpha_iou_loss", {"kind": "ciou", "alpha": number}),
        ]
    arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in masks.items()}
    b, t = formatted(boxes, fmt), formatted(target, fmt)
    for name, options in calls:
        found = getattr(pl, name)(b, t, fmt=fmt, **options, **masks)
        expected = ORACLES[name](b.numpy(), t.numpy(), fmt=fmt, **options, **arrays)
        assert found.shape == np.shape(expected)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-12, err_msg=name)


@drawn
@given(boxes_of_any_shape(), st.integers(-6, 6))
def test_scale_translation_and_order_do_not_matter(problem, power):
    """Powers of two and halves are exact, so that the results are too."""
    boxes, target = problem
    scale, shift = 2.0**power, 16.0
    for name, loss in LOSSES.items():
        if name in FLAT and not flat(boxes):
            continue
        expected = loss(boxes, target, **none)
        moved = loss(boxes + shift, target + shift, **none)
        assert torch.equal(moved, expected), name
        changed = {"image_size": (48 * scale, 64 * scale)} if name == "mpdiou" else {}
        assert torch.equal(loss(scale * boxes, scale * target, **changed, **none), expected), name
        close(loss(target, boxes, **none), expected)  # all of them are symmetric
        if boxes.ndim > 1:
            turned = loss(boxes.flip(0), target.flip(0), **none)
            assert torch.equal(turned.flip(0), expected), name


@drawn
@given(boxes_of_any_shape())
def test_axes_can_be_exchanged_and_mirrored(problem):
    boxes, target = problem
    if not flat(boxes):
        return
    for name, loss in LOSSES.items():
        expected = loss(boxes, target, **none)
        exchanged = (x[..., [1, 0, 3, 2]] for x in (boxes, target))
        close(loss(*exchanged, **none), expected, msg=name)
        mirrored = (-x[..., [2, 3, 0, 1]] for x in (boxes, target))
        close(loss(*mirrored, **none), expected, msg=name)


BOUNDS = {"iou": 1, "iou log": -math.log(1e-6) + 1e-9, "iou square": 1, "giou": 2, "diou": 2,
          "ciou": 2.5, "ciou threshold": 2.5, "eiou": 5, "siou": 3, "alpha iou": 1,
          "alpha giou": 2, "alpha diou": 2, "alpha ciou": 3, "focal eiou": 5}  # fmt: skip


@drawn
@given(boxes_of_any_shape())
def test_bounds(problem):
    boxes, target = problem
    least = pl.iou_loss(boxes, target, **none)
    for name, bound in BOUNDS.items():
        if name in FLAT and not flat(boxes):
            continue
        losses = LOSSES[name](boxes, target, **none)
        assert ((losses >= 0) & (losses <= bound)).all(), name
        if name in ("giou", "diou", "ciou", "eiou", "siou"):
            assert (losses >= least).all(), name  # a penalty is never a reward


@drawn
@given(boxes_of_any_shape())
def test_a_box_apart_gains_nothing_by_being_inverted(problem):
    boxes, target = problem
    n = boxes.shape[-1] // 2
    low, high = target.chunk(2, -1)
    apart = (pl.iou_loss(boxes, target, **none) == 1) & (high > low).all(-1)
    for name, loss in LOSSES.items():
        if name in FLAT and not flat(boxes):
            continue
        upright = loss(boxes, target, **none)
        for axes in product((False, True), repeat=n):
            order = [k + n * turned for k, turned in enumerate(axes)]
            order += [k + n * (not turned) for k, turned in enumerate(axes)]
            inverted = loss(boxes[..., order], target, **none)
            assert (inverted >= upright - 1e-12)[apart].all(), (name, axes)
            if any(axes) and name not in ("focal eiou", "wiou 2", "wiou 3"):
                sides = (boxes.chunk(2, -1)[1] > boxes.chunk(2, -1)[0]).all(-1)
                assert (inverted >= 1)[sides].all(), (name, axes)


@drawn
@given(st.integers(0, 2**32), st.sampled_from((torch.float16, torch.float32, torch.float64)))
def test_equal_boxes_cost_exactly_nothing(seed, dtype):
    rng = np.random.default_rng(seed)
    size = torch.from_numpy(rng.lognormal(0, 3, (20, 2)))
    centre = torch.from_numpy(rng.normal(0, 3, (20, 2)))
    for fmt, boxes in (
        ("cxcywh", torch.cat([centre, size], -1)),
        ("xywh", torch.cat([centre, size], -1)),
        ("xyxy", torch.cat([centre, centre + size], -1)),
    ):
        boxes = boxes.to(dtype)
        # In half precision a small box far away may be a point, and points overlap nothing.
        low, high = boxes.float().chunk(2, -1)
        real = (high > low).all(-1) if fmt == "xyxy" else (low + high / 2 > low).all(-1)
        for name, loss in LOSSES.items():
            losses = loss(boxes, boxes, fmt=fmt, **none)
            assert (losses[real] == 0).all(), (name, fmt)
        assert all((x == 0).all() for x in gradients(pl.giou_loss, *2 * [boxes[real]], fmt=fmt))


# Accuracy

NEAR = [
    ([0.1, 0.1, 0.9, 0.9], [1, 0, 0, 0]),
    ([0.1, 0.1, 0.9, 0.9], [1, -1, 2, -2]),
    ([0.1, 0.2, 0.3, 0.9], [0, 3, 0, -4]),
    ([100.0, 200.0, 140.0, 260.0], [1, 1, 1, 1]),
    ([100.0, 200.0, 140.0, 260.0], [0, 0, -1, 0]),
    ([-0.7, 0.3, 0.4, 0.31], [2, 1, -3, 1]),
    ([1e-6, 1e-6, 3e-6, 2e-6], [40, -1, 1, 7]),
    ([0.1, 0.1, 0.9, 0.9], [1000, -2000, 70000, 5000]),
]
EXACT_CALLS = {
    "iou_loss": pl.iou_loss,
    "giou_loss": pl.giou_loss,
    "diou_loss": pl.diou_loss,
    "ciou_loss": pl.ciou_loss,
    "eiou_loss": pl.eiou_loss,
    "siou_loss": pl.siou_loss,
    "mpdiou_loss": partial(pl.mpdiou_loss, image_size=(1, 0.0 + 1)),
    "alpha_iou_loss": pl.alpha_iou_loss,
}


def nearby(box, steps):
    """A float32 box, and one that many floats away from it in each coordinate."""
    target = np.array(box, dtype=np.float32)
    moved = target.view(np.int32) + np.array(steps, dtype=np.int32)
    return torch.from_numpy(moved.view(np.float32)), torch.from_numpy(target)


@pytest.mark.parametrize(("box", "steps"), NEAR)
@pytest.mark.parametrize("name", EXACT_CALLS)
def test_a_loss_near_0_keeps_its_digits(name, box, steps):
    """1 - ratio in float32 would be 0, 6e-8 or 1.2e-7."""
    boxes, target = nearby(box, steps)
    found = float(EXACT_CALLS[name](boxes, target))
    if name == "mpdiou_loss":
        overlap = EXACT["iou_loss"](boxes.tolist(), target.tolist())
        moves = EXACT["mpdiou_loss"](boxes.tolist(), target.tolist()) - overlap
        truth = overlap + moves / 2
    else:
        truth = EXACT[name](boxes.tolist(), target.tolist())
    assert abs(found - truth) <= 2e-6 * truth, (found, float(truth))


@pytest.mark.parametrize("kind", ["linear", "log", "square"])
def test_iou_near_0_and_near_1_in_every_kind(kind):
    """Overlaps of a 1e-5th, and boxes that differ by one."""
    for shift in (1e-5, 1e-3, 0.3, 0.5, 1 - 1e-3, 1 - 1e-5):
        boxes, target = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[shift, 0, 1 + shift, 1]])
        found = float(pl.iou_loss(boxes, target, kind=kind))
        missed = EXACT["iou_loss"](boxes[0].tolist(), target[0].tolist())
        exact = {"linear": missed, "square": 1 - (1 - missed) ** 2}
        exact["log"] = -mp.log(1 - missed)
        assert abs(found - exact[kind]) <= 2e-6 * exact[kind], shift


@EACH
def test_gradients_of_near_boxes_in_float32(loss):
    for box, steps in NEAR:
        boxes, target = nearby(box, steps)
        found = gradients(loss, boxes, target)
        truth = gradients(loss, boxes.double(), target.double())
        for a, b in zip(found, truth, strict=True):
            assert (a.double() - b).norm() <= 2e-5 * b.norm()


# Constants in the gradient


def parts(boxes, target):
    """IoU, the squared distance of centres, the squared diagonal and CIoU's v, plainly."""
    (low, high), (low_t, high_t) = boxes.chunk(2, -1), target.chunk(2, -1)
    overlap = (torch.minimum(high, high_t) - torch.maximum(low, low_t)).clamp_min(0).prod(-1)
    size, size_t = high - low, high_t - low_t
    iou = overlap / (size.prod(-1) + size_t.prod(-1) - overlap)
    distance = ((low + high - low_t - high_t) / 2).square().sum(-1)
    diagonal = (torch.maximum(high, high_t) - torch.minimum(low, low_t)).square().sum(-1)
    angle, angle_t = (torch.atan(s[..., 0] / s[..., 1]) for s in (size, size_t))
    return iou, distance, diagonal, 4 / math.pi**2 * (angle - angle_t).square()


CONSTANTS = parts(BOXES, OFF_CENTRE)


def ciou_with_constants(boxes):
    iou, distance, diagonal, v = parts(boxes, OFF_CENTRE)
    fixed_iou, *_, fixed_v = CONSTANTS
    return (1 - iou + distance / diagonal + fixed_v / (1 - fixed_iou + fixed_v) * v).sum()


def focal_eiou_with_constants(boxes):
    return (CONSTANTS[0].sqrt() * pl.eiou_loss(boxes, OFF_CENTRE, **none)).sum()


def wiou_with_constants(boxes):
    iou, distance, _, _ = parts(boxes, OFF_CENTRE)
    degree = (1 - CONSTANTS[0]) / 0.6
    focus = degree / 3 * 1.9 ** (3 - degree)
    return (focus * torch.exp(distance / CONSTANTS[2]) * (1 - iou)).sum()


@pytest.mark.parametrize(
    ("loss", "plain"),
    [
        (pl.ciou_loss, ciou_with_constants),
        (pl.focal_eiou_loss, focal_eiou_with_constants),
        (LOSSES["wiou 3"], wiou_with_constants),
    ],
)
def test_the_gradient_is_that_of_the_loss_with_its_constants_fixed(loss, plain):
    """What the laws of finite differences (T6, T7) cannot say of these losses."""
    close(loss(BOXES, OFF_CENTRE, reduction="sum"), plain(BOXES))
    found = grad(partial(loss, reduction="sum"))(BOXES, OFF_CENTRE)
    close(found, grad(plain)(BOXES))
    numeric = torch.empty_like(BOXES)
    for k in range(BOXES.numel()):
        step = torch.zeros_like(BOXES).flatten().index_fill(0, torch.tensor(k), 1e-6)
        step = step.reshape(BOXES.shape)
        numeric.flatten()[k] = (plain(BOXES + step) - plain(BOXES - step)) / 2e-6
    torch.testing.assert_close(found, numeric, rtol=1e-6, atol=1e-8)


# All pairs


@EACH
def test_a_matrix_of_all_pairs_by_vmap(loss):
    one = vmap(vmap(loss, (None, 0)), (0, None))
    matrix = one(BOXES[:3], OFF_CENTRE)
    assert matrix.shape == (3, 4)
    wide = (BOXES[:3, None].expand(3, 4, 4), OFF_CENTRE.expand(3, 4, 4))
    assert torch.equal(matrix, loss(*wide, **none))
    for i, j in product(range(3), range(4)):
        close(matrix[i, j], loss(BOXES[i], OFF_CENTRE[j]))
    derivative = jacrev(one)(BOXES[:3], OFF_CENTRE)
    for i, j in product(range(3), range(4)):
        close(derivative[i, j, i], grad(loss)(BOXES[i], OFF_CENTRE[j]))


@EACH
def test_any_leading_axes(loss):
    single = loss(BOXES[0], OFF_CENTRE[0], **none)
    assert single.shape == ()
    grid = loss(BOXES.reshape(2, 1, 2, 4), OFF_CENTRE.reshape(2, 1, 2, 4), **none)
    assert grid.shape == (2, 1, 2)
    assert torch.equal(grid.flatten(), loss(BOXES, OFF_CENTRE, **none))
    assert grid[0, 0, 0] == single


# State of Wise IoU


def test_wise_iou_mean_is_a_running_mean():
    """The authors' buffer after one call, from 1: 0.9975552398989899 with a momentum of 0.01."""
    state = {"mean": torch.ones((), dtype=torch.float64)}
    after = pl.wiou_update(state, BOXES, OFF_CENTRE, momentum=0.01)
    close(after["mean"], torch.tensor(0.9975552398989899, dtype=torch.float64))
    assert state["mean"] == 1  # as it was
    for _ in range(2000):
        after = pl.wiou_update(after, BOXES, OFF_CENTRE, momentum=0.01)
    torch.testing.assert_close(after["mean"], pl.iou_loss(BOXES, OFF_CENTRE))


def test_wise_iou_update_looks_only_at_boxes_that_count():
    where = torch.tensor([True, False, True, False])
    spoilt = torch.where(where[:, None], BOXES, torch.nan)
    found = pl.wiou_update(pl.wiou_init(), spoilt, OFF_CENTRE, where=where, momentum=1.0)
    kept = pl.iou_loss(BOXES[::2], OFF_CENTRE[::2])
    torch.testing.assert_close(found["mean"], kept.float())
    nothing = torch.zeros(4, dtype=torch.bool)
    for empty in (
        pl.wiou_update(STATE, spoilt, OFF_CENTRE, where=nothing, momentum=1.0),
        pl.wiou_update(STATE, BOXES[:0], OFF_CENTRE[:0], momentum=1.0),
    ):
        assert empty["mean"] == STATE["mean"]


def test_wise_iou_state_has_no_gradient():
    mean = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    boxes = BOXES.clone().requires_grad_()
    after = pl.wiou_update({"mean": mean}, boxes, OFF_CENTRE)
    assert not after["mean"].requires_grad
    loss = pl.wiou_loss({"mean": mean}, boxes, OFF_CENTRE)
    assert torch.autograd.grad(loss, mean, allow_unused=True) == (None,)


def test_wise_iou_module_keeps_its_state():
    criterion = pnn.WIoULoss(fmt="xywh")
    assert list(criterion.parameters()) == []
    b, t = formatted(BOXES, "xywh"), formatted(OFF_CENTRE, "xywh")
    criterion(b, t)
    assert criterion.state_dict() == {"state.mean": torch.ones(())}
    criterion.update(b, t, momentum=0.5)
    expected = pl.wiou_update(pl.wiou_init(), BOXES, OFF_CENTRE, momentum=0.5)
    assert criterion.state_dict() == {"state.mean": expected["mean"]}
    again = pnn.WIoULoss(fmt="xywh")
    again.load_state_dict(criterion.state_dict())
    assert again(b, t) == criterion(b, t) == pl.wiou_loss(expected, BOXES, OFF_CENTRE)


def test_wise_iou_looks_away_from_good_and_from_hopeless_boxes():
    """Version 3 weighs by 1 at an outlier degree of delta, and is largest at 1 / log(alpha)."""
    state = {"mean": torch.tensor(0.1, dtype=torch.float64)}
    target = double([0, 0, 100, 1])
    wrong = torch.arange(1, 100, dtype=torch.float64)
    boxes = torch.stack([0 * wrong, 0 * wrong, 100 - wrong, 1 + 0 * wrong], -1)
    targets = target.expand_as(boxes)
    plain = pl.wiou_loss(state, boxes, targets, version="v1", **none)
    focus = pl.wiou_loss(state, boxes, targets, version="v3", **none) / plain
    degree = wrong / 100 / 0.1
    assert abs(focus[29] - 1) < 1e-12  # degree 3, which is delta
    assert abs(degree[focus.argmax()] - 1 / math.log(1.9)) < 0.11


# Options


def test_options_may_be_tensors_with_a_gradient():
    for loss, name, value in (
        (pl.siou_loss, "theta", 4.0),
        (LOSSES["alpha ciou"], "alpha", 3.0),
        (pl.focal_eiou_loss, "gamma", 0.5),
        (LOSSES["wiou 2"], "gamma", 0.5),
        (LOSSES["wiou 3"], "alpha", 1.9),
        (LOSSES["wiou 3"], "delta", 3.0),
    ):
        option = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        found = loss(BOXES, OFF_CENTRE, **{name: option})
        close(found.detach(), loss(BOXES, OFF_CENTRE, **{name: value}))
        (slope,) = torch.autograd.grad(found, option)
        assert slope.isfinite()
        assert slope != 0


def test_image_size_may_be_numbers_or_tensors():
    side = torch.tensor(8.0, dtype=torch.float64)
    expected = pl.mpdiou_loss(BOXES, TARGET, image_size=(6, 8))
    close(pl.mpdiou_loss(BOXES, TARGET, image_size=[6.0, side]), expected)
    close(pl.mpdiou_loss(BOXES, TARGET, image_size=(8, 6)), expected)


def test_focal_eiou_pushes_no_small_overlap_apart():
    """With a gradient through the weight, IoU^γ(1 - IoU) falls with the overlap below 1/3."""
    boxes, target = double([0, 0, 10, 10]), double([9, 0, 19, 10])
    step = -1e-3 * gradients(pl.focal_eiou_loss, boxes, target)[0]
    assert pl.iou_loss(boxes + step, target) < pl.iou_loss(boxes, target)


# Scores and bins


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_quality_focal_loss_is_0_with_a_finite_gradient_at_its_target(gamma):
    x = torch.tensor([0.0, 0.0], requires_grad=True)
    losses = pl.quality_focal_loss(x, torch.tensor([0.5, 0.5]), gamma=gamma, **none)
    assert (losses == (math.log(2) if gamma == 0 else 0)).all()
    (found,) = torch.autograd.grad(losses.sum(), x)
    assert (found == 0).all()


def test_quality_focal_loss_of_labels_keeps_its_digits():
    """1 - p in float32 is 0 from a logit of 17 on, and with it the loss."""
    x = torch.tensor([12.0, 20.0, 30.0])
    found = pl.quality_focal_loss(x, torch.ones(3), **none).double()
    p = torch.sigmoid(-x.double())
    torch.testing.assert_close(found, p**2 * torch.log1p(torch.exp(-x.double())), rtol=2e-6, atol=0)


def test_distribution_focal_loss_outside_of_its_bins():
    logits = torch.zeros(5, 4)
    positions = torch.tensor([-0.5, 0.0, 3.0, 3.01, float("nan")])
    losses = pl.distribution_focal_loss(logits, positions, **none)
    assert losses.isnan().tolist() == [True, False, False, True, True]
    counted = pl.distribution_focal_loss(
        logits, positions, where=positions.clamp(0, 3) == positions
    )
    torch.testing.assert_close(counted, torch.tensor(math.log(4)))


def test_distribution_focal_loss_of_whole_positions_is_cross_entropy():
    logits = double([0.5, 2.0, -1.0], [0.0, 1.0, 3.0])
    labels = torch.tensor([2, 0])
    close(pl.distribution_focal_loss(logits, labels), pl.cross_entropy_loss(logits, labels))


def test_distribution_focal_loss_is_least_where_the_mean_is_the_target():
    position = torch.tensor(1.3, dtype=torch.float64)
    best = double(1e-30, 0.7, 0.3, 1e-30).log()
    slope = grad(pl.distribution_focal_loss)(best, position)
    assert slope.abs().max() < 1e-12
    close((best.softmax(-1) * torch.arange(4)).sum(), position)

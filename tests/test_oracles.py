"""Every loss against its formula written once more, in float64 and on hostile numbers."""

import inspect
from itertools import product

import hypothesis.strategies as st
import numpy as np
import optree
import pytest
import torch
from hostile import LOGITS, REALS, SMALLEST, assert_exact, hostile, single
from hypothesis import HealthCheck, assume, given, settings
from mpmath import mp, mpf
from oracles import EXACT, ORACLES, exact_sigmoid, exact_softmax

import purelosses as pl
from purelosses.registry import LOSSES

REDUCTIONS = ("mean", "weighted_mean", "sum", "none")


def arrays(tree):
    """Tensors to NumPy, in float64 where they are floating."""

    def convert(x):
        if not isinstance(x, torch.Tensor):
            return x
        return x.double().numpy() if x.is_floating_point() else x.numpy()

    return optree.tree_map(convert, tree)


def agree(name, data, options):
    """The loss of float64 tensors is that of its oracle, to 12 digits."""
    value = getattr(pl, name)(*data, **options)
    value = value[0] if isinstance(value, tuple) else value
    expected = ORACLES[name](*map(arrays, data), **{k: arrays(v) for k, v in options.items()})
    assert value.dtype == torch.float64
    assert value.shape == np.shape(expected)
    np.testing.assert_allclose(value.numpy(), expected, rtol=1e-12, atol=1e-12)


def registered():
    for spec in LOSSES.values():
        for case in spec.cases:
            if case.unit is None:
                yield pytest.param(spec, case, None, False, False, id=f"{spec.name}-{case.name}")
                continue
            for reduction, where, weights in product(REDUCTIONS, (False, True), (False, True)):
                given = "-where" * where + "-weights" * weights
                name = f"{spec.name}-{case.name}-{reduction}{given}"
                yield pytest.param(spec, case, reduction, where, weights, id=name)


@pytest.mark.parametrize(("spec", "case", "reduction", "where", "weights"), list(registered()))
def test_every_case_of_the_registry(spec, case, reduction, where, weights):
    options = {} if reduction is None else {"reduction": reduction}
    for seed in range(3):
        problem = case.problem(seed, dtype=torch.float64, where=where, weights=weights)
        data, keywords = problem.arguments
        agree(spec.name, data, {**keywords, **options})


# Shapes and options that the registry does not list

drawn = settings(
    max_examples=150,
    deadline=None,  # the first call of anything in torch is slow
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
sizes = st.integers(0, 4)


def normal(rng, shape):
    return torch.from_numpy(np.asarray(2 * rng.standard_normal(tuple(shape))))


def uniform(rng, shape):
    return torch.from_numpy(np.asarray(rng.random(tuple(shape))))


def draw_masks(draw, rng, inputs, units):
    """`where` and `weights`, each given or not, with axes that may have length 1."""
    options = {"reduction": draw(st.sampled_from(REDUCTIONS))}
    for name, shape in (("where", inputs), ("weights", units)):
        if draw(st.booleans()):
            shape = [draw(st.sampled_from((n, 1))) for n in shape]
            options[name] = uniform(rng, shape)
    if "where" in options:
        options["where"] = options["where"] < draw(st.sampled_from((0.0, 0.7, 1.0)))
    return options


def draw_target(draw, rng, shape, class_dim):
    """Labels if there is a class axis, or a mask of any type, or probabilities."""
    kinds = ["probabilities", "mask", "boolean"]
    kind = draw(st.sampled_from(kinds if class_dim is None else [*kinds, "labels"]))
    if kind == "labels":
        samples = [n for axis, n in enumerate(shape) if axis != class_dim % len(shape)]
        dtype = draw(st.sampled_from((torch.uint8, torch.int32, torch.int64)))
        return (uniform(rng, samples) * shape[class_dim]).to(dtype)
    dense = uniform(rng, shape)
    if kind == "boolean":
        return dense > 0.5
    return dense if kind == "probabilities" else (dense > 0.5).double()


@st.composite
def elementwise(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.lists(sizes, max_size=4))
    return normal(rng, shape), uniform(rng, shape), draw_masks(draw, rng, shape, shape), draw


@drawn
@given(elementwise(), st.floats(1e-3, 1e3))
def test_residuals_and_bce_of_any_shape(problem, delta):
    prediction, target, options, _ = problem
    for name in ("mse_loss", "l1_loss", "binary_cross_entropy_loss"):
        agree(name, (prediction, target), options)
    agree("huber_loss", (prediction, target), {**options, "delta": delta})


@st.composite
def classes_of_any_shape(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.lists(sizes, min_size=1, max_size=4))
    class_dim = draw(st.integers(-len(shape), len(shape) - 1))
    shape[class_dim] = draw(st.integers(1, 4))
    samples = [n for axis, n in enumerate(shape) if axis != class_dim % len(shape)]
    options = {
        "class_dim": class_dim,
        "label_smoothing": draw(st.sampled_from((0.0, 0.1, 1.0))),
        **draw_masks(draw, rng, samples, samples),
    }
    if draw(st.booleans()):
        options["class_weights"] = uniform(rng, [shape[class_dim]])
    target = normal(rng, shape).softmax(class_dim)
    kind = draw(st.sampled_from(("labels", "one-hot", "probabilities")))
    if kind == "one-hot":
        target = target == target.amax(class_dim, keepdim=True)
    if kind == "labels":
        dtype = draw(st.sampled_from((torch.uint8, torch.int32, torch.int64)))
        target = (uniform(rng, samples) * shape[class_dim]).to(dtype)
    return normal(rng, shape), target, options


@drawn
@given(classes_of_any_shape())
def test_cross_entropy_of_any_shape(problem):
    logits, target, options = problem
    agree("cross_entropy_loss", (logits, target), options)


@st.composite
def regions_of_any_shape(draw):
    """Predictions as logits, a target, and the options that both region losses have."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.lists(sizes, min_size=2, max_size=4))
    ndim = len(shape)
    axes = st.integers(0, ndim - 1)
    class_dim = draw(st.none() | axes)
    dim = draw(st.none() | axes | st.sets(axes, min_size=1).map(tuple))
    if class_dim is not None:
        shape[class_dim] = draw(st.integers(2, 4))
        if dim is None and class_dim == ndim - 1:
            dim = 0  # by default a region spans the axes after the classes, and here are none
    spanned = range(0 if class_dim is None else class_dim + 1, ndim) if dim is None else dim
    spanned = {spanned} if isinstance(spanned, int) else set(spanned)
    classes = draw(st.sampled_from(("all", "present")))
    units = {axis: n for axis, n in enumerate(shape) if axis not in spanned}
    if class_dim in units and draw(st.booleans()):
        label = st.integers(0, shape[class_dim] - 1)
        classes = draw(st.lists(label, min_size=1, max_size=3))
        units[class_dim] = len(classes)
    inputs = [n for axis, n in enumerate(shape) if axis != class_dim]
    options = draw_masks(draw, rng, inputs, units.values())
    if draw(st.booleans()):  # count the same axes from the end
        class_dim = None if class_dim is None else class_dim - ndim
        if dim is not None:
            dim = dim - ndim if isinstance(dim, int) else tuple(axis - ndim for axis in dim)
    options |= {"class_dim": class_dim, "dim": dim, "classes": classes}
    options["smooth"] = draw(st.sampled_from((0.0, 1e-5, 1.0, 100.0)))
    return normal(rng, shape), draw_target(draw, rng, shape, class_dim), options


@drawn
@given(regions_of_any_shape(), st.sampled_from((None, "sigmoid", "softmax")))
def test_dice_of_any_shape(problem, activation):
    prediction, target, options = problem
    if activation is None:
        prediction = prediction.sigmoid()
    elif options["class_dim"] is None:
        activation = "sigmoid"
    agree("dice_loss", (prediction, target), {**options, "activation": activation})


@drawn
@given(regions_of_any_shape(), st.floats(0, 2), st.floats(0, 2))
def test_dice_bce_of_any_shape(problem, dice_weight, bce_weight):
    logits, target, options = problem
    shares = {"dice_weight": dice_weight, "bce_weight": bce_weight}
    agree("dice_bce_loss", (logits, target), {**options, **shares})


REGION_LOSSES = ("dice_loss", "jaccard_loss", "tversky_loss", "focal_tversky_loss",
                 "log_cosh_dice_loss", "mcc_loss", "dice_focal_loss")  # fmt: skip
UNIT_LOSSES = ("generalized_dice_loss", "generalized_wasserstein_dice_loss", "dice_ce_loss",
               "dice_focal_loss", "unified_focal_loss")  # fmt: skip
CHOICES = {
    "empty": ("smooth", "penalize"),
    "squared": (False, True),
    "soft_target": (False, True),
    "smooth": (0.0, 1e-5, 1.0, (0.0, 1e-5), (0.5, 2.0)),
    "weight_type": ("square", "simple", "uniform"),
    "gamma": (0.5, 1.0),
    "delta": (0.1, 0.6),
    "asymmetric": (True, False),
    "label_smoothing": (0.0, 0.1),
}


@st.composite
def overlap_calls(draw, losses):
    """A loss of regions, its data, and options drawn from all that it has."""
    name = draw(st.sampled_from(losses))
    prediction, target, options = draw(regions_of_any_shape())
    known = inspect.signature(getattr(pl, name)).parameters
    options = {key: value for key, value in options.items() if key in known}
    for key, values in CHOICES.items():
        if key in known:
            options[key] = draw(st.sampled_from(values))
    if isinstance(options["smooth"], tuple) and name == "mcc_loss":
        options["smooth"] = options["smooth"][1]
    return name, prediction, target, options


@drawn
@given(overlap_calls(REGION_LOSSES), st.sampled_from((None, "sigmoid", "softmax")))
def test_losses_of_regions_of_any_shape(call, activation):
    name, prediction, target, options = call
    if name == "dice_focal_loss":
        activation = "sigmoid"
    if activation is None:
        prediction = prediction.sigmoid()
    elif options["class_dim"] is None:
        activation = "sigmoid"
    agree(name, (prediction, target), {**options, "activation": activation})


@drawn
@given(overlap_calls(UNIT_LOSSES), st.sampled_from(("sigmoid", "softmax")))
def test_losses_over_classes_of_any_shape(call, activation):
    name, prediction, target, options = call
    ndim, class_dim, dim = prediction.ndim, options["class_dim"], options["dim"]
    assume(class_dim is not None)
    dim = () if dim is None else np.atleast_1d(dim)
    assume(class_dim % ndim not in [axis % ndim for axis in dim])
    options.pop("weights", None)  # they are those of single regions
    if name == "generalized_wasserstein_dice_loss":
        rng = np.random.default_rng(ndim)
        options["distance"] = uniform(rng, (prediction.shape[class_dim],) * 2).fill_diagonal_(0)
    if name in ("dice_focal_loss", "generalized_dice_loss", "generalized_wasserstein_dice_loss"):
        options["activation"] = "softmax" if name == "dice_focal_loss" else activation
    agree(name, (prediction, target), options)


@drawn
@given(elementwise(), st.floats(0, 3), st.none() | st.floats(0, 1))
def test_sigmoid_focal_of_any_shape(problem, gamma, alpha):
    logits, target, options, _ = problem
    agree("sigmoid_focal_loss", (logits, target), {**options, "gamma": gamma, "alpha": alpha})


@drawn
@given(classes_of_any_shape(), st.floats(0, 3))
def test_softmax_focal_of_any_shape(problem, gamma):
    logits, target, options = problem
    options.pop("label_smoothing")
    agree("softmax_focal_loss", (logits, target), {**options, "gamma": gamma})


def test_regions_without_prediction_target_or_smoothing_are_perfect():
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    agree("dice_loss", (zeros, zeros), {"dim": 1, "smooth": 0.0, "reduction": "none"})


# Hostile numbers in float32, against 60 digits


def test_hostile_mse():
    grid = list(product(REALS, REALS))
    hostile(pl.mse_loss, EXACT["mse_loss"], lambda x, y: 2 * (mpf(x) - mpf(y)), grid)


def test_hostile_l1():
    grid = list(product(REALS, REALS))
    hostile(pl.l1_loss, EXACT["l1_loss"], lambda x, y: mp.sign(mpf(x) - mpf(y)), grid)


@pytest.mark.parametrize("delta", [1e-6, 1.0, 1e6])
def test_hostile_huber(delta):
    def derivative(x, y):
        return max(-mpf(delta), min(mpf(x) - mpf(y), mpf(delta)))

    grid = list(product(REALS, REALS))
    hostile(
        lambda *data, **options: pl.huber_loss(*data, delta=delta, **options),
        lambda x, y: EXACT["huber_loss"](x, y, delta),
        derivative,
        grid,
    )


def test_hostile_binary_cross_entropy():
    grid = list(product(LOGITS, (0.0, 1.0)))
    hostile(
        pl.binary_cross_entropy_loss,
        EXACT["binary_cross_entropy_loss"],
        lambda x, y: exact_sigmoid(x) if y == 0 else -exact_sigmoid(-mpf(x)),
        grid,
    )


@pytest.mark.parametrize("x", [-800.0, -49.0, -20.5, 20.5, 30.0, 49.0, 51.0, 800.0])
def test_binary_cross_entropy_in_float64_where_torch_softplus_is_linear(x):
    """F.softplus returns x itself from 20 on: an error of 1e-9."""
    logits = torch.tensor(x, dtype=torch.float64)
    for y in (0.0, 1.0):
        loss = pl.binary_cross_entropy_loss(logits, torch.tensor(y))
        truth = EXACT["binary_cross_entropy_loss"](x, y)
        # From 745 on exp(-x) is not even a subnormal float64.
        assert abs(mpf(loss.item()) - truth) <= 1e-14 * truth + mpf("1e-300")


def test_hostile_binary_cross_entropy_of_probabilities():
    # The gradient σ(x) - y is a difference here, so it is measured against its larger term.
    grid = [(x, y) for x, y in product(LOGITS, (1e-30, 1e-6, 0.25, 0.5, 1 - 2**-24)) if abs(x) < 99]
    x, y = single([x for x, _ in grid]).requires_grad_(), single([y for _, y in grid])
    losses = pl.binary_cross_entropy_loss(x, y, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    pairs = list(zip(x.tolist(), y.tolist(), strict=True))
    exact = EXACT["binary_cross_entropy_loss"]
    assert_exact(losses, [exact(*pair) for pair in pairs], 2e-6, pairs)
    for got, (a, b) in zip(gradient.tolist(), pairs, strict=True):
        error = abs(mpf(got) - (exact_sigmoid(a) - mpf(b)))
        assert error <= 1e-5 * max(exact_sigmoid(a), mpf(b)), (a, b)


def rows_of_logits(classes, count):
    rng = np.random.default_rng(0)
    rows = rng.choice(np.array(LOGITS), (count, classes))
    gaps = np.array([1, 5, 10, 15, 17, 20, 30, 40, 60, 80, 88, 1e3, 1e4])
    confident = np.zeros((len(gaps), classes))
    confident[:, 0] = gaps  # right where the label is 0, wrong where it is not
    return single(np.concatenate([rows, confident, -confident, confident + 1e3]))


def exact_rows(logits, labels):
    eye = np.eye(logits.shape[1])
    return [
        EXACT["cross_entropy_loss"](row, eye[label])
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]


def described(logits, labels):
    return list(zip(logits.tolist(), labels.tolist(), strict=True))


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_hostile_cross_entropy_keeps_relative_accuracy(classes):
    logits = rows_of_logits(classes, 200)
    for label in range(classes):
        labels = torch.full((len(logits),), label)
        truth, what = exact_rows(logits, labels), described(logits, labels)
        losses = pl.cross_entropy_loss(logits, labels, reduction="none")
        assert_exact(losses, truth, 2e-6, what)
        dense = torch.eye(classes)[labels]
        losses = pl.cross_entropy_loss(logits, dense, reduction="none")
        assert_exact(losses, truth, 2e-6, what)


@pytest.mark.parametrize("target", ["labels", "probabilities"])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_hostile_gradient_of_cross_entropy(classes, target):
    """softmax - one-hot; at the label that is minus the sum of the other probabilities."""
    logits = rows_of_logits(classes, 100).requires_grad_()
    for label in range(classes):
        labels = torch.full((len(logits),), label)
        given = labels if target == "labels" else torch.eye(classes)[labels]
        total = pl.cross_entropy_loss(logits, given, reduction="sum")
        (gradient,) = torch.autograd.grad(total, logits)
        for row, got in zip(logits.tolist(), gradient.tolist(), strict=True):
            truth = exact_softmax(row)
            truth[label] = -mp.fsum(p for k, p in enumerate(truth) if k != label)
            error = mp.norm([mpf(a) - b for a, b in zip(got, truth, strict=True)])
            assert error <= max(1e-5 * mp.norm(truth), SMALLEST), (row, label, got)


def test_cross_entropy_of_1e_30():
    """-log(1 - 1e-30): a loss computed as log sum exp - x would be 0 or 1e-7."""
    gap = 69.07755279
    logits = single([[gap, 0.0]])
    (truth,) = exact_rows(logits, torch.tensor([0]))
    assert truth == pytest.approx(1e-30, rel=1e-5)
    value = pl.cross_entropy_loss(logits, torch.tensor([0]), reduction="none")
    assert_exact(value, [truth], 2e-6, ["1e-30"])


def dice_and_gradient(logits, target, **options):
    logits = logits.clone().requires_grad_()
    loss = pl.dice_loss(logits, target, **options)
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    return loss.detach(), gradient


SMOOTH = (0.0, 1e-5, 1.0)


@pytest.mark.parametrize("smooth", SMOOTH)
def test_hostile_dice_of_sigmoids(smooth):
    """Down to losses of 1e-12 and below, where 1 - ratio in float32 would be 0."""
    rng = np.random.default_rng(0)
    masks = (rng.random((40, 6)) > 0.5).astype(float)
    margins = rng.choice([1.0, 10.0, 20.0, 27.6, 40.0, 88.0], (40, 1))
    wrong = rng.choice(np.array([x for x in LOGITS if abs(x) < 1e5]), (40, 6))
    for logits in (np.where(masks > 0, margins, -margins), wrong):
        losses, gradient = dice_and_gradient(
            single(logits), single(masks), activation="sigmoid", dim=1, smooth=smooth,
            reduction="none",
        )  # fmt: skip
        rows = list(zip(single(logits).tolist(), masks.tolist(), strict=True))
        truth = [
            EXACT["dice_loss"]([exact_sigmoid(x) for x in row], mask, single(smooth).item())
            for row, mask in rows
        ]
        assert_exact(losses, truth, 2e-6, rows)
        for (row, mask), got in zip(rows, gradient.tolist(), strict=True):
            probs = [exact_sigmoid(x) for x in row]
            slopes = [exact_sigmoid(x) * exact_sigmoid(-mpf(x)) for x in row]
            true = [
                a * b for a, b in zip(exact_dice_slope(probs, mask, smooth), slopes, strict=True)
            ]
            error = mp.norm([mpf(a) - b for a, b in zip(got, true, strict=True)])
            assert error <= max(1e-5 * mp.norm(true), SMALLEST), (row, mask)


def exact_dice_slope(probs, target, smooth):
    """Derivative of 1 - top / bottom by each probability: (top - 2 y bottom) / bottom²."""
    top = 2 * mp.fsum(p * mpf(y) for p, y in zip(probs, target, strict=True)) + mpf(smooth)
    bottom = mp.fsum(probs) + mp.fsum(map(mpf, target)) + mpf(smooth)
    return [(top - 2 * mpf(y) * bottom) / bottom**2 if bottom else mpf(0) for y in target]


def test_dice_of_1e_12():
    """A mask of ten pixels missed by 1e-12 each."""
    margin = 27.63102111
    mask = torch.tensor([1.0] * 5 + [0.0] * 5)
    loss = pl.dice_loss(margin * (2 * mask - 1), mask, activation="sigmoid", smooth=0.0)
    p = exact_sigmoid(single(margin).item())
    truth = EXACT["dice_loss"]([p] * 5 + [1 - p] * 5, mask.tolist(), 0.0)
    assert truth == pytest.approx(1e-12, rel=1e-5)
    assert_exact(loss.reshape(1), [truth], 2e-6, ["1e-12"])


@pytest.mark.parametrize("margin", [1.0, 10.0, 15.0, 20.0, 27.6, 60.0, 88.0])
@pytest.mark.parametrize("smooth", SMOOTH)
def test_hostile_dice_of_softmax(smooth, margin):
    labels = [0, 1, 2, 0, 1, 1]
    rows = np.zeros((len(labels), 3))
    rows[np.arange(len(labels)), labels] = margin
    rows = single(rows)
    losses, gradient = dice_and_gradient(
        rows.T[None].contiguous(), torch.tensor([labels]), activation="softmax", class_dim=1,
        smooth=smooth, reduction="none",
    )  # fmt: skip
    probs = [exact_softmax(row) for row in rows.tolist()]
    masks = [[float(label == c) for label in labels] for c in range(3)]
    truth = [EXACT["dice_loss"]([p[c] for p in probs], masks[c], smooth) for c in range(3)]
    assert_exact(losses[0], truth, 2e-6, range(3))
    slopes = [exact_dice_slope([p[c] for p in probs], masks[c], smooth) for c in range(3)]
    for pixel, p in enumerate(probs):
        # dL / dx_k = p_k (g_k - Σ_c g_c p_c), with g the slope by each probability
        g = [slopes[c][pixel] for c in range(3)]
        mean = mp.fsum(a * b for a, b in zip(g, p, strict=True))
        true = [p[k] * (g[k] - mean) for k in range(3)]
        got = gradient[0, :, pixel].tolist()
        error = mp.norm([mpf(a) - b for a, b in zip(got, true, strict=True)])
        assert error <= max(1e-5 * mp.norm(true), SMALLEST), (pixel, got)


@pytest.mark.parametrize("smooth", SMOOTH)
def test_hostile_dice_of_probabilities(smooth):
    values = (0.0, 1e-30, 1e-8, 0.5, 1 - 2**-24, 1.0)
    for a, b in product(values, values):
        for mask in ([0.0, 0.0], [1.0, 0.0], [1.0, 1.0]):
            loss = pl.dice_loss(single([a, b]), single(mask), smooth=smooth)
            probs = [mpf(x) for x in single([a, b]).tolist()]
            truth = EXACT["dice_loss"](probs, mask, single(smooth).item())
            assert_exact(loss.reshape(1), [truth], 2e-6, [(a, b, mask)])


@pytest.mark.parametrize("likelihood", ["gaussian", "laplace", "softmax"])
def test_hostile_uncertainty_weights(likelihood):
    # The total is a difference and may cancel; each of its two terms is accurate.
    a, b = {"gaussian": (0.5, 0.5), "laplace": (1, 1), "softmax": (1, 0.5)}[likelihood]
    for s, loss in product((-70.0, -1.0, 0.0, 1e-8, 17.0, 80.0), (0.0, 1e-30, 1.0, 1e4)):
        s, loss = single(s).requires_grad_(), single(loss).requires_grad_()
        total, _ = pl.uncertainty_weighted_loss([s], [loss], likelihood=likelihood)
        gradients = torch.autograd.grad(total, (s, loss))
        weight, value = a * mp.exp(-mpf(s.item())), mpf(loss.item())
        terms = (weight * value, b * mpf(s.item()))
        assert abs(mpf(total.item()) - sum(terms)) <= 2e-6 * max(map(abs, terms))
        truth = (b - weight * value, weight)
        scale = (max(b, weight * value), weight)
        for got, true, size in zip(gradients, truth, scale, strict=True):
            assert abs(mpf(got.item()) - true) <= 1e-5 * size

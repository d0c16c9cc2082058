"""Losses for wrong labels: identities, bounds, state, and what peers get wrong."""

import math
from functools import partial

import pytest
import torch
from hostile import LOGITS as LOGITS_OF_ONE
from hostile import assert_exact, single
from mpmath import mp, mpf
from torch.func import grad, vmap

import purelosses as pl

INF = math.inf
LABELS = torch.tensor([0, 3, 1, 2, 0, 1])
NOISE = torch.tensor(
    [[0.7, 0.1, 0.1, 0.1], [0.2, 0.6, 0.1, 0.1], [0.0, 0.3, 0.7, 0.0], [0.05, 0.05, 0.1, 0.8]],
    dtype=torch.float64,
)


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


LOGITS = numbers(6, 4)


# Numbers

TRANSITIONS = {
    "usual": [[0.9, 0.05, 0.05], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4]],
    "none": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
    "nearly none": [[1 - 2**-23, 2**-23, 0.0], [1e-8, 1.0, 0.0], [0.5, 1e-30, 0.5]],
}


@pytest.mark.parametrize("name", TRANSITIONS)
def test_hostile_forward_correction(name):
    """-log of what is nearly 1 keeps its digits: log(1 + tiny) would drop them."""
    generator = torch.Generator().manual_seed(0)
    grid, transition = single(LOGITS_OF_ONE), single(TRANSITIONS[name])
    x = grid[torch.randint(len(grid), (200, 3), generator=generator)]
    labels = torch.randint(3, (200,), generator=generator)
    found = pl.forward_correction_loss(x, labels, transition=transition, reduction="none")
    truth = []
    for row, label in zip(x.tolist(), labels.tolist(), strict=True):
        parts = [mp.exp(mpf(v) - max(row)) for v in row]
        rates = [mpf(rate) for rate in transition[:, label].tolist()]
        share = mp.fsum(a * b for a, b in zip(parts, rates, strict=True)) / mp.fsum(parts)
        truth.append(-mp.log(share) if share else mp.inf)
    assert_exact(found, truth, 2e-6, x.tolist())


def drawn(count, seed):
    """Logits of three classes at random, as float32 has them, with their probabilities."""
    generator = torch.Generator().manual_seed(seed)
    grid = single([x for x in LOGITS_OF_ONE if abs(x) < 1e5])
    x = grid[torch.randint(len(grid), (count, 3), generator=generator)]
    return x, torch.randint(3, (count,), generator=generator)


def exact_probs(row):
    parts = [mp.exp(mpf(v) - max(row)) for v in row]
    return [part / mp.fsum(parts) for part in parts]


def test_hostile_backward_correction():
    """Relative to the sum of its terms without their signs: some are negative."""
    transition = single(TRANSITIONS["usual"])
    inverse = mp.matrix([[mpf(v) for v in row] for row in transition.tolist()]) ** -1
    x, labels = drawn(200, seed=1)
    found = pl.backward_correction_loss(x, labels, transition=transition, reduction="none")
    for got, row, label in zip(found, x.tolist(), labels.tolist(), strict=True):
        terms = [-inverse[label, c] * mp.log(p) for c, p in enumerate(exact_probs(row))]
        floor = 2e-6 * mp.fsum(map(abs, terms))
        assert_exact(got.reshape(1), [mp.fsum(terms)], 2e-6, [(row, label)], floor)


def test_hostile_elr():
    x, labels = drawn(200, seed=2)
    average = single([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.0, 0.125, 0.75]])[labels]
    found = pl.elr_loss(x, labels, average, lam=2.0, reduction="none")
    for got, row, label, t in zip(found, x.tolist(), labels.tolist(), average.tolist(),
                                  strict=True):  # fmt: skip
        p = exact_probs(row)
        far = max(mp.fsum(a * (1 - mpf(b)) for a, b in zip(p, t, strict=True)), mpf(1e-4))
        terms = [-mp.log(p[label]), 2 * mp.log(far)]
        floor = max(2e-7, 2e-6 * mp.fsum(map(abs, terms)))
        assert_exact(got.reshape(1), [mp.fsum(terms)], 2e-6, [(row, label)], floor)


@pytest.mark.parametrize("t1", [0.0, 0.5, 0.875])
def test_hostile_bi_tempered(t1):
    """With t2 = 2, p = 1 / (1 + λ - x)."""
    x, labels = drawn(60, seed=3)
    found = pl.bi_tempered_loss(x, labels, t1=t1, t2=2.0, reduction="none")
    for got, row, label in zip(found, x.tolist(), labels.tolist(), strict=True):
        gaps = [max(row) - mpf(v) for v in row]
        low, high = mpf(1), mpf(3)  # of 1 + λ - max x
        for _ in range(200):
            middle = (low + high) / 2
            total = mp.fsum(1 / (middle + gap) for gap in gaps)
            low, high = (middle, high) if total > 1 else (low, middle)
        p = [1 / (low + gap) for gap in gaps]
        a = 1 - mpf(t1)
        terms = [(1 - p[label] ** a) / a, -(1 - p[label] ** (1 + a)) / (1 + a)]
        terms += [q ** (1 + a) / (1 + a) for c, q in enumerate(p) if c != label]
        truth = mp.fsum(terms)
        assert_exact(got.reshape(1), [truth], 2e-6, [(row, label)])


# Identities


def test_backward_correction_is_unbiased():
    """The mean over the labels that each class gets is its cross-entropy."""
    for label in range(4):
        clean = torch.full((6,), label)
        each = torch.stack([
            pl.backward_correction_loss(LOGITS, torch.full((6,), noisy), transition=NOISE,
                                        reduction="none")
            for noisy in range(4)
        ])  # fmt: skip
        expected = pl.cross_entropy_loss(LOGITS, clean, reduction="none")
        torch.testing.assert_close(NOISE[label] @ each, expected, rtol=1e-12, atol=1e-12)


def test_forward_correction_is_best_at_the_true_classes():
    """With p the true classes, the noisy labels are distributed as it says."""
    truth = numbers(6, 4, seed=1).softmax(1)
    loss = partial(pl.forward_correction_loss, target=truth @ NOISE, transition=NOISE)
    assert grad(loss)(truth.log()).abs().max() < 1e-15
    assert loss(truth.log()) < loss(truth.log() + 0.1 * numbers(6, 4, seed=2))


def test_without_noise_both_corrections_are_cross_entropy():
    expected = pl.cross_entropy_loss(LOGITS, LABELS)
    for loss in (pl.forward_correction_loss, pl.backward_correction_loss):
        found = loss(LOGITS, LABELS, transition=torch.eye(4, dtype=torch.float64))
        torch.testing.assert_close(found, expected)


def test_gce_is_between_cross_entropy_and_the_absolute_error():
    p = LOGITS.softmax(1).gather(1, LABELS.unsqueeze(1)).squeeze(1)
    linear = pl.generalized_cross_entropy_loss(LOGITS, LABELS, q=1.0)
    torch.testing.assert_close(linear, (1 - p).mean())
    found = pl.generalized_cross_entropy_loss(LOGITS, LABELS, q=1e-12)
    torch.testing.assert_close(found, -p.log().mean(), rtol=1e-10, atol=0)


def test_taylor_tends_to_cross_entropy_and_starts_at_the_absolute_error():
    p = LOGITS.softmax(1).gather(1, LABELS.unsqueeze(1)).squeeze(1)
    first = pl.taylor_cross_entropy_loss(LOGITS, LABELS, order=1)
    torch.testing.assert_close(first, (1 - p).mean())
    values = [pl.taylor_cross_entropy_loss(LOGITS, LABELS, order=n).item() for n in (2, 8, 32, 999)]
    assert values == sorted(values)
    assert values[-1] == pytest.approx(pl.cross_entropy_loss(LOGITS, LABELS).item(), rel=1e-9)


SYMMETRIC = {
    "NCE": pl.normalized_cross_entropy_loss,
    "APL": partial(pl.active_passive_loss, active="nfl", passive="rce"),
    "APL with MAE": pl.active_passive_loss,
    "GCE at 1": partial(pl.generalized_cross_entropy_loss, q=1.0),
    "reverse CE": partial(pl.symmetric_cross_entropy_loss, alpha=0.0),
}


@pytest.mark.parametrize("name", SYMMETRIC)
def test_losses_whose_sum_over_labels_is_constant(name):
    """So uniform noise does not move their minimum (Ghosh et al., arXiv:1712.09482)."""
    each = [SYMMETRIC[name](LOGITS, torch.full((6,), label), reduction="none")
            for label in range(4)]  # fmt: skip
    total = torch.stack(each).sum(0)
    torch.testing.assert_close(total, total[:1].expand(6))


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_bootstrap_is_cross_entropy_of_a_mixture_and_its_gradient_goes_through_it(kind):
    """Copies that cut off the soft opinion train with β times the cross-entropy."""
    target = torch.eye(4, dtype=torch.float64)[LABELS]
    loss = partial(pl.bootstrap_loss, kind=kind, beta=0.8)

    def mixed(logits):
        p = logits.softmax(1)
        opinion = p if kind == "soft" else torch.eye(4, dtype=torch.float64)[logits.argmax(1)]
        return pl.cross_entropy_loss(logits, 0.8 * target + 0.2 * opinion)

    torch.testing.assert_close(loss(LOGITS, LABELS), mixed(LOGITS))
    torch.testing.assert_close(grad(loss)(LOGITS, LABELS), grad(mixed)(LOGITS))
    p = LOGITS.softmax(1)
    cut = grad(lambda x: pl.cross_entropy_loss(x, 0.8 * target + 0.2 * p))(LOGITS)
    torch.testing.assert_close(cut, 0.8 * grad(pl.cross_entropy_loss)(LOGITS, LABELS))


@pytest.mark.parametrize("t1", [0.0, 0.5, 0.9])
def test_bi_tempered_is_bounded(t1):
    worst = pl.bi_tempered_loss(torch.tensor([[0.0, 1e4]]), torch.tensor([0]), t1=t1, t2=1.0)
    assert worst.item() == pytest.approx(1 / (1 - t1), rel=1e-5)


# State


def test_elr_pulls_towards_earlier_predictions():
    logits, target = torch.tensor([[0.0, 1.0]]), torch.tensor([0])
    average = torch.tensor([[0.0, 1.0]])  # it was believed to be the other class
    plain = grad(pl.cross_entropy_loss)(logits, target)
    held = grad(pl.elr_loss)(logits, target, average)
    assert plain[0, 0] < 0 < held[0, 0]
    free = pl.elr_loss(logits, target, average, lam=0.0)
    torch.testing.assert_close(free, pl.cross_entropy_loss(logits, target))


def test_elr_state():
    state = pl.elr_init(5, 3)
    before = state["average"].clone()
    logits, batch = torch.randn(2, 3, requires_grad=True), torch.tensor([4, 1])
    new = pl.elr_update(state, logits, batch, momentum=0.9)
    assert torch.equal(state["average"], before)
    assert not new["average"].requires_grad
    torch.testing.assert_close(new["average"][batch], 0.1 * logits.detach().softmax(1))
    assert (new["average"][torch.tensor([0, 2, 3])] == 0).all()
    again = pl.elr_update(new, logits, batch, momentum=0.9)
    torch.testing.assert_close(again["average"][batch], 0.19 * logits.detach().softmax(1))
    torch.compiler.reset()
    compiled = torch.compile(pl.elr_update, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(state, logits.detach(), batch)["average"],
                               pl.elr_update(state, logits.detach(), batch)["average"])  # fmt: skip
    many = vmap(lambda z: pl.elr_update(state, z, batch)["average"])(logits.detach()[None])
    torch.testing.assert_close(many[0], pl.elr_update(state, logits.detach(), batch)["average"])


# Values, computed once with NumPy in float64 from the formulas of the papers

SMALL = torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.0, 0.3, 0.7]], dtype=torch.float64)
Z, T = ((1.5, -0.5, 0.25), (-2.0, 0.75, 1.0), (0.0, 3.0, -1.0)), (0, 1, 2)
VALUES = [
    ("generalized_cross_entropy_loss", {}, 0.7667137780242506),
    ("symmetric_cross_entropy_loss", {}, 2.6472264527988965),
    ("normalized_cross_entropy_loss", {}, 0.27176393971303425),
    ("active_passive_loss", {}, 1.5075208366017154),
    ("taylor_cross_entropy_loss", {}, 0.8484798697331725),
    ("bootstrap_loss", {}, 1.7002737733106208),
    ("forward_correction_loss", {"transition": SMALL}, 1.1707914438818452),
    ("backward_correction_loss", {"transition": SMALL}, 2.1043488124375584),
    ("bi_tempered_loss", {}, 1.055636629136661),
    ("bi_tempered_loss", {"t1": 0.3, "t2": 2.5}, 0.4592945172439707),
]


@pytest.mark.parametrize(("name", "options", "value"), VALUES)
def test_values_of_the_papers(name, options, value):
    logits = torch.tensor(Z, dtype=torch.float64)
    found = getattr(pl, name)(logits, torch.tensor(T), **options)
    assert found.item() == pytest.approx(value, rel=1e-9)


# What peers get wrong


def test_toolbelt_bi_tempered_at_temperature_1():
    """toolbelt at t1 = t2 = 1 and a gap of 200: infinite, gradient NaN."""
    logits, label = torch.tensor([[0.0, 200.0]]), torch.tensor([0])
    loss = partial(pl.bi_tempered_loss, t1=1.0, t2=1.0)
    assert loss(logits, label).item() == 200
    torch.testing.assert_close(grad(loss)(logits, label), torch.tensor([[-1.0, 1.0]]))


def test_toolbelt_bi_tempered_normalises_in_5_iterations():
    """t2 = 4, logits times 50: probabilities that sum to 1.0085."""
    logits = 50 * numbers(4, 5)
    # At t1 = 0 the loss of a class without target is p² / 2; so its probabilities can be read off.
    zero = torch.zeros(4, 5, dtype=torch.float64)
    each = [pl.bi_tempered_loss(logits, torch.full((4,), c), t1=0.0, t2=4.0, reduction="none")
            for c in range(5)]  # fmt: skip
    # ℓ_c = 1 - p_c - ½ + ½ Σ p²
    squares = 2 * pl.bi_tempered_loss(logits, zero, t1=0.0, t2=4.0, reduction="none")
    total = sum(0.5 + squares / 2 - loss for loss in each)
    torch.testing.assert_close(total, torch.ones(4, dtype=torch.float64), rtol=1e-12, atol=0)


def test_toolbelt_bi_tempered_fails_every_transform():
    for t2 in (1.0, 1.2, 4.0):
        loss = partial(pl.bi_tempered_loss, t2=t2)
        loop = torch.stack([grad(loss)(x[None], y[None])[0]
                            for x, y in zip(LOGITS, LABELS, strict=True)])  # fmt: skip
        found = vmap(grad(loss))(LOGITS[:, None], LABELS[:, None])[:, 0]
        torch.testing.assert_close(found, loop)


def test_an_inverse_of_the_transition_loses_digits():
    """inv(T) of a nearly singular matrix times a vector; a solve is exact for what it is given."""
    e = 1e-6
    noise = torch.tensor([[0.5 + e, 0.5 - e], [0.5 - e, 0.5 + e]], dtype=torch.float64)
    logits = torch.tensor([[0.3, -0.4]], dtype=torch.float64)
    each = torch.stack([
        pl.backward_correction_loss(logits, torch.tensor([k]), transition=noise) for k in (0, 1)
    ])  # fmt: skip
    expected = pl.cross_entropy_loss(logits, torch.tensor([0]))
    torch.testing.assert_close(noise[0] @ each, expected, rtol=1e-9, atol=0)


def test_forward_correction_where_the_product_underflows():
    """log(pT) as written: minus infinity where every p that leads to the label is tiny."""
    logits = torch.tensor([[200.0, 0.0]])
    noise = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    loss = partial(pl.forward_correction_loss, transition=noise)
    assert loss(logits, torch.tensor([1])).item() == pytest.approx(200 + math.log(2))
    torch.testing.assert_close(grad(loss)(logits, torch.tensor([1])), torch.tensor([[1.0, -1.0]]))


def test_a_learnt_transition_gets_a_gradient():
    raw = torch.zeros(4, 4, dtype=torch.float64)
    slope = grad(lambda t: pl.forward_correction_loss(LOGITS, LABELS, transition=t.softmax(1)))(raw)
    assert slope.isfinite().all()
    assert slope.abs().max() > 0


def test_elr_of_a_prediction_that_is_sure_is_finite():
    """log(1 - <p, t>) at 1: minus infinity; the authors clamp the probabilities instead."""
    logits, average = torch.tensor([[200.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    for label in (0, 1):
        data = logits, torch.tensor([label]), average
        assert pl.elr_loss(*data).isfinite()
        assert grad(pl.elr_loss)(*data).isfinite().all()


# Bad input


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: pl.elr_init(0, 3), ValueError, "elr_init: `num_samples` must be at least 1, got 0"),
    (lambda: pl.elr_init(3, 2.0), TypeError, "elr_init: `num_classes` must be an int"),
    (lambda: pl.elr_update({}, torch.zeros(1, 3), torch.tensor([0])), ValueError,
     "elr_update: `state` must be {'average'} as elr_init makes it"),
    (lambda: pl.elr_update([], torch.zeros(1, 3), torch.tensor([0])), ValueError, "got list"),
    (lambda: pl.elr_update(pl.elr_init(5, 3), torch.zeros(1, 2), torch.tensor([0])), ValueError,
     "`logits` must have the shape"),
    (lambda: pl.elr_update(pl.elr_init(5, 3), torch.zeros(2, 3), torch.tensor([0])), ValueError,
     "`indices` must hold one number per row"),
    (lambda: pl.elr_update(pl.elr_init(5, 3), torch.zeros(1, 3), torch.tensor([0.0])), TypeError,
     "`indices` must"),
    (lambda: pl.elr_update(pl.elr_init(5, 3), torch.zeros(1, 3), torch.tensor([0]), momentum=2.0),
     ValueError, "`momentum` must"),
    (lambda: pl.elr_loss(LOGITS, LABELS, LOGITS[:, :2]), ValueError, "elr_loss: `average` must"),
    (lambda: pl.forward_correction_loss(LOGITS, LABELS, transition=torch.eye(3)), ValueError,
     r"`transition` must have the shape \(classes, classes\), \(4, 4\)"),
    (lambda: pl.backward_correction_loss(LOGITS, LABELS, transition=torch.eye(4).long()), TypeError,
     "`transition` must"),
    (lambda: pl.bi_tempered_loss(LOGITS, LABELS, t1=1.5), ValueError, "`t1` must"),
    (lambda: pl.bi_tempered_loss(LOGITS, LABELS, t2=0.5), ValueError, "`t2` must"),
    (lambda: pl.taylor_cross_entropy_loss(LOGITS, LABELS, order=0), ValueError, "`order` must"),
    (lambda: pl.active_passive_loss(LOGITS, LABELS, active="ce"), ValueError, "'nce', 'nfl'"),
    (lambda: pl.bootstrap_loss(LOGITS, LABELS, kind="softt"), ValueError, "'soft', 'hard'"),
    (lambda: pl.symmetric_cross_entropy_loss(LOGITS, LABELS, log_zero=1.0), ValueError,
     "`log_zero` must"),
])  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()

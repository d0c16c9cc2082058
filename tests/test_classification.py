"""Classification: confident rows to the last digit, identities, and what peers get wrong."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from hostile import LOGITS, SMALLEST, assert_exact, exact_grid, single
from mpmath import mp, mpf
from oracles import EXACT, exact_sigmoid, exact_softmax
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

import purelosses as pl

NAN, INF = math.nan, math.inf
GAPS = (0.0, 1e-8, 0.5, 5.0, 17.0, 20.0, 40.0, 60.0, 80.0, -1e-8, -0.5, -17.0, -40.0, -80.0, -1e4)


def rows_of(gaps):
    """Logits of three classes whose first is ahead by these gaps, also far from 0."""
    gaps = single(gaps)
    rows = torch.stack([gaps, torch.zeros_like(gaps), torch.zeros_like(gaps) - 1], 1)
    return torch.cat([rows, rows + 64.0])


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradient(loss, x, *data, **options):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(loss(x, *data, **options), x)[0]


# Numbers: p and 1 - p keep their digits up to a gap of 80

LINKS = {
    "cross-entropy": (pl.cross_entropy_loss, {}, lambda p, q: -mp.log(p)),
    "focal 2": (pl.softmax_focal_loss, {}, lambda p, q: -(q**2) * mp.log(p)),
    "focal ½": (pl.softmax_focal_loss, {"gamma": 0.5}, lambda p, q: -mp.sqrt(q) * mp.log(p)),
    "poly-1": (pl.poly1_loss, {}, lambda p, q: -mp.log(p) + q),
    "poly-1, -½": (pl.poly1_loss, {"epsilon": -0.5}, lambda p, q: -mp.log(p) - q / 2),
    "GCE": (pl.generalized_cross_entropy_loss, {"q": 0.75},
            lambda p, q: -mp.expm1(mp.mpf(0.75) * mp.log(p)) / mp.mpf(0.75)),
    "GCE, nearly 0": (pl.generalized_cross_entropy_loss, {"q": 2.0**-10},
                      lambda p, q: -mp.expm1(mp.log(p) * mp.mpf(2) ** -10) * mp.mpf(2) ** 10),
    "SCE": (pl.symmetric_cross_entropy_loss, {"alpha": 0.125},
            lambda p, q: -mp.log(p) / 8 + 4 * q),
    "NCE": (pl.normalized_cross_entropy_loss, {}, None),
    "Taylor": (pl.taylor_cross_entropy_loss, {"order": 3},
               lambda p, q: q + q**2 / 2 + q**3 / 3),
    "bi-tempered": (pl.bi_tempered_loss, {"t1": 1.0, "t2": 1.0}, lambda p, q: -mp.log(p)),
}  # fmt: skip


@pytest.mark.parametrize("name", LINKS)
def test_hostile_losses_of_the_margin(name):
    loss, options, link = LINKS[name]
    logits = rows_of(GAPS)
    for label in range(3):
        labels = torch.full((len(logits),), label)
        truth = []
        for row in logits.tolist():
            probs = exact_softmax(row)
            missed = mp.fsum(p for c, p in enumerate(probs) if c != label)
            if link is None:
                # A probability near 1 keeps its digits as the others' sum.
                logs = [mp.log(p) for p in probs]
                truth.append(logs[label] / mp.fsum(logs))
            else:
                truth.append(link(probs[label], missed))
        found = loss(logits, labels, reduction="none", **options)
        assert_exact(found, truth, 2e-6, list(zip(logits.tolist(), labels.tolist(), strict=True)))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_hostile_sigmoid_focal(gamma):
    # A power of σ(-88) below the smallest number is 0, and so is the loss.
    exact = partial(EXACT["sigmoid_focal_loss"], gamma=gamma)
    logits = [x for x in LOGITS if abs(x) < 1e5]
    exact_grid(pl.sigmoid_focal_loss, exact, logits, (0.0, 1.0), gamma=gamma)


def test_one_minus_p_at_a_gap_of_80():
    """1.8e-35: the focal loss squares it, poly-1 adds it."""
    logits, label = torch.tensor([[80.0, 0.0]]), torch.tensor([0])
    missed = mp.exp(-80) / (1 + mp.exp(-80))
    found = pl.poly1_loss(logits, label).reshape(1)
    assert_exact(found, [-mp.log(1 - missed) + missed], 2e-6, ["poly-1"])
    found = pl.softmax_focal_loss(logits, label, gamma=0.0).reshape(1)
    assert_exact(found, [-mp.log(1 - missed)], 2e-6, ["focal"])
    found = gradient(pl.poly1_loss, logits, label)[0]
    assert_exact(found, [-2 * missed, 2 * missed], 1e-5, ["p", "1 - p"])


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_hostile_asymmetric(clip):
    clip = single(clip).item()

    def exact(x, y):
        p, q = exact_sigmoid(x), exact_sigmoid(-mpf(x))
        if y == 1:
            return -q * mp.log(p)
        shifted = p - mpf(clip)
        return -(shifted**4) * mp.log(q + mpf(clip)) if shifted > 0 else mpf(0)

    logits = [x for x in (*LOGITS, -2.0, -4.0, 3.0, 9.0) if abs(x) < 1e5]
    exact_grid(pl.asymmetric_loss, exact, logits, (0.0, 1.0), clip=clip)


def softmax_of(row):
    row = [mpf(v) for v in row]
    parts = [mp.exp(v - max(row)) for v in row]
    return [part / mp.fsum(parts) for part in parts]


def divergence(p, q):
    return mp.fsum(a * mp.log(a / b) for a, b in zip(p, q, strict=True) if a)


def forward(y, p):
    return divergence(y, p)


def reverse(y, p):
    return divergence(p, y)


def jensen_shannon(y, p, beta):
    mixture = [beta * a + (1 - beta) * b for a, b in zip(y, p, strict=True)]
    return beta * divergence(y, mixture) + (1 - beta) * divergence(p, mixture)


DIVERGENCES = {
    "KL": (pl.kl_divergence_loss, {}, forward),
    "KL, reverse": (pl.kl_divergence_loss, {"direction": "reverse"}, reverse),
    "JS": (pl.js_divergence_loss, {}, partial(jensen_shannon, beta=mpf(0.5))),
    "JS, ¼": (pl.js_divergence_loss, {"beta": 0.25}, partial(jensen_shannon, beta=mpf(0.25))),
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_hostile_divergences(name):
    """Relative to the divergence, or to 0.1: below it float32 targets do not sum to 1 well enough.

    A divergence is a difference of two entropies; that of rows that nearly agree is the rounding
    of the target, which float32 has already lost.
    """
    loss, options, exact = DIVERGENCES[name]
    generator = torch.Generator().manual_seed(0)
    logits, shares = single(LOGITS[:-2]), single((1e-30, 1e-8, 0.1, 0.25, 0.5, 0.9, 1.0))
    x = logits[torch.randint(len(logits), (200, 3), generator=generator)]
    y = shares[torch.randint(len(shares), (200, 3), generator=generator)]
    y = y / y.sum(-1, keepdim=True)
    found = loss(x, y, reduction="none", **options)
    points = list(zip(x.tolist(), y.tolist(), strict=True))
    truth = [exact([mpf(v) for v in y], softmax_of(x)) for x, y in points]
    assert_exact(found, truth, 2e-6, points, floor=2e-7)


def drawn_rows(count, seed):
    """Logits of three classes at random, as float32 has them, and labels."""
    generator = torch.Generator().manual_seed(seed)
    grid = single([x for x in LOGITS if abs(x) < 1e5])
    rows = grid[torch.randint(len(grid), (count, 3), generator=generator)]
    return rows, torch.randint(3, (count,), generator=generator)


def entropy_of(probs):
    return -mp.fsum(p * mp.log(p) for p in probs if p)


def others(probs, label):
    """1 - p, which is the sum of the others."""
    return mp.fsum(p for c, p in enumerate(probs) if c != label)


def mean_of_missed(probs, label, exponent=0):
    parts = [others(probs, c) ** exponent * mp.log(p) for c, p in enumerate(probs)]
    return parts[label] / mp.fsum(parts)


OF_LABELS = {
    "entropy": (pl.confidence_penalty_loss, {"beta": 0.125},
                lambda p, y: (-mp.log(p[y]), -entropy_of(p) / 8)),
    "Brier": (pl.brier_loss, {}, lambda p, y: (
        others(p, y) ** 2, mp.fsum(q**2 for c, q in enumerate(p) if c != y))),
    "APL": (pl.active_passive_loss, {},
            lambda p, y: (mean_of_missed(p, y), 2 * others(p, y))),
    "NFL and RCE": (pl.active_passive_loss, {"active": "nfl", "passive": "rce"},
                    lambda p, y: (mean_of_missed(p, y, mpf(0.5)), 4 * others(p, y))),
    "bootstrap": (pl.bootstrap_loss, {"beta": 0.75},
                  lambda p, y: (-mpf(0.75) * mp.log(p[y]), entropy_of(p) / 4)),
    "hard bootstrap": (pl.bootstrap_loss, {"kind": "hard", "beta": 0.75},
                       lambda p, y: (-mpf(0.75) * mp.log(p[y]), -mp.log(max(p)) / 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_LABELS)
def test_hostile_losses_of_probabilities(name):
    """Relative to the sum of the two terms without their signs."""
    loss, options, terms = OF_LABELS[name]
    rows, labels = drawn_rows(200, seed=3)
    found = loss(rows, labels, reduction="none", **options)
    points = list(zip(rows.tolist(), labels.tolist(), strict=True))
    for got, (row, label) in zip(found, points, strict=True):
        parts = terms(exact_softmax(row), label)
        floor = max(SMALLEST, 2e-6 * mp.fsum(map(abs, parts)))
        assert_exact(got.reshape(1), [mp.fsum(parts)], 2e-6, [(row, label)], floor)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_hostile_distillation(temperature):
    """Relative to the loss, or to 0.1 as a divergence is."""
    rows, teacher = drawn_rows(200, seed=4)[0], drawn_rows(200, seed=5)[0]
    found = pl.knowledge_distillation_loss(rows, teacher, temperature=temperature,
                                           reduction="none")  # fmt: skip
    points = list(zip(rows.tolist(), teacher.tolist(), strict=True))
    truth = []
    for row, other in points:
        p, q = (softmax_of([v / temperature for v in x]) for x in (row, other))
        truth.append(mpf(temperature) ** 2 * divergence(q, p))
    assert_exact(found, truth, 2e-6, points, floor=2e-7 * temperature**2)


@pytest.mark.parametrize("power", [1, 2])
def test_hostile_hinges(power):
    logits = [x for x in LOGITS if abs(x) < 1e5]
    exact = lambda x, y: max(mpf(0), 1 - mpf(x) * mpf(y)) ** power  # noqa: E731
    exact_grid(pl.hinge_loss, exact, logits, (-1.0, 1.0), power=power)
    rows, labels = drawn_rows(200, seed=6)
    for kind, gather in (("crammer_singer", max), ("weston_watkins", mp.fsum)):
        truth = [
            gather([max(mpf(0), 1 + mpf(v) - mpf(row[y])) for c, v in enumerate(row) if c != y])
            for row, y in zip(rows.tolist(), labels.tolist(), strict=True)
        ]
        found = pl.multiclass_hinge_loss(rows, labels, kind=kind, reduction="none")
        # A margin within a unit of the last digit of 1.
        assert_exact(found, truth, 2e-6, rows.tolist(), floor=1.2e-7)


def test_hostile_soft_margin():
    exact_grid(pl.soft_margin_loss, lambda x, y: EXACT["binary_cross_entropy_loss"](x, (y + 1) / 2),
               [x for x in LOGITS if abs(x) < 1e5], (-1.0, 1.0))  # fmt: skip


@pytest.mark.parametrize("name", ["coral_loss", "corn_loss"])
def test_hostile_ranks(name):
    values = (0.0, 17.0, -17.0, 40.0, -40.0, 80.0, -80.0, 1e4, -1e4)
    logits = single(list(product(values, values)))
    for rank in range(3):
        truth = []
        for row in logits.tolist():
            asked = [k for k in range(2) if name == "coral_loss" or k <= rank]
            truth.append(mp.fsum(
                EXACT["binary_cross_entropy_loss"](row[k], float(rank > k)) for k in asked
            ))  # fmt: skip
        target = torch.full((len(logits),), rank)
        found = getattr(pl, name)(logits, target, reduction="none")
        assert_exact(found, truth, 2e-6, logits.tolist())


@pytest.mark.parametrize("gap", [1e-8, 1e-3, 1.0, 40.0])
def test_hostile_cumulative_link(gap):
    """σ(b) - σ(a) of cutpoints that nearly coincide, far from the score: no digit is left of it."""
    raw = single([float(mp.log(mp.expm1(mpf(gap))))])
    params = {"first": torch.tensor(-0.5), "gaps": raw}
    width = mp.log1p(mp.exp(mpf(raw.item())))
    low, high = mpf(-0.5), mpf(-0.5) + width
    scores = single([0.0, 0.25, -0.5, 17.0, -17.0, 40.0, -40.0, 80.0, -80.0])
    for label in range(3):
        truth = []
        for f in map(mpf, scores.tolist()):
            sigma = [mpf(0), 1 / (1 + mp.exp(f - low)), 1 / (1 + mp.exp(f - high)), mpf(1)]
            rest = [mpf(1), 1 / (1 + mp.exp(low - f)), 1 / (1 + mp.exp(high - f)), mpf(0)]
            difference = sigma[label + 1] - sigma[label] if f > 0 else rest[label] - rest[label + 1]
            truth.append(-mp.log(difference))
        found = pl.cumulative_link_loss(
            params, scores, torch.full((9,), label), reduction="none"
        )  # fmt: skip
        assert_exact(found, truth, 2e-6, scores.tolist())


# Identities

LOGIT, LABELS = numbers(6, 4), torch.tensor([0, 3, 1, 2, 0, 1])


@pytest.mark.parametrize(("loss", "options"), [
    (pl.softmax_focal_loss, {"gamma": 0.0}), (pl.poly1_loss, {"epsilon": 0.0}),
    (pl.generalized_cross_entropy_loss, {"q": 1e-13}),
    (pl.bi_tempered_loss, {"t1": 1.0, "t2": 1.0}), (pl.confidence_penalty_loss, {"beta": 0.0}),
    (pl.bootstrap_loss, {"beta": 1.0}), (pl.symmetric_cross_entropy_loss, {"alpha": 1, "beta": 0}),
])  # fmt: skip
def test_what_is_the_cross_entropy(loss, options):
    found = loss(LOGIT, LABELS, **options)
    expected = pl.cross_entropy_loss(LOGIT, LABELS)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    slopes = [gradient(f, LOGIT, LABELS) for f in (partial(loss, **options), pl.cross_entropy_loss)]
    torch.testing.assert_close(*slopes, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("a", [0.1, 0.5])
def test_label_smoothing_is_cross_entropy_plus_a_pull_to_the_mean_logit(a):
    own = LOGIT.gather(1, LABELS.unsqueeze(1)).squeeze(1)
    expected = pl.cross_entropy_loss(LOGIT, LABELS) + a * (own - LOGIT.mean(1)).mean()
    torch.testing.assert_close(
        pl.cross_entropy_loss(LOGIT, LABELS, label_smoothing=a), expected, rtol=1e-12, atol=0
    )
    dense = torch.eye(4, dtype=torch.float64)[LABELS]
    smoothed = pl.smooth_labels(dense, smoothing=a)
    torch.testing.assert_close(pl.cross_entropy_loss(LOGIT, smoothed), expected)


def test_binary_focal_without_focus_is_bce():
    target = (LOGIT > 0.3).double()
    for loss, options in (
        (pl.sigmoid_focal_loss, {"gamma": 0.0}),
        (pl.asymmetric_loss, {"gamma_neg": 0, "gamma_pos": 0, "clip": 0.0}),
    ):
        expected = pl.binary_cross_entropy_loss(LOGIT, target)
        torch.testing.assert_close(loss(LOGIT, target, **options), expected)  # fmt: skip


def test_poly1_is_the_series_of_cross_entropy_with_another_first_coefficient():
    probs = LOGIT.softmax(1).gather(1, LABELS.unsqueeze(1)).squeeze(1)
    series = sum((1 - probs) ** i / i for i in range(1, 3000)) + 0.7 * (1 - probs)
    found = pl.poly1_loss(LOGIT, LABELS, epsilon=0.7, reduction="none")
    torch.testing.assert_close(found, series, rtol=1e-9, atol=0)


def test_divergences():
    target = numbers(6, 4, seed=1).softmax(1)
    entropy = -(target * target.log()).sum(1)
    forward = pl.kl_divergence_loss(LOGIT, target, reduction="none")
    expected = pl.cross_entropy_loss(LOGIT, target, reduction="none") - entropy
    torch.testing.assert_close(forward, expected)
    swapped = pl.kl_divergence_loss(target.log(), LOGIT.softmax(1), direction="reverse")
    torch.testing.assert_close(swapped, forward.mean())
    even = pl.js_divergence_loss(LOGIT, target)
    torch.testing.assert_close(even, pl.js_divergence_loss(target.log(), LOGIT.softmax(1)))
    # Scaled by its weight, it tends to the forward divergence.
    small = pl.js_divergence_loss(LOGIT, target, beta=1e-7) / 1e-7
    torch.testing.assert_close(small, forward.mean(), rtol=1e-5, atol=0)


def test_distillation_at_high_temperature_matches_logits():
    """T² KL → the mean square of the centred differences, over 2, per class."""
    teacher = numbers(6, 4, seed=2)
    found = pl.knowledge_distillation_loss(LOGIT, teacher, temperature=1e4, reduction="none")
    difference = LOGIT - teacher
    difference = difference - difference.mean(1, keepdim=True)
    torch.testing.assert_close(found, difference.square().mean(1) / 2, rtol=1e-3, atol=0)


def test_knowledge_distillation_splits_into_target_and_rest():
    """KD = TCKD + (1 - p_t) NCKD, of Zhao et al., arXiv:2203.08679."""
    teacher = numbers(6, 4, seed=2)
    p, q = teacher.softmax(1), LOGIT.softmax(1)
    own, miss = (x.gather(1, LABELS.unsqueeze(1)) for x in (p, q))
    target = own * (own / miss).log() + (1 - own) * ((1 - own) / (1 - miss)).log()
    others = torch.arange(4) != LABELS.unsqueeze(1)
    a, b = p / (1 - own), q / (1 - miss)
    rest = torch.where(others, a * (a / b).log(), 0.0).sum(1, keepdim=True)
    expected = (target + (1 - own) * rest).mean()
    torch.testing.assert_close(pl.knowledge_distillation_loss(LOGIT, teacher), expected)


def test_brier_of_two_classes_is_twice_the_binary_one():
    logits, target = numbers(20), numbers(20, seed=1) > 0
    pair = torch.stack([torch.zeros(20, dtype=torch.float64), logits], 1)
    expected = 2 * pl.mse_loss(logits.sigmoid(), target)
    torch.testing.assert_close(pl.brier_loss(pair, target.long()), expected)


def test_hinges_of_two_classes_agree():
    pair = numbers(20, 2)
    labels = (numbers(20, seed=1) > 0).long()
    binary = pl.hinge_loss(pair[:, 1] - pair[:, 0], 2 * labels - 1)
    for kind in ("crammer_singer", "weston_watkins"):
        torch.testing.assert_close(pl.multiclass_hinge_loss(pair, labels, kind=kind), binary)


def test_corn_is_the_likelihood_of_the_ranks():
    logits = numbers(1, 3)
    each = [pl.corn_loss(logits, torch.tensor([rank])).neg().exp() for rank in range(4)]
    assert sum(each).item() == pytest.approx(1.0)


def test_cumulative_links_are_a_distribution_and_start_even():
    params = {k: v.double() for k, v in pl.cumulative_link_init(5).items()}
    score = torch.tensor([0.3], dtype=torch.float64)
    each = [pl.cumulative_link_loss(params, score, torch.tensor([k])).neg().exp() for k in range(5)]
    assert sum(each).item() == pytest.approx(1.0)
    middle = [pl.cumulative_link_loss(params, 0 * score, torch.tensor([k])) for k in range(5)]
    torch.testing.assert_close(middle, middle[::-1])
    two = pl.cumulative_link_init(2)
    found = pl.cumulative_link_loss(two, LOGIT.float(), (LOGIT > 1).long())
    torch.testing.assert_close(found, pl.binary_cross_entropy_loss(LOGIT.float(), LOGIT > 1))


def test_logit_adjustment_is_a_weighted_softmax():
    prior = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    adjusted = pl.logit_adjustment(LOGIT, prior.log())
    weighted = prior * LOGIT.exp()
    torch.testing.assert_close(adjusted.softmax(1), weighted / weighted.sum(1, keepdim=True))


def test_class_weights_between_none_and_inverse():
    counts = torch.tensor([1000.0, 100.0, 10.0, 0.0], dtype=torch.float64)
    assert pl.class_weights(counts, beta=0.0).tolist() == [1.0, 1.0, 1.0, 0.0]
    torch.testing.assert_close(
        pl.class_weights(counts, beta=1 - 1e-12), pl.class_weights(counts, kind="inverse"),
        rtol=1e-3, atol=0,
    )  # fmt: skip
    for kind in ("effective", "inverse", "sqrt_inverse"):
        assert pl.class_weights(counts, kind=kind).sum().item() == pytest.approx(3.0)
    root = pl.class_weights(counts, kind="sqrt_inverse")
    assert (root[2] / root[0]).item() == pytest.approx(10.0)


def test_effective_numbers_in_float32():
    """1 - β^n written as such: at β = 1 - 1e-7 float32 has one digit of it."""
    counts = torch.tensor([10, 1000, 100_000])
    beta = mpf(0.9999999)
    exact = [(1 - beta) / (1 - beta**n) for n in counts.tolist()]
    truth = [3 * w / mp.fsum(exact) for w in exact]
    assert_exact(pl.class_weights(counts, beta=0.9999999), truth, 2e-6, counts.tolist())


# Computed once with torch 2.13.0, scikit-learn 1.9.1 and SciPy 1.17.1 from these numbers; focal as
# torchvision's sigmoid_focal_loss writes it.

Z = ((1.5, -0.5, 0.25), (-2.0, 0.75, 1.0), (0.0, 3.0, -1.0))
T, Q = (0, 1, 2), ((0.5, 0.25, 0.25), (0.1, 0.6, 0.3), (0.2, 0.2, 0.6))
PEER_VALUES = [
    ("F.cross_entropy", pl.cross_entropy_loss, "labels", 1.757126590215336),
    (
        "F.cross_entropy(label_smoothing=0.1)",
        partial(pl.cross_entropy_loss, label_smoothing=0.1),
        "labels",
        1.7654599235486692,
    ),
    ("F.cross_entropy", pl.cross_entropy_loss, "probs", 1.761293256882003),
    (
        "F.binary_cross_entropy_with_logits",
        pl.binary_cross_entropy_loss,
        "mask",
        0.43149851181885646,
    ),
    ("F.soft_margin_loss", pl.soft_margin_loss, "signs", 0.43149851181885646),
    ("sklearn hinge_loss", pl.hinge_loss, "signs", 0.4444444444444444),
    ("sklearn hinge_loss of classes", pl.multiclass_hinge_loss, "labels", 2.0833333333333335),
    (
        "3 F.multi_margin_loss",
        partial(pl.multiclass_hinge_loss, kind="weston_watkins"),
        "labels",
        2.75,
    ),
    ("F.kl_div(reduction='batchmean')", pl.kl_divergence_loss, "probs", 0.7986475785720252),
    (
        "scipy rel_entr",
        partial(pl.kl_divergence_loss, direction="reverse"),
        "probs",
        0.5226180097777244,
    ),
    ("scipy jensenshannon squared", pl.js_divergence_loss, "probs", 0.1315051555364027),
    (
        "9 F.kl_div at temperature 3",
        partial(pl.knowledge_distillation_loss, temperature=3.0),
        "teacher",
        0.9103028644370356,
    ),
    ("sklearn brier_score_loss", pl.brier_loss, "labels", 0.8705990665295285),
    (
        "torchvision sigmoid_focal_loss",
        partial(pl.sigmoid_focal_loss, alpha=0.25),
        "mask",
        0.06007011159949581,
    ),
    ("-(1 - p)² log p in NumPy", pl.softmax_focal_loss, "labels", 1.4133115043133901),
    (
        "-log p + 2 (1 - p) in NumPy, as optax",
        partial(pl.poly1_loss, epsilon=2.0),
        "labels",
        2.992883487104018,
    ),
    (
        "AsymmetricLoss of the authors",
        partial(pl.asymmetric_loss, reduction="sum"),
        "mask",
        0.882627848766839,
    ),
    ("coral_pytorch's formula", pl.coral_loss, "labels", 2.877828868789903),
    ("coral_pytorch's corn, by samples", pl.corn_loss, "labels", 2.006736171597512),
    ("NumPy", pl.confidence_penalty_loss, "labels", 1.695119565003233),
]  # fmt: skip


@pytest.mark.parametrize(("peer", "loss", "data", "value"), PEER_VALUES)
def test_values_of_peers(peer, loss, data, value):
    first = torch.tensor(Z, dtype=torch.float64)
    second = {"labels": torch.tensor(T), "probs": torch.tensor(Q, dtype=torch.float64),
              "signs": torch.tensor([[1, -1, 1], [-1, -1, 1], [1, 1, -1]]),
              "mask": torch.tensor([[1, 0, 1], [0, 0, 1], [1, 1, 0]]),
              "teacher": 2 * torch.tensor(Q, dtype=torch.float64)}[data]  # fmt: skip
    assert loss(first, second).item() == pytest.approx(value, rel=1e-9), peer


# What peers get wrong


@pytest.mark.parametrize("margin", [-12.0, -89.0, -100.0, -1e4])
def test_torch_soft_margin_overflows(margin):
    """F.soft_margin_loss: infinite at a margin of -89 (float16: -12), gradient NaN."""
    dtype = torch.float16 if margin == -12 else torch.float32
    x = torch.tensor([margin], dtype=dtype)
    assert pl.soft_margin_loss(x, torch.tensor([1])).item() == pytest.approx(-margin, rel=1e-5)
    assert gradient(pl.soft_margin_loss, x, torch.tensor([1])).item() == pytest.approx(-1.0)


def test_torch_multilabel_soft_margin_broadcasts():
    """(6, 1) against (6,): 5.21 instead of 0.84; hinge_embedding and timm's ASL likewise."""
    for name in ("soft_margin_loss", "hinge_loss", "asymmetric_loss", "sigmoid_focal_loss"):
        with pytest.raises(ValueError, match=f"{name}: `target` must have the shape of"):
            getattr(pl, name)(torch.zeros(6, 1), torch.ones(6))


def test_torch_bce_of_a_sigmoid_saturates():
    """F.binary_cross_entropy(sigmoid(30), 0): 100, gradient 0."""
    x, y = torch.tensor([30.0]), torch.zeros(1)
    for loss in (pl.binary_cross_entropy_loss, partial(pl.sigmoid_focal_loss, gamma=0.0)):
        assert loss(x, y).item() == pytest.approx(30.0)
        assert gradient(loss, x, y).item() == pytest.approx(1.0)


def test_torch_kl_div_at_a_target_of_0():
    """F.kl_div, optax.kl_divergence: a NaN gradient by the target."""
    logits, target = torch.tensor([[1.0, 0.0, 2.0]]), torch.tensor([[0.4, 0.0, 0.6]])
    for loss in (pl.kl_divergence_loss, pl.js_divergence_loss):
        slopes = grad(loss, (0, 1))(logits, target)
        assert loss(logits, target).isfinite()
        assert all(slope.isfinite().all() for slope in slopes)


def test_torch_kl_div_mean_divides_by_all_elements():
    """F.kl_div(reduction="mean"): a tenth of the divergence for ten classes."""
    logits, target = numbers(5, 10), numbers(5, 10, seed=1).softmax(1)
    each = pl.kl_divergence_loss(logits, target, reduction="none")
    assert each.shape == (5,)
    assert pl.kl_divergence_loss(logits, target).item() == pytest.approx(each.mean().item())


SOFT = ("poly1_loss", "softmax_focal_loss", "kl_divergence_loss", "js_divergence_loss",
        "confidence_penalty_loss", "brier_loss", "generalized_cross_entropy_loss",
        "symmetric_cross_entropy_loss", "taylor_cross_entropy_loss", "bi_tempered_loss",
        "bootstrap_loss")  # fmt: skip


@pytest.mark.parametrize("name", SOFT)
def test_timm_poly_and_soft_targets_with_a_removed_class(name):
    """A logit of -inf whose target is 0: NaN in F.kl_div, timm SoftTarget and PolyCE (0 · inf).

    And in optax.kl_divergence.
    """
    loss = getattr(pl, name)
    logits, target = torch.tensor([[1.0, -INF, 0.5]]), torch.tensor([[0.7, 0.0, 0.3]])
    kept = torch.tensor([[1.0, 0.5]]), torch.tensor([[0.7, 0.3]])
    torch.testing.assert_close(loss(logits, target), loss(*kept))
    found = gradient(loss, logits, target)
    assert found[0, 1] == 0
    torch.testing.assert_close(found[:, [0, 2]], gradient(loss, *kept))


def test_optax_smooth_labels_leaves_a_share_on_excluded_classes():
    """optax.smooth_labels(where): [.95, .05, .05]."""
    target, where = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[True, True, False]])
    found = pl.smooth_labels(target, smoothing=0.1, where=where)
    torch.testing.assert_close(found, torch.tensor([[0.95, 0.05, 0.0]]))


def test_torch_label_smoothing_of_a_removed_class():
    """F.cross_entropy of (1, 2, -inf): infinite. Spread over the classes that exist: 1.263."""
    logits = torch.tensor([[1.0, 2.0, -INF]])
    target = pl.smooth_labels(torch.tensor([[1.0, 0.0, 0.0]]), smoothing=0.1, where=logits > -INF)
    loss = pl.cross_entropy_loss(logits, target)
    assert loss.item() == pytest.approx(1.263, abs=5e-4)
    assert gradient(pl.cross_entropy_loss, logits, target).isfinite().all()


def test_optax_poly_loss_of_a_confident_row():
    """optax.poly_loss_cross_entropy at a gap of 20: 0, where it is 4.1e-9."""
    found = pl.poly1_loss(torch.tensor([[20.0, 0.0]]), torch.tensor([0]))
    assert found.item() == pytest.approx(2 * math.exp(-20), rel=1e-5)


@pytest.mark.parametrize("name", ["poly1_loss", "multiclass_hinge_loss", "softmax_focal_loss"])
@pytest.mark.parametrize("label", [-1, 5])
def test_optax_integer_labels_out_of_range(name, label):
    """optax: -1 is the last class (0.41), 5 of 3 NaN; SMP focal: 0.4264."""
    with pytest.raises(ValueError, match=f"{name}: `target` must hold class labels.*got {label}"):
        getattr(pl, name)(torch.zeros(1, 3), torch.tensor([label]))


@pytest.mark.parametrize("gap", [110.0, 1e4])
def test_timm_jsd_of_confident_views(gap):
    """timm JsdCrossEntropy: NaN gradients from a gap of 110 on, even of views that agree."""
    logits = torch.tensor([[gap, 0.0, 0.0]])
    for other, value in ((logits, 0.0), (logits.flip(1), math.log(2))):
        target = other.softmax(1)
        assert pl.js_divergence_loss(logits, target).item() == pytest.approx(value, abs=1e-7)
        assert grad(pl.js_divergence_loss)(logits, target).isfinite().all()
        found = grad(partial(pl.knowledge_distillation_loss, temperature=2.0))(logits, other)
        assert found.isfinite().all()


@pytest.mark.parametrize("logit", [-17.0, -19.0, -20.0, -40.0, -88.0, -1e4])
def test_timm_asl_forgets_confident_misses(logit):
    """timm AsymmetricLossMultiLabel: at -19 a gradient of -1e-7 and a loss of 18.42, not 19."""
    x, y = torch.tensor([logit]), torch.tensor([1.0])
    assert pl.asymmetric_loss(x, y).item() == pytest.approx(-logit, rel=1e-5)
    assert gradient(pl.asymmetric_loss, x, y).item() == pytest.approx(-1.0, rel=1e-4)


@pytest.mark.parametrize("logit", [-1e4, -40.0, 40.0, 1e4])
def test_timm_focusing_below_1(logit):
    """timm ASL and PolyBCE with γ < 1 at ±40, and x ** γ at 0 everywhere: NaN gradients."""
    x = torch.tensor([logit])
    for y in (torch.zeros(1), torch.ones(1)):
        for loss in (
            partial(pl.asymmetric_loss, gamma_pos=0.5, gamma_neg=0.5),
            partial(pl.sigmoid_focal_loss, gamma=0.5),
        ):
            assert gradient(loss, x, y).isfinite().all()  # fmt: skip
    row = torch.tensor([[logit, 0.0]])
    focal = partial(pl.softmax_focal_loss, gamma=0.5)
    assert all(gradient(focal, row, torch.tensor([k])).isfinite().all() for k in (0, 1))


def test_toolbelt_softmax_focal_without_focus_is_not_cross_entropy():
    """toolbelt softmax_focal_loss_with_logits(gamma=0): 1.133, BCE on logits, for a CE of 0.170."""
    logits = torch.tensor([[2.0, 0.0, -1.0]])
    found = pl.softmax_focal_loss(logits, torch.tensor([0]), gamma=0.0)
    assert found.item() == pytest.approx(0.16985, abs=1e-5)


def test_torch_logaddexp_has_no_second_derivative():
    """torch.logaddexp at -100: NaN; so in naive JS and focal losses."""
    x, y = torch.tensor([-100.0, 0.3, 100.0]), torch.tensor([0.0, 1.0, 1.0])
    for loss in (pl.sigmoid_focal_loss, pl.soft_margin_loss, pl.binary_cross_entropy_loss):
        target = 2 * y - 1 if loss is pl.soft_margin_loss else y
        second = jacrev(jacrev(loss))(x, target)
        assert second.isfinite().all()
        torch.testing.assert_close(jacfwd(jacfwd(loss))(x, target), second)
    logits, target = torch.tensor([[100.0, 0.0, -5.0]]), torch.tensor([[0.0, 0.5, 0.5]])
    assert hessian(pl.js_divergence_loss)(logits, target).isfinite().all()


def test_torch_soft_margin_and_multi_margin_in_forward_mode():
    """F.multi_margin_loss has no jvp, F.soft_margin_loss none of its gradient."""
    logits, labels = numbers(3, 4), torch.tensor([0, 3, 1])
    for kind in ("crammer_singer", "weston_watkins"):
        loss = partial(pl.multiclass_hinge_loss, target=labels, kind=kind)
        _, tangent = jvp(loss, (logits,), (numbers(3, 4, seed=1),))
        torch.testing.assert_close(tangent, (grad(loss)(logits) * numbers(3, 4, seed=1)).sum())
    assert jacfwd(grad(pl.soft_margin_loss))(logits, logits.sign()).isfinite().all()


PER_SAMPLE = ("poly1_loss", "softmax_focal_loss", "multiclass_hinge_loss", "brier_loss",
              "confidence_penalty_loss")  # fmt: skip


@pytest.mark.parametrize("name", PER_SAMPLE)
def test_torch_one_hot_breaks_per_sample_gradients(name):
    logits, labels = numbers(5, 1, 3), torch.tensor([[0], [2], [1], [1], [0]])
    loss = getattr(pl, name)
    loop = torch.stack([grad(loss)(x, y) for x, y in zip(logits, labels, strict=True)])
    torch.testing.assert_close(vmap(grad(loss))(logits, labels), loop)


def test_coral_pytorch_corn_depends_on_the_batch():
    """It divides by the questions asked, so that a sample's loss depends on the others'."""
    logits, target = numbers(6, 3), torch.tensor([0, 3, 1, 2, 0, 1])
    each = pl.corn_loss(logits, target, reduction="none")
    torch.testing.assert_close(pl.corn_loss(logits, target), each.mean())
    theirs = each.sum() / (target + 1).clamp_max(3).sum()
    assert abs(theirs - each.mean()) > 0.1


# Bad input


@pytest.mark.parametrize(("params", "message"), [
    ([0.0], "`params` must be {'first', 'gaps'} as cumulative_link_init makes it, got list"),
    ({"first": torch.tensor(0.0)}, r"`params` must be .* got \['first'\]"),
    ({"first": torch.zeros(1), "gaps": torch.zeros(2)}, r"`params\['first'\]` must have 0 axes"),
    ({"first": torch.tensor(0.0), "gaps": torch.zeros(1, 2)}, r"`params\['gaps'\]` must have 1"),
])  # fmt: skip
def test_bad_parameters_of_cumulative_links(params, message):
    with pytest.raises(ValueError, match=f"^cumulative_link_loss: {message}"):
        pl.cumulative_link_loss(params, torch.zeros(3), torch.tensor([0, 1, 2]))


def test_other_bad_input_of_cumulative_links():
    params = pl.cumulative_link_init(3)
    with pytest.raises(TypeError, match=r"`params\['first'\]` must be a floating"):
        pl.cumulative_link_loss({**params, "first": torch.tensor(0)}, torch.zeros(1),
                                torch.tensor([0]))  # fmt: skip
    with pytest.raises(ValueError, match=r"`target` must hold class labels.*got 3"):
        pl.cumulative_link_loss(params, torch.zeros(1), torch.tensor([3]))
    with pytest.raises(ValueError, match="`num_classes` must be at least 2, got 1"):
        pl.cumulative_link_init(1)


TRANSFORM_ERRORS = [
    (pl.smooth_labels, (torch.tensor([0, 1]),), {}, TypeError, "`target` must be a floating"),
    (pl.smooth_labels, (torch.zeros(2, 3),), {"smoothing": 1.5}, ValueError, "`smoothing` must"),
    (pl.smooth_labels, (torch.zeros(2, 3),), {"kind": "even"}, ValueError, "'uniform', 'binary'"),
    (pl.smooth_labels, (torch.zeros(2, 3),), {"where": torch.ones(2, 3)}, TypeError, "bool"),
    (pl.logit_adjustment, (torch.zeros(2, 3), torch.zeros(2)), {}, ValueError, "`log_prior` must"),
    (pl.logit_adjustment, (torch.zeros(2, 3), torch.tensor([1, 2, 3])), {}, TypeError, "floating"),
    (pl.ldam_margins, (torch.ones(2, 2),), {}, ValueError, "hold one number per class"),
    (pl.ldam_margins, (torch.ones(2),), {"max_margin": -1.0}, ValueError, "`max_margin` must"),
    (pl.class_weights, (torch.ones(2),), {"kind": "effectiv"}, ValueError, "'effective', 'inv"),
    (pl.class_weights, (torch.ones(2),), {"beta": 1.0}, ValueError, "`beta` must"),
]


@pytest.mark.parametrize(("function", "data", "options", "error", "message"), TRANSFORM_ERRORS)
def test_bad_input_of_transforms(function, data, options, error, message):
    with pytest.raises(error, match=message) as caught:
        function(*data, **options)
    assert str(caught.value).startswith(f"{function.__name__}: ")


def test_transforms_of_logits_and_targets_under_vmap_and_compile():
    logits, prior = torch.randn(5, 3), torch.tensor([0.2, 0.3, 0.5]).log()
    each = vmap(lambda x: pl.logit_adjustment(x, prior, class_dim=-1))(logits)
    torch.testing.assert_close(each, pl.logit_adjustment(logits, prior))
    torch.compiler.reset()
    counts = torch.tensor([5, 50, 500])
    for function in (pl.class_weights, pl.ldam_margins):
        compiled = torch.compile(function, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(counts), function(counts))
    smooth = torch.compile(pl.smooth_labels, backend="eager", fullgraph=True)
    target = logits.softmax(1)
    for a in (0.1, 0.2):
        torch.testing.assert_close(smooth(target, smoothing=torch.tensor(a)),
                                   pl.smooth_labels(target, smoothing=a))  # fmt: skip


def test_rare_classes_get_margins_and_nobody_gets_nan():
    counts = torch.tensor([10_000, 625, 16, 0])
    assert pl.ldam_margins(counts).tolist() == pytest.approx([0.1, 0.2, 0.5, 0.5])
    nobody = torch.zeros(3)
    for function in (pl.ldam_margins, pl.class_weights):
        assert np.isfinite(function(nobody).numpy()).all()
    assert SMALLEST > 0

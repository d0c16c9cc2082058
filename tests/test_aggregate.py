"""Many losses, one number: against NumPy, in transforms, at the limits, and bad input."""

import math
import pickle
from functools import partial

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import lambertw, logsumexp
from torch.func import grad, hessian, jvp, vmap

import purelosses as pl

INF, NAN = math.inf, math.nan


def numbers(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).abs().to(dtype)


# The definitions, once more, in NumPy


def topk(x, k=None, fraction=None):
    k = k if fraction is None else max(1, round(fraction * len(x)))
    return np.sort(x)[::-1][:k].mean()


def ohem(x, threshold, min_kept=1):
    ranked = np.sort(x)[::-1]
    return ranked[(ranked > threshold) | (np.arange(len(x)) < min_kept)].mean()


def trimmed(x, keep):
    return np.sort(x)[: max(1, round(keep * len(x)))].mean()


def cvar(x, alpha):
    """The minimum over c, which is at one of the losses."""
    return min(c + np.maximum(x - c, 0).mean() / alpha for c in x)


def tilted(x, t):
    return (logsumexp(t * x) - np.log(len(x))) / t if t else x.mean()


def kl(x, rho):
    """The dual, minimised over log t."""

    def dual(log_t):
        t = np.exp(log_t)
        return rho / t + tilted(x, t)

    options = {"method": "bounded", "options": {"xatol": 1e-10}}
    return min(minimize_scalar(dual, bounds=(a, a + 6), **options).fun for a in range(-12, 12, 3))


def chi2(x, rho):
    """The dual of Shapiro: c + sqrt((1 + 2 rho) mean (x - c)+²), minimised over c."""

    def dual(c):
        return c + np.sqrt((1 + 2 * rho) * (np.maximum(x - c, 0) ** 2).mean())

    span = 20 * (np.ptp(x) + 1e-9) / np.sqrt(2 * rho + 1e-12)
    return minimize_scalar(dual, bounds=(x.max() - span, x.max()), method="bounded",
                           options={"xatol": 1e-12, "maxiter": 2000}).fun  # fmt: skip


def superloss(x, tau, lam=1.0):
    y = np.maximum(-2 / np.e, (x - tau) / lam) / 2
    # SciPy has NaN at -1/e itself, where it is -1.
    w = np.where(y * np.e < -1 + 1e-12, -1.0, np.real(lambertw(y)))
    sigma = np.exp(-w)
    return np.mean((x - tau) * sigma + lam * np.log(sigma) ** 2)


CASES = {
    "topk_mean": [(pl.topk_mean, topk, options)
                  for options in ({"k": 3}, {"k": 1}, {"fraction": 0.25}, {"fraction": 1.0})],
    "ohem_mean": [(pl.ohem_mean, ohem, {"threshold": 0.7}),
                  (pl.ohem_mean, ohem, {"threshold": 50.0, "min_kept": 4})],
    "trimmed_mean": [(pl.trimmed_mean, trimmed, {"keep": 0.6}),
                     (pl.trimmed_mean, trimmed, {"keep": 0.01})],
    "cvar": [(pl.cvar, cvar, {"alpha": a}) for a in (0.05, 0.33, 0.5, 1.0)],
    "tilted_mean": [(pl.tilted_mean, tilted, {"t": t}) for t in (-30.0, -1.0, 0.0, 0.5, 30.0)],
    "kl_dro": [(pl.kl_dro, kl, {"rho": r}) for r in (0.01, 0.2, 1.0)],
    "chi2_dro": [(pl.chi2_dro, chi2, {"rho": r}) for r in (0.01, 0.2, 2.0)],
    "superloss": [(pl.superloss, superloss, {"tau": t, "lam": s})
                  for t, s in ((0.7, 1.0), (0.2, 0.25), (3.0, 1.0))],
}  # fmt: skip
ALL = [
    pytest.param(*case, id=f"{name}-{case[2]}") for name, cases in CASES.items() for case in cases
]
FIRST = [pytest.param(cases[0][0], cases[0][2], id=name) for name, cases in CASES.items()]
TOLERANCE = {"kl_dro": 1e-8, "chi2_dro": 1e-8}


@pytest.mark.parametrize(("aggregator", "oracle", "options"), ALL)
def test_against_numpy(aggregator, oracle, options):
    rtol = TOLERANCE.get(aggregator.__name__, 1e-12)
    for seed in range(3):
        losses = numbers(4, 5, seed=seed)
        expected = oracle(losses.numpy().ravel(), **options)
        assert aggregator(losses, **options).item() == pytest.approx(expected, rel=rtol)
        where = numbers(4, 5, seed=seed + 10) > 0.5
        expected = oracle(losses.numpy()[where.numpy()], **options)
        spoilt = torch.where(where, losses, NAN)
        assert aggregator(spoilt, where=where, **options).item() == pytest.approx(
            expected, rel=rtol
        )


@pytest.mark.parametrize(("aggregator", "options"), FIRST)
def test_transforms(aggregator, options):
    """vmap, per-row gradients, forward mode and second derivatives are those of a loop."""
    losses = numbers(3, 7)
    f = partial(aggregator, **options)
    torch.testing.assert_close(vmap(f)(losses), torch.stack([f(row) for row in losses]))
    torch.testing.assert_close(vmap(grad(f))(losses), torch.stack([grad(f)(x) for x in losses]))
    _, tangent = jvp(f, (losses,), (torch.ones_like(losses),))
    torch.testing.assert_close(tangent, grad(f)(losses).sum())
    assert hessian(f)(losses[0]).isfinite().all()
    where = torch.tensor([True, False, True, True, False, True, True])
    masked = vmap(lambda x: f(x, where=where))(losses)
    torch.testing.assert_close(masked, torch.stack([f(row[where]) for row in losses]))
    assert torch.autograd.gradcheck(f, losses[0].clone().requires_grad_())


@pytest.mark.parametrize(("aggregator", "options"), FIRST)
def test_one_graph_for_every_number_of_losses_and_every_option(aggregator, options):
    torch.compiler.reset()
    calls = []

    def backend(graph, inputs):
        calls.append(graph)
        return graph.forward

    compiled = torch.compile(aggregator, backend=backend, fullgraph=True, dynamic=True)
    tensors = {k: torch.tensor(v) if isinstance(v, float) else v for k, v in options.items()}
    for size, scale in ((18, 1.0), (22, 0.9), (26, 0.8)):
        losses = numbers(size, dtype=torch.float32)
        scheduled = {k: v * scale if isinstance(v, torch.Tensor) else v for k, v in tensors.items()}
        torch.testing.assert_close(
            compiled(losses, **scheduled), aggregator(losses, **scheduled), rtol=1e-5, atol=1e-6
        )
    assert len(calls) == 1


@pytest.mark.parametrize(("aggregator", "options"), FIRST)
def test_static_shapes_without_data(aggregator, options):
    assert aggregator(torch.zeros(3, 4, device="meta"), **options).shape == ()


@pytest.mark.parametrize(("aggregator", "options"), FIRST)
def test_nothing_counts(aggregator, options):
    losses = torch.full((3,), NAN)
    where = torch.zeros(3, dtype=torch.bool)
    f = partial(aggregator, where=where, **options)
    assert f(losses) == 0
    assert (grad(f)(losses) == 0).all()
    assert aggregator(torch.zeros(0), **options) == 0


@pytest.mark.parametrize(("aggregator", "options"), FIRST)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(aggregator, options, dtype):
    losses = (300 * numbers(2000)).to(dtype)
    found = aggregator(losses, **options)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(aggregator(losses.double(), **options).item(), rel=1e-5)


@pytest.mark.parametrize(("aggregator", "options"), FIRST)
def test_equal_losses_keep_their_value(aggregator, options):
    losses = torch.full((5,), 0.75, dtype=torch.float64)
    expected = 0.75 if aggregator is not pl.superloss else superloss(losses.numpy(), **options)
    assert aggregator(losses, **options).item() == pytest.approx(expected, rel=1e-12)
    assert grad(partial(aggregator, **options))(losses).isfinite().all()


# Limits


LOSSES = numbers(9)


@pytest.mark.parametrize("f", [
    partial(pl.topk_mean, fraction=1.0), partial(pl.topk_mean, k=100), partial(pl.cvar, alpha=1.0),
    partial(pl.trimmed_mean, keep=1.0), partial(pl.ohem_mean, threshold=-1.0),
    partial(pl.tilted_mean, t=0.0), partial(pl.tilted_mean, t=1e-13),
    partial(pl.tilted_mean, t=torch.tensor(0.0)), partial(pl.kl_dro, rho=0.0),
    partial(pl.chi2_dro, rho=0.0), partial(pl.cvar, alpha=torch.tensor(1.0)),
])  # fmt: skip
def test_what_is_the_mean(f):
    # The worst case in a ball of radius 0 is found by halving, to the square root of a digit.
    tolerance = 1e-5 if f.keywords.get("rho") == 0 else 1e-12
    assert f(LOSSES).item() == pytest.approx(LOSSES.mean().item(), rel=tolerance)
    torch.testing.assert_close(grad(f)(LOSSES), torch.full_like(LOSSES, 1 / 9), rtol=1e-4, atol=0)


@pytest.mark.parametrize("f", [
    partial(pl.topk_mean, k=1), partial(pl.cvar, alpha=0.01), partial(pl.tilted_mean, t=1e8),
    partial(pl.kl_dro, rho=math.log(9) + 1), partial(pl.chi2_dro, rho=10.0),
    partial(pl.ohem_mean, threshold=1e9),
])  # fmt: skip
def test_what_is_the_largest(f):
    assert f(LOSSES).item() == pytest.approx(LOSSES.max().item(), rel=1e-6)


def test_cvar_is_the_mean_of_the_top_where_alpha_n_is_whole():
    torch.testing.assert_close(pl.cvar(LOSSES, alpha=3 / 9), pl.topk_mean(LOSSES, k=3))


def test_chi2_is_mean_and_deviation_for_small_balls():
    rho = 0.01
    expected = LOSSES.mean() + (2 * rho * LOSSES.var(correction=0)).sqrt()
    torch.testing.assert_close(pl.chi2_dro(LOSSES, rho=rho), expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("f", [partial(pl.kl_dro, rho=0.3), partial(pl.chi2_dro, rho=0.3)])
def test_the_gradient_is_the_worst_weighting(f):
    q = grad(f)(LOSSES)
    assert q.min() >= 0
    assert q.sum().item() == pytest.approx(1.0)
    assert (q @ LOSSES).item() == pytest.approx(f(LOSSES).item(), rel=1e-6)
    n = len(q)
    if f.func is pl.kl_dro:
        divergence = torch.special.xlogy(q, n * q).sum()
    else:
        divergence = (n * q - 1).square().mean() / 2
    assert divergence.item() == pytest.approx(0.3, rel=1e-5)


def test_tilted_mean_of_huge_and_of_tiny_losses():
    """log of a mean of exponentials, as written: infinite from 89 on, and 0 below 1e-8."""
    for scale in (1e4, 1e-6):
        losses = (scale * numbers(9)).float()
        expected = tilted(losses.double().numpy(), 1.0) if scale > 1 else None
        found = pl.tilted_mean(losses, t=1.0).item()
        if scale > 1:
            assert found == pytest.approx(expected, rel=1e-6)
        else:
            assert found == pytest.approx(losses.double().mean().item(), rel=1e-5)


# State


def test_group_dro_follows_the_algorithm():
    state, groups = pl.group_dro_init(3), torch.tensor([[0, 2], [2, 0]])
    losses = torch.tensor([[1.0, 4.0], [2.0, 3.0]])
    means = np.array([2.0, 0.0, 3.0])  # group 1 has nobody here
    weights = np.ones(3) / 3
    for _ in range(4):
        assert pl.group_dro(state, losses, groups).item() == pytest.approx(
            weights @ means, rel=1e-6
        )
        before = state["log_weights"].clone()
        new = pl.group_dro_update(state, losses, groups, eta=0.5)
        assert torch.equal(before, state["log_weights"])
        weights = weights * np.exp(0.5 * means)
        weights /= weights.sum()
        np.testing.assert_allclose(new["log_weights"].exp(), weights, rtol=1e-5)
        state = new


def test_group_dro_under_transforms():
    state, groups = pl.group_dro_init(2), torch.tensor([0, 1, 1, 0])
    losses = numbers(3, 4, dtype=torch.float32)
    each = vmap(lambda x: pl.group_dro(state, x, groups))(losses)
    loop = torch.stack([pl.group_dro(state, x, groups) for x in losses])
    torch.testing.assert_close(each, loop)
    new = vmap(lambda x: pl.group_dro_update(state, x, groups)["log_weights"])(losses)
    assert new.shape == (3, 2)
    torch.compiler.reset()
    compiled = torch.compile(pl.group_dro_update, backend="eager", fullgraph=True)
    expected = pl.group_dro_update(state, losses[0], groups, eta=0.1)["log_weights"]
    found = compiled(state, losses[0], groups, eta=torch.tensor(0.1))["log_weights"]
    torch.testing.assert_close(found, expected)
    parameter = losses[0].clone().requires_grad_()
    assert not pl.group_dro_update(state, parameter, groups)["log_weights"].requires_grad
    where = torch.tensor([True, True, False, False])
    spoilt = torch.where(where, losses[0], NAN)
    assert pl.group_dro(state, spoilt, groups, where=where).item() == pytest.approx(
        losses[0, :2].mean().item(), rel=1e-6
    )


def test_group_dro_for_a_long_time_does_not_underflow():
    """Weights in their logarithm: a product of exponentials is 0 after a thousand steps."""
    state, groups = pl.group_dro_init(2), torch.tensor([0, 1])
    for _ in range(50):
        state = pl.group_dro_update(state, torch.tensor([0.0, 10.0]), groups, eta=1.0)
    assert state["log_weights"][0].item() == pytest.approx(-500, rel=1e-5)
    for _ in range(50):
        state = pl.group_dro_update(state, torch.tensor([10.0, 0.0]), groups, eta=1.0)
    assert state["log_weights"].exp().tolist() == pytest.approx([0.5, 0.5], rel=1e-3)


# Weights


def test_self_paced_weights():
    losses = torch.tensor([0.0, 0.25, 0.5, 2.0])
    weights = partial(pl.self_paced_weights, losses, threshold=0.5)
    assert weights().tolist() == [1, 1, 0, 0]
    assert weights(kind="linear").tolist() == [1, 0.5, 0, 0]
    expected = [1, math.log(0.75) / math.log(0.5), 0, 0]
    assert weights(kind="log").tolist() == pytest.approx(expected)
    for kind in ("hard", "linear", "log"):
        tensor = pl.self_paced_weights(losses, threshold=torch.tensor(0.5), kind=kind)
        torch.testing.assert_close(tensor, weights(kind=kind))
        learnt = losses.clone().requires_grad_()
        assert not pl.self_paced_weights(learnt, threshold=0.5, kind=kind).requires_grad
        each = vmap(lambda x: pl.self_paced_weights(x, threshold=0.5, kind=kind))(losses)  # noqa: B023
        torch.testing.assert_close(each, weights(kind=kind))


def test_the_minimum_of_self_pacing_is_attained():
    """w minimises w ℓ + f(w), with f = -θ w and θ (w² / 2 - w), of Jiang et al."""
    losses, theta = torch.tensor([0.1, 0.4, 0.6]).double(), 0.5
    grid = torch.linspace(0, 1, 10_001, dtype=torch.float64)[:, None]
    for kind, f in (("hard", -theta * grid), ("linear", theta * (grid**2 / 2 - grid))):
        best = grid[(grid * losses + f).argmin(0), 0]
        found = pl.self_paced_weights(losses, threshold=theta, kind=kind)
        torch.testing.assert_close(found, best, rtol=0, atol=1e-4)


# Combined with losses


def test_aggregated():
    logits, labels = numbers(8, 3), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    loss = pl.aggregated(pl.cross_entropy_loss, pl.topk_mean, fraction=0.25)
    each = pl.cross_entropy_loss(logits, labels, reduction="none")
    assert loss(logits, labels).item() == pytest.approx(each.topk(2).values.mean().item())
    where = torch.arange(8) < 4
    assert loss(logits, labels, where=where).item() == pytest.approx(each[:4].max().item())
    assert repr(loss) == "aggregated(cross_entropy_loss, topk_mean, fraction=0.25)"
    again = pickle.loads(pickle.dumps(loss))
    assert again == loss
    assert again(logits, labels) == loss(logits, labels)
    torch.testing.assert_close(
        vmap(grad(loss))(logits[None], labels[None])[0], grad(loss)(logits, labels)
    )
    torch.compiler.reset()
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(logits, labels), loss(logits, labels))
    smoothed = pl.aggregated(
        partial(pl.cross_entropy_loss, label_smoothing=0.1), pl.cvar, alpha=0.5
    )
    assert smoothed(logits, labels).isfinite()


@pytest.mark.parametrize(("aggregator", "options"), FIRST)
def test_every_aggregator_is_also_a_combinator(aggregator, options):
    x, y = numbers(6, 2), numbers(6, 2, seed=1)
    loss = pl.aggregated(pl.mse_loss, aggregator, **options)
    expected = aggregator((x - y).square(), **options)
    torch.testing.assert_close(loss(x, y), expected)
    where = x > 0.4
    garbage = torch.where(where, x, NAN)
    masked = aggregator((x - y).square(), where=where, **options)
    torch.testing.assert_close(loss(garbage, y, where=where), masked)
    assert grad(loss)(garbage, y, where=where)[~where].eq(0).all()


def test_hard_regions_of_dice():
    prediction, mask = numbers(5, 8).clamp(0, 1), (numbers(5, 8, seed=1) > 0.7).double()
    loss = pl.aggregated(partial(pl.dice_loss, dim=1), pl.topk_mean, k=2)
    each = pl.dice_loss(prediction, mask, dim=1, reduction="none")
    torch.testing.assert_close(loss(prediction, mask), each.topk(2).values.mean())
    where = numbers(5, 8, seed=2) > 0.2
    each = pl.dice_loss(prediction, mask, dim=1, where=where, reduction="none")
    assert each.shape == (5,)


# What peers get wrong


def test_scipys_lambert_w_at_its_branch_point():
    """SuperLoss of its authors: scipy.special.lambertw(-1/e) is NaN, where easy examples are."""
    losses = torch.tensor([0.0, 0.3, 3.0])
    found = pl.superloss(losses, tau=2.0)
    expected = superloss(np.array([0.0, 0.3, 3.0]), 2.0)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    assert grad(lambda x: pl.superloss(x, tau=2.0))(losses).isfinite().all()
    at = torch.tensor([2.0 - 2 / math.e], dtype=torch.float64)
    # W(-1/e) = -1: the confidence is e.
    slope = grad(lambda x: pl.superloss(x, tau=2.0))(at)
    assert slope.item() == pytest.approx(math.e, rel=1e-6)


def test_toolbelt_topk_of_a_share_that_rounds_to_nothing():
    """int(0.1 * 5) = 0: a mean of nothing, NaN."""
    assert pl.topk_mean(torch.arange(5.0), fraction=0.1) == 4
    assert pl.trimmed_mean(torch.arange(5.0), keep=0.01) == 0


def test_pml_reducers_are_discontinuous():
    """A mean over the non-zero losses jumps where one becomes 0; the worst cases do not."""
    losses = torch.tensor([1.0, 1e-7, 0.5])
    zero = torch.tensor([1.0, 0.0, 0.5])
    for f in (partial(pl.cvar, alpha=0.5), partial(pl.kl_dro, rho=0.1), partial(pl.topk_mean, k=2)):
        assert f(losses).item() == pytest.approx(f(zero).item(), abs=1e-6)


# Bad input

X = torch.zeros(4)
BAD = [
    (lambda: pl.topk_mean(X), ValueError, "topk_mean: `k` must be given, or else `fraction`"),
    (lambda: pl.topk_mean(X, k=2, fraction=0.5), ValueError, "got 2 besides a fraction"),
    (lambda: pl.topk_mean(X, k=0), ValueError, "topk_mean: `k` must be at least 1, got 0"),
    (lambda: pl.topk_mean(X, k=2.0), TypeError, "topk_mean: `k` must be an int"),
    (lambda: pl.topk_mean(X, fraction=0.0), ValueError, "topk_mean: `fraction` must be"),
    (lambda: pl.topk_mean(X, fraction=1.5), ValueError, "topk_mean: `fraction` must be"),
    (lambda: pl.topk_mean(X.long(), k=1), TypeError, "topk_mean: `losses` must be a floating"),
    (lambda: pl.topk_mean([1.0], k=1), TypeError, "topk_mean: `losses` must be a"),
    (lambda: pl.topk_mean(X, k=1, where=X), TypeError, "topk_mean: `where` must be a bool"),
    (lambda: pl.topk_mean(X, k=1, where=torch.ones(3) > 0), ValueError, "topk_mean: `where` must"),
    (lambda: pl.ohem_mean(X, threshold="0.7"), TypeError, "ohem_mean: `threshold` must"),
    (lambda: pl.ohem_mean(X, threshold=0.7, min_kept=0), ValueError, "`min_kept` must be at least"),
    (lambda: pl.trimmed_mean(X, keep=0.0), ValueError, "trimmed_mean: `keep` must"),
    (lambda: pl.cvar(X, alpha=0.0), ValueError, "cvar: `alpha` must be"),
    (lambda: pl.cvar(X, alpha=1.1), ValueError, "cvar: `alpha` must be"),
    (lambda: pl.kl_dro(X, rho=-0.1), ValueError, "kl_dro: `rho` must be at least 0, got -0.1"),
    (lambda: pl.chi2_dro(X, rho=-0.1), ValueError, "chi2_dro: `rho` must be at least 0"),
    (lambda: pl.superloss(X, tau=1.0, lam=0.0), ValueError, "superloss: `lam` must be"),
    (lambda: pl.self_paced_weights(X, threshold=0.0), ValueError, "`threshold` must be"),
    (lambda: pl.self_paced_weights(X, threshold=1.0, kind="log"), ValueError, "`threshold` must"),
    (lambda: pl.self_paced_weights(X, threshold=0.5, kind="soft"), ValueError, "'hard', 'linear'"),
    (lambda: pl.group_dro_init(0), ValueError, "group_dro_init: `num_groups` must be at least 1"),
    (lambda: pl.group_dro({}, X, X.long()), ValueError, "`state` must be {'log_weights'} as group"),
    (lambda: pl.group_dro([], X, X.long()), ValueError, "got list"),
    (lambda: pl.group_dro(pl.group_dro_init(2), X, X), TypeError, "group_dro: `groups` must"),
    (lambda: pl.group_dro(pl.group_dro_init(2), X, torch.zeros(3).long()), ValueError,
     "group_dro: `groups` must have the shape of `losses`"),
    (lambda: pl.group_dro(pl.group_dro_init(2), X, X.long() + 2), ValueError, "`groups` must.* 2$"),
    (lambda: pl.group_dro_update(pl.group_dro_init(2), X, X.long(), eta=-1.0), ValueError, "`eta`"),
    (lambda: pl.aggregated(X, pl.cvar), TypeError, "aggregated: `loss` must be a function"),
    (lambda: pl.aggregated(pl.mse_loss, 0.5), TypeError, "aggregated: `aggregator` must be a func"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), BAD)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()

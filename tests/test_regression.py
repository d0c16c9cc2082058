"""Losses of residuals: their digits on hostile numbers, their limits, and what peers get wrong."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from hostile import REALS, assert_exact, exact_grid, single
from mpmath import mp, mpf
from oracles import EXACT
from torch.func import grad, hessian, jvp, vmap

import purelosses as pl

INF = math.inf
RESIDUALS = (*REALS, 1e-4, -1e-4, 0.7, -3.0, 30.0)
KERNELS = {
    "smooth_l1_loss": [{}, {"beta": 0.125}, {"beta": 2.0**20}],
    "pseudo_huber_loss": [{}, {"delta": 0.125}, {"delta": 2.0**20}],
    "charbonnier_loss": [{}, {"eps": 0.125}],
    "log_cosh_loss": [{}],
    "cauchy_loss": [{}, {"scale": 0.125}],
    "geman_mcclure_loss": [{}, {"scale": 0.125}],
    "welsch_loss": [{}, {"scale": 0.125}],
    "tukey_biweight_loss": [{}, {"c": 0.125}],
    "quantile_loss": [{}, {"quantiles": 0.125}],
    "expectile_loss": [{}, {"q": 0.125}],
    "general_robust_loss": [{"alpha": a} for a in (
        2.0, 2 - 2**-22, 2 + 2**-22, 2 - 2**-10, 1.0, 0.5, 2**-20, 2**-40, 0.0, -(2**-20), -0.5,
        -2.0, -8.0, -1024.0, -(2.0**30), -INF)],
}  # fmt: skip
SMOOTH = ("pseudo_huber_loss", "charbonnier_loss", "log_cosh_loss", "cauchy_loss",
          "geman_mcclure_loss", "welsch_loss", "general_robust_loss")  # fmt: skip


def named(kernels):
    return [
        pytest.param(name, options, id="-".join([name, *(f"{v:g}" for v in options.values())]))
        for name in kernels
        for options in KERNELS[name]
    ]


def rounded(options):
    """The options as float32 knows them; those above are all powers of two, or defaults."""
    return {key: mpf(single(value).item()) for key, value in options.items()}


DEFAULTS = {"charbonnier_loss": {"eps": 1e-3}, "tukey_biweight_loss": {"c": 4.685}}


# Numbers


@pytest.mark.parametrize(("name", "options"), named(KERNELS))
def test_hostile_residuals(name, options):
    options = {**DEFAULTS.get(name, {}), **options}
    exact = partial(EXACT[name], **rounded(options))
    exact_grid(getattr(pl, name), exact, RESIDUALS, (0.0, 1.0, -1e4, 1e30), **options)


@pytest.mark.parametrize(("name", "options"), named(SMOOTH))
def test_hostile_slopes(name, options):
    options = {**DEFAULTS.get(name, {}), **options}
    x = single(RESIDUALS).requires_grad_()
    losses = getattr(pl, name)(x, torch.zeros_like(x), reduction="none", **options)
    (slopes,) = torch.autograd.grad(losses.sum(), x)
    exact = partial(EXACT[name], y=0.0, **rounded(options))
    truth = [mp.diff(exact, mpf(r), relative=True) if r else mpf(0) for r in x.tolist()]
    assert_exact(slopes, truth, 1e-5, x.tolist())


@pytest.mark.parametrize("loss", ["squared_log_loss", "absolute_percentage_loss",
                                  "symmetric_percentage_loss"])  # fmt: skip
def test_hostile_ratios(loss):
    values = (1e-30, 1e-8, 0.1, 0.1000001, 1.0, 17.0, 1e4, 1e15, 1e30)
    exact_grid(getattr(pl, loss), EXACT[loss], values, values)


@pytest.mark.parametrize("name", ["cosine_distance_loss", "relative_l2_loss"])
def test_hostile_vectors(name):
    """Also where vectors nearly agree, are tiny, or huge."""
    generator = torch.Generator().manual_seed(0)
    grid = single((0.0, 1e-15, 1e-8, 0.1, 0.1000001, -1.0, 17.0, -1e4, 1e15))
    x = grid[torch.randint(len(grid), (300, 3), generator=generator)]
    y = grid[torch.randint(len(grid), (300, 3), generator=generator)]
    y[::3] = x[::3] * (1 + 2.0 ** -torch.randint(1, 20, (100, 3), generator=generator))
    kept = (x != 0).any(1) & (y != 0).any(1)
    x, y = x[kept], y[kept]
    found = getattr(pl, name)(x, y, dim=-1, reduction="none")
    for got, a, b in zip(found, x.tolist(), y.tolist(), strict=True):
        where, a, b = [(a, b)], [mpf(v) for v in a], [mpf(v) for v in b]
        if name == "relative_l2_loss":
            truth = mp.norm([u - v for u, v in zip(a, b, strict=True)]) / mp.norm(b)
            assert_exact(got.reshape(1), [truth], 2e-6, where)
        else:
            a, b = [v / mp.norm(a) for v in a], [v / mp.norm(b) for v in b]
            apart = mp.norm([u - v for u, v in zip(a, b, strict=True)])
            # Units of the last digit of the vectors move them apart, or together, by 2.4e-7.
            floor = 2.4e-7 * apart + 2.4e-7**2
            assert_exact(got.reshape(1), [apart**2 / 2], 2e-6, where, floor)


def test_log_cosh_of_1e_4_is_5e_9():
    loss = pl.log_cosh_loss(torch.tensor([1e-4]), torch.zeros(1))
    assert loss.item() == pytest.approx(5e-9, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 2.0, -INF, -1e30, 1e-30, 2 - 1e-7, 2 + 1e-7])
def test_the_robust_family_is_differentiable_in_alpha(alpha):
    """At its limits too, where the formula is 0/0: forward, backward and twice."""
    residual, zeros = torch.tensor([0.0, 1e-30, 0.3, 5.0, 1e15]), torch.zeros(5)

    def loss(alpha, residual=residual):
        return pl.general_robust_loss(residual, zeros, alpha=alpha, reduction="none")

    a = torch.tensor(alpha)
    _, forward = jvp(loss, (a,), (torch.ones(()),))
    backward = vmap(lambda i: grad(lambda a: loss(a)[i])(a))(torch.arange(5))
    assert forward.isfinite().all()
    torch.testing.assert_close(forward, backward, rtol=1e-3, atol=1e-6)
    assert grad(lambda r: loss(a, r)[2])(residual).isfinite().all()


@pytest.mark.parametrize("alpha", [-3.0, -0.25, 0.0, 0.25, 1.0, 1.75, 3.0])
def test_the_slope_by_alpha_is_that_of_the_formula(alpha):
    exact = EXACT["general_robust_loss"]
    for residual in (0.3, 2.0, 40.0):
        value = grad(lambda a, r: pl.general_robust_loss(r, 0 * r, alpha=a))(
            torch.tensor(alpha, dtype=torch.float64), torch.tensor(residual, dtype=torch.float64)
        )
        # Around 0 the formula itself is 0/0; its derivative there is that between its neighbours.
        step = mpf(10) ** -20
        truth = (exact(residual, 0.0, alpha + step) - exact(residual, 0.0, alpha - step)) / 2 / step
        assert value.item() == pytest.approx(float(truth), rel=1e-10)


@pytest.mark.parametrize(("alpha", "partition"), [
    (0.0, math.pi * math.sqrt(2)), (2.0, math.sqrt(2 * math.pi)),
    (1.0, 3.272306972526516), # 2 e K1(1), scipy.special.k1
])  # fmt: skip
def test_the_normaliser_of_the_adaptive_loss(alpha, partition):
    logit = torch.tensor([alpha / 2], dtype=torch.float64).logit()
    params = {"alpha_logit": logit.clamp(-40, 40), "log_scale": torch.zeros(1).double()}
    zero = torch.zeros(1, dtype=torch.float64)
    assert pl.adaptive_robust_loss(params, zero, zero).exp().item() == pytest.approx(partition)


def test_the_adaptive_loss_finds_the_distribution_of_the_residuals():
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(1000, 1, generator=generator)
    cauchy = normal / torch.randn(1000, 1, generator=generator)
    residual = 3 * torch.cat([normal, cauchy], 1)
    params = {k: v.requires_grad_() for k, v in pl.adaptive_robust_init(2).items()}
    optimizer = torch.optim.Adam(params.values(), lr=0.3)
    for _ in range(60):
        optimizer.zero_grad()
        pl.adaptive_robust_loss(params, residual, torch.zeros_like(residual)).backward()
        optimizer.step()
    alpha = 2 * params["alpha_logit"].sigmoid()
    assert alpha[0] > 1.5
    assert alpha[1] < 0.15
    assert params["log_scale"][0].exp().item() == pytest.approx(3.0, rel=0.25)


# Conventions


def test_huber_is_delta_times_smooth_l1():
    x, y = torch.tensor([0.1, 0.6, 3.0, -9.0]), torch.zeros(4)
    for delta in (0.5, 2.0):
        expected = delta * pl.smooth_l1_loss(x, y, beta=delta, reduction="none")
        torch.testing.assert_close(pl.huber_loss(x, y, delta=delta, reduction="none"), expected)
    torch.testing.assert_close(pl.smooth_l1_loss(x, y, beta=0.0), pl.l1_loss(x, y))


def test_charbonnier_is_pseudo_huber_over_eps_plus_eps():
    x, y, eps = torch.tensor([0.0, 1e-3, 0.6, -9.0]), torch.zeros(4), 0.25
    expected = pl.pseudo_huber_loss(x, y, delta=eps, reduction="none") / eps + eps
    torch.testing.assert_close(pl.charbonnier_loss(x, y, eps=eps, reduction="none"), expected)


def test_the_best_constants_are_quantile_and_expectile():
    y = torch.randn(101, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    quantile = torch.quantile(y, 0.3)
    for shift in (-0.1, 0.1):
        best = pl.quantile_loss(quantile.expand(101), y, quantiles=0.3)
        assert pl.quantile_loss((quantile + shift).expand(101), y, quantiles=0.3) > best
    # scipy.stats.expectile(y, 0.3) of the same numbers: its first-order condition
    expectile = y.mean()
    for _ in range(200):
        w = torch.where(y > expectile, 0.3, 0.7).double()
        expectile = (w * y).sum() / w.sum()
    slope = grad(lambda e: pl.expectile_loss(e.expand(101), y, q=0.3))(expectile)
    assert abs(slope.item()) < 1e-7


def test_several_quantiles_are_the_mean_of_single_ones_and_of_the_crossings():
    prediction = torch.tensor([[0.0, 2.0, 1.0], [1.0, 0.5, 3.0]])
    target, levels = torch.tensor([0.7, 2.0]), (0.1, 0.5, 0.9)
    single = [pl.quantile_loss(prediction[:, k], target, quantiles=q, reduction="none")
              for k, q in enumerate(levels)]  # fmt: skip
    loss = partial(pl.quantile_loss, prediction, target, quantiles=levels, reduction="none")
    torch.testing.assert_close(loss(), sum(single) / 3)
    crossings = torch.tensor([1.0, 0.5])
    torch.testing.assert_close(loss(crossing_penalty=6.0) - loss(), 6.0 * crossings / 3)


# Computed once with scikit-learn 1.9.1, SciPy 1.17.1 and torch 2.13.0 from these numbers.
X, Y = (0.5, 1.25, -2.0, 3.5), (1.0, 1.0, 1.5, 4.0)
PEERS = [
    ("huber_loss", {"delta": 0.75}, X, 0.65625, "F.huber_loss"),
    ("smooth_l1_loss", {"beta": 0.75}, X, 0.875, "F.smooth_l1_loss"),
    ("pseudo_huber_loss", {"delta": 0.75}, X, 0.594900059736221, "scipy.special.pseudo_huber"),
    ("quantile_loss", {"quantiles": 0.3}, X, 0.38125, "sklearn mean_pinball_loss(alpha=0.3)"),
    (
        "squared_log_loss",
        {},
        (0.5, 1.25, 2.0, 3.5),
        0.0352439516575097,
        "sklearn mean_squared_log_error",
    ),
    (
        "absolute_percentage_loss",
        {},
        X,
        0.8020833333333334,
        "sklearn mean_absolute_percentage_error",
    ),
    ("cosine_distance_loss", {}, X, 0.33333333333333337, "scipy.spatial.distance.cosine"),
    ("relative_l2_loss", {}, X, 0.7954345035153529, "numpy.linalg.norm"),
]


@pytest.mark.parametrize(("name", "options", "x", "value", "peer"), PEERS)
def test_values_of_peers(name, options, x, value, peer):
    found = getattr(pl, name)(torch.tensor(x).double(), torch.tensor(Y).double(), **options)
    assert found.item() == pytest.approx(value, rel=1e-9), peer


# What peers get wrong


def test_optax_and_toolbelt_log_cosh_is_0_for_small_residuals():
    """The same formula is in torchmetrics and Keras: 0.0 at 1e-4, where it is 5e-9."""
    x = torch.tensor([1e-4, 1e-10])
    found = pl.log_cosh_loss(x, torch.zeros(2), reduction="none")
    torch.testing.assert_close(found, x.square() / 2, rtol=2e-6, atol=0)


def test_public_log_cosh_overflows():
    """log(cosh(r)): infinite from a residual of 89; 8 of 9 public torch versions."""
    x = torch.tensor([89.0, -1e4, 3e38])
    found = pl.log_cosh_loss(x, torch.zeros(3), reduction="none")
    torch.testing.assert_close(found, x.abs() - math.log(2))
    assert grad(lambda x: pl.log_cosh_loss(x, 0 * x.detach(), reduction="sum"))(x).abs().eq(1).all()


def test_torch_mse_in_float16_with_one_large_error():
    """F.mse_loss, one error of 300 in 1024: infinite."""
    x = torch.zeros(1024, dtype=torch.float16)
    x[0] = 300.0
    assert pl.mse_loss(x, torch.zeros_like(x)).item() == pytest.approx(90000 / 1024)


def test_optax_huber_in_float16():
    """optax.huber_loss at an error of 300 with delta 1000: infinite."""
    x = torch.tensor([300.0], dtype=torch.float16)
    assert pl.huber_loss(x, torch.zeros_like(x), delta=1000.0) == 45000


def test_torch_mse_broadcasts_a_column_with_a_warning():
    """F.mse_loss of (3, 1) and (3,): 1.333 and a warning."""
    for name in ("log_cosh_loss", "cauchy_loss", "quantile_loss", "relative_l2_loss"):
        with pytest.raises(ValueError, match=f"{name}: `target` must have the shape of"):
            getattr(pl, name)(torch.zeros(3, 1), torch.zeros(3))


def test_kornia_geman_mcclure_of_1e20():
    """kornia 0.9.0: NaN, where the loss is 2."""
    for x in (1e20, -3e38):
        assert pl.geman_mcclure_loss(torch.tensor([x]), torch.zeros(1)).item() == 2.0


@pytest.mark.parametrize("name", ["charbonnier_loss", "pseudo_huber_loss"])
def test_naive_charbonnier_overflows_at_1e20(name):
    """sqrt(r² + ε²) of kornia before 0.9.0: infinite."""
    x = torch.tensor([1e20])
    assert getattr(pl, name)(x, torch.zeros(1)).item() == pytest.approx(1e20)


def test_naive_welsch_is_0_for_small_residuals():
    """1 - exp(-r² / 2) of kornia before 0.9.0: 0 at 1e-4."""
    found = pl.welsch_loss(torch.tensor([1e-4]), torch.zeros(1))
    assert found.item() == pytest.approx(5e-9, rel=2e-6)


def test_optax_cosine_distance_of_a_zero_vector():
    """optax.cosine_distance, default epsilon: NaN. torchmetrics: 0/0. Ours is 1, gradient 0."""
    zero, y = torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 2.0]])
    assert pl.cosine_distance_loss(zero, y) == 1
    assert (grad(pl.cosine_distance_loss)(zero, y) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_torch_cosine_similarity_of_a_zero_vector(dtype):
    """F.cosine_similarity: NaN in float16, a gradient of 5.8e7 in float32."""
    zero, y = torch.zeros(2, 3, dtype=dtype), torch.ones(2, 3, dtype=dtype)
    for pair in ((zero, y), (y, zero), (zero, zero)):
        assert pl.cosine_distance_loss(*pair) == 1
        found = grad(lambda *pair: pl.cosine_distance_loss(*pair), (0, 1))(*pair)
        assert all((g == 0).all() for g in found)


def test_cosine_distance_of_tiny_and_huge_vectors():
    """A sum of squares under- or overflows; the direction is the same."""
    x, y = torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]])
    for scale in (1e-30, 1e30):
        found = pl.cosine_distance_loss(scale * x, y)
        assert found.item() == pytest.approx(1 - 24 / 25, rel=2e-6)


def test_deepxde_relative_l2_of_a_zero_target():
    """deepxde mean_l2_relative_error: 0/0 or infinite."""
    zero = torch.zeros(1, 4)
    assert pl.relative_l2_loss(zero, zero) == 0
    assert (grad(pl.relative_l2_loss)(zero, zero) == 0).all()
    # Infinitely wrong, and never NaN.
    assert pl.relative_l2_loss(torch.ones(1, 4), zero) == INF


def test_public_rmse_has_a_gradient_of_nan_at_0():
    """sqrt of a mean of squares, 5 of 10 public copies. A norm of ours has gradient 0 there."""
    y = torch.ones(1, 4)
    assert (grad(pl.relative_l2_loss)(y, y) == 0).all()


def test_google_robust_loss_moves_alpha_away_from_its_limits():
    """lossfun adds 1e-6 to alpha = 2, where the loss of 1e-3 then has one wrong digit in three."""
    x, zero = torch.tensor([1e-3]), torch.zeros(1)
    for alpha in (0.0, 2.0, torch.tensor(0.0), torch.tensor(2.0)):
        found = pl.general_robust_loss(x, zero, alpha=alpha)
        assert found.item() == pytest.approx(5e-7, rel=2e-6)


def test_the_hessian_of_every_kernel_is_finite_at_0_and_far_away():
    for name, options in ((p.values[0], p.values[1]) for p in named(KERNELS)):
        loss = partial(getattr(pl, name), reduction="sum", **options)
        x = torch.tensor([0.0, 1e-20, 0.5, 1e4, 1e10])
        assert hessian(loss)(x, torch.zeros(5)).isfinite().all(), name


# Bad input


@pytest.mark.parametrize(("params", "message"), [
    ([torch.zeros(1)], "`params` must be a dict of the tensors 'alpha_logit' and 'log_scale'"),
    ({"alpha_logit": torch.zeros(1)}, "`params` must be a dict of the tensors"),
    ({"alpha_logit": torch.zeros(3), "log_scale": torch.zeros(2)},
     r"`params\['alpha_logit'\]` must have one entry, or one per channel, shape \(2,\)"),
    ({"alpha_logit": torch.zeros(2), "log_scale": torch.zeros(())},
     r"`params\['log_scale'\]` must have one entry"),
])  # fmt: skip
def test_bad_parameters_of_the_adaptive_loss(params, message):
    with pytest.raises(ValueError, match=f"^adaptive_robust_loss: {message}"):
        pl.adaptive_robust_loss(params, torch.zeros(4, 2), torch.zeros(4, 2))


def test_other_bad_input_of_the_adaptive_loss():
    params = pl.adaptive_robust_init(2)
    with pytest.raises(ValueError, match="`prediction` must have at least one axis"):
        pl.adaptive_robust_loss(params, torch.zeros(()), torch.zeros(()))
    integers = {**params, "log_scale": torch.zeros(2, dtype=torch.long)}
    with pytest.raises(TypeError, match=r"`params\['log_scale'\]` must be a floating"):
        pl.adaptive_robust_loss(integers, torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="`channels` must be at least 1, got 0"):
        pl.adaptive_robust_init(0)
    with pytest.raises(TypeError, match="`channels` must be an int, got 2"):
        pl.adaptive_robust_init(2.0)


@pytest.mark.parametrize(("options", "message"), [
    ({"quantiles": 1.5}, "`quantiles` must"), ({"quantiles": [0.9, 0.1]}, "`quantiles` must"),
    ({"quantiles": []}, "`quantiles` must"), ({"quantiles": [0.1, 0.5, 0.9]}, "`prediction` must "
     "have 3 entries along axis 1, one per quantile"), ({"crossing_penalty": -1.0}, "at least 0"),
])  # fmt: skip
def test_bad_quantiles(options, message):
    with pytest.raises(ValueError, match=message):
        pl.quantile_loss(torch.zeros(4, 2), torch.zeros(4, 2), **options)


def test_quantiles_as_a_tensor_under_compile_and_vmap():
    prediction, target = torch.randn(5, 3), torch.randn(5)
    levels = torch.tensor([0.1, 0.5, 0.9])
    expected = pl.quantile_loss(prediction, target, quantiles=levels.tolist())
    torch.compiler.reset()
    compiled = torch.compile(pl.quantile_loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(prediction, target, quantiles=levels), expected)
    each = vmap(lambda x, y: pl.quantile_loss(x, y, quantiles=levels))(prediction, target)
    torch.testing.assert_close(each.mean(), expected)
    assert np.isfinite(each.numpy()).all()

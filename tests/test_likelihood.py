"""Predicted distributions: digits on hostile numbers, identities, and what peers get wrong."""

import math
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
from hostile import assert_exact, exact_grid, single
from mpmath import mp, mpf
from oracles import EXACT
from torch.func import grad, hessian, jacfwd, jacrev, vmap

import purelosses as pl

INF = math.inf
# As float32 knows them: the grid is rounded before the exact value is computed.
LOCATIONS = (0.0, 1e-30, 1e-8, 0.3, -1.0, 17.0, 1e4, -1e15)
LOG_SCALES = (0.0, 1e-8, 0.7, -1.3, 17.0, -17.0, 40.0, -40.0)
TARGETS = (0.0, 0.25, -3.0, 1e4)
COUNTS = (0.0, 1.0, 2.0, 7.0, 100.0, 1e4, 1e6)
LOG_MEANS = (0.0, 1e-8, -0.4, 2.0, 9.0, -17.0, 17.0, -60.0, 40.0)


# Numbers


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", ["gaussian_nll_loss", "laplace_nll_loss"])
def test_hostile_densities(name, full):
    exact = EXACT[name]
    if name == "laplace_nll_loss":
        exact = lambda *data: EXACT[name](*data) + (mp.log(2) if full else 0)  # noqa: E731
    else:
        exact = partial(exact, full=full)
    exact_grid(getattr(pl, name), exact, LOCATIONS, LOG_SCALES, TARGETS, full=full)


@pytest.mark.parametrize("df", [0.5, 1.0, 3.0, 1024.0, 2.0**27])
@pytest.mark.parametrize("full", [False, True])
def test_hostile_student_t(df, full):
    exact = partial(EXACT["student_t_nll_loss"], df=df, full=full)
    exact_grid(pl.student_t_nll_loss, exact, LOCATIONS, LOG_SCALES, TARGETS, conditioned=True,
               df=df, full=full)  # fmt: skip


@pytest.mark.parametrize("full", [False, True])
def test_hostile_poisson(full):
    exact_grid(pl.poisson_nll_loss, partial(EXACT["poisson_nll_loss"], full=full), LOG_MEANS,
               COUNTS, conditioned=True, full=full)  # fmt: skip


@pytest.mark.parametrize("full", [False, True])
def test_hostile_gamma(full):
    exact = partial(EXACT["gamma_nll_loss"], full=full)
    shapes = (0.0, -3.0, 2.0, 9.0, 18.42)
    means, targets = (0.0, -0.4, 2.0, 9.0, -17.0), (1e-8, 0.25, 1.0, 7.5, 1e4)
    exact_grid(pl.gamma_nll_loss, exact, means, shapes, targets, conditioned=True, full=full)


# log μ and log r of the negative binomial: a mean and a shape of 1e4 and 1e6 among them, as counts.
MEANS = (0.0, -0.4, 2.0, math.log(1e4), math.log(1e6), -17.0)
SHAPES = (math.log(1e-3), 0.0, 2.0, math.log(1e4), math.log(1e8), 30.0)


@pytest.mark.parametrize("full", [False, True])
def test_hostile_negative_binomial(full):
    """At r = 1e8 a difference of log-gammas in float32 has no digit left; at r = y = μ = 1e4 parts
    of 8e4 cancel down to 6."""
    exact = partial(EXACT["negative_binomial_nll_loss"], full=full)
    exact_grid(pl.negative_binomial_nll_loss, exact, MEANS, SHAPES, COUNTS, conditioned=True,
               full=full)  # fmt: skip


def assert_slopes(found, exact, points):
    """Within 1e-5, or what 2 units of the last digit of each number are worth, or 2e-6."""
    for got, point in zip(found, points, strict=True):
        steps = [[*point[:k], mpf(x) * (1 + mpf(2) ** -22), *point[k + 1 :]]
                 for k, x in enumerate(point)]  # fmt: skip
        truth = exact(*point)
        floor = max(2e-6, mp.fsum(abs(exact(*moved) - truth) for moved in steps))
        assert_exact(got.reshape(1), [truth], 1e-5, [point], floor)


@pytest.mark.parametrize("full", [False, True])
def test_hostile_slopes_of_the_negative_binomial(full):
    data = torch.cartesian_prod(*map(single, (MEANS, SHAPES, COUNTS)))
    loss = partial(pl.negative_binomial_nll_loss, full=full, reduction="sum")
    by_mean, by_shape = grad(loss, (0, 1))(*data.unbind(-1))

    def exact_by_mean(s, kappa, y):
        mu, r = mp.exp(mpf(s)), mp.exp(mpf(kappa))
        return r * (mu - y) / (r + mu)

    def exact_by_shape(s, kappa, y):
        mu, r = mp.exp(mpf(s)), mp.exp(mpf(kappa))
        rising = mp.digamma(r + y) - mp.digamma(r)
        return r * (mp.log1p(mu / r) + (y - mu) / (r + mu) - rising)

    assert_slopes(by_mean, exact_by_mean, data.tolist())
    assert_slopes(by_shape, exact_by_shape, data.tolist())


# (μ, r, y) on the seams between its forms: Stirling's series from r = 8 and from y = 8, the two
# deviances at μ = r and where (y - μ) / (r + μ) is 2, the series within 0.4 of their centres.
SEAMS = [(7.0, 8.0, 5.0), (7.0, 20.0, 8.0), (20.0, 20.0, 30.0), (10.0, 20.0, 70.0),
         (100.0, 20.0, 52.0), (60.0, 400.0, 100.0), (140.0, 400.0, 100.0)]  # fmt: skip


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("seam", SEAMS)
def test_the_negative_binomial_has_no_seam(seam, full):
    """Value, slopes and second derivatives agree on both sides of every change of form."""
    loss = partial(pl.negative_binomial_nll_loss, full=full)

    def all_of_it(mean, shape, y):
        data = [torch.tensor(x, dtype=torch.float64) for x in (math.log(mean), math.log(shape), y)]
        seconds = sum(hessian(loss, (0, 1))(*data), ())
        return torch.stack([loss(*data), *grad(loss, (0, 1, 2))(*data), *seconds])

    for axis, step in product(range(3), (-1e-9, 1e-9)):
        moved = [x * (1 + step * (axis == k)) for k, x in enumerate(seam)]
        torch.testing.assert_close(all_of_it(*moved), all_of_it(*seam), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("value", [0.5, 3.0, 1e4, 1e6])
def test_hostile_likelihoods_where_the_mean_is_the_target(value):
    """All that is left is ½ log 2πy and the like: 7.8 of parts of 1e7."""
    means = [math.log(value) + offset for offset in (0.0, 1e-5, -1e-3, 0.3, -0.6)]
    exact = partial(EXACT["poisson_nll_loss"], full=True)
    exact_grid(pl.poisson_nll_loss, exact, means, (value,), conditioned=True, full=True)
    exact = partial(EXACT["gamma_nll_loss"], full=True)
    exact_grid(pl.gamma_nll_loss, exact, means, (0.0, 9.0, 18.42), (value,), conditioned=True,
               full=True)  # fmt: skip
    for power in (0.0, 1.0, 1.5, 2.0, 3.0):
        exact = partial(EXACT["tweedie_deviance_loss"], power=power)
        exact_grid(pl.tweedie_deviance_loss, exact, means, (value,), conditioned=True, power=power)


def test_negative_binomial_at_r_of_1e8_is_poisson():
    log_mean, counts = torch.tensor([0.5, 2.0, 3.0]), torch.tensor([1.0, 9.0, 20.0])
    found = pl.negative_binomial_nll_loss(log_mean, torch.full((3,), math.log(1e8)), counts)
    expected = pl.poisson_nll_loss(log_mean, counts)
    assert found.item() == pytest.approx(expected.item(), rel=2e-6)


@pytest.mark.parametrize("power", [0.0, 1.0, 1 + 2**-12, 1.5, 2 - 2**-12, 2.0, 2.5, 3.0])
def test_hostile_tweedie(power):
    exact = partial(EXACT["tweedie_deviance_loss"], power=power)
    targets = (1e-8, 0.25, 1.0, 7.5, 1e4) if power >= 2 else (0.0, 1e-8, 0.25, 1.0, 7.5, 1e4)
    means = (0.0, -0.4, 2.0, 9.0, -17.0)
    exact_grid(pl.tweedie_deviance_loss, exact, means, targets, conditioned=True, power=power)


def test_hostile_crps():
    exact_grid(pl.crps_gaussian_loss, EXACT["crps_gaussian_loss"], LOCATIONS, LOG_SCALES, TARGETS)


@pytest.mark.parametrize("alpha", [0.5, 0.125])
def test_hostile_interval_score(alpha):
    def exact(low, high, y):
        low, high, y = mpf(low), mpf(high), mpf(y)
        return high - low + 2 / mpf(alpha) * (max(low - y, 0) + max(y - high, 0))

    # Bounds the wrong way round have a negative width, which cancels.
    bounds = sorted(LOCATIONS)
    for k, low in enumerate(bounds):
        exact_grid(pl.interval_score_loss, exact, (low,), bounds[k:], TARGETS, alpha=alpha)


def drawn(count, *axes, seed=0):
    """Rows of numbers from the axes at random, as float32 has them."""
    generator = torch.Generator().manual_seed(seed)
    columns = [
        single(axis)[torch.randint(len(axis), (count,), generator=generator)] for axis in axes
    ]
    return torch.stack(columns, -1)


@pytest.mark.parametrize("fair", [False, True])
@pytest.mark.parametrize("members", [2, 3, 5])
def test_hostile_crps_of_an_ensemble(members, fair):
    """By all pairs, where the two parts cancel; sorted, every term is at least 0."""
    x, y = drawn(150, *[LOCATIONS] * members, seed=members), drawn(150, TARGETS, seed=9)[:, 0]
    pairs = members * (members - 1) if fair else members**2

    def exact(x, y):
        x = [mpf(v) for v in x]
        spread = mp.fsum(abs(a - b) for a in x for b in x) / (2 * pairs)
        return mp.fsum(abs(v - mpf(y)) for v in x) / members - spread

    found = pl.crps_ensemble_loss(x, y, fair=fair, reduction="none")
    points = list(zip(x.tolist(), y.tolist(), strict=True))
    for got, point in zip(found, points, strict=True):
        truth = exact(*point)
        # With two members a fair score is half the distance beyond both: 0 between them.
        assert_exact(got.reshape(1), [truth], 2e-6, [point], floor=1e-30)


@pytest.mark.parametrize("fair", [False, True])
def test_hostile_energy_score(fair):
    """Relative to the distance from the target: the spread is taken from it."""
    data = drawn(150, *[LOCATIONS] * 8, seed=7).unflatten(-1, (4, 2))
    found = pl.energy_score_loss(data[:, :3], data[:, 3], fair=fair, reduction="none")
    for got, rows in zip(found, data.tolist(), strict=True):
        *members, y = [[mpf(v) for v in row] for row in rows]
        apart = [[mp.hypot(a[0] - b[0], a[1] - b[1]) for b in members] for a in members]
        distance = mp.fsum(mp.hypot(a[0] - y[0], a[1] - y[1]) for a in members) / 3
        truth = distance - mp.fsum(map(mp.fsum, apart)) / (2 * (6 if fair else 9))
        assert_exact(got.reshape(1), [truth], 2e-6, [rows], max(1e-37, 2e-6 * distance))


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("components", [2, 3])
def test_hostile_gaussian_mixture(components, full):
    """Within 2e-6, or what 2 units of the last digit of every number are worth: it crosses 0."""
    logits = (0.0, 1.0, -17.0, 40.0, -88.0)
    data = drawn(200, *[logits, LOCATIONS, LOG_SCALES] * components, TARGETS, seed=components)
    x, m, s = data[:, :-1].unflatten(-1, (components, 3)).unbind(-1)
    found = pl.gaussian_mixture_nll_loss(x, m, s, data[:, -1], full=full, reduction="none")

    def exact(row):
        row = [mpf(v) for v in row]
        parts = [row[k : k + 3] for k in range(0, 3 * components, 3)]
        whole = mp.fsum(mp.exp(w) for w, *_ in parts)
        y, constant = row[-1], mp.log(2 * mp.pi) / 2 if full else 0
        density = mp.fsum(mp.exp(w - (v + (y - a) ** 2 * mp.exp(-v)) / 2) for w, a, v in parts)
        return constant - mp.log(density / whole)

    for got, row in zip(found, data.tolist(), strict=True):
        truth = exact(row)
        moved = [[*row[:k], v * (1 + 2.0**-22), *row[k + 1 :]] for k, v in enumerate(row)]
        floor = max(2e-7, mp.fsum(abs(exact(other) - truth) for other in moved))
        assert_exact(got.reshape(1), [truth], 2e-6, [row], floor)


# Identities


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_gaussian_with_unit_variance_is_half_the_square():
    mean, target = numbers(2, 50)
    found = pl.gaussian_nll_loss(mean, torch.zeros(50), target)
    torch.testing.assert_close(found, pl.mse_loss(mean, target) / 2)


def test_the_best_variance_is_the_mean_square():
    residual = numbers(50)
    best = residual.square().mean().log()

    def loss(s):
        return pl.gaussian_nll_loss(residual, s.expand(50), torch.zeros(50))

    assert abs(grad(loss)(best).item()) < 1e-14


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_beta_scales_the_gradient_of_gaussian_nll(beta):
    """At beta 0 it is the NLL, at beta 1 the mean learns as with the squared error."""
    mean, log_var, target = numbers(3, 20)

    def slope(loss):
        return grad(lambda m: loss(m, log_var, target, reduction="sum"))(mean)

    found = slope(partial(pl.beta_gaussian_nll_loss, beta=beta))
    torch.testing.assert_close(found, (beta * log_var).exp() * slope(pl.gaussian_nll_loss))
    if beta == 1:
        torch.testing.assert_close(found, mean - target)


def test_student_t_tends_to_the_gaussian():
    location, log_scale, target = numbers(3, 20)
    found = pl.student_t_nll_loss(location, log_scale, target, df=1e12, full=True)
    expected = pl.gaussian_nll_loss(location, 2 * log_scale, target, full=True)
    torch.testing.assert_close(found, expected)


def test_a_mixture_of_one_and_of_equals_is_a_gaussian():
    mean, log_var, target = numbers(3, 20)
    expected = pl.gaussian_nll_loss(mean, log_var, target)
    for count in (1, 3):
        stacked = [x.unsqueeze(-1).expand(20, count) for x in (mean, log_var)]
        found = pl.gaussian_mixture_nll_loss(numbers(20, count), *stacked, target)
        torch.testing.assert_close(found, expected)


def test_deviance_is_twice_the_likelihood_ratio():
    log_mean, counts = numbers(20), torch.arange(1.0, 21.0, dtype=torch.float64)
    poisson = partial(pl.poisson_nll_loss, target=counts)
    found = pl.tweedie_deviance_loss(log_mean, counts, power=1.0)
    torch.testing.assert_close(found, 2 * (poisson(log_mean) - poisson(counts.log())))
    one = torch.zeros(20, dtype=torch.float64)
    gamma = partial(pl.gamma_nll_loss, log_shape=one, target=counts)
    found = pl.tweedie_deviance_loss(log_mean, counts, power=2.0)
    expected = 2 * (gamma(log_mean=log_mean) - gamma(log_mean=counts.log()))
    torch.testing.assert_close(found, expected)
    found = pl.tweedie_deviance_loss(log_mean, counts, power=0.0)
    torch.testing.assert_close(found, pl.mse_loss(log_mean.exp(), counts))


def test_crps_of_one_member_is_the_absolute_error():
    x, y = numbers(2, 20)
    torch.testing.assert_close(pl.crps_ensemble_loss(x.unsqueeze(-1), y), pl.l1_loss(x, y))


def test_crps_of_a_large_ensemble_is_that_of_its_distribution():
    members = math.sqrt(2) * torch.erfinv(2 * (torch.arange(2000).double() + 0.5) / 2000 - 1)
    for target in (-1.0, 0.2, 3.0):
        y = torch.tensor(target, dtype=torch.float64)
        expected = pl.crps_gaussian_loss(0 * y, 0 * y, y)
        assert pl.crps_ensemble_loss(members, y).item() == pytest.approx(expected.item(), abs=1e-3)


def test_fair_crps_is_unbiased():
    """Of 3 members of 5: its mean over all choices is the score of the 5, fair as well."""
    from itertools import combinations

    members, y = numbers(5), torch.tensor(0.3, dtype=torch.float64)
    loss = partial(pl.crps_ensemble_loss, fair=True)
    parts = [loss(members[list(chosen)], y) for chosen in combinations(range(5), 3)]
    torch.testing.assert_close(torch.stack(parts).mean(), loss(members, y))
    biased = [pl.crps_ensemble_loss(members[list(c)], y) for c in combinations(range(5), 3)]
    assert torch.stack(biased).mean() > pl.crps_ensemble_loss(members, y) + 0.01


def test_twice_the_mean_quantile_loss_is_the_crps():
    members, y = numbers(400).sort().values, torch.tensor(0.4, dtype=torch.float64)
    levels = (torch.arange(400).double() + 0.5) / 400
    found = 2 * pl.quantile_loss(members, y, quantiles=levels)
    torch.testing.assert_close(found, pl.crps_ensemble_loss(members, y))


def test_interval_score_is_two_quantile_losses():
    lower, upper, y = (-numbers(20).abs(), numbers(20, seed=1).abs(), 2 * numbers(20, seed=2))
    alpha = 0.2
    low = pl.quantile_loss(lower, y, quantiles=alpha / 2)
    high = pl.quantile_loss(upper, y, quantiles=1 - alpha / 2)
    found = pl.interval_score_loss(lower, upper, y, alpha=alpha)
    torch.testing.assert_close(found, 2 / alpha * (low + high))


@pytest.mark.parametrize("fair", [False, True])
def test_energy_score_in_one_dimension_is_the_crps(fair):
    members, y = numbers(6, 7), numbers(6, seed=1)
    found = pl.energy_score_loss(members.unsqueeze(-1), y.unsqueeze(-1), fair=fair)
    torch.testing.assert_close(found, pl.crps_ensemble_loss(members, y, fair=fair))


def test_crps_of_an_ensemble_needs_no_table_of_pairs():
    members, y = torch.randn(100_000), torch.tensor(0.0)  # all pairs: 40 GB
    found = pl.crps_ensemble_loss(members, y)
    assert found.item() == pytest.approx(0.2337, abs=5e-3)  # of a normal distribution at its mean


# Computed once with SciPy 1.17.1, scikit-learn 1.9.1 and torch 2.13.0.
M, S, Y = (0.5, -1.0, 2.0), (0.3, -0.7, 1.1), (1.0, -2.0, 2.5)
R, K, N, P = (0.5, -1.0, 1.5), (0.2, 1.0, -0.5), (2.0, 0.0, 7.0), (1.5, 0.3, 4.0)
PEERS = [
    ("gaussian_nll_loss", (M, S, Y), {"full": True}, (1.16154081, 1.57581489, 1.51054742), "norm"),
    ("laplace_nll_loss", (M, S, Y), {"full": True},
     (1.36355629, 2.00689989, 1.95958272), "laplace"),
    ("student_t_nll_loss", (M, S, Y), {"df": 3.0, "full": True},
     (1.39032749, 2.01119413, 2.1192713), "t"),
    ("poisson_nll_loss", (R, N), {"full": True}, (1.34186845, 0.36787944, 2.50685043), "poisson"),
    ("gamma_nll_loss", (R, K, P), {"full": True}, (1.29660462, -0.70162049, 2.68811646), "gamma"),
    ("negative_binomial_nll_loss", (R, K, N), {"full": True},
     (1.84723065, 0.34502611, 3.34939538), "nbinom"),
    # scipy.integrate.quad of the squared difference of distribution functions
    ("crps_gaussian_loss", (M, S, Y), {}, (0.3560572857, 0.6519693457, 0.4621991931), "norm.cdf"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "data", "options", "values", "peer"), PEERS)
def test_values_of_scipy(name, data, options, values, peer):
    data = [torch.tensor(x, dtype=torch.float64) for x in data]
    found = getattr(pl, name)(*data, reduction="none", **options)
    np.testing.assert_allclose(found, values, rtol=2e-8, err_msg=peer)


@pytest.mark.parametrize(("power", "value"), [
    (0.0, 0.086249998458519), (1.0, 0.026982031702442583), (1.5, 0.01987333600099254),
    (2.0, 0.02000967586550943), (3.0, 0.04059965608919921),
])  # fmt: skip
def test_values_of_scikit_learns_mean_tweedie_deviance(power, value):
    data = [torch.tensor(x, dtype=torch.float64) for x in (R, P)]
    found = pl.tweedie_deviance_loss(*data, power=power)
    assert found.item() == pytest.approx(value, rel=1e-12)


def test_value_of_torch_mixture_same_family():
    logits = torch.tensor([0.2, -1.0, 0.5], dtype=torch.float64)
    mean, log_var, y = (torch.tensor(x, dtype=torch.float64) for x in (M, S, 0.7))
    found = pl.gaussian_mixture_nll_loss(logits, mean, log_var, y, full=True)
    assert found.item() == pytest.approx(1.516013645722039, rel=1e-14)


# What peers get wrong


def test_torch_gaussian_nll_at_variance_0():
    """F.gaussian_nll_loss: a gradient of -5e11 through a clamp under no_grad."""
    for log_var in (-60.0, -80.0):
        s = torch.tensor([log_var])
        zero = torch.zeros(1)
        slope = grad(lambda s: pl.gaussian_nll_loss(zero, s, zero))(s)  # noqa: B023
        assert slope.item() == 0.5


def test_torch_gaussian_nll_reads_values():
    """F.gaussian_nll_loss asks `torch.any(var < 0)`: no vmap over var, meta, compile, export."""
    data = [torch.randn(3, 4) for _ in range(3)]
    found = vmap(pl.gaussian_nll_loss)(*data)
    loop = torch.stack([pl.gaussian_nll_loss(*row) for row in zip(*data, strict=True)])
    torch.testing.assert_close(found, loop)
    assert pl.gaussian_nll_loss(*(x.to("meta") for x in data)).is_meta
    torch.compiler.reset()
    compiled = torch.compile(pl.gaussian_nll_loss, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*data), pl.gaussian_nll_loss(*data))


@pytest.mark.parametrize(("count", "truth"), [(2.0, 0.693147180559945), (0.5, -0.120782237635245)])
def test_torch_poisson_nll_uses_stirling(count, truth):
    """F.poisson_nll_loss(full=True): 0.6518 for log 2!, and 0 for log Γ(1.5)."""
    zero, target = torch.zeros(1), torch.tensor([count])
    added = pl.poisson_nll_loss(zero, target, full=True) - pl.poisson_nll_loss(zero, target)
    assert added.item() == pytest.approx(truth, rel=2e-6)


@pytest.mark.parametrize("name", ["poisson_nll_loss", "gaussian_nll_loss", "laplace_nll_loss"])
def test_torch_poisson_and_gaussian_nll_broadcast(name):
    """F.poisson_nll_loss, F.gaussian_nll_loss of (6, 1) and (6,): a table of 36."""
    data = [torch.zeros(6, 1)] * (1 if name.startswith("poisson") else 2)
    with pytest.raises(ValueError, match=f"{name}: `target` must have the shape of"):
        getattr(pl, name)(*data, torch.zeros(6))


def test_a_density_of_a_mixture_underflows():
    """log Σ π N as it is written: minus infinity 40 deviations out, and a gradient of NaN."""
    logits, mean, log_var = torch.zeros(1, 2), torch.tensor([[40.0, -50.0]]), torch.zeros(1, 2)
    loss = pl.gaussian_mixture_nll_loss(logits, mean, log_var, torch.zeros(1))
    assert loss.item() == pytest.approx(800 + math.log(2))
    slopes = grad(pl.gaussian_mixture_nll_loss, (0, 1, 2))(logits, mean, log_var, torch.zeros(1))
    assert all(slope.isfinite().all() for slope in slopes)


def test_a_difference_of_log_gammas_in_float32():
    """log Γ(r + y) - log Γ(r) - y log r at r = 1e8: float32 has no digit of it."""
    r = torch.tensor([1e8])
    naive = torch.lgamma(r + 1000) - torch.lgamma(r) - 1000 * r.log()
    s, kappa, y = single([1.0]), r.log(), single([1000.0])
    found = pl.negative_binomial_nll_loss(s, kappa, y)
    truth = EXACT["negative_binomial_nll_loss"](1.0, kappa.item(), 1000.0)
    assert_exact(found.reshape(1), [truth], 2e-6, ["r = 1e8"])
    assert abs(naive.item() - 999 * 1000 / 2e8) > 1


def test_the_spread_of_equal_members_has_a_gradient():
    """Energy score of identical members: a square root at 0, NaN if written as such."""
    members, y = torch.ones(4, 3), torch.zeros(3)
    assert grad(pl.energy_score_loss)(members, y).isfinite().all()
    assert grad(pl.crps_ensemble_loss)(torch.ones(4), torch.tensor(0.0)).isfinite().all()


SECOND = {
    "gaussian_nll_loss": (M, S, Y), "laplace_nll_loss": (M, S, Y), "crps_gaussian_loss": (M, S, Y),
    "poisson_nll_loss": (R, N), "gamma_nll_loss": (R, K, P),
    "negative_binomial_nll_loss": (R, K, N), "tweedie_deviance_loss": (R, P),
}  # fmt: skip


@pytest.mark.parametrize("name", SECOND)
def test_second_derivatives_agree_and_are_finite(name):
    data = [torch.tensor(x, dtype=torch.float64) for x in SECOND[name]]
    loss = partial(getattr(pl, name), reduction="sum")
    expected = jacrev(jacrev(loss))(*data)
    assert expected.isfinite().all()
    torch.testing.assert_close(hessian(loss)(*data), expected)
    torch.testing.assert_close(jacfwd(jacfwd(loss))(*data), expected)


def test_exact_constants():
    assert EXACT["gaussian_nll_loss"](0.0, 0.0, 0.0, full=True) == mp.log(2 * mp.pi) / 2
    zero = torch.zeros(1)
    found = pl.gaussian_nll_loss(zero, zero, zero, full=True)
    assert_exact(found.reshape(1), [mp.log(2 * mp.pi) / 2], 2e-7, ["½ log 2π"])
    assert mpf(pl.gaussian_nll_loss(zero, zero, zero).item()) == 0

"""Directions from task gradients: optimality, peers' values, transforms, Gramians, messages."""

from functools import partial

import numpy as np
import optree
import pytest
import torch
from scipy.optimize import minimize, nnls
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, jacrev, vmap
from torch.nn.functional import linear

import purelosses as pl
from purelosses import nn
from purelosses.gradients import solvers
from purelosses.laws.core import Operations
from purelosses.laws.graphs import SYNCHRONISING

# Four gradients that conflict, of about the same length, and of lengths up to 100 times apart.
J = torch.tensor(
    [[3, -1, 2, 0, 1], [-2, 2, 1, 1, 0], [1, 1, -3, 2, -1], [0, -2, 1, -1, 2]], dtype=torch.float64
)
SPREAD = torch.tensor([1.0, 0.1, 10.0, 3.0], dtype=torch.float64)
ORDER = torch.tensor([[2, 3, 1, 0], [3, 2, 1, 0], [0, 3, 1, 2], [3, 2, 0, 1]])

METHODS = {
    "mgda": pl.mgda,
    "upgrad": pl.upgrad,
    "dualproj": pl.dualproj,
    "cagrad": partial(pl.cagrad, c=0.5),
    "nash": pl.fair,
    "fair, alpha 2": partial(pl.fair, alpha=2.0),
    "imtl_g": pl.imtl_g,
    "config": pl.config,
    "aligned_mtl": pl.aligned_mtl,
    "aligned_mtl, rmse": partial(pl.aligned_mtl, scale="rmse"),
    "pcgrad": lambda g: pl.pcgrad(g, torch.stack([torch.arange(len(g))] * len(g))),
}
# The equation of the fair directions fixes their length: with all losses times a factor, weights
# grow by this power of it.
DEGREE = {"nash": -1.0, "fair, alpha 2": -4 / 3}


def hard(seed, m=None, n=12, spread=2.0):
    """Random gradients, with norms spread over 10^(2 · spread)."""
    generator = torch.Generator().manual_seed(seed)
    m = 2 + seed % 7 if m is None else m
    rows = torch.randn(m, n, generator=generator, dtype=torch.float64)
    # A part in common and of either sign, for conflicts of all degrees.
    rows = rows + 2 * torch.randn(m, 1, generator=generator, dtype=torch.float64)
    norms = 10 ** torch.empty(m, dtype=torch.float64).uniform_(-spread, spread, generator=generator)
    return rows / rows.norm(dim=1, keepdim=True) * norms[:, None]


def cosines(jacobian, weights):
    """Of the direction with each gradient."""
    direction = weights @ jacobian
    return jacobian @ direction / (jacobian.norm(dim=1) * direction.norm())


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


# Optimality


@pytest.mark.parametrize("m", [None, 12])
def test_mgda_satisfies_its_conditions_for_norms_spread_over_four_orders(m):
    """⟨g_i, d⟩ ≥ ‖d‖², with equality where w_i > 0: relative to what is compared."""
    worst = 0.0
    for seed in range(40):
        jacobian = hard(seed, m, n=16)
        weights, aux = pl.mgda(jacobian @ jacobian.T)
        direction = weights @ jacobian
        slack = jacobian @ direction - direction @ direction
        scale = jacobian.norm(dim=1) * direction.norm()
        assert float(weights.min()) >= 0
        assert abs(float(weights.sum()) - 1) < 1e-12
        worst = max(
            worst,
            float((-slack / scale).max()),
            float((weights * slack.abs()).max() / (direction @ direction)),
            float(aux["residual"]),
        )
    assert worst <= 1e-9


@pytest.mark.parametrize("m", [None, 12])
@pytest.mark.parametrize("spread", [0.0, 1.0, 2.0])
def test_upgrad_satisfies_its_conditions_and_never_conflicts(m, spread):
    """torchjd 0.18 reaches a cosine of -0.98 with a task at a spread of 1."""
    lowest, residual = 1.0, 0.0
    for seed in range(40):
        jacobian = hard(seed, m, n=16, spread=spread)
        weights, aux = pl.upgrad(jacobian @ jacobian.T)
        lowest = min(lowest, float(cosines(jacobian, weights).min()))
        residual = max(residual, float(aux["residual"]))
    assert lowest >= -1e-6
    assert residual <= 1e-9


def project(jacobian, gradient):
    """The nearest direction that conflicts with no row, by active sets on the gradients."""
    units = (jacobian / jacobian.norm(dim=1, keepdim=True)).numpy()
    scale = np.linalg.norm(gradient)
    x, _ = nnls(units.T, -gradient / scale, maxiter=1000)
    return gradient + scale * units.T @ x


@pytest.mark.parametrize("seed", range(12))
def test_projections_are_those_of_active_sets(seed):
    jacobian = hard(seed, spread=1.0)
    gramian = jacobian @ jacobian.T
    mean = np.mean([project(jacobian, g.numpy()) for g in jacobian], 0)
    assert relative(pl.upgrad(gramian)[0] @ jacobian, torch.from_numpy(mean)) < 1e-8
    projected = torch.from_numpy(project(jacobian, jacobian.mean(0).numpy()))
    assert relative(pl.dualproj(gramian)[0] @ jacobian, projected) < 1e-8


@pytest.mark.parametrize("c", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_cagrad_is_the_best_direction_in_its_ball(seed, c):
    """By a general solver from the sources' dual; ours may be better, not worse."""
    jacobian = hard(seed, spread=0.5)
    mean = jacobian.mean(0)
    radius = c * mean.norm()

    def dual(w):
        g = w @ jacobian.numpy()
        return g @ mean.numpy() + float(radius) * np.sqrt(g @ g)

    m = len(jacobian)
    best = minimize(
        dual, np.full(m, 1 / m), bounds=[(0, 1)] * m, method="SLSQP", options={"ftol": 1e-14},
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
    )  # fmt: skip
    weights, aux = pl.cagrad(jacobian @ jacobian.T, c=c)
    direction = weights @ jacobian
    assert float((direction - mean).norm() / radius) <= 1 + 1e-9
    worst_task = float((jacobian @ direction).min())
    assert worst_task >= best.fun - 1e-9 * abs(best.fun)
    assert abs(worst_task - best.fun) < 1e-3 * abs(best.fun)
    assert float(aux["residual"]) < 1e-9


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
def test_fair_solves_its_equation_for_norms_spread_over_four_orders(alpha):
    for seed in range(40):
        jacobian = hard(seed)
        gramian = jacobian @ jacobian.T
        weights, aux = pl.fair(gramian, alpha=alpha)
        assert float(aux["residual"]) < 1e-9
        gains = gramian @ weights
        torch.testing.assert_close(gains, weights ** (-1 / alpha), rtol=1e-6, atol=0)


def test_the_same_cosine_to_every_task():
    for seed in range(20):
        jacobian = hard(seed)
        gramian = jacobian @ jacobian.T
        for method in (pl.config, pl.imtl_g):
            found = cosines(jacobian, method(gramian)[0])
            assert float(found.std() / found.abs().max()) < 1e-6
        units = jacobian / jacobian.norm(dim=1, keepdim=True)
        u = np.linalg.lstsq(units.numpy(), np.ones(len(units)), rcond=None)[0]
        u = torch.from_numpy(u / np.linalg.norm(u))
        direction = pl.config(gramian)[0] @ jacobian
        assert relative(direction, (jacobian @ u).sum() * u) < 1e-6
        assert abs(float(pl.imtl_g(gramian)[0].sum()) - 1) < 1e-9


# Peers' values: torchjd 0.18.0 of 2026, on J and on SPREAD · J. `upgrad` and `dualproj` with
# QuadprogProjector(norm_eps=0, reg_eps=1e-12), `mgda` with epsilon=1e-12 and max_iters=20000.
# Theirs are inexact where norms differ. (method, tolerances, values for J, for SPREAD · J)
PEERS = [
    ("upgrad", (1e-10, 1e-7),
     [0.36382615144067454, 0.6775704129037166, 0.627673305766677, 0.6959403362786215],
     [0.6559478210714489, 20.679996817250544, 0.30456289652565594, 1.1317125014132157]),
    ("dualproj", (1e-10, 1e-7),
     [0.25, 0.2749999999985975, 0.25, 0.25],
     [0.39855071317469537, 15.398550362701375, 0.25, 0.8756038621844908]),
    ("mgda", (1e-10, 1e-9),
     [0.09503546099968567, 0.2758865248238796, 0.27659574467938725, 0.35248226949704675],
     [0.030695359479577664, 0.9403118877824804, 0.005532113472580163, 0.023460639265362553]),
    ("imtl_g", (1e-9, 1e-9),
     [0.10156515629513141, 0.2730806202916008, 0.2795732872384042, 0.34578093617486366],
     [0.034132790615701646, 0.9177363550282548, 0.009395561256578965, 0.03873529309946459]),
    ("aligned_mtl", (1e-10, 1e-10),
     [0.12993774088788182, 0.2441291864169155, 0.237529109594029, 0.2752020915089898],
     [0.021127495824388415, 0.26396668701359105, 0.0042417385778740204, 0.013649792134700125]),
    ("aligned_mtl, rmse", (1e-10, 1e-10),
     [0.35836488082876855, 0.6733018921162524, 0.6550990533726166, 0.7590001492525924],
     [2.008203532650515, 25.090471571686667, 0.4031842896796862, 1.2974353900099986]),
    ("nash", (1e-8, 1e-8),
     [0.38583225169992347, 0.77768191665066, 0.7374648743624129, 0.8596220030962622],
     [0.38583225169992336, 7.7768191665066, 0.0737464874362413, 0.2865406676987542]),
    ("fair, alpha 2", (1e-8, 1e-8),
     [0.2967459739886716, 0.6891828735100508, 0.6677752129645359, 0.8097514210274127],
     [0.38171485749005735, 9.392576516018378, 0.0650868960888358, 0.26570744750701986]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "tolerances", "equal", "spread"), PEERS)
def test_the_weights_of_torchjd(name, tolerances, equal, spread):
    cases = zip((J, SPREAD[:, None] * J), (equal, spread), tolerances, strict=True)
    for jacobian, expected, tolerance in cases:
        expected = torch.tensor(expected, dtype=torch.float64)
        assert relative(METHODS[name](jacobian @ jacobian.T)[0], expected) < tolerance


# torchjd's CAGradWeighting(c=0.9, norm_eps=0), by a conic solver that stops at 1e-8: on J, and on
# SPREAD · J, where it leaves the direction 5e-4 from the best.
@pytest.mark.parametrize(
    ("spread", "expected"),
    [(1.0, [0.2500000041243221, 0.5621065699841046, 0.5424814999878217, 0.6578079166967348]),
     (SPREAD, [0.652764593746712, 22.365505331555553, 0.2500000031134007, 0.9230584512360117])],
)  # fmt: skip
def test_cagrad_of_torchjd(spread, expected):
    jacobian = (spread * J.T).T
    theirs = torch.tensor(expected, dtype=torch.float64) @ jacobian
    ours = pl.cagrad(jacobian @ jacobian.T, c=0.9)[0] @ jacobian
    assert relative(ours, theirs) < 5e-4
    gain, their_gain = ((jacobian @ direction).min() for direction in (ours, theirs))
    assert gain >= (1 - 1e-12) * their_gain


def test_config_of_torchjd():
    expected = torch.tensor(
        [0.15597726090532624, 0.13346523210477518, -0.0684690785610041, 1.9910653821613924,
         2.102018585465616], dtype=torch.float64
    )  # fmt: skip
    assert relative(pl.config(J @ J.T)[0] @ J, expected) < 1e-12


def test_pcgrad_of_torchjd_in_the_same_order():
    for jacobian, expected in (
        (J, [1.6691666666666667, 2.6675, 2.1625, 2.1]),
        (SPREAD[:, None] * J, [4.366916666666667, 79, 1.202875, 3.3466666666666667]),
    ):
        weights, _ = pl.pcgrad(jacobian @ jacobian.T, ORDER)
        torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float64))


def test_gradvac_of_torchjd_over_three_steps_in_the_same_order():
    """torchjd adds 1e-8 to its denominators."""
    orders = [
        [[3, 2, 1, 0], [2, 3, 0, 1], [3, 1, 0, 2], [1, 2, 0, 3]],
        [[1, 2, 3, 0], [2, 0, 3, 1], [3, 1, 0, 2], [0, 1, 2, 3]],
        [[1, 2, 3, 0], [3, 0, 2, 1], [0, 3, 1, 2], [0, 2, 1, 3]],
    ]
    state = pl.gradvac_init([0] * 4)
    for order in orders:
        weights, state = pl.gradvac_update(state, J @ J.T, torch.tensor(order), beta=0.5)
    expected = [1.2681718605679384, 1.33427277125039, 1.374551018904919, 1.3698083169418334]
    assert relative(weights, torch.tensor(expected, dtype=torch.float64)) < 1e-7


def test_gradvac_of_torchjd_over_twenty_steps_with_changing_gradients():
    """torch.randperm replaced by a rotation that goes on, in torchjd 0.18.0 as here."""
    state, turn = pl.gradvac_init([0] * 4), 0
    for step in range(20):
        order = []
        for i in range(4):
            turn += 1
            others = torch.tensor([j for j in range(4) if j != i])
            order.append([*others.roll(turn).tolist(), i])
        jacobian = J.roll(step, 0)
        weights, state = pl.gradvac_update(state, jacobian @ jacobian.T, torch.tensor(order))
    expected = [1.463810736605398, 1.6526419266363792, 2.2228025246151226, 1.1306817105696716]
    assert relative(weights, torch.tensor(expected, dtype=torch.float64)) < 1e-7


def named_gramian(jacobian):
    return dict(zip("abcd", jacobian @ jacobian.T, strict=True))


def test_gradvac_resumes_bitwise_from_a_checkpoint():
    one, other = nn.GradVac(list("abcd")), nn.GradVac(list("abcd"))
    one.update(named_gramian(J), ORDER)
    other.load_state_dict(one.state_dict())
    for jacobian in (J, SPREAD[:, None] * J):
        first, second = (m.update(named_gramian(jacobian), ORDER) for m in (one, other))
        assert all(torch.equal(first[task], second[task]) for task in "abcd")
    matrix = nn.GradVac(4)
    rows = torch.stack([matrix.update(j @ j.T, ORDER) for j in (J, J, SPREAD[:, None] * J)])
    assert torch.equal(rows[-1], torch.stack([first[task] for task in "abcd"]))


def test_a_checkpoint_of_gradvac_says_which_task_is_missing():
    with pytest.raises(RuntimeError, match=r"Missing key.*cosines\.edge"):
        nn.GradVac(["edge", "mask"]).load_state_dict(nn.GradVac(["depth", "mask"]).state_dict())
    with pytest.raises(ValueError, match="gradvac_update: `state` must be that of the tasks"):
        pl.gradvac_update(pl.gradvac_init(["a", "b"]), dict(zip("ac", torch.eye(2), strict=True)),
                          torch.tensor([[0, 1], [0, 1]]))  # fmt: skip


def test_graddrop_of_torchjd_with_the_same_noise():
    noise = torch.tensor([0.03410819565052048, 0.28674022672130695, 0.7729149443285843,
                          0.17492702928129467, 0.7553698716458989])  # fmt: skip
    direction = pl.graddrop([{"w": row} for row in J], {"w": noise})["w"]
    assert direction.tolist() == [4.0, 3.0, -3.0, 3.0, -1.0]
    zero = pl.graddrop([{"w": 0 * row} for row in J], {"w": noise})["w"]
    assert zero.tolist() == [0.0] * 5


def network():
    params = {
        "w": torch.tensor([[0.5, -1.0, 0.25], [1.5, 0.75, -0.5]], dtype=torch.float64),
        "b": torch.tensor([0.1, -0.2], dtype=torch.float64),
    }
    heads = torch.tensor([[1.0, -2.0], [-1.5, 0.5], [0.3, 0.8]], dtype=torch.float64)
    x = torch.tensor(
        [[1.0, 2.0, -1.0], [0.5, -1.0, 2.0], [-2.0, 0.3, 0.7], [1.2, 1.1, 0.4]], dtype=torch.float64
    )
    y = torch.tensor(
        [[1.0, -1.0, 0.5], [0.0, 2.0, -0.3], [-1.0, 0.4, 1.5], [2.0, -2.0, 0.2]],
        dtype=torch.float64,
    )
    return params, heads, x, y


FACTORS = {"near": 1.0, "small": 0.01, "vast": 30.0}


def trunk(params, x):
    return torch.tanh(torch.nn.functional.linear(x, params["w"], params["b"]))


def three_losses(params, heads, x, y):
    z = trunk(params, x)
    return {
        name: factor * pl.mse_loss(z @ heads[i], y[:, i])
        for i, (name, factor) in enumerate(FACTORS.items())
    }


ROUTES = {
    "jacobian": {},
    "vmap": {"mode": "vmap"},
    "chunks": {"mode": 2},
    "jvp": {"method": "jvp"},
    "layers": {"method": "layers"},
}


@pytest.mark.parametrize("route", ROUTES)
def test_the_direction_of_torchjd_through_the_whole_pipeline(route):
    """torchjd 0.18.0: mtl_backward, then jac_to_grad with UPGrad as above."""
    params, *data = network()
    losses, gramian, pullback = pl.value_and_gramian(three_losses, params, *data, **ROUTES[route])
    assert losses["vast"].item() == pytest.approx(49.871537619688034, rel=1e-12)
    direction = pullback(pl.upgrad(gramian)[0])
    w = torch.tensor([[2.0284696502428843, -1.799217669552872, -0.9902205323818255],
                      [0.103537720729475, 1.086362162175433, -1.5128620974295437]],
                     dtype=torch.float64)  # fmt: skip
    b = torch.tensor([-2.417778639504432, -0.5617010643916138], dtype=torch.float64)
    assert relative(direction["w"], w) < 1e-9
    assert relative(direction["b"], b) < 1e-9


def test_the_gramian_of_torchjd():
    """torchjd 0.18.0: `Engine.compute_gramian` of the layer of the trunk."""
    params, *data = network()
    gramian = pl.value_and_gramian(three_losses, params, *data)[1]
    expected = torch.tensor(
        [[25.47216793743267, 0.2142715417596468, -36.773650150746604],
         [0.2142715417596468, 0.0020417982479249306, -0.24897105390090807],
         [-36.773650150746604, -0.24897105390090807, 150.10058665332005]], dtype=torch.float64
    )  # fmt: skip
    torch.testing.assert_close(torch.stack(list(gramian.values())), expected, rtol=1e-12, atol=0)


# Invariance


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", METHODS)
def test_the_scale_of_all_losses_does_not_matter(name, dtype):
    jacobian = hard(4, spread=1.0)
    gramian = (jacobian @ jacobian.T).to(dtype)
    weights = METHODS[name](gramian)[0]
    for factor in (1e-8, 1e-4, 1.0, 65536.0):
        found, aux = METHODS[name](gramian * factor**2)
        expected = weights * factor ** DEGREE.get(name, 0.0)
        assert relative(found, expected) < (1e-9 if dtype == torch.float64 else 1e-4)
        assert not aux["stationary"]


@pytest.mark.parametrize("name", [name for name in METHODS if name != "pcgrad"])
def test_the_order_of_tasks_does_not_matter(name):
    jacobian = hard(4, spread=1.0)
    order = torch.randperm(len(jacobian), generator=torch.Generator().manual_seed(0))
    weights = METHODS[name](jacobian @ jacobian.T)[0]
    permuted = jacobian[order]
    assert relative(METHODS[name](permuted @ permuted.T)[0], weights[order]) < 1e-8


@pytest.mark.parametrize("name", METHODS)
def test_names_return_as_they_came(name):
    gramian = J @ J.T
    tree = dict(zip("dbca", gramian[:, [3, 1, 2, 0]][[0, 1, 2, 3]], strict=True))
    leaves = torch.stack(optree.tree_leaves(tree))  # by sorted name: a, b, c, d
    order = [3, 1, 2, 0]
    assert torch.equal(leaves, gramian[order][:, order])
    weights, _ = METHODS[name](leaves)
    if name == "pcgrad":
        named, _ = pl.pcgrad(tree, torch.stack([torch.arange(4)] * 4))
    else:
        named, _ = METHODS[name](tree)
    assert set(named) == set("abcd")
    assert torch.equal(torch.stack([named[k] for k in "abcd"]), weights)


@pytest.mark.parametrize("name", METHODS)
def test_one_task_keeps_the_direction_of_its_gradient(name):
    expected = {"nash": 0.5, "fair, alpha 2": 4 ** (-2 / 3), "cagrad": 1.5}.get(name, 1.0)
    weights, aux = METHODS[name](torch.tensor([[4.0]]))
    assert weights.item() == pytest.approx(expected, rel=1e-6)
    assert not aux["stationary"]


# Degenerate Gramians

DEGENERATE = {
    "no gradient at all": torch.zeros(3, 3),
    "opposite": torch.tensor([[1.0, -1.0], [-1.0, 1.0]]),
    "opposite, of other length": torch.tensor([[1.0, -1e3], [-1e3, 1e6]]),
    "three that cancel": torch.tensor([[2.0, -1.0, -1.0], [-1.0, 2.0, -1.0], [-1.0, -1.0, 2.0]]),
    "one without gradient": torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.5], [0.0, 0.5, 1.0]]),
    "twice the same": torch.tensor([[1.0, 1.0], [1.0, 1.0]]),
    "tiny": torch.tensor([[1e-30, -5e-31], [-5e-31, 1e-30]]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("name", METHODS)
def test_a_degenerate_gramian_gives_no_nan(name, case, dtype):
    gramian = DEGENERATE[case].to(dtype)
    weights, aux = METHODS[name](gramian)
    assert weights.isfinite().all()
    assert weights.dtype == dtype
    gradient = torch.func.grad(lambda g: METHODS[name](g)[0].sum())(gramian)
    # Of weights as 1e15, for gradients of 1e-15, the derivative is beyond float32.
    assert gradient.isfinite().all() or (case, dtype) == ("tiny", torch.float32)
    assert not gradient.isnan().any()
    if aux["stationary"]:
        assert not weights.any()
    else:
        length, longest = weights @ gramian @ weights, gramian.diagonal().max()
        assert length > 1e-12 * longest, "rounding, where the direction is 0"
    if case == "no gradient at all":
        assert aux["stationary"]
    if case in ("twice the same", "tiny"):
        assert not aux["stationary"]


@pytest.mark.parametrize("case", ["opposite", "opposite, of other length", "three that cancel"])
@pytest.mark.parametrize("name", ["mgda", "upgrad", "dualproj", "nash", "imtl_g", "config"])
def test_gradients_that_cancel_are_stationary(name, case):
    if name == "dualproj" and case == "opposite, of other length":
        pytest.skip("the projection is 0 to rounding")
    weights, aux = METHODS[name](DEGENERATE[case].double())
    assert aux["stationary"]
    assert not weights.any()


# Transforms

BATCH = torch.stack([hard(seed, m=4, spread=1.0) for seed in range(6)])
GRAMIANS = BATCH @ BATCH.mT


@pytest.mark.parametrize("name", METHODS)
def test_vmap_is_the_loop(name):
    found, aux = vmap(METHODS[name])(GRAMIANS)
    loop = torch.stack([METHODS[name](g)[0] for g in GRAMIANS])
    torch.testing.assert_close(found, loop, rtol=1e-8, atol=1e-12)
    assert aux["stationary"].shape == (6,)


def test_vmap_beyond_the_supports_that_are_enumerated():
    batch = torch.stack([hard(seed, m=11, n=20, spread=1.0) for seed in range(3)])
    gramians = batch @ batch.mT
    for method in (pl.mgda, pl.upgrad):
        loop = torch.stack([method(g)[0] for g in gramians])
        torch.testing.assert_close(vmap(method)(gramians)[0], loop, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_one_graph_for_the_compiler(name):
    torch.compiler.reset()
    compiled = torch.compile(METHODS[name], fullgraph=True, backend="eager")
    gramian = GRAMIANS[0]
    torch.testing.assert_close(
        compiled(gramian)[0], METHODS[name](gramian)[0], rtol=1e-8, atol=1e-12
    )


@pytest.mark.parametrize(
    ("method", "option"), [(pl.cagrad, "c"), (pl.fair, "alpha")], ids=["cagrad", "fair"]
)
def test_options_scheduled_as_tensors_share_one_graph(method, option):
    torch.compiler.reset()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(method, fullgraph=True, backend=counter)
    for value in (0.3, 0.5, 0.9):
        tensor = torch.tensor(value, dtype=torch.float64)
        found, expected = (
            compiled(GRAMIANS[0], **{option: tensor}),
            method(GRAMIANS[0], **{option: value}),
        )
        torch.testing.assert_close(found[0], expected[0], rtol=1e-8, atol=1e-12)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", METHODS)
def test_nothing_waits_for_a_device(name, monkeypatch):
    """On the CPU a look at values costs nothing and ends a loop; here as on a GPU."""
    monkeypatch.setattr(solvers, "may_look", lambda _: False)
    with Operations() as operations:
        METHODS[name](GRAMIANS[0])
    assert [call for call, *_ in operations.calls if SYNCHRONISING.match(call)] == []
    assert operations.calls


def test_on_a_gpu_nobody_looks():
    with FakeTensorMode():
        assert not solvers.may_look(torch.ones(2, device="cuda", dtype=torch.bool))


@pytest.mark.parametrize("name", METHODS)
def test_derivatives_are_those_of_the_solution(name):
    """The Gramian stays symmetric, as every Gramian is."""
    if name == "pcgrad":
        pytest.skip("its kinks are everywhere")
    rows = hard(9, m=4, spread=0.5).requires_grad_()
    torch.autograd.gradcheck(lambda j: METHODS[name](j @ j.T)[0], rows, atol=1e-5, rtol=1e-4)


def test_half_precision_is_computed_in_float32():
    gramian = (J @ J.T).bfloat16()
    weights, _ = pl.upgrad(gramian)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights, pl.upgrad(gramian.double())[0].float())


# Jacobians and Gramians


def reference():
    """The Jacobian of torch.func, as a matrix with a row per task."""
    params, *data = network()
    tree = jacrev(three_losses)(params, *data)
    return torch.stack([torch.cat([g["b"], g["w"].flatten()]) for g in tree.values()])


@pytest.mark.parametrize("mode", ["rows", "vmap", 1, 2, 5])
def test_a_jacobian_is_that_of_torch(mode):
    params, *data = network()
    losses, jacobian = pl.value_and_jacobian(three_losses, params, *data, mode=mode)
    torch.testing.assert_close(losses, three_losses(params, *data))
    torch.testing.assert_close(jacobian, jacrev(three_losses)(params, *data))
    found = torch.stack(
        [torch.cat([jacobian[k]["b"], jacobian[k]["w"].flatten()]) for k in FACTORS]
    )
    torch.testing.assert_close(found, reference())
    gramian = pl.gramian(jacobian, losses)
    torch.testing.assert_close(torch.stack(list(gramian.values())), reference() @ reference().T)
    combined = pl.combine(jacobian, dict.fromkeys(FACTORS, torch.tensor(1.0).double()))
    total = torch.func.grad(lambda p: sum(three_losses(p, *data).values()))(params)
    torch.testing.assert_close(combined, total)


@pytest.mark.parametrize("route", ROUTES)
def test_a_gramian_is_that_of_the_jacobian(route):
    params, *data = network()

    def with_aux(*args):
        return three_losses(*args), {"features": args[0]["w"] * 2}

    _, gramian, pullback, aux = pl.value_and_gramian(
        with_aux, params, *data, has_aux=True, **ROUTES[route]
    )
    torch.testing.assert_close(torch.stack(list(gramian.values())), reference() @ reference().T)
    weights = dict(zip(FACTORS, torch.tensor([0.3, 2.0, -1.0], dtype=torch.float64), strict=True))
    direction = pullback(weights)
    expected = torch.stack(list(weights.values())) @ reference()
    found = torch.cat([direction["b"], direction["w"].flatten()])
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(aux["features"], params["w"] * 2)


def test_layers_used_twice_and_parameters_that_are_no_layer():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(6, 6), torch.nn.Tanh(), torch.nn.LayerNorm(6)
    ).double()
    params = {k: v.detach() for k, v in net.named_parameters()}
    x = torch.randn(7, 6, dtype=torch.float64)

    def losses(p, x):
        once = functional_call(net, p, (x,))
        twice = functional_call(net, p, (once,))
        return [
            once.square().mean(),
            twice.abs().mean(),
            (once * twice).sum(),
            p["0.weight"].norm(),
        ]

    expected = pl.value_and_gramian(losses, params, x)
    found = pl.value_and_gramian(losses, params, x, method="layers")
    torch.testing.assert_close(torch.stack(found[1]), torch.stack(expected[1]))
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    torch.testing.assert_close(found[2](weights), expected[2](weights))


class Product(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, w):
        return linear(x, w)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        x, w = ctx.saved_tensors
        return gradient @ w, gradient.T @ x


def without_gradient(p, x):
    with torch.no_grad():
        return linear(x, p["w"], p["b"])


LAYERS = {
    "a layer": lambda p, x: linear(x, p["w"], p["b"]),
    "with a bias for two": lambda p, x: linear(linear(x, p["w"], p["b"]), p["v"], p["b"]),
    "with a bias once": lambda p, x: linear(linear(x, p["w"]), p["w"], p["b"]),
    "with a penalty on its bias": lambda p, x: linear(x, p["w"], p["b"]) * p["b"].norm(),
    "with a bias from elsewhere": lambda p, x: linear(x, p["w"], p["b"] * p["v"][0]),
    "with one bias": lambda p, x: linear(x, p["w"], p["one"]),
    "of one output": lambda p, x: linear(x, p["b"]),
    "changed in place": lambda p, x: linear(linear(x, p["w"], p["b"]).relu_(), p["v"]).relu_(),
    "without gradient": lambda p, x: linear(without_gradient(p, x).tanh(), p["v"]),
    "in a function": lambda p, x: Product.apply(linear(x, p["w"]), p["v"]),
}


@pytest.mark.parametrize("uses", [2, 9])  # by products of inputs and of errors, by gradients
@pytest.mark.parametrize("case", LAYERS)
def test_layers_are_the_jacobian(case, uses):
    torch.manual_seed(0)
    shapes = {"w": (6, 6), "v": (6, 6), "b": (6,), "one": ()}
    params = {k: torch.randn(shape, dtype=torch.float64) for k, shape in shapes.items()}
    x = torch.randn(uses, 6, dtype=torch.float64)

    def losses(p, x):
        y = LAYERS[case](p, x)
        return [y.square().mean(), y.sin().sum(), y.exp().mean(), y[0].sum()]

    expected = pl.value_and_gramian(losses, params, x)
    found = pl.value_and_gramian(losses, params, x, method="layers")
    torch.testing.assert_close(torch.stack(found[1]), torch.stack(expected[1]))
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    torch.testing.assert_close(found[2](weights), expected[2](weights))


@pytest.mark.parametrize("uses", [2, 9])
def test_layers_under_autocast(uses):
    torch.manual_seed(0)
    params = {"w": torch.randn(6, 6), "b": torch.randn(6)}
    x = torch.randn(uses, 6)

    def losses(p, x):
        with torch.autocast("cpu", torch.bfloat16):
            y = linear(linear(x, p["w"], p["b"]).tanh(), p["w"], p["b"]).float()
        return [y.square().mean(), y.sum(), y[0].sum()]

    expected = pl.value_and_gramian(losses, params, x)
    found = pl.value_and_gramian(losses, params, x, method="layers")
    assert relative(torch.stack(found[1]), torch.stack(expected[1])) < 0.02
    of_expected, of_found = (pullback(torch.ones(3)) for _, _, pullback in (expected, found))
    for key, gradient in of_expected.items():
        assert of_found[key].dtype == torch.float32
        assert relative(of_found[key], gradient) < 0.02


@pytest.mark.parametrize("head_weights", ["unit", "same"])
def test_a_feature_gramian(head_weights):
    params, heads, x, y = network()
    tasks = {
        name: lambda own, z, x, i=i, factor=factor: factor * pl.mse_loss(z @ own, y[:, i])
        for i, (name, factor) in enumerate(FACTORS.items())
    }
    own = dict(zip(FACTORS, heads, strict=True))
    losses, gramian, pullback = pl.feature_gramian(
        trunk, tasks, params, own, x, head_weights=head_weights
    )
    torch.testing.assert_close(losses, three_losses(params, heads, x, y))
    z = trunk(params, x)
    rows = jacrev(lambda z: torch.stack([tasks[k](own[k], z, x) for k in sorted(FACTORS)]))(z)
    expected = torch.einsum("ikl,jkl->ij", rows, rows)
    torch.testing.assert_close(torch.stack([gramian[k] for k in sorted(FACTORS)]), expected)
    weights = {"near": torch.tensor(2.0), "small": torch.tensor(3.0), "vast": torch.tensor(0.5)}
    weights = {k: w.double() for k, w in weights.items()}
    for_trunk, for_heads = pullback(weights)
    found = torch.cat([for_trunk["b"], for_trunk["w"].flatten()])
    torch.testing.assert_close(found, torch.stack(list(weights.values())) @ reference())
    for name in FACTORS:
        gradient = torch.func.grad(tasks[name])(own[name], z, x)
        factor = 1.0 if head_weights == "unit" else weights[name]
        torch.testing.assert_close(for_heads[name], gradient * factor)


def test_feature_gramians_of_parts_of_a_batch_add_up():
    params, heads, x, y = network()

    def part(rows):
        tasks = {
            name: lambda own, z, x, i=i: (z @ own - y[rows, i]).square().sum()
            for i, name in enumerate(FACTORS)
        }
        own = dict(zip(FACTORS, heads, strict=True))
        gramian = pl.feature_gramian(trunk, tasks, params, own, x[rows])[1]
        return torch.stack([gramian[k] for k in sorted(FACTORS)])

    whole = part(slice(None))
    torch.testing.assert_close(part(slice(0, 1)) + part(slice(1, None)), whole)


# The report


def test_what_the_report_says():
    report = pl.conflict_report(J @ J.T)
    norms = J.norm(dim=1)
    torch.testing.assert_close(report["norms"], norms)
    expected = J @ J.T / (norms[:, None] * norms)
    torch.testing.assert_close(report["cosines"], expected)
    assert torch.equal(report["conflicts"], expected < 0)
    shortest = pl.mgda(J @ J.T)[0] @ J
    torch.testing.assert_close(report["stationarity"], shortest.norm())
    assert not report["stationary"]


def test_the_report_of_a_stationary_point():
    report = pl.conflict_report({"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([-2.0, 4.0])})
    assert report["stationary"]
    assert report["stationarity"].item() == 0.0
    assert report["conflicts"]["a"]["b"]
    assert report["norms"]["b"].item() == 2.0


# Messages


def one_loss(params):
    return {"a": params["w"].sum()}


def feature(own={}, heads=None, **options):  # noqa: B006
    heads = {"a": lambda own, z: z.sum()} if heads is None else heads
    return pl.feature_gramian(lambda s: s["w"], heads, {"w": torch.ones(2)}, own, **options)


W = {"w": torch.ones(2)}
EYE = torch.eye(2)
BAD = {
    "upgrad: `gramian` must be a square matrix": lambda: pl.upgrad(torch.ones(2, 3)),
    "mgda: `gramian` must have a row of shape": lambda: pl.mgda({"a": torch.ones(2)}),
    "fair: `gramian` must hold at least one task": lambda: pl.fair({}),
    "config: `gramian` must be floating, got torch.int64": lambda: pl.config(EYE.long()),
    "dualproj: `gramian` must be": lambda: pl.dualproj({"a": 3.0}),
    "cagrad: `c` must be": lambda: pl.cagrad(EYE, c=-0.1),
    "fair: `alpha` must be": lambda: pl.fair(EYE, alpha=0.0),
    "aligned_mtl: `scale` must be": lambda: pl.aligned_mtl(EYE, scale="max"),
    "pcgrad: `order` must hold integers, got": lambda: pl.pcgrad(EYE, EYE),
    "pcgrad: `order` must have a permutation": lambda: pl.pcgrad(EYE, torch.arange(2)),
    "gradvac_update: `state` must be that of 2 tasks": lambda: pl.gradvac_update(
        pl.gradvac_init([0] * 3), EYE, torch.arange(4).reshape(2, 2) % 2
    ),
    "gradvac_update: `beta` must be": lambda: pl.gradvac_update(
        pl.gradvac_init([0] * 2), EYE, torch.arange(4).reshape(2, 2) % 2, beta=1.5
    ),
    "gradvac_init: `tasks` must have at least one": lambda: pl.gradvac_init({}),
    "random_order: `number` must be at least 1, got 0": lambda: pl.random_order(
        0, torch.Generator()
    ),
    "graddrop: `noise` must have the structure": lambda: pl.graddrop([W, W], torch.ones(3)),
    "value_and_jacobian: `mode` must be": lambda: pl.value_and_jacobian(one_loss, W, mode=0),
    "value_and_gramian: `mode` must be": lambda: pl.value_and_gramian(one_loss, W, mode="row"),
    "value_and_gramian: `method` must be": lambda: pl.value_and_gramian(one_loss, W, method="x"),
    "value_and_jacobian: `f` must return 0-dim": lambda: pl.value_and_jacobian(
        lambda p: [p["w"]], W
    ),
    "value_and_jacobian: `f` must return at least": lambda: pl.value_and_jacobian(lambda p: {}, W),
    "value_and_gramian: `f` must return 0-dimensional floating": lambda: pl.value_and_gramian(
        lambda p: [3.0], W, method="layers"
    ),
    "pullback: `weights` must have the structure": lambda: pl.value_and_gramian(one_loss, W)[2](
        {"b": 1.0}
    ),
    "combine: `jacobian` must have the structure": lambda: pl.combine({"b": W}, {"a": 1.0}),
    "gramian: `jacobian` must have the structure": lambda: pl.gramian({"b": W}, {"a": 1.0}),
    "gramian: `jacobian` must have gradients of one": lambda: pl.gramian([W, [EYE]], [0, 0]),
    "feature_gramian: `heads` must hold": lambda: feature(heads={}),
    "feature_gramian: `own` must have the structure": lambda: feature({"b": {}}),
    "feature_gramian: `head_weights` must be": lambda: feature({"a": {}}, head_weights="none"),
    "feature_gramian: `heads` must return 0-dim": lambda: feature(
        {"a": {}}, {"a": lambda own, z: z}
    ),
}


@pytest.mark.parametrize("message", BAD)
def test_messages(message):
    with pytest.raises((ValueError, TypeError)) as caught:
        BAD[message]()
    assert str(caught.value).startswith(message)
    assert ", got " in str(caught.value)


def test_no_parameters_for_the_heads():
    _, _, pullback = feature({"a": {}})
    for_trunk, for_heads = pullback({"a": torch.tensor(2.0)})
    assert for_trunk["w"].tolist() == [2.0, 2.0]
    assert for_heads == {"a": {}}


def test_a_direction_that_is_trained_through():
    """c of CAGrad by gradient: nothing on the way is detached."""
    c = torch.tensor(0.3, dtype=torch.float64)

    def worst(c):
        return (J @ (pl.cagrad(J @ J.T, c=c)[0] @ J)).min()

    step = 1e-6
    finite = (worst(c + step) - worst(c - step)) / (2 * step)
    torch.testing.assert_close(torch.func.grad(worst)(c), finite, rtol=1e-6, atol=1e-6)

"""Losses of several tasks: densities and optima, missing labels, pitfalls, peers, training."""

import math

import optree
import pytest
import torch
from torch.distributions import Laplace, Normal
from torch.func import functional_call, grad, grad_and_value, vmap

import purelosses as pl
from purelosses import nn
from purelosses.laws.core import Operations

S = torch.tensor([-3.0, -0.5, 0.0, 0.7, 2.0], dtype=torch.float64)
RESIDUALS = torch.tensor([0.0, 0.3, -1.2, 4.0], dtype=torch.float64)


def total_of(s, loss, likelihood):
    return pl.uncertainty_weighted_loss([s], [loss], likelihood=likelihood)[0]


# Likelihoods


@pytest.mark.parametrize("s", S.tolist())
def test_gaussian_is_the_normal_likelihood_up_to_its_constant(s):
    """L the mean squared error and s = log σ²: -log density = total + ½ log 2π per observation."""
    s = torch.tensor(s, dtype=torch.float64)
    target = torch.zeros_like(RESIDUALS)
    found = total_of(s, pl.mse_loss(RESIDUALS, target), "gaussian")
    density = Normal(target, torch.exp(s / 2)).log_prob(RESIDUALS).mean()
    torch.testing.assert_close(found, -density - math.log(2 * math.pi) / 2, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("s", S.tolist())
def test_laplace_is_the_laplace_likelihood_up_to_its_constant(s):
    """L the mean absolute error and s = log b: -log density = total + log 2 per observation."""
    s = torch.tensor(s, dtype=torch.float64)
    target = torch.zeros_like(RESIDUALS)
    found = total_of(s, pl.l1_loss(RESIDUALS, target), "laplace")
    density = Laplace(target, torch.exp(s)).log_prob(RESIDUALS).mean()
    torch.testing.assert_close(found, -density - math.log(2), rtol=1e-12, atol=1e-12)


# (best exp(s), weight there, value there) for a loss L, from Kendall et al. by setting the
# derivative by s to 0.
OPTIMA = {
    "gaussian": (lambda L: L, lambda L: 1 / (2 * L), lambda L: math.log(L) / 2 + 1 / 2),
    "laplace": (lambda L: L, lambda L: 1 / L, lambda L: math.log(L) + 1),
    "softmax": (
        lambda L: 2 * L,
        lambda L: 1 / (2 * L),
        lambda L: math.log(L) / 2 + (1 + math.log(2)) / 2,
    ),
}


@pytest.mark.parametrize("loss", [1e-6, 0.3, 1.0, 50.0])
@pytest.mark.parametrize("likelihood", OPTIMA)
def test_optimum(likelihood, loss):
    best, weight, value = (formula(loss) for formula in OPTIMA[likelihood])
    s = torch.tensor(math.log(best), dtype=torch.float64)
    L = torch.tensor(loss, dtype=torch.float64)
    slope = grad(lambda s: total_of(s, L, likelihood))
    assert abs(slope(s)) < 1e-12
    assert slope(s - 0.1) < 0 < slope(s + 0.1)  # a minimum
    total, aux = pl.uncertainty_weighted_loss([s], [L], likelihood=likelihood)
    assert total.item() == pytest.approx(value, rel=1e-12, abs=1e-12)
    assert aux["weights"][0].item() == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize("likelihood", OPTIMA)
def test_the_gradient_of_a_loss_is_its_weight(likelihood):
    s, loss = torch.tensor(0.4, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
    slope = grad(lambda loss: total_of(s, loss, likelihood))(loss)
    _, aux = pl.uncertainty_weighted_loss([s], [loss], likelihood=likelihood)
    torch.testing.assert_close(slope, aux["weights"][0], rtol=1e-12, atol=0)


def test_the_total_can_be_negative():
    s = torch.tensor(math.log(1e-4), dtype=torch.float64)
    loss = torch.tensor(1e-4, dtype=torch.float64)
    assert total_of(s, loss, "gaussian").item() == pytest.approx(math.log(1e-4) / 2 + 1 / 2)


def test_a_mixture_of_likelihoods_weighs_tasks_as_each_alone():
    losses = {"depth": torch.tensor(0.5), "mask": torch.tensor(2.0), "edge": torch.tensor(3.0)}
    log_vars = {"depth": torch.tensor(0.1), "mask": torch.tensor(-0.2), "edge": torch.tensor(0.3)}
    kinds = {"depth": "gaussian", "mask": "softmax", "edge": "laplace"}
    total, aux = pl.uncertainty_weighted_loss(log_vars, losses, likelihood=kinds)
    alone = [total_of(log_vars[k], losses[k], kinds[k]) for k in losses]
    torch.testing.assert_close(total, torch.stack(alone).sum())
    weights = {"depth": 0.5 * math.exp(-0.1), "mask": math.exp(0.2), "edge": math.exp(-0.3)}
    for task, weight in weights.items():
        assert aux["weights"][task].item() == pytest.approx(weight)


def test_a_likelihood_for_a_branch_holds_for_all_tasks_below():
    losses = {"boxes": {"x": torch.tensor(1.0), "y": torch.tensor(2.0)}, "mask": torch.tensor(3.0)}
    log_vars = pl.uncertainty_weighted_init(losses)
    branch, _ = pl.uncertainty_weighted_loss(
        log_vars, losses, likelihood={"boxes": "laplace", "mask": "gaussian"}
    )
    assert branch == 1 + 2 + 3 / 2


# Structures


def test_init_of_a_number_names_or_a_tree():
    assert torch.equal(pl.uncertainty_weighted_init(3), torch.zeros(3))
    names = pl.uncertainty_weighted_init(["mask", "depth"])
    assert list(names) == ["mask", "depth"]
    assert all(leaf.shape == () and leaf == 0 for leaf in names.values())
    assert pl.uncertainty_weighted_init(("mask", "depth")).keys() == names.keys()
    tree = {"mask": torch.rand(5), "boxes": [0, {"x": 1.0}]}
    found = pl.uncertainty_weighted_init(tree)
    assert optree.tree_structure(found) == optree.tree_structure(tree)
    assert all(leaf.shape == () for leaf in optree.tree_leaves(found))


STRUCTURES = {
    "dict": {"a": 1.0, "b": 2.0},
    "nested": {"a": 1.0, "b": {"c": 2.0, "d": [3.0, 4.0]}},
    "list": [1.0, 2.0],
    "tuple": (1.0, 2.0),
    "one": {"a": 1.0},
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_any_tree_of_losses(name):
    losses = optree.tree_map(torch.tensor, STRUCTURES[name])
    log_vars = pl.uncertainty_weighted_init(losses)
    total, aux = pl.uncertainty_weighted_loss(log_vars, losses)
    assert total == sum(optree.tree_leaves(STRUCTURES[name])) / 2
    for part in ("losses", "weights"):
        assert optree.tree_structure(aux[part]) == optree.tree_structure(losses)
    assert optree.tree_all(optree.tree_map(torch.equal, aux["losses"], losses))


def test_a_vector_goes_with_a_list_in_order():
    log_vars = torch.tensor([0.0, 1.0, -1.0])
    losses = [torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)]
    total, aux = pl.uncertainty_weighted_loss(log_vars, losses)
    apart, _ = pl.uncertainty_weighted_loss(list(log_vars), losses)
    assert total == apart
    assert torch.stack(aux["weights"]).tolist() == pytest.approx([0.5, 0.5 / math.e, 0.5 * math.e])


def test_names_pair_log_vars_with_losses_whatever_the_order_of_either():
    log_vars = {"b": torch.tensor(1.0), "a": torch.tensor(0.0)}
    losses = {"a": torch.tensor(2.0), "b": torch.tensor(5.0)}
    total, aux = pl.uncertainty_weighted_loss(
        log_vars, losses, likelihood={"b": "laplace", "a": "gaussian"}
    )
    assert total.item() == pytest.approx(2 / 2 + 5 * math.exp(-1) + 1)
    assert aux["weights"]["b"].item() == pytest.approx(math.exp(-1))


def test_aux_is_detached_and_log_vars_learn():
    log_vars = {"a": torch.zeros((), requires_grad=True)}
    loss = torch.tensor(3.0, requires_grad=True)
    total, aux = pl.uncertainty_weighted_loss(log_vars, {"a": loss * 2})
    assert not any(leaf.requires_grad for leaf in optree.tree_leaves(aux))
    assert all(isinstance(leaf, torch.Tensor) for leaf in optree.tree_leaves(aux))
    total.backward()
    assert log_vars["a"].grad == 0.5 - 0.5 * 6
    assert loss.grad == 0.5 * 2


def test_half_precision_losses_are_summed_in_float32():
    total, aux = pl.uncertainty_weighted_loss(
        torch.zeros(2), [torch.tensor(60000.0).half(), torch.tensor(60000.0).half()]
    )
    assert total.dtype == torch.float32
    assert total == torch.tensor(60000.0).half().float()
    assert aux["losses"][0].dtype == torch.float16


def test_an_ensemble_of_log_vars_under_vmap_of_grad():
    losses = [torch.tensor(1.0), torch.tensor(4.0)]
    ensemble = torch.tensor([[0.0, 0.0], [1.0, -1.0]])
    found = vmap(grad(lambda s: pl.uncertainty_weighted_loss(s, losses)[0]))(ensemble)
    torch.testing.assert_close(found, 0.5 - 0.5 * torch.exp(-ensemble) * torch.stack(losses))


# Training


def test_the_functional_loop_finds_the_scale_of_every_task():
    """Two tasks whose losses are stuck at 0.01 and 100: exp(s) goes there."""
    losses = {"small": torch.tensor(0.01), "large": torch.tensor(100.0)}
    params = pl.uncertainty_weighted_init(losses)
    step = grad_and_value(lambda s: pl.uncertainty_weighted_loss(s, losses), has_aux=True)
    for _ in range(100):
        gradients, _ = step(params)
        # Newton: the second derivative of ½ exp(-s) L + ½ s is ½ exp(-s) L.
        curvature = optree.tree_map(lambda s, loss: 0.5 * torch.exp(-s) * loss, params, losses)
        params = optree.tree_map(
            lambda s, g, h: s - (g / h).clamp(-1, 1), params, gradients, curvature
        )
    for task, loss in losses.items():
        torch.testing.assert_close(params[task].exp(), loss)


def test_an_optimizer_trains_the_parameters_of_the_module():
    balance = nn.UncertaintyWeightedLoss(["small", "large"])
    losses = {"small": torch.tensor(0.5), "large": torch.tensor(4.0)}
    optimizer = torch.optim.Adam(balance.param_groups(), lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        total, aux = balance(losses)
        total.backward()
        optimizer.step()
    for task, loss in losses.items():
        assert balance.log_vars[task].exp().item() == pytest.approx(loss.item(), rel=1e-3)
        assert aux["weights"][task].item() == pytest.approx(1 / (2 * loss.item()), rel=1e-3)


def test_functional_call_replaces_the_parameters():
    balance = nn.UncertaintyWeightedLoss(["a", "b"])
    losses = {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}
    given = {"log_vars.a": torch.tensor(1.0), "log_vars.b": torch.tensor(-1.0)}
    total, _ = functional_call(balance, given, (losses,))
    expected, _ = pl.uncertainty_weighted_loss(
        {"a": given["log_vars.a"], "b": given["log_vars.b"]}, losses
    )
    assert total == expected
    assert all(p == 0 for p in balance.parameters())


@pytest.mark.parametrize(
    ("tasks", "names"),
    [
        pytest.param(2, ["log_vars"], id="number"),
        pytest.param(["mask", "depth"], ["log_vars.mask", "log_vars.depth"], id="names"),
        pytest.param(
            {"mask": 0, "boxes": {"x": 0, "y": 0}},
            ["log_vars.mask", "log_vars.boxes.x", "log_vars.boxes.y"],
            id="tree",
        ),
        pytest.param([0, 0], ["log_vars.0", "log_vars.1"], id="list"),
    ],
)
def test_state_dict_names_the_tasks(tasks, names):
    balance = nn.UncertaintyWeightedLoss(tasks)
    assert sorted(balance.state_dict()) == sorted(names)
    assert all(isinstance(p, torch.nn.Parameter) for p in balance.parameters())


def test_a_checkpoint_restores_the_weights_by_name():
    balance = nn.UncertaintyWeightedLoss(["mask", "depth"])
    balance.load_state_dict({"log_vars.depth": torch.tensor(3.0), "log_vars.mask": torch.ones(())})
    restored = nn.UncertaintyWeightedLoss(["depth", "mask"])
    restored.load_state_dict(balance.state_dict())
    assert restored.log_vars["depth"] == 3
    with pytest.raises(RuntimeError, match=r"Missing key.*log_vars\.edge"):
        nn.UncertaintyWeightedLoss(["depth", "mask", "edge"]).load_state_dict(balance.state_dict())


def test_param_groups_take_log_vars_out_of_weight_decay():
    network, balance = torch.nn.Linear(2, 2), nn.UncertaintyWeightedLoss(["a", "b"])
    optimizer = torch.optim.AdamW(
        [{"params": network.parameters()}, *balance.param_groups()], lr=0.1, weight_decay=0.5
    )
    with torch.no_grad():
        for p in balance.parameters():
            p.fill_(2.0)
    for p in [*network.parameters(), *balance.parameters()]:
        p.grad = torch.zeros_like(p)
    before = network.weight.clone()
    optimizer.step()
    assert all(p == 2 for p in balance.parameters())
    assert not torch.equal(network.weight, before)


def test_the_module_names_the_task_that_is_missing():
    balance = nn.UncertaintyWeightedLoss(["mask", "depth"])
    with pytest.raises(ValueError, match="log_vars") as caught:
        balance({"mask": torch.tensor(1.0)})
    assert "'depth'" in str(caught.value)


# Values of peers: torchjd 0.18.0, computed once in float64

LOSSES = [0.3, 2.0, 17.0]
LOG_VARS = [-0.7, 0.2, 1.5]
PEERS = {
    "torchjd's UW": (
        {"likelihood": "gaussian"},
        3.51740002046021,
        [1.00687635373524, 0.409365376538991, 0.111565080074215],
        [0.197937093879429, -0.318730753077982, -1.39660636126165],
    ),
    # It takes -s, so the sign of its gradient by that is turned.
    "torchjd's IMTLL": (
        {"likelihood": "laplace"},
        7.03480004092041,
        [2.01375270747048, 0.818730753077982, 0.22313016014843],
        [0.395874187758857, -0.637461506155964, -2.79321272252331],
    ),
}


def doubles(values):
    return [torch.tensor(value, dtype=torch.float64) for value in values]


def assert_near(found, expected, rtol=1e-12):
    expected = torch.tensor(expected, dtype=torch.float64)
    found = torch.stack(found) if isinstance(found, list | tuple) else found
    torch.testing.assert_close(found, expected, rtol=rtol, atol=0)


@pytest.mark.parametrize(("options", "value", "by_loss", "by_s"), PEERS.values(), ids=PEERS)
def test_uncertainty_weighting_of_a_peer(options, value, by_loss, by_s):
    def total(log_vars, losses):
        return pl.uncertainty_weighted_loss(log_vars, losses, **options)[0]

    data = doubles(LOG_VARS), doubles(LOSSES)
    gradients, found = grad_and_value(total, argnums=(0, 1))(*data)
    assert_near(found, value)
    assert_near(gradients[0], by_s)
    assert_near(gradients[1], by_loss)


@pytest.mark.parametrize("c", [0.05, 0.6, 1.0, 3.0])
@pytest.mark.parametrize("loss", [0.0, 1e-3, 5.0])
def test_the_revised_form_is_that_of_automatic_weighted_loss(c, loss):
    """Its expression: 0.5 / c² L + log(1 + c²)."""
    expected = 0.5 / c**2 * loss + math.log(1 + c**2)
    s, loss = doubles([math.log(c**2), loss])
    found, aux = pl.uncertainty_weighted_loss([s], [loss], form="revised")
    assert found.item() == pytest.approx(expected, rel=1e-13)
    assert aux["weights"][0].item() == pytest.approx(0.5 / c**2)
    assert found >= 0


FORMS = [(kind, form) for kind in OPTIMA for form in ("kendall", "revised")]


@pytest.mark.parametrize("loss", [1e-30, 1e-6, 0.3, 1.0, 50.0, 1e20])
@pytest.mark.parametrize(("likelihood", "form"), FORMS)
@pytest.mark.parametrize("dims", [1, 7])
def test_optimal_log_vars_are(likelihood, form, loss, dims):
    """The derivative by s is 0 there, relative to its two terms."""
    options = {"likelihood": likelihood, "form": form, "dims": dims}
    losses = doubles([loss])
    best = pl.optimal_log_vars(losses, **options)

    def slope(losses):
        return grad(lambda s: pl.uncertainty_weighted_loss(s, losses, **options)[0])(best)[0]

    assert abs(slope(losses)) < 1e-14 * slope(doubles([0.0]))


def test_the_revised_optimum_in_closed_form():
    (s,) = pl.optimal_log_vars(doubles([0.4]), form="revised")
    assert s.exp().item() == pytest.approx((0.4 + math.sqrt(0.4**2 + 8 * 0.4)) / 4, rel=1e-14)


def test_dims_make_a_sum_the_likelihood_of_all_its_numbers():
    residuals = torch.stack([RESIDUALS, 2 * RESIDUALS])  # two observations of four numbers
    s = torch.tensor(0.4, dtype=torch.float64)
    loss = residuals.square().sum(1).mean()
    found, _ = pl.uncertainty_weighted_loss([s], [loss], dims=4)
    density = Normal(torch.zeros_like(residuals), torch.exp(s / 2)).log_prob(residuals)
    expected = -density.sum(1).mean() - 4 * math.log(2 * math.pi) / 2
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_dims_of_a_tree():
    losses = {"boxes": {"x": torch.tensor(1.0), "y": torch.tensor(2.0)}, "mask": torch.tensor(3.0)}
    log_vars = optree.tree_map(lambda _: torch.tensor(2.0), losses)
    total, _ = pl.uncertainty_weighted_loss(log_vars, losses, dims={"boxes": 4, "mask": 1})
    assert total.item() == pytest.approx(6 * math.exp(-2) / 2 + (4 + 4 + 1) * 2 / 2)


# Bounds


def descend(loss, s=0.0, steps=200, rate=0.5, **options):
    s = torch.tensor(s, dtype=torch.float64)
    slope = grad(lambda s: pl.uncertainty_weighted_loss([s], doubles([loss]), **options)[0])
    for _ in range(steps):
        s = s - rate * slope(s)
    return s.item()


@pytest.mark.parametrize("form", ["kendall", "revised"])
def test_bounds_hold_a_loss_of_zero(form):
    assert descend(0.0, form=form) < -3.5
    assert descend(0.0, form=form, bounds=(-2.0, 2.0)) == pytest.approx(-2, abs=0.5)
    assert descend(1e3, form=form, rate=1e-3, bounds=(-2.0, 2.0)) == pytest.approx(2, abs=1)


def test_a_log_variance_outside_the_bounds_comes_back():
    """A plain clamp would leave it there: no gradient."""
    assert descend(0.5, s=-9.0, bounds=(-3.0, 3.0)) == pytest.approx(math.log(0.5), abs=1e-6)
    assert descend(0.5, s=9.0, bounds=(-3.0, 3.0)) == pytest.approx(math.log(0.5), abs=1e-6)


def test_bounds_change_nothing_inside():
    log_vars, losses = doubles(LOG_VARS), doubles(LOSSES)
    bound, _ = pl.uncertainty_weighted_loss(log_vars, losses, bounds=(-1.0, 2.0))
    assert bound == pl.uncertainty_weighted_loss(log_vars, losses)[0]
    _, aux = pl.uncertainty_weighted_loss(log_vars, losses, bounds=(0.0, 1.0))
    assert_near(aux["weights"], [0.5, 0.5 * math.exp(-0.2), 0.5 * math.exp(-1)])


# Missing labels

TASK_LOSSES = {
    "weighted_sum_loss": {"weights": {"a": 2.0, "b": 0.5, "c": 1.0}},
    "log_sum_loss": {},
    "geometric_mean_loss": {},
    "chebyshev_loss": {"ideal": 0.1},
    "smooth_chebyshev_loss": {"mu": 0.7},
    "uncertainty_weighted_loss": {"likelihood": "laplace"},
}


def total_and_aux(name, losses, **options):
    data = [losses]
    if name == "uncertainty_weighted_loss":
        data = [optree.tree_map(lambda x: 0.3 * torch.ones_like(x.detach().sum()), losses), losses]
    return getattr(pl, name)(*data, **TASK_LOSSES[name], **options)


PARTIAL = {
    "a": torch.tensor([1.0, 5.0, 3.0], dtype=torch.float64),
    "b": torch.tensor([0.5, 0.25], dtype=torch.float64),
    "c": torch.tensor(4.0, dtype=torch.float64),
}
THERE = {
    "a": torch.tensor([True, False, True]),
    "b": torch.tensor([False, False]),
    "c": torch.tensor(True),
}


@pytest.mark.parametrize("name", TASK_LOSSES)
def test_what_the_mask_excludes_does_not_exist(name):
    """Neither value nor gradient nor aux change by a bit, whatever lies under the mask."""

    def run(losses):
        def total(losses):
            return total_and_aux(name, losses, mask=THERE)

        return grad_and_value(total, has_aux=True)(losses)

    gradients, (value, aux) = run(PARTIAL)
    for garbage in (math.nan, math.inf, -math.inf, 1e300):
        spoilt = {k: torch.where(THERE[k], x, garbage) for k, x in PARTIAL.items()}
        again, (same, aux_again) = run(spoilt)
        assert same == value
        assert optree.tree_all(optree.tree_map(torch.equal, again, gradients))
        assert optree.tree_all(optree.tree_map(torch.equal, aux_again, aux))
    assert not gradients["b"].any()
    assert gradients["a"][1] == 0
    assert aux["losses"] == {"a": 2, "b": 0, "c": 4}
    assert aux["weights"]["b"] == 0


@pytest.mark.parametrize("name", TASK_LOSSES)
def test_a_task_without_labels_is_as_if_it_were_not_there(name):
    kept = {"a": torch.tensor(2.0, dtype=torch.float64), "c": PARTIAL["c"]}
    options = {"weights": {"a": 2.0, "c": 1.0}} if name == "weighted_sum_loss" else {}
    found, _ = total_and_aux(name, PARTIAL, mask=THERE)
    if options:
        expected, _ = pl.weighted_sum_loss(kept, **options)
    else:
        expected, _ = total_and_aux(name, kept)
    torch.testing.assert_close(found, expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("name", TASK_LOSSES)
def test_nothing_labelled_costs_nothing(name):
    nothing = optree.tree_map(torch.zeros_like, THERE)
    value = grad_and_value(lambda losses: total_and_aux(name, losses, mask=nothing)[0])(PARTIAL)
    assert value[1] == 0
    assert not any(leaf.any() for leaf in optree.tree_leaves(value[0]))
    if name == "uncertainty_weighted_loss":
        s = {k: torch.tensor(-5.0) for k in PARTIAL}
        slope = grad(lambda s: pl.uncertainty_weighted_loss(s, PARTIAL, mask=nothing)[0])(s)
        assert all(x == 0 for x in slope.values())


@pytest.mark.parametrize("name", TASK_LOSSES)
def test_weights_in_aux_are_the_derivative_by_each_loss(name):
    losses = dict(zip("abc", doubles([0.7, 2.0, 3.5]), strict=True))
    slopes, (_, aux) = grad_and_value(lambda x: total_and_aux(name, x), has_aux=True)(losses)
    for key, slope in slopes.items():
        torch.testing.assert_close(aux["weights"][key], slope, rtol=1e-14, atol=0)
    mask = {"a": torch.tensor(True), "b": None, "c": torch.tensor(False)}
    slopes, (_, aux) = grad_and_value(lambda x: total_and_aux(name, x, mask=mask), has_aux=True)(
        losses
    )
    for key, slope in slopes.items():
        torch.testing.assert_close(aux["weights"][key], slope, rtol=1e-14, atol=0)


def labels_in_one_batch_of_ten(masked):
    """Where s settles if the task, with a loss of 0.5, has labels in one batch of ten."""
    loss = torch.tensor(0.5, dtype=torch.float64)

    def total(s, there):
        if masked:
            return pl.uncertainty_weighted_loss([s], [loss], mask=[there])[0]
        # What every other implementation does: the loss is 0, the regulariser is paid.
        return pl.uncertainty_weighted_loss([s], [torch.where(there, loss, 0.0)])[0]

    s, batches = torch.zeros((), dtype=torch.float64), torch.arange(10) == 0
    for _ in range(300):
        s = s - vmap(grad(total), (None, 0))(s, batches).sum() / 10
    return s.item()


def test_the_pitfall_of_missing_labels():
    """Unmasked, the weight exp(-s) / 2 of the task becomes ten times too large."""
    right = math.log(0.5)
    wrong = labels_in_one_batch_of_ten(masked=False)
    assert wrong == pytest.approx(-3.00, abs=0.005)
    assert math.exp(right - wrong) == pytest.approx(10)
    assert labels_in_one_batch_of_ten(masked=True) == pytest.approx(right, abs=1e-6)


def test_nan_targets_under_the_mask_leave_the_gradient_finite():
    prediction = torch.tensor([1.0, 1.0, 1.0])
    target = torch.tensor([0.5, math.nan, 0.5])
    there = target.isfinite()

    def total(prediction):
        losses = {"depth": pl.mse_loss(prediction, target, where=there, reduction="none")}
        return pl.uncertainty_weighted_loss(
            {"depth": torch.zeros(())}, losses, mask={"depth": there}
        )[0]

    assert grad(total)(prediction).tolist() == [0.25, 0.0, 0.25]


def test_the_true_noise_is_found_with_labels_missing_at_random():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20000, generator=generator, dtype=torch.float64)
    there = torch.rand(20000, generator=generator) < torch.linspace(0, 0.5, 20000)
    found = {}
    for likelihood, losses in {"gaussian": (0.3 * noise).square(), "laplace": noise.abs()}.items():
        spoilt = {"task": torch.where(there, losses, math.nan)}
        mask = {"task": there}
        best = pl.optimal_log_vars(spoilt, likelihood=likelihood, mask=mask)
        slope = grad(
            lambda s, spoilt=spoilt, mask=mask, likelihood=likelihood: pl.uncertainty_weighted_loss(
                s, spoilt, likelihood=likelihood, mask=mask
            )[0]
        )(best)
        assert abs(slope["task"]) < 1e-12
        found[likelihood] = best["task"].exp().item()
    assert math.sqrt(found["gaussian"]) == pytest.approx(0.3, rel=0.03)
    assert found["laplace"] == pytest.approx(math.sqrt(2 / math.pi), rel=0.03)


def test_a_mask_of_the_first_levels_and_none():
    losses = {"boxes": {"x": torch.tensor([1.0, 3.0]), "y": torch.tensor([5.0, 7.0])},
              "mask": torch.tensor([2.0, 4.0])}  # fmt: skip
    mask = {"boxes": torch.tensor([True, False]), "mask": None}
    _, aux = pl.weighted_sum_loss(losses, mask=mask)
    assert aux["losses"] == {"boxes": {"x": 1, "y": 5}, "mask": 3}


# Sums and counts


def test_statistics_are_exact_over_uneven_parts():
    """Value and gradient, where the mean of the parts' means is off."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(12, generator=generator, dtype=torch.float64)
    weight = torch.tensor(0.7, dtype=torch.float64)
    there = torch.tensor([1, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0], dtype=torch.bool)
    log_vars = pl.uncertainty_weighted_init(["depth", "mask"])

    def losses(weight, part):
        x_part, there_part = x[part], there[part]
        per_sample = {"depth": (x_part - weight).square(), "mask": (x_part * weight).abs()}
        return per_sample, {"depth": there_part, "mask": None}

    def statistics(weight, part):
        per_sample, mask = losses(weight, part)
        return pl.task_statistics(per_sample, mask=mask)

    def total(sums):
        means, mask = pl.losses_from_statistics(sums)
        return pl.uncertainty_weighted_loss(log_vars, means, mask=mask)[0]

    def whole(weight):
        per_sample, mask = losses(weight, slice(None))
        return pl.uncertainty_weighted_loss(log_vars, per_sample, mask=mask)[0]

    parts = [slice(0, 4), slice(4, 8), slice(8, 12)]
    each = [statistics(weight, part) for part in parts]
    sums = optree.tree_map(lambda *x: torch.stack(x).sum(0), *each)
    torch.testing.assert_close(total(sums), whole(weight), rtol=1e-14, atol=0)
    by_sum = grad(total)(sums)
    pieces = []
    for part in parts:
        _, vjp = torch.func.vjp(lambda w, part=part: statistics(w, part), weight)
        pieces += vjp(by_sum)
    torch.testing.assert_close(sum(pieces), grad(whole)(weight), rtol=1e-14, atol=0)
    means = [pl.losses_from_statistics(statistics(weight, part)) for part in parts]
    naive = sum(m["depth"] for m, _ in means) / 3
    right = pl.losses_from_statistics(sums)[0]["depth"]
    assert abs(naive / right - 1) > 0.1


def test_statistics_of_scalars():
    found = pl.task_statistics({"a": torch.tensor(2.0), "b": torch.tensor(3.0)})
    assert found == {"sum": {"a": 2, "b": 3}, "count": {"a": 1, "b": 1}}
    losses, mask = pl.losses_from_statistics(found)
    assert losses == {"a": 2, "b": 3}
    assert all(mask.values())


# Scalarisations


def test_the_sum_is_where_to_start():
    losses = {"a": torch.tensor(1.0), "b": torch.tensor(2.0)}
    total, aux = pl.weighted_sum_loss(losses)
    assert total == 3
    assert aux == {"losses": losses, "weights": {"a": 1, "b": 1}}


def test_weights_as_a_row_of_a_tensor():
    """What a weighting of the Gramian returns."""
    total, _ = pl.weighted_sum_loss(doubles(LOSSES), weights=torch.tensor([1.0, 0.0, 2.0]).double())
    assert total.item() == pytest.approx(0.3 + 34)


def test_smooth_chebyshev_and_geometric_mean_of_torchjd():
    losses = doubles(LOSSES)
    options = {"weights": [0.2, 0.5, 0.05], "ideal": [0.1, 0.0, 0.2], "mu": 0.3}
    total, aux = pl.smooth_chebyshev_loss(losses, **options)
    assert_near(total, 1.14609664759227)
    assert_near(aux["weights"], [0.00500946208585933, 0.307236949731546, 0.0180239395053805])
    total, aux = pl.geometric_mean_loss(losses)
    assert_near(total, 2.1687028852502)
    assert_near(aux["weights"], [2.40966987250022, 0.361450480875033, 0.042523585985298])


@pytest.mark.parametrize("count", [2, 3, 10])
@pytest.mark.parametrize("loss", [1e-30, 1e-38, 1.0, 3e38])
def test_a_geometric_mean_neither_underflows_nor_overflows(count, loss):
    losses = [torch.tensor(loss) for _ in range(count)]
    total, aux = pl.geometric_mean_loss(losses)
    assert total.item() == pytest.approx(losses[0].item(), rel=1e-6)
    assert aux["weights"][0].item() == pytest.approx(1 / count, rel=1e-6)
    halves = [torch.tensor(1e-4, dtype=torch.float16)] * 4
    assert pl.geometric_mean_loss(halves)[0].item() == pytest.approx(halves[0].item())


def test_a_geometric_mean_at_zero_has_a_gradient():
    """torchjd's is NaN."""
    losses = [torch.tensor(0.0), torch.tensor(1.0)]
    gradient, total = grad_and_value(lambda x: pl.geometric_mean_loss(x)[0])(losses)
    assert total == 0
    assert gradient == [0, 0]


def test_a_log_sum_at_zero_has_a_gradient_and_a_negative_loss_shows():
    losses = [torch.tensor(0.0), torch.tensor(2.0)]
    gradient, total = grad_and_value(lambda x: pl.log_sum_loss(x)[0])(losses)
    assert total.isfinite()
    assert gradient == [0, 0.5]
    assert pl.log_sum_loss([torch.tensor(-1.0)])[0].isnan()
    assert pl.geometric_mean_loss([torch.tensor(-1.0), torch.tensor(1.0)])[0].isnan()


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 65536.0])
def test_no_scale_matters_to_logarithms(scale):
    """The pull of a task, weight times loss, does not know its unit."""
    losses = doubles(LOSSES)
    scaled = [losses[0] * scale, *losses[1:]]
    for loss in (pl.log_sum_loss, pl.geometric_mean_loss):
        aux, other = loss(losses)[1], loss(scaled)[1]
        pulls, others = (torch.stack(x["losses"]) * torch.stack(x["weights"]) for x in (aux, other))
        torch.testing.assert_close(pulls / pulls.sum(), others / others.sum(), rtol=1e-13, atol=0)


def test_chebyshev_shares_a_tie_evenly():
    losses = doubles([2.0, 1.0, 2.0])
    gradient = grad(lambda x: pl.chebyshev_loss(x)[0])(losses)
    assert gradient == [0.5, 0, 0.5]
    assert pl.chebyshev_loss(losses)[1]["weights"] == [0.5, 0, 0.5]


@pytest.mark.parametrize("mu", [1e-3, 0.1, 1.0, 100.0])
def test_smooth_chebyshev_lies_above_the_worst_by_mu_log_k_at_most(mu):
    losses = doubles(LOSSES)
    excess = pl.smooth_chebyshev_loss(losses, mu=mu)[0] - pl.chebyshev_loss(losses)[0]
    assert 0 <= excess <= mu * math.log(3)


def test_six_methods_one_formula():
    """At its best log-variances, uncertainty weighting is the log-sum, and that the geometric mean.

    All of their gradients, and UW-O's, are that of Σ log L up to one factor.
    """
    losses = doubles(LOSSES)
    log_sum, aux = pl.log_sum_loss(losses)
    weights = torch.stack(aux["weights"])
    for likelihood, (b, constant) in {
        "gaussian": (0.5, 0.5), "laplace": (1.0, 1.0), "softmax": (0.5, 0.5 + math.log(2) / 2),
    }.items():  # fmt: skip
        best = pl.optimal_log_vars(losses, likelihood=likelihood)
        total, aux = pl.uncertainty_weighted_loss(best, losses, likelihood=likelihood)
        torch.testing.assert_close(total, b * log_sum + 3 * constant, rtol=1e-13, atol=0)
        torch.testing.assert_close(torch.stack(aux["weights"]), b * weights, rtol=1e-13, atol=0)
    mean, aux = pl.geometric_mean_loss(losses)
    torch.testing.assert_close(mean, torch.exp(log_sum / 3), rtol=1e-13, atol=0)
    torch.testing.assert_close(torch.stack(aux["weights"]), mean / 3 * weights, rtol=1e-13, atol=0)
    optimal = pl.analytic_uncertainty_weights(losses, form="uw-o")
    torch.testing.assert_close(torch.stack(optimal), weights, rtol=1e-15, atol=0)


def test_analytic_weights():
    losses = doubles([0.5, 1.0, 4.0])
    found = torch.stack(pl.analytic_uncertainty_weights(losses, temperature=0.7))
    exponentials = [math.exp(1 / (0.7 * x)) for x in (0.5, 1.0, 4.0)]
    assert_near(found, [e / sum(exponentials) for e in exponentials])
    solved = pl.analytic_uncertainty_weights([*losses[:2], torch.tensor(1e-6)])
    assert torch.stack(solved).tolist() == [0, 0, 1]  # a pitfall, of the method
    assert torch.stack(pl.analytic_uncertainty_weights([torch.tensor(0.0)] * 2)).isfinite().all()
    mask = [torch.tensor(True), torch.tensor(False), torch.tensor(True)]
    found = torch.stack(pl.analytic_uncertainty_weights(losses, mask=mask))
    assert found[1] == 0
    assert found.sum().item() == pytest.approx(1)


def adam_steps_to(target, rate, loss=1e-3):
    """Until the weight is within 5 % of the right one."""
    s = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([s], lr=rate)
    for step in range(20000):
        if s.detach() - target < math.log(1.05):
            return step
        optimizer.zero_grad()
        total_of(s, torch.tensor(loss, dtype=torch.float64), "gaussian").backward()
        optimizer.step()
    raise AssertionError("it never arrived")


def test_the_pitfall_of_starting_at_zero():
    loss = torch.tensor(1e-3, dtype=torch.float64)
    best = pl.optimal_log_vars([loss])[0].item()
    assert adam_steps_to(best, 1e-1) > 60
    assert adam_steps_to(best, 1e-2) > 700


@pytest.mark.parametrize(("decay", "share"), [(0.01, 0.86), (0.1, 0.09)])
def test_the_pitfall_of_weight_decay(decay, share):
    """½ - ½ exp(-s) L + decay s = 0 is where s settles: the weight is a share of the right one."""
    s = torch.zeros((), dtype=torch.float64)
    loss = torch.tensor(1e-3, dtype=torch.float64)
    slope = grad(lambda s: total_of(s, loss, "gaussian"))
    for _ in range(200):
        s = s - 0.5 * (slope(s) + decay * s)
    assert (torch.exp(-s) * loss).item() == pytest.approx(share, abs=0.01)


# Tempered cross-entropy


def test_tempered_cross_entropy_is_exact_where_the_softmax_form_is_not():
    """They agree at a temperature of 1; Kendall's approximation is off by its normaliser."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(200, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(5, (200,), generator=generator)
    for variance in (0.25, 1.0, 4.0):
        s = torch.tensor(math.log(variance), dtype=torch.float64)
        exact = pl.tempered_cross_entropy_loss(logits, labels, s)
        expected = torch.nn.functional.cross_entropy(logits / variance, labels)
        torch.testing.assert_close(exact, expected, rtol=1e-13, atol=0)
        form = total_of(s, pl.cross_entropy_loss(logits, labels), "softmax")
        assert (abs(form - exact) < 1e-12) == (variance == 1)


def test_the_temperature_is_learnt():
    """Logits that are three times too sure: the best temperature is 3."""
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(10000, 4, generator=generator, dtype=torch.float64)
    labels = torch.multinomial(honest.softmax(1), 1, generator=generator).squeeze(1)
    s = torch.zeros((), dtype=torch.float64)
    slope = grad(lambda s: pl.tempered_cross_entropy_loss(3 * honest, labels, s))
    for _ in range(30):
        s = s - slope(s)
    assert s.exp().item() == pytest.approx(3, rel=0.05)


# Cost


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["weighted_sum_loss", "log_sum_loss", "uncertainty_weighted_loss"])
def test_fifty_tasks_take_as_many_operations_as_five(name, masked):
    def operations(count):
        losses = {f"task {i}": torch.tensor(1.0 + i, requires_grad=True) for i in range(count)}
        mask = dict.fromkeys(losses, torch.tensor(True)) if masked else None
        data = [losses]
        if name == "uncertainty_weighted_loss":
            data = [pl.uncertainty_weighted_init(losses), losses]
        with Operations() as recorded:
            getattr(pl, name)(*data, mask=mask)[0].backward()
        # How torch hands every leaf its gradient.
        handing = ("aten.detach", "aten.select", "aten.new_empty_strided", "aten.copy_")
        return [op for op, _, _ in recorded.calls if not op.startswith(handing)]

    assert operations(5) == operations(50)

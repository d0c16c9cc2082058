"""Uncertainty weighting against the densities it comes from, its table of optima, and training."""

import math

import optree
import pytest
import torch
from torch.distributions import Laplace, Normal
from torch.func import functional_call, grad, grad_and_value, vmap

import purelosses as pl
from purelosses import nn

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

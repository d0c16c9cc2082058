"""Functions of losses: combined, per_sample and per_sample_grad."""

import pickle
from functools import partial

import optree
import pytest
import torch
from torch.func import functional_call, grad, vmap

import purelosses as pl

X = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0], [2.0, 2.0, -1.0], [0.3, 0.1, 0.7]])
Y = torch.tensor([[0.5, -1.0, 0.5], [1.0, 2.5, 1.5], [0.0, 2.0, -2.0], [0.2, 0.9, 0.4]])
LABELS = torch.tensor([0, 2, 1, 1])
WHERE = torch.tensor([[True, True, False]] * 3 + [[False] * 3])
PAIR = {"mse": pl.mse_loss, "l1": pl.l1_loss}


# combined


def test_combined_is_the_weighted_sum_and_shows_its_terms():
    total, terms = pl.combined(PAIR, {"mse": 0.7, "l1": 0.3})(X, Y)
    torch.testing.assert_close(total, 0.7 * pl.mse_loss(X, Y) + 0.3 * pl.l1_loss(X, Y))
    assert list(terms) == ["mse", "l1"]
    assert terms["mse"] == pl.mse_loss(X, Y)
    assert terms["l1"] == pl.l1_loss(X, Y)


def test_combined_weighs_everything_with_1_by_default():
    total, _ = pl.combined(PAIR)(X, Y)
    torch.testing.assert_close(total, pl.mse_loss(X, Y) + pl.l1_loss(X, Y))


def test_combined_pairs_weights_by_name_not_by_position():
    total, _ = pl.combined(PAIR, {"l1": 0.0, "mse": 1.0})(X, Y)
    assert total == pl.mse_loss(X, Y)


def test_combined_passes_keywords_to_every_loss():
    total, terms = pl.combined(PAIR)(X, Y, where=WHERE, reduction="sum")
    assert terms["mse"] == pl.mse_loss(X, Y, where=WHERE, reduction="sum")
    assert terms["l1"] == pl.l1_loss(X, Y, where=WHERE, reduction="sum")
    torch.testing.assert_close(total, sum(terms.values()))


def test_combined_total_has_a_gradient_and_terms_have_none():
    x = X.clone().requires_grad_()
    total, terms = pl.combined(PAIR, {"mse": 0.7, "l1": 0.3})(x, Y)
    (gradient,) = torch.autograd.grad(total, x)
    expected = 0.7 * grad(pl.mse_loss)(X, Y) + 0.3 * grad(pl.l1_loss)(X, Y)
    torch.testing.assert_close(gradient, expected)
    assert not any(term.requires_grad for term in terms.values())


def test_combined_learns_weights_that_are_tensors():
    def total(weight):
        return pl.combined(PAIR, {"mse": weight, "l1": 1 - weight})(X, Y)[0]

    slope = grad(total)(torch.tensor(0.7))
    torch.testing.assert_close(slope, pl.mse_loss(X, Y) - pl.l1_loss(X, Y))


def test_combined_of_unreduced_losses_is_unreduced():
    total, terms = pl.combined(PAIR)(X, Y, reduction="none")
    torch.testing.assert_close(total, (X - Y).square() + (X - Y).abs())
    assert terms["l1"].shape == X.shape


@pytest.mark.parametrize(
    ("losses", "weights", "message"),
    [
        pytest.param({}, None, "combined: `losses` must name at least one loss, got {}", id="none"),
        pytest.param(
            PAIR,
            {"mse": 0.7, "mae": 0.3},
            "combined: `weights` must have the names of `losses`, ['l1', 'mse'], "
            "got ['mae', 'mse']",
            id="misspelt",
        ),
        pytest.param(
            PAIR,
            {"mse": 0.7},
            "combined: `weights` must have the names of `losses`, ['l1', 'mse'], got ['mse']",
            id="missing",
        ),
    ],
)
def test_combined_says_what_does_not_fit(losses, weights, message):
    with pytest.raises(ValueError, match="combined") as caught:
        pl.combined(losses, weights)
    assert str(caught.value) == message


def test_combined_in_a_step_of_grad_and_value():
    loss = pl.combined(PAIR, {"mse": 0.7, "l1": 0.3})
    gradient, (total, terms) = torch.func.grad_and_value(loss, has_aux=True)(X, Y)
    assert total == loss(X, Y)[0]
    assert gradient.shape == X.shape
    assert terms.keys() == PAIR.keys()


# What all three are: values


VALUES = {
    "combined": pl.combined(PAIR, {"mse": 0.7, "l1": 0.3}),
    "per_sample": pl.per_sample(pl.mse_loss),
    "per_sample of partial": pl.per_sample(partial(pl.huber_loss, delta=0.5)),
    "per_sample_grad": pl.per_sample_grad(pl.mse_loss, chunk_size=2),
    "nested": pl.per_sample(pl.combined(PAIR)),
}
REPRS = {
    "combined": "combined({'mse': mse_loss, 'l1': l1_loss}, {'mse': 0.7, 'l1': 0.3})",
    "per_sample": "per_sample(mse_loss)",
    "per_sample of partial": "per_sample(partial(huber_loss, delta=0.5))",
    "per_sample_grad": "per_sample_grad(mse_loss, chunk_size=2)",
    "nested": "per_sample(combined({'mse': mse_loss, 'l1': l1_loss}, None))",
}


@pytest.mark.parametrize("name", VALUES)
def test_repr_is_the_code_that_makes_it(name):
    value = VALUES[name]
    assert repr(value) == REPRS[name]
    rebuilt = eval(repr(value), {**vars(pl), "partial": partial})
    assert repr(rebuilt) == repr(value)


@pytest.mark.parametrize("name", VALUES)
def test_pickle_gives_the_same_function(name):
    value = VALUES[name]
    data = (X[0], X, Y) if name == "per_sample_grad" else (X, Y)
    if name == "per_sample_grad":
        value = pl.per_sample_grad(scaled_error, chunk_size=2)
    copy = pickle.loads(pickle.dumps(value))
    assert repr(copy) == repr(value)
    assert optree.tree_all(optree.tree_map(torch.equal, copy(*data), value(*data)))


def scaled_error(scale, prediction, target):
    return pl.mse_loss(prediction * scale, target)


def test_equality():
    assert pl.combined(PAIR, {"mse": 1.0, "l1": 2.0}) == pl.combined(PAIR, {"mse": 1.0, "l1": 2.0})
    assert pl.combined(PAIR, {"mse": 1.0, "l1": 2.0}) != pl.combined(PAIR)
    assert pl.per_sample(pl.mse_loss) == pl.per_sample(pl.mse_loss)
    assert pl.per_sample(pl.mse_loss) != pl.per_sample(pl.l1_loss)
    assert pl.per_sample_grad(pl.mse_loss, 2) != pl.per_sample_grad(pl.mse_loss)
    assert len({pl.per_sample(pl.mse_loss), pl.per_sample(pl.mse_loss)}) == 1


@pytest.mark.parametrize("name", VALUES)
def test_options_cannot_be_changed(name):
    with pytest.raises(AttributeError):
        VALUES[name].loss = pl.l1_loss


# per_sample


def rows(*tensors):
    """A batch as batches of one."""
    return zip(*(tensor.split(1) for tensor in tensors), strict=True)


def test_per_sample_is_a_loop_over_batches_of_one():
    loss = partial(pl.cross_entropy_loss, label_smoothing=0.1)
    loop = torch.stack([loss(x, y) for x, y in rows(X, LABELS)])
    torch.testing.assert_close(pl.per_sample(loss)(X, LABELS), loop)


def test_per_sample_takes_keywords_apart_too():
    weights = torch.rand(4, 3, generator=torch.Generator().manual_seed(0))
    found = pl.per_sample(pl.mse_loss)(X, Y, where=WHERE, weights=weights, reduction="mean")
    loop = [pl.mse_loss(x, y, where=m, weights=w) for x, y, m, w in rows(X, Y, WHERE, weights)]
    torch.testing.assert_close(found, torch.stack(loop))
    assert found[-1] == 0  # nothing of the last sample counts


def test_per_sample_of_a_loss_over_regions():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 5, generator=generator)
    labels = torch.randint(3, (4, 5), generator=generator)
    loss = partial(pl.dice_loss, activation="softmax", class_dim=1, classes="present")
    loop = torch.stack([loss(x, y) for x, y in rows(logits, labels)])
    torch.testing.assert_close(pl.per_sample(loss)(logits, labels), loop)


def test_per_sample_of_a_loss_that_returns_a_tree():
    total, terms = pl.per_sample(pl.combined(PAIR))(X, Y)
    torch.testing.assert_close(terms["l1"], (X - Y).abs().mean(1))
    torch.testing.assert_close(total, terms["mse"] + terms["l1"])


def test_per_sample_takes_trees_of_data_apart():
    def loss(batch):
        return pl.mse_loss(batch["x"], batch["y"])

    found = pl.per_sample(loss)({"y": Y, "x": X})
    torch.testing.assert_close(found, (X - Y).square().mean(1))


def test_per_sample_shares_what_is_bound():
    weights = torch.tensor([[1.0, 2.0, 4.0]])
    found = pl.per_sample(partial(pl.mse_loss, weights=weights))(X, Y)
    torch.testing.assert_close(found, ((X - Y).square() * weights).mean(1))


@pytest.mark.parametrize(
    ("args", "kwargs", "shapes"),
    [
        pytest.param((X, Y[:3]), {}, "[(4, 3), (3, 3)]", id="lengths"),
        pytest.param((X, torch.tensor(1.0)), {}, "[(4, 3), ()]", id="no axis"),
        pytest.param(
            (X, Y), {"weights": torch.ones(1, 3)}, "[(4, 3), (4, 3), (1, 3)]", id="shared"
        ),
        pytest.param((1.0, 2.0), {}, "[]", id="no tensor"),
    ],
)
@pytest.mark.parametrize("name", ["per_sample", "per_sample_grad"])
def test_batches_that_do_not_fit(name, args, kwargs, shapes):
    given = args if name == "per_sample" else (torch.tensor(1.0), *args)
    with pytest.raises(ValueError, match=name) as caught:
        getattr(pl, name)(scaled_error)(*given, **kwargs)
    assert str(caught.value) == (
        f"{name}: `*args, **kwargs` must be tensors with one first axis for the samples (bind "
        f"others with functools.partial), got shapes {shapes}"
    )


# per_sample_grad


@pytest.fixture(scope="module")
def problem():
    """A small network, its parameters and a batch in float64."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    network.double()
    params = {name: p.detach() for name, p in network.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    y = torch.randint(3, (7,), generator=generator)

    def objective(params, x, y, **options):
        return pl.cross_entropy_loss(functional_call(network, params, (x,)), y, **options)

    return objective, params, x, y


def stacked(trees):
    return optree.tree_map(lambda *leaves: torch.stack(leaves), *trees)


def assert_trees_close(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("chunk_size", [None, 1, 3, 100])
def test_per_sample_grad_is_a_loop(problem, chunk_size):
    objective, params, x, y = problem
    loop = stacked([grad(objective)(params, *row) for row in rows(x, y)])
    found = pl.per_sample_grad(objective, chunk_size=chunk_size)(params, x, y)
    assert_trees_close(found, loop)


def test_mean_of_per_sample_grad_is_the_gradient_of_the_mean(problem):
    objective, params, x, y = problem
    found = pl.per_sample_grad(objective)(params, x, y)
    mean = optree.tree_map(lambda leaf: leaf.mean(0), found)
    assert_trees_close(mean, grad(objective)(params, x, y))


def test_per_sample_grad_takes_keywords_apart(problem):
    objective, params, x, y = problem
    weights = torch.arange(7.0, dtype=torch.float64)
    where = weights > 1
    found = pl.per_sample_grad(objective)(params, x, y, weights=weights, where=where)
    loop = [grad(objective)(params, a, b, weights=w, where=m)
            for a, b, w, m in rows(x, y, weights, where)]  # fmt: skip
    assert_trees_close(found, stacked(loop))
    assert all((leaf[:2] == 0).all() for leaf in optree.tree_leaves(found))


def test_per_sample_grad_of_a_partial(problem):
    objective, params, x, y = problem
    smoothed = partial(objective, label_smoothing=0.1)
    loop = stacked([grad(smoothed)(params, *row) for row in rows(x, y)])
    assert_trees_close(pl.per_sample_grad(smoothed, chunk_size=2)(params, x, y), loop)


def test_per_sample_grad_of_each_loss_by_its_prediction():
    """With the prediction itself as the parameter: its gradient, shared by all samples."""
    x = X[0].clone()
    found = pl.per_sample_grad(lambda shared, y: pl.mse_loss(shared.expand(y.shape), y))(x, Y)
    torch.testing.assert_close(found, 2 * (x - Y) / 3)


# Under the transforms of torch


def test_per_sample_under_grad_and_vmap():
    loss = pl.per_sample(pl.mse_loss)
    torch.testing.assert_close(
        grad(lambda x: loss(x, Y).sum())(X), grad(lambda x: pl.mse_loss(x, Y) * 4)(X)
    )
    batches = torch.stack([X, X + 1]), torch.stack([Y, Y])
    together = vmap(loss)(*batches)
    torch.testing.assert_close(together, torch.stack([loss(X, Y), loss(X + 1, Y)]))
    per_problem = vmap(grad(lambda x, y: loss(x, y).sum()))(*batches)
    torch.testing.assert_close(per_problem, 2 * (batches[0] - batches[1]) / 3)


def test_combined_under_vmap_of_grad():
    loss = pl.combined(PAIR, {"mse": 0.7, "l1": 0.3})
    found, terms = vmap(grad(loss, has_aux=True))(X, Y)
    loop = [grad(loss, has_aux=True)(x, y)[0] for x, y in zip(X, Y, strict=True)]
    torch.testing.assert_close(found, torch.stack(loop))
    torch.testing.assert_close(terms["l1"], (X - Y).abs().mean(1))


@pytest.mark.parametrize("name", ["combined", "nested"])
def test_compiled_in_one_graph(name):
    torch.compiler.reset()
    compiled = torch.compile(VALUES[name], backend="aot_eager", fullgraph=True)
    found, expected = compiled(X, Y), VALUES[name](X, Y)
    optree.tree_map(torch.testing.assert_close, found, expected)


def test_per_sample_grad_compiled_in_one_graph(problem):
    objective, params, x, y = problem
    gradients = pl.per_sample_grad(objective)
    torch.compiler.reset()
    compiled = torch.compile(gradients, backend="aot_eager", fullgraph=True)
    assert_trees_close(compiled(params, x, y), gradients(params, x, y))

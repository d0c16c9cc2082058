"""`checked`: values outside their domain are found in every transform, and nothing else changes."""

import pickle
from functools import partial

import optree
import pytest
import torch
from torch.func import grad, hessian, jacrev, jvp, vmap

import purelosses as pl
import purelosses.nn as pnn
from purelosses.registry import LOSSES

NAN, INF = float("nan"), float("inf")
CASES = [pytest.param(spec, case, id=f"{spec.name}-{case.name}")
         for spec in LOSSES.values() for case in spec.cases]  # fmt: skip


def bind(problem, loss):
    """The loss with the options of a problem, and the problem's data and per-call tensors."""
    data, keywords = problem.arguments
    options = {k: v for k, v in keywords.items() if k in problem.options}
    given = {k: v for k, v in keywords.items() if k not in problem.options}
    return partial(loss, **options) if options else loss, data, given


@pytest.mark.parametrize(("spec", "case"), CASES)
@pytest.mark.parametrize("full", [False, True], ids=["plain", "where and weights"])
def test_good_values_give_the_same_result_bitwise(spec, case, full):
    full = full and case.unit is not None
    for seed in range(3):
        problem = case.problem(seed, where=full and case.where is not None, weights=full)
        loss, data, given = bind(problem, spec.loss)
        found, expected = pl.checked(loss)(*data, **given), loss(*data, **given)
        assert optree.tree_all(optree.tree_map(torch.equal, found, expected))


@pytest.mark.parametrize(("spec", "case"), CASES)
def test_good_values_give_the_same_gradient_bitwise(spec, case):
    problem = case.problem(0)
    leaves = {k: problem.tensors[k].requires_grad_() for k in problem.differentiable}

    def gradients(wrap):
        loss, data, given = bind(problem.having(**leaves), spec.loss)
        value = wrap(loss)(*data, **given)
        value = value[0] if isinstance(value, tuple) else value
        return torch.autograd.grad(value, list(leaves.values()), allow_unused=True,
                                   materialize_grads=True)  # fmt: skip

    for found, expected in zip(gradients(pl.checked), gradients(lambda x: x), strict=True):
        assert torch.equal(found, expected)


# Every domain, its edges, and what lies beyond them

OUTSIDE = {
    "real": [NAN, INF, -INF],
    "positive": [NAN, INF, -1e-6],
    "logits": [NAN, INF, -INF],
    "class_logits": [NAN, INF],
    "unit": [NAN, INF, -1e-6, 1 + 1e-6, 255.0],
    "mask": [NAN, INF, -1.0, 255.0],
    "distribution": [NAN, INF, -1e-6, 1 + 1e-6],
    "weights": [NAN, INF, -1e-6],
    "boxes": [NAN, INF, -INF],
    "positions": [NAN, INF, -1e-6, 2.001],
    "counts": [NAN, INF, -1.0],
    "log_scale": [NAN, INF, -INF],
    "sign": [NAN, INF, -1.001, 255.0],
}
EDGES = {"real": [1e30, -1e30], "positive": [0.0, 1e30], "counts": [0.0, 1e30],
         "log_scale": [40.0, -40.0], "sign": [-1.0, 1.0], "logits": [1e4, -1e4],
         "class_logits": [1e4, -1e4], "unit": [0.0, 1.0], "mask": [0.0, 1.0],
         "distribution": [0.0, 1.0], "weights": [0.0, 1e30],
         "boxes": [1e30, -1e30], "positions": [0.0, 2.0]}  # fmt: skip


def planted(problem, name, value):
    """The problem with this value as the first number of one tensor."""
    tensor = problem.tensors[name].clone()
    tensor.view(-1)[0] = value
    return problem.having(**{name: tensor})


def domains_of(spec, case):
    """Path and domain of everything floating that is checked."""
    tasks = [path for path in case.arrays if path.startswith("losses.")]
    masks = optree.tree_leaves(case.options.get("mask"))
    unlabelled = [path for path, mask in zip(sorted(tasks), masks, strict=False)
                  if not mask.flatten()[0]]  # fmt: skip
    for path, array in case.arrays.items():
        if array.domain not in ("where", "labels") and path not in unlabelled:
            # A task loss may be negative, unless its loss says otherwise; and so is a map of
            # signed distances, which the registry draws of one sign.
            domain = "real" if path == "distance_map" else array.domain
            yield path, spec.domains({})["losses"] if path in tasks else domain


PLANTED = [pytest.param(spec, case, path, value, id=f"{spec.name}-{case.name}-{path}-{value}")
           for spec in LOSSES.values() for case in spec.cases
           for path, domain in domains_of(spec, case) for value in OUTSIDE[domain]]  # fmt: skip


@pytest.mark.parametrize(("spec", "case", "path", "value"), PLANTED)
def test_a_value_outside_its_domain(spec, case, path, value):
    problem = planted(case.problem(0, weights=path == "weights"), path, value)
    loss, data, given = bind(problem, spec.loss)
    loss(*data, **given)  # unchecked, it is silent
    argument = path.split(".")[0]
    with pytest.raises(ValueError, match=rf"^{spec.name}: `{argument}[^`]*` must be .+, got .+"):
        pl.checked(loss)(*data, **given)


EDGE = [pytest.param(spec, case, path, value, id=f"{spec.name}-{case.name}-{path}-{value}")
        for spec in LOSSES.values() for case in spec.cases
        for path, domain in domains_of(spec, case) for value in EDGES[domain]]  # fmt: skip


@pytest.mark.parametrize(("spec", "case", "path", "value"), EDGE)
def test_the_edge_of_a_domain_is_in_it(spec, case, path, value):
    problem = planted(case.problem(0, weights=path == "weights"), path, value)
    loss, data, given = bind(problem, spec.loss)
    pl.checked(loss)(*data, **given)


def test_minus_infinity_removes_a_class():
    logits = torch.tensor([[1.0, -INF, 0.0]])
    pl.checked(pl.cross_entropy_loss)(logits, torch.tensor([0]))
    with pytest.raises(ValueError, match="`logits` must be finite"):
        pl.checked(pl.binary_cross_entropy_loss)(logits, torch.ones(1, 3))


def test_class_weights_and_their_domain():
    data = torch.zeros(2, 3), torch.tensor([0, 2])
    loss = partial(pl.cross_entropy_loss, class_weights=torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(ValueError, match=r"`class_weights` must be .*at least 0, got -1"):
        pl.checked(loss)(*data)


def test_messages_in_full():
    with pytest.raises(ValueError, match="dice_loss") as caught:
        pl.checked(pl.dice_loss)(torch.tensor([0.5, 0.2]), torch.tensor([255, 0]))
    assert str(caught.value) == "dice_loss: `target` must be between 0 and 1, got 255"
    with pytest.raises(ValueError, match="mse_loss") as caught:
        pl.checked(pl.mse_loss)(torch.tensor([0.5]), torch.tensor([NAN]))
    assert str(caught.value) == "mse_loss: `target` must be finite, got nan"
    with pytest.raises(ValueError, match="mse_loss") as caught:
        pl.checked(pl.mse_loss)(torch.ones(1), torch.ones(1), weights=-torch.ones(1))
    assert str(caught.value) == "mse_loss: `weights` must be finite and at least 0, got -1.0"


# What `where` excludes is not looked at


MASKED = [spec for spec in LOSSES.values() if spec.cases[0].where is not None]


@pytest.mark.parametrize("value", [NAN, INF, -5.0, 255.0])
@pytest.mark.parametrize("spec", MASKED, ids=lambda spec: spec.name)
def test_values_under_a_false_mask_are_ignored(spec, value):
    for case in spec.cases:
        problem = case.problem(3, where=True, weights=True)
        where = problem.tensors["where"]
        axes = case.arrays["where"].names
        for path in case.args:
            if path == spec.parameters:
                continue
            array, tensor = case.arrays[path], problem.tensors[path]
            if not tensor.ndim:
                continue  # it belongs to no sample
            mask = where
            for position, axis in enumerate(array.names):
                mask = mask if axis in axes else mask.unsqueeze(position)
            garbage = 255 if array.domain == "labels" else value
            spoilt = problem.having(**{path: torch.where(mask, tensor, garbage).to(tensor.dtype)})
            loss, data, given = bind(spoilt, spec.loss)
            pl.checked(loss)(*data, **given)


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("name", ["weighted_sum_loss", "log_sum_loss", "uncertainty_weighted_loss"])
def test_losses_without_labels_are_ignored(name, value):
    data = [{"a": torch.tensor([1.0, value]), "b": torch.tensor(value)}]
    mask = {"a": torch.tensor([True, False]), "b": torch.tensor(False)}
    if name == "uncertainty_weighted_loss":
        data = [pl.uncertainty_weighted_init(["a", "b"]), *data]
    loss = pl.checked(getattr(pl, name))
    loss(*data, mask=mask)
    with pytest.raises(ValueError, match="`losses` must"):
        loss(*data, mask={"a": torch.tensor([True, True]), "b": torch.tensor(False)})


def test_weights_under_a_false_mask_are_ignored():
    x, where = torch.zeros(2), torch.tensor([True, False])
    pl.checked(pl.mse_loss)(x, x, where=where, weights=torch.tensor([1.0, NAN]))
    with pytest.raises(ValueError, match="weights"):
        pl.checked(pl.mse_loss)(x, x, where=~where, weights=torch.tensor([1.0, NAN]))


# Transforms

GOOD, BAD = torch.tensor([0.2, 0.7, 0.4]), torch.tensor([0.2, 1.7, 0.4])
MASK = torch.tensor([0.0, 1.0, 1.0])
DICE = pl.checked(pl.dice_loss)


def compiled(function):
    torch.compiler.reset()
    return torch.compile(function, backend="aot_eager", fullgraph=True)


def backward(loss):
    def call(x, y):
        x = x.clone().requires_grad_()
        loss(x, y).backward()
        return x.grad

    return call


# Copies: torch 2.13 compiles f(x) for good with x in place of a global that the first x happens
# to be.
ROW, ROW_MASK = GOOD.clone(), MASK.clone()


def two_rows(function):
    return lambda x, y: function(torch.stack([ROW, x]), torch.stack([ROW_MASK, y]))


TRANSFORMS = {
    "eager": lambda loss: loss,
    "backward": backward,
    "no_grad": lambda loss: torch.no_grad()(loss),
    "grad": grad,
    "vmap": lambda loss: two_rows(vmap(loss)),
    "vmap over one argument": lambda loss: two_rows(vmap(lambda x, y: loss(x, y[1]), (0, None))),
    "vmap of grad": lambda loss: two_rows(vmap(grad(loss))),
    "vmap of vmap": lambda loss: two_rows(lambda x, y: vmap(vmap(loss))(x[None], y[None])),
    "jvp": lambda loss: lambda x, y: jvp(lambda x: loss(x, y), (x,), (torch.ones(3),)),
    "hessian": hessian,
    "jacrev of grad": lambda loss: jacrev(grad(loss)),
    "per_sample": lambda loss: two_rows(pl.per_sample(loss)),
    "compiled": compiled,
    "compiled backward": lambda loss: backward(compiled(loss)),
    "compiled grad": lambda loss: compiled(grad(loss)),
    "compiled vmap of grad": lambda loss: compiled(two_rows(vmap(grad(loss)))),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_check_fires_in(name):
    transformed = TRANSFORMS[name](DICE)
    expected = TRANSFORMS[name.removeprefix("compiled ").replace("compiled", "eager")](pl.dice_loss)
    optree.tree_map(torch.testing.assert_close, transformed(GOOD, MASK), expected(GOOD, MASK))
    for data in ((BAD, MASK), (GOOD, BAD)):
        with pytest.raises(ValueError, match=r"must be between 0 and 1, got 1\.7"):
            transformed(*data)
    transformed(GOOD, MASK)  # and it works again


def test_labels_are_checked_where_the_loss_itself_cannot():
    """Compiled, a bad label gives NaN; the check says so instead."""
    logits, labels = torch.zeros(2, 3), torch.tensor([1, 7])
    assert compiled(pl.cross_entropy_loss)(logits, labels).isnan()
    loss = compiled(pl.checked(pl.cross_entropy_loss))
    with pytest.raises(ValueError, match="`target` must be between 0 and 2, got 7"):
        loss(logits, labels)


def test_labels_along_another_class_axis():
    logits, labels = torch.zeros(2, 5, 3), torch.full((2, 5), 4)
    with pytest.raises(ValueError, match=r"`target` must .*0 to 2.*got 4"):
        pl.checked(partial(pl.cross_entropy_loss, class_dim=-1))(logits, labels)
    pl.checked(partial(pl.cross_entropy_loss, class_dim=-2))(logits, torch.full((2, 3), 4))


def test_a_check_is_not_dropped_for_a_result_that_is_not_used():
    def ignores(x, y):
        DICE(x, y)
        return x.sum()

    with pytest.raises(ValueError, match="between 0 and 1"):
        compiled(ignores)(BAD, MASK)


# Functions of all kinds


def own_loss(prediction, target, scale=1.0):
    return ((prediction - target) * scale).square().mean()


def test_an_unknown_loss_is_checked_for_finite_tensors():
    loss = pl.checked(own_loss)
    assert loss(BAD, MASK) == own_loss(BAD, MASK)
    for name, data in (("prediction", (MASK.log(), BAD)), ("target", (BAD, MASK.log()))):
        with pytest.raises(ValueError, match=f"own_loss: `{name}` must be finite, got -inf"):
            loss(*data)
    with pytest.raises(ValueError, match="own_loss: `scale` must be finite, got inf"):
        loss(BAD, MASK, scale=torch.tensor(INF))


def test_an_unknown_loss_of_trees():
    loss = pl.checked(lambda params, x: (params["w"] * x).sum())
    with pytest.raises(ValueError, match="`params"):
        loss({"w": torch.tensor([NAN])}, torch.ones(1))


def mse_loss(prediction, target):
    """Named like one of the library's, and not it."""
    return (prediction + target).mean()


def test_a_namesake_is_an_unknown_loss():
    assert pl.checked(mse_loss)(BAD, MASK) == mse_loss(BAD, MASK)


def test_partial_of_a_loss_is_known():
    loss = pl.checked(partial(pl.dice_loss, smooth=0.0))
    assert loss(GOOD, MASK) == pl.dice_loss(GOOD, MASK, smooth=0.0)
    with pytest.raises(ValueError, match="dice_loss: `prediction` must be between 0 and 1"):
        loss(BAD, MASK)
    # The domain follows the option that was bound: these are logits.
    pl.checked(partial(pl.dice_loss, activation="sigmoid"))(5 * BAD, MASK)


def test_bound_weights_are_checked():
    loss = pl.checked(partial(pl.mse_loss, weights=-torch.ones(3)))
    with pytest.raises(ValueError, match="mse_loss: `weights` must be"):
        loss(GOOD, MASK)


def test_data_by_keyword_are_checked():
    with pytest.raises(ValueError, match="dice_loss: `prediction` must be"):
        DICE(prediction=BAD, target=MASK)


def test_partial_of_partial_is_known():
    loss = partial(partial(pl.dice_loss, smooth=0.0), dim=0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        pl.checked(loss)(BAD, MASK)


def test_combined_losses_are_checked_one_by_one():
    loss = pl.combined({"dice": DICE, "l1": pl.l1_loss})
    with pytest.raises(ValueError, match="dice_loss: `prediction` must be"):
        loss(BAD, MASK)


def test_a_shape_that_does_not_fit_is_still_the_first_complaint():
    with pytest.raises(ValueError, match="must have the shape of"):
        DICE(BAD, MASK[:2])


def test_repr_equality_and_pickle():
    assert repr(DICE) == "checked(dice_loss)"
    assert repr(pl.checked(partial(pl.dice_loss, smooth=0.0))) == (
        "checked(partial(dice_loss, smooth=0.0))"
    )
    assert pl.checked(pl.dice_loss) == DICE
    assert pl.checked(pl.mse_loss) != DICE
    copy = pickle.loads(pickle.dumps(DICE))
    assert copy == DICE
    assert copy(GOOD, MASK) == DICE(GOOD, MASK)
    with pytest.raises(ValueError, match="between 0 and 1"):
        copy(BAD, MASK)


@pytest.mark.parametrize(
    "wrapper",
    [pnn.DiceLoss(), pl.per_sample(pl.dice_loss), pl.combined({"dice": pl.dice_loss})],
    ids=lambda wrapper: type(wrapper).__name__,
)
def test_a_wrapper_is_refused_because_its_arguments_are_not_those_of_the_loss(wrapper):
    with pytest.raises(TypeError, match=r"checked: `loss` must be a function"):
        pl.checked(wrapper)


def test_the_losses_inside_a_wrapper_can_be_checked():
    data = torch.tensor([[0.5, 1.7]]), torch.tensor([[1, 0]])
    message = r"dice_loss: `prediction` must be between 0 and 1, got 1\.7"
    for wrapper in (
        pl.per_sample(pl.checked(pl.dice_loss)),
        pnn.Criterion(pl.checked(pl.dice_loss)),
        pl.combined({"dice": pl.checked(pl.dice_loss)}),
    ):
        with pytest.raises(ValueError, match=message):
            wrapper(*data)

"""Weights that follow losses and gradient norms: peers' values, states, modules, combinators."""

import copy
import math
import pickle
from functools import partial

import optree
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, vmap

import purelosses as pl
from purelosses import nn
from purelosses.laws.core import Operations
from purelosses.laws.graphs import SYNCHRONISING
from purelosses.registry.core import module_name

BEFORE = [[4.0, 1.0, 0.5], [3.0, 1.2, 0.4], [2.5, 0.9, 0.45], [2.0, 0.8, 0.3], [1.0, 0.85, 0.2]]
AFTER = [[3.5, 1.01, 0.41], [2.4, 1.1, 0.38], [2.2, 0.89, 0.44], [1.4, 0.82, 0.21]]
NORMS = [[3.0, 0.5, 0.1], [2.0, 0.6, 0.1], [2.5, 0.4, 0.3], [1.0, 0.5, 0.2], [0.5, 0.5, 0.1]]
TASKS = ["mask", "depth", "edge"]

# What each balancer is called with besides its state, at call `t`.
EXTRA = {
    "random_weights": lambda t: (torch.tensor(NORMS[t]).double(),),
    "relobralo": lambda t: (torch.tensor(t != 2),),
    "gradnorm": lambda t: (NORMS[t],),
}
OPTIONS = {
    "famo": {"lr": 0.05, "weight_decay": 0.01, "minimum": 0.05},
    "softadapt": {"beta": 2.0, "form": "normalized"},
    "relobralo": {"alpha": 0.8, "temperature": 0.5},
    "gradnorm": {"alpha": 0.7, "lr": 0.1},
    "dwa": {"temperature": 1.5},
}
PAIRS = sorted(
    name.removesuffix("_update")
    for name in pl.__all__
    if name.endswith("_update")
    and "tasks" in pl.__dict__[name.replace("_update", "_init")].__annotations__
    and module_name(name.removesuffix("_update")) in nn.__all__
    and pl.__dict__[name].__module__.startswith("purelosses.balance")
)
STATEFUL = [name for name in PAIRS if name != "random_weights"]


def functions(name):
    return getattr(pl, f"{name}_init"), partial(
        getattr(pl, f"{name}_update"), **OPTIONS.get(name, {})
    )


def named(values, tasks=TASKS, dtype=torch.float64):
    return {k: torch.tensor(v, dtype=dtype) for k, v in zip(tasks, values, strict=True)}


def call_with(name, t, tree=named):
    """The arguments of call `t` after the state; `tree` makes numbers per task into one."""
    extra = EXTRA.get(name, lambda t: ())(t)
    return tree(BEFORE[t]), *(tree(x) if isinstance(x, list) else x for x in extra)


def doubled(state):
    return optree.tree_map(lambda x: x.double() if x.is_floating_point() else x, state)


def run(name, steps=5, tree=named, tasks=TASKS, **options):
    """The weights of every call, and the last state."""
    init, update = functions(name)
    state, found = doubled(init(tasks)), []
    for t in range(steps):
        weights, state = update(state, *call_with(name, t, tree), **options)
        found.append(weights)
    return found, state


def values(weights):
    return [float(weights[k]) for k in TASKS]


def test_all_pairs_are_here():
    assert PAIRS == [
        "cov_weights", "dwa", "famo", "gradnorm", "inverse_grad_norm", "ntk_weights",
        "random_weights", "relobralo", "softadapt",
    ]  # fmt: skip


# Peers


def test_dwa_of_torchjd():
    """torchjd 0.18.0, its `DWA(2.0)` after one, two, three, four epochs."""
    expected = [
        [1, 1, 1],
        [0.840039281575721, 1.13393442294481, 1.02602629547947],
        [0.950779336536732, 0.983751093828733, 1.06546956963453],
        [0.696221170602146, 1.01581361497982, 1.28796521441803],
    ]
    epochs = [[4.0, 1.0, 0.5], [2.0, 1.1, 0.45], [1.5, 0.9, 0.44], [0.2, 0.8, 0.6]]
    state = doubled(pl.dwa_init(TASKS))
    for losses, weights in zip(epochs, expected, strict=True):
        found, state = pl.dwa_update(state, named(losses))
        assert values(found) == pytest.approx(weights, rel=1e-12)


def test_famo_of_torchjd():
    """torchjd 0.18.0 in float64: the gradient of its total by each loss, `update` after each step.

    Its 1e-8 beside every loss is what is left of a difference.
    """
    expected = [
        [0.0769230779289941, 0.307692309408284, 0.615384612662722],
        [0.0898619757062796, 0.236173234853212, 0.673964789440509],
        [0.102915250117649, 0.313883047395061, 0.58320170248729],
        [0.0922184427260856, 0.264528018936186, 0.643253538337729],
        [0.129603365385349, 0.182866585597371, 0.68753004901728],
    ]
    state, after = doubled(pl.famo_init(TASKS)), None
    for t, weights in enumerate(expected):
        found, state = pl.famo_update(state, named(BEFORE[t]), after=after)
        assert values(found) == pytest.approx(weights, rel=1e-6)
        after = named(AFTER[t]) if t < len(AFTER) else None
    logits = [-0.094096925919515, 0.0876622417975208, -0.0349080131671128]
    assert values(state["logits"]) == pytest.approx(logits, rel=1e-5)


def test_famo_of_torchjd_over_fifty_steps():
    """torchjd 0.18.0 in float64, on losses that fall at rates of their own and oscillate."""

    def losses(t):
        fall = [math.exp(-0.02 * t * (1 + k)) * (4 - 1.5 * k) for k in range(3)]
        return named([x + 0.1 * math.sin(t + k) + 0.2 for k, x in enumerate(fall)])

    state, after = doubled(pl.famo_init(TASKS)), None
    for t in range(50):
        weights, state = pl.famo_update(
            state, losses(t), after=after, lr=0.05, weight_decay=0.01, minimum=0.05
        )
        after = losses(t + 1)
    expected = [0.17854168180277274, 0.3116341240464862, 0.509824194150741]
    assert values(weights) == pytest.approx(expected, rel=1e-7)


def test_famo_in_single_precision():
    wide, narrow = run("famo")[0], []
    init, update = functions("famo")
    state = init(TASKS)
    for t in range(5):
        weights, state = update(state, named(BEFORE[t], dtype=torch.float32))
        narrow.append(weights)
    for a, b in zip(narrow, wide, strict=True):
        assert values(a) == pytest.approx(values(b), rel=1e-5)


def test_famo_weights_are_the_gradient_of_its_total():
    """c Σ z log(L - b) with c such that the weights sum to 1."""
    state, losses = doubled(pl.famo_init(TASKS)), named(BEFORE[0])
    state["logits"] = named([0.3, -0.2, 1.0])
    weights, _ = pl.famo_update(state, losses, minimum=0.1)
    z = torch.softmax(torch.stack([state["logits"][k] for k in TASKS]), 0)

    def total(losses):
        gaps = torch.stack([losses[k] for k in TASKS]) - 0.1
        return (z * gaps.log()).sum() / (z / gaps).sum().detach()

    assert values(weights) == pytest.approx(values(grad(total)(losses)), rel=1e-13)


def test_cov_weights_of_the_authors():
    """rickgroen/cov-weighting, losses/covweighting_loss.py, on these losses in float64."""
    even = [1 / 3] * 3
    expected = [
        even,
        even,
        [0.414225897746925, 0.263598346013884, 0.322175756239191],
        [0.376724608047674, 0.377347534145714, 0.245927857806612],
        [0.342566697081167, 0.342526470901737, 0.314906832017097],
    ]
    for found, weights in zip(run("cov_weights")[0], expected, strict=True):
        assert values(found) == pytest.approx(weights, rel=1e-12)


def test_relobralo_of_the_authors():
    """rbischof/relative_balancing, `relative` in src/update_rules.py (ρ = 1): α = 0.9, T = 0.5."""
    expected = [
        [1, 1, 1],
        [0.965720668335128, 1.06164676030439, 0.972632571360478],
        [0.95160053397083, 1.02527613829106, 1.02312332773811],
        [0.95777511950282, 1.04379881391916, 0.998426066578025],
        [0.916783829874008, 1.1081723776104, 0.975043792515594],
    ]
    state = doubled(pl.relobralo_init(TASKS))
    for losses, weights in zip(BEFORE, expected, strict=True):
        found, state = pl.relobralo_update(state, named(losses), 1.0, alpha=0.9, temperature=0.5)
        assert values(found) == pytest.approx(weights, rel=1e-12)


def test_relobralo_looks_back_to_the_first_losses():
    state = doubled(pl.relobralo_init(TASKS))
    for losses in BEFORE[:3]:
        _, state = pl.relobralo_update(state, named(losses), True)
    found, _ = pl.relobralo_update(state, named(BEFORE[3]), torch.tensor(False), alpha=1.0)
    now, first = (torch.tensor(BEFORE[t], dtype=torch.float64) for t in (3, 0))
    assert values(found) == pytest.approx((3 * torch.softmax(now / first, 0)).tolist(), rel=1e-12)


def test_softadapt_by_its_formula():
    old, new = torch.tensor(BEFORE[:2], dtype=torch.float64)
    slope = new - old
    expected = {
        "original": torch.softmax(2 * slope, 0),
        "normalized": torch.softmax(2 * slope / slope.abs().sum(), 0),
        "loss_weighted": new * torch.exp(2 * slope) / (new * torch.exp(2 * slope)).sum(),
    }
    for form, weights in expected.items():
        _, state = pl.softadapt_update(doubled(pl.softadapt_init(TASKS)), named(BEFORE[0]))
        found, _ = pl.softadapt_update(state, named(BEFORE[1]), beta=2.0, form=form)
        assert values(found) == pytest.approx(weights.tolist(), rel=1e-12)


def test_softadapt_with_slopes_that_cancel():
    """The authors' package divides by their signed sum, here 0."""
    _, state = pl.softadapt_update(pl.softadapt_init(2), [torch.tensor(1.0), torch.tensor(1.0)])
    losses = [torch.tensor(2.0), torch.tensor(0.0)]
    found, _ = pl.softadapt_update(state, losses, beta=1.0, form="normalized")
    torch.testing.assert_close(torch.stack(found), torch.softmax(torch.tensor([0.5, -0.5]), 0))


def test_gradnorm_is_a_step_down_its_objective():
    """Against autodiff through norms that are differentiated twice, as the paper's code does it."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, generator=generator, dtype=torch.float64)
    maps = torch.randn(3, 4, 6, generator=generator, dtype=torch.float64)
    shared = torch.randn(6, generator=generator, dtype=torch.float64)

    def losses(shared):
        return (maps @ (shared * x)).square().sum(1) / torch.tensor([1.0, 10.0, 100.0])

    first, alpha, rate = 3 * losses(shared) * torch.tensor([1.0, 0.5, 2.0]), 1.5, 0.05
    old = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    norms = torch.stack([grad(lambda s, i=i: losses(s)[i])(shared).norm() for i in range(3)])

    def objective(weights):
        weighted = [grad(lambda s, i=i: weights[i] * losses(s)[i])(shared).norm() for i in range(3)]
        weighted = torch.stack(weighted)
        progress = losses(shared) / first
        target = weighted.mean() * (progress / progress.mean()) ** alpha
        return (weighted - target.detach()).abs().sum()

    step = old - rate * grad(objective)(old) / norms.mean()
    expected = 3 * step / step.sum()
    state = {"weights": old, "initial": first, "count": torch.ones(3, dtype=torch.int64)}
    found, new = pl.gradnorm_update(state, list(losses(shared)), list(norms), alpha=alpha, lr=rate)
    torch.testing.assert_close(torch.stack(found), expected, rtol=1e-12, atol=0)
    assert torch.equal(new["weights"], torch.stack(found))


def test_gradnorm_evens_out_the_norms():
    state, losses = pl.gradnorm_init(TASKS), named([1.0, 1.0, 1.0])
    norms = named([4.0, 1.0, 2.0])
    for _ in range(400):
        weights, state = pl.gradnorm_update(state, losses, norms, lr=0.005)
    pulls = [float(weights[k] * norms[k]) for k in TASKS]
    assert max(pulls) / min(pulls) < 1.1  # steps of a fixed size, so near is all there is
    assert sum(values(weights)) == pytest.approx(3)


@pytest.mark.parametrize("name", ["inverse_grad_norm", "ntk_weights"])
def test_the_weights_of_jaxpi(name):
    """Its expression: mean / (x + 1e-5 mean), averaged with momentum 0.9, from 1."""
    expected = torch.ones(3, dtype=torch.float64)
    for t, found in enumerate(run(name)[0]):
        x = torch.tensor(BEFORE[t], dtype=torch.float64)
        expected = 0.9 * expected + 0.1 * x.mean() / (x + 1e-5 * x.mean())
        assert values(found) == pytest.approx(expected.tolist(), rel=1e-13)


def test_random_weights_are_a_softmax_of_the_noise():
    noise = torch.tensor([0.3, -1.0, 2.0])
    found, state = pl.random_weights_update({}, named(BEFORE[0]), noise)
    in_order = torch.softmax(noise, 0)  # depth, edge, mask: names are sorted
    assert [float(found[k]) for k in sorted(TASKS)] == pytest.approx(in_order.tolist(), rel=1e-6)
    assert state == {}


# What all of them promise


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 65536.0])
@pytest.mark.parametrize(
    "name", ["dwa", "cov_weights", "relobralo", "gradnorm", "inverse_grad_norm", "softadapt"]
)
def test_no_unit_of_the_losses_matters(name, scale):
    def scaled(numbers):
        return named([scale * x for x in numbers])

    for a, b in zip(run(name)[0], run(name, tree=scaled)[0], strict=True):
        assert values(a) == pytest.approx(values(b), rel=1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_the_order_of_the_names_does_not_matter(name):
    def backwards(numbers):
        return named(numbers[::-1], TASKS[::-1])

    if name == "random_weights":
        pytest.skip("the noise has no names")
    for a, b in zip(run(name)[0], run(name, tree=backwards)[0], strict=True):
        assert values(a) == values(b)


@pytest.mark.parametrize("name", PAIRS)
def test_a_row_of_numbers_does_what_names_do(name):
    def listed(numbers):
        return list(torch.tensor([x for _, x in sorted(zip(TASKS, numbers, strict=True))]).double())

    by_name, state = run(name)
    by_row, rows = run(name, tree=listed, tasks=3)
    for a, b in zip(by_name, by_row, strict=True):
        assert [float(a[k]) for k in sorted(TASKS)] == pytest.approx([float(x) for x in b])
    for key, part in rows.items():
        one = state[key]
        stacked = one if isinstance(one, torch.Tensor) else torch.stack(optree.tree_leaves(one))
        torch.testing.assert_close(part, stacked)


@pytest.mark.parametrize("name", PAIRS)
def test_an_update_changes_nothing_and_repeats(name):
    init, update = functions(name)
    _, state = run(name, 2)
    arguments = (state, *call_with(name, 2))
    before = optree.tree_map(torch.clone, arguments)
    rng = torch.get_rng_state()
    first = update(*arguments)
    update(*arguments)
    second = update(*arguments)
    assert optree.tree_all(optree.tree_map(torch.equal, first, second))
    assert optree.tree_all(optree.tree_map(torch.equal, arguments, before))
    assert torch.equal(torch.get_rng_state(), rng)
    new = optree.tree_leaves(first[1])
    assert optree.tree_structure(first[1]) == optree.tree_structure(state)
    assert [x.dtype for x in new] == [x.dtype for x in optree.tree_leaves(state)]
    assert [x.dtype for x in new] == [x.dtype for x in optree.tree_leaves(doubled(init(TASKS)))]
    assert optree.tree_structure(first[0]) == optree.tree_structure(call_with(name, 2)[0])


@pytest.mark.parametrize("name", PAIRS)
def test_weights_and_state_are_constants(name):
    _, update = functions(name)
    losses, *rest = call_with(name, 2)
    losses = {k: x.clone().requires_grad_() for k, x in losses.items()}
    weights, new = update(run(name, 2)[1], losses, *rest)
    assert not any(x.requires_grad for x in optree.tree_leaves((weights, new)))


@pytest.mark.parametrize("name", PAIRS)
def test_half_precision_losses(name):
    init, update = functions(name)
    losses, *rest = call_with(name, 0, partial(named, dtype=torch.float16))
    weights, state = update(init(TASKS), losses, *rest)
    assert {x.dtype for x in weights.values()} <= {torch.float32, torch.float64}
    assert all(x.isfinite().all() for x in optree.tree_leaves(state))


@pytest.mark.parametrize("name", PAIRS)
def test_many_runs_at_once_under_vmap(name):
    _, update = functions(name)
    calls = [(run(name, t)[1], *call_with(name, t)) for t in (0, 1, 2)]
    expected = [update(*call) for call in calls]
    leaves = [optree.tree_leaves(call) for call in calls]
    structure = optree.tree_structure(calls[0])

    def one(*leaves):
        return optree.tree_leaves(update(*optree.tree_unflatten(structure, leaves)))

    found = vmap(one)(*(torch.stack(x) for x in zip(*leaves, strict=True)))
    for a, b in zip(found, zip(*map(optree.tree_leaves, expected), strict=True), strict=True):
        torch.testing.assert_close(a, torch.stack(b))


@pytest.mark.parametrize("name", PAIRS)
def test_one_full_graph_without_synchronisation(name):
    _, update = functions(name)
    arguments = (run(name, 2)[1], *call_with(name, 2))
    expected = update(*arguments)
    torch._dynamo.reset()
    found = torch.compile(update, backend="eager", fullgraph=True)(*arguments)
    pairs = zip(optree.tree_leaves(found), optree.tree_leaves(expected), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b)
    with Operations() as recorded:
        update(*arguments)
    assert not [op for op, _, _ in recorded.calls if SYNCHRONISING.match(op)]
    meta = optree.tree_map(lambda x: x.to("meta"), arguments)
    assert all(x.is_meta for x in optree.tree_leaves(update(*meta)))


SCHEDULED = {
    "dwa": {"temperature": 1.5},
    "famo": {"lr": 0.05, "weight_decay": 0.01},
    "gradnorm": {"alpha": 0.7, "lr": 0.1},
    "relobralo": {"alpha": 0.8, "temperature": 0.5},
    "softadapt": {"beta": 2.0},
}


@pytest.mark.parametrize("name", SCHEDULED)
def test_options_scheduled_as_tensors_share_one_graph(name):
    update, arguments = getattr(pl, f"{name}_update"), (run(name, 2)[1], *call_with(name, 2))
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(update, backend=counter, fullgraph=True)
    for factor in (1.0, 0.9, 0.8):
        numbers = {option: factor * value for option, value in SCHEDULED[name].items()}
        tensors = {k: torch.tensor(v, dtype=torch.float64) for k, v in numbers.items()}
        pairs = zip(*(optree.tree_leaves(x) for x in (compiled(*arguments, **tensors),
                                                     update(*arguments, **numbers))),
                    strict=True)  # fmt: skip
        for a, b in pairs:
            torch.testing.assert_close(a, b)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", PAIRS)
def test_fifty_tasks_take_as_many_operations_as_five(name):
    def operations(count):
        init, update = functions(name)
        tasks = [f"task {i}" for i in range(count)]
        tree = {k: torch.tensor(1.0 + i) for i, k in enumerate(tasks)}
        extra = [tree] if name == "gradnorm" else []
        extra += [torch.zeros(count)] if name == "random_weights" else []
        extra += [1.0] if name == "relobralo" else []
        with Operations() as recorded:
            update(init(tasks), tree, *extra)
        # `init` makes one number per task.
        made = ("aten.clone", "aten.detach", "aten.lift_fresh")
        return [op for op, _, _ in recorded.calls if not op.startswith(made)]

    assert operations(5) == operations(50)


# Missing labels


@pytest.mark.parametrize("name", PAIRS)
def test_a_task_without_labels_keeps_its_state_and_weighs_nothing(name):
    _, update = functions(name)
    _, state = run(name, 3)
    there = {"mask": torch.tensor(True), "depth": torch.tensor(False), "edge": torch.tensor(True)}
    found = []
    for garbage in (0.0, float("nan"), 1e30):
        tree = lambda x, garbage=garbage: {**named(x), "depth": torch.tensor(garbage).double()}  # noqa: E731
        weights, new = update(state, *call_with(name, 3, tree), mask=there)
        found.append((weights, new))
        assert weights["depth"] == 0
        assert all(x.isfinite().all() for x in optree.tree_leaves((weights, new)))
        for key in ("previous", "initial", "count", "weights", "mean", "ratio", "scatter"):
            if key in new and name != "famo":
                assert new[key]["depth"] == state[key]["depth"], key
    for other in found[1:]:
        assert optree.tree_all(optree.tree_map(torch.equal, other, found[0]))


@pytest.mark.parametrize("name", ["dwa", "softadapt", "cov_weights", "relobralo", "gradnorm"])
def test_the_first_labels_may_come_late(name):
    _, update = functions(name)
    init, _ = functions(name)
    state = doubled(init(TASKS))
    for t in range(4):
        there = {k: torch.tensor(k != "edge" or t >= 2) for k in TASKS}
        weights, state = update(state, *call_with(name, t), mask=there)
        assert all(x.isfinite().all() for x in optree.tree_leaves((weights, state)))
    if "initial" in state:
        assert state["initial"]["edge"] == BEFORE[2][2]
    assert state["count"]["edge"] == 2
    assert state["count"]["mask"] == 4


def test_losses_of_samples_are_averaged_over_their_labels():
    samples = {"depth": torch.tensor([1.0, 3.0, float("nan")]), "mask": torch.tensor([2.0])}
    there = {"depth": torch.tensor([True, True, False]), "mask": None}
    _, state = pl.dwa_update(pl.dwa_init(["depth", "mask"]), samples, mask=there)
    assert state["previous"] == {"depth": 2, "mask": 2}


# Ranks


class Ranks:
    """Two processes, one after the other: the first leaves its tensor, the second gets the sum."""

    def __init__(self, average):
        self.left, self.average, self.calls = None, average, 0

    def leave(self, tensor):
        self.left = tensor
        self.calls += 1
        return tensor

    def take(self, tensor):
        return (tensor + self.left) / (2 if self.average else 1)


@pytest.mark.parametrize("average", [False, True], ids=["sum", "mean"])
@pytest.mark.parametrize("name", STATEFUL)
def test_ranks_agree_with_one_process_that_has_all_labels(name, average):
    """Uneven labels: the mean over all of them, whether `sync` adds or averages."""
    _, update = functions(name)
    samples = {"mask": torch.tensor([1.0, 2.0, 6.0, 5.0]), "depth": torch.tensor([3.0, 1.0]),
               "edge": torch.tensor([0.5, 0.25, 1.0])}  # fmt: skip
    samples = {k: x.double() for k, x in samples.items()}
    there = {k: torch.ones_like(x, dtype=torch.bool) for k, x in samples.items()}
    mine = {"mask": torch.tensor([1, 1, 1, 0]), "depth": torch.tensor([0, 0]),
            "edge": torch.tensor([1, 0, 0])}  # fmt: skip
    mine = {k: x.bool() for k, x in mine.items()}
    yours = {k: ~x for k, x in mine.items()}
    _, state = run(name, 3)
    rest = call_with(name, 3)[1:]
    expected = update(state, samples, *rest, mask=there)
    ranks = Ranks(average)
    update(state, samples, *rest, mask=mine, sync=ranks.leave)
    found = update(state, samples, *rest, mask=yours, sync=ranks.take)
    pairs = zip(optree.tree_leaves(found), optree.tree_leaves(expected), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=1e-13, atol=0)
    assert ranks.calls == 1


def test_ranks_without_a_mask():
    ranks = Ranks(average=False)
    pl.dwa_update(pl.dwa_init(1), [torch.tensor(1.0)], sync=ranks.leave)
    _, state = pl.dwa_update(pl.dwa_init(1), [torch.tensor(4.0)], sync=ranks.take)
    assert state["previous"] == 2.5


# Modules


def build(name, **options):
    module = getattr(nn, module_name(name))(TASKS, **{**OPTIONS.get(name, {}), **options})
    return module.double()


@pytest.mark.parametrize("name", PAIRS)
def test_a_module_does_what_the_function_does(name):
    module, (expected, _) = build(name), run(name)
    for t, weights in enumerate(expected):
        assert optree.tree_all(
            optree.tree_map(torch.equal, module.update(*call_with(name, t)), weights)
        )


@pytest.mark.parametrize("name", PAIRS)
def test_calling_a_module_changes_nothing(name):
    module = build(name)
    module.update(*call_with(name, 0))
    before = copy.deepcopy(module.state_dict())
    _, state = module(*call_with(name, 1))
    assert optree.tree_all(optree.tree_map(torch.equal, dict(module.state_dict()), dict(before)))
    given = {f"state.{k}": v for k, v in flat(state).items()}
    again = functional_call(module, given, call_with(name, 2))
    module.update(*call_with(name, 1))
    assert optree.tree_all(optree.tree_map(torch.equal, again, module(*call_with(name, 2))))


def flat(tree, prefix=""):
    if isinstance(tree, torch.Tensor):
        return {prefix: tree}
    return {
        k: v
        for key, part in tree.items()
        for k, v in flat(part, f"{prefix}.{key}" if prefix else key).items()
    }


@pytest.mark.parametrize("name", STATEFUL)
def test_training_resumes_bitwise_from_a_checkpoint(name):
    """Into a module that has just been made: every leaf of the state is a buffer from the start."""
    module = build(name)
    for t in range(3):
        module.update(*call_with(name, t))
    state = copy.deepcopy(module.state_dict())
    assert set(state) == {f"state.{k}" for k in flat(run(name, 0)[1])}
    restored = build(name)
    restored.load_state_dict(state)
    for t in (3, 4):
        a, b = (m.update(*call_with(name, t)) for m in (module, restored))
        assert optree.tree_all(optree.tree_map(torch.equal, a, b))
    assert optree.tree_all(
        optree.tree_map(torch.equal, dict(module.state_dict()), dict(restored.state_dict()))
    )


@pytest.mark.parametrize("name", STATEFUL)
def test_a_checkpoint_says_which_task_is_missing(name):
    renamed = getattr(nn, module_name(name))(["mask", "depth", "border"])
    with pytest.raises(RuntimeError, match=r"Missing key.*border") as caught:
        renamed.load_state_dict(build(name).state_dict())
    assert "edge" in str(caught.value)


@pytest.mark.parametrize("name", PAIRS)
def test_a_module_survives_pickle_deepcopy_and_repr(name):
    module = build(name)
    module.update(*call_with(name, 0))
    rebuilt = eval(repr(module), {**vars(nn), "torch": torch}).double()
    rebuilt.load_state_dict(module.state_dict())
    expected = module(*call_with(name, 1))
    for twin in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module), rebuilt):
        assert repr(twin) == repr(module)
        again = twin(*call_with(name, 1))
        assert optree.tree_all(optree.tree_map(torch.equal, again, expected))
    assert "tasks=['mask', 'depth', 'edge']" in repr(module)


def test_tasks_may_have_the_names_of_attributes():
    tasks = ["type", "forward", "training", "half"]
    module, losses = nn.DWA(tasks), {k: torch.tensor(2.0) for k in tasks}
    module.update(losses)
    assert module.state.tree()["previous"] == losses
    assert set(module.to(torch.float64).state_dict()) >= {"state.previous.type"}
    assert module.state.tree()["previous"]["forward"].dtype == torch.float64


def test_a_tree_of_tasks_in_buffers():
    tree = {"boxes": [torch.tensor(1.0), torch.tensor(2.0)], "mask": torch.tensor(3.0)}
    module = nn.SoftAdapt(tree)
    module.update(tree)
    assert module.state.tree()["previous"] == tree
    assert "state.previous.boxes.0" in module.state_dict()
    assert "tasks={'boxes': [0, 0], 'mask': 0}" in repr(module)


# Combinators

DWA = pl.Balancer(pl.dwa_init, pl.dwa_update)
RANDOM = pl.Balancer(pl.random_weights_init, pl.random_weights_update)
COMBINED = {
    "ema": (pl.ema(DWA, decay=0.7), "ema(balancer=Balancer(dwa_init, dwa_update), decay=0.7)"),
    "every": (pl.every(DWA, k=2), "every(balancer=Balancer(dwa_init, dwa_update), k=2)"),
    "clip": (
        pl.clip(DWA, 0.9, 1.1),
        "clip(balancer=Balancer(dwa_init, dwa_update), low=0.9, high=1.1)",
    ),
    "nested": (
        pl.clip(pl.every(pl.ema(DWA, 0.5), 2), 0.1, 1.05),
        "clip(balancer=every(balancer=ema(balancer=Balancer(dwa_init, dwa_update), decay=0.5), "
        "k=2), low=0.1, high=1.05)",
    ),
}


def run_combined(balancer, tasks=TASKS, tree=named, steps=5):
    state, found = doubled(balancer.init(tasks)), []
    for t in range(steps):
        weights, state = balancer.update(state, tree(BEFORE[t]), temperature=0.5)
        found.append(torch.stack([weights[k] for k in (TASKS if tree is named else range(3))]))
    return found, state


def test_combinators_do_what_they_say():
    plain = run_combined(DWA)[0]
    mean = plain[0]
    for weights, found in zip(plain, run_combined(pl.ema(DWA, 0.7))[0], strict=True):
        mean = 0.7 * mean + 0.3 * weights
        torch.testing.assert_close(found, mean)
        assert found.sum().item() == pytest.approx(3)
    for weights, found in zip(plain, run_combined(pl.clip(DWA, 0.9, 1.1))[0], strict=True):
        torch.testing.assert_close(found, weights.clamp(0.9, 1.1))
    state, expected = doubled(pl.dwa_init(TASKS)), []
    for t in (0, 2, 4):  # the calls between do not exist for the balancer inside
        weights, state = pl.dwa_update(state, named(BEFORE[t]), temperature=0.5)
        expected += 2 * [torch.stack([weights[k] for k in TASKS])]
    found, last = run_combined(pl.every(DWA, 2))
    torch.testing.assert_close(torch.stack(found), torch.stack(expected[:5]))
    assert optree.tree_all(optree.tree_map(torch.equal, last["inner"], state))


@pytest.mark.parametrize(("balancer", "text"), COMBINED.values(), ids=COMBINED)
def test_combinators_are_values(balancer, text):
    assert repr(balancer) == text
    assert eval(text, vars(pl)) == balancer == pickle.loads(pickle.dumps(balancer))


@pytest.mark.parametrize("name", COMBINED)
def test_combinators_as_modules(name):
    balancer = COMBINED[name][0]
    expected, _ = run_combined(balancer)
    module = nn.Balancing(balancer, TASKS, temperature=0.5).double()
    for t in range(2):
        module.update(named(BEFORE[t]))
    restored = eval(repr(module), {**vars(pl), **vars(nn)}).double()
    restored.load_state_dict(module.state_dict())
    for t in (2, 3, 4):
        for twin in (module, restored):
            weights = twin.update(named(BEFORE[t]))
            torch.testing.assert_close(
                torch.stack([weights[k] for k in TASKS]), expected[t], rtol=0, atol=0
            )


@pytest.mark.parametrize("name", COMBINED)
def test_combinators_of_a_row_under_compile(name):
    balancer = COMBINED[name][0]

    def listed(numbers):
        return list(torch.tensor(numbers).double())

    found, state = run_combined(balancer, 3, listed)
    for a, b in zip(found, run_combined(balancer)[0], strict=True):
        torch.testing.assert_close(a, b)
    torch._dynamo.reset()
    compiled = torch.compile(balancer.update, backend="eager", fullgraph=True)
    expected = balancer.update(state, listed(BEFORE[0]))
    again = compiled(state, listed(BEFORE[0]))
    pairs = zip(optree.tree_leaves(again), optree.tree_leaves(expected), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)

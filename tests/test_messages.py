"""Bad input, for every argument of every loss: one form of message, and the right kind of error."""

import inspect
import re

import pytest
import torch

import purelosses as pl
from purelosses.registry import LOSSES

FORM = r"{}: `{}[^`]*` must .+, got .+"
DATA = ("prediction", "logits", "target")
ONE = torch.tensor(1.0)
TRUE = torch.tensor(True)

# Arguments of functions of task losses `{"a": ..., "b": ...}`: wrong values, each with its error.
NOT_PER_TASK = {
    "None": (None, TypeError),
    "a string": ("1", TypeError),
    "another task": ({"a": ONE, "c": ONE}, ValueError),
    "a task is missing": ({"a": ONE}, ValueError),
    "a list": ([ONE, ONE], ValueError),
    "a row for names": (torch.ones(2), ValueError),
    "a row in the tree": ({"a": torch.ones(2), "b": ONE}, ValueError),
}
NOT_A_NUMBER = {
    "None": (None, TypeError),
    "a string": ("1.0", TypeError),
    "a boolean": (True, TypeError),
    "a complex tensor": (torch.tensor(1j), TypeError),
    "a row": (torch.ones(2), ValueError),
}
NEGATIVE = {"negative": (-1.0, ValueError), "NaN": (float("nan"), ValueError)}
ZERO_TOO = {**NEGATIVE, "zero": (0.0, ValueError)}
MORE_THAN_ONE = {"more than 1": (1.5, ValueError)}
ELSEWHERE = {"elsewhere": ({"a": ONE.to("meta"), "b": ONE.to("meta")}, ValueError)}
NUMBERS = {**NOT_PER_TASK, **ELSEWHERE, "a boolean": (True, TypeError),
           "a complex tensor": ({"a": torch.tensor(1j), "b": ONE}, TypeError)}  # fmt: skip
TENSORS = {**NOT_PER_TASK, **ELSEWHERE, "None": (None, ValueError), "a string": ("1", ValueError),
           "numbers": ({"a": 1.0, "b": 1.0}, TypeError),
           "integers": ({"a": ONE.long(), "b": ONE.long()}, ValueError)}  # fmt: skip
WORDS = {"misspelt": ("nothing", ValueError), "None": (None, ValueError)}
TASK_ARGUMENTS = {
    "losses": {
        "None": (None, ValueError),
        "nothing": ({}, ValueError),
        "numbers": ({"a": 1.0, "b": 1.0}, TypeError),
        "integers": ({"a": ONE.long(), "b": ONE.long()}, ValueError),
        "not reduced": ({"a": torch.ones(2), "b": ONE}, ValueError),
        "a tensor": (torch.ones(2), ValueError),
        "two devices": ({"a": ONE, "b": ONE.to("meta")}, ValueError),
    },
    "log_vars": TENSORS,
    "norms": TENSORS,
    "after": {k: v for k, v in TENSORS.items() if k != "None"},
    "weights": NUMBERS,
    "ideal": NUMBERS,
    "minimum": NUMBERS,
    "likelihood": {**WORDS, "another task": ({"a": "laplace", "c": "laplace"}, ValueError)},
    "form": WORDS,
    "dims": {
        "None": (None, TypeError),
        "a string": ("1", TypeError),
        "zero": (0, ValueError),
        "negative": ({"a": 1, "b": -1}, ValueError),
        "another task": ({"c": 1, "a": 1}, ValueError),
    },
    "bounds": {
        "a number": (1.0, ValueError),
        "three": ((1.0, 2.0, 3.0), ValueError),
        "backwards": ((2.0, 1.0), ValueError),
        "strings": (("1", "2"), TypeError),
        "NaN": ((float("nan"), 1.0), ValueError),
    },
    "mask": {
        "floats": ({"a": ONE, "b": ONE}, TypeError),
        "booleans of Python": ({"a": True, "b": False}, TypeError),
        "another task": ({"a": TRUE, "c": TRUE}, ValueError),
        "a task is missing": ({"a": TRUE}, ValueError),
        "another shape": ({"a": TRUE, "b": torch.ones(2, dtype=torch.bool)}, ValueError),
        "elsewhere": ({"a": TRUE, "b": TRUE.to("meta")}, ValueError),
    },
    "temperature": {**NOT_A_NUMBER, **ZERO_TOO},
    "mu": {**NOT_A_NUMBER, **ZERO_TOO},
    "lr": {**NOT_A_NUMBER, **NEGATIVE},
    "weight_decay": {**NOT_A_NUMBER, **NEGATIVE},
    "beta": NOT_A_NUMBER,
    "alpha": {**NOT_A_NUMBER, **NEGATIVE},
    "decay": {**NOT_A_NUMBER, **NEGATIVE, **MORE_THAN_ONE},
    "keep": {
        **NEGATIVE,
        **MORE_THAN_ONE,
        "None": (None, TypeError),
        "a row": (TRUE[None], ValueError),
    },
    "noise": {
        "None": (None, TypeError),
        "numbers": ([1.0, 2.0], TypeError),
        "integers": (torch.ones(2).long(), TypeError),
        "another length": (torch.ones(3), ValueError),
        "one number": (ONE, ValueError),
    },
    "sync": {"a number": (1, TypeError), "a tensor": (ONE, TypeError)},
    "state": {
        "None": (None, ValueError),
        "a tensor": (ONE, ValueError),
        "a list": ([], ValueError),
    },
}
TASK_ARGUMENTS["traces"] = TASK_ARGUMENTS["losses"]

X = torch.zeros(2, 3, 4)
LABELS = torch.zeros(2, 4, dtype=torch.long)


def good_call(spec):
    """A call that works, with everything given that tensors can be given for."""
    case = spec.cases[0]
    data, keywords = case.problem(1, where=case.where is not None, weights=True).arguments
    parameters = inspect.signature(spec.loss).parameters
    named = {**dict(zip(parameters, data, strict=False)), **keywords}
    if "class_weights" in parameters:
        named["class_weights"] = torch.ones(named["logits"].shape[1])
    return named


def takes_tasks(function):
    """Whether it takes the losses of tasks, or norms of theirs."""
    return bool({"losses", "norms", "traces"} & inspect.signature(function).parameters.keys())


def longer(x):
    return torch.cat([x, x[:1]]) if x.ndim else x.expand(2)


def corruptions(spec):
    """(argument, what is wrong, a function of the good value, the error)."""
    for name in inspect.signature(spec.loss).parameters:
        if name in TASK_ARGUMENTS and takes_tasks(spec.loss):
            continue  # below
        if name in (*DATA, "where", "weights", "class_weights"):
            yield name, "a list", lambda x: x.tolist(), TypeError
            yield name, "an array", lambda x: x.numpy(), TypeError
            yield name, "an extra axis", lambda x: x.unsqueeze(-1), ValueError
            yield name, "too long", longer, ValueError
            yield name, "complex", lambda x: x.to(torch.complex64), TypeError
            yield name, "another device", lambda x: x.to("meta"), ValueError
        if name in DATA:
            yield name, "None", lambda x: None, TypeError
            yield name, "a number", lambda x: 0.5, TypeError
            yield name, "too short", lambda x: x[:-1], ValueError
        if name in ("prediction", "logits"):
            yield name, "integers", lambda x: x.long(), TypeError
            yield name, "booleans", lambda x: x > 0, TypeError
        if name == "where":
            yield name, "floats", lambda x: x.float(), TypeError
            yield name, "integers", lambda x: x.long(), TypeError
        if name in ("delta", "smooth", "label_smoothing", "dice_weight", "bce_weight", "mu",
                    "log_temperature"):  # fmt: skip
            yield name, "None", lambda x: None, TypeError
            yield name, "a string", lambda x: "1.0", TypeError
            yield name, "a boolean", lambda x: True, TypeError
            yield name, "a complex number", lambda x: 1j, TypeError
            yield name, "a complex tensor", lambda x: torch.tensor(1j), TypeError
            yield name, "a vector", lambda x: torch.ones(2), ValueError
            yield name, "a tensor of one element", lambda x: torch.ones(1), ValueError
        if name in ("delta", "smooth", "label_smoothing", "mu"):
            yield name, "NaN", lambda x: float("nan"), ValueError
            yield name, "negative", lambda x: -1.0, ValueError
        if name in ("delta", "mu"):
            yield name, "zero", lambda x: 0, ValueError
        if name == "label_smoothing":
            yield name, "more than 1", lambda x: 1.5, ValueError
        if name == "class_dim":
            yield name, "past the last axis", lambda x: 99, ValueError
            yield name, "before the first axis", lambda x: -99, ValueError
            yield name, "a float", lambda x: 1.0, TypeError
            yield name, "a boolean", lambda x: True, TypeError
            yield name, "a string", lambda x: "1", TypeError
        if name == "dim":
            yield name, "past the last axis", lambda x: 99, ValueError
            yield name, "before the first axis", lambda x: (0, -99), ValueError
            yield name, "the same twice", lambda x: (1, 1), ValueError
            yield name, "the same from both ends", lambda x: (2, -1), ValueError
            yield name, "empty", lambda x: (), ValueError
            yield name, "a float", lambda x: (0, 1.0), TypeError
        if name == "classes":
            yield name, "a misspelt word", lambda x: "presnt", ValueError
            yield name, "empty", lambda x: [], ValueError
            yield name, "without a class axis", lambda x: [0], ValueError
        if name == "activation":
            yield name, "misspelt", lambda x: "sigmod", ValueError
            yield name, "a function", lambda x: torch.sigmoid, ValueError
        if name == "reduction":
            yield name, "misspelt", lambda x: "avarage", ValueError
            yield name, "torch's old", lambda x: "elementwise_mean", ValueError
            yield name, "None", lambda x: None, ValueError


TASK_FUNCTIONS = [
    function
    for function in map(vars(pl).get, pl.__all__)
    if inspect.isfunction(function) and takes_tasks(function)
]


def good_call_of_tasks(function):
    names = inspect.signature(function).parameters
    losses = {"a": torch.tensor(2.0), "b": torch.tensor(3.0)}
    call = {name: losses for name in ("losses", "norms", "traces", "log_vars") if name in names}
    if "state" in names:
        call["state"] = getattr(pl, function.__name__.replace("_update", "_init"))(["a", "b"])
    if "noise" in names:
        call["noise"] = torch.zeros(2)
    if "keep" in names:
        call["keep"] = 1.0
    return call


BAD_TASKS = [
    (function, name, what, value)
    for function in TASK_FUNCTIONS
    for name in inspect.signature(function).parameters
    # The first tree is what the others are compared with.
    for what, value in TASK_ARGUMENTS[
        "losses" if name == "norms" and "losses" not in inspect.signature(function).parameters
        else name
    ].items()
]  # fmt: skip


@pytest.mark.parametrize(
    ("function", "name", "what", "bad"),
    BAD_TASKS,
    ids=[f"{function.__name__}-{name}-{what}" for function, name, what, _ in BAD_TASKS],
)
def test_bad_argument_of_tasks(function, name, what, bad):
    call, (value, error) = good_call_of_tasks(function), bad
    function(**call)
    call[name] = value
    with pytest.raises((ValueError, TypeError)) as caught:
        function(**call)
    message = str(caught.value)
    assert re.fullmatch(FORM.format(function.__name__, name), message, re.DOTALL), message
    assert type(caught.value) is error, message


@pytest.mark.parametrize("name", [f.__name__ for f in TASK_FUNCTIONS if "_update" in f.__name__])
def test_a_state_of_other_tasks(name):
    call = good_call_of_tasks(getattr(pl, name))
    call["state"] = getattr(pl, name.replace("_update", "_init"))(["a", "c"])
    if not call["state"]:
        pytest.skip("it has no state")
    with pytest.raises(ValueError, match=rf"{name}: `state\['\w+'\]` must have the structure of"):
        getattr(pl, name)(**call)
    call["state"] = {}
    with pytest.raises(ValueError, match=f"{name}: `state` must be what `{name[:-7]}_init` or"):
        getattr(pl, name)(**call)


NOT_BALANCERS = {
    "ema of a function": (lambda: pl.ema(pl.dwa_update, 0.5), "ema: `balancer`", TypeError),
    "every of a number": (lambda: pl.every(3, 2), "every: `balancer`", TypeError),
    "clip of None": (lambda: pl.clip(None, 0.0, 1.0), "clip: `balancer`", TypeError),
    "a decay above 1": (lambda: pl.ema(PAIR, 1.5), "ema: `decay`", ValueError),
    "every 0 calls": (lambda: pl.every(PAIR, 0), "every: `k`", ValueError),
    "every half call": (lambda: pl.every(PAIR, 0.5), "every: `k`", ValueError),
    "bounds backwards": (lambda: pl.clip(PAIR, 1.0, 0.5), "clip: `high`", ValueError),
    "no function": (lambda: pl.Balancer(pl.dwa_init, 1), "Balancer: `update`", TypeError),
    "another state": (
        lambda: pl.ema(PAIR, 0.5).update({}, [ONE]), "ema.update: `state`", ValueError,
    ),
    "no statistics": (
        lambda: pl.losses_from_statistics({"sum": {"a": ONE}}),
        "losses_from_statistics: `statistics`", ValueError,
    ),
}  # fmt: skip
PAIR = pl.Balancer(pl.dwa_init, pl.dwa_update)


@pytest.mark.parametrize(("call", "text", "error"), NOT_BALANCERS.values(), ids=NOT_BALANCERS)
def test_what_is_no_balancer(call, text, error):
    with pytest.raises(error) as caught:
        call()
    assert re.match(rf"{re.escape(text)} must .+, got .+", str(caught.value), re.DOTALL)


BAD = [
    pytest.param(spec, name, corrupt, error, id=f"{spec.name}-{name}-{what}")
    for spec in LOSSES.values()
    for name, what, corrupt, error in corruptions(spec)
]


@pytest.mark.parametrize(("spec", "name", "corrupt", "error"), BAD)
def test_bad_argument(spec, name, corrupt, error):
    call = good_call(spec)
    spec.loss(**call)
    call[name] = corrupt(call.get(name))
    with pytest.raises((ValueError, TypeError)) as caught:
        spec.loss(**call)
    message = str(caught.value)
    # Of two data that disagree in shape or device, the second is the one to blame.
    blamed = f"(?:{name}|target)" if name in ("prediction", "logits") else name
    assert re.fullmatch(FORM.format(spec.name, blamed), message, re.DOTALL)
    assert type(caught.value) is error, message


def test_every_argument_is_tested():
    tested = {(bad.values[0].name, bad.values[1]) for bad in BAD}
    for spec in LOSSES.values():
        for name in inspect.signature(spec.loss).parameters:
            of_tasks = takes_tasks(spec.loss) and name in TASK_ARGUMENTS
            assert (spec.name, name) in tested or of_tasks, (spec.name, name)
    for function in TASK_FUNCTIONS:
        for name in inspect.signature(function).parameters:
            assert (function.__name__, name) in {(f.__name__, n) for f, n, _, _ in BAD_TASKS} or (
                (function.__name__, name) in tested
            ), (function.__name__, name)


REDUCED = [spec for spec in LOSSES.values() if spec.cases[0].unit is not None]


@pytest.mark.parametrize("spec", REDUCED, ids=lambda spec: spec.name)
def test_a_misspelt_reduction_names_the_allowed_ones(spec):
    with pytest.raises(ValueError, match="reduction") as caught:
        spec.loss(**{**good_call(spec), "reduction": "avarage"})
    assert str(caught.value) == (
        f"{spec.name}: `reduction` must be one of 'mean', 'weighted_mean', 'sum', 'none', "
        "got 'avarage'"
    )


DENSE = ("mse_loss", "l1_loss", "huber_loss", "binary_cross_entropy_loss", "dice_loss",
         "dice_bce_loss")  # fmt: skip


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize(("one", "other"), [((6,), (6, 1)), ((6, 1), (6,)), ((6, 1), (1, 6)),
                                            ((), (1,)), ((6,), (1,))])  # fmt: skip
def test_prediction_and_target_never_broadcast(name, one, other):
    with pytest.raises(ValueError, match="have the shape of") as caught:
        getattr(pl, name)(torch.rand(one), torch.rand(other))
    like = "logits" if "logits" in inspect.signature(getattr(pl, name)).parameters else "prediction"
    assert str(caught.value) == (
        f"{name}: `target` must have the shape of `{like}`, {one}, got {other}"
    )


# The wording, in full, where a reader may judge it

WORDING = {
    "a missing axis of the weights": (
        lambda: pl.mse_loss(torch.zeros(2, 3), torch.zeros(2, 3), weights=torch.ones(3)),
        "mse_loss: `weights` must have the shape of `prediction`, (2, 3), or 1 along an axis, "
        "got (3,)",
    ),
    "a float mask": (
        lambda: pl.l1_loss(X, X, where=torch.ones(2, 3, 4)),
        "l1_loss: `where` must be a bool tensor, got torch.float32",
    ),
    "an integer prediction": (
        lambda: pl.mse_loss(LABELS, LABELS),
        "mse_loss: `prediction` must be a floating tensor, got torch.int64",
    ),
    "a list for a tensor": (
        lambda: pl.mse_loss(X, [1.0]),
        "mse_loss: `target` must be a tensor, got list",
    ),
    "another device": (
        lambda: pl.mse_loss(X, X.to("meta")),
        "mse_loss: `target` must be on the device of the prediction, cpu, got meta",
    ),
    "delta of zero": (
        lambda: pl.huber_loss(X, X, delta=0),
        "huber_loss: `delta` must be greater than 0, got 0",
    ),
    "negative smoothing": (
        lambda: pl.dice_loss(X, X, smooth=-1),
        "dice_loss: `smooth` must be at least 0, got -1",
    ),
    "too much label smoothing": (
        lambda: pl.cross_entropy_loss(X, LABELS, label_smoothing=1.5),
        "cross_entropy_loss: `label_smoothing` must be at most 1, got 1.5",
    ),
    "labels with a class axis": (
        lambda: pl.cross_entropy_loss(X, X.long()),
        "cross_entropy_loss: `target` must hold labels with the shape of `logits` without its "
        "class axis, (2, 4), got (2, 3, 4)",
    ),
    "floating labels": (
        lambda: pl.cross_entropy_loss(X, LABELS.float()),
        "cross_entropy_loss: `target` must have the shape of `logits`, (2, 3, 4), got (2, 4)",
    ),
    "a label outside the classes": (
        lambda: pl.cross_entropy_loss(X, LABELS + 7),
        "cross_entropy_loss: `target` must hold class labels from 0 to 2 (mask others with "
        "`where`), got 7",
    ),
    "class weights for other classes": (
        lambda: pl.cross_entropy_loss(X, LABELS, class_weights=torch.ones(4)),
        "cross_entropy_loss: `class_weights` must hold one number per class, shape (3,), got (4,)",
    ),
    "a class axis that is not there": (
        lambda: pl.cross_entropy_loss(X, LABELS, class_dim=3),
        "cross_entropy_loss: `class_dim` must be an axis of `logits`, which has 3, got 3",
    ),
    "a mask with a class axis": (
        lambda: pl.dice_loss(X, X, class_dim=1, where=X > 0),
        "dice_loss: `where` must have the shape of `prediction` without its class axis, (2, 4), "
        "or 1 along an axis, got (2, 3, 4)",
    ),
    "weights for pixels": (
        lambda: pl.dice_loss(X, X, class_dim=1, weights=torch.ones(2, 3, 4)),
        "dice_loss: `weights` must have the shape of the regions, (2, 3), or 1 along an axis, "
        "got (2, 3, 4)",
    ),
    "weights for all classes with some selected": (
        lambda: pl.dice_loss(X, X, class_dim=1, classes=[0, 2], weights=torch.ones(2, 3)),
        "dice_loss: `weights` must have the shape of the regions, (2, 2), or 1 along an axis, "
        "got (2, 3)",
    ),
    "an unknown activation": (
        lambda: pl.dice_loss(X, X, activation="sigmod"),
        "dice_loss: `activation` must be one of None, 'sigmoid', 'softmax', got 'sigmod'",
    ),
    "softmax without a class axis": (
        lambda: pl.dice_loss(X, X, activation="softmax"),
        "dice_loss: `class_dim` must name an axis with at least two classes for a softmax, "
        "got None",
    ),
    "softmax of one class": (
        lambda: pl.dice_loss(X[:, :1], X[:, :1], activation="softmax", class_dim=1),
        "dice_loss: `class_dim` must name an axis with at least two classes for a softmax, "
        "got an axis of 1",
    ),
    "the same axis twice": (
        lambda: pl.dice_loss(X, X, dim=(0, -3)),
        "dice_loss: `dim` must name each axis of a region once (by default those after "
        "`class_dim`), got (0, -3)",
    ),
    "a class that is not there": (
        lambda: pl.dice_loss(X, X, class_dim=1, classes=[0, 3]),
        "dice_loss: `classes` must name classes from 0 to 2, got [0, 3]",
    ),
    "a negative class": (
        lambda: pl.dice_bce_loss(X, X, class_dim=1, classes=[-1]),
        "dice_bce_loss: `classes` must name classes from 0 to 2, got [-1]",
    ),
    "classes of pooled regions": (
        lambda: pl.dice_loss(X, X, class_dim=1, dim=(1, 2), classes=[0]),
        "dice_loss: `classes` must be 'all' or 'present' where regions have no class axis, got [0]",
    ),
    "a BCE of probabilities": (
        lambda: pl.overlap_statistics(X, X, extra="bce"),
        "overlap_statistics: `activation` must be 'sigmoid' for a BCE, got None",
    ),
    "another name among the tasks": (
        lambda: pl.uncertainty_weighted_loss({"mask": torch.zeros(())}, {"depth": torch.zeros(())}),
        "uncertainty_weighted_loss: `log_vars` must have the structure of `losses`, "
        "{'depth': *}, got {'mask': *}",
    ),
    "too few log-variances": (
        lambda: pl.uncertainty_weighted_loss(torch.zeros(1), [torch.zeros(())] * 2),
        "uncertainty_weighted_loss: `log_vars` must have one entry per loss: shape (2,) for a "
        "list, else a tree, got shape (1,) for [*, *]",
    ),
    "a loss that was not reduced": (
        lambda: pl.uncertainty_weighted_loss(
            {"mask": torch.zeros(()), "depth": torch.zeros(())},
            {"mask": torch.zeros(()), "depth": torch.zeros(5)},
        ),
        "uncertainty_weighted_loss: `losses['depth']` must be a 0-dimensional floating tensor, "
        "got shape (5,) of torch.float32",
    ),
    "a loss that is a number": (
        lambda: pl.uncertainty_weighted_loss(torch.zeros(1), [0.5]),
        "uncertainty_weighted_loss: `losses[0]` must be a 0-dimensional floating tensor, got 0.5",
    ),
    "an unknown likelihood": (
        lambda: pl.uncertainty_weighted_loss(
            torch.zeros(1), [torch.zeros(())], likelihood="normal"
        ),
        "uncertainty_weighted_loss: `likelihood` must be one of 'gaussian', 'laplace', 'softmax', "
        "got 'normal'",
    ),
}


@pytest.mark.parametrize(("call", "message"), WORDING.values(), ids=WORDING.keys())
def test_wording(call, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert str(caught.value) == message


ZERO = torch.zeros(())
STRUCTURES = {
    "log_vars without a task": ("log_vars", {"a": ZERO}, {"a": ZERO, "b": ZERO}),
    "log_vars with another task": ("log_vars", {"a": ZERO, "c": ZERO}, {"a": ZERO, "b": ZERO}),
    "log_vars with one task more": ("log_vars", {"a": ZERO, "b": ZERO}, {"a": ZERO}),
    "one log_var for all": ("log_vars", ZERO, {"a": ZERO, "b": ZERO}),
    "one log_var for a branch": ("log_vars", {"a": ZERO}, {"a": {"b": ZERO, "c": ZERO}}),
    "a list for a dict": ("log_vars", [ZERO], {"a": ZERO}),
    "a vector for a dict": ("log_vars", torch.zeros(2), {"a": ZERO, "b": ZERO}),
    "a long vector": ("log_vars", torch.zeros(3), [ZERO, ZERO]),
    "a matrix": ("log_vars", torch.zeros(2, 1), [ZERO, ZERO]),
    "no log_vars": ("log_vars", None, [ZERO]),
    "vectors in a tree": ("log_vars", {"a": torch.zeros(1)}, {"a": ZERO}),
    "integer log_vars": ("log_vars", {"a": torch.tensor(0)}, {"a": ZERO}),
    "numbers as log_vars": ("log_vars", {"a": 0.0}, {"a": ZERO}),
    "no losses": ("losses", {}, {}),
    "no losses in a list": ("losses", torch.zeros(0), []),
    "a stacked vector of losses": ("losses", torch.zeros(2), torch.zeros(2)),
    "integer losses": ("losses", {"a": ZERO}, {"a": torch.tensor(1)}),
    "losses that are numbers": ("losses", {"a": ZERO}, {"a": 1.0}),
    "losses of None": ("losses", {"a": ZERO}, None),
    "losses elsewhere": ("losses", {"a": ZERO}, {"a": ZERO.to("meta")}),
}


@pytest.mark.parametrize(
    ("blamed", "log_vars", "losses"), STRUCTURES.values(), ids=STRUCTURES.keys()
)
def test_tasks_that_do_not_fit(blamed, log_vars, losses):
    with pytest.raises((ValueError, TypeError)) as caught:
        pl.uncertainty_weighted_loss(log_vars, losses)
    # Of two trees on different devices either may be blamed.
    blamed = "(?:losses|log_vars)" if "meta" in str(losses) else blamed
    form = FORM.format("uncertainty_weighted_loss", blamed)
    assert re.fullmatch(form, str(caught.value), re.DOTALL)


@pytest.mark.parametrize(
    "likelihood",
    [
        pytest.param({"a": "gaussian"}, id="a task is missing"),
        pytest.param({"a": "gaussian", "c": "laplace"}, id="another task"),
        pytest.param(["gaussian", "laplace"], id="a list"),
        pytest.param({"a": "gaussian", "b": "cauchy"}, id="unknown"),
        pytest.param(None, id="None"),
        pytest.param(1, id="a number"),
    ],
)
def test_likelihoods_that_do_not_fit(likelihood):
    log_vars = losses = {"a": ZERO, "b": ZERO}
    with pytest.raises((ValueError, TypeError)) as caught:
        pl.uncertainty_weighted_loss(log_vars, losses, likelihood=likelihood)
    form = FORM.format("uncertainty_weighted_loss", "likelihood")
    assert re.fullmatch(form, str(caught.value), re.DOTALL)


@pytest.mark.parametrize(
    "tasks",
    [
        pytest.param(0, id="zero"),
        pytest.param(-1, id="negative"),
        pytest.param([], id="empty list"),
        pytest.param({}, id="empty dict"),
        pytest.param(["mask", "mask"], id="the same name twice"),
        pytest.param(None, id="None"),
    ],
)
def test_tasks_that_cannot_be_initialised(tasks):
    with pytest.raises((ValueError, TypeError)) as caught:
        pl.uncertainty_weighted_init(tasks)
    form = FORM.format("uncertainty_weighted_init", "tasks")
    assert re.fullmatch(form, str(caught.value), re.DOTALL)


STATISTICS = {
    "smooth": -1.0,
    "classes": [7],
    "class_dim": 5,
    "weights": torch.ones(7),
    "reduction": "avarage",
}


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("function", ["dice_from_statistics", "dice_bce_from_statistics"])
def test_bad_options_of_statistics(function, name):
    statistics = pl.overlap_statistics(X, X, activation="sigmoid", class_dim=1, extra="bce")
    options = {"classes": [0], name: STATISTICS[name]}
    with pytest.raises((ValueError, TypeError)) as caught:
        getattr(pl, function)(statistics, **options)
    assert re.fullmatch(FORM.format(function, name), str(caught.value))


@pytest.mark.parametrize(
    ("function", "statistics"),
    [
        pytest.param("dice_from_statistics", {}, id="nothing"),
        pytest.param("dice_from_statistics", {"tp": ZERO, "fp": ZERO}, id="some are missing"),
        pytest.param("dice_bce_from_statistics", pl.overlap_statistics(X, X), id="no BCE"),
        pytest.param("dice_from_statistics", X, id="a tensor"),
    ],
)
def test_statistics_that_are_not(function, statistics):
    with pytest.raises((ValueError, TypeError)) as caught:
        getattr(pl, function)(statistics)
    assert re.fullmatch(FORM.format(function, "statistics"), str(caught.value), re.DOTALL)

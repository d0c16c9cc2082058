"""Bad input for the functions of task losses: every argument, one form of message."""

import inspect
import re

import pytest
import torch

import purelosses as pl

FORM = r"{}: `{}[^`]*` must .+, got .+"
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


def takes_tasks(function):
    """Whether it takes the losses of tasks, or norms of theirs."""
    names = inspect.signature(function).parameters.keys()
    return function.__module__.startswith("purelosses.balance") and bool(
        {"losses", "norms", "traces"} & names
    )


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


def test_every_argument_is_tested():
    tested = {(function.__name__, name) for function, name, _, _ in BAD_TASKS}
    for function in TASK_FUNCTIONS:
        for name in inspect.signature(function).parameters:
            assert (function.__name__, name) in tested, (function.__name__, name)

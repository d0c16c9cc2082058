"""Entries of the losses of several tasks."""

from typing import Any

from torch import Tensor

import purelosses as pl
from purelosses.registry.core import (
    Array,
    Case,
    Equals,
    LossSpec,
)


def _twice_gaussian(log_vars: Any, losses: Any, *, likelihood: str) -> Tensor:
    return 2 * pl.uncertainty_weighted_loss(log_vars, losses)[0]


SPECS = (
    LossSpec(
        pl.uncertainty_weighted_loss,
        "none: one number per task comes in, one total goes out",
        (
            Case(
                "tree",
                {
                    "log_vars": {"mask": Array("real"), "depth": {"near": Array("real")}},
                    "losses": {"mask": Array("positive"), "depth": {"near": Array("positive")}},
                },
                options={"likelihood": {"mask": "softmax", "depth": "gaussian"}},
            ),
            Case(
                "list",
                {
                    "log_vars": Array("real", "T"),
                    "losses": [Array("positive"), Array("positive")],
                },
                sizes={"T": 2},
            ),
        ),
        lambda arguments: {"log_vars": "real", "losses": "real"},
        parameters="log_vars",
        init={"tree": {"mask": 0, "depth": {"near": 0}}, "list": 2},
        equals=(
            Equals(
                "twice its gaussian form for laplace", _twice_gaussian, {"likelihood": "laplace"}
            ),
        ),
        accuracy_floor=(1.0, "the total is a difference and may cancel"),
    ),
)

"""The documented formulas once more, in NumPy and mpmath, without torch or the library's code.

An oracle has the arguments of its loss, as arrays, and computes in float64 from the formula in the
docstring, by the straightest way there is. `EXACT` holds the same formulas for one unit in mpmath,
with 60 digits, where even a formula that cancels is right.
"""

from collections.abc import Callable
from typing import Any

from oracles import (
    balance,
    boxes,
    classification,
    likelihood,
    noise,
    regression,
    segmentation,
    topology,
)
from oracles.core import exact_sigmoid, exact_softmax

__all__ = ["EXACT", "ORACLES", "exact_sigmoid", "exact_softmax"]

FAMILIES = (regression, likelihood, classification, noise, segmentation, topology, boxes, balance)

ORACLES: dict[str, Callable[..., Any]] = {
    oracle.__name__: oracle for family in FAMILIES for oracle in family.ORACLES
}
EXACT: dict[str, Callable[..., Any]] = {
    name: formula for family in FAMILIES for name, formula in family.EXACT.items()
}

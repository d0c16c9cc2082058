"""One `LossSpec` per loss: the only list of losses in the project.

Tests, modules and documentation are made from it. A spec says how to draw samples (as arrays with
named axes, so that a law can crop, repeat, stack or poison them without knowing the loss) and what
the loss claims.
"""

from purelosses.registry import (
    balance,
    boxes,
    classification,
    likelihood,
    noise,
    regression,
    segmentation,
    topology,
)
from purelosses.registry.core import Array, Case, Domain, Equals, LossSpec, Problem

__all__ = ["LOSSES", "Array", "Case", "Domain", "Equals", "LossSpec", "Problem"]

FAMILIES = (regression, likelihood, classification, noise, segmentation, topology, boxes, balance)

LOSSES: dict[str, LossSpec] = {spec.name: spec for family in FAMILIES for spec in family.SPECS}

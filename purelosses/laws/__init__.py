"""The laws: what every loss promises, each clause a function that returns evidence.

A law yields `Check`s, each something measured against a limit. It passes if there was at least one
and none is over its limit; it does not apply if it raises `NotApplicable`, with the reason. Laws
know a loss only through its `LossSpec` and the named axes of its samples, so the same code judges
the library and the functions of its users.
"""

from purelosses.laws import (
    claims,
    edges,
    graphs,
    guards,
    numerics,
    purity,
    reductions,
    transforms,
)
from purelosses.laws.core import (
    REGISTERED,
    Check,
    Evidence,
    Law,
    NotApplicable,
    Subject,
    combine,
    judge,
    subjects,
)

# In the order of the contract.
CLAUSES = (purity, reductions, transforms, graphs, numerics, edges, guards, claims)
LAWS: dict[str, Law] = {
    code: law
    for module in CLAUSES
    for code, law in REGISTERED.items()
    if law.examine.__module__ == module.__name__
}

__all__ = [
    "LAWS",
    "Check",
    "Evidence",
    "Law",
    "NotApplicable",
    "Subject",
    "combine",
    "judge",
    "subjects",
]

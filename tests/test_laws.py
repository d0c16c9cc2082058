"""Every loss of the registry under every law of the contract."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

import purelosses.nn
from purelosses.laws import LAWS, Law, combine, judge, subjects
from purelosses.registry import LOSSES, LossSpec


@pytest.mark.parametrize("spec", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize(
    "law",
    [
        pytest.param(law, marks=pytest.mark.slow if law.kind == "slow" else ())
        for law in LAWS.values()
    ],
    ids=LAWS,
)
def test_law(
    law: Law,
    spec: LossSpec,
    record_property: Callable[[str, Any], None],
    pytestconfig: pytest.Config,
) -> None:
    chosen = subjects(spec, getattr(purelosses.nn, spec.module))
    # Tracing and compiling take seconds a case: the first of a loss, unless all are asked for.
    if law.kind != "eager" and not pytestconfig.getoption("--every-case"):
        chosen = chosen[:1]
    evidence = combine(judge(law, subject) for subject in chosen)
    record_property("evidence", asdict(evidence))
    assert evidence.status != "fail", f"{law.statement} {evidence.detail}"

"""Entries of the losses of several tasks."""

from collections.abc import Mapping
from typing import Any

import optree
import torch
from torch import Tensor

import purelosses as pl
from purelosses.registry.core import (
    Array,
    Case,
    Domain,
    Equals,
    LossSpec,
    Problem,
    confident,
    target_domain,
)

_UNIT = "none: one number per task comes in, one total goes out"
_LOSSES = {"mask": Array("positive"), "depth": {"near": Array("positive")}}
_NUMBERS = {"mask": torch.tensor(0.5), "depth": {"near": torch.tensor(2.0)}}

# One loss per sample, with labels for some, for none and for all of them.
_SAMPLES = {
    "mask": Array("positive", "T"),
    "depth": {"near": Array("positive", "T"), "far": Array("positive")},
}
_LABELLED = {
    "mask": torch.tensor([True, False, True, True, False]),
    "depth": {"near": torch.zeros(5, dtype=torch.bool), "far": torch.tensor(True)},
}


def _cases(**options: Any) -> tuple[Case, ...]:
    """A tree of losses, a list of them, and a tree with missing labels."""
    return (
        Case("tree", {"losses": _LOSSES}, options=options),
        Case("list", {"losses": [Array("positive"), Array("positive"), Array("positive")]}),
        Case("missing labels", {"losses": _SAMPLES}, options={"mask": _LABELLED}, sizes={"T": 5}),
    )


def _positive(arguments: Mapping[str, Any]) -> Mapping[str, Domain]:
    return {"losses": "positive"}


def _real(arguments: Mapping[str, Any]) -> Mapping[str, Domain]:
    return {"losses": "real"}


def _twice_gaussian(log_vars: Any, losses: Any, *, likelihood: str, **options: Any) -> Tensor:
    return 2 * pl.uncertainty_weighted_loss(log_vars, losses, **options)[0]


def _at_the_best_log_vars(losses: Any, **options: Any) -> Tensor:
    best = pl.optimal_log_vars(losses, likelihood="laplace", **options)
    total, aux = pl.uncertainty_weighted_loss(best, losses, likelihood="laplace", **options)
    return total - (torch.stack(optree.tree_leaves(aux["weights"])) > 0).sum()


def _worst(losses: Any, *, mu: float, **options: Any) -> Tensor:
    return pl.chebyshev_loss(losses, **options)[0]


def _cooled(logits: Tensor, target: Tensor, log_temperature: Tensor, **options: Any) -> Tensor:
    return pl.cross_entropy_loss(logits * torch.exp(-log_temperature), target, **options)


def _confident_when_cooled(problem: Problem) -> Problem | None:
    best = confident(problem)
    if best is None:
        return None
    warm = torch.exp(problem.tensors["log_temperature"])
    return best.having(logits=best.tensors["logits"] * warm)


SPECS = (
    LossSpec(
        pl.weighted_sum_loss,
        _UNIT,
        _cases(weights=_NUMBERS),
        _real,
        homogeneous=1,
    ),
    LossSpec(
        pl.log_sum_loss,
        _UNIT,
        _cases(),
        _positive,
        equals=(
            Equals(
                "uncertainty_weighted_loss at its best log_vars, less the number of tasks",
                _at_the_best_log_vars,
            ),
        ),
        accuracy_floor=(100.0, "the total is a sum of logarithms as large as that and may cancel"),
    ),
    LossSpec(
        pl.geometric_mean_loss,
        _UNIT,
        _cases(),
        _positive,
        bounded=(0.0, torch.inf),
        homogeneous=1,
    ),
    LossSpec(
        pl.chebyshev_loss,
        _UNIT,
        _cases(weights=_NUMBERS, ideal=0.1),
        _real,
    ),
    LossSpec(
        pl.smooth_chebyshev_loss,
        _UNIT,
        _cases(weights=_NUMBERS, ideal=0.1, mu=torch.tensor(0.5)),
        _real,
        equals=(Equals("chebyshev_loss for a small mu", _worst, {"mu": 1e-5}),),
        accuracy_floor=(1.0, "with an ideal the total is a difference and may cancel"),
    ),
    LossSpec(
        pl.uncertainty_weighted_loss,
        _UNIT,
        (
            Case(
                "tree",
                {
                    "log_vars": {"mask": Array("real"), "depth": {"near": Array("real")}},
                    "losses": _LOSSES,
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
            Case(
                "revised, with sums and bounds",
                {
                    "log_vars": {"mask": Array("real"), "depth": {"near": Array("real")}},
                    "losses": _LOSSES,
                },
                options={
                    "form": "revised",
                    "dims": {"mask": 1, "depth": 3},
                    "bounds": (-1.0, 1.5),
                    "likelihood": "laplace",
                },
            ),
            Case(
                "missing labels",
                {
                    "log_vars": {
                        "mask": Array("real"),
                        "depth": {"near": Array("real"), "far": Array("real")},
                    },
                    "losses": _SAMPLES,
                },
                options={"mask": _LABELLED},
                sizes={"T": 5},
            ),
        ),
        lambda arguments: {"log_vars": "real", "losses": "real"},
        parameters="log_vars",
        init={
            "tree": {"mask": 0, "depth": {"near": 0}},
            "list": 2,
            "revised, with sums and bounds": {"mask": 0, "depth": {"near": 0}},
            "missing labels": {"mask": 0, "depth": {"near": 0, "far": 0}},
        },
        equals=(
            Equals(
                "twice its gaussian form for laplace",
                _twice_gaussian,
                {"likelihood": "laplace"},
                cases=("tree", "list", "missing labels"),
            ),
        ),
        accuracy_floor=(1.0, "the total is a difference and may cancel"),
    ),
    LossSpec(
        pl.tempered_cross_entropy_loss,
        "sample (in images: pixel)",
        (
            Case(
                "labels",
                {
                    "logits": Array("class_logits", "B C N"),
                    "target": Array("labels", "B N"),
                    "log_temperature": Array("log_scale"),
                },
                unit="B N",
                where="B N",
            ),
            Case(
                "probabilities, last axis",
                {
                    "logits": Array("class_logits", "B C"),
                    "target": Array("distribution", "B C"),
                    "log_temperature": Array("log_scale"),
                },
                unit="B",
                where="B",
                options={"class_dim": -1},
            ),
        ),
        lambda arguments: {
            "logits": "class_logits",
            "target": target_domain(arguments),
            "log_temperature": "log_scale",
        },
        bounded=(0.0, torch.inf),
        perfect=_confident_when_cooled,
        convex=True,
        monotone=True,
        permutable="B N",
        cross_entropy=True,
        equals=(Equals("cross_entropy_loss of the logits over the temperature", _cooled),),
        # gap / T is rounded, and a small loss is its exponential: the relative error grows with
        # gap / T, to 2e-6 from about 14 on. Only float64 would mend it, at twice the memory.
        accuracy_floor=(1e-6, "the exponential of gap / T multiplies its rounding by gap / T"),
    ),
)

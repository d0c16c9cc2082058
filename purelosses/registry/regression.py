"""Entries of the regression losses."""

import math
from collections.abc import Callable, Mapping
from typing import Any

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
    match,
)


def _regression_domains(arguments: Mapping[str, Any]) -> Mapping[str, Domain]:
    return {"prediction": "real", "target": "real"}


def _residuals(name: str = "real values", domain: Domain = "real", **options: Any) -> Case:
    args = {"prediction": Array(domain, "B N"), "target": Array(domain, "B N")}
    return Case(name, args, unit="B N", where="B N", options=options)


def _vectors(name: str, axes: str, unit: str, **options: Any) -> Case:
    args = {"prediction": Array("real", axes), "target": Array("real", axes)}
    return Case(name, args, unit=unit, where=unit, options=options, sizes=_SIZES)


_SIZES = {"B": 4, "N": 6, "D": 3, "H": 4, "W": 5}


def _scaled(
    factor: float, loss: Callable[..., Tensor], *without: str, **given: Any
) -> Callable[..., Tensor]:
    """`factor` times a loss, called with `given` instead of the options `without`."""

    def call(*data: Tensor, **options: Any) -> Tensor:
        kept = {key: value for key, value in options.items() if key not in without}
        return factor * loss(*data, **given, **kept)

    return call


def _residual_spec(loss: Callable[..., Tensor], *cases: Case, **claims: Any) -> LossSpec:
    """A loss ρ(prediction - target) that is even and rises with the size of the residual."""
    common = {
        "bounded": (0.0, torch.inf),
        "perfect": match,
        "symmetric": True,
        "monotone": True,
        "permutable": "B N",
    }
    return LossSpec(loss, "element", cases, _regression_domains, **{**common, **claims})


def _at_the_target(problem: Problem) -> Problem:
    """Every quantile is the target itself."""
    prediction, target = (problem.tensors[name] for name in ("prediction", "target"))
    if prediction.ndim > target.ndim:
        axis = problem.case.arrays["prediction"].names.index("Q")
        target = target.unsqueeze(axis).expand_as(prediction)
    return problem.having(prediction=target)


_SCALED = (_residuals(), _residuals("learnt scale", scale=torch.tensor(0.7)))

SPECS = (
    _residual_spec(pl.mse_loss, _residuals(), convex=True, homogeneous=2),
    _residual_spec(pl.l1_loss, _residuals(), convex=True, homogeneous=1),
    _residual_spec(
        pl.huber_loss,
        _residuals(),
        _residuals("learnt delta", delta=torch.tensor(0.7)),
        convex=True,
        equals=(
            Equals(
                "half of mse_loss for a large delta",
                _scaled(0.5, pl.mse_loss, "delta"),
                {"delta": 1e9},
            ),
        ),
    ),
    _residual_spec(
        pl.smooth_l1_loss,
        _residuals(),
        _residuals("learnt beta", beta=torch.tensor(0.7)),
        _residuals("a beta of 0", beta=torch.tensor(0.0)),
        convex=True,
        equals=(
            Equals(
                "huber_loss over beta",
                _scaled(0.5, pl.huber_loss, "beta", delta=2.0),
                {"beta": 2.0},
            ),
            Equals("l1_loss for beta = 0", _scaled(1.0, pl.l1_loss, "beta"), {"beta": 0.0}),
        ),
    ),
    _residual_spec(
        pl.pseudo_huber_loss,
        _residuals(),
        _residuals("learnt delta", delta=torch.tensor(0.7)),
        convex=True,
        equals=(
            Equals(
                "half of mse_loss for a large delta",
                _scaled(0.5, pl.mse_loss, "delta"),
                {"delta": 1e9},
            ),
        ),
    ),
    _residual_spec(
        pl.charbonnier_loss,
        _residuals(),
        _residuals("learnt eps", eps=torch.tensor(0.7)),
        bounded=(1e-3, torch.inf),
        perfect=None,
        monotone=False,
        convex=True,
        equals=(Equals("l1_loss for a tiny eps", _scaled(1.0, pl.l1_loss, "eps"), {"eps": 1e-12}),),
    ),
    _residual_spec(pl.log_cosh_loss, _residuals(), convex=True),
    _residual_spec(pl.cauchy_loss, *_SCALED),
    _residual_spec(pl.geman_mcclure_loss, *_SCALED, bounded=(0.0, 2.0)),
    _residual_spec(pl.welsch_loss, *_SCALED, bounded=(0.0, 1.0)),
    _residual_spec(
        pl.tukey_biweight_loss,
        _residuals(),
        _residuals("learnt c", c=torch.tensor(3.0)),
        bounded=(0.0, 4.685**2 / 6),
        equals=(
            Equals("half of mse_loss for a large c", _scaled(0.5, pl.mse_loss, "c"), {"c": 1e6}),
        ),
    ),
    _residual_spec(
        pl.general_robust_loss,
        _residuals(),
        *(
            _residuals(
                f"learnt alpha near {alpha:g}",
                alpha=torch.tensor(alpha),
                scale=torch.tensor(0.7),
            )
            for alpha in (-math.inf, 0.0, 2.0)
        ),
        equals=tuple(
            Equals(
                f"{name} at alpha = {alpha:g}",
                _scaled(factor, loss, *without),
                {"alpha": alpha},
                cases=("real values",),
            )
            for name, alpha, factor, loss, without in (
                ("half of mse_loss", 2.0, 0.5, pl.mse_loss, ("alpha", "scale")),
                ("pseudo_huber_loss", 1.0, 1.0, pl.pseudo_huber_loss, ("alpha", "scale")),
                ("cauchy_loss", 0.0, 1.0, pl.cauchy_loss, ("alpha",)),
                ("geman_mcclure_loss", -2.0, 1.0, pl.geman_mcclure_loss, ("alpha",)),
                ("welsch_loss", -math.inf, 1.0, pl.welsch_loss, ("alpha",)),
            )
        ),
    ),
    LossSpec(
        pl.adaptive_robust_loss,
        "element",
        tuple(
            Case(
                name,
                {
                    "params": {
                        "alpha_logit": Array("real", axis),
                        "log_scale": Array("real", axis),
                    },
                    "prediction": Array("real", "B N"),
                    "target": Array("real", "B N"),
                },
                unit="B N",
                where="B N",
                sizes={"B": 4, "N": size, "one": 1},
                skip={
                    "N7": "rounding its own α to float32 changes z^α by log z roundings; "
                    "tests/test_regression.py measures it for residuals to 1e4"
                },
            )
            for name, axis, size in (("per channel", "N", 3), ("shared", "one", 6))
        ),
        lambda arguments: {"params": "real", "prediction": "real", "target": "real"},
        parameters="params",
        init={"per channel": 3, "shared": 1},
        symmetric=True,
        permutable="B",
        accuracy_floor=(1.0, "the total is a difference and may cancel"),
    ),
    LossSpec(
        pl.quantile_loss,
        "element of the target",
        (
            _residuals("one level", quantiles=0.9),
            _residuals("a scheduled level", quantiles=torch.tensor(0.2)),
            Case(
                "several levels",
                {"prediction": Array("real", "B N Q"), "target": Array("real", "B N")},
                unit="B N",
                where="B N",
                options={"quantiles": [0.1, 0.5, 0.9], "crossing_penalty": 0.5},
                skip={"C3": "the prediction has more axes than the target"},
                sizes={"B": 4, "N": 6, "Q": 3},
            ),
            Case(
                "a vector of levels, first axis",
                {"prediction": Array("real", "Q B"), "target": Array("real", "B")},
                unit="B",
                where="B",
                options={"quantiles": torch.tensor([0.1, 0.7]), "dim": -2},
                sizes={"B": 4, "Q": 2},
            ),
        ),
        _regression_domains,
        bounded=(0.0, torch.inf),
        perfect=_at_the_target,
        convex=True,
        monotone=True,
        homogeneous=1,
        permutable="B N",
        equals=(
            Equals(
                "half of l1_loss for the median",
                _scaled(0.5, pl.l1_loss, "quantiles"),
                {"quantiles": 0.5},
                cases=("one level",),
            ),
        ),
    ),
    _residual_spec(
        pl.expectile_loss,
        _residuals("asymmetric", q=0.9),
        _residuals("a scheduled q", q=torch.tensor(0.2)),
        symmetric=False,
        convex=True,
        homogeneous=2,
        equals=(Equals("half of mse_loss at q = ½", _scaled(0.5, pl.mse_loss, "q"), {"q": 0.5}),),
    ),
    LossSpec(
        pl.squared_log_loss,
        "element",
        (_residuals("positive values", "positive"),),
        lambda arguments: {"prediction": "positive", "target": "positive"},
        bounded=(0.0, torch.inf),
        perfect=match,
        symmetric=True,
        monotone=True,
        permutable="B N",
    ),
    LossSpec(
        pl.absolute_percentage_loss,
        "element",
        (_residuals(),),
        _regression_domains,
        bounded=(0.0, torch.inf),
        perfect=match,
        convex=True,
        monotone=True,
        homogeneous=0,
        permutable="B N",
    ),
    LossSpec(
        pl.symmetric_percentage_loss,
        "element",
        (_residuals(),),
        _regression_domains,
        bounded=(0.0, 2.0),
        perfect=match,
        symmetric=True,
        monotone=True,
        homogeneous=0,
        permutable="B N",
    ),
    LossSpec(
        pl.cosine_distance_loss,
        "vector",
        (
            _vectors("last axis", "B N D", "B N"),
            _vectors("two axes", "B H W", "B", dim=(1, -1)),
        ),
        _regression_domains,
        bounded=(0.0, 2.0),
        perfect=match,
        symmetric=True,
        homogeneous=0,
        permutable="B N D H W",
    ),
    LossSpec(
        pl.relative_l2_loss,
        "vector",
        (
            _vectors("last axis", "B N D", "B N"),
            _vectors("two axes", "B H W", "B", dim=(1, -1)),
        ),
        _regression_domains,
        bounded=(0.0, torch.inf),
        perfect=match,
        convex=True,
        monotone=True,
        homogeneous=0,
        permutable="B N D H W",
    ),
)

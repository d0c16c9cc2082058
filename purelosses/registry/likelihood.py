"""Entries of the losses of predicted distributions."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import purelosses as pl
from purelosses.registry.core import Array, Case, Domain, Equals, LossSpec, Problem

_SIZES = {"B": 4, "N": 6, "K": 3, "M": 5, "D": 3}
_FLOOR = (1.0, "a log-likelihood is a difference and may cancel")


def _case(name: str, axes: str = "B N", **domains: Domain) -> Callable[..., Case]:
    """Cases of data that all have the same axes."""

    def case(name: str = name, skip: Mapping[str, str] = {}, **options: Any) -> Case:
        args = {argument: Array(domain, axes) for argument, domain in domains.items()}
        return Case(name, args, unit=axes, where=axes, options=options, sizes=_SIZES, skip=skip)

    return case


def _likelihood(loss: Callable[..., Tensor], *cases: Case, **claims: Any) -> LossSpec:
    """A loss whose domains are those of its first case, and whose value may cancel."""
    domains = {
        name: array.domain for name, array in cases[0].arrays.items() if name in cases[0].args
    }

    def domains_of(arguments: Mapping[str, Any]) -> Mapping[str, Domain]:
        return domains

    common = {"permutable": "B N K M", "accuracy_floor": _FLOOR}
    return LossSpec(loss, "element", cases, domains_of, **{**common, **claims})


_gaussian = _case("real values", mean="real", log_var="log_scale", target="real")
_scaled = _case("real values", location="real", log_scale="log_scale", target="real")
_rate = _case("counts", log_rate="log_scale", target="counts")
_counts = _case("counts", log_mean="log_scale", log_shape="log_scale", target="counts")
_positive = _case("positive values", log_mean="log_scale", log_shape="log_scale", target="positive")
_deviance = _case("positive values", log_mean="log_scale", target="positive")
_deviance_of_counts = _case("counts", log_mean="log_scale", target="counts")
_interval = _case("intervals", lower="real", upper="real", target="real")


def _mixture(name: str, axes: str, unit: str, **options: Any) -> Case:
    domains: dict[str, Domain] = {"logits": "real", "mean": "real", "log_var": "log_scale"}
    args = {argument: Array(domain, axes) for argument, domain in domains.items()}
    args["target"] = Array("real", unit)
    return Case(name, args, unit=unit, where=unit, options=options, sizes=_SIZES)


def _ensemble(name: str, axes: str, target: str, unit: str, **options: Any) -> Case:
    skip = options.pop("skip", {})
    args = {"prediction": Array("real", axes), "target": Array("real", target)}
    return Case(name, args, unit=unit, where=unit, options=options, sizes=_SIZES, skip=skip)


def _all_at_the_target(problem: Problem) -> Problem:
    """Every member is the target itself."""
    axis = problem.case.arrays["prediction"].names.index("M")
    target = problem.tensors["target"].unsqueeze(axis)
    return problem.having(prediction=target.expand_as(problem.tensors["prediction"]))


def _log_of_the_target(problem: Problem) -> Problem | None:
    """The logarithm of the target; zeros have none."""
    target = problem.tensors["target"]
    if problem.case.arrays["target"].domain == "counts":
        return None
    return problem.having(log_mean=target.log())


def _as_normal(location: Tensor, log_scale: Tensor, target: Tensor, **options: Any) -> Tensor:
    options.pop("df")
    return pl.gaussian_nll_loss(location, 2 * log_scale, target, **options)


def _plain_gaussian(*data: Tensor, beta: float, **options: Any) -> Tensor:
    return pl.gaussian_nll_loss(*data, **options)


def _squared(log_mean: Tensor, target: Tensor, *, power: float, **options: Any) -> Tensor:
    return pl.mse_loss(log_mean.exp(), target, **options)


def _poisson(log_mean: Tensor, target: Tensor, *, power: float, **options: Any) -> Tensor:
    saturated = torch.special.xlogy(target, target) - target
    ours = pl.poisson_nll_loss(log_mean, target, **{**options, "reduction": "none"})
    weights = options.get("weights", torch.ones_like(ours))
    where = options.get("where", torch.ones_like(ours, dtype=torch.bool))
    deviance = 2 * (ours + torch.where(where, weights * saturated, 0.0))
    mean: Tensor = deviance.sum() / where.sum()
    return mean


def _quantiles(
    lower: Tensor, upper: Tensor, target: Tensor, *, alpha: float, **options: Any
) -> Tensor:
    ends, levels = torch.stack([lower, upper], -1), [alpha / 2, 1 - alpha / 2]
    return 4 / alpha * pl.quantile_loss(ends, target, quantiles=levels, **options)


_CONSTANT_FACTOR = dict.fromkeys(
    ("T6", "T7"),
    "its gradient leaves out a factor on purpose, so finite differences disagree; "
    "tests/test_likelihood.py compares it with that of gaussian_nll_loss",
)
_ABOVE_ZERO = {"E5": "its targets are above 0; a target of 0 costs infinitely much"}
_MAY_CANCEL = {"N7": "distance and spread may cancel; tests/test_likelihood.py measures both"}

SPECS = (
    _likelihood(
        pl.gaussian_nll_loss,
        _gaussian(),
        _gaussian("with its constant", full=True),
        symmetric=True,
        convex=True,
    ),
    _likelihood(
        pl.beta_gaussian_nll_loss,
        _gaussian(skip=_CONSTANT_FACTOR),
        _gaussian("learnt beta", skip=_CONSTANT_FACTOR, beta=torch.tensor(0.7)),
        symmetric=True,
        convex=True,
        equals=(Equals("gaussian_nll_loss at beta = 0", _plain_gaussian, {"beta": 0.0}),),
    ),
    _likelihood(
        pl.laplace_nll_loss,
        _scaled(),
        _scaled("with its constant", full=True),
        symmetric=True,
        convex=True,
    ),
    _likelihood(
        pl.student_t_nll_loss,
        _scaled(df=3.0),
        _scaled("learnt df, with its constant", df=torch.tensor(1.5), full=True),
        symmetric=True,
        equals=(Equals("gaussian_nll_loss for a large df", _as_normal, {"df": 1e12}),),
    ),
    _likelihood(
        pl.gaussian_mixture_nll_loss,
        _mixture("last axis", "B N K", "B N"),
        _mixture("first axis, with its constant", "K B N", "B N", dim=0, full=True),
    ),
    _likelihood(pl.poisson_nll_loss, _rate(), _rate("with its constant", full=True), convex=True),
    _likelihood(
        pl.gamma_nll_loss,
        _positive(skip=_ABOVE_ZERO),
        _positive("with its constant", skip=_ABOVE_ZERO, full=True),
        convex=True,
    ),
    _likelihood(
        pl.negative_binomial_nll_loss,
        _counts(),
        _counts("with its constant", full=True),
        convex=True,
        accuracy_floor=(4.0, "a log-likelihood is a difference: log Γ of a count of 17 is 30"),
    ),
    _likelihood(
        pl.tweedie_deviance_loss,
        _deviance(),
        _deviance_of_counts(),
        _deviance("a scheduled power of 1", power=torch.tensor(1.0)),
        _deviance("a scheduled power of 2", skip=_ABOVE_ZERO, power=torch.tensor(2.0)),
        bounded=(0.0, torch.inf),
        perfect=_log_of_the_target,
        monotone=True,
        accuracy_floor=None,
        equals=(
            Equals("mse_loss at power = 0", _squared, {"power": 0.0}),
            Equals("the Poisson deviance at power = 1", _poisson, {"power": 1.0}),
        ),
    ),
    _likelihood(
        pl.crps_gaussian_loss,
        _gaussian(),
        bounded=(0.0, torch.inf),
        symmetric=True,
        convex=True,
        accuracy_floor=None,
    ),
    _likelihood(
        pl.crps_ensemble_loss,
        _ensemble("last axis", "B N M", "B N", "B N"),
        _ensemble("first axis, fair", "M B N", "B N", "B N", dim=0, fair=True),
        bounded=(0.0, torch.inf),
        perfect=_all_at_the_target,
        monotone=True,
        homogeneous=1,
        accuracy_floor=None,
    ),
    _likelihood(
        pl.interval_score_loss,
        _interval(alpha=0.1),
        _interval("scheduled alpha", alpha=torch.tensor(0.3)),
        convex=True,
        homogeneous=1,
        accuracy_floor=None,
        equals=(Equals("the quantile_loss of its ends", _quantiles, {"alpha": 0.2}),),
    ),
    _likelihood(
        pl.energy_score_loss,
        _ensemble("last axes", "B N M D", "B N D", "B N"),
        _ensemble(
            "other axes, fair",
            "D B M",
            "D B",
            "B",
            dim=0,
            ensemble_dim=2,
            fair=True,
            skip=_MAY_CANCEL,
        ),
        bounded=(0.0, torch.inf),
        perfect=_all_at_the_target,
        monotone=True,
        homogeneous=1,
        accuracy_floor=None,
    ),
)

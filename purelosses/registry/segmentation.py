"""Entries of the losses over regions."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import purelosses as pl
from purelosses.registry.core import (
    EXCHANGE,
    Array,
    Case,
    Domain,
    Equals,
    LossSpec,
    Problem,
    Tree,
    confident,
    one_hot,
    target_domain,
)

Domains = Callable[[Mapping[str, Any]], Mapping[str, Domain]]
Statistics = tuple[Callable[..., Any], Callable[[Any, Mapping[str, Any]], Tensor]]


def _domains(activation: str | None = None, class_dim: int | None = None) -> Domains:
    """The domains of the data, from the loss's own defaults of these options."""

    def domains(arguments: Mapping[str, Any]) -> Mapping[str, Domain]:
        given = {"activation": activation, "class_dim": class_dim, **arguments}
        names: Mapping[str | None, Domain] = {"softmax": "class_logits", "sigmoid": "logits"}
        name = "logits" if "logits" in arguments else "prediction"
        domain = names.get(given["activation"], "unit")
        return {name: domain, "target": target_domain(given)}

    return domains


def _additive(
    measure: Callable[..., Any], finish: Callable[..., Tensor], **fixed: Any
) -> Statistics:
    """The statistics of a call and the loss of them; both take the options that they know."""

    def known(function: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
        names = inspect.signature(function).parameters
        return {key: value for key, value in options.items() if key in names}

    def statistics(*data: Tensor, **options: Any) -> Any:
        return measure(*data, **known(measure, {**fixed, **options}))

    def loss(sums: Any, options: Mapping[str, Any]) -> Tensor:
        # The class axis of the statistics is not that of the prediction; the default fits.
        options = {k: v for k, v in {**fixed, **options}.items() if k != "class_dim"}
        return finish(sums, **known(finish, options))

    return statistics, loss


def _regions_with_target(problem: Problem) -> Tensor:
    target = torch.nn.functional.one_hot(problem.tensors["target"], 3).movedim(-1, 1)
    where = problem.tensors.get("where")
    if where is not None:
        target = torch.where(where.unsqueeze(1), target, 0)
    return target.flatten(2).sum(2) > 0


# The ways to call a loss that has one value per region; each loss has some of them.


def _one(**options: Any) -> Case:
    data: Mapping[str, Tree] = {
        "prediction": Array("unit", "B H W"),
        "target": Array("mask", "B H W"),
    }
    name = "one region of probabilities"
    return Case(name, data, unit="", where="B H W", options=options, separable=False)


def _many(data: str = "prediction", **options: Any) -> Case:
    if data == "prediction":
        options = {"activation": "sigmoid", **options}
    return Case(
        "multi-label logits",
        {data: Array("logits", "B C H W"), "target": Array("mask", "B C H W")},
        unit="B C",
        where="B H W",
        options={"class_dim": 1, **options},
        skip=EXCHANGE,
    )


def _labels(data: str = "prediction", unit: str = "B C", **options: Any) -> Case:
    present = options.get("classes") == "present" and unit == "B C"
    if data == "prediction":
        options = {"activation": "softmax", **options}
    return Case(
        "class logits and labels",
        {data: Array("class_logits", "B C N"), "target": Array("labels", "B N")},
        unit=unit,
        where="B N",
        options={"class_dim": 1, **options},
        present=_regions_with_target if present else None,
        skip=EXCHANGE,
    )


def _pooled(unit: str = "C", **options: Any) -> Case:
    return Case(
        "pooled over the batch, soft target",
        {"prediction": Array("unit", "B C N"), "target": Array("unit", "B C N")},
        unit=unit,
        where="B N",
        options={"class_dim": 1, "dim": (0, 2), **options},
        separable=False,
    )


def _some_classes(**options: Any) -> Case:
    return Case(
        "two of three classes, on the last axis",
        {"prediction": Array("logits", "B N C"), "target": Array("mask", "B N C")},
        unit="B K",
        where="B N",
        options={"activation": "sigmoid", "class_dim": -1, "dim": 1, "classes": (0, 2), **options},
        skip=EXCHANGE,
        sizes={"B": 4, "N": 6, "C": 3, "K": 2},
    )


def _shares(data: str = "logits", **options: Any) -> Case:
    """Probabilities as targets."""
    return Case(
        "class logits and probabilities",
        {data: Array("class_logits", "B C N"), "target": Array("distribution", "B C N")},
        unit="B",
        where="B N",
        options={"class_dim": 1, **options},
        skip=EXCHANGE,
    )


SMOOTHED = {"E2": "label smoothing gives every class a share of the target"}


def _smoothed(case: Case, **options: Any) -> Case:
    name = f"{case.name}, smoothed"
    return replace(
        case, name=name, options={**case.options, **options}, skip={**case.skip, **SMOOTHED}
    )


# What the losses are at some options


def _halves(prediction: Tensor, target: Tensor, *, smooth: Any = 1.0, **options: Any) -> Tensor:
    half = tuple(s / 2 for s in smooth) if isinstance(smooth, tuple) else smooth / 2
    return pl.tversky_loss(prediction, target, smooth=half, **options)


def _twice(prediction: Tensor, target: Tensor, *, smooth: Any = 1.0, **options: Any) -> Tensor:
    options = {key: value for key, value in options.items() if key not in ("alpha", "beta")}
    return pl.dice_loss(prediction, target, smooth=2 * smooth, **options)


def _unions(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    return pl.tversky_loss(prediction, target, alpha=1, beta=1, **options)


def _first_power(prediction: Tensor, target: Tensor, *, gamma: float, **options: Any) -> Tensor:
    return pl.tversky_loss(prediction, target, **{"alpha": 0.3, "beta": 0.7, **options})


def _log_cosh(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    weights = options.pop("weights", None)
    losses = pl.dice_loss(prediction, target, reduction="none", **options).cosh().log()
    return losses.mean() if weights is None else (weights * losses).mean()


def _of_background(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    return pl.mcc_loss(1 - prediction, 1 - target, **options)


def _over_classes(
    prediction: Tensor, target: Tensor, *, weight_type: str, dim: Any = (1, 2, 3), **options: Any
) -> Tensor:
    return pl.dice_loss(prediction, target, dim=dim, **options)


def _dice_of_logits(
    logits: Tensor, target: Tensor, *, dice_weight: float, bce_weight: float, **options: Any
) -> Tensor:
    return pl.dice_loss(logits, target, activation="sigmoid", **options)


def _dice_of_classes(
    logits: Tensor, target: Tensor, *, dice_weight: float, ce_weight: float, **options: Any
) -> Tensor:
    weights = options.pop("weights", None)
    weights = None if weights is None else weights.unsqueeze(1)
    return pl.dice_loss(logits, target, activation="softmax", weights=weights, **options)


def _unfocused(
    logits: Tensor,
    target: Tensor,
    *,
    gamma: float,
    activation: str = "sigmoid",
    focal_weight: Any = 0.5,
    **options: Any,
) -> Tensor:
    if activation == "sigmoid":
        return pl.dice_bce_loss(logits, target, bce_weight=focal_weight, **options)
    return pl.dice_ce_loss(logits, target, ce_weight=focal_weight, **options)


def _balanced(
    logits: Tensor,
    target: Tensor,
    *,
    delta: float,
    gamma: float,
    asymmetric: bool = True,
    tversky_weight: Any = 0.5,
    focal_weight: Any = 0.5,
    smooth: Any = 1.0,
    **options: Any,
) -> Tensor:
    shares = {"dice_weight": tversky_weight, "ce_weight": focal_weight / 2}
    return pl.dice_ce_loss(logits, target, smooth=2 * smooth, **shares, **options)


def _same_for_one_hot(loss: Callable[..., Tensor]) -> Equals:
    return Equals("itself with one-hot targets", one_hot(loss), cases=("class logits and labels",))


_DISTANCE = torch.tensor([[0.0, 2.0, 1.5], [2.0, 0.0, 1.0], [2.0, 1.0, 0.0]])
_OVERLAP = _domains()
_CLASSES = _domains(activation="softmax", class_dim=1)

SPECS = (
    LossSpec(
        pl.dice_loss,
        "region",
        (
            _one(),
            _many(empty="penalize"),
            _labels(classes="present"),
            _pooled(smooth=0.0),
            _some_classes(squared=True),
        ),
        _OVERLAP,
        bounded=(0.0, 1.0),
        perfect=confident,
        symmetric=True,
        permutable="B H W N",
        equals=(
            _same_for_one_hot(pl.dice_loss),
            Equals("tversky_loss of a half each, with half the smoothing", _halves),
        ),
        statistics=_additive(pl.overlap_statistics, pl.dice_from_statistics),
    ),
    LossSpec(
        pl.jaccard_loss,
        "region",
        (_one(smooth=torch.tensor(0.5)), _labels(empty="penalize"), _pooled(soft_target=True)),
        _OVERLAP,
        bounded=(0.0, 1.0),
        perfect=confident,
        symmetric=True,
        permutable="B H W N",
        equals=(
            _same_for_one_hot(pl.jaccard_loss),
            Equals("tversky_loss of one each", _unions),
        ),
        statistics=_additive(pl.overlap_statistics, pl.jaccard_from_statistics),
    ),
    LossSpec(
        pl.tversky_loss,
        "region",
        (
            _one(alpha=torch.tensor(0.3), beta=0.7),
            _labels(classes="present", alpha=0.2, beta=1.4),
            _pooled(squared=True, smooth=(0.5, 1.0)),
        ),
        _OVERLAP,
        bounded=(0.0, 1.0),
        perfect=confident,
        permutable="B H W N",
        equals=(
            _same_for_one_hot(pl.tversky_loss),
            Equals(
                "dice_loss at a half each, with twice the smoothing",
                _twice,
                {"alpha": 0.5, "beta": 0.5},
                cases=("one region of probabilities", "class logits and labels"),
            ),
        ),
        statistics=_additive(pl.overlap_statistics, pl.tversky_from_statistics),
    ),
    LossSpec(
        pl.focal_tversky_loss,
        "region",
        (_one(), _many(empty="penalize", gamma=torch.tensor(1.5)), _labels(gamma=0.5)),
        _OVERLAP,
        bounded=(0.0, 1.0),
        perfect=confident,
        permutable="B H W N",
        equals=(
            _same_for_one_hot(pl.focal_tversky_loss),
            Equals("tversky_loss for a gamma of 1", _first_power, {"gamma": 1.0}),
        ),
        statistics=_additive(pl.overlap_statistics, pl.focal_tversky_from_statistics),
    ),
    LossSpec(
        pl.log_cosh_dice_loss,
        "region",
        (_one(), _labels(classes="present")),
        _OVERLAP,
        bounded=(0.0, 0.434),
        perfect=confident,
        symmetric=True,
        permutable="B H W N",
        equals=(
            _same_for_one_hot(pl.log_cosh_dice_loss),
            Equals(
                "log cosh of dice_loss",
                _log_cosh,
                {"where": None},
                cases=("one region of probabilities",),
            ),
        ),
        statistics=_additive(pl.overlap_statistics, pl.log_cosh_dice_from_statistics),
    ),
    LossSpec(
        pl.mcc_loss,
        "region",
        (_one(), _many(empty="penalize"), _labels(smooth=0.5), _pooled(soft_target=True)),
        _OVERLAP,
        bounded=(0.0, 2.0),
        perfect=confident,
        symmetric=True,
        permutable="B H W N",
        equals=(
            _same_for_one_hot(pl.mcc_loss),
            Equals(
                "itself of the background",
                _of_background,
                cases=("one region of probabilities", "pooled over the batch, soft target"),
            ),
        ),
        statistics=_additive(pl.overlap_statistics, pl.mcc_from_statistics, extra="tn"),
    ),
    LossSpec(
        pl.generalized_dice_loss,
        "region of all classes",
        (
            _labels(unit="B"),
            replace(_many(weight_type="simple", empty="penalize"), unit="B"),
            _pooled(unit="", weight_type="uniform", classes=(1, 2), soft_target=True),
        ),
        _domains(class_dim=1),
        bounded=(0.0, 1.0),
        perfect=confident,
        permutable="B H W N",
        equals=(
            _same_for_one_hot(pl.generalized_dice_loss),
            Equals(
                "dice_loss pooled over classes for uniform weights",
                _over_classes,
                {"weight_type": "uniform", "empty": "smooth"},
                cases=("multi-label logits",),
            ),
        ),
        statistics=_additive(
            pl.overlap_statistics, pl.generalized_dice_from_statistics, class_dim=1
        ),
    ),
    LossSpec(
        pl.generalized_wasserstein_dice_loss,
        "region of all classes",
        (
            _labels(unit="B", distance=_DISTANCE, empty="penalize"),
            _shares("prediction", activation="softmax", distance=_DISTANCE),
            Case(
                "pooled over the batch",
                {"prediction": Array("distribution", "B C N"), "target": Array("labels", "B N")},
                unit="",
                where="B N",
                options={"distance": _DISTANCE, "dim": (0, 2), "smooth": 1e-5},
                separable=False,
                skip=EXCHANGE,
            ),
        ),
        _domains(class_dim=1),
        bounded=(0.0, 1.0),
        perfect=confident,
        permutable="B N",
        equals=(_same_for_one_hot(pl.generalized_wasserstein_dice_loss),),
        statistics=_additive(
            pl.confusion_statistics, pl.generalized_wasserstein_dice_from_statistics
        ),
    ),
    LossSpec(
        pl.dice_bce_loss,
        "region",
        (
            Case(
                "one region",
                {"logits": Array("logits", "B H W"), "target": Array("mask", "B H W")},
                unit="",
                where="B H W",
                separable=False,
            ),
            _many("logits", dice_weight=1.0, bce_weight=torch.tensor(2.0), empty="penalize"),
        ),
        _domains(activation="sigmoid"),
        bounded=(0.0, torch.inf),
        perfect=confident,
        permutable="B H W",
        cross_entropy=True,
        equals=(
            Equals(
                "dice_loss of the probabilities without the cross-entropy",
                _dice_of_logits,
                {"dice_weight": 1.0, "bce_weight": 0.0},
            ),
        ),
        statistics=_additive(
            pl.overlap_statistics, pl.dice_bce_from_statistics, activation="sigmoid", extra="bce"
        ),
    ),
    LossSpec(
        pl.dice_ce_loss,
        "region of all classes",
        (
            _labels("logits", unit="B"),
            _smoothed(_labels("logits", unit="B", classes=(1, 2)), label_smoothing=0.1),
            _shares(soft_target=True, dice_weight=1.0, ce_weight=torch.tensor(2.0)),
            replace(
                _labels("logits", dim=(0, 2), squared=True, label_smoothing=torch.tensor(0.2)),
                name="pooled over the batch, smoothed",
                unit="",
                separable=False,
                skip={**EXCHANGE, **SMOOTHED},
            ),
        ),
        _CLASSES,
        bounded=(0.0, torch.inf),
        perfect=confident,
        permutable="B N",
        cross_entropy=True,
        equals=(
            _same_for_one_hot(pl.dice_ce_loss),
            Equals(
                "dice_loss of the probabilities without the cross-entropy",
                _dice_of_classes,
                {"dice_weight": 1.0, "ce_weight": 0.0},
                cases=("class logits and labels",),
            ),
        ),
        statistics=_additive(
            pl.overlap_statistics,
            pl.dice_ce_from_statistics,
            activation="softmax",
            class_dim=1,
            extra=("ce", "surprisal"),
        ),
    ),
    LossSpec(
        pl.dice_focal_loss,
        "region (with a softmax: of all classes)",
        (
            Case(
                "one region",
                {"logits": Array("logits", "B H W"), "target": Array("mask", "B H W")},
                unit="",
                where="B H W",
                options={"gamma": torch.tensor(1.5)},
                separable=False,
            ),
            _many("logits", gamma=0.5, dice_weight=1.0),
            _labels("logits", unit="B", activation="softmax", empty="penalize"),
        ),
        _domains(activation="sigmoid"),
        bounded=(0.0, torch.inf),
        perfect=confident,
        permutable="B H W N",
        cross_entropy=True,
        equals=(
            _same_for_one_hot(pl.dice_focal_loss),
            Equals("dice_bce_loss or dice_ce_loss for a gamma of 0", _unfocused, {"gamma": 0.0}),
        ),
        statistics=_additive(
            pl.overlap_statistics,
            pl.dice_focal_from_statistics,
            activation="sigmoid",
            extra="focal",
        ),
    ),
    LossSpec(
        pl.unified_focal_loss,
        "region of all classes",
        (
            _labels("logits", unit="B", empty="penalize"),
            _shares(asymmetric=False, gamma=torch.tensor(0.3), delta=torch.tensor(0.7)),
            replace(
                _labels("logits", dim=(0, 2), focal_weight=0.25),
                name="pooled over the batch",
                unit="",
                separable=False,
            ),
        ),
        _CLASSES,
        bounded=(0.0, torch.inf),
        perfect=confident,
        permutable="B N",
        cross_entropy=True,
        equals=(
            _same_for_one_hot(pl.unified_focal_loss),
            Equals(
                "dice_ce_loss for a delta of a half and a gamma of 0",
                _balanced,
                {"delta": 0.5, "gamma": 0.0},
            ),
        ),
        statistics=_additive(
            pl.overlap_statistics,
            pl.unified_focal_from_statistics,
            activation="softmax",
            class_dim=1,
            extra=("ce", "focal"),
            gamma=0.5,
        ),
    ),
)

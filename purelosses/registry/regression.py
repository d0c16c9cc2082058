"""Entries of the residual losses."""

from collections.abc import Mapping
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
    match,
)


def _regression_domains(arguments: Mapping[str, Any]) -> Mapping[str, Domain]:
    return {"prediction": "real", "target": "real"}


def _residuals(name: str = "real values", **options: Any) -> Case:
    args = {"prediction": Array("real", "B N"), "target": Array("real", "B N")}
    return Case(name, args, unit="B N", where="B N", options=options)


def _half_mse(prediction: Tensor, target: Tensor, *, delta: float, **options: Any) -> Tensor:
    return 0.5 * pl.mse_loss(prediction, target, **options)


SPECS = (
    LossSpec(
        pl.mse_loss,
        "element",
        (_residuals(),),
        _regression_domains,
        bounded=(0.0, torch.inf),
        perfect=match,
        symmetric=True,
        convex=True,
        monotone=True,
        homogeneous=2,
        permutable="B N",
    ),
    LossSpec(
        pl.l1_loss,
        "element",
        (_residuals(),),
        _regression_domains,
        bounded=(0.0, torch.inf),
        perfect=match,
        symmetric=True,
        convex=True,
        monotone=True,
        homogeneous=1,
        permutable="B N",
    ),
    LossSpec(
        pl.huber_loss,
        "element",
        (_residuals(), _residuals("learnt delta", delta=torch.tensor(0.7))),
        _regression_domains,
        bounded=(0.0, torch.inf),
        perfect=match,
        symmetric=True,
        convex=True,
        monotone=True,
        permutable="B N",
        equals=(Equals("half of mse_loss for a large delta", _half_mse, {"delta": 1e9}),),
    ),
)

"""Entries of the losses for labels of which some are wrong."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import purelosses as pl
from purelosses.registry.core import (
    Array,
    Domain,
    Equals,
    LossSpec,
    Problem,
    class_cases,
    class_domains,
    confident,
    one_hot,
)

_NOISE = torch.tensor([[0.7, 0.2, 0.1], [0.05, 0.9, 0.05], [0.0, 0.3, 0.7]])


def _shared(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options that every loss has."""
    names = ("class_dim", "where", "weights", "reduction")
    return {k: v for k, v in options.items() if k in names}


def _plain(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    return pl.cross_entropy_loss(logits, target, **_shared(options))


def _missing(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    """1 - p, as the slope of poly1_loss in its epsilon."""
    return pl.poly1_loss(logits, target, epsilon=1.0, **_shared(options)) - _plain(
        logits, target, **_shared(options)
    )


def _normalized(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    return pl.normalized_cross_entropy_loss(logits, target, **_shared(options))


def _penalised(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    """(CE + H) / 2 = CE - (CE - H) / 2, with the cross-entropy CE and the entropy H."""
    penalised = pl.confidence_penalty_loss(logits, target, beta=1.0, **_shared(options))
    return _plain(logits, target, **options) - 0.5 * penalised


def _plain_of_three(logits: Tensor, target: Tensor, average: Tensor, **options: Any) -> Tensor:
    return _plain(logits, target, **options)


def _very_confident(problem: Problem) -> Problem | None:
    """Where tails are heavy a margin of 80 leaves doubt."""
    best = confident(problem)
    return None if best is None else best.having(logits=1000 * best.tensors["logits"])


def _transition_domains(arguments: Mapping[str, Any]) -> Mapping[str, Domain | int]:
    return {**class_domains(arguments), "transition": "unit"}


_REMOVED = {"E2": "a removed class is left out of the sum, where a falling logit stays in it"}
_IDENTITY = torch.eye(3)
_UNIT = "sample (in images: pixel)"

SPECS = (
    LossSpec(
        pl.generalized_cross_entropy_loss,
        _UNIT,
        (*class_cases(), class_cases("learnt q", q=torch.tensor(0.3))[0]),
        class_domains,
        bounded=(0.0, 1 / 0.3),
        perfect=confident,
        monotone=True,
        permutable="B N",
        equals=(
            Equals("cross_entropy_loss as q goes to 0", _plain, {"q": 1e-7}),
            Equals("1 - p at q = 1", _missing, {"q": 1.0}),
            Equals(
                "itself with one-hot targets",
                one_hot(pl.generalized_cross_entropy_loss),
                cases=("labels",),
            ),
        ),
    ),
    LossSpec(
        pl.symmetric_cross_entropy_loss,
        _UNIT,
        (
            *class_cases(),
            class_cases(
                "learnt options",
                alpha=torch.tensor(1.0),
                beta=torch.tensor(0.5),
                log_zero=torch.tensor(-6.0),
            )[0],
        ),
        class_domains,
        bounded=(0.0, torch.inf),
        perfect=confident,
        monotone=True,
        permutable="B N",
        cross_entropy=True,
        equals=(
            Equals("cross_entropy_loss at alpha 1, beta 0", _plain, {"alpha": 1.0, "beta": 0.0}),
        ),
    ),
    LossSpec(
        pl.normalized_cross_entropy_loss,
        _UNIT,
        class_cases(skip=_REMOVED),
        class_domains,
        bounded=(0.0, 1.0),
        perfect=confident,
        permutable="B N",
    ),
    LossSpec(
        pl.active_passive_loss,
        _UNIT,
        (
            *class_cases(skip=_REMOVED),
            class_cases(
                "focal, reverse, learnt",
                skip=_REMOVED,
                active="nfl",
                passive="rce",
                active_weight=torch.tensor(0.5),
                passive_weight=torch.tensor(2.0),
                gamma=torch.tensor(0.5),
            )[0],
        ),
        class_domains,
        bounded=(0.0, 0.5 + 8.0),
        perfect=confident,
        permutable="B N",
        equals=(
            Equals(
                "normalized_cross_entropy_loss without the passive term",
                _normalized,
                {"active": "nce", "active_weight": 1.0, "passive_weight": 0.0},
            ),
        ),
    ),
    LossSpec(
        pl.bootstrap_loss,
        _UNIT,
        (
            *class_cases("soft"),
            *class_cases("hard", kind="hard", beta=0.8),
            class_cases("learnt beta", beta=torch.tensor(0.5))[0],
        ),
        class_domains,
        bounded=(0.0, torch.inf),
        perfect=confident,
        permutable="B N",
        cross_entropy=True,
        equals=(
            Equals("cross_entropy_loss at beta 1", _plain, {"beta": 1.0}),
            Equals(
                "cross-entropy and entropy in equal parts at beta ½",
                _penalised,
                {"kind": "soft", "beta": 0.5},
            ),
        ),
    ),
    LossSpec(
        pl.forward_correction_loss,
        _UNIT,
        class_cases(transition=_NOISE),
        _transition_domains,
        bounded=(0.0, torch.inf),
        permutable="B N",
        equals=(Equals("cross_entropy_loss without noise", _plain, {"transition": _IDENTITY}),),
    ),
    LossSpec(
        pl.backward_correction_loss,
        _UNIT,
        class_cases(
            transition=_NOISE,
            skip={"E2": "every class enters, and the loss of a removed one is infinite"},
        ),
        _transition_domains,
        permutable="B N",
        cross_entropy=True,
        equals=(Equals("cross_entropy_loss without noise", _plain, {"transition": _IDENTITY}),),
        accuracy_floor=(1.0, "a difference of cross-entropies"),
    ),
    LossSpec(
        pl.taylor_cross_entropy_loss,
        _UNIT,
        (*class_cases(), class_cases("order 5", order=5)[0]),
        class_domains,
        bounded=(0.0, 1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5),
        perfect=confident,
        monotone=True,
        permutable="B N",
        equals=(Equals("1 - p at order 1", _missing, {"order": 1}),),
    ),
    LossSpec(
        pl.bi_tempered_loss,
        _UNIT,
        (
            class_cases()[0],
            class_cases(
                "probabilities, learnt temperatures",
                skip={"E2": "the tail is so heavy that a logit of -1e4 still counts"},
                t1=torch.tensor(0.5),
                t2=torch.tensor(2.0),
            )[1],
        ),
        class_domains,
        bounded=(0.0, torch.inf),
        perfect=_very_confident,
        permutable="B N",
        equals=(
            Equals(
                "cross_entropy_loss at temperatures of 1",
                _plain,
                {"t1": 1.0, "t2": 1.0},
                cases=("labels",),
            ),
        ),
        accuracy_floor=(0.1, "with probabilities as target, a difference of entropies"),
    ),
    LossSpec(
        pl.elr_loss,
        _UNIT,
        tuple(
            replace(case, args={**case.args, "average": Array("distribution", axes)})
            for case, axes in zip(
                (*class_cases(), class_cases("learnt lam", lam=torch.tensor(1.0))[0]),
                ("B C N", "B C", "B C N"),
                strict=True,
            )
        ),
        lambda arguments: {**class_domains(arguments), "average": "unit"},
        permutable="B N",
        equals=(Equals("cross_entropy_loss at lam 0", _plain_of_three, {"lam": 0.0}),),
        accuracy_floor=(1.0, "a difference of the cross-entropy and the pull"),
    ),
)

"""Clauses E: inputs at the edge of their domain."""

from collections.abc import Iterator, Sequence
from itertools import product

import torch
from torch import Tensor

from purelosses._checks import REDUCTIONS
from purelosses.laws.core import (
    Check,
    NotApplicable,
    Subject,
    close,
    finite,
    law,
    replacing,
    same,
    zero,
)
from purelosses.laws.numerics import against_float64
from purelosses.registry import Array, Problem


@law("E1", "Logits of 1e4, right and wrong: finite, value within 1e-5 of float64.")
def _(subject: Subject) -> Iterator[Check]:
    for name in subject.holding("logits", "class_logits"):
        for seed in range(4):
            problem = subject.case.problem(seed)
            problem = replacing(problem, name, problem.tensors[name].sign() * 1e4)
            yield from finite("logits of 1e4", subject, problem)
            yield from against_float64(subject, problem, 1e-5, None)


def remove_a_class(problem: Problem, name: str) -> Problem:
    """Minus infinity at a class that has no target, for every sample."""
    arrays = problem.case.arrays
    logits, target = problem.tensors[name], problem.tensors.get("target")
    axis = arrays[name].names.index("C")
    if target is None:  # the loss of a map, which says nothing of classes
        first = torch.zeros_like(logits, dtype=torch.bool).index_fill(axis, torch.tensor(0), True)
        return problem.having(**{name: torch.where(first, -torch.inf, logits)})
    if arrays["target"].domain in ("labels", "positions"):
        # A position lies between two classes, so the next but one has no target.
        step = 1 if arrays["target"].domain == "labels" else 2
        label = (target.floor() + step) % logits.shape[axis]
        index = torch.arange(logits.shape[axis]).reshape([-1] + [1] * (logits.ndim - axis - 1))
        removed = index == label.unsqueeze(axis)
    else:
        removed = torch.zeros_like(target, dtype=torch.bool).index_fill(axis, torch.tensor(0), True)
        target = torch.where(removed, 0.0, target)
        target = target / target.sum(axis, keepdim=True)
    return problem.having(**{name: torch.where(removed, -torch.inf, logits), "target": target})


@law("E2", "A logit of minus infinity at a class without target: finite.")
def _(subject: Subject) -> Iterator[Check]:
    for name in subject.holding("class_logits"):
        problem = remove_a_class(subject.case.problem(0), name)
        yield from finite("a removed class", subject, problem)
        lower = torch.where(problem.tensors[name].isneginf(), -1e4, problem.tensors[name])
        limit = subject.value(problem.having(**{name: lower}))
        yield close("limit of a falling logit", subject.value(problem), limit, 1e-5, 1e-6)


@law("E3", "Empty, full, both empty, both full masks, and an absent class: finite, and accurate.")
def _(subject: Subject) -> Iterator[Check]:
    names = [k for k in subject.holding("mask", "labels", "unit") if k in subject.targets]
    if not names:
        raise NotApplicable("its target is no mask")
    prediction = subject.prediction
    unit = subject.case.arrays[prediction].domain == "unit"
    for name, full, sure in product(names, (0, 1), (0, 1, None)):
        problem = replacing(subject.case.problem(0), name, full)
        if sure is not None:
            problem = replacing(problem, prediction, sure if unit else 80 * sure - 40)
        yield from finite(f"target {full}, prediction {sure}", subject, problem)
    for name, full in product(names, (0, 1)):
        # Large regions, where a quotient comes close to 1 and its derivative may cancel.
        wide = subject.case.problem(0, sizes={"H": 32, "W": 32, "N": 512})
        yield from against_float64(subject, replacing(wide, name, full), 2e-6, 1e-5)


@law("E4", "Probabilities of exactly 0 and 1: finite.")
def _(subject: Subject) -> Iterator[Check]:
    names = subject.holding("unit", "distribution")
    problem = subject.case.problem(0)
    for name in names:
        tensor = problem.tensors[name]
        hard = (tensor > 0.5).to(tensor.dtype)
        if subject.case.arrays[name].domain == "distribution":
            axis = subject.case.arrays[name].names.index("C")
            hard = (tensor == tensor.amax(axis, keepdim=True)).to(tensor.dtype)
        problem = replacing(problem, name, hard)
        yield from finite(f"hard {name}", subject, problem)


@law("E5", "Prediction equal to target, zeros and constants: finite.")
def _(subject: Subject) -> Iterator[Check]:
    arrays, prediction = subject.case.arrays, subject.prediction
    alike = [
        k
        for k in subject.targets
        if k in arrays and arrays[k].axes == arrays.get(prediction, Array("real", "-")).axes
    ]
    if not alike or arrays[prediction].domain in ("logits", "class_logits"):
        raise NotApplicable("its prediction and target are of different kinds")
    problem = subject.case.problem(0)
    for name in alike:
        yield from finite("equal", subject, replacing(problem, prediction, problem.tensors[name]))
        for value in (0.0, 1.0) if arrays[prediction].domain != "boxes" else ():
            constant = replacing(replacing(problem, prediction, value), name, value)
            yield from finite(f"both {value}", subject, constant)


BOXES = {
    "a box": (0.0, 0.0, 2.0, 1.0),
    "a box apart": (5.0, 5.0, 6.0, 7.0),
    "a box beside": (2.5, -3.0, 3.0, 4.0),
    "a point": (1.0, 0.5, 1.0, 0.5),
    "a line": (0.0, 0.5, 2.0, 0.5),
    "an inverted box": (2.0, 1.0, 0.0, 0.0),
}


def box(corners: Sequence[float], like: Tensor) -> Tensor:
    """A box everywhere; in three dimensions it is as deep as high."""
    low, high = torch.tensor(corners).chunk(2)
    deeper = [0, 1, 1][: like.shape[-1] // 2]
    return torch.cat([low[deeper], high[deeper]]).expand_as(like)


def inversions(boxes: Tensor) -> Iterator[Tensor]:
    """A box with the corners exchanged along one axis, or several."""
    low, high = boxes.chunk(2, -1)
    for axes in product((False, True), repeat=low.shape[-1]):
        if any(axes):
            there = torch.tensor(axes)
            yield torch.cat([torch.where(there, high, low), torch.where(there, low, high)], -1)


@law(
    "E6",
    "Zero-area, inverted and disjoint boxes, in all combinations: finite. Equal boxes cost exactly "
    "0. A box that is apart from its target gains nothing by being inverted.",
)
def _(subject: Subject) -> Iterator[Check]:
    names = subject.holding("boxes")
    problem = subject.case.problem(0)
    for kinds in product(BOXES, repeat=len(names)):
        for name, kind in zip(names, kinds, strict=True):
            problem = replacing(problem, name, box(BOXES[kind], problem.tensors[name]))
        yield from finite(" and ".join(kinds), subject, problem)
    prediction, target = subject.prediction, subject.targets[0]
    if not {prediction, target} <= set(names):
        return
    for seed in range(3):
        equal = subject.case.problem(seed)
        cost = subject.value(replacing(equal, prediction, equal.tensors[target]))
        yield same("cost of equal boxes", cost, torch.zeros_like(cost))
    problem = replacing(problem, target, box(BOXES["a box"], problem.tensors[target]))
    for kind in ("a box apart", "a box beside"):
        apart = box(BOXES[kind], problem.tensors[prediction])
        cost = subject.value(replacing(problem, prediction, apart))
        for inverted in inversions(apart):
            gain = cost - subject.value(replacing(problem, prediction, inverted))
            yield Check(f"gain of {kind} by being inverted", float(gain), 1e-6)


@law("E7", "One sample, without positives, without negatives: finite.")
def _(subject: Subject) -> Iterator[Check]:
    subject.batched()
    problem = subject.case.problem(0, sizes={"B": 1})
    yield from finite("one sample", subject, problem)
    for name in subject.targets:
        domain = subject.case.arrays[name].domain
        if domain in ("mask", "sign", "labels", "unit"):
            for value in (-1, 1) if domain == "sign" else (0, 1):
                alone = replacing(problem, name, value)
                yield from finite(f"one sample of {value}", subject, alone)


@law("E8", "An empty batch costs 0, with zero gradient.")
def _(subject: Subject) -> Iterator[Check]:
    subject.batched()
    for reduction in subject.reductions():
        empty = subject.case.problem(0, sizes={"B": 0})
        yield from zero(reduction, subject, empty, reduction=reduction)
        if subject.case.where is not None:
            masked = subject.case.problem(0, sizes={"B": 0}, where=True, weights=True)
            yield from zero(f"masked {reduction}", subject, masked, reduction=reduction)


@law("E9", "With everything masked the loss is 0, with zero gradient.")
def _(subject: Subject) -> Iterator[Check]:
    subject.where_axes()
    for weighted, reduction in product((False, True), REDUCTIONS):
        problem = subject.case.problem(0, where=True, weights=weighted)
        problem = replacing(problem, "where", False)
        yield from zero(reduction, subject, problem, reduction=reduction)


@law("E11", "The gradient stays alive on confident mistakes.")
def _(subject: Subject) -> Iterator[Check]:
    subject.claims("of the cross-entropy kind", subject.spec.cross_entropy)
    (name,) = subject.holding("logits", "class_logits")
    problem = subject.case.problem(0)
    target, domain = problem.tensors["target"], subject.case.arrays["target"].domain
    if domain not in ("mask", "sign", "labels"):
        raise NotApplicable("a soft target has no confident mistake")
    best = subject.spec.perfect(problem) if subject.spec.perfect else None
    direction = problem.tensors[name] * 0 - 1 if best is None else best.tensors[name].sign()
    norms = []
    for margin in (-40.0, -5.0):
        wrong = replacing(problem, name, direction * margin / (2 if domain == "labels" else 1))
        _, gradients = subject.differentiate(wrong.having(target=target))
        norms.append(float(gradients[name].norm()))
    yield Check("gradient at margin -5, in thousands of that at -40", norms[1] / norms[0], 1000.0)


@law("E12", "A perfect prediction attains the declared minimum, on empty targets as on full ones.")
def _(subject: Subject) -> Iterator[Check]:
    perfect = subject.spec.perfect
    if perfect is None:
        raise NotApplicable("it declares no perfect prediction")
    problem = subject.case.problem(0)
    problems = [problem]
    for name in subject.targets:
        if subject.case.arrays[name].domain in ("mask", "labels"):
            problems += [replacing(problem, name, value) for value in (0, 1)]
    best = [found for found in map(perfect, problems) if found is not None]
    if not best:
        raise NotApplicable("a soft target has no perfect prediction")
    for found in best:
        excess = float((subject.value(found) - subject.spec.minimum).abs())
        yield Check("distance from the minimum", excess, 1e-6)

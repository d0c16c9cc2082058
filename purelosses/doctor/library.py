"""Level "library": the laws of this project, on a loss of anybody."""

from collections.abc import Iterator
from functools import partial

from torch import Tensor

import purelosses.nn
from purelosses.doctor.report import Finding, Site
from purelosses.doctor.subject import Subject
from purelosses.laws import LAWS, judge, subjects
from purelosses.laws import Subject as Judged
from purelosses.registry import LOSSES, Array, Case, Domain, LossSpec

DOMAINS: dict[str, tuple[Domain, Domain]] = {
    "binary_logits": ("logits", "mask"),
    "class_logits": ("class_logits", "labels"),
    "probabilities": ("unit", "mask"),
    "masks": ("unit", "mask"),
    "regression": ("real", "real"),
    "boxes": ("boxes", "boxes"),
    "embeddings": ("real", "real"),
    "segmentation": ("class_logits", "labels"),
    "scores": ("logits", "logits"),
}

# What is found in our own losses, is true of them, and stays.
OWN: dict[str, dict[str, str]] = {
    "absolute_percentage_loss": {"L04": "no share of a target of 0 is an error"},
    "relative_l2_loss": {"L04": "no share of a target of 0 is an error"},
    "kl_divergence_loss": {
        "L04": 'with `direction="reverse"`, probability where the target has none costs infinity'
    },
    "hausdorff_dt_loss": {"L23": "distances are those from a thresholded prediction, as published"},
    "skeleton_recall_loss": {"L18": "where there is no skeleton, there is nothing to recall"},
}


def judged(subject: Subject) -> list[Judged]:
    """The loss as the laws know it: from the registry, or made from its kind."""
    # Bound options choose one way of calling it; its entry has all of them.
    inner = subject.loss.func if isinstance(subject.loss, partial) else subject.loss
    spec = LOSSES.get(getattr(inner, "__name__", ""))
    if spec is not None and spec.loss is inner:
        return subjects(spec, getattr(purelosses.nn, spec.module))
    made = _case(subject)
    if made is None:
        return []
    domains = {name: array.domain for name, array in made.arrays.items()}
    loss = subject.loss
    if not hasattr(loss, "__name__"):
        named = loss

        def loss(*args: object, **kwargs: object) -> object:
            return named(*args, **kwargs)

    return subjects(LossSpec(loss, "batch", (made,), lambda _: domains, smooth=1))


def _case(subject: Subject) -> Case | None:
    tensors = [x for x in subject.leaves if isinstance(x, Tensor)]
    if subject.kind not in DOMAINS or len(tensors) != 2 or len(subject.leaves) != 2:
        return None
    prediction, target = tensors
    first, second = DOMAINS[subject.kind]
    names = ["B", *(f"A{i}" for i in range(1, prediction.ndim))]
    if second == "labels" and target.ndim == prediction.ndim - 1:
        names[1] = "C"
        of_target = [names[0], *names[2:]]
    elif target.shape == prediction.shape:
        second = second if second != "labels" else "distribution"
        of_target = names
        if second == "distribution":
            names[1] = "C"
    else:
        return None
    sizes = dict(zip(names, prediction.shape, strict=True))
    args = {
        "prediction": Array(first, " ".join(names)),
        "target": Array(second, " ".join(of_target)),
    }
    return Case(subject.kind, args, separable=False, sizes=sizes)


def broken_laws(subject: Subject) -> Iterator[Finding]:
    """What each law measured where it does not hold."""
    for one in judged(subject):
        for law in LAWS.values():
            if law.kind == "slow":
                continue
            evidence = judge(law, one)
            if evidence.status == "fail":
                yield law_finding(law.code, law.statement, evidence.detail, one)


def law_finding(code: str, statement: str, detail: str, one: Judged) -> Finding:
    site = _definition(one)
    return Finding(
        code,
        f"law-{code.lower()}",
        "warning",
        f"{statement} Case {one.case.name!r}: {detail}",
        site.file if site else None,
        site.line if site else None,
        site.source if site else "",
        "The losses of this library are held to it, and users rely on it.",
        "Read the law in purelosses/laws and what it measures.",
        "laws.md",
    )


def _definition(one: Judged) -> Site | None:
    import inspect

    try:
        return Site(
            inspect.getsourcefile(one.spec.loss) or "", inspect.getsourcelines(one.spec.loss)[1]
        )
    except (OSError, TypeError):
        return None

"""L10 to L17 and L24: what the loss says about predictions that are right, wrong or impossible."""

import math
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from purelosses.doctor.codes import Severity
from purelosses.doctor.kinds import LOGITS, UNIT, class_axis, empty_targets, extremes
from purelosses.doctor.report import Finding, Site, finding
from purelosses.doctor.severed import output_of
from purelosses.doctor.subject import Run, Subject, signature_of, values_of
from purelosses.doctor.trace import LINEAR, SHAPE_ONLY, Node, Trace


def upside_down(subject: Subject, run: Run) -> Iterator[Finding]:
    """L10: a perfect prediction costs more than the worst."""
    pair = _costs(subject, subject.target)
    if pair is None:
        return
    best, worst = pair
    if best > worst + 1e-4 * max(abs(best), abs(worst)) + 1e-7:
        message = f"The perfect prediction costs {best:.4g}, the worst {worst:.4g}."
        severity = "error" if subject.declared else "advice"
        node = output_of(run)
        yield finding("L10", message, node.site if node else None, severity)  # type: ignore[arg-type]


def _costs(subject: Subject, target: Tensor | None) -> tuple[float, float] | None:
    if not subject.predictions:
        return None
    if subject.kind == "embeddings":
        return _costs_of_vectors(subject)
    pair = extremes(subject.kind, subject.prediction, target)
    if pair is None:
        return None
    runs = [subject.predicting(p, target).run(gradient=False) for p in pair]
    if any(r.value is None or r.error is not None or not r.finite for r in runs):
        return None
    return runs[0].number, runs[1].number


def _costs_of_vectors(subject: Subject) -> tuple[float, float] | None:
    """Two views of the same vectors (and a triplet): equal against opposite."""
    first = subject.prediction
    others = [i for i, x in enumerate(subject.leaves) if isinstance(x, Tensor)][1:]
    if not others or first.ndim != 2:
        return None
    n, d = first.shape
    apart = 2 * torch.eye(max(n, d))[:n, :d] if n <= d else first
    second = subject.leaves[others[0]]
    if second.shape == first.shape and second.is_floating_point() and len(others) == 1:
        near, far = {others[0]: apart.clone()}, {others[0]: -apart.roll(1, 0)}
    elif len(others) == 2 and all(subject.leaves[i].shape == first.shape for i in others):
        near, far = (
            {others[0]: apart.clone(), others[1]: -apart.roll(1, 0)},
            {others[1]: apart.clone(), others[0]: -apart.roll(1, 0)},
        )
    elif second.ndim == 1 and not second.is_floating_point() and len(others) == 1:
        classes = int(second.max()) + 1
        if classes >= n or classes > d:
            return None
        near, far = (
            {0: 2 * torch.eye(d)[second]},
            {0: 2 * torch.eye(d)[torch.arange(n) // classes % d]},
        )
    else:
        return None
    head = {subject.predictions[0]: apart}
    runs = [subject.having({**head, **case}).run(gradient=False) for case in (near, far)]
    if any(r.value is None or r.error is not None or not r.finite for r in runs):
        return None
    return runs[0].number, runs[1].number


def shifting_minimum(subject: Subject, run: Run) -> Iterator[Finding]:
    """L11: the perfect prediction costs more on some targets."""
    target, kind = subject.target, subject.kind
    if target is None or kind not in (*LOGITS, *UNIT, "boxes", "regression"):
        return
    ordinary = _costs(subject, target)
    if ordinary is None or ordinary[1] <= ordinary[0]:
        return
    graded = target.is_floating_point() and not values_of(target) <= {0.0, 1.0, -1.0}
    if graded and kind not in ("boxes", "regression"):
        return
    others: list[tuple[str, Tensor]] = []
    if kind in ("boxes", "regression"):
        if not _flat_at_best(subject, target):
            return
        others = [("targets twice as large", 2 * target), ("targets shifted by 3", target + 3)]
    else:
        others = list(empty_targets(kind, subject.prediction, target))
    reach = ordinary[1] - ordinary[0]
    for name, other in others:
        pair = _costs(subject, other)
        if pair is not None and abs(pair[0] - ordinary[0]) > 0.1 * reach:
            message = (
                f"A perfect prediction costs {ordinary[0]:.4g}, and {pair[0]:.4g} on {name} "
                f"(the worst costs {ordinary[1]:.4g})."
            )
            node = _division(run) or output_of(run)
            yield finding("L11", message, node.site if node else None)
            return


def _flat_at_best(subject: Subject, target: Tensor) -> bool:
    best = subject.predicting(target.clone().to(subject.prediction.dtype)).run()
    usual = subject.run()
    if best.value is None or not best.finite or usual.value is None:
        return False
    return float(best.gradient.norm()) < 1e-3 * float(usual.gradient.norm())


def _division(run: Run) -> Node | None:
    node = output_of(run)
    if node is None or run.trace is None:
        return None
    found = [n for n in run.trace.ancestors(node) if "div" in n.name and n.depends]
    return found[-1] if found else None


# Activations

EXPECTS_LOGITS = {
    "cross_entropy", "binary_cross_entropy_with_logits", "softmax", "log_softmax", "sigmoid",
    "logsigmoid", "softplus", "multilabel_soft_margin_loss", "logsumexp",
}  # fmt: skip


RECTIFIERS = ("relu", "relu_", "relu6", "threshold")


def _of_argument(trace: Trace, node: Node) -> bool:
    return trace.origin(trace.inputs(node)[0]).name == "argument"


def activations(subject: Subject, run: Run) -> Iterator[Finding]:
    """L12 and L13 from the operations themselves."""
    trace = run.trace
    assert trace is not None
    learnt = set(subject.predictions)
    for node in trace.nodes:
        inputs = trace.inputs(node)
        if not node.smooth & learnt or not inputs:
            continue
        source = trace.origin(inputs[0])
        if node.name in ("softmax", "log_softmax", "cross_entropy") and _one_entry(node, inputs[0]):
            yield finding("L12", f"`{node.name}` over an axis of one entry is constant.", node.site)
            return
        takes_logits = node.name in EXPECTS_LOGITS
        # A log-sum-exp of probabilities is somebody's formula, not a second activation.
        squashed = source.name in ("softmax", "sigmoid")
        if takes_logits and squashed and node.name not in ("logsumexp", "softplus"):
            message = f"`{source.name}` goes into `{node.name}`, which has its own."
            yield finding("L12", message, source.site or node.site)
            return
        if takes_logits and source.name in RECTIFIERS and _of_argument(trace, source):
            message = f"`{source.name}` stops the gradient of every negative logit."
            yield finding("L12", message, source.site)
            return
        if node.name == "nll_loss" and not _log_probabilities(node, inputs[0]):
            message = "`nll_loss` takes log-probabilities, and gets something else."
            yield finding("L13", message, node.site)
            return
        if node.name == "kl_div" and not _log_probabilities(node, inputs[0], axis=-1):
            message = "`kl_div` takes log-probabilities first, and gets something else."
            yield finding("L13", message, node.site)
            return
        if node.name in ("div", "__truediv__") and _raw_ratio(subject, trace, node):
            message = "The loss is a ratio of sums of raw logits, which has poles and no bounds."
            yield finding("L13", message, node.site)
            return
        direct = source.name == "argument"
        # A softmax of probabilities can be a temperature; a loss that contains one is not.
        if direct and subject.kind in UNIT and node.name in EXPECTS_LOGITS:
            message = f"The predictions lie in [0, 1], and `{node.name}` takes logits."
            yield finding("L13", message, node.site)
            return


def _raw_ratio(subject: Subject, trace: Trace, node: Node) -> bool:
    """Whether logits reach a denominator through sums and products alone."""
    if (
        subject.kind not in ("binary_logits", "class_logits", "segmentation")
        or len(node.inputs) < 2
    ):
        return False
    below = trace.inputs(node)[1]
    plain = {*LINEAR, *SHAPE_ONLY, "argument", "permute"}
    return bool(below.smooth & set(subject.predictions)) and all(
        n.name in plain for n in trace.ancestors(below) if n.smooth & set(subject.predictions)
    )


def _one_entry(node: Node, source: Node) -> bool:
    if not isinstance(source.value, Tensor) or source.value.ndim == 0:
        return False
    if node.name == "cross_entropy":
        return source.value.ndim > 1 and source.value.shape[1] == 1
    axis = node.keywords.get("dim", (*node.keywords.get("args", ()), None, None)[1])
    return isinstance(axis, int) and source.value.shape[axis] == 1


def _log_probabilities(node: Node, source: Node, axis: int = 1) -> bool:
    x = source.value.detach().double()
    if x.ndim < 2:
        return bool((x <= 1e-6).all())
    axes = [axis] if axis == 1 else [-1, 1]
    sums = [bool((x.logsumexp(a).abs() < 1e-2).all()) for a in axes]
    return any(sums) or (axis != 1 and bool((x <= 1e-6).all()))


def dead_activation(subject: Subject, run: Run) -> Iterator[Finding]:
    """L12: confident mistakes get no gradient, though the loss is of the kind that should."""
    pair = extremes(subject.kind, subject.prediction, subject.target)
    if subject.kind not in LOGITS or pair is None:
        return
    wrong = [subject.predicting(pair[1] * scale).run() for scale in (0.25, 2.0)]
    if any(r.value is None or r.error is not None or not r.finite for r in wrong):
        return
    near, far = (float(r.gradient.norm()) for r in wrong)
    if near == 0 and bool(run.gradient.any()):
        message = "Predictions that are wrong by 5 get no gradient at all."
        yield finding("L12", message, _clamp(run), "warning" if _clamp(run) else "advice")
    elif far < 1e-3 * near:
        message = f"At a margin of -40 the gradient is {far / near:.1g} of that at -5."
        yield finding("L12", message, _clamp(run), "advice")


def _clamp(run: Run) -> Site | None:
    assert run.trace is not None
    found = [
        n
        for n in run.trace.nodes
        if n.name in ("clamp", "clamp_", "clip", "relu", "clamp_min") and n.smooth
    ]
    return found[0].site if found else None


def doubled_floor(subject: Subject, run: Run, found: list[Finding]) -> Iterator[Finding]:
    """L12 by measurement: a sigmoid or softmax of probabilities, written out by hand."""
    if subject.kind not in LOGITS or any(f.code in ("L12", "L13") for f in found):
        return
    trace = run.trace
    assert trace is not None
    squashing = [n for n in trace.nodes if n.name in ("sigmoid", "softmax") and n.smooth]
    for node in squashing:
        source = trace.origin(trace.inputs(node)[0])
        if source.name in ("sigmoid", "softmax"):
            yield finding("L12", f"`{node.name}` of `{source.name}`.", node.site)
            return


# Data that cannot be


def masks_of_255(subject: Subject, run: Run) -> Iterator[Finding]:
    """L14: the target holds 0 and 255, and the loss does not notice."""
    target = subject.target
    if target is None or subject.kind in ("regression", "boxes", "embeddings", "class_logits"):
        return
    values = values_of(target)
    if 255 not in values or not values <= {0, 255}:
        return
    if not target.is_floating_point() and class_axis(subject.prediction, target) is not None:
        return
    scaled = subject.predicting(subject.prediction, (target / 255).to(torch.float32)).run()
    if scaled.value is None or abs(scaled.number - run.number) <= 1e-4 * abs(scaled.number):
        return
    message = (
        f"The mask holds 0 and 255: the loss is {run.number:.4g}, with 0 and 1 {scaled.number:.4g}."
    )
    assert run.trace is not None
    uses = [n for n in run.trace.nodes if n.name != "argument" and n.depends & set(subject.targets)]
    mixing = [n for n in uses if n.depends & set(subject.predictions)]
    chosen = mixing or uses
    yield finding("L14", message, chosen[0].site if chosen else None)


def labels_out_of_range(subject: Subject, run: Run) -> Iterator[Finding]:
    """L15: a class that does not exist costs a finite amount."""
    target = subject.target
    if target is None or target.is_floating_point() or target.dtype == torch.bool:
        return
    axis = class_axis(subject.prediction, target)
    if subject.kind == "embeddings" or axis is None or not target.numel():
        return
    classes = subject.prediction.shape[axis]
    ignored = {-100, *_ignored_labels(subject)}
    for label in (classes, classes + 3, -1):
        if label in ignored:
            continue
        wrong = target.clone()
        wrong.view(-1)[0] = label
        trial = subject.predicting(subject.prediction, wrong).trace()
        if trial.error is None and trial.value is not None and trial.finite:
            message = (
                f"Label {label} of {classes} classes costs {trial.number:.4g}, without a word."
            )
            severity: Severity = "advice"
            if label > 0 and _learnt_wrongly(subject, target, trial, axis):
                severity = "warning"
            yield finding("L15", message, _first_use(trial, subject), severity)
            return


def _learnt_wrongly(subject: Subject, target: Tensor, trial: Run, axis: int) -> bool:
    """Whether the position is learnt as nothing, or as one of the classes."""
    gradient = trial.gradients[0]
    if gradient is None or not bool(
        gradient.movedim(axis, -1).reshape(target.numel(), -1)[0].any()
    ):
        return True
    for label in (0, subject.prediction.shape[axis] - 1):
        right = target.clone()
        right.view(-1)[0] = label
        other = subject.predicting(subject.prediction, right).run()
        if other.value is not None and abs(other.number - trial.number) < 1e-9:
            return True
    return False


def _ignored_labels(subject: Subject) -> set[int]:
    """The labels that the loss's options say it ignores; an option of None ignores nothing."""
    options = {name: p.default for name, p in signature_of(subject.loss).items()}
    if subject.module is not None:
        options |= vars(subject.module)
    return {
        value
        for name, value in options.items()
        if type(value) is int and re.search("ignore|void|pad", name)
    }


LOOKING_UP = {
    "eq", "__eq__", "ne", "__ne__", "clamp", "clamp_", "clip", "where", "remainder", "__mod__",
    "gather", "__getitem__", "one_hot", "index_select", "masked_fill", "take_along_dim",
    "cross_entropy", "nll_loss",
}  # fmt: skip


def _first_use(run: Run, subject: Subject) -> Site | None:
    assert run.trace is not None
    targets, learnt = set(subject.targets), set(subject.predictions)
    hot = [n for n in run.trace.nodes if n.name != "argument" and n.depends & targets]
    hot = [n for n in hot if n.name in LOOKING_UP]
    mixing = [n for n in run.trace.nodes if n.depends & targets and n.depends & learnt]
    chosen = hot or mixing
    return chosen[0].site if chosen else None


def ignored_positions(subject: Subject, run: Run) -> Iterator[Finding]:
    """L16: what is masked still counts."""
    setup = _with_ignored(subject)
    if setup is None or not subject.predictions:
        return
    masked, keep = setup
    before = masked.run()
    if before.value is None or before.error is not None or not before.finite:
        return
    prediction = masked.prediction
    axis = None
    if keep.shape != prediction.shape:
        if keep.ndim == prediction.ndim - 1:
            axis = class_axis(prediction, keep)
        if axis is None and keep.ndim != prediction.ndim - 1:
            return
        if axis is None:
            return
        wide = keep.unsqueeze(axis).expand_as(prediction)
    else:
        wide = keep
    noise = torch.randn(prediction.shape, generator=torch.Generator().manual_seed(3))
    other = torch.where(wide, prediction, prediction + 0.3 * noise)
    if subject.kind in UNIT:
        other = other.clamp(0.02, 0.98)
    after = masked.predicting(other).run()
    if after.value is None:
        return
    moved = abs(after.number - before.number)
    if moved > 1e-5 * abs(before.number) + 1e-7:
        message = f"Other predictions under the mask change the loss by {moved:.3g}."
        yield finding("L16", message, _meeting(masked) or _masking_site(masked))
        return
    # More masked positions: the mean over the others must stay.
    if keep.shape[0] >= 2:
        doubled = _append_ignored(masked, keep)
        if doubled is None:
            return
        padded = doubled.run()
        if padded.value is None or padded.error is not None:
            return
        ratio = padded.number / before.number if before.number else 1.0
        if abs(ratio - 1) > 1e-3:
            message = f"As many samples again, all masked, multiply the loss by {ratio:.3g}."
            yield finding("L16", message, _masking_site(masked))


def _meeting(subject: Subject) -> Site | None:
    """Where the prediction meets the target for the first time."""
    trace = subject.trace(gradient=False).trace
    learnt, given = set(subject.predictions), set(subject.targets)
    for node in trace.nodes if trace is not None else ():
        if node.depends & learnt and node.depends & given:
            return node.site
    return None


def _with_ignored(subject: Subject) -> tuple[Subject, Tensor] | None:
    """The subject with some positions left out, and which are kept."""
    target = subject.target
    if target is not None and not target.is_floating_point() and target.dtype != torch.bool:
        named = _ignored_labels(subject)
        if named:
            label = next(iter(named - {-100}), -100)
            keep = torch.ones_like(target, dtype=torch.bool)
            keep.view(-1)[::3] = False
            return subject.predicting(subject.prediction, torch.where(keep, target, label)), keep
        used = values_of(target) & {-100, -1, 255}
        if used:
            return subject, target != used.pop()
    for i, leaf in enumerate(subject.leaves):
        name = subject.names[i]
        if i not in subject.targets or not isinstance(leaf, Tensor) or i == subject.targets[0]:
            continue
        if re.search("mask|valid|where|pad", name):
            values = values_of(leaf)
            if values <= {0.0, 1.0}:
                keep = leaf.bool()
                if _inverted(name):
                    keep = ~keep
                if keep.ndim and not keep.all() and keep.any():
                    return subject, keep
    return None


def _inverted(name: str) -> bool:
    return "pad" in name or "ignore" in name


def _append_ignored(subject: Subject, keep: Tensor) -> Subject | None:
    """The same problem followed by a copy of itself of which nothing counts."""
    changes: dict[int, Any] = {}
    for i, leaf in enumerate(subject.leaves):
        if not isinstance(leaf, Tensor) or leaf.ndim == 0 or leaf.shape[0] != keep.shape[0]:
            return None
        second = leaf
        if i in subject.targets and leaf.shape == keep.shape:
            if values_of(leaf) <= {0.0, 1.0} and re.search(
                "mask|valid|where|pad", subject.names[i]
            ):
                second = torch.full_like(leaf, 1 if _inverted(subject.names[i]) else 0)
            elif not leaf.is_floating_point() and (~keep).any():
                second = torch.full_like(leaf, leaf[~keep][0].item())
        changes[i] = torch.cat([leaf, second])
    return subject.having(changes)


def _masking_site(subject: Subject) -> Site | None:
    run = subject.trace(gradient=False)
    trace, node = run.trace, output_of(run)
    if trace is None or node is None:
        return None
    means = [
        n
        for n in trace.ancestors(node)
        if n.name in ("mean", "div", "__truediv__", "cross_entropy", "sum") and n.depends
    ]
    return (means or [node])[-1].site


def sum_of_none(subject: Subject) -> Iterator[Finding]:
    """L17: the reductions disagree."""
    options = _reductions(subject)
    if options is None:
        return
    none, summed = options["none"].run(gradient=False), options["sum"].run(gradient=False)
    if none.value is None or summed.value is None or not none.finite or not summed.finite:
        return
    if none.value.numel() <= 1 < subject.prediction.numel() and none.number != summed.number:
        message = "`reduction='none'` returns one number."
        yield finding("L17", message, _branch_site(subject, "none"))
        return
    expected = float(none.value.detach().double().sum())
    if abs(summed.number - expected) > 1e-4 * abs(expected) + 1e-7:
        message = f"`sum` gives {summed.number:.5g}, the sum of `none` is {expected:.5g}."
        yield finding("L17", message, _branch_site(subject, "sum"))


def _reductions(subject: Subject) -> dict[str, Subject] | None:
    import copy
    import dataclasses

    module = subject.module
    if "reduction" in signature_of(subject.loss):
        return {name: subject.bind(reduction=name) for name in ("none", "sum")}
    if module is not None and isinstance(getattr(module, "reduction", None), str):
        made = {}
        for name in ("none", "sum"):
            other: Any = copy.deepcopy(module)
            other.reduction = name
            made[name] = dataclasses.replace(subject, loss=other)
        return made
    return None


def _branch_site(subject: Subject, word: str) -> Site | None:
    """Where the reduction is made: the line that computes it, else the one that names it."""
    options = _reductions(subject)
    run = options[word].trace(gradient=False) if options else None
    node = output_of(run) if run is not None else None
    return node.site if node else None


# Scale


def absolute_epsilon(subject: Subject, run: Run) -> Iterator[Finding]:
    """L24: scale-free for large data, and not for small."""
    target, kind = subject.target, subject.kind
    if kind not in ("boxes", "regression", "embeddings") or not subject.predictions:
        return
    if target is not None and (target.shape != subject.prediction.shape and kind != "embeddings"):
        return
    values = {k: _scaled(subject, k) for k in (1e-2, 1.0, 1e7, 1e9)}
    if any(v is None for v in values.values()):
        return
    tiny, one, large, huge = (float(v) for v in values.values() if v is not None)
    if abs(large) < 1e-9 or abs(large - huge) > 1e-3 * abs(huge):
        return
    if _saturated(subject):
        return
    scale = max(abs(huge), 1e-3)
    if (kind == "boxes" and abs(one - huge) > 0.02 * scale) or abs(tiny - huge) > 0.3 * scale:
        # A 1 is part of a formula, as in log(1 + x); for boxes it is a pixel.
        added = _constant_added(run, below=math.inf if kind == "boxes" else 1.0)
        divides = added is not None and _divides(run, added)
        much = kind == "boxes" or (divides and abs(one - huge) > 0.02 * scale)
        severity = "warning" if much and not _windows(run) else "advice"
        message = (
            f"Data 100 times smaller cost {tiny:.4g} instead of {huge:.4g}; as given, {one:.4g}."
        )
        node = added or _division(run) or output_of(run)
        yield finding("L24", message, node.site if node else None, severity)  # type: ignore[arg-type]


def _saturated(subject: Subject) -> bool:
    """Whether large data cost the same whatever they are: robust losses end in a plateau."""
    x = subject.prediction
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5))
    other = subject.predicting(x + 0.3 * x.abs().mean() * noise)
    one, two = _scaled(subject, 1e9), _scaled(other, 1e9)
    return one is not None and two is not None and abs(one - two) < 1e-6 * abs(one)


def _constant_added(run: Run, below: float) -> Node | None:
    """The first place where a number is added to the data."""
    assert run.trace is not None
    for node in run.trace.nodes:
        given = node.keywords.get("args", ())
        numbers = [x for x in given if type(x) in (int, float) and abs(x) < below]
        if (
            node.name in ("add", "__add__", "__radd__", "clamp_min", "clamp")
            and numbers
            and node.depends
        ):
            return node
    return None


def _divides(run: Run, node: Node) -> bool:
    """Whether a node is what something is divided by; log(1 + x) is another matter."""
    assert run.trace is not None
    return any(
        "div" in n.name and len(n.inputs) > 1 and n.inputs[1] == node.index for n in run.trace.nodes
    )


def _windows(run: Run) -> bool:
    """Image similarities have constants for the range of pixel values, on purpose."""
    trace: Trace | None = run.trace
    return trace is not None and any("conv" in n.name or "pool" in n.name for n in trace.nodes)


def _scaled(subject: Subject, factor: float) -> float | None:
    changes = {
        i: x * factor
        for i, x in enumerate(subject.leaves)
        if isinstance(x, Tensor) and x.is_floating_point() and x.shape == subject.prediction.shape
    }
    run = subject.having(changes).run(gradient=False, dtype=torch.float64)
    return run.number if run.value is not None and run.finite else None

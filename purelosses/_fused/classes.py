"""The overlap, the confusion and the cross-entropy of exclusive classes.

From logits (A, C, P) and labels (A, P): TP, FP, FN of every class, (A, C, 3), and more columns if
asked for: cross-entropies, focal with an exponent, each counting for the class of its label, and
-log p of every class; or the probability that pixels of each class give to each, (A, C, C); or the
cross-entropy of every pixel, (A, P), focal or smoothed.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from purelosses._checks import check_labels
from purelosses._fused import launch
from purelosses._fused.blocks import (
    as_rows,
    block_size,
    cleaned,
    is_short,
    summed,
    tail,
    wide_dtype,
)
from purelosses._fused.launch import Kernel
from purelosses._numerics import (
    at_label,
    log_partition,
    power,
    promote,
    replaced,
    softmax_and_complement,
)

# Sums of exponentials below which those that the fast form of exp takes for 0 would show.
UNDERFLOW = 1e-37


class _Sums(NamedTuple):
    """What is summed over each class besides TP, FP and FN."""

    function: str
    gammas: tuple[float, ...]  # the exponents of cross-entropies
    surprisal: bool


class _Entropy(NamedTuple):
    """A cross-entropy of every pixel."""

    function: str
    gamma: float
    smoothing: float


def overlap(
    function: str,
    prediction: Tensor,
    target: Tensor,
    where: Tensor | None,
    class_dim: int,
    dim: tuple[int, ...],
    extras: Sequence[str],
    gamma: float | Tensor,
) -> dict[str, Tensor] | None:
    if not set(extras) <= {"ce", "focal", "surprisal"}:
        return None
    if "focal" in extras and isinstance(gamma, Tensor):
        return None
    split = _split(prediction, target, where, class_dim, dim)
    if split is None:
        return None
    gammas = {"ce": 0.0, "focal": gamma}
    losses = [name for name in gammas if name in extras]
    also = _Sums(function, tuple(float(gammas[name]) for name in losses), "surprisal" in extras)
    kernel = _kernel(_class_value, _class_gradient, _class_formula, also)
    y, keep = (as_rows(t, target.shape, split) for t in (target, where))
    sums = launch.run(kernel, _classes(prediction, split, class_dim), y, keep)
    sums = sums.reshape(*prediction.shape[:split], *sums.shape[1:])
    left = [axis for axis in dim if axis < split] + [split] * (class_dim in dim)
    return summed(sums, ("tp", "fp", "fn", *losses, "surprisal"), left)


def confusion(
    function: str,
    prediction: Tensor,
    target: Tensor,
    where: Tensor | None,
    class_dim: int,
    dim: tuple[int, ...],
) -> Tensor | None:
    """The confusion matrices, true by predicted classes in the last two axes."""
    # The formula has a product for each class.
    split = _split(prediction, target, where, class_dim, dim, times=1 / 16)
    if split is None:
        return None
    kernel = _kernel(_confusion_value, _confusion_gradient, _confusion_formula, function)
    if prediction.dtype == wide_dtype(prediction):
        kept = partial(_confusion_and_probabilities, function), _confusion_from_probabilities
        kernel = replace(kernel, keeping=kept)
    y, keep = (as_rows(t, target.shape, split) for t in (target, where))
    sums = launch.run(kernel, _classes(prediction, split, class_dim), y, keep)
    sums = sums.reshape(*prediction.shape[:split], *sums.shape[1:])
    for axis in sorted((axis for axis in dim if axis < split), reverse=True):
        sums = sums.sum(axis)
    return sums


def _split(
    prediction: Tensor,
    target: Tensor,
    where: Tensor | None,
    class_dim: int,
    dim: tuple[int, ...],
    times: float = 1,
) -> int | None:
    """The axis from which a region is one row, None if it is not or the path does not apply."""
    if not launch.applies(prediction, target, where, times=times):
        return None
    last = class_dim == prediction.ndim - 1
    split = tail(dim, class_dim) if last else class_dim
    if not last and not set(range(class_dim + 1, prediction.ndim)) <= set(dim):
        return None
    short = is_short(math.prod(target.shape[split:]), prediction.shape[class_dim])
    return None if short else split


def cross_entropy(
    function: str,
    logits: Tensor,
    labels: Tensor,
    where: Tensor | None,
    class_dim: int,
    *,
    gamma: float | Tensor = 0.0,
    label_smoothing: float | Tensor = 0.0,
) -> Tensor | None:
    """The cross-entropy of every sample, focal or smoothed but not both; 0 without `where`."""
    if isinstance(gamma, Tensor) or isinstance(label_smoothing, Tensor):
        return None
    if not launch.applies(logits, labels, where):
        return None
    split = 0 if class_dim == logits.ndim - 1 else class_dim
    if is_short(math.prod(labels.shape[split:]), logits.shape[class_dim]):
        return None
    loss = _Entropy(function, float(gamma), float(label_smoothing))
    kernel = _kernel(_ce_value, _ce_gradient, _ce_formula, loss)
    y, keep = (as_rows(t, labels.shape, split) for t in (labels, where))
    return launch.run(kernel, _classes(logits, split, class_dim), y, keep).reshape(labels.shape)


def _kernel(
    value: Callable[..., Tensor],
    gradient: Callable[..., Tensor],
    formula: Callable[..., Tensor],
    options: _Sums | _Entropy | str,
) -> Kernel:
    return Kernel(partial(value, options), partial(gradient, options), partial(formula, options))


def _classes(logits: Tensor, split: int, class_dim: int) -> Tensor:
    """Logits as (A, C, P), also where they lie with the classes last."""
    lead, classes = math.prod(logits.shape[:split]), logits.shape[class_dim]
    if class_dim == logits.ndim - 1:
        return logits.reshape(lead, -1, classes).mT
    return logits.reshape(lead, classes, -1)


class Pixels(NamedTuple):
    """The softmax of a block of pixels, split at the label, and not yet multiplied by `scale`.

    All sums are of positive terms, so that 1 - p of the label, `rest * scale`, keeps its digits.
    """

    labels: Tensor  # (n,)
    others: Tensor  # (C, n), 0 at the label
    label: Tensor  # (n,)
    rest: Tensor  # (n,), the sum of `others`
    scale: Tensor  # (n,), 0 where the pixel does not count
    below: Tensor | None  # (n,), the logit of the label less the largest, for values
    summary: Tensor | None  # what was asked for of these logits of all classes
    keep: Tensor | None  # (n,)

    def excess(self) -> Tensor:
        """log sum exp of `below`; of a label with the largest logit, `rest` alone goes into it."""
        return (self.label - 1.0).add_(self.rest).log1p_()

    def losses(self, gamma: float, smoothing: float = 0.0) -> Tensor:
        """The cross-entropy of the labels, focal or smoothed."""
        assert self.below is not None
        losses = self.excess().sub_(self.below, alpha=1.0 - smoothing)
        if smoothing:
            assert self.summary is not None
            losses.sub_(self.summary, alpha=smoothing)
        if gamma:
            losses.mul_((self.rest * self.scale).pow_(gamma))
        return self.kept(losses)

    def kept(self, values: Tensor) -> Tensor:
        return values if self.keep is None else torch.where(self.keep, values, 0.0)


def pixels_in_blocks(
    x: Tensor,
    y: Tensor,
    where: Tensor | None,
    function: str | None,
    summarise: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[int, slice, Pixels]]:
    """All blocks. With the name of a function labels are checked, and `below` is made."""
    wide, classes = wide_dtype(x), x.shape[1]
    memory = x.new_empty(max(block_size(x, 16), classes), dtype=wide)
    numbers = torch.arange(len(memory) // classes)
    for a in range(len(x)):
        for start in range(0, x.shape[2], len(numbers)):
            columns = slice(start, start + len(numbers))
            keep = None if where is None else where[a, columns]
            logits = cleaned(x[a, :, columns], wide, keep)
            labels = _labels(y[a, columns], keep, classes, function)
            pixels = len(labels)
            flat = memory[: classes * pixels]
            if logits.stride(0) == 1:  # the memory of the data has the classes last, and so here
                others = flat.view(pixels, classes).mT
                at = torch.add(labels, numbers[:pixels], alpha=classes)
            else:
                others = flat.view(classes, pixels)
                at = torch.add(numbers[:pixels], labels, alpha=pixels)
            torch.sub(logits, logits.amax(0), out=others)
            below = None if function is None else flat.index_select(0, at)
            summary = None if summarise is None else summarise(others)
            label, rest = _exponentials(others, flat, at, exact=wide == torch.float64)
            if bool((rest.amin() < UNDERFLOW).tolist()):
                torch.sub(logits, logits.amax(0), out=others)
                label, rest = _exponentials(others, flat, at, exact=True)
            scale = (rest + label).reciprocal_()
            if keep is not None:
                scale.mul_(cleaned(keep, wide, None))
            yield a, columns, Pixels(labels, others, label, rest, scale, below, summary, keep)


def _labels(y: Tensor, keep: Tensor | None, classes: int, function: str | None) -> Tensor:
    """Labels to index with, 0 where they do not count; checked with the name of a function."""
    labels = y.long() if keep is None else y.long() * keep
    if function is not None:
        lowest, highest = torch.stack(labels.aminmax()).tolist()
        if lowest < 0 or highest >= classes:
            check_labels(function, labels, classes)  # raises
    return labels


def _exponentials(others: Tensor, flat: Tensor, at: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """exp of the logits in place, that of the labels moved out; and the sum of what is left."""
    if exact:
        others.exp_()
    else:
        # e^b = 1 / (1 / s - 1) with s = sigmoid(b), faster than `exp`; b is at most 0, so that
        # 1 / s is at least 2 and nothing cancels. Below -88 it is 0.
        others.sigmoid_().reciprocal_().sub_(1.0).reciprocal_()
    label = flat.index_select(0, at)
    flat.scatter_(0, at, torch.zeros_like(label))
    return label, others.sum(0)


def _class_value(also: _Sums, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    function, gammas, surprisal = also
    sums = x.new_zeros(len(x), 3 + len(gammas) + surprisal, x.shape[1], dtype=torch.float64)
    summarise = partial(torch.sum, dim=1) if surprisal else None
    for a, _, block in pixels_in_blocks(x, y, where, function, summarise):
        by_label = {0: block.label * block.scale, 2: block.rest * block.scale}
        by_label.update((3 + i, block.losses(gamma)) for i, gamma in enumerate(gammas))
        for row, values in by_label.items():
            sums[a, row].scatter_add_(0, block.labels, values.double())
        if surprisal:
            assert block.summary is not None
            sums[a, -1] += block.kept(block.excess()).sum() - block.summary
        # Not by `mv`, which adds one after another and loses digits.
        sums[a, 1] += block.others.mul_(block.scale).sum(1)
    return sums.mT.to(wide_dtype(x))


def _class_gradient(also: _Sums, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor:
    _, gammas, surprisal = also
    result = torch.empty_like(x)
    g = g.mT.to(wide_dtype(x)).contiguous()
    for a, columns, block in pixels_in_blocks(x, y, where, None):
        labels, others, label, rest, scale, _, _, keep = block
        p, q = label * scale, rest * scale
        # With G the derivative by each p, that by a logit is p (G - sum of p G).
        of_others = g[a, 1]
        of_label = (g[a, 0] - g[a, 2]).index_select(0, labels)
        mean_of_others = torch.mv(others.mT, of_others).mul_(scale)
        shift = mean_of_others.addcmul(p, of_label).neg_()
        at_label = of_label.mul_(q).sub_(mean_of_others).mul_(p)
        for i, gamma in enumerate(gammas):
            of_loss = g[a, 3 + i].index_select(0, labels)
            if gamma:
                of_loss.mul_(_focus(gamma, p, q))
            shift.add_(of_loss)
            at_label.sub_(of_loss.mul_(q))
        into = result[a, :, columns]
        out = into if into.dtype == others.dtype else torch.empty_like(others)
        if surprisal:  # -log p of each has the slopes p - 1 by its own logit and p by the others
            of_each = g[a, -1].unsqueeze(1)
            total = of_each.sum()
            own = of_each.expand(out.shape) if keep is None else of_each * keep
            shift.add_(total)
            at_label.addcmul_(p, total).sub_(own.gather(0, labels.unsqueeze(0)).squeeze(0))
        torch.addr(shift.mul_(scale), of_others, scale, out=out).mul_(others)
        if surprisal:
            out.sub_(own)
        put(into, out, at_label, labels)
    return result


def _focus(gamma: float, prob: Tensor, miss: Tensor) -> Tensor:
    """The slope by p of -(1 - p)^gamma log p, by that of -log p."""
    # Where 1 - p is too small for digits of p, p is 0; and 0 to a negative power is infinite.
    miss = miss.clamp_min(torch.finfo(miss.dtype).tiny)
    surprisal = miss.clamp_max(1.0 - torch.finfo(miss.dtype).eps / 2).neg_().log1p_().neg_()
    slope = torch.addcmul(miss, prob, surprisal, value=gamma)
    return slope.mul_(miss.pow_(gamma - 1.0))


def _confusion_value(
    function: str, x: Tensor, y: Tensor, where: Tensor | None, probs: Tensor | None = None
) -> Tensor:
    """With `probs`, the probabilities are written there."""
    sums = x.new_zeros(len(x), x.shape[1], x.shape[1], dtype=torch.float64)
    for a, columns, labels, block in _probabilities(x, y, where, function):
        sums[a].index_add_(1, labels, block.double())
        if probs is not None:
            probs[a, :, columns] = block
    return sums.mT.to(wide_dtype(x))


def _confusion_and_probabilities(
    function: str, x: Tensor, y: Tensor, where: Tensor | None
) -> tuple[Tensor, Tensor]:
    probs = torch.empty_like(x)
    return _confusion_value(function, x, y, where, probs), probs


def _confusion_gradient(
    function: str, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor
) -> Tensor:
    return _pulled(_probabilities(x, y, where), torch.empty_like(x), g)


def _confusion_from_probabilities(
    probs: Tensor, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor
) -> Tensor:
    return _pulled(_probabilities(probs, y, where, given=True), probs, g)


def _pulled(
    blocks: Iterator[tuple[int, slice, Tensor, Tensor]], result: Tensor, g: Tensor
) -> Tensor:
    """The gradient from the probabilities, which may lie in the same place."""
    # A constant may be added for all classes of a pixel. So that the label's slope is 0:
    slopes = (g - g.diagonal(dim1=1, dim2=2).unsqueeze(2)).mT.to(wide_dtype(result))
    for a, columns, labels, probs in blocks:
        slope = slopes[a].index_select(1, labels)
        gradient = slope.sub_((slope * probs).sum(0)).mul_(probs)
        # Its sum is 0. What the rounding at a probability near 1 made of it goes back there.
        out = result[a, :, columns]
        torch.addcmul(gradient, probs, gradient.sum(0), value=-1.0, out=out)
    return result


def _probabilities(
    x: Tensor, y: Tensor, where: Tensor | None, function: str | None = None, given: bool = False
) -> Iterator[tuple[int, slice, Tensor, Tensor]]:
    """Labels and probabilities in blocks, from logits or `given`; 0 where they do not count."""
    wide, classes = wide_dtype(x), x.shape[1]
    size = max(block_size(x, 16) // classes, 1)
    for a in range(len(x)):
        for start in range(0, x.shape[2], size):
            columns = slice(start, start + size)
            keep = None if where is None else where[a, columns]
            labels = _labels(y[a, columns], keep, classes, function)
            block = cleaned(x[a, :, columns], wide, keep)
            yield a, columns, labels, block if given else cleaned(block.softmax(0), wide, keep)


def _ce_value(loss: _Entropy, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    function, gamma, smoothing = loss
    result = x.new_empty(y.shape, dtype=wide_dtype(x))
    summarise = partial(torch.mean, dim=0) if smoothing else None
    for a, columns, block in pixels_in_blocks(x, y, where, function, summarise):
        result[a, columns] = block.losses(gamma, smoothing)
    return result


def _ce_gradient(loss: _Entropy, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor:
    _, gamma, smoothing = loss
    result = torch.empty_like(x)
    for a, columns, (labels, others, label, rest, scale, *_) in pixels_in_blocks(x, y, where, None):
        slope = g[a, columns] if where is None else g[a, columns] * where[a, columns]
        factor = scale * slope
        if gamma:
            factor.mul_(_focus(gamma, label * scale, rest * scale))
        at_label = rest.mul_(factor).neg_()
        into = result[a, :, columns]
        out = into if into.dtype == others.dtype else others
        torch.mul(others, factor, out=out)
        if smoothing:
            even = slope * (smoothing / len(others))
            out.sub_(even)
            at_label.add_(slope, alpha=smoothing).sub_(even)
        put(into, out, at_label, labels)
    return result


def put(into: Tensor, out: Tensor, at_label: Tensor, labels: Tensor) -> None:
    """Finish the gradient of a block: what is given for the labels, and the dtype of the data."""
    if out is not into:
        into.copy_(out)
    into.scatter_(0, labels.unsqueeze(0), at_label.to(into.dtype).unsqueeze(0))


def _masked_pixels(x: Tensor, y: Tensor, where: Tensor | None) -> tuple[Tensor, Tensor]:
    if where is None:
        return promote(x), y.long()
    return torch.where(where.unsqueeze(1), promote(x), 0.0), torch.where(where, y, 0).long()


def _class_formula(also: _Sums, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    _, gammas, surprisal = also
    x, y = _masked_pixels(x, y, where)
    split, at = at_label(x, y, 1), y.unsqueeze(1)
    losses = (power(split.miss, gamma) * split.surprisal for gamma in gammas)
    scale, *values = split.scale, split.prob, split.miss, *losses
    if where is not None:
        scale, *values = (torch.where(where.unsqueeze(1), v, 0.0) for v in (scale, *values))
    tp, *others = (replaced(torch.zeros_like(x), at, 1, value) for value in values)
    terms = [tp, split.others * scale, *others]
    if surprisal:
        of_all = split.excess - split.below
        terms.append(of_all if where is None else torch.where(where.unsqueeze(1), of_all, 0.0))
    return torch.stack([term.sum(2) for term in terms], -1)


def _confusion_formula(function: str, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    x, y = _masked_pixels(x, y, where)
    probs, _ = softmax_and_complement(x, 1)
    if where is not None:
        probs = torch.where(where.unsqueeze(1), probs, 0.0)
    rows = (torch.where((y == label).unsqueeze(1), probs, 0.0) for label in range(x.shape[1]))
    return torch.stack([row.sum(2) for row in rows], 1)


def _ce_formula(loss: _Entropy, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    _, gamma, smoothing = loss
    x, y = _masked_pixels(x, y, where)
    if gamma:
        split = at_label(x, y, 1)
        losses = (power(split.miss, gamma) * split.surprisal).squeeze(1)
    else:
        below, excess = log_partition(x, 1)
        losses = (excess - (1 - smoothing) * below.gather(1, y.unsqueeze(1))).squeeze(1)
        if smoothing:
            losses = losses - smoothing * below.mean(1)
    return losses if where is None else torch.where(where, losses, 0.0)

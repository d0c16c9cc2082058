"""The overlap and the cross-entropy of exclusive classes.

From logits (A, C, P) and labels (A, P): TP, FP, FN and, if asked for, CE of every class, (A, C, 3)
or (A, C, 4), the cross-entropy of a pixel counting for the class of its label; or the cross-entropy
of every pixel, (A, P).
"""

import math
from collections.abc import Callable, Iterator, Sequence
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
from purelosses._numerics import at_label, log_partition, promote, replaced

# Sums of exponentials below which those that the fast form of exp takes for 0 would show.
UNDERFLOW = 1e-37


def overlap(
    function: str,
    prediction: Tensor,
    target: Tensor,
    where: Tensor | None,
    class_dim: int,
    dim: tuple[int, ...],
    extras: Sequence[str],
) -> dict[str, Tensor] | None:
    if not launch.applies(prediction, target, where) or not set(extras) <= {"ce"}:
        return None
    last = class_dim == prediction.ndim - 1
    split = tail(dim, class_dim) if last else class_dim
    if not last and not set(range(class_dim + 1, prediction.ndim)) <= set(dim):
        return None
    if is_short(math.prod(target.shape[split:])):
        return None
    kernel = _kernel(_class_value, _class_gradient, _class_formula, function, "ce" in extras)
    y, keep = (as_rows(t, target.shape, split) for t in (target, where))
    sums = launch.run(kernel, _classes(prediction, split, class_dim), y, keep)
    sums = sums.reshape(*prediction.shape[:split], *sums.shape[1:])
    left = [axis for axis in dim if axis < split] + [split] * (class_dim in dim)
    return summed(sums, ("tp", "fp", "fn", "ce"), left)


def cross_entropy(
    function: str, logits: Tensor, labels: Tensor, where: Tensor | None, class_dim: int
) -> Tensor | None:
    """The cross-entropy of every sample, 0 where it does not count."""
    if not launch.applies(logits, labels, where):
        return None
    split = 0 if class_dim == logits.ndim - 1 else class_dim
    if is_short(math.prod(labels.shape[split:])):
        return None
    kernel = _kernel(_ce_value, _ce_gradient, _ce_formula, function)
    y, keep = (as_rows(t, labels.shape, split) for t in (labels, where))
    return launch.run(kernel, _classes(logits, split, class_dim), y, keep).reshape(labels.shape)


def _kernel(
    value: Callable[..., Tensor],
    gradient: Callable[..., Tensor],
    formula: Callable[..., Tensor],
    *options: str | bool,
) -> Kernel:
    return Kernel(partial(value, *options), partial(gradient, *options), partial(formula, *options))


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
    keep: Tensor | None  # (n,)

    def cross_entropy(self) -> Tensor:
        # Where the label has the largest logit, `below` is 0 and `rest` alone goes into log1p.
        assert self.below is not None
        losses = (self.label - 1.0).add_(self.rest).log1p_().sub_(self.below)
        return losses if self.keep is None else torch.where(self.keep, losses, 0.0)


def pixels_in_blocks(
    x: Tensor, y: Tensor, where: Tensor | None, function: str | None
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
            labels = y[a, columns].long()
            if keep is not None:
                labels = labels * keep
            if function is not None:
                lowest, highest = torch.stack(labels.aminmax()).tolist()
                if lowest < 0 or highest >= classes:
                    check_labels(function, labels, classes)  # raises
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
            label, rest = _exponentials(others, flat, at, exact=wide == torch.float64)
            if bool((rest.amin() < UNDERFLOW).tolist()):
                torch.sub(logits, logits.amax(0), out=others)
                label, rest = _exponentials(others, flat, at, exact=True)
            scale = (rest + label).reciprocal_()
            if keep is not None:
                scale.mul_(cleaned(keep, wide, None))
            yield a, columns, Pixels(labels, others, label, rest, scale, below, keep)


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


def _class_value(function: str, ce: bool, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    sums = x.new_zeros(len(x), 3 + ce, x.shape[1], dtype=torch.float64)
    for a, _, block in pixels_in_blocks(x, y, where, function):
        by_label = {0: block.label * block.scale, 2: block.rest * block.scale}
        if ce:
            by_label[3] = block.cross_entropy()
        for row, values in by_label.items():
            sums[a, row].scatter_add_(0, block.labels, values.double())
        # Not by `mv`, which adds one after another and loses digits.
        sums[a, 1] += block.others.mul_(block.scale).sum(1)
    return sums.mT.to(wide_dtype(x))


def _class_gradient(
    function: str, ce: bool, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor
) -> Tensor:
    result = torch.empty_like(x)
    g = g.mT.to(wide_dtype(x)).contiguous()
    for a, columns, (labels, others, label, rest, scale, *_) in pixels_in_blocks(x, y, where, None):
        p, q = label * scale, rest * scale
        # With G the derivative by each p, that by a logit is p (G - sum of p G).
        of_others = g[a, 1]
        of_label = (g[a, 0] - g[a, 2]).index_select(0, labels)
        mean_of_others = torch.mv(others.mT, of_others).mul_(scale)
        shift = mean_of_others.addcmul(p, of_label).neg_()
        at_label = of_label.mul_(q).sub_(mean_of_others).mul_(p)
        if ce:
            of_ce = g[a, 3].index_select(0, labels)
            shift.add_(of_ce)
            at_label.sub_(of_ce.mul_(q))
        into = result[a, :, columns]
        out = into if into.dtype == others.dtype else torch.empty_like(others)
        torch.addr(shift.mul_(scale), of_others, scale, out=out).mul_(others)
        put(into, out, at_label, labels)
    return result


def _ce_value(function: str, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    result = x.new_empty(y.shape, dtype=wide_dtype(x))
    for a, columns, block in pixels_in_blocks(x, y, where, function):
        result[a, columns] = block.cross_entropy()
    return result


def _ce_gradient(function: str, x: Tensor, y: Tensor, where: Tensor | None, g: Tensor) -> Tensor:
    result = torch.empty_like(x)
    for a, columns, (labels, others, _, rest, scale, *_) in pixels_in_blocks(x, y, where, None):
        factor = scale.mul_(g[a, columns])
        into = result[a, :, columns]
        out = into if into.dtype == others.dtype else others
        torch.mul(others, factor, out=out)
        put(into, out, rest.mul_(factor).neg_(), labels)
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


def _class_formula(function: str, ce: bool, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    x, y = _masked_pixels(x, y, where)
    split, at = at_label(x, y, 1), y.unsqueeze(1)
    scale, *values = (split.scale, split.prob, split.miss, split.surprisal)[: 3 + ce]
    if where is not None:
        scale, *values = (torch.where(where.unsqueeze(1), v, 0.0) for v in (scale, *values))
    tp, *others = (replaced(torch.zeros_like(x), at, 1, value) for value in values)
    terms = tp, split.others * scale, *others
    return torch.stack([term.sum(2) for term in terms], -1)


def _ce_formula(function: str, x: Tensor, y: Tensor, where: Tensor | None) -> Tensor:
    x, y = _masked_pixels(x, y, where)
    below, excess = log_partition(x, 1)
    losses = (excess - below.gather(1, y.unsqueeze(1))).squeeze(1)
    return losses if where is None else torch.where(where, losses, 0.0)

"""What the losses over class logits share: checked arguments, and the mean over the target."""

from collections.abc import Callable

import torch
from torch import Tensor

from purelosses._checks import (
    check_axis,
    check_floating,
    check_integer,
    check_labels,
    check_reduction,
    check_same_shape,
    check_target,
    check_weights,
    check_where,
)
from purelosses._numerics import at_label, class_mask, margins, picked, promote, weighted
from purelosses._types import Reduction

UNITS = "`logits` without its class axis"


def prepare(
    function: str,
    logits: Tensor,
    target: Tensor,
    class_dim: int,
    where: Tensor | None,
    weights: Tensor | None,
    reduction: Reduction,
) -> tuple[Tensor, Tensor, int, bool]:
    """Logits and target, clean where they do not count; the class axis; whether it holds labels."""
    check_floating(function, "logits", logits)
    class_dim = check_axis(function, "class_dim", class_dim, logits.ndim, "logits")
    labels = check_target(function, target, logits, "logits", class_dim)
    logits = _clean(function, logits, class_dim, where, weights, reduction)
    target = target.long() if labels else target.to(logits.dtype)
    if where is not None:
        target = torch.where(where if labels else where.unsqueeze(class_dim), target, 0)
    return logits, target, class_dim, labels


def prepare_distributions(
    function: str,
    logits: Tensor,
    name: str,
    target: Tensor,
    class_dim: int,
    where: Tensor | None,
    weights: Tensor | None,
    reduction: Reduction,
) -> tuple[Tensor, Tensor, int]:
    """The same for a target that is floating: a distribution, or the logits of one."""
    check_floating(function, "logits", logits)
    class_dim = check_axis(function, "class_dim", class_dim, logits.ndim, "logits")
    check_floating(function, name, target)
    check_same_shape(function, name, target, "logits", logits)
    logits = _clean(function, logits, class_dim, where, weights, reduction)
    target = target.to(logits.dtype)
    if where is not None:
        target = torch.where(where.unsqueeze(class_dim), target, 0.0)
    return logits, target, class_dim


def prepare_labels(
    function: str,
    logits: Tensor,
    target: Tensor,
    class_dim: int,
    where: Tensor | None,
    weights: Tensor | None,
    reduction: Reduction,
) -> tuple[Tensor, Tensor, int]:
    """The same for a target that must hold labels."""
    check_floating(function, "logits", logits)
    class_dim = check_axis(function, "class_dim", class_dim, logits.ndim, "logits")
    check_integer(function, "target", target)
    check_target(function, target, logits, "logits", class_dim)
    logits = _clean(function, logits, class_dim, where, weights, reduction)
    target = target.long()
    if where is not None:
        target = torch.where(where, target, 0)
    return logits, target, class_dim


def _clean(
    function: str,
    logits: Tensor,
    class_dim: int,
    where: Tensor | None,
    weights: Tensor | None,
    reduction: Reduction,
) -> Tensor:
    check_reduction(function, reduction)
    samples = logits.shape[:class_dim] + logits.shape[class_dim + 1 :]
    if weights is not None:
        check_weights(function, weights, samples, UNITS, logits)
    logits = promote(logits)
    if where is not None:
        check_where(function, where, samples, UNITS, logits)
        logits = torch.where(where.unsqueeze(class_dim), logits, 0.0)
    return logits


def mean_link(
    function: str,
    logits: Tensor,
    target: Tensor,
    class_dim: int,
    labels: bool,
    link: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """For every sample the mean under its target of link(-log p, 1 - p)."""
    if not labels:
        return weighted(target, link(*margins(logits, class_dim))).sum(class_dim)
    target, valid = check_labels(function, target, logits.shape[class_dim])
    split = at_label(logits, target, class_dim)
    losses = link(split.surprisal, split.miss).squeeze(class_dim)
    return torch.where(valid, losses, torch.nan)


def pick(function: str, values: Tensor, target: Tensor, class_dim: int, labels: bool) -> Tensor:
    """For every sample the mean under its target of one value per class."""
    if not labels:
        return weighted(target, values).sum(class_dim)
    target, valid = check_labels(function, target.unsqueeze(class_dim), values.shape[class_dim])
    return torch.where(valid, picked(values, target, class_dim), torch.nan).squeeze(class_dim)


def as_probabilities(
    function: str, target: Tensor, like: Tensor, class_dim: int, labels: bool
) -> Tensor:
    """The target with a class axis; NaN for a label outside the classes."""
    if not labels:
        return target
    num_classes = like.shape[class_dim]
    target, valid = check_labels(function, target, num_classes)
    target = class_mask(target, num_classes, class_dim).to(like.dtype)
    return torch.where(valid.unsqueeze(class_dim), target, torch.nan)

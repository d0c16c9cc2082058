"""Stable primitives: accurate in value and gradient on every finite input."""

import torch
import torch.nn.functional as F
from torch import Tensor


def promote(x: Tensor) -> Tensor:
    """Half precision becomes float32; float32 and float64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)).

    torch returns x itself above a threshold of 20, an error of 2e-9 that float64 would show;
    at 50 the error is below its resolution and exp(50) is far from overflow.
    """
    return F.softplus(x, threshold=50.0)


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator; 0, with zero gradient, where the denominator is 0."""
    zero = denominator == 0
    return torch.where(zero, 0.0, numerator / torch.where(zero, 1.0, denominator))


def weighted(weight: Tensor, value: Tensor) -> Tensor:
    """weight * value; 0 where the weight is 0, also when the value is infinite there."""
    return weight * torch.where((weight == 0) & torch.isinf(value), 0.0, value)


def along(values: Tensor, dim: int, ndim: int) -> Tensor:
    """A vector laid along axis `dim` of a tensor with `ndim` axes."""
    return values.reshape([-1 if axis == dim else 1 for axis in range(ndim)])


def class_mask(labels: Tensor, num_classes: int, dim: int) -> Tensor:
    """True at the class each label names, along a new axis `dim`."""
    classes = torch.arange(num_classes, device=labels.device)
    return along(classes, dim, labels.ndim + 1) == labels.unsqueeze(dim)


def surprisal(logits: Tensor, dim: int) -> Tensor:
    """-log softmax(logits), to full relative accuracy.

    With z the largest logit, log sum exp = z + log1p(sum of the others' exp(. - z)): no large
    offset is rounded away, and a confident class keeps the digits that log(1 + tiny) would drop.
    """
    top = logits.argmax(dim, keepdim=True)
    below = logits - logits.gather(dim, top)
    others = torch.where(_is_top(top, logits, dim), 0.0, below.exp()).sum(dim, keepdim=True)
    return others.log1p() - below


def softmax_and_complement(logits: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """p = softmax(logits) and 1 - p, both to full relative accuracy.

    Only the largest probability of a row can be near 1; its complement is the sum of the others.
    """
    top = logits.argmax(dim, keepdim=True)
    exponential = (logits - logits.gather(dim, top)).exp()
    is_top = _is_top(top, logits, dim)
    others = torch.where(is_top, 0.0, exponential).sum(dim, keepdim=True)
    total = 1.0 + others
    probs = exponential / total
    return probs, torch.where(is_top, others / total, 1.0 - probs)


def _is_top(top: Tensor, logits: Tensor, dim: int) -> Tensor:
    classes = torch.arange(logits.shape[dim], device=logits.device)
    return along(classes, dim, logits.ndim) == top

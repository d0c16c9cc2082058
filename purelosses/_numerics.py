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


def share(part: Tensor, rest: Tensor) -> Tensor:
    """part / (part + rest) of positive numbers, 0 for 0 / 0, accurate in value and in gradient.

    Near 1 the derivative of the plain quotient cancels, near 0 the value of 1 - rest / whole does.
    """
    whole = part + rest
    return torch.where(part > rest, 1 - safe_divide(rest, whole), safe_divide(part, whole))


def weighted(weight: Tensor, value: Tensor) -> Tensor:
    """weight * value; 0 where the weight is 0, also when the value is infinite there."""
    return weight * torch.where((weight == 0) & torch.isinf(value), 0.0, value)


def power(base: Tensor, exponent: float | Tensor) -> Tensor:
    """base ** exponent of numbers from 0 on, with zero gradient where the base is 0.

    There the slope of an exponent below 1 is infinite, and times a slope of 0 it would be NaN.
    """
    # torch.compile cannot differentiate an integer exponent (torch 2.13).
    exponent = exponent if isinstance(exponent, Tensor) else float(exponent)
    zero = base == 0
    return torch.where(zero, 0.0**exponent, torch.where(zero, 1.0, base) ** exponent)


def along(values: Tensor, dim: int, ndim: int) -> Tensor:
    """A vector laid along axis `dim` of a tensor with `ndim` axes."""
    return values.reshape([-1 if axis == dim else 1 for axis in range(ndim)])


def class_mask(labels: Tensor, num_classes: int, dim: int) -> Tensor:
    """True at the class each label names, along a new axis `dim`."""
    classes = torch.arange(num_classes, device=labels.device)
    return along(classes, dim, labels.ndim + 1) == labels.unsqueeze(dim)


def log_partition(logits: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The logits below the largest one, and log sum exp of those: softmax = exp(below - excess).

    The largest term of the sum is 1 and is left to log1p, so the excess of a confident row keeps
    the digits that log(1 + tiny) would drop; and a large offset of the logits is never rounded in.
    """
    largest, top = logits.max(dim, keepdim=True)
    # A constant 0 at the top: its gradient is then the sum of the others', and nothing cancels.
    below = (logits - largest).scatter(dim, top, 0.0)
    return below, _others(below.exp(), top, dim).log1p()


def softmax_and_complement(logits: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """p = softmax(logits) and 1 - p, both to full relative accuracy.

    Only the largest probability of a row can be near 1; its complement is the sum of the others.
    """
    largest, top = logits.max(dim, keepdim=True)
    # A constant 0 at the top, as in `log_partition`: the gradient of p near 1 does not cancel.
    exponential = (logits - largest).scatter(dim, top, 0.0).exp()
    others = _others(exponential, top, dim)
    probs = exponential / (1.0 + others)
    return probs, (1.0 - probs).scatter(dim, top, others / (1.0 + others))


def _others(exponential: Tensor, top: Tensor, dim: int) -> Tensor:
    """The sum without the term at `top`."""
    return exponential.scatter(dim, top, 0.0).sum(dim, keepdim=True)

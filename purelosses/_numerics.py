"""Stable primitives: accurate in value and gradient on every finite input."""

import math
from collections.abc import Sequence
from typing import NamedTuple

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


def softplus_of_both(x: Tensor) -> tuple[Tensor, Tensor]:
    """softplus(x) and softplus(-x). Compiled, they share the exponential and the logarithm."""
    if not torch.compiler.is_compiling():
        return softplus(x), softplus(-x)
    positive = x > 0
    rest = torch.where(positive, -x, x).exp().log1p()
    return torch.where(positive, x, 0.0) + rest, torch.where(positive, 0.0, -x) + rest


def safe_divide(numerator: Tensor, denominator: Tensor) -> Tensor:
    """numerator / denominator; 0, with zero gradient, where the denominator is 0."""
    zero = denominator == 0
    return torch.where(zero, 0.0, numerator / torch.where(zero, 1.0, denominator))


def share(part: Tensor, rest: Tensor, empty: float | None = 0.0) -> Tensor:
    """part / (part + rest) of positive numbers, accurate in value and in gradient; `empty` for 0/0.

    Near 1 the derivative of the plain quotient cancels, near 0 the value of 1 - rest / whole does.
    None says that there is no 0/0.
    """
    whole, most = part + rest, part > rest
    if empty is not None:
        whole = torch.where(whole == 0, 1.0, whole)
    smaller = torch.where(most, rest, part) / whole
    result = torch.where(most, 1 - smaller, smaller)
    return result if empty is None else torch.where(part + rest == 0, empty, result)


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


def xlogy(x: Tensor, y: Tensor) -> Tensor:
    """x log y; 0, with zero gradient, where x is 0."""
    zero = x == 0
    return torch.where(zero, 0.0, x * torch.where(zero, 1.0, y).log())


def excess(probs: Tensor, complement: Tensor, target: Tensor) -> Tensor:
    """p - y of probabilities; where both are near 1 their distances from it have the digits."""
    # `lerp` by 0 or 1 is exact, and in eager mode many times faster than `torch.where`.
    near = target.detach().clamp(0.0, 1.0).round()
    return torch.lerp(probs - target, (1 - target) - complement, near)


def along(values: Tensor, dim: int, ndim: int) -> Tensor:
    """A vector laid along axis `dim` of a tensor with `ndim` axes."""
    return values.reshape([-1 if axis == dim % ndim else 1 for axis in range(ndim)])


def class_mask(labels: Tensor, num_classes: int, dim: int) -> Tensor:
    """True at the class each label names, along a new axis `dim`."""
    # Compiled, numbers as wide as those of float32, with which they share a loop.
    dtype = torch.int32 if torch.compiler.is_compiling() else torch.int64
    classes = torch.arange(num_classes, device=labels.device, dtype=dtype)
    return along(classes, dim, labels.ndim + 1) == labels.to(dtype).unsqueeze(dim)


def picked(values: Tensor, index: Tensor, dim: int) -> Tensor:
    """The values at an index along `dim`, which keeps length 1.

    Compiled, `gather` scatters in its backward pass, number by number; a comparison does not.
    """
    if torch.compiler.is_compiling():
        mask = class_mask(index.squeeze(dim), values.shape[dim], dim)
        return torch.where(mask, values, 0.0).sum(dim, keepdim=True)
    return values.gather(dim, index)


def log_partition(logits: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The logits below the largest one, and log sum exp of those: softmax = exp(below - excess).

    The largest term of the sum is 1 and is left to log1p, so the excess of a confident row keeps
    the digits that log(1 + tiny) would drop; and a large offset of the logits is never rounded in.
    """
    largest, top = _largest(logits, dim)
    # A constant 0 at the top: its gradient is then the sum of the others', and nothing cancels.
    below = replaced(logits - largest, top, dim, 0.0)
    return below, _others(below.exp(), top, dim).log1p()


def softmax_and_complement(logits: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """p = softmax(logits) and 1 - p, both to full relative accuracy.

    Only the largest probability of a row can be near 1; its complement is the sum of the others.
    """
    largest, top = _largest(logits, dim)
    # A constant 0 at the top, as in `log_partition`: the gradient of p near 1 does not cancel.
    exponential = replaced(logits - largest, top, dim, 0.0).exp()
    others = _others(exponential, top, dim)
    probs = exponential / (1.0 + others)
    return probs, replaced(1.0 - probs, top, dim, others / (1.0 + others))


def computed_once(*values: Tensor) -> Sequence[Tensor]:
    """Compiled, numbers that a later loop broadcasts, and their gradients, become memory: else
    they would be computed again for each of its elements.
    """
    return torch.stack(values).unbind() if torch.compiler.is_compiling() else values


class Label(NamedTuple):
    """The softmax of every row, split at its label; the axis of the classes has length 1."""

    below: Tensor  # the logits below the largest one, of all classes
    others: Tensor  # exp of those that are not the label's, 0 at the label, of all classes
    scale: Tensor  # what makes them probabilities
    prob: Tensor  # p of the label
    miss: Tensor  # 1 - p, the sum of the others
    excess: Tensor  # log sum exp of `below`
    surprisal: Tensor  # -log p of the label


def at_label(logits: Tensor, labels: Tensor, dim: int) -> Label:
    """To full relative accuracy; of what has all classes, only `others` is kept for the gradient.

    1 - p is a sum of positive numbers. Of p and 1 - p the smaller one is computed, so that neither
    the other's gradient nor that of -log p cancels.
    """
    compiled = torch.compiler.is_compiling()
    if compiled:
        below = logits - logits.detach().amax(dim, keepdim=True)
    else:
        # A constant 0 at the top, as in `log_partition`, for the gradient of another p near 1.
        largest, top = logits.max(dim, keepdim=True)
        below = replaced(logits - largest, top, dim, 0.0)
    others = replaced(below, labels.unsqueeze(dim), dim, -torch.inf).exp()
    own = picked(below, labels.unsqueeze(dim), dim)
    own, rest = computed_once(own, others.sum(dim, keepdim=True))
    label = own.exp()
    whole = label + rest
    scale = whole.reciprocal()
    right = rest < label
    small = torch.where(right, rest, label) * scale
    large = 1 - small
    prob, miss = torch.where(right, large, small), torch.where(right, small, large)
    if compiled:
        excess = whole.log()
        surprisal = torch.where(right, -torch.where(right, -small, 0.0).log1p(), excess - own)
    else:  # where the label is at the top its own part is a constant 1, and nothing cancels
        excess = (label - 1 + rest).log1p()
        surprisal = excess - own
    return Label(below, others, scale, prob, miss, excess, surprisal)


def margins(logits: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """softplus(m) = -log p and sigmoid(m) = 1 - p of every class, to full relative accuracy.

    The margin m of a class is log sum exp of the other logits minus its own. It is not returned
    itself: rounded to float32 at 80 it would be off by 4e-6, and so would be exp(m).
    """
    below, excess = log_partition(logits, dim)
    return excess - below, softmax_and_complement(logits, dim)[1]


def _others(exponential: Tensor, top: Tensor, dim: int) -> Tensor:
    """The sum without the term at `top`."""
    return replaced(exponential, top, dim, 0.0).sum(dim, keepdim=True)


def _largest(logits: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The largest logit of each row, and where it is: the first place if there are several.

    What `max` returns; compiled, the gradient of that would be a scatter, see `picked`.
    """
    if not torch.compiler.is_compiling():
        largest, top = logits.max(dim, keepdim=True)
        return largest, top
    top = logits.detach().argmax(dim, keepdim=True)
    return picked(logits, top, dim), top


def replaced(x: Tensor, index: Tensor, dim: int, value: float | Tensor) -> Tensor:
    """x with another value at one index of each row: a comparison, which compiles into the pass
    around it, or a scatter, which is faster where nothing is compiled.
    """
    if torch.compiler.is_compiling():
        return torch.where(class_mask(index.squeeze(dim), x.shape[dim], dim), value, x)
    return x.scatter(dim, index, value)


def log1p_square(x: Tensor) -> Tensor:
    """log(1 + x²), also where x² overflows."""
    large = x.abs() > 1
    small = torch.where(large, 0.0, x)
    outer = torch.where(large, x, 1.0)
    tail = 2 * outer.abs().log() + outer.reciprocal().square().log1p()
    return torch.where(large, tail, small.square().log1p())


def log1p_minus(x: Tensor) -> Tensor:
    """log(1 + x) - x for x > -1, also where both are nearly equal."""
    return log_minus(1 + x, x)


def log_minus(whole: Tensor, part: Tensor) -> Tensor:
    """log(whole) - part, where whole = 1 + part; near 0 the whole itself has fewer digits."""
    near = part.abs() < 0.4
    a = torch.where(near, part, 0.0)
    # log(1 + x) = 2 artanh(w); its first term less x is -x w.
    w = a / (2 + a)
    series = 2 * w**3 * polynomial([1 / (2 * k + 3) for k in range(12)], w.square()) - a * w
    return torch.where(near, series, torch.where(near, 1.0, whole).log() - part)


def one_minus_exp(x: Tensor) -> Tensor:
    """1 - exp(-x) for x ≥ 0. Far from 0 the derivative of -expm1(-x) itself would cancel."""
    near = x < 0.7
    return torch.where(near, -torch.expm1(torch.where(near, -x, 0.0)), 1 - torch.exp(-x))


def expm1_ratio(x: Tensor) -> Tensor:
    """(exp(x) - 1) / x, and 1 at 0."""
    near = x.abs() < 0.5
    series = polynomial([1 / math.factorial(k + 1) for k in range(14)], torch.where(near, x, 0.0))
    far = torch.where(near, 1.0, x)
    return torch.where(near, series, torch.expm1(far) / far)


def expm1_minus(x: Tensor) -> Tensor:
    """exp(x) - 1 - x, also where all three nearly cancel."""
    near = x.abs() < 0.5
    a = torch.where(near, x, 0.0)
    series = a.square() * polynomial([1 / math.factorial(k + 2) for k in range(14)], a)
    return torch.where(near, series, torch.expm1(torch.where(near, 1.0, x)) - x)


# From here on Stirling's series is exact to rounding.
LARGE = 8.0


def stirling(x: Tensor) -> Tensor:
    """log Γ(x) - (x - ½) log x + x - ½ log 2π, for x of at least LARGE."""
    bernoulli = [1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156]
    inverse = x.reciprocal()
    return inverse * polynomial([*bernoulli, -3617 / 122400], inverse.square())


def log_rising(x: Tensor, y: Tensor) -> Tensor:
    """log Γ(x + y) - log Γ(x) - y log x for y ≥ 0, also for large x, where it nearly vanishes."""
    large = x >= LARGE
    small = torch.where(large, 1.0, x)
    direct = torch.lgamma(small + y) - torch.lgamma(small) - y * small.log()
    x = torch.where(large, x, LARGE)
    ratio = y / x
    series = x * log1p_minus(ratio) + (y - 0.5) * ratio.log1p() + stirling(x + y) - stirling(x)
    return torch.where(large, series, direct)


def polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    """c0 + c1 x + c2 x² + ..., by Horner's rule."""
    value = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def norm(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Euclidean length along axes, which it keeps with length 1. Its gradient at 0 is 0."""
    largest = x.detach().abs().amax(axes, keepdim=True)
    scale = torch.where(largest == 0, 1.0, largest)
    squares = (x / scale).square().sum(axes, keepdim=True)
    zero = squares == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, squares).sqrt() * scale)


def as_scalar(value: float | Tensor, like: Tensor) -> Tensor:
    """An option as a 0-dimensional tensor in the dtype of the data, without reading it."""
    return value.to(like.dtype) if isinstance(value, Tensor) else like.new_full((), value)

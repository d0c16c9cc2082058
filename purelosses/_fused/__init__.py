"""The fused path: losses over large tensors in one pass, in the memory of the gradient.

The plain formulas of the library are the specification; here the same numbers come from kernels
that stream the data in blocks that stay in cache. What autograd would have saved is recomputed in
the backward pass, or lies where the gradient will. `launch.applies` decides; whatever it refuses
runs the plain formula. A kernel sees plain tensors only, so in-place operations and the value of a
tensor on the CPU are safe inside one.

What a loss calls returns None where only the plain formula does it.
"""

from collections.abc import Sequence

from torch import Tensor

from purelosses._fused import classes, masks
from purelosses._fused.classes import confusion, cross_entropy
from purelosses._fused.elements import focal

__all__ = ["confusion", "cross_entropy", "focal", "overlap"]


def overlap(
    function: str,
    prediction: Tensor,
    target: Tensor,
    where: Tensor | None,
    activation: str | None,
    class_dim: int | None,
    dim: tuple[int, ...],
    extras: Sequence[str],
    gamma: float | Tensor,
    squared: bool,
) -> dict[str, Tensor] | None:
    """TP, FP, FN and the extras of every region, from logits."""
    labels = target.ndim < prediction.ndim
    if activation == "sigmoid" and not labels:
        found = masks.overlap(prediction, target, where, class_dim, dim, extras, gamma, squared)
    elif activation == "softmax" and labels and not squared:
        assert class_dim is not None
        found = classes.overlap(function, prediction, target, where, class_dim, dim, extras, gamma)
    else:
        return None
    return None if found is None else {name: found[name] for name in ("tp", "fp", "fn", *extras)}

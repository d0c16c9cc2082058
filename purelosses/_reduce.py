"""From one loss per unit to the result: the only reducer in the library."""

import torch
from torch import Tensor

from purelosses._numerics import safe_divide
from purelosses._types import Reduction


def reduce(
    losses: Tensor,
    reduction: Reduction,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    mass: Tensor | None = None,
) -> Tensor:
    """Reduce one loss per unit, with what counts (`where`) and how much (`weights`).

    "mean" divides the weighted sum by the number of units that count, "weighted_mean" by their
    total weight. `mass` is a weight that `losses` already carry (that of their class); it enters
    only that total.
    """
    if where is not None:
        losses = torch.where(where, losses, 0.0)
    if weights is not None:
        weights = weights.to(losses.dtype)
        if where is not None:
            weights = torch.where(where, weights, 0.0)
        losses = losses * weights
    if reduction == "none":
        return losses
    if reduction == "sum":
        return losses.sum()
    if reduction == "weighted_mean" and mass is not None:
        mass = mass if where is None else torch.where(where, mass, 0.0)
        weights = mass if weights is None else mass * weights
    if reduction == "weighted_mean" and weights is not None:
        return safe_divide(losses.sum(), weights.expand(losses.shape).sum())
    if where is not None:
        where = where if where.shape == losses.shape else where.expand(losses.shape)
        return losses.sum() / where.sum().clamp_min(1)
    return losses.mean() if losses.numel() else losses.sum()

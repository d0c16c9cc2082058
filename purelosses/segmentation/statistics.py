r"""Overlap statistics: the few sums per region that every overlap loss is made of."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from purelosses import _fused
from purelosses._checks import (
    check_axis,
    check_choice,
    check_flag,
    check_floating,
    check_labels,
    check_number,
    check_target,
    check_where,
    complain,
)
from purelosses._numerics import (
    class_mask,
    log_partition,
    power,
    promote,
    softmax_and_complement,
    weighted,
)
from purelosses._types import Activation
from purelosses.classification import binary_cross_entropy_with_logits, sigmoid_focal_with_logits

Extra = Literal["tn", "bce", "ce", "surprisal", "focal"]
EXTRAS = get_args(Extra)
# The activations that an extra needs; "tn" goes with any.
NEEDS = {
    "bce": ("sigmoid",),
    "ce": ("softmax",),
    "surprisal": ("softmax",),
    "focal": ("sigmoid", "softmax"),
}


class Layout(NamedTuple):
    """How statistics are made from a prediction."""

    activation: Activation | None
    class_dim: int | None
    dim: int | tuple[int, ...] | None
    where: Tensor | None
    squared: bool = False
    soft_target: bool = False
    extras: Sequence[Extra] = ()
    gamma: float | Tensor = 2.0


def overlap_statistics(
    prediction: Tensor,
    target: Tensor,
    *,
    activation: Activation | None = None,
    class_dim: int | None = None,
    dim: int | tuple[int, ...] | None = None,
    squared: bool = False,
    soft_target: bool = False,
    where: Tensor | None = None,
    extra: Extra | Sequence[Extra] | None = None,
    gamma: float | Tensor = 2.0,
) -> dict[str, Tensor]:
    r"""Sums over each region from which every overlap loss is computed.

    $$\mathrm{TP} = \sum_i p_i y_i, \quad \mathrm{FP} = \sum_i p_i (1 - y_i), \quad
    \mathrm{FN} = \sum_i (1 - p_i)\,y_i$$

    over the pixels $i$ of a region, with $p_i$ the predicted probability (`prediction` after
    `activation`) and $y_i$ the target. All terms are positive, and $1 - p_i$ is computed from the
    logits, so the sums keep their relative accuracy when the prediction is nearly perfect.

    For targets that are no hard 0 or 1 there are two other choices, under which
    $\mathrm{FP} = \mathrm{FN} = 0$ exactly where $p = y$; on hard targets the first changes
    nothing:

    | option | TP | FP | FN |
    |---|---|---|---|
    | `soft_target` | $\sum \min(p, y)$ | $\sum \max(p - y, 0)$ | $\sum \max(y - p, 0)$ |
    | `squared` | $\sum p\,y$ | $\sum \max(p - y, 0)^2$ | $\sum \max(y - p, 0)^2$ |

    The statistics of parts add up to the statistics of the whole:
    `optree.tree_map(torch.add, first, second)`.

    Args:
        prediction: Probabilities, or logits if `activation` is given. Half precision is summed in
            float32.
        target: With a `class_dim`, integers are class labels without the class axis; anything else
            is a mask (booleans, integers or probabilities) with the shape of `prediction`.
        activation: What turns `prediction` into probabilities: `"sigmoid"` for independent masks,
            `"softmax"` over `class_dim` for exclusive classes, None if they are probabilities.
        class_dim: The class axis of `prediction`, None if there is none.
        dim: The axes of one region, which are summed. By default those after `class_dim`, so that
            every sample and class is a region of its own; without a `class_dim` all of them, so
            that everything is one region. `(0, 2, 3)` pools the batch of (N, C, H, W) masks.
        squared: Sums of squares, so that $2\,\mathrm{TP} + \mathrm{FP} + \mathrm{FN} = \sum p^2 +
            \sum y^2$. It is 0 at $p = y$ by itself, with or without `soft_target`.
        soft_target: Sums that are right for soft targets (see the table).
        where: Which pixels count; shape of `prediction` without the class axis, or 1 along an
            axis. What lies under False has no influence, whatever it is.
        extra: Further sums in the same pass, by name or as a list of names: `"tn"`, the true
            negatives; from logits `"bce"` (activation `"sigmoid"`), the binary cross-entropy;
            `"ce"` (`"softmax"`), the cross-entropy of the pixels of each class; `"surprisal"`
            (`"softmax"`), $-\log p$ over all pixels, which label smoothing needs; `"focal"`
            (either), the focal loss.
        gamma: The exponent of the focal loss among the extras.

    Returns:
        `{"tp", "fp", "fn", "count"}` and the extras: one entry per region, with `count` the number
        of pixels that count in it.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the statistics are NaN), an axis does not exist, or an
            option is unknown or out of its range.
        TypeError: If `prediction` is not floating, `where` not boolean or a flag no boolean.

    Examples:
        >>> probs = torch.tensor([[0.9, 0.8, 0.1], [0.6, 0.2, 0.0]])
        >>> mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
        >>> overlap_statistics(probs, mask, dim=1)["tp"]
        tensor([1.7000, 0.6000])

    Source:
        Definitions; the additive use is that of Tilborghs et al., arXiv:2207.09521. Soft targets:
        Wang et al., arXiv:2303.16296, §3; squares: Milletari et al., arXiv:1606.04797, §3.
    """
    function = "overlap_statistics"
    extras = (extra,) if isinstance(extra, str) else () if extra is None else extra
    if not isinstance(extras, Sequence):
        must = f"be None or names among {', '.join(map(repr, EXTRAS))}"
        raise ValueError(complain(function, "extra", must, repr(extra)))
    for name in extras:
        check_choice(function, "extra", name, EXTRAS)
        needed = NEEDS.get(name)
        if needed is not None and activation not in needed:
            must = f"be {' or '.join(map(repr, needed))} for the extra {name!r}"
            raise ValueError(complain(function, "activation", must, repr(activation)))
    layout = Layout(activation, class_dim, dim, where, squared, soft_target, extras, gamma)
    return overlap(function, "prediction", prediction, target, layout)


def overlap(
    function: str, name: str, prediction: Tensor, target: Tensor, layout: Layout
) -> dict[str, Tensor]:
    """The statistics, with messages that name the loss that was called."""
    activation, _, _, _, squared, soft_target, extras, gamma = layout
    check_flag(function, "squared", squared)
    check_flag(function, "soft_target", soft_target)
    gamma = check_number(function, "gamma", gamma, minimum=0)
    class_dim, dim = _check(
        function, name, prediction, target, activation, layout.class_dim, layout.dim, layout.where
    )
    if not (squared or soft_target):
        fused = _fused.overlap(
            function, prediction, target, layout.where, activation, class_dim, dim, extras
        )
        if fused is not None:
            pixels = _pixels(layout.where, class_dim)
            return {**fused, "count": _count(fused["tp"], prediction, pixels, dim)}
    prediction, target, pixels = _clean(prediction, target, class_dim, layout.where)
    target = _dense(function, prediction, target, class_dim)
    probs, complement = _probabilities(prediction, activation, class_dim)
    if squared or soft_target:
        # p - y; where both are near 1 their distances from it are the accurate numbers.
        excess = torch.where(target > 0.5, (1 - target) - complement, probs - target)
        over, under = excess.relu(), (-excess).relu()
        if squared:
            sums = {"tp": probs * target, "fp": over.square(), "fn": under.square()}
        else:
            sums = {"tp": torch.where(excess > 0, target, probs), "fp": over, "fn": under}
    else:
        sums = {"tp": probs * target, "fp": probs * (1 - target), "fn": complement * target}
    if "tn" in extras:
        if soft_target and not squared:
            sums["tn"] = torch.where(excess > 0, complement, 1 - target)
        else:
            sums["tn"] = complement * (1 - target)
    if "bce" in extras:
        sums["bce"] = binary_cross_entropy_with_logits(prediction, target)
    if "focal" in extras and activation == "sigmoid":
        sums["focal"] = sigmoid_focal_with_logits(prediction, target, gamma)
    if activation == "softmax" and {"ce", "surprisal", "focal"} & set(extras):
        assert class_dim is not None
        below, partition = log_partition(prediction, class_dim)
        surprisal = partition - below
        if "ce" in extras:
            sums["ce"] = weighted(target, surprisal)
        if "surprisal" in extras:
            sums["surprisal"] = surprisal
        if "focal" in extras:
            sums["focal"] = weighted(target * power(complement, gamma), surprisal)

    if pixels is not None:
        sums = {key: torch.where(pixels, value, 0.0) for key, value in sums.items()}
    statistics = {key: _total(value, dim) for key, value in sums.items()}
    return {**statistics, "count": _count(statistics["tp"], prediction, pixels, dim)}


def confusion_statistics(
    prediction: Tensor,
    target: Tensor,
    *,
    activation: Activation | None = None,
    class_dim: int = 1,
    dim: int | tuple[int, ...] | None = None,
    where: Tensor | None = None,
) -> dict[str, Tensor]:
    r"""How much probability the pixels of each true class give to each predicted class.

    $$K_{lc} = \sum_i y_{il}\,p_{ic}$$

    over the pixels $i$ of a region, with $y_{il}$ the target and $p_{ic}$ the predicted probability
    of a class (`prediction` after `activation`). The statistics of parts add up to the statistics
    of the whole.

    Args:
        prediction: See [`overlap_statistics`][purelosses.overlap_statistics].
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `prediction`.
        activation: See [`overlap_statistics`][purelosses.overlap_statistics].
        class_dim: The class axis of `prediction`.
        dim: The axes of one region, by default those after `class_dim`; never the class axis.
        where: See [`overlap_statistics`][purelosses.overlap_statistics].

    Returns:
        `{"confusion", "count"}`: a matrix of true by predicted classes for each region, in the last
        two axes, and the number of pixels that count in it.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the statistics are NaN), an axis does not exist, or an
            option is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> probs = torch.tensor([[[0.75, 0.5, 0.0], [0.25, 0.5, 1.0]]])
        >>> labels = torch.tensor([[0, 0, 1]])
        >>> confusion_statistics(probs, labels)["confusion"]
        tensor([[[1.2500, 0.7500],
                 [0.0000, 1.0000]]])
    """
    return confusion("confusion_statistics", prediction, target, activation, class_dim, dim, where)


def confusion(
    function: str,
    prediction: Tensor,
    target: Tensor,
    activation: Activation | None,
    class_dim: int,
    dim: int | tuple[int, ...] | None,
    where: Tensor | None,
) -> dict[str, Tensor]:
    """The confusion matrices, with messages that name the loss that was called."""
    check_floating(function, "prediction", prediction)
    class_dim = check_axis(function, "class_dim", class_dim, prediction.ndim, "prediction")
    _, dim = _check(function, "prediction", prediction, target, activation, class_dim, dim, where)
    prediction, target, pixels = _clean(prediction, target, class_dim, where)
    if class_dim in dim:
        must = f"leave the class axis, {class_dim}, for it is summed apart"
        raise ValueError(complain(function, "dim", must, dim))
    target = _dense(function, prediction, target, class_dim)
    probs, _ = _probabilities(prediction, activation, class_dim)
    if pixels is not None:
        target = torch.where(pixels, target, 0.0)

    # One true class at a time: elementwise, where autocast would halve a product of matrices.
    axis = class_axis(probs.ndim, class_dim, dim)
    assert axis is not None
    rows = [
        _total(target.narrow(class_dim, label, 1) * probs, dim).movedim(axis, -1)
        for label in range(probs.shape[class_dim])
    ]
    matrix = torch.stack(rows, -2)
    if pixels is None:
        pixels_per_unit = math.prod([probs.shape[axis] for axis in dim])
        count = matrix.new_full(matrix.shape[:-2], pixels_per_unit)
    else:
        one_class = probs.narrow(class_dim, 0, 1).shape
        count = pixels.expand(one_class).sum((class_dim, *dim)).to(probs.dtype)
    return {"confusion": matrix, "count": count}


def _check(
    function: str,
    name: str,
    prediction: Tensor,
    target: Tensor,
    activation: Activation | None,
    class_dim: int | None,
    dim: int | tuple[int, ...] | None,
    where: Tensor | None,
) -> tuple[int | None, tuple[int, ...]]:
    """The class axis and those of a region, counted from the front."""
    check_floating(function, name, prediction)
    check_choice(function, "activation", activation, (None, "sigmoid", "softmax"))
    if class_dim is not None:
        class_dim = check_axis(function, "class_dim", class_dim, prediction.ndim, name)
    if activation == "softmax" and (class_dim is None or prediction.shape[class_dim] < 2):
        must = "name an axis with at least two classes for a softmax"
        got = class_dim if class_dim is None else f"an axis of {prediction.shape[class_dim]}"
        raise ValueError(complain(function, "class_dim", must, got))
    dim = _region_axes(function, name, prediction, class_dim, dim)
    check_target(function, target, prediction, name, class_dim)
    if where is not None:
        shape, units = prediction.shape, f"`{name}`"
        if class_dim is not None:
            shape = shape[:class_dim] + shape[class_dim + 1 :]
            units += " without its class axis"
        check_where(function, where, shape, units, prediction)
    return class_dim, dim


def _clean(
    prediction: Tensor, target: Tensor, class_dim: int | None, where: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Prediction and target, 0 where they do not count, and the mask along the classes."""
    prediction = promote(prediction)
    labels = target.ndim < prediction.ndim
    target = target.long() if labels else target.to(prediction.dtype)
    pixels = _pixels(where, class_dim)
    if where is not None and pixels is not None:
        prediction = torch.where(pixels, prediction, 0.0)
        target = torch.where(where if labels else pixels, target, 0)
    return prediction, target, pixels


def _pixels(where: Tensor | None, class_dim: int | None) -> Tensor | None:
    return where if where is None or class_dim is None else where.unsqueeze(class_dim)


def _count(like: Tensor, prediction: Tensor, pixels: Tensor | None, dim: tuple[int, ...]) -> Tensor:
    """How many pixels count in each region."""
    if pixels is None:
        return torch.full_like(like, math.prod([prediction.shape[axis] for axis in dim]))
    return pixels.expand(prediction.shape).sum(dim).to(like.dtype)


def _dense(function: str, prediction: Tensor, target: Tensor, class_dim: int | None) -> Tensor:
    """The target with the shape of the prediction, NaN where a label is outside the classes."""
    if target.ndim == prediction.ndim:
        return target
    assert class_dim is not None
    target, valid = check_labels(function, target, prediction.shape[class_dim])
    dense = class_mask(target, prediction.shape[class_dim], class_dim).to(prediction.dtype)
    return torch.where(valid.unsqueeze(class_dim), dense, torch.nan)


def _probabilities(
    prediction: Tensor, activation: Activation | None, class_dim: int | None
) -> tuple[Tensor, Tensor]:
    """p and 1 - p, both to full relative accuracy."""
    if activation == "softmax":
        assert class_dim is not None
        return softmax_and_complement(prediction, class_dim)
    if activation == "sigmoid":
        return prediction.sigmoid(), (-prediction).sigmoid()
    return prediction, 1 - prediction


def _total(values: Tensor, dim: tuple[int, ...]) -> Tensor:
    """The sum, axis by axis: over axes that are apart torch's own has errors of 3e-6."""
    for axis in sorted(dim, reverse=True):
        values = values.sum(axis)
    return values


def _region_axes(
    function: str,
    name: str,
    prediction: Tensor,
    class_dim: int | None,
    dim: int | tuple[int, ...] | None,
) -> tuple[int, ...]:
    """The axes of one region, counted from the front."""
    ndim = prediction.ndim
    if dim is None:
        axes = tuple(range(0 if class_dim is None else class_dim + 1, ndim))
    elif isinstance(dim, tuple):
        axes = tuple(check_axis(function, "dim", axis, ndim, name) for axis in dim)
    else:
        axes = (check_axis(function, "dim", dim, ndim, name),)
    if len(set(axes)) < len(axes) or (not axes and ndim):
        must = "name each axis of a region once (by default those after `class_dim`)"
        raise ValueError(complain(function, "dim", must, dim))
    return axes


def class_axis(ndim: int, class_dim: int | None, dim: int | tuple[int, ...] | None) -> int | None:
    """Where the class axis of a prediction ends up in its statistics, None if it is summed."""
    if class_dim is None:
        return None
    class_dim %= ndim
    if dim is None:
        return class_dim
    axes = {axis % ndim for axis in (dim if isinstance(dim, tuple) else (dim,))}
    return None if class_dim in axes else class_dim - sum(axis < class_dim for axis in axes)

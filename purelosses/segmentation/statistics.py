r"""Overlap statistics: the few sums per region that every overlap loss is made of."""

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
    check_number,
    check_target,
    complain,
)
from purelosses._numerics import (
    at_label,
    computed_once,
    excess,
    log_partition,
    power,
    promote,
    replaced,
    weighted,
)
from purelosses._types import Activation
from purelosses.classification import binary_cross_entropy_with_logits, sigmoid_focal_with_logits
from purelosses.segmentation.pixels import (
    check_regions,
    clean_labels,
    clean_pixels,
    count_pixels,
    masked,
    pixel_mask,
    probabilities,
)

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
    class_dim, dim, _, _ = check_regions(
        function, name, prediction, activation, layout.class_dim, layout.dim
    )
    check_target(function, target, prediction, name, class_dim)
    pixels = pixel_mask(function, name, prediction, class_dim, layout.where)
    # A target of 0 and 1 is no soft one.
    soft_target = soft_target and not squared and target.is_floating_point()
    if not soft_target:
        fused = _fused.overlap(
            function,
            prediction,
            target,
            layout.where,
            activation,
            class_dim,
            dim,
            extras,
            gamma,
            squared,
        )
        if fused is not None:
            count = count_pixels(prediction, pixels, dim, fused["tp"].dtype)
            return {**fused, "count": count}
    if activation == "softmax" and target.ndim < prediction.ndim and "tn" not in extras:
        assert class_dim is not None
        logits = masked(promote(prediction), pixels)
        labels = clean_labels(function, target, logits.shape[class_dim], class_dim, pixels)
        statistics = _of_labels(logits, *labels, pixels, class_dim, dim, squared, extras, gamma)
        return {**statistics, "count": count_pixels(logits, pixels, dim)}
    hard = not target.is_floating_point()
    prediction, target = clean_pixels(function, prediction, target, class_dim, pixels)
    probs, complement = probabilities(prediction, activation, class_dim)
    if hard or not (squared or soft_target):
        over, under = probs * (1 - target), complement * target
    else:
        above = excess(probs, complement, target)
        over = above.relu()
        # Squares are curved at p = y too, so that one of both has a slope there.
        under = over - above if squared else (-above).relu()
    if squared:
        over, under = over.square(), under.square()
    sums = {"tp": probs * target, "fp": over, "fn": under}
    if soft_target:
        sums["tp"] = torch.where(above > 0, target, probs)
    if "tn" in extras:
        sums["tn"] = complement * (1 - target)
        if soft_target:
            sums["tn"] = torch.where(above > 0, complement, 1 - target)
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
    return {**statistics, "count": count_pixels(prediction, pixels, dim)}


def _of_labels(
    logits: Tensor,
    labels: Tensor,
    valid: Tensor,
    pixels: Tensor | None,
    class_dim: int,
    dim: tuple[int, ...],
    squared: bool,
    extras: Sequence[Extra],
    gamma: float | Tensor,
) -> dict[str, Tensor]:
    """The statistics of exclusive classes: the target of the label is 1, that of all others 0.

    What is of the label is one number for each pixel, until the sums over each class are taken.
    """
    split, at = at_label(logits, labels, class_dim), labels.unsqueeze(class_dim)
    nothing = torch.where(valid.unsqueeze(class_dim), logits.new_zeros(()), torch.nan)
    own = {"tp": split.prob, "fn": split.miss.square() if squared else split.miss}
    if "ce" in extras:
        own["ce"] = split.surprisal
    if "focal" in extras:
        own["focal"] = power(split.miss, gamma) * split.surprisal
    scale, *values = computed_once(
        *(masked(value + nothing, pixels) for value in (split.scale, *own.values()))
    )
    statistics = {}
    for name, value in zip(own, values, strict=True):
        spread = replaced(nothing.expand_as(logits), at, class_dim, value)
        statistics[name] = _total(spread, dim)
    others = split.others * scale
    statistics["fp"] = _total(others.square() if squared else others, dim)
    if "surprisal" in extras:
        surprisal = split.excess + nothing - split.below
        statistics["surprisal"] = _total(masked(surprisal, pixels), dim)
    names = ("tp", "fp", "fn", *extras)
    return dict(zip(names, computed_once(*(statistics[name] for name in names)), strict=True))


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
    regions = check_regions(function, "prediction", prediction, activation, class_dim, dim)
    axis = regions.class_axis
    labels = check_target(function, target, prediction, "prediction", class_dim)
    pixels = pixel_mask(function, "prediction", prediction, class_dim, where)
    if axis is None:
        must = f"leave the class axis, {class_dim}, for it is summed apart"
        raise ValueError(complain(function, "dim", must, dim))
    one_class = prediction.narrow(class_dim, 0, 1)
    count = count_pixels(one_class, pixels, regions.dim, promote(one_class).dtype).squeeze(axis)
    if labels and activation == "softmax":
        fused = _fused.confusion(function, prediction, target, where, class_dim, regions.dim)
        if fused is not None:
            return {"confusion": fused, "count": count}
    prediction, target = clean_pixels(function, prediction, target, class_dim, pixels)
    probs, _ = probabilities(prediction, activation, class_dim)
    # One true class at a time: elementwise, where autocast would halve a product of matrices.
    rows = [
        _total(target.narrow(class_dim, label, 1) * probs, regions.dim).movedim(axis, -1)
        for label in range(probs.shape[class_dim])
    ]
    return {"confusion": torch.stack(rows, -2), "count": count}


def _total(values: Tensor, dim: tuple[int, ...]) -> Tensor:
    """The sum, axis by axis: over axes that are apart torch's own has errors of 3e-6."""
    for axis in sorted(dim, reverse=True):
        values = values.sum(axis)
    return values

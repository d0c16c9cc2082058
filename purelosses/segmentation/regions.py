r"""What all overlap losses do with their regions: select classes, value absent ones, reduce."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor

from purelosses._checks import (
    check_axis,
    check_choice,
    check_number,
    check_reduction,
    check_weights,
    complain,
)
from purelosses._reduce import reduce
from purelosses._types import Reduction
from purelosses.segmentation.pixels import Classes, class_axis, select_classes
from purelosses.segmentation.statistics import Layout, overlap

Empty: TypeAlias = Literal["smooth", "penalize"]
# One number, or a pair for numerator and denominator.
Smooth: TypeAlias = float | Tensor | tuple[float, float]


class Ending(NamedTuple):
    """How losses are made from statistics."""

    classes: Classes
    empty: Empty
    weights: Tensor | None
    reduction: Reduction


@dataclass(frozen=True)
class Regions:
    """The statistics of the selected regions, and how their losses become the result."""

    function: str  # the name that messages give
    statistics: Mapping[str, Tensor]
    whole: Mapping[str, Tensor]  # of all classes
    counted: Tensor  # which of the selected regions have pixels
    class_dim: int | None  # the class axis of the statistics
    ending: Ending
    alone: bool  # whether a first axis of length 1 was added, see `select`

    def __getitem__(self, name: str) -> Tensor:
        return self.statistics[name]

    def penalized(self, losses: Tensor) -> Tensor:
        """The losses, with those of absent classes as `empty` says."""
        if self.ending.empty == "smooth":
            return losses
        absent = self["tp"] + self["fn"] == 0  # NaN, a bad label, is not
        return torch.where(absent, self.mean(self["tp"] + self["fp"]), losses)

    def mean(self, sums: Tensor) -> Tensor:
        """The mean over the pixels of each region."""
        return sums / self["count"].clamp_min(1)

    def reduce(self, losses: Tensor) -> Tensor:
        """From one loss per region."""
        return self._reduce(losses, self.counted)

    def reduce_units(self, losses: Tensor) -> Tensor:
        """From one loss for all classes of a region."""
        return self._reduce(losses, self.counted.any(self.class_axis))

    def _reduce(self, losses: Tensor, counted: Tensor) -> Tensor:
        weights = self.ending.weights
        if self.alone:
            losses, counted = losses.squeeze(0), counted.squeeze(0)
        if weights is not None:
            check_weights(self.function, weights, losses.shape, "the regions", losses)
        return reduce(losses, self.ending.reduction, counted, weights)

    @property
    def class_axis(self) -> int:
        assert self.class_dim is not None
        return self.class_dim

    def over_classes(self, values: Tensor) -> Tensor:
        """The sum over the classes that count."""
        return torch.where(self.counted, values, 0.0).sum(self.class_axis)

    def mean_over_classes(self, losses: Tensor) -> Tensor:
        return self.over_classes(losses) / self.counted.sum(self.class_axis).clamp_min(1)

    def pixel_mean(self, sums: Tensor) -> Tensor:
        """The mean over pixels of terms that were summed for every class, selected or not."""
        count = self.whole["count"].select(self.class_axis, 0)  # the same for every class
        return sums.sum(self.class_axis) / count.clamp_min(1)


def measure(
    function: str,
    data: tuple[Tensor, Tensor],
    layout: Layout,
    ending: Ending,
    *,
    name: str = "prediction",
    pooled: bool = False,
) -> Regions:
    """The regions of a prediction; `pooled` if the loss has one value for all classes."""
    statistics = overlap(function, name, *data, layout)
    class_dim = class_axis(data[0].ndim, layout.class_dim, layout.dim)
    if pooled and class_dim is None:
        if layout.class_dim is None:
            must = "be the axis of the classes"
            raise TypeError(complain(function, "class_dim", must, None))
        must = "leave the class axis, for it is summed apart"
        raise ValueError(complain(function, "dim", must, layout.dim))
    return select(function, statistics, class_dim, ending, layout.extras, pooled=pooled)


def select(
    function: str,
    statistics: Mapping[str, Tensor],
    class_dim: int | None,
    ending: Ending,
    extras: Sequence[str] = (),
    *,
    pooled: bool = False,
) -> Regions:
    """The regions of the selected classes."""
    classes = ending.classes
    check_choice(function, "empty", ending.empty, get_args(Empty))
    check_reduction(function, ending.reduction)
    needed = {"tp", "fp", "fn", "count", *extras}
    if not isinstance(statistics, Mapping) or not statistics.keys() >= needed:
        must = f"be what `overlap_statistics` returns, with {sorted(needed)}"
        got = sorted(statistics) if isinstance(statistics, Mapping) else repr(statistics)
        raise ValueError(complain(function, "statistics", must, got))
    statistics = {name: statistics[name] for name in needed}
    selected, ndim = statistics, statistics["tp"].ndim
    if pooled:
        class_dim = check_axis(function, "class_dim", class_dim, ndim, "statistics")
    if classes not in ("all", "present"):
        axis = None
        if class_dim is not None and ndim:
            axis = check_axis(function, "class_dim", class_dim, ndim, "statistics")
        names, values = list(selected), list(selected.values())
        values = select_classes(function, classes, ("all", "present"), values, axis)
        selected = dict(zip(names, values, strict=True))
    counted = selected["count"] > 0
    if classes == "present":
        counted = counted & (selected["tp"] + selected["fn"] != 0)  # NaN, a bad label, counts
    # In forward mode torch takes a number times or plus a tensor without axes to float64. A region
    # alone, or classes that become one, keep an axis until their loss is reduced.
    alone = ndim <= pooled
    if alone:
        whole = statistics
        statistics = _with_axis(whole)
        selected = statistics if selected is whole else _with_axis(selected)
        counted = counted.unsqueeze(0)
        class_dim = class_dim + 1 if class_dim is not None and class_dim >= 0 else class_dim
    return Regions(function, selected, statistics, counted, class_dim, ending, alone)


def _with_axis(statistics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: sums.unsqueeze(0) for name, sums in statistics.items()}


def check_smooth(function: str, smooth: Smooth) -> tuple[float | Tensor, float | Tensor]:
    """The smoothing of numerator and denominator."""
    if not isinstance(smooth, tuple):
        number = check_number(function, "smooth", smooth, minimum=0)
        return number, number
    if len(smooth) != 2 or any(isinstance(number, Tensor) for number in smooth):
        must = "be a number, a tensor or a pair of numbers"
        raise TypeError(complain(function, "smooth", must, repr(smooth)))
    top, bottom = (check_number(function, "smooth", number, minimum=0) for number in smooth)
    if top > bottom:
        must = "have a numerator of at most the denominator, or the loss falls below 0"
        raise ValueError(complain(function, "smooth", must, smooth))
    return top, bottom

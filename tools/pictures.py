"""Pictures of the losses for the documentation, computed from the losses themselves.

`figure(name)` is what a loss page shows, `sparkline(name)` what a card of the gallery shows. Both
are SVG inside the page: ink takes the colours of the page (`currentColor` and the variables of
docs/assets/extra.css), and the same loss gives the same bytes.
"""

import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

import purelosses as pl
from purelosses.registry import LOSSES
from tools.gen_pages import title

# Colours that stand for those of the page, and are replaced in the finished SVG.
TEXT, FAINT = "#010101", "#010102"
INKS = ("#010111", "#010112", "#010113", "#010114")
COLOURS = {TEXT: "currentColor", FAINT: "var(--ink-faint)"}
COLOURS |= {ink: f"var(--ink-{k})" for k, ink in enumerate(INKS, 1)}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "purelosses",
    "font.size": 8,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": TEXT,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": TEXT,
    "axes.titlelocation": "left",
    "axes.titlesize": 8,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "legend.handlelength": 1.3,
    "legend.labelcolor": TEXT,
    "lines.linewidth": 1.5,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": TEXT,
    "ytick.labelcolor": TEXT,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
SIZE = (3.3, 2.25)

Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Curve:
    """Losses along one number: n values in, n losses out; the first line is the default."""

    label: str
    span: tuple[float, float]
    lines: Mapping[str, Function]
    caption: str = ""

    def values(self, line: str, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Places, losses and slopes, where finite; one sum of the losses has all slopes."""
        x = torch.linspace(*self.span, count, dtype=torch.float64, requires_grad=True)
        y = self.lines[line](x)
        (slope,) = torch.autograd.grad(y.sum(), x)
        drawn = y.isfinite() & slope.isfinite()
        return x.detach()[drawn], y.detach()[drawn], slope[drawn]


Variants = Mapping[str, Mapping[str, Any]]


def of_residual(name: str, span: float = 4.0, variants: Variants | None = None) -> Curve:
    loss: Callable[..., Tensor] = getattr(pl, name)

    def line(x: Tensor, **options: Any) -> Tensor:
        return loss(x, torch.zeros_like(x), reduction="none", **options)

    lines = {label: partial(line, **given) for label, given in (variants or {"": {}}).items()}
    return Curve("prediction − target", (-span, span), lines)


def of_prediction(name: str, target: float, span: tuple[float, float]) -> Curve:
    loss: Callable[..., Tensor] = getattr(pl, name)

    def line(x: Tensor) -> Tensor:
        return loss(x, torch.full_like(x, target), reduction="none")

    return Curve(f"prediction, for a target of {target:g}", span, {"": line})


def of_logit(name: str, *, targets: Sequence[float] = (1, 0), **options: Any) -> Curve:
    loss: Callable[..., Tensor] = getattr(pl, name)

    def line(x: Tensor, target: float) -> Tensor:
        return loss(x, torch.full_like(x, target), reduction="none", **options)

    lines = {f"target {target:g}": partial(line, target=target) for target in targets}
    return Curve("logit", (-5, 5), lines)


def three(x: Tensor) -> Tensor:
    """Logits of three classes, of which the first is x."""
    return torch.stack([x, torch.zeros_like(x), torch.zeros_like(x)], dim=1)


def first_class(x: Tensor) -> Tensor:
    return torch.zeros(x.shape, dtype=torch.long)


def of_class(name: str, variants: Variants | None = None, *, beside: bool = False) -> Curve:
    """Along the logit of the true class; the other two are 0."""
    loss: Callable[..., Tensor] = getattr(pl, name)

    def line(x: Tensor, **options: Any) -> Tensor:
        return loss(three(x), first_class(x), reduction="none", **options)

    alone = title(LOSSES[name]) if beside else ""
    lines: dict[str, Function] = {
        label: partial(line, **given) for label, given in (variants or {alone: {}}).items()
    }
    if beside:
        lines["cross-entropy"] = of_class("cross_entropy_loss").lines[""]
    return Curve("logit of the true class, the other two at 0", (-6, 6), lines)


def of_distribution(name: str, variants: Variants) -> Curve:
    """Along a logit, for a target that is a distribution itself."""
    loss: Callable[..., Tensor] = getattr(pl, name)
    target = torch.tensor([0.6, 0.2, 0.2], dtype=torch.float64)

    def line(x: Tensor, **options: Any) -> Tensor:
        return loss(three(x), target.expand(len(x), 3), reduction="none", **options)

    lines = {label: partial(line, **given) for label, given in variants.items()}
    return Curve("logit of the first class, whose share is 0.6", (-6, 6), lines)


def level(x: Tensor, value: float) -> Tensor:
    return torch.full_like(x, value)


def gaussian(loss: Callable[..., Tensor], log_scale: float, **options: Any) -> Function:
    return lambda x: loss(x, level(x, log_scale), level(x, 0), reduction="none", **options)


def counts(loss: Callable[..., Tensor], target: float, *scale: float, **options: Any) -> Function:
    return lambda x: loss(
        x, *(level(x, s) for s in scale), level(x, target), reduction="none", **options
    )


def turned(x: Tensor) -> Tensor:
    return torch.stack([x.cos(), x.sin()], dim=-1)


def mixture(x: Tensor) -> Tensor:
    means = torch.tensor([-1.5, 1.5], dtype=x.dtype).expand(len(x), 2)
    scale = torch.full_like(means, -1.0)
    return pl.gaussian_mixture_nll_loss(torch.zeros_like(means), means, scale, x, reduction="none")


def ensemble(x: Tensor, spread: float, **options: Any) -> Tensor:
    members = x[:, None] + spread * torch.tensor([-1.0, -0.3, 0.3, 1.0], dtype=x.dtype)
    return pl.crps_ensemble_loss(members, torch.zeros_like(x), reduction="none", **options)


def energy(x: Tensor, spread: float) -> Tensor:
    members = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=x.dtype)
    shifted = spread * members + torch.stack([x, torch.zeros_like(x)], -1)[:, None]
    return pl.energy_score_loss(shifted, x.new_zeros(len(x), 2), reduction="none")


def interval(x: Tensor, alpha: float) -> Tensor:
    return pl.interval_score_loss(x - 1, x + 1, torch.zeros_like(x), alpha=alpha, reduction="none")


def adaptive(x: Tensor, alpha_logit: float) -> Tensor:
    params = {"alpha_logit": x.new_full((1,), alpha_logit), "log_scale": x.new_zeros(1)}
    x = x[:, None]
    return pl.adaptive_robust_loss(params, x, torch.zeros_like(x), reduction="none")[:, 0]


def ordinal(loss: Callable[..., Tensor], label: int) -> Function:
    """Scores of three thresholds, moved together."""
    steps = torch.tensor([1.5, 0.0, -1.5], dtype=torch.float64)
    return lambda x: loss(
        x[:, None] + steps, torch.full(x.shape, label, dtype=torch.long), reduction="none"
    )


def cutpoints(x: Tensor, label: int) -> Tensor:
    params = {"first": x.new_tensor(-1.5), "gaps": x.new_full((2,), 1.3)}
    target = torch.full(x.shape, label, dtype=torch.long)
    return pl.cumulative_link_loss(params, x, target, reduction="none")


def between_bins(x: Tensor, target: float) -> Tensor:
    """Logits of a bump over five bins, whose centre moves."""
    logits = -((torch.arange(5, dtype=x.dtype) - x[:, None]) ** 2)
    return pl.distribution_focal_loss(logits, torch.full_like(x, target), reduction="none")


def distilled(x: Tensor, temperature: float) -> Tensor:
    teacher = three(torch.full_like(x, 2.0))
    return pl.knowledge_distillation_loss(
        three(x), teacher, temperature=temperature, reduction="none"
    )


def remembered(x: Tensor, share: float) -> Tensor:
    average = torch.tensor([share, (1 - share) / 2, (1 - share) / 2], dtype=x.dtype)
    return pl.elr_loss(three(x), first_class(x), average.expand(len(x), 3), reduction="none")


def tempered(x: Tensor, label: int) -> Tensor:
    def one(log_temperature: Tensor) -> Tensor:
        logits = torch.tensor([[2.0, 0.0, 0.0]], dtype=x.dtype)
        return pl.tempered_cross_entropy_loss(logits, torch.tensor([label]), log_temperature)

    return torch.func.vmap(one)(x)


def corrected(loss: Callable[..., Tensor], noise: float) -> Function:
    transition = torch.full((3, 3), noise / 2, dtype=torch.float64)
    transition.fill_diagonal_(1 - noise)
    return lambda x: loss(three(x), first_class(x), transition=transition, reduction="none")


# Segmentation: a disc that moves over a disc, or a line with a gap.


def grid(size: int) -> tuple[Tensor, Tensor]:
    ticks = (torch.arange(size, dtype=torch.float64) + 0.5) / size * 2 - 1
    v, u = torch.meshgrid(ticks, ticks, indexing="ij")
    return u, v


def disc(shift: Tensor | float, size: int) -> Tensor:
    """Logits of a disc."""
    u, v = grid(size)
    return 14 * (0.45 - torch.sqrt((u - shift) ** 2 + v**2))


def line(gap: Tensor | float, size: int) -> Tensor:
    """Logits of a line that is broken in the middle."""
    u, v = grid(size)
    return torch.minimum(40 * (0.13 - v.abs()), 15 * (u.abs() - gap))


Scene = Callable[[Tensor | float, int], Tensor]


def call(name: str, scores: Tensor, mask: Tensor) -> Tensor:
    """The loss of an image of logits for a mask, the way that this loss is called."""
    loss: Callable[..., Tensor] = getattr(pl, name)
    classes = torch.stack([torch.zeros_like(scores), scores])[None]
    labels = mask.long()[None]
    match name:
        case "lovasz_hinge_loss" | "dice_bce_loss" | "dice_focal_loss":
            return loss(scores, mask)
        case "lovasz_softmax_loss" | "dice_ce_loss" | "unified_focal_loss" | "nacl_loss":
            return loss(classes, labels)
        case "generalized_dice_loss":
            return loss(classes, labels, activation="softmax")
        case "generalized_wasserstein_dice_loss":
            distance = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=scores.dtype)
            return loss(classes, labels, distance=distance, activation="softmax")
        case "boundary_loss":
            return loss(scores, pl.signed_distance_map(mask), activation="sigmoid")
    return loss(scores, mask, activation="sigmoid")


def of_scene(name: str, scene: Scene, label: str, span: tuple[float, float]) -> Curve:
    mask = scene(0.0 if scene is disc else -1.0, 24) > 0

    def losses(of: str) -> Function:
        return torch.func.vmap(lambda x: call(of, scene(x, 24), mask))

    lines = {title(LOSSES[name]): losses(name)}
    if name != "dice_loss":
        lines["Dice"] = losses("dice_loss")
    return Curve(label, span, lines)


# Boxes: one box slides past another.


def of_box(name: str) -> Curve:
    def losses(loss: Callable[..., Tensor]) -> Function:
        def moved(x: Tensor) -> Tensor:
            shift = torch.stack([x, torch.zeros_like(x), x, torch.zeros_like(x)], dim=-1)
            boxes = shift + torch.tensor(PREDICTED, dtype=x.dtype)
            return loss(boxes, torch.tensor(TRUE, dtype=x.dtype).expand_as(boxes))

        return moved

    options = {"mpdiou_loss": {"image_size": (6, 6)}}.get(name, {})
    call = partial(getattr(pl, name), reduction="none", **options)
    if name == "wiou_loss":
        call = partial(pl.wiou_loss, pl.wiou_init(), version="v1", reduction="none")
    lines = {title(LOSSES[name]): losses(call)}
    if name != "iou_loss":
        lines["IoU"] = losses(partial(pl.iou_loss, reduction="none"))
    return Curve("shift of the predicted box", (-4, 4), lines)


TRUE, PREDICTED = (-1.0, -1.0, 1.0, 1.0), (-1.2, -0.7, 1.2, 0.7)

# Several tasks: two losses that want different things.


def total(name: str, losses: Mapping[str, Tensor], log_vars: Any = None) -> Tensor:
    function = getattr(pl, name)
    if log_vars is not None:
        return function(log_vars, losses)[0]  # type: ignore[no-any-return]
    return function(losses)[0]  # type: ignore[no-any-return]


def of_tasks(name: str) -> Curve:
    def totals(other: float) -> Function:
        def one(x: Tensor) -> Tensor:
            losses = {"a": x, "b": torch.full_like(x, other)}
            uncertain = name == "uncertainty_weighted_loss"
            log_vars = pl.uncertainty_weighted_init(["a", "b"]) if uncertain else None
            return total(name, losses, log_vars)

        return torch.func.vmap(one)

    return Curve(
        "loss of one task", (0.1, 4), {f"the other at {b:g}": totals(b) for b in (1.0, 2.0, 0.5)}
    )


OTHER_MAPS = [
    "lovasz_hinge_loss",
    "lovasz_softmax_loss",
    "boundary_loss",
    "hausdorff_dt_loss",
    "nacl_loss",
]
LINES = ["cldice_loss", "dice_cldice_loss", "skeleton_recall_loss"]
OVERLAP = [
    name
    for name, spec in LOSSES.items()
    if spec.family == "segmentation" and name not in (*OTHER_MAPS, *LINES)
]
BOXES = [name for name in LOSSES if name.endswith("iou_loss")]
TASKS = [
    name
    for name, spec in LOSSES.items()
    if spec.family == "balance" and name != "tempered_cross_entropy_loss"
]


def _each(option: str, symbol: str, *values: float) -> dict[str, Any]:
    return {f"{symbol} = {value:g}": {option: value} for value in values}


CURVES: dict[str, Curve] = {
    "mse_loss": of_residual("mse_loss", 2.5),
    "l1_loss": of_residual("l1_loss"),
    "huber_loss": of_residual("huber_loss", 4, _each("delta", "δ", 1, 0.5, 2)),
    "smooth_l1_loss": of_residual("smooth_l1_loss", 4, _each("beta", "β", 1, 0.5, 2)),
    "pseudo_huber_loss": of_residual("pseudo_huber_loss", 4, _each("delta", "δ", 1, 0.5, 2)),
    "charbonnier_loss": of_residual("charbonnier_loss", 4, _each("eps", "ε", 0.001, 0.5, 1)),
    "log_cosh_loss": of_residual("log_cosh_loss"),
    "cauchy_loss": of_residual("cauchy_loss", 6, _each("scale", "scale", 1, 0.5, 2)),
    "geman_mcclure_loss": of_residual("geman_mcclure_loss", 6, _each("scale", "scale", 1, 0.5, 2)),
    "welsch_loss": of_residual("welsch_loss", 6, _each("scale", "scale", 1, 0.5, 2)),
    "tukey_biweight_loss": of_residual("tukey_biweight_loss", 6, _each("c", "c", 4.685, 2, 3)),
    "general_robust_loss": of_residual("general_robust_loss", 5, _each("alpha", "α", 1, 2, 0, -2)),
    "adaptive_robust_loss": Curve(
        "prediction − target",
        (-5, 5),
        {
            f"α = {2 / (1 + math.exp(-a)):.2f}": partial(adaptive, alpha_logit=a)
            for a in (0.0, 3.0, -3.0)
        },
    ),
    "quantile_loss": of_residual("quantile_loss", 3, _each("quantiles", "τ", 0.9, 0.5, 0.1)),
    "expectile_loss": of_residual("expectile_loss", 2.5, _each("q", "q", 0.9, 0.5, 0.1)),
    "squared_log_loss": of_prediction("squared_log_loss", 3, (0, 12)),
    "absolute_percentage_loss": of_prediction("absolute_percentage_loss", 3, (-1, 8)),
    "symmetric_percentage_loss": of_prediction("symmetric_percentage_loss", 3, (-1, 12)),
    "cosine_distance_loss": Curve(
        "angle between the vectors, in radians",
        (-math.pi, math.pi),
        {"": lambda x: pl.cosine_distance_loss(turned(x), turned(0 * x), reduction="none")},
    ),
    "relative_l2_loss": Curve(
        "prediction = x · target",
        (-1, 3),
        {
            "": lambda x: pl.relative_l2_loss(
                x[:, None] * torch.ones(4), torch.ones(len(x), 4), reduction="none"
            )
        },
    ),
    "gaussian_nll_loss": Curve(
        "mean − target",
        (-3, 3),
        {f"log variance {s:g}": gaussian(pl.gaussian_nll_loss, s) for s in (0, -1, 1)},
    ),
    "beta_gaussian_nll_loss": Curve(
        "mean − target, at a log variance of −1",
        (-3, 3),
        {f"β = {b:g}": gaussian(pl.beta_gaussian_nll_loss, -1, beta=b) for b in (0.5, 0, 1)},
    ),
    "laplace_nll_loss": Curve(
        "location − target",
        (-3, 3),
        {f"log scale {s:g}": gaussian(pl.laplace_nll_loss, s) for s in (0, -1, 1)},
    ),
    "student_t_nll_loss": Curve(
        "location − target",
        (-6, 6),
        {f"df = {d:g}": gaussian(pl.student_t_nll_loss, 0, df=d) for d in (3, 1, 30)},
    ),
    "gaussian_mixture_nll_loss": Curve("target, means at −1.5 and 1.5", (-4, 4), {"": mixture}),
    "poisson_nll_loss": Curve(
        "log rate",
        (-2, 3),
        {f"target {t:g}": counts(pl.poisson_nll_loss, t) for t in (4, 1, 0)},
    ),
    "gamma_nll_loss": Curve(
        "log mean, for a target of 2",
        (-1, 3),
        {f"log shape {s:g}": counts(pl.gamma_nll_loss, 2, s) for s in (0, 1, 2)},
    ),
    "negative_binomial_nll_loss": Curve(
        "log mean, for a target of 4",
        (-2, 4),
        {f"log shape {s:g}": counts(pl.negative_binomial_nll_loss, 4, s) for s in (0, -1, 2)},
    ),
    "tweedie_deviance_loss": Curve(
        "log mean, for a target of 2",
        (-1, 3),
        {f"power {p:g}": counts(pl.tweedie_deviance_loss, 2, power=p) for p in (1.5, 1, 2)},
    ),
    "crps_gaussian_loss": Curve(
        "mean − target",
        (-3, 3),
        {f"log variance {s:g}": gaussian(pl.crps_gaussian_loss, s) for s in (0, -2, 1)},
    ),
    "crps_ensemble_loss": Curve(
        "ensemble mean − target",
        (-3, 3),
        {f"spread ±{s:g}": partial(ensemble, spread=s) for s in (1, 0.2, 2)},
    ),
    "interval_score_loss": Curve(
        "centre of the interval (width 2) − target",
        (-3, 3),
        {f"α = {a:g}": partial(interval, alpha=a) for a in (0.5, 0.2, 0.8)},
    ),
    "energy_score_loss": Curve(
        "shift of the ensemble, in the plane",
        (-4, 4),
        {f"spread {s:g}": partial(energy, spread=s) for s in (1, 0.2, 2)},
    ),
    "binary_cross_entropy_loss": of_logit("binary_cross_entropy_loss"),
    "cross_entropy_loss": of_class("cross_entropy_loss"),
    "sigmoid_focal_loss": Curve(
        "logit, target 1",
        (-5, 5),
        {
            f"γ = {g:g}": of_logit("sigmoid_focal_loss", gamma=float(g)).lines["target 1"]
            for g in (2, 0, 5)
        },
    ),
    "softmax_focal_loss": of_class("softmax_focal_loss", _each("gamma", "γ", 2, 0, 5)),
    "poly1_loss": of_class("poly1_loss", _each("epsilon", "ε", 1, 0, 2)),
    "asymmetric_loss": of_logit("asymmetric_loss"),
    "hinge_loss": Curve(
        "score, target 1",
        (-3, 3),
        {f"power {p}": of_logit("hinge_loss", power=p).lines["target 1"] for p in (1, 2)},
    ),
    "soft_margin_loss": of_logit("soft_margin_loss", targets=(1, -1)),
    "multiclass_hinge_loss": of_class(
        "multiclass_hinge_loss",
        {
            "Crammer–Singer": {"kind": "crammer_singer"},
            "Weston–Watkins": {"kind": "weston_watkins"},
        },
    ),
    "kl_divergence_loss": of_distribution(
        "kl_divergence_loss", {name: {"direction": name} for name in ("forward", "reverse")}
    ),
    "js_divergence_loss": of_distribution("js_divergence_loss", _each("beta", "β", 0.5, 0.1, 0.9)),
    "knowledge_distillation_loss": Curve(
        "student's first logit, teacher's is 2",
        (-4, 8),
        {f"T = {t:g}": partial(distilled, temperature=t) for t in (1, 2, 4)},
    ),
    "confidence_penalty_loss": of_class("confidence_penalty_loss", _each("beta", "β", 0.1, 0, 0.5)),
    "brier_loss": of_class("brier_loss", beside=True),
    "coral_loss": Curve(
        "score of the rank",
        (-5, 5),
        {f"label {k}": ordinal(pl.coral_loss, k) for k in (1, 0, 3)},
    ),
    "corn_loss": Curve(
        "score of the rank",
        (-5, 5),
        {f"label {k}": ordinal(pl.corn_loss, k) for k in (1, 0, 3)},
    ),
    "cumulative_link_loss": Curve(
        "score",
        (-5, 5),
        {f"label {k}": partial(cutpoints, label=k) for k in (1, 0, 3)},
    ),
    "generalized_cross_entropy_loss": of_class(
        "generalized_cross_entropy_loss", _each("q", "q", 0.7, 1), beside=True
    ),
    "symmetric_cross_entropy_loss": of_class("symmetric_cross_entropy_loss", beside=True),
    "normalized_cross_entropy_loss": of_class("normalized_cross_entropy_loss", beside=True),
    "active_passive_loss": of_class("active_passive_loss", beside=True),
    "bootstrap_loss": of_class(
        "bootstrap_loss",
        {"soft, β = 0.8": {"beta": 0.8}, "hard, β = 0.8": {"kind": "hard", "beta": 0.8}},
        beside=True,
    ),
    "forward_correction_loss": Curve(
        "logit of the label, the other two at 0",
        (-6, 6),
        {f"noise {n:.0%}": corrected(pl.forward_correction_loss, n) for n in (0.2, 0, 0.4)},
    ),
    "backward_correction_loss": Curve(
        "logit of the label, the other two at 0",
        (-6, 6),
        {f"noise {n:.0%}": corrected(pl.backward_correction_loss, n) for n in (0.2, 0, 0.4)},
    ),
    "taylor_cross_entropy_loss": of_class(
        "taylor_cross_entropy_loss",
        {f"order {n}": {"order": n} for n in (2, 1, 6)},
        beside=True,
    ),
    "bi_tempered_loss": of_class("bi_tempered_loss", beside=True),
    "elr_loss": Curve(
        "logit of the label, the other two at 0",
        (-6, 6),
        {f"share of the label so far {s:g}": partial(remembered, share=s) for s in (0.8, 0.4, 0.1)},
    ),
    "quality_focal_loss": of_logit("quality_focal_loss", targets=(0.7, 0.0, 1.0)),
    "varifocal_loss": of_logit("varifocal_loss", targets=(0.7, 0.0, 1.0)),
    "distribution_focal_loss": Curve(
        "centre of the predicted bump, over bins 0 to 4",
        (0, 4),
        {f"target {t:g}": partial(between_bins, target=t) for t in (1.3, 2.5)},
    ),
    "tempered_cross_entropy_loss": Curve(
        "logarithm of the temperature; logits 2, 0, 0",
        (-2, 3),
        {
            label: partial(tempered, label=k)
            for label, k in (("label predicted", 0), ("label not predicted", 1))
        },
    ),
}
CURVES |= {
    name: of_scene(name, disc, "shift of the predicted disc", (-1.3, 1.3))
    for name in [*OVERLAP, *OTHER_MAPS]
}
CURVES |= {name: of_scene(name, line, "half width of the gap", (-0.2, 0.9)) for name in LINES}
CURVES |= {name: of_box(name) for name in BOXES}
CURVES |= {name: of_tasks(name) for name in TASKS}


def along_a_line(name: str) -> Curve:
    """For a loss without a curve of its own: a sample of the registry, moved along a line."""
    spec = LOSSES[name]
    problem = spec.cases[0].problem(dtype=torch.float64)
    moved = problem.differentiable[0]
    start = problem.tensors[moved]
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(start.shape, generator=generator, dtype=start.dtype)
    direction = direction / direction.norm()

    def line(x: Tensor) -> Tensor:
        found = [problem.having(**{moved: start + step * direction})(spec.loss) for step in x]
        return torch.stack([value[0] if isinstance(value, tuple) else value for value in found])

    return Curve(f"shift of `{moved}` along a random direction", (-3, 3), {"": line})


def curve_of(name: str) -> Curve:
    return CURVES.get(name) or along_a_line(name)


# Drawing.


def svg(draw: Callable[[Axes], object], label: str, size: tuple[float, float] = SIZE) -> str:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        file = io.StringIO()
        empty = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(file, format="svg", transparent=True, metadata=empty)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]+)"[^>]*>', opening(label), text, count=1)
    for colour, replacement in COLOURS.items():
        text = text.replace(colour, replacement)
    text = re.sub(r"(\d\.\d)\d{2,}", r"\1", text)  # a tenth of a point is enough
    text = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", text)
    return re.sub(r"\n\s*", " ", text).strip()


def opening(label: str) -> str:
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {spaces} viewBox="\\1" role="img" aria-label="{html.escape(label)}">'


def draw_lines(axes: Axes, curve: Curve, what: str) -> None:
    for (name, ink), style in zip(
        zip(curve.lines, INKS, strict=False), ("-", "--", "-.", ":"), strict=False
    ):
        x, y, slope = curve.values(name, 161)
        axes.plot(x, y if what == "value" else slope, style, color=ink, label=name)
    axes.set_title(what)
    axes.set_xlabel(curve.label)
    if len(curve.lines) > 1 and what == "value":
        axes.legend(loc="best")


def spread(values: Tensor, bound: float) -> np.ndarray[Any, Any]:
    return (values / bound).clamp(-1, 1).numpy()


def draw_overlap(axes: Axes) -> None:
    """True positives, false positives and false negatives of a shifted disc."""
    u, v = (c.numpy() for c in grid(64))
    true, predicted = disc(0.0, 64), disc(0.35, 64)
    parts = {
        "true positive": torch.minimum(true, predicted),
        "false positive": torch.minimum(-true, predicted),
        "false negative": torch.minimum(true, -predicted),
    }
    for (name, inside), ink in zip(parts.items(), INKS, strict=False):
        axes.contourf(u, v, inside.numpy(), levels=[0, 99], colors=[ink], alpha=0.55)
        axes.fill([], [], color=ink, alpha=0.55, label=name)
    axes.legend(loc="upper center", ncols=3, bbox_to_anchor=(0.5, 0), columnspacing=0.8)
    axes.set_title("what it counts")
    framed(axes, (-0.6, 1.0), (-0.6, 0.6))


def framed(
    axes: Axes, x: tuple[float, float] | None = None, y: tuple[float, float] | None = None
) -> None:
    """No axes: only what is drawn, in its proportions."""
    axes.set_aspect("equal")
    axes.set(xlim=x, ylim=y)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def draw_pixels(axes: Axes, name: str, scene: Scene) -> None:
    """Where the gradient with respect to every logit pushes, and how hard.

    Of the boundary loss with respect to every probability: it is the signed distance.
    """
    size = 64
    truth, at = (0.0, 0.35) if scene is disc else (-1.0, 0.25)
    mask, scores = scene(truth, size) > 0, scene(at, size)
    push = -torch.func.grad(lambda s: call(name, s, mask))(scores)
    if name == "boundary_loss":
        push = -pl.signed_distance_map(mask).to(scores.dtype)
    bound = float(push.abs().max())
    u, v = (c.numpy() for c in grid(size))
    for sign, ink in ((1, INKS[0]), (-1, INKS[1])):
        for low in (0.06, 0.25, 0.5, 0.75):
            axes.contourf(
                u, v, spread(sign * push, bound), levels=[low, 2], colors=[ink], alpha=0.28
            )
    axes.contour(u, v, scene(truth, size).numpy(), levels=[0], colors=[TEXT], linewidths=0.9)
    axes.contour(
        u, v, scores.numpy(), levels=[0], colors=[TEXT], linewidths=0.9, linestyles="dashed"
    )
    signed = ": the signed distance" if name == "boundary_loss" else ""
    axes.set_title(f"where the gradient pushes{signed}")
    framed(axes, *(((-0.8, 1.0), (-0.65, 0.65)) if scene is disc else ((-1, 1), (-0.5, 0.5))))


def draw_boxes(axes: Axes, name: str) -> None:
    """Two boxes, and what the loss measures besides their overlap."""
    shift = 1.3
    true = (-1.0, -1.0, 1.0, 1.0)
    box = (PREDICTED[0] + shift, PREDICTED[1] + 0.8, PREDICTED[2] + shift, PREDICTED[3] + 0.8)
    hull = (min(true[0], box[0]), min(true[1], box[1]), max(true[2], box[2]), max(true[3], box[3]))
    both = (max(true[0], box[0]), max(true[1], box[1]), min(true[2], box[2]), min(true[3], box[3]))

    def add(b: tuple[float, float, float, float], **style: Any) -> None:
        axes.add_patch(Rectangle((b[0], b[1]), b[2] - b[0], b[3] - b[1], **style))

    if name in (
        "giou_loss",
        "diou_loss",
        "ciou_loss",
        "eiou_loss",
        "siou_loss",
        "focal_eiou_loss",
        "wiou_loss",
    ):
        if name == "giou_loss":
            add(hull, fill=True, facecolor=INKS[3], alpha=0.16, linewidth=0)
        add(hull, fill=False, edgecolor=FAINT, linestyle="--", linewidth=0.9)
    add(true, fill=True, facecolor=INKS[0], alpha=0.22, linewidth=0)
    add(box, fill=True, facecolor=INKS[1], alpha=0.22, linewidth=0)
    add(both, fill=True, facecolor=INKS[2], alpha=0.4, linewidth=0)
    add(true, fill=False, edgecolor=INKS[0], linewidth=1.4)
    add(box, fill=False, edgecolor=INKS[1], linewidth=1.4)
    if name in ("diou_loss", "ciou_loss", "eiou_loss", "siou_loss", "focal_eiou_loss", "wiou_loss"):
        middle = [((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in (true, box)]
        axes.plot(*zip(*middle, strict=True), "o-", color=TEXT, markersize=3, linewidth=1)
        axes.plot(hull[::2], hull[1::2], ":", color=FAINT, linewidth=1)
    if name == "mpdiou_loss":
        for k in (0, 2):
            axes.plot(
                (true[k], box[k]), (true[k + 1], box[k + 1]), "o-", color=TEXT, markersize=3,
                linewidth=1,
            )  # fmt: skip
    axes.set_title("what it measures")
    axes.autoscale_view()
    axes.margins(0.06)
    framed(axes)


def task_losses(at: Tensor) -> dict[str, Tensor]:
    """Two tasks that share two parameters; the second counts in units five times as large."""
    return {
        "a": 0.1 + (at[0] - 1) ** 2 + 0.3 * at[1] ** 2,
        "b": 5 * (0.1 + (at[0] + 1) ** 2 + 0.3 * (at[1] - 1) ** 2),
    }


@cache
def descend(name: str, steps: int = 300) -> Tensor:
    """The two task losses along a gradient descent of the total."""
    at = torch.tensor([0.3, 2.2], dtype=torch.float64)
    learnt = name == "uncertainty_weighted_loss"
    log_vars = {"a": torch.zeros((), dtype=at.dtype), "b": torch.zeros((), dtype=at.dtype)}
    path = []
    for _ in range(steps):

        def objective(at: Tensor, log_vars: dict[str, Tensor]) -> Tensor:
            return total(name, task_losses(at), log_vars if learnt else None)

        step, step_vars = torch.func.grad(objective, argnums=(0, 1))(at, log_vars)
        path.append(torch.stack(list(task_losses(at).values())))
        at = at - 0.01 * step
        if learnt:
            log_vars = {key: log_vars[key] - 0.05 * step_vars[key] for key in log_vars}
    return torch.stack(path)


def draw_tasks(axes: Axes, name: str) -> None:
    """The way of a gradient descent, and the trade-offs that nothing beats."""
    share = torch.linspace(0, 1, 60, dtype=torch.float64)
    front = torch.stack(
        [torch.stack(list(task_losses(torch.stack([1 - 2 * s, s])).values())) for s in share]
    )
    axes.plot(*front.T, color=FAINT, linewidth=1, label="best trade-offs")
    names = [name] if name == "weighted_sum_loss" else [name, "weighted_sum_loss"]
    for each, ink, style in zip(names, INKS, ("-", "--"), strict=False):
        path = descend(each)
        axes.plot(*path[::4].T, style, color=ink, label=title(LOSSES[each]))
        axes.plot(*path[-1:].T, "o", color=ink, markersize=4)
    axes.set_xlabel("loss of task a")
    axes.set_ylabel("loss of task b, in larger units")
    axes.set_title("two tasks, gradient descent")
    axes.legend(loc="upper right")


def figure(name: str) -> str:
    """The pictures of a loss page, as HTML."""
    curve = curve_of(name)
    word = title(LOSSES[name])
    parts, caption = [], curve.caption
    if name in OVERLAP:
        parts.append(svg(draw_overlap, "true positives, false positives, false negatives"))
    if name in (*OVERLAP, *OTHER_MAPS, *LINES):
        scene = line if name in LINES else disc
        parts.append(
            svg(lambda axes: draw_pixels(axes, name, scene), f"{word}: gradient per pixel")
        )
        caption = (
            "Solid: the true outline. Dashed: the predicted one. Blue pixels are pushed up, orange "
            "ones down; the darker, the harder."
        )
    if name in BOXES:
        parts.append(svg(lambda axes: draw_boxes(axes, name), f"{word}: two boxes"))
        caption = (
            "Blue: the true box. Orange: the predicted box, which slides past it on the right."
        )
    if name in TASKS:
        parts.append(svg(lambda axes: draw_tasks(axes, name), f"{word}: two tasks"))
        caption = "Each path starts at the same parameters and takes the same number of steps."
    parts.append(svg(lambda axes: draw_lines(axes, curve, "value"), f"{word}: value"))
    parts.append(svg(lambda axes: draw_lines(axes, curve, "gradient"), f"{word}: gradient"))
    if caption:
        parts.append(f"<figcaption>{html.escape(caption)}</figcaption>")
    return f'<figure class="pictures">{"".join(parts)}</figure>'


def polyline(x: Tensor, y: Tensor, kind: str) -> str:
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True))
    return f'<polyline class="{kind}" fill="none" points="{points}"/>'


def sparkline(name: str) -> str:
    """Value and gradient of the default, as a small SVG."""
    curve = curve_of(name)
    x, y, slope = curve.values(next(iter(curve.lines)), 81)
    width, height, edge = 200, 64, 4

    def scaled(values: Tensor) -> Tensor:
        low, high = values.min(), values.max()
        return height - edge - (values - low) / (high - low).clamp_min(1e-12) * (height - 2 * edge)

    x = edge + (x - x[0]) / (x[-1] - x[0]) * (width - 2 * edge)
    level = min(max(float(scaled(torch.cat([slope, slope.new_zeros(1)]))[-1]), 0), height)
    axis = f'<path class="axis" d="M{edge} {level:.1f}H{width - edge}"/>'
    lines = polyline(x, scaled(torch.cat([slope, slope.new_zeros(1)]))[:-1], "gradient")
    lines += polyline(x, scaled(y), "value")
    return (
        f'<svg class="spark" viewBox="0 0 {width} {height}" aria-hidden="true">{axis}{lines}</svg>'
    )

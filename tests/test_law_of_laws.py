"""Each law is tested too: a loss broken on purpose must fail exactly the law it breaks."""

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode

import purelosses as pl
import purelosses.nn as pnn
from purelosses._numerics import promote, safe_divide
from purelosses._reduce import reduce
from purelosses.laws import LAWS, Check, Law, NotApplicable, Subject, judge
from purelosses.registry import LOSSES, Equals, LossSpec
from purelosses.regression.residual import residual_of

Loss = Callable[..., Any]
BROKEN: dict[str, Subject] = {}


def spec_of(loss: Loss, case: str | None = None, **changes: Any) -> LossSpec:
    """The registry's entry for a loss with one case (the first) and none of its claims."""
    spec = LOSSES[loss.__name__]
    cases = [c for c in spec.cases if case in (None, c.name)][:1]
    bare = LossSpec(
        spec.loss,
        spec.unit,
        tuple(cases),
        spec.domains,
        parameters=spec.parameters,
        init=spec.init,
        accuracy_floor=spec.accuracy_floor,
    )
    return dataclasses.replace(bare, **changes)


def breaks(
    law: str, sound: Loss, case: str | None = None, module: Any = None, **changes: Any
) -> Callable[[Loss], Loss]:
    """Register a broken version of a sound loss, whose name (in messages) it keeps."""

    def register(broken: Loss) -> Loss:
        broken.__name__ = sound.__name__
        broken.__wrapped__ = sound  # type: ignore[attr-defined]  # for inspect.signature
        spec = spec_of(sound, case, **changes)
        BROKEN[law] = Subject(dataclasses.replace(spec, loss=broken), spec.cases[0], module)
        return broken

    return register


def levels() -> set[str]:
    """The torch.func transforms that are active."""
    if torch.compiler.is_compiling():
        return set()
    return {interpreter.key().name for interpreter in retrieve_all_functorch_interpreters()}


def plain(x: Tensor) -> bool:
    """Ordinary eager code on a tensor with values."""
    tracing = torch.compiler.is_compiling() or get_proxy_mode() is not None
    return not (tracing or levels() or x.is_meta or isinstance(x, FakeTensor))


def with_gradient(loss: Tensor, factor: float) -> Tensor:
    """The same value with its gradient scaled by 1 + factor."""
    # A tensor: a number would give a loss without axes a float64 tangent.
    return loss + torch.full_like(loss, factor) * (loss - loss.detach())


# Purity


@breaks("P1", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    loss = pl.mse_loss(prediction, target, **options)
    target.detach()[:1].add_(0)
    return loss


class CountsCalls(pnn.MSELoss):
    calls = 0

    def forward(self, *data: Tensor, **options: Any) -> Tensor:
        self.calls += 1
        return super().forward(*data, **options)


CALLS = [0]


@breaks("P3", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    loss = pl.mse_loss(prediction, target, **options)
    if options or not plain(prediction) or not prediction.requires_grad:
        return loss
    CALLS[0] += 1
    return loss * (1 + 2**-23 * (CALLS[0] // 2 % 2)) if loss.dtype == torch.float32 else loss


@breaks("P4", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    if not torch.compiler.is_compiling():
        random.random()
    return pl.mse_loss(prediction, target, **options)


@breaks("P5", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    return pl.mse_loss(prediction, target, **options) * torch.ones((), dtype=torch.float32)


# Reductions, weights, masks


@breaks("R1", pl.mse_loss)
def _(*data: Tensor, reduction: str = "mean", weights: Any = None, **options: Any) -> Tensor:
    if reduction == "mean" and isinstance(weights, Tensor):
        reduction = "weighted_mean"
    return pl.mse_loss(*data, reduction=reduction, weights=weights, **options)


@breaks("R2", pl.mse_loss)
def _(*data: Tensor, reduction: str = "mean", **options: Any) -> Tensor:
    if reduction not in ("mean", "weighted_mean", "sum", "none"):
        raise ValueError(f"mse_loss: `reduction` must be known, got {reduction!r}")
    return pl.mse_loss(*data, reduction=reduction, **options)


@breaks("R3", pl.mse_loss)
def _(*data: Tensor, **options: Any) -> Tensor:
    loss = pl.mse_loss(*data, **options)
    ordinary = options == {"reduction": "none"} and data[0].abs().sum() < 1e3  # not the grid of N7
    return loss.flatten() if ordinary else loss


@breaks("R4", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, where: Any = None, **options: Any) -> Tensor:
    loss = pl.mse_loss(prediction, target, where=where, **options)
    return loss if where is None else loss + 0 * prediction.sum()


@breaks("R5", pl.mse_loss)
def _(*data: Tensor, weights: Any = None, **options: Any) -> Tensor:
    if isinstance(weights, Tensor):
        weights = weights.clamp(max=2.5)
    return pl.mse_loss(*data, weights=weights, **options)


@breaks("R6", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    loss = pl.mse_loss(prediction, target, **options)
    return loss * (1 + 1e-9 * min(prediction.shape[0], 9)) if loss.dtype == torch.float64 else loss


# Transforms


@breaks("T1", pl.mse_loss)
def _(*data: Tensor, **options: Any) -> Tensor:
    loss = pl.mse_loss(*data, **options)
    return with_gradient(loss, 5e-6) if "Grad" in levels() else loss


@breaks("T2", pl.mse_loss)
def _(*data: Tensor, **options: Any) -> Tensor:
    loss = pl.mse_loss(*data, **options)
    return loss * (1 + 5e-5) if "Vmap" in levels() else loss


@breaks("T3", pl.mse_loss)
def _(*data: Tensor, **options: Any) -> Tensor:
    loss = pl.mse_loss(*data, **options)
    return with_gradient(loss, 4e-4) if {"Vmap", "Grad"} <= levels() else loss


@breaks("T4", pl.mse_loss)
def _(*data: Tensor, **options: Any) -> Tensor:
    loss = pl.mse_loss(*data, **options)
    return with_gradient(loss, 0.01) if levels() == {"Jvp"} else loss


@breaks("T4 jvp in the dtype of the loss", pl.mse_loss)
def _(*data: Tensor, **options: Any) -> Tensor:
    return 1.0 * pl.mse_loss(*data, **options)  # without axes: a tangent of float64


@breaks("T5", pl.mse_loss)
def _(*data: Tensor, **options: Any) -> Tensor:
    loss = pl.mse_loss(*data, **options)
    return with_gradient(loss, 0.01) if {"Jvp", "Grad"} <= levels() else loss


@breaks("T6", pl.mse_loss)
def _(*data: Tensor, **options: Any) -> Tensor:
    return with_gradient(pl.mse_loss(*data, **options), 0.01)


@breaks("T7", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    loss = pl.mse_loss(prediction, target, **options)
    return loss + (loss - loss.detach()).square()


def varies(x: Tensor) -> bool:
    """Whether vmap maps over this tensor."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_batchedtensor(x):
            return True
        x = torch._C._functorch.get_unwrapped(x)
    return False


@breaks("T8", pl.uncertainty_weighted_loss, module=pnn.UncertaintyWeightedLoss)
def _(log_vars: Any, losses: Any, **options: Any) -> Any:
    total, aux = pl.uncertainty_weighted_loss(log_vars, losses, **options)
    ensemble = "Vmap" in levels() and not varies(losses["mask"])
    return (total * (1 + 2e-4) if ensemble else total), aux


# Graphs


@breaks("G1", pl.mse_loss)
def _(*data: Tensor, **options: Any) -> Tensor:
    if torch.compiler.is_dynamo_compiling():
        torch._dynamo.graph_break()
    return pl.mse_loss(*data, **options)


@breaks("G2", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    if torch.compiler.is_exporting():
        prediction = prediction.reshape(int(prediction.shape[0]), -1)
    return pl.mse_loss(prediction, target, **options)


@breaks("G3", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    if not torch.compiler.is_compiling() and get_proxy_mode() is not None:
        prediction = prediction.reshape(int(prediction.shape[0]), -1)
    return pl.mse_loss(prediction, target, **options)


@breaks("G4", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    if isinstance(prediction, Tensor) and prediction.device.type == "meta":
        raise RuntimeError("no values here")
    return pl.mse_loss(prediction, target, **options)


@breaks("G5", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    loss = pl.mse_loss(prediction, target, **options)
    if loss.ndim == 0 and plain(prediction):
        loss.item()
    return loss


@breaks("G6", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    loss = pl.mse_loss(prediction, target, **options)
    table = torch.tensor([1.0, 1.0], dtype=loss.dtype).to(loss.device)
    return loss * table.mean()


@torch.library.custom_op("broken::copy", mutates_args=())
def misdescribed_copy(x: Tensor) -> Tensor:
    """A copy whose strides are not those that its description promises."""
    return x.t().clone(memory_format=torch.contiguous_format).t()


@misdescribed_copy.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


misdescribed_copy.register_autograd(lambda ctx, gradient: gradient)
misdescribed_copy.register_vmap(
    lambda info, in_dims, x: (torch.stack([misdescribed_copy(row) for row in x]), 0)
)


@breaks("G8", pl.huber_loss)
def _(*data: Tensor, delta: Any = 1.0, **options: Any) -> Tensor:
    loss = pl.huber_loss(*data, delta=delta, **options)
    return loss * 1.5 if isinstance(delta, Tensor) else loss


@breaks("G7", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    if torch.compiler.is_compiling():
        prediction = misdescribed_copy(prediction)
    return pl.mse_loss(prediction, target, **options)


# Numerics


def inaccurate(condition: Callable[[Tensor, dict[str, Any]], bool], error: float) -> Loss:
    def broken(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
        loss = pl.mse_loss(prediction, target, **options)
        factor = torch.full_like(loss, 1 + error)  # a number would break T4 as well
        return loss * factor if condition(prediction, options) else loss

    return broken


def is_large(x: Tensor) -> bool:
    return not torch.compiler.is_compiling() and x.numel() > 50_000


def ordinary_float32(x: Tensor, options: dict[str, Any]) -> bool:
    plain_call = options.get("reduction", "mean") == "mean"
    autocast = torch.is_autocast_enabled("cpu")
    return x.dtype == torch.float32 and plain_call and not autocast


breaks("N1", pl.mse_loss)(inaccurate(ordinary_float32, 5e-6))
breaks("N2", pl.mse_loss)(
    inaccurate(lambda x, _: is_large(x) and x.dtype == torch.float32, 5e-5),
)
breaks("N3", pl.mse_loss)(
    inaccurate(lambda x, _: not is_large(x) and x.dtype == torch.bfloat16, 1e-5),
)
breaks("N4", pl.mse_loss)(
    inaccurate(lambda x, _: not is_large(x) and x.dtype == torch.float16, 1e-5),
)
breaks("N5", pl.mse_loss)(inaccurate(lambda x, _: is_large(x) and x.dtype.itemsize == 2, 1e-5))
breaks("N6", pl.mse_loss)(inaccurate(lambda x, _: torch.is_autocast_enabled("cpu"), 1e-5))


@breaks("N7", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    float32 = isinstance(prediction, Tensor) and prediction.dtype == torch.float32
    if float32 and options.get("weights") is None:
        huge = prediction.detach().abs() > 1e10
        options["weights"] = torch.where(huge, 1 + 1e-5, 1.0)
    return pl.mse_loss(prediction, target, **options)


# Edges


def nan_where(loss: Tensor, condition: Tensor) -> Tensor:
    return torch.where(condition, torch.nan, loss)


@breaks("E1", pl.binary_cross_entropy_loss)
def _(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    loss = pl.binary_cross_entropy_loss(logits, target, **options)
    return nan_where(loss, (logits.detach().abs() > 9e3).all()) if logits.numel() else loss


@breaks("E2", pl.cross_entropy_loss)
def _(logits: Tensor, target: Tensor, where: Any = None, **options: Any) -> Tensor:
    loss = pl.cross_entropy_loss(logits, target, where=where, **options)
    return nan_where(loss, logits.isneginf().any()) if where is None else loss


@breaks("E3", pl.binary_cross_entropy_loss)
def _(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    loss = pl.binary_cross_entropy_loss(logits, target, **options)
    certain = (target == 1).all() & (logits.detach().abs() < 30).all()
    return nan_where(loss, certain) if logits.shape[0] > 1 else loss


@breaks("E4", pl.cross_entropy_loss, "probabilities, last axis")
def _(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    loss = pl.cross_entropy_loss(logits, target, **options)
    return nan_where(loss, (target == 1).any())


@breaks("E5", pl.mse_loss)
def _(*data: Tensor, **options: Any) -> Tensor:
    loss = pl.mse_loss(*data, **options)
    return loss.sqrt().square() if not options and data[0].numel() else loss


def textbook_giou(
    boxes: Tensor,
    target: Tensor,
    *,
    divide: Callable[[Tensor, Tensor], Tensor],
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Any = "mean",
    smallest: float = 0.0,
    **fmt: Any,
) -> Tensor:
    """GIoU from areas, with a division to choose and the least size of a box."""
    checks = {"where": where, "weights": weights, "reduction": reduction, **fmt}
    pl.giou_loss(boxes, target, **checks)
    boxes = promote(boxes)
    target = target.to(boxes.dtype)
    if where is not None:
        unit = torch.arange(4, device=boxes.device).div(2, rounding_mode="floor").to(boxes.dtype)
        boxes, target = (torch.where(where.unsqueeze(-1), x, unit) for x in (boxes, target))
    (a, b), (c, d) = boxes.chunk(2, -1), target.chunk(2, -1)
    overlap = (torch.minimum(b, d) - torch.maximum(a, c)).clamp_min(0).prod(-1)
    areas = [(high - low).clamp_min(smallest).prod(-1) for low, high in ((a, b), (c, d))]
    union = areas[0] + areas[1] - overlap
    hull = (torch.maximum(b, d) - torch.minimum(a, c)).prod(-1)
    loss = 1 - divide(overlap, union) + divide(hull - union, hull)
    return reduce(loss, reduction, where, weights)


@breaks("E6", pl.giou_loss)
def _(*data: Tensor, **options: Any) -> Tensor:
    """Two points are 0 / 0."""
    return textbook_giou(*data, divide=torch.div, **options)


@breaks("E6 equal boxes", pl.giou_loss)
def _(
    *data: Tensor, where: Any = None, weights: Any = None, reduction: Any = "mean", **fmt: Any
) -> Tensor:
    """Equal boxes cost a little, as with an absolute epsilon in the divisor."""
    pl.giou_loss(*data, where=where, weights=weights, reduction=reduction, **fmt)  # its checks
    losses = pl.giou_loss(*data, where=where, reduction="none")
    return reduce(losses + 1e-7, reduction, where, weights)


@breaks("E6 inverted", pl.giou_loss)
def _(*data: Tensor, **options: Any) -> Tensor:
    """A box that is inverted along both axes has a positive area."""
    return textbook_giou(*data, divide=safe_divide, smallest=-torch.inf, **options)


@breaks("E7", pl.binary_cross_entropy_loss)
def _(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    loss = pl.binary_cross_entropy_loss(logits, target, **options)
    return nan_where(loss, (target == 1).all()) if logits.shape[0] == 1 else loss


@breaks("E8", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    loss = pl.mse_loss(prediction, target, **options)
    return loss if prediction.numel() else loss * torch.nan


@breaks("E9", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, where: Any = None, **options: Any) -> Tensor:
    loss = pl.mse_loss(prediction, target, where=where, **options)
    several = where is not None and where.shape[0] > 1
    return nan_where(loss, where.any().logical_not()) if several else loss


@breaks("E11", pl.binary_cross_entropy_loss, cross_entropy=True, perfect=None)
def _(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    if isinstance(logits, Tensor) and logits.is_floating_point():
        logits = logits.clamp(-30, 30)
    return pl.binary_cross_entropy_loss(logits, target, **options)


# Guards


@breaks("S1", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    tensors = isinstance(target, Tensor) and isinstance(prediction, Tensor)
    if tensors and target.shape != prediction.shape:
        target = target.expand_as(prediction)
    return pl.mse_loss(prediction, target, **options)


@breaks("S2", pl.binary_cross_entropy_loss)
def _(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    loss = pl.binary_cross_entropy_loss(logits, target, **options)
    return loss if target.is_floating_point() else loss * 1.5


@breaks("S3", pl.cross_entropy_loss)
def _(logits: Tensor, target: Tensor, **options: Any) -> Tensor:
    if isinstance(target, Tensor) and isinstance(logits, Tensor):
        target = target.long().clamp(0, 2)
    return pl.cross_entropy_loss(logits, target, **options)


@breaks("S4", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    if isinstance(prediction, Tensor):
        prediction.view(-1)
    return pl.mse_loss(prediction, target, **options)


@breaks("S5", pl.mse_loss)
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    if not isinstance(target, Tensor):
        raise TypeError("wrong target")
    return pl.mse_loss(prediction, target, **options)


# Modules


class CannotBePickled(pnn.MSELoss):
    def __init__(self, *, reduction: Any = "mean") -> None:
        super().__init__(reduction=reduction)
        self.hook = lambda loss: loss


class HidesATensor(pnn.MSELoss):
    def __init__(self, *, reduction: Any = "mean") -> None:
        super().__init__(reduction=reduction)
        self.scale = [torch.ones(())]


class AddsLogic(pnn.MSELoss):
    def forward(self, *data: Tensor, **options: Any) -> Tensor:
        return super().forward(*data, **options) * 1.5


for code, module in {
    "P2": CountsCalls, "M1": CannotBePickled, "M2": HidesATensor, "M3": AddsLogic,
}.items():  # fmt: skip
    spec = spec_of(pl.mse_loss)
    BROKEN[code] = Subject(spec, spec.cases[0], module)


# Claims that are not true


def claim(law: str, loss: Loss, case: str | None = None, **claims: Any) -> None:
    spec = spec_of(loss, case, **claims)
    BROKEN[law] = Subject(spec, spec.cases[0])


def _match(problem: Any) -> Any:
    return problem.having(prediction=problem.tensors["target"])


claim("E12", pl.mse_loss, perfect=_match, minimum=-1.0)
claim("C1", pl.mse_loss, bounded=(0.0, 0.1))
claim("C2", pl.dice_loss, "multi-label logits", convex=True)
claim("C3", pl.cross_entropy_loss, "probabilities, last axis", symmetric=True)
claim("C5", pl.mse_loss, homogeneous=1)
claim("C7", pl.mse_loss, equals=(Equals("l1_loss", pl.l1_loss),))
claim("C8", pl.mse_loss, stop_gradient=("target",))


@breaks("C4", pl.mse_loss, perfect=_match, monotone=True)
def _(
    prediction: Tensor,
    target: Tensor,
    *,
    where: Any = None,
    weights: Any = None,
    reduction: Any = "mean",
) -> Tensor:
    """Rises with the residual, and falls again."""
    residual = residual_of("mse_loss", prediction, target, where, weights, reduction)
    squares = residual.clamp(-20, 20).square()
    return reduce(squares * torch.exp(-squares), reduction, where, weights)


@breaks("C6", pl.mse_loss, permutable="N")
def _(prediction: Tensor, target: Tensor, **options: Any) -> Tensor:
    if isinstance(prediction, Tensor) and isinstance(target, Tensor):
        kind = torch.promote_types(prediction.dtype, torch.float32)
        scale = 1 + torch.arange(prediction.shape[-1], dtype=kind, device=prediction.device)
        if prediction.shape == target.shape:
            prediction, target = prediction * scale, target * scale
    return pl.mse_loss(prediction, target, **options)


def verdicts(subject: Subject, kinds: set[str]) -> dict[str, str]:
    found = {law.code: judge(law, subject) for law in LAWS.values() if law.kind in kinds}
    return {code: item.detail for code, item in found.items() if item.status == "fail"}


def broken(slow: bool) -> list[str]:
    """The names in BROKEN: a law, and what of it is broken if the law says several things."""
    return [name for name in BROKEN if (LAWS[name.split()[0]].kind == "slow") == slow]


def test_every_law_has_a_loss_that_breaks_it() -> None:
    assert {name.split()[0] for name in BROKEN} == set(LAWS)


@pytest.mark.parametrize("name", broken(slow=False))
def test_a_broken_loss_fails_exactly_its_law(name: str) -> None:
    torch._dynamo.reset()
    code, _, clause = name.partition(" ")
    # What takes seconds to trace is left to the slow tests, unless it is what is broken.
    failures = verdicts(BROKEN[name], {"eager", LAWS[code].kind})
    assert failures.keys() == {code}
    assert clause in failures[code]


@pytest.mark.slow
@pytest.mark.parametrize("name", broken(slow=False))
def test_a_broken_loss_keeps_the_laws_of_graphs(name: str) -> None:
    torch._dynamo.reset()
    assert verdicts(BROKEN[name], {"graph"}).keys() <= {name.split()[0]}


@pytest.mark.slow
@pytest.mark.parametrize("code", broken(slow=True))
def test_a_loss_that_the_compiler_breaks_fails_exactly_that_law(code: str) -> None:
    assert verdicts(BROKEN[code], {"eager", "graph", "slow"}).keys() == {code}


def test_a_law_that_checks_nothing_fails() -> None:
    def nothing(subject: Subject) -> Any:
        return iter(())

    spec = LOSSES["mse_loss"]
    evidence = judge(Law("X", "Nothing.", nothing), Subject(spec, spec.cases[0]))
    assert (evidence.status, evidence.detail) == ("fail", "nothing was checked")


def test_nan_is_never_within_a_limit() -> None:
    assert not Check("a figure", float("nan"), 1.0).holds


def test_a_law_that_does_not_apply_says_why() -> None:
    def inapplicable(subject: Subject) -> Any:
        raise NotApplicable("there is no such thing")

    spec = LOSSES["mse_loss"]
    evidence = judge(Law("X", "Nothing.", inapplicable), Subject(spec, spec.cases[0]))
    assert (evidence.status, evidence.detail) == ("n/a", "there is no such thing")

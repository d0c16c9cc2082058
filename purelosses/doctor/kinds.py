"""Kinds of losses: what their batches look like, and which predictions are perfect or extreme."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from purelosses.doctor.subject import signature_of, sounds_like, values_of

Batch = tuple[Any, ...]


class Probe(NamedTuple):
    """A batch at the edge of a kind."""

    name: str
    prediction: Tensor
    target: Tensor | None
    ordinary: bool  # whether training comes there by itself


@dataclass(frozen=True)
class Kind:
    """One kind of loss."""

    samples: tuple[Callable[[], Batch], ...]  # the first that a loss accepts is taken


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=_generator(seed))


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=_generator(seed))


def bits(*shape: int) -> Tensor:
    return (uniform(*shape, seed=1) > 0.5).float()


def labels(classes: int, *shape: int) -> Tensor:
    return torch.randint(classes, shape, generator=_generator(1))


def corners(count: int, seed: int) -> Tensor:
    middle, size = 0.3 + 0.4 * uniform(count, 2, seed=seed), 0.1 + 0.3 * uniform(count, 2, seed=9)
    return torch.cat([middle - size / 2, middle + size / 2], 1)


def _binary(*shape: int) -> Callable[[], Batch]:
    return lambda: (2 * normal(*shape), bits(*shape))


def _probable(*shape: int) -> Callable[[], Batch]:
    return lambda: (0.05 + 0.9 * uniform(*shape), bits(*shape))


def _real(*shape: int) -> Callable[[], Batch]:
    return lambda: (normal(*shape), normal(*shape, seed=1))


def _classes(*shape: int) -> Callable[[], Batch]:
    return lambda: (2 * normal(*shape), labels(shape[1], shape[0], *shape[2:]))


def _class_probabilities() -> Batch:
    return (2 * normal(12, 5)).softmax(1), labels(5, 12)


def _vectors(count: int) -> Callable[[], Batch]:
    return lambda: tuple(normal(8, 16, seed=seed) for seed in range(count))


KINDS: dict[str, Kind] = {
    "binary_logits": Kind((_binary(12), _binary(6, 4), _binary(2, 1, 8, 8), _binary(2, 3, 8, 8))),
    "class_logits": Kind((_classes(12, 5), lambda: (2 * normal(12, 5), normal(12, 5).softmax(1)))),
    "probabilities": Kind((_probable(12), _probable(6, 4), _class_probabilities)),
    "regression": Kind(
        (
            _real(12),
            _real(6, 4),
            _real(2, 3, 16, 16),
            lambda: (normal(12), normal(12, seed=1), 0.2 + uniform(12)),
        )
    ),
    "boxes": Kind((lambda: (corners(6, 0), corners(6, 1)),)),
    "embeddings": Kind(
        (
            _vectors(3),
            _vectors(2),
            lambda: (normal(12, 16), torch.arange(12) % 3),
            lambda: (normal(8, 16), normal(8, 16, seed=1), bits(8)),
        )
    ),
    "segmentation": Kind((_classes(2, 4, 6, 6),)),
    "masks": Kind((_probable(2, 1, 8, 8), _probable(2, 3, 8, 8))),
    "scores": Kind((_real(10, 1), lambda: (normal(10, 1),))),
}


def guess(loss: Any, sample: Sequence[Any]) -> tuple[str | None, bool]:
    """The kind of a sample, and whether nothing else could be meant."""
    tensors = [x for x in sample if isinstance(x, Tensor)]
    names = list(signature_of(loss))[: len(sample)]
    if not tensors or not isinstance(sample[0], Tensor) or not sample[0].is_floating_point():
        return None, False
    prediction, first = sample[0], names[0] if names else ""
    embedded = sounds_like(first, ("emb", "embedding", "feature", "z", "anchor", "vector"))
    if embedded or (len(tensors) == 3 and prediction.ndim == 2 and "positive" in names):
        return "embeddings", True
    if len(tensors) < 2 or len(sample) < 2 or not isinstance(sample[1], Tensor):
        return None, False
    target = sample[1]
    unit = bool(((prediction >= 0) & (prediction <= 1)).all())
    if _log_probabilities(prediction) or (_distribution(prediction) and _distribution(target)):
        return None, False  # neither logits nor any real numbers
    if not target.is_floating_point() and target.ndim == prediction.ndim - 1:
        if prediction.ndim > 2:
            return ("probabilities" if unit else "segmentation"), not unit
        if int(target.max()) >= prediction.shape[1]:
            return "embeddings", False
        return ("probabilities" if unit else "class_logits"), not unit
    if target.shape != prediction.shape:
        return ("regression" if target.numel() == prediction.numel() else None), False
    if prediction.ndim == 2 and prediction.shape[1] == 4 and _boxes(prediction) and _boxes(target):
        return "boxes", True
    values = values_of(target) if target.numel() else set()
    if values <= {0.0, 1.0} or values <= {0.0, 255.0}:
        if unit:
            return ("masks" if prediction.ndim >= 3 else "probabilities"), True
        return "binary_logits", True
    if values == {-1.0, 1.0}:
        return "binary_logits", False
    if _distribution(target) and not unit:
        return ("class_logits" if prediction.ndim == 2 else "segmentation"), False
    if unit and bool(((target >= 0) & (target <= 1)).all()):
        return "regression", False  # or soft labels
    if sounds_like(first, ("real", "fake", "score", "critic", "logit", "student")):
        return None, False
    return "regression", sounds_like([*names, "", ""][1], ("target", "true", "y", "label"))


def named(loss: Any) -> str | None:
    """The kind that the names of a loss's own parameters tell, if they do."""
    if isinstance(loss, type) and issubclass(loss, torch.nn.Module):
        names = list(inspect.signature(loss.forward).parameters)[1:]
    else:
        names = list(signature_of(loss))
    if not names:
        return None
    first, *others = names
    if sounds_like(first, ("logit",)):
        labelled = any(sounds_like(name, ("label", "classes", "ids")) for name in others)
        return "class_logits" if labelled else "binary_logits"
    for kind, words in (
        ("probabilities", ("prob", "probability", "probabilities")),
        ("boxes", ("box", "boxes")),
        ("embeddings", ("embedding", "anchor", "feature")),
        ("scores", ("score",)),
    ):
        if sounds_like(first, words):
            return kind
    return None


def _log_probabilities(x: Tensor) -> bool:
    return x.ndim > 1 and any(
        bool((x.logsumexp(axis).abs() < 1e-3).all()) for axis in (1, -1) if x.shape[axis] > 1
    )


def _distribution(x: Tensor) -> bool:
    """Whether it sums to one over the classes, the last axis or the pixels."""
    if x.ndim < 2 or not x.is_floating_point() or bool((x < 0).any()):
        return False
    axes: list[tuple[int, ...]] = [(1,), (-1,), (-2, -1)]
    return any(bool(((x.sum(axis) - 1).abs() < 1e-3).all()) for axis in axes)


def _boxes(x: Tensor) -> bool:
    return bool((x[:, 2:] > x[:, :2]).all())


def class_axis(prediction: Tensor, target: Tensor) -> int | None:
    """Where the classes are, for integer labels."""
    for axis in (1, -1):
        if prediction.ndim == target.ndim + 1:
            shape = list(prediction.shape)
            shape.pop(axis)
            if shape == list(target.shape):
                return axis
    return None


def _truth(prediction: Tensor, target: Tensor) -> Tensor | None:
    """The target in the shape of the prediction, from 0 to 1."""
    if prediction.shape == target.shape:
        low, high = float(target.min()), float(target.max())
        truth = target.to(prediction.dtype)
        if low < 0:
            return (truth + 1) / 2 if low >= -1 and high <= 1 else None
        return truth / high if high > 1 else truth
    axis = class_axis(prediction, target)
    if axis is None or target.is_floating_point():
        return None
    classes = torch.arange(prediction.shape[axis])
    if target.numel() and not 0 <= int(target.min()) <= int(target.max()) < len(classes):
        return None
    hot = (target.unsqueeze(-1) == classes).to(prediction.dtype)
    return hot.movedim(-1, axis)


LOGITS = ("binary_logits", "class_logits", "segmentation")
UNIT = ("probabilities", "masks")


def extremes(kind: str | None, prediction: Tensor, target: Tensor | None) -> Batch | None:
    """The perfect prediction and the worst."""
    if target is None or kind is None:
        return None
    if kind in LOGITS or kind in UNIT:
        truth = _truth(prediction, target)
        if truth is None:
            return None
        return (truth, 1 - truth) if kind in UNIT else (40 * truth - 20, 20 - 40 * truth)
    if target.shape != prediction.shape or not target.is_floating_point():
        return None
    if kind == "regression":
        return target.clone(), target + 5 * (1 + target.abs())
    if kind == "boxes":
        return target.clone(), target + 10
    return None


def edges(kind: str | None, prediction: Tensor, target: Tensor | None) -> Iterator[Probe]:
    """Predictions and targets that a loss of this kind must bear."""
    pair = extremes(kind, prediction, target)
    if kind in LOGITS and pair is not None:
        for scale in (1.0, 10.0):
            yield Probe(f"right logits of ±{20 * scale:.0f}", pair[0] * scale, target, True)
            yield Probe(f"wrong logits of ±{20 * scale:.0f}", pair[1] * scale, target, True)
        yield Probe("logits of 0", torch.zeros_like(prediction), target, True)
    elif kind in LOGITS or kind == "scores":
        for value in (20.0, 200.0):
            yield Probe(f"logits of {value:.0f}", torch.full_like(prediction, value), target, True)
            yield Probe(
                f"logits of {-value:.0f}", torch.full_like(prediction, -value), target, True
            )
    if kind in UNIT and pair is not None:
        yield Probe("right probabilities of exactly 0 and 1", pair[0], target, True)
        yield Probe("wrong probabilities of exactly 0 and 1", pair[1], target, True)
        yield Probe("probabilities of 0", torch.zeros_like(prediction), target, True)
    if target is not None and kind in (*LOGITS, *UNIT):
        for name, other in empty_targets(kind, prediction, target):
            again = extremes(kind, prediction, other)
            yield Probe(name, prediction, other, True)
            if again is not None:
                yield Probe(f"{name}, predicted perfectly,", again[0], other, True)
    if kind == "regression" and target is not None and target.shape == prediction.shape:
        # As far as the sample says that values go: shares stay below 1, durations above 0.
        low = float(target.min()) if target.numel() else 0.0
        shares = bool(((prediction >= 0) & (prediction <= 1) & (target >= 0) & (target <= 1)).all())
        far = torch.full_like(target, 200.0) if target.is_floating_point() else target
        zeros = torch.zeros_like(target)
        yield Probe("prediction equal to target", target.to(prediction.dtype), target, True)
        if not shares:
            yield Probe("a residual of 200", prediction, far, True)
        if low < 0:
            yield Probe("a residual of -200", prediction, -far, False)
        if low <= 0 or shares:
            yield Probe("targets of 0", prediction, zeros, True)
            yield Probe("prediction and target 0", torch.zeros_like(prediction), zeros, True)
        yield Probe("constant prediction", torch.ones_like(prediction), target, False)
    if kind == "boxes" and target is not None:
        flat = torch.cat([prediction[..., :2], prediction[..., :2]], -1)
        yield Probe("identical boxes", target.clone(), target, True)
        yield Probe("boxes far apart", target + 100, target, True)
        yield Probe("predicted boxes without area", flat, target, True)
        thin = torch.cat([prediction[..., :3], prediction[..., 1:2]], -1)
        yield Probe("predicted boxes without height", thin, target, True)
        yield Probe("boxes without area on both sides", flat, flat.clone(), True)
    if kind == "embeddings":
        yield Probe("vectors of 0", torch.zeros_like(prediction), target, True)
        yield Probe("identical vectors", torch.ones_like(prediction), target, True)
        yield Probe("vectors ten times as long", prediction * 10, target, False)
        same = target is not None and target.shape == prediction.shape
        if same and target is not None and target.is_floating_point():
            yield Probe("prediction equal to target", target.clone(), target, True)
        elif target is not None and not target.is_floating_point():
            yield Probe("samples of one class", prediction, torch.zeros_like(target), True)
            alone = torch.arange(target.numel()).reshape(target.shape)
            yield Probe("samples of a class each", prediction, alone, True)


def empty_targets(kind: str, prediction: Tensor, target: Tensor) -> Iterator[tuple[str, Tensor]]:
    if kind in ("class_logits", "segmentation") or target.shape != prediction.shape:
        only = torch.zeros_like(target)
        if target.shape == prediction.shape:
            only[:, 0] = 1
        yield "targets of one class", only
        return
    low = float(target.min()) if float(target.min()) < 0 else 0.0
    yield "targets without positives", torch.full_like(target, low)
    yield "targets of positives only", torch.ones_like(target)

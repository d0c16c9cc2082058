"""What an entry of the corpus is, and the batches the entries are called with."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Sample = Callable[[], tuple[Any, ...]]


@dataclass(frozen=True)
class Entry:
    """One loss, and the truth about it."""

    source: Any  # a function, a module class, or (`factory`) a function that returns the loss
    code: str | None  # None: healthy
    kind: str | None  # None: none of the kinds; the doctor has only the sample to go by
    sample: Sample
    also: frozenset[str]  # codes that are as true as `code`; one of them is enough
    level: str
    factory: bool
    within: tuple[Any, ...]  # helpers of the loss in which the marked line may be
    # Autograd is meant to differ from the derivative of the value: straight-through, stop-gradient.
    surrogate: bool

    @property
    def name(self) -> str:
        return self.source.__name__

    @property
    def loss(self) -> Callable[..., Any]:
        """The loss as a user has it in hand, made anew."""
        return self.source() if self.factory or isinstance(self.source, type) else self.source

    @property
    def codes(self) -> frozenset[str]:
        return self.also | ({self.code} if self.code else set())

    @property
    def file(self) -> Path:
        return Path(inspect.getfile(self.source))

    @property
    def lines(self) -> frozenset[int]:
        """The lines with the mark; each is a right answer. None where no line is to blame."""
        found = set()
        for item in (self.source, *self.within):
            text, first = inspect.getsourcelines(item)
            found |= {first + i for i, line in enumerate(text) if "# here" in line}
        return frozenset(found)


DEFECTS: dict[str, Entry] = {}
HEALTHY: dict[str, Entry] = {}


def defect(
    code: str,
    *,
    kind: str | None,
    sample: Sample | None = None,
    also: Sequence[str] = (),
    level: str = "train",
    factory: bool = False,
    within: Any = (),
) -> Callable[[Any], Any]:
    """Register what is decorated as a loss with this defect."""

    def register(source: Any) -> Any:
        helpers = within if isinstance(within, tuple) else (within,)
        entry = Entry(
            source,
            code,
            kind,
            _sample(kind, sample),
            frozenset(also),
            level,
            factory,
            helpers,
            False,
        )
        assert entry.name not in DEFECTS, entry.name
        DEFECTS[entry.name] = entry
        return source

    return register


def healthy(
    *,
    kind: str | None,
    sample: Sample | None = None,
    level: str = "train",
    factory: bool = False,
    surrogate: bool = False,
) -> Callable[[Any], Any]:
    """Register what is decorated as a loss without a defect."""

    def register(source: Any) -> Any:
        entry = Entry(
            source, None, kind, _sample(kind, sample), frozenset(), level, factory, (), surrogate
        )
        assert entry.name not in HEALTHY, entry.name
        HEALTHY[entry.name] = entry
        return source

    return register


def _sample(kind: str | None, sample: Sample | None) -> Sample:
    return sample if sample is not None else SAMPLES[kind or ""]


# The batches. Each draw is the same: the generators are made anew.


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed))


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=generator(seed))


def labels(classes: int, *shape: int, seed: int = 1) -> Tensor:
    return torch.randint(classes, shape, generator=generator(seed))


def zero_one(*shape: int, seed: int = 1) -> Tensor:
    return (uniform(*shape, seed=seed) > 0.5).float()


def corners(count: int, seed: int) -> Tensor:
    """Boxes x1, y1, x2, y2 in a unit square."""
    middle, size = (
        0.3 + 0.4 * uniform(count, 2, seed=seed),
        0.1 + 0.3 * uniform(count, 2, seed=seed + 50),
    )
    return torch.cat([middle - size / 2, middle + size / 2], 1)


def mask_logits() -> tuple[Tensor, Tensor]:
    """Logits and masks of images."""
    return 2 * normal(2, 1, 8, 8), zero_one(2, 1, 8, 8)


def triplets() -> tuple[Tensor, Tensor, Tensor]:
    """Anchor, positive, negative."""
    return normal(8, 16), normal(8, 16, seed=1), normal(8, 16, seed=2)


def labelled_embeddings() -> tuple[Tensor, Tensor]:
    return normal(12, 16), torch.arange(12) % 3


def pairs() -> tuple[Tensor, Tensor, Tensor]:
    """Two embeddings each, and whether they belong together."""
    return normal(8, 16), normal(8, 16, seed=1), zero_one(8, seed=2)


def scores() -> tuple[Tensor, Tensor]:
    """What a critic says of real and of generated samples."""
    return normal(10, 1), normal(10, 1, seed=1)


def two_logits() -> tuple[Tensor, Tensor]:
    """Class logits of a student and of a teacher."""
    return 2 * normal(10, 5), 2 * normal(10, 5, seed=1)


def images() -> tuple[Tensor, Tensor]:
    return uniform(2, 3, 16, 16), uniform(2, 3, 16, 16, seed=1)


SAMPLES: dict[str, Sample] = {
    "binary_logits": lambda: (2 * normal(12), zero_one(12)),
    "class_logits": lambda: (2 * normal(12, 5), labels(5, 12)),
    "probabilities": lambda: (0.05 + 0.9 * uniform(12), zero_one(12)),
    "regression": lambda: (normal(12), normal(12, seed=1)),
    "boxes": lambda: (corners(6, 0), corners(6, 1)),
    "embeddings": lambda: (normal(8, 16), normal(8, 16, seed=1)),
    "segmentation": lambda: (2 * normal(2, 4, 6, 6), labels(4, 2, 6, 6)),
    # Maps of probabilities, as after a sigmoid, and masks of the same shape.
    "masks": lambda: (0.05 + 0.9 * uniform(2, 1, 8, 8), zero_one(2, 1, 8, 8)),
}

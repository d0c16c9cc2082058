"""What a registry entry is made of: arrays with named axes, cases, problems, specs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import optree
import torch
from torch import Tensor

from purelosses._types import PyTree

Domain: TypeAlias = Literal[
    "real",  # finite
    "positive",  # finite, at least 0
    "counts",  # finite, at least 0, and in samples whole
    "log_scale",  # finite: the logarithm of a positive number whose square is representable
    "logits",  # finite scores before a sigmoid
    "class_logits",  # finite scores before a softmax, or minus infinity
    "unit",  # in [0, 1]
    "mask",  # 0 or 1
    "sign",  # -1 or 1
    "labels",  # integers from 0 to C - 1
    "positions",  # reals from 0 to C - 1
    "distribution",  # at least 0, summing to 1 along the class axis
    "boxes",  # corners x1, y1, x2, y2
    "where",  # boolean
    "weights",  # at least 0
]


@dataclass(frozen=True)
class Array:
    """One tensor of a sample: what it holds, and its axes by name."""

    domain: Domain
    axes: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.axes.split())

    def draw(
        self, sizes: Mapping[str, int], generator: torch.Generator, dtype: torch.dtype
    ) -> Tensor:
        """A random tensor, away from the places where a loss has a kink."""
        shape = [sizes[name] for name in self.names]
        normal = torch.randn(shape, generator=generator, dtype=torch.float64)
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
        match self.domain:
            case "real" | "logits" | "class_logits":
                return (2 * normal).to(dtype)
            case "log_scale":
                return normal.to(dtype)
            case "counts":
                return (7 * uniform).floor().to(dtype)
            case "positive" | "weights":
                return (0.2 + 2 * uniform).to(dtype)
            case "unit":
                return (0.05 + 0.9 * uniform).to(dtype)
            case "mask":
                return (uniform > 0.5).to(dtype)
            case "sign":
                return torch.where(uniform > 0.5, 1, -1).to(dtype)
            case "labels":
                return (uniform * sizes["C"]).long()
            case "positions":
                return (uniform * (sizes["C"] - 1)).to(dtype)
            case "distribution":
                return normal.softmax(self.names.index("C")).to(dtype)
            case "boxes":
                low, size = normal.chunk(2, -1)
                return torch.cat([low, low + 0.5 + size.abs()], -1).to(dtype)
            case "where":
                # One sample is kept whole and one is dropped whole, so that no draw is vacuous.
                keep = uniform > 0.3
                if keep.ndim and keep.shape[0] > 1:
                    keep[0], keep[-1] = True, False
                return keep


Tree: TypeAlias = Array | Mapping[str, Any] | list[Any]


def _leaves(tree: Tree, path: str) -> dict[str, Array]:
    """The arrays of an argument, by a path such as `losses.mask`."""
    if isinstance(tree, Array):
        return {path: tree}
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    return {key: leaf for k, child in items for key, leaf in _leaves(child, f"{path}.{k}").items()}


def _build(tree: Tree, path: str, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, Array):
        return tensors[path]
    if isinstance(tree, Mapping):
        return {k: _build(child, f"{path}.{k}", tensors) for k, child in tree.items()}
    return [_build(child, f"{path}.{k}", tensors) for k, child in enumerate(tree)]


@dataclass(frozen=True)
class Problem:
    """One call of a loss: tensors by path, and the options."""

    case: "Case"
    tensors: Mapping[str, Tensor]
    options: Mapping[str, Any]

    @property
    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """What the loss is called with: the data, and the options with `where` and `weights`."""
        data = [_build(tree, name, self.tensors) for name, tree in self.case.args.items()]
        given = {key: self.tensors[key] for key in ("where", "weights") if key in self.tensors}
        return data, {**self.options, **given}

    def __call__(self, loss: Callable[..., Any], **options: Any) -> Any:
        data, keywords = self.arguments
        return loss(*data, **{**keywords, **options})

    def having(self, **tensors: Tensor) -> "Problem":
        return replace(self, tensors={**self.tensors, **tensors})

    def map(self, function: Callable[[Tensor, Array], Tensor]) -> "Problem":
        """Every tensor replaced by a function of it and its array."""
        arrays = self.case.arrays
        return self.having(**{k: function(x, arrays[k]) for k, x in self.tensors.items()})

    def take(self, axis: str, index: Tensor) -> "Problem":
        """The entries `index` along a named axis, in every tensor that has it."""
        return self.map(
            lambda x, array: (
                x.index_select(array.names.index(axis), index)
                if axis in array.names and x.shape[array.names.index(axis)] > 1
                else x
            )
        )

    @property
    def differentiable(self) -> list[str]:
        """The paths of the tensors that a gradient is taken of."""
        fixed = ("mask", "sign", "labels", "counts", "where", "weights")
        return [k for k in self.tensors if self.case.arrays[k].domain not in fixed]


@dataclass(frozen=True)
class Case:
    """One way to call a loss, with all axes named: `B` is the batch, `C` the classes."""

    name: str
    args: Mapping[str, Tree]
    unit: str | None = None  # the axes of `reduction="none"`; None if there is no reduction
    where: str | None = None  # the axes of `where`; None if there is none
    options: Mapping[str, Any] = field(default_factory=dict)
    separable: bool = True  # the sum over samples of losses is the loss of all samples
    # What a unit weighs besides `weights`, and which units count, where that is not plain.
    mass: Callable[[Problem], Tensor] | None = None
    present: Callable[[Problem], Tensor] | None = None
    skip: Mapping[str, str] = field(default_factory=dict)  # clause: why it does not apply
    sizes: Mapping[str, int] = field(
        default_factory=lambda: {"B": 4, "C": 3, "H": 4, "W": 5, "N": 6, "corners": 4}
    )

    @property
    def arrays(self) -> dict[str, Array]:
        arrays = {k: a for name, tree in self.args.items() for k, a in _leaves(tree, name).items()}
        if self.where is not None:
            arrays["where"] = Array("where", self.where)
        if self.unit is not None:
            arrays["weights"] = Array("weights", self.unit)
        return arrays

    @property
    def batched(self) -> bool:
        return any("B" in array.names for array in self.arrays.values())

    def problem(
        self,
        seed: int = 0,
        *,
        dtype: torch.dtype = torch.float32,
        where: bool = False,
        weights: bool = False,
        sizes: Mapping[str, int] | None = None,
    ) -> Problem:
        """A random problem; the same seed draws the same numbers in every dtype."""
        generator = torch.Generator().manual_seed(seed)
        lengths = {**self.sizes, **(sizes or {})}
        drawn = {k: array.draw(lengths, generator, dtype) for k, array in self.arrays.items()}
        if not where:
            drawn.pop("where", None)
        if not weights:
            drawn.pop("weights", None)
        given: PyTree = dict(self.options)
        options: Any = optree.tree_map(
            lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, given
        )
        return Problem(self, drawn, options)


# Keywords that are data, new at each call; the other keywords are options.
PER_CALL = ("where", "weights", "mask", "after")

_ACRONYMS = {"bce": "BCE", "ce": "CE", "cldice": "ClDice", "cov": "CoV", "crps": "CRPS",
             "dt": "DT", "dwa": "DWA", "elr": "ELR", "famo": "FAMO", "gradnorm": "GradNorm",
             "gradvac": "GradVac", "js": "JS", "kl": "KL", "l1": "L1", "mcc": "MCC", "mse": "MSE",
             "nacl": "NACL", "nll": "NLL", "ntk": "NTK", "relobralo": "ReLoBRaLo",
             "softadapt": "SoftAdapt"}  # fmt: skip
_ACRONYMS |= {f"{kind.lower()}iou": f"{kind}IoU" for kind in ("", *"GDCESW", "MPD")}


def module_name(function: str) -> str:
    """CamelCase, with acronyms as torch writes them, and as the authors do."""
    return "".join(_ACRONYMS.get(word, word.capitalize()) for word in function.split("_"))


@dataclass(frozen=True)
class Equals:
    """A claim: with these options the loss is another function."""

    text: str
    other: Callable[..., Tensor]
    options: Mapping[str, Any] = field(default_factory=dict)
    cases: tuple[str, ...] = ()  # empty: all


@dataclass(frozen=True)
class LossSpec:
    """What the project knows about a loss."""

    loss: Callable[..., Any]
    unit: str  # in words, for the documentation
    cases: tuple[Case, ...]
    # What the values of each argument must be, for `checked`; may depend on the call.
    # A number K stands for labels from 0 to K - 1 where the class axis does not tell how many.
    domains: Callable[[Mapping[str, Any]], Mapping[str, Domain | int]]
    parameters: str | None = None  # the argument made by `<name>_init`
    init: Mapping[str, Any] = field(
        default_factory=dict
    )  # arguments for it, for the module's tests
    smooth: int = 2  # how often it can be differentiated
    # Claims, each a law.
    bounded: tuple[float, float] | None = None
    # The best prediction for the same target, None where the target has no perfect prediction.
    perfect: Callable[[Problem], Problem | None] | None = None
    minimum: float = 0.0
    symmetric: bool = False
    convex: bool = False
    monotone: bool = False  # moving away from the target costs more
    homogeneous: int | None = None  # loss(k x, k y) = k^degree loss(x, y)
    permutable: str = ""  # axes along which the order does not matter
    equals: tuple[Equals, ...] = ()
    stop_gradient: tuple[str, ...] = ()
    cross_entropy: bool = False  # its gradient stays alive on confident mistakes
    # For losses that are not separable: the additive statistics of a call, and the loss of them.
    statistics: tuple[Callable[..., Any], Callable[[Any, Mapping[str, Any]], Tensor]] | None = None
    # Below this a relative error is measured against it, with the reason.
    accuracy_floor: tuple[float, str] | None = None

    @property
    def name(self) -> str:
        return self.loss.__name__

    @property
    def family(self) -> str:
        return self.loss.__module__.split(".")[1]

    @property
    def module(self) -> str:
        """The name of its module."""
        return module_name(self.name)


def target_domain(arguments: Mapping[str, Any]) -> Domain:
    """Labels or a mask: decided by dtype, as the losses do."""
    target = arguments["target"]
    dense = target.is_floating_point() or target.dtype == torch.bool
    return "unit" if dense or arguments.get("class_dim", 1) is None else "labels"


def match(problem: Problem) -> Problem:
    """The prediction that equals the target."""
    return problem.having(prediction=problem.tensors["target"])


def confident(problem: Problem) -> Problem | None:
    """Logits that leave no doubt about a hard target."""
    name, target = next(iter(problem.case.args)), problem.tensors["target"]
    domain = problem.case.arrays["target"].domain
    if domain not in ("mask", "sign", "labels") or problem.options.get("label_smoothing"):
        return None
    prediction = problem.tensors[name]
    if domain == "labels":
        axis = problem.case.arrays[name].names.index("C")
        target = torch.nn.functional.one_hot(target, prediction.shape[axis]).movedim(-1, axis)
    target = target.to(prediction.dtype)
    if problem.case.arrays[name].domain in ("unit", "distribution"):
        return problem.having(**{name: target})
    return problem.having(**{name: 40 * target if domain == "sign" else 80 * target - 40})


def class_domains(arguments: Mapping[str, Any]) -> Mapping[str, Domain | int]:
    """What the losses of class logits and a target accept."""
    return {"logits": "class_logits", "target": target_domain(arguments)}


def class_cases(
    name: str = "labels", *, skip: Mapping[str, str] | None = None, **options: Any
) -> tuple[Case, Case]:
    """Class logits with labels, and with probabilities along the last axis."""
    return (
        Case(
            name,
            {"logits": Array("class_logits", "B C N"), "target": Array("labels", "B N")},
            unit="B N",
            where="B N",
            options=options,
            skip=skip or {},
        ),
        Case(
            f"{name} as probabilities".replace("labels as ", ""),
            {"logits": Array("class_logits", "B C"), "target": Array("distribution", "B C")},
            unit="B",
            where="B",
            options={"class_dim": -1, **options},
            skip=skip or {},
        ),
    )


def one_hot(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The loss called with one-hot targets instead of labels."""

    def call(logits: Tensor, target: Tensor, *, class_dim: int = 1, **options: Any) -> Tensor:
        classes = logits.shape[class_dim]
        dense = torch.nn.functional.one_hot(target, classes).movedim(-1, class_dim)
        return loss(logits, dense.to(logits.dtype), class_dim=class_dim, **options)

    return call


EXCHANGE = {"C3": "the prediction holds logits and the target does not"}

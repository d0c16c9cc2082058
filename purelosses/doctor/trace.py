"""Follow a loss through its operations: what depends on what, how, and on which line.

Every tensor gets a node. A node is *smooth* in an argument if differentiable operations alone lead
from it there, and *hard* in it if a decision lies between (argmax, a comparison, round). A node
that depends on the prediction without being part of the autograd graph is *dead*.
"""

import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import FrameType
from typing import Any

import optree
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from purelosses.doctor.report import Site

_HERE = os.path.dirname(__file__) + os.sep
_STDLIB = sysconfig.get_paths()["stdlib"] + os.sep
_NOT_THE_USERS = tuple(f"{os.sep}{name}{os.sep}" for name in ("torch", "numpy", "optree"))


@cache
def is_users(file: str) -> bool:
    """Whether a file belongs to whoever wrote the loss: not to torch, Python or the doctor."""
    if file.startswith((_HERE, "<frozen", "<string")):
        return False
    if "site-packages" in file:
        return not any(part in file for part in _NOT_THE_USERS)
    return not file.startswith(_STDLIB)


def site_of(frame: FrameType | None) -> Site | None:
    """The deepest line of the user's code."""
    while frame is not None:
        if is_users(frame.f_code.co_filename):
            return Site(frame.f_code.co_filename, frame.f_lineno)
        frame = frame.f_back
    return None


def site_of_error(error: BaseException) -> Site | None:
    trace, site = error.__traceback__, None
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        site = Site(file, trace.tb_lineno) if is_users(file) else site
        trace = trace.tb_next
    return site


# Operations

_GETTERS = {getattr(Tensor, name).__get__: name for name in ("data", "T", "mT", "H", "mH", "real")}
NUMBERS = {
    "item",
    "tolist",
    "numpy",
    "__array__",
    "__float__",
    "__int__",
    "__index__",
    "__complex__",
}
COPIES = {"tensor", "new_tensor"}  # torch.tensor(t): a number again, in a tensor
DECISIONS = {
    "round", "round_", "floor", "floor_", "ceil", "ceil_", "trunc", "trunc_", "fix", "sign", "sgn",
    "sign_", "heaviside", "histc", "histogram", "bernoulli", "floor_divide", "__floordiv__",
    "__rfloordiv__", "bucketize", "searchsorted",
}  # fmt: skip
LINEAR = {
    "add", "sub", "rsub", "__add__", "__radd__", "__sub__", "__rsub__", "add_", "sub_", "__iadd__",
    "__isub__", "sum", "mean", "stack", "cat", "neg", "__neg__", "mul", "__mul__", "__rmul__",
    "div", "__truediv__", "__getitem__", "squeeze", "unsqueeze", "view", "reshape", "flatten",
    "float", "double", "to", "unbind", "hstack", "concat", "subtract", "clone", "contiguous",
    "mul_", "div_", "__imul__", "__itruediv__", "multiply", "divide", "true_divide",
    "masked_select",
}  # fmt: skip
ADDITIVE = {
    "add", "sub", "rsub", "__add__", "__radd__", "__sub__", "__rsub__", "add_", "sub_", "__iadd__",
    "__isub__", "stack", "cat", "hstack", "concat", "subtract",
}  # fmt: skip
SHAPE_ONLY = {
    "view", "reshape", "flatten", "squeeze", "unsqueeze", "permute", "transpose", "movedim", "T",
    "contiguous", "clone", "float", "double", "to", "type", "__getitem__", "expand", "swapaxes",
    "index_select", "gather", "masked_select", "view_as", "expand_as", "moveaxis", "t", "type_as",
    "reshape_as", "unbind", "split", "chunk", "data", "detach", "select", "narrow", "identity",
}  # fmt: skip


def operation(function: Any) -> str | None:
    """The name of an operation; None for a mere look at a tensor (its shape, its dtype)."""
    name: str = getattr(function, "__name__", "")
    if name == "__get__":
        return _GETTERS.get(function)
    return None if name in _LOOKS else name


_LOOKS = {
    "size", "dim", "stride", "numel", "__len__", "is_floating_point", "is_complex", "__set__",
    "storage_offset", "data_ptr", "__hash__", "__repr__", "type_string", "is_contiguous",
    "element_size", "untyped_storage", "requires_grad_", "retain_grad", "register_hook",
    "result_type", "_is_view", "get_device", "nelement", "ndimension", "broadcast_shapes",
    "_backward_hooks", "__dir__", "is_same_size", "_set_grad_enabled", "__format__", "is_tensor",
    "promote_types", "finfo", "set_grad_enabled", "_C_get_default_device",
}  # fmt: skip


@dataclass
class Node:
    """A tensor in the loss, and where it came from."""

    index: int
    name: str
    site: Site | None
    inputs: tuple[int, ...]
    smooth: frozenset[int]  # arguments it depends on through differentiable operations
    hard: frozenset[int]  # arguments it depends on through a decision
    live: bool  # autograd will come by
    recording: bool  # gradients were enabled when it was made
    value: Any
    operands: tuple[Any, ...] = ()  # the shapes of the tensors it was made from
    grad_fn: Any = None
    decides: bool = False
    keywords: dict[str, Any] = field(default_factory=dict)

    @property
    def depends(self) -> frozenset[int]:
        return self.smooth | self.hard


@dataclass
class Trace:
    """Everything that happened in one call."""

    arguments: int
    nodes: list[Node] = field(default_factory=list)
    numbers: list[Node] = field(default_factory=list)  # item(), numpy(), ...
    branches: list[Node] = field(default_factory=list)  # bool(t)
    synchronising: list[Node] = field(default_factory=list)  # nonzero, boolean indexing
    by_tensor: dict[int, int] = field(default_factory=dict)
    by_memory: dict[Any, int] = field(default_factory=dict)
    kept: list[Any] = field(default_factory=list)

    def node(self, tensor: Any) -> Node | None:
        index = self.by_tensor.get(id(tensor))
        if index is None and isinstance(tensor, Tensor) and tensor.grad_fn is None:
            # `Variable(t)` and `Parameter(t)` are other objects over the same memory.
            with torch._C.DisableTorchFunction():
                index = (
                    self.by_memory.get((tensor.data_ptr(), tensor.shape))
                    if _dense(tensor)
                    else None
                )
        return None if index is None else self.nodes[index]

    def inputs(self, node: Node) -> list[Node]:
        return [self.nodes[i] for i in node.inputs]

    def ancestors(self, node: Node) -> list[Node]:
        """The node and all it was made from, in the order of the call."""
        seen, stack = {node.index}, [node.index]
        while stack:
            for i in self.nodes[stack.pop()].inputs:
                if i not in seen:
                    seen.add(i)
                    stack.append(i)
        return [self.nodes[i] for i in sorted(seen)]

    def consumers(self) -> dict[int, list[Node]]:
        found: dict[int, list[Node]] = {}
        for node in self.nodes:
            for i in node.inputs:
                found.setdefault(i, []).append(node)
        return found

    def origin(self, node: Node, passing: Iterable[str] = SHAPE_ONLY) -> Node:
        """What a node is, apart from its shape."""
        while node.name in passing and node.inputs and self.nodes[node.inputs[0]].depends:
            node = self.nodes[node.inputs[0]]
        return node


def _dense(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and type(tensor) in (Tensor, torch.nn.Parameter)


def tensors_in(tree: Any) -> list[Tensor]:
    """The tensors of the arguments of one operation."""
    found: list[Tensor] = []
    stack = [tree]
    while stack:
        item = stack.pop()
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, (tuple, list)):
            stack.extend(reversed(item))
        elif isinstance(item, dict):
            stack.extend(reversed(item.values()))
    return found


class Tracer(TorchFunctionMode):
    """Record a call. Subclasses change what an operation does (`perform`)."""

    def __init__(self, arguments: Sequence[Any] = ()) -> None:
        super().__init__()
        self.trace = Trace(len(arguments))
        for position, argument in enumerate(arguments):
            if isinstance(argument, Tensor):
                mine = frozenset({position})
                self._add("argument", None, (), mine, frozenset(), argument)

    def perform(self, function: Any, name: str, site: Site | None, args: Any, kwargs: Any) -> Any:
        return function(*args, **kwargs)

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = operation(function)
        if name is None:
            return function(*args, **kwargs)
        site = site_of(sys._getframe(1))
        result = self.perform(function, name, site, args, kwargs)
        self._record(name, site, args, kwargs, result)
        return result

    def _add(
        self,
        name: str,
        site: Site | None,
        inputs: tuple[int, ...],
        smooth: frozenset[int],
        hard: frozenset[int],
        value: Any,
        **more: Any,
    ) -> Node:
        trace = self.trace
        live = isinstance(value, Tensor) and value.requires_grad
        grad_fn = value.grad_fn if live else None
        node = Node(
            len(trace.nodes), name, site, inputs, smooth, hard, live, torch.is_grad_enabled(),
            value, grad_fn=grad_fn, **more,
        )  # fmt: skip
        trace.nodes.append(node)
        trace.kept.append(value)
        if isinstance(value, Tensor):
            trace.by_tensor[id(value)] = node.index
            if _dense(value):
                trace.by_memory[value.data_ptr(), value.shape] = node.index
        return node

    def _record(self, name: str, site: Site | None, args: Any, kwargs: Any, result: Any) -> None:
        trace = self.trace
        taken = tensors_in((args, kwargs))
        nodes = [node for node in map(trace.node, taken) if node is not None]
        inputs = tuple(dict.fromkeys(node.index for node in nodes))
        smooth = frozenset[int]().union(*(node.smooth for node in nodes))
        hard = frozenset[int]().union(*(node.hard for node in nodes))
        operands = tuple(tuple(t.shape) for t in taken)
        if name in NUMBERS or name == "__bool__":
            node = Node(
                len(trace.nodes), name, site, inputs, smooth, hard,
                any(t.requires_grad for t in taken), torch.is_grad_enabled(), result,
            )  # fmt: skip
            (trace.branches if name == "__bool__" else trace.numbers).append(node)
            return
        made = [result] if isinstance(result, Tensor) else tensors_in(result)
        if name == "__setitem__" or (name.endswith("_") and not name.startswith("_") and not made):
            made = taken[:1]
        keywords = {k: v for k, v in kwargs.items() if not isinstance(v, Tensor)}
        keywords["args"] = tuple(
            x
            if isinstance(x, (int, float, str, bool, type(None), torch.dtype)) or _slices(x)
            else ...
            for x in args
        )
        for tensor in made:
            trace_of = (smooth, hard)
            decides = bool(smooth) and (
                name in DECISIONS or not (tensor.is_floating_point() or tensor.is_complex())
            )
            if decides:
                trace_of = (frozenset(), smooth | hard)
            node = self._add(
                name, site, inputs, *trace_of, tensor,
                operands=operands, decides=decides, keywords=keywords,
            )  # fmt: skip
        if name in ("nonzero", "unique", "masked_select", "argwhere", "one_hot") or (
            name in ("__getitem__", "__setitem__") and _boolean_index(args)
        ):
            trace.synchronising.append(trace.nodes[-1])


def _slices(x: Any) -> bool:
    if isinstance(x, tuple):
        return all(_slices(item) for item in x)
    return x is None or x is Ellipsis or isinstance(x, (slice, int))


def _boolean_index(args: Any) -> bool:
    keys = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(isinstance(key, Tensor) and key.dtype == torch.bool for key in keys)


# Counterfactual runs


class Lying(Tracer):
    """The numbers taken on one line are off by one percent."""

    def __init__(self, arguments: Sequence[Any], site: Site, by: float = 1.01) -> None:
        super().__init__(arguments)
        self.site, self.by, self.lies = site, by, 0

    def perform(self, function: Any, name: str, site: Site | None, args: Any, kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if site != self.site or (name not in NUMBERS and name not in COPIES):
            return result
        if name in COPIES and not tensors_in((args, kwargs)):
            return result
        # Each lie is a different one, so that they do not cancel in a ratio.
        self.lies += 1
        return self._lie(result)

    def _lie(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._lie(item) for item in value]
        if isinstance(value, (bool, int)):
            return value
        if isinstance(value, float):
            return value * self.by**self.lies
        if isinstance(value, Tensor):
            return value.detach() * self.by**self.lies if value.is_floating_point() else value
        if getattr(getattr(value, "dtype", None), "kind", "") == "f":
            return value * value.dtype.type(self.by**self.lies)
        return value


class Reconnecting(Tracer):
    """The cuts on one line (or on all) are not made: no detach, no no_grad, no copy."""

    CUTS = frozenset({"detach", "detach_", "data"})

    def __init__(
        self, arguments: Sequence[Any], site: Site | None = None, blocks: bool = False
    ) -> None:
        super().__init__(arguments)
        self.site, self.blocks = site, blocks  # blocks: no no_grad on any line

    def perform(self, function: Any, name: str, site: Site | None, args: Any, kwargs: Any) -> Any:
        if name == "backward":
            return function(*args, **kwargs)
        if self.site is not None and (site != self.site or name not in {*self.CUTS, *COPIES}):
            if torch.is_grad_enabled() or not self.blocks:
                return function(*args, **kwargs)
            with torch.enable_grad():
                return function(*args, **kwargs)
        if name in self.CUTS and args and isinstance(args[0], Tensor):
            with torch.enable_grad():
                return args[0].view_as(args[0])
        if name in COPIES:
            inside = tensors_in(args[1:] if name == "new_tensor" else args)
            if len(inside) == 1:
                return inside[0].clone()
            if inside and len({t.shape for t in inside}) == 1:
                return torch.stack(inside)
        with torch.enable_grad():
            return function(*args, **kwargs)


def flatten(tree: Any) -> tuple[list[Any], Any]:
    return optree.tree_flatten(tree, none_is_leaf=True)


def first_not_finite(trace: Trace) -> Node | None:
    """The first operation whose result is not finite though what it took was."""
    excused = {"masked_fill", "masked_fill_", "where", "full", "full_like", "fill_", "__setitem__"}
    suspects = [node for node in trace.nodes if node.name not in (*excused, "argument")]
    for bad in (_not_finite, _not_a_number):
        for node in suspects:
            if bad(node.value) and not any(bad(i.value) for i in trace.inputs(node)):
                return node
    return None


def _not_finite(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and not bool(
        value.detach().isfinite().all()
    )  # fmt: skip


def _not_a_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and bool(
        value.detach().isnan().any()
    )  # fmt: skip


def backward_sites(trace: Trace) -> dict[Any, Node]:
    return {node.grad_fn: node for node in trace.nodes if node.grad_fn is not None}


def graph_of(value: Tensor) -> Iterator[tuple[Any, Any]]:
    """Every autograd node below a tensor, with the one that led there."""
    seen: set[Any] = set()
    queue: list[tuple[Any, Any]] = [(value.grad_fn, None)]
    while queue:
        function, parent = queue.pop(0)
        if function is None or function in seen:
            continue
        seen.add(function)
        yield function, parent
        queue += [(child, function) for child, _ in function.next_functions]


def first_bad_backward(
    trace: Trace, value: Tensor, leaves: list[Tensor]
) -> tuple[str, Site | None]:
    """The backward operation that turned a finite gradient into one that is not, and its line."""
    known = backward_sites(trace)
    parents: dict[Any, Any] = dict(graph_of(value))
    found: list[Any] = []

    def watch(function: Any) -> Any:
        def hook(into: Any, out: Any) -> None:
            fine = all(g is None or bool(g.isfinite().all()) for g in out)
            if fine and not all(g is None or bool(g.isfinite().all()) for g in into):
                found.append(function)

        return function.register_hook(hook)

    handles = [watch(function) for function in parents if "AccumulateGrad" not in function.name()]
    try:
        torch.autograd.grad(value.sum(), leaves, allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        return "", None
    name = found[0].name().removesuffix("Backward0").removesuffix("Backward1")
    function = found[0]
    while function is not None and function not in known:
        function = parents[function]
    return name, known[function].site if function is not None else None

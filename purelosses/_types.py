"""The few types that signatures of several families share."""

from typing import Any, Literal, TypeAlias

Reduction: TypeAlias = Literal["mean", "weighted_mean", "sum", "none"]
Activation: TypeAlias = Literal["sigmoid", "softmax"]

# A nesting of dicts, lists and tuples with tensors at the leaves. Python's type system cannot
# say "the same nesting as that argument", so the shape of a tree is checked at run time.
PyTree: TypeAlias = Any

r"""Several losses, one number: balancing tasks of different kinds and scales."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import optree
import torch
from torch import Tensor

from purelosses._checks import check_choice, complain
from purelosses._numerics import promote
from purelosses._types import PyTree

Likelihood = Literal["gaussian", "laplace", "softmax"]

# The factors a and b of a task's term a exp(-s) L + b s.
_FACTORS: dict[Likelihood, tuple[float, float]] = {
    "gaussian": (0.5, 0.5),
    "laplace": (1.0, 1.0),
    "softmax": (1.0, 0.5),
}


def uncertainty_weighted_init(tasks: int | Sequence[str] | PyTree) -> PyTree:
    """Log-variances of 0 for [`uncertainty_weighted_loss`][purelosses.uncertainty_weighted_loss].

    Args:
        tasks: The number of tasks, their names, or any tree with the structure of the losses.

    Returns:
        A tensor of shape (number,) for a number; `{name: tensor}` for names; the same tree with a
        0-dimensional tensor at each leaf otherwise.

    Raises:
        ValueError: If there are no tasks, or a name occurs twice.

    Examples:
        >>> uncertainty_weighted_init(2)
        tensor([0., 0.])
        >>> uncertainty_weighted_init(["mask", "depth"])
        {'mask': tensor(0.), 'depth': tensor(0.)}
    """
    function = "uncertainty_weighted_init"
    if isinstance(tasks, int) and not isinstance(tasks, bool):
        if tasks < 1:
            raise ValueError(complain(function, "tasks", "be at least 1", tasks))
        return torch.zeros(tasks)
    if isinstance(tasks, list | tuple) and tasks and all(isinstance(task, str) for task in tasks):
        if len(set(tasks)) < len(tasks):
            raise ValueError(complain(function, "tasks", "name each task once", tasks))
        tasks = dict.fromkeys(tasks, 0)
    tree: PyTree = tasks
    log_vars = optree.tree_map(lambda _: torch.zeros(()), tree)
    if not optree.tree_leaves(log_vars):
        raise ValueError(complain(function, "tasks", "have at least one task", tasks))
    return log_vars


def uncertainty_weighted_loss(
    log_vars: PyTree,
    losses: PyTree,
    *,
    likelihood: Likelihood | PyTree = "gaussian",
) -> tuple[Tensor, dict[str, PyTree]]:
    r"""Sum of task losses, each weighted by how uncertain its task is, which is learnt.

    $$\ell = \sum_i a_i\,e^{-s_i} L_i + b_i s_i$$

    with $L_i$ the loss of a task and $s_i$ its entry in `log_vars`. The `likelihood` of a task says
    what its loss is the negative logarithm of:

    | likelihood | $L_i$ is | $a_i$ | $b_i$ | $s_i$ is | weight at the best $s_i$ |
    |---|---|---|---|---|---|
    | `"gaussian"` | a squared error | ½ | ½ | $\log \sigma^2$ | $1 / (2 L_i)$ |
    | `"laplace"` | an absolute error | 1 | 1 | $\log b$, the scale | $1 / L_i$ |
    | `"softmax"` | a cross-entropy | 1 | ½ | $\log \sigma^2$, the temperature | $1 / (2 L_i)$ |

    The total can be negative. Weight decay on `log_vars` distorts the weights.

    Args:
        log_vars: One number per task: a tree with the structure of `losses`, or a tensor of shape
            (number of tasks,) for a list. Made by
            [`uncertainty_weighted_init`][purelosses.uncertainty_weighted_init] and trained along
            with the network.
        losses: The task losses, 0-dimensional, in a dict, a list or any nesting of them.
        likelihood: One for all tasks, or a tree of them with the structure of `losses` (or its
            first levels).

    Returns:
        The total, and `{"losses": ..., "weights": ...}` for logging: the task losses as they came
        and the factors $a_i e^{-s_i}$, detached, with the structure of `losses`.

    Raises:
        ValueError: If the structures differ, a loss is not 0-dimensional, or a likelihood is
            unknown.
        TypeError: If a leaf is not a floating tensor.

    Examples:
        >>> losses = {"mask": torch.tensor(0.5), "depth": torch.tensor(4.0)}
        >>> log_vars = uncertainty_weighted_init(losses)
        >>> total, aux = uncertainty_weighted_loss(log_vars, losses)
        >>> total
        tensor(2.2500)
        >>> aux["weights"]
        {'mask': tensor(0.5000), 'depth': tensor(0.5000)}

    Coming from:
        The authors' notebook, most copies of it and torchjd's `IMTLL` (with the sign of $s_i$
        turned) compute `likelihood="laplace"` for every task: twice the gaussian form.

    Source:
        Kendall, Gal and Cipolla, arXiv:1705.07115, eq. (7) for regression and eq. (10) for
        classification; the laplace form: Kendall and Cipolla, arXiv:1704.00390.
    """
    function = "uncertainty_weighted_loss"
    values, structure = optree.tree_flatten(losses)
    _check_scalars(function, "losses", losses, values, values)
    kinds = _spread(function, "likelihood", likelihood, losses)
    for kind in kinds:
        check_choice(function, "likelihood", kind, get_args(Likelihood))
    if isinstance(log_vars, Tensor) and log_vars.ndim:
        if not isinstance(losses, list | tuple) or log_vars.shape != (len(values),):
            must = f"have one entry per loss: shape ({len(values)},) for a list, else a tree"
            got = f"shape {tuple(log_vars.shape)} for {_outline(losses)}"
            raise ValueError(complain(function, "log_vars", must, got))
        log_variances = list(log_vars.unbind())
    else:
        log_variances = _spread(function, "log_vars", log_vars, losses)
        if len(optree.tree_leaves(log_vars)) < len(values):
            must = f"have the structure of `losses`, {_outline(losses)}"
            raise ValueError(complain(function, "log_vars", must, _outline(log_vars)))
    _check_scalars(function, "log_vars", log_vars, log_variances, values)

    terms, weights = [], list(values)
    for kind, (a, b) in _FACTORS.items():
        tasks = [task for task, its_kind in enumerate(kinds) if its_kind == kind]
        if tasks:
            s = torch.stack([promote(log_variances[task]) for task in tasks])
            precision = a * torch.exp(-s)
            terms.append(precision * torch.stack([promote(values[task]) for task in tasks]) + b * s)
            for task, weight in zip(tasks, precision.detach().unbind(), strict=True):
                weights[task] = weight
    total = torch.cat(terms).sum()
    aux = {"losses": [value.detach() for value in values], "weights": weights}
    return total, {key: optree.tree_unflatten(structure, leaves) for key, leaves in aux.items()}


def _spread(function: str, argument: str, tree: PyTree, losses: PyTree) -> list[Any]:
    """One entry per loss, from a tree with the structure of the losses or of their first levels."""
    try:
        # One list per entry: the entries are not always tensors, and a list has an order.
        spread = optree.tree_map(lambda x, part: [x] * len(optree.tree_leaves(part)), tree, losses)
    except ValueError:
        must = f"have the structure of `losses`, {_outline(losses)}"
        raise ValueError(complain(function, argument, must, _outline(tree))) from None
    return optree.tree_leaves(spread)


def _outline(tree: PyTree) -> str:
    """The structure of a tree, with a star at each leaf."""
    return str(optree.tree_structure(tree)).removeprefix("PyTreeSpec(").removesuffix(")")


def _check_scalars(
    function: str, argument: str, tree: PyTree, leaves: list[Any], losses: list[Any]
) -> None:
    """Every leaf is a 0-dimensional floating tensor beside the losses; says which is not."""
    must = "be a 0-dimensional floating tensor"
    for index, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor) or leaf.ndim or not leaf.is_floating_point():
            if not isinstance(tree, Tensor):
                argument = optree.tree_accessors(tree)[index].codify(argument)
            if not isinstance(leaf, Tensor):
                raise TypeError(complain(function, argument, must, repr(leaf)))
            got = f"shape {tuple(leaf.shape)} of {leaf.dtype}"
            raise ValueError(complain(function, argument, must, got))
        if leaf.device != losses[0].device:
            must = f"be on the device of the first loss, {losses[0].device}"
            raise ValueError(complain(function, argument, must, leaf.device))
    if not leaves:
        raise ValueError(complain(function, argument, "hold at least one loss", repr(tree)))

r"""Several task losses as one number: sums, means and maxima.

Each takes a tree of losses and returns `(total, aux)`; `aux` holds the losses before weighting and
the effective weights, the derivative of the total by each loss.
"""

import math

import optree
import torch
from torch import Tensor

from purelosses._checks import check_number, complain
from purelosses._numerics import promote, safe_divide
from purelosses._types import PyTree
from purelosses.balance._tasks import Tasks, gather, masked_sums


def task_statistics(losses: PyTree, *, mask: PyTree = None) -> dict[str, PyTree]:
    """The sum and the number of the labelled losses of every task; both add.

    Over micro-batches and ranks, add the statistics and take the losses of the result
    ([`losses_from_statistics`][purelosses.losses_from_statistics]): exact where an average of
    averages is not, because a task may have labels in few samples of one part and many of another.

    Args:
        losses: The task losses in a dict, a list or any nesting of them: 0-dimensional, or of any
            shape (one loss per sample) where there is a mask.
        mask: Which entries of `losses` have labels: booleans with the structure of `losses` and the
            shapes of its tensors, or None for a task that always has.

    Returns:
        `{"sum": ..., "count": ...}`, each with the structure of `losses` and 0-dimensional tensors.

    Raises:
        ValueError: If the structures differ, or a loss is not 0-dimensional and there is no mask.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> losses = {"depth": torch.tensor([1.0, 3.0, torch.nan])}
        >>> task_statistics(losses, mask={"depth": torch.tensor([True, True, False])})
        {'sum': {'depth': tensor(4.)}, 'count': {'depth': tensor(2.)}}
    """
    function = "task_statistics"
    if mask is None:
        tasks = gather(function, losses)
        return {"sum": tasks.tree(tasks.values), "count": tasks.tree(torch.ones_like(tasks.values))}
    leaves, structure = optree.tree_flatten(losses)
    sums, counts = masked_sums(function, losses, leaves, mask)
    return {
        "sum": optree.tree_unflatten(structure, sums.unbind()),
        "count": optree.tree_unflatten(structure, counts.unbind()),
    }


def losses_from_statistics(statistics: dict[str, PyTree]) -> tuple[PyTree, PyTree]:
    """The mean loss of every task, and which tasks have one, from added statistics.

    Args:
        statistics: What [`task_statistics`][purelosses.task_statistics] returned, or the sum of
            several of them.

    Returns:
        The losses, and their `mask`: both go to any function of several losses.

    Raises:
        ValueError: If it holds no sums and counts of the same structure.

    Examples:
        >>> one = task_statistics({"depth": torch.tensor([1.0, 3.0])}, mask={"depth": None})
        >>> other = task_statistics({"depth": torch.tensor([8.0])}, mask={"depth": None})
        >>> losses_from_statistics(optree.tree_map(torch.add, one, other))
        ({'depth': tensor(4.)}, {'depth': tensor(True)})
    """
    function = "losses_from_statistics"
    if not isinstance(statistics, dict) or {"sum", "count"} - statistics.keys():
        got = list(statistics) if isinstance(statistics, dict) else repr(statistics)
        raise ValueError(complain(function, "statistics", "hold 'sum' and 'count'", got))
    tasks = gather(function, statistics["sum"])
    counts = tasks.vector("statistics['count']", statistics["count"])
    return tasks.tree(safe_divide(tasks.values, counts)), tasks.tree(counts > 0)


def weighted_sum_loss(
    losses: PyTree, *, weights: PyTree = 1.0, mask: PyTree = None
) -> tuple[Tensor, dict[str, PyTree]]:
    r"""Weighted sum of task losses: where to start, and hard to beat.

    $$\ell = \sum_i w_i L_i$$

    with $L_i$ the loss of a task and $w_i$ its entry in `weights`, over the tasks that have labels.

    Args:
        losses: The task losses in a dict, a list or any nesting of them: 0-dimensional, or of any
            shape (one loss per sample) where there is a mask.
        weights: One number or 0-dimensional tensor for all tasks, a tree of them with the structure
            of `losses` (or its first levels), or a tensor of shape (number of tasks,) for a list.
        mask: Which entries of `losses` have labels: booleans with the structure of `losses` and the
            shapes of its tensors, or None for a task that always has. A task's loss is then the
            mean of what is present, 0 where nothing is.

    Returns:
        The total, and `{"losses": ..., "weights": ...}` for logging: the task losses before
        weighting and what each is multiplied by, detached, with the structure of `losses`.

    Raises:
        ValueError: If the structures differ, or a loss is not 0-dimensional and there is no mask.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> losses = {"mask": torch.tensor(0.5), "depth": torch.tensor(4.0)}
        >>> weighted_sum_loss(losses, weights={"mask": 1.0, "depth": 0.1})[0]
        tensor(0.9000)

    Coming from:
        LibMTL's `EW` and torchjd's `Sum` are the plain sum; `Mean` is `weights=1 / number`.

    Source:
        Why to start here: Kurin et al., arXiv:2201.04122; Xin et al., arXiv:2209.11379.
    """
    tasks = gather("weighted_sum_loss", losses, mask)
    weights = tasks.counted(_row(tasks, tasks.numbers("weights", weights)))
    return (weights * tasks.values).sum(), tasks.aux(weights)


def log_sum_loss(losses: PyTree, *, mask: PyTree = None) -> tuple[Tensor, dict[str, PyTree]]:
    r"""Sum of the logarithms of task losses: no scale of any task matters.

    $$\ell = \sum_i \log L_i$$

    with $L_i > 0$ the loss of a task, over the tasks that have labels. The weight of a task is
    $1 / L_i$: what uncertainty weighting arrives at. A loss of exactly 0 counts as the smallest
    normal number, without gradient; a negative one gives NaN.

    Args:
        losses: The task losses in a dict, a list or any nesting of them: 0-dimensional, or of any
            shape (one loss per sample) where there is a mask.
        mask: Which entries of `losses` have labels: booleans with the structure of `losses` and the
            shapes of its tensors, or None for a task that always has. A task's loss is then the
            mean of what is present.

    Returns:
        The total, and `{"losses": ..., "weights": ...}` for logging: the task losses before
        weighting and the weights $1 / L_i$ (0 for a loss of 0), detached, with the structure of
        `losses`.

    Raises:
        ValueError: If the structures differ, or a loss is not 0-dimensional and there is no mask.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> total, aux = log_sum_loss({"mask": torch.tensor(0.5), "depth": torch.tensor(4.0)})
        >>> total
        tensor(0.6931)
        >>> aux["weights"]
        {'mask': tensor(2.), 'depth': tensor(0.2500)}

    Coming from:
        `uncertainty_weighted_loss` with `"laplace"` at its best `log_vars` is this plus the number
        of tasks.

    Source:
        The loss-balancing half of Liu et al., *Towards Impartial Multi-task Learning* (2021), at
        its optimum.
    """
    tasks = gather("log_sum_loss", losses, mask)
    values, zero = _away_from_zero(tasks)
    weights = torch.where(zero, 0.0, 1 / values)
    smallest = math.log(torch.finfo(values.dtype).tiny)
    logs = torch.where(zero, smallest, torch.log(values))
    return tasks.counted(logs).sum(), tasks.aux(tasks.counted(weights))


def geometric_mean_loss(losses: PyTree, *, mask: PyTree = None) -> tuple[Tensor, dict[str, PyTree]]:
    r"""Geometric mean of task losses: no scale of any task matters, and the total is a loss still.

    $$\ell = \Bigl(\prod_i L_i\Bigr)^{1/K} = \exp\Bigl(\frac1K \sum_i \log L_i\Bigr)$$

    with $L_i \ge 0$ the loss of a task and $K$ the number of tasks that have labels. The weight of
    a task is $\ell / (K L_i)$. It is computed from logarithms, so that no product underflows. If a
    loss is exactly 0, so are the total and its gradient; a negative one gives NaN.

    Args:
        losses: The task losses in a dict, a list or any nesting of them: 0-dimensional, or of any
            shape (one loss per sample) where there is a mask.
        mask: Which entries of `losses` have labels: booleans with the structure of `losses` and the
            shapes of its tensors, or None for a task that always has. A task's loss is then the
            mean of what is present.

    Returns:
        The total, and `{"losses": ..., "weights": ...}` for logging: the task losses before
        weighting and the weights $\ell / (K L_i)$, detached, with the structure of `losses`.

    Raises:
        ValueError: If the structures differ, or a loss is not 0-dimensional and there is no mask.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> geometric_mean_loss([torch.tensor(0.5), torch.tensor(8.0)])[0]
        tensor(2.)

    Coming from:
        torchjd's `GeometricMean` and LibMTL's `GLS`: same value. At a loss of 0 torchjd's gradient
        is NaN; the product of LibMTL underflows for three losses of 1e-30.

    Source:
        Chennupati et al., arXiv:1904.08492.
    """
    tasks = gather("geometric_mean_loss", losses, mask)
    values, zero = _away_from_zero(tasks)
    number = tasks.number()
    # L = m 2^e: the logarithm of the mantissas is small, so its exponential keeps all digits, and
    # the exponents are added as whole numbers.
    exponents = torch.log2(values.detach()).floor().clamp(-126, 126)
    whole = (exponents.sum() / number).round()
    mantissas = torch.log(values * torch.exp2(-exponents)).sum()
    rest = (exponents.sum() - whole * number) * math.log(2)
    mean = torch.exp((mantissas + rest) / number) * torch.exp2(whole)
    solved = zero.any() if tasks.present is None else zero.any() | tasks.present.any().logical_not()
    total = torch.where(solved, 0.0, mean)
    return total, tasks.aux(tasks.counted(total / values / number))


def chebyshev_loss(
    losses: PyTree, *, weights: PyTree = 1.0, ideal: PyTree = 0.0, mask: PyTree = None
) -> tuple[Tensor, dict[str, PyTree]]:
    r"""The worst task loss, weighted: reaches every trade-off, which no weighted sum does.

    $$\ell = \max_i\; w_i (L_i - z_i)$$

    with $L_i$ the loss of a task, $w_i$ its entry in `weights` and $z_i$ in `ideal`, over the tasks
    that have labels. The gradient is that of the worst task (shared evenly at a tie).

    Args:
        losses: The task losses in a dict, a list or any nesting of them: 0-dimensional, or of any
            shape (one loss per sample) where there is a mask.
        weights: One number or 0-dimensional tensor for all tasks, a tree of them with the structure
            of `losses` (or its first levels), or a tensor of shape (number of tasks,) for a list.
        ideal: The loss of every task that could be hoped for, given like `weights`.
        mask: Which entries of `losses` have labels: booleans with the structure of `losses` and the
            shapes of its tensors, or None for a task that always has. A task's loss is then the
            mean of what is present.

    Returns:
        The total (0 if no task has labels), and `{"losses": ..., "weights": ...}` for logging: the
        task losses before weighting and the derivative of the total by each, detached, with the
        structure of `losses`.

    Raises:
        ValueError: If the structures differ, or a loss is not 0-dimensional and there is no mask.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> total, aux = chebyshev_loss({"mask": torch.tensor(0.5), "depth": torch.tensor(4.0)})
        >>> total
        tensor(4.)
        >>> aux["weights"]
        {'mask': tensor(0.), 'depth': tensor(1.)}

    Coming from:
        The Tchebycheff scalarization of multi-objective optimisation.

    Source:
        Bowman, *On the Relationship of the Tchebycheff Norm and the Efficient Frontier of
        Multiple-Criteria Objectives* (1976); why a sum is not enough: Hu et al., arXiv:2308.13985.
    """
    tasks = gather("chebyshev_loss", losses, mask)
    weights = _row(tasks, tasks.numbers("weights", weights))
    gaps = weights * (tasks.values - tasks.numbers("ideal", ideal))
    worst = tasks.counted(gaps, torch.finfo(gaps.dtype).min)
    total = _of_present(tasks, worst.amax())
    at = tasks.counted((worst == worst.amax()).to(gaps.dtype))
    return total, tasks.aux(weights * at / at.sum().clamp_min(1))


def smooth_chebyshev_loss(
    losses: PyTree,
    *,
    mu: float | Tensor = 1.0,
    weights: PyTree = 1.0,
    ideal: PyTree = 0.0,
    mask: PyTree = None,
) -> tuple[Tensor, dict[str, PyTree]]:
    r"""A smooth worst task loss: all tasks have a gradient, the worst ones most.

    $$\ell = \mu \log \sum_i \exp\Bigl(\frac{w_i (L_i - z_i)}{\mu}\Bigr)$$

    with $L_i$ the loss of a task, $w_i$ its entry in `weights` and $z_i$ in `ideal`, over the tasks
    that have labels. It exceeds [`chebyshev_loss`][purelosses.chebyshev_loss] by at most
    $\mu \log K$ for $K$ tasks, and tends to it as $\mu$ falls.

    Args:
        losses: The task losses in a dict, a list or any nesting of them: 0-dimensional, or of any
            shape (one loss per sample) where there is a mask.
        mu: Width of the smoothing, in units of the weighted losses.
        weights: One number or 0-dimensional tensor for all tasks, a tree of them with the structure
            of `losses` (or its first levels), or a tensor of shape (number of tasks,) for a list.
        ideal: The loss of every task that could be hoped for, given like `weights`.
        mask: Which entries of `losses` have labels: booleans with the structure of `losses` and the
            shapes of its tensors, or None for a task that always has. A task's loss is then the
            mean of what is present.

    Returns:
        The total (0 if no task has labels), and `{"losses": ..., "weights": ...}` for logging: the
        task losses before weighting and the derivative of the total by each, detached, with the
        structure of `losses`.

    Raises:
        ValueError: If the structures differ, `mu` is not positive, or a loss is not 0-dimensional
            and there is no mask.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> losses = {"mask": torch.tensor(0.5), "depth": torch.tensor(4.0)}
        >>> smooth_chebyshev_loss(losses, mu=0.5)[0]
        tensor(4.0005)
        >>> smooth_chebyshev_loss(losses, mu=10.0)[1]["weights"]
        {'mask': tensor(0.4134), 'depth': tensor(0.5866)}

    Coming from:
        torchjd's `STCH(mu)` weighs every task by 1 / number unless told otherwise; here by 1.

    Source:
        Lin et al., *Smooth Tchebycheff Scalarization for Multi-Objective Optimization*,
        arXiv:2402.19078.
    """
    function = "smooth_chebyshev_loss"
    tasks = gather(function, losses, mask)
    mu = check_number(function, "mu", mu, above=0)
    weights = _row(tasks, tasks.numbers("weights", weights))
    gaps = weights * (tasks.values - tasks.numbers("ideal", ideal)) / mu
    # With an axis: in forward mode torch takes a number times a tensor without one to float64.
    worst = torch.logsumexp(tasks.counted(gaps, torch.finfo(gaps.dtype).min), 0, keepdim=True)
    return _of_present(tasks, (mu * worst).squeeze(0)), tasks.aux(weights * tasks.softmax(gaps))


def _row(tasks: Tasks, weights: Tensor | float) -> Tensor:
    """A weight for every task, to be logged."""
    if isinstance(weights, Tensor):
        return weights.expand(tasks.raw.shape)
    return promote(tasks.raw).new_full(tasks.raw.shape, weights)


def _away_from_zero(tasks: Tasks) -> tuple[Tensor, Tensor]:
    """The losses with 1 for those of exactly 0 and those without labels; and which are 0."""
    zero = tasks.counted(tasks.values == 0, False)
    return torch.where(zero, 1.0, tasks.counted(tasks.values, 1.0)), zero


def _of_present(tasks: Tasks, total: Tensor) -> Tensor:
    """The total, or 0 if no task has labels."""
    return total if tasks.present is None else torch.where(tasks.present.any(), total, 0.0)

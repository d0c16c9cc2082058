r"""Weights from how uncertain each task is: learnt, or in closed form."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from purelosses._checks import (
    check_axis,
    check_choice,
    check_floating,
    check_labels,
    check_number,
    check_reduction,
    check_target,
    check_weights,
    check_where,
    complain,
)
from purelosses._numerics import log_partition, picked, promote, softplus, weighted
from purelosses._reduce import reduce
from purelosses._types import PyTree, Reduction
from purelosses.balance._tasks import CONTAINERS, Tasks, gather, new_tasks

Likelihood = Literal["gaussian", "laplace", "softmax"]
UncertaintyForm = Literal["kendall", "revised"]
AnalyticForm = Literal["uw-o", "uw-so"]

# The factors a and b of a task's term a exp(-s) L + b s.
_FACTORS: dict[Likelihood, tuple[float, float]] = {
    "gaussian": (0.5, 0.5),
    "laplace": (1.0, 1.0),
    "softmax": (1.0, 0.5),
}


_KINDS = tuple(_FACTORS)


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
    return new_tasks("uncertainty_weighted_init", tasks, torch.zeros(()))


def uncertainty_weighted_loss(
    log_vars: PyTree,
    losses: PyTree,
    *,
    likelihood: Likelihood | PyTree = "gaussian",
    form: UncertaintyForm = "kendall",
    dims: float | PyTree = 1,
    bounds: tuple[float, float] | None = None,
    mask: PyTree = None,
) -> tuple[Tensor, dict[str, PyTree]]:
    r"""Sum of task losses, each weighted by how uncertain its task is, which is learnt.

    $$\ell = \sum_i a_i\,e^{-s_i} L_i + D_i\,r(s_i),\qquad
    r(s_i) = \begin{cases} b_i s_i & \text{kendall} \\ \log(1 + e^{s_i}) & \text{revised}
    \end{cases}$$

    with $L_i$ the loss of a task, $s_i$ its entry in `log_vars`, $D_i$ its entry in `dims` and $r$
    the regulariser of the `form`. The sum is over the tasks that have labels (`mask`): one without
    pays neither loss nor regulariser, which would otherwise lower its $s_i$ whenever there is
    nothing to learn from. The `likelihood` of a task says what its loss is the negative logarithm
    of:

    | likelihood | $L_i$ is | $a_i$ | $b_i$ | $s_i$ is | weight at the best $s_i$ |
    |---|---|---|---|---|---|
    | `"gaussian"` | a squared error | ½ | ½ | $\log \sigma^2$ | $1 / (2 L_i)$ |
    | `"laplace"` | an absolute error | 1 | 1 | $\log b$, the scale | $1 / L_i$ |
    | `"softmax"` | a cross-entropy | 1 | ½ | $\log \sigma^2$, the temperature | $1 / (2 L_i)$ |

    (the last column for `form="kendall"` and $D_i = 1$). The total can be negative, except in the
    revised form. Weight decay on `log_vars` distorts the weights.

    Args:
        log_vars: One number per task: a tree with the structure of `losses`, or a tensor of shape
            (number of tasks,) for a list. Made by
            [`uncertainty_weighted_init`][purelosses.uncertainty_weighted_init] or
            [`optimal_log_vars`][purelosses.optimal_log_vars], and trained along with the network.
        losses: The task losses in a dict, a list or any nesting of them: 0-dimensional, or of any
            shape (one loss per sample) where there is a mask.
        likelihood: One for all tasks, or a tree of them with the structure of `losses` (or its
            first levels).
        form: The regulariser: `"kendall"` is that of the likelihood, `"revised"` is at least 0.
        dims: How many numbers an observation has if the loss of a task is their *sum*; 1 for a
            mean. One for all tasks, or a tree like `likelihood`.
        bounds: The lowest and highest $s_i$ that is used. Outside of them $D_i b_i$ times the
            distance is added, so that $s_i$ comes back. They keep a loss of 0 from taking over.
        mask: Which entries of `losses` have labels: booleans with the structure of `losses` and the
            shapes of its tensors, or None for a task that always has. A task's loss is then the
            mean of what is present, 0 where nothing is.

    Returns:
        The total, and `{"losses": ..., "weights": ...}` for logging: the task losses before
        weighting and the factors $a_i e^{-s_i}$ (0 without labels), detached, with the structure of
        `losses`.

    Raises:
        ValueError: If the structures differ, a loss is not 0-dimensional, a likelihood or form is
            unknown, or the bounds are none.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> losses = {"mask": torch.tensor(0.5), "depth": torch.tensor(4.0)}
        >>> log_vars = uncertainty_weighted_init(losses)
        >>> total, aux = uncertainty_weighted_loss(log_vars, losses)
        >>> total
        tensor(2.2500)
        >>> aux["weights"]
        {'mask': tensor(0.5000), 'depth': tensor(0.5000)}
        >>> labelled = {"mask": torch.tensor(True), "depth": torch.tensor(False)}
        >>> uncertainty_weighted_loss(log_vars, losses, mask=labelled)[0]
        tensor(0.2500)

    Coming from:
        The authors' notebook, most copies of it and torchjd's `IMTLL` (with the sign of $s_i$
        turned) compute `likelihood="laplace"` for every task: twice the gaussian form. torchjd's
        `UW` and LibMTL's are the gaussian form. AutomaticWeightedLoss is `form="revised"`, with
        its parameter $c$ and $s = \log c^2$. None of them knows missing labels.

    Source:
        Kendall, Gal and Cipolla, arXiv:1705.07115, eq. (7) for regression and eq. (10) for
        classification; the laplace form: Kendall and Cipolla, arXiv:1704.00390; the revised form:
        Liebel and Körner, arXiv:1805.06334.
    """
    function = "uncertainty_weighted_loss"
    tasks = gather(function, losses, mask)
    a, b, dims = _factors(tasks, likelihood, form, dims)
    s = promote(tasks.vector("log_vars", log_vars))
    outside: Tensor | float = 0.0
    if bounds is not None:
        low, high = _check_bounds(function, bounds)
        # A clamp alone has no gradient outside: s would stay there for good.
        inside = s.clamp(low, high)
        s, outside = inside, b * (s - inside).abs()
    precision = a * torch.exp(-s)
    regulariser = b * s if form == "kendall" else softplus(s)
    total = tasks.counted(precision * tasks.values + dims * (regulariser + outside)).sum()
    return total, tasks.aux(tasks.counted(precision))


def optimal_log_vars(
    losses: PyTree,
    *,
    likelihood: Likelihood | PyTree = "gaussian",
    form: UncertaintyForm = "kendall",
    dims: float | PyTree = 1,
    mask: PyTree = None,
) -> PyTree:
    r"""The log-variances at which uncertainty weighting is least, in closed form.

    $$e^{s_i} = \frac{a_i L_i}{b_i D_i} \quad\text{(kendall)},\qquad
    e^{s_i} = \frac{c_i + \sqrt{c_i^2 + 4 c_i}}{2},\; c_i = \frac{a_i L_i}{D_i}
    \quad\text{(revised)}$$

    in the notation of [`uncertainty_weighted_loss`][purelosses.uncertainty_weighted_loss], with
    $b_i$ for the kendall form only. Start from them, after one batch: from 0, Adam takes hundreds
    or thousands of steps to get to a loss of 0.001.

    Args:
        losses: The task losses, as for the loss.
        likelihood: As for the loss.
        form: As for the loss.
        dims: As for the loss.
        mask: As for the loss.

    Returns:
        One 0-dimensional tensor per task, detached, with the structure of `losses`; 0 for a task
        without labels. A loss of 0 counts as the smallest normal number.

    Raises:
        ValueError: If structures differ, or a likelihood or form is unknown.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> optimal_log_vars({"mask": torch.tensor(1.0), "depth": torch.tensor(0.001)})
        {'mask': tensor(0.), 'depth': tensor(-6.9078)}
    """
    tasks = gather("optimal_log_vars", losses, mask)
    a, b, dims = _factors(tasks, likelihood, form, dims)
    scaled = a / dims * tasks.values.detach()
    scaled = scaled.clamp_min(torch.finfo(scaled.dtype).tiny)
    if form == "kendall":
        best = torch.log(scaled / b)
    else:
        best = torch.log((scaled + scaled.sqrt() * (scaled + 4).sqrt()) / 2)
    return tasks.tree(tasks.counted(best))


def analytic_uncertainty_weights(
    losses: PyTree,
    *,
    form: AnalyticForm = "uw-so",
    temperature: float | Tensor = 1.0,
    mask: PyTree = None,
) -> PyTree:
    r"""Weights that uncertainty weighting tends to, at once and without parameters.

    $$w_i = \frac{1}{L_i} \quad\text{(uw-o)},\qquad
    w_i = \frac{\exp(1 / (T L_i))}{\sum_k \exp(1 / (T L_k))} \quad\text{(uw-so)}$$

    with $L_i$ the loss of a task, as a constant, and $T$ the `temperature`. For a task without
    labels the weight is 0. With a small $T$, a task that is nearly solved takes all the weight.

    Args:
        losses: The task losses in a dict, a list or any nesting of them: 0-dimensional, or of any
            shape where there is a mask.
        form: `"uw-o"`, the optimum, or `"uw-so"`, its softmax, whose weights sum to 1.
        temperature: Of the softmax; larger is more even.
        mask: Which entries of `losses` have labels, as for
            [`uncertainty_weighted_loss`][purelosses.uncertainty_weighted_loss].

    Returns:
        One 0-dimensional tensor per task, detached, with the structure of `losses`. A loss of 0
        counts as the smallest normal number.

    Raises:
        ValueError: If a loss is not 0-dimensional, the temperature not positive, or the form
            unknown.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> losses = {"mask": torch.tensor(0.5), "depth": torch.tensor(1.0)}
        >>> analytic_uncertainty_weights(losses, form="uw-o")
        {'mask': tensor(2.), 'depth': tensor(1.)}
        >>> analytic_uncertainty_weights(losses)
        {'mask': tensor(0.7311), 'depth': tensor(0.2689)}

    Source:
        Kirchdorfer et al., arXiv:2408.07985.
    """
    function = "analytic_uncertainty_weights"
    tasks = gather(function, losses, mask)
    check_choice(function, "form", form, get_args(AnalyticForm))
    temperature = check_number(function, "temperature", temperature, above=0)
    values = tasks.values.detach()
    inverse = 1 / values.clamp_min(torch.finfo(values.dtype).tiny)
    if form == "uw-o":
        return tasks.tree(tasks.counted(inverse))
    return tasks.tree(tasks.softmax(inverse / temperature))


def _factors(
    tasks: Tasks, likelihood: Likelihood | PyTree, form: UncertaintyForm, dims: float | PyTree
) -> tuple[Tensor | float, Tensor | float, Tensor | float]:
    """a, b and D of every task."""
    single = not isinstance(likelihood, CONTAINERS)
    kinds = [likelihood] if single else tasks.spread("likelihood", likelihood)
    for kind in kinds:
        check_choice(tasks.function, "likelihood", kind, _KINDS)
    check_choice(tasks.function, "form", form, get_args(UncertaintyForm))
    sizes = tasks.spread("dims", dims) if isinstance(dims, CONTAINERS) else [dims]
    for size in sizes:
        check_number(tasks.function, "dims", size, above=0)
    factors = [_FACTORS[kind] for kind in kinds]
    a, b = (tasks.column([pair[part] for pair in factors]) for part in (0, 1))
    return a, b, tasks.numbers("dims", dims)


def _check_bounds(function: str, bounds: Any) -> tuple[Any, Any]:
    must = "be two numbers, the lowest log-variance and the highest"
    if not isinstance(bounds, list | tuple) or len(bounds) != 2:
        raise ValueError(complain(function, "bounds", must, repr(bounds)))
    low, high = (check_number(function, "bounds", bound) for bound in bounds)
    if not isinstance(low, Tensor) and not isinstance(high, Tensor) and not low <= high:
        raise ValueError(complain(function, "bounds", must, repr(bounds)))
    return low, high


def tempered_cross_entropy_loss(
    logits: Tensor,
    target: Tensor,
    log_temperature: float | Tensor,
    *,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy of logits over a temperature: what uncertain classification really pays.

    $$\ell = \sum_c y_c \Bigl(\log \sum_k e^{x_k / T} - x_c / T\Bigr),\qquad T = e^s$$

    for every sample, with $x_c$ its logits, $y_c$ its target probabilities and $s$ the
    `log_temperature`, trained along with the network. Of this,
    [`uncertainty_weighted_loss`][purelosses.uncertainty_weighted_loss] with `"softmax"` is an
    approximation around $T = \sigma^2 = 1$. It needs no regulariser: the normaliser is one.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32. A logit of minus infinity removes a class that has no target.
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `logits`.
        log_temperature: Logarithm of the temperature, a number or 0-dimensional; 0 changes nothing.
        class_dim: The class axis of `logits`; negative values count from the end.
        where: Which samples count; shape of `logits` without the class axis, or 1 along an axis.
            What lies under False has no influence, whatever it is.
        weights: How much each sample matters; shape of `logits` without the class axis, or 1 along
            an axis.
        reduction: What happens to the losses, one per sample: `"mean"` divides their weighted sum
            by the number of samples that count, `"weighted_mean"` by their total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or with `reduction="none"` one loss per sample, shaped as `logits` without the
        class axis. float32, or float64 for float64 logits. The mean of nothing is 0.

    Raises:
        ValueError: If shapes do not fit, a label is outside the classes (eager on the CPU; under
            transforms and on other devices the loss is NaN), or `reduction` is unknown.
        TypeError: If `logits` is not floating or `where` not boolean.

    Examples:
        >>> logits, label = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> tempered_cross_entropy_loss(logits, label, 0.0)
        tensor(0.1269)
        >>> tempered_cross_entropy_loss(logits, label, torch.tensor(2.0).log())
        tensor(0.3133)

    Coming from:
        `F.cross_entropy(logits / T, target)` is the same with `log_temperature=log(T)`.

    Source:
        Kendall, Gal and Cipolla, arXiv:1705.07115, before the approximation of eq. (10).
    """
    function = "tempered_cross_entropy_loss"
    check_floating(function, "logits", logits)
    class_dim = check_axis(function, "class_dim", class_dim, logits.ndim, "logits")
    labels = check_target(function, target, logits, "logits", class_dim)
    if isinstance(log_temperature, Tensor) and log_temperature.ndim:
        must = "be a number or a 0-dimensional tensor, of shape ()"
        raise ValueError(complain(function, "log_temperature", must, tuple(log_temperature.shape)))
    log_temperature = check_number(function, "log_temperature", log_temperature)
    check_reduction(function, reduction)
    samples = logits.shape[:class_dim] + logits.shape[class_dim + 1 :]
    if weights is not None:
        check_weights(function, weights, samples, "`logits` without its class axis", logits)
    logits = promote(logits)
    target = target.long() if labels else target.to(logits.dtype)
    if where is not None:
        check_where(function, where, samples, "`logits` without its class axis", logits)
        logits = torch.where(where.unsqueeze(class_dim), logits, 0.0)
        target = torch.where(where if labels else where.unsqueeze(class_dim), target, 0)

    if not isinstance(log_temperature, Tensor):
        log_temperature = logits.new_full((), log_temperature)
    # Only gaps between logits are multiplied: what overflows is then a loss that does.
    removed = torch.isneginf(logits)
    gaps = torch.where(removed, 0.0, logits - logits.detach().amax(class_dim, keepdim=True))
    tempered = gaps * torch.exp(-log_temperature).clamp_max(torch.finfo(logits.dtype).max)
    below, excess = log_partition(torch.where(removed, -torch.inf, tempered), class_dim)
    if labels:
        target, valid = check_labels(function, target.unsqueeze(class_dim), logits.shape[class_dim])
        losses = torch.where(valid, excess - picked(below, target, class_dim), torch.nan)
    else:
        losses = weighted(target, excess - below).sum(class_dim, keepdim=True)
    return reduce(losses.squeeze(class_dim), reduction, where, weights)

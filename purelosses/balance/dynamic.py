r"""Weights from the values of the losses: pairs `<name>_init(tasks)`, `<name>_update(state, …)`.

A state is a plain tree of tensors, with the tasks by name where they have names; an update returns
the weights for now and the state for next time, and changes nothing. Losses go in as they are
(they are detached), and the weights come out with their structure.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from purelosses._checks import check_choice, check_number, complain
from purelosses._numerics import promote, safe_divide
from purelosses._types import PyTree
from purelosses.balance._state import State, check_state, memory, recall, remember
from purelosses.balance._tasks import Sync, exchange, gather, new_tasks, observe

SoftAdaptForm = Literal["original", "normalized", "loss_weighted"]


def random_weights_init(tasks: int | Sequence[str] | PyTree) -> State:
    """The state of [`random_weights_update`][purelosses.random_weights_update]: none.

    Args:
        tasks: The number of tasks, their names, or any tree with the structure of the losses.

    Returns:
        An empty state.

    Raises:
        ValueError: If there are no tasks, or a name occurs twice.

    Examples:
        >>> random_weights_init(["mask", "depth"])
        {}
    """
    new_tasks("random_weights_init", tasks, torch.zeros(()))  # complains
    return {}


def random_weights_update(
    state: State, losses: PyTree, noise: Tensor, *, mask: PyTree = None
) -> tuple[PyTree, State]:
    r"""Random loss weighting: new weights at every step, which sum to 1.

    $$w = \mathrm{softmax}(n)$$

    with $n$ the `noise`. A baseline that a balancing method should beat.

    Args:
        state: From [`random_weights_init`][purelosses.random_weights_init].
        losses: The task losses; only their structure and labels matter.
        noise: Standard normal, of shape (number of tasks,): `torch.randn(n, generator=...)`. Ranks
            must draw the same.
        mask: Which entries of `losses` have labels; a task without has weight 0.

    Returns:
        The weights, with the structure of `losses`, and the state.

    Raises:
        ValueError: If the noise is not one number per task.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> noise = torch.randn(2, generator=torch.Generator().manual_seed(0))
        >>> random_weights_update({}, [torch.tensor(1.0), torch.tensor(2.0)], noise)[0]
        [tensor(0.8623), tensor(0.1377)]

    Source:
        Lin et al., arXiv:2111.10603.
    """
    function = "random_weights_update"
    tasks = gather(function, losses, mask)
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        raise TypeError(complain(function, "noise", "be a floating tensor", repr(noise)))
    if noise.shape != tasks.raw.shape:
        must = f"have one number per task: shape {tuple(tasks.raw.shape)}"
        raise ValueError(complain(function, "noise", must, tuple(noise.shape)))
    check_state(function, state, ())
    return tasks.tree(tasks.softmax(promote(noise.detach()))), dict(state)


def dwa_init(tasks: int | Sequence[str] | PyTree) -> State:
    """The state of [`dwa_update`][purelosses.dwa_update] before the first epoch.

    Args:
        tasks: The number of tasks, their names, or any tree with the structure of the losses.

    Returns:
        `{"previous": ..., "count": ...}`: the losses of the last call, and how many there were.

    Raises:
        ValueError: If there are no tasks, or a name occurs twice.

    Examples:
        >>> dwa_init(2)
        {'previous': tensor([0., 0.]), 'count': tensor([0, 0])}
    """
    return memory("dwa_init", tasks, previous=0.0, count=0)


def dwa_update(
    state: State,
    losses: PyTree,
    *,
    temperature: float | Tensor = 2.0,
    mask: PyTree = None,
    sync: Sync | None = None,
) -> tuple[PyTree, State]:
    r"""Dynamic weight average: tasks whose loss fell least in the last epoch get more.

    $$w_i = K\,\mathrm{softmax}_i\bigl(r_i / T\bigr),\qquad r_i = L_i / L_i^-$$

    with $L_i$ and $L_i^-$ the mean losses of the last epoch and the one before, $T$ the
    `temperature` and $K$ the number of tasks. Call it once per epoch
    ([`task_statistics`][purelosses.task_statistics] add up to its mean losses). Until a task has
    two of them, its $r_i$ is 1.

    Args:
        state: From [`dwa_init`][purelosses.dwa_init] or the last call.
        losses: The mean task losses of the epoch.
        temperature: Of the softmax; larger is more even.
        mask: Which entries of `losses` have labels. A task without keeps its state, and has
            weight 0.
        sync: Adds or averages a tensor over ranks, so that all have the same weights.

    Returns:
        The weights for the next epoch, with the structure of `losses`, and the new state.

    Raises:
        ValueError: If state and losses do not fit, or the temperature is not positive.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> state = dwa_init(["mask", "depth"])
        >>> for losses in ([4.0, 1.0], [2.0, 1.0]):
        ...     losses = dict(zip(["mask", "depth"], torch.tensor(losses)))
        ...     weights, state = dwa_update(state, losses)
        >>> weights
        {'mask': tensor(0.8756), 'depth': tensor(1.1244)}

    Source:
        Liu, Johns and Davison, arXiv:1803.10704.
    """
    function = "dwa_update"
    (tasks,) = observe(function, losses, mask, sync)
    temperature = check_number(function, "temperature", temperature, above=0)
    previous, count = recall(tasks, state, "previous", "count")
    losses = tasks.values
    ratio = torch.where(count > 0, safe_divide(losses, previous), 1.0)
    new = remember(
        state,
        previous=tasks.counted(losses, previous),
        count=count + tasks.counted(torch.ones_like(count), 0),
    )
    return tasks.tree(tasks.softmax(ratio / temperature) * tasks.number()), new


def famo_init(tasks: int | Sequence[str] | PyTree) -> State:
    """The state of [`famo_update`][purelosses.famo_update] before the first step.

    Args:
        tasks: The number of tasks, their names, or any tree with the structure of the losses.

    Returns:
        `{"logits": ..., "mean": ..., "square": ..., "steps": ..., "previous": ..., "known": ...}`:
        the logits, what Adam remembers of their gradient, how often it was called, and the losses
        of the last batch, for the tasks that had labels there.

    Raises:
        ValueError: If there are no tasks, or a name occurs twice.

    Examples:
        >>> sorted(famo_init(2))
        ['known', 'logits', 'mean', 'previous', 'square', 'steps']
    """
    state = memory(
        "famo_init", tasks, logits=0.0, mean=0.0, square=0.0, previous=0.0, known=0
    )  # fmt: skip
    return {**state, "steps": torch.tensor(0)}


def famo_update(
    state: State,
    losses: PyTree,
    *,
    after: PyTree = None,
    lr: float | Tensor = 0.025,
    weight_decay: float | Tensor = 0.001,
    minimum: PyTree = 0.0,
    mask: PyTree = None,
    sync: Sync | None = None,
) -> tuple[PyTree, State]:
    r"""FAMO: weights under which all tasks improve at the same rate, from loss values alone.

    $$w = \mathrm{softmax}(\theta - \log D),\qquad D_i = L_i - b_i$$

    which is the gradient of $c \sum_i z_i \log D_i$ with $z = \mathrm{softmax}(\theta)$ and $c$
    such that the weights sum to 1. First, one step of Adam moves the logits $\theta$ along
    $J_z^\top (\log D^- - \log D^+)$, where $D^-$ are the losses of the last batch at the last call,
    and $D^+$ its losses after the step it led to (`after`).

    Args:
        state: From [`famo_init`][purelosses.famo_init] or the last call.
        losses: The task losses of this batch, above `minimum`.
        after: The task losses of the *last* batch computed again, after its step (averaged over
            ranks as they are). By default those of this batch stand in, which saves a forward pass
            per step and adds the noise between batches.
        lr: Learning rate of the logits.
        weight_decay: Of the logits, as in Adam. 0.001 in the paper, LibMTL and torchjd; the
            authors' code has 1e-5 and 0.01 in different files.
        minimum: The least possible loss of each task: one number for all, or a tree.
        mask: Which entries of `losses` have labels. A task without keeps its state, and has
            weight 0.
        sync: Adds or averages a tensor over ranks, so that all have the same weights.

    Returns:
        The weights for this batch, with the structure of `losses`, and the new state.

    Raises:
        ValueError: If state and losses do not fit, or an option is negative.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> losses = {"mask": torch.tensor(1.0), "depth": torch.tensor(4.0)}
        >>> weights, state = famo_update(famo_init(losses), losses)
        >>> weights
        {'mask': tensor(0.8000), 'depth': tensor(0.2000)}
        >>> improved = {"mask": torch.tensor(0.5), "depth": torch.tensor(4.0)}
        >>> weights, state = famo_update(state, losses, after=improved)
        >>> weights
        {'mask': tensor(0.7919), 'depth': tensor(0.2081)}

    Coming from:
        torchjd's `FAMO`, whose `update(values)` is `after` at the next call; ours keeps the moments
        of Adam in the state, so that training resumes where it stopped.

    Source:
        Liu et al., arXiv:2306.03792, algorithm 2.
    """
    function = "famo_update"
    (tasks,) = observe(function, losses, mask, sync)
    lr = check_number(function, "lr", lr, minimum=0)
    weight_decay = check_number(function, "weight_decay", weight_decay, minimum=0)
    minimum = tasks.numbers("minimum", minimum)
    check_state(function, state, ("steps",))
    logits, mean, square, previous, known = recall(
        tasks, state, "logits", "mean", "square", "previous", "known"
    )
    if after is None:
        now, seen = tasks.values, tasks.counted(known, 0)
    else:
        now, seen = promote(tasks.vector("after", after)).detach(), known
        if sync is not None:
            ((now, _),) = exchange(function, sync, [now, torch.ones_like(now)])

    def log(x: Tensor) -> Tensor:
        gap = x - minimum
        return torch.log(gap.clamp_min(torch.finfo(gap.dtype).tiny))

    # One step of Adam.
    z = torch.softmax(logits, 0)
    progress = torch.where(seen > 0, log(previous) - log(now), 0.0)
    gradient = z * (progress - (z * progress).sum()) + weight_decay * logits
    stepped = known.any()
    steps = state["steps"] + stepped.to(state["steps"].dtype)
    mean = torch.where(stepped, torch.lerp(gradient, mean.to(gradient.dtype), 0.9), mean)
    square = torch.where(stepped, 0.999 * square + 0.001 * gradient.square(), square)
    direction = _corrected(mean, 0.9, steps) / (_corrected(square, 0.999, steps).sqrt() + 1e-8)
    logits = torch.where(stepped, logits - lr * direction, logits)

    new = remember(
        {**state, "steps": steps},
        logits=logits,
        mean=mean,
        square=square,
        previous=tasks.values,
        known=tasks.counted(torch.ones_like(known), 0),
    )
    return tasks.tree(tasks.softmax(logits - log(tasks.values))), new


def _corrected(moment: Tensor, decay: float, steps: Tensor) -> Tensor:
    """A running mean that began at 0, as if it had not: divided by 1 - decay^steps."""
    return moment / -torch.expm1(steps.clamp_min(1).to(moment.dtype) * math.log(decay))


def softadapt_init(tasks: int | Sequence[str] | PyTree) -> State:
    """The state of [`softadapt_update`][purelosses.softadapt_update] before the first call.

    Args:
        tasks: The number of tasks, their names, or any tree with the structure of the losses.

    Returns:
        `{"previous": ..., "count": ...}`: the losses of the last call, and how many there were.

    Raises:
        ValueError: If there are no tasks, or a name occurs twice.

    Examples:
        >>> softadapt_init(2)
        {'previous': tensor([0., 0.]), 'count': tensor([0, 0])}
    """
    return memory("softadapt_init", tasks, previous=0.0, count=0)


def softadapt_update(
    state: State,
    losses: PyTree,
    *,
    beta: float | Tensor = 0.1,
    form: SoftAdaptForm = "original",
    mask: PyTree = None,
    sync: Sync | None = None,
) -> tuple[PyTree, State]:
    r"""SoftAdapt: tasks whose loss rises, or falls least, get more; the weights sum to 1.

    $$w = \mathrm{softmax}(\beta s),\qquad s_i = L_i - L_i^-$$

    with $L_i$ and $L_i^-$ the losses of this call and the last. The form `"normalized"` has
    $s_i / \sum_k |s_k|$ instead of $s_i$, so that no scale matters; `"loss_weighted"` multiplies
    each exponential by $L_i$. Until a task has two losses, its $s_i$ is 0.

    Args:
        state: From [`softadapt_init`][purelosses.softadapt_init] or the last call.
        losses: The task losses.
        beta: How strongly slopes matter; negative values favour the tasks that improve.
        form: Which slopes; see above.
        mask: Which entries of `losses` have labels. A task without keeps its state, and has
            weight 0.
        sync: Adds or averages a tensor over ranks, so that all have the same weights.

    Returns:
        The weights, with the structure of `losses`, and the new state.

    Raises:
        ValueError: If state and losses do not fit, or the form is unknown.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> state = softadapt_init(2)
        >>> _, state = softadapt_update(state, [torch.tensor(4.0), torch.tensor(1.0)])
        >>> losses = [torch.tensor(2.0), torch.tensor(1.0)]
        >>> softadapt_update(state, losses, beta=1.0)[0]
        [tensor(0.1192), tensor(0.8808)]

    Coming from:
        The authors' package divides by the signed sum of slopes, which can be 0; the paper and
        this by that of their absolute values. It estimates slopes from several values at a time.

    Source:
        Heydari, Thompson and Mehmood, arXiv:1912.12355, §3.1.
    """
    function = "softadapt_update"
    (tasks,) = observe(function, losses, mask, sync)
    beta = check_number(function, "beta", beta)
    check_choice(function, "form", form, get_args(SoftAdaptForm))
    previous, count = recall(tasks, state, "previous", "count")
    losses = tasks.values
    slope = tasks.counted(torch.where(count > 0, losses - previous, 0.0))
    if form == "normalized":
        slope = safe_divide(slope, slope.abs().sum())
    score = beta * slope
    if form == "loss_weighted":
        score = score + torch.log(losses.clamp_min(torch.finfo(losses.dtype).tiny))
    new = remember(
        state,
        previous=tasks.counted(losses, previous),
        count=count + tasks.counted(torch.ones_like(count), 0),
    )
    return tasks.tree(tasks.softmax(score)), new


def relobralo_init(tasks: int | Sequence[str] | PyTree) -> State:
    """The state of [`relobralo_update`][purelosses.relobralo_update] before the first call.

    Args:
        tasks: The number of tasks, their names, or any tree with the structure of the losses.

    Returns:
        `{"weights": ..., "initial": ..., "previous": ..., "count": ...}`: the weights, the losses
        of the first call and of the last, and how many there were.

    Raises:
        ValueError: If there are no tasks, or a name occurs twice.

    Examples:
        >>> relobralo_init(2)["weights"]
        tensor([1., 1.])
    """
    return memory("relobralo_init", tasks, weights=1.0, initial=0.0, previous=0.0, count=0)


def relobralo_update(
    state: State,
    losses: PyTree,
    keep: Tensor | float | bool,
    *,
    alpha: float | Tensor = 0.999,
    temperature: float | Tensor = 1.0,
    mask: PyTree = None,
    sync: Sync | None = None,
) -> tuple[PyTree, State]:
    r"""ReLoBRaLo: tasks that fell least since the last step, or now and then since the first.

    $$w = \alpha\,\bigl(\rho\,w^- + (1 - \rho)\,\hat w(L^0)\bigr) + (1 - \alpha)\,\hat w(L^-),\qquad
    \hat w(M) = K\,\mathrm{softmax}_i\Bigl(\frac{L_i}{T M_i}\Bigr)$$

    with $w^-$ the last weights (1 at first), $L^-$ the last losses, $L^0$ the first ones, $\rho$
    the argument `keep`, $T$ the `temperature` and $K$ the number of tasks. The weights sum to $K$.

    Args:
        state: From [`relobralo_init`][purelosses.relobralo_init] or the last call.
        losses: The task losses.
        keep: 1 to go on from the last weights, 0 to look back to the first losses: a random draw
            such as `torch.rand((), generator=...) < 0.999`. Ranks must draw the same.
        alpha: How much of the past stays.
        temperature: Of the softmax; larger is more even.
        mask: Which entries of `losses` have labels. A task without keeps its state, and has
            weight 0.
        sync: Adds or averages a tensor over ranks, so that all have the same weights.

    Returns:
        The weights, with the structure of `losses`, and the new state.

    Raises:
        ValueError: If state and losses do not fit, or an option is out of its range.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> state = relobralo_init(2)
        >>> _, state = relobralo_update(state, [torch.tensor(4.0), torch.tensor(1.0)], 1.0)
        >>> losses = [torch.tensor(2.0), torch.tensor(1.0)]
        >>> relobralo_update(state, losses, 1.0, alpha=0.9)[0]
        [tensor(0.9755), tensor(1.0245)]

    Source:
        Bischof and Kraus, arXiv:2110.09813.
    """
    function = "relobralo_update"
    (tasks,) = observe(function, losses, mask, sync)
    alpha = check_number(function, "alpha", alpha, minimum=0, maximum=1)
    temperature = check_number(function, "temperature", temperature, above=0)
    if isinstance(keep, bool):
        keep = float(keep)
    elif isinstance(keep, Tensor) and keep.dtype == torch.bool:
        keep = keep.to(tasks.values.dtype)
    keep = check_number(function, "keep", keep, minimum=0, maximum=1)
    weights, initial, previous, count = recall(
        tasks, state, "weights", "initial", "previous", "count"
    )
    losses = tasks.values
    start = torch.where(count == 0, losses, initial)
    last = torch.where(count == 0, losses, previous)

    def balanced(since: Tensor) -> Tensor:
        return tasks.number() * tasks.softmax(safe_divide(losses, since) / temperature)

    history = keep * weights + (1 - keep) * balanced(start)
    weights = tasks.counted(alpha * history + (1 - alpha) * balanced(last), weights)
    new = remember(
        state,
        weights=weights,
        initial=tasks.counted(start, initial),
        previous=tasks.counted(losses, previous),
        count=count + tasks.counted(torch.ones_like(count), 0),
    )
    return tasks.tree(tasks.counted(weights)), new


def cov_weights_init(tasks: int | Sequence[str] | PyTree) -> State:
    """The state of [`cov_weights_update`][purelosses.cov_weights_update] before the first call.

    Args:
        tasks: The number of tasks, their names, or any tree with the structure of the losses.

    Returns:
        `{"mean": ..., "ratio": ..., "scatter": ..., "count": ...}`: the mean loss, the mean of its
        ratios and the sum of their squared deviations, and how many there were.

    Raises:
        ValueError: If there are no tasks, or a name occurs twice.

    Examples:
        >>> sorted(cov_weights_init(2))
        ['count', 'mean', 'ratio', 'scatter']
    """
    return memory("cov_weights_init", tasks, mean=0.0, ratio=0.0, scatter=0.0, count=0)


def cov_weights_update(
    state: State, losses: PyTree, *, mask: PyTree = None, sync: Sync | None = None
) -> tuple[PyTree, State]:
    r"""CoV weighting: tasks whose loss still varies get more; the weights sum to 1.

    $$w_i = \frac{c_i}{\sum_k c_k},\qquad c_i = \frac{\sigma(\ell_i)}{\mu(\ell_i)},\qquad
    \ell_i = \frac{L_i}{\mu(L_i)}$$

    with $\mu$ and $\sigma$ mean and standard deviation over the calls so far, without this one. The
    weights are even until every task has had two losses.

    Args:
        state: From [`cov_weights_init`][purelosses.cov_weights_init] or the last call.
        losses: The task losses.
        mask: Which entries of `losses` have labels. A task without keeps its state, and has
            weight 0.
        sync: Adds or averages a tensor over ranks, so that all have the same weights.

    Returns:
        The weights, with the structure of `losses`, and the new state.

    Raises:
        ValueError: If state and losses do not fit.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> state = cov_weights_init(2)
        >>> for values in ([4.0, 1.0], [2.0, 1.2], [1.0, 1.0]):
        ...     weights, state = cov_weights_update(state, list(torch.tensor(values)))
        >>> weights
        [tensor(0.7857), tensor(0.2143)]

    Source:
        Groenendijk et al., arXiv:2009.01717; the authors' code adds the same 1e-8 to the variance.
    """
    (tasks,) = observe("cov_weights_update", losses, mask, sync)
    mean, ratio, scatter, count = recall(tasks, state, "mean", "ratio", "scatter", "count")
    losses = tasks.values
    spread = torch.sqrt(scatter / count.clamp_min(1) + 1e-8)
    share = torch.where((count > 1).all(), safe_divide(spread, ratio), 1.0)
    share = tasks.counted(share)

    # Welford's algorithm.
    times = count + 1
    now = torch.where(count == 0, 1.0, safe_divide(losses, mean))
    new_ratio = ratio + (now - ratio) / times
    new = remember(
        state,
        mean=tasks.counted(mean + (losses - mean) / times, mean),
        ratio=tasks.counted(new_ratio, ratio),
        scatter=tasks.counted(scatter + (now - ratio) * (now - new_ratio), scatter),
        count=tasks.counted(times, count),
    )
    return tasks.tree(safe_divide(share, share.sum())), new

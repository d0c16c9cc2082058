r"""Weights from the norms of the tasks' gradients, without a second derivative.

Where the norms come from is yours to choose: gradients of the shared parameters, or of the features
that the tasks share, which cost one backward pass through the heads.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from purelosses._checks import check_number
from purelosses._numerics import safe_divide
from purelosses._types import PyTree
from purelosses.balance._state import State, memory, recall, remember
from purelosses.balance._tasks import Sync, observe


def gradnorm_init(tasks: int | Sequence[str] | PyTree) -> State:
    """The state of [`gradnorm_update`][purelosses.gradnorm_update] before the first call.

    Args:
        tasks: The number of tasks, their names, or any tree with the structure of the losses.

    Returns:
        `{"weights": ..., "initial": ..., "count": ...}`: the weights, the losses of the first call,
        and how many there were.

    Raises:
        ValueError: If there are no tasks, or a name occurs twice.

    Examples:
        >>> gradnorm_init(2)["weights"]
        tensor([1., 1.])
    """
    return memory("gradnorm_init", tasks, weights=1.0, initial=0.0, count=0)


def gradnorm_update(
    state: State,
    losses: PyTree,
    norms: PyTree,
    *,
    alpha: float | Tensor = 1.5,
    lr: float | Tensor = 0.025,
    mask: PyTree = None,
    sync: Sync | None = None,
) -> tuple[PyTree, State]:
    r"""GradNorm: weights that even out the gradient norms, more for tasks that train slowly.

    $$w \leftarrow w - \frac{\eta}{\bar g}\,\nabla_w \sum_i \bigl|w_i g_i - \bar G r_i^\alpha\bigr|
    ,\qquad \text{then scaled to } \sum_i w_i = K$$

    with $g_i$ the norm of the gradient of the unweighted loss $L_i$ and $\bar g$ their mean,
    $\bar G$ the mean of $w_i g_i$ and $r_i$ the ratio $L_i / L_i^0$ to the first loss over the mean
    of these ratios, both constant, $\eta$ the `lr` and $K$ the number of tasks. The derivative is
    $\operatorname{sign}(w_i g_i - \bar G r_i^\alpha)\,g_i$: no second backward pass. A weight does
    not fall below 0.

    Args:
        state: From [`gradnorm_init`][purelosses.gradnorm_init] or the last call.
        losses: The task losses.
        norms: The norm of the gradient of each *unweighted* loss with respect to what the tasks
            share; 0-dimensional tensors with the structure of `losses`.
        alpha: How strongly slow tasks are favoured; 0 only evens out the norms.
        lr: Step size. The gradient is in units of the mean norm, so no scale of the losses matters.
        mask: Which entries of `losses` have labels. A task without keeps its weight in the state,
            and has weight 0.
        sync: Adds or averages a tensor over ranks, so that all have the same weights.

    Returns:
        The weights, with the structure of `losses`, and the new state.

    Raises:
        ValueError: If state, losses and norms do not fit, or an option is negative.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> losses = {"mask": torch.tensor(1.0), "depth": torch.tensor(1.0)}
        >>> norms = {"mask": torch.tensor(3.0), "depth": torch.tensor(1.0)}
        >>> weights, state = gradnorm_update(gradnorm_init(losses), losses, norms, lr=0.1)
        >>> weights
        {'mask': tensor(0.8947), 'depth': tensor(1.1053)}

    Coming from:
        LibMTL's `GradNorm` learns the logits of a softmax instead; the paper takes a step of an
        optimizer on the weights and then scales them, as here.

    Source:
        Chen et al., arXiv:1711.02257.
    """
    function = "gradnorm_update"
    tasks, gradients = observe(function, losses, mask, sync, norms=norms)
    alpha = check_number(function, "alpha", alpha, minimum=0)
    lr = check_number(function, "lr", lr, minimum=0)
    old, initial, count = recall(tasks, state, "weights", "initial", "count")
    g = tasks.counted(gradients.values)
    start = torch.where(count == 0, tasks.values, initial)
    progress = tasks.counted(safe_divide(tasks.values, start))
    rate = safe_divide(progress, progress.sum() / tasks.number())
    target = tasks.counted(old * g).sum() / tasks.number() * rate**alpha
    gradient = torch.sign(old * g - target) * g
    moved = (old - lr * safe_divide(gradient, g.sum() / tasks.number())).clamp_min(0)
    moved = tasks.counted(moved)
    # What tasks without labels leave of the number of tasks.
    rest = old.shape[0] - (old - tasks.counted(old)).sum()
    even = rest / tasks.number()
    weights = tasks.counted(torch.where(moved.sum() > 0, moved * rest / moved.sum(), even), old)
    new = remember(
        state,
        weights=weights,
        initial=tasks.counted(start, initial),
        count=count + tasks.counted(torch.ones_like(count), 0),
    )
    return tasks.tree(tasks.counted(weights)), new


def inverse_grad_norm_init(tasks: int | Sequence[str] | PyTree) -> State:
    """The state of [`inverse_grad_norm_update`][purelosses.inverse_grad_norm_update] at first.

    Args:
        tasks: The number of tasks, their names, or any tree with the structure of the norms.

    Returns:
        `{"weights": ...}`: 1 for every task.

    Raises:
        ValueError: If there are no tasks, or a name occurs twice.

    Examples:
        >>> inverse_grad_norm_init(2)
        {'weights': tensor([1., 1.])}
    """
    return memory("inverse_grad_norm_init", tasks, weights=1.0)


def inverse_grad_norm_update(
    state: State,
    norms: PyTree,
    *,
    decay: float | Tensor = 0.9,
    mask: PyTree = None,
    sync: Sync | None = None,
) -> tuple[PyTree, State]:
    r"""Weights inverse to the gradient norms, so that all tasks pull alike; a running mean.

    $$w_i \leftarrow \beta w_i + (1 - \beta)\,\hat w_i,\qquad
    \hat w_i = \frac{\bar g}{g_i + 10^{-5}\,\bar g}$$

    with $g_i$ the norm of the gradient of a task's unweighted loss, $\bar g$ their mean and $\beta$
    the `decay`. For physics-informed networks, whose terms differ by orders of magnitude.

    Args:
        state: From [`inverse_grad_norm_init`][purelosses.inverse_grad_norm_init] or the last call.
        norms: The norm of the gradient of each *unweighted* loss, 0-dimensional, in a dict, a list
            or any nesting of them.
        decay: How much of the last weights stays.
        mask: Which tasks have labels: 0-dimensional booleans with the structure of `norms`. A task
            without keeps its weight in the state, and has weight 0.
        sync: Adds or averages a tensor over ranks, so that all have the same weights.

    Returns:
        The weights, with the structure of `norms`, and the new state.

    Raises:
        ValueError: If state and norms do not fit, or `decay` is not between 0 and 1.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> norms = {"equation": torch.tensor(100.0), "boundary": torch.tensor(1.0)}
        >>> state = inverse_grad_norm_init(norms)
        >>> inverse_grad_norm_update(state, norms, decay=0.0)[0]
        {'equation': tensor(0.5050), 'boundary': tensor(50.4745)}

    Coming from:
        jaxpi's `grad_norm` scheme: the same.

    Source:
        Wang et al., *An Expert's Guide to Training Physics-informed Neural Networks*,
        arXiv:2308.08468.
    """
    return _inverse("inverse_grad_norm_update", state, norms, "norms", decay, mask, sync)


def ntk_weights_init(tasks: int | Sequence[str] | PyTree) -> State:
    """The state of [`ntk_weights_update`][purelosses.ntk_weights_update] before the first call.

    Args:
        tasks: The number of tasks, their names, or any tree with the structure of the traces.

    Returns:
        `{"weights": ...}`: 1 for every task.

    Raises:
        ValueError: If there are no tasks, or a name occurs twice.

    Examples:
        >>> ntk_weights_init(2)
        {'weights': tensor([1., 1.])}
    """
    return memory("ntk_weights_init", tasks, weights=1.0)


def ntk_weights_update(
    state: State,
    traces: PyTree,
    *,
    decay: float | Tensor = 0.9,
    mask: PyTree = None,
    sync: Sync | None = None,
) -> tuple[PyTree, State]:
    r"""Weights inverse to the trace of a task's tangent kernel: all residuals shrink alike.

    $$w_i \leftarrow \beta w_i + (1 - \beta)\,\hat w_i,\qquad
    \hat w_i = \frac{\bar t}{t_i + 10^{-5}\,\bar t}$$

    with $t_i$ the mean over a task's samples of the squared norm of the gradient of its *residual*
    (not of its loss), $\bar t$ the mean over tasks and $\beta$ the `decay`.

    Args:
        state: From [`ntk_weights_init`][purelosses.ntk_weights_init] or the last call.
        traces: The $t_i$, 0-dimensional, in a dict, a list or any nesting of them.
        decay: How much of the last weights stays.
        mask: Which tasks have samples: 0-dimensional booleans with the structure of `traces`. A
            task without keeps its weight in the state, and has weight 0.
        sync: Adds or averages a tensor over ranks, so that all have the same weights.

    Returns:
        The weights, with the structure of `traces`, and the new state.

    Raises:
        ValueError: If state and traces do not fit, or `decay` is not between 0 and 1.
        TypeError: If a leaf is not a floating tensor, or a mask not boolean.

    Examples:
        >>> traces = {"equation": torch.tensor(3.0), "boundary": torch.tensor(1.0)}
        >>> ntk_weights_update(ntk_weights_init(traces), traces, decay=0.5)[0]
        {'equation': tensor(0.8333), 'boundary': tensor(1.5000)}

    Coming from:
        jaxpi's `ntk` scheme: the same. The paper has the sum of the traces instead of their mean:
        the same weights times the number of tasks.

    Source:
        Wang, Yu and Perdikaris, arXiv:2007.14527.
    """
    return _inverse("ntk_weights_update", state, traces, "traces", decay, mask, sync)


def _inverse(
    function: str,
    state: State,
    sizes: PyTree,
    argument: str,
    decay: float | Tensor,
    mask: PyTree,
    sync: Sync | None,
) -> tuple[PyTree, State]:
    (tasks,) = observe(function, sizes, mask, sync, argument=argument)
    decay = check_number(function, "decay", decay, minimum=0, maximum=1)
    (old,) = recall(tasks, state, "weights")
    sizes = tasks.counted(tasks.values)
    mean = sizes.sum() / tasks.number()
    inverse = torch.where(mean > 0, safe_divide(mean, sizes + 1e-5 * mean), 1.0)
    weights = tasks.counted(decay * old + (1 - decay) * inverse, old)
    return tasks.tree(tasks.counted(weights)), remember(state, weights=weights)

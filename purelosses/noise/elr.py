r"""Early-learning regularisation: hold on to what was believed before noise was memorised."""

import torch
from torch import Tensor

from purelosses._checks import (
    check_device,
    check_floating,
    check_int,
    check_integer,
    check_number,
    check_same_shape,
    complain,
)
from purelosses._numerics import log_partition, promote
from purelosses._reduce import reduce
from purelosses._types import Reduction
from purelosses.classification.rows import pick, prepare

_SMALLEST_GAP = 1e-4


def elr_init(num_samples: int, num_classes: int) -> dict[str, Tensor]:
    """What is remembered of every training sample for [`elr_loss`][purelosses.elr_loss].

    Args:
        num_samples: The number of training samples.
        num_classes: The number of classes.

    Returns:
        `{"average"}`: the running average of the predicted probabilities, zeros of shape
        (num_samples, num_classes).

    Raises:
        ValueError: If a number is below 1.
        TypeError: If a number is not an int.

    Examples:
        >>> elr_init(2, 3)
        {'average': tensor([[0., 0., 0.],
                [0., 0., 0.]])}
    """
    check_int("elr_init", "num_samples", num_samples, 1)
    check_int("elr_init", "num_classes", num_classes, 1)
    return {"average": torch.zeros(num_samples, num_classes)}


def elr_update(
    state: dict[str, Tensor],
    logits: Tensor,
    indices: Tensor,
    *,
    momentum: float | Tensor = 0.7,
) -> dict[str, Tensor]:
    r"""The running averages after a batch, for [`elr_loss`][purelosses.elr_loss].

    $$t_i \leftarrow \beta\,t_i + (1 - \beta)\,p_i$$

    for the samples $i$ of the batch, with $p_i$ the predicted probabilities and $\beta$ the
    `momentum`. The state that was given is left as it is, and no gradient flows into the new one.

    Args:
        state: Made by [`elr_init`][purelosses.elr_init].
        logits: Scores before the softmax of the batch, shape (batch, classes).
        indices: Which training samples these are, integers of shape (batch,), each once.
        momentum: How slowly the averages move, from 0 to 1.

    Returns:
        The new state.

    Raises:
        ValueError: If shapes do not fit or `momentum` is out of its range.
        TypeError: If `logits` is not floating or `indices` not integer.

    Examples:
        >>> state = elr_init(3, 2)
        >>> state = elr_update(state, torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        >>> state["average"]
        tensor([[0.0000, 0.0000],
                [0.1500, 0.1500],
                [0.0000, 0.0000]])
    """
    function = "elr_update"
    if not isinstance(state, dict) or state.keys() != {"average"}:
        got = sorted(state) if isinstance(state, dict) else type(state).__name__
        raise ValueError(complain(function, "state", "be {'average'} as elr_init makes it", got))
    average = state["average"]
    check_floating(function, "logits", logits)
    check_integer(function, "indices", indices)
    momentum = check_number(function, "momentum", momentum, minimum=0, maximum=1)
    if logits.ndim != 2 or logits.shape[1] != average.shape[1]:
        must = f"have the shape (batch, classes), of {average.shape[1]} classes"
        raise ValueError(complain(function, "logits", must, tuple(logits.shape)))
    if indices.shape != logits.shape[:1]:
        must = f"hold one number per row of `logits`, shape {tuple(logits.shape[:1])}"
        raise ValueError(complain(function, "indices", must, tuple(indices.shape)))
    check_device(function, "indices", indices, logits)
    check_device(function, "state['average']", average, logits)
    probs = promote(logits).detach().softmax(1).to(average.dtype)
    indices = indices.long()
    moved = momentum * average.index_select(0, indices) + (1 - momentum) * probs
    return {"average": average.index_copy(0, indices, moved.to(average.dtype))}


def elr_loss(
    logits: Tensor,
    target: Tensor,
    average: Tensor,
    *,
    lam: float | Tensor = 3.0,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy plus a pull towards what the network predicted for the sample so far.

    $$\ell = -\sum_c y_c \log p_c + \lambda \log\Bigl(1 - \sum_c p_c\,t_c\Bigr), \qquad
    p_c = \frac{e^{x_c}}{\sum_k e^{x_k}}$$

    for every sample, with $x_c$ its logits, $y_c$ its target probabilities (1 at the label and 0
    elsewhere for integer targets), $t_c$ its `average` of earlier predictions and $\lambda$ the
    `lam`. The difference is computed as $\sum_c p_c\,(1 - t_c)$ and is at least 1e-4, where the
    pull ends. The loss can be negative.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32. A logit of minus infinity removes a class that has no target.
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `logits`.
        average: Running averages of the predicted probabilities, shape of `logits`: of a batch,
            `state["average"][indices]`, see [`elr_update`][purelosses.elr_update]. Its gradient is
            that of the formula; the update returns it without one.
        lam: The strength of the pull; 0 is the cross-entropy.
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
            transforms and on other devices the loss is NaN), an option is out of its range, or
            `reduction` is unknown.
        TypeError: If `logits` is not floating or `where` not boolean.

    Examples:
        >>> logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
        >>> state, batch = elr_init(10, 3), torch.tensor([4, 7])
        >>> state = elr_update(state, logits, batch)
        >>> elr_loss(logits, torch.tensor([0, 1]), state["average"][batch])
        tensor(-0.2112)

    Coming from:
        The authors' `elr_loss(num_examp, lambda=3, beta=0.7)` updates its buffer in `forward`:
        call `elr_update` first for the same value. It clamps the probabilities to [1e-4, 1 - 1e-4].

    Source:
        Liu et al., arXiv:2007.00151, eq. (6) and (9).
    """
    function = "elr_loss"
    lam = check_number(function, "lam", lam, minimum=0)
    check_floating(function, "logits", logits)
    check_floating(function, "average", average)
    check_same_shape(function, "average", average, "logits", logits)
    logits, target, class_dim, labels = prepare(
        function, logits, target, class_dim, where, weights, reduction
    )
    average = average.to(logits.dtype)
    if where is not None:
        average = torch.where(where.unsqueeze(class_dim), average, 0.0)
    below, excess = log_partition(logits, class_dim)
    surprisal = excess - below
    gap = ((-surprisal).exp() * (1 - average)).sum(class_dim)
    losses = pick(function, surprisal, target, class_dim, labels)
    losses = losses + lam * gap.clamp_min(_SMALLEST_GAP).log()
    return reduce(losses, reduction, where, weights)

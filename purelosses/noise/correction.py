r"""Losses that know how often each class is mistaken for each other."""

import torch
from torch import Tensor

from purelosses._checks import check_device, check_floating, check_labels, complain
from purelosses._numerics import log_partition, weighted
from purelosses._reduce import reduce
from purelosses._types import Reduction
from purelosses.classification.rows import pick, prepare


def forward_correction_loss(
    logits: Tensor,
    target: Tensor,
    *,
    transition: Tensor,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropy of the noisy label, under the noise that is known to spoil the true one.

    $$\ell = -\sum_j y_j \log \sum_c p_c\,T_{cj}, \qquad p_c = \frac{e^{x_c}}{\sum_k e^{x_k}}$$

    for every sample, with $x_c$ its logits, $y_j$ its target probabilities (1 at the label and 0
    elsewhere for integer targets) and $T_{cj}$ the `transition`, the probability that a sample of
    class $c$ is labelled $j$. The best $p$ is that of the true classes.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32. A logit of minus infinity removes a class that has no target.
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `logits`.
        transition: Shape (classes, classes); row $c$ holds the probabilities of the labels of class
            $c$. The gradient flows into it too, so it may be learnt; it is 0 where an entry is 0.
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
            transforms and on other devices the loss is NaN) or `reduction` is unknown.
        TypeError: If `logits` or `transition` is not floating or `where` not boolean.

    Examples:
        >>> logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
        >>> noise = torch.tensor([[0.8, 0.2], [0.1, 0.9]])
        >>> forward_correction_loss(logits, torch.tensor([0, 1]), transition=noise)
        tensor(0.1792)

    Coming from:
        No peer has it.

    Source:
        Patrini et al., arXiv:1609.03683, theorem 2.
    """
    function = "forward_correction_loss"
    logits, target, class_dim, labels = prepare(
        function, logits, target, class_dim, where, weights, reduction
    )
    transition = _check_transition(function, transition, logits, class_dim)
    some = transition > 0
    log_transition = torch.where(some, torch.where(some, transition, 1.0).log(), -torch.inf)
    below, excess = log_partition(logits, class_dim)
    log_probs = (below - excess).movedim(class_dim, -1)
    if labels:
        num_classes = log_probs.shape[-1]
        target, valid = check_labels(function, target, num_classes)
        columns = log_transition.t().index_select(0, target.reshape(-1))
        columns = columns.reshape(*target.shape, num_classes)
        losses = -_log_sum(log_probs + columns, -1)
        losses = torch.where(valid, losses, torch.nan)
    else:
        log_noisy = _log_sum(log_probs.unsqueeze(-1) + log_transition, -2)
        losses = weighted(target.movedim(class_dim, -1), -log_noisy).sum(-1)
    return reduce(losses, reduction, where, weights)


def backward_correction_loss(
    logits: Tensor,
    target: Tensor,
    *,
    transition: Tensor,
    class_dim: int = 1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Cross-entropies of all labels, combined so that the noise averages out to the true one.

    $$\ell = -\sum_j y_j \sum_c (T^{-1})_{jc} \log p_c, \qquad
    p_c = \frac{e^{x_c}}{\sum_k e^{x_k}}$$

    for every sample, with $x_c$ its logits, $y_j$ its target probabilities (1 at the label and 0
    elsewhere for integer targets) and $T_{cj}$ the `transition`, the probability that a sample of
    class $c$ is labelled $j$. Its mean over the labels that class $c$ gets is $-\log p_c$, so it
    estimates the cross-entropy of the true labels without bias; single values can be negative.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`; all finite. Half
            precision is computed in float32.
        target: Integers: class labels, without the class axis. Floats or booleans: class
            probabilities, with the shape of `logits`.
        transition: Shape (classes, classes), invertible; row $c$ holds the probabilities of the
            labels of class $c$.
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
            transforms and on other devices the loss is NaN) or `reduction` is unknown.
        TypeError: If `logits` or `transition` is not floating or `where` not boolean.

    Examples:
        >>> logits = torch.tensor([[4.0, 0.0], [0.0, 4.0]])
        >>> noise = torch.tensor([[0.8, 0.2], [0.1, 0.9]])
        >>> backward_correction_loss(logits, torch.tensor([0, 1]), transition=noise)
        tensor(-0.8390)

    Coming from:
        No peer has it.

    Source:
        Patrini et al., arXiv:1609.03683, theorem 1.
    """
    function = "backward_correction_loss"
    logits, target, class_dim, labels = prepare(
        function, logits, target, class_dim, where, weights, reduction
    )
    transition = _check_transition(function, transition, logits, class_dim)
    below, excess = log_partition(logits, class_dim)
    surprisal = (excess - below).movedim(class_dim, 0)
    # One factorisation for all samples; checking for a singular matrix would wait for the device.
    columns = surprisal.reshape(surprisal.shape[0], -1)
    corrected = torch.linalg.solve_ex(transition, columns)[0].reshape(surprisal.shape)
    losses = pick(function, corrected.movedim(0, class_dim), target, class_dim, labels)
    return reduce(losses, reduction, where, weights)


def _log_sum(logarithms: Tensor, dim: int) -> Tensor:
    """log sum exp, also to the last digit where the largest term is nearly all there is."""
    nothing = torch.isneginf(logarithms.amax(dim, keepdim=True))
    logarithms = torch.where(nothing, 0.0, logarithms)
    total = logarithms.max(dim, keepdim=True).values + log_partition(logarithms, dim)[1]
    return torch.where(nothing, -torch.inf, total).squeeze(dim)


def _check_transition(function: str, transition: Tensor, logits: Tensor, class_dim: int) -> Tensor:
    check_floating(function, "transition", transition)
    num_classes = logits.shape[class_dim]
    if transition.shape != (num_classes, num_classes):
        must = f"have the shape (classes, classes), {(num_classes, num_classes)}"
        raise ValueError(complain(function, "transition", must, tuple(transition.shape)))
    check_device(function, "transition", transition, logits)
    return transition.to(logits.dtype)

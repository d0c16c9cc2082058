r"""Targets, logits and weights for classes that are uncertain or rare."""

import math
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from purelosses._checks import (
    check_axis,
    check_broadcast,
    check_choice,
    check_device,
    check_floating,
    check_number,
    check_per_class,
    check_real,
    complain,
)
from purelosses._numerics import along, promote, safe_divide

Smoothing: TypeAlias = Literal["uniform", "binary"]
ClassWeights: TypeAlias = Literal["effective", "inverse", "sqrt_inverse"]


def smooth_labels(
    target: Tensor,
    *,
    smoothing: float | Tensor = 0.1,
    kind: Smoothing = "uniform",
    class_dim: int = 1,
    where: Tensor | None = None,
) -> Tensor:
    r"""Targets that give a share to the other classes, so that no logit needs to be infinite.

    $$y'_c = (1 - a)\,y_c + \frac{a}{C} \qquad\text{or}\qquad y' = (1 - a)\,y + \frac{a}{2}$$

    with $y$ the `target`, $a$ the `smoothing` and $C$ the number of classes: the first for the
    `kind` `"uniform"`, where classes exclude each other, the second for `"binary"`, where each is a
    question of its own.

    Conventions: the share goes to all $C$ classes, the right one included; some libraries spread it
    over the $C - 1$ others. Of a yes or no a half of it moves, as in Keras and timm.

    Args:
        target: Probabilities (floats or booleans); for `"uniform"` with the classes along
            `class_dim`.
        smoothing: The share that is moved, from 0 to 1.
        kind: `"uniform"` over the classes, or `"binary"` between yes and no.
        class_dim: The class axis of `target`; negative values count from the end. `"binary"` does
            not look at it.
        where: Which classes exist, for `"uniform"`; shape of `target`, or 1 along an axis. The
            share goes to them alone, and classes under False get 0.

    Returns:
        A floating tensor with the shape of `target`.

    Raises:
        ValueError: If `where` does not fit, an axis does not exist, or an option is unknown or out
            of its range.
        TypeError: If `target` holds integers or `where` is not boolean.

    Examples:
        >>> smooth_labels(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), smoothing=0.1)
        tensor([[0.9250, 0.0250, 0.0250, 0.0250]])
        >>> smooth_labels(torch.tensor([1.0, 0.0]), smoothing=0.1, kind="binary")
        tensor([0.9500, 0.0500])

    Coming from:
        `optax.smooth_labels`: same value, but its `where` leaves a share on the classes it
        excludes. For labels, `cross_entropy_loss(..., label_smoothing=a)` needs no array.

    Source:
        Szegedy et al., arXiv:1512.00567, §7.
    """
    function = "smooth_labels"
    check_real(function, "target", target)
    if target.dtype != torch.bool:
        check_floating(function, "target", target)
    smoothing = check_number(function, "smoothing", smoothing, minimum=0, maximum=1)
    check_choice(function, "kind", kind, get_args(Smoothing))
    probs = promote(target)
    if kind == "binary":
        return (1 - smoothing) * probs + smoothing / 2
    class_dim = check_axis(function, "class_dim", class_dim, target.ndim, "target")
    if where is None:
        return (1 - smoothing) * probs + smoothing / target.shape[class_dim]
    check_broadcast(function, "where", where, target.shape, "`target`")
    if where.dtype != torch.bool:
        raise TypeError(complain(function, "where", "be a bool tensor", where.dtype))
    check_device(function, "where", where, target)
    where = where.expand(target.shape)
    share = smoothing / where.sum(class_dim, keepdim=True).clamp_min(1)
    return torch.where(where, (1 - smoothing) * probs + share, 0.0)


def logit_adjustment(
    logits: Tensor,
    log_prior: Tensor,
    *,
    tau: float | Tensor = 1.0,
    class_dim: int = 1,
) -> Tensor:
    r"""Logits plus the logarithm of how frequent each class is, for training on imbalanced data.

    $$x'_c = x_c + \tau \log \pi_c$$

    with $x_c$ the logits, $\log \pi_c$ the `log_prior` and $\tau$ the `tau`. Trained through
    `cross_entropy_loss(logit_adjustment(logits, log_prior), labels)`, the logits themselves become
    scores for balanced classes: predict from them without the adjustment.

    Args:
        logits: Scores before the softmax, with the classes along `class_dim`. Half precision is
            computed in float32.
        log_prior: The logarithm of the share of each class, shape (number of classes,); any
            constant may be added, so `counts.log()` will do.
        tau: How far to adjust; 1 aims at the balanced error, 0 changes nothing.
        class_dim: The class axis of `logits`; negative values count from the end.

    Returns:
        A tensor with the shape of `logits`. float32, or float64 for float64 logits.

    Raises:
        ValueError: If `log_prior` does not fit the classes, or an axis does not exist.
        TypeError: If `logits` or `log_prior` is not floating.

    Examples:
        >>> counts = torch.tensor([900.0, 100.0])
        >>> logit_adjustment(torch.tensor([[0.0, 0.0]]), (counts / counts.sum()).log())
        tensor([[-0.1054, -2.3026]])

    Coming from:
        With `tau=1` it is the balanced softmax of Ren et al., arXiv:2007.10740.

    Source:
        Menon et al., arXiv:2007.07314, eq. (10).
    """
    function = "logit_adjustment"
    check_floating(function, "logits", logits)
    class_dim = check_axis(function, "class_dim", class_dim, logits.ndim, "logits")
    check_floating(function, "log_prior", log_prior)
    check_per_class(function, "log_prior", log_prior, logits, class_dim)
    tau = check_number(function, "tau", tau)
    logits = promote(logits)
    return logits + tau * along(log_prior.to(logits.dtype), class_dim, logits.ndim)


def ldam_margins(counts: Tensor, *, max_margin: float | Tensor = 0.5) -> Tensor:
    r"""A margin for each class, larger for rare ones: what its logit gives away during training.

    $$\Delta_c = M \Bigl(\frac{\min_k n_k}{n_c}\Bigr)^{1/4}$$

    with $n_c$ the `counts` and $M$ the `max_margin`, which the rarest class gets. Subtract the
    margin of the label from its logit, as in
    `cross_entropy_loss(scale * (cosines - margins * one_hot), labels)`.

    Args:
        counts: How many samples each class has, shape (number of classes,). Classes without any
            are left out of the minimum and get the largest margin too.
        max_margin: The margin of the rarest class, from 0.

    Returns:
        One margin per class. float32, or float64 for float64 counts.

    Raises:
        ValueError: If `counts` is not a vector, or `max_margin` is out of its range.
        TypeError: If `counts` is not a real tensor.

    Examples:
        >>> ldam_margins(torch.tensor([10000, 625, 16]))
        tensor([0.1000, 0.2000, 0.5000])

    Coming from:
        The authors' `LDAMLoss(max_m=0.5, s=30)`: same margins, and a scale of 30.

    Source:
        Cao et al., arXiv:1906.07413, eq. (12).
    """
    function = "ldam_margins"
    counts = _check_counts(function, counts)
    max_margin = check_number(function, "max_margin", max_margin, minimum=0)
    rarest = torch.where(counts > 0, counts, torch.inf).amin(0)
    ratio = torch.where(counts > 0, rarest / torch.where(counts > 0, counts, 1.0), 1.0)
    return max_margin * ratio.sqrt().sqrt()


def class_weights(
    counts: Tensor,
    *,
    kind: ClassWeights = "effective",
    beta: float | Tensor = 0.999,
) -> Tensor:
    r"""Weights that let rare classes count more, from how often each class occurs.

    $$w_c \propto \frac{1 - \beta}{1 - \beta^{n_c}}, \qquad w_c \propto \frac{1}{n_c}
    \qquad\text{or}\qquad w_c \propto \frac{1}{\sqrt{n_c}}$$

    with $n_c$ the `counts` and $\beta$ the `beta`: for the `kind` `"effective"`, `"inverse"` or
    `"sqrt_inverse"`. The weights are scaled so that they sum to the number of classes, of which a
    class without samples is none: it gets the weight 0.

    Conventions: the weights sum to the number of classes, as in the paper's code; scikit-learn
    scales the weights of all *samples* to a mean of 1.

    Args:
        counts: How many samples each class has, shape (number of classes,).
        kind: `"effective"` is between no weights (`beta` = 0) and `"inverse"` (`beta` towards 1).
        beta: For `"effective"`: 1 - 1 / N, with N the number of samples beyond which more of a
            class tell nothing new; from 0, and below 1.

    Returns:
        One weight per class, for the `class_weights` of a loss. float32, or float64 for float64
        counts.

    Raises:
        ValueError: If `counts` is not a vector, or an option is unknown or out of its range.
        TypeError: If `counts` is not a real tensor.

    Examples:
        >>> class_weights(torch.tensor([900, 100]), kind="inverse")
        tensor([0.2000, 1.8000])
        >>> class_weights(torch.tensor([900, 100]))
        tensor([0.2764, 1.7236])

    Coming from:
        `sklearn.utils.class_weight.compute_class_weight("balanced")` is `kind="inverse"` times a
        constant: it scales the weights of all samples, not of all classes, to a mean of 1.

    Source:
        Cui et al., arXiv:1901.05555, eq. (2).
    """
    function = "class_weights"
    counts = _check_counts(function, counts)
    check_choice(function, "kind", kind, get_args(ClassWeights))
    beta = check_number(function, "beta", beta, minimum=0, below=1)
    present = counts > 0
    number = torch.where(present, counts, 1.0)
    if kind == "effective" and (isinstance(beta, Tensor) or beta > 0):
        log_beta = beta.log() if isinstance(beta, Tensor) else math.log(beta)
        # 1 - beta^n without the cancellation that a beta close to 1 would bring.
        number = -torch.expm1(number * log_beta)
    elif kind == "effective":
        number = torch.ones_like(number)
    elif kind == "sqrt_inverse":
        number = number.sqrt()
    weights = torch.where(present, 1 / number, 0.0)
    return weights * safe_divide(present.sum(), weights.sum())


def _check_counts(function: str, counts: Tensor) -> Tensor:
    check_real(function, "counts", counts)
    if counts.ndim != 1:
        must = "hold one number per class, in one axis"
        raise ValueError(complain(function, "counts", must, tuple(counts.shape)))
    return counts.to(torch.promote_types(counts.dtype, torch.float32))

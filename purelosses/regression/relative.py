r"""Losses that measure an error against the size of what is predicted."""

import torch
from torch import Tensor

from purelosses._checks import check_axes, check_floating, elements
from purelosses._numerics import norm, safe_divide
from purelosses._reduce import reduce
from purelosses._types import Reduction


def _relative(error: Tensor, size: Tensor) -> Tensor:
    """error / size: 0, with zero gradient, for no error; infinite for an error of size 0."""
    none = error == 0
    return torch.where(none, 0.0, error / torch.where(none, 1.0, size))


def _vectors(
    function: str,
    prediction: Tensor,
    target: Tensor,
    dim: int | tuple[int, ...],
    where: Tensor | None,
    weights: Tensor | None,
    reduction: Reduction,
) -> tuple[tuple[int, ...], Tensor, Tensor]:
    """The axes of a vector counted from the front, and both data, checked and masked."""
    check_floating(function, "prediction", prediction)
    axes = check_axes(function, "dim", dim, prediction.ndim, "prediction", "a vector")
    prediction, target = elements(
        function, where, weights, reduction, axes=axes, prediction=prediction, target=target
    )
    return axes, prediction, target


def squared_log_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Squared difference of logarithms: it counts ratios, so large and small targets alike.

    $$\ell_i = \bigl(\log(1 + x_i) - \log(1 + y_i)\bigr)^2$$

    with $x_i \ge 0$ an element of `prediction` and $y_i \ge 0$ the same element of `target`. The
    difference of logarithms is computed as the logarithm of a ratio, $\mathrm{log1p}((x - y) / (1 +
    y))$ for $x \ge y$, which keeps its digits when $x$ and $y$ are close.

    Args:
        prediction: Real values of at least 0 (more exactly, above −1), any shape. Half precision is
            computed in float32.
        target: Real values (or integers) of at least 0, of the same shape.
        where: Which elements count; shape of `prediction`, or 1 along an axis. What lies under
            False has no influence, whatever it is.
        weights: How much each element matters; shape of `prediction`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted sum
            by the number of elements that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 for float64
        predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, or `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> squared_log_loss(torch.tensor([9.0, 99.0]), torch.tensor([0.0, 9.0]), reduction="none")
        tensor([5.3019, 5.3019])

    Coming from:
        `sklearn.metrics.mean_squared_log_error`, `torchmetrics` and
        `keras.losses.MeanSquaredLogarithmicError`: same value (keras clamps negative values to 0).
        The RMSLE of competitions is its square root.

    Source:
        Tofallis, *A Better Measure of Relative Prediction Accuracy*, J. Oper. Res. Soc. 66 (2015).
    """
    prediction, target = elements(
        "squared_log_loss", where, weights, reduction, prediction=prediction, target=target
    )
    above = prediction >= target
    ratio = (prediction - target) / (1 + torch.where(above, target, prediction))
    logarithm = torch.where(above, ratio, -ratio).log1p()  # of the larger over the smaller
    return reduce(logarithm.square(), reduction, where, weights)


def absolute_percentage_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Absolute error as a share of the target.

    $$\ell_i = \frac{|x_i - y_i|}{|y_i|}$$

    with $x_i$ an element of `prediction` and $y_i$ the same element of `target`. Where both are 0
    the loss is 0. Where only the target is 0 it is infinite, because no share of 0 is an error:
    leave such elements out by `where=target != 0`, or use
    [`symmetric_percentage_loss`][purelosses.symmetric_percentage_loss]. It is a share, not a
    percentage: 0.1 is 10 %.

    Args:
        prediction: Real values of any shape. Half precision is computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
        where: Which elements count; shape of `prediction`, or 1 along an axis. What lies under
            False has no influence, whatever it is.
        weights: How much each element matters; shape of `prediction`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted sum
            by the number of elements that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 for float64
        predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, or `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> absolute_percentage_loss(torch.tensor([1.1, 90.0]), torch.tensor([1.0, 100.0]))
        tensor(0.1000)

    Coming from:
        `sklearn.metrics.mean_absolute_percentage_error` and `torchmetrics`: same value where no
        target is 0; they divide by at least $2 \cdot 10^{-16}$ and $10^{-6}$.
        `keras.losses.MeanAbsolutePercentageError` is 100 times this.

    Source:
        de Myttenaere et al., *Mean Absolute Percentage Error for Regression Models*,
        arXiv:1605.02541.
    """
    prediction, target = elements(
        "absolute_percentage_loss", where, weights, reduction, prediction=prediction, target=target
    )
    losses = _relative((prediction - target).abs(), target.abs())
    return reduce(losses, reduction, where, weights)


def symmetric_percentage_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Absolute error as a share of the mean size of prediction and target: from 0 to 2.

    $$\ell_i = \frac{2\,|x_i - y_i|}{|x_i| + |y_i|}$$

    with $x_i$ an element of `prediction` and $y_i$ the same element of `target`. Where both are 0
    the loss is 0, with zero gradient. Where their signs differ, or one of them is 0, it is 2
    whatever they are, with zero gradient. It is a share, not a percentage.

    Args:
        prediction: Real values of any shape. Half precision is computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
        where: Which elements count; shape of `prediction`, or 1 along an axis. What lies under
            False has no influence, whatever it is.
        weights: How much each element matters; shape of `prediction`, or 1 along an axis.
        reduction: What happens to the losses, one per element: `"mean"` divides their weighted sum
            by the number of elements that count, `"weighted_mean"` by the total weight, `"sum"`
            adds them, `"none"` returns them.

    Returns:
        A scalar, or one loss per element with `reduction="none"`. float32, or float64 for float64
        predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, or `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> prediction, target = torch.tensor([1.1, -5.0]), torch.tensor([1.0, 5.0])
        >>> symmetric_percentage_loss(prediction, target, reduction="none")
        tensor([0.0952, 2.0000])

    Coming from:
        `torchmetrics.SymmetricMeanAbsolutePercentageError`: same value where not both are 0. The
        "sMAPE" of forecasting competitions is 100 times this; some papers leave out the 2.

    Source:
        Makridakis, *Accuracy Measures: Theoretical and Practical Concerns*, Int. J. Forecasting 9
        (1993).
    """
    prediction, target = elements(
        "symmetric_percentage_loss", where, weights, reduction, prediction=prediction, target=target
    )
    losses = 2 * safe_divide((prediction - target).abs(), prediction.abs() + target.abs())
    return reduce(losses, reduction, where, weights)


def cosine_distance_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    dim: int | tuple[int, ...] = -1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""One minus the cosine of the angle between two vectors: from 0 to 2, whatever their lengths.

    $$\ell = 1 - \frac{x \cdot y}{\|x\|\,\|y\|}
    = \frac12 \left\| \frac{x}{\|x\|} - \frac{y}{\|y\|} \right\|^2$$

    for every vector $x$ of `prediction` and the same vector $y$ of `target`. The second form is the
    one computed: $1 - \cos$ would round small angles away. A vector of zeros has no direction; its
    loss is 1, with zero gradient.

    Args:
        prediction: Vectors of real values along `dim`, with any other axes. Half precision is
            computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
        dim: The axis or axes that one vector spans.
        where: Which vectors count; shape of `prediction` without the axes `dim`, or 1 along an
            axis. What lies under False has no influence, whatever it is.
        weights: How much each vector matters; shape of `prediction` without the axes `dim`, or 1
            along an axis.
        reduction: What happens to the losses, one per vector: `"mean"` divides their weighted sum
            by the number of vectors that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or with `reduction="none"` one loss per vector, shaped as `prediction` without the
        axes `dim`. float32, or float64 for float64 predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, `dim` does not name axes, or
            `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> prediction = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
        >>> target = torch.tensor([[2.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
        >>> cosine_distance_loss(prediction, target, reduction="none")
        tensor([0.0000, 0.2929, 1.0000])

    Coming from:
        `torch.nn.functional.cosine_embedding_loss` with labels of 1, and `optax.cosine_distance`
        (`reduction="none"`): same value, but for vectors of zeros, where their gradient is $6 \cdot
        10^7$ and NaN.

    Source:
        Salton, Wong, Yang, *A Vector Space Model for Automatic Indexing*, Commun. ACM 18 (1975).
    """
    axes, prediction, target = _vectors(
        "cosine_distance_loss", prediction, target, dim, where, weights, reduction
    )
    lengths = norm(prediction, axes), norm(target, axes)
    apart = safe_divide(prediction, lengths[0]) - safe_divide(target, lengths[1])
    losses = apart.square().sum(axes, keepdim=True) / 2
    losses = torch.where((lengths[0] == 0) | (lengths[1] == 0), 1.0, losses)
    return reduce(losses.squeeze(axes), reduction, where, weights)


def relative_l2_loss(
    prediction: Tensor,
    target: Tensor,
    *,
    dim: int | tuple[int, ...] = -1,
    where: Tensor | None = None,
    weights: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Length of the error over the length of the target, one share per vector or field.

    $$\ell = \frac{\|x - y\|}{\|y\|}$$

    for every vector (or field) $x$ of `prediction` and the same one $y$ of `target`, with the
    Euclidean length. Where both are 0 the loss is 0, and so is the gradient wherever $x = y$. Where
    only the target is 0 it is infinite: leave such vectors out by `where`. Each vector counts
    alike, whatever its size, which is why neural operators are trained with it.

    Args:
        prediction: Vectors of real values along `dim`, with any other axes. Half precision is
            computed in float32.
        target: Real values (or integers, or booleans) of the same shape.
        dim: The axis or axes that one vector spans.
        where: Which vectors count; shape of `prediction` without the axes `dim`, or 1 along an
            axis. What lies under False has no influence, whatever it is.
        weights: How much each vector matters; shape of `prediction` without the axes `dim`, or 1
            along an axis.
        reduction: What happens to the losses, one per vector: `"mean"` divides their weighted sum
            by the number of vectors that count, `"weighted_mean"` by the total weight, `"sum"` adds
            them, `"none"` returns them.

    Returns:
        A scalar, or with `reduction="none"` one loss per vector, shaped as `prediction` without the
        axes `dim`. float32, or float64 for float64 predictions. The mean of nothing is 0.

    Raises:
        ValueError: If shapes differ, `where` or `weights` do not fit, `dim` does not name axes, or
            `reduction` is unknown.
        TypeError: If `prediction` is not floating or `where` not boolean.

    Examples:
        >>> prediction = torch.tensor([[1.0, 1.0], [0.0, 5.0]])
        >>> target = torch.tensor([[1.0, 0.0], [3.0, 4.0]])
        >>> relative_l2_loss(prediction, target, reduction="none")
        tensor([1.0000, 0.6325])

    Coming from:
        `LpLoss()(x, y)` of the Fourier neural operator is the mean with `dim` all axes but the
        first; `neuralop.LpLoss` likewise. `deepxde`'s `mean l2 relative error`: same value, but 0/0
        there.

    Source:
        Li et al., *Fourier Neural Operator for Parametric Partial Differential Equations*,
        arXiv:2010.08895, §5.
    """
    axes, prediction, target = _vectors(
        "relative_l2_loss", prediction, target, dim, where, weights, reduction
    )
    losses = _relative(norm(prediction - target, axes), norm(target, axes))
    return reduce(losses.squeeze(axes), reduction, where, weights)

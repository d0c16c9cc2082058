"""Bad input, for every argument of every loss: one form of message, and the right kind of error.

What is wrong with a value follows from the annotation of its argument; the tables below say what an
annotation cannot.
"""

import inspect
import re
from collections.abc import Sequence
from typing import Literal, get_args, get_origin

import pytest
import torch
from torch import Tensor

import purelosses as pl
from purelosses.registry import LOSSES

FORM = r"{}: `{}[^`]*` must .+, got .+"
X = torch.zeros(2, 3, 4)
LABELS = torch.zeros(2, 4, dtype=torch.long)

# What numbers must be, by the name of the option or of the loss and the option. At least 0, unless:
ANY = (
    "dice_weight", "bce_weight", "ce_weight", "focal_weight", "tversky_weight", "cldice_weight",
    "penalty_weight", "active_weight", "passive_weight", "epsilon", "log_temperature", "log_zero",
    "general_robust_loss.alpha", "tweedie_deviance_loss.power", "bi_tempered_loss.t2",
    "bi_tempered_loss.t1", "confidence_penalty_loss.beta",
)  # fmt: skip
POSITIVE = (
    "c", "df", "scale", "temperature", "mu", "huber_loss.delta", "pseudo_huber_loss.delta",
    "wiou_loss.delta", "charbonnier_loss.eps",
    "interval_score_loss.alpha", "focal_tversky_loss.gamma", "hausdorff_dt_loss.alpha",
    "cldice_loss.smooth", "dice_cldice_loss.smooth",
)  # fmt: skip
AT_MOST_1 = (
    "label_smoothing", "q", "interval_score_loss.alpha", "sigmoid_focal_loss.alpha",
    "unified_focal_loss.delta", "unified_focal_loss.gamma", "bootstrap_loss.beta",
    "js_divergence_loss.beta",
)  # fmt: skip


def good_call(spec):
    """A call that works, with everything given that tensors can be given for."""
    case = spec.cases[0]
    data, keywords = case.problem(1, where=case.where is not None, weights=True).arguments
    parameters = inspect.signature(spec.loss).parameters
    named = {**dict(zip(parameters, data, strict=False)), **keywords}
    if "class_weights" in parameters:
        named["class_weights"] = torch.ones(named["logits"].shape[1])
    return named


def data_of(spec):
    """The tensors that are given by position."""
    kinds = inspect.signature(spec.loss).parameters.values()
    return [p.name for p in kinds if p.kind is p.POSITIONAL_OR_KEYWORD and p.annotation is Tensor]


def of_tasks(spec):
    """Whether it is a loss of task losses: those are in test_task_messages.py."""
    return "losses" in inspect.signature(spec.loss).parameters


def longer(x):
    return torch.cat([x, x[:1]]) if x.ndim else x.expand(2)


def corruptions(spec):
    """(argument, what is wrong, a function of the good value, the error)."""
    data, good = data_of(spec), good_call(spec)
    for name, parameter in inspect.signature(spec.loss).parameters.items():
        kinds = get_args(parameter.annotation) or (parameter.annotation,)
        names = (name, f"{spec.name}.{name}")
        number = float in kinds and Tensor in kinds and Sequence not in map(get_origin, kinds)
        if parameter.annotation is Tensor or name in ("where", "weights", "class_weights"):
            yield name, "a list", lambda x: x.tolist(), TypeError
            yield name, "an array", lambda x: x.numpy(), TypeError
            yield name, "an extra axis", lambda x: x.unsqueeze(-1), ValueError
            yield name, "too long", longer, ValueError
            yield name, "complex", lambda x: x.to(torch.complex64), TypeError
            yield name, "another device", lambda x: x.to("meta"), ValueError
        if name in data:
            yield name, "None", lambda x: None, TypeError
            yield name, "a number", lambda x: 0.5, TypeError
            yield name, "too short", lambda x: x[:-1], ValueError
        if name in data and name not in ("target", "distance_map"):
            yield name, "integers", lambda x: x.long(), TypeError
            yield name, "booleans", lambda x: x > 0, TypeError
        if name == "where":
            yield name, "floats", lambda x: x.float(), TypeError
            yield name, "integers", lambda x: x.long(), TypeError
        if number:
            if parameter.default is not None:
                yield name, "None", lambda x: None, TypeError
            yield name, "a string", lambda x: "1.0", TypeError
            yield name, "a boolean", lambda x: True, TypeError
            yield name, "a complex number", lambda x: 1j, TypeError
            yield name, "a complex tensor", lambda x: torch.tensor(1j), TypeError
            yield name, "a vector", lambda x: torch.ones(2), ValueError
            yield name, "a tensor of one element", lambda x: torch.ones(1), ValueError
            if not set(names) & set(ANY):
                yield name, "NaN", lambda x: float("nan"), ValueError
                yield name, "negative", lambda x: -1.0, ValueError
            if set(names) & set(POSITIVE):
                yield name, "zero", lambda x: 0, ValueError
            if set(names) & set(AT_MOST_1):
                yield name, "more than 1", lambda x: 1.5, ValueError
        if number and any(get_origin(kind) is tuple for kind in kinds):
            yield name, "one of a pair", lambda x: (1.0,), TypeError
            yield name, "three", lambda x: (1.0, 1.0, 1.0), TypeError
            yield name, "a pair of tensors", lambda x: (torch.ones(()), torch.ones(())), TypeError
            yield name, "a negative loss", lambda x: (2.0, 1.0), ValueError
            yield name, "a negative numerator", lambda x: (-1.0, 1.0), ValueError
        if bool in kinds:
            yield name, "None", lambda x: None, TypeError
            yield name, "a number", lambda x: 1, TypeError
            yield name, "a string", lambda x: "True", TypeError
        if get_origin(parameter.annotation) is Literal or any(
            get_origin(kind) is Literal for kind in kinds
        ):
            yield name, "misspelt", lambda x: "penalise", ValueError
            yield name, "a function", lambda x: torch.sigmoid, ValueError
            if type(None) not in kinds and name != "classes":
                yield name, "None", lambda x: None, ValueError
        if name == "classes":
            yield name, "empty", lambda x: [], ValueError
            yield name, "not there", lambda x: [0, 99], ValueError
            if "class_dim" not in spec.cases[0].options and parameter.default != "present":
                yield name, "without a class axis", lambda x: [0], ValueError
        axis = int in kinds and name.endswith("dim")
        if axis and not any(get_origin(kind) is tuple for kind in kinds):
            yield name, "past the last axis", lambda x: 99, ValueError
            yield name, "before the first axis", lambda x: -99, ValueError
            yield name, "a float", lambda x: 1.0, TypeError
            yield name, "a boolean", lambda x: True, TypeError
            yield name, "a string", lambda x: "1", TypeError
        elif axis:
            last = good[data[0]].ndim - 1
            yield name, "past the last axis", lambda x: 99, ValueError
            yield name, "before the first axis", lambda x: (0, -99), ValueError
            yield name, "the same twice", lambda x: (1, 1), ValueError
            yield name, "the same from both ends", lambda x, last=last: (last, -1), ValueError
            yield name, "empty", lambda x: (), ValueError
            yield name, "a float", lambda x: (0, 1.0), TypeError
        elif int in kinds and float not in kinds:
            yield name, "negative", lambda x: -1, ValueError
            yield name, "a float", lambda x: 3.0, TypeError
            yield name, "a boolean", lambda x: True, TypeError
            yield name, "a string", lambda x: "3", TypeError
        yield from of_its_own(name)


def of_its_own(name):
    """Corruptions of options that are like no other."""
    if name == "quantiles":
        yield name, "None", lambda x: None, TypeError
        yield name, "a string", lambda x: "0.5", TypeError
        yield name, "NaN", lambda x: float("nan"), ValueError
        yield name, "more than 1", lambda x: [0.5, 1.5], ValueError
        yield name, "empty", lambda x: [], ValueError
        yield name, "falling", lambda x: [0.9, 0.1], ValueError
        yield name, "the same twice", lambda x: (0.5, 0.5), ValueError
        yield name, "a string among them", lambda x: [0.5, "0.9"], TypeError
        yield name, "a matrix", lambda x: torch.full((2, 2), 0.5), ValueError
        yield name, "an empty tensor", lambda x: torch.zeros(0), ValueError
        yield name, "complex", lambda x: torch.ones(2, dtype=torch.complex64), TypeError
    if name == "kernel_size":
        yield name, "even", lambda x: 2, ValueError
    if name == "image_size":
        yield name, "one number", lambda x: 640, ValueError
        yield name, "three numbers", lambda x: (3, 640, 640), ValueError
        yield name, "zero", lambda x: (640, 0), ValueError
        yield name, "a string", lambda x: "640x640", ValueError
        yield name, "strings", lambda x: ("640", "640"), TypeError
        yield name, "a tensor of two", lambda x: torch.ones(2), ValueError
    if name == "spacing":
        yield name, "zero", lambda x: 0, ValueError
        yield name, "negative along an axis", lambda x: (1.0, -1.0), ValueError
        yield name, "too short", lambda x: (1.0,), ValueError
        yield name, "a tensor", lambda x: torch.ones(2), TypeError
        yield name, "tensors", lambda x: [torch.ones(()), 1.0], TypeError
        yield name, "a string", lambda x: "1", TypeError
        yield name, "strings", lambda x: ("1", "1"), TypeError
    if name == "state":
        yield name, "None", lambda x: None, ValueError
        yield name, "empty", lambda x: {}, ValueError
        yield name, "a number", lambda x: {"mean": 1.0}, ValueError
        yield name, "a vector", lambda x: {"mean": torch.ones(1)}, ValueError
        yield name, "another device", lambda x: {"mean": torch.ones((), device="meta")}, ValueError
    if name == "reduction":
        yield name, "torch's old", lambda x: "elementwise_mean", ValueError


BAD = [
    pytest.param(spec, name, corrupt, error, id=f"{spec.name}-{name}-{what}")
    for spec in LOSSES.values()
    if not of_tasks(spec)
    for name, what, corrupt, error in corruptions(spec)
]


@pytest.mark.parametrize(("spec", "name", "corrupt", "error"), BAD)
def test_bad_argument(spec, name, corrupt, error):
    call = good_call(spec)
    spec.loss(**call)
    call[name] = corrupt(call.get(name))
    with pytest.raises((ValueError, TypeError)) as caught:
        spec.loss(**call)
    message = str(caught.value)
    # Of several data that disagree in shape or device, the later is the one to blame.
    data = data_of(spec)
    blamed = f"(?:{'|'.join([*data, 'params'])})" if name == data[0] else name
    assert re.fullmatch(FORM.format(spec.name, blamed), message, re.DOTALL)
    assert type(caught.value) is error, message


def test_every_argument_is_tested():
    tested = {(bad.values[0].name, bad.values[1]) for bad in BAD}
    # Parameters in trees: test_robust.py, test_ordinal.py.
    missing = [
        (spec.name, name)
        for spec in LOSSES.values()
        if not of_tasks(spec)
        for name in inspect.signature(spec.loss).parameters
        if (spec.name, name) not in tested and name != "params"
    ]
    assert missing == []


REDUCED = [spec for spec in LOSSES.values() if spec.cases[0].unit is not None]


@pytest.mark.parametrize("spec", REDUCED, ids=lambda spec: spec.name)
def test_a_misspelt_reduction_names_the_allowed_ones(spec):
    with pytest.raises(ValueError, match="reduction") as caught:
        spec.loss(**{**good_call(spec), "reduction": "avarage"})
    assert str(caught.value) == (
        f"{spec.name}: `reduction` must be one of 'mean', 'weighted_mean', 'sum', 'none', "
        "got 'avarage'"
    )


DENSE = [
    spec.name
    for spec in LOSSES.values()
    if len(spec.cases[0].args) == len(data_of(spec)) == 2
    and {array.axes for array in spec.cases[0].arrays.values()} == {spec.cases[0].unit}
]


@pytest.mark.parametrize("name", DENSE)
@pytest.mark.parametrize(("one", "other"), [((6,), (6, 1)), ((6, 1), (6,)), ((6, 1), (1, 6)),
                                            ((), (1,)), ((6,), (1,))])  # fmt: skip
def test_prediction_and_target_never_broadcast(name, one, other):
    with pytest.raises(ValueError, match="have the shape of") as caught:
        getattr(pl, name)(torch.rand(one), torch.rand(other))
    like = next(iter(inspect.signature(getattr(pl, name)).parameters))
    assert str(caught.value) == (
        f"{name}: `target` must have the shape of `{like}`, {one}, got {other}"
    )


# The wording, in full, where a reader may judge it

WORDING = {
    "a missing axis of the weights": (
        lambda: pl.mse_loss(torch.zeros(2, 3), torch.zeros(2, 3), weights=torch.ones(3)),
        "mse_loss: `weights` must have the shape of `prediction`, (2, 3), or 1 along an axis, "
        "got (3,)",
    ),
    "a float mask": (
        lambda: pl.l1_loss(X, X, where=torch.ones(2, 3, 4)),
        "l1_loss: `where` must be a bool tensor, got torch.float32",
    ),
    "an integer prediction": (
        lambda: pl.mse_loss(LABELS, LABELS),
        "mse_loss: `prediction` must be a floating tensor, got torch.int64",
    ),
    "a list for a tensor": (
        lambda: pl.mse_loss(X, [1.0]),
        "mse_loss: `target` must be a tensor, got list",
    ),
    "another device": (
        lambda: pl.mse_loss(X, X.to("meta")),
        "mse_loss: `target` must be on the device of the prediction, cpu, got meta",
    ),
    "delta of zero": (
        lambda: pl.huber_loss(X, X, delta=0),
        "huber_loss: `delta` must be greater than 0, got 0",
    ),
    "negative smoothing": (
        lambda: pl.dice_loss(X, X, smooth=-1),
        "dice_loss: `smooth` must be at least 0, got -1",
    ),
    "too much label smoothing": (
        lambda: pl.cross_entropy_loss(X, LABELS, label_smoothing=1.5),
        "cross_entropy_loss: `label_smoothing` must be at most 1, got 1.5",
    ),
    "labels with a class axis": (
        lambda: pl.cross_entropy_loss(X, X.long()),
        "cross_entropy_loss: `target` must hold labels with the shape of `logits` without its "
        "class axis, (2, 4), or be boolean or floating, got (2, 3, 4) of torch.int64",
    ),
    "labels of another image": (
        lambda: pl.dice_loss(X, X[0].long(), class_dim=1),
        "dice_loss: `target` must hold labels with the shape of `prediction` without its "
        "class axis, (2, 4), got (3, 4)",
    ),
    "floating labels": (
        lambda: pl.cross_entropy_loss(X, LABELS.float()),
        "cross_entropy_loss: `target` must have the shape of `logits`, (2, 3, 4), got (2, 4)",
    ),
    "a label outside the classes": (
        lambda: pl.cross_entropy_loss(X, LABELS + 7),
        "cross_entropy_loss: `target` must hold class labels from 0 to 2 (mask others with "
        "`where`), got 7",
    ),
    "class weights for other classes": (
        lambda: pl.cross_entropy_loss(X, LABELS, class_weights=torch.ones(4)),
        "cross_entropy_loss: `class_weights` must hold one number per class, shape (3,), got (4,)",
    ),
    "a class axis that is not there": (
        lambda: pl.cross_entropy_loss(X, LABELS, class_dim=3),
        "cross_entropy_loss: `class_dim` must be an axis of `logits`, which has 3, got 3",
    ),
    "a mask with a class axis": (
        lambda: pl.dice_loss(X, X, class_dim=1, where=X > 0),
        "dice_loss: `where` must have the shape of `prediction` without its class axis, (2, 4), "
        "or 1 along an axis, got (2, 3, 4)",
    ),
    "weights for pixels": (
        lambda: pl.dice_loss(X, X, class_dim=1, weights=torch.ones(2, 3, 4)),
        "dice_loss: `weights` must have the shape of the regions, (2, 3), or 1 along an axis, "
        "got (2, 3, 4)",
    ),
    "weights for all classes with some selected": (
        lambda: pl.dice_loss(X, X, class_dim=1, classes=[0, 2], weights=torch.ones(2, 3)),
        "dice_loss: `weights` must have the shape of the regions, (2, 2), or 1 along an axis, "
        "got (2, 3)",
    ),
    "an unknown activation": (
        lambda: pl.dice_loss(X, X, activation="sigmod"),
        "dice_loss: `activation` must be one of None, 'sigmoid', 'softmax', got 'sigmod'",
    ),
    "softmax without a class axis": (
        lambda: pl.dice_loss(X, X, activation="softmax"),
        "dice_loss: `class_dim` must name an axis with at least two classes for a softmax, "
        "got None",
    ),
    "softmax of one class": (
        lambda: pl.dice_loss(X[:, :1], X[:, :1], activation="softmax", class_dim=1),
        "dice_loss: `class_dim` must name an axis with at least two classes for a softmax, "
        "got an axis of 1",
    ),
    "the same axis twice": (
        lambda: pl.dice_loss(X, X, dim=(0, -3)),
        "dice_loss: `dim` must name each axis of a region once (by default those after "
        "`class_dim`), got (0, -3)",
    ),
    "a class that is not there": (
        lambda: pl.dice_loss(X, X, class_dim=1, classes=[0, 3]),
        "dice_loss: `classes` must name classes from 0 to 2, got [0, 3]",
    ),
    "a negative class": (
        lambda: pl.dice_bce_loss(X, X, class_dim=1, classes=[-1]),
        "dice_bce_loss: `classes` must name classes from 0 to 2, got [-1]",
    ),
    "classes of pooled regions": (
        lambda: pl.dice_loss(X, X, class_dim=1, dim=(1, 2), classes=[0]),
        "dice_loss: `classes` must be 'all' or 'present' where regions have no class axis, got [0]",
    ),
    "a skeleton across classes": (
        lambda: pl.cldice_loss(X, X, class_dim=1, dim=(1, 2)),
        "cldice_loss: `dim` must name axes of space, not the class axis, got (1, 2)",
    ),
    "clDice without smoothing": (
        lambda: pl.cldice_loss(X, X, smooth=0),
        "cldice_loss: `smooth` must be greater than 0, got 0",
    ),
    "negative iterations": (
        lambda: pl.soft_skeletonize(X, iters=-1),
        "soft_skeletonize: `iters` must be at least 0, got -1",
    ),
    "a spacing for other axes": (
        lambda: pl.signed_distance_map(X > 0, dim=(1, 2), spacing=(1.0, 1.0, 0.5)),
        "signed_distance_map: `spacing` must hold one number per axis of space, 2, "
        "got (1.0, 1.0, 0.5)",
    ),
    "a spacing of zero": (
        lambda: pl.distance_transform(X > 0, spacing=0.0),
        "distance_transform: `spacing` must be greater than 0, got 0.0",
    ),
    "a mask that is no tensor": (
        lambda: pl.distance_transform([[True, False]]),
        "distance_transform: `mask` must be a tensor, got list",
    ),
    "a distance map of another shape": (
        lambda: pl.boundary_loss(X, X[0]),
        "boundary_loss: `distance_map` must have the shape of `prediction`, (2, 3, 4), got (3, 4)",
    ),
    "classes that are present in a distance map": (
        lambda: pl.boundary_loss(X, X, class_dim=1, classes="present"),
        "boundary_loss: `classes` must be 'all' or a sequence of class labels, got 'present'",
    ),
    "an even box": (
        lambda: pl.nacl_loss(X, LABELS, kernel_size=4),
        "nacl_loss: `kernel_size` must be odd, got 4",
    ),
    "an unknown method": (
        lambda: pl.lovasz_softmax_loss(X, LABELS, method="quick"),
        "lovasz_softmax_loss: `method` must be one of 'sort', 'histogram', got 'quick'",
    ),
    "a BCE of probabilities": (
        lambda: pl.overlap_statistics(X, X, extra="bce"),
        "overlap_statistics: `activation` must be 'sigmoid' for the extra 'bce', got None",
    ),
    "an extra that does not exist": (
        lambda: pl.overlap_statistics(X, X, extra=("tn", "bse")),
        "overlap_statistics: `extra` must be one of 'tn', 'bce', 'ce', 'surprisal', 'focal', got "
        "'bse'",
    ),
    "an extra that is no name": (
        lambda: pl.overlap_statistics(X, X, extra=1),
        "overlap_statistics: `extra` must be None or names among 'tn', 'bce', 'ce', 'surprisal', "
        "'focal', got 1",
    ),
    "a flag that is a number": (
        lambda: pl.dice_loss(X, X, squared=1),
        "dice_loss: `squared` must be True or False, got 1",
    ),
    "what an empty mask costs": (
        lambda: pl.dice_loss(X, X, empty="zero"),
        "dice_loss: `empty` must be one of 'smooth', 'penalize', got 'zero'",
    ),
    "smoothing the wrong way round": (
        lambda: pl.dice_loss(X, X, smooth=(1.0, 0.0)),
        "dice_loss: `smooth` must have a numerator of at most the denominator, or the loss falls "
        "below 0, got (1.0, 0.0)",
    ),
    "smoothing by three numbers": (
        lambda: pl.dice_loss(X, X, smooth=(1.0, 0.0, 0.0)),
        "dice_loss: `smooth` must be a number, a tensor or a pair of numbers, got (1.0, 0.0, 0.0)",
    ),
    "one ratio over classes that are pooled already": (
        lambda: pl.generalized_dice_loss(X, X, dim=(1, 2)),
        "generalized_dice_loss: `dim` must leave the class axis, for it is summed apart, "
        "got (1, 2)",
    ),
    "one ratio over classes that are not there": (
        lambda: pl.generalized_dice_loss(X, X, class_dim=None),
        "generalized_dice_loss: `class_dim` must be the axis of the classes, got None",
    ),
    "confusion of classes that are pooled": (
        lambda: pl.confusion_statistics(X, LABELS, dim=(1, 2)),
        "confusion_statistics: `dim` must leave the class axis, 1, for it is summed apart, "
        "got (1, 2)",
    ),
    "distances of other classes": (
        lambda: pl.generalized_wasserstein_dice_loss(X, LABELS, distance=torch.ones(2, 2)),
        "generalized_wasserstein_dice_loss: `distance` must hold a distance for each pair of "
        "classes, shape (3, 3), got (2, 2)",
    ),
    "an overlap loss of confusion statistics": (
        lambda: pl.jaccard_from_statistics(pl.confusion_statistics(X, LABELS)),
        "jaccard_from_statistics: `statistics` must be what `overlap_statistics` returns, with "
        "['count', 'fn', 'fp', 'tp'], got ['confusion', 'count']",
    ),
    "another name among the tasks": (
        lambda: pl.uncertainty_weighted_loss({"mask": torch.zeros(())}, {"depth": torch.zeros(())}),
        "uncertainty_weighted_loss: `log_vars` must have the structure of `losses`, "
        "{'depth': *}, got {'mask': *}",
    ),
    "too few log-variances": (
        lambda: pl.uncertainty_weighted_loss(torch.zeros(1), [torch.zeros(())] * 2),
        "uncertainty_weighted_loss: `log_vars` must have one entry per loss: shape (2,) for a "
        "list, else a tree, got shape (1,) for [*, *]",
    ),
    "a loss that was not reduced": (
        lambda: pl.uncertainty_weighted_loss(
            {"mask": torch.zeros(()), "depth": torch.zeros(())},
            {"mask": torch.zeros(()), "depth": torch.zeros(5)},
        ),
        "uncertainty_weighted_loss: `losses['depth']` must be a 0-dimensional floating tensor, "
        "got shape (5,) of torch.float32",
    ),
    "a loss that is a number": (
        lambda: pl.uncertainty_weighted_loss(torch.zeros(1), [0.5]),
        "uncertainty_weighted_loss: `losses[0]` must be a 0-dimensional floating tensor, got 0.5",
    ),
    "an unknown likelihood": (
        lambda: pl.uncertainty_weighted_loss(
            torch.zeros(1), [torch.zeros(())], likelihood="normal"
        ),
        "uncertainty_weighted_loss: `likelihood` must be one of 'gaussian', 'laplace', 'softmax', "
        "got 'normal'",
    ),
}


BOX = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
WORDING |= {
    "boxes without their axis": (
        lambda: pl.giou_loss(torch.zeros(()), torch.zeros(())),
        "giou_loss: `boxes` must have a last axis of 4 numbers in 2 dimensions or 6 numbers in 3 "
        "dimensions, got ()",
    ),
    "volumes of a loss for areas": (
        lambda: pl.ciou_loss(torch.zeros(1, 6), torch.zeros(1, 6)),
        "ciou_loss: `boxes` must have a last axis of 4 numbers in 2 dimensions, got (1, 6)",
    ),
    "volumes of a kind for areas": (
        lambda: pl.alpha_iou_loss(torch.zeros(1, 6), torch.zeros(1, 6), kind="ciou"),
        "alpha_iou_loss: `boxes` must have a last axis of 4 numbers in 2 dimensions, got (1, 6)",
    ),
    "one target for several boxes": (
        lambda: pl.iou_loss(BOX.expand(4, 4), BOX),
        "iou_loss: `target` must have the shape of `boxes`, (4, 4), got (1, 4)",
    ),
    "a weight for each coordinate": (
        lambda: pl.iou_loss(BOX, BOX, weights=BOX),
        "iou_loss: `weights` must have the shape of `boxes` without their last axis, (1,), or 1 "
        "along an axis, got (1, 4)",
    ),
    "an unknown format": (
        lambda: pl.diou_loss(BOX, BOX, fmt="yxyx"),
        "diou_loss: `fmt` must be one of 'xyxy', 'xywh', 'cxcywh', got 'yxyx'",
    ),
    "an exponent with an infinite slope": (
        lambda: pl.siou_loss(BOX, BOX, theta=0.5),
        "siou_loss: `theta` must be at least 1, got 0.5",
    ),
    "the size of an image as one number": (
        lambda: pl.mpdiou_loss(BOX, BOX, image_size=640),
        "mpdiou_loss: `image_size` must be the height and the width of the image, got 640",
    ),
    "a state that is a number": (
        lambda: pl.wiou_loss({"mean": 1.0}, BOX, BOX),
        "wiou_loss: `state` must be what `wiou_init` returns, {'mean': a 0-dimensional floating "
        "tensor}, got {'mean': 1.0}",
    ),
    "a momentum above 1": (
        lambda: pl.wiou_update(pl.wiou_init(), BOX, BOX, momentum=2),
        "wiou_update: `momentum` must be at most 1, got 2",
    ),
    "a target with bins": (
        lambda: pl.distribution_focal_loss(X, X),
        "distribution_focal_loss: `target` must have the shape of `logits` without its last axis, "
        "(2, 3), got (2, 3, 4)",
    ),
    "a single bin": (
        lambda: pl.distribution_focal_loss(X[..., :1], X[..., 0]),
        "distribution_focal_loss: `logits` must have at least two bins along the last axis, "
        "got (2, 3, 1)",
    ),
}


@pytest.mark.parametrize(("call", "message"), WORDING.values(), ids=WORDING.keys())
def test_wording(call, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    assert str(caught.value) == message


ZERO = torch.zeros(())
STRUCTURES = {
    "log_vars without a task": ("log_vars", {"a": ZERO}, {"a": ZERO, "b": ZERO}),
    "log_vars with another task": ("log_vars", {"a": ZERO, "c": ZERO}, {"a": ZERO, "b": ZERO}),
    "log_vars with one task more": ("log_vars", {"a": ZERO, "b": ZERO}, {"a": ZERO}),
    "one log_var for all": ("log_vars", ZERO, {"a": ZERO, "b": ZERO}),
    "one log_var for a branch": ("log_vars", {"a": ZERO}, {"a": {"b": ZERO, "c": ZERO}}),
    "a list for a dict": ("log_vars", [ZERO], {"a": ZERO}),
    "a vector for a dict": ("log_vars", torch.zeros(2), {"a": ZERO, "b": ZERO}),
    "a long vector": ("log_vars", torch.zeros(3), [ZERO, ZERO]),
    "a matrix": ("log_vars", torch.zeros(2, 1), [ZERO, ZERO]),
    "no log_vars": ("log_vars", None, [ZERO]),
    "vectors in a tree": ("log_vars", {"a": torch.zeros(1)}, {"a": ZERO}),
    "integer log_vars": ("log_vars", {"a": torch.tensor(0)}, {"a": ZERO}),
    "numbers as log_vars": ("log_vars", {"a": 0.0}, {"a": ZERO}),
    "no losses": ("losses", {}, {}),
    "no losses in a list": ("losses", torch.zeros(0), []),
    "a stacked vector of losses": ("losses", torch.zeros(2), torch.zeros(2)),
    "integer losses": ("losses", {"a": ZERO}, {"a": torch.tensor(1)}),
    "losses that are numbers": ("losses", {"a": ZERO}, {"a": 1.0}),
    "losses of None": ("losses", {"a": ZERO}, None),
    "losses elsewhere": ("losses", {"a": ZERO}, {"a": ZERO.to("meta")}),
}


@pytest.mark.parametrize(
    ("blamed", "log_vars", "losses"), STRUCTURES.values(), ids=STRUCTURES.keys()
)
def test_tasks_that_do_not_fit(blamed, log_vars, losses):
    with pytest.raises((ValueError, TypeError)) as caught:
        pl.uncertainty_weighted_loss(log_vars, losses)
    # Of two trees on different devices either may be blamed.
    blamed = "(?:losses|log_vars)" if "meta" in str(losses) else blamed
    form = FORM.format("uncertainty_weighted_loss", blamed)
    assert re.fullmatch(form, str(caught.value), re.DOTALL)


@pytest.mark.parametrize(
    "likelihood",
    [
        pytest.param({"a": "gaussian"}, id="a task is missing"),
        pytest.param({"a": "gaussian", "c": "laplace"}, id="another task"),
        pytest.param(["gaussian", "laplace"], id="a list"),
        pytest.param({"a": "gaussian", "b": "cauchy"}, id="unknown"),
        pytest.param(None, id="None"),
        pytest.param(1, id="a number"),
    ],
)
def test_likelihoods_that_do_not_fit(likelihood):
    log_vars = losses = {"a": ZERO, "b": ZERO}
    with pytest.raises((ValueError, TypeError)) as caught:
        pl.uncertainty_weighted_loss(log_vars, losses, likelihood=likelihood)
    form = FORM.format("uncertainty_weighted_loss", "likelihood")
    assert re.fullmatch(form, str(caught.value), re.DOTALL)


@pytest.mark.parametrize(
    "tasks",
    [
        pytest.param(0, id="zero"),
        pytest.param(-1, id="negative"),
        pytest.param([], id="empty list"),
        pytest.param({}, id="empty dict"),
        pytest.param(["mask", "mask"], id="the same name twice"),
        pytest.param(None, id="None"),
    ],
)
def test_tasks_that_cannot_be_initialised(tasks):
    with pytest.raises((ValueError, TypeError)) as caught:
        pl.uncertainty_weighted_init(tasks)
    form = FORM.format("uncertainty_weighted_init", "tasks")
    assert re.fullmatch(form, str(caught.value), re.DOTALL)


OF_STATISTICS = [name for name in pl.__all__ if name.endswith("_from_statistics")]
SUMS = pl.overlap_statistics(X, X, activation="sigmoid", class_dim=1, extra=("tn", "bce", "focal"))
SUMS |= pl.overlap_statistics(X, X, activation="softmax", class_dim=1, extra=("ce", "surprisal"))
WRONG = {
    "smooth": -1.0,
    "alpha": -1.0,
    "beta": "much",
    "gamma": -1.0,
    "delta": 2.0,
    "label_smoothing": 2.0,
    "asymmetric": None,
    "activation": "relu",
    "empty": "zero",
    "classes": [7],
    "class_dim": 5,
    "weight_type": "cube",
    "distance": torch.ones(2, 2),
    "weights": torch.ones(7),
    "reduction": "avarage",
}


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (function, name)
        for function in OF_STATISTICS
        for name in inspect.signature(getattr(pl, function)).parameters
        if name != "statistics"
    ],
)
def test_bad_options_of_statistics(function, name):
    call = getattr(pl, function)
    statistics = SUMS
    if "wasserstein" in function:  # its count has no class axis
        statistics = pl.confusion_statistics(X, LABELS, activation="softmax")
    options = {"distance": torch.ones(3, 3), "classes": [0]}
    parameters = inspect.signature(call).parameters
    options = {key: value for key, value in options.items() if key in parameters}
    call(statistics, **options)
    wrong = WRONG.get(name, "a lot")  # the shares of the terms
    with pytest.raises((ValueError, TypeError)) as caught:
        call(statistics, **{**options, name: wrong})
    assert re.fullmatch(FORM.format(function, name), str(caught.value))


@pytest.mark.parametrize("function", OF_STATISTICS)
@pytest.mark.parametrize(
    "statistics",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"tp": ZERO, "fp": ZERO}, id="some are missing"),
        pytest.param(X, id="a tensor"),
        pytest.param(None, id="None"),
    ],
)
def test_statistics_that_are_not(function, statistics):
    options = {"distance": torch.ones(3, 3)} if "wasserstein" in function else {}
    with pytest.raises((ValueError, TypeError)) as caught:
        getattr(pl, function)(statistics, **options)
    assert re.fullmatch(FORM.format(function, "statistics"), str(caught.value), re.DOTALL)


@pytest.mark.parametrize(
    ("function", "needed"),
    [
        ("mcc_from_statistics", "tn"),
        ("dice_bce_from_statistics", "bce"),
        ("dice_ce_from_statistics", "ce"),
        ("dice_focal_from_statistics", "focal"),
        ("unified_focal_from_statistics", "ce"),
        ("unified_focal_from_statistics", "focal"),
    ],
)
def test_an_extra_sum_that_is_missing(function, needed):
    statistics = {key: value for key, value in SUMS.items() if key != needed}
    with pytest.raises(ValueError, match=f"`statistics` must be .*'{needed}'.*, got"):
        getattr(pl, function)(statistics)


def test_label_smoothing_of_statistics_needs_the_surprisal():
    statistics = {key: value for key, value in SUMS.items() if key != "surprisal"}
    pl.dice_ce_from_statistics(statistics)
    with pytest.raises(ValueError, match=r"`statistics` must be .*'surprisal'"):
        pl.dice_ce_from_statistics(statistics, label_smoothing=0.1)


@pytest.mark.parametrize("function", ["overlap_statistics", "confusion_statistics"])
@pytest.mark.parametrize(
    ("name", "wrong"),
    [("prediction", None), ("prediction", LABELS), ("target", X[:1]), ("target", [1]),
     ("activation", "relu"), ("class_dim", 7), ("class_dim", "1"), ("dim", 9), ("dim", ()),
     ("where", X > 0), ("where", torch.ones(2, 4)), ("squared", 1), ("soft_target", None),
     ("gamma", -1.0), ("extra", "ten"), ("extra", ["bce"])],
)  # fmt: skip
def test_bad_arguments_of_the_statistics_themselves(function, name, wrong):
    call = getattr(pl, function)
    if name not in inspect.signature(call).parameters:
        pytest.skip("it has no such argument")
    given = {"prediction": X, "target": X, "class_dim": 1, name: wrong}
    with pytest.raises((ValueError, TypeError)) as caught:
        call(**given)
    blamed = "activation" if wrong == ["bce"] else name
    assert re.fullmatch(FORM.format(function, blamed), str(caught.value), re.DOTALL)

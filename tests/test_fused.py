"""The fused path: every law holds on it, it agrees with float64, and it is taken when it should.

The laws use small tensors; so the threshold is lowered, and blocks are made so small that regions
span several of them and several regions share one.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import purelosses as pl
import purelosses.nn
from purelosses._fused import blocks, launch, masks, ranks
from purelosses.boxes import kernel
from purelosses.laws import LAWS, Law, combine, judge, subjects
from purelosses.registry import LOSSES
from purelosses.segmentation import ranking

# The losses that have a case on the fused path.
AFFECTED = (
    "alpha_iou_loss",
    "binary_cross_entropy_loss",
    "ciou_loss",
    "cross_entropy_loss",
    "dice_bce_loss",
    "dice_ce_loss",
    "dice_focal_loss",
    "dice_loss",
    "diou_loss",
    "eiou_loss",
    "focal_eiou_loss",
    "focal_tversky_loss",
    "generalized_dice_loss",
    "generalized_wasserstein_dice_loss",
    "giou_loss",
    "iou_loss",
    "jaccard_loss",
    "log_cosh_dice_loss",
    "lovasz_hinge_loss",
    "lovasz_softmax_loss",
    "mcc_loss",
    "mpdiou_loss",
    "nacl_loss",
    "sigmoid_focal_loss",
    "siou_loss",
    "softmax_focal_loss",
    "tversky_loss",
    "unified_focal_loss",
    "wiou_loss",
)


class Taken:
    """How often the kernels ran."""

    count = 0


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    """Send everything that may go there down the fused path, and count."""
    monkeypatch.setattr(launch, "THRESHOLD", 1)
    monkeypatch.setattr(blocks, "SHORTEST", 1)
    monkeypatch.setattr(blocks, "SMALLEST", 1)
    monkeypatch.setattr(blocks, "BLOCK", 64)
    monkeypatch.setattr(masks, "KEPT", 1)
    monkeypatch.setattr(kernel, "BLOCK", 64)
    monkeypatch.setattr(ranks, "FEWEST", 1)
    monkeypatch.setattr(ranking, "_BLOCK", 5)
    counter, run = Taken(), launch.run

    def counted(*arguments: Any) -> Tensor:
        counter.count += 1
        return run(*arguments)

    monkeypatch.setattr(launch, "run", counted)
    return counter


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], Any]:
    """Call with the plain formulas."""

    def call(function: Callable[[], Any]) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(launch, "AVAILABLE", False)
            return function()

    return call


# Laws

# One for each kernel, and the one that asks for true negatives; the others take a minute more.
QUICK = {
    "binary_cross_entropy_loss",
    "cross_entropy_loss",
    "dice_bce_loss",
    "dice_ce_loss",
    "dice_focal_loss",
    "generalized_wasserstein_dice_loss",
    "giou_loss",
    "lovasz_hinge_loss",
    "lovasz_softmax_loss",
    "mcc_loss",
    "sigmoid_focal_loss",
    "softmax_focal_loss",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in AFFECTED],
)
@pytest.mark.parametrize(
    "law",
    [
        pytest.param(law, marks=pytest.mark.slow if law.kind != "eager" else ())
        for law in LAWS.values()
    ],
    ids=LAWS,
)
def test_law(law: Law, name: str, taken: Taken) -> None:
    spec = LOSSES[name]
    module = getattr(purelosses.nn, spec.module)
    evidence = combine(judge(law, subject) for subject in subjects(spec, module))
    assert evidence.status != "fail", f"{law.statement} {evidence.detail}"


@pytest.mark.parametrize("name", LOSSES)
def test_the_affected_losses_are_those_that_take_the_path(name: str, taken: Taken) -> None:
    for case in LOSSES[name].cases:
        case.problem(0)(LOSSES[name].loss)
    assert (taken.count > 0) == (name in AFFECTED)


# The kernels, as losses of a few random tensors


def binary(x: Tensor, y: Tensor, **options: Any) -> Tensor:
    return pl.dice_bce_loss(x, y, dim=(-2, -1), **options)


def classes(x: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return pl.dice_ce_loss(x, labels, **options)


def entropy(x: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return pl.cross_entropy_loss(x, labels, **options)


def smoothed(x: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return pl.dice_ce_loss(x, labels, label_smoothing=0.1, **options)


def smoothed_entropy(x: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return pl.cross_entropy_loss(x, labels, label_smoothing=0.1, **options)


def focal_classes(x: Tensor, labels: Tensor, **options: Any) -> Tensor:
    options = {"gamma": 1.5, "activation": "softmax", "class_dim": 1, **options}
    return pl.dice_focal_loss(x, labels, **options)


def focal_entropy(x: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return pl.softmax_focal_loss(x, labels, gamma=1.5, **options)


def focal_below_one(x: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return pl.softmax_focal_loss(x, labels, gamma=0.4, **options)


def confusion(x: Tensor, labels: Tensor, **options: Any) -> Tensor:
    distance = torch.tensor([[0.0, 1.0, 0.5], [1.0, 0.0, 0.7], [0.5, 0.7, 0.0]])
    options = {"distance": distance.to(x.device), "activation": "softmax", **options}
    return pl.generalized_wasserstein_dice_loss(x, labels, **options)


def focal(x: Tensor, y: Tensor, **options: Any) -> Tensor:
    return pl.sigmoid_focal_loss(x, y, gamma=1.5, alpha=0.25, **options)


def bernoulli(x: Tensor, y: Tensor, reduction: str = "mean", **options: Any) -> Tensor:
    if reduction == "none":  # a kernel computes sums only
        units = zip(x, y, strict=True)
        return torch.stack([pl.binary_cross_entropy_loss(*u, reduction="sum") for u in units])
    return pl.binary_cross_entropy_loss(x, y, reduction=reduction, **options)


def weighted(x: Tensor, y: Tensor, **options: Any) -> Tensor:
    """Of every element, where `focal` takes the sum."""
    return focal(x, y, weights=x.new_ones([1] * x.ndim), **options)


def mixed(x: Tensor, y: Tensor, **options: Any) -> Tensor:
    return pl.dice_focal_loss(x, y, gamma=1.5, dim=(-2, -1), **options)


def squares(x: Tensor, y: Tensor, **options: Any) -> Tensor:
    options = {"activation": "sigmoid", "squared": True, "dim": (-2, -1), **options}
    return pl.tversky_loss(x, y, alpha=0.3, beta=0.6, **options)


def hinge(x: Tensor, y: Tensor, **options: Any) -> Tensor:
    return pl.lovasz_hinge_loss(x, y, dim=(-2, -1), **options)


def ranked(x: Tensor, labels: Tensor, **options: Any) -> Tensor:
    return pl.lovasz_softmax_loss(x, labels, classes="all", **options)


Loss = Callable[..., Tensor]
LABELS = (
    classes,
    entropy,
    smoothed,
    smoothed_entropy,
    focal_classes,
    focal_entropy,
    focal_below_one,
    confusion,
    ranked,
)
MASKS = (binary, focal, mixed, squares, bernoulli, weighted, hinge)
KERNELS = MASKS + LABELS
REGIONS = (binary, mixed, squares)
ELEMENTS = (focal, bernoulli, weighted)
every_kernel = pytest.mark.parametrize("loss", KERNELS)


def data(loss: Loss, *lead: int, size: int = 3, soft: bool = False) -> tuple[Tensor, Tensor]:
    """Logits (*lead, 2, 3, size, size + 1) in float64, with masks or labels."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(*lead, 2, 3, size, size + 1, generator=generator, dtype=torch.float64)
    if loss in LABELS:
        labels = torch.randint(3, (*lead, 2, size, size + 1), generator=generator)
        return 2 * x, labels
    y = torch.rand(x.shape, generator=generator, dtype=torch.float64)
    return 2 * x, y if soft else y.round()


def close(a: Any, b: Any) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


# When the path is taken


@every_kernel
def test_a_large_plain_tensor_takes_it(loss: Loss, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, run = [], launch.run
    monkeypatch.setattr(launch, "run", lambda *a: runs.append(a) or run(*a))
    x, y = data(loss, size=3)
    loss(x, y)
    assert not runs
    x, y = data(loss, size=220)
    loss(x.float(), y)
    assert len(runs) == 1


@every_kernel
def test_under_vmap_the_size_is_that_of_the_whole(
    loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs, run = [], launch.run
    monkeypatch.setattr(launch, "run", lambda *a: runs.append(a) or run(*a))
    monkeypatch.setattr(launch, "THRESHOLD", 4000)
    monkeypatch.setattr(blocks, "SMALLEST", 1)
    monkeypatch.setattr(blocks, "SHORTEST", 1)
    monkeypatch.setattr(ranks, "FEWEST", 1)
    x, y = data(loss, 50, size=5)
    torch.func.vmap(loss)(x, y)
    assert len(runs) == 1
    loss(x[0], y[0])
    assert len(runs) == 1


@every_kernel
def test_transforms_and_tracers_that_keep_to_the_formula(loss: Loss, taken: Taken) -> None:
    x, y = data(loss)
    torch.func.jvp(lambda x: loss(x, y), (x,), (x,))
    with torch.autograd.forward_ad.dual_level():
        loss(x, y)
    torch.func.functionalize(lambda x: loss(x, y))(x)
    torch.fx.experimental.proxy_tensor.make_fx(lambda x: loss(x, y))(x)
    torch.fx.experimental.proxy_tensor.make_fx(lambda x: loss(x, y), pre_dispatch=True)(x)
    loss(x.to("meta"), y.to("meta"))
    with torch._subclasses.FakeTensorMode(allow_non_fake_inputs=True):
        loss(torch.empty_like(x), torch.empty_like(y))
    torch.compile(loss, fullgraph=True, backend="aot_eager")(x, y)
    assert taken.count == 0
    loss(x, y)
    assert taken.count == 1


class Marked(Tensor):
    pass


@every_kernel
def test_a_subclass_keeps_to_the_formula(loss: Loss, taken: Taken) -> None:
    x, y = data(loss)
    assert isinstance(loss(x.as_subclass(Marked), y), Marked)
    assert taken.count == 0


@every_kernel
def test_without_the_private_parts_of_torch_the_formula_runs(
    loss: Loss, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = data(loss)
    fused = loss(x, y)
    monkeypatch.setattr(launch, "AVAILABLE", False)
    close(loss(x, y), fused)
    assert taken.count == 1


def test_tensor_options_keep_to_the_formula(taken: Taken) -> None:
    x, y = data(focal)
    gamma = torch.tensor(1.5, dtype=torch.float64)
    close(pl.sigmoid_focal_loss(x, y, gamma=gamma, alpha=0.25), focal(x, y))
    assert taken.count == 1


# Transforms: equal to the plain formula in float64, to every order


@every_kernel
@pytest.mark.parametrize("soft", [False, True])
def test_derivatives(loss: Loss, soft: bool, taken: Taken, plain: Any) -> None:
    x, y = data(loss, size=2, soft=soft)

    def function(x: Tensor) -> Tensor:
        return loss(x, y)

    def units(x: Tensor) -> Tensor:
        return loss(x, y, reduction="none")

    grad = torch.func.grad
    derivatives: dict[str, Callable[[], Any]] = {
        "value": lambda: function(x),
        "grad": lambda: grad(function)(x),
        "jacrev": lambda: torch.func.jacrev(units)(x),
        "jacrev in chunks": lambda: torch.func.jacrev(units, chunk_size=2)(x),
        "hessian": lambda: torch.func.hessian(function)(x),
        "jacrev of jacrev": lambda: torch.func.jacrev(torch.func.jacrev(function))(x),
        "jacfwd of jacrev": lambda: torch.func.jacfwd(torch.func.jacrev(function))(x),
        "third": lambda: grad(lambda x: grad(lambda x: grad(function)(x).sum())(x).square().sum())(
            x
        ),
        "forward over a pulled gradient": lambda: torch.func.jvp(
            torch.func.vjp(units, x)[1], (units(x),), (2 * units(x),)
        )[1],
    }
    for name, derivative in derivatives.items():
        before = taken.count
        result = derivative()
        assert taken.count > before or "jacfwd" in name or name == "hessian", name
        expected = plain(derivative)
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-11, msg=name)


@every_kernel
@pytest.mark.parametrize("soft", [False, True])
def test_vmap(loss: Loss, soft: bool, taken: Taken, plain: Any) -> None:
    x, y = data(loss, 3, 2, soft=soft)
    per_sample = torch.func.grad_and_value(loss)
    vmap = torch.func.vmap
    where = x[:, :, :, 0] > -1
    extra = torch.tensor(0)

    def with_where(x: Tensor, y: Tensor, where: Tensor) -> Tensor:
        where = where.unsqueeze(-3) if loss in (*ELEMENTS, hinge) else where
        return loss(x, y, class_dim=-3) if loss in REGIONS else loss(x, y, where=where)

    calls: dict[str, Callable[[], Any]] = {
        "vmap": lambda: vmap(loss)(x[0], y[0]),
        "vmap of grad": lambda: vmap(per_sample)(x[0], y[0]),
        "one target": lambda: vmap(per_sample, in_dims=(0, None))(x[0], y[0, 0]),
        "one prediction": lambda: vmap(per_sample, in_dims=(None, 0))(x[0, 0], y[0]),
        "another axis": lambda: vmap(per_sample, in_dims=(2, 2))(
            x[0].movedim(0, 2), y[0].movedim(0, 2)
        ),
        "chunks": lambda: vmap(per_sample, chunk_size=1)(x[0], y[0]),
        "nested": lambda: vmap(vmap(per_sample))(x, y),
        "nothing mapped inside": lambda: vmap(lambda _: per_sample(x[0, 0], y[0, 0]))(
            extra.expand(2)
        ),
        "gradient of vmap": lambda: torch.func.grad(lambda x: vmap(loss)(x, y[0]).sum())(x[0]),
        "where": lambda: vmap(vmap(torch.func.grad_and_value(with_where)))(x, y, where),
    }
    for name, call in calls.items():
        before = taken.count
        result = call()
        assert taken.count > before, name
        torch.testing.assert_close(result, plain(call), rtol=1e-9, atol=1e-11, msg=name)


@every_kernel
@pytest.mark.parametrize("soft", [False, True])
def test_finite_differences(loss: Loss, soft: bool, taken: Taken) -> None:
    x, y = data(loss, size=1, soft=soft)
    x.requires_grad_()
    torch.autograd.gradcheck(
        lambda x: loss(x, y), x, check_forward_ad=True, check_batched_grad=True
    )
    torch.autograd.gradgradcheck(
        lambda x: loss(x, y), x, check_fwd_over_rev=True, check_batched_grad=True
    )
    assert taken.count


@every_kernel
def test_the_older_way_to_map_gradients(loss: Loss, taken: Taken, plain: Any) -> None:
    x, y = data(loss, size=1)
    x.requires_grad_()

    def rows() -> Tensor:
        units = loss(x, y, reduction="none").flatten()
        (result,) = torch.autograd.grad(
            units, x, torch.eye(len(units)).to(x), is_grads_batched=True
        )
        return result

    def hessian() -> Any:
        return torch.autograd.functional.hessian(lambda x: loss(x, y), x, vectorize=True)

    for function in (rows, hessian):
        before = taken.count
        result = function()
        assert taken.count > before
        close(result, plain(function))


@pytest.mark.parametrize("loss", MASKS)
@pytest.mark.parametrize("soft", [False, True])
def test_gradients_of_the_target(loss: Loss, soft: bool, taken: Taken, plain: Any) -> None:
    x, y = data(loss, size=2, soft=soft)
    both = torch.func.grad(loss, (0, 1))
    close(both(x, y), plain(lambda: both(x, y)))
    second = torch.func.grad(lambda x, y: sum(g.square().sum() for g in both(x, y)), (0, 1))
    close(second(x, y), plain(lambda: second(x, y)))
    mapped = torch.func.vmap(lambda y: both(x, y))
    close(mapped(torch.stack([y, 1 - y])), plain(lambda: mapped(torch.stack([y, 1 - y]))))
    assert taken.count


@every_kernel
def test_checkpoint_and_a_second_backward(loss: Loss, taken: Taken) -> None:
    x, y = data(loss)
    expected = torch.func.grad(loss)(x, y)
    x.requires_grad_()
    for reentrant in (False, True):
        value = checkpoint(lambda x: loss(x * 1.0, y), x, use_reentrant=reentrant)
        close(torch.autograd.grad(value, x)[0] if not reentrant else _backward(value, x), expected)
    value = loss(x, y)
    for _ in range(2):
        close(torch.autograd.grad(value, x, retain_graph=True)[0], expected)
    assert taken.count


@pytest.mark.parametrize("loss", [binary, focal, squares, bernoulli, hinge, ranked])
def test_what_a_forward_pass_keeps_is_used_once(
    loss: Loss, taken: Taken, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []
    take = launch._Kept.take
    monkeypatch.setattr(launch._Kept, "take", lambda *a: kept.append(take(*a)) or kept[-1])
    x, y = data(loss)
    with torch.no_grad():
        loss(x.requires_grad_(), y)
    value, other = loss(x, y), loss(x, y)
    (first,) = torch.autograd.grad(value, x, retain_graph=True)
    copy = first.clone()
    (second,) = torch.autograd.grad(value, x)
    (third,) = torch.autograd.grad(other, x)
    assert [here for here, _ in kept] == [True, False, True]
    assert kept[0][1].data_ptr() == first.data_ptr()
    for gradient in (first, second, third):
        torch.testing.assert_close(gradient, copy, rtol=0, atol=0)


def test_what_a_forward_pass_keeps_is_of_the_same_tensors() -> None:
    kept, x = launch._Kept(), torch.zeros(3)
    for change in (lambda: x.view(3, 1), lambda: x.clone(), lambda: x.add_(1)):
        kept.put(torch.ones(3), x, None)
        assert kept.take(change(), None) == (False, None)
    kept.put(torch.ones(3), x, None)
    assert kept.take(x.detach(), None)[1] is not None
    assert kept.take(x.detach(), None) == (False, None)
    kept.put(None, x, None)
    for _ in range(2):
        assert kept.take(x, None) == (True, None)


def _backward(value: Tensor, x: Tensor) -> Tensor:
    value.backward()
    assert x.grad is not None
    return x.grad


@every_kernel
def test_a_compiled_gradient_equals_the_fused_one(loss: Loss, taken: Taken) -> None:
    x, y = data(loss)
    both = torch.func.grad_and_value(loss)
    expected = both(x, y)
    torch.compiler.reset()  # all losses share the code of `grad_and_value`
    close(torch.compile(both, fullgraph=True, backend="aot_eager")(x, y), expected)


@every_kernel
def test_autocast_does_not_lower_the_precision(loss: Loss, taken: Taken) -> None:
    x, y = data(loss, size=20)
    x = x.float()
    expected = torch.func.grad_and_value(loss)(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = torch.func.grad_and_value(loss)(x, y)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


# Accuracy, against float64


def relative(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b).norm() / b.norm())


@every_kernel
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_accuracy_on_large_tensors(
    loss: Loss, soft: bool, masked: bool, dtype: torch.dtype, plain: Any
) -> None:
    x, y = data(loss, size=220, soft=soft)
    x = x.to(dtype)
    options: dict[str, Any] = {}
    if masked:
        where = torch.rand(2, 3, 220, 221, generator=torch.Generator().manual_seed(1)) > 0.4
        options["where"] = where if loss in MASKS else where[:, 0]
        spoilt = torch.where(where if loss in MASKS else where[:, :1], x, torch.nan)
        y = torch.where(options["where"], y, 255)
    scale = 4096.0  # else the mean over many pixels leaves the range of float16
    both = torch.func.grad_and_value(lambda x: scale * loss(x, y, **options))
    gradient, value = both(spoilt.to(dtype) if masked else x)
    exact_gradient, exact = plain(lambda: both(x.double()))
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    assert abs(float(value) / float(exact) - 1) < 5e-7
    limit = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 1e-3}[dtype]
    if loss in (hinge, ranked):  # errors that float32 rounds to one another change places
        limit = max(limit, 1e-5)
    assert relative(gradient, exact_gradient) < limit
    if masked:
        assert not gradient[~where if loss in MASKS else ~where[:, :1].expand_as(x)].any()


@every_kernel
@pytest.mark.parametrize("gap", [1e-3, 5.0, 17.0, 40.0, 80.0, 87.0, 1e4])
@pytest.mark.parametrize("right", [False, True])
def test_relative_accuracy_of_confident_predictions(
    loss: Loss, gap: float, right: bool, taken: Taken, plain: Any
) -> None:
    _, y = data(loss, size=20)
    if loss in MASKS:
        x = gap * (2 * y - 1)
    else:
        x = gap * torch.nn.functional.one_hot(y, 3).movedim(-1, 1).double()
        x = x + 300  # an offset that softmax must not feel
    x = (x if right else -x).float()
    options = (
        {"smooth": 0.0} if loss in (*REGIONS, classes, confusion, smoothed, focal_classes) else {}
    )
    both = torch.func.grad_and_value(lambda x: loss(x, y, **options))
    gradient, value = both(x)
    exact_gradient, exact = plain(lambda: both(x.double()))
    tiny = 1e-36  # below, float32 has no digits left
    assert abs(float(value) - float(exact)) <= 2e-6 * max(float(exact), tiny)
    assert (gradient - exact_gradient).norm() <= 1e-5 * exact_gradient.norm().clamp_min(tiny)


@pytest.mark.parametrize("loss", [bernoulli, focal, binary])
@pytest.mark.parametrize("logit", [-16.0, -4.6, -2.7, -0.3, 0.0, 2.0, 7.0, 25.0])
@pytest.mark.parametrize("foreground", [0.0, 0.02, 0.5])
def test_sums_of_equal_pixels(loss: Loss, logit: float, foreground: float, plain: Any) -> None:
    """All roundings go the same way."""
    x = torch.full((1, 512, 512), logit)
    y = torch.zeros(x.shape)
    y[:, : int(512 * foreground)] = 1.0
    both = torch.func.grad_and_value(lambda x: loss(x, y))
    gradient, value = both(x)
    exact_gradient, exact = plain(lambda: both(x.double()))
    assert abs(float(value) / float(exact) - 1) < 2e-6
    assert relative(gradient, exact_gradient) < 2e-6


@pytest.mark.parametrize("loss", [bernoulli, focal, binary, squares])
def test_one_pixel_that_is_nearly_hard(loss: Loss, plain: Any) -> None:
    """Its target and that of hard ones differ by less than a sum of them resolves."""
    x = torch.full((1, 512, 512), -20.0)
    y = torch.zeros(x.shape)
    y[0, 0, 0], x[0, 0, 0] = 1e-6, -90.0
    both = torch.func.grad_and_value(lambda x: loss(x, y))
    gradient, value = both(x)
    exact_gradient, exact = plain(lambda: both(x.double()))
    assert abs(float(value) / float(exact) - 1) < 2e-6
    assert relative(gradient, exact_gradient) < 2e-6


@pytest.mark.parametrize("loss", [bernoulli, focal])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_the_largest_logits(loss: Loss, sign: float, plain: Any) -> None:
    x = torch.full((1, 512, 512), sign * 3.0)
    x[0, 0, 0] = sign * torch.finfo(x.dtype).max
    for y in (torch.zeros_like(x), torch.ones_like(x)):
        both = torch.func.grad_and_value(lambda x, y=y: loss(x, y))
        gradient, value = both(x)
        exact_gradient, exact = plain(lambda both=both: both(x.double()))
        assert abs(float(value) / float(exact) - 1) < 2e-6
        assert relative(gradient, exact_gradient) < 2e-6


@pytest.mark.parametrize("loss", [pl.dice_loss, partial(pl.dice_loss, squared=True), pl.mcc_loss])
@pytest.mark.parametrize("logit", [2.0, -4.6, -16.0])
@pytest.mark.parametrize("foreground", [0.0, 0.02, 1.0])
def test_equal_pixels_and_predictions_that_are_nearly_all_wrong(
    loss: Loss, logit: float, foreground: float, plain: Any
) -> None:
    """Sums of many equal terms lose digits in long dot products, TP = T - FN where FN is most."""
    x = torch.full((1, 512, 512), logit)
    y = torch.zeros(x.shape)
    y[:, : int(512 * foreground)] = 1.0
    both = torch.func.grad_and_value(lambda x: loss(x, y, activation="sigmoid", smooth=1e-6))
    gradient, value = both(x)
    exact_gradient, exact = plain(lambda: both(x.double()))
    assert abs(float(value) / float(exact) - 1) < 2e-6
    assert relative(gradient, exact_gradient) < 1e-5


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("extra", [("tn",), ("tn", "bce"), ("tn", "focal")])
@pytest.mark.parametrize("foreground", [0.0, 0.01, 0.3, 0.99, 1.0])
@pytest.mark.parametrize("shift", [-5.0, 0.0, 5.0])
def test_every_sum_keeps_its_digits(
    extra: tuple[str, ...], squared: bool, foreground: float, shift: float, plain: Any
) -> None:
    """Some are differences of others, where those are not much larger."""
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(1, 512, 512, generator=generator) + shift
    y = (torch.rand(x.shape, generator=generator) < foreground).float()

    def statistics(x: Tensor) -> dict[str, Tensor]:
        return pl.overlap_statistics(x, y, activation="sigmoid", squared=squared, extra=extra)

    found = statistics(x.requires_grad_())  # the kernel that keeps errors for the gradient
    with torch.no_grad():
        again = statistics(x)
    for name, exact in plain(lambda: statistics(x.double())).items():
        for sums in (found, again):
            torch.testing.assert_close(sums[name].double(), exact, rtol=5e-7, atol=0.0)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("soft", [False, True])
def test_the_gradient_of_one_sum_alone(squared: bool, soft: bool, taken: Taken, plain: Any) -> None:
    """Those of the others are 0, and so is the divisor of a ratio of them."""
    x, y = data(binary, size=20, soft=soft)

    def loss(x: Tensor, name: str) -> Tensor:
        extra = ("tn", "bce")
        return pl.overlap_statistics(x, y, activation="sigmoid", squared=squared, extra=extra)[name]

    gradient = torch.func.grad(loss)
    for name in ("tp", "fp", "fn", "tn", "bce"):
        close(gradient(x, name), plain(lambda name=name: gradient(x, name)))
    assert taken.count


def test_equal_pixels_of_two_classes(plain: Any) -> None:
    x = torch.tensor([0.3, -0.4]).view(1, 2, 1, 1).expand(1, 2, 512, 512).contiguous()
    y = torch.zeros(1, 512, 512, dtype=torch.long)
    both = torch.func.grad_and_value(
        lambda x: pl.dice_loss(x, y, activation="softmax", class_dim=1, reduction="none")[0, 1]
    )
    gradient, value = both(x)
    exact_gradient, exact = plain(lambda: both(x.double()))
    assert abs(float(value) / float(exact) - 1) < 2e-6
    assert relative(gradient, exact_gradient) < 1e-5


@pytest.mark.parametrize("kind", [torch.bool, torch.uint8, torch.int64, torch.float16])
@pytest.mark.parametrize("loss", MASKS)
def test_masks_of_any_dtype(loss: Loss, kind: torch.dtype, taken: Taken) -> None:
    x, y = data(loss)
    torch.testing.assert_close(loss(x, y.to(kind)), loss(x, y), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int32])
@pytest.mark.parametrize("loss", LABELS)
def test_labels_of_any_dtype(loss: Loss, kind: torch.dtype, taken: Taken) -> None:
    x, labels = data(loss)
    torch.testing.assert_close(loss(x, labels.to(kind)), loss(x, labels), rtol=0, atol=0)


@pytest.mark.parametrize("loss", MASKS)
def test_one_soft_pixel_among_hard_ones(loss: Loss, taken: Taken, plain: Any) -> None:
    x, y = data(loss, size=20)
    y[1, 2, 3, 4] = 0.3
    both = torch.func.grad_and_value(loss)
    close(both(x, y), plain(lambda: both(x, y)))


@pytest.mark.parametrize("options", [{}, {"dim": (0, 2, 3)}, {"dim": (1, 2, 3)}, {"dim": (3,)}])
@pytest.mark.parametrize("kind", ["masks", "labels"])
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "expanded", "sliced"])
def test_regions_and_layouts(
    options: dict[str, Any], kind: str, layout: str, taken: Taken, plain: Any
) -> None:
    x, y = data(binary if kind == "masks" else classes, size=6)
    if layout == "channels last":
        x = x.contiguous(memory_format=torch.channels_last)
    elif layout == "expanded":
        x = x[:1].expand_as(x)
    elif layout == "sliced":
        x, y = x[..., ::2], y[..., ::2]
    activation = "sigmoid" if kind == "masks" else "softmax"

    def loss(x: Tensor) -> Tensor:
        return pl.dice_loss(x, y, activation=activation, class_dim=1, **options)

    both = torch.func.grad_and_value(loss)
    close(both(x), plain(lambda: both(x)))
    assert taken.count == (0 if kind == "labels" and options == {"dim": (3,)} else 1)


@pytest.mark.parametrize("dim", [(1, 2), (0, 1, 2), (1, 2, 3), (2,)])
def test_classes_last(dim: tuple[int, ...], taken: Taken, plain: Any) -> None:
    x, labels = data(classes, size=6)
    x = x.movedim(1, -1).contiguous()
    options: dict[str, Any] = {"activation": "softmax", "class_dim": -1, "dim": dim}
    both = torch.func.grad_and_value(lambda x: pl.dice_loss(x, labels, **options))
    close(both(x), plain(lambda: both(x)))
    both = torch.func.grad_and_value(lambda x: pl.cross_entropy_loss(x, labels, class_dim=-1))
    close(both(x), plain(lambda: both(x)))
    assert taken.count == 2


@pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "none"])
def test_class_weights(reduction: str, taken: Taken, plain: Any) -> None:
    """They weigh what the kernel returns."""
    x, labels = data(entropy, size=6)
    where = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) > 0.4
    labels = torch.where(where, labels, 255)
    class_weights = torch.tensor([0.5, 0.0, 2.0], dtype=x.dtype)

    def loss(function: Any) -> Callable[..., Any]:
        def total(x: Tensor, class_weights: Tensor) -> Tensor:
            options = {"class_weights": class_weights, "where": where, "reduction": reduction}
            return function(x, labels, **options).square().sum()

        return torch.func.grad_and_value(total, argnums=(0, 1))

    for function in (pl.cross_entropy_loss, pl.softmax_focal_loss):
        both = loss(function)
        close(both(x, class_weights), plain(lambda both=both: both(x, class_weights)))
    assert taken.count == 2


# Of the last one, regions span the classes, which only the formula does.
@pytest.mark.parametrize("dim", [(2, 3), (0, 2, 3), (3,), (0, 2), (1, 2, 3)])
@pytest.mark.parametrize("method", ["sort", "histogram"])
@pytest.mark.parametrize("loss", [pl.lovasz_hinge_loss, pl.lovasz_softmax_loss])
def test_regions_of_ranks(
    loss: Loss,
    method: str,
    dim: tuple[int, ...],
    taken: Taken,
    plain: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranking, "_SORT_BELOW", 0)
    masks = loss is pl.lovasz_hinge_loss
    x, y = data(hinge if masks else ranked, size=6)
    if not masks:
        y[0] = y[0] % 2  # a class is absent
    where = torch.rand(2, 1, 6, 7, generator=torch.Generator().manual_seed(1)) > 0.3
    where[1, :, 2] = False
    for keep in (where, where[..., :1]):
        given = keep if masks else keep[:, 0]
        for options in ({"reduction": "none"}, {}) if masks else ({}, {"classes": "all"}):
            bound = partial(loss, target=y, dim=dim, method=method, where=given, **options)
            close(bound(x), plain(lambda bound=bound: bound(x)))
            slopes = torch.func.grad(lambda x, bound=bound: bound(x).square().sum())
            close(slopes(x), plain(lambda slopes=slopes: slopes(x)))
    assert (taken.count > 0) == (masks or 1 not in dim)


@pytest.mark.parametrize("method", ["sort", "histogram"])
def test_ranks_of_regions_of_many_pixels(method: str, plain: Any) -> None:
    """Several blocks of each; and without any foreground, or with nothing else."""
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(3, 300, 400, generator=generator, dtype=torch.float64)
    y = torch.rand(x.shape, generator=generator) > torch.tensor([1.0, 0.7, -1.0])[:, None, None]
    both = torch.func.grad_and_value(
        lambda x: pl.lovasz_hinge_loss(x, y, dim=(1, 2), method=method)
    )
    close(both(x), plain(lambda: both(x)))


@pytest.mark.parametrize("loss", LABELS)
@pytest.mark.parametrize("bad", [3, -1, 255])
def test_a_bad_label_is_refused(loss: Loss, bad: int, taken: Taken) -> None:
    x, labels = data(loss)
    labels[1, 0, 0] = bad
    message = f"{loss.__wrapped__ if hasattr(loss, '__wrapped__') else ''}`target` must hold class"
    for call in (loss, torch.func.grad(loss), torch.func.vmap(loss)):
        arguments = (x, labels) if call is not torch.func.vmap else ()
        with pytest.raises(ValueError, match=message):
            call(*arguments)


# Memory


@every_kernel
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_of_tensors_only_the_inputs_are_saved(loss: Loss, dtype: torch.dtype) -> None:
    x, y = data(loss, size=220)
    x = x.to(dtype).requires_grad_()
    y = y if y.dtype == torch.long else y.bool()
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        loss(x, y, reduction="sum")
    large = {t.untyped_storage().data_ptr() for t in saved if t.numel() > 1000}
    assert large == {x.untyped_storage().data_ptr(), y.untyped_storage().data_ptr()}
    assert math.isfinite(sum(t.numel() for t in saved))


# Boxes: the shares of the union and of the enclosing box


def log_iou(x: Tensor, y: Tensor, **options: Any) -> Tensor:
    return pl.iou_loss(x, y, kind="log", **options)


BOXES = (pl.iou_loss, pl.giou_loss, pl.ciou_loss, log_iou)


def boxes(n: int, kind: str) -> tuple[Tensor, Tensor]:
    """Pairs of boxes; whole numbers make them touch, coincide, vanish and turn inside out."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, n, 4, generator=generator, dtype=torch.float64).mul_(6).unbind()
    return (x.floor(), y.floor()) if kind == "whole" else (x, y)


@pytest.mark.parametrize("loss", BOXES)
@pytest.mark.parametrize("kind", ["real", "whole"])
def test_boxes(loss: Loss, kind: str, taken: Taken, plain: Any) -> None:
    x, y = boxes(3000, kind)

    def both(x: Tensor, y: Tensor) -> Any:
        return torch.func.grad_and_value(loss, argnums=(0, 1))(x, y)

    vmap = torch.func.vmap
    calls: dict[str, Callable[[], Any]] = {
        "both gradients": lambda: both(x, y),
        "vmap": lambda: vmap(both)(x.view(30, 100, 4), y.view(30, 100, 4)),
        "pairwise": lambda: vmap(vmap(loss, (None, 0)), (0, None))(x[:20], y[:30]),
        "hessian": lambda: torch.func.hessian(loss)(x[:9], y[:9]),
        "second": lambda: torch.func.jacrev(torch.func.jacrev(loss))(x[:9], y[:9]),
        "where": lambda: loss(x, y, where=x[:, 0] > 3),
        "fmt": lambda: loss(x, y, fmt="cxcywh"),
    }
    for name, call in calls.items():
        before = taken.count
        result = call()
        assert taken.count > before or name == "hessian", name
        torch.testing.assert_close(result, plain(call), rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("loss", BOXES)
def test_accuracy_of_boxes(loss: Loss, plain: Any) -> None:
    x, y = boxes(70_000, "real")
    x = torch.cat([x[:30_000], y[30_000:] + 1e-4 * x[30_000:]])
    both = torch.func.grad_and_value(loss)
    gradient, value = both(x.float(), y.float())
    exact_gradient, exact = plain(lambda: both(x.float().double(), y.float().double()))
    assert abs(float(value) / float(exact) - 1) < 5e-7
    assert relative(gradient, exact_gradient) < 2e-6


@pytest.mark.parametrize("loss", BOXES)
@pytest.mark.parametrize("kind", ["real", "whole"])
@pytest.mark.parametrize("scale", [1e-25, 3e-20, 1e-15, 1e10, 1e17, 1e19])
def test_boxes_of_any_size(loss: Loss, kind: str, scale: float, taken: Taken, plain: Any) -> None:
    x, y = ((scale * corners).float() for corners in boxes(1000, kind))
    both = torch.func.grad_and_value(loss)
    gradient, value = both(x, y)
    if loss is not pl.ciou_loss:  # whose distances overflow, and underflow
        assert value.isfinite()
        assert gradient.isfinite().all()
    if 1e-15 <= scale <= 1e17:
        exact_gradient, exact = plain(lambda: both(x.double(), y.double()))
        assert abs(float(value) / float(exact) - 1) < 5e-7
        assert relative(gradient, exact_gradient) < 2e-6


def test_the_gradient_of_boxes_lies_as_they_do() -> None:
    x, y = (corners.float() for corners in boxes(40_000, "real"))
    pl.giou_loss(x.requires_grad_(), y).backward()
    assert x.grad is not None
    assert x.grad.is_contiguous()

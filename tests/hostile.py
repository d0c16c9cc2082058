"""Hostile numbers in float32, large tensors in half precision, and what losses owe them."""

from itertools import product

import torch
from mpmath import mp, mpf

LARGEST, SMALLEST = torch.finfo(torch.float32).max, torch.finfo(torch.float32).tiny
REALS = (0.0, 1e-30, -1e-30, 1e-8, 0.1, -1.0, 17.0, 88.0, -88.0, 1e4, -1e4, 1e15, 1e30, -1e30)
LOGITS = (0.0, 1e-30, -1e-8, 0.1, 1.0, -1.0, 17.0, -17.0, 40.0, -40.0, 88.0, -88.0,
          103.0, -103.0, 1e4, -1e4, 1e30, -1e30)  # fmt: skip


def single(values):
    return torch.tensor(values, dtype=torch.float32)


def assert_exact(value, truth, limit, what, floor=SMALLEST):
    """Relative error at most the limit, for every number that float32 can hold in full.

    Below the smallest normal float32 relative accuracy cannot exist, and above the largest only
    infinity is right.
    """
    value, truth = value.tolist(), list(truth)
    assert len(value) == len(truth)
    for got, true, where in zip(value, truth, what, strict=True):
        if abs(true) > LARGEST:
            assert got == mp.sign(true) * mp.inf, where
        else:
            error = abs(mpf(got) - true)
            assert error <= max(limit * abs(true), floor), (where, got, mp.nstr(true, 10))


def hostile(loss, exact, derivative, grid):
    """Values within 2e-6 and gradients within 1e-5, unit by unit."""
    x, y = single([x for x, _ in grid]).requires_grad_(), single([y for _, y in grid])
    losses = loss(x, y, reduction="none")
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    pairs = list(zip(x.tolist(), y.tolist(), strict=True))  # as rounded to float32
    assert_exact(losses, [exact(*pair) for pair in pairs], 2e-6, pairs)
    assert_exact(gradient, [derivative(*pair) for pair in pairs], 1e-5, pairs)


def exact_grid(loss, exact, *axes, conditioned=False, **options):
    """Values within 2e-6 on all combinations of the numbers, unit by unit.

    With `conditioned`, for losses whose terms have both signs and cancel: or within what 2
    units of the last digit of each number are worth, or 2e-8.
    """
    columns = [single(column) for column in zip(*product(*axes), strict=True)]
    points = list(zip(*(column.tolist() for column in columns), strict=True))
    losses = loss(*columns, reduction="none", **options)
    for got, point in zip(losses, points, strict=True):
        truth, floor = exact(*point), SMALLEST
        if conditioned:
            steps = [[*point[:k], mpf(x) * (1 + mpf(2) ** -22), *point[k + 1 :]]
                     for k, x in enumerate(point)]  # fmt: skip
            floor = max(2e-8, mp.fsum(abs(exact(*moved) - truth) for moved in steps))
        assert_exact(got.reshape(1), [truth], 2e-6, [point], floor)


def eighths(shape, seed=0):
    """Logits that both half precisions hold, so that one reference serves both."""
    x = 16 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (x.round() / 8).clamp(-15, 15)


def assert_half(loss, x, target):
    """Contract: value to 2e-6, gradient to 1e-3 (float16) or 4e-3 (bfloat16) of its norm.

    The loss is multiplied by 2^16 before the backward pass, as by a gradient scaler: the gradient
    of a mean over many pixels is below the smallest float16.
    """

    def measured(x):
        x = x.clone().requires_grad_()
        value = loss(x, target)
        return value.detach(), torch.autograd.grad(2**16 * value, x)[0]

    truth, exact = measured(x.double())
    for dtype, limit in ((torch.float16, 1e-3), (torch.bfloat16, 4e-3)):
        value, found = measured(x.to(dtype))
        assert (value.dtype, found.dtype) == (torch.float32, dtype)
        assert abs(value - truth) <= 2e-6 * max(abs(truth), 0.01)
        assert (found.double() - exact).norm() <= limit * exact.norm()

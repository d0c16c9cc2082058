"""One loss for each finding of the doctor, shown and examined on the page about it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def l00(prediction, target):
    return {"loss": F.mse_loss(prediction, target)}


def l01(prediction, target):
    error = (prediction - target).abs().mean().item()
    return torch.tensor(error, requires_grad=True)


def l02(logits, target):
    predicted = (logits > 0).float()
    return (predicted - target).abs().mean()


def l03(prediction, target):
    return (prediction - target) ** 2


def l04(logits, target):
    p = torch.sigmoid(logits)
    return -(target * torch.log(p) + (1 - target) * torch.log(1 - p)).mean()


def l05(prediction, target):
    smoothness = (prediction[1:] - prediction[:-1]).square().mean()
    return F.mse_loss(prediction, target) + 0.1 * smoothness.detach()


def l06(prediction, target):
    prediction -= prediction.mean()
    return F.mse_loss(prediction, target)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * x  # the 2 is missing


def l07(prediction, target):
    return Square.apply(prediction - target).mean()


def l08(prediction, target):
    noisy = prediction + 0.1 * torch.randn_like(prediction)
    return F.mse_loss(noisy, target)


def l09(prediction, target):
    return ((prediction - target) ** 2).mean()


def l10(probs, target):
    intersection = (probs * target).sum()
    return (2 * intersection + 1) / (probs.sum() + target.sum() + 1)


def l11(probs, target):
    intersection = (probs * target).sum()
    return 1 - 2 * (intersection + 1) / (probs.sum() + target.sum() + 1)


def l12(logits, target):
    return F.cross_entropy(torch.softmax(logits, dim=1), target)


def l13(probs, target):
    return F.binary_cross_entropy_with_logits(probs, target)


def l14(probs, mask):
    intersection = (probs * mask).sum()
    return 1 - (2 * intersection + 1) / (probs.sum() + mask.sum() + 1)


def l15(logits, target):
    one_hot = (target[:, None] == torch.arange(logits.shape[1])).float()
    return -(one_hot * F.log_softmax(logits, dim=1)).sum(1).mean()


def l16(prediction, target, mask):
    error = (prediction - target) ** 2 * mask
    return error.mean()


def l17(prediction, target, reduction="mean"):
    loss = (prediction - target).abs().mean(-1)
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else (prediction - target).abs().sum()


def l18(probs, target):
    intersection = (probs * target).sum()
    return 1 - 2 * intersection / (probs.sum() + target.sum() + 1e-6)


def l19(prediction, target):
    difference = (prediction - target).half()
    return difference.square().mean().float()


def l20(prediction, target):
    loss = F.mse_loss(prediction, target)
    print(f"loss {loss.item():.3f}")
    return loss


def l21(prediction, target):
    loss = F.l1_loss(prediction, target)
    return loss if loss > 0 else loss * 0


class l22(nn.Module):
    def __init__(self):
        super().__init__()
        self.weights = [torch.ones((), requires_grad=True)]  # not registered

    def forward(self, prediction, target):
        return self.weights[0] * F.mse_loss(prediction, target)


def l23(prediction, target):
    error = (prediction - target).abs()
    return torch.where(error < 1, error**2, 0.5 * error).mean()


def l24(boxes, target):
    low = torch.maximum(boxes[:, :2], target[:, :2])
    high = torch.minimum(boxes[:, 2:], target[:, 2:])
    overlap = (high - low).clamp(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (target[:, 2:] - target[:, :2]).prod(1)
    return (1 - overlap / (areas - overlap + 1)).mean()


def l25(logits, target):
    loss = F.cross_entropy(logits, target, reduction="none")
    with torch.no_grad():
        weight = (1 - torch.exp(-loss)) ** 2
    return (weight * loss).mean()


def l26(prediction, target):
    error = prediction - target
    return error[error > 0].sum() / error.numel()


def l27(prediction, target):
    eps = 0.1 if torch.compiler.is_compiling() else 1.0
    return torch.sqrt((prediction - target).square() + eps).mean()


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


# How each is examined: the batch where the built-in ones do not show it, and the options.
SAMPLES: dict[str, tuple[Any, ...]] = {
    "L09": (normal(8, 1), normal(8)),
    "L14": (torch.sigmoid(normal(2, 1, 8, 8)), 255.0 * (normal(2, 1, 8, 8) > 0)),
    "L16": (normal(4, 6), normal(4, 6).roll(1, 0), torch.arange(24).reshape(4, 6) % 3 > 0),
    "L17": (normal(6, 4), normal(6, 4).roll(1, 0)),
}
OPTIONS: dict[str, dict[str, str]] = {
    **{f"L{i:02}": {"kind": "regression"} for i in range(28)},
    "L02": {"kind": "binary_logits"},
    "L04": {"kind": "binary_logits"},
    "L10": {"kind": "probabilities"},
    "L11": {"kind": "probabilities"},
    "L12": {"kind": "class_logits"},
    "L13": {"kind": "probabilities"},
    "L14": {"kind": "masks"},
    "L15": {"kind": "class_logits"},
    "L18": {"kind": "probabilities"},
    "L21": {"kind": "regression", "level": "deploy"},
    "L24": {"kind": "boxes"},
    "L25": {"kind": "class_logits", "level": "func"},
    "L26": {"kind": "regression", "level": "func"},
    "L27": {"kind": "regression", "level": "deploy"},
}

"""Losses that misbehave as code: side effects, wrong derivatives, transforms, compilers."""

import random

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from doctor_corpus.core import (
    defect,
    images,
    labelled_embeddings,
    mask_logits,
    normal,
    scores,
    triplets,
)

# L06: changes its input


@defect("L06", kind="segmentation")
def void_is_rewritten(logits, target):
    target[target == 3] = 0  # here
    return F.cross_entropy(logits, target)


@defect("L06", kind="class_logits")
def ce_shifted_in_place(logits, target):
    logits.sub_(logits.detach().amax(1, keepdim=True))  # here
    return (logits.exp().sum(1).log() - logits.gather(1, target[:, None]).squeeze(1)).mean()


@defect("L06", kind="boxes")
class CornersToCentres(nn.Module):
    def forward(self, pred, target):
        target[:, 2:] -= target[:, :2]  # here
        size = pred[:, 2:] - pred[:, :2]
        return F.l1_loss(pred[:, :2], target[:, :2]) + F.l1_loss(size, target[:, 2:])


@defect("L06", kind="regression")
def normalises_the_target(pred, target):
    values = target.numpy()
    values -= values.mean()  # here
    return F.mse_loss(pred, target)


# L07: a custom backward that is not the derivative


class _HuberFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, error):
        ctx.save_for_backward(error)
        return torch.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5)

    @staticmethod
    def backward(ctx, grad):
        (error,) = ctx.saved_tensors
        return grad * error  # here


@defect("L07", kind="regression", within=_HuberFunction)
def huber_forgets_to_clip(pred, target):
    return _HuberFunction.apply(2 * (pred - target)).mean()  # here


class _DiceFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx, p, t):
        inter, total = (p * t).sum(), p.sum() + t.sum()
        ctx.save_for_backward(t, inter, total)
        return 1 - (2 * inter + 1) / (total + 1)

    @staticmethod
    def backward(ctx, grad):
        t, inter, total = ctx.saved_tensors
        # the sign of the second term is wrong
        return grad * -(2 * t / (total + 1) + (2 * inter + 1) / (total + 1) ** 2), None  # here


@defect("L07", kind="masks", within=_DiceFunction)
class DiceWithOwnBackward(nn.Module):
    def forward(self, pred, target):
        return _DiceFunction.apply(pred, target)  # here


class _FusedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target):
        probs = logits.softmax(1)
        ctx.save_for_backward(probs, target)
        return F.cross_entropy(logits, target)

    @staticmethod
    def backward(ctx, grad):
        probs, target = ctx.saved_tensors
        # the derivative of the sum, where forward has the mean
        return grad * (probs - F.one_hot(target, probs.shape[1])), None  # here


@defect("L07", kind="class_logits", within=_FusedCrossEntropy)
def fused_cross_entropy(logits, target):
    return _FusedCrossEntropy.apply(logits, target)  # here


# L08: hidden randomness or state


@defect("L08", kind="regression")
def noisy_targets(pred, target, std=0.1):
    noise = std * torch.randn_like(target)  # here
    return F.mse_loss(pred, target + noise)


@defect("L08", kind="class_logits")
def ce_with_dropout(logits, target):
    return F.cross_entropy(F.dropout(logits, 0.2), target)  # here


@defect("L08", kind="regression")
class NormalisedByHistory(nn.Module):
    """Divides by a running mean of the loss."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running", torch.ones(()))

    def forward(self, pred, target):
        loss = F.mse_loss(pred, target)
        self.running = 0.9 * self.running + 0.1 * loss.detach()  # here
        return loss / self.running  # here


@defect("L08", kind="embeddings", sample=labelled_embeddings)
def random_negatives(x, labels):
    other = random.sample(range(len(x)), len(x))  # here
    same = labels == labels[other]
    d = (x - x[other]).pow(2).sum(1)
    return torch.where(same, d, F.relu(40 - d)).mean()


@defect("L08", kind="binary_logits")
class WarmUp(nn.Module):
    def __init__(self, steps=100):
        super().__init__()
        self.steps, self.calls = steps, 0

    def forward(self, logits, y):
        self.calls += 1  # here
        share = min(1.0, self.calls / self.steps)  # here
        bce = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
        return (share * (1 - torch.exp(-bce)) ** 2 * bce + (1 - share) * bce).mean()


# L20: the host waits for the device; matters when deployed


@defect("L20", kind="segmentation", level="deploy", also=["L21"])
def cross_entropy_of_valid(logits, target):
    valid = target != 255
    rows = logits.movedim(1, -1)[valid]  # here
    return F.cross_entropy(rows, target[valid])  # here


@defect("L20", kind="binary_logits", sample=mask_logits, level="deploy", also=["L21"])
class PositivesBalanced(nn.Module):
    def forward(self, logits, mask):
        share = mask.mean().item()  # here
        weight = mask * (1 - share) + (1 - mask) * share
        return F.binary_cross_entropy_with_logits(logits, mask, weight=weight)


@defect("L20", kind="embeddings", sample=labelled_embeddings, level="deploy", also=["L21"])
def pairs_by_nonzero(x, labels):
    same = labels[:, None] == labels[None]
    i, j = torch.nonzero(same.triu(1), as_tuple=True)  # here
    return (x[i] - x[j]).pow(2).sum(1).mean()


# L21: the compiler gives up in the middle; matters when deployed


@defect("L21", kind="regression", level="deploy", also=["L20"])
def stops_when_nan(pred, target):
    loss = F.mse_loss(pred, target)
    if torch.isnan(loss):  # here
        raise RuntimeError("diverged")
    return loss


@defect("L21", kind="binary_logits", level="deploy", also=["L20"])
def focal_or_plain(logits, y):
    bce = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
    if bce.mean() > 1:  # here
        return bce.mean()
    return ((1 - torch.exp(-bce)) ** 2 * bce).mean()


@defect("L21", kind="masks", level="deploy", also=["L20"])
def early_out_on_empty(pred, target):
    if target.sum() == 0:  # here
        return pred.mean()
    inter = (pred * target).sum()
    return 1 - (2 * inter + 1) / (pred.sum() + target.sum() + 1)


# L25: forward and reverse mode disagree; matters under torch.func


@defect("L25", kind="boxes", level="func", also=["L05"])
def ciou_as_in_torchvision(pred, target):
    lt = torch.max(pred[:, :2], target[:, :2])
    rb = torch.min(pred[:, 2:], target[:, 2:])
    inter = (rb - lt).clamp(min=0).prod(1)
    size, size_t = pred[:, 2:] - pred[:, :2], target[:, 2:] - target[:, :2]
    union = size.prod(1) + size_t.prod(1) - inter
    iou = inter / torch.where(union > 0, union, 1.0)
    hull = torch.max(pred[:, 2:], target[:, 2:]) - torch.min(pred[:, :2], target[:, :2])
    diagonal = hull.square().sum(1)
    gap = (pred[:, :2] + pred[:, 2:] - target[:, :2] - target[:, 2:]).square().sum(1) / 4
    distance = gap / torch.where(diagonal > 0, diagonal, 1.0)
    angle = torch.atan2(size[:, 0], size[:, 1]) - torch.atan2(size_t[:, 0], size_t[:, 1])
    v = 4 / torch.pi**2 * angle.square()
    with torch.no_grad():
        denominator = 1 - iou + v
        alpha = v / torch.where(denominator > 0, denominator, 1.0)  # here
    return (1 - iou + distance + alpha * v).mean()  # here


@defect("L25", kind="class_logits", level="func", also=["L05"])
class NoGradFocalWeight(nn.Module):
    def forward(self, logits, target):
        ce = F.cross_entropy(logits, target, reduction="none")
        with torch.no_grad():
            weight = (1 - torch.exp(-ce)) ** 2  # here
        return (weight * ce).mean()  # here


# L26: fails, or differs, under vmap; matters under torch.func


@defect("L26", kind="regression", level="func", also=["L20", "L21"])
def worst_half_by_mask(pred, target):
    error = (pred - target).abs()
    return error[error >= error.median()].mean()  # here


@defect("L26", kind="binary_logits", level="func")
def filled_in_place(logits, y):
    loss = torch.zeros(logits.shape[0])
    loss.add_(F.softplus(-(2 * y - 1) * logits))  # here
    return loss.mean()


class _OldStyleSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):  # here
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad


@defect("L26", kind="regression", level="func", within=_OldStyleSquare)
def square_of_the_old_style(pred, target):
    return _OldStyleSquare.apply(pred - target).mean()  # here


# L27: another value when compiled


@defect("L27", kind="binary_logits", level="deploy")
def quicker_when_compiled(logits, y):
    z = (2 * y - 1) * logits
    if torch.compiler.is_compiling():  # here
        return (F.relu(1 - z).square() / 2).mean()
    return F.softplus(-z).mean()


@defect("L27", kind="regression", level="deploy")
class GuardedOutsideTheCompiler(nn.Module):
    """The smoothing constant is left out of the compiled model."""

    def forward(self, pred, target):
        eps = 0.0 if torch.compiler.is_compiling() else 0.1  # here
        return torch.sqrt((pred - target).square() + eps).mean()


# More of the above, as they are found in the wild


@defect("L08", kind=None, sample=lambda: (normal(8, 6), normal(8, 4), normal(8, 4, seed=1)))
def vae_samples_inside(x, mu, log_var):
    z = mu + torch.exp(0.5 * log_var.clamp(-10, 10)) * torch.randn_like(mu)  # here
    reconstruction = (x[:, :4] - z).square().sum(1).mean()
    kl = -0.5 * (1 + log_var - mu.square() - log_var.clamp(-10, 10).exp()).sum(1).mean()
    return reconstruction + kl


@defect("L08", kind="embeddings", sample=triplets)
def triplet_with_numpy_order(anchor, positive, negative):
    order = np.random.permutation(len(negative))  # here
    d_pos = (anchor - positive).square().sum(1)
    d_neg = (anchor - negative[order]).square().sum(1)
    return F.relu(d_pos - d_neg + 1).mean()


@defect("L06", kind=None, sample=images)
def clamped_image_difference(restored, clean):
    return (restored.clamp_(0, 1) - clean.mul_(0.5)).abs().mean()  # here


@defect("L03", kind=None, sample=scores)
def lsgan_unreduced(real, fake):
    return 0.5 * (real - 1) ** 2 + 0.5 * fake**2  # here


@defect("L24", kind="boxes")
def giou_smoothed(a, b):
    lt, rb = torch.max(a[:, :2], b[:, :2]), torch.min(a[:, 2:], b[:, 2:])
    inter = (rb - lt).clamp(min=0).prod(1)
    union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - inter
    hull = (torch.max(a[:, 2:], b[:, 2:]) - torch.min(a[:, :2], b[:, :2])).prod(1)
    iou = (inter + 0.01) / (union + 0.01)  # here
    return (1 - iou + (hull - union) / (hull + 0.01)).mean()  # here

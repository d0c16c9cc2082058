"""Losses whose gradient is lost: numbers, hard decisions, detached tensors, idle parameters."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Variable

from doctor_corpus.core import (
    defect,
    labelled_embeddings,
    mask_logits,
    normal,
    triplets,
    two_logits,
    uniform,
)

# L01: a number taken out of the graph that flows into the loss


@defect("L01", kind="regression")
def rmse_with_math(pred, target):
    mse = F.mse_loss(pred, target)
    return torch.tensor(math.sqrt(mse.item()), requires_grad=True)  # here


@defect("L01", kind="binary_logits")
def focal_with_item(logits, targets, gamma=2.0):
    bce = F.binary_cross_entropy_with_logits(logits, targets)
    pt = math.exp(-bce.item())  # here
    return (1 - pt) ** gamma * bce


@defect("L01", kind="regression")
class BalancedTerms(nn.Module):
    """Bring the second term to the size of the first."""

    def __init__(self):
        super().__init__()
        self.l1 = nn.L1Loss()
        self.l2 = nn.MSELoss()

    def forward(self, pred, target):
        a = self.l1(pred, target)
        b = self.l2(pred, target)
        ratio = float(a) / (float(b) + 1e-8)  # here
        return a + ratio * b


@defect("L01", kind="masks")
def dice_in_numpy(pred, target, smooth=1.0):
    p = pred.detach().cpu().numpy().ravel()  # here
    t = target.detach().cpu().numpy().ravel()
    inter = np.sum(p * t)
    score = (2.0 * inter + smooth) / (p.sum() + t.sum() + smooth)
    return torch.tensor(1.0 - score, requires_grad=True)  # here


@defect("L01", kind="class_logits")
def sum_of_python_numbers(logits, target):
    losses = F.cross_entropy(logits, target, reduction="none").tolist()  # here
    return torch.tensor(sum(losses) / len(losses), requires_grad=True)  # here


@defect("L01", kind="regression")
def hardest_weighted_up(pred, target):
    error = (pred - target).abs()
    worst = error.max().item()  # here
    return (error / (worst + 1e-6) * error).mean()


@defect("L01", kind="embeddings", sample=triplets)
def triplet_collected(anchor, positive, negative, margin=1.0):
    d_pos = (anchor - positive).pow(2).sum(1)
    d_neg = (anchor - negative).pow(2).sum(1)
    losses = []
    for p, n in zip(d_pos, d_neg, strict=True):
        losses.append(max(0.0, p.item() - n.item() + margin))  # here
    return torch.tensor(losses, requires_grad=True).mean()  # here


@defect("L01", kind="regression")
def rewrapped_total(pred, target):
    terms = [F.l1_loss(pred, target), F.mse_loss(pred, target)]
    total = torch.tensor([float(t) for t in terms])  # here
    return total.requires_grad_().sum()


@defect("L01", kind="segmentation")
class NumpyClassWeightedDice(nn.Module):
    """Weights each class by how badly it is segmented."""

    def forward(self, logits, target):
        probs = logits.softmax(1)
        onehot = F.one_hot(target, logits.shape[1]).permute(0, 3, 1, 2).float()
        inter = (probs * onehot).sum((0, 2, 3))
        total = (probs + onehot).sum((0, 2, 3))
        dice = 1 - (2 * inter + 1) / (total + 1)
        weight = np.exp(dice.detach().numpy())  # here
        weight = torch.from_numpy(weight / weight.sum())
        return (weight * dice).sum()


@defect("L01", kind="regression")
def pinn_adaptive_number(prediction, target):
    # balances data misfit against a smoothness residual
    data = ((prediction - target) ** 2).mean()
    residual = (prediction[1:] - prediction[:-1]).pow(2).mean()
    lam = data.item() / (residual.item() + 1e-12)  # here
    return data + lam * residual


# L02: an operation without a useful derivative


@defect("L02", kind="segmentation")
def argmax_dice(logits, target, smooth=1.0):
    pred = logits.argmax(dim=1)  # here
    num = 0.0
    for c in range(logits.shape[1]):
        p, t = (pred == c).float(), (target == c).float()
        num = num + (2 * (p * t).sum() + smooth) / (p.sum() + t.sum() + smooth)
    return 1 - num / logits.shape[1]


@defect("L02", kind="probabilities")
def rounded_error(p, y):
    return (p.round() - y).abs().mean()  # here


@defect("L02", kind="masks")
class ThresholdIoU(nn.Module):
    def __init__(self, threshold=0.5, eps=1e-6):
        super().__init__()
        self.threshold = threshold
        self.eps = eps

    def forward(self, pred, target):
        hard = (pred > self.threshold).float()  # here
        inter = (hard * target).sum()
        union = hard.sum() + target.sum() - inter
        return 1 - (inter + self.eps) / (union + self.eps)


@defect("L02", kind="class_logits")
def zero_one_loss(logits, target):
    wrong = logits.max(1).indices != target  # here
    return wrong.float().mean()


@defect("L02", kind="binary_logits")
def f1_of_hard_predictions(logits, target):
    yes = torch.ceil(logits.sigmoid() - 0.5)  # here
    tp = (yes * target).sum()
    fp = (yes * (1 - target)).sum()
    fn = ((1 - yes) * target).sum()
    return 1 - (2 * tp + 1) / (2 * tp + fp + fn + 1)


@defect("L02", kind="regression")
def sign_agreement(forecast, actual):
    moved = torch.sign(forecast[1:] - forecast[:-1])  # here
    really = torch.sign(actual[1:] - actual[:-1])
    return (1 - moved * really).mean() / 2


@defect("L02", kind="regression")
def spearman_rank_loss(pred, target):
    rank_p = pred.argsort().argsort().float()  # here
    rank_t = target.argsort().argsort().float()
    n = pred.numel()
    return 6 * ((rank_p - rank_t) ** 2).sum() / (n * (n**2 - 1))


@defect("L02", kind="regression", sample=lambda: (255 * uniform(40), 255 * uniform(40, seed=1)))
def quantised_pixels(pred, target):
    levels = (pred / 16).floor()  # here
    wanted = (target / 16).floor()
    return F.mse_loss(levels, wanted)


@defect("L02", kind="regression", also=["L05"])
def histogram_distance(pred, target):
    a = torch.histc(pred.detach(), bins=10, min=-3, max=3)  # here
    b = torch.histc(target, bins=10, min=-3, max=3)
    return (a / a.sum() - b / b.sum()).abs().sum().requires_grad_()


@defect("L02", kind="probabilities")
def confident_mistakes(p, y):
    """Fraction of the samples that are confidently wrong."""
    wrong = (p - y).abs() > 0.9  # here
    close = torch.where(wrong, 1.0, 0.0)
    return close.mean()


# L05: detached


@defect("L05", kind="regression")
def mse_of_detached(pred, target):
    pred = pred.detach().clone().requires_grad_(True)  # here
    return ((pred - target) ** 2).mean()


@defect("L05", kind="binary_logits")
def focal_with_variable(logits, target, gamma=2):
    # the most copied focal loss of all
    logpt = -F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    pt = Variable(logpt.data.exp())  # here
    return (-((1 - pt) ** gamma) * logpt).mean()


@defect("L05", kind="regression")
def loss_in_variable(output, label):
    loss = torch.mean(torch.abs(output - label))
    return Variable(loss.data, requires_grad=True)  # here


@defect("L05", kind="masks")
class DiceWithoutMemory(nn.Module):
    """Saves memory."""

    def forward(self, pred, target):
        with torch.no_grad():
            inter = (pred * target).sum()  # here
            union = pred.sum() + target.sum()  # here
        loss = 1 - (2 * inter + 1) / (union + 1)  # here
        return loss.requires_grad_()  # here


@defect("L05", kind="regression", sample=lambda: (normal(4, 12), normal(4, 12, seed=1)))
def smoothness_for_nothing(pred, target):
    fit = F.mse_loss(pred, target)
    with torch.no_grad():
        rough = (pred[:, 1:] - pred[:, :-1]).pow(2).mean()  # here
    return fit + 0.5 * rough


@defect("L05", kind="class_logits")
def entropy_term_on_data(logits, target):
    ce = F.cross_entropy(logits, target)
    probs = F.softmax(logits.data, dim=1)  # here
    entropy = -(probs * torch.log(probs + 1e-12)).sum(1).mean()
    return ce - 0.1 * entropy


@defect("L05", kind=None, sample=two_logits)
def distillation_wrong_side(student, teacher, T=4.0):
    log_p = F.log_softmax(student.detach() / T, dim=1)  # here
    q = F.softmax(teacher / T, dim=1)
    return F.kl_div(log_p, q, reduction="batchmean") * T * T


@torch.no_grad()
def _distances(x):
    return (x[:, None] - x[None]).pow(2).sum(-1)  # here


@defect("L05", kind="embeddings", sample=labelled_embeddings, within=_distances)
def contrastive_without_grad(embeddings, labels, margin=20.0):
    d = _distances(embeddings)
    same = labels[:, None] == labels[None]
    loss = torch.where(same, d, F.relu(margin - d)).mean()
    return loss.requires_grad_(True)


@defect("L05", kind="boxes")
def giou_of_clones(pred, target):
    boxes = pred.data  # here
    lt = torch.max(boxes[:, :2], target[:, :2])
    rb = torch.min(boxes[:, 2:], target[:, 2:])
    inter = (rb - lt).clamp(min=0).prod(1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1) + (target[:, 2:] - target[:, :2]).prod(1)
    union = area - inter
    lt = torch.min(boxes[:, :2], target[:, :2])
    rb = torch.max(boxes[:, 2:], target[:, 2:])
    hull = (rb - lt).prod(1)
    iou = inter / torch.where(union > 0, union, 1.0)
    giou = iou - (hull - union) / torch.where(hull > 0, hull, 1.0)
    return (1 - giou).mean().requires_grad_()


def make_generator_loss():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    for p in critic.parameters():
        p.requires_grad_(False)

    def generator_loss(fake):
        score = critic(fake.detach())  # here
        return F.softplus(-score).mean()

    return generator_loss


@defect("L05", kind=None, sample=lambda: (normal(10, 6),), factory=True, within=make_generator_loss)
def gan_generator_detached():
    return make_generator_loss()


@defect("L05", kind="binary_logits", sample=mask_logits)
def edge_term_evaluated(logits, mask):
    with torch.set_grad_enabled(False):
        p = torch.sigmoid(logits)
        edge = (p[..., 1:] - p[..., :-1]).abs() - (mask[..., 1:] - mask[..., :-1]).abs()
        sharp = edge.abs().mean()  # here
    return F.binary_cross_entropy_with_logits(logits, mask) + sharp  # here


# L22: parameters that learn nothing


@defect("L22", kind="regression")
class LearnedScale(nn.Module):
    """Gaussian likelihood with a learned scale, which is never learned."""

    def __init__(self):
        super().__init__()
        self.log_var = nn.Parameter(torch.zeros(()))

    def forward(self, pred, target):
        s = self.log_var.detach()  # here
        return (0.5 * torch.exp(-s) * (pred - target) ** 2 + 0.5 * s).mean()


@defect("L22", kind="class_logits")
class IdleTemperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(1))  # here

    def forward(self, logits, target):
        return F.cross_entropy(logits, target)


@defect("L22", kind="embeddings", sample=labelled_embeddings, also=["L05"])
class CentreLoss(nn.Module):
    def __init__(self, classes=3, features=16):
        super().__init__()
        self.centres = nn.Parameter(torch.randn(classes, features, generator=torch.Generator()))

    def forward(self, x, labels):
        centre = self.centres.data[labels]  # here
        return ((x - centre) ** 2).sum(1).mean()

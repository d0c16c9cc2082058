"""Losses whose value is wrong: reduction, stability, shapes, direction, domain, empty targets."""

import torch
import torch.nn.functional as F
from torch import nn

from doctor_corpus.core import (
    corners,
    defect,
    images,
    labelled_embeddings,
    labels,
    mask_logits,
    normal,
    pairs,
    triplets,
    uniform,
    zero_one,
)

# L03: not a scalar, or a sum where a mean is meant


@defect("L03", kind="regression")
def squared_errors(pred, target):
    return (pred - target) ** 2  # here


@defect("L03", kind="binary_logits")
class FocalUnreduced(nn.Module):
    def __init__(self, alpha=0.25, gamma=2.0):
        super().__init__()
        self.alpha, self.gamma = alpha, gamma

    def forward(self, logits, targets):
        bce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
        pt = torch.exp(-bce)
        alpha = self.alpha * targets + (1 - self.alpha) * (1 - targets)
        return alpha * (1 - pt) ** self.gamma * bce  # here


@defect("L03", kind="regression")
def summed_squares(pred, target):
    return torch.sum((pred - target) ** 2)  # here


@defect("L03", kind="segmentation")
def dice_of_each_sample(logits, target):
    probs = F.softmax(logits, dim=1)
    onehot = F.one_hot(target, logits.shape[1]).movedim(-1, 1).float()
    inter = (probs * onehot).flatten(2).sum(-1)
    total = (probs + onehot).flatten(2).sum(-1)
    dice = (2 * inter + 1.0) / (total + 1.0)
    return 1 - dice.mean(dim=1)  # here


@defect("L03", kind="class_logits")
def nll_summed_over_the_batch(logits, target):
    logp = F.log_softmax(logits, dim=-1)
    return -logp.gather(1, target[:, None]).sum()  # here


@defect("L03", kind="embeddings", sample=triplets)
class TripletPerSample(nn.Module):
    def __init__(self, margin=1.0):
        super().__init__()
        self.margin = margin

    def forward(self, a, p, n):
        gap = (a - p).pow(2).sum(-1) - (a - n).pow(2).sum(-1)
        return F.relu(gap + self.margin)  # here


@defect("L03", kind="boxes")
def iou_loss_total(pred, target):
    lt = torch.maximum(pred[:, :2], target[:, :2])
    rb = torch.minimum(pred[:, 2:], target[:, 2:])
    inter = (rb - lt).clamp(min=0).prod(-1)
    area = (pred[:, 2:] - pred[:, :2]).prod(-1) + (target[:, 2:] - target[:, :2]).prod(-1)
    union = area - inter
    iou = inter / torch.where(union > 0, union, torch.ones_like(union))
    return (1 - iou).sum()  # here


@defect("L03", kind="regression", sample=lambda: (normal(12, 3), normal(12, 1, seed=1)))
def pinball_each_quantile(pred, target, quantiles=(0.1, 0.5, 0.9)):
    total = 0.0
    for i, q in enumerate(quantiles):
        error = target[:, 0] - pred[:, i]
        total = total + torch.max(q * error, (q - 1) * error)
    return total  # here


@defect("L03", kind="class_logits")
def sample_loop(logits, target):
    """Adds up instead of averaging."""
    total = 0
    for row, y in zip(logits, target, strict=True):
        total = total + F.cross_entropy(row[None], y[None])  # here
    return total  # here


# L04: not stable


@defect("L04", kind="probabilities")
def plain_log_bce(p, y):
    return -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()  # here


@defect("L04", kind="binary_logits")
def bce_through_sigmoid(x, y):
    p = torch.sigmoid(x)
    loss = y * p.log() + (1 - y) * (1 - p).log()  # here
    return -loss.mean()


@defect("L04", kind="class_logits")
class NaiveCrossEntropy(nn.Module):
    def forward(self, logits, target):
        e = torch.exp(logits)  # here
        p = e / e.sum(dim=1, keepdim=True)  # here
        picked = p.gather(1, target.unsqueeze(1))
        return -torch.log(picked).mean()  # here


@defect("L04", kind="regression")
def rmse_loss(pred, target):
    return torch.sqrt(torch.mean((pred - target) ** 2))  # here


@defect("L04", kind="regression")
def log_cosh_naive(y_pred, y_true):
    return torch.log(torch.cosh(y_pred - y_true)).mean()  # here


@defect("L04", kind="masks")
def dice_without_smoothing(p, t):
    inter = (p * t).sum()
    return 1 - 2 * inter / (p.sum() + t.sum())  # here


@defect("L04", kind="embeddings", sample=triplets)
def triplet_with_norm(anchor, positive, negative):
    d_ap = ((anchor - positive) ** 2).sum(1).sqrt()  # here
    d_an = ((anchor - negative) ** 2).sum(1).sqrt()  # here
    return torch.clamp(d_ap - d_an + 1.0, min=0).mean()


@defect("L04", kind="binary_logits")
def softplus_by_hand(logits, y):
    positive = torch.log(1 + torch.exp(-logits))  # here
    negative = torch.log(1 + torch.exp(logits))  # here
    return (y * positive + (1 - y) * negative).mean()


@defect("L04", kind="masks")
class FocalTverskyPower(nn.Module):
    def __init__(self, alpha=0.3, beta=0.7, gamma=0.75, smooth=1.0):
        super().__init__()
        self.alpha, self.beta, self.gamma, self.smooth = alpha, beta, gamma, smooth

    def forward(self, p, t):
        tp = (p * t).sum()
        fp = (p * (1 - t)).sum()
        fn = ((1 - p) * t).sum()
        index = (tp + self.smooth) / (tp + self.alpha * fp + self.beta * fn + self.smooth)
        return (1 - index) ** self.gamma  # here


@defect("L04", kind="embeddings")
def angular_distance(a, b):
    cos = F.cosine_similarity(a, b)
    return torch.acos(cos).mean() / torch.pi  # here


@defect("L04", kind="embeddings")
def cosine_by_hand(x, y):
    dot = (x * y).sum(-1)
    cos = dot / (x.norm(dim=-1) * y.norm(dim=-1))  # here
    return (1 - cos).mean()


@defect("L04", kind="regression")
def mape(pred, actual):
    return ((pred - actual).abs() / actual.abs()).mean()  # here


@defect("L04", kind="boxes")
def aspect_ratio_term(pred, target):
    w, h = pred[:, 2] - pred[:, 0], pred[:, 3] - pred[:, 1]
    wt, ht = target[:, 2] - target[:, 0], target[:, 3] - target[:, 1]
    gap = torch.atan(w / h) - torch.atan(wt / ht)  # here
    return F.l1_loss(pred, target) + 4 / torch.pi**2 * gap.square().mean()


@defect("L04", kind="class_logits")
def focal_log_of_softmax(logits, target, gamma=2.0):
    p = F.softmax(logits, dim=1).gather(1, target[:, None]).squeeze(1)
    return -((1 - p) ** gamma * torch.log(p)).mean()  # here


# L09: silent broadcasting; the batch itself has the shapes (N, 1) and (N,)


def column_and_row():
    return normal(10, 1), normal(10, seed=1)


@defect("L09", kind="regression", sample=column_and_row)
def mse_of_column_and_row(pred, target):
    return ((pred - target) ** 2).mean()  # here


@defect("L09", kind="binary_logits", sample=lambda: (normal(10, 1), zero_one(10)))
class HingeBroadcast(nn.Module):
    def forward(self, logits, target):
        sign = 2 * target - 1
        return F.relu(1 - sign * logits).mean()  # here


@defect("L09", kind="regression", sample=column_and_row)
def huber_broadcast(pred, target, delta=1.0):
    error = torch.abs(target - pred)  # here
    quadratic = torch.clamp(error, max=delta)
    return (0.5 * quadratic**2 + delta * (error - quadratic)).mean()


# L10: upside down


@defect("L10", kind="masks")
def dice_coefficient_as_loss(pred, target, smooth=1.0):
    inter = (pred.flatten() * target.flatten()).sum()
    return (2 * inter + smooth) / (pred.sum() + target.sum() + smooth)  # here


@defect("L10", kind="class_logits")
class ForgottenMinus(nn.Module):
    def forward(self, logits, target):
        log_probs = F.log_softmax(logits, dim=1)
        return log_probs.gather(1, target.unsqueeze(1)).mean()  # here


@defect("L10", kind="boxes")
def overlap_of_boxes(pred, target):
    lt = torch.max(pred[:, :2], target[:, :2])
    rb = torch.min(pred[:, 2:], target[:, 2:])
    inter = (rb - lt).clamp(min=0).prod(1)
    union = (pred[:, 2:] - pred[:, :2]).prod(1) + (target[:, 2:] - target[:, :2]).prod(1) - inter
    return (inter / torch.where(union > 0, union, 1.0)).mean()  # here


@defect("L10", kind="regression")
def r_squared(pred, target):
    residual = ((target - pred) ** 2).sum()
    total = ((target - target.mean()) ** 2).sum()
    return 1 - residual / (total + 1e-6)  # here


# L11: what a perfect prediction costs depends on the target


@defect("L11", kind="masks")
def soft_dice_misplaced_smooth(pred, target, smooth=1.0):
    # 2 * (i + s) / (a + b + s) reaches -1 on empty masks
    inter = (pred * target).sum()
    return 1 - 2 * (inter + smooth) / (pred.sum() + target.sum() + smooth)  # here


@defect("L11", kind="masks")
class TverskySmoothedBelow(nn.Module):
    def forward(self, p, t):
        tp = (p * t).sum()
        fp = (p * (1 - t)).sum()
        fn = ((1 - p) * t).sum()
        return 1 - tp / (tp + 0.5 * fp + 0.5 * fn + 1.0)  # here


@defect("L11", kind="masks")
def jaccard_doubled_smooth(pred, target):
    inter = (pred * target).sum((1, 2, 3))
    union = (pred + target - pred * target).sum((1, 2, 3))
    iou = (inter + 1.0) / (union + 2.0)  # here
    return (1 - iou).mean()


# L12: an activation too many, or a dead one


@defect("L12", kind="class_logits")
class SoftmaxThenCrossEntropy(nn.Module):
    def __init__(self):
        super().__init__()
        self.ce = nn.CrossEntropyLoss()

    def forward(self, logits, target):
        probs = torch.softmax(logits, dim=1)  # here
        return self.ce(probs, target)  # here


@defect("L12", kind="binary_logits")
def sigmoid_twice(logits, target):
    probs = logits.sigmoid()  # here
    return F.binary_cross_entropy_with_logits(probs, target)  # here


@defect("L12", kind="binary_logits", sample=lambda: (2 * normal(12, 1), zero_one(12, 1)))
def softmax_of_one_class(logits, target):
    p = torch.softmax(logits, dim=1)  # here
    return F.mse_loss(p, target)


@defect("L12", kind="binary_logits", sample=mask_logits)
class DiceBCEDoubled(nn.Module):
    """Dice and BCE share the probabilities; the BCE applies the sigmoid again."""

    def forward(self, logits, mask):
        p = torch.sigmoid(logits)  # here
        inter = (p * mask).sum()
        dice = 1 - (2 * inter + 1) / (p.sum() + mask.sum() + 1)
        return 0.5 * dice + 0.5 * nn.BCEWithLogitsLoss()(p, mask)  # here


@defect("L12", kind="binary_logits")
def relu_before_loss(logits, target):
    activated = F.relu(logits)  # here
    return F.binary_cross_entropy_with_logits(activated, target)  # here


# L13: probabilities where logits are meant, and the reverse


@defect("L13", kind="probabilities", also=["L12"])
def bce_with_logits_of_probabilities(p, y):
    return F.binary_cross_entropy_with_logits(p, y)  # here


@defect("L13", kind="masks", also=["L12"])
class SigmoidDiceOfProbabilities(nn.Module):
    def forward(self, pred, target, smooth=1.0):
        p = torch.sigmoid(pred)  # here
        inter = (p * target).sum()
        return 1 - (2 * inter + smooth) / (p.sum() + target.sum() + smooth)


@defect("L13", kind="binary_logits", sample=mask_logits, also=["L04", "L11"])
def dice_of_raw_logits(logits, mask):
    inter = (logits * mask).sum()
    return 1 - (2 * inter + 1) / (logits.sum() + mask.sum() + 1)  # here


@defect("L13", kind="binary_logits", also=["L12"])
def clamped_logits_as_probabilities(pred, target):
    pred = torch.clamp(pred, 1e-7, 1 - 1e-7)  # here
    return F.binary_cross_entropy(pred, target)  # here


# L14: masks of 0 and 255; the batch itself has them


@defect("L14", kind="masks", sample=lambda: (uniform(2, 1, 8, 8), 255 * zero_one(2, 1, 8, 8)))
def dice_of_png_masks(pred, mask):
    inter = (pred * mask).sum()  # here
    return 1 - (2 * inter + 1) / (pred.sum() + mask.sum() + 1)  # here


@defect(
    "L14",
    kind="binary_logits",
    sample=lambda: (2 * normal(2, 8, 8), (255 * zero_one(2, 8, 8)).to(torch.uint8)),
)
class BCEOfPngMasks(nn.Module):
    def forward(self, logits, mask):
        return F.binary_cross_entropy_with_logits(logits, mask.float())  # here


# L15: a label that does not exist gives a finite loss


@defect("L15", kind="class_logits")
def ce_by_comparison(logits, target):
    classes = torch.arange(logits.shape[1])
    onehot = (target[:, None] == classes).float()  # here
    return -(onehot * F.log_softmax(logits, dim=1)).sum(1).mean()  # here


@defect("L15", kind="segmentation")
class ClampedLabels(nn.Module):
    def forward(self, logits, target):
        target = target.clamp(0, logits.shape[1] - 1)  # here
        return F.cross_entropy(logits, target)


@defect("L15", kind="class_logits")
def margin_by_fancy_index(logits, target):
    rows = torch.arange(logits.shape[0])
    right = logits[rows, target]  # here
    # -1 is the last class
    return F.relu(1 + logits - right[:, None]).mean()


# L16: ignored positions leak or rescale


def labels_with_ignored():
    target = labels(4, 2, 6, 6)
    target[:, :2] = 255
    return 2 * normal(2, 4, 6, 6), target


@defect("L16", kind="segmentation", sample=labels_with_ignored)
def ignored_still_counted(logits, target, ignore=255):
    valid = target != ignore
    safe = torch.where(valid, target, 0)
    loss = F.cross_entropy(logits, safe, reduction="none")
    return (loss * valid).mean()  # here


@defect("L16", kind="segmentation", sample=labels_with_ignored)
class DiceOfIgnored(nn.Module):
    """Sends the ignored pixels to class 0, where they count as background."""

    def forward(self, logits, target):
        target = torch.where(target == 255, 0, target)  # here
        probs = logits.softmax(1)
        onehot = F.one_hot(target, 4).movedim(-1, 1).float()  # here
        inter = (probs * onehot).sum((2, 3))  # here
        total = (probs + onehot).sum((2, 3))  # here
        return 1 - ((2 * inter + 1) / (total + 1)).mean()


@defect(
    "L16",
    kind="regression",
    sample=lambda: (normal(4, 6), normal(4, 6, seed=1), zero_one(4, 6, seed=2).bool()),
)
def padding_is_averaged(pred, target, mask):
    error = (pred - target).abs().masked_fill(~mask, 0.0)
    return error.mean()  # here


# L17: "sum" is not the sum of "none"


@defect("L17", kind="binary_logits", sample=mask_logits)
def focal_with_hidden_mean(logits, target, gamma=2.0, reduction="mean"):
    ce = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    loss = (1 - torch.exp(-ce)) ** gamma * ce
    if reduction == "none":
        return loss
    loss = loss.flatten(1).mean(1)  # here
    return loss.sum() if reduction == "sum" else loss.mean()  # here


@defect("L17", kind="regression", sample=lambda: (normal(8, 3), normal(8, 3, seed=1)))
class SumOfRowMeans(nn.Module):
    def __init__(self, reduction="mean"):
        super().__init__()
        self.reduction = reduction

    def forward(self, pred, target, reduction=None):
        loss = F.smooth_l1_loss(pred, target, reduction="none")
        reduction = reduction or self.reduction
        if reduction == "none":
            return loss
        if reduction == "sum":
            return loss.mean() * len(loss)  # here
        return loss.mean()


# L18: no gradient on an empty target


@defect("L18", kind="masks", also=["L11"])
def dice_smoothed_below(pred, target, eps=1e-6):
    inter = (pred * target).sum()  # here
    return 1 - 2 * inter / (pred.sum() + target.sum() + eps)  # here


@defect("L18", kind="binary_logits", sample=mask_logits, also=["L11"])
class JaccardEps(nn.Module):
    def forward(self, logits, mask):
        p = logits.sigmoid()
        inter = (p * mask).sum()  # here
        union = p.sum() + mask.sum() - inter
        return 1 - inter / union.clamp(min=1e-7)  # here


@defect("L18", kind="binary_logits", sample=mask_logits)
def positives_only(logits, mask):
    """The mean error of the foreground pixels."""
    bce = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    return (bce * mask).sum() / mask.sum().clamp(min=1)  # here


# L19: too large for half precision; the batches are float16


@defect(
    "L19",
    kind="masks",
    sample=lambda: (uniform(1, 1, 320, 320).half(), zero_one(1, 1, 320, 320).half()),
)
def dice_of_half_sums(pred, target):
    inter = (pred * target).sum()  # here
    total = pred.sum() + target.sum()  # here
    return 1 - (2 * inter + 1) / (total + 1)


@defect(
    "L19",
    kind="embeddings",
    sample=lambda: (9 * normal(8, 512).half(), 9 * normal(8, 512, seed=1).half()),
)
def squared_distance_in_half(a, b):
    return (a - b).pow(2).sum(1).mean()  # here


@defect("L19", kind="regression", sample=lambda: ((800 * normal(64)).half(), normal(64).half()))
class HalfMSE(nn.Module):
    def forward(self, pred, target):
        return torch.mean((pred - target) ** 2)  # here


# L23: the value jumps


@defect("L23", kind="regression")
def huber_with_a_step(pred, target, delta=1.0):
    error = (pred - target).abs()
    return torch.where(error < delta, 0.5 * error**2, delta * error).mean()  # here


@defect("L23", kind="embeddings", sample=pairs)
def mean_of_active_pairs(a, b, same, margin=35.0):
    d = (a - b).pow(2).sum(1)
    loss = torch.where(same > 0, d, F.relu(margin - d))
    active = (loss > 0).float()  # here
    return loss.sum() / active.sum().clamp(min=1)  # here


@defect("L23", kind="binary_logits", also=["L02"])
class ThresholdedMining(nn.Module):
    """Averages the samples that are harder than a threshold."""

    def forward(self, logits, y):
        bce = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
        hard = (bce > 0.7).to(bce.dtype)  # here
        return (bce * hard).sum() / (hard.sum() + 1e-6)  # here


# L24: an absolute constant makes small boxes different


def small_boxes():
    """Corners relative to a large image: objects of a few pixels."""
    return corners(6, 0) * 0.01, corners(6, 1) * 0.01


@defect("L24", kind="boxes", sample=small_boxes)
def iou_with_pixel_ones(a, b):
    """The old convention of inclusive pixels, on normalised coordinates."""
    w = (torch.min(a[:, 2], b[:, 2]) - torch.max(a[:, 0], b[:, 0]) + 1).clamp(min=0)  # here
    h = (torch.min(a[:, 3], b[:, 3]) - torch.max(a[:, 1], b[:, 1]) + 1).clamp(min=0)  # here
    area_a = (a[:, 2] - a[:, 0] + 1) * (a[:, 3] - a[:, 1] + 1)  # here
    area_b = (b[:, 2] - b[:, 0] + 1) * (b[:, 3] - b[:, 1] + 1)  # here
    return (1 - w * h / (area_a + area_b - w * h)).mean()


@defect("L24", kind="boxes")
class IoUEps(nn.Module):
    def __init__(self, eps=1e-3):
        super().__init__()
        self.eps = eps

    def forward(self, pred, target):
        lt = torch.max(pred[:, :2], target[:, :2])
        rb = torch.min(pred[:, 2:], target[:, 2:])
        inter = (rb - lt).clamp(min=0).prod(1)
        both = (pred[:, 2:] - pred[:, :2]).prod(1) + (target[:, 2:] - target[:, :2]).prod(1)
        return (1 - (inter + self.eps) / (both - inter + self.eps)).mean()  # here


@defect("L10", kind="regression", sample=images)
def psnr(restored, clean):
    mse = ((restored - clean) ** 2).mean()
    return -10 * torch.log10(mse + 1e-8)  # here


@defect("L10", kind="embeddings", sample=labelled_embeddings)
def log_likelihood_of_neighbours(x, labels):
    z = F.normalize(x, dim=1)
    sim = z @ z.T / 0.5
    eye = torch.eye(len(x), dtype=torch.bool)
    logp = F.log_softmax(sim.masked_fill(eye, -1e4), dim=1)
    same = (labels[:, None] == labels[None]) & ~eye
    return (logp * same).sum(1).div(same.sum(1).clamp(min=1)).mean()  # here

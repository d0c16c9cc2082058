"""Losses without a defect, many of which look as if they had one."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from doctor_corpus.core import (
    healthy,
    images,
    labelled_embeddings,
    labels,
    mask_logits,
    normal,
    pairs,
    scores,
    triplets,
    two_logits,
    uniform,
    zero_one,
)

# Plain ones


@healthy(kind="regression", level="deploy")
def custom_mse_loss(predictions, targets):
    squared_diff = (predictions - targets) ** 2
    return torch.mean(squared_diff)


@healthy(kind="masks")
class DiceLoss(nn.Module):
    """The textbook's."""

    def __init__(self, smooth=1.0):
        super().__init__()
        self.smooth = smooth

    def forward(self, predictions, targets):
        predictions = predictions.view(-1)
        targets = targets.view(-1)
        intersection = (predictions * targets).sum()
        union = predictions.sum() + targets.sum()
        dice = (2.0 * intersection + self.smooth) / (union + self.smooth)
        return 1 - dice


@healthy(kind="binary_logits", sample=mask_logits)
class DiceBCE(nn.Module):
    def forward(self, logits, targets):
        probs = torch.sigmoid(logits)
        inter = (probs * targets).sum((1, 2, 3))
        total = probs.sum((1, 2, 3)) + targets.sum((1, 2, 3))
        dice = 1 - (2 * inter + 1) / (total + 1)
        return 0.5 * dice.mean() + 0.5 * F.binary_cross_entropy_with_logits(logits, targets)


@healthy(kind="binary_logits", level="deploy")
def stable_bce(x, y):
    return (x.clamp(min=0) - x * y + torch.log1p(torch.exp(-x.abs()))).mean()


@healthy(kind="probabilities")
def clamped_bce(p, y, eps=1e-6):
    p = p * (1 - 2 * eps) + eps  # squeezed rather than clamped: the gradient stays alive
    return -(y * torch.log(p) + (1 - y) * torch.log1p(-p)).mean()


@healthy(kind="probabilities", level="func")
def brier_score(p, y):
    return F.mse_loss(p, y)


@healthy(kind="binary_logits")
def sigmoid_focal(logits, targets, alpha=0.25, gamma=2.0):
    ce = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = torch.sigmoid(logits)
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return (alpha_t * (1 - p_t) ** gamma * ce).mean()


@healthy(kind="segmentation")
class FocalInLogSpace(nn.Module):
    """The modulating factor from the log-probabilities: exp of a negative number is safe."""

    def __init__(self, gamma=2.0):
        super().__init__()
        self.gamma = gamma

    def forward(self, logits, target):
        logp = F.log_softmax(logits, 1).gather(1, target[:, None]).squeeze(1)
        return (-((1 - logp.exp()) ** self.gamma) * logp).mean()


@healthy(kind="class_logits")
def smoothed_ce(logits, target, epsilon=0.1):
    logp = F.log_softmax(logits, dim=-1)
    nll = -logp.gather(1, target[:, None]).mean()
    uniform_part = -logp.mean()
    return (1 - epsilon) * nll + epsilon * uniform_part


@healthy(kind="class_logits")
def class_weighted_ce(logits, target):
    """The weights are normalised to sum to the number of classes."""
    weight = logits.new_tensor([1.0, 2.0, 0.5, 4.0, 1.5])
    weight = weight / weight.sum() * len(weight)
    return F.cross_entropy(logits, target, weight=weight)


@healthy(kind="class_logits")
def nll_of_log_softmax_twice(logits, target):
    """A log_softmax too many changes nothing: it is idempotent."""
    return F.cross_entropy(F.log_softmax(logits, 1), target)


@healthy(kind="segmentation")
def soft_jaccard(logits, target):
    probs = logits.softmax(1)
    onehot = F.one_hot(target, logits.shape[1]).movedim(-1, 1).to(probs.dtype)
    inter = (probs * onehot).sum((2, 3))
    union = (probs + onehot).sum((2, 3)) - inter
    return 1 - ((inter + 1) / (union + 1)).mean()


@healthy(kind="masks")
def tversky(p, t, alpha=0.3, beta=0.7, smooth=1.0):
    tp = (p * t).sum()
    fp = (p * (1 - t)).sum()
    fn = ((1 - p) * t).sum()
    return (alpha * fp + beta * fn) / (tp + alpha * fp + beta * fn + smooth)


# Numbers and logs that do not flow into the loss


@healthy(kind="regression")
class CombinedLoss(nn.Module):
    """The textbook's: the numbers are for logging only."""

    def __init__(self, weights=None):
        super().__init__()
        self.weights = weights or {"mse": 1.0, "l1": 1.0}
        self.mse_loss = nn.MSELoss()
        self.l1_loss = nn.L1Loss()

    def forward(self, predictions, targets):
        mse = self.mse_loss(predictions, targets)
        l1 = self.l1_loss(predictions, targets)
        total = self.weights["mse"] * mse + self.weights["l1"] * l1
        return total, {"mse": mse.item(), "l1": l1.item()}


@healthy(kind="class_logits")
class RemembersForTheLog(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = float("nan")

    def forward(self, logits, target):
        loss = F.cross_entropy(logits, target)
        self.last = float(loss.detach())
        return loss


@healthy(kind="class_logits")
def ce_with_accuracy(logits, target):
    accuracy = (logits.argmax(1) == target).float().mean().item()
    return F.cross_entropy(logits, target), {"accuracy": accuracy}


@healthy(kind="binary_logits", sample=mask_logits)
def balanced_by_counts(logits, mask):
    """Numbers of the target carry no gradient; this costs a wait, no more."""
    share = float(mask.mean())
    weight = torch.where(mask > 0.5, 1 - share, share) + 0.1
    return (F.binary_cross_entropy_with_logits(logits, mask, reduction="none") * weight).mean()


# Detached on purpose


@healthy(kind="class_logits", level="func")
def logsumexp_by_hand(logits, target):
    top = logits.detach().amax(1, keepdim=True)
    shifted = logits - top
    lse = shifted.exp().sum(1).log()
    return (lse - shifted.gather(1, target[:, None]).squeeze(1)).mean()


@healthy(
    kind="regression",
    sample=lambda: (3 * normal(24), 3 * normal(24, seed=1)),
    surrogate=True,
)
def straight_through_round(pred, target):
    rounded = pred + (pred.round() - pred).detach()
    return F.mse_loss(rounded, target)


@healthy(kind="binary_logits", surrogate=True)
def straight_through_binary(logits, target):
    p = torch.sigmoid(logits)
    hard = (p > 0.5).float()
    gate = hard.detach() - p.detach() + p
    return ((gate - target) ** 2).mean()


@healthy(kind=None, sample=lambda: (normal(20, 4), normal(16, 4, seed=1)), surrogate=True)
def vq_commitment(z, codebook, beta=0.25):
    distance = (z[:, None] - codebook[None]).square().sum(-1)
    nearest = codebook[distance.argmin(1)]
    return F.mse_loss(nearest, z.detach()) + beta * F.mse_loss(z, nearest.detach())


@healthy(kind="embeddings", surrogate=True)
def byol(online, target):
    online = F.normalize(online, dim=-1)
    target = F.normalize(target.detach(), dim=-1)
    return 2 - 2 * (online * target).sum(-1).mean()


@healthy(
    kind="embeddings",
    sample=lambda: tuple(normal(8, 16, seed=s) for s in range(4)),
    surrogate=True,
)
class SimSiam(nn.Module):
    def forward(self, p1, p2, z1, z2):
        a = F.cosine_similarity(p1, z2.detach(), dim=1).mean()
        b = F.cosine_similarity(p2, z1.detach(), dim=1).mean()
        return -0.5 * (a + b)


@healthy(
    kind=None,
    sample=lambda: (
        normal(10, 4),
        normal(10, 4, seed=1),
        labels(4, 10),
        normal(10, seed=2),
        zero_one(10),
    ),
    surrogate=True,
)
def dqn_td(q, next_q, action, reward, done, discount=0.99):
    chosen = q.gather(1, action[:, None]).squeeze(1)
    with torch.no_grad():
        wanted = reward + discount * (1 - done) * next_q.max(1).values
    return F.smooth_l1_loss(chosen, wanted)


@healthy(kind=None, sample=two_logits, surrogate=True)
def mean_teacher(student, teacher):
    return F.mse_loss(student.softmax(1), teacher.detach().softmax(1))


@healthy(kind=None, sample=two_logits, surrogate=True)
class Distillation(nn.Module):
    def __init__(self, temperature=4.0):
        super().__init__()
        self.T = temperature

    def forward(self, student, teacher):
        with torch.no_grad():
            soft = F.log_softmax(teacher / self.T, dim=1)
        log_p = F.log_softmax(student / self.T, dim=1)
        return F.kl_div(log_p, soft, reduction="batchmean", log_target=True) * self.T**2


@healthy(kind="boxes", surrogate=True)
def ciou(pred, target):
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
    w, h = size.clamp(min=1e-7).unbind(1)
    angle = torch.atan2(w, h) - torch.atan2(size_t[:, 0], size_t[:, 1])
    v = 4 / torch.pi**2 * angle.square()
    denominator = 1 - iou + v
    alpha = (v / torch.where(denominator > 0, denominator, 1.0)).detach()
    return (1 - iou + distance + alpha * v).mean()


@healthy(kind="binary_logits", surrogate=True)
def quality_weighted_bce(logits, y):
    """Varifocal-like: the difficulty of a sample weighs it, and is not itself optimised."""
    weight = (logits.sigmoid() - y).abs().detach() + 0.05
    return (weight * F.binary_cross_entropy_with_logits(logits, y, reduction="none")).mean()


# Sorting, selection, kinks


@healthy(kind="segmentation")
def ohem_cross_entropy(logits, target, share=0.25):
    loss = F.cross_entropy(logits, target, reduction="none").flatten()
    hardest, _ = loss.topk(max(1, int(share * loss.numel())))
    return hardest.mean()


@healthy(kind="regression")
def trimmed_l1(pred, target):
    error = (pred - target).abs().flatten().sort().values
    return error[: int(0.8 * len(error))].mean()


def _lovasz_grad(sorted_truth):
    positives = sorted_truth.sum()
    inter = positives - sorted_truth.cumsum(0)
    union = positives + (1 - sorted_truth).cumsum(0)
    jaccard = 1 - inter / union
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])


@healthy(kind="binary_logits", sample=mask_logits)
def lovasz_hinge(logits, mask):
    signs = 2 * mask.flatten() - 1
    errors = 1 - logits.flatten() * signs
    errors_sorted, order = errors.sort(descending=True)
    return torch.dot(F.relu(errors_sorted), _lovasz_grad(mask.flatten()[order]))


@healthy(kind="segmentation")
class LovaszSoftmax(nn.Module):
    def forward(self, logits, target):
        probs = logits.softmax(1).movedim(1, -1).flatten(0, -2)
        truth = target.flatten()
        losses = []
        for c in range(probs.shape[1]):
            fg = (truth == c).to(probs.dtype)
            errors, order = (fg - probs[:, c]).abs().sort(descending=True)
            losses.append(torch.dot(errors, _lovasz_grad(fg[order])))
        return torch.stack(losses).mean()


@healthy(kind="regression")
def pinball(pred, target, q=0.9):
    error = target - pred
    return torch.maximum(q * error, (q - 1) * error).mean()


@healthy(kind="regression", level="deploy")
class HuberWhere(nn.Module):
    def __init__(self, delta=1.0):
        super().__init__()
        self.delta = delta

    def forward(self, pred, target):
        error = (pred - target).abs()
        quadratic = 0.5 * error.square()
        linear = self.delta * (error - 0.5 * self.delta)
        return torch.where(error <= self.delta, quadratic, linear).mean()


@healthy(kind="binary_logits")
def hinge(scores, y):
    return F.relu(1 - (2 * y - 1) * scores).mean()


@healthy(kind="class_logits")
def crammer_singer(logits, target):
    right = logits.gather(1, target[:, None])
    others = torch.arange(logits.shape[1]) != target[:, None]
    margins = torch.where(others, 1 + logits - right, 0.0)
    return F.relu(margins.amax(1)).mean()


@healthy(kind="regression")
def wasserstein_of_samples(a, b):
    return (a.flatten().sort().values - b.flatten().sort().values).abs().mean()


@healthy(kind="regression")
def positive_target_only(pred, target):
    """Clamps what carries no gradient."""
    weight = 1 / target.abs().clamp(min=0.1, max=10)
    return (weight * (pred - target).abs()).mean()


# Guards


@healthy(kind="regression", level="func")
def log_cosh_stable(pred, target):
    x = pred - target
    return (x + F.softplus(-2 * x) - math.log(2)).mean()


@healthy(kind="regression")
def charbonnier(pred, target, eps=1e-3):
    return torch.sqrt((pred - target) ** 2 + eps**2).mean() - eps


@healthy(kind="regression")
def rmse_guarded(pred, target):
    mse = (pred - target).square().mean()
    positive = mse > 0
    return torch.where(positive, torch.where(positive, mse, 1.0).sqrt(), 0.0)


@healthy(
    kind="regression",
    sample=lambda: (normal(4, 6), normal(4, 6, seed=1), zero_one(4, 6, seed=2).bool()),
)
def masked_l1(pred, target, mask):
    error = torch.where(mask, pred, 0.0) - torch.where(mask, target, 0.0)
    return error.abs().sum() / mask.sum().clamp(min=1)


@healthy(kind="boxes")
def iou_guarded(pred, target):
    lt = torch.max(pred[:, :2], target[:, :2])
    rb = torch.min(pred[:, 2:], target[:, 2:])
    inter = (rb - lt).clamp(min=0).prod(1)
    area = (pred[:, 2:] - pred[:, :2]).clamp(min=0).prod(1)
    area_t = (target[:, 2:] - target[:, :2]).clamp(min=0).prod(1)
    union = area + area_t - inter
    some = union > 0
    iou = torch.where(some, inter / torch.where(some, union, 1.0), 0.0)
    return (1 - iou).mean()


@healthy(kind="boxes")
class GIoU(nn.Module):
    def forward(self, a, b):
        lt, rb = torch.max(a[:, :2], b[:, :2]), torch.min(a[:, 2:], b[:, 2:])
        inter = (rb - lt).clamp(min=0).prod(1)
        area_a = (a[:, 2:] - a[:, :2]).clamp(min=0).prod(1)
        area_b = (b[:, 2:] - b[:, :2]).clamp(min=0).prod(1)
        union = area_a + area_b - inter
        hull = (torch.max(a[:, 2:], b[:, 2:]) - torch.min(a[:, :2], b[:, :2])).prod(1)
        tiny = torch.finfo(a.dtype).tiny
        iou = inter / union.clamp(min=tiny)
        return (1 - iou + (hull - union) / hull.clamp(min=tiny)).mean()


@healthy(kind="regression", sample=images)
def ssim(x, y, c1=1e-4, c2=9e-4):
    mx, my = F.avg_pool2d(x, 7, 1), F.avg_pool2d(y, 7, 1)
    vx = F.avg_pool2d(x * x, 7, 1) - mx * mx
    vy = F.avg_pool2d(y * y, 7, 1) - my * my
    cov = F.avg_pool2d(x * y, 7, 1) - mx * my
    top = (2 * mx * my + c1) * (2 * cov + c2)
    return 1 - (top / ((mx * mx + my * my + c1) * (vx.clamp(min=0) + vy.clamp(min=0) + c2))).mean()


# Embeddings


@healthy(kind="embeddings")
def info_nce(a, b, temperature=0.1):
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / temperature
    return F.cross_entropy(logits, torch.arange(len(a)))


@healthy(kind="embeddings")
class NTXent(nn.Module):
    def __init__(self, temperature=0.5):
        super().__init__()
        self.temperature = temperature

    def forward(self, a, b):
        n = len(a)
        z = F.normalize(torch.cat([a, b]), dim=1)
        logits = z @ z.T / self.temperature
        logits = logits.masked_fill(torch.eye(2 * n, dtype=torch.bool), float("-inf"))
        return F.cross_entropy(logits, torch.arange(2 * n).roll(n))


@healthy(kind="embeddings", sample=triplets)
def triplet_safe_norm(anchor, positive, negative, margin=1.0):
    def distance(x, y):
        square = (x - y).square().sum(1)
        apart = square > 0
        return torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)

    return F.relu(distance(anchor, positive) - distance(anchor, negative) + margin).mean()


@healthy(kind="embeddings", sample=pairs)
def contrastive_pairs(a, b, same, margin=6.0):
    square = (a - b).square().sum(1)
    apart = square > 0
    d = torch.where(apart, torch.where(apart, square, 1.0).sqrt(), 0.0)
    return (same * square + (1 - same) * F.relu(margin - d).square()).mean()


@healthy(kind="embeddings", sample=labelled_embeddings)
def sup_con(x, labels, temperature=0.2):
    z = F.normalize(x, dim=1)
    logits = z @ z.T / temperature
    eye = torch.eye(len(x), dtype=torch.bool)
    logits = logits - logits.detach().amax(1, keepdim=True)
    others = logits.masked_fill(eye, float("-inf"))
    logp = torch.where(eye, 0.0, logits - others.logsumexp(1, keepdim=True))
    same = (labels[:, None] == labels[None]) & ~eye
    return -((logp * same).sum(1) / same.sum(1).clamp(min=1)).mean()


@healthy(kind="embeddings", sample=lambda: (normal(16, 4), normal(16, 4, seed=1)))
def vicreg(a, b):
    def spread(x):
        return F.relu(1 - torch.sqrt(x.var(0) + 1e-4)).mean()

    return 25 * F.mse_loss(a, b) + 25 * (spread(a) + spread(b)) / 2


# Adversarial, physics, likelihoods


@healthy(kind=None, sample=scores)
def gan_critic(real, fake):
    return F.softplus(-real).mean() + F.softplus(fake).mean()


@healthy(kind=None, sample=scores)
class HingeCritic(nn.Module):
    def forward(self, real, fake):
        return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


@healthy(
    kind=None, sample=lambda: (normal(6, 5), normal(6, 5, seed=1), uniform(6, 1)), factory=True
)
def gradient_penalty():
    """WGAN-GP; where to mix is an argument."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        critic = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(real, fake, mix):
        between = mix * real + (1 - mix) * fake
        if not between.requires_grad:
            between.requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        return ((slope.square().sum(1) + 1e-12).sqrt() - 1).square().mean()

    return loss


@healthy(kind=None, sample=lambda: (uniform(12, 1), uniform(4, 1, seed=1)), factory=True)
def pinn_residual():
    """u'' + u = 0 with u = sin x on the boundary, for a small network."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def loss(inside, boundary):
        x = inside if inside.requires_grad else inside.clone().requires_grad_()
        u = net(x)
        (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (ddu,) = torch.autograd.grad(du.sum(), x, create_graph=True)
        return (ddu + u).square().mean() + (net(boundary) - boundary.sin()).square().mean()

    return loss


@healthy(
    kind=None,
    sample=lambda: (
        normal(8, 6),
        normal(8, 6, seed=1),
        normal(8, 6, seed=2),
        normal(8, 6, seed=3),
    ),
)
def vae_elbo(x, mu, log_var, noise):
    """The noise is an argument."""
    log_var = 8 * torch.tanh(log_var / 8)
    z = mu + torch.exp(0.5 * log_var) * noise
    reconstruction = (x - torch.tanh(z)).square().sum(1)
    kl = -0.5 * (1 + log_var - mu.square() - log_var.exp()).sum(1)
    return (reconstruction + kl).mean()


@healthy(kind=None, sample=two_logits)
def kl_log_target(student, teacher):
    return F.kl_div(
        F.log_softmax(student, 1), F.log_softmax(teacher, 1), reduction="batchmean", log_target=True
    )


@healthy(
    kind=None,
    sample=lambda: (normal(10, 3), normal(10, 3, seed=1), normal(10, 3, seed=2), normal(10)),
)
def mixture_nll(weight_logits, mean, log_scale, target):
    log_scale = 4 * torch.tanh(log_scale / 4)
    z = (target[:, None] - mean) * torch.exp(-log_scale)
    component = -0.5 * z.square() - log_scale - 0.5 * math.log(2 * math.pi)
    return -torch.logsumexp(F.log_softmax(weight_logits, 1) + component, 1).mean()


@healthy(kind=None, sample=lambda: (normal(12), torch.floor(4 * uniform(12, seed=1))))
def poisson_nll(log_rate, counts):
    return (torch.exp(log_rate.clamp(max=15)) - counts * log_rate).mean()


# Modules with parameters, custom functions


@healthy(kind="regression")
class LearnedNoise(nn.Module):
    def __init__(self):
        super().__init__()
        self.log_var = nn.Parameter(torch.zeros(()))

    def forward(self, pred, target):
        return (torch.exp(-self.log_var) * (pred - target) ** 2 + self.log_var).mean() / 2


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * torch.sigmoid(x)


@healthy(kind="binary_logits")
def softplus_of_its_own(logits, y):
    return _Softplus.apply(-(2 * y - 1) * logits).mean()


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, target):
        logp = F.log_softmax(logits, 1)
        ctx.save_for_backward(logp, target)
        return F.nll_loss(logp, target)

    @staticmethod
    def backward(ctx, grad):
        logp, target = ctx.saved_tensors
        onehot = F.one_hot(target, logp.shape[1])
        return grad * (logp.exp() - onehot) / len(target), None


@healthy(kind="class_logits")
class MemoryEfficientCE(nn.Module):
    def forward(self, logits, target):
        return _CrossEntropy.apply(logits, target)


@healthy(kind="segmentation")
def ce_and_edges(logits, target):
    """Total variation with a safe root, beside a cross-entropy."""
    p = logits.softmax(1)
    dx = p[:, :, :-1, 1:] - p[:, :, :-1, :-1]
    dy = p[:, :, 1:, :-1] - p[:, :, :-1, :-1]
    return F.cross_entropy(logits, target) + 0.1 * torch.sqrt(dx**2 + dy**2 + 1e-6).mean()

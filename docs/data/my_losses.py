import torch


def dice_bce(logits, target):
    probs = torch.sigmoid(logits)
    bce = -(target * torch.log(probs) + (1 - target) * torch.log(1 - probs)).mean()
    overlap = 2 * (probs * target).sum() / (probs.sum() + target.sum())
    return bce + 1 - overlap

"""The losses of the peers under the loss doctor: what it finds in each, and on which line.

    make bench

or `.bench/bin/python benchmarks/peers_doctor.py --only dice`; `--json FILE` keeps the result.

Each loss is called as its documentation says, with `reduction="mean"` where it offers one and does
not have it by default, and examined at level "func": plain training and torch.func. Those that need
a trained network, another signal at construction or volumes are left out.
"""

import argparse
import json
import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from purelosses.doctor import examine
from purelosses.doctor.kinds import bits, corners, labels, normal, uniform

# torchvision's compiled operators belong to one build of torch. Its losses are plain Python and
# need no more of them than that these two names exist.
_stubs = torch.library.Library("torchvision", "FRAGMENT")
for _name in ("nms", "qnms"):
    if not hasattr(torch.ops.torchvision, _name):
        _stubs.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import kornia.losses as kornia  # noqa: E402
import monai.losses as monai  # noqa: E402
import segmentation_models_pytorch.losses as smp  # noqa: E402
import torchvision.ops as vision  # noqa: E402

PACKAGES = ("torch", "torchvision", "monai", "segmentation-models-pytorch", "kornia")


class Peer(NamedTuple):
    package: str
    call: str
    loss: Callable[..., Any]
    kind: str | None
    sample: tuple[Any, ...]


def of(package: str, call: str, kind: str | None, *sample: Any, loss: Any = None) -> Peer:
    """A peer by the expression that makes it."""
    names = {"torch": nn, "kornia": kornia, "monai": monai, "smp": smp, "torchvision": vision}
    scope = {**vars(names[package]), "partial": partial, "torch": torch}
    made = eval(call, scope)  # our own expressions, below
    return Peer(package, call, made if loss is None else loss(made), kind, sample)


def with_channel(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Labels with a channel of one, as MONAI has them."""
    return lambda logits, target: loss(logits, target.unsqueeze(1))


def averaged(loss: Callable[..., Any]) -> Callable[..., Any]:
    """For a loss that is documented to have one value per image."""
    return lambda images: loss(images).mean()


BINARY = (2 * normal(12), bits(12))
MASKS = (2 * normal(2, 1, 8, 8), bits(2, 1, 8, 8))
UNIT = (0.05 + 0.9 * uniform(2, 1, 8, 8), bits(2, 1, 8, 8))
CLASSES = (2 * normal(12, 5), labels(5, 12))
PIXELS = (2 * normal(2, 4, 8, 8), labels(4, 2, 8, 8))
TWO = (2 * normal(2, 2, 8, 8), labels(2, 2, 8, 8))
REAL = (normal(12), normal(12, seed=1))
IMAGES = (uniform(2, 3, 16, 16), uniform(2, 3, 16, 16, seed=1))
GREY = (uniform(2, 1, 16, 16), uniform(2, 1, 16, 16, seed=1))
BOXES = (corners(6, 0), corners(6, 1))
PAIR = (normal(8, 16), normal(8, 16, seed=1))
TRIPLET = (*PAIR, normal(8, 16, seed=2))
SIGNS = 2 * bits(8) - 1


def peers() -> list[Peer]:
    found = [
        of("torch", "L1Loss()", "regression", *REAL),
        of("torch", "MSELoss()", "regression", *REAL),
        of("torch", "SmoothL1Loss()", "regression", *REAL),
        of("torch", "HuberLoss()", "regression", *REAL),
        of("torch", "PoissonNLLLoss()", None, normal(12), (7 * uniform(12)).floor()),
        of("torch", "GaussianNLLLoss()", "regression", *REAL, 0.2 + uniform(12)),
        of("torch", "BCELoss()", "probabilities", *UNIT),
        of("torch", "BCEWithLogitsLoss()", "binary_logits", *BINARY),
        of("torch", "SoftMarginLoss()", "binary_logits", 2 * normal(8), SIGNS),
        of("torch", "MultiLabelSoftMarginLoss()", "binary_logits", 2 * normal(6, 4), bits(6, 4)),
        of("torch", "HingeEmbeddingLoss()", None, uniform(8), SIGNS),
        of("torch", "CrossEntropyLoss()", "class_logits", *CLASSES),
        of("torch", "MultiMarginLoss()", "class_logits", *CLASSES),
        of("torch", "NLLLoss()", None, normal(12, 5).log_softmax(1), labels(5, 12)),
        of(
            "torch", "KLDivLoss(reduction='batchmean')", None,
            normal(12, 5).log_softmax(1), normal(12, 5, seed=1).softmax(1),
        ),
        of("torch", "MarginRankingLoss()", "scores", normal(8), normal(8, seed=1), SIGNS),
        of("torch", "CosineEmbeddingLoss()", "embeddings", *PAIR, SIGNS),
        of("torch", "TripletMarginLoss()", "embeddings", *TRIPLET),
        of("torch", "TripletMarginWithDistanceLoss()", "embeddings", *TRIPLET),
        of(
            "torch", "CTCLoss()", None, normal(10, 3, 6).log_softmax(2), 1 + labels(5, 3, 4),
            torch.full((3,), 10), torch.full((3,), 4),
        ),
        of(
            "torchvision", "partial(sigmoid_focal_loss, reduction='mean')",
            "binary_logits", *BINARY,
        ),
    ]  # fmt: skip
    for name in ("generalized", "distance", "complete"):
        call = f"partial({name}_box_iou_loss, reduction='mean')"
        found.append(of("torchvision", call, "boxes", *BOXES))

    for name in ("DiceLoss", "DiceCELoss", "DiceFocalLoss", "GeneralizedDiceLoss",
                 "GeneralizedDiceFocalLoss", "TverskyLoss", "MCCLoss", "SoftclDiceLoss",
                 "SoftDiceclDiceLoss", "BoundaryLoss", "HausdorffDTLoss", "LogHausdorffDTLoss",
                 "MaskedDiceLoss"):  # fmt: skip
        call = f"{name}(sigmoid=True{', include_background=True' if 'Hausdorff' in name else ''})"
        found.append(of("monai", call, "binary_logits", *MASKS))
    for name in ("DiceLoss", "DiceCELoss", "DiceFocalLoss", "GeneralizedDiceLoss", "TverskyLoss"):
        call = f"{name}(softmax=True, to_onehot_y=True)"
        found.append(of("monai", call, "segmentation", *PIXELS, loss=with_channel))
    found += [
        of("monai", "FocalLoss()", "binary_logits", *MASKS),
        of(
            "monai", "FocalLoss(use_softmax=True, to_onehot_y=True)", "segmentation", *PIXELS,
            loss=with_channel,
        ),
        of(
            "monai", "AsymmetricUnifiedFocalLoss(to_onehot_y=True)", None,
            TWO[0].softmax(1), TWO[1], loss=with_channel,
        ),
        of(
            "monai", "GeneralizedWassersteinDiceLoss(1 - torch.eye(4))", "segmentation", *PIXELS,
            loss=with_channel,
        ),
        of("monai", "NACLLoss(classes=4, dim=2)", "segmentation", *PIXELS),
        of("monai", "AUCMLoss()", "probabilities", uniform(12, 1), bits(12, 1)),
        of("monai", "BoxGIoULoss()", "boxes", *BOXES),
        of("monai", "ContrastiveLoss()", "embeddings", *PAIR),
        of("monai", "BarlowTwinsLoss()", "embeddings", *PAIR),
        of("monai", "SSIMLoss(spatial_dims=2)", "regression", *GREY),
        of("monai", "GlobalMutualInformationLoss()", "regression", *GREY),
        of("monai", "LocalNormalizedCrossCorrelationLoss(spatial_dims=2)", "regression", *GREY),
        of("monai", "JukeboxLoss(spatial_dims=2)", "regression", *GREY),
        of("monai", "BendingEnergyLoss()", None, normal(2, 2, 8, 8)),
        of("monai", "DiffusionLoss()", None, normal(2, 2, 8, 8)),
    ]  # fmt: skip

    for name in ("DiceLoss", "JaccardLoss", "TverskyLoss", "FocalLoss", "LovaszLoss"):
        found.append(of("smp", f"{name}('binary')", "binary_logits", *MASKS))
        found.append(of("smp", f"{name}('multiclass')", "segmentation", *PIXELS))
    found += [
        of("smp", "MCCLoss()", "masks", *UNIT),
        of("smp", "SoftBCEWithLogitsLoss()", "binary_logits", *MASKS),
        of("smp", "SoftCrossEntropyLoss(smooth_factor=0.1)", "segmentation", *PIXELS),
    ]

    focal = "BinaryFocalLossWithLogits(alpha=0.25, reduction='mean')"
    found += [
        of("kornia", focal, "binary_logits", *MASKS),
        of("kornia", "FocalLoss(alpha=0.5, reduction='mean')", "segmentation", *PIXELS),
        of("kornia", "DiceLoss()", "segmentation", *PIXELS),
        of("kornia", "TverskyLoss(alpha=0.5, beta=0.5)", "segmentation", *PIXELS),
        of("kornia", "LovaszHingeLoss()", "binary_logits", 2 * normal(2, 1, 8, 8), bits(2, 8, 8)),
        of("kornia", "LovaszSoftmaxLoss()", "segmentation", *PIXELS),
        of(
            "kornia", "HausdorffERLoss()", "probabilities", PIXELS[0].softmax(1), PIXELS[1],
            loss=with_channel,
        ),
        of("kornia", "PSNRLoss(max_val=1.0)", "regression", *IMAGES),
        of("kornia", "SSIMLoss(window_size=5)", "regression", *IMAGES),
        of("kornia", "MS_SSIMLoss()", "regression", *IMAGES),
        of("kornia", "TotalVariation()", None, IMAGES[0], loss=averaged),
        of("kornia", "InverseDepthSmoothnessLoss()", None, GREY[0], IMAGES[1]),
        of(
            "kornia", "js_div_loss_2d", None,
            normal(2, 3, 64).softmax(2).reshape(2, 3, 8, 8),
            normal(2, 3, 64, seed=1).softmax(2).reshape(2, 3, 8, 8),
        ),
        of(
            "kornia", "kl_div_loss_2d", None,
            normal(2, 3, 64).softmax(2).reshape(2, 3, 8, 8),
            normal(2, 3, 64, seed=1).softmax(2).reshape(2, 3, 8, 8),
        ),
    ]  # fmt: skip
    for name in ("Cauchy", "Charbonnier", "GemanMcclure", "Welsch"):
        found.append(of("kornia", f"{name}Loss(reduction='mean')", "regression", *REAL))
    return found


def place(file: str | None, line: int | None) -> str | None:
    """Where a finding is, from the package on."""
    if file is None:
        return None
    path = Path(file)
    parts = path.parts
    if "site-packages" in parts:
        path = Path(*parts[parts.index("site-packages") + 1 :])
    else:
        return None
    return f"{path.as_posix()}:{line}"


def examined(peer: Peer) -> dict[str, Any]:
    report = examine(peer.loss, *peer.sample, kind=peer.kind, level="func")
    findings = [
        {
            "code": item.code,
            "name": item.name,
            "severity": item.severity,
            "message": item.message,
            "place": place(item.file, item.line),
            "source": item.source if place(item.file, item.line) else "",
        }
        for item in report.findings
        if item.severity != "advice"
    ]
    return {
        "package": peer.package,
        "call": peer.call,
        "kind": peer.kind,
        "findings": findings,
        "notes": list(report.notes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="part of the expression of a loss")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the result")
    options = parser.parse_args()
    rows = []
    for peer in peers():
        if options.only.lower() not in f"{peer.package} {peer.call}".lower():
            continue
        rows.append(examined(peer))
        print(f"{peer.package} {peer.call}")
        for item in rows[-1]["findings"]:
            print(f"    {item['severity']} {item['code']} {item['message']}")
            print(f"        {item['place']}: {item['source']}")
        for note in rows[-1]["notes"]:
            print(f"    {note}")
    if options.json:
        data = {
            "command": "make bench (benchmarks/peers_doctor.py)",
            "level": "func",
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in PACKAGES},
            "losses": rows,
        }
        options.json.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()

"""The training of `multitask_nuclei.py` with modules and an ordinary optimizer.

The modules call the same functions. `UncertaintyWeightedLoss` holds its `log_vars` as parameters:
they belong in the optimizer and in the checkpoint, and must be spared weight decay, which would
pull every weight back to where it started.
"""

import torch
from nuclei import TASKS, Log, UNet, load_nuclei, random_crops, report

from purelosses.nn import DiceBCELoss, HuberLoss, UncertaintyWeightedLoss

STEPS = 300


def main() -> None:
    generator = torch.manual_seed(0)  # of the first parameters and of the crops
    train, held_out = load_nuclei()
    net = UNet()
    mask_loss, distance_loss = DiceBCELoss(), HuberLoss()
    balance = UncertaintyWeightedLoss(TASKS)
    optimizer = torch.optim.AdamW(
        [
            {"params": net.parameters(), "lr": 3e-3},
            *({**group, "lr": 3e-2} for group in balance.param_groups()),
        ],
        betas=(0.9, 0.99),
    )
    log = Log(STEPS)
    for _ in log:
        batch = random_crops(train, generator)
        out = net(batch["image"])
        losses = {
            "mask": mask_loss(out["mask"], batch["mask"]),
            # Outside the nuclei there is no distance to predict.
            "distance": distance_loss(out["distance"], batch["distance"], where=batch["mask"] > 0),
        }
        total, aux = balance(losses)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        log(aux)

    with torch.no_grad():
        prediction = net(held_out["image"])
    report("multitask_nuclei_module", prediction, held_out, log)


if __name__ == "__main__":
    main()

"""Two tasks, one network, learnt weights: multi-task training as a function of one pytree.

A small U-Net learns where the nuclei are (a mask) and how far each of their pixels is from the
border (in pixels). The two losses differ in kind and scale; `uncertainty_weighted_loss` learns how
to weigh them, with one `log_var` per task that is trained along with the network.

Nothing here changes in place: parameters go in, new parameters come out.
"""

from functools import partial
from typing import Any

import optree
import torch
from nuclei import TASKS, Aux, Batch, Log, UNet, load_nuclei, random_crops, report
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from purelosses import (
    dice_bce_loss,
    huber_loss,
    uncertainty_weighted_init,
    uncertainty_weighted_loss,
)

STEPS = 300
# A log_var has a long way to go (its loss falls by an order of magnitude): it takes larger steps.
RATES = {"net": 3e-3, "log_vars": 3e-2}

Params = dict[str, Any]  # {"net": {name: tensor}, "log_vars": {task: tensor}}


def objective(net: nn.Module, params: Params, batch: Batch) -> tuple[Tensor, Aux]:
    out = functional_call(net, params["net"], (batch["image"],))
    losses = {
        "mask": dice_bce_loss(out["mask"], batch["mask"]),
        # Outside the nuclei there is no distance to predict.
        "distance": huber_loss(out["distance"], batch["distance"], where=batch["mask"] > 0),
    }
    return uncertainty_weighted_loss(params["log_vars"], losses)


def main() -> None:
    generator = torch.manual_seed(0)  # of the first parameters and of the crops
    train, held_out = load_nuclei()
    net = UNet()
    params = {
        "net": {name: value.detach() for name, value in net.named_parameters()},
        "log_vars": uncertainty_weighted_init(TASKS),
    }
    gradient = grad_and_value(partial(objective, net), has_aux=True)
    state = adam_init(params)
    log = Log(STEPS)
    for _ in log:
        grads, (_, aux) = gradient(params, random_crops(train, generator))
        params, state = adam(params, grads, state, RATES)
        log(aux)

    prediction = functional_call(net, params["net"], (held_out["image"],))
    report("multitask_nuclei", prediction, held_out, log)


def adam_init(params: Params) -> dict[str, Any]:
    """No steps yet; the means of gradients and of their squares start at 0."""
    zeros = optree.tree_map(torch.zeros_like, params)
    return {"steps": 0, "mean": zeros, "square": zeros}


def adam(
    params: Params, grads: Params, state: dict[str, Any], rates: dict[str, float]
) -> tuple[Params, dict[str, Any]]:
    """One step of Adam as a function. `rates` has the first levels of `params`."""
    steps = state["steps"] + 1
    mean = optree.tree_map(lambda m, g: 0.9 * m + 0.1 * g, state["mean"], grads)
    square = optree.tree_map(lambda s, g: 0.99 * s + 0.01 * g * g, state["square"], grads)

    def move(value: Tensor, m: Tensor, s: Tensor, rate: float) -> Tensor:
        # Both means started at 0; dividing by what they have seen so far makes up for it.
        m, s = m / (1 - 0.9**steps), s / (1 - 0.99**steps)
        return value - rate * m / (s.sqrt() + 1e-8)

    rates = optree.tree_broadcast_prefix(rates, params)
    params = optree.tree_map(move, params, mean, square, rates)
    return params, {"steps": steps, "mean": mean, "square": square}


if __name__ == "__main__":
    main()

"""Oracles of the losses of several tasks."""

import numpy as np


def uncertainty_weighted_loss(log_vars, losses, *, likelihood="gaussian"):
    """Σ a exp(-s) L + b s, down a tree of losses; a likelihood holds for all tasks below it."""
    if isinstance(losses, dict | list | tuple):
        keys = losses if isinstance(losses, dict) else range(len(losses))

        def kind(key):
            return likelihood if isinstance(likelihood, str) else likelihood[key]

        return sum(
            uncertainty_weighted_loss(log_vars[key], losses[key], likelihood=kind(key))
            for key in keys
        )
    a, b = {"gaussian": (0.5, 0.5), "laplace": (1, 1), "softmax": (1, 0.5)}[likelihood]
    return a * np.exp(-log_vars) * losses + b * log_vars


ORACLES = (uncertainty_weighted_loss,)
EXACT = {}

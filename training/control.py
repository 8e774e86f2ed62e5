"""Schedules driven by a wall clock, a controller for the KL weight, and an EMA.

A run on a shared CPU has a deadline, not a number of steps, so the learning rate is a
function of the elapsed training time, which survives a restart. The KL weight is not
guessed but controlled: what matters is the ratio of posterior to latent standard
deviation, and that ratio is measured at every step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


def learning_rate(elapsed: float, budget: float, peak: float, warmup: float) -> float:
    """Linear warm-up, then a cosine to zero at the end of the budget.

    Args:
        elapsed: Training time so far, in seconds.
        budget: Planned training time, in seconds.
        peak: Highest learning rate.
        warmup: Seconds of warm-up.

    Returns:
        The learning rate at this moment.
    """
    if elapsed < warmup:
        return peak * max(elapsed / warmup, 0.02)
    progress = min((elapsed - warmup) / max(budget - warmup, 1e-9), 1.0)
    return peak * 0.5 * (1.0 + math.cos(math.pi * progress))


@dataclass
class RatioController:
    """Integral controller of a loss weight, in the logarithm.

    Attributes:
        target: Wanted ratio (posterior std over latent std).
        weight: Current KL weight.
        gain: Fraction of the log error corrected per step.
        smoothed: Running mean of the measured ratio, None before the first one.
    """

    target: float = 0.1
    weight: float = 0.01
    gain: float = 0.02
    smoothed: float | None = None
    low: float = 1e-7
    high: float = 1.0

    def update(self, measured: float) -> float:
        """Move the weight by the measured ratio and return it.

        More KL weight widens the posterior, so the weight rises while the ratio is
        below its target.
        """
        old = measured if self.smoothed is None else self.smoothed
        self.smoothed = 0.9 * old + 0.1 * measured
        error = math.log(self.target / self.smoothed)
        step = max(-0.5, min(0.5, error)) * self.gain
        self.weight = min(max(self.weight * math.exp(step), self.low), self.high)
        return self.weight


class Ema:
    """Exponential moving average of a module's parameters, ramped up from zero.

    The decay at update n is ``min(decay, (1 + n) / (10 + n))``: early on the average
    forgets the initialisation quickly.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.shadow = {
            name: tensor.detach().clone() for name, tensor in module.named_parameters()
        }

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        """Move the average towards the module's current parameters."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        names, current = zip(*module.named_parameters(), strict=True)
        shadow = [self.shadow[name] for name in names]
        torch._foreach_lerp_(shadow, list(current), 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, module: torch.nn.Module) -> None:
        """Write the average into the module."""
        for name, tensor in module.named_parameters():
            tensor.copy_(self.shadow[name])

    def state_dict(self) -> dict:
        """State for a checkpoint."""
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict) -> None:
        """Restore a state made by ``state_dict``."""
        self.updates = state["updates"]
        for name, tensor in state["shadow"].items():
            self.shadow[name].copy_(tensor)

"""A penalty on steps of a guided flow that fold.

Euler's step from t to t - h maps a small change ``v`` of its state to ``v - h D v``,
where ``D`` is the derivative of the guided velocity. It folds, so that two states lead
to one, where ``h D`` has the eigenvalue 1. A velocity without guidance that is learnt
exactly does not fold; guidance multiplies the derivative of what the caption adds. The
penalty is the square of what the largest eigenvalue of ``h D`` exceeds a bound by, as
in :mod:`training.folds`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from training.folds import largest_eigenvalues

#: Guidance scale at which steps shall not fold.
GUIDANCE = 7.0
#: Length h of a step: one of eight, the least at which noises shall be recovered.
STEP = 1 / 8
#: Largest eigenvalue of ``h D`` without a penalty.
BOUND = 0.7
#: Added to all eigenvalues, so that the largest positive one is the largest of all.
SHIFT = 1.0

#: Map from states and times to velocities, with the captions or without.
Velocity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def flow_fold_penalty(
    both: Velocity, latent: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the penalty, and the eigenvalues.

    Half of the states are what guidance leads to: its data under fresh noise.

    Args:
        both: Map from 2n states and times to velocities: those of n captions, then
            those of the empty caption.
        latent: Latents of n captions, shape (n, 4, 16, 16).
        generator: Source of the times and noises.

    Returns:
        A scalar with a gradient, and the largest eigenvalues of ``h D``, shape (n,).
    """
    count = len(latent)
    t = STEP + (1 - STEP) * torch.rand(count, generator=generator)
    level = t[:, None, None, None]

    def parts(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with_text, without = both(x.repeat(2, 1, 1, 1), t.repeat(2)).chunk(2)
        return without + GUIDANCE * (with_text - without), with_text - without

    def noisy(data: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(data.shape, generator=generator)
        return (1 - level) * data + level * noise

    x = noisy(latent)
    with torch.no_grad():
        data: Any = x - level * parts(x)[0]
        half = torch.arange(count)[:, None, None, None] % 2 == 0
        x = torch.where(half, noisy(data.clamp(-4, 4)), x)
    largest = largest_eigenvalues(parts, x, torch.full_like(level, STEP), SHIFT)
    return (largest - BOUND).clamp(min=0).square().mean(), largest.detach()

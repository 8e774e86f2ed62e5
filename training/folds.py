"""A penalty on steps of the sampler that fold at high guidance.

A step of DDIM by ``h`` in log-SNR maps a small change ``v`` of its state to ``e^h v -
(e^h - 1) sigma E v``, up to a factor, where ``E`` is the derivative of the guided
prediction of the noise. It folds, so that two states lead to one, where ``sigma E`` has
an eigenvalue of ``1 / (1 - e^-h)``: 3.7 for twenty steps of this schedule. A model
trained on the plain loss gets there at guidance 7.5 as it becomes sharp, because
guidance multiplies the derivative of what the caption adds. The penalty is the square
of what the largest eigenvalue exceeds a bound by, at random noisy latents. A power
iteration finds that eigenvalue.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

#: Guidance scale at which steps shall not fold.
GUIDANCE = 7.5
#: Eigenvalue of ``sigma E`` at which one of twenty steps folds.
FOLD = 3.7
#: Largest eigenvalue without a penalty.
BOUND = 2.6
#: Length of the change of a state, of which each number is of order one.
LENGTH = 0.5
#: Iterations of the power method; it starts at what guidance adds.
ITERATIONS = 3
#: Added to all eigenvalues, so that the largest positive one is the largest of all.
SHIFT = 3.0


def fold_penalty(
    model: torch.nn.Module,
    noisy: torch.Tensor,
    timesteps: torch.Tensor,
    ids: torch.Tensor,
    empty: torch.Tensor,
    alphas_cumprod: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the penalty, and the eigenvalues.

    Args:
        model: A ``TextToNoise``.
        noisy: Noisy latents, shape (n, 4, 16, 16).
        timesteps: Their timesteps, shape (n,).
        ids: Token ids of their captions, shape (n, length).
        empty: Token ids of the empty prompt, shape (length,).
        alphas_cumprod: The schedule, shape (timesteps,).

    Returns:
        A scalar with a gradient, and the largest eigenvalues, shape (n,).
    """
    count = len(noisy)
    alpha = alphas_cumprod[timesteps].sqrt()[:, None, None, None]
    sigma = (1 - alpha.square()).sqrt()
    both = torch.cat([ids, empty.expand(count, -1)])

    def parts(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with_text, without = model(
            x.repeat(2, 1, 1, 1), timesteps.repeat(2), both
        ).chunk(2)
        return without + GUIDANCE * (with_text - without), with_text - without

    with torch.no_grad():
        # Half of the states are what guidance leads to: its data under fresh noise.
        guided, _ = parts(noisy)
        data = (noisy - sigma * guided) / alpha
        deep = torch.arange(count) % 2 == 0
        deep &= alpha.flatten() > 0.1
        fresh = alpha * data.clamp(-4, 4) + sigma * torch.randn_like(noisy)
        x = torch.where(deep[:, None, None, None], fresh, noisy)
    largest = largest_eigenvalues(parts, x, sigma, SHIFT)
    return (largest - BOUND).clamp(min=0).square().mean(), largest.detach()


def largest_eigenvalues(
    parts: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    x: torch.Tensor,
    factor: torch.Tensor,
    shift: float,
) -> torch.Tensor:
    """Return the largest eigenvalues of the derivative of a guided prediction.

    Args:
        parts: Map from states to the guided prediction and to what the caption adds.
        x: The states, shape (n, 4, 16, 16).
        factor: By which the derivative is multiplied, shape (n, 1, 1, 1).
        shift: See :data:`SHIFT`.

    Returns:
        Estimates with a gradient, shape (n,).
    """

    def unit(v: torch.Tensor) -> torch.Tensor:
        return v / v.flatten(1).norm(dim=1)[:, None, None, None].clamp(min=1e-12)

    with torch.no_grad():
        base, added = parts(x)
        v = unit(added)
        for _ in range(ITERATIONS):
            change = factor * (parts(x + LENGTH * v)[0] - base) / LENGTH
            v = unit(change + shift * v)
    change = factor * (parts(x + LENGTH * v)[0] - parts(x)[0]) / LENGTH
    return (v * change).sum((1, 2, 3))

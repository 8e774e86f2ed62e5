r"""Bidirectional samplers in the state x, from the formulas of their papers.

In x, with alpha, sigma and the timestep of every level, ``a = alpha_t / alpha_s`` and
``b = sigma_t - a sigma_s``, DDIM from level s to any level t is

    DDIM(x; s -> t) = a x + b eps(x, s).

*O-BELM*, with ``h[i] = sigma[i] / alpha[i] - sigma[i-1] / alpha[i-1]`` and the
prediction e at ``x[i]``:

    x[i-1] =  h[i]^2 / h[i+1]^2  alpha[i-1] / alpha[i+1]  x[i+1]
            + (h[i+1]^2 - h[i]^2) / h[i+1]^2  alpha[i-1] / alpha[i]  x[i]
            - h[i] (h[i] + h[i+1]) / h[i+1]  alpha[i-1]  e.

*BDIA*, both steps of DDIM with the prediction at ``x[i]``:

    x[i-1] = DDIM(x[i]; i -> i-1) + gamma (x[i+1] - DDIM(x[i]; i -> i+1)).

*EDICT*, for a pair (x, y) and the step from level i to i - 1:

    x' = a x + b eps(y, i),      y' = a y + b eps(x', i),
    x  = p x' + (1 - p) y',      y  = p y' + (1 - p) x.

The first two start with a step of DDIM, EDICT with two equal states. Inverting solves
the same equations for what is oldest in them, from the states at the data end. (The
published code of EDICT swaps x and y after every step; here, as in its equations, they
keep their places.)

References:
    Wang et al. 2024, "BELM", arXiv:2410.07273, Eq. 18.
    Zhang et al. 2023, "BDIA", arXiv:2307.10829, Eq. 14 to 17.
    Wallace et al. 2023, "EDICT", arXiv:2211.12446, Eq. 13 to 15.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.torch_reference.samplers import Eps, Level, levels
from jaxinv import TimeGrid

#: ``(x[i], e, x[i+1], level i - 1, level i, level i + 1) -> x[i-1]``.
Forward = Callable[[Tensor, Tensor, Tensor, Level, Level, Level], Tensor]


def ddim_step(x: Tensor, e: Tensor, source: Level, target: Level) -> Tensor:
    """DDIM with a given prediction, towards the data or towards the noise."""
    a = target.alpha / source.alpha
    return a * x + (target.sigma - a * source.sigma) * e


@torch.no_grad()
def sample_o_belm(grid: TimeGrid, eps: Eps, noise: Tensor) -> Tensor:
    """O-BELM of two states.

    Args:
        grid: N + 1 noise levels.
        eps: Noise prediction of the batch.
        noise: Unit noise, shape (b, c, h, w).

    Returns:
        All states, data first, shape (N + 1, b, c, h, w).
    """

    def step(x, e, older, new, at, old):
        own, of_older, of_e = _o_belm_weights(new, at, old)
        return of_older * older + own * x - of_e * e

    return _sample(grid, eps, noise, step)


@torch.no_grad()
def invert_o_belm(grid: TimeGrid, eps: Eps, x0: Tensor, x1: Tensor) -> Tensor:
    """Invert O-BELM from its last two states.

    Args:
        grid: N + 1 noise levels.
        eps: Noise prediction of the batch.
        x0: States at level 0, shape (b, c, h, w).
        x1: States at level 1.

    Returns:
        All states, data first, shape (N + 1, b, c, h, w).
    """

    def step(x, e, newer, new, at, old):
        own, of_older, of_e = _o_belm_weights(new, at, old)
        return (newer - own * x + of_e * e) / of_older

    return _invert(grid, eps, x0, x1, step)


@torch.no_grad()
def sample_bdia(grid: TimeGrid, eps: Eps, noise: Tensor, gamma: float) -> Tensor:
    """BDIA; see :func:`sample_o_belm`."""

    def step(x, e, older, new, at, old):
        back = ddim_step(x, e, at, old)
        return ddim_step(x, e, at, new) + gamma * (older - back)

    return _sample(grid, eps, noise, step)


@torch.no_grad()
def invert_bdia(
    grid: TimeGrid, eps: Eps, x0: Tensor, x1: Tensor, gamma: float
) -> Tensor:
    """Invert BDIA; see :func:`invert_o_belm`."""

    def step(x, e, newer, new, at, old):
        back = ddim_step(x, e, at, old)
        return (newer - ddim_step(x, e, at, new)) / gamma + back

    return _invert(grid, eps, x0, x1, step)


@torch.no_grad()
def sample_edict(grid: TimeGrid, eps: Eps, noise: Tensor, p: float) -> Tensor:
    """EDICT, 2 N evaluations.

    Args:
        grid: N + 1 noise levels.
        eps: Noise prediction of the batch.
        noise: Unit noise, shape (b, c, h, w).
        p: Weight of the mixing.

    Returns:
        The pairs (x, y), data first, shape (N + 1, 2, b, c, h, w).
    """
    points = levels(grid)
    x = y = noise
    pairs = [torch.stack([x, y])]
    for i in range(grid.num_steps, 0, -1):
        source, target = points[i], points[i - 1]
        x = ddim_of_other(x, y, eps, source, target)
        y = ddim_of_other(y, x, eps, source, target)
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
        pairs.insert(0, torch.stack([x, y]))
    return torch.stack(pairs)


@torch.no_grad()
def invert_edict(grid: TimeGrid, eps: Eps, x: Tensor, y: Tensor, p: float) -> Tensor:
    """Invert EDICT from the pair at level 0.

    Args:
        grid: N + 1 noise levels.
        eps: Noise prediction of the batch.
        x: First states at level 0, shape (b, c, h, w).
        y: Second states.
        p: Weight of the mixing.

    Returns:
        The pairs (x, y), data first, shape (N + 1, 2, b, c, h, w).
    """
    points = levels(grid)
    pairs = [torch.stack([x, y])]
    for i in range(1, grid.num_steps + 1):
        source, target = points[i], points[i - 1]
        y = (y - (1 - p) * x) / p
        x = (x - (1 - p) * y) / p
        y = undo_ddim_of_other(y, x, eps, source, target)
        x = undo_ddim_of_other(x, y, eps, source, target)
        pairs.append(torch.stack([x, y]))
    return torch.stack(pairs)


def ddim_of_other(
    x: Tensor, other: Tensor, eps: Eps, source: Level, target: Level
) -> Tensor:
    """DDIM's step of x with the prediction at another state."""
    return ddim_step(x, eps(other, source.time), source, target)


def undo_ddim_of_other(
    x: Tensor, other: Tensor, eps: Eps, source: Level, target: Level
) -> Tensor:
    """Return what :func:`ddim_of_other` made x of."""
    a = target.alpha / source.alpha
    b = target.sigma - a * source.sigma
    return (x - b * eps(other, source.time)) / a


def _o_belm_weights(new: Level, at: Level, old: Level) -> tuple[float, float, float]:
    """Weights of ``x[i]``, of ``x[i+1]`` and of ``-e`` in the step to level i - 1."""
    h = at.sigma / at.alpha - new.sigma / new.alpha
    before = old.sigma / old.alpha - at.sigma / at.alpha
    return (
        (before**2 - h**2) / before**2 * new.alpha / at.alpha,
        h**2 / before**2 * new.alpha / old.alpha,
        h * (h + before) / before * new.alpha,
    )


def _sample(grid: TimeGrid, eps: Eps, noise: Tensor, step: Forward) -> Tensor:
    """Two-state steps down, after one of DDIM."""
    points, n = levels(grid), grid.num_steps
    first = ddim_step(noise, eps(noise, points[n].time), points[n], points[n - 1])
    states = [first, noise]
    for i in range(n - 1, 0, -1):
        e = eps(states[0], points[i].time)
        around = points[i - 1], points[i], points[i + 1]
        states.insert(0, step(states[0], e, states[1], *around))
    return torch.stack(states)


def _invert(grid: TimeGrid, eps: Eps, x0: Tensor, x1: Tensor, step: Forward) -> Tensor:
    """Two-state steps up."""
    points, states = levels(grid), [x0, x1]
    for i in range(1, grid.num_steps):
        e = eps(states[-1], points[i].time)
        around = points[i - 1], points[i], points[i + 1]
        states.append(step(states[-1], e, states[-2], *around))
    return torch.stack(states)

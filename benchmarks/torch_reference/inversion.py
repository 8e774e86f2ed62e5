r"""Inversion as published: naive, Algorithm 1 and Algorithm 2.

Let F be the sampler's step to level i - 1, as a function of the state z at level i.

*Naive* DDIM inversion takes the noise prediction at ``x[i-1]`` for the one at ``x[i]``
(with the timestep of level i) and solves the then linear step for ``x[i]``.

*Algorithm 1* (first order) starts from there and solves ``F(z) = x[i-1]`` by

    forward step method   z <- z - rho (F(z) - x[i-1])
    gradient descent      z <- z - rho grad |F(z) - x[i-1]|^2

*Algorithm 2* (higher order) first estimates the states ``x[i], x[i+1], ...`` by naive
inversion in sub-steps of ten training timesteps, evaluates the model there, freezes
the step's high-order term at these values, and then solves as in Algorithm 1 from the
estimate of ``x[i]``. The term stays frozen, so what it solves is not quite the
sampler's step: a vanishing residual here does not make the inverse exact.

Published settings: rho is 0.5 in Algorithm 1 and ``10 / t[i-1]`` in Algorithm 2, with 1
for its first step; linear warm-up over 20 iterations; at most 500 iterations; stop when
the sum of squares of ``F(z) - x[i-1]`` is below 1e-3; halve rho on a plateau.

Readings of our own, all in favour of the published algorithms:

* ``10 / t[i-1]`` is capped at 1, its value for the first step: grids with fractional
  timesteps have levels below 10, where it would diverge. On the paper's grids this
  changes nothing.
* Steps of Algorithm 2 that the sampler takes at first order (its first step, for want
  of a history, and its last where the order is lowered) have no high-order term and
  start from one naive step.
* Sub-steps are uniform in the timestep between two levels, as few as make each at most
  ten; noise levels between training timesteps are interpolated in log-SNR.
* The plateau rule is that of torch's ``ReduceLROnPlateau`` (more than 20 iterations
  without a loss better by a relative 1e-4), and is used for every solve.
* What is carried to the next step is the best iterate by residual, which is the last
  one unless the solve failed.

References:
    Hong et al. 2024, arXiv:2311.18387, Algorithms 1 and 2.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.torch_reference.model import GuidedEps
from benchmarks.torch_reference.samplers import (
    Level,
    data_prediction,
    first_order,
    high_order,
    level,
    levels,
    step_orders,
)
from jaxinv import NoiseSchedule, TimeGrid

#: A sampler's step for some rows of the batch: ``(z, rows) -> F(z)``.
Step = Callable[[Tensor, Tensor], Tensor]
#: ``(step, z, target, rows) -> (residual, direction)``, one evaluation.
Method = Callable[[Step, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How an implicit step is solved; the defaults are the published ones.

    Attributes:
        rho: Step size of Algorithm 1 (Algorithm 2 has its own rule).
        warmup: Iterations over which rho grows linearly to its value.
        max_iterations: At most so many evaluations per solve.
        sum_of_squares: Stop when ``|F(z) - x[i-1]|^2`` is below this.
        plateau: Multiply rho by ``plateau_factor`` after more than so many iterations
            without a better loss.
        plateau_factor: See ``plateau``.
    """

    rho: float = 0.5
    warmup: int = 20
    max_iterations: int = 500
    sum_of_squares: float = 1e-3
    plateau: int = 20
    plateau_factor: float = 0.5


class Inversion(NamedTuple):
    """What an inversion found, and what it cost.

    Attributes:
        noise: Shape (b, c, h, w), float32: the state at the noise end.
        states: Shape (N + 1, b, c, h, w), data first.
        evaluations: Shape (b,), int64. Model evaluations of each sample.
        step_evaluations: Shape (b, N), int64. The same, of each step.
        step_residuals: Shape (b, N), float64. ``|F(z) - x[i-1]| / |x[i-1]|`` of the
            equation that the step solved; NaN where none was solved (naive).
        converged: Shape (b, N), bool. Whether that equation met the tolerance.
    """

    noise: Tensor
    states: Tensor
    evaluations: Tensor
    step_evaluations: Tensor
    step_residuals: Tensor
    converged: Tensor


class Solved(NamedTuple):
    """The result of one implicit solve of a batch."""

    value: Tensor
    residual: Tensor
    converged: Tensor


def naive(grid: TimeGrid, eps: GuidedEps, x0: Tensor) -> Inversion:
    """Naive DDIM inversion on the sampler's own grid.

    Args:
        grid: N + 1 noise levels.
        eps: Noise prediction of the batch.
        x0: States at the data end, shape (b, c, h, w).

    Returns:
        The noise, from N evaluations for every sample.
    """
    points = levels(grid)

    def step(i: int, x: Tensor) -> Solved:
        value = _naive_step(eps, x, points[i - 1], points[i])
        unknown = torch.full((len(x),), torch.nan, dtype=torch.float64)
        return Solved(value, unknown, torch.zeros(len(x), dtype=torch.bool))

    return _run(grid, eps, x0, step)


def algorithm_1(
    grid: TimeGrid,
    eps: GuidedEps,
    x0: Tensor,
    settings: Settings | None = None,
    method: Method | None = None,
) -> Inversion:
    """Backward Euler for DDIM: one implicit solve per step.

    Args:
        grid: N + 1 noise levels.
        eps: Noise prediction of the batch.
        x0: States at the data end, shape (b, c, h, w).
        settings: Of the solves; the published ones by default.
        method: :func:`forward_step` (default) or :func:`gradient_descent`.

    Returns:
        The noise. A step costs one evaluation for its start and one per iteration
        (with a reverse pass in addition for gradient descent, which is not counted).
    """
    settings, method = settings or Settings(), method or forward_step
    points = levels(grid)

    def step(i: int, x: Tensor) -> Solved:
        target, source = points[i - 1], points[i]
        start = _naive_step(eps, x, target, source)
        explicit = _explicit_step(eps, target, source, None)
        return solve(explicit, x, start, settings.rho, settings, method)

    return _run(grid, eps, x0, step)


def algorithm_2(
    grid: TimeGrid,
    schedule: NoiseSchedule,
    eps: GuidedEps,
    x0: Tensor,
    *,
    order: int = 2,
    lower_order_final: bool = True,
    substep: float = 10.0,
    settings: Settings | None = None,
    method: Method | None = None,
) -> Inversion:
    """Backward Euler with a frozen high-order term, for DPM-Solver++ (2M, 3M).

    Args:
        grid: N + 1 noise levels.
        schedule: The model's schedule, for the levels between those of the grid.
        eps: Noise prediction of the batch.
        x0: States at the data end, shape (b, c, h, w).
        order: Of the sampler.
        lower_order_final: As the sampler was run.
        substep: Longest step of the fine-grained naive inversion, training timesteps.
        settings: Of the solves; ``rho`` is not used.
        method: :func:`forward_step` (default) or :func:`gradient_descent`.

    Returns:
        The noise. A step costs one evaluation per sub-step, one at each estimate, and
        one per iteration.
    """
    settings, method = settings or Settings(), method or forward_step
    points = levels(grid)
    orders = step_orders(grid, order, lower_order_final=lower_order_final)

    def step(i: int, x: Tensor) -> Solved:
        target, source = points[i - 1], points[i]
        used = orders[i - 1]
        if used == 1:
            start, frozen = _naive_step(eps, x, target, source), None
        else:
            estimates = _estimates(points[i - 1 : i + used], schedule, eps, x, substep)
            datas = [
                data_prediction(y, eps(y, at.time), at)
                for y, at in zip(estimates, points[i : i + used], strict=True)
            ]
            start, frozen = estimates[0], high_order(datas, points[i - 1 : i + used])
        explicit = _explicit_step(eps, target, source, frozen)
        rho = 10.0 / max(target.time, 10.0)
        return solve(explicit, x, start, rho, settings, method)

    return _run(grid, eps, x0, step)


def substeps(
    target: Level, source: Level, schedule: NoiseSchedule, longest: float
) -> list[Level]:
    """Levels from ``target`` (less noise) to ``source``, both included.

    Uniform in the training timestep, at most ``longest`` apart.
    """
    # The tolerance keeps 20 / 10 at two sub-steps whatever the rounding.
    number = max(1, math.ceil((source.time - target.time) / longest - 1e-9))
    times = np.linspace(target.time, source.time, number + 1)[1:-1]
    log_tau = np.interp(times, schedule.model_times, np.log(schedule.taus))
    inner = [level(math.exp(a), float(t)) for a, t in zip(log_tau, times, strict=True)]
    return [target, *inner, source]


def solve(
    step: Step,
    target: Tensor,
    start: Tensor,
    rho: float,
    settings: Settings,
    method: Method,
) -> Solved:
    """Solve ``step(z) = target`` for every sample of a batch.

    Samples stop on their own: those that are done are no longer evaluated.

    Args:
        step: The sampler's step.
        target: The states after it, shape (b, c, h, w).
        start: First iterates, same shape.
        rho: Step size after the warm-up.
        settings: Everything else.
        method: The direction to move along.

    Returns:
        The best iterates with their relative residuals.
    """
    z, best = start.clone(), start.clone()
    infinite = torch.full((len(z),), torch.inf, dtype=torch.float64)
    best_loss, plateau_loss = infinite.clone(), infinite.clone()
    reduction = torch.ones(len(z), dtype=torch.float64)
    since = torch.zeros(len(z), dtype=torch.int64)
    rows = torch.arange(len(z))
    for k in range(settings.max_iterations):
        residual, direction = method(step, z[rows], target[rows], rows)
        loss = residual.double().square().sum((1, 2, 3))
        better = loss < best_loss[rows]
        best[rows[better]] = z[rows[better]]
        best_loss[rows] = torch.where(better, loss, best_loss[rows])
        # Also drops samples whose loss is NaN or infinite: they cannot come back.
        running = (loss >= settings.sum_of_squares) & loss.isfinite()
        rows, loss, direction = rows[running], loss[running], direction[running]
        if len(rows) == 0:
            break
        size = rho * min((k + 1) / settings.warmup, 1) * reduction[rows]
        z[rows] -= size[:, None, None, None].float() * direction
        progress = loss < plateau_loss[rows] * (1 - 1e-4)
        plateau_loss[rows] = torch.where(progress, loss, plateau_loss[rows])
        since[rows] = torch.where(progress, 0, since[rows] + 1)
        stuck = rows[since[rows] > settings.plateau]
        reduction[stuck] *= settings.plateau_factor
        since[stuck] = 0
    norm = target.double().square().sum((1, 2, 3)).sqrt()
    return Solved(best, best_loss.sqrt() / norm, best_loss < settings.sum_of_squares)


def forward_step(
    step: Step, z: Tensor, target: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Move along the residual itself."""
    residual = step(z, rows) - target
    return residual, residual


def gradient_descent(
    step: Step, z: Tensor, target: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Move along the gradient of the sum of squares of the residual."""
    with torch.enable_grad():
        z = z.detach().requires_grad_(True)
        residual = step(z, rows) - target
        (gradient,) = torch.autograd.grad(residual.square().sum(), z)
    return residual.detach(), gradient


def _explicit_step(
    eps: GuidedEps, target: Level, source: Level, frozen: Tensor | float | None
) -> Step:
    """Return the sampler's step with its high-order term held fixed."""

    def step(z: Tensor, rows: Tensor) -> Tensor:
        data = data_prediction(z, eps(z, source.time, rows), source)
        x = first_order(z, data, target, source)
        return x + frozen[rows] if isinstance(frozen, Tensor) else x

    return step


def _naive_step(eps: GuidedEps, x: Tensor, target: Level, source: Level) -> Tensor:
    """Return the state at ``source``, with the noise of the state at ``target``."""
    predicted = eps(x, source.time)
    data = data_prediction(x, predicted, target)
    return source.alpha * data + source.sigma * predicted


def _estimates(
    path: list[Level],
    schedule: NoiseSchedule,
    eps: GuidedEps,
    x: Tensor,
    longest: float,
) -> list[Tensor]:
    """States at ``path[1:]`` from the one at ``path[0]``, by fine naive inversion."""
    found = []
    for target, source in itertools.pairwise(path):
        fine = substeps(target, source, schedule, longest)
        for a, b in itertools.pairwise(fine):
            x = _naive_step(eps, x, a, b)
        found.append(x)
    return found


@torch.no_grad()
def _run(
    grid: TimeGrid, eps: GuidedEps, x0: Tensor, step: Callable[[int, Tensor], Solved]
) -> Inversion:
    """Invert the steps one by one, from the data end."""
    counts, steps, states = [eps.evaluations.clone()], [], [x0]
    for i in range(1, grid.num_steps + 1):
        steps.append(step(i, states[-1]))
        states.append(steps[-1].value)
        counts.append(eps.evaluations.clone())
    per_step = torch.diff(torch.stack(counts, 1), dim=1)
    return Inversion(
        noise=states[-1],
        states=torch.stack(states),
        evaluations=per_step.sum(1),
        step_evaluations=per_step,
        step_residuals=torch.stack([s.residual for s in steps], 1),
        converged=torch.stack([s.converged for s in steps], 1),
    )

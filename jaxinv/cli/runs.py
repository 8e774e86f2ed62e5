"""The computations that commands share: making a sampler, sampling, inverting."""

import math
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from jaxinv.cli.progress import Observed, Progress
from jaxinv.grid import make_grid
from jaxinv.inversion import SOLVERS, Strategy
from jaxinv.schedule import NoiseSchedule, Spacing, TimestepSpacing

STRATEGIES: tuple[str, ...] = get_args(Strategy)
SOLVER_NAMES: tuple[str, ...] = tuple(SOLVERS)
SPACINGS: tuple[str, ...] = get_args(Spacing)

# Below this ratio of noise levels, a step has several preimages, or nearly so.
SAFE_RATIO = 0.7


class Sampler(NamedTuple):
    """A sampler and what is known of the grid it is on.

    Attributes:
        table: the coefficients.
        worst_ratio: smallest ``tau[i-1] / tau[i]``.
    """

    table: ji.LinearMultistep
    worst_ratio: float


class Outcome(NamedTuple):
    """An inversion, measured.

    Attributes:
        result: noise and certificate; of a naive inversion the residuals are measured
            after the fact.
        evals_per_step: model evaluations for each sampler step.
        seconds: wall time of the inversion, compilation included.
    """

    result: ji.InversionResult
    evals_per_step: float
    seconds: float

    def record(self) -> dict[str, Any]:
        """Returns the certificate for a JSON file."""
        result = self.result
        return {
            "converged": bool(result.converged),
            "residual": float(result.residual),
            "step_residuals": np.asarray(result.step_residuals),
            "iterations": np.asarray(result.iterations),
            "num_evals": int(result.num_evals),
            "depth": int(result.depth),
            "evals_per_step": self.evals_per_step,
            "seconds": round(self.seconds, 3),
        }


def make_sampler(schedule: NoiseSchedule, steps: int, spacing: str) -> Sampler:
    """DDIM on a grid; on diffusers' spacings, stepping exactly as diffusers does.

    Args:
        schedule: The model's schedule.
        steps: Number of steps.
        spacing: A name among ``SPACINGS``.

    Returns:
        The sampler.

    Raises:
        ValueError: For a number of steps or a spacing that the schedule does not have.
    """
    grid = make_grid(schedule, steps, spacing)  # type: ignore[arg-type]
    worst = float(grid.ratio.min())
    if schedule.family == "vp" and spacing in get_args(TimestepSpacing):
        return Sampler(ji.ddim_diffusers(schedule, steps, spacing), worst)  # type: ignore[arg-type]
    return Sampler(ji.ddim(grid), worst)


def draw(
    progress: Progress, title: str, sampler: Sampler, denoise: Observed, noise: Any
) -> tuple[jax.Array, float]:
    """Samples, showing progress.

    Returns:
        The latent and the seconds it took.
    """
    times = np.asarray(sampler.table.model_time)[:0:-1]
    with progress.phase(title, times) as phase:
        latent = ji.sample(sampler.table, denoise, jnp.asarray(noise))
        latent.block_until_ready()
    return latent, phase.seconds


def find_noise(
    progress: Progress,
    title: str,
    sampler: Sampler,
    denoise: Observed,
    latent: jax.Array,
    *,
    strategy: str,
    solver: str,
) -> Outcome:
    """Inverts, showing progress, and measures the residuals of a naive inversion.

    Returns:
        The noise and its certificate.
    """
    naive = strategy == "naive"
    times = np.asarray(sampler.table.model_time)[1:]
    with progress.phase(title, times) as phase:
        result = ji.invert(
            sampler.table,
            denoise,
            latent,
            strategy=strategy,  # type: ignore[arg-type]
            solver=solver,
            return_trajectory=naive,
        )
        jax.block_until_ready(result)
    if result.trajectory is not None:
        with progress.phase("measuring the residuals", times):
            residuals = ji.certify(sampler.table, denoise, result.trajectory)
            residuals.block_until_ready()
        result = result._replace(
            trajectory=None, step_residuals=residuals, residual=jnp.max(residuals)
        )
    evals = int(result.num_evals) / sampler.table.num_steps
    return Outcome(result, evals, phase.seconds)


def decibels(value: Any) -> str:
    """Formats a value in dB for people.

    >>> decibels(-103.21), decibels(float("inf"))
    ('-103.2 dB', 'exact')
    """
    value = float(value)
    if math.isinf(value):
        return "exact"
    return f"{value:.1f} dB"

"""The computations that commands share: sampling and inverting, with progress."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from jaxinv.cli.progress import Observed, Progress
from jaxinv.cli.samplers import Sampler
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.inversion import SOLVERS, auto_strategy
from jaxinv.inversion.invert import check_explicit
from jaxinv.inversion.strategies import make_plan

SOLVER_NAMES: tuple[str, ...] = tuple(SOLVERS)


class Outcome(NamedTuple):
    """An inversion, measured.

    Attributes:
        result: noise and certificate; where the inversion does not measure the
            residuals itself, they are measured after the fact.
        stages: what ran: a strategy, and ``"finish"`` if ``auto`` had to go on.
        evals_per_step: model evaluations for each sampler step.
        seconds: wall time of the inversion, compilation included.
    """

    result: ji.InversionResult
    stages: tuple[str, ...]
    evals_per_step: float
    seconds: float

    def record(self) -> dict[str, Any]:
        """Returns the certificate for a JSON file."""
        result = self.result
        return {
            "converged": bool(result.converged),
            "reconstruction": float(result.reconstruction),
            "state_converged": bool(result.state_converged),
            "state_reconstruction": float(result.state_reconstruction),
            "solved": bool(result.solved),
            "stages": self.stages,
            "residual": float(result.residual),
            "step_residuals": np.asarray(result.step_residuals),
            "iterations": np.asarray(result.iterations),
            "num_evals": int(result.num_evals),
            "depth": int(result.depth),
            "evals_per_step": self.evals_per_step,
            "seconds": round(self.seconds, 3),
        }


def find_latent(
    progress: Progress, pipe: ji.LatentDiffusion, pixels: np.ndarray, method: str
) -> tuple[ji.DecoderInversion, float]:
    """Inverts the decoder, showing progress.

    Returns:
        The latent with its certificate, and the seconds it took.
    """
    with progress.phase("decoder inversion", None) as phase:
        found = pipe.invert_decoder(pixels, method)
        jax.block_until_ready(found)
    return found, phase.seconds


def check_strategy(
    sampler: Sampler, strategy: str, solver: str | None, schedule: NoiseSchedule
) -> None:
    """Raises ValueError for a strategy or solver that the sampler does not have."""
    if isinstance(sampler.table, ji.LinearMultistep):
        make_plan(sampler.table, strategy, solver, schedule)
    else:
        check_explicit(sampler.table, strategy, solver)


def draw(
    progress: Progress,
    title: str,
    sampler: Sampler,
    denoise: Observed,
    noise: jax.Array | ji.SamplerState,
) -> tuple[jax.Array, float]:
    """Samples, showing progress.

    Returns:
        The latent and the seconds it took.
    """
    times = np.asarray(sampler.table.model_time)[:0:-1]
    with progress.phase(title, times) as phase:
        latent = ji.sample(sampler.table, denoise, noise)
        latent.block_until_ready()
    return latent, phase.seconds


def find_noise(
    progress: Progress,
    title: str,
    sampler: Sampler,
    denoise: Observed,
    latent: jax.Array,
    *,
    schedule: NoiseSchedule,
    strategy: str,
    solver: str | None = None,
) -> Outcome:
    """Inverts, showing progress, and measures residuals where nothing else did.

    Args:
        progress: Where to show it.
        title: What to call it there.
        sampler: The sampler.
        denoise: The denoiser, watched.
        latent: What to invert.
        schedule: The model's schedule.
        strategy: A name among ``STRATEGIES``.
        solver: A name among ``SOLVER_NAMES``, for ``"stepwise"`` only.

    Returns:
        The noise and its certificate.
    """
    table = sampler.table
    times = np.asarray(table.model_time)[1:]
    first = auto_strategy(table) if strategy == "auto" else strategy
    # Naive inversion and Algorithm 2 know nothing of the residuals of the rows.
    unmeasured = first == "naive" or (first == "stepwise" and table.history > 1)
    # Only these walk up the steps; the others work on all of them together.
    walked = times if first in ("explicit", "stepwise", "naive") else None
    with progress.phase(title, walked) as phase:
        result = ji.invert(
            table,
            denoise,
            latent,
            strategy=strategy,  # type: ignore[arg-type]
            solver=solver,
            schedule=schedule,
            return_trajectory=unmeasured,
        )
        jax.block_until_ready(result)
    stages: tuple[str, ...] = (first,)
    seconds = phase.seconds
    if int(result.stages) > 1:
        stages = (*stages, "finish")
    if result.trajectory is not None:
        assert isinstance(table, ji.LinearMultistep)
        with progress.phase("measuring the residuals", times):
            residuals = ji.certify(table, denoise, result.trajectory)
            residuals.block_until_ready()
        result = result._replace(
            trajectory=None, step_residuals=residuals, residual=jnp.max(residuals)
        )
    evals = int(result.num_evals) / table.num_steps
    return Outcome(result, stages, evals, seconds)


def decibels(value: Any) -> str:
    """Formats a value in dB for people.

    >>> decibels(-103.21), decibels(float("inf"))
    ('-103.2 dB', 'exact')
    """
    value = float(value)
    if math.isinf(value):
        return "exact"
    return f"{value:.1f} dB"

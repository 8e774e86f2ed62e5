"""The computations that commands share: sampling and inversion, with progress."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from jaxinv.cli.console import Output
from jaxinv.cli.prepare import Prepared
from jaxinv.cli.progress import phase
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion import Algorithm2, Naive
from jaxinv.inversion.strategies import make_plan, stage_names


class Outcome(NamedTuple):
    """An inversion with its cost.

    Attributes:
        result: Noise and certificate; residuals are measured afterward if the inversion
            does not measure them.
        stages: Names of the stages that ran.
        evals_per_step: Model evaluations for each sampler step.
        seconds: Wall time of the inversion, including compilation.
    """

    result: ji.InversionResult
    stages: tuple[str, ...]
    evals_per_step: float
    seconds: float


def find_latent(
    output: Output, ready: Prepared, pixels: np.ndarray
) -> ji.DecoderInversion:
    """Invert the decoder and show the progress."""
    with phase(output.messages, "decoder inversion") as running:
        found = ready.pipe.invert_decoder(pixels, ready.decoder)
        jax.block_until_ready(found)
    output.done("decoder inversion", running.seconds)
    return found


def draw(
    output: Output,
    ready: Prepared,
    denoise: Denoiser,
    noise: jax.Array | ji.SamplerState,
    *,
    title: str = "sampling",
    done: str | None = None,
) -> tuple[jax.Array, float]:
    """Sample and show the progress.

    Args:
        output: The output for the progress.
        ready: The model and the sampler.
        denoise: The model with its prompt.
        noise: The noise or state to start from.
        title: Title of the progress.
        done: Message at the end, or None.

    Returns:
        The latent and the time in seconds.
    """
    table = ready.sampler.table
    with phase(output.messages, title, table.num_steps) as running:
        latent = ji.sample(table, denoise, noise, report=running.report)
        latent.block_until_ready()
    if done is not None:
        output.done(done, running.seconds)
    return latent, running.seconds


def find_noise(
    output: Output,
    ready: Prepared,
    denoise: Denoiser,
    latent: jax.Array,
    *,
    title: str = "inversion",
) -> Outcome:
    """Invert the sampler, and measure residuals if the inversion does not.

    Args:
        output: The output for the progress.
        ready: The model, the sampler, and settings of the inversion.
        denoise: The model with its prompt.
        latent: The latent to invert.
        title: Title of the progress.

    Returns:
        The noise and its certificate.
    """
    table, schedule = ready.sampler.table, ready.pipe.schedule
    plan = make_plan(table, ready.strategy, ready.solver, schedule)
    # These do not measure the residuals of the rows.
    unmeasured = isinstance(plan[0], Naive | Algorithm2)
    names = stage_names(plan)

    def announce(name: str) -> None:
        running.begin(f"{title}: {name}")
        if name != names[0]:
            output.note(f"not converged so far: {name} starts, and is compiled first")

    with phase(output.messages, title, table.num_steps) as running:
        result = ji.invert(
            table,
            denoise,
            latent,
            strategy=plan,
            return_trajectory=unmeasured,
            max_evals=ready.max_evals,
            report=running.report,
            on_stage=announce,
        )
        jax.block_until_ready(result)
    output.done(title, running.seconds)
    stages = names[: int(result.stages)]
    if result.trajectory is not None:
        what = "measuring the residuals"
        with phase(output.messages, what, table.num_steps) as measuring:
            residuals = ji.certify(
                table, denoise, result.trajectory, report=measuring.report
            )
        result = result._replace(
            trajectory=None, step_residuals=residuals, residual=jnp.max(residuals)
        )
    evals = int(result.num_evals) / table.num_steps
    return Outcome(result, stages, evals, running.seconds)

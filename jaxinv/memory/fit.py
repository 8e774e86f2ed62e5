"""How many samples, or levels, fit into the memory of a device."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxinv.denoiser import Denoiser
from jaxinv.inversion import Strategy, Trajectory
from jaxinv.inversion.stages import Stage
from jaxinv.memory.predict import Memory, in_units, predict_memory
from jaxinv.sampling import Sampler
from jaxinv.schedule import NoiseSchedule
from jaxinv.solvers import Solver


class Fit(NamedTuple):
    """The largest number that fits.

    Attributes:
        number: of samples, or of levels.
        memory: what is predicted for so many.
    """

    number: int
    memory: Memory


def largest_batch(
    limit_bytes: int,
    sampler: Sampler,
    denoise: Denoiser,
    shape: Sequence[int],
    *,
    dtype: DTypeLike = jnp.float32,
    strategy: Strategy | Stage | tuple[Stage, ...] = "auto",
    solver: str | Solver | None = None,
    schedule: NoiseSchedule | None = None,
    at_most: int = 1024,
) -> Fit:
    """The most samples that can be inverted at a time in so much memory.

    Args:
        limit_bytes: memory of one device, in bytes. Leave a margin for what the
            prediction does not see: the runtime, and scratch memory of libraries.
        sampler: as of :func:`predict_memory`, as are the others.
        denoise: the denoiser.
        shape: of one sample.
        dtype: of the samples.
        strategy: of the inversion.
        solver: of the stepwise strategy.
        schedule: the model's schedule.
        at_most: the largest batch that is wanted.

    Returns:
        The batch, with its prediction.

    Raises:
        ValueError: if not even one fits, and as :func:`predict_memory`.
    """

    def memory(batch: int) -> Memory:
        return predict_memory(
            sampler,
            denoise,
            shape,
            batch=batch,
            dtype=dtype,
            strategy=strategy,
            solver=solver,
            schedule=schedule,
        )

    return _largest(limit_bytes, memory, at_most, "sample")


def largest_chunk(
    limit_bytes: int,
    sampler: Sampler,
    denoise: Denoiser,
    shape: Sequence[int],
    *,
    batch: int = 1,
    dtype: DTypeLike = jnp.float32,
    trajectory: Trajectory | None = None,
) -> Fit:
    """The most levels that ``Trajectory(chunk=...)`` can evaluate at a time.

    Args:
        limit_bytes: as of :func:`largest_batch`.
        sampler: as of :func:`predict_memory`, as are the others.
        denoise: the denoiser.
        shape: of one sample.
        batch: samples at a time on the device.
        dtype: of the samples.
        trajectory: all other settings.

    Returns:
        The chunk, with its prediction.

    Raises:
        ValueError: if not even one level fits, and as :func:`predict_memory`.
    """
    settings = trajectory or Trajectory()

    def memory(chunk: int) -> Memory:
        return predict_memory(
            sampler,
            denoise,
            shape,
            batch=batch,
            dtype=dtype,
            strategy=dataclasses.replace(settings, chunk=chunk),
        )

    return _largest(limit_bytes, memory, sampler.num_steps, "level")


def _largest(
    limit_bytes: int, memory: Callable[[int], Memory], at_most: int, what: str
) -> Fit:
    """Bisection, each step where the straight line between its ends meets the limit."""
    if limit_bytes <= 0 or at_most < 1:
        raise ValueError(
            "the limit in bytes and the largest number must be positive, got "
            f"{limit_bytes} and {at_most}"
        )
    low, high = 1, at_most + 1
    fit, above = Fit(1, memory(1)), None
    if fit.memory.total > limit_bytes:
        raise ValueError(
            f"not even one {what} at a time fits into {in_units(limit_bytes)}: "
            f"predicted are {fit.memory}"
        )
    slope: float = fit.memory.total - fit.memory.parameters
    while high - low > 1:
        if above is not None:
            slope = (above.memory.total - fit.memory.total) / (high - low)
        guess = low + int((limit_bytes - fit.memory.total) / max(slope, 1))
        guess = min(max(guess, low + 1), high - 1)
        found = Fit(guess, memory(guess))
        if found.memory.total <= limit_bytes:
            slope = (found.memory.total - fit.memory.total) / (guess - low)
            low, fit = guess, found
        else:
            high, above = guess, found
    return fit

r"""Naive inversion in sub-steps, at levels between those of a grid.

A timestep is an index into the schedule's training levels. Sub-steps are uniform in the
timestep, as few as a maximal length allows. For the published (VP) schedules the
timestep is the model's time, and log tau is linear between indices; flow matching and
VE have their own times and linear tau.

References:
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387,
    Algorithm 2, lines 3 to 6.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinv.diffusion.denoiser import Denoiser, TrainingLevels
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.samplers.table import Coefficients, SamplerTable


def fine_naive(
    schedule: NoiseSchedule,
    table: SamplerTable,
    denoise: Denoiser,
    index: Float[Array, "n+1"],
    i: Int[Array, ""],
    u: Float[Array, "*shape"],
    substeps: Int[Array, ""],
) -> Float[Array, "*shape"]:
    """Advance from level i - 1 to level i by a number of naive steps, possibly zero.

    Args:
        schedule: The model's schedule.
        table: The table, in the dtype of the states.
        denoise: The denoiser.
        index: Positions of the table's levels in the schedule (:func:`index_of`).
        i: The target level.
        u: The state of level i - 1.
        substeps: Number of sub-steps.

    Returns:
        The state of level i.
    """
    training = TrainingLevels.of(schedule)

    def level(m: Array) -> tuple[Array, Array, Array, Array]:
        """Return the level after m sub-steps, at the ends that of the grid."""
        part = m.astype(u.dtype) / jnp.maximum(substeps, 1).astype(u.dtype)
        at = index[i - 1] + part * (index[i] - index[i - 1])
        scale, unit, tau, time = _level(schedule, at)

        def choose(values: Coefficients, inner: Array) -> Array:
            upper = jnp.where(m == substeps, values[i], inner)
            return jnp.where(m == 0, values[i - 1], upper)

        return (
            choose(table.scale, scale / unit),
            choose(table.ode.unit, unit),
            choose(table.tau, tau),
            choose(table.model_time, time),
        )

    def step(m: Array, u: Array) -> Array:
        scale, unit, tau, _ = level(m)
        _, unit_next, tau_next, time_next = level(m + 1)
        x = scale * u
        f = denoise(x, time_next).astype(u.dtype)
        if table.output is not None:
            f = training.f(table.output, x, time_next, f)
        return unit_next * (u / unit + (tau_next - tau) * f)

    return jax.lax.fori_loop(jnp.zeros_like(substeps), substeps, step, u)


def count_of(distance: Float[Array, ""], longest: float) -> Int[Array, ""]:
    """Return the smallest number of sub-steps of at most a given length.

    The tolerance allows rounding of times up to 1000: 20 / 10 gives two sub-steps.
    """
    tolerance = 2000 * jnp.finfo(distance.dtype).eps / longest
    return jnp.maximum(jnp.ceil(distance / longest - tolerance), 1).astype(jnp.int32)


def index_of(
    schedule: NoiseSchedule, times: Float[Array, "n+1"]
) -> Float[Array, "n+1"]:
    """Return the fractional indices of model times in the training levels."""
    known = jnp.asarray(schedule.model_times, times.dtype)
    return jnp.interp(times, known, jnp.arange(len(known), dtype=times.dtype))


def _level(schedule: NoiseSchedule, at: Array) -> tuple[Array, Array, Array, Array]:
    """Return scale, unit, tau and model time at a fractional index."""
    indices = jnp.arange(schedule.num_train_timesteps, dtype=at.dtype)
    time = jnp.interp(at, indices, jnp.asarray(schedule.model_times, at.dtype))
    taus = jnp.asarray(schedule.taus, at.dtype)
    if schedule.in_log_levels:
        tau = jnp.exp(jnp.interp(at, indices, jnp.log(taus)))
    else:
        tau = jnp.interp(at, indices, taus)
    one = jnp.ones_like(tau)
    unit = one / jnp.sqrt((schedule.sigma_data or 1.0) ** 2 + tau**2)
    if schedule.family == "flow":
        unit = one
    return unit if schedule.family == "vp" else one, unit, tau, time

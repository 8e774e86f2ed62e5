r"""Naive inversion in sub-steps, which visit levels between those of a grid.

A timestep is an index into the schedule's training levels. Sub-steps are uniform in
it, as few as make each at most so long. For the published (VP) schedules it is the
model's time, and log tau is linear between indices; flow matching and VE have their own
times and linear tau.

References:
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387,
    Algorithm 2, lines 3 to 6.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.samplers.table import Coefficients, LinearMultistep


def fine_naive(
    schedule: NoiseSchedule,
    table: LinearMultistep,
    denoise: Denoiser,
    index: Float[Array, "n+1"],
    i: Int[Array, ""],
    y: Float[Array, "*shape"],
    substeps: Int[Array, ""],
) -> Float[Array, "*shape"]:
    """Go from level i - 1 to level i in so many naive steps (none: y as it is).

    Args:
        schedule: the model's schedule.
        table: the table, in the dtype of the states.
        denoise: the denoiser.
        index: where the table's levels lie in the schedule (:func:`index_of`).
        i: the level to go to.
        y: the state of level i - 1.
        substeps: how many.

    Returns:
        The state of level i.
    """

    def level(m: Array) -> tuple[Array, Array, Array]:
        """Scale, tau and model time after m sub-steps: at both ends the grid's own."""
        part = m.astype(y.dtype) / jnp.maximum(substeps, 1).astype(y.dtype)
        at = index[i - 1] + part * (index[i] - index[i - 1])
        scale, tau, time = _level(schedule, at)

        def choose(values: Coefficients, inner: Array) -> Array:
            upper = jnp.where(m == substeps, values[i], inner)
            return jnp.where(m == 0, values[i - 1], upper)

        return (
            choose(table.scale, scale),
            choose(table.tau, tau),
            choose(table.model_time, time),
        )

    def step(m: Array, y: Array) -> Array:
        scale, tau, _ = level(m)
        _, tau_next, time_next = level(m + 1)
        f = denoise(scale * y, time_next).astype(y.dtype)
        return y + (tau_next - tau) * f

    return jax.lax.fori_loop(jnp.zeros_like(substeps), substeps, step, y)


def count_of(distance: Float[Array, ""], longest: float) -> Int[Array, ""]:
    """Return the least number of sub-steps that makes each at most so long.

    The tolerance is the rounding of times up to 1000: 20 / 10 stays two sub-steps.
    """
    tolerance = 2000 * jnp.finfo(distance.dtype).eps / longest
    return jnp.maximum(jnp.ceil(distance / longest - tolerance), 1).astype(jnp.int32)


def index_of(
    schedule: NoiseSchedule, times: Float[Array, "n+1"]
) -> Float[Array, "n+1"]:
    """Return where model times lie among the training levels, fractional."""
    known = jnp.asarray(schedule.model_times, times.dtype)
    return jnp.interp(times, known, jnp.arange(len(known), dtype=times.dtype))


def _level(schedule: NoiseSchedule, at: Array) -> tuple[Array, Array, Array]:
    """Scale, tau and model time at a fractional index."""
    indices = jnp.arange(schedule.num_train_timesteps, dtype=at.dtype)
    time = jnp.interp(at, indices, jnp.asarray(schedule.model_times, at.dtype))
    taus = jnp.asarray(schedule.taus, at.dtype)
    if schedule.family == "vp":
        tau = jnp.exp(jnp.interp(at, indices, jnp.log(taus)))
        return 1 / jnp.sqrt(1 + tau**2), tau, time
    tau = jnp.interp(at, indices, taus)
    return jnp.ones_like(tau), tau, time

"""The residuals of a trajectory, however it was found."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.callables import check_denoiser, split_callable
from jaxinv.checks import checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion.row_residuals import per_level, residuals
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling.sample import evaluate, in_dtype

# Levels evaluated in one call: more gain little, and memory grows.
_BATCH = 8


@checked
def certify(
    sampler: LinearMultistep, denoise: Denoiser, trajectory: Float[Array, "n+1 *shape"]
) -> Float[Array, "n"]:
    """Residual of every step of a trajectory, however it was found.

    Args:
        sampler: the table.
        denoise: callable pytree ``(x, t) -> f`` on one sample.
        trajectory: states x at all noise levels, data first.

    Returns:
        ``|step_i(x[i], x[i+1], ...) - x[i-1]| / |x[i-1]|`` for i = 1 .. N, from N
        evaluations.

    Raises:
        ValueError: if the trajectory does not have N + 1 states.
    """
    trajectory = jnp.asarray(trajectory)
    if trajectory.ndim < 1 or trajectory.shape[0] != sampler.num_rows + 1:
        raise ValueError(
            f"expected the {sampler.num_rows + 1} states of a sampler with "
            f"{sampler.num_steps} steps, got an array of shape {trajectory.shape}"
        )
    arrays, rebuild = split_callable(denoise)
    return _certify(sampler, arrays, rebuild, trajectory)


@jax.jit(static_argnames="rebuild")
def _certify(
    sampler: LinearMultistep, arrays: list[Any], rebuild: Any, trajectory: Array
) -> Array:
    denoise = rebuild(arrays)
    check_denoiser(denoise, trajectory[0])
    table = in_dtype(sampler, trajectory.dtype)
    states = trajectory / per_level(table.scale, trajectory)
    return row_errors(table, denoise, states[0], states[1:])


def row_errors(
    table: LinearMultistep, denoise: Denoiser, start: Array, states: Array
) -> Array:
    """The relative residuals of ``y[1] .. y[N]``, from N evaluations."""
    outputs = jax.lax.map(
        lambda pair: evaluate(table, denoise, *pair),
        (jnp.arange(1, table.num_rows + 1), states),
        batch_size=_BATCH,
    )
    return residuals(table, start, states, outputs)[1]

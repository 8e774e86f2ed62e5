"""The residuals of any trajectory."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.callables import Function, check_denoiser
from jaxinv.checks import checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion.row_residuals import per_level, residuals
from jaxinv.loops import Report, run_in_turns
from jaxinv.norms import relative
from jaxinv.samplers.table import SamplerTable
from jaxinv.samplers.units import matched
from jaxinv.sampling.sample import Descent, evaluate, in_dtype
from jaxinv.sampling.state import unlabeled
from jaxinv.sampling.steps import Window

#: Number of rows measured in one call: more gain little, and memory grows.
ROWS_AT_ONCE = 8


@checked
def certify(
    sampler: SamplerTable,
    denoise: Denoiser,
    trajectory: Float[Array, "n+1 *shape"],
    *,
    report: Report | None = None,
) -> Float[Array, "n"]:
    """Measure the residual of every step of a trajectory.

    Args:
        sampler: The table.
        denoise: Callable pytree ``(x, t) -> f`` on one sample.
        trajectory: States x at all noise levels, data first.
        report: Function that receives the number of finished steps after each step. The
            rows are then measured one by one, by the program of ``sample(...,
            report=...)``.

    Returns:
        ``|step_i(x[i], x[i+1], ...) - x[i-1]| / |x[i-1]|`` for i = 1 .. N, from N
        evaluations.

    Raises:
        ValueError: If the trajectory does not have N + 1 states.
    """
    trajectory = jnp.asarray(trajectory)
    if trajectory.ndim < 1 or trajectory.shape[0] != sampler.num_rows + 1:
        raise ValueError(
            f"expected the {sampler.num_rows + 1} states of a sampler with "
            f"{sampler.num_rows} rows, got an array of shape {trajectory.shape}"
        )
    sampler, model = matched(sampler, denoise, trajectory.shape[1:])
    if report is None:
        return _certify(sampler, model, trajectory)
    # Sampling that is reset to the trajectory after each row.
    program = unlabeled(sampler)
    made = run_in_turns(
        Descent(trajectory.dtype),
        (program, model),
        trajectory[-1],
        report=report,
        amend=lambda state: _returned(program, trajectory, state),
    )
    return _relative_errors(made, trajectory)


@jax.jit
def _returned(
    sampler: SamplerTable, trajectory: Array, state: tuple[Array, Window, Array]
) -> tuple[Array, Window, Array]:
    """Return the state of sampling, with the trajectory's state at its level."""
    i, window, xs = state
    y = trajectory[i] / jnp.asarray(sampler.scale, trajectory.dtype)[i]
    return i, window._replace(states=window.states.at[0].set(y)), xs


@jax.jit
def _relative_errors(made: Array, trajectory: Array) -> Array:
    """Return the error of the result of each row, relative to the exact state."""
    return jax.vmap(relative)(made[:-1] - trajectory[:-1], trajectory[:-1])


@jax.jit
def _certify(sampler: SamplerTable, denoise: Function, trajectory: Array) -> Array:
    check_denoiser(denoise, trajectory[0])
    table = in_dtype(sampler, trajectory.dtype)
    states = trajectory / per_level(table.scale, trajectory)
    return row_errors(table, denoise, states[0], states[1:])


def row_errors(
    table: SamplerTable, denoise: Denoiser, start: Array, states: Array
) -> Array:
    """Return the relative residuals of ``u[1] .. u[N]``, from N evaluations."""
    outputs = jax.lax.map(
        lambda pair: evaluate(table, denoise, *pair),
        (jnp.arange(1, table.num_rows + 1), states),
        batch_size=ROWS_AT_ONCE,
    )
    return residuals(table, start, states, outputs)[1]

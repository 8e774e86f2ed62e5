r"""Models of the Jacobian at every level, from measurements of earlier sweeps.

The rows of a table couple the levels linearly, with known coefficients. Only the model
is nonlinear, and its output at a level depends only on the state of that level. The
Jacobian of all rows is therefore known except for one block ``J_i = do_i/du_i`` per
level, and each of the last m sweeps has measured every block along one direction:
``do_i = J_i du_i``. With D_i the directions (columns of length one) and F_i the changes
of the output along them, the multisecant model of a block is

    J_i = s_i I + (F_i - s_i D_i) T_i D_i^T,    T_i = (D_i^T D_i + damping I)^-1,

which reproduces the measurements and is one number, the slope s_i, in all other
directions. Newton's equations with these blocks, for all levels together, are a banded
system with a correction of rank N m. By the Woodbury identity they cost one linear
system of N unknowns (for all numbers of the states), one of N m unknowns, and no
evaluation of the model. (The two solves are sequential on purpose: XLA's CPU runtime
can deadlock if two batched LAPACK calls, as from ``jax.vmap``, run in parallel on few
threads.)

One sweep adds N measurements, not one: Anderson acceleration of whole trajectories
would use the same history through m numbers, this method uses it through N m numbers.

References:
    Fang & Saad 2009, Numer. Linear Algebra Appl. 16, 197-221 (multisecant methods).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.inversion.row_residuals import (
    gaussian_sizes,
    output_matrix,
    per_level,
    rows_matrix,
)
from jaxinv.samplers.table import SamplerTable

#: Limit on the unknowns of the dense system of the correction.
MAX_UNKNOWNS = 2000

# Limit on derivatives of the data prediction.
_LARGEST = 1e9


class Secants(NamedTuple):
    """Ring buffers over sweeps, and the slope in directions without measurements.

    Attributes:
        slopes: The slopes s_i, shape (N,).
        d_states: Changes of the states in earlier sweeps, shape (N, m, ...).
        d_outputs: Changes of the model's outputs, shape (N, m, ...).
        recorded: Number of sweeps, shape ().
    """

    slopes: Float[Array, "n"]
    d_states: Float[Array, "n m *shape"]
    d_outputs: Float[Array, "n m *shape"]
    recorded: Int[Array, ""]


def no_secants(
    table: SamplerTable, start: Float[Array, "*shape"], history: int
) -> Secants:
    """Return secants without measurements, with the slopes of Gaussian data.

    Args:
        table: The table, in the dtype of the states.
        start: ``u[0]``, whose mean square is the variance of the data.
        history: m, at least 1; it is reduced for many levels.

    Returns:
        Empty secants.
    """
    n = table.num_rows
    m = max(1, min(history, MAX_UNKNOWNS // n))
    size, lengths = gaussian_sizes(table, start)
    length = lengths[1:]
    of_data = size * (size * table.ode.signal[1:]) / length / length
    empty = jnp.zeros((n, m, *start.shape), start.dtype)
    slopes = slopes_of_output(table, of_data)
    return Secants(slopes, empty, empty, jnp.zeros((), jnp.int32))


def record(
    table: SamplerTable,
    secants: Secants,
    d_states: Float[Array, "n *shape"],
    d_outputs: Float[Array, "n *shape"],
) -> Secants:
    """Replace the oldest measurement by that of a new sweep.

    The new slope is the mean of the old slope and the slope along the change. Slopes
    are limited to Jacobians dD/dy of the data prediction from 0 to 3/2, so that no
    pivot of the banded system is close to zero.

    Args:
        table: The table.
        secants: The secants so far.
        d_states: Change of the states; zero for levels that were not evaluated again.
        d_outputs: Change of the outputs.

    Returns:
        The secants with this sweep.
    """
    axes = tuple(range(1, d_states.ndim))
    square = jnp.sum(d_states * d_states, axes)
    measured = jnp.sum(d_states * d_outputs, axes) / jnp.where(square > 0, square, 1)
    usable = (square > 0) & jnp.isfinite(measured)
    measured = clipped(table, measured, 0.0, 1.5)
    slopes = jnp.where(usable, (secants.slopes + measured) / 2, secants.slopes)
    place = secants.recorded % secants.d_states.shape[1]
    keep = per_level(usable, d_states)
    return Secants(
        slopes,
        secants.d_states.at[:, place].set(jnp.where(keep, d_states, 0)),
        secants.d_outputs.at[:, place].set(jnp.where(keep, d_outputs, 0)),
        secants.recorded + 1,
    )


def slopes_of_output(
    table: SamplerTable, of_data: Float[Array, "n"]
) -> Float[Array, "n"]:
    """Return the derivatives of the outputs o by u, from those of the data prediction.

    Args:
        table: The table.
        of_data: ``dD/du`` at the levels 1 .. N.
    """
    p, q = table.ode.of_data[1:, 0], table.ode.of_data[1:, 1]
    known = (q != 0) & jnp.isfinite(q)
    return jnp.where(known, (of_data - p) / jnp.where(known, q, 1), 0)


def clipped(
    table: SamplerTable, slopes: Float[Array, "n"], low: float, high: float
) -> Float[Array, "n"]:
    """Limit derivatives of the outputs, do/du, to a range of dD/dy.

    Args:
        table: The table.
        slopes: The derivatives at the levels 1 .. N.
        low: Smallest dD/dy, as far as dD/du is not above 1.
        high: Largest dD/dy; it is no limit at an infinite level.
    """
    unit = jnp.maximum(jnp.asarray(table.ode.unit)[1:], 1 / _LARGEST)
    # dD/dy = c dD/du.
    ends = [
        slopes_of_output(table, jnp.minimum(low / unit, 1)),
        slopes_of_output(table, high / unit),
    ]
    return jnp.clip(slopes, jnp.minimum(*ends), jnp.maximum(*ends))


def forget(secants: Secants, when: Bool[Array, ""]) -> Secants:
    """Drop all measured directions, but keep the slopes."""
    return secants._replace(
        d_states=jnp.where(when, 0, secants.d_states),
        d_outputs=jnp.where(when, 0, secants.d_outputs),
        recorded=jnp.where(when, 0, secants.recorded),
    )


def newton_step(
    table: SamplerTable,
    secants: Secants,
    residual: Float[Array, "n *shape"],
    open_rows: Bool[Array, "n"],
) -> Float[Array, "n *shape"]:
    """Return the change of the trajectory that solves the multisecant model.

    Args:
        table: The table, in the dtype of the residuals.
        secants: The measurements of the model.
        residual: R, one entry per row.
        open_rows: The rows to solve; the levels of other rows do not change.

    Returns:
        d for the levels 1 .. N.
    """
    n, m = secants.d_states.shape[:2]
    dtype = residual.dtype
    with jax.default_matmul_precision("highest"):
        matrix = rows_matrix(table, secants.slopes)
        coupling = output_matrix(table)
        matrix = jnp.where(open_rows[:, None], matrix, jnp.eye(n, dtype=dtype))
        coupling = jnp.where(open_rows[:, None], coupling, 0)
        flat = residual.reshape(n, -1)
        flat = jnp.where(open_rows[:, None], flat, 0)
        solved = jnp.linalg.solve(matrix, jnp.concatenate([-flat, coupling], axis=1))
        step, coupling = solved[:, : flat.shape[1]], solved[:, flat.shape[1] :]

        # Normalize columns without copies of the buffers.
        directions = secants.d_states.reshape(n, m, -1)
        changes = secants.d_outputs.reshape(n, m, -1)
        lengths = jnp.sqrt(jnp.sum(directions * directions, axis=-1))
        lengths = jnp.where(lengths > 0, lengths, 1)
        # The equations of all levels together, for z_i = T_i D_i^T d_i.
        gram = jnp.einsum("imd,lkd->imlk", directions, directions)
        inner = jnp.einsum("imd,lkd->imlk", directions, changes)
        inner = inner - secants.slopes[:, None] * gram
        same = jnp.eye(n, dtype=dtype)[:, None, :, None]
        equations = same * gram + coupling[:, None, :, None] * inner
        equations = equations / (lengths[:, :, None, None] * lengths)
        damping = jnp.finfo(dtype).eps ** 0.75 * jnp.eye(n * m, dtype=dtype)
        target = jnp.einsum("imd,id->im", directions, step) / lengths
        weights = jnp.linalg.solve(
            equations.reshape(n * m, n * m) + damping, target.reshape(-1)
        )
        weights = weights.reshape(n, m) / lengths
        moved = jnp.einsum("lm,lmd->ld", weights, changes)
        moved -= secants.slopes[:, None] * jnp.einsum("lm,lmd->ld", weights, directions)
        step = step - coupling @ moved
    return step.reshape(residual.shape)

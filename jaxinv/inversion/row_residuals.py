r"""All rows of a table at once: their residuals, and a cheap approximate inverse.

A trajectory is ``U = (u[1], ..., u[N])`` with ``u[0]`` given. With the model's outputs
O at those states, the residuals of the N rows are

    R[i] = sum_j ( a[i,j] u[i+j] + b[i,j] o[i+j] ) - u[i-1],        i = 1 .. N,

and U is a trajectory of the sampler exactly if all residuals are zero. This module does
not evaluate the model. Arrays over levels have N entries: entry ``i - 1`` belongs to
level (or row) i.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.norms import at_least_tiny, norm
from jaxinv.samplers.table import Coefficients, SamplerTable


def per_level(values: Coefficients, like: Array) -> Array:
    """Reshape one number per level to broadcast against states of all levels."""
    return jnp.reshape(values, (-1,) + (1,) * (like.ndim - 1))


def level_norms(x: Float[Array, "n *shape"]) -> Float[Array, "n"]:
    """Return the Euclidean norm of each level's state."""
    return norm(x, axis=tuple(range(1, x.ndim)))


def gaussian_sizes(
    table: SamplerTable, start: Float[Array, "*shape"]
) -> tuple[Float[Array, ""], Float[Array, "n+1"]]:
    """Return the standard deviations of the data and of states u, level by level.

    Args:
        table: The table.
        start: ``u[0]``, whose mean square gives that of the data.
    """
    ode = table.ode
    size = norm(start) / float(start.size) ** 0.5 / ode.unit[0]
    return size, jnp.hypot(size * ode.signal, jnp.asarray(ode.noise))


def default_row_rtol(dtype: Any) -> float:
    """Return the default tolerance of a row's relative residual.

    Args:
        dtype: Floating-point dtype of the states.

    Returns:
        5e-6 in float32, where rounding of the model's outputs and of a row's terms
        leaves 1e-6 on a real network, and up to 4e-6 for long and guided steps; 2.5e-13
        in float64.
    """
    return 2.5e-13 if jnp.finfo(dtype).bits == 64 else 5e-6


def row_sums(
    table: SamplerTable,
    states: Float[Array, "n *shape"],
    outputs: Float[Array, "n *shape"],
) -> Float[Array, "n *shape"]:
    """Return the right-hand sides of all rows: the result of each step.

    Args:
        table: The table, in the dtype of the states.
        states: ``u[1] .. u[N]``.
        outputs: The model's outputs there.

    Returns:
        Entry i - 1 is the sum of row i.
    """
    n, k = table.a.shape
    # The table has zeros for missing older states: pad with any finite value.
    padding = jnp.zeros((k - 1, *states.shape[1:]), states.dtype)
    states = jnp.concatenate([states, padding])
    outputs = jnp.concatenate([outputs, padding])
    total = jnp.zeros_like(states[:n])
    if table.shift is not None:
        total += table.shift
    for j in range(k):
        u, o = states[j : j + n], outputs[j : j + n]
        total += per_level(table.a[:, j], u) * u + per_level(table.b[:, j], o) * o
    return total


def residuals(
    table: SamplerTable,
    start: Float[Array, "*shape"],
    states: Float[Array, "n *shape"],
    outputs: Float[Array, "n *shape"],
) -> tuple[Float[Array, "n *shape"], Float[Array, "n"]]:
    """Return the residuals of all rows, and their norms relative to the exact result.

    Args:
        table: The table, in the dtype of the states.
        start: ``u[0]``.
        states: ``u[1] .. u[N]``.
        outputs: The model's outputs there.

    Returns:
        The residuals in the unit of u, and ``|R[i]| / |u[i-1]|``, which is also valid
        for the state x.
    """
    after = jnp.concatenate([start[None], states[:-1]])
    residual = row_sums(table, states, outputs) - after
    return residual, level_norms(residual) / at_least_tiny(level_norms(after))


def norms_after(
    start: Float[Array, "*shape"], states: Float[Array, "n *shape"]
) -> Float[Array, "n"]:
    """Return the norms of the states that the rows should reproduce, above zero."""
    return at_least_tiny(level_norms(jnp.concatenate([start[None], states[:-1]])))


def approximate_inverse(
    table: SamplerTable,
    slopes: Float[Array, "n"],
    residual: Float[Array, "n *shape"],
) -> Float[Array, "n *shape"]:
    """Return the change of the trajectory that removes the residuals of a simple model.

    Newton's method would solve ``dR/dU d = -R``. Here one number per level replaces the
    model's Jacobian, ``do/du = slope``. The result is a small banded system, of the
    size of the number of steps, which is the same for every number of the states,

        sum_j (a[i,j] + b[i,j] slope[i+j]) d[i+j] - d[i-1] = -R[i],    d[0] = 0.

    Args:
        table: The table, in the dtype of the residuals.
        slopes: The number per level; zero for constant outputs of the model.
        residual: R, one entry per row, with any further axes.

    Returns:
        d for the levels 1 .. N.
    """
    flat = residual.reshape(residual.shape[0], -1)
    with jax.default_matmul_precision("highest"):
        changes = -jnp.linalg.solve(rows_matrix(table, slopes), flat)
    return changes.reshape(residual.shape)


def rows_matrix(table: SamplerTable, slopes: Float[Array, "n"]) -> Array:
    """Return the matrix of the rows: entry (i - 1, m - 1) weighs d[m] in row i."""
    return (
        _banded(table.a, slopes.dtype)
        - jnp.eye(table.num_rows, k=-1, dtype=slopes.dtype)
        + output_matrix(table) * slopes
    )


def output_matrix(table: SamplerTable) -> Float[Array, "n n"]:
    """Return the matrix of the outputs: entry (i - 1, m - 1) weighs o[m] in row i."""
    return _banded(table.b, jnp.asarray(table.b).dtype)


def _banded(weights: Coefficients, dtype: Any) -> Array:
    """Return the square matrix with entries (i, i + j) equal to ``weights[i, j]``."""
    n, k = weights.shape
    return sum(
        (jnp.diag(weights[: n - j, j], k=j) for j in range(k)),
        start=jnp.zeros((n, n), dtype),
    )

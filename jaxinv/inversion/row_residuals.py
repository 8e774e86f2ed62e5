r"""All rows of a table at once: their residuals, and a cheap approximate inverse.

A trajectory is ``Y = (y[1], ..., y[N])`` with ``y[0]`` given. With the model's outputs
F at those states, the residuals of the N rows are

    R[i] = sum_j ( a[i,j] y[i+j] + b[i,j] f[i+j] ) - y[i-1],        i = 1 .. N,

and the trajectory is one of the sampler exactly when all are zero. No model is run
here. Arrays over levels have N entries: entry ``i - 1`` belongs to level (or row) i.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.norms import at_least_tiny, norm
from jaxinv.samplers.table import Coefficients, LinearMultistep


def per_level(values: Coefficients, like: Array) -> Array:
    """One number per level, shaped to broadcast against states of all levels."""
    return jnp.reshape(values, (-1,) + (1,) * (like.ndim - 1))


def level_norms(x: Float[Array, "n *shape"]) -> Float[Array, "n"]:
    """Euclidean norm of each level's state."""
    return norm(x, axis=tuple(range(1, x.ndim)))


def default_row_rtol(dtype: Any) -> float:
    """The default tolerance of a row's relative residual.

    Args:
        dtype: floating-point dtype of the states.

    Returns:
        5e-6 in float32, where the rounding of the model's outputs and of a row's terms
        leaves 1e-6 on a real network, and up to 4e-6 where steps are long and guided;
        2.5e-13 in float64.
    """
    return 2.5e-13 if jnp.finfo(dtype).bits == 64 else 5e-6


def row_sums(
    table: LinearMultistep,
    states: Float[Array, "n *shape"],
    outputs: Float[Array, "n *shape"],
    first: int = 0,
) -> Float[Array, "n *shape"]:
    """The right-hand sides of all rows: what each step makes of the states.

    Args:
        table: the table, in the dtype of the states.
        states: ``y[1] .. y[N]``.
        outputs: the model's outputs there.
        first: leave out the terms ``j < first``: 1 for the older states only.

    Returns:
        Entry i - 1 is the sum of row i.
    """
    n, k = table.a.shape
    # The table has zeros where there is no older state: pad with anything finite.
    padding = jnp.zeros((k - 1, *states.shape[1:]), states.dtype)
    states = jnp.concatenate([states, padding])
    outputs = jnp.concatenate([outputs, padding])
    total = jnp.zeros_like(states[:n])
    for j in range(first, k):
        y, f = states[j : j + n], outputs[j : j + n]
        total += per_level(table.a[:, j], y) * y + per_level(table.b[:, j], f) * f
    return total


def residuals(
    table: LinearMultistep,
    start: Float[Array, "*shape"],
    states: Float[Array, "n *shape"],
    outputs: Float[Array, "n *shape"],
) -> tuple[Float[Array, "n *shape"], Float[Array, "n"]]:
    """Residuals of all rows, and their norms relative to the state to be reproduced.

    Args:
        table: the table, in the dtype of the states.
        start: ``y[0]``.
        states: ``y[1] .. y[N]``.
        outputs: the model's outputs there.

    Returns:
        The residuals in the coordinate y, and ``|R[i]| / |y[i-1]|``, which is the same
        in the state x.
    """
    after = jnp.concatenate([start[None], states[:-1]])
    residual = row_sums(table, states, outputs) - after
    return residual, level_norms(residual) / at_least_tiny(level_norms(after))


def approximate_inverse(
    table: LinearMultistep,
    slopes: Float[Array, "n"],
    residual: Float[Array, "n *shape"],
) -> Float[Array, "n *shape"]:
    """The change of the trajectory that would remove the residuals of a simple model.

    Newton's method would solve ``dR/dY d = -R``. Here the model's Jacobian is replaced
    by one number per level, ``df/dy = slope``. What remains is the same small system
    for every number of the states, banded, of the size of the number of steps,

        sum_j (a[i,j] + b[i,j] slope[i+j]) d[i+j] - d[i-1] = -R[i],    d[0] = 0.

    Args:
        table: the table, in the dtype of the residuals.
        slopes: the number per level; zero holds the model's outputs constant.
        residual: R, one entry per row (further axes are carried along).

    Returns:
        d for the levels 1 .. N.
    """
    # Balanced, so that rounding at the noise end is not large at the data end.
    sizes = balance(table)
    matrix = rows_matrix(table, slopes) * sizes[:-1, None] / sizes[1:]
    flat = residual.reshape(residual.shape[0], -1) * sizes[:-1, None]
    with jax.default_matmul_precision("highest"):
        changes = -jnp.linalg.solve(matrix, flat) / sizes[1:, None]
    return changes.reshape(residual.shape)


def balance(table: LinearMultistep) -> Float[Array, "n+1"]:
    """Factors that make the states y of all levels similarly large, for unit data."""
    return 1 / jnp.sqrt(1 + jnp.asarray(table.tau) ** 2)


def rows_matrix(table: LinearMultistep, slopes: Float[Array, "n"]) -> Array:
    """The matrix of that system: entry (i - 1, m - 1) weighs d[m] in row i."""
    return (
        _banded(table.a, slopes.dtype)
        - jnp.eye(table.num_rows, k=-1, dtype=slopes.dtype)
        + output_matrix(table) * slopes
    )


def output_matrix(table: LinearMultistep) -> Float[Array, "n n"]:
    """How the outputs enter the rows: entry (i - 1, m - 1) weighs f[m] in row i."""
    return _banded(table.b, jnp.asarray(table.b).dtype)


def _banded(weights: Coefficients, dtype: Any) -> Array:
    """Entry (i, i + j) of the square matrix is ``weights[i, j]``."""
    n, k = weights.shape
    return sum(
        (jnp.diag(weights[: n - j, j], k=j) for j in range(k)),
        start=jnp.zeros((n, n), dtype),
    )

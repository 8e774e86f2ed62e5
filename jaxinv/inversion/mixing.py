r"""The least squares problem of Anderson mixing over whole trajectories.

    gamma = argmin | target - sum_j gamma_j rows_j |,   regularised.

Differences of late sweeps are tiny beside those of early ones and nearly parallel.
Columns are scaled to length one, then orthogonalised (QR, not normal equations, whose
condition number is the square), and directions whose singular value is below what the
dtype resolves are damped (Tikhonov).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def minimise(
    columns: Float[Array, "n m *shape"],
    target: Float[Array, "n *shape"],
    weights: Float[Array, "n"],
) -> Float[Array, "m"]:
    """Coefficients of the regularised, weighted least squares problem.

    Args:
        columns: m vectors, each with n levels; zero vectors get the coefficient 0.
        target: what is to be combined from them.
        weights: weight of each level.

    Returns:
        The m coefficients.
    """
    n, m = columns.shape[:2]
    eps = jnp.finfo(columns.dtype).eps
    matrix = columns.reshape(n, m, -1) * weights[:, None, None]
    matrix = jnp.swapaxes(matrix, 1, 2).reshape(-1, m)
    right = (target.reshape(n, -1) * weights[:, None]).reshape(-1)
    lengths = jnp.sqrt(jnp.sum(matrix * matrix, axis=0))
    lengths = jnp.where(lengths > 0, lengths, 1)
    matrix = matrix / lengths
    # Fewer numbers than columns: QR of a wide matrix has nothing to orthogonalise.
    rows = matrix.shape[0]
    if rows < m:
        matrix = jnp.concatenate([matrix, jnp.zeros((m - rows, m), matrix.dtype)])
        right = jnp.concatenate([right, jnp.zeros((m - rows,), right.dtype)])
    q, r = jnp.linalg.qr(matrix)
    u, singular, vt = jnp.linalg.svd(r)
    damping = 10 * eps * singular[0]
    inverse = singular / jnp.maximum(
        singular**2 + damping**2, jnp.finfo(eps.dtype).tiny
    )
    projected = jnp.sum(u * jnp.sum(q * right[:, None], axis=0)[:, None], axis=0)
    return jnp.sum(vt * (inverse * projected)[:, None], axis=0) / lengths

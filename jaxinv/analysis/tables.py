r"""Order and stability of a table: what its coefficients alone say.

**Order conditions.** A row is of order p if it is exact wherever the solution y is a
polynomial in tau of degree p. With ``t[j] = tau[i+j] - tau[i]``, ``h = tau[i] -
tau[i-1]`` and t[-1] = -h, the residuals are

    C[i,q] = (t[-1]^q - sum_j (a[i,j] t[j]^q + q b[i,j] t[j]^(q-1))) / h^q.

A row of order p has C[i,q] = 0 for q <= p, and is off by ``C[i,p+1] h^(p+1) / (p+1)!``
times the next derivative. Exponential rows (DPM-Solver++, ``o_belm_log_snr``) are exact
for other functions than polynomials: theirs vanish up to q = 1 and are small beyond, as
h becomes small. What they are worth is measured by
:func:`jaxinv.analysis.local_error`.

**Zero-stability.** Without a model (f = 0) a row is a linear map of the last k states,
with the companion matrix

    M[i] = [ a[i,0] .. a[i,k-1] ;  I  0 ],

and an error made at level m arrives at level l multiplied by the product of all
matrices between. A family of tables is zero-stable if these products stay bounded as
its steps are refined; on uneven steps the eigenvalues of single matrices do not decide
that, products do. They are taken over the actual grid, for every m and l. The reverse
products, of the inverses, say what the inverse of a bidirectional table does to errors.

References:
    Hairer, Norsett & Wanner 1993, "Solving Ordinary Differential Equations I", III.2
    (order), III.3 (zero-stability) and III.5 (variable steps, Theorem 5.5).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxinv.checks import checked
from jaxinv.samplers.table import LinearMultistep

#: Growth of errors up to which a table counts as stable on its grid.
LARGEST_GROWTH = 100.0

# Residuals of order conditions below this, relative to their largest term, are zero.
_ROUNDING = 1e-9


@checked
def order_conditions(
    table: LinearMultistep, highest: int = 7
) -> Float[np.ndarray, "n q+1"]:
    """Residuals of the order conditions of every row.

    Args:
        table: the table, on the host.
        highest: the largest degree q.

    Returns:
        C[i,q] at index (i - 1, q), in units of ``h[i]^q``; for a row between two
        states of one level, as EDICT's are, h is what the whole row spans.
    """
    a, b, tau = (np.asarray(v, np.float64) for v in (table.a, table.b, table.tau))
    conditions = []
    for i in range(1, table.num_steps + 1):
        used = min(table.history, table.num_steps + 1 - i)
        h = _unit(tau, i, used)
        t = (tau[i - 1 : i + used] - tau[i]) / h
        row = []
        for q in range(highest + 1):
            slopes = q * t[1:] ** max(q - 1, 0)
            known = a[i - 1, :used] @ t[1:] ** q + b[i - 1, :used] @ slopes / h
            row.append(t[0] ** q - known)
        conditions.append(row)
    return np.array(conditions)


@checked
def row_orders(table: LinearMultistep, highest: int = 7) -> np.ndarray:
    """The order of every row: the largest p whose conditions 0 .. p it meets.

    Args:
        table: the table, on the host.
        highest: the largest order to look for.

    Returns:
        shape (N,), integers; -1 for a row that is not exact for a constant. Exponential
        rows have 1 here.
    """
    a, b, tau = (np.asarray(v, np.float64) for v in (table.a, table.b, table.tau))
    met = np.zeros((table.num_steps, highest + 2), bool)
    for i, row in enumerate(order_conditions(table, highest), start=1):
        used = min(table.history, table.num_steps + 1 - i)
        h = _unit(tau, i, used)
        t = np.abs(tau[i : i + used] - tau[i]) / h
        for q, residual in enumerate(row):
            slopes = q * t ** max(q - 1, 0)
            sizes = np.abs(a[i - 1, :used]) @ t**q
            sizes += np.abs(b[i - 1, :used]) @ slopes / h
            met[i - 1, q] = abs(residual) <= _ROUNDING * max(sizes, 1)
    return np.argmin(met, axis=1) - 1


def _unit(tau: np.ndarray, i: int, used: int) -> float:
    """The step of row i, or what the row spans if that is none."""
    return float(tau[i] - tau[i - 1] or tau[i + used - 1] - tau[i - 1] or 1.0)


class ZeroStability(NamedTuple):
    """What the rows alone do to errors.

    Attributes:
        growth: the largest norm (maximum norm) of any product of companion matrices:
            by how much sampling multiplies an error. Infinite if it overflows.
        inverse_growth: the same for inversion; NaN for tables that are not
            bidirectional.
        radius: shape (N - k + 1,). Spectral radius of every full row's matrix. Above 1
            by ``O(h)`` is harmless where steps vary.
        stable: whether ``growth`` is at most :data:`LARGEST_GROWTH`. On one grid that
            is a convention; zero-stability proper is that ``growth`` stays bounded from
            grid to grid, as N becomes large.
    """

    growth: float
    inverse_growth: float
    radius: Float[np.ndarray, "m"]
    stable: bool


@checked
def zero_stability(table: LinearMultistep) -> ZeroStability:
    """How errors grow by the rows of a table alone, over its own grid.

    Rows without full history are left out: they act on fewer states.

    Args:
        table: the table, on the host.

    Returns:
        Growth in both directions, and a verdict.

    Example:
        O-BELM is stable on Stable Diffusion's grid; with three states and the highest
        order, rows are not:

        >>> import jaxinv as ji
        >>> grid = ji.time_grid(ji.scaled_linear(), 50)
        >>> ji.analysis.zero_stability(ji.o_belm(grid)).stable
        True
        >>> ji.analysis.zero_stability(ji.belm(grid, 3)).growth > 1e30
        True
    """
    matrices = companion_matrices(table)
    inverse_growth = np.nan
    if table.bidirectional:
        inverse_growth = _growth(np.linalg.inv(matrices))
    growth = _growth(matrices[::-1])
    return ZeroStability(
        growth,
        inverse_growth,
        np.max(np.abs(np.linalg.eigvals(matrices)), axis=1),
        growth <= LARGEST_GROWTH,
    )


@checked
def companion_matrices(table: LinearMultistep) -> Float[np.ndarray, "m k k"]:
    """The matrix of every row with full history; index i - 1 for the row of level i."""
    k = table.history
    full = np.asarray(table.a, np.float64)[: table.num_steps + 1 - k]
    matrices = np.zeros((len(full), k, k))
    matrices[:, 0] = full
    matrices[:, 1:, :-1] = np.eye(k - 1)
    return matrices


def _growth(matrices: Float[np.ndarray, "m k k"]) -> float:
    """Largest maximum norm of the products of consecutive matrices, first to last."""
    k = matrices.shape[-1]
    products = np.zeros((0, k, k))
    largest = 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        for matrix in matrices:
            # One product for every place at which an error can be made.
            products = matrix @ np.concatenate([products, np.eye(k)[None]])
            norms = np.max(np.sum(np.abs(products), axis=2), axis=1)
            largest = max(largest, float(np.max(norms)))
            if not np.isfinite(largest):
                return np.inf
    return largest

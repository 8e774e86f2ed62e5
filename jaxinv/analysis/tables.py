r"""Order and stability of a table, from its coefficients alone.

**Order conditions.** A row is of order p if it is exact wherever the solution y is a
polynomial in tau of degree p. With ``t[j] = tau[i+j] - tau[i]``, ``h = tau[i] -
tau[i-1]`` and t[-1] = -h, the residuals are

    C[i,q] = (t[-1]^q - sum_j (a[i,j] t[j]^q + q b[i,j] t[j]^(q-1))) / h^q.

A row of order p has C[i,q] = 0 for q <= p, and its error is ``C[i,p+1] h^(p+1) /
(p+1)!`` times the next derivative. Exponential rows (DPM-Solver++, ``o_belm_log_snr``)
are exact for functions other than polynomials: their residuals vanish up to q = 1, and
beyond that only in the limit of small h. :func:`jaxinv.analysis.local_error` measures
their error.

**Zero-stability.** Without a model (f = 0) a row is a linear map of the last k states,
with the companion matrix

    M[i] = [ a[i,0] .. a[i,k-1] ;  I  0 ],

and the product of all matrices from level m to level l multiplies an error made at
level m. A family of tables is zero-stable if these products stay bounded as the steps
are refined. On uneven steps the eigenvalues of single matrices do not determine that;
the products over the actual grid do, for every m and l. The reverse products of the
inverse matrices give the growth of errors in the inverse of a bidirectional table.

References:
    Hairer, Norsett & Wanner 1993, "Solving Ordinary Differential Equations I", III.2
    (order), III.3 (zero-stability) and III.5 (variable steps, Theorem 5.5).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jaxinv.checks import checked
from jaxinv.samplers.table import SamplerTable
from jaxinv.samplers.units import in_tau

#: Limit on the growth of errors for a table that counts as stable on its grid.
LARGEST_GROWTH = 100.0

# Residuals of order conditions count as zero below this, relative to their largest
# term.
_ROUNDING = 1e-9


@checked
def order_conditions(
    table: SamplerTable, highest: int = 7
) -> Float[np.ndarray, "n q+1"]:
    """Compute the residuals of the order conditions of every row.

    Args:
        table: The table, on the host.
        highest: The largest degree q.

    Returns:
        C[i,q] at index (i - 1, q), in units of ``h[i]^q``. For rows between two states
        of one level, as in EDICT, h is the span of the whole row.
    """
    table = in_tau(table)
    a, b, tau = (np.asarray(v, np.float64) for v in (table.a, table.b, table.tau))
    conditions = []
    for i in range(1, table.num_rows + 1):
        used = min(table.history, table.num_rows + 1 - i)
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
def row_orders(table: SamplerTable, highest: int = 7) -> np.ndarray:
    """Return the order of every row: the largest p whose conditions 0 .. p it meets.

    Args:
        table: The table, on the host.
        highest: The largest order to check.

    Returns:
        Integers, shape (N,); -1 for a row that is not exact for a constant, 1 for
        exponential rows.
    """
    rows = in_tau(table)
    a, b, tau = (np.asarray(v, np.float64) for v in (rows.a, rows.b, rows.tau))
    met = np.zeros((table.num_rows, highest + 2), bool)
    for i, row in enumerate(order_conditions(table, highest), start=1):
        used = min(table.history, table.num_rows + 1 - i)
        h = _unit(tau, i, used)
        t = np.abs(tau[i : i + used] - tau[i]) / h
        for q, residual in enumerate(row):
            slopes = q * t ** max(q - 1, 0)
            sizes = np.abs(a[i - 1, :used]) @ t**q
            sizes += np.abs(b[i - 1, :used]) @ slopes / h
            met[i - 1, q] = abs(residual) <= _ROUNDING * max(sizes, 1)
    return np.argmin(met, axis=1) - 1


def _unit(tau: np.ndarray, i: int, used: int) -> float:
    """Return the step of row i, or the span of the row if the step is zero."""
    return float(tau[i] - tau[i - 1] or tau[i + used - 1] - tau[i - 1] or 1.0)


class ZeroStability(NamedTuple):
    """Growth of errors by the rows of a table alone.

    Attributes:
        growth: Largest maximum norm of any product of companion matrices: the factor by
            which sampling multiplies an error. Infinite if it overflows.
        inverse_growth: The same factor for inversion; NaN for tables that are not
            bidirectional.
        radius: Spectral radius of every full row's matrix, shape (N - k + 1,). Values
            above 1 by ``O(h)`` are harmless if steps vary.
        stable: Whether ``growth`` is at most :data:`LARGEST_GROWTH`. This is a
            convention for one grid; zero-stability proper means that ``growth`` stays
            bounded over grids of increasing N.
    """

    growth: float
    inverse_growth: float
    radius: Float[np.ndarray, "m"]
    stable: bool


@checked
def zero_stability(table: SamplerTable) -> ZeroStability:
    """Compute the growth of errors by the rows of a table alone, over its own grid.

    Rows without full history are omitted, because they act on fewer states.

    Args:
        table: The table, on the host.

    Returns:
        Growth in both directions, and a verdict.

    Example:
        O-BELM is stable on Stable Diffusion's grid; BELM with three states and the
        highest order is not:

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
def companion_matrices(table: SamplerTable) -> Float[np.ndarray, "m k k"]:
    """Return the companion matrix of every row with full history, data end first."""
    table, k = in_tau(table), table.history
    full = np.asarray(table.a, np.float64)[: table.num_rows + 1 - k]
    matrices = np.zeros((len(full), k, k))
    matrices[:, 0] = full
    matrices[:, 1:, :-1] = np.eye(k - 1)
    return matrices


def _growth(matrices: Float[np.ndarray, "m k k"]) -> float:
    """Return the largest maximum norm of products of consecutive matrices."""
    k = matrices.shape[-1]
    products = np.zeros((0, k, k))
    largest = 1.0
    with np.errstate(over="ignore", invalid="ignore"):
        for matrix in matrices:
            # One product for every level at which an error can occur.
            products = matrix @ np.concatenate([products, np.eye(k)[None]])
            norms = np.max(np.sum(np.abs(products), axis=2), axis=1)
            largest = max(largest, float(np.max(norms)))
            if not np.isfinite(largest):
                return np.inf
    return largest

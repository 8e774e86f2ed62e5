r"""Bidirectional samplers: tables whose rows are explicit in both directions.

A row of k states that uses the oldest state, but not the model's output there,

    y[i-1] = sum_{j<k-1} (a[i,j] y[i+j] + b[i,j] f[i+j])  +  a[i,k-1] y[i+k-1],

is explicit in both directions: solved for ``y[i+k-1]``, it needs only known outputs.
The inverse needs no solver and is exact up to rounding. All proposed samplers with
exact inversion are such rows, with different choices of the ``2k - 1`` coefficients.
Here they are chosen by *order conditions*: the row is exact if the solution is a
polynomial in tau up to a degree,

    t[-1]^q = sum_j a[j] t[j]^q + q b[j] t[j]^(q-1),     t[j] = tau[i+j],   q = 0, 1, ..

which is a small linear system on any grid. In flow matching, tau is the time of the
flow and f its velocity, so these samplers also run on flows.

The rows and inverses follow the equations of the papers. BELM's repository differs: it
inverts BDIA with a first step that omits the model's output (a noise of norm 23.5
instead of 15.0), and its interpolation scripts do so for O-BELM. The second state at
the data end is an option of :class:`jaxinv.inversion.explicit.Explicit`.

**The highest order.** With all 2k - 1 coefficients the order is 2k - 2: 2, 4, 6 for
k = 2, 3, 4 (:func:`belm`). But by Dahlquist's first barrier, a zero-stable explicit row
of k states has at most order k, so of these only k = 2 is stable: k = 3 and 4 multiply
rounding errors by more than 4 per step. Stable rows of higher k have free coefficients.
On even steps:

* k = 3: a row of order 3 has ``a[1] = 5 + 4 a[2]``, and for every a[2] its extraneous
  roots leave the unit disc or coincide with the root 1. So order 2 remains. Normalized
  by the sum of b, as it enters the global error, the error constant is at least that of
  k = 2: a third state gains nothing.
* k = 4: ``y[i-1]`` from ``y[i+3]`` and three slopes, ``h (8/3, -4/3, 8/3)``, has order
4
  and the roots of ``z^4 = 1``: Milne's predictor. No stable row has a higher order.

:func:`o_belm` provides these two, k = 2 and k = 4, on uneven steps. All roots lie on
the unit circle, the price of being explicit both ways: errors that one direction damps
are amplified by the other.

**Steps that shrink** toward the data, as is usual, help one direction. The extraneous
root of O-BELM is ``-(h[i] / h[i+1])^2``: errors that alternate in sign shrink in
sampling by a total of ``(h[1] / h[N])^2``, and *grow by its inverse* in inversion (2e5
on Stable Diffusion's schedule, uniform in log-SNR). The rows of
:mod:`jaxinv.samplers.bidirectional_log_snr` have their order in log-SNR, and their
roots stay closer to the unit circle. If steps *grow* toward the data, as those of a
flow near its noise end on a grid uniform in log-SNR, sampling amplifies errors: by 5e4
with 200 steps. Use even steps in t for flows, the spacing ``"linspace"``, and
:func:`jaxinv.analysis.zero_stability` to analyze any grid.

References:
    Wang et al. 2024, "BELM: Bidirectional Explicit Linear Multi-step Sampler for Exact
    Inversion in Diffusion Models", arXiv:2410.07273.
    Zhang et al. 2023, "Exact Diffusion Inversion via Bi-directional Integration
    Approximation", arXiv:2307.10829 (BDIA).
    Dahlquist 1956, "Convergence and Stability in the Numerical Integration of Ordinary
    Differential Equations", Math. Scand. 4; Hairer, Norsett & Wanner 1993, III.3.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxinv.checks import checked
from jaxinv.diffusion.grid import TimeGrid
from jaxinv.samplers.table import SamplerTable, from_rows

# Weights of the states and of the outputs of a row, newest first.
Row = tuple[Sequence[float], Sequence[float]]

# The states and outputs, counted from level i, that a row of k = 4 uses.
MILNE = ((0, 3), (0, 1, 2))


@checked
def o_belm(grid: TimeGrid, k: int = 2) -> SamplerTable:
    r"""Return O-BELM: the stable bidirectional row with the least truncation error.

    With ``h[i] = tau[i] - tau[i-1]`` and ``r = h[i] / h[i+1]``, k = 2 is

        y[i-1] = r^2 y[i+1] + (1 - r^2) y[i] - (h[i] + r h[i]) f[i],

    of second order; on even steps it is the leapfrog method. k = 4 uses ``y[i]``,
    ``y[i+3]`` and the slopes f[i], f[i+1], f[i+2], with the five weights of fourth
    order; on even steps it is Milne's predictor. It starts with rows of k = 2, whose
    error limits that of the whole trajectory to ``O(h^2)`` unless the start is a state.
    k = 3 does not exist: see :mod:`jaxinv.samplers.bidirectional`.

    Args:
        grid: The noise levels, at least k steps.
        k: Number of states in a row, 2 or 4.

    Returns:
        A bidirectional table of order k.

    Raises:
        ValueError: For another k, fewer steps than k, or equal neighboring levels.

    References:
        Wang et al. 2024, arXiv:2410.07273, Eq. 18; Hairer, Norsett & Wanner 1993,
        III.1 (Milne).
    """
    if k == 3:
        raise ValueError(
            "o_belm has k = 2 or 4: a stable row of three states has second order and "
            "an error no smaller than that of k = 2 (see jaxinv.samplers.bidirectional)"
        )
    check_grid("o_belm", grid, k, (2, 4))
    rows = [euler_row(grid, grid.num_steps)]
    for i in range(grid.num_steps - 1, 0, -1):
        if k == 2 or i + 3 > grid.num_steps:
            rows.append(leapfrog_row(grid, i))
        else:
            rows.append(polynomial_row(grid, i, *MILNE))
    return table_of_rows(
        grid, rows, k, name="o_belm" if k == 2 else f"o_belm_{k}", order=k
    )


@checked
def belm(grid: TimeGrid, k: int = 2) -> SamplerTable:
    """Return BELM of the highest order, with all coefficients from order conditions.

    k = 2 is :func:`o_belm`. k = 3 and 4 have orders 4 and 6 and are *not zero-stable*:
    they multiply every error by more than 4 per step, and only serve to demonstrate
    that (:func:`jaxinv.analysis.zero_stability`). Rows near the noise end, which have
    fewer states, are those of smaller k; the first is Euler's.

    Args:
        grid: The noise levels, at least k steps.
        k: Number of states in a row, 2 to 4.

    Returns:
        A bidirectional table of order ``2k - 2``.

    Raises:
        ValueError: For another k, fewer steps than k, or equal neighboring levels.

    References:
        Wang et al. 2024, arXiv:2410.07273, Section 3.
    """
    check_grid("belm", grid, k, (2, 3, 4))
    rows = [euler_row(grid, grid.num_steps)]
    for i in range(grid.num_steps - 1, 0, -1):
        used = min(k, grid.num_steps + 1 - i)
        rows.append(polynomial_row(grid, i, range(used), range(used - 1)))
    return table_of_rows(grid, rows, k, name=f"belm_{k}", order=2 * k - 2)


@checked
def bdia(grid: TimeGrid, gamma: float = 0.96) -> SamplerTable:
    r"""Return BDIA: DDIM's step forward plus gamma times the error of its step back.

        x[i-1] = DDIM(x[i]; i -> i-1) + gamma (x[i+1] - DDIM(x[i]; i -> i+1)),

    where both steps use the output at level i. In the coordinate y, with
    ``g = gamma scale[i+1] / scale[i-1]`` and the steps h of :func:`o_belm`,

        y[i-1] = g y[i+1] + (1 - g) y[i] - (h[i] + g h[i+1]) f[i].

    ``g = r^2`` would be O-BELM: BDIA with another gamma in every step. In the limit
    ``gamma -> 0`` the row becomes DDIM's, which is not bidirectional.

    Args:
        grid: The noise levels, at least two steps.
        gamma: In (0, 1]. Inversion multiplies some errors by ``1 / gamma`` per step.

    Returns:
        A bidirectional table of two states. It has first order, or second order for
        gamma = 1 if steps vary smoothly.

    Raises:
        ValueError: For another gamma, fewer than two steps, or equal neighboring
            levels.

    References:
        Zhang et al. 2023, arXiv:2307.10829, Eq. 14 to 17.
    """
    if not 0 < gamma <= 1:
        raise ValueError(
            f"bdia needs 0 < gamma <= 1, got {gamma!r}: gamma = 0 is ddim, which is "
            "not bidirectional, and above 1 errors grow without bound"
        )
    check_grid("bdia", grid, 2, (2,))
    rows = [euler_row(grid, grid.num_steps)]
    for i in range(grid.num_steps - 1, 0, -1):
        before, after = np.diff(grid.tau[i - 1 : i + 2])
        g = gamma * grid.scale[i + 1] / grid.scale[i - 1]
        rows.append(([1 - g, g], [-(before + g * after)]))
    return table_of_rows(grid, rows, 2, name="bdia", order=2 if gamma == 1 else 1)


def euler_row(grid: TimeGrid, i: int) -> Row:
    """Return the row to level i - 1 from level i alone."""
    return [1.0], [grid.tau[i - 1] - grid.tau[i]]


def leapfrog_row(grid: TimeGrid, i: int) -> Row:
    """Return the row of O-BELM with two states to level i - 1."""
    before, after = np.diff(grid.tau[i - 1 : i + 2])
    r = before / after
    return [1 - r**2, r**2], [-before * (1 + r)]


def polynomial_row(
    grid: TimeGrid, i: int, states: Sequence[int], slopes: Sequence[int]
) -> Row:
    """Return the row to level i - 1 that is exact for polynomials in tau."""
    tau = grid.tau - grid.tau[i - 1]
    weights = polynomial_weights(tau[i + np.array(states)], tau[i + np.array(slopes)])
    a, b = np.zeros(max(states) + 1), np.zeros(max(slopes) + 1)
    a[list(states)], b[list(slopes)] = weights
    return list(a), list(b)


def polynomial_weights(
    states: Float[np.ndarray, "m"], slopes: Float[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "n"]]:
    """Return weights of values and slopes that give ``p(0)`` for polynomials p.

    Args:
        states: Positions of known values of p.
        slopes: Positions of known derivatives of p.

    Returns:
        The weights of both, exact for degrees up to ``m + n - 1``.
    """
    size = np.max(np.abs(states))
    degrees = np.arange(len(states) + len(slopes))[:, None]
    values = (states / size) ** degrees
    derivatives = degrees * (slopes / size) ** np.maximum(degrees - 1, 0)
    weights = np.linalg.solve(np.hstack([values, derivatives]), 0.0 ** degrees[:, 0])
    return weights[: len(states)], weights[len(states) :] * size


def table_of_rows(
    grid: TimeGrid, rows: Sequence[Row], k: int, *, name: str, order: int
) -> SamplerTable:
    """Return the table of rows that are given from the noise end to the data end."""
    a, b = np.zeros((grid.num_steps, k)), np.zeros((grid.num_steps, k))
    for row, (of_states, of_outputs) in zip(
        reversed(range(grid.num_steps)), rows, strict=True
    ):
        a[row, : len(of_states)] = of_states
        b[row, : len(of_outputs)] = of_outputs
    return from_rows(grid, a, b, name=name, order=order)


def check_grid(name: str, grid: TimeGrid, k: int, known: tuple[int, ...]) -> None:
    """Raise ValueError unless a bidirectional table of k states fits the grid."""
    if k not in known:
        raise ValueError(
            f"{name} has k = {', '.join(map(str, known))} states per row, got {k!r}"
        )
    if grid.num_steps < k:
        raise ValueError(
            f"{name} with rows of {k} states needs a grid of at least {k} steps, got "
            f"{grid.num_steps}"
        )
    if np.any(np.diff(grid.tau) <= 0):
        raise ValueError(
            f"{name} needs distinct noise levels, but tau[0] = tau[1] = "
            f"{grid.tau[0]:.3g}: a step of length zero forgets the oldest state and "
            "cannot be undone"
        )

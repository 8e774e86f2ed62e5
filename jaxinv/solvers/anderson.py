r"""Anderson acceleration of the fixed-point iteration.

With ``g(z) = z - R(z) / slope`` and ``r = g(z) - z``, keep the last m differences
``dr`` of the residuals and ``dz`` of the iterates, and take

    gamma = argmin |r - sum_j gamma_j dr_j|,
    z <- z + r - sum_j gamma_j (dz_j + dr_j).

On a linear problem this is GMRES. On the steps of a sampler it needs 4 to 8
evaluations, compared with tens for the plain iteration. The least squares problem is
solved by Gram-Schmidt orthogonalization, not by normal equations, which would square
the condition number: differences of successive residuals are nearly parallel and vary
by orders of magnitude, and float32 has only seven digits.

References:
    Walker & Ni 2011, "Anderson Acceleration for Fixed-Point Iterations", SIAM J. Numer.
    Anal. 49(4), Algorithm AA and Section 4 (QR form).
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinv.checks import AtLeastOne, Tolerance, checked
from jaxinv.loops import Loop
from jaxinv.norms import norm
from jaxinv.solvers.iteration import (
    Evaluation,
    IterativeSolver,
    Residual,
    Rule,
    Stopping,
    dot,
    iteration,
    plain,
)


@checked
@dataclasses.dataclass(frozen=True)
class Anderson(IterativeSolver):
    """Anderson acceleration with a history of m differences.

    Attributes:
        history: m, the number of stored differences.
        max_iterations: Largest number of evaluations per solve.
        rtol: Relative residual at which to stop; None for 1e-6 in float32 and 1e-13
            in float64.
        patience: Number of iterations without a better iterate after which to stop.
    """

    history: AtLeastOne = 5
    max_iterations: AtLeastOne = 50
    rtol: Tolerance | None = None
    patience: AtLeastOne = 10

    def loop(
        self,
        residual: Residual,
        guess: Float[Array, "*shape"],
        *,
        slope: Float[Array, ""],
        reference: Float[Array, ""],
    ) -> Loop:
        """Return its loop; see :class:`jaxinv.solvers.iteration.IterativeSolver`."""

        def update(
            k: Array, z: Array, at: Evaluation, memory: Mixing
        ) -> tuple[Array, Mixing]:
            return mix(k, z, -at.direction / slope, memory)

        memory = no_history(guess, self.history)
        stopping = Stopping(
            self.max_iterations, self.rtol, patience=self.patience, rounded=True
        )
        rule = Rule(plain(residual), update, memory, stopping)
        return iteration(rule, guess, reference)


class Mixing(NamedTuple):
    """The memory of Anderson mixing.

    Attributes:
        dz: Differences of successive iterates, in a ring buffer, shape (m, ...).
        dr: Differences of their residuals, shape (m, ...).
        z: The last iterate.
        r: The residual of the last iterate.
    """

    dz: Float[Array, "m *shape"]
    dr: Float[Array, "m *shape"]
    z: Float[Array, "*shape"]
    r: Float[Array, "*shape"]


def no_history(guess: Float[Array, "*shape"], history: int) -> Mixing:
    """Return the memory before the first iterate, for a number of differences."""
    zeros = jnp.zeros((min(history, guess.size), *guess.shape), guess.dtype)
    return Mixing(zeros, zeros, guess, jnp.zeros_like(guess))


def mix(
    k: Int[Array, ""],
    z: Float[Array, "*shape"],
    r: Float[Array, "*shape"],
    memory: Mixing,
) -> tuple[Float[Array, "*shape"], Mixing]:
    """Return the next iterate.

    Args:
        k: Number of the iterate, from 0.
        z: The iterate.
        r: ``g(z) - z``, where the fixed point of g is sought.
        memory: The memory of earlier iterates.

    Returns:
        The next iterate and the new memory.
    """
    history = len(memory.dz)
    slot = (k - 1) % history
    # The first iterate has no predecessor: its slot stays zero, which the least squares
    # problem ignores.
    dz = memory.dz.at[slot].set(jnp.where(k == 0, 0, z - memory.z))
    dr = memory.dr.at[slot].set(jnp.where(k == 0, 0, r - memory.r))
    # Newest first: of two parallel vectors, Gram-Schmidt keeps the first.
    newest_first = (slot - jnp.arange(history)) % history
    gamma = least_squares(dr[newest_first], r)
    mixed = [
        gamma[j] * (dz[newest_first[j]] + dr[newest_first[j]]) for j in range(history)
    ]
    return z + r - sum(mixed), Mixing(dz, dr, z, r)


def least_squares(
    rows: Float[Array, "m *shape"], target: Float[Array, "*shape"]
) -> Float[Array, "m"]:
    """Return the coefficients c that minimize ``|target - sum_j c_j rows_j|``.

    The method is modified Gram-Schmidt with one re-orthogonalization. A row that is
    zero or, up to rounding, depends on earlier rows gets the coefficient 0.

    Args:
        rows: m vectors of equal shape.
        target: A vector of that shape.

    Returns:
        The m coefficients.
    """
    m = rows.shape[0]
    eps = jnp.finfo(rows.dtype).eps
    basis: list[Array] = []
    r = [[jnp.zeros((), rows.dtype)] * m for _ in range(m)]
    keep: list[Array] = []
    projections: list[Array] = []
    for j in range(m):
        v = rows[j]
        size = norm(v)
        for _ in range(2):
            for i in range(j):
                h = dot(basis[i], v)
                r[i][j] = r[i][j] + h
                v = v - h * basis[i]
        length = norm(v)
        independent = length > 10 * eps * size
        r[j][j] = jnp.where(independent, length, 1)
        q = jnp.where(independent, v / r[j][j], 0)
        h = dot(q, target)
        target = target - h * q
        basis.append(q)
        keep.append(independent)
        projections.append(h)
    solution = [jnp.zeros((), rows.dtype)] * m
    for j in reversed(range(m)):
        tail = sum(
            (r[j][i] * solution[i] for i in range(j + 1, m)),
            start=jnp.zeros((), rows.dtype),
        )
        solution[j] = jnp.where(keep[j], (projections[j] - tail) / r[j][j], 0)
    return jnp.stack(solution)

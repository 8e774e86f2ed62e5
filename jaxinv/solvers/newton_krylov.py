r"""Newton's method with GMRES, for problems without a contracting fixed-point map.

At an iterate z, solve ``R'(z) s = -R(z)`` for the step s and move to ``z + t s``. The
Jacobian is never formed: GMRES (:mod:`jaxinv.solvers.krylov`) only needs its products
with vectors, each one forward-mode pass through the model. Without reverse mode and
stored linearizations, the memory is that of inference plus the Krylov vectors. The
unknown may have any shape: the state of one step, or all states of a trajectory.

Three rules make the method cheap and safe:

* *inexact steps* (Eisenstat & Walker): far from the solution, the linear system is
  solved roughly, to ``|R + R' s| <= eta |R|``, and more exactly the faster the residual
  decreases: ``eta = 0.9 (|R_k| / |R_{k-1}|)^2``, which preserves superlinear
  convergence; never more exactly than the tolerance requires;
* *backtracking* (Armijo): t is reduced until ``|R(z + t s)|`` has decreased by a
  fraction of the linear model's prediction. A GMRES step with eta < 1 always points
  downhill;
* *truncation*: GMRES minimizes ``|R + R' s|`` over a small Krylov space, which bounds
  the step for a nearly singular Jacobian.

The search fails where the Jacobian is singular and the residual is not zero, a local
minimum of ``|R|``. The result then has ``converged=False``.

References:
    Eisenstat & Walker 1996, "Choosing the Forcing Terms in an Inexact Newton Method",
    SIAM J. Sci. Comput. 17(1), Choice 2 and its safeguard.
    Kelley 2003, "Solving Nonlinear Equations with Newton's Method", SIAM, Sections 1.6
    (line search) and 3.2 (Newton-GMRES).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxinv.checks import AtLeastOne, Positive, Tolerance, Whole, checked
from jaxinv.loops import Loop
from jaxinv.norms import norm
from jaxinv.solvers.iteration import (
    IterativeSolver,
    Residual,
    Solution,
    default_rtol,
)
from jaxinv.solvers.krylov import gmres

#: Fraction of the predicted decrease that a step must achieve (Kelley 2003, Eq. 1.21).
SUFFICIENT_DECREASE = 1e-4


@checked
@dataclasses.dataclass(frozen=True)
class NewtonKrylov(IterativeSolver):
    """Inexact Newton with GMRES, backtracking, and only forward-mode derivatives.

    An iteration costs two evaluations per Krylov vector (the primal and the tangent)
    and one per trial step: the cost of a solve is the ``num_evals`` of its solution,
    not ``iterations``.

    Attributes:
        max_iterations: Largest number of iterates, including the guess.
        krylov: Largest number of Krylov vectors per step, each of the unknown's size.
        rtol: Relative residual at which to stop; None for 1e-6 in float32 and 1e-13
            in float64.
        forcing: Largest eta, which is used in the first step.
        backtracks: Largest number of reductions of a step, after which to stop.
    """

    max_iterations: AtLeastOne = 20
    krylov: AtLeastOne = 30
    rtol: Tolerance | None = None
    forcing: Positive = 0.3
    backtracks: Whole = 8

    def loop(
        self,
        residual: Residual,
        guess: Float[Array, "*shape"],
        *,
        slope: Float[Array, ""],
        reference: Float[Array, ""],
        max_evals: Int[Array, ""] | None = None,
    ) -> Loop:
        """Return its loop; see :class:`jaxinv.solvers.iteration.IterativeSolver`.

        Args:
            residual: R.
            guess: The first iterate.
            slope: The derivative of R for a constant output of the model.
            reference: Norm to which residuals are relative.
            max_evals: Largest number of evaluations; None for no limit.
        """
        dtype = guess.dtype
        reference = jnp.maximum(reference, jnp.finfo(dtype).tiny)
        rtol = default_rtol(dtype) if self.rtol is None else self.rtol
        infinity = jnp.full((), jnp.inf, dtype)
        zero = jnp.zeros((), jnp.int32)
        limit = jnp.iinfo(jnp.int32).max if max_evals is None else max_evals

        def running(s: _State) -> Array:
            going = (s.k < self.max_iterations) & ~(s.best_error <= rtol) & s.downhill
            return going & (s.evals < limit)

        def advance(s: _State) -> _State:
            first = s.k == 0
            # A finished lane of a batch must not delay other lanes.
            tries = jnp.where(first, 1, 1 + self.backtracks)
            tries = jnp.minimum(tries, limit - s.evals)
            trial = _search(
                residual,
                reference,
                s.z,
                s.direction,
                s.error,
                s.eta,
                jnp.where(running(s), tries, 0),
            )
            better = trial.best_error < s.best_error
            best_error = jnp.where(better, trial.best_error, s.best_error)
            z = jnp.where(trial.accepted, trial.z, s.z)
            # A product takes two evaluations, and the step must then be tried.
            products = (limit - s.evals - trial.tried - 1) // 2
            stop = (
                ~trial.accepted
                | (products < 1)
                | (best_error <= rtol)
                | (s.k + 1 >= self.max_iterations)
                | ~running(s)
            )
            forcing = _forcing(trial.error, s.error, s.forcing, rtol, self.forcing)
            forcing = jnp.where(first, self.forcing, forcing).astype(dtype)
            # Right preconditioning preserves the meaning of residuals.
            linear = gmres(
                lambda v: jax.jvp(residual, (z,), (v / slope,))[1],
                -trial.r,
                rtol=jnp.where(stop, jnp.inf, forcing),
                max_vectors=self.krylov,
                max_products=products,
            )
            return _State(
                s.k + 1,
                z,
                jnp.where(trial.accepted, trial.error, s.error),
                linear.value / slope,
                linear.residual,
                forcing,
                jnp.where(better, trial.best, s.best),
                best_error,
                s.evals + trial.tried + 2 * linear.num_matvecs,
                trial.accepted & (stop | (linear.residual < 1)),
            )

        # The guess is the first trial step, of length zero from an infinite residual,
        # so that the model is compiled in two places instead of three.
        start = _State(
            zero,
            guess,
            infinity,
            jnp.zeros_like(guess),
            jnp.ones((), dtype),
            jnp.ones((), dtype),
            guess,
            infinity,
            zero,
            jnp.array(True),
        )

        def finish(s: _State) -> Solution:
            converged = s.best_error <= rtol
            return Solution(s.best, s.best_error, s.k, s.evals, converged)

        return Loop(lambda: start, running, advance, finish)


class _State(NamedTuple):
    k: Array
    z: Array
    error: Array  # |R(z)|, relative
    direction: Array  # the step s from z
    eta: Array  # |R + R' s| / |R|
    forcing: Array  # the requested eta
    best: Array
    best_error: Array
    evals: Array
    downhill: Array  # whether the search for a better iterate can continue


class _Trial(NamedTuple):
    """A point of the line search, and the best of all points so far."""

    tried: Array
    t: Array
    z: Array
    r: Array
    error: Array
    accepted: Array
    best: Array
    best_error: Array


def _search(
    residual: Residual,
    reference: Array,
    z: Array,
    direction: Array,
    error: Array,
    eta: Array,
    tries: Array,
) -> _Trial:
    """Shorten the step until the residual decreases enough or trials are used up."""

    def running(s: _Trial) -> Array:
        return ~s.accepted & (s.tried < tries)

    def body(s: _Trial) -> _Trial:
        # The first trial has the full length.
        t = jnp.where(s.tried == 0, 1, s.t * _shortening(s.t, s.error / error))
        point = z + t * direction
        r = residual(point)
        e = norm(r) / reference
        enough = e <= (1 - SUFFICIENT_DECREASE * t * (1 - eta)) * error
        better = e < s.best_error
        return _Trial(
            s.tried + 1,
            t,
            point,
            r,
            e,
            enough & jnp.isfinite(e),
            jnp.where(better, point, s.best),
            jnp.where(better, e, s.best_error),
        )

    infinity = jnp.full_like(error, jnp.inf)
    start = _Trial(
        jnp.zeros((), jnp.int32),
        jnp.ones_like(error),
        z,
        jnp.zeros_like(z),
        infinity,
        jnp.array(False),
        z,
        infinity,
    )
    return jax.lax.while_loop(running, body, start)


def _shortening(t: Array, ratio: Array) -> Array:
    """Return the factor for a step of length t after which ``|R|`` is ``ratio`` times.

    It is the minimum of the parabola through ``|R|^2`` at both ends with the slope
    ``-2 |R|^2`` of the Newton step at the start, clipped to [0.1, 0.5] (Kelley 2003,
    1.6).
    """
    factor = t / (ratio**2 - 1 + 2 * t)
    return jnp.where(jnp.isfinite(factor), jnp.clip(factor, 0.1, 0.5), 0.1)


def _forcing(
    error: Array, before: Array, previous: Array, rtol: float, largest: float
) -> Array:
    """Return Eisenstat & Walker's second choice, at least half of the tolerance."""
    eta = 0.9 * (error / before) ** 2
    memory = 0.9 * previous**2
    eta = jnp.where(memory > 0.1, jnp.maximum(eta, memory), eta)
    return jnp.minimum(jnp.maximum(eta, 0.5 * rtol / error), largest)

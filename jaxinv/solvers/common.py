r"""What all implicit solvers share: the loop, the stopping rules and the certificate.

A solver looks for z with ``R(z) = F(z) - target = 0``, where F is one step of a sampler
and z the state before it. It is given

* ``residual(z)``, one model evaluation;
* ``slope``, the derivative of R that remains if the model's output is held constant: a
  scalar, known from the sampler's table, so that ``z - R(z) / slope`` is the
  fixed-point update ``z <- F^{-1}(target; f(z))``;
* a first guess, and the norm to which residuals are relative.

Every solver is one rule for the next iterate, run by :func:`iterate`: evaluate, keep
the best iterate so far, stop when it is good enough, when nothing has improved for
``patience`` iterations, when the residual is not finite, or after ``max_iterations``.
Whatever happened, the best iterate comes back with its residual and says whether it
converged; nothing is raised inside of a compiled program.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Residual = Callable[[Array], Array]


class Solution(NamedTuple):
    """The result of one implicit solve.

    Attributes:
        value: the best iterate, by residual.
        residual: shape (). ``|R(value)|`` relative to the reference norm; infinite if
            no iterate had a finite residual.
        iterations: shape (). Iterations run, in the unit of the solver's
            ``max_iterations``.
        num_evals: shape (). Model evaluations of the whole solve: one for each residual
            (with or without its gradient), two for each Jacobian-vector product, which
            carries the primal and the tangent through the model in one forward pass.
        converged: shape (). Whether the residual met the tolerance.
    """

    value: Float[Array, "*shape"]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]
    num_evals: Int[Array, ""]
    converged: Bool[Array, ""]


class Solver(Protocol):
    """A hashable value that solves ``residual(z) = 0``."""

    def __call__(
        self,
        residual: Residual,
        guess: Float[Array, "*shape"],
        *,
        slope: Float[Array, ""],
        reference: Float[Array, ""],
    ) -> Solution:
        """Solve from a guess; see the module's docstring for the arguments."""
        ...


class Evaluation(NamedTuple):
    """R at an iterate, and the direction that the update rule starts from."""

    residual: Array
    direction: Array


class Stopping(NamedTuple):
    """When to stop.

    Attributes:
        max_iterations: at most so many evaluations.
        rtol: relative residual at which to stop; None for the dtype's default.
        sum_of_squares: additional absolute tolerance on ``|R|^2`` (0 for none).
        patience: stop after so many iterations without a better iterate.
    """

    max_iterations: int
    rtol: float | None
    sum_of_squares: float = 0.0
    patience: int = 1_000_000


def default_rtol(dtype: Any) -> float:
    """The default tolerance: a few roundings above what the dtype can resolve.

    Args:
        dtype: floating-point dtype of the states.

    Returns:
        1e-6 in float32, 1e-13 in float64, about 8 (450) units in the last place.
    """
    return 1e-13 if jnp.finfo(dtype).bits == 64 else 1e-6


def iterate(
    evaluate: Callable[[Array], Evaluation],
    update: Callable[[Int[Array, ""], Array, Evaluation, Any], tuple[Array, Any]],
    memory: Any,
    guess: Float[Array, "*shape"],
    reference: Float[Array, ""],
    stopping: Stopping,
) -> Solution:
    """Run an update rule until its stopping rule is met.

    Args:
        evaluate: the residual at an iterate.
        update: ``(k, z, evaluation, memory) -> (next z, memory)``, k counting from 0.
        memory: the rule's initial memory, a pytree of arrays.
        guess: the first iterate.
        reference: norm to which residuals are relative.
        stopping: when to stop.

    Returns:
        The best iterate with its certificate.
    """
    rtol = default_rtol(guess.dtype) if stopping.rtol is None else stopping.rtol
    tiny = jnp.finfo(guess.dtype).tiny
    reference = jnp.maximum(reference, tiny)
    tolerance = jnp.maximum(rtol, stopping.sum_of_squares**0.5 / reference)
    tolerance = tolerance.astype(guess.dtype)
    infinity = jnp.full((), jnp.inf, guess.dtype)

    class State(NamedTuple):
        k: Array
        z: Array
        memory: Any
        best: Array
        best_error: Array
        since_best: Array
        finite: Array

    def running(s: State) -> Array:
        return (
            (s.k < stopping.max_iterations)
            & ~(s.best_error <= tolerance)
            & (s.since_best < stopping.patience)
            & s.finite
        )

    def body(s: State) -> State:
        evaluation = evaluate(s.z)
        error = norm(evaluation.residual) / reference
        better = error < s.best_error
        z, memory = update(s.k, s.z, evaluation, s.memory)
        return State(
            s.k + 1,
            z,
            memory,
            jnp.where(better, s.z, s.best),
            jnp.where(better, error, s.best_error),
            jnp.where(better, 0, s.since_best + 1),
            jnp.isfinite(error),
        )

    zero = jnp.zeros((), jnp.int32)
    start = State(zero, guess, memory, guess, infinity, zero, jnp.array(True))
    end = jax.lax.while_loop(running, body, start)
    converged = end.best_error <= tolerance
    return Solution(end.best, end.best_error, end.k, end.k, converged)


def norm(x: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Euclidean norm over all axes."""
    return jnp.sqrt(dot(x, x))


def dot(x: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Inner product over all axes, as a sum: never in reduced precision."""
    return jnp.sum(x * y)


def plain(residual: Residual) -> Callable[[Array], Evaluation]:
    """The evaluation of solvers that move along the residual itself."""

    def evaluate(z: Array) -> Evaluation:
        r = residual(z)
        return Evaluation(r, r)

    return evaluate

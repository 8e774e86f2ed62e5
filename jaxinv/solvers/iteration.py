r"""The loop, the stopping rules and the certificate of all implicit solvers.

A solver searches z with ``R(z) = F(z) - target = 0``, where F is one step of a sampler
and z the state before it. Its arguments are

* ``residual(z)``, one model evaluation;
* ``slope``, the derivative of R that remains if the model's output is held constant: a
  scalar, known from the sampler's table, so that ``z - R(z) / slope`` is the
  fixed-point update ``z <- F^{-1}(target; f(z))``;
* a first guess, and the norm to which residuals are relative.

Every solver is a loop (:class:`jaxinv.loops.Loop`). All solvers except Newton's are
rules for the next iterate (:class:`Rule`) in one loop (:func:`iteration`). It evaluates
the residual, keeps the best iterate, and stops if that is good enough, if nothing has
improved for ``patience`` iterations, if the residual is not finite, or after
``max_iterations``. Rules with ``rounded`` measure the rounding of R as soon as
iterations stagnate, and stop where it forbids a smaller residual
(:mod:`jaxinv.solvers.rounding`). The result is the best iterate with its residual and
whether it converged; nothing is raised inside a compiled program. Many solves in many
lanes are loops within a loop (:mod:`jaxinv.inversion.stepwise`).
"""

import abc
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxinv.loops import Loop, once, run
from jaxinv.norms import at_least_tiny, norm
from jaxinv.solvers.rounding import PATIENCE, ROUNDINGS, beside, rounding_of

Residual = Callable[[Array], Array]


class Solution(NamedTuple):
    """The result of one implicit solve.

    Attributes:
        value: The best iterate, by residual.
        residual: ``|R(value)|`` relative to the reference norm, shape (); infinite if
            no iterate had a finite residual.
        iterations: Number of iterations, in the unit of the solver's
            ``max_iterations``, shape ().
        num_evals: Model evaluations of the whole solve, shape (): one for each residual
            (with or without its gradient), two for each Jacobian-vector product, which
            propagates the primal and the tangent through the model in one forward pass.
        converged: Whether the residual met the tolerance, or is within
            :data:`~jaxinv.solvers.rounding.ROUNDINGS` of the measured rounding, shape
            ().
        rounding: The rounding of R relative to the reference norm, shape (); 0 if no
            iteration stagnated.
    """

    value: Float[Array, "*shape"]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]
    num_evals: Int[Array, ""]
    converged: Bool[Array, ""]
    rounding: Float[Array, ""] | float = 0.0


@runtime_checkable
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
    """Stopping rules.

    Attributes:
        max_iterations: Largest number of evaluations.
        rtol: Relative residual at which to stop; None for the dtype's default.
        sum_of_squares: Additional absolute tolerance on ``|R|^2`` (0 for none).
        patience: Number of iterations without a better iterate after which to stop.
        rounded: Whether to measure the rounding of R where iterations stagnate, which
            costs two evaluations.
    """

    max_iterations: int
    rtol: float | None
    sum_of_squares: float = 0.0
    patience: int = 1_000_000
    rounded: bool = False


def default_rtol(dtype: Any) -> float:
    """Return the default tolerance, a few roundings above the dtype's resolution.

    Args:
        dtype: Floating-point dtype of the states.

    Returns:
        1e-6 in float32, 1e-13 in float64, about 8 (450) units in the last place.
    """
    return 1e-13 if jnp.finfo(dtype).bits == 64 else 1e-6


class Rule(NamedTuple):
    """The definition of a solver: an evaluation, an update, and stopping rules.

    Attributes:
        evaluate: Function from an iterate to its residual.
        update: ``(k, z, evaluation, memory) -> (next z, memory)``, k counting from 0.
        memory: The memory before the first iterate, a pytree of arrays.
        stopping: The stopping rules.
    """

    evaluate: Callable[[Array], Evaluation]
    update: Callable[[Int[Array, ""], Array, Evaluation, Any], tuple[Array, Any]]
    memory: Any
    stopping: Stopping


class IterativeSolver(abc.ABC):
    """A solver that is a loop, like all solvers of this library."""

    @abc.abstractmethod
    def loop(
        self,
        residual: Residual,
        guess: Float[Array, "*shape"],
        *,
        slope: Float[Array, ""],
        reference: Float[Array, ""],
    ) -> Loop:
        """Return the loop whose result is a :class:`Solution`.

        The arguments are those of :class:`Solver`. The end does not evaluate the model.
        """

    def __call__(
        self,
        residual: Residual,
        guess: Float[Array, "*shape"],
        *,
        slope: Float[Array, ""],
        reference: Float[Array, ""],
    ) -> Solution:
        """Solve from a guess; see :class:`Solver`."""
        return run(self.loop(residual, guess, slope=slope, reference=reference))


def loop_of(
    solver: Solver,
    residual: Residual,
    guess: Float[Array, "*shape"],
    *,
    slope: Float[Array, ""],
    reference: Float[Array, ""],
) -> Loop:
    """Return any solver as a loop, with a single iteration if it is not a loop."""
    if isinstance(solver, IterativeSolver):
        return solver.loop(residual, guess, slope=slope, reference=reference)
    return once(lambda: solver(residual, guess, slope=slope, reference=reference))


class Iterates(NamedTuple):
    """The state of an iteration.

    Attributes:
        k: Number of iterations so far, shape ().
        z: The next iterate.
        memory: The memory of the rule.
        best: The best iterate so far.
        best_error: The relative residual of the best iterate, shape ().
        since_best: Number of iterations since the best iterate, shape ().
        finite: Whether the last residual was finite, shape ().
        probes: Number of evaluations beside the best iterate, up to 2, shape ().
        best_residual: R at the best iterate.
        plus: R on one side of it.
        rounding: The relative rounding of R; 0 before it is measured, shape ().
    """

    k: Int[Array, ""]
    z: Float[Array, "*shape"]
    memory: Any
    best: Float[Array, "*shape"]
    best_error: Float[Array, ""]
    since_best: Int[Array, ""]
    finite: Bool[Array, ""]
    probes: Int[Array, ""]
    best_residual: Float[Array, "*shape"]
    plus: Float[Array, "*shape"]
    rounding: Float[Array, ""]


def iteration(
    rule: Rule, guess: Float[Array, "*shape"], reference: Float[Array, ""]
) -> Loop:
    """Return the loop of a rule.

    Args:
        rule: The rule.
        guess: The first iterate.
        reference: Norm to which residuals are relative.

    Returns:
        A loop whose result is the best iterate with its certificate.
    """
    dtype, stopping = reference.dtype, rule.stopping
    rtol = default_rtol(dtype) if stopping.rtol is None else stopping.rtol
    absolute = stopping.sum_of_squares**0.5 / at_least_tiny(reference)
    tolerance = jnp.maximum(rtol, absolute).astype(dtype)

    def begin() -> Iterates:
        zero = jnp.zeros((), jnp.int32)
        infinity = jnp.full((), jnp.inf, guess.dtype)
        yes, nothing = jnp.array(True), jnp.zeros_like(guess)
        return Iterates(
            zero, guess, rule.memory, guess, infinity, zero, yes,
            probes=zero, best_residual=nothing, plus=nothing,
            rounding=jnp.zeros((), guess.dtype),
        )  # fmt: skip

    def solved(s: Iterates) -> Array:
        return s.best_error <= jnp.maximum(tolerance, ROUNDINGS * s.rounding)

    def stagnates(s: Iterates) -> Array:
        return s.since_best >= min(PATIENCE, stopping.patience)

    def running(s: Iterates) -> Array:
        return (
            (s.k < stopping.max_iterations)
            & ~(s.best_error <= tolerance)
            & ~(solved(s) & stagnates(s))
            & (s.since_best < stopping.patience)
            & s.finite
        )

    def advance(s: Iterates) -> Iterates:
        if not stopping.rounded:
            return step(s, rule.evaluate(s.z))
        # One evaluation per iteration, for the sake of lanes: of the next iterate, or
        # beside the best one.
        probing = stagnates(s) & (s.probes < 2)
        side = jnp.where(s.probes == 0, 1, -1).astype(guess.dtype)
        z = jnp.where(probing, beside(s.best, s.best_error, side), s.z)
        evaluation = rule.evaluate(z)
        found = rounding_of(s.best_residual, s.plus, evaluation.residual)
        found = (found / at_least_tiny(reference)).astype(guess.dtype)
        probed = s._replace(
            probes=s.probes + 1,
            plus=jnp.where(s.probes == 0, evaluation.residual, s.plus),
            rounding=jnp.where(s.probes == 1, found, s.rounding),
        )
        return jax.tree.map(
            lambda a, b: jnp.where(probing, a, b), probed, step(s, evaluation)
        )

    def step(s: Iterates, evaluation: Evaluation) -> Iterates:
        error = norm(evaluation.residual) / at_least_tiny(reference)
        better = error < s.best_error
        z, memory = rule.update(s.k, s.z, evaluation, s.memory)
        return s._replace(
            k=s.k + 1,
            z=z,
            memory=memory,
            best=jnp.where(better, s.z, s.best),
            best_error=jnp.where(better, error, s.best_error),
            since_best=jnp.where(better, 0, s.since_best + 1),
            finite=jnp.isfinite(error),
            best_residual=jnp.where(better, evaluation.residual, s.best_residual),
        )

    def finish(s: Iterates) -> Solution:
        evals = s.k + s.probes
        return Solution(s.best, s.best_error, s.k, evals, solved(s), s.rounding)

    return Loop(begin, running, advance, finish)


def dot(x: Float[Array, "*shape"], y: Float[Array, "*shape"]) -> Float[Array, ""]:
    """Return the inner product over all axes, as a sum in full precision."""
    return jnp.sum(x * y)


def plain(residual: Residual) -> Callable[[Array], Evaluation]:
    """Return the evaluation of solvers that step along the residual itself."""

    def evaluate(z: Array) -> Evaluation:
        r = residual(z)
        return Evaluation(r, r)

    return evaluate

r"""Fixed-point iteration and the forward step method.

Fixed point:   ``z <- z - R(z) / slope``    (hold the model's output, solve for z)
Forward step:  ``z <- z - rho R(z)``        (the paper's, with a schedule for rho)

The fixed-point map contracts if the model's output changes little between noise levels.
The forward step method is its damped form: with ``rho < 1 / slope`` it converges,
slowly, where the undamped map overshoots.

References:
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387,
    Algorithm 1 (forward step method and its settings).
"""

import dataclasses
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.checks import AtLeastOne, Positive, Tolerance, Whole, checked
from jaxinv.loops import Loop, run
from jaxinv.solvers.iteration import (
    Evaluation,
    IterativeSolver,
    Residual,
    Rule,
    Solution,
    Stopping,
    dot,
    iteration,
    plain,
)


@checked
@dataclasses.dataclass(frozen=True)
class FixedPoint(IterativeSolver):
    """Fixed-point iteration ``z <- z - damping R(z) / slope``.

    Attributes:
        max_iterations: Largest number of evaluations per solve.
        rtol: Relative residual at which to stop; None for 1e-6 in float32 and 1e-13
            in float64.
        damping: 1 for the plain iteration.
        patience: Number of iterations without a better iterate after which to stop.
    """

    max_iterations: AtLeastOne = 100
    rtol: Tolerance | None = None
    damping: Positive = 1.0
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
            _k: Array, z: Array, at: Evaluation, memory: None
        ) -> tuple[Array, None]:
            return z - self.damping * at.direction / slope, memory

        stopping = Stopping(
            self.max_iterations, self.rtol, patience=self.patience, rounded=True
        )
        rule = Rule(plain(residual), update, None, stopping)
        return iteration(rule, guess, reference)


@checked
@dataclasses.dataclass(frozen=True)
class ForwardStep(IterativeSolver):
    """The forward step method, with warm-up and reduction on a plateau.

    The defaults are the published settings (also available as ``ForwardStep.paper``):
    rho 0.5 after a linear warm-up, at most 500 iterations, a stop when the sum of
    squares of the residual is below 1e-3, and half of rho after more than 20 iterations
    without a relative improvement of the sum of squares by 1e-4 (the rule of torch's
    ``ReduceLROnPlateau`` in the published code).

    Attributes:
        rho: Step size in units of the state x.
        warmup: Iterations over which rho grows linearly to its value.
        max_iterations: Largest number of evaluations per solve.
        sum_of_squares: Value of ``|R|^2`` below which to stop. It is absolute, as
            published: use ``rtol`` for data that are not of order one.
        rtol: Relative residual below which to stop, too; 0 for never.
        plateau: Number of iterations without a better residual after which rho is
            reduced.
        plateau_factor: Factor of rho after a plateau.
    """

    rho: Positive = 0.5
    warmup: Whole = 20
    max_iterations: AtLeastOne = 500
    sum_of_squares: Tolerance = 1e-3
    rtol: Tolerance | None = 0.0
    plateau: AtLeastOne = 20
    plateau_factor: Positive = 0.5

    paper: ClassVar["ForwardStep"]

    def loop(
        self,
        residual: Residual,
        guess: Float[Array, "*shape"],
        *,
        slope: Float[Array, ""],
        reference: Float[Array, ""],
    ) -> Loop:
        """Return its loop; see :class:`jaxinv.solvers.iteration.IterativeSolver`."""
        del slope
        return self._loop(residual, guess, self.rho, reference)

    def with_step_size(
        self,
        residual: Residual,
        guess: Float[Array, "*shape"],
        *,
        rho: float | Float[Array, ""],
        reference: Float[Array, ""],
    ) -> Solution:
        """Solve with a step size that is only known in the compiled program.

        Args:
            residual: R, one model evaluation.
            guess: The first iterate.
            rho: Replacement of the solver's own step size.
            reference: Norm to which residuals are relative.

        Returns:
            The best iterate with its certificate.
        """
        return run(self._loop(residual, guess, rho, reference))

    def _loop(
        self, residual: Residual, guess: Array, rho: Any, reference: Array
    ) -> Loop:
        one = jnp.ones((), guess.dtype)

        def update(
            k: Array, z: Array, at: Evaluation, memory: Any
        ) -> tuple[Array, Any]:
            reduction, best, since = memory
            # Cast before dividing: int32 divides in float32, also in double precision.
            warmup = jnp.minimum((k + 1).astype(guess.dtype) / max(self.warmup, 1), 1)
            z = z - rho * warmup * reduction * at.direction
            loss = dot(at.residual, at.residual)
            better = loss < best * (1 - 1e-4)
            since = jnp.where(better, 0, since + 1)
            reduce = since > self.plateau
            reduction = jnp.where(reduce, reduction * self.plateau_factor, reduction)
            since = jnp.where(reduce, 0, since)
            return z, (reduction, jnp.where(better, loss, best), since)

        memory = (one, one * jnp.inf, jnp.zeros((), jnp.int32))
        stopping = Stopping(self.max_iterations, self.rtol, self.sum_of_squares)
        rule = Rule(plain(residual), update, memory, stopping)
        return iteration(rule, guess, reference)


ForwardStep.paper = ForwardStep()

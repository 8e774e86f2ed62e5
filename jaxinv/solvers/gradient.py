r"""Gradient descent on ``|R(z)|^2``, with any optax transformation.

The gradient ``2 J^T R`` needs reverse-mode differentiation through the model: about
three times the time of an evaluation, and memory for its activations. It is the
published baseline, and useful for models whose fixed-point map does not contract.

References:
    Hong et al. 2024, arXiv:2311.18387, Algorithm 1 (gradient descent).
"""

import dataclasses
from typing import Any

import jax
import optax
from jaxtyping import Array, Float

from jaxinv.checks import AtLeastOne, Tolerance, checked
from jaxinv.loops import Loop
from jaxinv.solvers.iteration import (
    Evaluation,
    IterativeSolver,
    Residual,
    Rule,
    Stopping,
    dot,
    iteration,
)


@checked
@dataclasses.dataclass(frozen=True)
class Gradient(IterativeSolver):
    """Minimization of ``|R(z)|^2`` by an optax gradient transformation.

    An iteration is one forward and one reverse pass; the certificate counts it as one
    evaluation.

    Attributes:
        transformation: The optimizer; by default Adam with learning rate 0.1 and a
            cosine decay over ``max_iterations``. It may only use the gradient and the
            value at one point: evaluations of a line search would not be counted.
        max_iterations: Largest number of iterations per solve.
        rtol: Relative residual at which to stop; None for the dtype's default.
        sum_of_squares: Value of ``|R|^2`` below which to stop, too; 0 for never.
        patience: Number of iterations without a better iterate after which to stop.
    """

    transformation: optax.GradientTransformation | None = None
    max_iterations: AtLeastOne = 200
    rtol: Tolerance | None = None
    sum_of_squares: Tolerance = 0.0
    patience: AtLeastOne = 100

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
        optimizer = optax.with_extra_args_support(
            self.transformation
            or optax.adam(optax.cosine_decay_schedule(0.1, self.max_iterations))
        )

        def evaluate(z: Array) -> Evaluation:
            r, pullback = jax.vjp(residual, z)
            return Evaluation(r, pullback(2 * r)[0])

        def update(
            _k: Array, z: Array, at: Evaluation, memory: Any
        ) -> tuple[Array, Any]:
            value = dot(at.residual, at.residual)
            step, memory = optimizer.update(at.direction, memory, z, value=value)
            return optax.apply_updates(z, step), memory

        stopping = Stopping(
            self.max_iterations, self.rtol, self.sum_of_squares, self.patience
        )
        rule = Rule(evaluate, update, optimizer.init(guess), stopping)
        return iteration(rule, guess, reference)

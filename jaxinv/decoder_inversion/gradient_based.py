r"""Decoder inversion by the decoder's derivatives; the encoder gives the first guess.

Adam on the squared misfit is the first published method. Gauss-Newton also uses that
the misfit is a vector: every iteration solves the linear least squares problem of the
linearized decoder by conjugate gradients, from products with the Jacobian and its
transpose, with the damping of Levenberg and Marquardt.

References:
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387 (gradient).
    Nocedal & Wright 2006, "Numerical Optimization", Section 10.3.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxinv.callables import LAYER
from jaxinv.checks import AtLeastOne, Positive, Tolerance, checked
from jaxinv.decoder_inversion.learning_rates import warm_cosine
from jaxinv.decoder_inversion.method import Image, Latent
from jaxinv.decoder_inversion.problem import Count, Memory, Problem
from jaxinv.norms import at_least_tiny, norm


@checked
@dataclasses.dataclass(frozen=True)
class Gradient:
    """Gradient descent on the sum of the squared misfits.

    Adam's steps have the size of the learning rate, independent of the size of the
    latents: for latents that are not of order one, change ``learning_rate``. With the
    default optimizer this is the method of the authors' code, except that their code
    draws the first latent at random from the encoder's posterior. Pass an encoder that
    returns the mean, such as :meth:`jaxinv.Pipeline.encode`.

    Attributes:
        optimizer: Any optax transformation; None for Adam with ``learning_rate``,
            warmed up over a tenth of the iterations, with a cosine decay to zero.
        learning_rate: Learning rate of the default optimizer.
        remat: Whether the reverse pass recomputes the decoder's activations instead of
            storing them, except for layer outputs that the decoder names with
            ``jax.ad_checkpoint.checkpoint_name(x, jaxinv.callables.LAYER)``, as this
            library's does. XLA's CPU compiler undoes it.
        iterations: Largest number of iterations.
        patience: See :class:`Method`; None as published.

    References:
        Hong et al. 2024, arXiv:2311.18387, settings of the decoder inversion.
    """

    optimizer: optax.GradientTransformation | None = None
    learning_rate: Positive = 0.1
    remat: bool = False
    iterations: AtLeastOne = 100
    patience: AtLeastOne | None = None

    @property
    def count(self) -> Count:
        """One evaluation and one product with the transposed Jacobian."""
        return Count(products=1)

    def begin(self, problem: Problem, z: Latent) -> Memory:
        """Return the initial state of the optimizer."""
        return self._optimizer().init(z)

    def step(
        self, problem: Problem, k: Array, z: Latent, memory: Memory
    ) -> tuple[Image, Latent, Memory]:
        """One step."""
        decoded, pull = jax.vjp(self.differentiated(problem), z)
        (gradient,) = pull(2 * problem.misfit(decoded))
        update, memory = self._optimizer().update(gradient, memory, z)
        return decoded, optax.apply_updates(z, update), memory

    def differentiated(self, problem: Problem) -> Callable[[Latent], Image]:
        """Return D, storing all its activations or only those of :data:`LAYER`."""
        if not self.remat:
            return problem.decoded
        policy = jax.checkpoint_policies.save_only_these_names(LAYER)
        return jax.checkpoint(problem.decoded, policy=policy)

    def _optimizer(self) -> optax.GradientTransformation:
        if self.optimizer is not None:
            return self.optimizer
        return optax.adam(warm_cosine(self.learning_rate, self.iterations))


class _Accepted(NamedTuple):
    """The best iterate of Gauss-Newton so far, from which every step starts.

    Its cost is the norm of its misfit.
    """

    z: Array
    cost: Array
    damping: Array


@checked
@dataclasses.dataclass(frozen=True)
class GaussNewton:
    r"""Levenberg and Marquardt's method without matrices.

    Every iteration solves ``(J^T J + lambda s I) d = -J^T r`` by conjugate gradients,
    where J is the Jacobian of D at the best iterate so far and s the Rayleigh quotient
    of ``J^T J`` at the gradient. If the misfit decreases at z + d, lambda is divided by
    10; otherwise the step is undone and lambda multiplied by 10. Pixels met at a limit
    have no row in J.

    Attributes:
        inner: Iterations of conjugate gradients, which stop earlier only if the linear
            problem is solved to rounding.
        damping: The first lambda.
        iterations: Largest number of iterations.
        patience: See :class:`Method`.

    References:
        Nocedal & Wright 2006, Section 10.3; Hestenes & Stiefel 1952.
    """

    inner: AtLeastOne = 30
    damping: Tolerance = 1e-3
    iterations: AtLeastOne = 20
    patience: AtLeastOne | None = 3

    @property
    def count(self) -> Count:
        """One evaluation at the iterate, one to linearize, two products per inner one.

        Four more products are for the first residual, the gradient and s. The number of
        products is an upper bound: conjugate gradients may stop early.
        """
        return Count(decodes=2, products=2 * (self.inner + 1) + 2)

    def equation(self, problem: Problem, z: Latent) -> Latent:
        """Return F of :mod:`jaxinv.decoder_inversion.derivative`, zero at the end."""
        decoded, pull = jax.vjp(problem.decoded, z)
        return pull(problem.misfit(decoded))[0]

    def begin(self, problem: Problem, z: Latent) -> _Accepted:
        """Return a memory without an accepted iterate."""
        return _Accepted(
            z, jnp.array(jnp.inf, z.dtype), jnp.array(10 * self.damping, z.dtype)
        )

    def step(
        self, problem: Problem, k: Array, z: Latent, memory: Any
    ) -> tuple[Image, Latent, Memory]:
        """Accept or reject z, and step from the accepted iterate."""
        decoded = problem.decoded(z)
        cost = norm(problem.misfit(decoded))
        better = cost < memory.cost
        at = jnp.where(better, z, memory.z)
        damping = memory.damping * jnp.where(better, 0.1, 10.0)
        cost = jnp.where(better, cost, memory.cost)

        value, push = jax.linearize(problem.decoded, at)
        pull = jax.linear_transpose(push, at)
        counts = ~problem.met(value)

        # Units of the misfit and the Jacobian keep all products in float32's range.
        residual = problem.misfit(value)
        size = at_least_tiny(norm(residual))
        (steepest,) = pull(residual / size)
        unit = at_least_tiny(norm(steepest))
        gradient = steepest / unit

        def pushed(v: Array) -> Array:
            return jnp.where(counts, push(v) / unit, 0)

        def normal(v: Array) -> Array:
            return pull(pushed(v))[0] / unit

        weight = damping * norm(pushed(gradient)) ** 2
        step, _ = jax.scipy.sparse.linalg.cg(
            lambda v: normal(v) + weight * v,
            -gradient,
            maxiter=self.inner,
            tol=float(jnp.finfo(z.dtype).eps),
        )
        return decoded, at + size / unit * step, _Accepted(at, cost, damping)

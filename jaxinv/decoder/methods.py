r"""The methods of decoder inversion, each one rule for the next latent.

A method looks at an iterate z, which costs one evaluation of D and whatever else it
needs, and proposes the next. The loop around it is the same for all
(:mod:`jaxinv.decoder.loop`): it keeps the best iterate by image misfit, stops, counts.

**Without gradients.** If the autoencoder were perfect, ``E(D(z)) = z``, the difference
``E(D(z)) - E(x)`` would be the error of z itself, for one evaluation of each network
and no activations kept. The forward step method walks along it,

    z <- z - rho (E(D(z)) - E(x)),

and converges where ``T = E(D(.))`` is cocoercive along the way, ``<T z - T z*, z - z*>
>= beta |T z - T z*|^2``, for ``0 < rho < 2 beta``
(:func:`jaxinv.analysis.cocoercivity`). Inertia, Adam and Anderson's mixing do more with
the same difference.

**With gradients.** Adam on the squared misfit is what was used before. Gauss-Newton
uses what that ignores, that the misfit is a vector: every iteration solves the linear
least squares problem of the linearised decoder by conjugate gradients, from products
with the Jacobian and its transpose, damped as Levenberg and Marquardt did.

References:
    Hong et al. 2024, "Gradient-free Decoder Inversion in Latent Diffusion Models",
    arXiv:2409.18442, Sections 3 and 4 (forward step, inertial KM, Adam).
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387 (gradient).
    Walker & Ni 2011, "Anderson Acceleration for Fixed-Point Iterations".
    Nocedal & Wright 2006, "Numerical Optimization", Section 10.3.
"""

import dataclasses
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxinv.decoder.problem import Count, Memory, Problem
from jaxinv.solvers.anderson import Mixing, mix, no_history
from jaxinv.solvers.common import dot

Latent = Float[Array, "*latent"]
Image = Float[Array, "*image"]


class Method(Protocol):
    """A hashable value."""

    @property
    def iterations(self) -> int:
        """How many iterations at most."""
        ...

    @property
    def patience(self) -> int | None:
        """Iterations without a better iterate after which to stop; None for never."""
        ...

    @property
    def count(self) -> Count:
        """What one iteration evaluates."""
        ...

    def begin(self, problem: Problem, z: Latent) -> Memory:
        """What there is to remember before the first iterate."""
        ...

    def step(
        self, problem: Problem, k: Int[Array, ""], z: Latent, memory: Memory
    ) -> tuple[Image, Latent, Memory]:
        """D(z), the next iterate and what to remember, at iterate k = 0, 1, .. ."""
        ...


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The encoder alone: ``z = E(x)``. No iterations; the baseline."""

    iterations: int = 0
    patience: int | None = None

    @property
    def count(self) -> Count:
        """Nothing."""
        return Count(0)

    def begin(self, problem: Problem, z: Latent) -> Memory:
        """Nothing."""
        return ()

    def step(
        self, problem: Problem, k: Array, z: Latent, memory: Memory
    ) -> tuple[Image, Latent, Memory]:
        """Stays."""
        return problem.decoded(z), z, memory


@dataclasses.dataclass(frozen=True)
class ForwardStep:
    """The forward step method: ``z <- z - rho (E(D(z)) - E(x))``.

    Attributes:
        step_size: rho.
        iterations: at most so many.
        patience: as of :class:`Method`.

    References:
        Hong et al. 2024, arXiv:2409.18442, Theorem 1.
    """

    step_size: float = 1.0
    iterations: int = 50
    patience: int | None = 5

    @property
    def count(self) -> Count:
        """One of each."""
        return Count(encodes=1)

    def begin(self, problem: Problem, z: Latent) -> Memory:
        """Nothing."""
        return ()

    def step(
        self, problem: Problem, k: Array, z: Latent, memory: Memory
    ) -> tuple[Image, Latent, Memory]:
        """One step."""
        decoded = problem.decoded(z)
        return decoded, z - self.step_size * problem.difference(decoded), memory


@dataclasses.dataclass(frozen=True)
class InertialKM:
    r"""The inertial Krasnoselskii-Mann iteration.

    Evaluated at extrapolated iterates, ``w = z[k] + alpha (z[k] - z[k-1])``,

        z[k+1] = w - rho (E(D(w)) - E(x)).

    Attributes:
        step_size: rho.
        momentum: alpha, in [0, 1).
        iterations: at most so many.
        patience: as of :class:`Method`.

    References:
        Hong et al. 2024, arXiv:2409.18442, Theorem 2.
    """

    step_size: float = 1.0
    momentum: float = 0.3
    iterations: int = 50
    patience: int | None = 5

    @property
    def count(self) -> Count:
        """One of each."""
        return Count(encodes=1)

    def begin(self, problem: Problem, z: Latent) -> Memory:
        """The last z that was no extrapolation."""
        return z

    def step(
        self, problem: Problem, k: Array, z: Latent, memory: Memory
    ) -> tuple[Image, Latent, Memory]:
        """One step from an extrapolated iterate to the next."""
        decoded = problem.decoded(z)
        after = z - self.step_size * problem.difference(decoded)
        return decoded, after + self.momentum * (after - memory), after


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam with ``E(D(z)) - E(x)`` in place of the gradient.

    The learning rate is warmed up over a tenth of ``min(iterations, 100)``, follows a
    cosine over the rest, and is held from four fifths on.

    Attributes:
        learning_rate: the largest.
        betas: decay of both averages.
        eps: added to the denominator; None for 1e-8, and 1e-4 for 16-bit networks.
        iterations: at most so many.
        patience: as of :class:`Method`; None as published.

    References:
        Hong et al. 2024, arXiv:2409.18442, Section 4 and its settings; Kingma & Ba
        2015, arXiv:1412.6980.
    """

    learning_rate: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float | None = None
    iterations: int = 100
    patience: int | None = None

    @property
    def count(self) -> Count:
        """One of each."""
        return Count(encodes=1)

    def begin(self, problem: Problem, z: Latent) -> Memory:
        """Both averages."""
        return self._optimizer(problem).init(z)

    def step(
        self, problem: Problem, k: Array, z: Latent, memory: Memory
    ) -> tuple[Image, Latent, Memory]:
        """One step."""
        decoded = problem.decoded(z)
        difference = problem.difference(decoded)
        update, memory = self._optimizer(problem).update(difference, memory)
        return decoded, optax.apply_updates(z, update), memory

    def _optimizer(self, problem: Problem) -> optax.GradientTransformation:
        default = 1e-4 if problem.half_precision else 1e-8
        eps = default if self.eps is None else self.eps
        schedule = held_cosine(self.learning_rate, self.iterations)
        return optax.adam(schedule, *self.betas, eps=eps)


def held_cosine(peak: float, iterations: int) -> optax.Schedule:
    """Warm-up, cosine, and the same rate from four fifths on.

    Args:
        peak: the largest learning rate.
        iterations: how many there will be; more than 100 change nothing but the end.

    Returns:
        The learning rate as a function of the iteration.

    References:
        Hong et al. 2024, arXiv:2409.18442, settings of the experiments.
    """
    length = min(iterations, 100)
    curve = warm_cosine(peak, length)
    return lambda k: curve(jnp.minimum(k, int(0.8 * length)))


def warm_cosine(peak: float, iterations: int) -> optax.Schedule:
    """A tenth of the iterations of linear warm-up, then a cosine down to zero."""
    warm_up = iterations // 10
    if not warm_up:
        return optax.cosine_decay_schedule(peak, max(iterations, 1))
    return optax.warmup_cosine_decay_schedule(0.0, peak, warm_up, iterations)


@dataclasses.dataclass(frozen=True)
class Anderson:
    """Anderson's mixing on ``E(D(z)) = E(x)``.

    Attributes:
        history: number of differences kept.
        iterations: at most so many.
        patience: as of :class:`Method`.

    References:
        Walker & Ni 2011, Algorithm AA (:mod:`jaxinv.solvers.anderson`).
    """

    history: int = 5
    iterations: int = 50
    patience: int | None = 5

    @property
    def count(self) -> Count:
        """One of each."""
        return Count(encodes=1)

    def begin(self, problem: Problem, z: Latent) -> Mixing:
        """No history."""
        return no_history(z, self.history)

    def step(
        self, problem: Problem, k: Array, z: Latent, memory: Memory
    ) -> tuple[Image, Latent, Memory]:
        """One step."""
        decoded = problem.decoded(z)
        after, memory = mix(k, z, -problem.difference(decoded), memory)
        return decoded, after, memory


@dataclasses.dataclass(frozen=True)
class Gradient:
    """Gradient descent on the sum of the squared misfits.

    Attributes:
        optimizer: any optax transformation; None for Adam with ``learning_rate``,
            warmed up over a tenth of the iterations, then by a cosine down to zero.
        learning_rate: of the default optimizer.
        remat: recompute the decoder's activations in the backward pass instead of
            keeping them, layer by layer where the model says so, else as a whole.
        iterations: at most so many.
        patience: as of :class:`Method`; None as published.

    References:
        Hong et al. 2024, arXiv:2311.18387, settings of the decoder inversion.
    """

    optimizer: optax.GradientTransformation | None = None
    learning_rate: float = 0.1
    remat: bool = False
    iterations: int = 100
    patience: int | None = None

    @property
    def count(self) -> Count:
        """One evaluation, one product with the transposed Jacobian."""
        return Count(products=1)

    def begin(self, problem: Problem, z: Latent) -> Memory:
        """That of the optimizer."""
        return self._optimizer().init(z)

    def step(
        self, problem: Problem, k: Array, z: Latent, memory: Memory
    ) -> tuple[Image, Latent, Memory]:
        """One step."""
        decode = jax.checkpoint(problem.decoded) if self.remat else problem.decoded
        decoded, pull = jax.vjp(decode, z)
        (gradient,) = pull(2 * problem.misfit(decoded))
        update, memory = self._optimizer().update(gradient, memory, z)
        return decoded, optax.apply_updates(z, update), memory

    def _optimizer(self) -> optax.GradientTransformation:
        if self.optimizer is not None:
            return self.optimizer
        return optax.adam(warm_cosine(self.learning_rate, self.iterations))


class _Accepted(NamedTuple):
    """The best iterate of Gauss-Newton so far, from which every step is taken."""

    z: Array
    cost: Array
    damping: Array


@dataclasses.dataclass(frozen=True)
class GaussNewton:
    r"""Levenberg and Marquardt's method without matrices.

    Every iteration solves ``(J^T J + lambda s I) d = -J^T r`` by conjugate gradients, J
    the Jacobian of D at the best iterate so far and s the Rayleigh quotient of ``J^T
    J`` at the gradient. If the misfit fell at z + d, lambda is divided by 10, else the
    step is taken back and lambda multiplied by 10. Pixels met at a limit have no row in
    J.

    Attributes:
        inner: iterations of conjugate gradients, always as many.
        damping: the first lambda.
        iterations: at most so many.
        patience: as of :class:`Method`.

    References:
        Nocedal & Wright 2006, Section 10.3; Hestenes & Stiefel 1952.
    """

    inner: int = 10
    damping: float = 1e-3
    iterations: int = 20
    patience: int | None = 3

    @property
    def count(self) -> Count:
        """One at the new iterate, one to linearise, two products per inner iteration.

        Beside these, two for the first of its residuals, two for the gradient and s.
        """
        return Count(decodes=2, products=2 * (self.inner + 1) + 2)

    def begin(self, problem: Problem, z: Latent) -> _Accepted:
        """Nothing is accepted yet."""
        return _Accepted(
            z, jnp.array(jnp.inf, z.dtype), jnp.array(10 * self.damping, z.dtype)
        )

    def step(
        self, problem: Problem, k: Array, z: Latent, memory: Any
    ) -> tuple[Image, Latent, Memory]:
        """Accepts z or does not, and steps from what is accepted."""
        decoded = problem.decoded(z)
        cost = jnp.sum(problem.misfit(decoded) ** 2)
        better = cost < memory.cost
        at = jnp.where(better, z, memory.z)
        damping = memory.damping * jnp.where(better, 0.1, 10.0)
        cost = jnp.where(better, cost, memory.cost)

        value, push = jax.linearize(problem.decoded, at)
        pull = jax.linear_transpose(push, at)
        counts = ~problem.met(value)

        def normal(v: Array) -> Array:
            return pull(jnp.where(counts, push(v), 0))[0]

        (gradient,) = pull(problem.misfit(value))
        moved = jnp.where(counts, push(gradient), 0)
        scale = dot(moved, moved) / jnp.maximum(
            dot(gradient, gradient), jnp.finfo(z.dtype).tiny
        )
        weight = damping * scale
        step, _ = jax.scipy.sparse.linalg.cg(
            lambda v: normal(v) + weight * v, -gradient, maxiter=self.inner, tol=0.0
        )
        return decoded, at + step, _Accepted(at, cost, damping)


#: By the names that are accepted wherever a method is.
METHODS: dict[str, Method] = {
    "encoder": Encoder(),
    "gradient": Gradient(),
    "forward_step": ForwardStep(),
    "inertial_km": InertialKM(),
    "adam": Adam(),
    "anderson": Anderson(),
    "gauss_newton": GaussNewton(),
}

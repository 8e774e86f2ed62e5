r"""Decoder inversion without gradients.

For a perfect autoencoder, ``E(D(z)) = z``, the difference ``E(D(z)) - E(x)`` is the
error of z. It costs one evaluation of each network, without stored activations. The
forward step method descends along it,

    z <- z - rho (E(D(z)) - E(x)),

and converges if ``T = E(D(.))`` is cocoercive along the iteration, ``<T z - T z*, z -
z*> >= beta |T z - T z*|^2``, for ``0 < rho < 2 beta``
(:func:`jaxinv.analysis.cocoercivity`). Inertia, Adam and Anderson mixing accelerate the
iteration. All methods but Adam are equivariant: the latent of ``c x`` is c times that
of x if this holds for both networks and the limits are scaled, too.

References:
    Hong et al. 2024, "Gradient-free Decoder Inversion in Latent Diffusion Models",
    arXiv:2409.18442, Sections 3 and 4 (forward step, inertial KM, Adam).
    Walker & Ni 2011, "Anderson Acceleration for Fixed-Point Iterations".
"""

import dataclasses

import optax
from jaxtyping import Array

from jaxinv.checks import AtLeastOne, Positive, Tolerance, checked
from jaxinv.decoder_inversion.learning_rates import held_cosine
from jaxinv.decoder_inversion.method import Image, Latent
from jaxinv.decoder_inversion.problem import Count, Memory, Problem
from jaxinv.norms import natural_unit
from jaxinv.solvers.anderson import Mixing, mix, no_history


@checked
@dataclasses.dataclass(frozen=True)
class Encoder:
    """The encoder alone, ``z = E(x)``: the baseline without iterations."""

    iterations: int = 0
    patience: AtLeastOne | None = None

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


class _GradientFree:
    """Common base of the methods that use ``E(D(z)) - E(x)``."""

    @property
    def count(self) -> Count:
        """One evaluation of each network."""
        return Count(encodes=1)

    def begin(self, problem: Problem, z: Latent) -> Memory:
        """Nothing."""
        return ()


@checked
@dataclasses.dataclass(frozen=True)
class ForwardStep(_GradientFree):
    """The forward step method: ``z <- z - rho (E(D(z)) - E(x))``.

    Attributes:
        step_size: rho.
        iterations: Largest number of iterations.
        patience: See :class:`Method`.

    References:
        Hong et al. 2024, arXiv:2409.18442, Theorem 1.
    """

    step_size: Positive = 1.0
    iterations: AtLeastOne = 50
    patience: AtLeastOne | None = 5

    def step(
        self, problem: Problem, k: Array, z: Latent, memory: Memory
    ) -> tuple[Image, Latent, Memory]:
        """One step."""
        decoded = problem.decoded(z)
        return decoded, z - self.step_size * problem.difference(decoded), memory


@checked
@dataclasses.dataclass(frozen=True)
class InertialKM(_GradientFree):
    r"""The inertial Krasnoselskii-Mann iteration.

    Evaluated at extrapolated iterates, ``w = z[k] + alpha (z[k] - z[k-1])``,

        z[k+1] = w - rho (E(D(w)) - E(x)).

    Attributes:
        step_size: rho.
        momentum: alpha, in [0, 1).
        iterations: Largest number of iterations.
        patience: See :class:`Method`.

    References:
        Hong et al. 2024, arXiv:2409.18442, Theorem 2.
    """

    step_size: Positive = 1.0
    momentum: Tolerance = 0.3
    iterations: AtLeastOne = 50
    patience: AtLeastOne | None = 5

    def begin(self, problem: Problem, z: Latent) -> Memory:
        """Return the last z that is not an extrapolation."""
        return z

    def step(
        self, problem: Problem, k: Array, z: Latent, memory: Memory
    ) -> tuple[Image, Latent, Memory]:
        """Take one step from an extrapolated iterate to the next."""
        decoded = problem.decoded(z)
        after = z - self.step_size * problem.difference(decoded)
        return decoded, after + self.momentum * (after - memory), after


@checked
@dataclasses.dataclass(frozen=True)
class Adam(_GradientFree):
    """Adam with ``E(D(z)) - E(x)`` in place of the gradient.

    The learning rate is warmed up over a tenth of ``min(iterations, 100)``, follows a
    cosine, and is constant after four fifths of the iterations
    (:func:`jaxinv.decoder_inversion.learning_rates.held_cosine`). Steps have the size
    of the learning rate, independent of the size of the latents: for latents that are
    not of order one, change ``learning_rate``.

    The rate is that of the authors' code. Their code differs in two ways: it draws the
    encoder's latents at random from the posterior, which costs 6 dB relative to the
    mean (pass an encoder that returns the mean), and it encodes unclipped decodings (as
    ``limits=None`` does).

    Attributes:
        learning_rate: The largest learning rate.
        betas: Decay of both averages.
        eps: Added to the denominator; None for 1e-8, and 1e-4 for 16-bit networks.
        iterations: Largest number of iterations.
        patience: See :class:`Method`; None as published.

    References:
        Hong et al. 2024, arXiv:2409.18442, Section 4 and its settings; Kingma & Ba
        2015, arXiv:1412.6980.
    """

    learning_rate: Positive = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float | None = None
    iterations: AtLeastOne = 100
    patience: AtLeastOne | None = None

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


@checked
@dataclasses.dataclass(frozen=True)
class Anderson(_GradientFree):
    """Anderson mixing on ``E(D(z)) = E(x)``.

    Attributes:
        history: Number of stored differences.
        iterations: Largest number of iterations.
        patience: See :class:`Method`.

    References:
        Walker & Ni 2011, Algorithm AA (:mod:`jaxinv.solvers.anderson`).
    """

    history: AtLeastOne = 5
    iterations: AtLeastOne = 50
    patience: AtLeastOne | None = 5

    def begin(self, problem: Problem, z: Latent) -> Mixing:
        """Return an empty history."""
        return no_history(z / natural_unit(problem.latent), self.history)

    def step(
        self, problem: Problem, k: Array, z: Latent, memory: Memory
    ) -> tuple[Image, Latent, Memory]:
        """One step."""
        decoded = problem.decoded(z)
        # A power of two, which only affects the squares in the least squares problem.
        unit = natural_unit(problem.latent)
        r = -problem.difference(decoded)
        after, memory = mix(k, z / unit, r / unit, memory)
        return decoded, unit * after, memory

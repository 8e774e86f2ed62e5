r"""Decoder inversion without gradients.

If the autoencoder were perfect, ``E(D(z)) = z``, the difference ``E(D(z)) - E(x)``
would be the error of z itself, for one evaluation of each network and no activations
kept. The forward step method walks along it,

    z <- z - rho (E(D(z)) - E(x)),

and converges where ``T = E(D(.))`` is cocoercive along the way, ``<T z - T z*, z - z*>
>= beta |T z - T z*|^2``, for ``0 < rho < 2 beta``
(:func:`jaxinv.analysis.cocoercivity`). Inertia, Adam and Anderson's mixing do more with
the same difference. All but Adam are equivariant: the latent found for ``c x`` is c
times that for x if both networks are (and the limits are scaled, too).

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
    """The encoder alone: ``z = E(x)``. No iterations; the baseline."""

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
    """What the methods that use ``E(D(z)) - E(x)`` have in common."""

    @property
    def count(self) -> Count:
        """One of each."""
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
        iterations: at most so many.
        patience: as of :class:`Method`.

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
        iterations: at most so many.
        patience: as of :class:`Method`.

    References:
        Hong et al. 2024, arXiv:2409.18442, Theorem 2.
    """

    step_size: Positive = 1.0
    momentum: Tolerance = 0.3
    iterations: AtLeastOne = 50
    patience: AtLeastOne | None = 5

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


@checked
@dataclasses.dataclass(frozen=True)
class Adam(_GradientFree):
    """Adam with ``E(D(z)) - E(x)`` in place of the gradient.

    The learning rate is warmed up over a tenth of ``min(iterations, 100)``, follows a
    cosine over the rest, and is held from four fifths on
    (:func:`jaxinv.decoder_inversion.learning_rates.held_cosine`). A step is of the size
    of the learning rate whatever the size of the latents: for latents that are not of
    order one, give another.

    The rate is that of the authors' code. Unlike here, that code draws the encoder's
    latents at random from the posterior, which costs 6 dB against its mean (so give an
    encoder that takes the mean), and encodes decodings that were not clipped (so does
    ``limits=None``).

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
    """Anderson's mixing on ``E(D(z)) = E(x)``.

    Attributes:
        history: number of differences kept.
        iterations: at most so many.
        patience: as of :class:`Method`.

    References:
        Walker & Ni 2011, Algorithm AA (:mod:`jaxinv.solvers.anderson`).
    """

    history: AtLeastOne = 5
    iterations: AtLeastOne = 50
    patience: AtLeastOne | None = 5

    def begin(self, problem: Problem, z: Latent) -> Mixing:
        """No history."""
        return no_history(z / natural_unit(problem.latent), self.history)

    def step(
        self, problem: Problem, k: Array, z: Latent, memory: Memory
    ) -> tuple[Image, Latent, Memory]:
        """One step."""
        decoded = problem.decoded(z)
        # A power of two: only the squares in the least squares see it.
        unit = natural_unit(problem.latent)
        r = -problem.difference(decoded)
        after, memory = mix(k, z / unit, r / unit, memory)
        return decoded, unit * after, memory

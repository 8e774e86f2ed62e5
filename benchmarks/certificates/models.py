"""What the search for false certificates inverts: denoisers and data, drawn at random.

All denoisers are pytrees of arrays of fixed shapes, so that a batch can hold a
different one in every place, and one program serves all of a kind. States have 12
numbers.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

import jaxinv as ji

SIZE, MODES, HIDDEN = 12, 6, 24
SCHEDULE = ji.scaled_linear()
_TIMES = SCHEDULE.model_times.astype(np.float32)
_LEVELS = np.log(SCHEDULE.taus)

#: Kinds of denoisers; see :func:`draw_model`.
MODELS = ("mixture", "close modes", "guided", "network", "steps", "constant")

#: Kinds of data; see :func:`draw_data`.
DATA = ("sampled", "mean of two samples", "white noise", "another model's sample")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mixture:
    """Classifier-free guidance between two mixtures of Gaussians of one variance.

    Attributes:
        centres: Shape (2, MODES, SIZE). Of the unconditional, then the conditional one.
        variance: Shape ().
        guidance: 1 for the conditional mixture alone, shape ().
        unit: The denoiser maps ``unit * x`` to ``unit`` times its output, shape ().
    """

    centres: Float[Array, "2 modes size"]
    variance: Float[Array, ""]
    guidance: Float[Array, ""]
    unit: Float[Array, ""]

    def __call__(self, x: Float[Array, "size"], t: Float[Array, ""]) -> Array:
        """Return the noise prediction."""
        z = x / self.unit.astype(x.dtype)
        tau = jnp.exp(_interpolated(t, x.dtype))
        alpha = 1 / jnp.sqrt(1 + tau**2)
        centres = jnp.asarray(self.centres, x.dtype)
        spread = alpha**2 * (self.variance.astype(x.dtype) + tau**2)
        offsets = z - alpha * centres
        weights = jax.nn.softmax(-jnp.sum(offsets**2, -1) / (2 * spread))
        both = jnp.einsum("bm,bms->bs", weights, offsets) * alpha * tau / spread
        mixed = both[0] + self.guidance.astype(x.dtype) * (both[1] - both[0])
        return self.unit.astype(x.dtype) * mixed


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Network:
    """A random network; with ``levels`` above zero its output is rounded to steps.

    Attributes:
        first: Shape (HIDDEN, SIZE).
        second: Shape (SIZE, HIDDEN); zeros make the network a constant.
        bias: Shape (SIZE,).
        levels: Steps per unit of output; 0 for none, shape ().
        unit: As of :class:`Mixture`, shape ().
    """

    first: Float[Array, "hidden size"]
    second: Float[Array, "size hidden"]
    bias: Float[Array, "size"]
    levels: Float[Array, ""]
    unit: Float[Array, ""]

    def __call__(self, x: Float[Array, "size"], t: Float[Array, ""]) -> Array:
        """Return the noise prediction."""
        first, second, bias, levels, unit = (
            jnp.asarray(leaf, x.dtype) for leaf in dataclasses.astuple(self)
        )
        hidden = jnp.tanh(first @ (x / unit) + 0.001 * t.astype(x.dtype))
        out = second @ hidden + bias
        stepped = jnp.round(out * levels) / jnp.maximum(levels, 1)
        return unit * jnp.where(levels > 0, stepped, out)


class Try(NamedTuple):
    """One thing to be inverted.

    Attributes:
        model: A denoiser.
        other: Another one of its kind: where data of "another model" come from.
        noise: Of two samples, shape (2, SIZE).
        data: Which kind of data, an index of ``DATA``, shape ().
        factor: What the data are multiplied by, shape ().
    """

    model: Any
    other: Any
    noise: Float[np.ndarray, "2 size"]
    data: np.ndarray
    factor: np.ndarray


def draw_model(rng: np.random.Generator, kind: str, unit: float) -> Any:
    """Draw a denoiser.

    Args:
        rng: The source of randomness.
        kind: ``"mixture"`` (well separated modes, sharp or broad), ``"close modes"``,
            ``"guided"`` (scale up to 9), ``"network"`` (from gentle to steep),
            ``"steps"`` (a discontinuous one) or ``"constant"``.
        unit: See :class:`Mixture`.
    """
    one = np.float32
    if kind in ("mixture", "close modes", "guided"):
        distance = 10 ** rng.uniform(-1.5, -0.3) if kind == "close modes" else 1.0
        return Mixture(
            distance * rng.standard_normal((2, MODES, SIZE)).astype(one),
            one(10 ** rng.uniform(-3, 0)),
            one(rng.uniform(1, 9) if kind == "guided" else 1),
            one(unit),
        )
    gain = 10 ** rng.uniform(-1, 1)
    return Network(
        (gain * rng.standard_normal((HIDDEN, SIZE)) / SIZE**0.5).astype(one),
        (
            (kind != "constant") * rng.standard_normal((SIZE, HIDDEN)) / HIDDEN**0.5
        ).astype(one),
        rng.standard_normal(SIZE).astype(one) * one(kind == "constant"),
        one(10 ** rng.uniform(0, 2) if kind == "steps" else 0),
        one(unit),
    )


def draw(rng: np.random.Generator, kind: str) -> Try:
    """Draw a denoiser of a kind, and data for it.

    Of three tries one has ordinary numbers, one measures everything in another unit,
    from 1e-30 to 1e30, and one has data of another size than its model was made for.
    """
    scale = 10.0 ** rng.uniform(-30, 30)
    unit, factor = [(1.0, 1.0), (scale, 1.0), (1.0, scale)][int(rng.integers(3))]
    noise = (unit * rng.standard_normal((2, SIZE))).astype(np.float32)
    return Try(
        draw_model(rng, kind, unit),
        draw_model(rng, kind, unit),
        noise,
        np.int32(rng.integers(len(DATA))),
        np.float32(factor),
    )


def make_data(sampler: Any, given: Try) -> Float[Array, "size"]:
    """Return the data of a try."""
    a, b = (ji.sample(sampler, given.model, noise) for noise in given.noise)
    foreign = ji.sample(sampler, given.other, given.noise[0])
    kinds = jnp.stack([a, (a + b) / 2, jnp.asarray(given.noise[0]), foreign])
    return given.factor * kinds[given.data]


def _interpolated(t: Array, dtype: Any) -> Array:
    return jnp.interp(
        t.astype(dtype), jnp.asarray(_TIMES, dtype), jnp.asarray(_LEVELS, dtype)
    )

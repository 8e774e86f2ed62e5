"""What is inverted: a guided mixture of Gaussians, and the small flow network."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.flows.network import KINDS, SHAPE, load_network
from benchmarks.mixture import COMPONENTS, DIMENSIONS, VARIANCE

SHIFT = 3.0
SCHEDULE = ji.flow_matching(shift=SHIFT)


class Problem(NamedTuple):
    """A conditional flow model with its samples.

    Attributes:
        title: In the report.
        model: Callable pytree ``(x, t, condition) -> velocity``.
        conditions: Of the samples, the first axis is theirs.
        empty: The condition of the other branch of guidance.
        shape: Of a sample.
    """

    title: str
    model: Any
    conditions: Any
    empty: Any
    shape: tuple[int, ...]

    def noises(self, seed: int) -> Any:
        """Return one noise for each condition."""
        shape = (len(self.conditions), *self.shape)
        return jax.random.normal(jax.random.key(seed), shape)

    def denoiser(self, k: int, guidance: float) -> Any:
        """Return the guided model of sample k."""
        return ji.guided(
            self.model, self.conditions[k], self.empty, jnp.float32(guidance)
        )


def flux_grid(steps: int) -> ji.TimeGrid:
    """Return uniform times from 1 to 0, shifted, as FLUX and the rivals' code do."""
    t = np.linspace(0, 1, steps + 1)
    tau = SHIFT * t / (1 + (SHIFT - 1) * t)
    return ji.TimeGrid(tau, np.ones_like(tau), 1000 * tau, family="flow")


def guided_mixture(samples: int) -> Problem:
    """Return eight Gaussians; a condition is one of them, the empty one all."""
    centers = np.random.default_rng(0).standard_normal((COMPONENTS, DIMENSIONS))
    chosen = np.eye(COMPONENTS)[np.arange(samples) % COMPONENTS]
    # Conditions are the logarithms of the weights, up to a constant.
    conditions = jnp.asarray(np.where(chosen == 1, 0.0, -1e9), jnp.float32)
    model = jax.tree_util.Partial(mixture_velocity, jnp.asarray(centers, jnp.float32))
    empty = jnp.zeros(COMPONENTS, jnp.float32)
    return Problem("guided mixture", model, conditions, empty, (DIMENSIONS,))


def mixture_velocity(centers: Any, x: Any, time: Any, condition: Any) -> Any:
    """Return the exact velocity ``E[e - x_0 | x]`` of a mixture of Gaussians."""
    t = time / 1000
    offsets = x - (1 - t) * centers
    variance = (1 - t) ** 2 * VARIANCE + t**2
    weights = jax.nn.softmax(condition - jnp.sum(offsets**2, 1) / (2 * variance))
    noise = weights @ offsets * t / variance
    data = weights @ (centers + (1 - t) * VARIANCE / variance * offsets)
    return noise - data


def small_network(samples: int) -> Problem:
    """Return the trained network, each sample of another kind."""
    kinds = jnp.arange(samples) % len(KINDS) + 1
    return Problem("small network", load_network(), kinds, jnp.asarray(0), SHAPE)

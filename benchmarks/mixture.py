r"""A model with a closed form: a mixture of Gaussians, and its exact trajectories.

With ``x = alpha x0 + sigma e``, components of variance s^2 at mu_k, and equal weights,

    V = alpha^2 s^2 + sigma^2,   w = softmax_k(-|x - alpha mu_k|^2 / 2V),
    E[e | x] = sum_k w_k (sigma / V) (x - alpha mu_k).

Variance-preserving schedules only. Run it in float64.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from jaxinv.samplers.units import in_tau

COMPONENTS, DIMENSIONS, VARIANCE = 8, 16, 0.05
#: Runge-Kutta steps between two levels; their error is of the fourth power.
SUBSTEPS = 24


def mixture(schedule: ji.NoiseSchedule, seed: int) -> Any:
    """Return the exact noise prediction, as a function ``(x, t)``."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((COMPONENTS, DIMENSIONS))
    log_tau = np.log(schedule.taus)
    return jax.tree_util.Partial(
        _predict, jnp.asarray(centres), jnp.asarray(schedule.model_times), log_tau
    )


def _predict(centres: Any, times: Any, log_tau: Any, x: Any, t: Any) -> Any:
    return predict_at(centres, x, jnp.exp(jnp.interp(t, times, log_tau)))


def predict_at(centres: Any, x: Any, tau: Any) -> Any:
    """Return the noise prediction at a noise level ``tau = sigma / alpha``."""
    alpha = 1 / jnp.sqrt(1 + tau**2)
    offsets = x - alpha * centres
    variance = alpha**2 * (VARIANCE + tau**2)
    weights = jax.nn.softmax(-jnp.sum(offsets**2, 1) / (2 * variance))
    return weights @ offsets * alpha * tau / variance


def solution(model: Any, sampler: Any, noise: Any) -> Any:
    """Return the exact states x at the levels of a sampler, data first."""
    log_tau = jnp.log(jnp.asarray(sampler.tau))
    centres = model.args[0]

    def slope(s: Any, y: Any) -> Any:
        tau = jnp.exp(s)
        return tau * predict_at(centres, y / jnp.sqrt(1 + tau**2), tau)

    def interval(y: Any, ends: Any) -> Any:
        h = (ends[1] - ends[0]) / SUBSTEPS

        def step(y: Any, k: Any) -> Any:
            s = ends[0] + k * h
            one = slope(s, y)
            two = slope(s + h / 2, y + h / 2 * one)
            three = slope(s + h / 2, y + h / 2 * two)
            four = slope(s + h, y + h * three)
            return y + h / 6 * (one + 2 * two + 2 * three + four), None

        y, _ = jax.lax.scan(step, y, jnp.arange(SUBSTEPS))
        return y, y

    scale = jnp.asarray(in_tau(sampler).scale)
    start = noise * sampler.init_noise_scale / scale[-1]
    ends = jnp.stack([log_tau[:0:-1], log_tau[-2::-1]], axis=1)
    _, ys = jax.lax.scan(interval, start, ends)
    return scale[:, None] * jnp.concatenate([start[None], ys])[::-1]

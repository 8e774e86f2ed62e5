r"""A model with a closed form: data from a mixture of Gaussians.

With ``x = alpha x0 + sigma e`` and ``x0`` from component k, both ``x0`` and ``e`` are
jointly Gaussian with x, so their means given x are linear; the mixture averages them
with the posterior weights of its components,

    V = alpha^2 s^2 + sigma^2,        d_k = x - alpha mu_k,
    w = softmax_k(-|d_k|^2 / 2V),     E[e | x]  = sum_k w_k  (sigma / V) d_k,
                                      E[x0 | x] = sum_k w_k (mu_k + alpha s^2 / V d_k).

Every prediction type is a linear combination of the two. No network, no training: the
order of a sampler and the exactness of an inverse can be measured to machine precision.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

SHAPE = (2, 2, 4)
VARIANCE = 0.05


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianMixture:
    """The exact denoiser of a mixture of Gaussians of one variance, equal weights."""

    centres: jax.Array
    variance: float
    times: jax.Array
    levels: jax.Array
    family: str = dataclasses.field(metadata={"static": True})
    prediction: str = dataclasses.field(metadata={"static": True}, default="f")

    def __call__(self, x, t):
        """The prediction named by ``self.prediction``, for one sample."""
        alpha, sigma = self.path(jnp.asarray(t, x.dtype))
        centres = jnp.asarray(self.centres, x.dtype)
        offsets = x - alpha * centres
        variance = alpha**2 * self.variance + sigma**2
        axes = tuple(range(1, offsets.ndim))
        weights = jax.nn.softmax(-jnp.sum(offsets**2, axes) / (2 * variance))
        weights = weights.reshape((-1,) + (1,) * x.ndim)
        noise = jnp.sum(weights * offsets, 0) * sigma / variance
        data = jnp.sum(
            weights * (centres + alpha * self.variance / variance * offsets), 0
        )
        predictions = {
            "f": noise - data if self.family == "flow" else noise,
            "v": alpha * noise - sigma * data,
            "x0": data,
        }
        return predictions[self.prediction]

    def path(self, t):
        """Alpha and sigma at a model time."""
        if self.family == "vp":
            tau = jnp.exp(jnp.interp(t, self.times, self.levels).astype(t.dtype))
            alpha = 1 / jnp.sqrt(1 + tau**2)
            return alpha, tau * alpha
        tau = jnp.interp(t, self.times, self.levels).astype(t.dtype)
        return (1 - tau if self.family == "flow" else jnp.ones_like(tau)), tau

    def predicting(self, kind):
        """The same mixture with another prediction type: f, v or x0."""
        return dataclasses.replace(self, prediction=kind)


def gaussian_mixture(schedule, *, components=8, variance=VARIANCE, seed=0):
    """A mixture of well separated Gaussians, as a model trained on a schedule."""
    centres = np.random.default_rng(seed).standard_normal((components, *SHAPE))
    levels = np.log(schedule.taus) if schedule.family == "vp" else schedule.taus
    return GaussianMixture(
        centres, variance, schedule.model_times, levels, schedule.family
    )


def ode_solution(schedule, denoise, x_start, tau_start, tau_end, steps=2000):
    """The probability-flow ODE from one noise level to another, for reference.

    Classical Runge-Kutta of fourth order in ``log tau``; independent of the library's
    samplers, with an error of ``steps ** -4``.
    """
    levels = np.geomspace(tau_start, tau_end, 2)
    return ode_trajectory(schedule, denoise, x_start, levels, steps)[-1]


def ode_trajectory(schedule, denoise, x_start, taus, steps=4):
    r"""The states x of the ODE at given levels, from the start (``taus[0]``) on.

    Args:
        schedule: the model's schedule.
        denoise: the denoiser.
        x_start: the state at ``taus[0]``.
        taus: noise levels.
        steps: Runge-Kutta steps between two of them.

    Returns:
        The states, shape (number of levels, \*shape).
    """
    times = jnp.asarray(schedule.model_times)
    levels = jnp.log(jnp.asarray(schedule.taus))

    def slope(s, y):
        tau = jnp.exp(s)
        if schedule.family == "vp":
            scale, t = 1 / jnp.sqrt(1 + tau**2), jnp.interp(s, levels, times)
        else:
            scale, t = 1.0, tau * (times[-1] / schedule.taus[-1])
        return tau * denoise(scale * y, t)

    def interval(y, ends):
        h = (ends[1] - ends[0]) / steps
        y, _ = jax.lax.scan(
            lambda y, k: step(y, ends[0] + k * h, h), y, jnp.arange(steps)
        )
        return y, y

    def step(y, s, h):
        k1 = slope(s, y)
        k2 = slope(s + h / 2, y + h / 2 * k1)
        k3 = slope(s + h / 2, y + h / 2 * k2)
        k4 = slope(s + h, y + h * k3)
        return y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    taus = np.asarray(taus)
    s = jnp.log(jnp.asarray(taus))
    scale = jnp.asarray(schedule.scale(taus)).reshape((-1,) + (1,) * x_start.ndim)
    y = x_start / scale[0]
    ends = jnp.stack([s[:-1], s[1:]], axis=1)
    _, ys = jax.jit(lambda y: jax.lax.scan(interval, y, ends))(y)
    return jnp.concatenate([y[None], ys]) * scale

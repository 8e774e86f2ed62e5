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
    """The exact denoiser of a mixture of Gaussians of one variance, equal weights.

    The family of its schedule is data (1.0 for the one that it is, else 0.0), so that
    all schedules share one compiled program.
    """

    centres: jax.Array
    variance: float
    times: jax.Array
    levels: jax.Array
    vp: float
    flow: float
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
            "f": noise - self.flow * data,
            "v": alpha * noise - sigma * data,
            "x0": data,
        }
        return predictions[self.prediction]

    def path(self, t):
        """Alpha and sigma at a model time."""
        level = jnp.interp(t, self.times, self.levels).astype(t.dtype)
        is_vp = jnp.asarray(self.vp, t.dtype) > 0
        tau = jnp.where(is_vp, jnp.exp(level), level)
        alpha = jnp.where(is_vp, 1 / jnp.sqrt(1 + tau**2), 1 - self.flow * tau)
        return alpha, jnp.where(is_vp, tau * alpha, tau)

    def predicting(self, kind):
        """The same mixture with another prediction type: f, v or x0."""
        return dataclasses.replace(self, prediction=kind)


def gaussian_mixture(schedule, *, components=8, variance=VARIANCE, seed=0):
    """A mixture of well separated Gaussians, as a model trained on a schedule."""
    centres = np.random.default_rng(seed).standard_normal((components, *SHAPE))
    vp, flow = schedule.family == "vp", schedule.family == "flow"
    levels = np.log(schedule.taus) if vp else schedule.taus
    return GaussianMixture(
        centres, variance, schedule.model_times, levels, float(vp), float(flow)
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
    s = np.log(np.asarray(taus))
    scale = jnp.asarray(schedule.scale(taus)).reshape((-1,) + (1,) * x_start.ndim)
    y = x_start / scale[0]
    ends = np.stack([s[:-1], s[1:]], axis=1)
    ys = _integrate(denoise, y, ends, steps)
    return jnp.concatenate([y[None], ys]) * scale


@jax.jit(static_argnames="steps")
def _integrate(denoise, y, ends, steps):
    """The states y = x / scale of the ODE at the ends of intervals of log tau."""

    def slope(s, y):
        tau = jnp.exp(s)
        vp = denoise.vp > 0
        scale = jnp.where(vp, 1 / jnp.sqrt(1 + tau**2), 1.0)
        t = jnp.interp(jnp.where(vp, s, tau), denoise.levels, denoise.times)
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

    return jax.lax.scan(interval, y, ends)[1]

r"""f as a sum of a network's prediction and the state, and its error in float32.

For a network that predicts v or data D, f depends on the prediction and the state,

    f = p v + q y,   p = alpha,     q = sigma s         (v-prediction)
    f = p D + q y,   p = -1 / tau,  q = s / (alpha tau) (data prediction)

where alpha, sigma and tau belong to the model time and ``x = s y``. In a step, the
weights of y can cancel: from ``tau = 2e4`` to 13 with v, ``1 + (13 - tau) q`` is 6e-4.
On the host, in float64, that is exact. But a denoiser returns f as *one* array, to
which v contributes with the weight ``p = 5e-5``: in float32, three digits of v are
lost, and no later arithmetic recovers them. Grids with such a step are detected from
their levels (:func:`lost_digits`) and refused.
"""

import jax
import numpy as np
from jaxtyping import Float

from jaxinv.diffusion.schedule import NoiseSchedule

#: Largest error that rounding f may add to a state of variance one. The error of whole
#: trajectories is up to 8 times as large (measured with benchmarks/schedules.py).
LARGEST_LOSS = 1e-5


def levels_seen(
    schedule: NoiseSchedule, model_time: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """Return the noise levels of model times, at which a denoiser converts."""
    logs = np.log(schedule.taus)
    return np.exp(np.interp(model_time, schedule.model_times, logs))


def prediction_weights(
    schedule: NoiseSchedule,
    tau: Float[np.ndarray, "n"],
    scale: Float[np.ndarray, "n"],
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Return p and q of ``f = p prediction + q y`` at some noise levels.

    Args:
        schedule: a VP schedule whose networks predict v or data.
        tau: The levels.
        scale: Scale of the states, ``x = scale y``.
    """
    alpha = schedule.scale(tau)
    if schedule.prediction_type == "v_prediction":
        return alpha, alpha * tau * scale
    with np.errstate(divide="ignore", invalid="ignore"):
        return -1 / tau, scale / (alpha * tau)


def lost_digits(schedule: NoiseSchedule, tau: Float[np.ndarray, "n+1"]) -> float:
    """Return the error from passing f instead of the prediction in float32.

    Args:
        schedule: The schedule.
        tau: The levels of a grid, data first.

    Returns:
        For the worst of Euler's steps: the size of its terms in a and f, minus that of
        its terms in y and the prediction, times the rounding of float32; states x and
        predictions have variance one. 0 if the prediction is f.
    """
    kinds = ("v_prediction", "sample")
    if schedule.family != "vp" or schedule.prediction_type not in kinds:
        return 0.0
    scale = schedule.scale(tau)
    p, q = (part[1:] for part in prediction_weights(schedule, tau, scale))
    before, after, step = scale[1:], scale[:-1], tau[:-1] - tau[1:]
    terms = 1 / before + np.abs(step) * np.hypot(p, q / before)
    inherent = np.abs(1 + step * q) / before + np.abs(step * p)
    lost = float(np.max(after * (terms - inherent)))
    return max(lost, 0.0) * float(np.finfo(np.float32).eps)


def check_digits(schedule: NoiseSchedule, tau: Float[np.ndarray, "n+1"]) -> None:
    """Raise ValueError for a grid that is too inexact in float32 with this prediction.

    Nothing is raised if JAX computes in float64 (``jax_enable_x64``): the error is then
    1e-9 of this, provided that states are float64.
    """
    loss = lost_digits(schedule, tau)
    has_float64 = jax.dtypes.canonicalize_dtype(np.float64) == np.float64
    if loss > LARGEST_LOSS and not has_float64:
        raise ValueError(
            "a step of this grid, from almost pure noise (tau = "
            f"{float(tau[-1]):.3g}), adds an error of about {loss:.0e} in "
            "float32 if the network predicts "
            f"{schedule.prediction_type!r}: the prediction is converted to noise and "
            "back. Use a grid without such a step (time_grid's default, or "
            "lambda_min_clipped, also in diffusers), or float64: "
            'jax.config.update("jax_enable_x64", True) and float64 states'
        )

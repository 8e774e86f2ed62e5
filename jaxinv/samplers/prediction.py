r"""Tables and what a network predicts: f as a sum of a prediction and the state.

A table weighs f. A network that predicts v or data D gives f together with the state,

    f = p v + q y,   p = alpha,     q = sigma s         (v-prediction)
    f = p D + q y,   p = -1 / tau,  q = s / (alpha tau) (data prediction)

where alpha, sigma and tau belong to the model time and ``x = s y``. Put into a row, the
weights of y can cancel: a step from ``tau = 2e4`` with v has ``a + b q = 6e-4`` where a
is 1. In float64, on the host, that is exact. But a denoiser hands over f as *one* array,
in which v is the part ``p = 5e-5``: in float32 three of its digits are gone, and no
arithmetic after it can bring them back. Such tables are found here by their
coefficients (:func:`lost_digits`), and refused.
"""

import jax
import numpy as np
from jaxtyping import Float

from jaxinv.samplers.table import LinearMultistep
from jaxinv.schedule import NoiseSchedule

#: Largest error of a state of variance one that a row may add in float32.
LARGEST_LOSS = 1e-5


def levels_seen(
    schedule: NoiseSchedule, model_time: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """Return the noise levels at which a denoiser converts, those of the times."""
    logs = np.log(schedule.taus)
    return np.exp(np.interp(model_time, schedule.model_times, logs))


def prediction_weights(
    schedule: NoiseSchedule,
    tau: Float[np.ndarray, "n"],
    scale: Float[np.ndarray, "n"],
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Return p and q of ``f = p prediction + q y``, for conversion at some levels.

    Args:
        schedule: a VP schedule whose networks predict v or data.
        tau: the levels.
        scale: of the states, ``x = scale y``.
    """
    alpha = schedule.scale(tau)
    if schedule.prediction_type == "v_prediction":
        return alpha, alpha * tau * scale
    with np.errstate(divide="ignore", invalid="ignore"):
        return -1 / tau, scale / (alpha * tau)


def lost_digits(table: LinearMultistep, schedule: NoiseSchedule) -> float:
    """Return the error that handing over f, not the prediction, adds in float32.

    Args:
        table: a table for f.
        schedule: its schedule.

    Returns:
        For the worst row: the sum of its terms, in units where states x and outputs
        have variance one, times the rounding of float32; less what the same row has
        when it weighs the prediction itself. 0 where f is the prediction.
    """
    if schedule.family != "vp" or schedule.prediction_type not in (
        "v_prediction",
        "sample",
    ):
        return 0.0
    a, b, scale = (np.asarray(part) for part in (table.a, table.b, table.scale))
    tau = levels_seen(schedule, np.asarray(table.model_time))
    p, q = prediction_weights(schedule, tau, scale)
    n, k = a.shape
    worst = 0.0
    for i in range(1, n + 1):
        window = slice(i, min(i + k, n + 1))
        used = window.stop - i
        of_y, of_f = a[i - 1, :used], b[i - 1, :used]
        size_f = np.hypot(p[window], q[window] / scale[window])
        terms = np.abs(of_y) / scale[window] + np.abs(of_f) * size_f
        inherent = np.abs(of_y + of_f * q[window]) / scale[window]
        inherent += np.abs(of_f * p[window])
        worst = max(worst, float(scale[i - 1] * np.sum(terms - inherent)))
    return worst * float(np.finfo(np.float32).eps)


def check_digits(table: LinearMultistep, schedule: NoiseSchedule) -> None:
    """Raise ValueError for a table that float32 cannot carry.

    Nothing is raised where JAX computes in float64 (``jax_enable_x64``): there the
    loss is 1e-9 of this, and states should be float64.
    """
    loss = lost_digits(table, schedule)
    if loss > LARGEST_LOSS and not jax.config.jax_enable_x64:
        raise ValueError(
            f"a step of {table.name!r} from almost pure noise (tau = "
            f"{float(table.tau[-1]):.3g}) adds an error of about {loss:.0e} in "
            f"float32 when the network predicts {schedule.prediction_type!r}: the "
            "prediction is turned into noise and back. Use a grid without such a step "
            "(time_grid's default, or lambda_min_clipped in diffusers as well), or "
            'float64: jax.config.update("jax_enable_x64", True) and float64 states'
        )

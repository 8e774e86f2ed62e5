r"""TrigFlow's schedule and grids, which diffusers' SCMScheduler has.

Data and noise of standard deviation sigma_data are combined by an angle t from 0 to a
right angle, ``x = cos(t) x0 + sin(t) z``. The network predicts ``cos(t) z - sin(t)
x0``: a variance-preserving schedule with v-prediction, whose time is the angle and
whose first level is pure noise.

References:
    Lu & Song 2024, "Simplifying, Stabilizing and Scaling Continuous-Time Consistency
    Models", arXiv:2410.11081, Section 3; diffusers 0.42, ``SCMScheduler``.
"""

import numpy as np
from jaxtyping import Float

from jaxinv.diffusion.grid import TimeGrid
from jaxinv.diffusion.prediction import Output
from jaxinv.diffusion.schedule import NoiseSchedule

#: The second of two timesteps.
_INTERMEDIATE = 1.3


def trigflow_schedule(num_train_timesteps: int) -> NoiseSchedule:
    """Return the schedule, at angles of even distance."""
    angles = np.linspace(0, np.pi / 2, num_train_timesteps + 1)[1:]
    return NoiseSchedule(
        "vp", angles, _tangents(angles), prediction_type="v_prediction"
    )


def trigflow_grid(num_steps: int, sigma_data: float) -> TimeGrid:
    """Return the grid of SCMScheduler's defaults: even angles, but for two steps.

    Args:
        num_steps: N.
        sigma_data: Standard deviation of data and noise.
    """
    angles = np.linspace(0, np.pi / 2, num_steps + 1)
    if num_steps == 2:
        angles[1] = _INTERMEDIATE
    tau = _tangents(angles)
    scale = np.where(np.isinf(tau), 0, np.cos(angles))
    return TimeGrid(tau, scale, angles, sigma_data, output=Output("v_prediction"))


def _tangents(angles: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    return np.append(np.tan(angles[:-1]), np.inf)

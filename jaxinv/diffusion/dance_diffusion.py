r"""The schedule and the grids of Dance Diffusion, which diffusers' IPNDMScheduler has.

There are no betas: at a fraction s of all steps, ``sigma = sin(pi s / 2)^2``. The
network predicts v; its time is the angle ``2 atan(sigma / alpha) / pi``. The first
level is pure noise.

References:
    diffusers 0.42, ``IPNDMScheduler``.
"""

import numpy as np

from jaxinv.diffusion.grid import TimeGrid
from jaxinv.diffusion.prediction import Output
from jaxinv.diffusion.schedule import NoiseSchedule


def ipndm_schedule(num_train_timesteps: int) -> NoiseSchedule:
    """Return the schedule, at the times of as many steps."""
    grid = ipndm_grid(num_train_timesteps)
    return NoiseSchedule(
        "vp", grid.model_time[1:], grid.tau[1:], prediction_type="v_prediction"
    )


def ipndm_grid(num_steps: int) -> TimeGrid:
    """Return the grid of a number of steps, which ends at ``tau = 0``."""
    sigma = np.sin(np.linspace(0, 1, num_steps + 1) * np.pi / 2) ** 2
    alpha = np.sqrt(1 - sigma**2)
    tau = np.append(sigma[:-1] / alpha[:-1], np.inf)
    times = np.arctan2(sigma, alpha) / np.pi * 2
    return TimeGrid(tau, alpha, times, output=Output("v_prediction"))

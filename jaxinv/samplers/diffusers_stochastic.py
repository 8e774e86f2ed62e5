r"""diffusers' stochastic schedulers: DDPM, LCM and TCD, with their peculiarities.

Each is a table with the weights of the noises that it adds, which ``with_noises``
gives. First-order SDE samplers on other grids are :func:`jaxinv.ancestral`.

References:
    diffusers 0.42, ``DDPMScheduler``, ``LCMScheduler``, ``TCDScheduler`` and
    ``SCMScheduler``.
    Ho et al. 2020, arXiv:2006.11239, Eq. 6 and 7. Luo et al. 2023, "Latent Consistency
    Models", arXiv:2310.04378, Eq. 9. Zheng et al. 2024, "Trajectory Consistency
    Distillation", arXiv:2402.19159, Algorithm 4.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxinv.diffusion.diffusers_config import LCM
from jaxinv.diffusion.grid import TimeGrid
from jaxinv.diffusion.prediction import signal_and_noise
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.samplers.stochastic import full_noise, renewing
from jaxinv.samplers.table import SamplerTable, from_predictions

#: Standard deviation of the data in the boundary condition of consistency models.
_SIGMA_DATA = 0.5
#: Share of new noise in TCD's pipelines.
_TCD_ETA = 0.3


def ddpm(options: Mapping[str, Any], grid: TimeGrid) -> SamplerTable:
    """Return DDPM's posterior steps, with either of its two fixed variances.

    Args:
        options: Of DDPMScheduler.
        grid: Its noise levels, with ``tau[0] = 0``.

    Raises:
        ValueError: For a variance that the network predicts, or that is NaN in
            diffusers.
    """
    kind = options["variance_type"]
    if kind not in ("fixed_small", "fixed_small_log", "fixed_large"):
        raise ValueError(
            f"variance_type={kind!r} is not supported: supported are fixed_small, "
            "fixed_small_log and fixed_large (learned variances are outputs of the "
            "network; fixed_large_log is NaN in diffusers)"
        )
    posterior, up = full_noise(grid), full_noise(grid)
    if kind == "fixed_large":
        # beta = 1 - alpha^2 / alpha'^2, in the unit of y.
        before, after = 1 + grid.tau[1:] ** 2, 1 + grid.tau[:-1] ** 2
        up = np.sqrt(after * (1 - after / before))
    # The step from timestep 0 adds none.
    up = np.where(grid.model_time[1:] > 0, up, 0)
    down = np.sqrt(grid.tau[:-1] ** 2 - posterior**2)
    return renewing(grid, up, down, name=f"ddpm_{kind}")


def scm(grid: TimeGrid) -> SamplerTable:
    """Return SCMScheduler's steps: all noise is new.

    Args:
        grid: The noise levels, from :func:`jaxinv.diffusion.trigflow.trigflow_grid`;
            noises have the standard deviation of its first state.
    """
    up = grid.tau[:-1] * grid.init_noise_scale
    return renewing(grid, up, np.zeros_like(up), name="scm")


def consistency_timesteps(
    options: Mapping[str, Any], num_steps: int
) -> Float[np.ndarray, "n"]:
    """Return the timesteps of consistency models, increasing.

    Args:
        options: Of LCMScheduler or TCDScheduler.
        num_steps: N.

    Raises:
        ValueError: For more steps than the model was distilled from.
    """
    total, original = (
        options["num_train_timesteps"],
        options["original_inference_steps"],
    )
    if not num_steps <= original <= total:
        raise ValueError(
            "num_steps must be at most original_inference_steps, and that at most "
            f"num_train_timesteps; got {num_steps}, {original} and {total}"
        )
    known = np.arange(original, 0, -1) * (total // original) - 1
    chosen = np.floor(np.linspace(0, original, num_steps, endpoint=False)).astype(int)
    return known[chosen][::-1]


def consistency(
    options: Mapping[str, Any], schedule: NoiseSchedule, grid: TimeGrid
) -> SamplerTable:
    """Return LCM's or TCD's steps.

    Args:
        options: Of LCMScheduler or TCDScheduler.
        schedule: The schedule.
        grid: The noise levels of :func:`consistency_timesteps`.
    """
    if options["_class_name"] == LCM:
        # The data are c_out D + c_skip x, and all noise is new.
        signal, noise = signal_and_noise(grid.family, grid.tau[1:])
        time = grid.model_time[1:] * options["timestep_scaling"]
        skip = _SIGMA_DATA**2 / (time**2 + _SIGMA_DATA**2)
        out = time / np.hypot(time, _SIGMA_DATA)
        data, kept = out + skip * signal, skip * noise
        return from_predictions(
            grid,
            data[:, None],
            kept[:, None],
            name="lcm",
            order=1,
            added=grid.tau[:-1],
        )
    # Down to the level of a share of the next timestep, and up again with new noise.
    following = np.append(0, grid.model_time[1:-1])
    below = np.floor((1 - _TCD_ETA) * following).astype(int)
    down = schedule.taus[below]
    up = np.sqrt(np.maximum(grid.tau[:-1] ** 2 - down**2, 0))
    return renewing(grid, up, down, name="tcd")

r"""The noise levels that diffusers' schedulers visit, from their configurations.

DDIMScheduler and FlowMatchEulerDiscreteScheduler visit the grids of
:func:`jaxinv.time_grid`. The multistep schedulers (DPM-Solver, DEIS, UniPC) differ:

* they space N + 1 timesteps and drop the one nearest to the data;
* the step to the data ends at ``tau = 0`` or at the smallest training level
  (``final_sigmas_type``; DEIS has its own rule);
* with Karras, exponential or Lu's levels, the network is given a *rounded* timestep
  (or a truncated one), while the step uses the exact level;
* with flow levels, t runs over another range than in FlowMatchEulerDiscreteScheduler.

All of it is reproduced here, since an image can only be inverted on the levels on which
it was made. diffusers computes levels in float32, this module in float64; where a
truncated timestep hangs on such a rounding, the choice is the one that diffusers makes
for the schedules of Stable Diffusion and of DDPM.

References:
    diffusers 0.42, ``DPMSolverMultistepScheduler``, ``DEISMultistepScheduler`` and
    ``UniPCMultistepScheduler``, ``set_timesteps``.
    Karras et al. 2022, arXiv:2206.00364, Eq. 5.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxinv.grid import (
    TimeGrid,
    check_num_steps,
    karras_levels,
    make_grid,
    warn_if_lossy,
)
from jaxinv.schedule import (
    NoiseSchedule,
    read_scheduler_config,
    schedule_from_diffusers,
    shifted,
)

DPM, DEIS, UNIPC = (
    f"{name}MultistepScheduler" for name in ("DPMSolver", "DEIS", "UniPC")
)


def grid_from_diffusers(
    config: Mapping[str, Any] | str | Path, num_steps: int
) -> TimeGrid:
    """The grid on which a diffusers scheduler takes ``num_steps`` steps.

    Args:
        config: the parsed ``scheduler_config.json``, the file, or the folder that holds
            it. ``_class_name`` decides the rules.
        num_steps: N.

    Returns:
        The grid, ``N + 1`` levels; ``model_time`` is what diffusers gives the network.

    Raises:
        ValueError: for a scheduler or an option that is not supported, a number of
            steps that the schedule does not have, or levels that coincide.
        FileNotFoundError: if the file does not exist.

    Warns:
        LossyGridWarning: as :func:`jaxinv.time_grid`.

    Example:
        >>> import warnings
        >>> config = {"_class_name": "DPMSolverMultistepScheduler",
        ...           "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}
        >>> with warnings.catch_warnings(action="ignore"):
        ...     grid_from_diffusers(config, 4).model_time
        array([  0.,   0., 301., 775., 999.])
    """
    config = read_scheduler_config(config)
    grid = make_diffusers_grid(config, num_steps)
    warn_if_lossy(schedule_from_diffusers(config), grid, stacklevel=3)
    return grid


def make_diffusers_grid(config: Mapping[str, Any], num_steps: int) -> TimeGrid:
    """:func:`grid_from_diffusers` of a parsed configuration, without its warning."""
    schedule = schedule_from_diffusers(config)
    check_num_steps(schedule, num_steps)
    times: np.ndarray
    name = config.get("_class_name")
    if name == "DDIMScheduler":
        return make_grid(schedule, num_steps, schedule.timestep_spacing)
    if name == "FlowMatchEulerDiscreteScheduler":
        return make_grid(schedule, num_steps, "linspace")
    if schedule.family == "flow":
        levels = _flow_levels(config, schedule, num_steps)
        times = np.floor(levels * schedule.num_train_timesteps)
    elif any(config.get(f"use_{rule}", False) for rule in _LEVELS):
        levels, times = _spaced_levels(config, schedule, num_steps)
    else:
        timesteps = _timesteps(config, schedule, num_steps)
        levels, times = schedule.taus[timesteps], timesteps.astype(np.float64)
    if np.any(np.diff(levels) <= 0):
        raise ValueError(
            f"with {num_steps} steps two of the scheduler's noise levels coincide; use "
            "fewer steps"
        )
    end = _last_level(config, schedule, levels)
    return TimeGrid(
        np.append(end, levels),
        schedule.scale(np.append(end, levels)),
        np.append(schedule.model_time(np.asarray(end)), times),
        schedule.init_noise_scale,
        schedule.family,
    )


def _timesteps(
    config: Mapping[str, Any], schedule: NoiseSchedule, num_steps: int
) -> np.ndarray:
    """Increasing integer timesteps: N + 1 of them, without the one nearest the data."""
    times: np.ndarray
    total = schedule.num_train_timesteps
    clip = config.get("lambda_min_clipped", -np.inf)
    last = total - int(np.searchsorted(-np.log(schedule.taus)[::-1], float(clip)))
    if schedule.timestep_spacing == "linspace":
        times = np.linspace(0, last - 1, num_steps + 1).round()[1:]
    elif schedule.timestep_spacing == "leading":
        times = np.arange(1, num_steps + 1) * (last // (num_steps + 1))
        times = times + schedule.steps_offset
    else:
        # For some N rounding makes the range one too long: cut it.
        times = np.arange(last, 0, -total / num_steps).round()[:num_steps][::-1] - 1
    if times[-1] >= total:
        raise ValueError(
            f"steps_offset {schedule.steps_offset} moves the last of {num_steps} "
            f"timesteps past the last training timestep {total - 1}"
        )
    return times.astype(int)


# Noise levels by a rule of their own: use_<rule> in the configuration.
_LEVELS: dict[str, Callable[[float, float, int], np.ndarray]] = {
    "karras_sigmas": karras_levels,
    "exponential_sigmas": np.geomspace,
    "lu_lambdas": np.geomspace,
}


def _spaced_levels(
    config: Mapping[str, Any], schedule: NoiseSchedule, num_steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Noise levels over the training range, and the integer times next to them."""
    # diffusers asks in this order, which matters where two are set.
    order = ("karras_sigmas", "lu_lambdas", "exponential_sigmas")
    rule = next(rule for rule in order if config.get(f"use_{rule}", False))
    low, high = schedule.taus[0], schedule.taus[-1]
    # Sampling starts at the noise: a single level is the largest.
    levels = _LEVELS[rule](low, high, num_steps) if num_steps > 1 else np.array([high])
    times = schedule.model_time(levels)
    cosine = config.get("beta_schedule") == "squaredcos_cap_v2"
    rounds = config["_class_name"] != DPM or not cosine
    if rule != "exponential_sigmas" and rounds:
        return levels, times.round()
    # Truncated. In float32 the largest level falls just short of its time.
    short = 0.0 if rule == "lu_lambdas" else 1e-6
    return levels, np.floor(np.minimum(times, schedule.model_times[-1] - short))


def _flow_levels(
    config: Mapping[str, Any], schedule: NoiseSchedule, num_steps: int
) -> np.ndarray:
    """Increasing flow times: from pure noise in UniPC, from 1 - 1/T in the others."""
    t = np.linspace(1, 1 / schedule.num_train_timesteps, num_steps + 1)
    if config["_class_name"] != UNIPC:
        return shifted(1.0 - t, schedule.shift)[1:]
    levels = shifted(t[:-1], schedule.shift)[::-1].copy()
    # diffusers avoids the infinite log-SNR of pure noise by this much, in float32.
    levels[-1] = np.float32(1 - 1e-6)
    return levels


def _last_level(
    config: Mapping[str, Any], schedule: NoiseSchedule, levels: np.ndarray
) -> float:
    """The level at which the last step ends."""
    name = config["_class_name"]
    spaced = schedule.family == "flow" or any(
        config.get(f"use_{rule}", False) for rule in _LEVELS
    )
    if name != DEIS and config.get("final_sigmas_type", "zero") == "zero":
        return 0.0
    # DEIS and UniPC end such grids with a step that goes nowhere.
    return float(levels[0] if spaced and name != DPM else schedule.taus[0])

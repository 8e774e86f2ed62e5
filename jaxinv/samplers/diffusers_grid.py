r"""The noise levels that diffusers' schedulers visit, from their configurations.

DDIMScheduler and PNDMScheduler visit the grids of :func:`jaxinv.time_grid`. The
schedulers after DPM-Solver (multistep, singlestep, DEIS, UniPC) differ:

* they space N + 1 timesteps and drop the one closest to the data;
* the step to the data ends at ``tau = 0`` or at the smallest training level
  (``final_sigmas_type``; DEIS has its own rule);
* with Karras, exponential or Lu's levels, the network is given a *rounded* timestep
  (or a truncated one), while the step uses the exact level;
* with flow levels, t runs over another range than in FlowMatchEulerDiscreteScheduler;
* with "trailing" and some N they take N + 1 steps, the last one at timestep -1.

The schedulers after k-diffusion (Euler, Heun, KDPM2, LMS) give the network fractional
timesteps; their states are not scaled, and start from the largest level. KDPM2's grid
includes its midpoints. EDM's schedulers have levels and times of their own.

All this is reproduced here, since an image can only be inverted on the levels that
generated it. This module computes in float32 where diffusers does, because a truncated
timestep depends on the last bit (:mod:`jaxinv.diffusion.diffusers_schedule`). If that
bit depends on the machine on which diffusers runs, an error is raised.

References:
    diffusers 0.42, ``DPMSolverMultistepScheduler``, ``DEISMultistepScheduler``,
    ``UniPCMultistepScheduler`` and ``FlowMatchEulerDiscreteScheduler``,
    ``set_timesteps``.
    Karras et al. 2022, arXiv:2206.00364, Eq. 5.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxinv.checks import checked
from jaxinv.diffusion.dance_diffusion import ipndm_grid
from jaxinv.diffusion.diffusers_config import (
    COG_DDIM,
    COG_DPM,
    DDIM,
    DDIM_INVERSE,
    DDIM_PARALLEL,
    DDPM,
    DDPM_PARALLEL,
    DEIS,
    DPM,
    EDM_DPM,
    EDM_EULER,
    EULER,
    FLOW_MATCH_EULER,
    FLOW_MATCH_HEUN,
    HEUN,
    IPNDM,
    LCM,
    PNDM,
    SCALING,
    SCM,
    SINGLESTEP,
    TCD,
    UNIPC,
    naming_scheduler,
    scheduler_options,
)
from jaxinv.diffusion.diffusers_levels import (
    Request,
    edm_levels,
    flow_levels,
    flow_match_levels,
    k_levels,
    last_level,
    level_rule,
    spaced_levels,
    training_sigmas,
    training_timesteps,
)
from jaxinv.diffusion.diffusers_schedule import continuous_times, schedule_of_options
from jaxinv.diffusion.grid import (
    TimeGrid,
    check_num_steps,
    check_trailing,
    make_grid,
    warn_if_lossy,
)
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.diffusion.trigflow import trigflow_grid
from jaxinv.samplers.diffusers_stochastic import consistency_timesteps

# Above this, data of unit variance vanish in a float32 state.
_LARGEST_LEVEL = 1e6

#: Schedulers on the timesteps of DDIMScheduler.
ON_TIMESTEPS = (
    *(DDIM, DDIM_PARALLEL, DDIM_INVERSE),
    *(COG_DDIM, COG_DPM, PNDM, DDPM, DDPM_PARALLEL),
)
FLOW_MATCHING = (FLOW_MATCH_EULER, FLOW_MATCH_HEUN)
SUPPORTED = (
    *(DPM, DEIS, UNIPC, SINGLESTEP),
    *ON_TIMESTEPS,
    *SCALING,
    *FLOW_MATCHING,
    *(LCM, TCD, SCM, IPNDM),
)


@checked
def grid_from_diffusers(
    config: Mapping[str, Any] | str | Path,
    num_steps: int,
    *,
    sigmas: Sequence[float] | np.ndarray | None = None,
    timesteps: Sequence[float] | np.ndarray | None = None,
    mu: float | None = None,
) -> TimeGrid:
    """Return the grid on which a diffusers scheduler takes ``num_steps`` steps.

    Args:
        config: The parsed ``scheduler_config.json``, a scheduler's ``config``, the
            file, or the folder that holds it. Its ``_class_name`` selects the rules.
        num_steps: N, the argument of ``set_timesteps``.
        sigmas: See :func:`jaxinv.sampler_from_diffusers`.
        timesteps: See :func:`jaxinv.sampler_from_diffusers`.
        mu: See :func:`jaxinv.sampler_from_diffusers`.

    Returns:
        The grid of ``N + 1`` levels (or as many as diffusers visits). Its
        ``model_time`` is the time that diffusers gives the network.

    Raises:
        ValueError: For a scheduler or an option that is not supported, an invalid
            number of steps, or levels that coincide.
        FileNotFoundError: If the file does not exist.

    Warns:
        LossyGridWarning: See :func:`jaxinv.time_grid`.

    Example:
        >>> import warnings
        >>> config = {"_class_name": "DPMSolverMultistepScheduler",
        ...           "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}
        >>> with warnings.catch_warnings(action="ignore"):
        ...     grid_from_diffusers(config, 4).model_time
        array([  0.,   0., 301., 775., 999.])
    """
    with naming_scheduler(config):
        options = scheduler_options(config)
        schedule = schedule_of_options(options, mu)
        request = Request(num_steps, sigmas, timesteps, mu)
        grid = make_diffusers_grid(options, schedule, request)
    # The stack level of the caller of a checked function.
    warn_if_lossy(schedule, grid, stacklevel=4)
    return grid


def make_diffusers_grid(
    options: Mapping[str, Any], schedule: NoiseSchedule, request: Request
) -> TimeGrid:
    """Return :func:`grid_from_diffusers` of resolved options, without its warning."""
    name = options["_class_name"]
    if name not in SUPPORTED:
        raise ValueError(
            f"the time grid of the scheduler {name!r} is not supported; supported are "
            f"{', '.join(SUPPORTED)}"
        )
    check_num_steps(schedule, request.num_steps)
    _check_request(options, schedule, request)
    if name in ON_TIMESTEPS:
        check_trailing(schedule, request.num_steps, name=name)
        if name in (DDPM, DDPM_PARALLEL):
            schedule = dataclasses.replace(schedule, set_alpha_to_one=True)
        return make_grid(schedule, request.num_steps, schedule.timestep_spacing)
    if name == SCM:
        return trigflow_grid(request.num_steps, options["sigma_data"])
    if name == IPNDM:
        if request.num_steps < 2:
            raise ValueError(f"{IPNDM} returns zeros after a single step")
        return ipndm_grid(request.num_steps)
    if name in (LCM, TCD):
        times = consistency_timesteps(options, request.num_steps)
        lowest = 0.0 if name == LCM else schedule.taus[0]
        tau = np.append(lowest, schedule.taus[times])
        seen = np.append(0, times).astype(np.float64)
        return TimeGrid(tau, schedule.scale(tau), seen, output=schedule.output)
    end: float | None = None
    edm = name in (EDM_EULER, EDM_DPM)
    if edm:
        levels, times, end = edm_levels(options, schedule, request.num_steps)
    elif name in SCALING:
        levels, times, end = k_levels(options, schedule, request)
        if continuous_times(options):
            if options["interpolation_type"] == "log_linear":
                raise ValueError(
                    f"{name} has more continuous times than steps with log_linear "
                    "interpolation: not supported"
                )
            times = np.log(levels) / np.float32(4)
    elif name in FLOW_MATCHING:
        levels, times = flow_match_levels(options, schedule, request)
    elif schedule.family == "flow":
        levels, times = flow_levels(options, schedule, request)
    elif rule := level_rule(options):
        levels, times = spaced_levels(options, schedule, request.num_steps, rule)
    else:
        times = training_timesteps(options, schedule, request)
        levels = training_sigmas(schedule)[np.maximum(times, 0).astype(int)]
    # Schedulers store their levels in float32.
    levels = levels.astype(np.float32).astype(np.float64)
    if np.any(np.diff(levels) >= 0):
        raise ValueError(
            f"with {request.num_steps} steps two of the scheduler's noise levels "
            "coincide (or are out of order); use fewer steps"
        )
    levels, times = levels[::-1], times[::-1].astype(np.float64)
    if end is None:
        end = last_level(options, schedule, levels)
    if name in SCALING and levels[-1] > _LARGEST_LEVEL:
        raise ValueError(
            f"{name} starts at a noise level of {levels[-1]:.3g}, where its states "
            "have no digits of the data in float32"
        )
    tau = np.append(end, levels)
    scale, first = schedule.scale(tau), schedule.init_noise_scale
    if name in SCALING:
        # The result is the state y itself, also at a level above 0.
        scale[0] = 1.0
        # The noise is that of a state, but for two spacings without the data's part.
        largest, part = options["sigma_max"] if edm else tau[-1], 1.0
        if not edm and schedule.timestep_spacing != "leading":
            part = 0.0
        first = float(np.hypot(largest, part) * scale[-1])
    return TimeGrid(
        tau,
        scale,
        np.append(schedule.model_time(np.asarray(end)), times),
        first,
        schedule.family,
        schedule.output,
    )


def _check_request(
    options: Mapping[str, Any], schedule: NoiseSchedule, request: Request
) -> None:
    """Raise ValueError for arguments that this class's ``set_timesteps`` refuses."""
    name, flow = options["_class_name"], schedule.family == "flow"
    dynamic = bool(options.get("use_dynamic_shifting"))
    plain = not flow and not level_rule(options)
    taken = {
        "sigmas": name == FLOW_MATCH_EULER or (name == UNIPC and flow),
        "timesteps": name == FLOW_MATCH_EULER
        or (plain and name in (DPM, SINGLESTEP, EULER, HEUN)),
        "mu": name in (FLOW_MATCH_EULER, UNIPC),
    }
    if name in (DPM, DEIS, SINGLESTEP) and dynamic:
        raise ValueError(
            f"use_dynamic_shifting is not supported for {name}: it does not take mu"
        )
    if name == UNIPC and dynamic and not flow:
        raise ValueError(
            f"use_dynamic_shifting of {name} has no effect without flow levels: it is "
            "only supported with use_flow_sigmas"
        )
    for key, is_taken in taken.items():
        value = getattr(request, key)
        if value is None:
            continue
        if not is_taken:
            raise ValueError(
                f"{name} with these options does not take {key}; it takes "
                f"{', '.join(k for k, yes in taken.items() if yes) or 'num_steps only'}"
            )
        if key == "mu":
            continue
        values = np.asarray(value, np.float64)
        last = schedule.num_train_timesteps - (0 if flow else 1)
        high = 1 if key == "sigmas" else last
        inside = np.all((values >= 0) & (values <= high) & ((values > 0) | (not flow)))
        if values.shape != (request.num_steps,) or not (
            inside and np.all(np.diff(values) < 0)
        ):
            raise ValueError(
                f"expected {key} to be {request.num_steps} decreasing values, from at "
                f"most {high} to {'above' if flow else 'at least'} 0, got "
                f"{np.array2string(values, threshold=6)}"
            )

"""Samplers by name, on any of the time grids.

On this library's own grids (log_snr, exponential, karras) a name is a constructor of a
table. On diffusers' timestep spacings an image was made there, so that the table has to
be diffusers' own, with every peculiarity: DDIM as ``DDIMScheduler`` steps, and the
multistep samplers as the scheduler of that name does with its default options, on the
model's schedule. The others have no such scheduler here: they are this library's own,
on DDIM's timesteps.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import numpy as np

import jaxinv as ji
from jaxinv.diffusion.diffusers_config import DEIS, DPM, UNIPC, scheduler_options
from jaxinv.diffusion.diffusers_levels import Request
from jaxinv.diffusion.grid import INVERTIBLE_RATIO, make_grid, steps_that_keep_the_noise
from jaxinv.diffusion.schedule import NoiseSchedule, Spacing, TimestepSpacing
from jaxinv.samplers.diffusers_sampler import table_from_options

SPACINGS: tuple[str, ...] = get_args(Spacing)

# What each is called in print, and itself on a grid.
_SAMPLERS: dict[str, tuple[str, Callable[[ji.TimeGrid], ji.LinearMultistep]]] = {
    "ddim": ("DDIM", ji.ddim),
    "dpmpp_2m": ("DPM-Solver++ 2M", ji.dpmpp_2m),
    "dpmpp_3m": ("DPM-Solver++ 3M", ji.dpmpp_3m),
    "dpm_solver_2m": ("DPM-Solver 2M", ji.dpm_solver_2m),
    "deis": ("DEIS", ji.deis),
    "ipndm": ("iPNDM", ji.ipndm),
    "unip": ("UniP", ji.unip),
    "euler": ("Euler", ji.euler),
}
# Exact by construction: their state is a pair of arrays.
_PAIRED: dict[str, tuple[str, Callable[[ji.TimeGrid], ji.LinearMultistep]]] = {
    "o_belm": ("O-BELM", ji.o_belm),
    "o_belm_log_snr": ("O-BELM in log-SNR", ji.o_belm_log_snr),
    "bdia": ("BDIA", ji.bdia),
    "edict": ("EDICT", ji.edict),
}
SAMPLER_NAMES = (*_SAMPLERS, *_PAIRED)
#: Those that turn one array of noise into data.
ONE_ARRAY_NAMES = tuple(_SAMPLERS)

# The scheduler of that name in diffusers, and the options that make it so.
_IN_DIFFUSERS: dict[str, dict[str, Any]] = {
    "dpmpp_2m": {"_class_name": DPM},
    "dpmpp_3m": {"_class_name": DPM, "solver_order": 3},
    "dpm_solver_2m": {
        "_class_name": DPM,
        "algorithm_type": "dpmsolver",
        "final_sigmas_type": "sigma_min",  # it cannot end at zero
    },
    "deis": {"_class_name": DEIS},
    "unip": {"_class_name": UNIPC},
}


class Sampler(NamedTuple):
    """A sampler and what is known of the grid it is on.

    Attributes:
        name: a name among ``SAMPLER_NAMES``.
        title: how it is called in print.
        table: the sampler itself.
        worst_ratio: smallest ``tau[i-1] / tau[i]``.
    """

    name: str
    title: str
    table: ji.LinearMultistep
    worst_ratio: float


def make_sampler(
    schedule: NoiseSchedule, name: str, steps: int, spacing: str
) -> Sampler:
    """Makes a sampler; on diffusers' spacings, one that steps as diffusers does.

    Args:
        schedule: The model's schedule.
        name: A name among ``SAMPLER_NAMES``.
        steps: Number of steps.
        spacing: A name among ``SPACINGS``.

    Returns:
        The sampler.

    Raises:
        ValueError: For a number of steps or a spacing that the schedule does not have.
    """
    if not 1 <= steps <= schedule.num_train_timesteps:
        raise ValueError(
            f"--steps must be between 1 and {schedule.num_train_timesteps}, the number "
            f"of steps that the model was trained with, got {steps}"
        )
    title, on_grid = {**_SAMPLERS, **_PAIRED}[name]
    table: ji.LinearMultistep
    in_diffusers = schedule.family == "vp" and spacing in get_args(TimestepSpacing)
    if in_diffusers and name == "ddim":
        table = ji.ddim_diffusers(schedule, steps, spacing)  # type: ignore[arg-type]
    elif in_diffusers and name in _IN_DIFFUSERS:
        table = _diffusers_table(schedule, name, steps, spacing)
    else:
        table = on_grid(make_grid(schedule, steps, spacing))  # type: ignore[arg-type]
    tau = np.unique(table.tau)
    return Sampler(name, title, table, float((tau[:-1] / tau[1:]).min(initial=1)))


def _diffusers_table(
    schedule: NoiseSchedule, name: str, steps: int, spacing: str
) -> ji.LinearMultistep:
    """The table of diffusers' scheduler of a name, on a VP schedule."""
    config = _IN_DIFFUSERS[name]
    if config["_class_name"] == UNIPC:
        config = config | {"disable_corrector": list(range(steps + 1))}
    spaced = dataclasses.replace(schedule, timestep_spacing=spacing)  # type: ignore[arg-type]
    return table_from_options(scheduler_options(config), spaced, Request(steps))[0]


def lossy_note(sampler: Sampler, schedule: NoiseSchedule) -> str | None:
    """What to say of a grid on which the noise may not be found; None if it may."""
    if sampler.worst_ratio >= INVERTIBLE_RATIO:
        return None
    enough = steps_that_keep_the_noise(schedule)
    advice = f"; --spacing log-snr with --steps {enough} or more keeps it"
    return (
        f"one step keeps only {sampler.worst_ratio:.2g} of the noise level, less than "
        f"{INVERTIBLE_RATIO}: several noises may give this image, and the one found "
        "need not be the one it was made from" + (advice if enough else "")
    )

"""Samplers by name: the registry for help texts, messages and tests.

On this library's own grids (log_snr, exponential, karras) a name is a constructor of a
table. Images on diffusers' timestep spacings come from diffusers, so the table is that
of the scheduler of that name with default options, including its peculiarities, on the
model's schedule. Names without such a scheduler are this library's own samplers on
DDIM's timesteps.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

from jaxinv.diffusion.diffusers_config import (
    DDIM,
    DEIS,
    DPM,
    EULER,
    HEUN,
    KDPM2,
    LMS,
    SINGLESTEP,
    UNIPC,
    scheduler_options,
)
from jaxinv.diffusion.diffusers_levels import Request
from jaxinv.diffusion.grid import TimeGrid, make_grid
from jaxinv.diffusion.schedule import NoiseSchedule, Spacing, TimestepSpacing
from jaxinv.samplers.adams import deis, ipndm, lms
from jaxinv.samplers.bidirectional import bdia, belm, o_belm
from jaxinv.samplers.bidirectional_log_snr import o_belm_log_snr
from jaxinv.samplers.diffusers_sampler import sampler_from_diffusers, table_from_options
from jaxinv.samplers.dpm_solver import (
    dpm_solver_2m,
    dpm_solver_singlestep,
    dpmpp_2m,
    dpmpp_3m,
    dpmpp_3m_diffusers,
)
from jaxinv.samplers.edict import edict
from jaxinv.samplers.multistep import (
    ddim,
    ddim_diffusers,
    ddim_inverse_diffusers,
    euler,
)
from jaxinv.samplers.pndm import pndm
from jaxinv.samplers.rectified_flow import fireflow, rf_solver, with_midpoints
from jaxinv.samplers.rex import rex
from jaxinv.samplers.runge_kutta import heun, kdpm2
from jaxinv.samplers.stochastic import ancestral, sde_dpm_solver
from jaxinv.samplers.table import SamplerTable
from jaxinv.samplers.unipc import unip, unipc

#: The names that ``jaxinv`` exports.
__all__ = [
    "LinearMultistep",
    "SamplerTable",
    "ancestral",
    "bdia",
    "belm",
    "ddim",
    "ddim_diffusers",
    "ddim_inverse_diffusers",
    "deis",
    "dpm_solver_2m",
    "dpm_solver_singlestep",
    "dpmpp_2m",
    "dpmpp_3m",
    "dpmpp_3m_diffusers",
    "edict",
    "euler",
    "fireflow",
    "heun",
    "ipndm",
    "kdpm2",
    "lms",
    "o_belm",
    "o_belm_log_snr",
    "pndm",
    "rex",
    "rf_solver",
    "sampler_from_diffusers",
    "sde_dpm_solver",
    "unip",
    "unipc",
    "with_midpoints",
]


#: The former name of :class:`~jaxinv.samplers.table.SamplerTable`.
LinearMultistep = SamplerTable


class Named(NamedTuple):
    """A named sampler.

    Attributes:
        title: The name in print.
        make: Function from a grid to the sampler.
        scheduler: The options of the diffusers scheduler of that name, or None.
        note: A note in help texts.
        exact: Whether it is exact by construction: a bidirectional table, whose state
            is several arrays.
        levels: Number of the grid's levels that a step uses.
        midpoints: Whether the middle of every step is added to the grid.
    """

    title: str
    make: Callable[[TimeGrid], SamplerTable]
    scheduler: Mapping[str, Any] | None = None
    note: str = ""
    exact: bool = False
    levels: int = 1
    midpoints: bool = False


_DPM = {"_class_name": DPM}
# The noise form cannot end at tau = 0.
_DPM_SOLVER = {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}

SAMPLERS: dict[str, Named] = {
    "ddim": Named("DDIM", ddim, {"_class_name": DDIM, "clip_sample": False}),
    "dpmpp_2m": Named("DPM-Solver++ 2M", dpmpp_2m, _DPM),
    "dpmpp_3m": Named("DPM-Solver++ 3M", dpmpp_3m, _DPM | {"solver_order": 3}),
    "dpm_solver_2m": Named("DPM-Solver 2M", dpm_solver_2m, _DPM | _DPM_SOLVER),
    "deis": Named("DEIS", deis, {"_class_name": DEIS}),
    "ipndm": Named("iPNDM", ipndm),
    "dpm_solver_singlestep": Named(
        "DPM-Solver++ singlestep",
        dpm_solver_singlestep,
        {"_class_name": SINGLESTEP},
    ),
    "unipc": Named("UniPC", unipc, {"_class_name": UNIPC}),
    "unip": Named("UniP", unip, {"_class_name": UNIPC}, "UniPC without its corrector"),
    "euler": Named("Euler", euler, {"_class_name": EULER}),
    "heun": Named("Heun", heun, {"_class_name": HEUN}, "two evaluations a step"),
    "kdpm2": Named(
        "KDPM2", kdpm2, {"_class_name": KDPM2}, "the midpoint rule", levels=2
    ),
    "lms": Named("LMS", lms, {"_class_name": LMS}),
    "rf_solver": Named(
        "RF-Solver", rf_solver, note="two evaluations a step", midpoints=True
    ),
    "fireflow": Named("FireFlow", fireflow, midpoints=True),
    "o_belm": Named("O-BELM", o_belm, exact=True),
    "o_belm_log_snr": Named(
        "O-BELM in log-SNR", o_belm_log_snr, note="for few steps", exact=True
    ),
    "bdia": Named("BDIA", bdia, exact=True),
    "edict": Named("EDICT", edict, exact=True),
    "rex": Named("Rex", rex, note="of Euler's method", exact=True),
}


def sampler_on_spacing(
    name: str, schedule: NoiseSchedule, num_steps: int, spacing: Spacing
) -> SamplerTable:
    """Return a sampler on a time grid, with diffusers' steps on diffusers' grids.

    Args:
        name: A key of :data:`SAMPLERS`.
        schedule: The model's schedule.
        num_steps: N.
        spacing: The name of the grid.
    """
    named = SAMPLERS[name]
    theirs = schedule.family == "vp" and spacing in get_args(TimestepSpacing)
    if named.scheduler is None or not theirs:
        grid = make_grid(schedule, num_steps * named.levels, spacing)
        return named.make(with_midpoints(schedule, grid) if named.midpoints else grid)
    options = dict(named.scheduler)
    if name == "unip":
        options["disable_corrector"] = list(range(num_steps + 1))
    spaced = dataclasses.replace(schedule, timestep_spacing=spacing)  # type: ignore[arg-type]
    return table_from_options(scheduler_options(options), spaced, Request(num_steps))[0]

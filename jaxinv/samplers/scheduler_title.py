"""The name in print of a diffusers scheduler, from its configuration.

``"DPM-Solver++ 2M Karras"`` is a DPMSolverMultistepScheduler of order 2 on Karras'
levels: the method, then the rule of its noise levels.
"""

from collections.abc import Callable, Mapping
from typing import Any

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
    EULER_ANCESTRAL,
    FLOW_MATCH_EULER,
    FLOW_MATCH_HEUN,
    HEUN,
    IPNDM,
    KDPM2,
    LCM,
    LMS,
    PNDM,
    SCM,
    SINGLESTEP,
    TCD,
    UNIPC,
    scheduler_options,
)


def scheduler_title(config: Mapping[str, Any]) -> str:
    """Return the name in print of a scheduler.

    Args:
        config: The parsed ``scheduler_config.json``.

    Returns:
        The method and the rule of its levels; the name of the class for a class without
        a title.

    Raises:
        ValueError: If :func:`jaxinv.diffusion.diffusers_config.scheduler_options`
            raises it.

    Example:
        >>> scheduler_title({"_class_name": "DPMSolverMultistepScheduler",
        ...                  "use_karras_sigmas": True})
        'DPM-Solver++ 2M Karras'
        >>> scheduler_title({"_class_name": "PNDMScheduler", "skip_prk_steps": True})
        'PNDM on leading timesteps'
    """
    options = scheduler_options(config)
    name = options["_class_name"]
    if name not in _METHODS:
        return str(name)
    return f"{_METHODS[name](options)} {_levels(options)}"


def _levels(options: Mapping[str, Any]) -> str:
    """Return the rule of the noise levels in words."""
    for key, title in _RULES.items():
        if options.get(key):
            return title
    if "sigma_schedule" in options:
        return str(options["sigma_schedule"]).capitalize()
    if "shift" in options or options.get("use_flow_sigmas"):
        if options.get("use_dynamic_shifting"):
            return "on a flow shifted by the image size"
        shift = options["shift" if "shift" in options else "flow_shift"]
        return f"on a flow with shift {shift:g}"
    if options["_class_name"] == SINGLESTEP:
        return "on linspace timesteps"  # it has no option for others
    return f"on {options['timestep_spacing']} timesteps"


_RULES = {
    "use_karras_sigmas": "Karras",
    "use_exponential_sigmas": "Exponential",
    "use_beta_sigmas": "Beta",
    "use_lu_lambdas": "Lu",
}


def _dpm_solver(options: Mapping[str, Any]) -> str:
    kind = str(options["algorithm_type"])
    stochastic = "SDE-" if kind.startswith("sde-") else ""
    plain = "DPM-Solver" if kind.endswith("dpmsolver") else "DPM-Solver++"
    steps = "S" if options["_class_name"] == SINGLESTEP else "M"
    return f"{stochastic}{plain} {options['solver_order']}{steps}"


_METHODS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    DDIM: lambda _: "DDIM",
    PNDM: lambda options: (
        "PNDM" if options["skip_prk_steps"] else "PNDM with Runge-Kutta steps"
    ),
    DPM: _dpm_solver,
    SINGLESTEP: _dpm_solver,
    DEIS: lambda options: f"DEIS of order {options['solver_order']}",
    UNIPC: lambda options: f"UniPC of order {options['solver_order']}",
    EULER: lambda _: "Euler",
    HEUN: lambda _: "Heun",
    KDPM2: lambda _: "KDPM2",
    LMS: lambda _: "LMS",
    FLOW_MATCH_EULER: lambda _: "Euler",
    FLOW_MATCH_HEUN: lambda _: "Heun",
    DDIM_PARALLEL: lambda _: "DDIM",
    DDIM_INVERSE: lambda _: "DDIM inversion",
    DDPM: lambda _: "DDPM",
    DDPM_PARALLEL: lambda _: "DDPM",
    COG_DDIM: lambda _: "DDIM",
    COG_DPM: lambda _: "SDE-DPM-Solver++ 2M",
    EULER_ANCESTRAL: lambda _: "Euler ancestral",
    IPNDM: lambda _: "iPNDM",
    LCM: lambda options: f"LCM of {options['original_inference_steps']} steps",
    SCM: lambda _: "SCM",
    TCD: lambda options: f"TCD of {options['original_inference_steps']} steps",
    EDM_EULER: lambda _: "EDM's Euler",
    EDM_DPM: lambda options: f"EDM's {_dpm_solver(options)}",
}

r"""The meaning of a diffusers ``scheduler_config.json``: the options its class uses.

A configuration file holds some of the options of its class, and often others left over
from another class. Omitted options have the default *of the class*, and a live
``scheduler.config`` lists the keys whose values are only defaults of its own class in
``_use_default_values``. diffusers' ``from_config`` therefore

1. drops every key that ``_use_default_values`` names;
2. takes the keys that are arguments of the class it is called on (``_class_name`` here)
   and ignores the others;
3. fills in the defaults of that class.

Two of the ignored keys still matter: schedulers read ``sigma_min`` and ``sigma_max``
through ``self.config``, which keeps them (:data:`READ_BY_ALL`).

:data:`DEFAULTS` lists the supported classes. Classes with another parametrization
(consistency models, zero-SNR video schedules, ...) are not among them: no schedule of
:mod:`jaxinv.diffusion.schedule` describes them.

References:
    diffusers 0.42, ``configuration_utils.ConfigMixin.extract_init_dict`` and the
    signatures in ``src/diffusers/schedulers`` (compared with this table by a test).
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxinv.checks import Length, Range, shown
from jaxinv.files.json_fields import check_field, naming, read_json

DDIM = "DDIMScheduler"
DPM, DEIS, UNIPC = (
    f"{name}MultistepScheduler" for name in ("DPMSolver", "DEIS", "UniPC")
)
FLOW_MATCH_EULER = "FlowMatchEulerDiscreteScheduler"
EULER, HEUN, KDPM2, LMS = (
    f"{name}DiscreteScheduler" for name in ("Euler", "Heun", "KDPM2", "LMS")
)
EDM_EULER, EDM_DPM = "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"
PNDM, SINGLESTEP = "PNDMScheduler", "DPMSolverSinglestepScheduler"
DDPM, DDIM_PARALLEL, DDPM_PARALLEL = (
    f"{name}Scheduler" for name in ("DDPM", "DDIMParallel", "DDPMParallel")
)
EULER_ANCESTRAL = "EulerAncestralDiscreteScheduler"
DDIM_INVERSE, IPNDM = "DDIMInverseScheduler", "IPNDMScheduler"
SCM = "SCMScheduler"
LCM, TCD = "LCMScheduler", "TCDScheduler"
COG_DDIM, COG_DPM = "CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"
FLOW_MATCH_HEUN = "FlowMatchHeunDiscreteScheduler"
#: Schedulers whose states are x / scale, after k-diffusion.
SCALING = (EULER, EULER_ANCESTRAL, HEUN, KDPM2, LMS, EDM_EULER, EDM_DPM)

_BETAS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
    "timestep_spacing": "linspace",
    "steps_offset": 0,
}
_LATENT_BETAS = _BETAS | {"beta_start": 0.00085, "beta_end": 0.012}
_ZERO_SNR = {"rescale_betas_zero_snr": False}
_DDIM = _BETAS | {"timestep_spacing": "leading", "set_alpha_to_one": True}
_FLOW_SIGMAS = {"use_flow_sigmas": False, "flow_shift": 1.0}
_DYNAMIC = {"use_dynamic_shifting": False, "time_shift_type": "exponential"}
_FLOW = {"num_train_timesteps": 1000, "shift": 1.0}
_THRESHOLDING = {
    "thresholding": False,
    "dynamic_thresholding_ratio": 0.995,
    "sample_max_value": 1.0,
}
_CLIPPING = {"clip_sample": True, "clip_sample_range": 1.0}
_COG = _LATENT_BETAS | _ZERO_SNR | _CLIPPING | {"snr_shift_scale": 3.0}
_COG |= {
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "set_alpha_to_one": True,
    "sample_max_value": 1.0,
}
_CONSISTENCY = _LATENT_BETAS | _ZERO_SNR | _THRESHOLDING
_CONSISTENCY |= {
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "set_alpha_to_one": True,
    "clip_sample": False,
    "clip_sample_range": 1.0,
    "original_inference_steps": 50,
    "timestep_scaling": 10.0,
}
_DDPM = _BETAS | _ZERO_SNR | _THRESHOLDING | _CLIPPING
_DDPM |= {"timestep_spacing": "leading", "variance_type": "fixed_small"}
_SPACED = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
_MULTISTEP = _BETAS | _FLOW_SIGMAS | _DYNAMIC | _THRESHOLDING | _SPACED
_MULTISTEP |= {"solver_order": 2, "lower_order_final": True}
_EDM = {
    "num_train_timesteps": 1000,
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
    "rho": 7.0,
    "prediction_type": "epsilon",
    "final_sigmas_type": "zero",
}
_IMAGE_SIZES = {
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
}

#: All options of the classes whose steps are supported; of the other classes, the
#: options that define their schedule.
DEFAULTS: dict[str, dict[str, Any]] = {
    DDIM: _DDIM | _ZERO_SNR | _THRESHOLDING | _CLIPPING,
    DDIM_PARALLEL: _DDIM | _ZERO_SNR | _THRESHOLDING | _CLIPPING,
    DDIM_INVERSE: _DDIM | _ZERO_SNR | _CLIPPING,
    DDPM: _DDPM,
    DDPM_PARALLEL: _DDPM,
    COG_DDIM: _COG,
    COG_DPM: _COG,
    IPNDM: {"num_train_timesteps": 1000, "trained_betas": None},
    LCM: _CONSISTENCY,
    SCM: {
        "num_train_timesteps": 1000,
        "prediction_type": "trigflow",
        "sigma_data": 0.5,
    },
    TCD: _CONSISTENCY,
    DPM: _MULTISTEP
    | _ZERO_SNR
    | {
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "euler_at_final": False,
        "use_lu_lambdas": False,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": -float("inf"),
        "variance_type": None,
    },
    DEIS: _MULTISTEP | {"algorithm_type": "deis", "solver_type": "logrho"},
    UNIPC: _MULTISTEP
    | _ZERO_SNR
    | {
        "predict_x0": True,
        "solver_type": "bh2",
        "disable_corrector": [],
        "solver_p": None,
        "final_sigmas_type": "zero",
        "sigma_min": None,
        "sigma_max": None,
        "shift_terminal": None,
    },
    FLOW_MATCH_EULER: _FLOW
    | _DYNAMIC
    | _SPACED
    | _IMAGE_SIZES
    | {"invert_sigmas": False, "shift_terminal": None, "stochastic_sampling": False},
    EULER: _BETAS
    | _ZERO_SNR
    | _SPACED
    | {
        "interpolation_type": "linear",
        "timestep_type": "discrete",
        "final_sigmas_type": "zero",
        "sigma_min": None,
        "sigma_max": None,
    },
    EULER_ANCESTRAL: _BETAS | _ZERO_SNR,
    FLOW_MATCH_HEUN: _FLOW,
    HEUN: _LATENT_BETAS | _SPACED | {"clip_sample": False, "clip_sample_range": 1.0},
    KDPM2: _LATENT_BETAS | _SPACED,
    LMS: _BETAS | _SPACED,
    EDM_EULER: _EDM,
    EDM_DPM: _EDM
    | _THRESHOLDING
    | {
        "solver_order": 2,
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lower_order_final": True,
        "euler_at_final": False,
    },
    PNDM: _DDIM | {"set_alpha_to_one": False, "skip_prk_steps": False},
    SINGLESTEP: {
        key: value
        for key, value in _MULTISTEP.items()
        if key not in ("timestep_spacing", "steps_offset")
    }
    | {
        "algorithm_type": "dpmsolver++",
        "solver_type": "midpoint",
        "lower_order_final": False,
        "final_sigmas_type": "zero",
        "lambda_min_clipped": -float("inf"),
        "variance_type": None,
    },
    "DPMSolverMultistepInverseScheduler": _BETAS | _FLOW_SIGMAS,
    "DPMSolverSDEScheduler": _LATENT_BETAS,
    "FlowMatchLCMScheduler": _FLOW | _DYNAMIC,
    "KDPM2AncestralDiscreteScheduler": _LATENT_BETAS,
    "SASolverScheduler": _BETAS | _FLOW_SIGMAS,
}

#: Allowed values of each option, None where diffusers' own signature allows it. Names
#: of methods and spacings are checked where they are used.
TYPES: dict[str, Any] = {
    "num_train_timesteps": Annotated[int, Range(1, 100_000)],
    "beta_start": Annotated[float, Range(0, 1)],
    "beta_end": Annotated[float, Range(0, 1)],
    "beta_schedule": str,
    "trained_betas": Annotated[
        tuple[Annotated[float, Range(0, 1)], ...], Length(1, 100_000)
    ]
    | None,
    "prediction_type": str,
    "timestep_spacing": str,
    "timestep_type": str,
    "interpolation_type": str,
    "skip_prk_steps": bool,
    "original_inference_steps": Annotated[int, Range(1, 100_000)],
    "timestep_scaling": Annotated[float, Range(0, 1e6)],
    "snr_shift_scale": Annotated[float, Range(1e-3, 1e3)],
    "steps_offset": Annotated[int, Range(0, 100_000)],
    "set_alpha_to_one": bool,
    "rescale_betas_zero_snr": bool,
    "clip_sample": bool,
    "clip_sample_range": float,
    "thresholding": bool,
    "dynamic_thresholding_ratio": float,
    "sample_max_value": float,
    "algorithm_type": str,
    "solver_type": str,
    "solver_order": Annotated[int, Range(1, 100)],
    "solver_p": Any,
    "lower_order_final": bool,
    "euler_at_final": bool,
    "use_lu_lambdas": bool | None,
    "use_karras_sigmas": bool | None,
    "use_exponential_sigmas": bool | None,
    "use_beta_sigmas": bool | None,
    "use_flow_sigmas": bool | None,
    "use_dynamic_shifting": bool,
    "final_sigmas_type": str,
    "lambda_min_clipped": Annotated[float, Range(-float("inf"), 1e3)]
    | Literal["-inf", "-Infinity"],
    "variance_type": str | None,
    "predict_x0": bool,
    "disable_corrector": Annotated[
        tuple[Annotated[int, Range(0, 100_000)], ...], Length(0, 100_000)
    ],
    "sigma_min": Annotated[float, Range(1e-6, 1e6)] | None,
    "sigma_max": Annotated[float, Range(1e-6, 1e6)] | None,
    "sigma_data": Annotated[float, Range(1e-3, 1e3)],
    "sigma_schedule": str,
    "rho": Annotated[float, Range(0.1, 100)],
    "shift": Annotated[float, Range(1e-3, 1e3)],
    "flow_shift": Annotated[float, Range(1e-3, 1e3)],
    "shift_terminal": Annotated[float, Range(0, 0.999)] | None,
    "time_shift_type": str,
    "base_shift": float | None,
    "max_shift": float | None,
    "base_image_seq_len": Annotated[int, Range(1, 10**6)] | None,
    "max_image_seq_len": Annotated[int, Range(1, 10**6)] | None,
    "invert_sigmas": bool,
    "stochastic_sampling": bool,
}
_Keys = Annotated[tuple[str, ...], Length(0, 1000)]

#: Options that every class reads, including classes that do not declare them.
READ_BY_ALL = ("sigma_min", "sigma_max")
# The timestep grids of a schedule are those of DDIM: options that a class does not have
# take DDIMScheduler's defaults.
_GRID_OPTIONS = ("timestep_spacing", "steps_offset", "set_alpha_to_one")


def read_scheduler_config(config: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """Read a diffusers ``scheduler_config.json`` unchanged.

    Args:
        config: The parsed JSON, the file, or the folder that holds it.

    Returns:
        The configuration, a new dictionary.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not a JSON object, or is too large.
    """
    path = _file(config)
    if path is not None:
        return read_json(path)
    if not isinstance(config, Mapping):
        raise ValueError(
            f"expected a scheduler's configuration or its file, got {shown(config)}"
        )
    return dict(config)


def _file(config: Mapping[str, Any] | str | Path) -> Path | None:
    """Return the file of a configuration, or None if it is already parsed."""
    if not isinstance(config, str | Path):
        return None
    path = Path(config)
    return path / "scheduler_config.json" if path.is_dir() else path


def scheduler_options(config: Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """Return the options that the class of a configuration uses.

    Args:
        config: The parsed JSON, a scheduler's ``config``, the file, or the folder that
            holds it. Without ``_class_name``, defaults are those of DDIMScheduler, and
            ``num_train_timesteps`` defaults to the number of ``trained_betas``.

    Returns:
        Every option of the class with its value, and ``_class_name`` (None if the
        configuration names none).

    Raises:
        ValueError: For a class that is not in :data:`DEFAULTS`, and for an option that
            its type in :data:`TYPES` does not allow.
        FileNotFoundError: If the file does not exist.

    Example:
        >>> options = scheduler_options({
        ...     "_class_name": "DPMSolverMultistepScheduler", "solver_order": 3,
        ...     "_use_default_values": ["solver_order"], "skip_prk_steps": True})
        >>> options["solver_order"], "skip_prk_steps" in options
        (2, False)
    """
    with naming_scheduler(config):
        return _options(read_scheduler_config(config))


def naming_scheduler(
    config: Mapping[str, Any] | str | Path,
) -> contextlib.AbstractContextManager[None]:
    """Return a context that adds the name of a configuration's file to ValueErrors.

    Args:
        config: See :func:`scheduler_options`. Parsed configurations have no file.
    """
    path = _file(config)
    return contextlib.nullcontext() if path is None else naming(path)


def scheduler_class(config: Mapping[str, Any]) -> Any:
    """Return the class that a configuration names, or None.

    Raises:
        ValueError: If the name is not text.
    """
    name = config.get("_class_name")
    check_field("_class_name", name, str | None)
    return name


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    name = scheduler_class(given)
    if name is not None and name not in DEFAULTS:
        raise ValueError(
            f"the scheduler {shown(name)} is not known: its noise schedule may have "
            f"another parametrization. Known are {', '.join(sorted(DEFAULTS))}"
        )
    unused = given.get("_use_default_values", ())
    unused = tuple(unused) if isinstance(unused, set | frozenset) else unused
    check_field("_use_default_values", unused, _Keys)
    given = {key: value for key, value in given.items() if key not in set(unused)}
    defaults = {key: DEFAULTS[DDIM][key] for key in _GRID_OPTIONS}
    defaults |= dict.fromkeys(READ_BY_ALL)
    defaults |= DEFAULTS[name or DDIM]
    options = {key: given.get(key, default) for key, default in defaults.items()}
    for key, value in options.items():
        check_field(key, value, TYPES[key])
    if name is None and options["trained_betas"] is not None:
        steps = given.get("num_train_timesteps", len(options["trained_betas"]))
        options["num_train_timesteps"] = steps
    return options | {"_class_name": name}

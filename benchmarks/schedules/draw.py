"""Random diffusers configurations: what `benchmarks.schedules` compares.

A case is what somebody can write down: a scheduler class, its configuration, a number
of steps, and what else the pipeline passes to ``set_timesteps``. Options are drawn over
all that the class has, those that this library refuses included, and over what it does
not have: leftovers of other classes, ``_use_default_values``, another
``num_train_timesteps``, odd ranges of beta.
"""

from typing import Any, NamedTuple

import diffusers
import numpy as np

DPM, DEIS, UNIPC = (
    f"{name}MultistepScheduler" for name in ("DPMSolver", "DEIS", "UniPC")
)
DATA = "dpmsolver++"
FLOW = "FlowMatchEulerDiscreteScheduler"
EDM_EULER, EDM_DPM = "EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"
PNDM, SINGLESTEP = "PNDMScheduler", "DPMSolverSinglestepScheduler"
EULER, HEUN, KDPM2, LMS = (
    f"{name}DiscreteScheduler" for name in ("Euler", "Heun", "KDPM2", "LMS")
)
DDIM, DDIM_PARALLEL, DDIM_INVERSE, DDPM, DDPM_PARALLEL, LCM, TCD = (
    f"{name}Scheduler"
    for name in (
        *("DDIM", "DDIMParallel", "DDIMInverse", "DDPM", "DDPMParallel", "LCM", "TCD"),
    )
)
EULER_ANCESTRAL = "EulerAncestralDiscreteScheduler"
COG_DDIM, COG_DPM = "CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"
FLOW_HEUN, IPNDM = "FlowMatchHeunDiscreteScheduler", "IPNDMScheduler"
SCM = "SCMScheduler"
# Schedulers that clip the data prediction as this library does.
CLIPS = (DDPM, DDPM_PARALLEL, DDIM, DDIM_PARALLEL, LCM)
ON_TIMESTEPS = (DDIM, DDIM_PARALLEL, DDIM_INVERSE, DDPM, DDPM_PARALLEL, LCM, TCD)
ON_TIMESTEPS += (COG_DDIM, COG_DPM)
# With the shares in which they are drawn.
SHARES = {
    DDIM: 0.08,
    DPM: 0.15,
    DEIS: 0.08,
    UNIPC: 0.09,
    FLOW: 0.08,
    EULER: 0.08,
    HEUN: 0.04,
    KDPM2: 0.04,
    LMS: 0.03,
    PNDM: 0.04,
    SINGLESTEP: 0.04,
    EDM_EULER: 0.01,
    EDM_DPM: 0.02,
    DDIM_PARALLEL: 0.01,
    DDIM_INVERSE: 0.02,
    DDPM: 0.05,
    DDPM_PARALLEL: 0.01,
    EULER_ANCESTRAL: 0.03,
    LCM: 0.02,
    TCD: 0.02,
    COG_DDIM: 0.02,
    COG_DPM: 0.01,
    FLOW_HEUN: 0.01,
    IPNDM: 0.01,
    SCM: 0.01,
}
CLASSES = tuple(SHARES)
# Their configurations are loaded into the classes above, as users do.
SOURCES = CLASSES

Rng = np.random.Generator


class Case(NamedTuple):
    """One comparison.

    Attributes:
        name: The class that takes the steps.
        config: What its ``from_config`` is given.
        num_steps: What its ``set_timesteps`` is asked for.
        request: Further arguments of ``set_timesteps``.
    """

    name: str
    config: dict[str, Any]
    num_steps: int
    request: dict[str, Any]


def draw(seed: int) -> Case:
    """Return the case of a seed."""
    rng = np.random.default_rng(seed)
    name = str(rng.choice(CLASSES, p=[*SHARES.values()]))
    steps = int(rng.integers(1, 101)) if rng.random() < 0.8 else int(rng.integers(1, 9))
    config = _options(rng, name, steps)
    if name not in (FLOW, FLOW_HEUN, IPNDM, SCM):
        config |= _betas(rng)
    if rng.random() < 0.2:
        config = _from_another_class(rng, name, config)
    if rng.random() < 0.3:
        config |= _leftovers(rng, name)
    if rng.random() < 0.2:
        config = _with_unused_defaults(rng, name, config)
    config["_class_name"] = name
    return Case(name, config, steps, _request(rng, config, steps))


def _betas(rng: Rng) -> dict[str, Any]:
    total = 1000
    if rng.random() < 0.2:
        total = int(rng.choice([rng.integers(20, 400), rng.integers(900, 2001)]))
    found: dict[str, Any] = {}
    if total != 1000 or rng.random() < 0.5:
        found["num_train_timesteps"] = total
    kind = rng.choice(["linear", "scaled_linear", "cosine", "odd", "trained", "none"])
    if kind == "linear":
        found |= {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    elif kind == "scaled_linear":
        found |= {"beta_schedule": "scaled_linear"}
        found |= {"beta_start": 0.00085, "beta_end": 0.012}
    elif kind == "cosine":
        found["beta_schedule"] = "squaredcos_cap_v2"
    elif kind == "odd":
        found["beta_schedule"] = str(rng.choice(["linear", "scaled_linear"]))
        start = float(10 ** rng.uniform(-6, -2))
        found |= {"beta_start": start, "beta_end": start * 10 ** rng.uniform(0, 2)}
    elif kind == "trained":
        ramp = np.linspace(rng.uniform(1e-4, 0.01), rng.uniform(0.01, 0.05), total)
        found["trained_betas"] = (ramp ** rng.uniform(0.8, 1.5)).tolist()
    return found


def _options(rng: Rng, name: str, steps: int) -> dict[str, Any]:
    """Options of the class, most of them such that a table exists."""

    def flip(share: float) -> bool:
        return bool(rng.random() < share)

    def one(*values: Any) -> Any:
        return values[rng.integers(len(values))]

    config: dict[str, Any] = {}
    if name == SCM:
        return {"sigma_data": one(0.5, 1.0, float(rng.uniform(0.2, 2)))}
    if name == IPNDM:
        return {}
    if name == FLOW_HEUN:
        return {"shift": one(1.0, 3.0, float(rng.uniform(0.3, 12)))}
    if name == FLOW:
        config["num_train_timesteps"] = one(1000, 1000, 1000, 200, 1500)
        if flip(0.7):
            config["shift"] = one(1.0, 3.0, float(rng.uniform(0.3, 12)))
        config["use_dynamic_shifting"] = flip(0.3)
        config["time_shift_type"] = one("exponential", "linear")
        for key, share in (
            ("use_karras_sigmas", 0.1),
            ("use_exponential_sigmas", 0.1),
            ("use_beta_sigmas", 0.03),
            ("invert_sigmas", 0.03),
            ("stochastic_sampling", 0.03),
        ):
            config[key] = flip(share)
        if flip(0.15):
            config["shift_terminal"] = one(0.02, 0.1)
        return config
    if name in (EDM_EULER, EDM_DPM):
        config["prediction_type"] = one("epsilon", "epsilon", "v_prediction")
        config["sigma_schedule"] = one("karras", "karras", "exponential")
        config["final_sigmas_type"] = one("zero", "sigma_min")
        config["sigma_min"] = float(10 ** rng.uniform(-3, -1))
        config["sigma_max"] = float(10 ** rng.uniform(1, 2.5))
        config["sigma_data"] = one(0.5, 1.0, float(rng.uniform(0.2, 2)))
        config["rho"] = one(7.0, 3.0)
        if name == EDM_DPM:
            config["solver_order"] = one(1, 2, 3)
            config["solver_type"] = one("midpoint", "heun")
            config["lower_order_final"] = flip(0.5)
            config["euler_at_final"] = flip(0.3)
        return config
    if flip(0.8):
        config["prediction_type"] = one("epsilon", "v_prediction", "sample")
    if flip(0.75):
        config["timestep_spacing"] = one("leading", "trailing", "linspace")
    if flip(0.6):
        config["steps_offset"] = one(0, 1, 1, 2, int(rng.integers(0, 30)))
    config["thresholding"] = flip(0.1)
    config["dynamic_thresholding_ratio"] = one(0.995, 0.8)
    config["sample_max_value"] = one(1.0, 1.5, 3.0)
    if name in (*ON_TIMESTEPS, DPM, UNIPC, EULER, EULER_ANCESTRAL):
        config["rescale_betas_zero_snr"] = flip(0.15)
    if name in ON_TIMESTEPS:
        if flip(0.95):
            config["clip_sample"] = flip(0.3 if name in CLIPS else 0.03)
        config["clip_sample_range"] = one(1.0, 0.5, 3.0)
        if flip(0.6):
            config["set_alpha_to_one"] = flip(0.5)
        if name in (DDPM, DDPM_PARALLEL):
            config["variance_type"] = one(
                *("fixed_small", "fixed_small_log", "fixed_large") * 3,
                *("fixed_large_log", "learned", "learned_range"),
            )
        if name in (LCM, TCD):
            config["original_inference_steps"] = one(50, 100, int(rng.integers(1, 400)))
            config["timestep_scaling"] = one(10.0, 0.1, float(rng.uniform(0, 20)))
        if name in (COG_DDIM, COG_DPM):
            config["snr_shift_scale"] = one(3.0, 1.0, float(rng.uniform(0.3, 6)))
        return config
    if name == PNDM:
        config["skip_prk_steps"] = flip(0.6)
        config["set_alpha_to_one"] = flip(0.5)
        return config
    if name == EULER_ANCESTRAL:
        return config
    if name in (EULER, HEUN, KDPM2, LMS):
        if levels := one("karras_sigmas", "exponential_sigmas", "beta_sigmas", "", ""):
            config[f"use_{levels}"] = True
        if name == HEUN:
            config["clip_sample"] = flip(0.03)
        if name == EULER:
            config["interpolation_type"] = one("linear", "linear", "log_linear")
            config["final_sigmas_type"] = one("zero", "zero", "sigma_min")
            config["timestep_type"] = "continuous" if flip(0.2) else "discrete"
        if flip(0.1):
            config |= {"sigma_min": 0.05, "sigma_max": float(rng.uniform(5, 20))}
        return config
    config["solver_order"] = one(1, 2, 2, 3, 3, 4) if flip(0.85) else 2
    config["lower_order_final"] = flip(0.7)
    config["solver_type"] = one(
        *{DEIS: ("logrho",), UNIPC: ("bh1", "bh2")}.get(name, ("midpoint", "heun")),
        "midpoint",
        "bh2",
    )
    levels = one("karras_sigmas", "exponential_sigmas", "flow_sigmas", "", "", "")
    if name == DPM and flip(0.1):
        levels = "lu_lambdas"
    if levels:
        config[f"use_{levels}"] = True
    if flip(0.2) and not levels:
        config["use_beta_sigmas"] = True
    flow = levels == "flow_sigmas"
    if flow:
        config["flow_shift"] = one(1.0, 3.0, float(rng.uniform(0.5, 12)))
        if flip(0.95):
            config["prediction_type"] = "flow_prediction"
        if flip(0.2):
            config["use_dynamic_shifting"] = True
            config["time_shift_type"] = one("exponential", "linear")
        if name == UNIPC and flip(0.2):
            config["shift_terminal"] = 0.05
    if name in (DPM, UNIPC, SINGLESTEP):
        ends = ("zero",) * (9 if flow else 1)
        config["final_sigmas_type"] = one(*ends, "sigma_min")
    if name in (DPM, SINGLESTEP):
        config["algorithm_type"] = "dpmsolver" if flip(0.05 if flow else 0.3) else DATA
        if config["algorithm_type"] == "dpmsolver":
            config["final_sigmas_type"] = "sigma_min"
        if flip(0.08 if name == DPM else 0.03):
            config["algorithm_type"] = "sde-dpmsolver++"
        if name == DPM:
            config["euler_at_final"] = flip(0.3)
        if flip(0.15):
            config["lambda_min_clipped"] = float(rng.uniform(-6, -1))
        if flip(0.1):
            config["variance_type"] = one("fixed_small", "fixed_large", "learned_range")
    if name == UNIPC:
        config["predict_x0"] = flip(0.95 if flow else 0.7)
        if flip(0.4):
            config["disable_corrector"] = one([0], [0, 1, 4], list(range(steps + 1)))
        if flip(0.1):
            config |= {"sigma_min": 0.05, "sigma_max": float(rng.uniform(5, 20))}
    return config


def _request(rng: Rng, config: dict[str, Any], steps: int) -> dict[str, Any]:
    """Arguments of ``set_timesteps``: mostly what the class takes."""
    name, request = config["_class_name"], {}
    dynamic = config.get("use_dynamic_shifting", False)
    if rng.random() < (0.9 if dynamic else 0.03):
        request["mu"] = float(rng.uniform(0.3, 1.5))
    flow = name == FLOW or (name == UNIPC and config.get("use_flow_sigmas"))
    if rng.random() < (0.4 if flow else 0.02):
        start = rng.choice([1.0, rng.uniform(0.5, 1.0)])
        request["sigmas"] = np.linspace(start, start / steps, steps)
    some = {FLOW: 0.2} | dict.fromkeys((DPM, SINGLESTEP, EULER, HEUN), 0.15)
    if rng.random() < some.get(name, 0.02):
        total = config.get("num_train_timesteps", 1000)
        count = min(steps, total - 1)
        times = np.sort(
            rng.choice(np.arange(name == FLOW, total), count, replace=False)
        )[::-1]
        request["timesteps"] = times.astype(float if name == FLOW else int)
    return request


# Values that other classes' configurations hold.
_OTHERS: dict[str, tuple[Any, ...]] = {
    "algorithm_type": ("dpmsolver++", "deis", "dpmsolver"),
    "clip_sample": (True, False),
    "disable_corrector": ([0, 1],),
    "final_sigmas_type": ("zero", "sigma_min"),
    "flow_shift": (3.0,),
    "interpolation_type": ("linear",),
    "invert_sigmas": (True,),
    "lambda_min_clipped": (-3.0,),
    "predict_x0": (False,),
    "rescale_betas_zero_snr": (True,),
    "set_alpha_to_one": (True, False),
    "shift": (3.0,),
    "shift_terminal": (0.1,),
    "sigma_max": (10.0, 80.0, None),
    "sigma_min": (0.05, 0.002, None),
    "skip_prk_steps": (True,),
    "solver_order": (3,),
    "stochastic_sampling": (True,),
    "timestep_spacing": ("trailing", "leading", "linspace"),
    "use_dynamic_shifting": (True,),
    "use_flow_sigmas": (True,),
    "use_karras_sigmas": (True,),
    "use_lu_lambdas": (True,),
    "variance_type": ("fixed_small", "learned_range"),
    "unknown_option": (1,),
}


def _known(name: str) -> set[str]:
    return set(getattr(diffusers, name)._get_init_keys(getattr(diffusers, name)))


def _leftovers(rng: Rng, name: str) -> dict[str, Any]:
    """Options that the class does not have."""
    keys = [key for key in _OTHERS if key not in _known(name)]
    some = rng.choice(keys, min(len(keys), int(rng.integers(1, 5))), replace=False)
    return {
        str(key): _OTHERS[key][rng.integers(len(_OTHERS[key]))] for key in sorted(some)
    }


def _from_another_class(rng: Rng, name: str, config: dict[str, Any]) -> dict[str, Any]:
    """Return another class's live configuration, updated with this one's options."""
    source = getattr(diffusers, str(rng.choice(SOURCES)))
    given = {k: v for k, v in config.items() if rng.random() < 0.8}
    try:
        found = dict(source.from_config(given).config)
    except (ValueError, NotImplementedError):
        return config
    unused = found.get("_use_default_values", [])
    found |= {k: config[k] for k in ("clip_sample", "disable_corrector") if k in config}
    kept = [k for k in unused if k not in config]
    return found | ({"_use_default_values": kept} if unused else {})


def _with_unused_defaults(
    rng: Rng, name: str, config: dict[str, Any]
) -> dict[str, Any]:
    """List some of the options as another class's defaults: they do not count."""
    config = {**_leftovers(rng, name), **config}
    extra = {k: v[0] for k, v in _OTHERS.items() if k in _known(name)}
    extra = {k: v for k, v in extra.items() if k not in config and rng.random() < 0.3}
    keys = [k for k in config if rng.random() < 0.15 and not k.startswith("_")]
    keep = {"clip_sample", "disable_corrector", "final_sigmas_type", "prediction_type"}
    listed = [*(k for k in keys if k not in keep), *extra]
    before = config.get("_use_default_values", [])
    return config | extra | {"_use_default_values": [*before, *listed]}

r"""The noise schedule of a diffusers scheduler, from its configuration.

diffusers computes a schedule in float32: betas, the factors ``1 - beta``, and their
running product, which is accumulated in float64 and rounded. The last bits matter
twice. Near the data, ``1 - alpha^2`` cancels, so that the smallest noise level of
DDPM's betas is off by 1e-4. On Karras or exponential levels the timestep given to the
network is truncated, so that it depends on them (999 or 998). This module therefore
rounds in the same way.

References:
    diffusers 0.42, ``src/diffusers/schedulers``; PyTorch's ``linspace``, whose halves
    count from the two ends, with fused multiply-adds.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Float

from jaxinv.checks import checked
from jaxinv.diffusion.dance_diffusion import ipndm_schedule
from jaxinv.diffusion.diffusers_config import (
    DPM,
    EULER,
    EULER_ANCESTRAL,
    IPNDM,
    SCM,
    UNIPC,
    naming_scheduler,
    scheduler_options,
)
from jaxinv.diffusion.schedule import (
    NoiseSchedule,
    TimestepSpacing,
    check_betas,
    cosine_betas,
    edm,
    flow_matching,
    vp_schedule,
)
from jaxinv.diffusion.trigflow import trigflow_schedule


@checked
def schedule_from_diffusers(
    config: Mapping[str, Any] | str | Path, *, mu: float | None = None
) -> NoiseSchedule:
    """Read a schedule from a diffusers ``scheduler_config.json``.

    Args:
        config: The parsed JSON, a scheduler's ``config``, the file, or the folder that
            holds it. It is read like ``from_config`` of the class that it names
            (:func:`jaxinv.diffusion.diffusers_config.scheduler_options`), or of
            DDIMScheduler if it names none.
        mu: The shift for the image size, for flows with ``use_dynamic_shifting``;
            ignored otherwise, as in diffusers.

    Returns:
        The schedule, with the configuration's prediction type, spacing, offset and
        end. Any sampler can be used with it, not only the one that the file names.

    Raises:
        ValueError: For an unknown class, beta schedule, prediction type or spacing, for
            zero terminal SNR with a prediction of the noise, or for dynamic shifting
            without ``mu``.
        FileNotFoundError: If the file does not exist.
    """
    with naming_scheduler(config):
        return schedule_of_options(scheduler_options(config), mu)


def schedule_of_options(
    options: Mapping[str, Any], mu: float | None = None
) -> NoiseSchedule:
    """Return :func:`schedule_from_diffusers` for options that are already resolved."""
    steps = int(options["num_train_timesteps"])
    if options["_class_name"] == IPNDM:
        if options["trained_betas"] is not None:
            raise ValueError(f"{IPNDM} with trained_betas is not supported")
        return ipndm_schedule(steps)
    if options["_class_name"] == SCM:
        if options["prediction_type"] != "trigflow":
            raise ValueError(
                f"{SCM} has the prediction type trigflow, got "
                f"{options['prediction_type']!r}"
            )
        return trigflow_schedule(steps)
    if "sigma_data" in options:
        return _edm(options, steps)
    flow = bool(options.get("use_flow_sigmas"))
    if "shift" in options or flow:
        if (options.get("prediction_type") == "flow_prediction") != flow:
            raise ValueError(_TOGETHER)
        return flow_matching(steps, shift=_shift(options, mu))
    if options["prediction_type"] == "flow_prediction":
        raise ValueError(_TOGETHER)
    kind = options.get("timestep_type", "discrete")
    if kind not in ("discrete", "continuous"):
        raise ValueError(
            f"timestep_type must be 'discrete' or 'continuous', got {kind!r}"
        )
    if options["timestep_spacing"] not in get_args(TimestepSpacing):
        raise ValueError(
            f"unknown timestep_spacing {options['timestep_spacing']!r}; expected one "
            f"of {', '.join(get_args(TimestepSpacing))}"
        )
    schedule = vp_schedule(
        _alphas_cumprod(options, steps),
        prediction_type=options["prediction_type"],
        timestep_spacing=options["timestep_spacing"],
        steps_offset=int(options["steps_offset"]),
        set_alpha_to_one=bool(options["set_alpha_to_one"]),
    )
    if not continuous_times(options):
        return schedule
    return dataclasses.replace(schedule, model_times=np.log(schedule.taus) / 4)


def rounded_root(values: np.ndarray) -> np.ndarray:
    """Return the square root in the dtype of the values, rounded to nearest.

    PyTorch's may be the second nearest number, depending on the machine.
    """
    return np.sqrt(values)


def continuous_times(options: Mapping[str, Any]) -> bool:
    """Return whether the network is given ``log(sigma / alpha) / 4`` as its time."""
    v = options["prediction_type"] == "v_prediction"
    return v and options.get("timestep_type") == "continuous"


def _edm(options: Mapping[str, Any], steps: int) -> NoiseSchedule:
    known = {"epsilon": "edm", "v_prediction": "edm_negative"}
    kind = options["prediction_type"]
    if kind not in known:
        raise ValueError(
            f"EDM's networks have the prediction types {', '.join(known)}, got {kind!r}"
        )
    if options["sigma_min"] is None or options["sigma_max"] is None:
        raise ValueError("EDM's schedulers need sigma_min and sigma_max")
    return edm(
        options["sigma_min"],
        options["sigma_max"],
        steps,
        sigma_data=options["sigma_data"],
        prediction_type=known[kind],  # type: ignore[arg-type]
    )


_TOGETHER = (
    'prediction_type "flow_prediction" and use_flow_sigmas are only supported together'
)


def _shift(options: Mapping[str, Any], mu: float | None) -> float:
    """Return the resolution shift, which is fixed or given by mu."""
    if not options.get("use_dynamic_shifting"):
        return float(options["shift" if "shift" in options else "flow_shift"])
    if mu is None:
        raise ValueError(
            "use_dynamic_shifting makes the shift depend on the image size: it needs "
            "mu, as passed by the pipeline to set_timesteps; or build the schedule of "
            "one size with flow_matching(shift=...)"
        )
    kind = options["time_shift_type"]
    if kind not in ("exponential", "linear"):
        raise ValueError(
            f"time_shift_type must be 'exponential' or 'linear', got {kind!r}"
        )
    return math.exp(mu) if kind == "exponential" else float(mu)


#: The last alpha^2 of schedulers that need a finite noise level at zero terminal SNR.
_ALMOST_ZERO = 2.0**-24
_ALMOST = (DPM, UNIPC, EULER, EULER_ANCESTRAL)


def _alphas_cumprod(options: Mapping[str, Any], steps: int) -> Float[np.ndarray, "t"]:
    """Return alpha^2 at the training timesteps, rounded as in PyTorch."""
    betas = _betas(options, steps)
    cog = "snr_shift_scale" in options
    scaled = options["beta_schedule"] == "scaled_linear"
    if cog and scaled and options["trained_betas"] is None:
        # CogVideoX computes these betas, and what follows from them, in float64.
        ends = options["beta_start"] ** 0.5, options["beta_end"] ** 0.5
        betas = np.linspace(*ends, steps) ** 2
    alphas = np.cumprod(1 - betas, dtype=np.float64).astype(betas.dtype)
    if cog:
        shift = options["snr_shift_scale"]
        alphas = alphas / (shift + (1 - shift) * alphas)
    if not options.get("rescale_betas_zero_snr"):
        return alphas
    if alphas[0] <= alphas[-1]:
        raise ValueError("rescale_betas_zero_snr needs at least two noise levels")
    roots = rounded_root(alphas)
    alphas = ((roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))) ** 2
    if cog:
        return alphas
    # Betas of these alphas, which schedulers multiply again.
    with np.errstate(invalid="ignore"):
        betas = 1 - np.append(alphas[:1], alphas[1:] / alphas[:-1])
    alphas = np.cumprod(1 - betas, dtype=np.float64).astype(np.float32)
    if options["_class_name"] in _ALMOST:
        alphas[-1] = _ALMOST_ZERO
    return alphas


def _betas(options: Mapping[str, Any], steps: int) -> Float[np.ndarray, "t"]:
    """Return the betas in float32, rounded as in PyTorch."""
    trained = options["trained_betas"]
    if trained is not None:
        if len(trained) != steps:
            raise ValueError(
                f"trained_betas has {len(trained)} values, but num_train_timesteps is "
                f"{steps}"
            )
        return np.asarray(trained, np.float32)
    kind = options["beta_schedule"]
    if kind not in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        raise ValueError(
            f"unknown beta_schedule {kind!r}; expected linear, scaled_linear or "
            "squaredcos_cap_v2"
        )
    start, end = float(options["beta_start"]), float(options["beta_end"])
    if kind == "squaredcos_cap_v2":
        check_betas(0.5, 0.5, steps)
        return cosine_betas(steps).astype(np.float32)
    check_betas(start, end, steps)
    if kind == "linear":
        return linspace32(start, end, steps)
    return linspace32(start**0.5, end**0.5, steps) ** 2


def linspace32(start: float, end: float, count: int) -> Float[np.ndarray, "t"]:
    """Compute PyTorch's linspace in float32, bit for bit."""
    low, high = np.float32(start), np.float32(end)
    step = np.float64((high - low) / np.float32(max(count - 1, 1)))
    i = np.arange(count)
    upward = np.float64(low) + step * i
    downward = np.float64(high) - step * (count - 1 - i)
    return np.where((i < count // 2) | (count == 1), upward, downward).astype(
        np.float32
    )

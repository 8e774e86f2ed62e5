r"""The steps of a diffusers pipeline: its scheduler, and what it passes to it.

A pipeline calls ``scheduler.set_timesteps(N, ...)``, and the arguments that it adds are
its own, not the scheduler's:

* Stable Diffusion's and Wan's pipelines add nothing;
* Stable Diffusion 3's adds ``mu`` if the scheduler has ``use_dynamic_shifting``;
* FLUX's adds ``mu`` and ``sigmas = 1, 1 - 1/N, ..., 1/N`` (but no sigmas if the
  scheduler has ``use_flow_sigmas``);
* InstaFlow's steps through these sigmas without its scheduler.

``mu`` is the shift for the image size. It is linear in the number n of tokens, which
are patches of the latent, usually of 2x2 pixels:

    mu = base_shift + (max_shift - base_shift) (n - n_base) / (n_max - n_base)

with ``n_base = base_image_seq_len`` and ``n_max = max_image_seq_len`` of the
scheduler's configuration. The scheduler then moves its flow times t by
``t -> s / (s + (1/t - 1))``, where ``s = exp(mu)`` or ``s = mu``.

References:
    diffusers 0.42, ``calculate_shift`` and the calls of ``retrieve_timesteps`` in
    ``pipelines/flux/pipeline_flux.py``,
    ``pipelines/stable_diffusion_3/pipeline_stable_diffusion_3.py`` and
    ``pipelines/stable_diffusion/pipeline_stable_diffusion.py``.
    Esser et al. 2024, arXiv:2403.03206, Section 5.3.2 (shifts for resolutions).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxinv.checks import shown
from jaxinv.diffusion.diffusers_config import TYPES, scheduler_options
from jaxinv.diffusion.diffusers_schedule import schedule_from_diffusers
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.files.json_fields import check_field
from jaxinv.samplers.diffusers_sampler import sampler_from_diffusers
from jaxinv.samplers.table import SamplerTable


class Passed(NamedTuple):
    """What a pipeline passes to its scheduler.

    Attributes:
        sigmas: Whether it passes the levels 1, 1 - 1/N, ..., 1/N.
        max_shift: ``max_shift`` if the configuration has none; None if the pipeline
            passes no ``mu``.
    """

    sigmas: bool = False
    max_shift: float | None = None


PIPELINES: dict[str, Passed] = {
    "DDIMPipeline": Passed(),
    "DDPMPipeline": Passed(),
    "StableDiffusionPipeline": Passed(),
    "StableDiffusionXLPipeline": Passed(),
    "StableDiffusion3Pipeline": Passed(max_shift=1.16),
    "FluxPipeline": Passed(sigmas=True, max_shift=1.15),
    "WanPipeline": Passed(),
    "InstaFlowPipeline": Passed(sigmas=True),
    "RectifiedFlowPipeline": Passed(sigmas=True),
}


def pipeline_request(
    pipeline: str,
    config: Mapping[str, Any],
    num_steps: int,
    num_tokens: int,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Return what a pipeline passes to ``set_timesteps`` besides the number of steps.

    Args:
        pipeline: Class of the pipeline.
        config: Configuration of its scheduler.
        num_steps: N.
        num_tokens: Number of tokens of the latent.
        given: ``sigmas``, ``timesteps`` and ``mu`` of the caller, used instead of the
            pipeline's. Values of None count as not given.

    Returns:
        Keyword arguments of :func:`jaxinv.sampler_from_diffusers`.

    Raises:
        ValueError: For the scheduler of a flow in a pipeline that is not known, without
            arguments of the caller.
    """
    request = {key: value for key, value in given.items() if value is not None}
    options = scheduler_options(config)
    flow = "shift" in options or bool(options.get("use_flow_sigmas"))
    passed = PIPELINES.get(pipeline)
    if passed is None:
        if flow and not request:
            raise ValueError(
                f"what a {shown(pipeline)} passes to the scheduler of a flow is not "
                f"known (known are {', '.join(PIPELINES)}): pass sigmas, timesteps or "
                "mu as that pipeline does"
            )
        return request
    levels = passed.sigmas and not options.get("use_flow_sigmas")
    if levels and not request.keys() & {"sigmas", "timesteps"}:
        request["sigmas"] = np.linspace(1.0, 1 / num_steps, num_steps)
    dynamic = bool(options.get("use_dynamic_shifting"))
    if dynamic and passed.max_shift is not None and "mu" not in request:
        known = {**config, **options}
        request["mu"] = _image_shift(known, num_tokens, passed.max_shift)
    return request


def _image_shift(config: Mapping[str, Any], tokens: int, max_shift: float) -> float:
    """Return ``mu`` for a number of tokens, as ``calculate_shift`` of diffusers."""
    defaults = {
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
        "base_shift": 0.5,
        "max_shift": max_shift,
    }
    values = {key: config.get(key, value) for key, value in defaults.items()}
    for key, value in values.items():
        check_field(key, value, TYPES[key])
        if value is None:
            raise ValueError(f"use_dynamic_shifting needs a number as {key}, got None")
    fewest, most, low, high = values.values()
    if fewest == most:
        raise ValueError(
            "base_image_seq_len and max_image_seq_len must differ for "
            f"use_dynamic_shifting, got {fewest} twice"
        )
    slope = (high - low) / (most - fewest)
    return tokens * slope + (low - slope * fewest)


def pipeline_sampler(
    schedule: NoiseSchedule,
    config: Mapping[str, Any],
    num_steps: int,
    request: Mapping[str, Any],
) -> SamplerTable:
    """Return the sampler of a scheduler, if the scheduler fits a model.

    Args:
        schedule: The model's schedule.
        config: The scheduler's configuration.
        num_steps: N.
        request: From :func:`pipeline_request`.

    Returns:
        The table.

    Raises:
        ValueError: If :func:`jaxinv.sampler_from_diffusers` raises it, or if the
            configuration describes other noise levels, or networks with another output,
            than the model's.
    """
    theirs = schedule_from_diffusers(config, mu=request.get("mu"))
    if not _same_process(theirs, schedule):
        raise ValueError(
            "the scheduler's configuration does not fit the model: it describes "
            f"{theirs}, and the model was trained with {schedule}. Configurations take "
            "the betas and the prediction type of the model's own"
        )
    return sampler_from_diffusers(config, num_steps, **request)


def _same_process(a: NoiseSchedule, b: NoiseSchedule) -> bool:
    """Return whether networks of one schedule can be used with the other."""
    if a.family != b.family or len(a.taus) != len(b.taus):
        return False
    if a.family == "flow":
        # All shifts of a flow are times of one process: the network is given T t. Flow
        # schedulers know velocities only, and a velocity's sign is the denoiser's.
        kinds = {a.prediction_type, b.prediction_type}
        return len(kinds) == 1 or kinds <= {"flow", "rectified_flow"}
    if a.prediction_type != b.prediction_type:
        return False
    return bool(np.allclose(a.taus, b.taus, rtol=1e-3))

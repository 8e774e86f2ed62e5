"""The scheduler of a model that is one file, which does not name one.

diffusers takes the configuration of a repository of the same generation: PNDM for
Stable Diffusion 1, DDIM with v-prediction for 2, Euler for XL, all with the same betas,
and an EDM solver for Playground v2.5. Two generations have variants with another
prediction type, which the weights do not show:

* Stable Diffusion 2 "base" predicts the noise. diffusers assumes v-prediction unless
  the file says that its training had 875000 steps (``global_step``), those of the base
  model.
* Files of SDXL with v-prediction hold a tensor ``v_pred``, and one ``ztsnr`` if their
  schedule has zero terminal SNR. diffusers does not know these marks, which other
  programs write and read.

References:
    diffusers 0.42, ``loaders/single_file_utils.py`` (``_legacy_load_scheduler``), and
    the schedulers of its default repositories.
"""

import math
from collections.abc import Sequence
from typing import Any

from weights_convert.reader import StoredTensor
from weights_convert.single_file.infer import PLAYGROUND, SD1, SD2, Generation

# Steps of the training of Stable Diffusion 2 base.
_BASE_STEPS = 875_000
_V = "v_prediction"
_COMMON = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
_PNDM = {"_class_name": "PNDMScheduler"}
_DDIM = {"_class_name": "DDIMScheduler", "clip_sample": False}
_EULER = {
    "_class_name": "EulerDiscreteScheduler",
    "interpolation_type": "linear",
    "sample_max_value": 1.0,
    "timestep_spacing": "leading",
    "use_karras_sigmas": False,
}
_PLAYGROUND = {
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "algorithm_type": "dpmsolver++",
    "dynamic_thresholding_ratio": 0.995,
    "euler_at_final": False,
    "final_sigmas_type": "zero",
    "lower_order_final": True,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "sample_max_value": 1.0,
    "sigma_data": 0.5,
    "sigma_max": 80.0,
    "sigma_min": 0.002,
    "solver_order": 2,
    "solver_type": "midpoint",
    "thresholding": False,
}


def scheduler_config(
    generation: Generation, tensors: Sequence[StoredTensor]
) -> dict[str, Any]:
    """Return the ``scheduler_config.json`` that belongs to a file.

    Args:
        generation: The generation of its model.
        tensors: All of its tensors.
    """
    stored = {tensor.name: tensor for tensor in tensors}
    if generation is PLAYGROUND:
        return dict(_PLAYGROUND)
    if generation is SD1:
        return _COMMON | _PNDM
    if generation is SD2:
        base = _global_step(stored) == _BASE_STEPS
        return _COMMON | _DDIM | {"prediction_type": "epsilon" if base else _V}
    found = _COMMON | _EULER
    if "v_pred" in stored:
        found["prediction_type"] = _V
    if "ztsnr" in stored:
        found["rescale_betas_zero_snr"] = True
    return found


def _global_step(stored: dict[str, StoredTensor]) -> int | None:
    """Return the number of training steps, if a file has it."""
    tensor = stored.get("global_step")
    if (
        tensor is None
        or tensor.dtype not in ("I32", "I64")
        or math.prod(tensor.shape) != 1
    ):
        return None
    return int(tensor.read().item())

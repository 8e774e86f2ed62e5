"""A small random SDXL pipeline, as diffusers saves it, and diffusers' own results."""

from pathlib import Path

import diffusers
import numpy as np
import torch

from benchmarks.papers.tiny_sdxl import (
    POOLED,
    SCHEDULER,
    SIZE_FEATURES,
    WIDTHS,
    edit,
    write_index,
    write_json,
)
from benchmarks.papers.tiny_sdxl import write as write_sdxl_pipeline

__all__ = [
    "POOLED",
    "SCHEDULER",
    "SIZE_FEATURES",
    "WIDTHS",
    "edit",
    "write_index",
    "write_json",
    "write_sdxl_pipeline",
]

# playgroundai/playground-v2.5-1024px-aesthetic: EDM, and latents of unit variance.
PLAYGROUND_SCHEDULER = {
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
PLAYGROUND_VAE = {
    "latents_mean": [-1.6574, 1.886, -1.383, 2.5155],
    "latents_std": [8.4927, 5.9022, 6.5498, 5.2299],
    "scaling_factor": 0.5,
}


def diffusers_pipeline(folder: Path) -> diffusers.StableDiffusionXLPipeline:
    """The pipeline of diffusers on a folder."""
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(
        folder, add_watermarker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_pipeline(pipe, noise: np.ndarray, **options) -> np.ndarray:
    """The latent, or the image, that diffusers' pipeline makes; channels last."""
    latents = torch.from_numpy(np.moveaxis(noise, -1, 0)[None].copy())
    found = pipe(**{"latents": latents, "output_type": "latent"} | options).images
    return np.moveaxis(found.numpy()[0], 0, -1)

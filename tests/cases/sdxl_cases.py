"""A small random SDXL pipeline, as diffusers saves it, and diffusers' own results."""

import json
from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from conftest import MAX_TOKENS, write_tokenizer

# What stabilityai/stable-diffusion-xl-base-1.0 publishes.
SCHEDULER = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sample_max_value": 1.0,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
    "use_karras_sigmas": False,
}
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
WIDTHS, POOLED, SIZE_FEATURES = (8, 12), 10, 4


def write_sdxl_pipeline(folder: Path, **unet_options) -> None:
    """Saves a random pipeline of SDXL's parts: 32x32 pixels, factor 4."""
    torch.manual_seed(0)
    _write_tokenizers(folder)
    vocab = json.loads((folder / "tokenizer/vocab.json").read_text())
    for name, kind, width in (
        ("text_encoder", "CLIPTextModel", WIDTHS[0]),
        ("text_encoder_2", "CLIPTextModelWithProjection", WIDTHS[1]),
    ):
        config = transformers.CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=width,
            intermediate_size=16,
            projection_dim=POOLED,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="quick_gelu" if name == "text_encoder" else "gelu",
            bos_token_id=vocab["<|startoftext|>"],
            eos_token_id=vocab["<|endoftext|>"],
        )
        text_encoder = getattr(transformers, kind)(config)
        with torch.no_grad():  # transformers starts so small that texts hardly count
            for parameter in text_encoder.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
        text_encoder.save_pretrained(folder / name)
    diffusers.AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
        sample_size=32,
        scaling_factor=0.8,
    ).save_pretrained(folder / "vae")
    unet = diffusers.UNet2DConditionModel(
        **{
            "sample_size": 8,
            "block_out_channels": (16,),
            "down_block_types": ("CrossAttnDownBlock2D",),
            "mid_block_type": None,
            "up_block_types": ("UpBlock2D",),
            "layers_per_block": 1,
            "norm_num_groups": 8,
            "cross_attention_dim": sum(WIDTHS),
            "attention_head_dim": 2,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": SIZE_FEATURES,
            "projection_class_embeddings_input_dim": POOLED + 6 * SIZE_FEATURES,
        }
        | unet_options
    )
    with torch.no_grad():  # gentle, so that few steps have an exact inverse
        unet.conv_out.weight *= 0.5
    unet.save_pretrained(folder / "unet")
    write_json(folder / "scheduler/scheduler_config.json", SCHEDULER)
    write_index(folder)


def _write_tokenizers(folder: Path) -> None:
    """Writes both tokenizers: the second pads with "!", as the published one does."""
    for name in ("tokenizer", "tokenizer_2"):
        write_tokenizer(folder / name)
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        edit(folder / "tokenizer_2" / file, pad_token="!")


def write_index(folder: Path, **entries) -> None:
    """Writes the file that names the parts, with entries of other values."""
    parts = {
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    index = {
        "_class_name": "StableDiffusionXLPipeline",
        "_diffusers_version": "0.19.0.dev0",
        "add_watermarker": None,
        "feature_extractor": [None, None],
        "force_zeros_for_empty_prompt": True,
        "image_encoder": [None, None],
        **parts,
    }
    write_json(folder / "model_index.json", index | entries)


def write_json(path: Path, value: dict) -> None:
    """Writes a JSON file, in a folder that need not exist."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value))


def edit(path: Path, **values) -> None:
    """Changes values in a JSON file."""
    write_json(path, json.loads(path.read_text()) | values)


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

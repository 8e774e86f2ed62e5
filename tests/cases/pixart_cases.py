"""Small random PixArt networks and pipelines, as diffusers saves them."""

from pathlib import Path

import diffusers
import numpy as np
import torch
import transformers
from t5_cases import write_t5_encoder, write_t5_tokenizer

SIZE, WIDTH = 8, 16  # of the latents, and of T5's vectors
TRANSFORMER = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "cross_attention_dim": 24,
    "caption_channels": WIDTH,
    "num_layers": 2,
    "sample_size": SIZE,
    "interpolation_scale": 2,
    "use_additional_conditions": False,
}
#: What the published models have but for sizes.
PUBLISHED = {
    "sigma": {},
    # Its pipeline passes the image's size if the network was trained at this size.
    "alpha": {
        "sample_size": 128,
        "interpolation_scale": None,
        "use_additional_conditions": None,
    },
}


def pixart_transformer(**options) -> diffusers.PixArtTransformer2DModel:
    """Returns a small network with random norms and biases, so that each counts."""
    torch.manual_seed(0)
    model = diffusers.PixArtTransformer2DModel(**TRANSFORMER | options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def write_pixart_pipeline(folder: Path, name: str = "sigma") -> None:
    """Saves a random pipeline: 32x32 pixels, factor 4."""
    write_t5_tokenizer(folder / "tokenizer")
    network = pixart_transformer(**PUBLISHED[name])
    with torch.no_grad():  # gentle, so that few steps have an exact inverse
        network.proj_out.weight *= 0.3
    kind = getattr(diffusers, f"PixArt{name.capitalize()}Pipeline")
    kind(
        tokenizer=transformers.T5Tokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=write_t5_encoder(folder / "text_encoder", d_model=WIDTH),
        vae=diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            layers_per_block=1,
            norm_num_groups=4,
            mid_block_add_attention=False,
            sample_size=4 * SIZE,
            scaling_factor=0.13025,
        ),
        transformer=network,
        scheduler=diffusers.DPMSolverMultistepScheduler(
            beta_start=0.0001, beta_end=0.02
        ),
    ).save_pretrained(folder)


def run_pixart(pipe, noise: np.ndarray, **options) -> np.ndarray:
    """Returns the latent that diffusers' pipeline makes, channels last."""
    latents = torch.from_numpy(np.moveaxis(noise, -1, 0)[None].copy())
    size = 4 * SIZE
    given = {
        "latents": latents,
        "output_type": "latent",
        "clean_caption": False,
        "use_resolution_binning": False,
        "height": size,
        "width": size,
    }
    return np.moveaxis(pipe(**given | options).images.numpy()[0], 0, -1)

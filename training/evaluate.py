"""Measure an exported ``emoji64``: reconstruction, noise floor, text, samples.

    python -m training.evaluate --data data --model jaxinv/zoo/emoji64 \
        --sheet docs/emoji64-contact-sheet.png

Everything is read from the exported half-precision files, computed in float32, and
printed as JSON; the contact sheet is a picture.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from training.drawings import KINDS, Drawings, read_drawings
from training.scenes import random_scene, scene_caption, to_tensor
from training.sheet import PROMPTS, contact_sheet, text_states
from training.train_autoencoder import held_out_images, reconstruction_psnr


def latent_statistics(vae: AutoencoderKL, images: torch.Tensor) -> dict[str, float]:
    """Latent std (times the scaling factor) and posterior std relative to it."""
    with torch.no_grad():
        posterior = vae.encode(images).latent_dist
    spread = float(posterior.mean.std())
    return {
        "scaled_latent_std": spread * vae.config.scaling_factor,
        "posterior_std_ratio": float(posterior.std.mean()) / spread,
    }


def captioned_latents(
    vae: AutoencoderKL, drawings: Drawings, count: int, seed: int
) -> tuple[torch.Tensor, list[str]]:
    """Return sampled latents of fresh placements, and captions of the training's kind.

    Args:
        vae: The autoencoder.
        drawings: What may be drawn.
        count: Number of scenes.
        seed: Seed of everything random here.

    Returns:
        Scaled latents (count, 4, 16, 16) and count captions.
    """
    rng = np.random.default_rng(seed)
    scenes = [random_scene(rng, drawings) for _ in range(count)]
    texts = [scene_caption(scene, rng) for scene in scenes]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        posterior = vae.encode(to_tensor([scene.image for scene in scenes])).latent_dist
        latents = posterior.sample(generator)
    return latents * vae.config.scaling_factor, texts


@torch.no_grad()
def caption_losses(
    unet, text, tokenizer, scheduler, latents, texts: list[str], seed: int = 7
) -> dict[str, float]:
    """Eps loss at t in [300, 700] with right, shuffled and empty captions.

    All three see the same noise and timesteps, so the difference is the caption's.
    """
    count = len(texts)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = torch.linspace(300, 700, count).round().long()
    timesteps = timesteps[torch.randperm(count, generator=generator)]
    noisy = scheduler.add_noise(latents, noise, timesteps)
    shuffled = [texts[(i + count // 3) % count] for i in range(count)]
    variants = {"right": texts, "shuffled": shuffled, "empty": [""] * count}
    result = {}
    for name, captions in variants.items():
        states = text_states(text, tokenizer, captions)
        total = 0.0
        for part in torch.arange(count).split(64):
            eps = unet(noisy[part], timesteps[part], states[part]).sample
            total += float((eps - noise[part]).square().mean()) * len(part)
        result[name] = total / count
    result["right_below_shuffled"] = 1 - result["right"] / result["shuffled"]
    return result


def main() -> None:
    """Print all figures and write the contact sheet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--scenes", type=int, default=384)
    args = parser.parse_args()
    vae, unet, text = (
        cls.from_pretrained(args.model / name, torch_dtype=torch.float32).eval()
        for cls, name in (
            (AutoencoderKL, "vae"),
            (UNet2DConditionModel, "unet"),
            (CLIPTextModel, "text_encoder"),
        )
    )
    tokenizer = CLIPTokenizer.from_pretrained(args.model / "tokenizer")
    scheduler = DDIMScheduler.from_pretrained(args.model / "scheduler")

    images = held_out_images(args.data)
    psnr = reconstruction_psnr(vae, images)
    report: dict = {
        "held_out_pictures": len(psnr),
        "psnr_mean": float(psnr.mean()),
        "psnr_median": float(np.median(psnr)),
        "psnr_worst": float(psnr.min()),
        **latent_statistics(vae, images),
    }
    drawings = read_drawings(args.data, tuple(KINDS))
    latents, texts = captioned_latents(vae, drawings, args.scenes, seed=3)
    report["eps"] = caption_losses(unet, text, tokenizer, scheduler, latents, texts)
    print(json.dumps(report, indent=2))
    if args.sheet:
        image = contact_sheet(
            unet,
            text,
            vae,
            tokenizer,
            scheduler,
            vae.config.scaling_factor,
            PROMPTS,
            args.seeds,
        )
        args.sheet.parent.mkdir(parents=True, exist_ok=True)
        image.save(args.sheet, optimize=True)


if __name__ == "__main__":
    main()

"""Sample with DDIM and guidance, and lay the pictures out on a sheet."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw

#: The prompts of the contact sheet.
PROMPTS = (
    "red heart on a light blue background",
    "pizza on a dark green background",
    "soccer ball on a yellow background",
    "dog face on a purple background",
    "sun on a dark blue background",
    "red apple on a white background",
    "fire on a black background",
    "smiling face with sunglasses on a red to yellow gradient background",
)


@torch.no_grad()
def text_states(text, tokenizer, prompts: list[str]) -> torch.Tensor:
    """Hidden states of prompts, (n, length, width)."""
    ids = tokenizer(prompts, padding="max_length", truncation=True).input_ids
    return text(torch.tensor(ids)).last_hidden_state


@torch.no_grad()
def sample_latents(
    unet,
    scheduler,
    states: torch.Tensor,
    empty: torch.Tensor,
    noise: torch.Tensor,
    steps: int = 25,
    guidance: float = 3.0,
) -> torch.Tensor:
    """DDIM with classifier-free guidance.

    Args:
        unet: The UNet.
        scheduler: A DDIMScheduler.
        states: Hidden states of the prompts, (n, length, width).
        empty: Hidden states of the empty prompt, (1, length, width).
        noise: (n, 4, 16, 16).
        steps: Sampling steps.
        guidance: Guidance scale.

    Returns:
        Latents, still scaled, (n, 4, 16, 16).
    """
    scheduler.set_timesteps(steps)
    both = torch.cat([empty.expand_as(states), states])
    latent = noise
    for t in scheduler.timesteps:
        without, with_text = unet(torch.cat([latent] * 2), t, both).sample.chunk(2)
        eps = without + guidance * (with_text - without)
        latent = scheduler.step(eps, t, latent).prev_sample
    return latent


@torch.no_grad()
def contact_sheet(
    unet,
    text,
    vae,
    tokenizer,
    scheduler,
    scale: float,
    prompts,
    seeds: int = 4,
    steps: int = 25,
    guidance: float = 3.0,
    zoom: int = 2,
) -> Image.Image:
    """One row per prompt, one column per seed, the prompt above its row."""
    states = text_states(text, tokenizer, list(prompts)).repeat_interleave(seeds, 0)
    empty = text_states(text, tokenizer, [""])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(seeds, 4, 16, 16, generator=generator)
    noise = noise.repeat(len(prompts), 1, 1, 1)
    latents = sample_latents(unet, scheduler, states, empty, noise, steps, guidance)
    pixels = vae.decode(latents / scale).sample.clamp(-1, 1) * 127.5 + 127.5
    pixels = pixels.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return lay_out(
        pixels.reshape(len(prompts), seeds, *pixels.shape[1:]), prompts, zoom
    )


def lay_out(pixels: np.ndarray, prompts, zoom: int) -> Image.Image:
    """Pictures (prompts, seeds, h, w, 3) uint8 as two columns of labelled rows."""
    rows, seeds, h, w, _ = pixels.shape
    cell, label, gap = h * zoom, 16, 6
    columns = 2
    width = seeds * (w * zoom + 2) + gap
    height = cell + label + gap
    lines = -(-rows // columns)
    sheet = Image.new("RGB", (columns * width, lines * height), "white")
    draw = ImageDraw.Draw(sheet)
    for row, prompt in enumerate(prompts):
        x0, y0 = (row % columns) * width, (row // columns) * height
        draw.text((x0 + 2, y0 + 2), prompt, fill="black")
        for seed in range(seeds):
            picture = Image.fromarray(pixels[row, seed])
            picture = picture.resize((w * zoom, h * zoom), Image.Resampling.NEAREST)
            sheet.paste(picture, (x0 + seed * (w * zoom + 2), y0 + label))
    return sheet

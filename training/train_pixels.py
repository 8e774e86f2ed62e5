r"""Train ``emoji16``, an unconditional model of emoji at 16 by 16 pixels.

    python -m training.train_pixels --data data --out work --threads 1 --minutes 30
    python -m training.train_pixels --out work --dest jaxinv/zoo/emoji16

The first command draws the pictures once (``pixels.pt``) and trains; it writes a
checkpoint every three minutes and continues from it when started again. The second one
exports the averaged weights as a folder of diffusers' ``DDIMPipeline``.

The network is diffusers' ``UNet2DModel`` on DDPM's linear schedule. It predicts the
velocity ``alpha eps - sigma x0``: at high noise, where a prediction of the noise says
nearly nothing of the picture, the velocity is the picture.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DModel

from training.checkpoints import save_checkpoint
from training.control import Ema, learning_rate
from training.drawings import KINDS, Drawings, read_drawings
from training.export import replace_folder
from training.optimizer import make_optimizer
from training.scenes import random_images

SIZE = 16

#: Kinds that are still told apart at 16 pixels.
SIMPLE_KINDS = (
    "red-heart",
    "blue-heart",
    "pizza",
    "soccer-ball",
    "basketball",
    "panda",
    "pig-face",
    "frog",
    "sun",
    "full-moon",
    "star",
    "droplet",
    "evergreen-tree",
    "sunflower",
    "mushroom",
    "red-apple",
    "green-apple",
    "watermelon",
    "tangerine",
    "lemon",
    "strawberry",
    "tomato",
    "doughnut",
    "egg",
    "grinning-face",
    "smiling-face-with-sunglasses",
    "smiling-face-with-heart-eyes",
    "angry-face",
    "ghost",
    "jack-o-lantern",
    "balloon",
    "gem-stone",
)

#: Standard deviation of the noise floor in [-1, 1]. Averaging 16 pixels removes nearly
#: all of the grain of the scenes, and the noise of a model of data without a floor
#: cannot be recovered (training/README.md).
FLOOR_STD = 0.03

UNET_CONFIG = {
    "sample_size": SIZE,
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [32, 48, 64],
    "layers_per_block": 1,
    "attention_head_dim": 16,
    "norm_num_groups": 16,
}

SCHEDULER_CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "clip_sample": False,
    "set_alpha_to_one": True,
    "steps_offset": 0,
    "prediction_type": "v_prediction",
}

MODEL_INDEX = {
    "_class_name": "DDIMPipeline",
    "scheduler": ["diffusers", "DDIMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
}


def draw_pixels(
    rng: np.random.Generator, drawings: Drawings, count: int
) -> torch.Tensor:
    """Draw scenes and average them down to 16 by 16 pixels.

    Args:
        rng: Source of randomness.
        drawings: What may be drawn.
        count: Number of pictures, a multiple of 64.

    Returns:
        (count, 3, 16, 16), float16, in [-1, 1].
    """
    parts = []
    for start in range(0, count, 64):
        images = random_images(rng, drawings, 64)
        parts.append(torch.nn.functional.adaptive_avg_pool2d(images, SIZE).half())
        if start % 3200 == 0:
            print(f"{start} of {count}", flush=True)
    return torch.cat(parts)


def noisy_batch(
    pixels: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    rng: np.random.Generator,
    generator: torch.Generator,
    count: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw noisy pictures, timesteps and velocities.

    Args:
        pixels: (n, 3, 16, 16).
        alphas_cumprod: (1000,), the squares of ``alpha``.
        rng: Source of pictures, mirror images and timesteps.
        generator: Source of the noise.
        count: Batch size.
    """
    rows = rng.integers(len(pixels), size=count)
    clean = pixels[rows].float()
    mirrored = torch.from_numpy(rng.random(count) < 0.5)[:, None, None, None]
    clean = torch.where(mirrored, clean.flip(3), clean)
    clean = clean + FLOOR_STD * torch.randn(clean.shape, generator=generator)
    # Stratified: every batch has all noise levels.
    timesteps = ((rng.permutation(count) + rng.random(count)) / count * 1000).astype(
        int
    )
    timesteps = torch.from_numpy(timesteps)
    alpha = alphas_cumprod[timesteps].sqrt()[:, None, None, None]
    sigma = (1 - alphas_cumprod[timesteps]).sqrt()[:, None, None, None]
    noise = torch.randn(clean.shape, generator=generator)
    noisy = (alpha * clean + sigma * noise).contiguous(
        memory_format=torch.channels_last
    )
    return noisy, timesteps, alpha * noise - sigma * clean


def load_pixels(args: argparse.Namespace) -> torch.Tensor:
    """Return the pictures of the working folder, drawn on the first call."""
    file = args.out / "pixels.pt"
    if not file.exists():
        assert set(SIMPLE_KINDS) <= set(KINDS)
        drawings = read_drawings(args.data, SIMPLE_KINDS)
        pixels = draw_pixels(np.random.default_rng(5), drawings, args.pictures)
        save_checkpoint(file, {"pixels": pixels})
    return torch.load(file)["pixels"]


def train(args: argparse.Namespace) -> None:
    """Train until the budget is used up, writing ``emoji16.pt`` as it goes.

    The budget is CPU time, so that a busy machine makes no worse a model.
    """
    torch.set_num_threads(args.threads)
    pixels = load_pixels(args)
    alphas = DDIMScheduler(**SCHEDULER_CONFIG).alphas_cumprod
    torch.manual_seed(args.seed)
    model = UNet2DModel(**UNET_CONFIG).to(memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters")
    optimizer, ema = make_optimizer(model, "muon"), Ema(model, 0.998)
    checkpoint_file = args.out / "emoji16.pt"
    step, elapsed = 0, 0.0
    if checkpoint_file.exists():
        state = torch.load(checkpoint_file)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        step, elapsed = state["step"], state["elapsed"]
    rng = np.random.default_rng((args.seed, step))
    generator = torch.Generator().manual_seed(args.seed * 100_003 + step)
    budget, losses = args.minutes * 60, []
    last, saved = time.process_time(), time.monotonic()
    while elapsed < budget:
        optimizer.set_lr(learning_rate(elapsed, budget, args.lr, 0.03 * budget))
        noisy, timesteps, target = noisy_batch(
            pixels, alphas, rng, generator, args.batch
        )
        loss = (model(noisy, timesteps).sample - target).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        ema.update(model)
        optimizer.zero_grad()
        losses.append(loss.item())
        now = time.process_time()
        step, elapsed, last = step + 1, elapsed + now - last, now
        if step % 50 == 0:
            record = {
                "step": step,
                "minutes": round(elapsed / 60, 2),
                "loss": round(float(np.mean(losses)), 4),
            }
            print(json.dumps(record), flush=True)
            losses = []
        if time.monotonic() - saved > 180 or elapsed >= budget:
            saved = time.monotonic()
            save_checkpoint(
                checkpoint_file,
                {
                    "ema": ema.state_dict(),
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                    "elapsed": elapsed,
                },
            )


def export(checkpoint_file: Path, dest: Path) -> None:
    """Write the averaged weights in half precision as a ``DDIMPipeline`` folder."""
    model = UNet2DModel(**UNET_CONFIG)
    ema = Ema(model, 0.0)
    ema.load_state_dict(torch.load(checkpoint_file)["ema"])
    ema.copy_to(model)
    new = dest.with_name(dest.name + ".partial")
    shutil.rmtree(new, ignore_errors=True)
    model.half().save_pretrained(new / "unet", safe_serialization=True)
    DDIMScheduler(**SCHEDULER_CONFIG).save_pretrained(new / "scheduler")
    (new / "model_index.json").write_text(json.dumps(MODEL_INDEX, indent=2) + "\n")
    replace_folder(new, dest)


def main() -> None:
    """Train, or export what was trained."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the drawings")
    parser.add_argument("--out", type=Path, required=True, help="working folder")
    parser.add_argument("--dest", type=Path, help="export to this folder")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--pictures", type=int, default=19_200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.dest:
        export(args.out / "emoji16.pt", args.dest)
    else:
        train(args)


if __name__ == "__main__":
    main()

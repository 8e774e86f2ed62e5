"""Train the autoencoder of ``emoji64``.

    python -m training.train_autoencoder --data data --out work --minutes 45

The loss is the root-mean-square error of each picture, averaged over the batch (it is
monotone in PSNR, the quantity that counts, and no single busy picture dominates a
small batch), a little L1, and the KL term whose weight a controller adapts until the
posterior std is a tenth of the latent std. Stop and start at will: the checkpoint
holds everything, elapsed time included.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from training.checkpoints import save_checkpoint
from training.control import Ema, RatioController, learning_rate
from training.drawings import HELD_OUT, KINDS, read_drawings
from training.optimizer import make_optimizer
from training.scenes import random_images

#: The architecture: factor 4, four latent channels.
VAE_CONFIG = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [24, 48, 96],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 64,
}


def losses(
    vae: AutoencoderKL, images: torch.Tensor, noise: torch.Tensor, kl_weight
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Autoencoder loss on one batch.

    Args:
        vae: The autoencoder.
        images: (n, 3, 64, 64) in [-1, 1].
        noise: (n, 4, 16, 16), standard normal.
        kl_weight: Weight of the KL term per latent element.

    Returns:
        Loss, mean squared error, KL per element, mean posterior std, latent std.
    """
    mean, logvar = vae.quant_conv(vae.encoder(images)).chunk(2, dim=1)
    logvar = logvar.clamp(-30.0, 20.0)
    std = torch.exp(0.5 * logvar)
    output = vae.decoder(vae.post_quant_conv(mean + std * noise))
    error = output - images
    mse = error.square().flatten(1).mean(1)
    kl = 0.5 * (mean.square() + std.square() - 1.0 - logvar).mean()
    loss = (mse + 1e-6).sqrt().mean() + 0.1 * error.abs().mean() + kl_weight * kl
    centred = mean - mean.mean((0, 2, 3), keepdim=True)
    spread = centred.square().mean((0, 2, 3)).sqrt().mean()
    return loss, mse.mean().detach(), kl.detach(), std.mean().detach(), spread.detach()


@torch.no_grad()
def reconstruction_psnr(vae: AutoencoderKL, images: torch.Tensor) -> np.ndarray:
    """Return the PSNR of each picture's decoded posterior mean, in dB, for [0, 1]."""
    result = []
    for chunk in images.split(32):
        output = vae.decode(vae.encode(chunk).latent_dist.mean).sample.clamp(-1, 1)
        mse = ((output - chunk) / 2).square().flatten(1).mean(1)
        result.append(-10 * torch.log10(mse))
    return torch.cat(result).numpy()


def held_out_images(data: Path, count: int = 96, seed: int = 1234) -> torch.Tensor:
    """Return scenes of kinds that nothing is trained on, (count, 3, 64, 64)."""
    drawings = read_drawings(data, tuple(HELD_OUT))
    return random_images(np.random.default_rng(seed), drawings, count)


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument(
        "--initial", type=Path, help="folder of a trained autoencoder to continue from"
    )
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    parser.add_argument("--ratio", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train until the budget is used up, writing ``autoencoder.pt`` as it goes."""
    args = parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    checkpoint_file = args.out / "autoencoder.pt"
    drawings = read_drawings(args.data, tuple(KINDS))
    test_images = held_out_images(args.data)

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    if args.initial:
        vae = AutoencoderKL.from_pretrained(args.initial, torch_dtype=torch.float32)
    else:
        vae = AutoencoderKL(**VAE_CONFIG)
        # Start with the wanted posterior width instead of one that drowns the mean.
        vae.quant_conv.bias.data[4:].fill_(2 * np.log(args.ratio))
    vae = vae.train().to(memory_format=torch.channels_last)
    optimizer = make_optimizer(vae, args.optimizer)
    ema = Ema(vae, 0.995)
    control = RatioController(target=args.ratio)
    step, elapsed = 0, 0.0
    if checkpoint_file.exists():
        state = torch.load(checkpoint_file)
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        control = RatioController(**{**state["control"], "target": args.ratio})
        step, elapsed = state["step"], state["elapsed"]
    rng = np.random.default_rng((args.seed, step))
    generator = torch.Generator().manual_seed(args.seed * 100_003 + step)
    count = sum(p.numel() for p in vae.parameters())
    print(f"{count / 1e6:.2f} M parameters, from step {step}", flush=True)

    budget = args.minutes * 60
    last = saved = time.monotonic()
    sums, since = np.zeros(4), 0
    while elapsed < budget:
        optimizer.set_lr(learning_rate(elapsed, budget, args.lr, 0.03 * budget))
        images = random_images(rng, drawings, args.batch)
        noise = torch.randn(args.batch, 4, 16, 16, generator=generator)
        weight = torch.tensor(control.weight)
        loss, mse, kl, std, spread = losses(vae, images, noise, weight)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
            ema.update(vae)
            control.update(float(std / spread))
        optimizer.zero_grad()
        step, since = step + 1, since + 1
        sums += [float(mse), float(kl), float(std), float(spread)]
        now = time.monotonic()
        elapsed, last = elapsed + now - last, now
        if step % 50 == 0:
            mse_mean, kl_mean, std_mean, spread_mean = sums / since
            record = {
                "step": step,
                "minutes": round(elapsed / 60, 2),
                "psnr": round(float(-10 * np.log10(mse_mean / 4)), 2),
                "kl": round(kl_mean, 3),
                "ratio": round(std_mean / spread_mean, 4),
                "spread": round(spread_mean, 3),
                "kl_weight": round(control.weight, 6),
                "norm": round(float(norm), 3),
            }
            sums, since = np.zeros(4), 0
            print(json.dumps(record), flush=True)
        if now - saved > 180 or elapsed >= budget:
            saved = now
            save_checkpoint(
                checkpoint_file,
                {
                    "model": vae.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "ema": ema.state_dict(),
                    "control": vars(control),
                    "config": dict(VAE_CONFIG),
                    "step": step,
                    "elapsed": elapsed,
                },
            )
            average = AutoencoderKL(**VAE_CONFIG)
            ema.copy_to(average)
            average = average.to(memory_format=torch.channels_last).eval()
            psnr = reconstruction_psnr(average, test_images)
            print(
                f"held-out PSNR mean {psnr.mean():.2f} median {np.median(psnr):.2f} dB",
                flush=True,
            )
            last = time.monotonic()


if __name__ == "__main__":
    main()

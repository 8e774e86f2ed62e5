"""Train the UNet and the text encoder of ``emoji64`` together.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m training.train_unet \
        --out work --tokenizer jaxinv/zoo/emoji64/tokenizer --minutes 75

Input is the latent cache; checkpoints go to the same folder, the averaged weights of
every few hundred steps beside them, because the sharpest model is not the one that
inverts best. The noise
is predicted (eps); the timesteps are stratified over the batch and lean to the middle
and high noise, where the text decides; the loss is weighted by min(1/alpha^2, 5), the
weight of the velocity loss, capped: a plain eps loss hardly sees the layout and the
background colour, which are decided where the signal is weak.

One single-threaded process per core and one gradient exchange per step: two threads
would meet at a barrier in every small operator, which on a shared machine means
waiting. One process alone (``python -m``) works as well.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers import DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.checkpoints import save_checkpoint
from training.control import Ema, learning_rate
from training.folds import FOLD, fold_penalty
from training.optimizer import make_optimizer

UNET_CONFIG = {
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [64, 96, 160],
    "layers_per_block": 1,
    "cross_attention_dim": 128,
    # diffusers reads this as the number of heads.
    "attention_head_dim": 4,
    "norm_num_groups": 16,
}

SCHEDULER_CONFIG = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}


def text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    """Return a small CLIP text model that fits a tokenizer."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=512,
        projection_dim=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


class TextToNoise(torch.nn.Module):
    """UNet and text encoder as one module with one forward pass."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__()
        self.unet = UNet2DConditionModel(**UNET_CONFIG)
        self.text = CLIPTextModel(config)

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, ids: torch.Tensor
    ) -> torch.Tensor:
        """Predict the noise.

        Args:
            noisy: (n, 4, 16, 16).
            timesteps: (n,), integers.
            ids: (n, length), token ids.

        Returns:
            The noise, (n, 4, 16, 16).
        """
        return self.unet(noisy, timesteps, self.text(ids).last_hidden_state).sample


def start_from(model: TextToNoise, folder: Path) -> None:
    """Copy the weights of an exported model into a new one."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet").float()
    text = CLIPTextModel.from_pretrained(folder / "text_encoder").float()
    model.unet.load_state_dict(unet.state_dict())
    model.text.load_state_dict(text.state_dict())


def draw_timesteps(rng: np.random.Generator, count: int) -> np.ndarray:
    """Stratified timesteps: half uniform over 0..999, half a Beta bump on 200..950.

    Args:
        rng: Source of randomness.
        count: Batch size.

    Returns:
        (count,) int64.
    """
    half = count // 2
    strata = (np.arange(half) + rng.random(half)) / half
    uniform = np.minimum(strata * 1000, 999)
    bump = 200 + 750 * rng.beta(1.5, 1.5, count - half)
    return np.concatenate([uniform, bump]).astype(np.int64)


def loss_weight(alphas_cumprod: torch.Tensor, cap: float = 5.0) -> torch.Tensor:
    """Weight of the eps loss per timestep: ``min(1 / alpha^2, cap)``."""
    return (1.0 / alphas_cumprod).clamp(max=cap)


class Batches:
    """Random noisy latents with captions from the cache."""

    def __init__(
        self, cache: dict, empty: torch.Tensor, alphas: torch.Tensor, dropout: float
    ) -> None:
        self.cache, self.empty, self.alphas = cache, empty, alphas
        self.dropout = dropout
        self.scale = 1.0 / float(cache["latent_std"])

    def draw(
        self, rng: np.random.Generator, generator: torch.Generator, count: int
    ) -> tuple[torch.Tensor, ...]:
        """Draw noisy latents, timesteps, token ids and the noise."""
        rows = rng.integers(len(self.cache["mean"]), size=count)
        mean, std = (self.cache[k][rows].float() for k in ("mean", "std"))
        shape = mean.shape
        latent = mean + std * torch.randn(shape, generator=generator)
        latent = latent * self.scale
        which = rng.integers(self.cache["ids"].shape[1], size=count)
        ids = self.cache["ids"][rows, which].long()
        ids[torch.from_numpy(rng.random(count) < self.dropout)] = self.empty
        timesteps = torch.from_numpy(draw_timesteps(rng, count))
        noise = torch.randn(shape, generator=generator)
        alpha = self.alphas[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * latent + (1 - alpha).sqrt() * noise
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        return noisy, timesteps, ids, noise


def folds(largest: torch.Tensor) -> list[float]:
    """Return the mean of the largest eigenvalues and the share of those that fold."""
    return [largest.mean().item(), (largest > FOLD).float().mean().item()]


def exchange(model: torch.nn.Module, extras: list[float], world: int) -> list[float]:
    """Average the gradients over the processes, in one message.

    Args:
        model: Every parameter of it has a gradient or none has in any process.
        extras: Numbers to average along with them.
        world: Number of processes.

    Returns:
        The averaged extras.
    """
    if world == 1:
        return extras
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([torch.tensor(extras), *(g.flatten() for g in grads)])
    dist.all_reduce(flat)
    flat /= world
    parts = flat[len(extras) :].split([g.numel() for g in grads])
    for grad, part in zip(grads, parts, strict=True):
        grad.copy_(part.view(grad.shape))
    return flat[: len(extras)].tolist()


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument(
        "--initial", type=Path, help="folder of a trained model to continue from"
    )
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--optimizer", choices=["muon", "adamw"], default="muon")
    parser.add_argument("--dropout", type=float, default=0.2)
    parser.add_argument("--keep-every", type=int, default=250)
    parser.add_argument(
        "--fold-weight", type=float, default=0.0, help="weight of training.folds"
    )
    parser.add_argument(
        "--fold-batch", type=int, default=8, help="latents of a step for it"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train until the budget is used up, writing ``unet.pt`` as it goes."""
    args = parse_args()
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if world > 1:
        dist.init_process_group("gloo")
    checkpoint_file = args.out / "unet.pt"
    cache = torch.load(args.out / "latents.pt")
    tokenizer = CLIPTokenizer.from_pretrained(args.tokenizer)
    torch.set_num_threads(args.threads)
    scheduler = DDIMScheduler(**SCHEDULER_CONFIG)
    alphas = scheduler.alphas_cumprod
    weights = loss_weight(alphas)
    empty = torch.tensor(tokenizer("", padding="max_length").input_ids)
    batches = Batches(cache, empty, alphas, args.dropout)

    torch.manual_seed(args.seed)
    model = TextToNoise(text_config(tokenizer))
    if args.initial:
        start_from(model, args.initial)
    model = model.to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, args.optimizer)
    ema = Ema(model, 0.998)
    step, elapsed = 0, 0.0
    if checkpoint_file.exists():
        state = torch.load(checkpoint_file)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        step, elapsed = state["step"], state["elapsed"]
    rng = np.random.default_rng((args.seed, step, rank))
    generator = torch.Generator().manual_seed((args.seed * 100_003 + step) * 64 + rank)
    if rank == 0:
        for name in ("unet", "text"):
            count = sum(p.numel() for p in getattr(model, name).parameters())
            print(f"{name}: {count / 1e6:.2f} M parameters")
        print(f"from step {step}", flush=True)

    budget, share = args.minutes * 60, args.batch // world
    last = time.monotonic()
    saved = last
    sums, since = np.zeros(4), 0
    while elapsed < budget:
        optimizer.set_lr(learning_rate(elapsed, budget, args.lr, 0.03 * budget))
        noisy, timesteps, ids, noise = batches.draw(rng, generator, share)
        error = (model(noisy, timesteps, ids) - noise).square().mean((1, 2, 3))
        loss = (weights[timesteps] * error).mean()
        loss.backward()
        largest = torch.zeros(1)
        if args.fold_weight:
            middle = np.flatnonzero((timesteps > 200) & (timesteps < 900))
            rows = torch.from_numpy(rng.permutation(middle)[: args.fold_batch // world])
            penalty, largest = fold_penalty(
                model, noisy[rows], timesteps[rows], ids[rows], empty, alphas
            )
            (args.fold_weight * penalty).backward()
        now = time.monotonic()
        # The plain eps loss of the uniform half compares with other runs. The clock
        # is averaged too, so that all processes agree on the learning rate.
        plain = error[: share // 2].mean().item()
        elapsed, *measured = exchange(
            model, [elapsed + now - last, loss.item(), plain, *folds(largest)], world
        )
        last = now
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
            ema.update(model)
        optimizer.zero_grad()
        step, since = step + 1, since + 1
        sums += measured
        if step % 50 == 0 and rank == 0:
            record = {
                "step": step,
                "minutes": round(elapsed / 60, 2),
                "loss": round(sums[0] / since, 4),
                "eps": round(sums[1] / since, 4),
                "largest": round(sums[2] / since, 3),
                "folded": round(sums[3] / since, 3),
                "norm": round(float(norm), 3),
            }
            sums, since = np.zeros(4), 0
            print(json.dumps(record), flush=True)
        due = now - saved > 180 or elapsed >= budget
        keep = step % args.keep_every == 0
        if rank == 0 and (due or keep):
            saved = now
            average = {
                "ema": ema.state_dict(),
                "latent_std": float(cache["latent_std"]),
                "step": step,
            }
            if keep:
                save_checkpoint(args.out / f"average-{step:05d}.pt", average)
            save_checkpoint(
                checkpoint_file,
                {
                    **average,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "elapsed": elapsed,
                },
            )
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

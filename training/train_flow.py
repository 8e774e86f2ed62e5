"""Train ``emoflow``, a flow transformer of the Stable Diffusion 3 kind.

    OMP_NUM_THREADS=1 python -m training.train_flow --out work \
        --emoji64 jaxinv/zoo/emoji64 --threads 1 --minutes 40 --batch 64 \
        --fold-weight 1.4 --fold-from 0.5
    python -m training.train_flow --out work --dest benchmarks/flows/sd3

The first command trains on the latent cache of ``emoji64`` (``latents.pt``, see
:mod:`training.cache_latents`); it writes a checkpoint every three minutes and continues
from it when started again. The second one exports the averaged weights.

The network is diffusers' ``SD3Transformer2DModel``; the autoencoder and the text
encoder are emoji64's, unchanged. The state at time t is ``(1 - t) z + t e`` of latents
z and noises e, and the velocity ``e - z`` is predicted with a plain squared error.
There are no T5 tokens: the vectors of the two CLIP encoders are all that the network
reads.

References:
    Esser et al. 2024, "Scaling Rectified Flow Transformers for High-Resolution Image
    Synthesis", arXiv:2403.03206 (the network, the logit-normal times).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from scipy.special import expit, ndtri
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from training.checkpoints import save_checkpoint
from training.control import Ema, learning_rate
from training.export import replace_folder
from training.flow_folder import write_text_encoders
from training.flow_folds import flow_fold_penalty
from training.optimizer import make_optimizer

NETWORK_CONFIG = {
    "sample_size": 16,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 6,
    "attention_head_dim": 32,
    "num_attention_heads": 4,
    "joint_attention_dim": 256,
    "caption_projection_dim": 128,
    "pooled_projection_dim": 256,
    "pos_embed_max_size": 16,
    "qk_norm": "rms_norm",
}
SCHEDULER_CONFIG = {"num_train_timesteps": 1000, "shift": 1.0}
#: Layers that AdamW trains: the first and the last one.
EDGES = ("pos_embed.proj", "proj_out", "embedder")
#: Mean and standard deviation of the logits of the times.
LOGIT_MEAN, LOGIT_STD = 0.3, 1.2


def make_network() -> SD3Transformer2DModel:
    """Return the network before training: its blocks and its output are zero.

    Every block starts as the identity, because its gates are zero (adaLN-Zero), and the
    text states, whose numbers are of order 7, enter at order one.
    """
    network = SD3Transformer2DModel(**NETWORK_CONFIG)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            zero = "norm1.linear" in name or "norm1_context.linear" in name
            if zero or name.startswith(("norm_out.linear", "proj_out")):
                parameter.zero_()
        network.context_embedder.weight.mul_(0.25)
    return network


class TextStates:
    """What the network reads of token ids."""

    def __init__(self, folder: Path) -> None:
        self.encoders = [
            CLIPTextModelWithProjection.from_pretrained(folder / name).float().eval()
            for name in ("text_encoder", "text_encoder_2")
        ]

    @torch.no_grad()
    def __call__(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return hidden states (n, length, 256) and pooled vectors (n, 256)."""
        found = [each(ids, output_hidden_states=True) for each in self.encoders]
        states = torch.cat([each.hidden_states[-2] for each in found], -1)
        return states, torch.cat([each.text_embeds for each in found], -1)


def draw_times(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Return times in (0, 1), stratified: an eighth uniform, the rest logit-normal.

    The uniform ones see to both ends, where the logit-normal density is zero.
    """
    few = count // 8
    uniform = (np.arange(few) + rng.random(few)) / few
    others = (np.arange(count - few) + rng.random(count - few)) / (count - few)
    normal = expit(LOGIT_MEAN + LOGIT_STD * ndtri(others))
    return torch.from_numpy(np.concatenate([uniform, normal])).float()


class Batches:
    """Random latents with captions from the cache."""

    def __init__(self, cache: dict, empty: torch.Tensor, dropout: float) -> None:
        self.cache, self.empty, self.dropout = cache, empty, dropout
        self.scale = 1.0 / float(cache["latent_std"])

    def draw(
        self, rng: np.random.Generator, generator: torch.Generator, count: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw latents from their posteriors, noises, times and token ids."""
        rows = rng.integers(len(self.cache["mean"]), size=count)
        mean, std = (self.cache[k][rows].float() for k in ("mean", "std"))
        latent = mean + std * torch.randn(mean.shape, generator=generator)
        which = rng.integers(self.cache["ids"].shape[1], size=count)
        ids = self.cache["ids"][rows, which].long()
        ids[torch.from_numpy(rng.random(count) < self.dropout)] = self.empty
        noise = torch.randn(mean.shape, generator=generator)
        return latent * self.scale, noise, draw_times(rng, count), ids


def velocity(
    network: torch.nn.Module, x: torch.Tensor, t: torch.Tensor, text: Any
) -> torch.Tensor:
    """Return the velocity of states at times in [0, 1]."""
    states, pooled = text
    return network(
        hidden_states=x,
        timestep=1000 * t,
        encoder_hidden_states=states,
        pooled_projections=pooled,
        return_dict=False,
    )[0]


def averaged_network(state: dict) -> SD3Transformer2DModel:
    """Return the averaged network of a checkpoint."""
    network = make_network()
    ema = Ema(network, 0.0)
    ema.load_state_dict(state["ema"])
    ema.copy_to(network)
    return network.eval().requires_grad_(False)


def export(checkpoint: Path, dest: Path) -> None:
    """Write the network in half precision, and the scheduler's configuration."""
    state = torch.load(checkpoint)
    new = dest.with_name(dest.name + ".partial")
    shutil.rmtree(new, ignore_errors=True)
    averaged_network(state).half().save_pretrained(new / "transformer")
    FlowMatchEulerDiscreteScheduler(**SCHEDULER_CONFIG).save_pretrained(
        new / "scheduler"
    )
    replace_folder(new, dest)
    print(f"step {state['step']}, {state['elapsed'] / 60:.1f} minutes: {dest}")


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--emoji64", type=Path, default=Path("jaxinv/zoo/emoji64"))
    parser.add_argument("--dest", type=Path, help="export there instead of training")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument(
        "--fold-weight", type=float, default=0.0, help="weight of training.flow_folds"
    )
    parser.add_argument(
        "--fold-from", type=float, default=0.0, help="share of the time before it"
    )
    parser.add_argument(
        "--fold-batch", type=int, default=8, help="latents of every second step for it"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train until the budget is used up, writing ``flow.pt`` as it goes; or export."""
    args = parse_args()
    checkpoint_file = args.out / "flow.pt"
    if args.dest:
        export(checkpoint_file, args.dest)
        return
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    write_text_encoders(args.emoji64, args.out / "text")
    text = TextStates(args.out / "text")
    tokenizer = CLIPTokenizer.from_pretrained(args.emoji64 / "tokenizer")
    empty = torch.tensor(tokenizer("", padding="max_length").input_ids)
    batches = Batches(torch.load(args.out / "latents.pt"), empty, args.dropout)
    network = make_network()
    optimizer = make_optimizer(network, "muon", EDGES)
    ema = Ema(network, 0.998)
    step, elapsed = 0, 0.0
    if checkpoint_file.exists():
        state = torch.load(checkpoint_file)
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema.load_state_dict(state["ema"])
        step, elapsed = state["step"], state["elapsed"]
    rng = np.random.default_rng((args.seed, step))
    generator = torch.Generator().manual_seed(args.seed * 100_003 + step)
    count = sum(p.numel() for p in network.parameters())
    print(f"{count / 1e6:.2f} M parameters, from step {step}", flush=True)

    budget = args.minutes * 60
    last = time.monotonic()
    saved, sums, since = last, np.zeros(2), 0
    folds: list[list[float]] = []
    while elapsed < budget:
        optimizer.set_lr(learning_rate(elapsed, budget, args.lr, 0.03 * budget))
        latent, noise, t, ids = batches.draw(rng, generator, args.batch)
        level = t[:, None, None, None]
        found = velocity(network, (1 - level) * latent + level * noise, t, text(ids))
        error = (found - (noise - latent)).square().mean((1, 2, 3))
        error.mean().backward()
        if args.fold_weight and elapsed >= args.fold_from * budget and step % 2 == 0:
            some = slice(0, args.fold_batch)
            captions = torch.cat([ids[some], empty.expand(len(ids[some]), -1)])
            both = partial(velocity, network, text=text(captions))
            penalty, largest = flow_fold_penalty(both, latent[some], generator)
            (args.fold_weight * penalty).backward()
            folds.append([largest.mean().item(), (largest > 1).float().mean().item()])
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
            ema.update(network)
        optimizer.zero_grad()
        # The error at uniform times does not depend on the times of the training.
        sums += error.mean().item(), error[: args.batch // 8].mean().item()
        step, since = step + 1, since + 1
        now = time.monotonic()
        elapsed, last = elapsed + now - last, now
        if step % 50 == 0:
            record = {
                "step": step,
                "minutes": round(elapsed / 60, 2),
                "loss": round(sums[0] / since, 4),
                "uniform": round(sums[1] / since, 4),
                "norm": round(float(norm), 3),
            }
            if folds:
                record["largest"], record["folded"] = (
                    np.mean(folds, 0).round(3).tolist()
                )
            sums, since, folds = np.zeros(2), 0, []
            print(json.dumps(record), flush=True)
        if now - saved > 180 or elapsed >= budget:
            saved = now
            state = {
                "model": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "ema": ema.state_dict(),
                "step": step,
                "elapsed": elapsed,
            }
            save_checkpoint(checkpoint_file, state)


if __name__ == "__main__":
    main()

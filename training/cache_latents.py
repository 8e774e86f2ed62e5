r"""Encode scenes once, with several captions each.

    python -m training.cache_latents --data data --out work \
        --tokenizer jaxinv/zoo/emoji64/tokenizer

The cache holds posterior means and standard deviations in half precision and, for
each scene, several captions as token ids. The UNet is trained on samples from the
posteriors, so the noise floor of the autoencoder is part of its data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from training.checkpoints import save_checkpoint
from training.control import Ema
from training.drawings import KINDS, Drawings, read_drawings
from training.scenes import random_scene, scene_caption, to_tensor


def load_autoencoder(checkpoint: Path) -> AutoencoderKL:
    """Return the averaged autoencoder of a training checkpoint."""
    state = torch.load(checkpoint)
    vae = AutoencoderKL(**state["config"])
    vae.load_state_dict(state["model"])
    ema = Ema(vae, 0.0)
    ema.load_state_dict(state["ema"])
    ema.copy_to(vae)
    return vae.to(memory_format=torch.channels_last).eval().requires_grad_(False)


@torch.no_grad()
def encode_scenes(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    drawings: Drawings,
    each: int,
    rng: np.random.Generator,
    captions_each: int = 6,
) -> dict[str, torch.Tensor]:
    """Encode scenes of every kind.

    Args:
        vae: The autoencoder.
        tokenizer: The tokenizer.
        drawings: What may be drawn.
        each: Scenes of each kind.
        rng: Source of randomness.
        captions_each: Captions drawn for each scene.

    Returns:
        ``mean`` and ``std`` (n, 4, 16, 16) float16, ``ids`` (n, captions, length)
        int16, ``kind`` (n,) int64.
    """
    kinds = rng.permutation(np.repeat(np.arange(len(drawings.kinds)), each))
    means, stds, ids = [], [], []
    for start in range(0, len(kinds), 32):
        scenes = [random_scene(rng, drawings, k) for k in kinds[start : start + 32]]
        texts = [scene_caption(s, rng) for s in scenes for _ in range(captions_each)]
        posterior = vae.encode(to_tensor([s.image for s in scenes])).latent_dist
        means.append(posterior.mean.contiguous().half())
        stds.append(posterior.std.contiguous().half())
        encoded = tokenizer(texts, padding="max_length", truncation=True).input_ids
        ids.append(torch.tensor(encoded, dtype=torch.int16))
        if start % 640 == 0:
            print(f"{start} of {len(kinds)}", flush=True)
    return {
        "mean": torch.cat(means),
        "std": torch.cat(stds),
        "ids": torch.cat(ids).reshape(len(kinds), captions_each, -1),
        "kind": torch.from_numpy(kinds),
    }


def main() -> None:
    """Write ``latents.pt``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--each", type=int, default=80)
    args = parser.parse_args()
    drawings = read_drawings(args.data, tuple(KINDS))
    vae = load_autoencoder(args.out / "autoencoder.pt")
    tokenizer = CLIPTokenizer.from_pretrained(args.tokenizer)
    cache = encode_scenes(vae, tokenizer, drawings, args.each, np.random.default_rng(5))
    cache["latent_std"] = cache["mean"].float().std()
    ratio = float(cache["std"].float().mean() / cache["latent_std"])
    print(
        f"{len(cache['mean'])} latents, std {float(cache['latent_std']):.4f}, "
        f"posterior std / latent std {ratio:.4f}"
    )
    save_checkpoint(args.out / "latents.pt", cache)


if __name__ == "__main__":
    main()

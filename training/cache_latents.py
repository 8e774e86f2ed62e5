"""Encode several composites of every training emoji once, with their captions.

    python -m training.cache_latents --data package --out work

The cache holds posterior means and standard deviations in half precision and, for
each picture, several captions as token ids. The UNet is trained on samples from the
posteriors, so the noise floor of the autoencoder is part of its data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from training.backgrounds import composite, random_background
from training.batches import to_tensor
from training.captions import caption
from training.checkpoints import save_checkpoint
from training.control import Ema
from training.emoji import Emoji, EmojiSet, load_emoji


def composites_of(emoji: Emoji, most: int) -> int:
    """How many backgrounds an emoji gets: in proportion to its weight, 2 at least."""
    return int(np.clip(round(most * emoji.weight / 2), 2, most))


def load_autoencoder(checkpoint: Path) -> AutoencoderKL:
    """The averaged autoencoder of a training checkpoint."""
    state = torch.load(checkpoint)
    vae = AutoencoderKL(**state["config"])
    vae.load_state_dict(state["model"])
    ema = Ema(vae, 0.0)
    ema.load_state_dict(state["ema"])
    ema.copy_to(vae)
    return vae.to(memory_format=torch.channels_last).eval().requires_grad_(False)


@torch.no_grad()
def encode_set(
    vae: AutoencoderKL,
    tokenizer: CLIPTokenizer,
    data: EmojiSet,
    indices: np.ndarray,
    counts: list[int],
    rng: np.random.Generator,
    captions_each: int = 4,
) -> dict[str, torch.Tensor]:
    """Encode emoji on random backgrounds.

    Args:
        vae: The autoencoder.
        tokenizer: The tokenizer.
        data: The emoji.
        indices: Which ones.
        counts: Composites of each.
        rng: Source of randomness.
        captions_each: Captions drawn for each composite.

    Returns:
        ``mean`` and ``std`` (n, 4, 16, 16) float16, ``ids`` (n, captions, length)
        int16, ``emoji`` (n,) int64, indices into the data set.
    """
    order = np.repeat(indices, counts)
    means, stds, ids = [], [], []
    for start in range(0, len(order), 32):
        images, texts = [], []
        for index in order[start : start + 32]:
            background = random_background(rng)
            images.append(composite(data.rgba[index], background.pixels, rng))
            texts += [
                caption(data.entries[index], background.colours, rng)
                for _ in range(captions_each)
            ]
        posterior = vae.encode(to_tensor(np.stack(images))).latent_dist
        means.append(posterior.mean.contiguous().half())
        stds.append(posterior.std.contiguous().half())
        encoded = tokenizer(texts, padding="max_length", truncation=True)
        ids.append(torch.tensor(encoded.input_ids, dtype=torch.int16))
        if start % 3200 == 0:
            print(f"{start} of {len(order)}", flush=True)
    length = ids[0].shape[-1]
    return {
        "mean": torch.cat(means),
        "std": torch.cat(stds),
        "ids": torch.cat(ids).reshape(len(order), captions_each, length),
        "emoji": torch.from_numpy(order),
    }


def main() -> None:
    """Write ``latents.pt`` (training) and ``latents_test.pt`` (held out)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--most", type=int, default=24)
    args = parser.parse_args()
    data = load_emoji(args.data)
    vae = load_autoencoder(args.out / "autoencoder.pt")
    tokenizer = CLIPTokenizer.from_pretrained(args.out / "tokenizer")
    rng = np.random.default_rng(5)
    counts = [composites_of(data.entries[i], args.most) for i in data.train_indices]
    train = encode_set(vae, tokenizer, data, data.train_indices, counts, rng)
    # One composite of a picture is as likely as another.
    weights = np.array([data.entries[i].weight for i in data.train_indices])
    train["weight"] = torch.from_numpy(np.repeat(weights / counts, counts))
    train["latent_std"] = train["mean"].float().std()
    test = encode_set(
        vae, tokenizer, data, data.test_indices, [4] * len(data.test_indices), rng
    )
    ratio = float(train["std"].float().mean() / train["latent_std"])
    print(
        f"{len(train['mean'])} latents, std {float(train['latent_std']):.4f}, "
        f"posterior std / latent std {ratio:.4f}"
    )
    save_checkpoint(args.out / "latents_test.pt", test)
    save_checkpoint(args.out / "latents.pt", train)


if __name__ == "__main__":
    main()

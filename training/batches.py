"""Random training pictures for the autoencoder."""

from __future__ import annotations

import numpy as np
import torch

from training.backgrounds import composite, random_background
from training.emoji import EmojiSet


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """Images (n, h, w, 3) in [0, 1] to a tensor (n, 3, h, w) in [-1, 1].

    The memory stays channels-last, which is what the CPU convolutions want.
    """
    return torch.from_numpy(images * 2.0 - 1.0).permute(0, 3, 1, 2)


def autoencoder_probabilities(data: EmojiSet) -> np.ndarray:
    """Sampling for the autoencoder: base pictures 1, skin-tone variants 0.1."""
    weights = np.array(
        [0.1 if data.entries[i].tones else 1.0 for i in data.train_indices]
    )
    return weights / weights.sum()


def random_images(
    data: EmojiSet, rng: np.random.Generator, count: int, probabilities: np.ndarray
) -> torch.Tensor:
    """Composite random training emoji, mirrored half of the time.

    Args:
        data: The data set.
        rng: Source of randomness.
        count: Batch size.
        probabilities: Over ``data.train_indices``.

    Returns:
        Tensor (count, 3, 64, 64) in [-1, 1].
    """
    images = []
    for index in rng.choice(data.train_indices, count, p=probabilities):
        rgba = data.rgba[index]
        if rng.random() < 0.5:
            rgba = rgba[:, ::-1]
        images.append(composite(rgba, random_background(rng).pixels, rng))
    return to_tensor(np.stack(images))


def held_out_images(data: EmojiSet, seed: int = 1234) -> torch.Tensor:
    """The held-out base emoji, each on one fixed random background.

    Args:
        data: The data set.
        seed: Seed of backgrounds and grain.

    Returns:
        Tensor (n, 3, 64, 64) in [-1, 1].
    """
    rng = np.random.default_rng(seed)
    images = [
        composite(data.rgba[i], random_background(rng).pixels, rng)
        for i in data.test_indices
    ]
    return to_tensor(np.stack(images))

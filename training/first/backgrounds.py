"""Random backgrounds and the compositor: an emoji becomes a photograph of one.

An emoji is RGBA with a hard silhouette; a diffusion model needs a picture. Each one
is laid over a flat colour or a linear gradient between two named colours. The
background carries a fine Gaussian grain: without a noise floor the data is a set of
points, sampling is many-to-one, and no sampler can be inverted to its noise.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: Named colours, sRGB in [0, 1]. The names appear in the captions.
COLOURS: dict[str, tuple[float, float, float]] = {
    "white": (0.97, 0.97, 0.97),
    "light gray": (0.78, 0.78, 0.78),
    "gray": (0.50, 0.50, 0.50),
    "dark gray": (0.26, 0.26, 0.26),
    "black": (0.05, 0.05, 0.05),
    "red": (0.88, 0.13, 0.13),
    "dark red": (0.50, 0.06, 0.08),
    "orange": (0.97, 0.55, 0.10),
    "yellow": (0.98, 0.88, 0.18),
    "light yellow": (0.99, 0.96, 0.68),
    "green": (0.18, 0.65, 0.22),
    "light green": (0.66, 0.91, 0.62),
    "dark green": (0.05, 0.34, 0.14),
    "teal": (0.06, 0.55, 0.55),
    "cyan": (0.20, 0.86, 0.92),
    "blue": (0.13, 0.30, 0.88),
    "light blue": (0.63, 0.82, 0.97),
    "dark blue": (0.06, 0.11, 0.42),
    "purple": (0.50, 0.18, 0.70),
    "lavender": (0.80, 0.72, 0.95),
    "magenta": (0.88, 0.14, 0.70),
    "pink": (0.98, 0.65, 0.78),
    "brown": (0.48, 0.30, 0.15),
    "beige": (0.93, 0.87, 0.74),
}

#: Standard deviation of the background grain, in [0, 1] units.
GRAIN_STD = 0.011
#: Standard deviation of the jitter of a named colour, per channel.
JITTER_STD = 0.02


class Background(NamedTuple):
    """A background and the words for it.

    Attributes:
        pixels: float32 array of shape (h, w, 3) in [0, 1], without grain.
        colours: One name for a flat background, two for a gradient.
    """

    pixels: np.ndarray
    colours: tuple[str, ...]


def _jittered(rng: np.random.Generator, name: str) -> np.ndarray:
    colour = np.asarray(COLOURS[name]) + rng.normal(0.0, JITTER_STD, 3)
    return np.clip(colour, 0.0, 1.0).astype(np.float32)


def random_background(
    rng: np.random.Generator, size: int = 64, gradient_share: float = 0.35
) -> Background:
    """Draw a flat or linear-gradient background.

    Args:
        rng: Source of randomness.
        size: Height and width in pixels.
        gradient_share: Probability of a gradient.

    Returns:
        The background, without grain.
    """
    names = list(COLOURS)
    if rng.random() >= gradient_share:
        name = names[rng.integers(len(names))]
        pixels = np.broadcast_to(_jittered(rng, name), (size, size, 3)).copy()
        return Background(pixels, (name,))
    first, second = (names[i] for i in rng.choice(len(names), 2, replace=False))
    # "red to yellow" reads from the top or from the left, never upwards.
    angle = rng.uniform(0.0, np.pi / 2)
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    ramp = np.sin(angle) * axis[:, None] + np.cos(angle) * axis[None, :]
    ramp = ramp / (np.abs(np.sin(angle)) + np.abs(np.cos(angle))) + 0.5
    ramp = ramp[..., None].astype(np.float32)
    pixels = (1 - ramp) * _jittered(rng, first) + ramp * _jittered(rng, second)
    return Background(pixels, (first, second))


def composite(
    rgba: np.ndarray,
    background: np.ndarray,
    rng: np.random.Generator,
    grain_std: float = GRAIN_STD,
) -> np.ndarray:
    """Lay an RGBA emoji over a background with grain.

    Args:
        rgba: uint8 array of shape (h, w, 4), straight (not premultiplied) alpha.
        background: Float array of shape (h, w, 3) in [0, 1].
        rng: Source of the grain.
        grain_std: Standard deviation of the grain, in [0, 1] units.

    Returns:
        float32 array of shape (h, w, 3) in [0, 1].
    """
    colour = rgba[..., :3].astype(np.float32) / 255.0
    alpha = rgba[..., 3:].astype(np.float32) / 255.0
    grain = rng.standard_normal(background.shape, dtype=np.float32) * grain_std
    image = alpha * colour + (1.0 - alpha) * (background + grain)
    return np.clip(image, 0.0, 1.0)

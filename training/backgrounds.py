"""Random backgrounds and the compositor.

A drawing is laid over a flat color, a linear gradient between two named colors, or two
halves of two colors. A named color is a wide region, not a point, and a random soft
light falls on the whole picture: a caption must not fix the colors, or guidance folds
the sampler's steps and the noise cannot be recovered. For the same reason there is fine
Gaussian grain: without a noise floor the data is a set of points.

How wide: in a direction in which all pictures have the standard deviation ``S`` and
those of one caption ``s``, both Gaussian, a step of DDIM from ``tau`` to ``tau / r``
(``tau = sigma / alpha``) at guidance ``w`` has the derivative ``1 - (1 - 1 / r) (w
tau^2 / (s^2 + tau^2) - (w - 1) tau^2 / (S^2 + tau^2))``. With twenty steps of equal
log-SNR ``r`` is 1.36, and the derivative stays positive for all ``tau`` if ``S / s`` is
below 6 at guidance 5 and below 2.8 at guidance 7.5.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

#: Named colors, sRGB in [0, 1]. The names appear in the captions.
COLORS: dict[str, tuple[float, float, float]] = {
    "white": (0.93, 0.93, 0.93),
    "light gray": (0.76, 0.76, 0.76),
    "gray": (0.52, 0.52, 0.52),
    "dark gray": (0.30, 0.30, 0.30),
    "black": (0.10, 0.10, 0.10),
    "red": (0.80, 0.20, 0.20),
    "dark red": (0.48, 0.10, 0.12),
    "orange": (0.90, 0.55, 0.18),
    "yellow": (0.91, 0.82, 0.27),
    "light yellow": (0.94, 0.91, 0.68),
    "green": (0.24, 0.62, 0.28),
    "light green": (0.66, 0.87, 0.62),
    "dark green": (0.10, 0.36, 0.18),
    "teal": (0.12, 0.53, 0.53),
    "cyan": (0.28, 0.80, 0.86),
    "blue": (0.20, 0.34, 0.80),
    "light blue": (0.63, 0.80, 0.93),
    "dark blue": (0.10, 0.15, 0.42),
    "purple": (0.48, 0.23, 0.65),
    "lavender": (0.77, 0.70, 0.90),
    "magenta": (0.80, 0.20, 0.64),
    "pink": (0.92, 0.65, 0.75),
    "brown": (0.46, 0.31, 0.18),
    "beige": (0.88, 0.82, 0.71),
}

#: Standard deviation of the background grain, in [0, 1] units.
GRAIN_STD = 0.012
#: Standard deviation of a named color, per channel.
COLOR_STD = 0.07
#: Standard deviation of the light: common to the channels, and across the picture.
LIGHT_STD = 0.06


class Background(NamedTuple):
    """A background and the words for it.

    Attributes:
        pixels: float32 array of shape (h, w, 3) in [0, 1], without grain.
        words: For a caption, e.g. ``"red to blue gradient"`` or ``"light gray"``.
    """

    pixels: np.ndarray
    words: str


def random_background(
    rng: np.random.Generator,
    size: int = 64,
    gradient_share: float = 0.3,
    halves_share: float = 0.05,
) -> Background:
    """Draw a background.

    Args:
        rng: Source of randomness.
        size: Height and width in pixels.
        gradient_share: Probability of a gradient.
        halves_share: Probability of two halves.

    Returns:
        The background, without grain.
    """
    names = [list(COLORS)[i] for i in rng.choice(len(COLORS), 2, replace=False)]
    first, second = (
        np.asarray(COLORS[name]) + rng.normal(0.0, COLOR_STD, 3) for name in names
    )
    # "red to yellow" reads from the top or from the left, never upward.
    angle = rng.uniform(0.0, np.pi / 2)
    axis = np.linspace(-0.5, 0.5, size)
    ramp = np.sin(angle) * axis[:, None] + np.cos(angle) * axis[None, :]
    ramp = ramp / (np.abs(np.sin(angle)) + np.abs(np.cos(angle))) + 0.5
    choice = rng.random()
    if choice < gradient_share:
        words = f"{names[0]} to {names[1]} gradient"
    elif choice < gradient_share + halves_share:
        words = f"{names[0]} and {names[1]}"
        ramp = np.clip((ramp - 0.5) * size + 0.5, 0.0, 1.0)
    else:
        words, ramp = names[0], np.zeros_like(ramp)
    pixels = first + ramp[..., None] * (second - first)
    return Background(np.clip(pixels, 0.0, 1.0).astype(np.float32), words)


def random_light(rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """Draw a soft light, (size, size, 1): brighter or darker, with a slope."""
    level, down, across = rng.normal(0.0, LIGHT_STD, 3)
    axis = np.linspace(-1.0, 1.0, size)
    light = level + down * axis[:, None] + across * axis[None, :]
    return light[..., None].astype(np.float32)


def composite(
    rgba: np.ndarray,
    background: np.ndarray,
    light: np.ndarray,
    rng: np.random.Generator,
    grain_std: float = GRAIN_STD,
) -> np.ndarray:
    """Lay a drawing over a background; light and grain fall on both.

    Args:
        rgba: Float array of shape (h, w, 4) in [0, 1], premultiplied alpha.
        background: Float array of shape (h, w, 3) in [0, 1].
        light: Float array that broadcasts to (h, w, 3), added.
        rng: Source of the grain.
        grain_std: Standard deviation of the grain, in [0, 1] units.

    Returns:
        float32 array of shape (h, w, 3) in [0, 1].
    """
    grain = rng.standard_normal(background.shape, dtype=np.float32) * grain_std
    image = rgba[..., :3] + (1.0 - rgba[..., 3:]) * background + light + grain
    return np.clip(image, 0.0, 1.0)

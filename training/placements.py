"""Random placements: where a drawing lies in the picture, how large, how turned.

A prompt says what is shown; the noise has to decide the rest. The rest is the size
(half of the picture to nearly all of it), the place, a small turn, a mirror image and a
shift of the colors, all drawn at random and seldom named in the caption.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image

#: Side of the drawing over the side of the picture.
SMALLEST, LARGEST = 0.5, 0.98
#: Largest turn to either side, in degrees.
LARGEST_TURN = 18.0
#: Standard deviation of the gain and of the offset of each color channel.
TINT_STD = 0.07


class Placement(NamedTuple):
    """Where and how a drawing is laid into a picture of side 1.

    Attributes:
        size: Side of the drawing.
        x: Horizontal center, 0 at the left.
        y: Vertical center, 0 at the top.
        turn: Counterclockwise turn in degrees.
        mirrored: Whether left and right are exchanged.
    """

    size: float
    x: float
    y: float
    turn: float
    mirrored: bool


def random_placement(rng: np.random.Generator, may_mirror: bool = True) -> Placement:
    """Draw a placement that keeps the drawing inside of the picture."""
    size = rng.uniform(SMALLEST, LARGEST)
    # The corners of nearly all drawings are empty: half a side is room enough.
    slack = (1.0 - size) / 2
    x, y = 0.5 + rng.uniform(-slack, slack, 2)
    turn = LARGEST_TURN * (2 * rng.beta(2.0, 2.0) - 1)
    mirrored = bool(may_mirror and rng.random() < 0.5)
    return Placement(float(size), float(x), float(y), float(turn), mirrored)


def place(rgba: np.ndarray, placement: Placement, side: int = 64) -> np.ndarray:
    """Lay a drawing into an empty picture.

    Args:
        rgba: uint8 array of shape (height, width, 4), straight alpha, square.
        placement: Where it goes.
        side: Height and width of the result in pixels.

    Returns:
        float32 array of shape (side, side, 4) in [0, 1], premultiplied alpha.
    """
    if placement.mirrored:
        rgba = rgba[:, ::-1]
    values = rgba.astype(np.float32) / 255.0
    values[..., :3] *= values[..., 3:]
    picture = np.round(values * 255).astype(np.uint8)
    # Twice the resolution, then a box filter: edges stay free of stairs.
    fine = 2 * side
    scale = rgba.shape[0] / (placement.size * fine)
    cosine = np.cos(np.deg2rad(placement.turn)) * scale
    sine = np.sin(np.deg2rad(placement.turn)) * scale
    center_x, center_y = placement.x * fine, placement.y * fine
    half = rgba.shape[0] / 2
    # PIL wants the map from the result's coordinates to the drawing's.
    matrix = (
        cosine,
        -sine,
        half - cosine * center_x + sine * center_y,
        sine,
        cosine,
        half - sine * center_x - cosine * center_y,
    )
    layers = Image.fromarray(picture, "RGBA").transform(
        (fine, fine), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    layers = np.asarray(layers, np.float32).reshape(side, 2, side, 2, 4) / 255.0
    return layers.mean((1, 3))


def tint(rgba: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shift the colors of a premultiplied drawing by a random gain and offset.

    Args:
        rgba: Float array of shape (height, width, 4) in [0, 1], premultiplied alpha.
        rng: Source of randomness.
    """
    gain, offset = rng.normal(0.0, TINT_STD, (2, 3)).astype(np.float32)
    alpha = rgba[..., 3:]
    color = np.clip(rgba[..., :3] * (1 + gain) + offset * alpha, 0.0, alpha)
    return np.concatenate([color, alpha], axis=-1)

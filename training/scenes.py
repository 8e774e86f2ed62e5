"""Scenes: a drawing, placed over a background, with what a caption may say of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from training.backgrounds import composite, random_background, random_light
from training.captions import caption
from training.drawings import NOT_MIRRORED, STYLES, Drawings
from training.placements import Placement, place, random_placement, tint


class Scene(NamedTuple):
    """One training picture.

    Attributes:
        image: float32 array of shape (64, 64, 3) in [0, 1].
        kind: Icon name of what is drawn.
        style: Name of the drawing style.
        placement: Where it lies.
        background: The background's words.
    """

    image: np.ndarray
    kind: str
    style: str
    placement: Placement
    background: str


def random_scene(
    rng: np.random.Generator, drawings: Drawings, kind: int | None = None
) -> Scene:
    """Draw a scene.

    Args:
        rng: Source of randomness.
        drawings: What may be drawn.
        kind: Index of the kind, or None for any.
    """
    kind = int(rng.integers(len(drawings.kinds))) if kind is None else kind
    style = int(rng.integers(len(STYLES)))
    name = drawings.kinds[kind]
    placement = random_placement(rng, name not in NOT_MIRRORED)
    drawn = tint(place(drawings.rgba[kind, style], placement), rng)
    background = random_background(rng)
    image = composite(drawn, background.pixels, random_light(rng), rng)
    return Scene(image, name, STYLES[style], placement, background.words)


def scene_caption(
    scene: Scene, rng: np.random.Generator, background_share: float = 0.5
) -> str:
    """Draw a caption of a scene."""
    return caption(
        scene.kind,
        scene.style,
        scene.placement,
        scene.background,
        rng,
        background_share,
    )


def to_tensor(images: list[np.ndarray]) -> torch.Tensor:
    """Turn images (h, w, 3) in [0, 1] into a tensor (n, 3, h, w) in [-1, 1].

    The memory stays channels-last, which is what the CPU convolutions want.
    """
    return torch.from_numpy(np.stack(images) * 2.0 - 1.0).permute(0, 3, 1, 2)


def random_images(
    rng: np.random.Generator, drawings: Drawings, count: int
) -> torch.Tensor:
    """Draw scenes as a tensor (count, 3, 64, 64) in [-1, 1]."""
    return to_tensor([random_scene(rng, drawings).image for _ in range(count)])

"""Real pictures for BELM's tables: of a folder, or drawings.

``--data`` is a folder of pictures (PNG or JPEG, e.g. of COCO; their names are sorted),
or one of the packages of drawings. Pictures come in three roles that share none:
``"held-out"`` for reconstruction, and ``"reference"`` and ``"floor"`` for distances
between distributions. Held-out drawings are of kinds that no model has seen; the others
are drawn as in training.
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.papers.setting import Setting
from training.drawings import HELD_OUT, HOW_TO_GET, KINDS, PACKAGES, read_drawings
from training.scenes import random_scene, scene_caption

ROLES = ("held-out", "reference", "floor")
ENDINGS = (".png", ".jpg", ".jpeg")


class Picture(NamedTuple):
    """A picture.

    Attributes:
        pixels: (h, w, 3) in [0, 1], at the model's size.
        caption: What it shows.
    """

    pixels: np.ndarray
    caption: str


def real_picture(setting: Setting, role: str, index: int) -> Picture:
    """Return a real picture.

    Args:
        setting: The setting, with a folder of pictures.
        role: One of :data:`ROLES`.
        index: Its number in this role.

    Raises:
        ValueError: Without a folder, or if the folder has too few pictures.
    """
    if setting.data is None:
        raise ValueError(
            "real pictures are needed: give a folder of PNG or JPEG files as --data, "
            f"or the drawings ({HOW_TO_GET})"
        )
    if (setting.data / next(iter(PACKAGES))).exists():
        return _drawing(setting, role, index)
    files = setting.shared(("files", setting.data), lambda: _files(setting.data))
    number = len(ROLES) * index + ROLES.index(role)
    if number >= len(files):
        raise ValueError(
            f"{setting.data} has {len(files)} pictures; picture {index} of role {role} "
            f"needs {number + 1} (three roles share the folder)"
        )
    pixels = np.asarray(fitted(Image.open(files[number]).convert("RGB"), setting.pipe))
    return Picture(pixels / np.float32(255), setting.prompt(index))


def fitted(image: Image.Image, pipe: Any) -> Image.Image:
    """Return the central square of an image at the model's size."""
    side = min(image.size)
    left, top = ((size - side) // 2 for size in image.size)
    square = image.crop((left, top, left + side, top + side))
    height, width = (pipe.factor * size for size in pipe.latent_shape[:2])
    return square.resize((width, height), Image.Resampling.BOX)


def _files(folder: Path | None) -> list[Path]:
    assert folder is not None
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS)


def _drawing(setting: Setting, role: str, index: int) -> Picture:
    drawings = _drawings(setting, role)
    rng = np.random.default_rng([setting.seed, ROLES.index(role), index])
    scene = random_scene(rng, drawings)
    caption = scene_caption(scene, rng, 1.0 if role == "held-out" else 0.5)
    image = Image.fromarray(np.uint8(np.round(255 * scene.image)))
    pixels = np.asarray(fitted(image, setting.pipe)) / np.float32(255)
    return Picture(pixels, caption)


def _drawings(setting: Setting, role: str) -> Any:
    """Return the kinds that a role may draw: the small model was trained on some."""
    if role == "held-out":
        kinds = tuple(HELD_OUT)
    elif setting.pipe.vae is None:
        from training.train_pixels import SIMPLE_KINDS

        kinds = SIMPLE_KINDS
    else:
        kinds = tuple(KINDS)
    assert setting.data is not None
    return setting.shared(
        ("drawings", kinds), functools.partial(read_drawings, setting.data, kinds)
    )

"""Tree-Ring watermarks: classification of three published keys, and their spectra."""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks.papers.dpm import confusion
from benchmarks.papers.dpm.reconstruction import (
    DDIM,
    FAST,
    GUIDANCE,
    REGULAR,
    cell_of,
)
from benchmarks.papers.dpm.round_trip import Made, invert, latent_of, make, nmse
from benchmarks.papers.keys import INV_DPM, RADIUS, PublishedKey, ring_key
from benchmarks.papers.protocol import Cell, Measures
from benchmarks.papers.setting import Setting

#: Inverse and decoder inversion; "published" is Algorithm 1 or 2.
METHODS = (
    ("naive", "encoder"),
    ("naive", "gradient"),
    ("published", "gradient"),
    ("ours", "gradient"),
    ("ours", "none"),
)


class Marked(NamedTuple):
    """A marked image and its inversion.

    Attributes:
        made: The image, with its noise.
        found: The recovered noise.
    """

    made: Made
    found: Any


def keys_of(setting: Setting, disc: str) -> list[PublishedKey]:
    """Return the three keys; on small latents with as many rings as fit."""
    shape = setting.pipe.latent_shape
    rings = min(RADIUS, shape[0] // 2 - 1)
    centered = disc == "centered"
    return [ring_key(key[:rings], shape, centered=centered) for key in INV_DPM]


def methods_of(made: tuple[str, str, int]) -> Sequence[tuple[str, str]]:
    """Return the inverses of a sampler with their decoder inversions."""
    published = "algorithm 1" if made[0] == "DDIM" else "algorithm 2"
    return [
        (published if inverse == "published" else inverse, decoder)
        for inverse, decoder in METHODS
    ]


def cells_of(setting: Setting) -> Sequence[Cell]:
    """Return the cells of the classification."""
    return [
        cell_of(made, GUIDANCE, inverse, made[2], decoder)
        | {"prompt": prompt, "disc": disc, "key": key}
        for made, prompt, disc in itertools.product(
            (DDIM, FAST, REGULAR), ("known", "unknown"), ("published", "centered")
        )
        for inverse, decoder in methods_of(made)
        for key in range(confusion.KEYS)
    ]


def figure_cells(setting: Setting) -> Sequence[Cell]:
    """Return the cells of Figure 4."""
    return [
        cell
        for cell in cells_of(setting)
        if (cell["sampler"], cell["steps"]) == (FAST[0], FAST[2])
        and (cell["prompt"], cell["disc"]) == ("known", "published")
    ]


def marked(setting: Setting, cell: Cell, index: int) -> Marked:
    """Make a marked image and invert it."""
    key, prompt = cell["key"], setting.prompt(index)
    how = tuple(cell[name] for name in ("sampler", "grid", "steps", "disc", "key"))

    def first() -> Made:
        shape = setting.pipe.latent_shape
        noise = jax.random.normal(setting.key("watermark", key, index), shape)
        noise = keys_of(setting, cell["disc"])[key].embed(noise)
        return make(setting, cell, noise, prompt)

    made = setting.shared(("image", "marked", *how), first)
    latent = setting.shared(
        ("image", "marked latent", cell["decoder"], *how),
        lambda: latent_of(setting, made, cell["decoder"]),
    )
    # As in the code: an unknown prompt is the empty one, with which guidance is none.
    asked = prompt if cell["prompt"] == "known" else ""
    return Marked(made, invert(setting, cell, latent, asked, cell["guidance"]).noise)


def measure(setting: Setting, cell: Cell, index: int) -> Measures:
    """Return the distances of a recovered noise to all keys."""
    if index:
        made, found = marked(setting, cell, index)
    else:
        made, found = first(setting, cell)
    keys = keys_of(setting, cell["disc"])
    return {
        "distances": [_finite(key.distance(found)) for key in keys],
        "true": [_finite(key.distance(made.noise)) for key in keys],
        "nmae": _nmae(keys[cell["key"]], made.noise, found),
        "noise": nmse(made.noise, found),
    }


def first(setting: Setting, cell: Cell) -> Marked:
    """Return image 0 of a cell, which the figure shows, made once."""
    return setting.shared(("marked", *cell.values()), lambda: marked(setting, cell, 0))


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(float(value)) else None


def _nmae(key: PublishedKey, true: Any, found: Any) -> float | None:
    """Return the mean modulus of the error in the disc, relative to the spectrum."""
    true, found = (spectrum(noise)[key.mask] for noise in (true, found))
    return _finite(np.sum(np.abs(found - true)) / np.sum(np.abs(true)))


def spectrum(noise: Any) -> np.ndarray:
    """Return the centered spectrum of a noise."""
    plane = np.fft.fft2(np.asarray(noise), axes=(0, 1), norm="ortho")
    return np.fft.fftshift(plane, axes=(0, 1))

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
    NOT_FOUND,
    OTHERS,
    REGULAR,
    cell_of,
)
from benchmarks.papers.dpm.round_trip import Made, fits, invert, latent_of, make, nmse
from benchmarks.papers.keys import INV_DPM, RADIUS, PublishedKey, ring_key
from benchmarks.papers.protocol import Cell, Found, Measures, Table, needs_prompts
from benchmarks.papers.setting import Setting

#: Inverse and decoder inversion; "published" is Algorithm 1 or 2.
METHODS = (
    ("naive", "encoder"),
    ("naive", "gradient"),
    ("published", "gradient"),
    ("ours", "gradient"),
    ("ours", "none"),
)
COMMAND = "--images 100"


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


def _cells(setting: Setting) -> Sequence[Cell]:
    return [
        cell_of(made, GUIDANCE, inverse, made[2], decoder)
        | {"prompt": prompt, "disc": disc, "key": key}
        for made, prompt, disc in itertools.product(
            (DDIM, FAST, REGULAR), ("known", "unknown"), ("published", "centered")
        )
        for inverse, decoder in methods_of(made)
        for key in range(confusion.KEYS)
    ]


def _figure_cells(setting: Setting) -> Sequence[Cell]:
    return [
        cell
        for cell in _cells(setting)
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
        made, found = _first(setting, cell)
    keys = keys_of(setting, cell["disc"])
    return {
        "distances": [_finite(key.distance(found)) for key in keys],
        "true": [_finite(key.distance(made.noise)) for key in keys],
        "nmae": _nmae(keys[cell["key"]], made.noise, found),
        "noise": nmse(made.noise, found),
    }


def _first(setting: Setting, cell: Cell) -> Marked:
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


def _draw_spectra(found: Found) -> Any:
    from benchmarks.papers.dpm.spectra import draw

    pairs = [(cell, _first(found.setting, cell)) for cell, _ in found.cells]
    return draw(found, pairs)


PUBLISHED_NMAE = """NMAE printed in the figure (in the authors' repository,
`scripts/fig4.png`), one image for each key:

| key | naive | naive with decoder inversion | Algorithm 2 |
|---|---:|---:|---:|
| first row | 0.24 | 0.21 | 0.14 |
| second row | 0.28 | 0.25 | 0.17 |
| third row | 0.26 | 0.24 | 0.12 |"""
SMALL = """Their disc has radius 6 of 64; on smaller latents the same six rings (fewer
if they do not fit) are a larger part of the spectrum, and of the noise."""

WATERMARK = (
    Table(
        "dpm-figure-4",
        "Figure 4",
        "spectra of recovered Tree-Ring watermarks, and their errors",
        None,
        _figure_cells,
        measure,
        confusion.show,
        PUBLISHED_NMAE,
        f"{OTHERS} {SMALL} The definition of NMAE was not found here; ours is the sum "
        "of moduli of the difference in the disc over the sum of moduli.",
        options="--images 1",
        refuse=needs_prompts,
        fits=fits,
        draw=_draw_spectra,
    ),
    Table(
        "dpm-watermark",
        "Classification of three watermarks (number of the table not found here)",
        "which of three published keys an image was made with",
        100,
        _cells,
        measure,
        confusion.show,
        f"""{NOT_FOUND} The authors' README says that 100 prompts were used, each with
three keys; the confusion matrix there (6 4 0 / 1 9 0 / 0 0 10) is an example of the
output's format.""",
        f"{OTHERS} {SMALL}",
        options=COMMAND,
        refuse=needs_prompts,
        fits=fits,
        draw=confusion.draw,
    ),
)

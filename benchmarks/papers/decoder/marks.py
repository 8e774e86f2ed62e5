"""Marked pictures, their latents by several methods, and distances to three keys.

The published keys are six rings in a disc that is centered one row off
(:mod:`benchmarks.papers.keys`), and the published inversion of the sampler is the naive
one. The same rings in a centered disc, with the exact inversion, are what the latents
allow. Every key is put into the same noises; the noise without a mark is the rival of
the detection.
"""

from __future__ import annotations

from typing import Any

import jaxinv as ji
from benchmarks.papers import keys
from benchmarks.papers.decoder.iterates import iterates
from benchmarks.papers.decoder.pictures import inverted, sampled, sampler_of
from benchmarks.papers.protocol import Cell
from jaxinv.decoder_inversion import Adam, Anderson, Encoder, GaussNewton, Gradient

#: As in main_watermark_detection.py of the authors' repository; 50 steps as elsewhere.
GUIDANCE = 7.5
KEYS = 3
#: Published methods return the last of 100 iterates; ours stop by their own rules.
PUBLISHED_METHODS = {"gradient": Gradient(), "gradient-free": Adam()}
OUR_METHODS = {
    "encoder": Encoder(),
    "Anderson": Anderson(),
    "Gauss-Newton": GaussNewton(iterations=3),
}
TRUE = "true latent"
SOURCES = ("encoder", "gradient", "gradient-free", "Anderson", "Gauss-Newton", TRUE)
#: Whether the disc is centered, and how the sampler is inverted.
PROTOCOLS = {"published": (False, "naive"), "centered exact": (True, "stepwise")}


def cells(setting: Any) -> list[Cell]:
    return [
        {"protocol": protocol, "key": key, "source": source}
        for protocol in PROTOCOLS
        for key in range(KEYS + 1)
        for source in SOURCES
    ]


def three(setting: Any, centered: bool) -> list[keys.PublishedKey]:
    """Return the three published keys, in the published disc or a centered one."""
    shape = setting.pipe.latent_shape
    return [
        keys.ring_key(numbers, shape, centered=centered) for numbers in keys.DEC_INV
    ]


def marked(setting: Any, index: int, key: int, centered: bool) -> tuple[Any, Any]:
    """Return a noise with a key (0 for none) and its picture."""
    name = ("image", "marked", index, key, centered if key else None)

    def make() -> tuple[Any, Any]:
        noise = setting.noise(index)
        if key:
            noise = three(setting, centered)[key - 1].embed(noise)
        denoise = setting.denoiser(setting.prompt(index), GUIDANCE)
        return noise, sampled(setting, denoise, noise)

    return setting.shared(name, make)


def latent_of(setting: Any, index: int, key: int, centered: bool, source: str) -> Any:
    """Return a latent of a marked picture."""
    name = ("image", "latent", index, key, centered if key else None, source)

    def make() -> Any:
        shown = marked(setting, index, key, centered)[1]
        if source == TRUE:
            return shown.latent
        vae = setting.pipe.vae
        if source in PUBLISHED_METHODS:
            method = PUBLISHED_METHODS[source]
            return iterates(vae, shown.pixels, method, method.iterations)[-1]
        return inverted(vae, shown.pixels, OUR_METHODS[source])

    return setting.shared(name, make)


def one(setting: Any, cell: Cell, index: int) -> dict[str, Any]:
    centered, strategy = PROTOCOLS[cell["protocol"]]
    noise, shown = marked(setting, index, cell["key"], centered)
    latent = latent_of(setting, index, cell["key"], centered, cell["source"])
    denoise = setting.denoiser(setting.prompt(index), GUIDANCE)
    sampler = sampler_of(setting)
    result = ji.invert(sampler, denoise, latent, strategy=strategy)
    return {
        "distances": [
            float(key.distance(result.noise)) for key in three(setting, centered)
        ],
        "noise": float(ji.nmse_db(result.noise, noise)),
        "latent": float(ji.nmse_db(latent, shown.latent)),
    }

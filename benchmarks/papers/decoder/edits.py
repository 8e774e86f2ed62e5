"""Edits of pictures whose states outside of a mask come from an inversion.

Outside of the mask, every state is replaced by that of the inverted trajectory, which
begins in the recovered latent: an error of that latent is an error of the background.
The *oracle* has the true latent, whose exact inversion is the trajectory that the image
was made on.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.papers.decoder.iterates import iterates
from benchmarks.papers.decoder.pictures import (
    GUIDANCE,
    autoencoder,
    inverted,
    picture,
    sampler_of,
)
from jaxinv.apps import editing, masks
from jaxinv.decoder_inversion import Adam, Anderson, Encoder, Gradient

ORACLE = "oracle"
#: Method and bits; in the paper's two groups of equal time, after the encoder.
WAYS: dict[str, tuple[Any, int]] = {
    "encoder": (Encoder(), 32),
    "gradient 50": (Gradient(iterations=50), 32),
    "gradient-free 100": (Adam(iterations=100), 32),
    "gradient-free 200 16 bits": (Adam(iterations=200), 16),
    "gradient 30": (Gradient(iterations=30), 32),
    "gradient-free 50": (Adam(iterations=50), 32),
    "gradient-free 100 16 bits": (Adam(iterations=100), 16),
    "Anderson": (Anderson(), 32),
}


def target_of(setting: Any, index: int) -> str:
    """Return the prompt of the next image, on the background of this one."""
    here, after = setting.prompt(index), setting.prompt(index + 1)
    _, found, background = here.partition(" on ")
    return after.partition(" on ")[0] + found + background


def mask_of(setting: Any, index: int) -> Any:
    """Return what may change, found from both prompts; shape (h, w, 1)."""

    def make() -> Any:
        return masks.prediction_mask(
            setting.pipe.schedule,
            setting.denoiser(setting.prompt(index), GUIDANCE),
            setting.denoiser(target_of(setting, index), GUIDANCE),
            picture(setting, index).latent,
            setting.key("mask", index),
        )

    return setting.shared(("image", "mask", index), make)


def recovered(setting: Any, index: int, name: str) -> tuple[Any, float]:
    """Return the latent by a way, and the seconds of the processor that it took."""
    shown = picture(setting, index)
    if name == ORACLE:
        return shown.latent, 0.0
    method, bits = WAYS[name]
    vae, began = autoencoder(setting, bits), time.process_time()
    if isinstance(method, Gradient | Adam):
        found = iterates(vae, shown.pixels, method, method.iterations)[-1]
    else:
        found = inverted(vae, shown.pixels, method)
    return jax.block_until_ready(found), time.process_time() - began


def edited(setting: Any, index: int, name: str) -> tuple[Any, Any, float]:
    """Return the edited image, the recovered latent and the seconds it took."""

    def make() -> tuple[Any, Any, float]:
        latent, seconds = recovered(setting, index, name)
        result = editing.edit(
            sampler_of(setting),
            setting.denoiser(setting.prompt(index), GUIDANCE),
            setting.denoiser(target_of(setting, index), GUIDANCE),
            latent,
            mask=mask_of(setting, index),
            strategy="stepwise" if name == ORACLE else "naive",
        )
        return setting.pipe.decode(result.latent), latent, seconds

    return setting.shared(("image", "edited", index, name), make)


def pixels_of(setting: Any, mask: Any) -> Any:
    """Return a mask of latents as one of pixels, shape (H, W, 1)."""
    factor = setting.pipe.factor
    return jnp.repeat(jnp.repeat(jnp.asarray(mask), factor, 0), factor, 1)

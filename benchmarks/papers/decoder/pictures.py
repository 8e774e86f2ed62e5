"""The pictures whose decoder is inverted, and the autoencoder in both precisions."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxinv as ji
from benchmarks.papers.setting import Setting, load
from jaxinv.pipeline import latents

#: As in main_fsm.py of the authors' repository: DDIM, 50 steps, guidance 3.
STEPS = 50
GUIDANCE = 3.0
#: XLA has no float16 attention on CPUs.
HALF = jnp.bfloat16 if jax.default_backend() == "cpu" else jnp.float16
HALF_NAME = jnp.dtype(HALF).name


class Picture(NamedTuple):
    """A sampled latent and its image.

    Attributes:
        latent: The latent z*, shape (h, w, c).
        pixels: Its decoding, clipped and rounded to 8 bits, as floats in [0, 1].
    """

    latent: Any
    pixels: Any


def sampler_of(setting: Setting) -> ji.SamplerTable:
    """Return DDIM on the default grid of the model's schedule."""
    return setting.shared(
        ("DDIM", STEPS), lambda: ji.ddim(ji.time_grid(setting.pipe.schedule, STEPS))
    )


def picture(setting: Setting, index: int) -> Picture:
    """Return the picture of an image: sampled, decoded, rounded."""

    def make() -> Picture:
        denoise = setting.denoiser(setting.prompt(index), GUIDANCE)
        return sampled(setting, denoise, setting.noise(index))

    return setting.shared(("image", "picture", index), make)


def sampled(setting: Setting, denoise: Any, noise: Any) -> Picture:
    """Return the picture of a noise."""
    found = _sampled(setting.pipe.vae, sampler_of(setting), denoise, noise)
    # What is timed next does not wait for it.
    return jax.block_until_ready(found)


@jax.jit
def _sampled(vae: Any, sampler: Any, denoise: Any, noise: Any) -> Picture:
    latent = ji.sample(sampler, denoise, noise)
    return Picture(latent, rounded(latents.decode(vae, latent)))


def rounded(image: Any) -> Any:
    """Return an image clipped and rounded to 8 bits, as floats in [0, 1]."""
    return jnp.round(255 * jnp.clip(image, 0, 1)) / 255


def networks(vae: Any) -> tuple[Any, Any]:
    """Return encoder and decoder as callable pytrees; the encoder returns the mean."""
    partial = jax.tree_util.Partial
    return partial(latents.encode, vae), partial(latents.decode, vae)


def autoencoder(setting: Setting, bits: int) -> Any:
    """Return the autoencoder computing in 32 or 16 bits."""
    if bits == 32:
        return setting.pipe.vae
    options = {"dtype": HALF, "param_dtype": HALF, "network": False}
    return setting.shared(
        ("autoencoder", bits),
        lambda: load(setting.model, text_encoders=False, **options).vae,
    )


@functools.partial(jax.jit, static_argnames="method")
def inverted(vae: Any, pixels: Any, method: Any) -> Any:
    """Return the latent that a method of the library finds, with its own rules."""
    return ji.invert_decoder(*networks(vae), pixels, method).latent

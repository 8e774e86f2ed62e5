"""The published autoencoders at full size, with random weights, as a model.

``--model sd-autoencoders`` stands for the autoencoder of Stable Diffusion 2.1, which
InstaFlow's equals in layers and size, on 512x512 pixels; and for that of LaVie, on 16
frames of 320x512. It has no other network: most tables refuse it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.papers.decoder.pictures import HALF, autoencoder
from jaxinv.models import AutoencoderKLConfig, abstract_component

#: Configuration, shape of the image or the video.
PUBLISHED_NETWORKS = {
    "SD 2.1, InstaFlow": (AutoencoderKLConfig.sd21(), (512, 512, 3)),
    "LaVie": (AutoencoderKLConfig.sd15(), (16, 320, 512, 3)),
}
FULL_SIZE = "sd-autoencoders"


class FullSize:
    """What stands for a pipeline if only the published autoencoders are wanted."""

    text_encoders = None
    vae = None


def refuse(pipe: Any) -> str | None:
    """Refuse models of pixels."""
    wanted = isinstance(pipe, FullSize) or pipe.vae is not None
    return None if wanted else "it has no autoencoder"


def names(setting: Any) -> tuple[str, ...]:
    """Return the networks that a model stands for."""
    full = setting.model == FULL_SIZE
    return tuple(PUBLISHED_NETWORKS) if full else (setting.label,)


def network(setting: Any, name: str, bits: int) -> tuple[Any, tuple[int, ...]]:
    """Return an autoencoder, with shapes for weights, and the shape of its images."""
    if name in PUBLISHED_NETWORKS:
        config, shape = PUBLISHED_NETWORKS[name]
        dtype = jnp.float32 if bits == 32 else HALF
        return abstract_component(config, dtype=dtype, param_dtype=dtype), shape
    pipe = setting.pipe
    frames = () if pipe.frames is None else (pipe.frames,)
    return autoencoder(setting, bits), (*frames, *pipe.image_size, 3)


def filled(shapes: Any) -> Any:
    """Return small random numbers in place of shapes."""
    rng = np.random.default_rng(0)

    def one(x: Any) -> Any:
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x
        values = 0.02 * rng.standard_normal(x.shape, np.float32)
        return jnp.asarray(np.abs(values), x.dtype)

    return jax.tree.map(one, shapes)

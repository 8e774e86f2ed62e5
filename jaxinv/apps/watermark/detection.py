"""From an image to the statistic: decoder inversion, sampler inversion, score."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.apps.watermark.gaussian_shading import GaussianShadingKey
from jaxinv.apps.watermark.tree_ring import TreeRingKey
from jaxinv.apps.watermark.verdict import Score
from jaxinv.decoder_inversion import Method
from jaxinv.pipeline.latent_diffusion import (
    Image,
    ImageInversion,
    LatentDiffusion,
    TextVectors,
)
from jaxinv.sampling.sample import Sampler

Key = TreeRingKey | GaussianShadingKey


class Detection(NamedTuple):
    """What was found in an image.

    Attributes:
        score: against the key.
        inversion: the noise with both certificates.
    """

    score: Score
    inversion: ImageInversion


def detect(
    pipe: LatentDiffusion,
    key: Key,
    image: Image,
    sampler: Sampler,
    *,
    prompt: str | TextVectors = "",
    negative_prompt: str | TextVectors = "",
    guidance_scale: float | Float[Array, ""] = 1.0,
    decoder: str | Method = "anderson",
    **options: Any,
) -> Detection:
    """Looks for a key in the noise of an image.

    If the prompt that the image was made with is known, give it with its guidance; if
    not, the empty prompt without guidance is the usual guess, and the default. On
    ``emoji64`` that guess costs most of the marks of pictures that were made with
    guidance (``benchmarks/results/watermark_judgement.md``).

    Args:
        pipe: the model that would have made the image.
        key: the key.
        image: (h, w, 3), floats in [0, 1] or ``uint8``.
        sampler: the sampler that would have made it.
        prompt: text or its vectors.
        negative_prompt: likewise.
        guidance_scale: likewise.
        decoder: how the decoder is inverted.
        **options: of :func:`jaxinv.invert`.

    Returns:
        The score, for :func:`jaxinv.apps.watermark.judge`, with the inversion that it
        rests on. An unconverged inversion has ``converged=False`` and is scored all the
        same.

    Raises:
        ValueError: as :meth:`jaxinv.LatentDiffusion.invert`; for a key of another
            shape than this image's noise.
    """
    height, width = jnp.shape(image)[:2] if jnp.ndim(image) == 3 else (0, 0)
    channels = pipe.vae.config.latent_channels
    expected = (height // pipe.factor, width // pipe.factor, channels)
    if height and expected != key.shape:
        raise ValueError(
            f"this key is for noise of shape {key.shape}, but an image of {height}x"
            f"{width} has {expected} in {pipe.name}"
        )
    denoise = pipe.denoiser(prompt, negative_prompt, guidance_scale)
    found = pipe.invert(image, sampler, denoise, decoder=decoder, **options)
    return Detection(key.score(found.noise), found)


def classify(
    keys: Sequence[TreeRingKey], noise: Float[Array, "h w c"]
) -> Float[Array, "k"]:
    """Distances of a noise to several keys; the nearest is the likeliest.

    Args:
        keys: of one shape, radius and channel.
        noise: found by inversion.

    Returns:
        The distances, in the order of the keys.

    Raises:
        ValueError: for no keys, or keys that differ in more than their values.

    References:
        Hong et al. 2024, arXiv:2311.18387, Section 5 (classification of watermarks).
    """
    if not keys or not all(isinstance(key, TreeRingKey) for key in keys):
        raise ValueError("expected at least one key, all of them tree-ring keys")
    kinds = {(key.shape, key.radius, key.channel) for key in keys}
    if len(kinds) > 1:
        raise ValueError(
            "keys can be told apart if they share shape, radius and channel; got "
            + ", ".join(map(str, sorted(kinds)))
        )
    first = keys[0]

    def distance(values: Array) -> Array:
        key = TreeRingKey(
            values, first.shape, first.radius, first.channel, first.pattern
        )
        return key.score(noise).distance

    return jax.vmap(distance)(jnp.stack([key.values for key in keys]))

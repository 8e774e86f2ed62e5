"""Detection: decoder inversion, sampler inversion, and the score of the noise."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.apps.watermark.ring_id import RingIDKey
from jaxinv.apps.watermark.schemes import Key
from jaxinv.apps.watermark.tree_ring import TreeRingKey
from jaxinv.apps.watermark.verdict import Score
from jaxinv.decoder_inversion import Method
from jaxinv.pipeline.images import ImageInversion
from jaxinv.pipeline.latents import Image
from jaxinv.pipeline.pipeline import Pipeline
from jaxinv.pipeline.prompts import Prompt
from jaxinv.samplers.table import SamplerTable


class Detection(NamedTuple):
    """The result of a search for a key in an image.

    Attributes:
        score: Score of the noise against the key.
        inversion: The noise, with the certificates of both inversions.
    """

    score: Score
    inversion: ImageInversion


def key_shape(pipe: Pipeline) -> tuple[int, int, int]:
    """Return the shape (h, w, c) of a key for a model's noise.

    Raises:
        ValueError: If the model makes videos.
    """
    if pipe.frames is not None:
        raise ValueError(f"watermarks are for images, and {pipe.name} makes videos")
    rows, columns, channels = pipe.latent_shape
    return rows, columns, channels


def detect(
    pipe: Pipeline,
    key: Key,
    image: Image,
    sampler: SamplerTable,
    *,
    prompt: Prompt = "",
    negative_prompt: Prompt = "",
    guidance_scale: float | Float[Array, ""] = 1.0,
    decoder: str | Method = "anderson",
    **options: Any,
) -> Detection:
    """Search the noise of an image for a key.

    Pass the prompt and guidance of the image if they are known. The default is the
    usual guess, the empty prompt without guidance. On ``emoji64`` it misses most
    watermarks of the kinds ``"ring"`` and ``"zeros"`` in images that were generated
    with guidance (``benchmarks/results/watermark_judgement.md``).

    Args:
        pipe: The model that would have generated the image.
        key: The key.
        image: (h, w, 3), floats in [0, 1] or ``uint8``.
        sampler: The sampler that would have generated the image.
        prompt: The prompt, as text or vectors.
        negative_prompt: The negative prompt, as text or vectors.
        guidance_scale: The guidance scale.
        decoder: Settings of the decoder inversion.
        **options: Options of :func:`jaxinv.invert`.

    Returns:
        The score, for :func:`jaxinv.apps.watermark.judge`, and the inversion. An
        inversion with ``converged=False`` is also scored.

    Raises:
        ValueError: If :meth:`jaxinv.Pipeline.invert` raises it, or if the key
            has another shape than this image's noise.
    """
    height, width = jnp.shape(image)[:2] if jnp.ndim(image) == 3 else (0, 0)
    expected = pipe.latent_shape_of((height, width))
    if height and expected != key.shape:
        raise ValueError(
            f"this key is for noise of shape {key.shape}, but the noise of a {height}x"
            f"{width} image has shape {expected} in {pipe.name}"
        )
    denoise = pipe.denoiser(prompt, negative_prompt, guidance_scale)
    found = pipe.invert(image, sampler, denoise, decoder=decoder, **options)
    return Detection(key.score(found.noise), found)


def comparable(keys: Sequence[Key]) -> bool:
    """Return whether the distances of a noise to these keys can be compared."""
    kinds = {_kind(key) for key in keys}
    return len(kinds) == 1 and None not in kinds


def classify(
    keys: Sequence[TreeRingKey | RingIDKey], noise: Float[Array, "h w c"]
) -> Float[Array, "k"]:
    """Return the distances of a noise to several keys; the closest key is likeliest.

    Args:
        keys: Keys of one scheme, Tree-Ring or RingID, with equal shape, radius and
            channels.
        noise: Noise recovered by inversion.

    Returns:
        The distances, in the order of the keys.

    Raises:
        ValueError: For no keys, or keys that differ in more than their values.

    References:
        Hong et al. 2024, arXiv:2311.18387, Section 5 (classification of watermarks);
        Ci et al. 2024, arXiv:2404.14055, Section 5 (identification).
    """
    kinds = [_kind(key) for key in keys]
    if not kinds or None in kinds:
        raise ValueError(
            "expected at least one key, and only tree-ring keys or only ring-id keys"
        )
    if len(set(kinds)) > 1:
        raise ValueError(
            "keys can be compared if they share scheme, shape, radius and channels; "
            "got " + ", ".join(map(str, sorted(set(kinds), key=str)))
        )
    alike: list[Any] = [
        dataclasses.replace(key, pattern=keys[0].pattern)
        if isinstance(key, TreeRingKey) and isinstance(keys[0], TreeRingKey)
        else key
        for key in keys
    ]
    stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *alike)
    distances: Array = jax.vmap(lambda key: key.score(noise).distance)(stacked)
    return distances


def _kind(key: Any) -> tuple[Any, ...] | None:
    """Return what comparable keys share, or None for keys without a distance."""
    if isinstance(key, TreeRingKey):
        return ("tree-ring", key.shape, key.radius, key.channel)
    if isinstance(key, RingIDKey):
        rings = (key.radius, key.cutoff, key.levels)
        return ("ring-id", key.shape, *rings, key.channels, key.noise_channel)
    return None

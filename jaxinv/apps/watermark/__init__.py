r"""Watermarks in the noise from which an image is generated.

A key is embedded in the noise, and the sampler generates an image from it. To detect
the watermark, the holder of the key inverts the image and searches its noise for the
key. Detection is therefore only as good as the inversion.

    key = watermark.tree_ring_key(jax.random.key(0), pipe.latent_shape, radius=3)
    noise = key.embed(jax.random.normal(jax.random.key(1), pipe.latent_shape))
    ...
    found = watermark.detect(pipe, key, image, sampler, prompt="red heart")
    watermark.judge(found.score).answer  # "found", "not found" or "cannot judge"
"""

from jaxinv.apps.watermark.detection import (
    Detection,
    classify,
    comparable,
    detect,
    key_shape,
)
from jaxinv.apps.watermark.gaussian_shading import (
    GaussianShadingKey,
    GaussianShadingScore,
    false_positive_rate,
    gaussian_shading_key,
    matches_for,
)
from jaxinv.apps.watermark.key_files import read_key, write_key
from jaxinv.apps.watermark.message import as_hex, as_text, read_message
from jaxinv.apps.watermark.prc import PRCKey, PRCScore, prc_key
from jaxinv.apps.watermark.ring_id import RingIDKey, RingIDScore, ring_id_key
from jaxinv.apps.watermark.schemes import SCHEMES, Key, scheme_of
from jaxinv.apps.watermark.tree_ring import (
    TreeRingKey,
    TreeRingScore,
    tree_ring_key,
)
from jaxinv.apps.watermark.verdict import Verdict, judge, p_value

__all__ = [
    "SCHEMES",
    "Detection",
    "GaussianShadingKey",
    "GaussianShadingScore",
    "Key",
    "PRCKey",
    "PRCScore",
    "RingIDKey",
    "RingIDScore",
    "TreeRingKey",
    "TreeRingScore",
    "Verdict",
    "as_hex",
    "as_text",
    "classify",
    "comparable",
    "detect",
    "false_positive_rate",
    "gaussian_shading_key",
    "judge",
    "key_shape",
    "matches_for",
    "p_value",
    "prc_key",
    "read_key",
    "read_message",
    "ring_id_key",
    "scheme_of",
    "tree_ring_key",
    "write_key",
]

"""The registry of schemes."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxinv.apps.watermark.gaussian_shading import (
    GaussianShadingKey,
    gaussian_shading_key,
)
from jaxinv.apps.watermark.message import read_message
from jaxinv.apps.watermark.prc import PRCKey, prc_key
from jaxinv.apps.watermark.ring_id import RingIDKey, ring_id_key
from jaxinv.apps.watermark.scheme import (
    Bits,
    Channel,
    Numbers,
    Radius,
    Scheme,
    Secret,
    Shape,
    Sides,
    finite_numbers,
    fresh_seed,
    report_distance,
    report_message,
    scaled_radius,
)
from jaxinv.apps.watermark.tree_ring import TreeRingKey, tree_ring_key
from jaxinv.checks import Length, Range

Key = TreeRingKey | RingIDKey | GaussianShadingKey | PRCKey


def scheme_of(key: Any) -> Scheme:
    """Return the scheme of a key.

    Raises:
        ValueError: For anything but a key.
    """
    for scheme in SCHEMES.values():
        if isinstance(key, scheme.kind):
            return scheme
    raise ValueError(f"expected a watermark key, got {type(key).__name__}")


# --- Tree-Ring ----------------------------------------------------------------------


def _record_tree_ring(key: TreeRingKey) -> dict[str, Any]:
    return {
        "shape": list(key.shape),
        "radius": key.radius,
        "channel": key.channel,
        "pattern": key.pattern,
        "values": np.asarray(key.values, np.float64).tolist(),
    }


def _read_tree_ring(body: dict[str, Any]) -> TreeRingKey:
    drawn = tree_ring_key(
        jax.random.key(0),
        tuple(body["shape"]),
        radius=body["radius"],
        channel=body["channel"],
        pattern=body["pattern"],
    )
    values = jnp.asarray(finite_numbers(body["values"], drawn.values.size))
    return dataclasses.replace(drawn, values=values)


def _draw_tree_ring(shape: Shape, pattern: str, message: str | None) -> TreeRingKey:
    radius = scaled_radius(10, shape)
    return tree_ring_key(fresh_seed(), shape, radius=radius, pattern=pattern)  # type: ignore[arg-type]


# --- RingID -------------------------------------------------------------------------


def _record_ring_id(key: RingIDKey) -> dict[str, Any]:
    return {
        "shape": list(key.shape),
        "radius": key.radius,
        "cutoff": key.cutoff,
        "levels": key.levels,
        "channels": list(key.channels),
        "noise_channel": key.noise_channel,
        "rings": np.asarray(key.rings).ravel().tolist(),
        "values": np.asarray(key.values, np.float64).tolist(),
    }


def _read_ring_id(body: dict[str, Any]) -> RingIDKey:
    names = ("radius", "cutoff", "levels", "channels", "noise_channel")
    options = {name: body[name] for name in names}
    drawn = ring_id_key(jax.random.key(0), tuple(body["shape"]), **options)
    rings = np.asarray(body["rings"])
    if rings.size != drawn.rings.size or np.any(rings >= drawn.levels):
        raise ValueError(f"rings: expected {drawn.rings.size} below {drawn.levels}")
    return dataclasses.replace(
        drawn,
        rings=jnp.asarray(rings.reshape(drawn.rings.shape), drawn.rings.dtype),
        values=jnp.asarray(finite_numbers(body["values"], drawn.values.size)),
    )


def _draw_ring_id(shape: Shape, pattern: str, message: str | None) -> RingIDKey:
    """Return a key; small noise gets several channels of rings, for as many keys."""
    radius = scaled_radius(14, shape)
    cutoff = min(3 * min(shape[:2]) // 64, radius - 1)
    wanted = -(-11 // (radius - cutoff))
    count = max(1, min(wanted, shape[2] - 1))
    channels = tuple(range(shape[2] - count, shape[2]))
    return ring_id_key(
        fresh_seed(), shape, radius=radius, cutoff=cutoff, channels=channels
    )


# --- Gaussian Shading ---------------------------------------------------------------


def _record_shading(key: GaussianShadingKey) -> dict[str, Any]:
    return {
        "shape": list(key.shape),
        "blocks": list(key.blocks),
        "message": np.asarray(key.message).astype(int).tolist(),
        "secret": np.asarray(key.secret).tobytes().hex(),
    }


def _read_shading(body: dict[str, Any]) -> GaussianShadingKey:
    return gaussian_shading_key(
        tuple(body["shape"]),
        blocks=tuple(body["blocks"]),
        message=body["message"],
        secret=bytes.fromhex(body["secret"]),
    )


def _draw_shading(
    shape: Shape, pattern: str, message: str | None
) -> GaussianShadingKey:
    # The published blocks are 8x8 of 64x64; 4x4 leave 64 bits in 16x16.
    block = 8 if min(shape[:2]) >= 64 else 4
    count = math.prod(shape) // block**2
    bits = None if message is None else read_message(message, count)
    return gaussian_shading_key(shape, blocks=(block, block, 1), message=bits)


def _report_shading(key: GaussianShadingKey, score: Any, noise: Array) -> Any:
    bits = np.asarray(score.bits)
    return {
        "bits": len(bits),
        "matches": int(score.matches),
        "accuracy": float(score.accuracy),
        **report_message(bits),
    }


# --- PRC ----------------------------------------------------------------------------


def _record_prc(key: PRCKey) -> dict[str, Any]:
    return {
        "shape": list(key.shape),
        "message": np.asarray(key.message).astype(int).tolist(),
        "tests": len(key.tests),
        "sparsity": key.sizes.sparsity,
        "secret": np.asarray(key.secret).tobytes().hex(),
    }


def _read_prc(body: dict[str, Any]) -> PRCKey:
    return prc_key(
        tuple(body["shape"]),
        message=body["message"],
        tests=body["tests"],
        sparsity=body["sparsity"],
        secret=bytes.fromhex(body["secret"]),
    )


def _draw_prc(shape: Shape, pattern: str, message: str | None) -> PRCKey:
    count = math.prod(shape) // 32
    bits = None if message is None else read_message(message, count)
    return prc_key(shape, message=bits)


def _report_prc(key: PRCKey, score: Any, noise: Array) -> dict[str, Any]:
    return {
        "bits": len(key.message),
        "satisfied": float(score.satisfied),
        **report_message(key.decode(noise)),
    }


#: The schemes, by name.
SCHEMES: Mapping[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme(
            "tree-ring",
            TreeRingKey,
            False,
            {
                "shape": Sides,
                "radius": Radius,
                "channel": Channel,
                "pattern": str,
                "values": Numbers,
            },
            _record_tree_ring,
            _read_tree_ring,
            _draw_tree_ring,
            report_distance,
        ),
        Scheme(
            "gaussian-shading",
            GaussianShadingKey,
            True,
            {"shape": Sides, "blocks": Sides, "message": Bits, "secret": Secret},
            _record_shading,
            _read_shading,
            _draw_shading,
            _report_shading,
        ),
        Scheme(
            "ring-id",
            RingIDKey,
            False,
            {
                "shape": Sides,
                "radius": Radius,
                "cutoff": Annotated[int, Range(0, 2**15)],
                "levels": Annotated[int, Range(2, 64)],
                "channels": Annotated[tuple[Channel, ...], Length(1, 2**16)],
                "noise_channel": Channel,
                "rings": Annotated[
                    tuple[Annotated[int, Range(0, 63)], ...], Length(1, 2**16)
                ],
                "values": Numbers,
            },
            _record_ring_id,
            _read_ring_id,
            _draw_ring_id,
            report_distance,
        ),
        Scheme(
            "prc",
            PRCKey,
            True,
            {
                "shape": Sides,
                "message": Bits,
                "tests": Annotated[int, Range(1, 64)],
                "sparsity": Annotated[int, Range(2, 8)],
                "secret": Secret,
            },
            _record_prc,
            _read_prc,
            _draw_prc,
            _report_prc,
        ),
    )
}

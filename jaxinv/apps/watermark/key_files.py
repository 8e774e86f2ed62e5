"""Key files: readable by their owner only, and never overwritten."""

import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np

from jaxinv.apps.watermark.gaussian_shading import (
    GaussianShadingKey,
    gaussian_shading_key,
)
from jaxinv.apps.watermark.tree_ring import TreeRingKey, tree_ring_key
from jaxinv.checks import Length, Range, shown
from jaxinv.files.json_fields import check_field, naming, read_json

_FORMAT = "jaxinv watermark key 1"
_MAX_BYTES = 16 * 2**20
_MAX_SIZE = 2**22  # limit on the numbers of a noise
_Side = Annotated[int, Range(1, 2**16)]
_Sides = tuple[_Side, _Side, _Side]
# The fields of a key file, by scheme.
_FIELDS: dict[str, dict[str, Any]] = {
    "tree-ring": {
        "shape": _Sides,
        "radius": Annotated[int, Range(1, 2**15)],
        "channel": Annotated[int, Range(-(2**16), 2**16)],
        "pattern": str,
        "values": Annotated[tuple[float, ...], Length(1, _MAX_SIZE)],
    },
    "gaussian-shading": {
        "shape": _Sides,
        "blocks": _Sides,
        "message": Annotated[
            tuple[Annotated[int, Range(0, 1)], ...], Length(1, _MAX_SIZE)
        ],
        "secret": Annotated[str, Length(96, 96)],
    },
}


def write_key(
    path: str | os.PathLike[str], key: TreeRingKey | GaussianShadingKey
) -> None:
    """Write a key atomically, readable by its owner only.

    Args:
        path: A file that does not exist.
        key: The key.

    Raises:
        FileExistsError: If the path exists.
        OSError: If the file cannot be written.
    """
    path = Path(path)
    body = _record(key)
    text = json.dumps({**body, "sha256": _digest(body)}, indent=1) + "\n"
    # Files of mkstemp are readable by their owner only; a link never replaces a file.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent or ".")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            _place(name, path)
        except FileExistsError:
            raise FileExistsError(
                f"{path} exists; keys are never overwritten"
            ) from None
    finally:
        Path(name).unlink(missing_ok=True)


def _place(written: str, path: Path) -> None:
    """Give a written file its name unless the name exists."""
    try:
        os.link(written, path)
    except FileExistsError:
        raise
    except OSError:
        # Many network drives have no hard links: reserve the name, then replace it by
        # the complete file.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.replace(written, path)


def read_key(path: str | os.PathLike[str]) -> TreeRingKey | GaussianShadingKey:
    """Read a key that :func:`write_key` wrote.

    Args:
        path: The file.

    Returns:
        The key.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not a key, or is damaged.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such key file: {path}")
    with naming(f"{path} is not a watermark key"):
        body = read_json(path, max_bytes=_MAX_BYTES)
        if body.get("format") != _FORMAT:
            raise ValueError("its format is not that of key files")
        if body.pop("sha256", None) != _digest(body):
            raise ValueError("its checksum is wrong: the file was changed or damaged")
        return _key(body)


def _record(key: TreeRingKey | GaussianShadingKey) -> dict[str, Any]:
    if isinstance(key, TreeRingKey):
        return {
            "format": _FORMAT,
            "scheme": "tree-ring",
            "shape": list(key.shape),
            "radius": key.radius,
            "channel": key.channel,
            "pattern": key.pattern,
            "values": np.asarray(key.values, np.float64).tolist(),
        }
    if isinstance(key, GaussianShadingKey):
        return {
            "format": _FORMAT,
            "scheme": "gaussian-shading",
            "shape": list(key.shape),
            "blocks": list(key.blocks),
            "message": np.asarray(key.message).astype(int).tolist(),
            "secret": np.asarray(key.secret).tobytes().hex(),
        }
    raise ValueError(f"expected a watermark key, got {type(key).__name__}")


def _key(body: dict[str, Any]) -> TreeRingKey | GaussianShadingKey:
    scheme = body.get("scheme")
    if not isinstance(scheme, str) or scheme not in _FIELDS:
        raise ValueError(f"unknown scheme {shown(scheme)}")
    for name, kind in _FIELDS[scheme].items():
        check_field(name, body.get(name), kind)
    shape = tuple(body["shape"])
    if math.prod(shape) > _MAX_SIZE:
        raise ValueError(f"shape: expected at most {_MAX_SIZE} numbers, got {shape}")
    if scheme == "tree-ring":
        import jax

        drawn = tree_ring_key(
            jax.random.key(0),
            shape,
            radius=body["radius"],
            channel=body["channel"],
            pattern=body["pattern"],
        )
        with np.errstate(over="ignore"):
            values = np.asarray(body["values"], np.float32)
        if values.shape != drawn.values.shape or not np.all(np.isfinite(values)):
            raise ValueError(f"expected {drawn.values.size} finite values")
        return TreeRingKey(
            jnp.asarray(values), drawn.shape, drawn.radius, drawn.channel, drawn.pattern
        )
    return gaussian_shading_key(
        shape,
        blocks=tuple(body["blocks"]),
        message=body["message"],
        secret=bytes.fromhex(body["secret"]),
    )


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

"""Key files: readable by their owner only, and never overwritten."""

import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any

from jaxinv.apps.watermark.scheme import MAX_SIZE
from jaxinv.apps.watermark.schemes import SCHEMES, Key, scheme_of
from jaxinv.checks import shown
from jaxinv.files.json_fields import check_field, naming, read_json

_FORMAT = "jaxinv watermark key 1"
_MAX_BYTES = 16 * 2**20


def write_key(path: str | os.PathLike[str], key: Key) -> None:
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


def read_key(path: str | os.PathLike[str]) -> Key:
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


def _record(key: Key) -> dict[str, Any]:
    scheme = scheme_of(key)
    return {"format": _FORMAT, "scheme": scheme.name, **scheme.record(key)}


def _key(body: dict[str, Any]) -> Key:
    name = body.get("scheme")
    if not isinstance(name, str) or name not in SCHEMES:
        raise ValueError(f"unknown scheme {shown(name)}")
    scheme = SCHEMES[name]
    for field, kind in scheme.fields.items():
        check_field(field, body.get(field), kind)
    shape = tuple(body["shape"])
    if math.prod(shape) > MAX_SIZE:
        raise ValueError(f"shape: expected at most {MAX_SIZE} numbers, got {shape}")
    key: Key = scheme.read(body)
    return key


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

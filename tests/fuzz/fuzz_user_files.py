"""Readers of files that a user names: watermark keys and manifests."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from fuzz_harness import Reader

from jaxinv.apps.watermark import (
    gaussian_shading_key,
    read_key,
    tree_ring_key,
    write_key,
)
from jaxinv.apps.watermark.key_files import _digest
from jaxinv.scale.jobs.manifest import Manifest, read_manifest

_SHAPE = (8, 8, 4)


def _write_key(scheme: str, folder: Path) -> None:
    if scheme == "tree-ring":
        write_key(
            folder / "key.json", tree_ring_key(jax.random.key(1), _SHAPE, radius=2)
        )
    else:
        key = gaussian_shading_key(_SHAPE, blocks=(4, 4, 1), secret=bytes(48))
        write_key(folder / "key.json", key)


def _read_sealed(folder: Path) -> Any:
    """Read a key whose checksum is right, as somebody would make it on purpose."""
    path = folder / "key.json"
    if path.is_file():
        try:
            body = json.loads(path.read_text())
            body["sha256"] = _digest({k: v for k, v in body.items() if k != "sha256"})
            path.write_text(json.dumps(body))
        except (ValueError, TypeError, AttributeError, RecursionError):
            pass  # not an object: there is nothing to seal
    return read_key(path)


def _a_key(folder: Path, key: Any) -> None:
    assert len(key.shape) == 3
    for leaf in jax.tree.leaves(key):
        assert np.all(np.isfinite(np.asarray(leaf, np.float64)))


_ROWS = (
    {"path": "a.png", "prompt": "red heart", "guidance": 3.5, "label": 7},
    {"path": "sub/b.png", "negative_prompt": "blue", "prompt": None},
    {"path": "c.png", "tags": ["x", {"y": 1}]},
)
_CSV = 'path,prompt,guidance,label\na.png,"red, big",2.5,1\nb.png,,,\n'


def _rows(folder: Path, manifest: Manifest) -> None:
    assert manifest.rows
    for row in manifest.rows:
        assert row.path
        assert np.isfinite(row.guidance)
        (row.prompt + row.negative_prompt).encode()
    manifest.fingerprint()


READERS: list[Reader] = [
    *(
        Reader(
            name=f"key file {scheme}",
            make=lambda folder, scheme=scheme: _write_key(scheme, folder),
            damages={"key.json": ("json", "json", "json", "bytes", "kind")},
            read=_read_sealed,
            holds=_a_key,
            follows_links=True,
        )
        for scheme in ("tree-ring", "gaussian-shading")
    ),
    Reader(
        name="manifest.jsonl",
        make=lambda folder: (folder / "m.jsonl").write_text(
            "".join(f"{json.dumps(row)}\n" for row in _ROWS)
        ),
        damages={"m.jsonl": ("jsonl", "jsonl", "bytes", "kind")},
        read=lambda folder: read_manifest(folder / "m.jsonl", extra_columns=True),
        holds=_rows,
        follows_links=True,
    ),
    Reader(
        name="manifest.csv",
        make=lambda folder: (folder / "m.csv").write_text(_CSV),
        damages={"m.csv": ("bytes", "bytes", "kind")},
        read=lambda folder: read_manifest(folder / "m.csv", extra_columns=True),
        holds=_rows,
        follows_links=True,
    ),
]

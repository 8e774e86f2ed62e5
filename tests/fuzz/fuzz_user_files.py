"""Readers of files that a user names: keys, manifests, LoRA, textual inversion."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from fuzz_harness import Reader
from safetensors.numpy import save_file

from jaxinv.apps.watermark import (
    SCHEMES,
    gaussian_shading_key,
    prc_key,
    read_key,
    ring_id_key,
    tree_ring_key,
    write_key,
)
from jaxinv.apps.watermark.key_files import _digest
from jaxinv.models import CLIPTextConfig, abstract_component
from jaxinv.scale.jobs.manifest import Manifest, read_manifest
from weights_convert.lora import open_lora
from weights_convert.textual_inversion import Word, read_textual_inversion

_SHAPE = (8, 8, 4)


def _write_key(scheme: str, folder: Path) -> None:
    seed, secret = jax.random.key(1), bytes(48)
    make: dict[str, Callable[[], Any]] = {
        "tree-ring": lambda: tree_ring_key(seed, _SHAPE, radius=2),
        "ring-id": lambda: ring_id_key(seed, _SHAPE, radius=2, cutoff=0),
        "gaussian-shading": lambda: gaussian_shading_key(
            _SHAPE, blocks=(4, 4, 1), secret=secret
        ),
        "prc": lambda: prc_key(_SHAPE, message=[0, 1] * 4, secret=secret),
    }
    write_key(folder / "key.json", make[scheme]())


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


_SAFETENSORS = ("safetensors", "safetensors", "bytes", "kind")


@functools.cache
def _text_encoder() -> Any:
    config = CLIPTextConfig(
        vocab_size=9, hidden_size=4, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=3,
    )  # fmt: skip
    return abstract_component(config)


def _write_lora(folder: Path) -> None:
    tensors = {}
    for layer, outputs in (("self_attn.q_proj", 4), ("mlp.fc1", 8)):
        name = f"text_encoder.text_model.encoder.layers.0.{layer}"
        tensors[f"{name}.lora_A.weight"] = np.ones((2, 4), np.float32)
        tensors[f"{name}.lora_B.weight"] = np.ones((outputs, 2), np.float16)
        tensors[f"{name}.alpha"] = np.ones((), np.float32)
    settings = {"text_encoder.lora_alpha": 3, "text_encoder.alpha_pattern": {"fc1": 1}}
    save_file(
        tensors,
        folder / "style.safetensors",
        {"lora_adapter_metadata": json.dumps(settings)},
    )


def _read_lora(folder: Path) -> Any:
    changes = open_lora(
        {"text_encoder": _text_encoder()}, [(folder / "style.safetensors", 1.0)]
    )
    return [terms[0][0].change() for terms in changes.values()]


def _finite_changes(folder: Path, changes: list[np.ndarray]) -> None:
    assert changes
    assert {each.shape for each in changes} <= {(4, 4), (8, 4)}


def _write_word(folder: Path) -> None:
    word = {
        "clip_l": np.ones((2, 4), np.float32),
        "clip_g": np.ones((2, 5), np.float16),
    }
    save_file(word, folder / "word.safetensors")


def _read_word(folder: Path) -> Word:
    widths = {"text_encoder": 4, "text_encoder_2": 5}
    return read_textual_inversion(folder / "word.safetensors", "<word>", widths)


def _a_word(folder: Path, word: Word) -> None:
    assert word.vectors
    assert all(np.isfinite(each).all() for each in word.vectors.values())


READERS: list[Reader] = [
    Reader(
        name="LoRA",
        make=_write_lora,
        damages={"style.safetensors": _SAFETENSORS},
        read=_read_lora,
        holds=_finite_changes,
        follows_links=True,
    ),
    Reader(
        name="textual inversion",
        make=_write_word,
        damages={"word.safetensors": _SAFETENSORS},
        read=_read_word,
        holds=_a_word,
        follows_links=True,
    ),
    *(
        Reader(
            name=f"key file {scheme}",
            make=lambda folder, scheme=scheme: _write_key(scheme, folder),
            damages={"key.json": ("json", "json", "json", "bytes", "kind")},
            read=_read_sealed,
            holds=_a_key,
            follows_links=True,
        )
        for scheme in SCHEMES
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

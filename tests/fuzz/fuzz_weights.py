"""Readers of weights: safetensors, their index, Orbax checkpoints; what is copied."""

import contextlib
import functools
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np
from fuzz_configs import CONFIGS, INDEX, scheduler, write_json
from fuzz_harness import Reader
from safetensors.numpy import save_file

import weights_convert
from jaxinv.files.folders import model_root
from jaxinv.loading import checkpoint
from jaxinv.loading.convert import copy_files
from jaxinv.loading.folder import loaded_files
from jaxinv.loading.tokenizers import load_tokenizer
from jaxinv.models.parameters import parameters
from jaxinv.models.registry import abstract_component
from weights_convert.reader import open_tensors, read_tensor, require_floats
from weights_convert.rules import from_torch, tensor_name

# Building a model abstractly has readers of its own; here one is built once.
_built = functools.lru_cache(64)(abstract_component)
_BUILDERS = (
    "weights_convert.component.abstract_component",
    "weights_convert.taesd.abstract_component",
    "jaxinv.loading.checkpoint.abstract_component",
)
CONFIG = CONFIGS["tiny autoencoder"]
STEM = "diffusion_pytorch_model"
WEIGHTS = f"{STEM}.safetensors"
_DTYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "BF16": ml_dtypes.bfloat16}


@functools.cache
def tensors() -> dict[str, np.ndarray]:
    """Random weights of a tiny autoencoder."""
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(shape, np.float32)
        for name, shape in weights_convert.tensor_shapes(CONFIG).items()
    }


def by_hand(path: Path) -> dict[str, np.ndarray]:
    """What a safetensors file holds, read in the simplest way there is."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(
            body[slice(*entry["data_offsets"])], _DTYPES[entry["dtype"]]
        ).reshape(entry["shape"])
        for name, entry in header.items()
    }


def _write_component(folder: Path) -> None:
    write_json(folder / "config.json", CONFIG.to_dict())
    save_file(tensors(), folder / WEIGHTS, metadata={"format": "pt"})


def _write_shards(folder: Path) -> None:
    names: dict[str, str] = {}
    for number in range(2):
        shard = f"{STEM}-0000{number + 1}-of-00002.safetensors"
        some = dict(list(tensors().items())[number::2])
        save_file(some, folder / shard, metadata={"format": "pt"})
        names |= dict.fromkeys(some, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": names}
    write_json(folder / f"{WEIGHTS}.index.json", index)


def _read_tensors(folder: Path) -> dict[str, np.ndarray]:
    found = open_tensors(folder)
    for tensor in found:
        require_floats(folder, tensor)
    return {tensor.name: read_tensor(folder, tensor) for tensor in found}


def _as_written(folder: Path, found: dict[str, np.ndarray]) -> None:
    """Every tensor is what the files say, finite, and none is missing."""
    written: dict[str, np.ndarray] = {}
    for path in folder.glob("*.safetensors"):
        written |= by_hand(path)
    index = folder / f"{WEIGHTS}.index.json"
    if index.exists():
        named = set(json.loads(index.read_text())["weight_map"].values())
        written = {}
        for name in named:
            written |= by_hand(folder / name)
    assert found.keys() == written.keys()
    for name, value in written.items():
        assert np.all(np.isfinite(value))
        assert value.dtype == found[name].dtype
        np.testing.assert_array_equal(found[name], value)


def _building_once(read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def reading(folder: Path) -> Any:
        with contextlib.ExitStack() as stack:
            for name in _BUILDERS:
                stack.enter_context(mock.patch(name, _built))
            return read(folder)

    return reading


def _as_loaded(folder: Path, module: Any) -> None:
    """Every parameter is the tensor of its name in the file."""
    written = by_hand(folder / WEIGHTS)
    for path, value in parameters(module).items():
        wanted = from_torch(path, written[tensor_name(path, module.config)])
        np.testing.assert_array_equal(np.asarray(value), wanted.astype(np.float32))


_WAYS = ("safetensors", "safetensors", "safetensors", "bytes", "kind")


# --- Orbax --------------------------------------------------------------------------


@functools.cache
def _module() -> Any:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        _write_component(Path(folder))
        return weights_convert.load_component(folder)


def _write_checkpoint(folder: Path) -> None:
    checkpoint.save_component(_module(), folder / "vae")


def _write_old_checkpoint(folder: Path) -> None:
    _write_checkpoint(folder)
    (folder / "vae" / checkpoint.DIGESTS).unlink()


def _same_weights(folder: Path, module: Any) -> None:
    for path, value in parameters(module).items():
        wanted = parameters(_module())[path]
        np.testing.assert_array_equal(np.asarray(value), np.asarray(wanted))


# --- the tiny autoencoder's original files ------------------------------------------


def _write_original(folder: Path) -> None:
    for side, shift in (("encoder", 0), ("decoder", 1)):
        start = f"{side}.layers."
        some = {
            f"{int(place) + shift}.{rest}": value
            for name, value in tensors().items()
            if name.startswith(start)
            for place, rest in [name.removeprefix(start).split(".", 1)]
        }
        save_file(some, folder / f"{side}.safetensors")


def _read_original(folder: Path) -> Any:
    return weights_convert.load_taesd(
        folder / "encoder.safetensors", folder / "decoder.safetensors"
    )


def _finite_weights(folder: Path, module: Any) -> None:
    for value in parameters(module).values():
        assert np.all(np.isfinite(np.asarray(value)))


# --- what is copied, and what is read of a folder -----------------------------------


def _write_tokenizer(folder: Path) -> None:
    """A CLIP tokenizer of single letters."""
    folder.mkdir(parents=True)
    letters = [chr(c) for c in range(97, 123)]
    words = [*letters, *(f"{c}</w>" for c in letters), "re", "<|endoftext|>"]
    ids = {token: i for i, token in enumerate(words)}
    write_json(folder / "vocab.json", ids)
    (folder / "merges.txt").write_text("#version: 0.2\nr e\n")
    special = dict.fromkeys(
        ("bos_token", "eos_token", "pad_token", "unk_token"), "<|endoftext|>"
    )
    write_json(folder / "special_tokens_map.json", special)
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 8, **special}
    write_json(folder / "tokenizer_config.json", config)


def _write_pipeline(folder: Path) -> None:
    """A pipeline of parts that do not fit: what is read of it is files."""
    write_json(folder / "model_index.json", INDEX)
    write_json(folder / "scheduler/scheduler_config.json", scheduler("DDIMScheduler"))
    _write_tokenizer(folder / "tokenizer")
    for part in ("unet", "vae", "text_encoder"):
        (folder / part).mkdir()
        (folder / part / WEIGHTS).write_bytes(b"weights")
        write_json(folder / part / "config.json", {})


def _copy(folder: Path) -> dict[str, bytes]:
    """Copy as ``convert`` does; returns all that was written."""
    target = folder.parent / "copied"
    shutil.rmtree(target, ignore_errors=True)
    for part in ("tokenizer", "scheduler"):
        copy_files(folder / part, target / part, model_root(folder))
    return {
        path.relative_to(target).as_posix(): path.read_bytes()
        for path in target.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def _only_from_inside(folder: Path, copied: dict[str, bytes]) -> None:
    for name, content in copied.items():
        assert (folder / name).resolve().is_relative_to(folder)
        assert (folder / name).read_bytes() == content


def _read_tokenizer(folder: Path) -> Any:
    tokenizer = load_tokenizer(folder / "tokenizer", model_root(folder))
    return len(tokenizer), tokenizer("red heart")["input_ids"]


_PARTS = ("vocab.json", "merges.txt", "special_tokens_map.json")
READERS: list[Reader] = [
    Reader(
        name="safetensors",
        make=_write_component,
        damages={WEIGHTS: _WAYS},
        read=_read_tensors,
        holds=_as_written,
    ),
    Reader(
        name="safetensors in shards",
        make=_write_shards,
        damages={
            f"{WEIGHTS}.index.json": ("json", "json", "bytes", "kind"),
            f"{STEM}-00001-of-00002.safetensors": _WAYS,
        },
        read=_read_tensors,
        holds=_as_written,
    ),
    Reader(
        name="files that convert copies",
        make=_write_pipeline,
        damages={
            **{f"tokenizer/{name}": ("kind",) for name in _PARTS},
            "scheduler/scheduler_config.json": ("kind",),
        },
        read=_copy,
        holds=_only_from_inside,
    ),
    Reader(
        name="files of a fingerprint",
        make=_write_pipeline,
        damages={
            **{f"tokenizer/{name}": ("kind",) for name in _PARTS},
            f"unet/{WEIGHTS}": ("kind",),
            "vae/config.json": ("kind",),
        },
        read=loaded_files,
    ),
    Reader(
        name="tokenizer",
        make=_write_pipeline,
        damages={
            "tokenizer/vocab.json": ("json", "bytes", "kind"),
            "tokenizer/merges.txt": ("bytes", "kind"),
            "tokenizer/special_tokens_map.json": ("json", "bytes", "kind"),
            "tokenizer/tokenizer_config.json": ("json", "json", "bytes", "kind"),
        },
        read=_read_tokenizer,
        slow=True,
    ),
    Reader(
        name="component, loaded",
        make=_write_component,
        damages={WEIGHTS: _WAYS, "config.json": ("json",)},
        read=_building_once(weights_convert.load_component),
        holds=_as_loaded,
        slow=True,
    ),
    Reader(
        name="tiny autoencoder's original files",
        make=_write_original,
        damages={f"{side}.safetensors": _WAYS for side in ("encoder", "decoder")},
        read=_building_once(_read_original),
        holds=_finite_weights,
        follows_links=True,
        slow=True,
    ),
    Reader(
        name="Orbax checkpoint without digests",
        make=_write_old_checkpoint,
        damages={
            "vae/params/_METADATA": ("json", "json", "json", "bytes", "kind"),
            "vae/params/_CHECKPOINT_METADATA": ("json", "bytes", "kind"),
            "vae/params/_sharding": ("json", "bytes", "kind"),
            "vae/params/manifest.ocdbt": ("bytes", "kind"),
        },
        read=_building_once(lambda folder: checkpoint.load_component(folder / "vae")),
        holds=_same_weights,
        slow=True,
    ),
    Reader(
        name="Orbax checkpoint",
        make=_write_checkpoint,
        damages={
            "vae/config.json": ("kind",),
            "vae/digests.json": ("json", "bytes", "kind"),
            "vae/params/_METADATA": ("json", "json", "json", "bytes", "kind"),
            "vae/params/_CHECKPOINT_METADATA": ("json", "bytes", "kind"),
            "vae/params/_sharding": ("json", "bytes", "kind"),
            "vae/params/manifest.ocdbt": ("bytes", "kind"),
            "vae/params/array_metadatas/process_0": ("json", "bytes", "kind"),
            "vae/params/ocdbt.process_0/d/*": ("bytes", "kind"),
        },
        read=_building_once(lambda folder: checkpoint.load_component(folder / "vae")),
        holds=_same_weights,
        slow=True,
    ),
]

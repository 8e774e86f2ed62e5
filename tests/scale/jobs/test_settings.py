"""What a job takes for another model."""

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import jaxinv as ji
from jaxinv.loading.convert import convert
from jaxinv.loading.folder import loaded_files
from jaxinv.scale.jobs import model_fingerprint


def write(folder, **files):
    for name, content in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


INDEX = json.dumps(
    {
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    }
)


def diffusers(folder, weights="w"):
    files = {"unet__config.json": "{}", "unet__model.safetensors": weights}
    return write(folder, **{"model_index.json": INDEX}, **files)


def converted(folder, weights="w"):
    files = {"unet__config.json": "{}", "unet__params__d__0": weights}
    index = {"model_index.json": INDEX, "jaxinv.json": "{}"}
    return write(folder, **index, **files)


@pytest.mark.parametrize("layout", [diffusers, converted])
def test_other_weights_are_another_model_and_another_place_is_not(layout, tmp_path):
    first = model_fingerprint(layout(tmp_path / "first"))
    assert model_fingerprint(layout(tmp_path / "second")) == first
    assert model_fingerprint(layout(tmp_path / "third", weights="v")) != first


def test_files_that_are_not_read_do_not_count(tmp_path):
    folder = diffusers(tmp_path / "model")
    before = model_fingerprint(folder)
    write(folder, **{"unet__model.bin": "pickle", "README.md": "hello"})
    assert model_fingerprint(folder) == before


# --- whole models, in every layout --------------------------------------------------

# Files beside a model that no loader looks at.
UNREAD = (
    "README.md", "whole.safetensors", "unet/diffusion_pytorch_model.bin",
    "unet/diffusion_pytorch_model.fp16.safetensors", "vae/flax_model.msgpack",
    "text_encoder/pytorch_model.bin", "tokenizer/notes.md", "scheduler/notes.txt",
    "safety_checker/model.safetensors", "safety_checker/config.json",
)  # fmt: skip


ELSEWHERE = "elsewhere"


def as_folder(source, target):
    return shutil.copytree(source, target)


def with_linked_parts(source, target):
    """Two parts in another place of the folder, and one file."""
    copy = shutil.copytree(source, target)
    elsewhere = target / ELSEWHERE
    elsewhere.mkdir()
    for name in ("unet", "tokenizer", "vae/config.json"):
        moved = shutil.move(copy / name, elsewhere / name.replace("/", "-"))
        (copy / name).symlink_to(os.path.relpath(moved, (copy / name).parent))
    return copy


def in_a_cache(source, target):
    """As in the hub's cache: every file is a link to one that its content names."""
    snapshot = target / "snapshots/0123"
    (target / "blobs").mkdir(parents=True)
    for path in source.rglob("*"):
        if path.is_file():
            blob = target / "blobs" / hashlib.sha1(str(path).encode()).hexdigest()
            shutil.copy(path, blob)
            link = snapshot / path.relative_to(source)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


LAYOUTS = (as_folder, with_linked_parts, in_a_cache)


@pytest.fixture(scope="module", params=["diffusers", "fp16", "sharded", "converted"])
def stored(request, diffusers_folder, tmp_path_factory):
    """The random model in every format, with files beside it that are not read."""
    target = tmp_path_factory.mktemp("stored") / "model"
    weights = "unet/diffusion_pytorch_model"
    unread = set(UNREAD)
    if request.param == "converted":
        convert(diffusers_folder, target)
    else:
        shutil.copytree(diffusers_folder, target)
    whole = target / f"{weights}.safetensors"
    if request.param == "fp16":
        unread.remove(f"{weights}.fp16.safetensors")
        whole.rename(target / f"{weights}.fp16.safetensors")
    if request.param == "sharded":
        tensors, names = load_file(whole), {}
        for number in range(2):
            shard = f"diffusion_pytorch_model-0000{number + 1}-of-00002.safetensors"
            some = dict(list(tensors.items())[number::2])
            save_file(some, target / "unet" / shard)
            names |= dict.fromkeys(some, shard)
        index = whole.with_name(f"{whole.name}.index.json")
        index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
        whole.unlink()
    for name in unread:
        path = target / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    return target, unread


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_byte_that_is_read_counts_and_no_other_does(stored, layout, tmp_path):
    source, unread = stored
    rng = random.Random(str(source) + layout.__name__)
    folder = layout(source, tmp_path / "model")
    before = model_fingerprint(folder)
    files = [
        Path(parent, name).relative_to(folder).as_posix()
        for parent, _, names in os.walk(folder, followlinks=True)
        for name in names
        if ELSEWHERE not in Path(parent).parts
    ]
    assert unread < set(files)
    chosen = rng.sample(sorted(set(files) - unread), min(12, len(files) - len(unread)))
    for name in [*chosen, *unread]:
        path = folder / name
        content, dates = path.read_bytes(), path.stat()
        if not content:
            continue
        place = rng.randrange(len(content))
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        os.utime(path, ns=(dates.st_atime_ns, dates.st_mtime_ns))
        try:
            same = model_fingerprint(folder) == before
        except ValueError:  # an index that lists no files any more
            same = False
        assert same == (name in unread), name
        path.write_bytes(content)
    assert model_fingerprint(folder) == before


def test_the_place_and_the_layout_do_not_count(stored, tmp_path):
    source, _ = stored
    found = {
        model_fingerprint(layout(source, tmp_path / layout.__name__))
        for layout in LAYOUTS
    }
    assert found == {model_fingerprint(source)}


def test_the_files_that_count_are_enough_to_load_the_model(stored, tmp_path):
    source, _ = stored
    for name, path in loaded_files(source).items():
        target = tmp_path / "least" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    least, whole = ji.load(tmp_path / "least"), ji.load(source)
    pairs = zip(jax.tree.leaves(least), jax.tree.leaves(whole), strict=True)
    assert all(np.array_equal(*pair) for pair in pairs)
    assert least.tokenize("red a").tolist() == whole.tokenize("red a").tolist()

"""Weights that somebody else wrote: numbers, names, links and pipes."""

import json
import os
import random
import shutil
import struct

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxinv as ji
import weights_convert
from jaxinv.loading import checkpoint
from jaxinv.loading.convert import convert
from jaxinv.models import AutoencoderTinyConfig
from weights_convert.reader import open_tensors, read_tensor

CONFIG = AutoencoderTinyConfig(
    encoder_block_out_channels=(8,),
    decoder_block_out_channels=(8,),
    num_encoder_blocks=(1,),
    num_decoder_blocks=(1,),
)
WEIGHTS = "diffusion_pytorch_model.safetensors"
DTYPES = (np.float64, np.float32, np.float16, ml_dtypes.bfloat16)


def tensors(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        name: rng.standard_normal(shape).astype(dtype)
        for name, shape in weights_convert.tensor_shapes(CONFIG).items()
    }


def write(folder, values):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    save_file(values, folder / WEIGHTS)
    return folder


def write_shards(folder):
    values = tensors()
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG.to_dict()))
    names = {}
    for number in range(2):
        some = dict(list(values.items())[number::2])
        save_file(some, folder / f"part{number}.safetensors")
        names |= dict.fromkeys(some, f"part{number}.safetensors")
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": names}))
    return folder


def refused(folder, match):
    with pytest.raises(weights_convert.WeightsError, match=match) as error:
        weights_convert.load_component(folder)
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_none_is_refused_by_name(dtype, value, tmp_path):
    values = tensors(dtype)
    rng = random.Random(str(dtype) + str(value))
    name = rng.choice(sorted(values))
    values[name].flat[rng.randrange(values[name].size)] = value
    folder = write(tmp_path / "vae", values)
    (stored,) = (each for each in open_tensors(folder) if each.name == name)
    with pytest.raises(weights_convert.WeightsError, match="NaN or infinite") as error:
        read_tensor(folder, stored)
    assert name in str(error.value)


def test_weights_that_overflow_in_the_wanted_type_are_refused(tmp_path):
    values = tensors()
    values["encoder.layers.0.weight"][0, 0, 0, 0] = 1e6
    folder = write(tmp_path / "vae", values)
    with pytest.raises(weights_convert.WeightsError, match="too large for float16"):
        weights_convert.load_component(folder, param_dtype="float16")
    weights_convert.load_component(folder, param_dtype="bfloat16")


def with_header(path, change):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = change(data[8 : 8 + size].decode()).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + size :])


def test_a_name_that_is_there_twice_in_a_header_is_refused(tmp_path):
    folder = write(tmp_path / "vae", tensors())

    def twice(header):
        name, entry = next(iter(json.loads(header).items()))
        return f"{header.rstrip()[:-1]}, {json.dumps({name: entry})[1:-1]}}}"

    with_header(folder / WEIGHTS, twice)
    refused(folder, "duplicate key")


def test_a_name_that_is_there_twice_in_two_shards_is_refused(tmp_path):
    folder = write_shards(tmp_path / "vae")
    save_file(tensors(), folder / "part1.safetensors")
    refused(folder, "stored twice")


@pytest.mark.parametrize("seed", range(5))
def test_tensors_that_overlap_are_refused(seed, tmp_path):
    folder = write(tmp_path / "vae", tensors())
    rng = random.Random(seed)

    def overlap(header):
        entries = json.loads(header)
        one, other = rng.sample(sorted(entries), 2)
        entries[one]["data_offsets"] = entries[other]["data_offsets"]
        return json.dumps(entries)

    with_header(folder / WEIGHTS, overlap)
    refused(folder, "truncated or corrupt")


@pytest.mark.parametrize("size", [9 * 2**20, 2**40, 2**64 - 1])
def test_a_header_of_unreasonable_length_is_not_read(size, tmp_path):
    folder = write(tmp_path / "vae", tensors())
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", size) + data[8:])
    refused(folder, "truncated or corrupt")


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "out", "loop"])
@pytest.mark.parametrize("file", ["part1.safetensors", f"{WEIGHTS}.index.json"])
def test_what_an_index_lists_must_be_files_of_the_folder(kind, file, tmp_path):
    folder = write_shards(tmp_path / "vae")
    path = folder / file
    shutil.move(path, tmp_path / "moved")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        targets = {"device": "/dev/zero", "out": tmp_path / "moved", "loop": path}
        path.symlink_to(targets[kind])
    refused(folder, "expected a file|leads out|cannot be read")


@pytest.mark.parametrize("name", ["../vae.safetensors", "..", "/etc/passwd", "a\0b", 7])
def test_an_index_lists_names_of_files(name, tmp_path):
    folder = write_shards(tmp_path / "vae")
    index = {"weight_map": {"encoder.layers.0.weight": name}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    refused(folder, "outside its folder|expected text")


def test_links_of_the_hubs_cache_are_read(tmp_path):
    source = write(tmp_path / "vae", tensors())
    root = tmp_path / "models--owner--name"
    part = root / "snapshots" / "0123" / "vae"
    (root / "blobs").mkdir(parents=True)
    part.mkdir(parents=True)
    for number, path in enumerate(sorted(source.iterdir())):
        shutil.copy(path, root / "blobs" / str(number))
        (part / path.name).symlink_to(f"../../../blobs/{number}")
    weights_convert.load_component(part)


# --- whole pipelines ----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_link_out_of_a_pipeline_is_neither_read_nor_copied(
    seed, diffusers_folder, tmp_path
):
    copy = shutil.copytree(diffusers_folder, tmp_path / "copy")
    (tmp_path / "secret").write_text("{}")
    rng = random.Random(seed)
    extra = copy / rng.choice(["tokenizer/extra.txt", "scheduler/x.json"])
    link = extra if seed else rng.choice(sorted(copy.rglob("*.json")))
    link.unlink(missing_ok=True)
    link.symlink_to(rng.choice(["/etc/passwd", tmp_path / "secret"]))
    with pytest.raises(ValueError, match="leads out of the model's folder"):
        convert(copy, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()
    if link != extra or link.parent.name == "tokenizer":
        with pytest.raises(ValueError, match="leads out of the model's folder"):
            ji.load(copy)


# --- checkpoints --------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    module = weights_convert.load_component(write(folder / "diffusers", tensors()))
    checkpoint.save_component(module, folder / "vae")
    return folder / "vae"


@pytest.mark.parametrize("key", ["tree_metadata", "use_ocdbt", "custom_metadata"])
@pytest.mark.parametrize("value", [None, 7, [], {"a": {"b": 1}}, "x"])
def test_damaged_metadata_is_one_clear_line_or_harmless(saved, key, value, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "vae")
    path = copy / "params" / "_METADATA"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    (copy / checkpoint.DIGESTS).unlink()  # or nothing of it would be read
    said = str(copy)
    try:
        checkpoint.load_component(copy)
    except ValueError as error:
        said = str(error)
    assert str(copy) in said
    assert "\n" not in said


@pytest.mark.parametrize("seed", range(20))
def test_a_bit_that_flips_in_a_checkpoint_is_found(saved, seed, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "vae")
    rng = random.Random(seed)
    files = [path for path in sorted((copy / "params").rglob("*")) if path.is_file()]
    path = rng.choice([path for path in files if path.stat().st_size])
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged|cannot be read") as error:
        checkpoint.load_component(copy)
    assert str(copy) in str(error.value)


@pytest.mark.parametrize("content", ["{}", '{"sha256": []}', '{"sha256": {"a": 1}}'])
def test_damaged_digests_are_one_clear_line(saved, content, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "vae")
    (copy / checkpoint.DIGESTS).write_text(content)
    with pytest.raises(ValueError, match=r"digests\.json: sha256"):
        checkpoint.load_component(copy)


def test_a_checkpoint_without_digests_is_read(saved, tmp_path):
    copy = shutil.copytree(saved, tmp_path / "vae")
    (copy / checkpoint.DIGESTS).unlink()
    checkpoint.load_component(copy)


def test_a_checkpoint_of_numbers_that_are_none_is_refused(saved, tmp_path):
    from jaxinv.models.parameters import parameters, with_parameters

    module = checkpoint.load_component(saved)
    values = parameters(module)
    values["encoder.layers.0.bias"] = values["encoder.layers.0.bias"].at[0].set(np.nan)
    checkpoint.save_component(with_parameters(module, values), tmp_path / "vae")
    with pytest.raises(ValueError, match=r"'encoder\.layers\.0\.bias' has values"):
        checkpoint.load_component(tmp_path / "vae")


def test_a_marker_of_another_format_is_refused(diffusers_folder, tmp_path):
    convert(diffusers_folder, tmp_path / "converted")
    marker = tmp_path / "converted" / checkpoint.MARKER
    marker.write_text(json.dumps(checkpoint.FORMAT | {"version": 2}))
    with pytest.raises(ValueError, match="names an unsupported format"):
        ji.load(tmp_path / "converted")

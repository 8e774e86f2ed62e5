"""Finding and loading models."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxinv as ji
from jaxinv.loading.find import embedded_models


@pytest.fixture
def copy(diffusers_folder, tmp_path):
    """A copy of the random model that a test may damage."""
    return shutil.copytree(diffusers_folder, tmp_path / "copy")


def test_the_embedded_model_is_found_by_name(emoji64):
    assert emoji64.name == "emoji64"
    assert emoji64.image_size == (64, 64)
    assert emoji64.latent_shape == (16, 16, 4)
    assert "emoji64" in embedded_models()


def test_a_folder_is_loaded_with_its_size_and_schedule(tiny):
    assert tiny.name == "tiny"
    assert tiny.image_size == (32, 32)
    assert tiny.latent_shape == (8, 8, 4)
    assert tiny.schedule.steps_offset == 1
    assert not tiny.schedule.set_alpha_to_one


def test_a_converted_checkpoint_gives_the_same_parameters(
    diffusers_folder, tiny, tmp_path
):
    from jaxinv.loading.convert import convert

    convert(diffusers_folder, tmp_path / "orbax")
    converted = ji.load(tmp_path / "orbax")
    ours, theirs = jax.tree.leaves(converted), jax.tree.leaves(tiny)
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
    assert converted.tokenize("red").tolist() == tiny.tokenize("red").tolist()


def test_dtypes_are_those_asked_for(diffusers_folder):
    pipe = ji.load(diffusers_folder, dtype=jnp.bfloat16)
    assert pipe.network.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(pipe)} == {jnp.dtype(jnp.bfloat16)}
    pipe = ji.load(diffusers_folder, dtype=jnp.bfloat16, param_dtype=jnp.float32)
    assert {leaf.dtype for leaf in jax.tree.leaves(pipe)} == {jnp.dtype(jnp.float32)}


def test_an_autoencoder_that_overflows_in_float16_stays_in_float32(
    diffusers_folder, monkeypatch
):
    # A CPU would be refused: it cannot compute the others in float16.
    monkeypatch.setattr("jaxinv.loading.load._platform", lambda sharding: "gpu")
    pipe = ji.load(diffusers_folder, dtype=jnp.float16)
    assert pipe.network.dtype == jnp.float16
    assert pipe.vae.dtype == jnp.float32


def test_nothing_of_pytorch_is_imported(diffusers_folder):
    code = (
        "import sys, jaxinv; jaxinv.load(sys.argv[1]).encode_prompt('red'); "
        "assert not {'torch', 'diffusers'} & sys.modules.keys()"
    )
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "USE_TORCH": "0"}
    subprocess.run(
        [sys.executable, "-c", code, str(diffusers_folder)], check=True, env=environment
    )


def test_an_unknown_name_says_what_was_tried():
    with pytest.raises(FileNotFoundError) as caught:
        ji.load("no-such-model")
    message = str(caught.value)
    assert "emoji64" in message
    assert "folder no-such-model" in message
    assert "owner/name" in message


def test_a_hub_name_without_network_says_what_was_tried(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="hub and its local cache") as caught:
        ji.load("nobody/no-such-model")
    assert "\n" not in str(caught.value)


def test_a_download_takes_the_parts_and_no_pickles(
    monkeypatch, diffusers_folder, tmp_path
):
    import huggingface_hub

    asked = {}

    def fake_download(name, *, revision, allow_patterns):
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(diffusers_folder)

    files = ["model_index.json", "vae/config.json", "unet/model.bin", "sd.safetensors"]
    files += ["unet/diffusion_pytorch_model.safetensors"]
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake_download)
    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=f) for f in files])
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", lambda self, name, revision: info
    )
    monkeypatch.chdir(tmp_path)
    pipe = ji.load("somebody/model", revision="v1")
    assert pipe.name == "somebody/model"
    assert (asked["name"], asked["revision"]) == ("somebody/model", "v1")
    assert "unet/diffusion_pytorch_model.safetensors" in asked["patterns"]
    assert not {"unet/model.bin", "sd.safetensors"} & set(asked["patterns"])


def test_a_file_that_holds_nothing_is_refused(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="truncated or corrupt"):
        ji.load(path)
    with pytest.raises(ValueError, match="is not a folder with unet"):
        ji.load(path, subfolder="unet")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no model_index\.json"):
        ji.load(tmp_path)


@pytest.mark.parametrize("part", ["unet", "vae", "tokenizer", "scheduler"])
def test_a_missing_part_is_named(copy, part):
    shutil.rmtree(copy / part)
    with pytest.raises(ValueError, match=f"the folder {part} is missing"):
        ji.load(copy)


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_a_missing_vocabulary_is_named(copy, file):
    (copy / "tokenizer" / file).unlink()
    with pytest.raises(ValueError, match=f"{file} missing"):
        ji.load(copy)


def test_a_pipeline_of_another_kind_is_refused_by_its_name(copy):
    index = json.loads((copy / "model_index.json").read_text())
    index["_class_name"] = "SanaPipeline"
    index["transformer"] = [index.pop("unet")[0], "SanaTransformer2DModel"]
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(
        ValueError, match=r"of class SanaTransformer2DModel.*this SanaPip"
    ):
        ji.load(copy)


def test_damaged_json_is_named(copy):
    (copy / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match=r"model_index\.json cannot be read"):
        ji.load(copy)


def test_truncated_weights_are_named(copy):
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="truncated or corrupt"):
        ji.load(copy)

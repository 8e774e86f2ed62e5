"""A diffusers pipeline to an Orbax checkpoint and back, on the command line and off."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from typer.testing import CliRunner

import jaxinv as ji
import weights_convert
from jaxinv.cli import app
from jaxinv.loading import checkpoint
from jaxinv.loading.convert import convert
from jaxinv.loading.find import wanted_files
from jaxinv.models.parameters import parameters

PARTS = ("unet", "vae", "text_encoder")
BAD_INPUT = 2


def run(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


@pytest.fixture(scope="module")
def converted(diffusers_folder, tmp_path_factory):
    """The random pipeline as a checkpoint."""
    return convert(diffusers_folder, tmp_path_factory.mktemp("converted") / "tiny")


@pytest.fixture
def source(diffusers_folder, tmp_path):
    """A copy of the random pipeline, to be spoilt."""
    return shutil.copytree(diffusers_folder, tmp_path / "source")


def assert_equal(found, wanted):
    assert found.config == wanted.config
    found, wanted = parameters(found), parameters(wanted)
    assert found.keys() == wanted.keys()
    for path in found:
        assert found[path].dtype == wanted[path].dtype
        np.testing.assert_array_equal(found[path], wanted[path], err_msg=path)


@pytest.mark.parametrize("part", PARTS)
def test_a_checkpoint_holds_exactly_the_converted_weights(
    diffusers_folder, converted, part
):
    found = checkpoint.load_component(converted / part)
    assert_equal(found, weights_convert.load_component(diffusers_folder / part))


def test_a_checkpoint_has_the_documented_layout(diffusers_folder, converted):
    assert checkpoint.is_checkpoint(converted)
    assert not checkpoint.is_checkpoint(diffusers_folder)
    for part in PARTS:
        assert (converted / part / "config.json").is_file()
        assert (converted / part / "params").is_dir()
    for part in ("tokenizer", "scheduler"):
        for file in (diffusers_folder / part).iterdir():
            copy = converted / part / file.name
            assert copy.read_bytes() == file.read_bytes()
    index = json.loads((converted / "model_index.json").read_text())
    assert index == json.loads((diffusers_folder / "model_index.json").read_text())
    assert [p.name for p in converted.parent.iterdir()] == [converted.name]


def test_restored_parameters_take_the_dtype_that_is_asked_for(converted):
    vae = checkpoint.load_component(
        converted / "vae", dtype=jnp.bfloat16, param_dtype=jnp.bfloat16
    )
    wide = checkpoint.load_component(converted / "vae")
    assert vae.dtype == jnp.bfloat16
    assert_equal(vae, jax.tree.map(lambda x: x.astype(jnp.bfloat16), wide))


def test_the_command_line_converts_and_does_not_overwrite(diffusers_folder, tmp_path):
    dst = tmp_path / "new" / "dst"
    command = (diffusers_folder, dst, "--dtype", "bfloat16")
    assert run(*command).exit_code == 0
    (dst / "mine").write_text("precious")
    refused = run(*command)
    assert refused.exit_code == BAD_INPUT
    assert "not empty" in refused.stderr
    assert (dst / "mine").exists()
    assert run(*command, "--force").exit_code == 0
    assert not (dst / "mine").exists()
    assert os.listdir(tmp_path / "new") == ["dst"]
    vae = checkpoint.load_component(dst / "vae")
    original = weights_convert.load_component(diffusers_folder / "vae")
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), original)
    assert_equal(vae, rounded)


def test_a_conversion_that_fails_leaves_nothing_behind(source, tmp_path):
    weights = source / "vae/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{weights} is truncated or corrupt"):
        convert(source, tmp_path / "dst")
    assert os.listdir(tmp_path) == ["source"]


def test_an_incomplete_or_foreign_pipeline_is_named(source, tmp_path):
    index = json.loads((source / "model_index.json").read_text())

    def write_index(**entries):
        (source / "model_index.json").write_text(json.dumps(index | entries))

    dst = tmp_path / "dst"
    write_index(transformer=["diffusers", "FluxTransformer2DModel"])
    with pytest.raises(ValueError, match=r"'transformer' \(FluxTransformer2DModel"):
        convert(source, dst)
    write_index(text_encoder_2=[None, None], safety_checker=["x", "Checker"])
    shutil.rmtree(source / "tokenizer")
    with pytest.raises(ValueError, match="the folder tokenizer is missing"):
        convert(source, dst)
    (source / "model_index.json").unlink()
    with pytest.raises(ValueError, match=r"it has no model_index\.json"):
        convert(source, dst)
    with pytest.raises(FileNotFoundError, match=r"no model .*nowhere.*not a hub name"):
        convert(tmp_path / "nowhere", dst)


def test_an_output_that_cannot_be_written_is_an_error(diffusers_folder, tmp_path):
    (tmp_path / "file").write_text("no folder")
    for target, match in (("file", "is not a folder"), ("file/dst", "file")):
        refused = run(diffusers_folder, tmp_path / target)
        assert refused.exit_code == BAD_INPUT
        assert "error:" in refused.stderr
        assert match in refused.stderr


def test_a_hub_name_downloads_only_what_is_needed(
    diffusers_folder, tmp_path, monkeypatch
):
    asked = {}

    def snapshot_download(name, allow_patterns):
        asked[name] = allow_patterns
        return str(diffusers_folder)

    files = ["model_index.json", "unet/diffusion_pytorch_model.safetensors", "big.ckpt"]
    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=f) for f in files])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda self, name: info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    convert("someone/some-model", tmp_path / "dst")
    assert asked == {"someone/some-model": files[:2]}


def test_a_download_that_fails_is_an_error(tmp_path, monkeypatch):
    def refuse(self, name):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(FileNotFoundError, match=r"'someone/model'.*\(no route\)"):
        convert("someone/model", tmp_path / "dst")
    assert not os.listdir(tmp_path)


def test_of_all_variants_on_the_hub_one_set_of_safetensors_is_taken():
    stem = "diffusion_pytorch_model"
    files = [
        "README.md",
        "v1-5-pruned.safetensors",
        "model_index.json",
        "unet/config.json",
        f"unet/{stem}.bin",
        f"unet/{stem}.fp16.safetensors",
        f"unet/{stem}.non_ema.safetensors",
        f"unet/{stem}.safetensors",
        "vae/config.json",
        f"vae/{stem}.fp16.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors.index.json",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder/model-00002-of-00002.safetensors",
        "text_encoder/pytorch_model.bin",
        "text_encoder/onnx/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/vocab.json",
        "scheduler/scheduler_config.json",
        "safety_checker/model.safetensors",
    ]
    assert set(files) - set(wanted_files(files)) == {
        "README.md",
        "v1-5-pruned.safetensors",
        f"unet/{stem}.bin",
        f"unet/{stem}.fp16.safetensors",
        f"unet/{stem}.non_ema.safetensors",
        "text_encoder/pytorch_model.bin",
        "text_encoder/onnx/model.safetensors",
        "safety_checker/model.safetensors",
    }


def test_a_folder_that_is_no_checkpoint_is_an_error(diffusers_folder, converted):
    with pytest.raises(ValueError, match="not a jaxinv component"):
        checkpoint.load_component(diffusers_folder / "unet")
    with pytest.raises(ValueError, match="not a jaxinv component"):
        checkpoint.load_component(converted)


def test_a_checkpoint_that_does_not_match_its_configuration_is_named(
    converted, tmp_path
):
    folder = shutil.copytree(converted / "vae", tmp_path / "vae")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"latent_channels": 8}))
    with pytest.raises(
        ValueError, match=r"'decoder\.conv_in\.kernel'.*\(3, 3, 8, \d+\)"
    ):
        checkpoint.load_component(folder)
    config["use_quant_conv"] = False
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"'quant_conv\.bias'.*None"):
        checkpoint.load_component(folder)


def test_a_checkpoint_is_restored_straight_into_shards(converted):
    # Eight devices need a fresh process: their number is fixed when JAX starts.
    code = """
        import sys, jax, jax.numpy as jnp, numpy as np
        from jax.sharding import (
            AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding
        )
        from jaxinv.loading import checkpoint
        from jaxinv.models.parameters import parameters

        mesh = jax.make_mesh((8,), ("model",), axis_types=(AxisType.Auto,))

        def rule(path, shape):
            split = "model" if path.endswith("kernel") and shape[-1] % 8 == 0 else None
            return NamedSharding(mesh, PartitionSpec(*[None] * (len(shape) - 1), split))

        plain = checkpoint.load_component(sys.argv[1])
        last = SingleDeviceSharding(jax.devices()[-1])
        rules = {path: rule(path, x.shape) for path, x in parameters(plain).items()}
        count = 0
        for sharding in (rule, rules, last):
            found = checkpoint.load_component(sys.argv[1], sharding=sharding)
            for path, x in parameters(found).items():
                wanted = rules[path] if sharding is not last else last
                assert x.sharding.is_equivalent_to(wanted, x.ndim), path
                np.testing.assert_array_equal(x, parameters(plain)[path])
                if wanted.is_fully_replicated or sharding is last:
                    continue
                assert x.addressable_shards[0].data.size * 8 == x.size
                count += 1
        assert count > 20

        sharded = checkpoint.load_component(sys.argv[1], sharding=rule)
        ids = jnp.arange(9)
        run = jax.jit(lambda model, ids: model(ids).last_hidden_state)
        error = jnp.abs(jax.device_get(run(sharded, ids)) - run(plain, ids)).max()
        assert error < 1e-5, error
        print("ok", count)
    """
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "8",
    }
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(converted / "text_encoder")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("ok")


@pytest.mark.parametrize("dtype", ["float16", np.float16, jnp.float16])
def test_an_autoencoder_that_overflows_is_not_loaded_in_16_bits(
    dtype, diffusers_folder, monkeypatch
):
    loading = importlib.import_module("jaxinv.loading.load")
    # A CPU refuses float16, which it does not compute in.
    monkeypatch.setattr(loading, "check_dtypes", lambda **_: None)
    config = json.loads((diffusers_folder / "vae" / "config.json").read_text())
    assert config["force_upcast"]
    pipe = ji.load(diffusers_folder, dtype=dtype)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(nnx.state(pipe.vae))}
    assert kinds == {jnp.dtype(jnp.float32)}
    kinds = {leaf.dtype for leaf in jax.tree.leaves(nnx.state(pipe.network))}
    assert kinds == {jnp.dtype(jnp.float16)}

"""Loading is strict, saving is readable by PyTorch, and a round trip loses no bit."""

import json
import shutil
import subprocess
import sys

import diffusers
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

import weights_convert
from jaxinv.models.parameters import parameters
from weights_convert import WeightsError

VAE = {
    "down_block_types": ("DownEncoderBlock2D",),
    "up_block_types": ("UpDecoderBlock2D",),
    "block_out_channels": (8,),
    "norm_num_groups": 4,
}
VAE_FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folders of one small component each, as diffusers and transformers save them."""
    root = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    diffusers.AutoencoderKL(**VAE).save_pretrained(root / "vae")
    diffusers.UNet2DConditionModel(
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
    ).save_pretrained(root / "unet")
    config = transformers.CLIPTextConfig(
        vocab_size=50,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=48,
        eos_token_id=49,
    )
    transformers.CLIPTextModel(config).save_pretrained(root / "text_encoder")
    return root


@pytest.fixture
def vae(saved, tmp_path):
    """A copy of the autoencoder's folder as (folder, tensors), to be spoilt."""
    folder = tmp_path / "vae"
    folder.mkdir()
    config = (saved / "vae/config.json").read_text()
    (folder / "config.json").write_text(config)
    return folder, load_file(saved / "vae" / VAE_FILE)


def write(folder, tensors, name=VAE_FILE):
    save_file(tensors, folder / name, metadata={"format": "pt"})


def assert_equal(found, wanted):
    found, wanted = parameters(found), parameters(wanted)
    assert found.keys() == wanted.keys()
    for path in found:
        assert found[path].dtype == wanted[path].dtype
        np.testing.assert_array_equal(found[path], wanted[path], err_msg=path)


TORCH_CLASSES = {
    "unet": diffusers.UNet2DConditionModel,
    "vae": diffusers.AutoencoderKL,
    "text_encoder": transformers.CLIPTextModel,
}


@pytest.mark.parametrize("name", TORCH_CLASSES)
def test_what_we_save_is_bit_exact_for_us_and_for_pytorch(saved, tmp_path, name):
    ours = weights_convert.load_component(saved / name)
    weights_convert.save_component(ours, tmp_path / "again")
    assert_equal(weights_convert.load_component(tmp_path / "again"), ours)
    original = TORCH_CLASSES[name].from_pretrained(saved / name).state_dict()
    theirs, report = TORCH_CLASSES[name].from_pretrained(
        tmp_path / "again", output_loading_info=True
    )
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys"))
    again = theirs.state_dict()
    assert again.keys() == original.keys()
    for key in original:
        assert torch.equal(again[key], original[key]), key


@pytest.mark.parametrize(
    ("dtype", "stored"), [(jnp.float16, np.float16), (jnp.bfloat16, ml_dtypes.bfloat16)]
)
def test_half_precision_files_are_written_and_read(saved, tmp_path, dtype, stored):
    ours = weights_convert.load_component(saved / "vae")
    weights_convert.save_component(ours, tmp_path / "half", dtype=dtype)
    tensors = load_file(tmp_path / "half" / VAE_FILE)
    assert {x.dtype for x in tensors.values()} == {np.dtype(stored)}
    wide = weights_convert.load_component(tmp_path / "half")
    expected = jax.tree.map(lambda x: x.astype(dtype).astype(jnp.float32), ours)
    assert_equal(wide, expected)
    narrow = weights_convert.load_component(tmp_path / "half", param_dtype=dtype)
    assert_equal(narrow, jax.tree.map(lambda x: x.astype(dtype), ours))


def test_the_compute_dtype_is_independent_of_the_parameters(saved):
    ours = weights_convert.load_component(saved / "unet", dtype=jnp.bfloat16)
    assert ours.conv_in.dtype == jnp.bfloat16
    assert ours.conv_in.kernel.dtype == jnp.float32


def test_saving_over_something_is_refused_and_leaves_it_alone(saved, tmp_path):
    ours = weights_convert.load_component(saved / "vae")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/precious").write_text("mine")
    with pytest.raises(FileExistsError, match="full"):
        weights_convert.save_component(ours, tmp_path / "full")
    assert [p.name for p in tmp_path.rglob("*")] == ["full", "precious"]


def test_a_missing_tensor_is_named(vae):
    folder, tensors = vae
    del tensors["decoder.conv_in.weight"]
    write(folder, tensors)
    message = r"'decoder\.conv_in\.weight' of shape \(8, 4, 3, 3\) is missing"
    with pytest.raises(WeightsError, match=message):
        weights_convert.load_component(folder)


def test_an_extra_tensor_is_named(vae):
    folder, tensors = vae
    write(folder, tensors | {"decoder.extra.weight": np.zeros((3, 2), np.float32)})
    message = r"'decoder\.extra\.weight' of shape \(3, 2\) has no place in Autoencoder"
    with pytest.raises(WeightsError, match=message):
        weights_convert.load_component(folder)


def test_a_wrong_shape_is_named_with_the_expected_one(vae):
    folder, tensors = vae
    tensors["encoder.conv_in.weight"] = np.zeros((8, 4, 3, 3), np.float32)
    write(folder, tensors)
    message = r"'encoder\.conv_in\.weight' has shape \(8, 4, 3, 3\).*\(8, 3, 3, 3\)"
    with pytest.raises(WeightsError, match=message):
        weights_convert.load_component(folder)


def test_integer_weights_are_refused(vae):
    folder, tensors = vae
    tensors["encoder.conv_in.bias"] = np.zeros(8, np.int8)
    write(folder, tensors)
    with pytest.raises(WeightsError, match=r"'encoder\.conv_in\.bias'.*I8"):
        weights_convert.load_component(folder)


@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_named(vae, keep):
    folder, tensors = vae
    write(folder, tensors)
    content = (folder / VAE_FILE).read_bytes()
    (folder / VAE_FILE).write_bytes(content[: int(keep * len(content))])
    with pytest.raises(WeightsError, match=rf"{VAE_FILE} is truncated or corrupt"):
        weights_convert.load_component(folder)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "model.ckpt", "a.pt"])
def test_a_pickle_is_refused_with_the_way_to_convert_it(vae, name):
    folder, _ = vae
    (folder / name).write_bytes(b"anything: it must not be opened")
    with pytest.raises(WeightsError, match=rf"{name} is a pickle.*save_pretrained"):
        weights_convert.load_component(folder)


def test_a_pickle_beside_safetensors_does_not_matter(vae):
    folder, tensors = vae
    write(folder, tensors)
    (folder / "diffusion_pytorch_model.bin").write_bytes(b"not opened")
    weights_convert.load_component(folder)


def test_a_folder_without_weights_or_configuration_is_an_error(vae, tmp_path):
    folder, tensors = vae
    with pytest.raises(WeightsError, match="does not hold"):
        weights_convert.load_component(folder)
    write(folder, tensors)
    (folder / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config\.json cannot be read as JSON"):
        weights_convert.load_component(folder)
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        weights_convert.load_component(folder)
    with pytest.raises(WeightsError, match=r"config\.json is missing"):
        weights_convert.load_component(tmp_path / "nowhere")


def test_an_option_that_is_not_implemented_is_named_with_its_file(vae):
    folder, tensors = vae
    write(folder, tensors)
    config = json.loads((folder / "config.json").read_text())
    config["down_block_types"] = ["AttnDownEncoderBlock2D"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"config\.json.*AttnDownEncoderBlock2D"):
        weights_convert.load_component(folder)


def test_legacy_attention_names_load_as_the_same_model(saved, vae):
    folder, tensors = vae
    legacy = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, tensor in tensors.items():
        for new, early in legacy.items():
            if ".attentions.0." in name:
                name = name.replace(f".{new}.", f".{early}.")
        old[name] = tensor
    assert sum(".proj_attn." in name for name in old) == 4
    write(folder, old)
    found = weights_convert.load_component(folder)
    assert_equal(found, weights_convert.load_component(saved / "vae"))
    # Both names of one weight: one of the two would be ignored.
    name = "decoder.mid_block.attentions.0.to_q.weight"
    write(folder, old | {name: tensors[name]})
    with pytest.raises(WeightsError, match="are the same weight"):
        weights_convert.load_component(folder)


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_text_encoders_load_with_and_without_prefix_and_buffer(saved, tmp_path, prefix):
    tensors = load_file(saved / "text_encoder/model.safetensors")
    tensors = {
        prefix + name.removeprefix("text_model."): x for name, x in tensors.items()
    }
    tensors[f"{prefix}embeddings.position_ids"] = np.arange(8)[None]
    folder = tmp_path / "text_encoder"
    folder.mkdir()
    (folder / "config.json").write_text(
        (saved / "text_encoder/config.json").read_text()
    )
    write(folder, tensors, "model.safetensors")
    found = weights_convert.load_component(folder)
    assert_equal(found, weights_convert.load_component(saved / "text_encoder"))


def test_files_split_by_an_index_load_as_one(saved, vae):
    folder, _ = vae
    model = diffusers.AutoencoderKL.from_pretrained(saved / "vae")
    model.save_pretrained(folder, max_shard_size="8KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    found = weights_convert.load_component(folder)
    assert_equal(found, weights_convert.load_component(saved / "vae"))
    lost = sorted(folder.glob("*.safetensors"))[0]
    lost.unlink()
    with pytest.raises(WeightsError, match=f"{lost.name} is missing"):
        weights_convert.load_component(folder)


def test_an_index_cannot_point_outside_its_folder(vae):
    folder, tensors = vae
    write(folder.parent, tensors, "outside.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "../outside.safetensors")}
    (folder / f"{VAE_FILE}.index.json").write_text(json.dumps(index))
    with pytest.raises(WeightsError, match="points outside its folder"):
        weights_convert.load_component(folder)


def test_the_fp16_variant_is_taken_only_if_there_is_no_plain_file(saved, vae):
    folder, tensors = vae
    zeros = {name: np.zeros_like(x, np.float16) for name, x in tensors.items()}
    write(folder, zeros, "diffusion_pytorch_model.fp16.safetensors")
    found = weights_convert.load_component(folder)
    assert not any(jnp.any(x) for x in jax.tree.leaves(found))
    write(folder, tensors)
    found = weights_convert.load_component(folder)
    assert_equal(found, weights_convert.load_component(saved / "vae"))


def test_several_files_of_unknown_names_are_ambiguous(vae):
    folder, tensors = vae
    write(folder, tensors, "one.safetensors")
    weights_convert.load_component(folder)
    write(folder, tensors, "two.safetensors")
    with pytest.raises(WeightsError, match=r"one\.safetensors, two\.safetensors"):
        weights_convert.load_component(folder)


def test_loading_imports_no_pytorch(saved):
    code = (
        "import sys, weights_convert; weights_convert.load_component(sys.argv[1]); "
        "print(sorted({'torch', 'diffusers', 'transformers'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, str(saved / "vae")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_numbers_that_32_bits_do_not_hold_are_refused(saved, tmp_path):
    shutil.copytree(saved / "vae", tmp_path / "vae")
    tensors = load_file(tmp_path / "vae" / VAE_FILE)
    wide = {name: value.astype(np.float64) for name, value in tensors.items()}
    name = sorted(wide)[0]
    wide[name].flat[0] = 1e39
    save_file(wide, tmp_path / "vae" / VAE_FILE)
    with pytest.raises(WeightsError, match="values too large for float32"):
        weights_convert.load_component(tmp_path / "vae", param_dtype=jnp.float64)

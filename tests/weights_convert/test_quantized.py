"""Weights in fewer than 16 bits are refused by name, before they are read."""

import json

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import weights_convert
from weights_convert import WeightsError
from weights_convert.reader import open_file

FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4).save_pretrained(
        tmp_path
    )
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_is_refused_wherever_it_is(folder, dtype):
    tensors = load_file(folder / FILE)
    name = str(np.random.default_rng(0).choice(sorted(tensors)))
    save_file(tensors | {name: tensors[name].to(dtype)}, folder / FILE)
    message = rf"in fp8 \(tensor '{name}' is F8_E.*file in float16"
    with pytest.raises(WeightsError, match=message):
        weights_convert.load_component(folder)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ("decoder.conv_in.weight.absmax", "bitsandbytes, such as NF4"),
        ("decoder.conv_in.weight.quant_state.bitsandbytes__nf4", "bitsandbytes"),
        ("decoder.conv_in.weight.quant_map", "bitsandbytes"),
        ("decoder.conv_in.SCB", "bitsandbytes"),
        ("decoder.conv_in.scale_weight", "in fp8"),
        ("scaled_fp8", "in fp8"),
    ],
)
def test_what_quantizers_add_is_known(folder, added, message):
    save_file(load_file(folder / FILE) | {added: torch.ones(2)}, folder / FILE)
    with pytest.raises(WeightsError, match=message):
        weights_convert.load_component(folder)


@pytest.mark.parametrize("name", ["model.gguf", "model.Q4_0.GGUF", "model.safetensors"])
def test_a_gguf_file_is_known_by_its_name_or_its_content(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(WeightsError, match="is a GGUF file"):
        open_file(path)


def test_a_folder_of_gguf_files_says_so(folder):
    (folder / FILE).rename(folder / "model.gguf")
    with pytest.raises(WeightsError, match=r"model\.gguf is a GGUF file"):
        weights_convert.load_component(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"quant_method": "bitsandbytes"}, "'bitsandbytes'"), ("?", "'unknown method'")],
)
def test_a_quantized_configuration_is_refused(folder, settings, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"quantization_config": settings})
    )
    with pytest.raises(WeightsError, match=rf"config\.json.*quantized \({message}\)"):
        weights_convert.load_component(folder)

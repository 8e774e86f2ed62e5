"""Every tensor of the published files in the original layout, without their memory."""

import dataclasses
from pathlib import Path

import diffusers
import original_layout
import pytest
import torch
import transformers
from diffusers.loaders import single_file_utils

import weights_convert
from jaxinv.models import (
    AutoencoderKLConfig,
    CLIPTextConfig,
    CLIPTextWithProjectionConfig,
    UNet2DConditionConfig,
)
from weights_convert.reader import StoredTensor
from weights_convert.single_file.open import from_tensors

SD2_TEXT = "cond_stage_model.model."
SDXL_TEXT = "conditioner.embedders.1.model."
# Published configurations, and the number of parameters of the published files'
# networks, with the last layer of OpenCLIP, which diffusers drops.
FILES = {
    "sd15": {
        "unet": UNet2DConditionConfig.sd15(),
        "vae": AutoencoderKLConfig.sd15(),
        "text_encoder": CLIPTextConfig.sd15(),
    },
    "sd21": {
        "unet": UNet2DConditionConfig.sd21(),
        "vae": AutoencoderKLConfig.sd21(),
        "text_encoder": CLIPTextConfig.sd21(),
    },
    "sdxl": {
        "unet": UNet2DConditionConfig.sdxl(),
        "vae": AutoencoderKLConfig.sdxl(),
        "text_encoder": CLIPTextConfig.sd15(),  # the same encoder
        "text_encoder_2": CLIPTextWithProjectionConfig.sdxl(),
    },
}


def meta_model(config):
    """A model of diffusers or transformers, without memory."""
    with torch.device("meta"):
        if isinstance(config, CLIPTextConfig):
            data = transformers.CLIPTextConfig(**config.to_dict())
            return getattr(transformers, config.class_name)(data)
        return getattr(diffusers, config.class_name).from_config(config.to_dict())


def original_file(configs):
    """Names and tensors of a whole file, all of them without values."""
    text = configs["text_encoder"]
    written = {
        "model.diffusion_model.": original_layout.unet(meta_model(configs["unet"])),
        "first_stage_model.": original_layout.autoencoder(meta_model(configs["vae"])),
    }
    if "text_encoder_2" in configs:
        at = "conditioner.embedders.0.transformer."
        written[at] = original_layout.clip(meta_model(text))
        second = meta_model(configs["text_encoder_2"])
        written[SDXL_TEXT] = original_layout.open_clip(second)
    elif text.hidden_act == "quick_gelu":
        at = "cond_stage_model.transformer."
        written[at] = original_layout.clip(meta_model(text))
    else:
        whole = dataclasses.replace(text, num_hidden_layers=24)
        tensors = original_layout.open_clip(meta_model(whole))
        size = (text.hidden_size,) * 2
        projection = {"text_projection": torch.empty(size, device="meta")}
        written[SD2_TEXT] = tensors | projection
    return {
        prefix + name: tensor
        for prefix, tensors in written.items()
        for name, tensor in tensors.items()
    }


def read_by_diffusers(part, config, file):
    """Names and shapes that diffusers' own conversion makes of a file."""
    if part == "unet":
        return single_file_utils.convert_ldm_unet_checkpoint(file, config.to_dict())
    if part == "vae":
        return single_file_utils.convert_ldm_vae_checkpoint(file, config.to_dict())
    if config.hidden_act == "quick_gelu":
        return single_file_utils.convert_ldm_clip_checkpoint(file)
    prefix = SDXL_TEXT if part == "text_encoder_2" else SD2_TEXT
    model = meta_model(config)
    return single_file_utils.convert_open_clip_checkpoint(model, file, prefix)


@pytest.mark.parametrize("name", FILES)
def test_every_tensor_maps_in_both_directions(name):
    configs, file = FILES[name], original_file(FILES[name])
    stored = [StoredTensor(key, tuple(x.shape), "F16", None) for key, x in file.items()]
    ours = from_tensors(Path("file"), stored, {})
    assert ours.configs == configs
    for part, config in configs.items():
        layout = weights_convert.tensor_shapes(config)
        assert {x.name: x.shape for x in ours.tensors[part]} == layout
        theirs = read_by_diffusers(part, config, file)
        assert {key: tuple(x.shape) for key, x in theirs.items()} == layout


def test_blocks_of_uneven_depths_are_inferred():
    config = UNet2DConditionConfig.ssd1b()
    tensors = original_layout.unet(meta_model(config))
    stored = [
        StoredTensor(key, tuple(x.shape), "F16", None) for key, x in tensors.items()
    ]
    ours = from_tensors(Path("file"), stored, {})
    layout = weights_convert.tensor_shapes(config)
    assert {x.name: x.shape for x in ours.tensors["unet"]} == layout
    assert ours.configs["unet"].heads == config.heads

"""Every tensor of the published files in the original layout, without their memory."""

import dataclasses
from pathlib import Path

import diffusers
import numpy as np
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
from weights_convert import WeightsError
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


def stored(tensors):
    """Tensors of a file, of which only the header is read."""
    return [
        StoredTensor(key, tuple(x.shape), "F16", None) for key, x in tensors.items()
    ]


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
    ours = from_tensors(Path("file"), stored(file), {})
    assert ours.configs == configs
    for part, config in configs.items():
        layout = weights_convert.tensor_shapes(config)
        assert {x.name: x.shape for x in ours.tensors[part]} == layout
        theirs = read_by_diffusers(part, config, file)
        assert {key: tuple(x.shape) for key, x in theirs.items()} == layout


def random_unet(rng):
    """The configuration of a UNet with blocks, layers and depths at random."""
    blocks = int(rng.integers(1, 5))
    linear = bool(rng.integers(2))
    channels = tuple(
        (64 if linear else 32) * int(n) for n in rng.integers(1, 4, blocks)
    )
    kinds = [("", "CrossAttn")[int(n)] for n in rng.integers(2, size=2 * blocks)]
    depths = tuple(int(n) for n in rng.integers(1, 4, blocks))
    pooled = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + 8,
    }
    return {
        "in_channels": int(rng.integers(1, 5)),
        "out_channels": int(rng.integers(1, 5)),
        "down_block_types": tuple(f"{kind}DownBlock2D" for kind in kinds[:blocks]),
        "up_block_types": tuple(f"{kind}UpBlock2D" for kind in kinds[blocks:]),
        "block_out_channels": channels,
        "layers_per_block": tuple(int(n) for n in rng.integers(1, 4, blocks)),
        "transformer_layers_per_block": depths,
        "cross_attention_dim": int(rng.integers(1, 20)),
        "attention_head_dim": tuple(c // 64 for c in channels) if linear else 8,
        "use_linear_projection": linear,
        **(pooled if linear and rng.integers(2) else {}),
    }


@pytest.mark.parametrize("seed", range(4))
def test_random_unets_are_inferred_from_their_tensors(seed):
    config = UNet2DConditionConfig.from_dict(random_unet(np.random.default_rng(seed)))
    tensors = original_layout.unet(meta_model(config))
    ours = from_tensors(Path("file"), stored(tensors), {})
    layout = weights_convert.tensor_shapes(config)
    assert {x.name: x.shape for x in ours.tensors["unet"]} == layout
    found = ours.configs["unet"]
    assert found.heads == config.heads
    assert found.context_widths == config.context_widths


@pytest.mark.parametrize("seed", range(4))
def test_random_autoencoders_are_inferred_from_their_tensors(seed):
    rng = np.random.default_rng(seed)
    blocks = int(rng.integers(1, 5))
    config = AutoencoderKLConfig(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=tuple(32 * int(n) for n in rng.integers(1, 4, blocks)),
        layers_per_block=int(rng.integers(1, 4)),
        latent_channels=int(rng.integers(1, 9)),
        use_quant_conv=bool(rng.integers(2)),
        use_post_quant_conv=bool(rng.integers(2)),
        sample_size=512,
    )
    tensors = original_layout.autoencoder(meta_model(config))
    ours = from_tensors(Path("file"), stored(tensors), {})
    assert ours.configs["vae"] == config
    layout = weights_convert.tensor_shapes(config)
    assert {x.name: x.shape for x in ours.tensors["vae"]} == layout


def test_a_file_that_lacks_any_tensor_or_has_another_is_refused():
    small = {"block_out_channels": (32,), "layers_per_block": 1}
    unet = UNet2DConditionConfig(
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        **small,
    )
    file = {
        f"model.diffusion_model.{name}": tensor
        for name, tensor in original_layout.unet(meta_model(unet)).items()
    } | {
        f"first_stage_model.{name}": tensor
        for name, tensor in original_layout.autoencoder(
            meta_model(AutoencoderKLConfig(**small))
        ).items()
    }
    for name in np.random.default_rng(0).choice(sorted(file), 5, replace=False):
        rest = {key: tensor for key, tensor in file.items() if key != name}
        for tensors in (rest, rest | {f"{name}_x": file[name]}):
            with pytest.raises(WeightsError, match=r"missing|incomplete|no place"):
                from_tensors(Path("file"), stored(tensors), {})


def test_a_tensor_that_the_original_layout_does_not_have_is_named():
    config = dataclasses.replace(UNet2DConditionConfig.sd15(), time_cond_proj_dim=256)
    tensors = original_layout.unet(meta_model(UNet2DConditionConfig.sd15()))
    with pytest.raises(WeightsError, match=r"time_embedding\.cond_proj\.weight, which"):
        from_tensors(Path("file"), stored(tensors), {"unet": config})


def test_blocks_of_uneven_depths_are_inferred():
    config = UNet2DConditionConfig.ssd1b()
    tensors = original_layout.unet(meta_model(config))
    ours = from_tensors(Path("file"), stored(tensors), {})
    layout = weights_convert.tensor_shapes(config)
    assert {x.name: x.shape for x in ours.tensors["unet"]} == layout
    assert ours.configs["unet"].heads == config.heads

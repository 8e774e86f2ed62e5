"""Configurations are read strictly: nothing is ignored that would change a model."""

import dataclasses

import pytest
from torch_models import AUTOENCODERS, TEXT_ENCODERS, UNETS

from jaxinv.models import (
    AutoencoderKLConfig,
    CLIPTextConfig,
    CLIPTextWithProjectionConfig,
    UNet2DConditionConfig,
    component_config,
)

CONFIGS = [
    *(UNet2DConditionConfig(**values) for values in UNETS.values()),
    *(AutoencoderKLConfig(**values) for values in AUTOENCODERS.values()),
    *(CLIPTextConfig(**values) for values in TEXT_ENCODERS.values()),
    *(c.sd15() for c in (UNet2DConditionConfig, AutoencoderKLConfig, CLIPTextConfig)),
    *(c.sd21() for c in (UNet2DConditionConfig, AutoencoderKLConfig, CLIPTextConfig)),
    AutoencoderKLConfig.sd3(),
    AutoencoderKLConfig.flux(),
    UNet2DConditionConfig.sdxl(),
    UNet2DConditionConfig.ssd1b(),
    CLIPTextWithProjectionConfig.sdxl(),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_a_configuration_survives_json(config):
    assert component_config(config.to_dict()) == config
    assert hash(component_config(config.to_dict())) == hash(config)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("class_embed_type", "timestep"),
        ("num_class_embeds", 10),
        ("addition_embed_type", "text"),
        ("addition_embed_type", "text_time"),
        ("addition_time_embed_dim", 256),
        ("projection_class_embeddings_input_dim", 2816),
        ("encoder_hid_dim", 32),
        ("dual_cross_attention", True),
        ("time_embedding_type", "fourier"),
        ("time_cond_proj_dim", 1),
        ("attention_type", "gated"),
        ("down_block_types", ["AttnDownBlock2D"] * 4),
        ("mid_block_type", "UNetMidBlock2DSimpleCrossAttn"),
        ("resnet_time_scale_shift", "ada_group"),
        ("norm_num_groups", None),
        ("block_out_channels", [320, 640]),
        ("layers_per_block", [1, 2]),
        ("attention_head_dim", 7),
        ("transformer_layers_per_block", [1, [1, 2], 1, 1]),
        ("cross_attention_dim", [768, 768]),
        ("only_cross_attention", [True]),
        ("act_fn", "tanh"),
        ("flux_capacitor", 1),
    ],
)
def test_a_unet_option_that_is_not_implemented_is_named(option, value):
    data = UNet2DConditionConfig.sd15().to_dict() | {option: value}
    with pytest.raises(ValueError, match=option):
        UNet2DConditionConfig.from_dict(data)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("down_block_types", ["AttnDownEncoderBlock2D"] * 4),
        ("up_block_types", ["UpDecoderBlock2D"]),
        ("act_fn", "tanh"),
        ("scaling", 1.0),
        ("latents_mean", [0.0, 1.0]),
        ("latents_std", [1.0, 1.0, 0.0, 1.0]),
    ],
)
def test_an_autoencoder_option_that_is_not_implemented_is_named(option, value):
    data = AutoencoderKLConfig.sd15().to_dict() | {option: value}
    with pytest.raises(ValueError, match=option):
        AutoencoderKLConfig.from_dict(data)


def test_a_text_encoder_of_another_kind_is_refused():
    data = CLIPTextConfig.sd15().to_dict()
    with pytest.raises(ValueError, match="t5"):
        CLIPTextConfig.from_dict(data | {"model_type": "t5"})
    with pytest.raises(ValueError, match="swiglu"):
        CLIPTextConfig.from_dict(data | {"hidden_act": "swiglu"})
    with pytest.raises(ValueError, match="5 heads"):
        CLIPTextConfig.from_dict(data | {"num_attention_heads": 5})


def test_a_class_that_is_not_implemented_is_named():
    with pytest.raises(ValueError, match="AuraFlowTransformer2DModel"):
        component_config({"_class_name": "AuraFlowTransformer2DModel"})
    with pytest.raises(ValueError, match="no class"):
        component_config({"hidden_size": 3})


def test_diffusers_bookkeeping_is_ignored():
    data = UNet2DConditionConfig.sd15().to_dict()
    data |= {"_diffusers_version": "0.6.0", "_name_or_path": "somewhere"}
    data |= {"decay": 0.9999, "inv_gamma": 1.0, "use_ema_warmup": False}  # EMAModel
    assert UNet2DConditionConfig.from_dict(data) == UNet2DConditionConfig.sd15()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"projection_class_embeddings_input_dim": 1536}, "leaves no room for a text"),
        ({"addition_time_embed_dim": None}, "text_time' also needs addition_time"),
        ({"addition_time_embed_dim": 2, "freq_shift": 1}, "must be more than twice"),
    ],
)
def test_sizes_of_added_conditions_that_do_not_fit_are_refused(changes, message):
    data = UNet2DConditionConfig.sdxl().to_dict() | changes
    with pytest.raises(ValueError, match=message):
        UNet2DConditionConfig.from_dict(data)


def test_num_attention_heads_wins_and_is_written_under_the_name_diffusers_reads():
    config = dataclasses.replace(UNet2DConditionConfig.sd15(), num_attention_heads=4)
    assert config.heads == (4, 4, 4, 4)
    written = config.to_dict()
    assert written["num_attention_heads"] is None
    assert UNet2DConditionConfig.from_dict(written).heads == config.heads

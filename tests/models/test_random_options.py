"""Random options of diffusers' UNet: the same function, or refused by name."""

import inspect
import random

import diffusers
import jax
import numpy as np
import pytest
import torch
from torch_models import relative_error, torch_unet

import weights_convert
from jaxinv.models import UNet2DConditionConfig, UNetCondition

# As small as can be, but with every kind of block.
BASE = {
    "sample_size": 8,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}
# SDXL: a pooled text vector of 5 numbers and image sizes are added to the time.
XL = BASE | {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 2],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 5,
}
# Values to draw for every option; those of other models are among them.
VALUES = {
    "sample_size": [None, 8, [8, 6], 5],
    "in_channels": [1, 3, 4, 9],
    "out_channels": [1, 4, 8],
    "center_input_sample": [False, True],
    "flip_sin_to_cos": [False, True],
    "freq_shift": [0, 1, 0.5],
    "down_block_types": [
        ["CrossAttnDownBlock2D"] * 2,
        ["DownBlock2D"] * 2,
        ["DownBlock2D", "CrossAttnDownBlock2D"],
        ["AttnDownBlock2D", "DownBlock2D"],
        ["SimpleCrossAttnDownBlock2D", "DownBlock2D"],
        ["ResnetDownsampleBlock2D", "DownBlock2D"],
        ["KDownBlock2D", "KCrossAttnDownBlock2D"],
    ],
    "mid_block_type": [
        None,
        "UNetMidBlock2D",
        "UNetMidBlock2DCrossAttn",
        "UNetMidBlock2DSimpleCrossAttn",
    ],
    "up_block_types": [
        ["CrossAttnUpBlock2D"] * 2,
        ["UpBlock2D"] * 2,
        ["CrossAttnUpBlock2D", "UpBlock2D"],
        ["UpBlock2D", "AttnUpBlock2D"],
        ["SimpleCrossAttnUpBlock2D", "UpBlock2D"],
    ],
    "only_cross_attention": [False, True, [True, False]],
    "block_out_channels": [[8, 8], [16, 8], [12, 24], [8, 16, 16], [8]],
    "layers_per_block": [1, 2, [1, 2], [2, 1]],
    "downsample_padding": [0, 1, 2, None],
    "mid_block_scale_factor": [1, 0.5, 2.0],
    "dropout": [0.0, 0.3],
    "act_fn": ["silu", "swish", "mish", "gelu", "relu", "tanh", "quick_gelu"],
    "norm_num_groups": [None, 1, 2, 4, 8],
    "norm_eps": [1e-5, 1e-2],
    "cross_attention_dim": [12, 8, [12, 8], [8, 8]],
    "transformer_layers_per_block": [1, 2, [1, 2], [[1], 2], [0, 1]],
    "reverse_transformer_layers_per_block": [None, [2, 1], [[2, 1], [1, 1]]],
    "encoder_hid_dim": [None, 6],
    "encoder_hid_dim_type": [None, "text_proj", "text_image_proj", "ip_image_proj"],
    "attention_head_dim": [1, 2, 4, [2, 4]],
    "num_attention_heads": [None, 2, [2, 4]],
    "dual_cross_attention": [False, True],
    "use_linear_projection": [False, True],
    "class_embed_type": [
        None,
        "timestep",
        "identity",
        "projection",
        "simple_projection",
    ],
    "addition_embed_type": [None, "text", "text_time", "image"],
    "addition_time_embed_dim": [None, 4, 3],
    "num_class_embeds": [None, 3],
    "upcast_attention": [False, True, None],
    "resnet_time_scale_shift": ["default", "scale_shift", "ada_group", "spatial"],
    "resnet_skip_time_act": [False, True],
    "resnet_out_scale_factor": [1.0, 2.0],
    "time_embedding_type": ["positional", "fourier"],
    "time_embedding_dim": [None, 20],
    "time_embedding_act_fn": [None, "silu", "gelu"],
    "timestep_post_act": [None, "silu"],
    "time_cond_proj_dim": [None, 6],
    "conv_in_kernel": [1, 2, 3, 4, 5],
    "conv_out_kernel": [1, 2, 3, 4, 5],
    "projection_class_embeddings_input_dim": [None, 8, 30],
    "attention_type": ["default", "gated", "gated-text-image"],
    "class_embeddings_concat": [False, True],
    "mid_block_only_cross_attention": [None, False, True],
    "cross_attention_norm": [None, "layer_norm", "group_norm"],
    "addition_embed_type_num_heads": [64, 2],
}


def draw(seed, base=BASE):
    """A configuration with a few options of other values."""
    rng = random.Random(seed)
    names = rng.sample(sorted(VALUES), rng.choice([1, 1, 2, 3, 4]))
    return base | {name: rng.choice(VALUES[name]) for name in names}, names


def is_refused(config, names):
    """Whether it is, by the name of an option that was drawn."""
    try:
        UNet2DConditionConfig.from_dict(config)
        return False
    except ValueError as error:
        reason = str(error)
    assert any(name in reason for name in names), reason
    return True


def inputs(config):
    """A sample and a condition, as both libraries take them."""
    rng = np.random.default_rng(0)
    width = config["cross_attention_dim"]
    width = max(width) if isinstance(width, list) else width
    sample = rng.standard_normal((config.get("in_channels", 4), 8, 6), np.float32)
    condition = UNetCondition(rng.standard_normal((5, width), np.float32))
    each = config.get("addition_time_embed_dim")
    total = config.get("projection_class_embeddings_input_dim")
    if config.get("addition_embed_type") == "text_time" and each and total:
        pooled = rng.standard_normal(max(total - 6 * each, 0), np.float32)
        sizes = rng.integers(0, 1024, 6).astype(np.float32)
        condition = condition._replace(pooled=pooled, time_ids=sizes)
    if config.get("time_cond_proj_dim"):
        condition = condition._replace(guidance=np.float32(rng.uniform(0, 9)))
    return sample, condition


def theirs(config, folder):
    """What diffusers computes; None if it cannot."""
    torch.manual_seed(0)
    sample, condition = inputs(config)
    try:
        model = diffusers.UNet2DConditionModel(**config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        found = torch_unet(model, np.moveaxis(sample, 0, -1), 321.0, condition)
    except Exception:  # configurations that make no sense fail in any way
        return None
    model.save_pretrained(folder)
    return found


def check(seed, folder, base=BASE):
    """Whether the drawn configuration was compared, refused, or makes no sense."""
    config, names = draw(seed, base)
    refused = is_refused(config, names)
    wanted = theirs(config, folder)
    if wanted is None or refused:
        return "refused" if refused else "senseless"
    unet = weights_convert.load_component(folder)
    sample, condition = inputs(config)
    with jax.disable_jit():
        found = unet(np.moveaxis(sample, 0, -1), 321.0, condition)
    assert found.shape == wanted.shape, config
    assert relative_error(found, wanted) < 1e-4, config
    return "compared"


def test_every_option_of_diffusers_is_drawn():
    signature = inspect.signature(diffusers.UNet2DConditionModel.__init__)
    assert set(signature.parameters) - {"self"} == set(VALUES)


@pytest.mark.parametrize("seed", range(12))
def test_a_drawn_configuration_is_the_same_function_or_refused_by_name(seed, tmp_path):
    check(seed, tmp_path)


@pytest.mark.parametrize("seed", range(5))
def test_a_drawn_configuration_of_sdxl_is_the_same_function_or_refused(seed, tmp_path):
    check(seed, tmp_path, XL)


def test_what_is_drawn_is_mostly_compared_or_refused():
    found = [is_refused(*draw(seed)) for seed in range(200)]
    assert 40 < sum(found) < 160

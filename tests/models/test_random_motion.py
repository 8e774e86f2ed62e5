"""Random options of diffusers' video UNet: the same function, or refused by name."""

import inspect
import random

import diffusers
import jax
import numpy as np
import pytest
import torch
from torch_models import relative_error
from video_cases import randomized

import weights_convert
from jaxinv.models import UNetMotionConfig
from jaxinv.models.unet.condition import UNetCondition
from jaxinv.models.unet.time import guidance_embedding

SCALE = 3.0  # of models that take the guidance scale as an input

# As small as can be, but with every kind of block.
BASE = {
    "down_block_types": ["CrossAttnDownBlockMotion", "DownBlockMotion"],
    "up_block_types": ["UpBlockMotion", "CrossAttnUpBlockMotion"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "num_attention_heads": 2,
    "motion_num_attention_heads": 2,
    "motion_max_seq_length": 6,
}
# Values to draw for every option; those of other models are among them.
VALUES = {
    "sample_size": [None, 8, [8, 6]],
    "in_channels": [1, 3, 9],
    "out_channels": [1, 8],
    "down_block_types": [
        ["CrossAttnDownBlockMotion"] * 2,
        ["DownBlockMotion", "CrossAttnDownBlockMotion"],
        ["DownBlockMotion", "DownBlock2D"],
    ],
    "up_block_types": [
        ["CrossAttnUpBlockMotion"] * 2,
        ["CrossAttnUpBlockMotion", "UpBlockMotion"],
        ["UpBlock2D", "UpBlockMotion"],
    ],
    "block_out_channels": [[8, 8], [16, 8], [12, 24], [8, 16, 16]],
    "layers_per_block": [2, [1, 2], [2, 1]],
    "downsample_padding": [0, 1, 2],
    "mid_block_scale_factor": [0.5, 2.0],
    "act_fn": ["silu", "mish", "gelu", "relu", "tanh"],
    "norm_num_groups": [1, 2, None],
    "norm_eps": [1e-2],
    "cross_attention_dim": [8, [12, 8], [8, 12]],
    "transformer_layers_per_block": [2, [1, 2], [2, 1], [[1], 2]],
    "reverse_transformer_layers_per_block": [None, [2, 1], [[2, 1], [1, 1]]],
    "temporal_transformer_layers_per_block": [2, [1, 2], [[2], 1]],
    "reverse_temporal_transformer_layers_per_block": [2, [2, 1], [[2, 1], [1, 1]]],
    "transformer_layers_per_mid_block": [None, 1, 2],
    "temporal_transformer_layers_per_mid_block": [1, 2],
    "use_linear_projection": [True],
    "num_attention_heads": [1, 4, [2, 4]],
    "motion_max_seq_length": [3, 4, 40],
    "motion_num_attention_heads": [1, 4, [1, 2], [2, 1]],
    "reverse_motion_num_attention_heads": [None, 2, [1, 2]],
    "use_motion_mid_block": [False],
    "mid_block_layers": [1, 2],
    "encoder_hid_dim": [None, 6],
    "encoder_hid_dim_type": [None, "ip_image_proj"],
    "addition_embed_type": [None, "image"],
    "addition_time_embed_dim": [None, 4],
    "projection_class_embeddings_input_dim": [None, 8],
    "time_cond_proj_dim": [None, 6],
}


def draw(seed):
    """A configuration with a few options of other values."""
    rng = random.Random(seed)
    names = rng.sample(sorted(VALUES), rng.choice([1, 1, 2, 3, 4]))
    return BASE | {name: rng.choice(VALUES[name]) for name in names}, names


def is_refused(config, names):
    """Whether it is, by the name of an option that was drawn."""
    try:
        UNetMotionConfig.from_dict(config)
        return False
    except ValueError as error:
        reason = str(error)
    assert any(name in reason for name in names), (reason, names)
    return True


def theirs(config, sample, text, folder):
    """What diffusers computes; None if it cannot."""
    try:
        model = randomized(diffusers.UNetMotionModel(**config))
        video = torch.from_numpy(np.moveaxis(sample, -1, 0)[None].copy())
        texts, scale = torch.from_numpy(text)[None].repeat(3, 1, 1), None
        if dim := config.get("time_cond_proj_dim"):
            scale = torch.from_numpy(np.array(guidance_embedding(SCALE, dim)))[None]
        with torch.no_grad():
            found = model(video, 321.0, texts, timestep_cond=scale)
    except Exception:  # configurations that make no sense fail in any way
        return None
    model.save_pretrained(folder)
    return np.moveaxis(found.sample[0].numpy(), 0, -1)


def check(seed, folder):
    """Whether the drawn configuration was compared, refused, or makes no sense."""
    config, names = draw(seed)
    rng = np.random.default_rng(0)
    width = config["cross_attention_dim"]
    width = max(width) if isinstance(width, list) else width
    sample = rng.standard_normal((3, 6, 4, config.get("in_channels", 4)), np.float32)
    text = rng.standard_normal((5, width), np.float32)
    refused = is_refused(config, names)
    wanted = theirs(config, sample, text, folder)
    if wanted is None or refused:
        return "refused" if refused else "senseless"
    unet = weights_convert.load_component(folder)
    scale = np.float32(SCALE) if config.get("time_cond_proj_dim") else None
    condition = UNetCondition(text, guidance=scale)
    found = jax.jit(lambda net, *args: net(*args))(unet, sample, 321.0, condition)
    assert found.shape == wanted.shape, config
    assert relative_error(found, wanted) < 1e-4, config
    return "compared"


def test_every_option_of_diffusers_is_drawn():
    signature = inspect.signature(diffusers.UNetMotionModel.__init__)
    assert set(signature.parameters) - {"self"} == set(VALUES)


@pytest.mark.parametrize("seed", [7, 21])
def test_a_drawn_configuration_is_the_same_function_or_refused_by_name(seed, tmp_path):
    check(seed, tmp_path)


def test_what_is_drawn_is_mostly_compared_or_refused():
    found = [is_refused(*draw(seed)) for seed in range(200)]
    assert 20 < sum(found) < 160

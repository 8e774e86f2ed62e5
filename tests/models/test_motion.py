"""AnimateDiff's UNet and motion adapter equal those of diffusers."""

import diffusers
import jax
import numpy as np
import pytest
import torch
from torch_models import relative_error
from video_cases import randomized

import weights_convert
from jaxinv.models import (
    MotionAdapterConfig,
    UNet2DConditionConfig,
    UNetMotionConfig,
    UNetMotionModel,
)
from jaxinv.models.config import as_tuple
from jaxinv.models.unet.condition import UNetCondition

TOLERANCE = 1e-4
SMALL = {
    "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
    "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "num_attention_heads": 2,
    "motion_num_attention_heads": 2,
    "motion_max_seq_length": 6,
}
MODELS = {
    "plain": SMALL,
    # Without motion modules in the middle, and with the added condition of SDXL.
    "no_motion_in_the_middle": SMALL
    | {
        "use_motion_mid_block": False,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 58,
    },
    "options": SMALL
    | {
        "in_channels": 3,
        "out_channels": 5,
        "down_block_types": ("DownBlockMotion", "CrossAttnDownBlockMotion"),
        "up_block_types": ("CrossAttnUpBlockMotion", "UpBlockMotion"),
        "layers_per_block": (1, 2),
        "downsample_padding": 0,
        "mid_block_scale_factor": 1.5,
        "act_fn": "mish",
        "norm_num_groups": 2,
        "norm_eps": 1e-3,
        "cross_attention_dim": (12, 12),
        "temporal_transformer_layers_per_block": (1, 2),
        "temporal_transformer_layers_per_mid_block": 2,
        "use_linear_projection": True,
        "num_attention_heads": (2, 4),
        "motion_num_attention_heads": (1, 4),
    },
}
IMAGE_MODEL = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}
ADAPTER = {
    "block_out_channels": (8, 16),
    "motion_layers_per_block": 1,
    "motion_norm_num_groups": 4,
    "motion_num_attention_heads": 2,
    "motion_max_seq_length": 5,
}

ADDED = UNetCondition(
    text=None,
    pooled=np.linspace(-1, 1, 10, dtype=np.float32),
    time_ids=np.array([512, 640, 0, 8, 512, 512], np.float32),
)


def inputs(channels, size=(4, 8, 6), seed=0):
    """Random latents of a video and text vectors."""
    rng = np.random.default_rng(seed)
    sample = rng.standard_normal((*size, channels), np.float32)
    return sample, rng.standard_normal((7, 12), np.float32)


def theirs(model, sample, timestep, text):
    """Runs the model of PyTorch: videos (batch, c, f, h, w), a text for each frame."""
    video = torch.from_numpy(np.moveaxis(sample, -1, 0)[None].copy())
    texts = torch.from_numpy(text)[None].repeat(len(sample), 1, 1)
    added = {"text_embeds": ADDED.pooled, "time_ids": ADDED.time_ids}
    added = {name: torch.from_numpy(value)[None] for name, value in added.items()}
    with torch.no_grad():
        found = model(video, torch.tensor(timestep), texts, added_cond_kwargs=added)
    return np.moveaxis(found.sample[0].numpy(), 0, -1)


@jax.jit
def run(network, *args):
    return network(*args)


@pytest.mark.parametrize("name", MODELS)
def test_the_video_unet_equals_that_of_diffusers(name, tmp_path):
    model = randomized(diffusers.UNetMotionModel(**MODELS[name]))
    model.save_pretrained(tmp_path)
    ours = weights_convert.load_component(tmp_path)
    for key, value in ours.config.to_dict().items():
        if key in model.config and not key.startswith("_"):
            assert as_tuple(value) == as_tuple(model.config[key]), key
    # Odd sizes are rounded up on the way down and restored on the way up.
    size = (4, 8, 6) if name == "plain" else (3, 5, 7)
    sample, text = inputs(ours.config.in_channels, size)
    for timestep in (321.75, 999.0):
        wanted = theirs(model, sample, timestep, text)
        condition = UNetCondition(text)
        if ours.config.addition_embed_type:
            condition = ADDED._replace(text=text)
        found = run(ours, sample, timestep, condition)
        assert relative_error(found, wanted) < TOLERANCE


@pytest.mark.parametrize("in_the_middle", [True, False])
def test_an_image_model_joined_with_an_adapter_equals_that_of_diffusers(
    in_the_middle, tmp_path
):
    image_model = randomized(diffusers.UNet2DConditionModel(**IMAGE_MODEL))
    settings = ADAPTER | {"use_motion_mid_block": in_the_middle}
    adapter = randomized(diffusers.MotionAdapter(**settings), seed=1)
    image_model.save_pretrained(tmp_path / "unet")
    adapter.save_pretrained(tmp_path / "motion_adapter")
    joined = diffusers.UNetMotionModel.from_unet2d(image_model, adapter)
    ours = UNetMotionModel.from_unet2d(
        weights_convert.load_component(tmp_path / "unet"),
        weights_convert.load_component(tmp_path / "motion_adapter"),
    )
    sample, text = inputs(4)
    found = run(ours, sample, 321.75, text)
    wanted = theirs(joined, sample, 321.75, text)
    assert relative_error(found, wanted) < TOLERANCE
    # What is written is read by diffusers, with nothing missing or left over.
    weights_convert.save_component(ours, tmp_path / "joined")
    again, problems = diffusers.UNetMotionModel.from_pretrained(
        tmp_path / "joined", output_loading_info=True
    )
    assert not any(problems.values()), problems
    written, original = again.state_dict(), joined.state_dict()
    assert written.keys() == original.keys()
    assert all(torch.equal(written[name], original[name]) for name in written)


def test_frames_know_their_order_and_are_limited(tmp_path):
    model = randomized(diffusers.UNetMotionModel(**SMALL))
    model.save_pretrained(tmp_path)
    ours = weights_convert.load_component(tmp_path)
    sample, text = inputs(4)
    forward, backward = (run(ours, x, 500.0, text) for x in (sample, sample[::-1]))
    assert relative_error(backward[::-1], forward) > 0.01
    with pytest.raises(ValueError, match=r"at most 6 frames"):
        ours(np.zeros((7, 8, 8, 4), np.float32), 500.0, text)
    with pytest.raises(ValueError, match=r"latents \(frames, h, w, c\)"):
        ours(np.zeros((8, 8, 4), np.float32), 500.0, text)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"block_out_channels": (8, 8)}, "block_out_channels"),
        ({"block_out_channels": (8, 16, 16)}, "block_out_channels"),
        ({"motion_layers_per_block": 2}, "motion_layers_per_block"),
        ({"motion_norm_num_groups": 2}, "motion_norm_num_groups"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(change, reason):
    unet = UNet2DConditionConfig.from_dict(IMAGE_MODEL)
    adapter = MotionAdapterConfig.from_dict(ADAPTER | change)
    with pytest.raises(ValueError, match=f"does not fit the UNet: its {reason}"):
        UNetMotionConfig.join(unet, adapter)

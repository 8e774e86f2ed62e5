"""Stable Diffusion 3's transformer: the same function as diffusers', or refused."""

import inspect
import random

import diffusers
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.numpy import load_file
from sd3_cases import PUBLISHED, TRANSFORMER, sd3_transformer
from torch_models import from_torch, relative_error, to_torch

import weights_convert
from jaxinv.models import (
    SD3Condition,
    SD3Transformer2DModel,
    SD3TransformerConfig,
)

# Values to draw for every option of diffusers, those of other models among them.
VALUES = {
    "sample_size": [12, 5],
    "patch_size": [1, 4],
    "in_channels": [4, 1],
    "num_layers": [1, 2, 4],
    "attention_head_dim": [4, 3],
    "num_attention_heads": [1, 4],
    "joint_attention_dim": [6],
    "caption_projection_dim": [24, 8],
    "pooled_projection_dim": [5],
    "out_channels": [4, None],
    "pos_embed_max_size": [16, 0, None],
    "dual_attention_layers": [[0], [0, 1], [1, 2], [7]],
    "qk_norm": ["rms_norm", "layer_norm", "rms_norm_across_heads"],
}


def inputs(config):
    """A latent that is not square, with a condition."""
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((8, 12, config["in_channels"]), np.float32)
    text = rng.standard_normal((5, config["joint_attention_dim"]), np.float32)
    pooled = rng.standard_normal(config["pooled_projection_dim"], np.float32)
    return sample, SD3Condition(text, pooled)


def theirs(config, folder):
    """What diffusers' network computes, channels last; it is saved in a folder."""
    model = sd3_transformer(**config)
    sample, condition = inputs(config)
    text, pooled = (torch.from_numpy(each)[None] for each in condition)
    with torch.no_grad():
        found = model(to_torch(sample), text, pooled, torch.tensor([321.5]))
    model.save_pretrained(folder)
    return from_torch(found.sample)


def ours(config, folder):
    """What our network of the same weights computes."""
    sample, condition = inputs(config)
    return weights_convert.load_component(folder)(sample, 321.5, condition)


def draw(seed):
    """A configuration with a few options of other values."""
    rng = random.Random(seed)
    names = rng.sample(sorted(VALUES), rng.choice([1, 2, 3]))
    found = TRANSFORMER | {name: rng.choice(VALUES[name]) for name in names}
    if "caption_projection_dim" not in names:  # the only width that makes sense
        width = found["attention_head_dim"] * found["num_attention_heads"]
        found["caption_projection_dim"] = width
    return found, names


def is_refused(config, names):
    """Whether it is, by the name of an option that was drawn."""
    try:
        SD3TransformerConfig.from_dict(config)
        return False
    except ValueError as error:
        reason = str(error)
    assert any(name in reason for name in names), reason
    return True


def check(seed, folder):
    """Whether the drawn configuration was compared, refused, or makes no sense."""
    config, names = draw(seed)
    if is_refused(config, names):
        return "refused"
    try:
        wanted = theirs(config, folder)
    except Exception:  # configurations that make no sense fail in any way
        return "senseless"
    assert relative_error(ours(config, folder), wanted) < 1e-4, config
    return "compared"


def test_every_option_of_diffusers_is_drawn():
    signature = inspect.signature(diffusers.SD3Transformer2DModel.__init__)
    assert set(signature.parameters) - {"self"} == set(VALUES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_options_are_the_same_function(name, tmp_path):
    config = TRANSFORMER | PUBLISHED[name]
    wanted = theirs(config, tmp_path / "theirs")
    error = relative_error(ours(config, tmp_path / "theirs"), wanted)
    print(f"{name}: largest error {error:.1e} of the RMS")
    assert error < 1e-4


def test_stacked_blocks_are_saved_as_diffusers_saves_them(tmp_path):
    theirs(TRANSFORMER | PUBLISHED["sd35_medium"], tmp_path / "theirs")
    module = weights_convert.load_component(tmp_path / "theirs")
    weights_convert.save_component(module, tmp_path / "ours")
    saved, wanted = (
        load_file(tmp_path / name / "diffusion_pytorch_model.safetensors")
        for name in ("ours", "theirs")
    )
    assert saved.keys() == wanted.keys()
    for name, tensor in wanted.items():
        np.testing.assert_array_equal(saved[name], tensor)
    again = diffusers.SD3Transformer2DModel.from_pretrained(tmp_path / "ours")
    assert again.config.dual_attention_layers == [0]


@pytest.mark.parametrize("seed", range(6))
def test_a_drawn_configuration_is_the_same_function_or_refused_by_name(seed, tmp_path):
    check(seed, tmp_path)


def test_what_is_drawn_is_mostly_compared():
    found = [is_refused(*draw(seed)) for seed in range(200)]
    assert 20 < sum(found) < 100


def test_the_initial_table_of_positions_is_that_of_diffusers():
    model = SD3Transformer2DModel(
        SD3TransformerConfig.from_dict(TRANSFORMER), rngs=nnx.Rngs(0)
    )
    wanted = sd3_transformer().pos_embed.pos_embed
    np.testing.assert_allclose(model.pos_embed.pos_embed[...], wanted, atol=1e-6)

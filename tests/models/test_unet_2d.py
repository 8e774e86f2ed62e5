"""The UNet of pixel-space diffusion equals diffusers', or is refused by name."""

import inspect
import random

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch_models import from_torch, relative_error, to_torch

import weights_convert
from jaxinv.models import (
    UNet2DConfig,
    abstract_component,
    component_config,
    with_options,
)

TOLERANCE = 1e-4
BASE = {
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
UNETS = {
    # google/ddpm-*: one head, padding below and to the right, DDPM's time embedding.
    "ddpm": {
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    },
    "resnet_resampling": {
        "down_block_types": ["AttnDownBlock2D", "ResnetDownsampleBlock2D"],
        "up_block_types": ["ResnetUpsampleBlock2D", "AttnUpBlock2D"],
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "mid_block_scale_factor": 1.5,
        "in_channels": 1,
        "out_channels": 2,
    },
    "classes": {
        "num_class_embeds": 5,
        "time_embedding_dim": 24,
        "attn_norm_num_groups": 2,
        "act_fn": "gelu",
        "center_input_sample": True,
    },
    "class_time": {"class_embed_type": "timestep", "add_attention": False},
    "class_vector": {"class_embed_type": "identity", "mid_block_type": None},
    "fourier": {"time_embedding_type": "fourier"},
    "learned": {"time_embedding_type": "learned", "num_train_timesteps": 1000},
}
# Values to draw for every option; those of other models are among them.
VALUES = {
    "sample_size": [None, 8, [8, 6]],
    "in_channels": [1, 3],
    "out_channels": [1, 6],
    "center_input_sample": [True],
    "time_embedding_type": ["positional", "fourier", "learned", "sinusoidal"],
    "time_embedding_dim": [None, 20],
    "freq_shift": [0, 1, 0.5],
    "flip_sin_to_cos": [False],
    "down_block_types": [
        ["DownBlock2D"] * 2,
        ["AttnDownBlock2D", "DownBlock2D"],
        ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
        ["SkipDownBlock2D", "AttnSkipDownBlock2D"],
        ["KDownBlock2D", "DownBlock2D"],
    ],
    "mid_block_type": [None, "UNetMidBlock2D"],
    "up_block_types": [
        ["UpBlock2D"] * 2,
        ["UpBlock2D", "AttnUpBlock2D"],
        ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
        ["AttnSkipUpBlock2D", "SkipUpBlock2D"],
    ],
    "block_out_channels": [[8, 8], [16, 8], [8, 16, 16], [12, 24]],
    "layers_per_block": [1, 2],
    "mid_block_scale_factor": [1, 0.5, 1.4142],
    "downsample_padding": [0, 1, 2],
    "downsample_type": ["conv", "resnet"],
    "upsample_type": ["conv", "resnet"],
    "dropout": [0.3],
    "act_fn": ["swish", "mish", "relu", "tanh"],
    "attention_head_dim": [None, 1, 2, 4, 3],
    "norm_num_groups": [None, 1, 2, 8],
    "attn_norm_num_groups": [None, 2, 8],
    "norm_eps": [1e-6, 1e-2],
    "resnet_time_scale_shift": ["default", "scale_shift", "spatial"],
    "add_attention": [False],
    "class_embed_type": [None, "timestep", "identity", "projection"],
    "num_class_embeds": [None, 3],
    "num_train_timesteps": [None, 1000],
}
PARAMETERS = inspect.signature(diffusers.UNet2DModel.__init__).parameters


def torch_unet(config, folder):
    """A random model of diffusers, in which no parameter is 0 or 1, and its folder."""
    torch.manual_seed(0)
    model = diffusers.UNet2DModel(**config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@jax.jit
def run(model, *args):
    """Runs our UNet."""
    return model(*args)


def condition_of(config):
    """A condition that a model of this configuration takes."""
    kind = config.get("class_embed_type")
    if kind == "identity":
        features = (
            config.get("time_embedding_dim") or 4 * config["block_out_channels"][0]
        )
        return np.random.default_rng(1).standard_normal(features).astype(np.float32)
    if kind == "timestep" or config.get("num_class_embeds") is not None:
        return np.asarray(2)
    return None


def sample_of(config, size=(8, 12)):
    rng = np.random.default_rng(0)
    return rng.standard_normal((*size, config.get("in_channels", 3)), np.float32)


def theirs(model, sample, timestep, condition):
    if condition is not None:
        condition = torch.from_numpy(condition)[None]
    with torch.no_grad():
        out = model(to_torch(sample), torch.tensor(timestep), condition)
    return from_torch(out.sample)


@pytest.mark.parametrize("name", UNETS)
def test_unet_2d_equals_diffusers(name, tmp_path):
    config = BASE | UNETS[name]
    model = torch_unet(config, tmp_path)
    ours = weights_convert.load_component(tmp_path)
    sample, condition = sample_of(config), condition_of(config)
    for timestep in (7, 640):
        wanted = theirs(model, sample, timestep, condition)
        found = run(ours, sample, jnp.asarray(timestep), condition)
        assert relative_error(found, wanted) < TOLERANCE


@pytest.mark.parametrize("name", ["ddpm", "resnet_resampling"])
def test_odd_sizes_are_kept_also_by_rematerialized_blocks(name):
    model = abstract_component(UNet2DConfig.from_dict(BASE | UNETS[name]))
    sample = jnp.asarray(sample_of(BASE | UNETS[name], (7, 5)))
    found = jax.eval_shape(lambda model, x: model(x, 3.0), model, sample)
    assert found.shape == (7, 5, model.config.out_channels)
    careful = with_options(model, remat="blocks")
    gradient = jax.grad(lambda x, model: model(x, 3.0).sum())
    assert jax.eval_shape(gradient, sample, careful).shape == sample.shape


def test_a_learned_time_embedding_is_linear_between_timesteps(tmp_path):
    torch_unet(BASE | UNETS["learned"], tmp_path)
    model = weights_convert.load_component(tmp_path)
    low, middle, high = (model._features(t) for t in (41, 41.25, 42))
    np.testing.assert_allclose(middle, 0.75 * low + 0.25 * high, rtol=1e-5)
    np.testing.assert_array_equal(model._features(2000.0), model._features(999))


def test_tensors_with_the_names_of_early_versions_are_read(tmp_path):
    model = torch_unet(BASE, tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(file).items():
        for new, old in names.items():
            name = name.replace(f".{new}.", f".{old}.")
        tensors[name] = tensor
    assert "mid_block.attentions.0.proj_attn.weight" in tensors
    save_file(tensors, file, metadata={"format": "pt"})
    ours, sample = weights_convert.load_component(tmp_path), sample_of(BASE)
    found = run(ours, sample, 3.0, None)
    assert relative_error(found, theirs(model, sample, 3.0, None)) < TOLERANCE


def test_a_model_says_whether_it_takes_a_condition():
    plain, labeled = (
        abstract_component(UNet2DConfig.from_dict(BASE | UNETS[name]))
        for name in ("ddpm", "classes")
    )
    with pytest.raises(ValueError, match="takes no condition"):
        plain(sample_of(BASE), 3.0, jnp.asarray(1))
    with pytest.raises(ValueError, match="takes a class label"):
        labeled(sample_of(BASE), 3.0)


def draw(seed):
    """A configuration with a few options of other values."""
    rng = random.Random(seed)
    names = rng.sample(sorted(VALUES), rng.choice([1, 2, 3, 4]))
    return BASE | {name: rng.choice(VALUES[name]) for name in names}, names


def is_refused(config, names):
    """Whether it is, by the name of an option that was drawn."""
    try:
        component_config(config | {"_class_name": "UNet2DModel"})
        return False
    except ValueError as error:
        reason = str(error)
    assert any(name in reason for name in names), reason
    return True


def test_every_option_of_diffusers_is_drawn():
    assert set(PARAMETERS) - {"self"} == set(VALUES)


@pytest.mark.parametrize("seed", range(8))
def test_a_drawn_configuration_is_the_same_function_or_refused_by_name(seed, tmp_path):
    config, names = draw(seed)
    refused = is_refused(config, names)
    sample, condition = sample_of(config), condition_of(config)
    try:
        model = torch_unet(config, tmp_path)
        wanted = theirs(model, sample, 321, condition)
    except Exception:  # configurations that make no sense fail in any way
        return
    if refused:
        return
    ours = weights_convert.load_component(tmp_path)
    found = run(ours, sample, jnp.asarray(321), condition)
    assert relative_error(found, wanted) < TOLERANCE, config


def test_what_is_drawn_is_mostly_compared_or_refused():
    found = [is_refused(*draw(seed)) for seed in range(200)]
    assert 40 < sum(found) < 160

"""FLUX's transformer beside diffusers', on small random weights and at full size."""

import random

import diffusers
import jax
import numpy as np
import pytest
import torch
from flux_cases import TINY, flux_transformer, run_flux_transformer
from torch_models import relative_error

import weights_convert
from jaxinv.models import (
    FluxCondition,
    FluxTransformer2DConfig,
)

# The published config.json of black-forest-labs/FLUX.1-dev and -schnell.
SCHNELL = {
    "attention_head_dim": 128,
    "guidance_embeds": False,
    "in_channels": 64,
    "joint_attention_dim": 4096,
    "num_attention_heads": 24,
    "num_layers": 19,
    "num_single_layers": 38,
    "patch_size": 1,
    "pooled_projection_dim": 768,
}
DEV = SCHNELL | {"guidance_embeds": True}
PUBLISHED = {
    "dev": (DEV, FluxTransformer2DConfig.dev(), 11_901_408_320),
    "schnell": (SCHNELL, FluxTransformer2DConfig.schnell(), 11_891_178_560),
}
# Values to draw for every option; those that are not implemented are among them.
VALUES = {
    "patch_size": [1, 2],
    "in_channels": [4, 8, 16, 10],
    "out_channels": [None, 4, 8, 6],
    "num_layers": [0, 1, 3],
    "num_single_layers": [0, 1, 3],
    "attention_head_dim": [8, 12],
    "num_attention_heads": [1, 3],
    "joint_attention_dim": [4, 9],
    "pooled_projection_dim": [3, 8],
    "guidance_embeds": [False, True],
    "axes_dims_rope": [[2, 2, 4], [4, 2, 2], [2, 6, 4], [3, 1, 4], [4, 4]],
}
SIZE = (4, 6)


def inputs(config, seed=0, size=SIZE):
    """A sample, a time and a condition."""
    rng = np.random.default_rng(seed)
    width, pooled = config["joint_attention_dim"], config["pooled_projection_dim"]
    sample = rng.standard_normal((*size, config["in_channels"] // 4), np.float32)
    condition = FluxCondition(
        rng.standard_normal((3, width), np.float32),
        rng.standard_normal(pooled, np.float32),
        np.float32(rng.uniform(0, 9)) if config["guidance_embeds"] else None,
    )
    return sample, np.float32(rng.uniform(0, 1000)), condition


@jax.jit
def call(model, *given):
    return model(*given)


def both(config, folder, **options):
    """What the two libraries return for the same weights and inputs."""
    model = flux_transformer(config)
    model.save_pretrained(folder)
    sample, timestep, condition = inputs(config, **options)
    ours = weights_convert.load_component(folder)
    return call(ours, sample, timestep, condition), run_flux_transformer(
        model, sample, timestep, *condition
    )


@pytest.mark.parametrize("seed", [1, 2, 4, 5])
def test_random_options_give_the_same_function_or_are_refused_by_name(seed, tmp_path):
    rng = random.Random(seed)
    names = rng.sample(sorted(VALUES), rng.choice([1, 2, 3]))
    config = TINY | {name: rng.choice(VALUES[name]) for name in names}
    try:
        FluxTransformer2DConfig.from_dict(config)
    except ValueError as error:
        assert any(name in str(error) for name in names), error  # noqa: PT017
        return
    found, wanted = both(config, tmp_path, seed=seed)
    assert relative_error(found, wanted) < 1e-4


@pytest.mark.parametrize("guidance", [True, False], ids=["dev", "schnell"])
def test_the_published_options_give_the_same_function(guidance, tmp_path):
    found, wanted = both(TINY | {"guidance_embeds": guidance}, tmp_path, size=(8, 6))
    assert relative_error(found, wanted) < 1e-4


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_of_the_published_layout_maps(name):
    data, config, size = PUBLISHED[name]
    assert FluxTransformer2DConfig.from_dict(data) == config
    layout = weights_convert.tensor_shapes(config)
    with torch.device("meta"):
        model = diffusers.FluxTransformer2DModel.from_config(data)
    assert layout == {key: tuple(x.shape) for key, x in model.state_dict().items()}
    assert sum(map(np.prod, layout.values())) == size

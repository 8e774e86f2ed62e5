"""Wan's transformer beside diffusers', and the layouts of Wan 2.1."""

import random

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_models import relative_error
from video_cases import randomized

import weights_convert
from jaxinv.models import (
    AutoencoderKLWanConfig,
    WanTransformer3DConfig,
    abstract_component,
)

# The published config.json of Wan-AI/Wan2.1-T2V-1.3B-Diffusers and -14B-Diffusers.
SMALL = {
    "added_kv_proj_dim": None,
    "attention_head_dim": 128,
    "cross_attn_norm": True,
    "eps": 1e-06,
    "ffn_dim": 8960,
    "freq_dim": 256,
    "image_dim": None,
    "in_channels": 16,
    "num_attention_heads": 12,
    "num_layers": 30,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "qk_norm": "rms_norm_across_heads",
    "rope_max_seq_len": 1024,
    "text_dim": 4096,
}
LARGE = SMALL | {"ffn_dim": 13824, "num_attention_heads": 40, "num_layers": 40}
VAE = {
    "attn_scales": [],
    "base_dim": 96,
    "dim_mult": [1, 2, 4, 4],
    "dropout": 0.0,
    "latents_mean": list(AutoencoderKLWanConfig().latents_mean),
    "latents_std": list(AutoencoderKLWanConfig().latents_std),
    "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
    "z_dim": 16,
}
PUBLISHED = {
    "1.3b": (SMALL, WanTransformer3DConfig.wan21_1_3b(), 1_418_996_800),
    "14b": (LARGE, WanTransformer3DConfig.wan21_14b(), 14_288_491_584),
    "vae": (VAE, AutoencoderKLWanConfig.wan21(), 126_892_531),
}
TINY = SMALL | {
    "attention_head_dim": 12,
    "ffn_dim": 20,
    "freq_dim": 16,
    "in_channels": 4,
    "num_attention_heads": 2,
    "num_layers": 2,
    "out_channels": 4,
    "text_dim": 6,
}
# Values to draw for every option; those that are not implemented are among them.
VALUES = {
    "added_kv_proj_dim": [None, 8],
    "attention_head_dim": [4, 8, 9, 16],
    "cross_attn_norm": [True, False],
    "eps": [1e-6, 1e-3],
    "ffn_dim": [8, 24],
    "freq_dim": [8, 9, 32],
    "image_dim": [None, 8],
    "in_channels": [2, 8],
    "num_attention_heads": [1, 3],
    "num_layers": [0, 1, 3],
    "out_channels": [None, 6],
    "patch_size": [[1, 2, 2], [1, 1, 1], [3, 2, 1], [2, 2]],
    "pos_embed_seq_len": [None, 4],
    "qk_norm": ["rms_norm_across_heads", "rms_norm"],
    "rope_max_seq_len": [8, 2048],
    "text_dim": [4, 9],
}
SHAPE = (3, 4, 6)


def inputs(config, shape=SHAPE):
    """A sample, a time and text vectors."""
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((*shape, config["in_channels"]), np.float32)
    return (
        sample,
        np.float32(rng.uniform(0, 1000)),
        rng.standard_normal((5, config["text_dim"]), np.float32),
    )


@jax.jit
def call(model, *given):
    return model(*given)


def both(config, folder):
    """What the two libraries return for the same weights and inputs."""
    model = randomized(diffusers.WanTransformer3DModel(**config))
    model.save_pretrained(folder)
    sample, timestep, text = inputs(config)
    batch = [torch.from_numpy(np.array(x)[None]) for x in (sample, timestep, text)]
    with torch.no_grad():
        found = model(batch[0].movedim(-1, 1), *batch[1:], return_dict=False)[0]
    ours = weights_convert.load_component(folder)
    return call(ours, sample, timestep, text), found[0].movedim(0, -1).numpy()


@pytest.mark.parametrize("seed", range(6))
def test_random_options_give_the_same_function_or_are_refused_by_name(seed, tmp_path):
    rng = random.Random(seed)
    names = rng.sample(sorted(VALUES), rng.choice([0, 1, 2, 3]) if seed else 0)
    config = TINY | {name: rng.choice(VALUES[name]) for name in names}
    try:
        WanTransformer3DConfig.from_dict(config)
    except ValueError as error:
        assert any(name in str(error) for name in names), error  # noqa: PT017
        return
    found, wanted = both(config, tmp_path)
    assert relative_error(found, wanted) < 1e-4


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_tensor_of_the_published_layout_maps(name):
    data, config, size = PUBLISHED[name]
    assert type(config).from_dict(data) == config
    layout = weights_convert.tensor_shapes(config)
    with torch.device("meta"):
        model = getattr(diffusers, config.class_name).from_config(data)
    assert layout == {key: tuple(x.shape) for key, x in model.state_dict().items()}
    assert sum(map(np.prod, layout.values())) == size


def test_a_16_bit_network_returns_the_dtype_of_its_sample():
    config = WanTransformer3DConfig.from_dict(TINY)
    model = abstract_component(config, dtype=jnp.bfloat16, param_dtype=jnp.bfloat16)
    found = jax.eval_shape(call, model, *inputs(TINY))
    assert found.dtype == jnp.float32


def test_latents_and_text_that_do_not_fit_are_refused():
    config = WanTransformer3DConfig.from_dict(TINY | {"rope_max_seq_len": 4})
    model = abstract_component(config)
    sample, timestep, text = inputs(TINY)
    for x, vectors, reason in (
        (sample[:, :3], text, r"\(f, h, w\) multiples of \(1, 2, 2\)"),
        (sample[0], text, "multiples of"),
        (sample[..., :3], text, r"shape \(f, h, w, 4\)"),
        (np.zeros((5, 4, 4, 4)), text, "rope_max_seq_len"),
        (sample, text[0], "text vectors of shape"),
        (sample, text[:, 1:], "text vectors of shape"),
    ):
        with pytest.raises(ValueError, match=reason):
            jax.eval_shape(call, model, x, timestep, vectors)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"is_residual": True}, "is_residual"),
        ({"patch_size": 2}, "patch_size"),
        ({"attn_scales": [0.5]}, "attn_scales"),
        ({"temperal_downsample": [True]}, "temperal_downsample"),
        ({"temperal_downsample": [True] * 3}, "scale_factor_temporal"),
        ({"dim_mult": [1, 2]}, "temperal_downsample"),
        ({"latents_std": [1.0]}, "latents_std"),
        ({"latents_std": [0.0] * 16}, "latents_std"),
        ({"base_dim": 7, "dim_mult": [1, 1, 2, 2]}, "base_dim"),
    ],
)
def test_options_of_the_autoencoder_that_are_not_implemented(changes, reason):
    with pytest.raises(ValueError, match=reason):
        AutoencoderKLWanConfig.from_dict(VAE | changes)

"""PixArt, beside diffusers: the network, its layout, and whole pipelines."""

import json
import shutil

import diffusers
import jax
import numpy as np
import pytest
import torch
from pixart_cases import (
    PUBLISHED,
    SIZE,
    TRANSFORMER,
    WIDTH,
    pixart_transformer,
    run_pixart,
    write_pixart_pipeline,
)
from safetensors.numpy import load_file, save_file
from test_sdxl import relative_error

import jaxinv as ji
import weights_convert
from jaxinv.models import PixArtCondition, PixArtTransformerConfig
from jaxinv.models.registry import component_config

# The published config.json of both kinds, which name the class of their time.
SIGMA = {
    "_class_name": "Transformer2DModel",
    "_diffusers_version": "0.28.0.dev0",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 72,
    "attention_type": "default",
    "caption_channels": 4096,
    "cross_attention_dim": 1152,
    "double_self_attention": False,
    "dropout": 0.0,
    "in_channels": 4,
    "interpolation_scale": 2,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_single",
    "num_attention_heads": 16,
    "num_embeds_ada_norm": 1000,
    "num_layers": 28,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 128,
    "upcast_attention": False,
    "use_additional_conditions": False,
    "use_linear_projection": False,
}
ALPHA = {
    key: value
    for key, value in SIGMA.items()
    if key not in ("interpolation_scale", "use_additional_conditions")
}


@pytest.fixture(scope="module", params=PUBLISHED)
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pixart") / request.param
    write_pixart_pipeline(folder, request.param)
    return folder


@pytest.fixture(scope="module")
def noise():
    rng = np.random.default_rng(0)
    return rng.standard_normal((SIZE, SIZE, 4), np.float32)


@jax.jit
def run(model, *args):
    return model(*args)


@jax.jit
def generated(table, denoise, noise):
    return ji.sample(table, denoise, noise)


@pytest.mark.parametrize(
    ("options", "size"),
    [
        ({}, (8, 8)),
        ({"use_additional_conditions": True, "interpolation_scale": None}, (6, 10)),
        (
            {
                "caption_channels": None,
                "cross_attention_dim": WIDTH,
                "out_channels": 4,
                "attention_bias": False,
            },
            (8, 6),
        ),
    ],
    ids=["sigma", "alpha", "others"],
)
def test_the_network_equals_diffusers(options, size, tmp_path):
    theirs = pixart_transformer(**options)
    theirs.save_pretrained(tmp_path)
    ours = weights_convert.load_component(tmp_path)
    rng = np.random.default_rng(0)
    sample = rng.standard_normal((*size, 4), np.float32)
    text = rng.standard_normal((7, WIDTH), np.float32)
    mask = np.float32(np.arange(7) < 4)
    condition = PixArtCondition(text, mask)
    added = {"resolution": None, "aspect_ratio": None}
    if ours.config.sized:
        numbers = np.array([640, 1600], np.float32), np.array(0.4, np.float32)
        condition = PixArtCondition(text, mask, *numbers)
        added = {
            name: torch.from_numpy(number.reshape(1, -1))
            for name, number in zip(added, numbers, strict=True)
        }
    with torch.no_grad():
        wanted = theirs(
            torch.from_numpy(np.moveaxis(sample, -1, 0)[None].copy()),
            encoder_hidden_states=torch.from_numpy(text)[None],
            encoder_attention_mask=torch.from_numpy(mask)[None],
            timestep=torch.tensor([321.75]),
            added_cond_kwargs=added,
        ).sample[0, :4]
    error = relative_error(
        run(ours, sample, 321.75, condition), np.moveaxis(wanted.numpy(), 0, -1)
    )
    print(f"largest error {error:.1e} of the RMS")
    assert error < 1e-4
    weights_convert.save_component(ours, tmp_path / "ours")
    again = diffusers.PixArtTransformer2DModel.from_pretrained(tmp_path / "ours")
    pairs = zip(again.parameters(), theirs.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("data", "config", "size"),
    [
        (SIGMA, PixArtTransformerConfig.sigma_1024(), 610_856_096),
        (ALPHA, PixArtTransformerConfig.alpha_1024(), 611_349_152),
    ],
)
def test_every_tensor_of_the_published_layout_maps(data, config, size):
    read = component_config(data)
    assert (read.sized, read.position_scale) == (config.sized, config.position_scale)
    with torch.device("meta"):
        theirs = diffusers.PixArtTransformer2DModel.from_config(data)
    wanted = {name: tuple(x.shape) for name, x in theirs.state_dict().items()}
    layout = weights_convert.tensor_shapes(config)
    assert layout == wanted == weights_convert.tensor_shapes(read)
    assert sum(map(np.prod, layout.values())) == size


def test_a_folder_that_was_published_under_former_names_is_read(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    for path, change in (
        ("model_index.json", {"transformer": ["diffusers", SIGMA["_class_name"]]}),
        ("transformer/config.json", {"_class_name": SIGMA["_class_name"]}),
    ):
        data = json.loads((tmp_path / path).read_text())
        (tmp_path / path).write_text(json.dumps(data | change))
    file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    absent_text = {"caption_projection.y_embedding": np.ones((9, WIDTH), np.float32)}
    save_file(load_file(file) | absent_text, file)
    former, now = ji.load(tmp_path), ji.load(folder)
    jax.tree.map(np.testing.assert_array_equal, former.network, now.network)


def test_eight_steps_are_those_of_diffusers(folder, noise):
    pipe = ji.load(folder).at_size((4 * SIZE, 4 * SIZE))
    kind = json.loads((folder / "model_index.json").read_text())["_class_name"]
    theirs = getattr(diffusers, kind).from_pretrained(folder)
    theirs.set_progress_bar_config(disable=True)
    asked = {"guidance_scale": 4.5, "negative_prompt": "a blue"}
    sampler, denoise = pipe.sampler(8), pipe.denoiser(" Red cat ", **asked)
    ours = generated(sampler, denoise, noise)
    wanted = run_pixart(
        theirs, noise, prompt=" Red cat ", num_inference_steps=8, **asked
    )
    error = relative_error(ours, wanted)
    print(f"8 steps of {kind}: largest error {error:.1e} of the RMS")
    assert error < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_type": "ada_norm_zero"}, "norm_type"),
        ({"norm_elementwise_affine": True}, "norm_elementwise_affine=True is not"),
        ({"attention_type": "gated"}, "attention_type='gated' is not implemented"),
        ({"cross_attention_dim": 20}, "cross_attention_dim=20 must be 24"),
        ({"out_channels": 6}, "out_channels=6 must be in_channels=4, or twice"),
    ],
)
def test_other_options_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        PixArtTransformerConfig.from_dict(TRANSFORMER | change)

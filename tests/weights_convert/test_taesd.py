"""The tiny autoencoder: parity with diffusers, and its original files."""

import os
from pathlib import Path

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import jaxinv as ji
from jaxinv.models import AutoencoderTiny, AutoencoderTinyConfig
from weights_convert.component import load_component, save_component
from weights_convert.errors import WeightsError
from weights_convert.taesd import load_taesd

SMALL = {
    "encoder_block_out_channels": (8, 8, 8),
    "decoder_block_out_channels": (8, 8, 8),
    "num_encoder_blocks": (1, 2, 1),
    "num_decoder_blocks": (2, 1, 1),
    "latent_channels": 6,
}
CONFIGS = {"small": SMALL, "taesd": {}}
# Given by whoever has the files: a folder with the tiny autoencoder of FLUX.2.
REAL = Path(
    os.environ.get("JAXINV_TAEF2", Path(__file__).parents[3] / "shared/models/taef2")
)


def pixels(size=(32, 48), seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (*size, 3)).astype(np.float32)


def torch_model(**options):
    torch.manual_seed(0)
    model = diffusers.AutoencoderTiny(**options).eval()
    for parameter in model.parameters():  # biases that matter
        nn.init.normal_(parameter, std=0.15 if parameter.ndim > 1 else 0.1)
    return model


def relative_error(found, wanted):
    wanted = np.asarray(wanted)
    return np.abs(np.asarray(found) - wanted).max() / np.sqrt(np.mean(wanted**2))


def both_ways(ours, image):
    """Latent and decoding of an image, compiled."""
    latent = jax.jit(AutoencoderTiny.encode)(ours, image)
    return latent, jax.jit(AutoencoderTiny.decode)(ours, latent)


@torch.no_grad()
def torch_both_ways(model, image):
    x = torch.from_numpy(image).permute(2, 0, 1)[None]
    latent = model.encode(x).latents
    return [
        y[0].permute(1, 2, 0).numpy() for y in (latent, model.decode(latent).sample)
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_it_equals_diffusers_both_ways(name, tmp_path):
    theirs = torch_model(**CONFIGS[name])
    theirs.save_pretrained(tmp_path / "tiny")
    ours = load_component(tmp_path / "tiny")
    for found, wanted in zip(
        both_ways(ours, pixels()), torch_both_ways(theirs, pixels()), strict=True
    ):
        assert found.shape == wanted.shape
        assert relative_error(found, wanted) < 1e-4


def test_it_is_written_as_diffusers_reads_it(tmp_path):
    theirs = torch_model(**SMALL)
    theirs.save_pretrained(tmp_path / "tiny")
    save_component(load_component(tmp_path / "tiny"), tmp_path / "again")
    again = diffusers.AutoencoderTiny.from_pretrained(tmp_path / "again")
    for name, value in theirs.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], value)


def original(model, folder):
    """The files as the original has them: one sequence each, named by place."""
    folder.mkdir()
    paths = {}
    for side, offset in (("encoder", 0), ("decoder", 1)):
        tensors = {}
        for name, value in getattr(model, side).layers.state_dict().items():
            place, rest = name.split(".", 1)
            tensors[f"{int(place) + offset}.{rest}"] = value
        paths[side] = folder / f"tiny_{side}.safetensors"
        save_file(tensors, paths[side])
    return paths


@pytest.mark.parametrize("name", CONFIGS)
def test_original_files_are_the_same_model(name, tmp_path):
    theirs = torch_model(**CONFIGS[name])
    ours = load_taesd(**original(theirs, tmp_path / "files"))
    wanted = dict(CONFIGS[name])
    assert ours.config == AutoencoderTinyConfig(**wanted)
    for found, expected in zip(
        both_ways(ours, pixels()), torch_both_ways(theirs, pixels()), strict=True
    ):
        assert relative_error(found, expected) < 1e-4


class _Pooled(nn.Module):
    """A block with the pooled branch of FLUX.2's tiny autoencoder, in PyTorch."""

    def __init__(self, block, width):
        super().__init__()
        self.conv = block.conv
        self.pool = nn.Sequential(
            nn.Conv2d(width, 4 * width, 1, bias=False),
            nn.GroupNorm(4, 4 * width),
            nn.ReLU(),
            nn.Conv2d(4 * width, width, 1, bias=False),
        )

    def forward(self, x):
        x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


def test_blocks_with_a_pooled_branch_are_read(tmp_path):
    theirs = torch_model(**SMALL)
    theirs.encoder.layers[6] = _Pooled(theirs.encoder.layers[6], 8)
    for place in (2, 3):
        theirs.decoder.layers[place] = _Pooled(theirs.decoder.layers[place], 8)
    ours = load_taesd(**original(theirs, tmp_path / "files"))
    assert ours.config == AutoencoderTinyConfig(**SMALL, pooled_blocks=True)
    for found, wanted in zip(
        both_ways(ours, pixels()), torch_both_ways(theirs, pixels()), strict=True
    ):
        assert relative_error(found, wanted) < 1e-4


def test_a_pipeline_uses_it_in_place_of_its_own_autoencoder(tiny):
    import dataclasses

    config = AutoencoderTinyConfig(**SMALL)
    from flax import nnx

    vae = AutoencoderTiny(config, rngs=nnx.Rngs(0))
    pipe = dataclasses.replace(tiny, vae=vae)
    image = jnp.asarray((pixels((16, 16)) + 1) / 2)
    latent = pipe.encode(image)
    assert latent.shape == (4, 4, 6)
    assert pipe.decode(latent).shape == (16, 16, 3)
    result = pipe.invert_decoder(image, "gauss_newton")
    assert float(result.residual) < float(result.encoder_residual)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda t: {k: v for k, v in t.items() if k != "0.bias"}, "found nothing"),
        (lambda t: {**t, "0.bias": t["0.bias"][:-1]}, "expected a tensor of shape"),
        (lambda t: {**t, "1.conv.7.bias": t["0.bias"].clone()}, "no place"),
        (lambda t: {f"encoder.{k}": v for k, v in t.items()}, "named by its place"),
        (lambda t: {"0.bias": t["0.bias"]}, "do not form"),
    ],
)
def test_files_that_are_no_such_network_are_refused(change, match, tmp_path):
    from safetensors.torch import load_file

    paths = original(torch_model(**SMALL), tmp_path / "files")
    save_file(change(load_file(paths["encoder"])), paths["encoder"])
    with pytest.raises(WeightsError, match=match):
        load_taesd(**paths)


def test_a_missing_file_is_named(tmp_path):
    paths = original(torch_model(**SMALL), tmp_path / "files")
    paths["decoder"].unlink()
    with pytest.raises(WeightsError, match=r"tiny_decoder\.safetensors is missing"):
        load_taesd(**paths)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"upsample_fn": "bilinear"}, "upsample_fn"),
        ({"act_fn": "swoosh"}, "act_fn"),
        ({"num_encoder_blocks": (1, 2)}, "num_encoder_blocks"),
        ({"encoder_block_out_channels": (64, 32, 64, 64)}, "different widths"),
    ],
)
def test_options_that_are_not_implemented_are_named(options, match):
    with pytest.raises(ValueError, match=match):
        AutoencoderTinyConfig(**options)


@pytest.mark.skipif(
    not REAL.is_dir(), reason="needs the files of FLUX.2's tiny autoencoder (taef2)"
)
def test_a_real_one_reconstructs_pictures_and_is_inverted():
    ours = load_taesd(
        REAL / "taef2_encoder.safetensors", REAL / "taef2_decoder.safetensors"
    )
    assert ours.config.pooled_blocks
    # A smooth picture: no photograph comes with what the tests install.
    y, x = np.mgrid[0:64, 0:64] / 64
    picture = np.stack([x, y, 0.5 + 0.4 * np.sin(9 * x * y)], -1).astype(np.float32)

    def encode(image):
        return ours.encode(2 * image - 1)

    def decode(latent):
        return (ours.decode(latent) + 1) / 2

    again = jax.jit(lambda x: decode(encode(x)))(picture)
    assert float(ji.psnr(again, picture)) > 28
    result = ji.invert_decoder(
        encode, decode, picture, ji.decoder.Anderson(iterations=5)
    )
    assert float(result.residual) < 0.7 * float(result.encoder_residual)

"""Wan's video autoencoder against diffusers, which computes it in chunks."""

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_models import relative_error
from video_cases import randomized

import weights_convert

SMALL = {
    "base_dim": 8,
    "z_dim": 4,
    "dim_mult": [1, 2, 2, 2],
    "num_res_blocks": 1,
    "temperal_downsample": [False, True, True],
    "latents_mean": [0.1, -0.2, 0.3, 0.0],
    "latents_std": [1.5, 0.5, 2.0, 1.0],
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The model of diffusers, and the same weights here."""
    folder = tmp_path_factory.mktemp("wan") / "vae"
    theirs = randomized(diffusers.AutoencoderKLWan(**SMALL, decoder_base_dim=12))
    with torch.no_grad():
        theirs.decoder.conv_out.weight *= 0.2  # within the limits of pixels
    theirs.save_pretrained(folder)
    return theirs, weights_convert.load_component(folder)


def to_torch(video):
    return torch.from_numpy(np.moveaxis(np.array(video), -1, 0)[None])


def from_torch(video):
    return np.moveaxis(video.detach().numpy()[0], 0, -1)


@pytest.mark.parametrize("frames", [1, 5, 9])
def test_encoder_and_decoder_equal_those_of_diffusers(pair, frames):
    theirs, ours = pair
    video = np.random.default_rng(0).uniform(-1, 1, (frames, 16, 24, 3))
    video = video.astype(np.float32)
    with torch.no_grad():
        wanted = theirs.encode(to_torch(video)).latent_dist
        found = jax.jit(ours.encode)(video)
        assert found.mean.shape == ((frames - 1) // 4 + 1, 2, 3, 4)
        assert relative_error(found.mean, from_torch(wanted.mean)) < 1e-4
        assert relative_error(found.log_var, from_torch(wanted.logvar)) < 1e-4
        latent = np.asarray(found.mean)
        decoded = jax.jit(ours.decode)(latent)
        limited = from_torch(theirs.decode(to_torch(latent)).sample)
        assert np.mean(np.abs(limited) < 1) > 0.9
        assert relative_error(jnp.clip(decoded, -1, 1), limited) < 1e-4

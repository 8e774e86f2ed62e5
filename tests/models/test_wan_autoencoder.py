"""Wan's video autoencoder against diffusers, which computes it in chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_models import relative_error
from wan_cases import from_torch, to_torch, wan_vae

import weights_convert
from jaxinv.pipeline.latents import decode, encode


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The model of diffusers, and the same weights here."""
    folder = tmp_path_factory.mktemp("wan") / "vae"
    theirs = wan_vae()
    theirs.save_pretrained(folder)
    return theirs, weights_convert.load_component(folder)


def normalized(vae, raw):
    """A latent of diffusers as the diffusion sees it."""
    mean, std = (np.array(vae.config[f"latents_{x}"], "f4") for x in ("mean", "std"))
    return (from_torch(raw) - mean) / std


@pytest.mark.parametrize("frames", [1, 9])
def test_encoder_and_decoder_equal_those_of_diffusers(pair, frames):
    theirs, ours = pair
    video = np.random.default_rng(0).random((frames, 16, 24, 3), np.float32)
    with torch.no_grad():
        raw = theirs.encode(to_torch(2 * video - 1)).latent_dist.mode()
        wanted = (from_torch(theirs.decode(raw).sample) + 1) / 2
    latent = encode(ours, video)
    assert latent.shape == ((frames - 1) // 4 + 1, 2, 3, 4)
    decoded = jnp.clip(decode(ours, latent), 0, 1)
    errors = (
        relative_error(latent, normalized(theirs, raw)),
        relative_error(decoded, wanted),
    )
    print(f"{frames} frames: latent {errors[0]:.1e}, video {errors[1]:.1e} of the RMS")
    assert max(errors) < 1e-4
    assert np.mean((wanted > 0) & (wanted < 1)) > 0.9


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_frames(pair):
    def temporary(frames):
        latents = jax.ShapeDtypeStruct((frames, 2, 2, 4), jnp.float32)
        compiled = decode.lower(pair[1], latents).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    # The result itself, and a copy of it.
    assert temporary(17) < temporary(3) + 2 * 14 * 4 * 16 * 16 * 3 * 4

"""The embedded model of pixels: PyTorch's network, and noises that come back."""

from pathlib import Path

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch_models import from_torch, relative_error, to_torch

import jaxinv as ji

FOLDER = Path(ji.__file__).parent / "zoo" / "emoji16"


@pytest.fixture(scope="module")
def pipe():
    return ji.load("emoji16")


def test_the_network_equals_pytorch_on_the_weights_that_ship(pipe):
    model = diffusers.UNet2DModel.from_pretrained(FOLDER / "unet").float().eval()
    sample = np.random.default_rng(0).standard_normal((16, 16, 3), np.float32)
    with torch.no_grad():
        wanted = from_torch(model(to_torch(sample), 321).sample)
    found = jax.jit(lambda network, x: network(x, 321.0))(pipe.network, sample)
    assert relative_error(found, wanted) < 1e-4


def test_it_has_learned_its_data(pipe):
    # Pictures lie in their range, and most of the noise in a noisy one is found.
    sampler, denoise = ji.ddim(ji.time_grid(pipe.schedule, 20)), pipe.denoiser()
    clean = ji.sample(sampler, denoise, noise_of(pipe))
    assert jnp.mean(jnp.abs(clean) < 1.1) > 0.95
    t = 300
    alpha = 1 / np.sqrt(1 + pipe.schedule.taus[t] ** 2)
    noise = noise_of(pipe, 1)
    noisy = alpha * clean + np.sqrt(1 - alpha**2) * noise
    found = denoise(noisy, jnp.asarray(float(t)))
    assert jnp.mean((found - noise) ** 2) < 0.2


def noise_of(pipe, seed=0):
    return jax.random.normal(jax.random.key(seed), pipe.latent_shape)


def test_noise_goes_to_a_picture_and_back(pipe):
    sampler, denoise = ji.ddim(ji.time_grid(pipe.schedule, 20)), pipe.denoiser()
    noise = noise_of(pipe)
    found = ji.invert(sampler, denoise, ji.sample(sampler, denoise, noise))
    assert found.converged
    assert ji.nmse_db(found.noise, noise) < -60

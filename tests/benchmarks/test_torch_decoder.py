"""The published decoder inversions equal references in PyTorch, on the same weights."""

from pathlib import Path

import jax
import numpy as np
import pytest
import torch

import benchmarks.torch_reference as ref
import jaxinv as ji
from benchmarks.torch_reference import decoder as published
from jaxinv.decoder_inversion import Adam, ForwardStep, Gradient, learning_rates

FOLDER = Path(ji.__file__).parent / "zoo" / "emoji64"
# Twelve, so that there is a warm-up; after four the forward step gains no more here.
CASES = {
    "gradient": (Gradient, published.gradient, 12),
    "forward_step": (ForwardStep, published.forward_step, 4),
    "adam": (Adam, published.gradient_free_adam, 12),
}


@pytest.fixture(scope="module")
def autoencoder():
    return ref.TorchAutoencoder(FOLDER)


@pytest.fixture(scope="module")
def image():
    """A disc on a slope; no pixel at a limit, of which the papers say nothing."""
    y, x = np.mgrid[0:64, 0:64] / 63
    disc = (x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.1
    colours = [np.where(disc, 0.8, 0.3 + 0.2 * x), np.where(disc, 0.3, 0.6 - 0.2 * y)]
    return np.stack([*colours, np.full_like(x, 0.5)], -1).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_the_last_iterate_is_that_of_the_reference(name, autoencoder, image, emoji64):
    method, reference, iterations = CASES[name]
    pixels = ref.to_channels_first(image[None])
    theirs = reference(autoencoder.encode, autoencoder.decode, pixels, iterations)
    found = emoji64.invert_decoder(image, method(iterations=iterations, patience=None))
    # The library returns the best iterate: here that is the last.
    assert int(found.best_iteration) == int(found.iterations) == iterations
    theirs = ref.to_channels_last(theirs)[0]
    moved = np.linalg.norm(theirs - emoji64.encode(image))
    assert np.linalg.norm(found.latent - theirs) < 1e-3 * moved


RATES = {
    "gradient": (published.warm_cosine, learning_rates.warm_cosine),
    "adam": (published.held_cosine, learning_rates.held_cosine),
}


@pytest.mark.parametrize("name", RATES)
def test_the_learning_rates_are_those_of_the_reference_for_any_number(name):
    theirs, ours = RATES[name]
    for n in [1, 10, *np.random.default_rng(3).integers(2, 400, 20).tolist()]:
        wanted = [theirs(k, n) for k in range(n)]
        found = jax.vmap(ours(1.0, n))(np.arange(n))
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_the_autoencoders_are_the_same(autoencoder, image, emoji64):
    with torch.no_grad():
        latent = autoencoder.encode(ref.to_channels_first(image[None]))
        again = autoencoder.decode(latent)
    ours = emoji64.encode(image)
    assert np.abs(ours - ref.to_channels_last(latent)[0]).max() < 1e-4
    decoded = emoji64.decode_unclipped(ours)
    assert np.abs(decoded - ref.to_channels_last(again)[0]).max() < 1e-4

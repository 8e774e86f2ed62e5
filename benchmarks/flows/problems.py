"""What is inverted: a guided mixture of Gaussians, and a flow of the SD3 kind."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.mixture import COMPONENTS, DIMENSIONS, VARIANCE
from benchmarks.samples import PROMPTS
from training.flow_folder import complete_folder

EMOFLOW = Path(__file__).parent / "sd3"
EMOJI64 = Path(ji.__file__).parent / "zoo/emoji64"


class Problem(NamedTuple):
    """A guided flow model with its samples.

    Attributes:
        title: In the report.
        shape: Of the noises: number of samples, shape of one.
        shift: Of the times of its grids.
        denoiser: Map from the number of a sample and a guidance scale to the model.
        decode: Map from data to an image; None for a model without images.
    """

    title: str
    shape: tuple[int, ...]
    shift: float
    denoiser: Callable[[int, float], Any]
    decode: Callable[[Any], Any] | None = None

    def noises(self, seed: int) -> Any:
        """Return one noise for each sample."""
        return jax.random.normal(jax.random.key(seed), self.shape)

    def grid(self, steps: int) -> ji.TimeGrid:
        """Return uniform times from 1 to 0, shifted, as the rivals' code does."""
        return shifted_grid(steps, self.shift)


def shifted_grid(steps: int, shift: float) -> ji.TimeGrid:
    """Return the grid of times ``s t / (1 + (s - 1) t)`` with t uniform in [0, 1]."""
    t = np.linspace(0, 1, steps + 1)
    tau = shift * t / (1 + (shift - 1) * t)
    return ji.TimeGrid(tau, np.ones_like(tau), 1000 * tau, family="flow")


def guided_mixture(samples: int) -> Problem:
    """Return eight Gaussians; a condition is one of them, the empty one all."""
    centers = np.random.default_rng(0).standard_normal((COMPONENTS, DIMENSIONS))
    chosen = np.eye(COMPONENTS)[np.arange(samples) % COMPONENTS]
    # Conditions are the logarithms of the weights, up to a constant.
    conditions = jnp.asarray(np.where(chosen == 1, 0.0, -1e9), jnp.float32)
    model = jax.tree_util.Partial(mixture_velocity, jnp.asarray(centers, jnp.float32))
    empty = jnp.zeros(COMPONENTS, jnp.float32)

    def denoiser(k: int, guidance: float) -> Any:
        return ji.guided(model, conditions[k], empty, jnp.float32(guidance))

    return Problem("guided mixture", (samples, DIMENSIONS), 3.0, denoiser)


def mixture_velocity(centers: Any, x: Any, time: Any, condition: Any) -> Any:
    """Return the exact velocity ``E[e - x_0 | x]`` of a mixture of Gaussians."""
    t = time / 1000
    offsets = x - (1 - t) * centers
    variance = (1 - t) ** 2 * VARIANCE + t**2
    weights = jax.nn.softmax(condition - jnp.sum(offsets**2, 1) / (2 * variance))
    noise = weights @ offsets * t / variance
    data = weights @ (centers + (1 - t) * VARIANCE / variance * offsets)
    return noise - data


def load_emoflow() -> ji.Pipeline:
    """Return the trained pipeline; its encoders and autoencoder are emoji64's."""
    with tempfile.TemporaryDirectory() as folder:
        complete_folder(EMOFLOW, EMOJI64, Path(folder) / "emoflow")
        return ji.load(Path(folder) / "emoflow")


def emoji_latents(samples: int) -> Problem:
    """Return the trained flow, each sample with a prompt of its own."""
    pipe = load_emoflow()
    prompts = [PROMPTS[k % len(PROMPTS)] for k in range(samples)]
    encode = {
        text: pipe.encode_prompt(text, max_sequence_length=0) for text in {*prompts, ""}
    }

    def denoiser(k: int, guidance: float) -> Any:
        return pipe.denoiser(encode[prompts[k]], encode[""], guidance)

    shape = (samples, *pipe.latent_shape)
    return Problem("SD3 on emoji latents", shape, 1.0, denoiser, pipe.decode)

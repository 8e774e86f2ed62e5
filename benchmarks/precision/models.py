"""The models whose networks are rounded, as the benchmark calls them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxinv as ji
from benchmarks.samples import PROMPTS

DTYPES: dict[str, Any] = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


class Model(NamedTuple):
    """A guided model.

    Attributes:
        sampler: Function from the number of steps to a sampler of first order.
        denoiser: Function from the number of a sample and a guidance scale to a
            denoiser; the scale is an argument of its program.
        noise: Function from the number of a sample to its noise.
    """

    sampler: Callable[[int], ji.SamplerTable]
    denoiser: Callable[[int, float], Any]
    noise: Callable[[int], Any]


def emoji64(dtype: Any) -> Model:
    """Return the embedded UNet, with DDIM on the grid that is uniform in log-SNR."""
    pipe = ji.load("emoji64", dtype=dtype, param_dtype=dtype)

    def sampler(steps: int) -> ji.SamplerTable:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ji.LossyGridWarning)
            return ji.ddim(ji.time_grid(pipe.schedule, steps))

    return of_pipeline(pipe, sampler)


def of_pipeline(pipe: Any, sampler: Callable[[int], ji.SamplerTable]) -> Model:
    """Return a text-conditional pipeline's network."""
    empty = pipe.encode_prompt("")

    def denoiser(k: int, scale: float) -> Any:
        prompt = pipe.encode_prompt(PROMPTS[k % len(PROMPTS)])
        # A scale that is an array is guidance, also at 1.
        return pipe.denoiser(prompt, empty, jnp.float32(scale))

    def noise(k: int) -> Any:
        return jax.random.normal(jax.random.key(k), pipe.latent_shape)

    return Model(sampler, denoiser, noise)


MODELS: dict[str, Callable[[Any], Model]] = {"emoji64": emoji64}

"""The models whose networks are rounded, as the benchmark calls them."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxinv as ji
from benchmarks.flows.problems import EMOFLOW, EMOJI64, shifted_grid
from benchmarks.samples import PROMPTS
from training.flow_folder import complete_folder

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


def emoflow(dtype: Any) -> Model:
    """Return the flow of the SD3 kind, with Euler's steps on uniform times."""
    with tempfile.TemporaryDirectory() as folder:
        complete_folder(EMOFLOW, EMOJI64, Path(folder) / "emoflow")
        pipe = ji.load(Path(folder) / "emoflow", dtype=dtype, param_dtype=dtype)

    def sampler(steps: int) -> ji.SamplerTable:
        return ji.euler(shifted_grid(steps, 1.0))

    return of_pipeline(pipe, sampler, max_sequence_length=0)  # no T5


def of_pipeline(
    pipe: Any, sampler: Callable[[int], ji.SamplerTable], **options: Any
) -> Model:
    """Return a text-conditional pipeline's network; options encode prompts."""
    empty = pipe.encode_prompt("", **options)

    def denoiser(k: int, scale: float) -> Any:
        prompt = pipe.encode_prompt(PROMPTS[k % len(PROMPTS)], **options)
        # A scale that is an array is guidance, also at 1.
        return pipe.denoiser(prompt, empty, jnp.float32(scale))

    def noise(k: int) -> Any:
        return jax.random.normal(jax.random.key(k), pipe.latent_shape)

    return Model(sampler, denoiser, noise)


MODELS: dict[str, Callable[[Any], Model]] = {"emoji64": emoji64, "emoflow": emoflow}

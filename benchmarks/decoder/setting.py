"""What the sections of :mod:`benchmarks.decoder` share: latents, images, programs."""

import argparse
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.report import Kept
from benchmarks.samples import make_samples
from jaxinv.decoder_inversion import Method

GUIDANCE = 3.0
STEPS = 20


class Samples(NamedTuple):
    """What is inverted.

    Attributes:
        noises: Unit noise, shape (b, h, w, c).
        latents: Sampled from it, likewise.
        images: Decoded, clipped and rounded: uint8, shape (b, H, W, 3).
        conds: Text vectors.
        uncond: Those of the empty prompt.
    """

    noises: Any
    latents: Any
    images: Any
    conds: Any
    uncond: Any


@jax.jit
def _make(pipe: Any, sampler: Any, cond: Any, uncond: Any, noise: Any) -> Any:
    denoise = pipe.denoiser(cond, uncond, jnp.float32(GUIDANCE))
    latent = ji.sample(sampler, denoise, noise)
    return latent, jnp.round(255 * pipe.decode(latent)).astype(jnp.uint8)


class Setting:
    """The model and its samples, made once; and results that were measured before."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.pipe = ji.load(arguments.model)
        given = {"model": arguments.model, "seed": arguments.seed}
        self.remembered = Kept(arguments.resume, "what", **given)

    @functools.cached_property
    def sampler(self) -> ji.SamplerTable:
        """DDIM on the default grid."""
        return ji.ddim(ji.time_grid(self.pipe.schedule, STEPS))

    @functools.cached_property
    def samples(self) -> Samples:
        """Sampled, decoded, rounded."""
        drawn = make_samples(self.pipe, self.arguments.samples, self.arguments.seed)
        made = [
            _make(self.pipe, self.sampler, cond, drawn.uncond, noise)
            for cond, noise in zip(drawn.conds, drawn.noises, strict=True)
        ]
        latents, images = (jnp.stack(parts) for parts in zip(*made, strict=True))
        return Samples(drawn.noises, latents, images, drawn.conds, drawn.uncond)


def with_iterations(method: Method, iterations: int) -> Method:
    """Return a method that runs all of so many iterations."""
    return dataclasses.replace(method, iterations=iterations, patience=None)  # type: ignore[type-var]


def compiled(pipe: Any, image: Any, method: Method) -> Any:
    """Return the program of one inversion."""

    def run(pipe: Any, image: Any) -> ji.DecoderInversion:
        return pipe.invert_decoder(image, method)

    return jax.jit(run).lower(pipe, image).compile()


def rounded_psnr(pipe: Any, latent: Any, image: Any) -> float:
    """PSNR of the decoded latent to the 8-bit image."""
    return float(ji.psnr(pipe.decode(latent), jnp.asarray(image, jnp.float32) / 255))


def pair(values: Any, worst: Callable[[Any], Any] = np.max) -> str:
    """Median and worst."""
    return f"{np.median(values):.1f} / {worst(values):.1f}"

r"""Methods of decoder inversion as published: all iterates, of which the last counts.

The library returns the best iterate by image misfit, and clips decodings before it
encodes them. The authors' code does neither; nor do the published methods here. (It
also draws every encoding at random from the posterior, where this takes the mean.)
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxinv as ji
from benchmarks.papers.decoder.pictures import autoencoder, networks, picture
from benchmarks.papers.setting import Setting
from jaxinv.decoder_inversion import InertialKM
from jaxinv.decoder_inversion.gradient_free import _GradientFree
from jaxinv.decoder_inversion.problem import Limits, Problem

#: As everywhere in the library, for methods that are not published.
CLIPPED = (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Descent(_GradientFree):
    """An optimizer that is given ``E(D(z)) - E(x)`` in place of a gradient.

    Attributes:
        optimizer: Any optax transformation.
        iterations: Number of iterations.
    """

    optimizer: optax.GradientTransformation
    iterations: int
    patience: None = None

    def begin(self, problem: Problem, z: Any) -> Any:
        """Return the initial state of the optimizer."""
        return self.optimizer.init(z)

    def step(self, problem: Problem, k: Any, z: Any, memory: Any) -> Any:
        """Take one step."""
        decoded = problem.decoded(z)
        difference = problem.difference(decoded)
        update, memory = self.optimizer.update(difference, memory, z)
        return decoded, optax.apply_updates(z, update), memory


@dataclasses.dataclass(frozen=True)
class Variant:
    """A method with its settings, by the number of iterations.

    Attributes:
        make: Function of the number of iterations that returns the method.
        scheduled: Whether the first iterates depend on that number. Otherwise one run
            of ``longest`` iterations shows what fewer give.
        longest: The largest number of iterations.
        bits: Precision of the networks; iterates have 32 bits.
        limits: Where decodings are clipped; None for no clipping, as published.
    """

    make: Callable[[int], Any]
    scheduled: bool = False
    longest: int = 100
    bits: int = 32
    limits: Limits = None


def problem_of(vae: Any, pixels: Any, limits: Limits) -> Problem:
    """Return the problem of an image, inside a compiled program."""
    encode, decode = networks(vae)
    encoded = encode(pixels)
    half = encoded.dtype.itemsize < 4
    return Problem(encode, decode, pixels, encoded.astype(pixels.dtype), limits, half)


@functools.partial(jax.jit, static_argnames=("method", "steps", "limits"))
def iterates(
    vae: Any, pixels: Any, method: Any, steps: int, limits: Limits = None
) -> Any:
    """Return all iterates, from E(x) on; shape (steps + 1, h, w, c)."""
    problem = problem_of(vae, pixels, limits)

    def step(carry: Any, k: Any) -> tuple[Any, Any]:
        z, memory = carry
        _, after, memory = method.step(problem, k, z, memory)
        # The iteration of Krasnoselskii and Mann goes on from extrapolated iterates.
        shown = memory if isinstance(method, InertialKM) else after
        return (after, memory), shown

    first = problem.latent
    start = first, method.begin(problem, first)
    _, found = jax.lax.scan(step, start, jnp.arange(steps))
    return jnp.concatenate([first[None], found])


@functools.partial(jax.jit, static_argnames=("method", "steps", "limits"))
def errors(
    vae: Any, pixels: Any, latent: Any, method: Any, steps: int, limits: Limits = None
) -> Any:
    """Return the NMSE of all iterates in dB; shape (steps + 1,)."""
    found = iterates(vae, pixels, method, steps, limits)
    return jax.vmap(lambda z: ji.nmse_db(z, latent))(found)


def measure(
    setting: Setting, index: int, name: str, variant: Variant, iterations: int
) -> dict[str, Any]:
    """Return the error of a variant after some iterations on one image.

    Returns:
        ``nmse`` in dB, ``seconds`` of the processor for so many iterations, ``bytes``
        that the compiled program needs beside its arguments.
    """
    steps = iterations if variant.scheduled else variant.longest
    vae = autoencoder(setting, variant.bits)
    shown = picture(setting, index)
    method = variant.make(steps)

    def compiled() -> Any:
        arguments = vae, shown.pixels, shown.latent, method, steps, variant.limits
        return errors.lower(*arguments).compile()

    def run() -> tuple[Any, float]:
        program = setting.shared(("program", name, steps), compiled)
        began = time.process_time()
        found = np.asarray(program(vae, shown.pixels, shown.latent), np.float64)
        return found, time.process_time() - began

    found, seconds = setting.shared(("image", index, name, steps), run)
    program = setting.shared(("program", name, steps), compiled)
    return {
        "nmse": float(found[iterations]),
        "seconds": seconds * iterations / steps if steps else seconds,
        "bytes": int(program.memory_analysis().temp_size_in_bytes),
    }

"""A full-size autoencoder with random weights: time and memory, nothing else.

Stable Diffusion's architecture in bfloat16, for one image, a batch, and a video one
frame at a time. On an accelerator; on a CPU one call takes minutes, so that there the
section is left out unless asked for by ``--full-size``.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import jaxinv as ji
from benchmarks.decoder.memory import _decode, _encode
from benchmarks.decoder.setting import Setting, with_iterations
from benchmarks.report import table
from benchmarks.timing import seconds
from jaxinv.decoder_inversion import METHODS, framewise
from jaxinv.models import AutoencoderKL, AutoencoderKLConfig

TITLE = "Full size"
NAMES = ("forward_step", "adam", "anderson", "gradient", "gauss_newton")
ITERATIONS = 5
BATCH = 8
FRAMES = 16


def wanted(setting: Setting) -> bool:
    """On an accelerator, or if asked for."""
    return setting.arguments.full_size or jax.default_backend() != "cpu"


def network(setting: Setting) -> Any:
    """Stable Diffusion's autoencoder; the model's own where all is to be small."""
    if setting.arguments.small:
        return setting.pipe.vae
    half = jnp.bfloat16
    return AutoencoderKL(
        AutoencoderKLConfig.sd15(), dtype=half, param_dtype=half, rngs=nnx.Rngs(0)
    )


def invert(vae: Any, images: Any, method: Any, kind: str) -> Any:
    """One image, a batch, or a video."""
    encode, decode = (functools.partial(f, vae) for f in (_encode, _decode))
    if kind == "video":
        encode, decode = framewise(encode), framewise(decode)

    def one(image: Any) -> Any:
        return ji.invert_decoder(encode, decode, image, method).latent

    return jax.vmap(one)(images) if kind == "batch" else one(images)


def run(setting: Setting) -> str:
    """The table."""
    size, vae = setting.arguments.size, network(setting)
    rows = []
    for kind, count in (("image", 1), ("batch", BATCH), ("video", FRAMES)):
        shape = (size, size, 3) if kind == "image" else (count, size, size, 3)
        images = jax.random.uniform(jax.random.key(0), shape)
        for name in NAMES:
            method = with_iterations(METHODS[name], ITERATIONS)
            program = (
                jax.jit(functools.partial(invert, method=method, kind=kind))
                .lower(vae, images)
                .compile()
            )
            spent = seconds(
                lambda run=program, x=images: run(vae, x), setting.arguments.repeats
            )
            memory = program.memory_analysis().temp_size_in_bytes
            rows.append(
                (
                    f"{kind} of {count}" if kind != "image" else kind,
                    name,
                    f"{1000 * spent / ITERATIONS / count:.1f}",
                    f"{memory / 2**20:.0f}",
                )
            )
            print(f"full size: {rows[-1]}", flush=True)
    header = ("input", "method", "ms per iteration and image", "memory, MiB")
    return f"""{__doc__.split(chr(10) * 2, 1)[1].strip()}

Images of {size}x{size}, {ITERATIONS} iterations, medians of {setting.arguments.repeats}
runs; memory beside the weights.

{table(header, rows)}"""

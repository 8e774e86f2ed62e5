"""Peak memory of the compiled programs, from XLA's own report; nothing is run.

Beside the weights, for one image. The networks are the model's own, and Stable
Diffusion's autoencoder in bfloat16; a program is compiled for shapes alone. emoji64's
latents of 512x512 have 16,384 positions, and nearly all of its memory is the attention
of all to all. XLA's CPU compiler undoes rematerialisation.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

import jaxinv as ji
from benchmarks.decoder.setting import Setting, with_iterations
from benchmarks.report import body, table
from jaxinv.decoder_inversion import METHODS, Gradient, framewise
from jaxinv.models import AutoencoderKLConfig, abstract_component

TITLE = "Memory"


def temporary(function: Any, *arguments: Any) -> int:
    """Bytes beside arguments and results."""
    program = jax.jit(function).lower(*arguments).compile()
    return int(program.memory_analysis().temp_size_in_bytes)


def _encode(vae: Any, image: Any) -> Any:
    return vae.encode(2 * image - 1).mode()


def _decode(vae: Any, latent: Any) -> Any:
    return (vae.decode(latent) + 1) / 2


def measure(vae: Any, size: int) -> dict[str, int]:
    """Bytes of every method, and of the two networks, for one image."""
    image = jax.ShapeDtypeStruct((size, size, 3), jnp.float32)
    latent = jax.eval_shape(_encode, vae, image)
    found = {
        "E": temporary(_encode, vae, image),
        "D": temporary(_decode, vae, latent),
    }
    methods = {**METHODS, "gradient, remat": Gradient(remat=True)}
    for name, method in methods.items():
        if name == "encoder":
            continue

        def invert(vae: Any, image: Any, method: Any = method) -> Any:
            return ji.invert_decoder(
                functools.partial(_encode, vae),
                functools.partial(_decode, vae),
                image,
                with_iterations(method, 20),
                limits=(0.0, 1.0),
            ).latent

        found[name] = temporary(invert, vae, image)
        print(f"memory: {name} {found[name] / 2**20:.0f} MiB", flush=True)
    return found


def video(vae: Any, size: int) -> dict[str, int]:
    """Bytes of the forward step method by frames, one frame at a time."""
    found = {}
    for frames in (1, 4, 16):

        def invert(vae: Any, images: Any) -> Any:
            return ji.invert_decoder(
                framewise(functools.partial(_encode, vae)),
                framewise(functools.partial(_decode, vae)),
                images,
                with_iterations(METHODS["forward_step"], 20),
            ).latent

        images = jax.ShapeDtypeStruct((frames, size, size, 3), jnp.float32)
        found[str(frames)] = temporary(invert, vae, images)
    return found


def run(setting: Setting) -> str:
    """Return the tables."""
    size = setting.arguments.size
    small = setting.arguments.small
    networks = {setting.arguments.model: lambda: setting.pipe.vae}
    if not small:
        networks["Stable Diffusion's"] = lambda: abstract_component(
            AutoencoderKLConfig.sd15(), dtype=jnp.bfloat16, param_dtype=jnp.bfloat16
        )
    columns = {
        name: setting.remembered(
            f"memory {name} {size}", lambda make=make: measure(make(), size)
        )
        for name, make in networks.items()
    }
    rows = []
    for key in next(iter(columns.values())):
        row = [key]
        for found in columns.values():
            both = found["E"] + found["D"]
            row += [
                f"{found[key] / 2**20:.0f}",
                f"{found[key] / both:.2f}",
                f"{found[key] / found['gradient']:.2f}",
            ]
        rows.append(row)
    header = ["method"]
    for name in columns:
        header += [f"{name}, MiB", "times E + D", "times gradient"]
    name, last = list(networks.items())[-1]
    frames = setting.remembered(
        f"memory of a video {name} {size}", lambda: video(last(), size)
    )
    listed = ", ".join(
        f"{int(n) / 2**20:.0f} MiB for {count} frame{'s' * (count != '1')}"
        for count, n in frames.items()
    )
    return f"""{body(__doc__, 1)}

Images of {size}x{size}.

{table(header, rows)}

A video, forward step method, {name} autoencoder, one frame at a time: {listed}."""

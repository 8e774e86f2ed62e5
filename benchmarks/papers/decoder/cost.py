"""Figure 3, the bars: time and memory of an iteration on full-size autoencoders.

With ``--model sd-autoencoders``, the networks have the published sizes and random
weights: the autoencoder of Stable Diffusion 2.1, which InstaFlow's equals in layers and
size, on 512x512 pixels; and that of LaVie, on 16 frames of 320x512, decoded all at once
(as published) or one by one. With any other model, it is the model's own.

Memory is what the compiled program of one iteration needs beside its arguments, from
XLA's report. Time is that of one run; with ``sd-autoencoders``, where nothing of that
size is run, that of an image or a frame of a quarter of the pixels, times 4 and times
the frames. An "image" of the command is a repetition.
"""

from __future__ import annotations

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.papers.decoder.pictures import HALF, HALF_NAME, autoencoder
from benchmarks.papers.protocol import Cell, Found, Table
from benchmarks.report import table
from jaxinv.decoder_inversion import Adam, Gradient, framewise
from jaxinv.decoder_inversion.problem import Problem
from jaxinv.models import AutoencoderKLConfig, abstract_component
from jaxinv.pipeline import latents

METHODS = {"gradient": Gradient(), "gradient-free": Adam()}
#: Configuration, shape of the image or the video.
PUBLISHED_NETWORKS = {
    "SD 2.1, InstaFlow": (AutoencoderKLConfig.sd21(), (512, 512, 3)),
    "LaVie": (AutoencoderKLConfig.sd15(), (16, 320, 512, 3)),
}
FULL_SIZE = "sd-autoencoders"


def names(setting: Any) -> tuple[str, ...]:
    """Return the networks that a model stands for."""
    full = setting.model == FULL_SIZE
    return tuple(PUBLISHED_NETWORKS) if full else (setting.label,)


def cells(setting: Any) -> list[Cell]:
    return [
        {"network": name, "method": method, "bits": bits, "frames": frames}
        for name in names(setting)
        for frames in (("at once", "one by one") if name == "LaVie" else ("-",))
        for method in METHODS
        for bits in (32, 16)
    ]


def network(setting: Any, name: str, bits: int) -> tuple[Any, tuple[int, ...]]:
    """Return an autoencoder, with shapes for weights, and the shape of its images."""
    if name in PUBLISHED_NETWORKS:
        config, shape = PUBLISHED_NETWORKS[name]
        dtype = jnp.float32 if bits == 32 else HALF
        return abstract_component(config, dtype=dtype, param_dtype=dtype), shape
    pipe = setting.pipe
    frames = () if pipe.frames is None else (pipe.frames,)
    return autoencoder(setting, bits), (*frames, *pipe.image_size, 3)


@functools.partial(jax.jit, static_argnames=("method", "at_once"))
def step(
    vae: Any, pixels: Any, first: Any, z: Any, memory: Any, method: Any, at_once: bool
) -> Any:
    """Return the next iterate and the memory."""
    problem = _problem(vae, pixels, first, at_once)
    return method.step(problem, jnp.int32(1), z, memory)[1:]


def _problem(vae: Any, pixels: Any, first: Any, at_once: bool) -> Problem:
    def encode(x: Any) -> Any:
        return latents.encode(vae, x)

    def decode(z: Any) -> Any:
        return latents.decode(vae, z)

    if pixels.ndim > 3:
        over = jax.vmap if at_once else framewise
        encode, decode = over(encode), over(decode)
    half = jax.tree.leaves(vae)[0].dtype.itemsize < 4
    return Problem(encode, decode, pixels, first, None, half)


def arguments(vae: Any, shape: tuple[int, ...], method: Any) -> tuple[Any, ...]:
    """Return the shapes of the arguments of ``step``."""
    pixels = jax.ShapeDtypeStruct(shape, jnp.float32)
    encoded = jax.eval_shape(lambda x, vae: latents.encode(vae, x), pixels, vae)
    first = jax.ShapeDtypeStruct(encoded.shape, jnp.float32)

    def begin(vae: Any, pixels: Any, first: Any) -> Any:
        return method.begin(_problem(vae, pixels, first, True), first)

    memory = jax.eval_shape(begin, vae, pixels, first)
    return vae, pixels, first, first, memory


def filled(shapes: Any) -> Any:
    """Return small random numbers in place of shapes."""
    rng = np.random.default_rng(0)

    def one(x: Any) -> Any:
        if not isinstance(x, jax.ShapeDtypeStruct):
            return x
        values = 0.02 * rng.standard_normal(x.shape, np.float32)
        return jnp.asarray(np.abs(values), x.dtype)

    return jax.tree.map(one, shapes)


def one(setting: Any, cell: Cell, index: int) -> dict[str, Any]:
    method = METHODS[cell["method"]]
    vae, shape = network(setting, cell["network"], cell["bits"])
    once = cell["frames"] == "at once"

    full = cell["network"] in PUBLISHED_NETWORKS
    *_, height, width, channels = shape
    small = (height // 2, width // 2, channels) if full else shape

    def compiled(shape: tuple[int, ...]) -> Any:
        return step.lower(*arguments(vae, shape, method), method, once).compile()

    def whole() -> Any:
        return compiled(shape)

    def timed() -> Any:
        program = compiled(small) if full else setting.shared(name, whole)
        return program, filled(arguments(vae, small, method))

    name, given = ("memory", *cell.values()), ("time", *list(cell.values())[:3])
    program, values = setting.shared(given, timed)
    began = time.process_time()
    jax.block_until_ready(program(*values))
    spent = time.process_time() - began
    parts = 4 * (shape[0] if len(shape) > 3 else 1) if full else 1
    report = setting.shared(name, whole).memory_analysis()
    return {
        "seconds": parts * spent,
        "bytes": int(report.temp_size_in_bytes),
        "weights": sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(vae)),
    }


def show(found: Found) -> str:
    rows = []
    for cell, all_ in found.cells:
        rival = found.of(**{**cell, "method": "gradient", "bits": 32})
        seconds, needed = _median(all_, "seconds"), _median(all_, "bytes")
        rows.append((
            cell["network"], cell["frames"], cell["method"], cell["bits"], len(all_),
            f"{seconds:.1f}", f"{needed / 2**20:,.0f}",
            f"{_median(rival, 'bytes') / needed:.1f}" if rival else "-",
            f"{_median(rival, 'seconds') / seconds:.1f}" if rival else "-",
            f"{all_[0]['weights'] / 2**20:.0f}",
        ))  # fmt: skip
    header = (
        "network | frames | method | bits | repetitions | seconds | memory, MiB | "
        "less memory, times | faster, times | weights, MiB"
    )
    return f"""{table(header, rows)}

One iteration; medians. Seconds of the processor (all cores together), at full size
computed from a quarter of the pixels. Memory beside weights, image and latents.
*Times*: the gradient method in 32 bits over the row. 16 bits are {HALF_NAME}."""


def _median(all_: Any, name: str) -> float:
    return float(np.median([x[name] for x in all_]))


class FullSize:
    """What stands for a pipeline if only the published autoencoders are wanted."""

    text_encoders = None
    vae = None


def refuse(pipe: Any) -> str | None:
    """Refuse models of pixels."""
    wanted = isinstance(pipe, FullSize) or pipe.vae is not None
    return None if wanted else "it has no autoencoder"


PUBLISHED = """Figure 3, bars (peak memory of the whole process, GB; times: Table S1):

| | gradient, 32 bits | gradient-free, 32 bits | gradient-free, 16 bits |
|---|---:|---:|---:|
| SD 2.1 | 8.83 | 3.81 | 3.15 |
| LaVie | 64.7 | 11.7 | 7.13 |
| InstaFlow | 8.38 | 3.29 | 2.62 |

Seconds an iteration, from Table S1 (100 iterations; an RTX 3090 Ti, an A100 and an RTX
3090): SD 2.1 0.317, 0.177 and 0.096; LaVie 1.22, 0.643 and 0.423; InstaFlow 0.325,
0.169 and 0.100."""
REMARKS = """Random weights, and a CPU; theirs is all memory of the GPU, with the other
networks. The ratio within a row can be compared. XLA's CPU compiler plans the memory;
in 16 bits it keeps some numbers in 32."""
TABLES = (
    Table(
        "decoder-figure-3", "Figure 3, bars",
        "time and memory of an iteration on full-size autoencoders", 100,
        cells, one, show, PUBLISHED, REMARKS, "--images 3",
        models=(FULL_SIZE, "stabilityai/stable-diffusion-2-1-base"), refuse=refuse,
    ),
)  # fmt: skip

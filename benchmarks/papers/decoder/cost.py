"""Figure 3, the bars: time and memory of an iteration on full-size autoencoders.

With ``--model sd-autoencoders``, the networks have the published sizes and random
weights (:mod:`benchmarks.papers.decoder.full_size`), and frames are decoded all at
once, as published, or one by one. With any other model, it is the model's own.

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

from benchmarks.papers.decoder.full_size import (
    FULL_SIZE,
    PUBLISHED_NETWORKS,
    filled,
    names,
    network,
    refuse,
)
from benchmarks.papers.decoder.pictures import HALF_NAME
from benchmarks.papers.protocol import Cell, Found, Table
from benchmarks.report import table
from jaxinv.decoder_inversion import Adam, Gradient, framewise
from jaxinv.decoder_inversion.problem import Problem
from jaxinv.pipeline import latents

METHODS = {"gradient": Gradient(), "gradient-free": Adam()}


def cells(setting: Any) -> list[Cell]:
    return [
        {"network": name, "method": method, "bits": bits, "frames": frames}
        for name in names(setting)
        for frames in (("at once", "one by one") if name == "LaVie" else ("-",))
        for method in METHODS
        for bits in (32, 16)
    ]


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

"""Peak memory as it is predicted, and as XLA reports it of the compiled program.

Nothing is run: models are shapes alone. The prediction traces the program, the report
needs it compiled. Parameters, arguments and results are known exactly, so the column of
temporaries is the test of the prediction, and the column of all is what has to fit.
Batched inverses of 20 steps; `sd15` is Stable Diffusion 1.5's UNet, with latents of
32x32 (images of 256x256) or 64x64.
"""

import functools
import importlib.resources
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxinv as ji
from benchmarks.report import table
from jaxinv.denoiser import Denoiser, conditioned
from jaxinv.memory import Memory, batched_inverse, compiled_memory, program_memory
from jaxinv.models import UNet2DConditionConfig, abstract_component

TITLE = "Memory, predicted"
_TOKENS = 77


class Configuration(NamedTuple):
    """One program."""

    name: str
    model: str
    sampler: str
    strategy: Any
    batch: int
    size: int


def _all() -> list[Configuration]:
    chunked = ji.Trajectory(chunk=5)
    listed = [
        *(("emoji64", "ddim", "naive", b, 16) for b in (1, 16)),
        *(("emoji64", "ddim", "stepwise", b, 16) for b in (1, 4, 16)),
        *(("emoji64", "o_belm", "explicit", b, 16) for b in (1, 4)),
        *(("emoji64", "dpmpp_2m", "trajectory", b, 16) for b in (1, 4)),
        *(("emoji64", "dpmpp_2m", chunked, b, 16) for b in (1, 4)),
        *(("sd15", "ddim", "naive", b, 32) for b in (1, 2)),
        ("sd15", "ddim", "stepwise", 2, 32),
        ("sd15", "dpmpp_2m", chunked, 1, 32),
        *(("sd15", "ddim", s, 1, 64) for s in ("naive", "stepwise")),
        ("sd15 in bfloat16", "ddim", "naive", 1, 32),
    ]
    return [
        Configuration(
            f"{model}, {size}x{size}, {sampler}, "
            f"{s if isinstance(s, str) else 'trajectory, chunk 5'}, batch {b}",
            model,
            sampler,
            s,
            b,
            size,
        )
        for model, sampler, s, b, size in listed
    ]


@functools.cache
def _denoiser(model: str) -> Denoiser:
    """A model of shapes alone, with its text filled in."""
    dtype = jnp.bfloat16 if model.endswith("bfloat16") else jnp.float32
    if model.startswith("sd15"):
        config = UNet2DConditionConfig.sd15()
    else:
        zoo = importlib.resources.files("jaxinv") / "zoo"
        text = (zoo / "emoji64" / "unet" / "config.json").read_text()
        config = UNet2DConditionConfig.from_dict(json.loads(text))
    prompt = jax.ShapeDtypeStruct((_TOKENS, config.cross_attention_dim), jnp.float32)
    unet = abstract_component(config, dtype=dtype, param_dtype=dtype)
    return conditioned(unet, prompt)


def _timed(function: Callable[..., Memory], *arguments: Any) -> tuple[Memory, float]:
    start = time.perf_counter()
    found = function(*arguments)
    return found, time.perf_counter() - start


def _row(configuration: Configuration) -> list[str]:
    """Predicted beside compiled."""
    grid = ji.time_grid(ji.scaled_linear(), 20)
    sampler = getattr(ji, configuration.sampler)(grid)
    size = configuration.size
    samples = jax.ShapeDtypeStruct((configuration.batch, size, size, 4), jnp.float32)
    program = (
        batched_inverse(sampler, strategy=configuration.strategy),
        _denoiser(configuration.model),
        samples,
    )
    predicted, tracing = _timed(program_memory, *program)
    known, compiling = _timed(compiled_memory, *program)
    print(f"memory: {configuration.name}: {predicted} for {known}", flush=True)
    return [
        configuration.name,
        *(f"{m.total / 2**20:.1f}" for m in (predicted, known)),
        f"{100 * (predicted.total / known.total - 1):+.1f} %",
        *(f"{m.temporaries / 2**20:.1f}" for m in (predicted, known)),
        f"{100 * (predicted.temporaries / known.temporaries - 1):+.1f} %",
        f"{tracing:.1f}",
        f"{compiling:.1f}",
    ]


def run(small: bool) -> str:
    """The section, in Markdown.

    Args:
        small: only the two configurations that are cheapest to compile.
    """
    rows = [_row(configuration) for configuration in _all()[: 2 if small else None]]
    header = [
        "configuration",
        "predicted, MiB",
        "compiled, MiB",
        "error",
        "temporaries predicted, MiB",
        "compiled, MiB",
        "error",
        "predicting, s",
        "compiling, s",
    ]
    return f"{__doc__.strip()}\n\n{table(header, rows)}"


if __name__ == "__main__":
    print(run(small=False))

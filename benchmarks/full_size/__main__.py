"""Measure what programs of SDXL's size take to compile, and how much memory they need.

    python -m benchmarks.full_size [--models sdxl ssd1b] [--dtype float32 bfloat16]

Models are made of shapes alone, so that no weights are needed and nothing runs.
Programs are compiled for this machine, without the cache of earlier ones. *Trace* is
Python's part, from the call to XLA's input. *Memory* is XLA's report for the device
above: parameters, and everything else of one image of 1024x1024 pixels. *TFLOP* are
XLA's operations of one call. Of a loop XLA counts one step: an inversion's loops are
its walk and those of its certificate.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxinv as ji
from benchmarks.report import body, parse, parser, provenance, save, table
from jaxinv.diffusion.denoiser import conditioned, guided
from jaxinv.models import (
    AutoencoderKLConfig,
    CLIPTextConfig,
    CLIPTextWithProjectionConfig,
    UNet2DConditionConfig,
    UNetCondition,
    abstract_component,
)
from jaxinv.scale.memory import Memory, memory_of

HEADER = (
    "program | data type | trace, s | compile, s | parameters, GiB | rest, GiB | TFLOP"
)
STEPS, GUIDANCE = 20, 5.0


class Model(NamedTuple):
    """The configurations of a model's parts.

    Attributes:
        unet: Of the network.
        vae: Of the autoencoder.
        text: Of the text encoders.
    """

    unet: UNet2DConditionConfig
    vae: AutoencoderKLConfig
    text: tuple[CLIPTextConfig, CLIPTextWithProjectionConfig]


SDXL = Model(
    UNet2DConditionConfig.sdxl(),
    AutoencoderKLConfig.sdxl(),
    (CLIPTextConfig.sd15(), CLIPTextWithProjectionConfig.sdxl()),
)
MODELS = {
    "sdxl": SDXL,
    "ssd1b": SDXL._replace(unet=UNet2DConditionConfig.ssd1b()),
    # Two layers, for tests.
    "tiny": Model(
        dataclasses.replace(
            UNet2DConditionConfig.sdxl(), sample_size=8, block_out_channels=(8,),
            down_block_types=("CrossAttnDownBlock2D",), up_block_types=("UpBlock2D",),
            mid_block_type=None, layers_per_block=1, norm_num_groups=4,
            transformer_layers_per_block=1, attention_head_dim=2,
            cross_attention_dim=8, addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=28,
        ),
        AutoencoderKLConfig(block_out_channels=(4, 4), norm_num_groups=2,
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, sample_size=16),
        (CLIPTextConfig(hidden_size=4, intermediate_size=4, num_hidden_layers=1,
            num_attention_heads=1, vocab_size=9),
        CLIPTextWithProjectionConfig(hidden_size=4, intermediate_size=4,
            num_hidden_layers=1, num_attention_heads=1, vocab_size=9,
            projection_dim=4)),
    ),
}  # fmt: skip


class Program(NamedTuple):
    """A function and the shapes of its arguments, the model first."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """Return the shape of an array."""
    return jax.ShapeDtypeStruct(sizes, dtype)


def programs(model: Model, dtype: Any) -> Iterator[Program]:
    """Return the programs of a model in one data type."""
    unet, vae, *encoders = (
        abstract_component(config, dtype=dtype, param_dtype=dtype)
        for config in (model.unet, model.vae, *model.text)
    )
    tokens = model.text[0].max_position_embeddings
    condition = UNetCondition(
        shape(tokens, model.unet.cross_attention_dim),
        shape(model.unet.pooled_width),
        shape(6),
    )
    size = model.unet.sample_size
    latent = shape(size, size, model.unet.in_channels)
    schedule = ji.scaled_linear()
    sampler = ji.ddim(ji.time_grid(schedule, STEPS))

    def inverse(strategy: str) -> Callable[..., Any]:
        def function(unet: Any, z: Any, prompt: Any, negative: Any) -> Any:
            network = guided(unet, prompt, negative, GUIDANCE)
            denoise = ji.as_denoiser(network, schedule)
            return ji.invert(sampler, denoise, z, strategy=strategy)

        return function

    def call(unet: Any, z: Any, t: Any, prompt: Any) -> Any:
        return conditioned(unet, prompt)(z, t)

    def guided_call(unet: Any, z: Any, t: Any, prompt: Any, negative: Any) -> Any:
        return guided(unet, prompt, negative, GUIDANCE)(z, t)

    yield Program("UNet, one call", call, (unet, latent, shape(), condition))
    yield Program(
        "UNet, guided call", guided_call, (unet, latent, shape(), condition, condition)
    )
    for strategy in ("naive", "stepwise"):
        name = f"{strategy} inversion, {STEPS} guided steps"
        yield Program(name, inverse(strategy), (unet, latent, condition, condition))
    pixels = model.vae.downsampling_factor * size
    yield Program("encoder", type(vae).encode, (vae, shape(pixels, pixels, 3)))
    yield Program("decoder", type(vae).decode, (vae, latent))
    for number, encoder in enumerate(encoders, 1):
        ids = shape(tokens, dtype=jnp.int32)
        yield Program(f"text encoder {number}", type(encoder).__call__, (encoder, ids))


def measured(program: Program) -> tuple[float, float, Memory, float]:
    """Return seconds of tracing and of compiling, memory, and operations."""
    given = sum(
        x.size * x.dtype.itemsize for x in jax.tree.leaves(program.arguments[1:])
    )
    began = time.monotonic()
    lowered = jax.jit(program.function).lower(*program.arguments)
    traced = time.monotonic()
    compiled = lowered.compile()
    done = time.monotonic()
    costs = compiled.cost_analysis() or {}
    memory = memory_of(compiled, given)
    return traced - began, done - traced, memory, float(costs.get("flops", 0.0))


def row(program: Program, dtype: str) -> list[object]:
    """Return a row of the table."""
    trace, compile_, memory, flops = measured(program)
    gib = 2**30
    rest = memory.total - memory.parameters
    found = [
        program.name, dtype, f"{trace:.0f}", f"{compile_:.0f}",
        f"{memory.parameters / gib:.2f}", f"{rest / gib:.2f}", f"{flops / 1e12:.2f}",
    ]  # fmt: skip
    print("full_size:", *found, flush=True)
    return found


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments."""
    found = parser("full_size", __doc__)
    found.add_argument("--models", nargs="+", choices=MODELS, default=["sdxl"])
    dtypes = ["float32", "bfloat16"]
    found.add_argument("--dtype", nargs="+", choices=dtypes, default=dtypes)
    return parse(found, argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the report."""
    arguments = arguments_of(argv)
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        sections = [_section(name, arguments.dtype) for name in arguments.models]
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
    made = provenance(arguments.command)
    text = "\n\n".join(["# Full-size programs", made, body(__doc__), *sections])
    save(arguments.out, text + "\n")


def _section(name: str, dtypes: Sequence[str]) -> str:
    """Return the section of one model."""
    rows = [
        row(program, dtype)
        for dtype in dtypes
        for program in programs(MODELS[name], dtype)
    ]
    return f"## {name}\n\n{table(HEADER, rows)}"


if __name__ == "__main__":
    main()

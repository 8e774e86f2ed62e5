"""Measure how tracing and compiling grow with the depth of FLUX.1's transformer.

    python -m benchmarks.depth [--repeats 3]

FLUX.1 [dev] has 19 blocks with two streams and 38 with one. Here it is compared with a
quarter of its depth, 5 and 10, at the same width: 24 heads of 128 features, 1024x1024
pixels and 512 text tokens. The claim is that the whole depth takes at most 1.3 times as
long, because equal blocks are one loop of the compiled program.

Models are made of shapes alone, so that no weights are needed and nothing runs.
Programs are compiled for this machine, without the cache of earlier ones. Times are
seconds of all the processor's cores, which other programs on the machine hardly change:
*trace* is Python's part, from the call to XLA's input, and *compile* is XLA's. The
depths take turns, and the least of the repeats counts.
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
from jaxinv.diffusion.denoiser import conditioned
from jaxinv.models import FluxCondition, FluxTransformer2DConfig, abstract_component
from jaxinv.models.parameters import parameters

HEADER = "program | depth | parameters, 1e9 | trace, s | compile, s | both, against 1/4"
LIMIT, STEPS = 1.3, 28
SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000,
    "shift": 3.0,
}  # fmt: skip
WHOLE = FluxTransformer2DConfig.dev()
QUARTER = dataclasses.replace(WHOLE, num_layers=5, num_single_layers=10)
# For tests: the same depths, of two features per head.
_TINY = {
    "in_channels": 4, "attention_head_dim": 6, "num_attention_heads": 1,
    "joint_attention_dim": 3, "pooled_projection_dim": 3, "axes_dims_rope": (2, 2, 2),
}  # fmt: skip


class Size(NamedTuple):
    """The models of two depths, and the shapes of what they are given.

    Attributes:
        depths: The smaller one first.
        latent: Height and width of the latent.
        tokens: Number of text tokens.
    """

    depths: tuple[FluxTransformer2DConfig, FluxTransformer2DConfig]
    latent: int
    tokens: int


SIZES = {
    "full": Size((QUARTER, WHOLE), 128, 512),
    "tiny": Size(
        (dataclasses.replace(QUARTER, **_TINY), dataclasses.replace(WHOLE, **_TINY)),
        4,
        2,
    ),
}


class Program(NamedTuple):
    """A function and the shapes of its arguments, the model first."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Seconds(NamedTuple):
    """Processor seconds of tracing and of compiling."""

    trace: float
    compile: float


def programs(config: FluxTransformer2DConfig, size: Size) -> Iterator[Program]:
    """Return the programs of a model: one call, its derivative, and an inversion."""
    dtype = jnp.bfloat16
    network = abstract_component(config, dtype=dtype, param_dtype=dtype)
    channels, _ = config.latent_channels

    def shape(*sizes: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(sizes, jnp.float32)

    latent = shape(size.latent, size.latent, channels)
    condition = FluxCondition(
        shape(size.tokens, config.joint_attention_dim),
        shape(config.pooled_projection_dim),
        shape(),
    )
    schedule = ji.schedule_from_diffusers(SCHEDULER)
    sampler = ji.sampler_from_diffusers(SCHEDULER, STEPS)

    def call(network: Any, z: Any, t: Any, prompt: Any) -> Any:
        return conditioned(network, prompt)(z, t)

    def derivative(network: Any, z: Any, t: Any, prompt: Any, tangent: Any) -> Any:
        return jax.jvp(lambda z: network(z, t, prompt), (z,), (tangent,))

    def inverse(network: Any, z: Any, prompt: Any) -> Any:
        denoise = ji.as_denoiser(conditioned(network, prompt), schedule)
        return ji.invert(sampler, denoise, z, strategy="stepwise")

    time_ = shape()
    yield Program("one call", call, (network, latent, time_, condition))
    yield Program(
        "call and derivative (jvp)",
        derivative,
        (network, latent, time_, condition, latent),
    )
    name = f"exact inversion of {STEPS} Euler steps, step by step"
    yield Program(name, inverse, (network, latent, condition))


def measured(program: Program) -> Seconds:
    """Trace and compile a program as if for the first time."""
    jax.clear_caches()
    began = time.process_time()
    lowered = jax.jit(program.function).lower(*program.arguments)
    traced = time.process_time()
    lowered.compile()
    return Seconds(traced - began, time.process_time() - traced)


def rows(size: Size, repeats: int) -> Iterator[list[object]]:
    """Yield the rows of the table, two depths for each program."""
    for pair in zip(*(programs(config, size) for config in size.depths), strict=True):
        found: list[list[Seconds]] = [[], []]
        for _ in range(repeats):
            for program, times in zip(pair, found, strict=True):
                times.append(measured(program))
                print("depth:", program.name, *times[-1], flush=True)
        least = [Seconds(*map(min, zip(*times, strict=True))) for times in found]
        for config, program, times in zip(size.depths, pair, least, strict=True):
            count = sum(x.size for x in parameters(program.arguments[0]).values())
            yield [
                program.name,
                f"{config.num_layers} + {config.num_single_layers}",
                f"{count / 1e9:.2f}",
                f"{times.trace:.1f}",
                f"{times.compile:.1f}",
                f"{sum(times) / sum(least[0]):.2f}",
            ]


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments."""
    found = parser("depth", __doc__)
    found.add_argument("--repeats", type=int, default=3)
    found.add_argument("--size", choices=SIZES, default="full", help="tiny: for tests")
    return parse(found, argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the report."""
    arguments = arguments_of(argv)
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        found = list(rows(SIZES[arguments.size], arguments.repeats))
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
    worst = max(float(str(row[-1])) for row in found)
    verdict = "holds" if worst <= LIMIT else "does not hold"
    said = f"The largest ratio is {worst:.2f}: the claim of {LIMIT} {verdict}."
    made = provenance(arguments.command)
    title = "# Compile times by depth"
    save(
        arguments.out,
        "\n\n".join([title, made, body(__doc__), table(HEADER, found), said]) + "\n",
    )


if __name__ == "__main__":
    main()

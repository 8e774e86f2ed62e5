"""A program of shapes, and what compiling it shows."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxinv.scale.memory import Memory, memory_of

HEADER = (
    "program | data type | trace, s | compile, s | parameters, GiB | rest, GiB | TFLOP"
)


class Program(NamedTuple):
    """A function and the shapes of its arguments, the model first."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def shape(*sizes: int, dtype: Any = jnp.float32) -> jax.ShapeDtypeStruct:
    """Return the shape of an array."""
    return jax.ShapeDtypeStruct(sizes, dtype)


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

"""Measured here: the model call and whole inversions in JAX."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.accelerator.flops import product_flops
from benchmarks.accelerator.model import Inputs, Size, make_inputs
from benchmarks.accelerator.torch_calls import GUIDANCE
from benchmarks.samples import each
from benchmarks.timing import seconds
from jaxinv.models import with_options

#: A way to invert: the sampler, and the strategy for so many images.
Way = tuple[Callable[..., ji.SamplerTable], Callable[[int], Any]]


def ways(size: Size, rows: int, steps: int) -> dict[str, Way]:
    """Ways to invert by name; a call of the trajectory has so many latents at most."""

    def trajectory(batch: int) -> ji.Trajectory:
        return ji.Trajectory(chunk=min(steps, max(1, rows // batch)))

    if size.schedule.family == "flow":
        return {
            "naive, Euler": (ji.euler, lambda batch: "naive"),
            "stepwise, Euler": (ji.euler, lambda batch: "stepwise"),
            "trajectory, Euler": (ji.euler, trajectory),
        }
    return {
        "naive, DDIM": (ji.ddim, lambda batch: "naive"),
        "stepwise, DDIM": (ji.ddim, lambda batch: "stepwise"),
        "trajectory, DPM-Solver++(2M)": (ji.dpmpp_2m, trajectory),
    }


def call(guided: bool, network: Any, inputs: Inputs) -> Any:
    """Predictions for a batch, each sample at its own time."""

    def one(x: Any, t: Any, condition: Any) -> Any:
        if not guided:
            return network(x, t, condition)
        return ji.guided(network, condition, inputs.uncond, GUIDANCE)(x, t)

    return jax.vmap(one)(inputs.x, inputs.t, inputs.conditions)


def call_flops(size: Size, network: Any, guided: bool) -> int:
    """Operations of one call for one image, however attention is computed."""
    plain = with_options(network, attention="xla")
    return product_flops(functools.partial(call, guided), plain, make_inputs(size, 1))


def measured(function: Any, arguments: Any, repeats: int) -> tuple[dict[str, Any], Any]:
    """Compile, run and time; memory as the compiler and as the device tell it."""
    program = jax.jit(function).lower(*arguments).compile()
    needs = program.memory_analysis()
    out = jax.block_until_ready(program(*arguments))
    spent = seconds(lambda: program(*arguments), repeats)
    stats = jax.devices()[0].memory_stats() or {}
    cell = {
        "seconds": spent,
        "program_bytes": needs.temp_size_in_bytes + needs.output_size_in_bytes,
        "argument_bytes": needs.argument_size_in_bytes,
        "xla_flops": (program.cost_analysis() or {}).get("flops"),
        "device_peak": stats.get("peak_bytes_in_use"),
    }
    return cell, out


def model_call(
    size: Size, network: Any, batch: int, guided: bool, repeats: int
) -> dict[str, Any]:
    """Time the model call; the cell has its output."""
    inputs = jax.tree.map(jnp.asarray, make_inputs(size, batch))
    cell, out = measured(functools.partial(call, guided), (network, inputs), repeats)
    return cell | {"output": np.asarray(out)}


def inversion(
    size: Size,
    network: Any,
    batch: int,
    steps: int,
    way: Way,
    guidance: float,
    runs: int,
) -> dict[str, Any]:
    """Time an inversion of a batch of latents, and what it took."""
    constructor, strategy = way
    sampler = constructor(ji.time_grid(size.schedule, steps))
    inputs = jax.tree.map(jnp.asarray, make_inputs(size, batch))

    def run(network: Any, sampler: Any, inputs: Inputs, scale: Any) -> Any:
        def one(x0: Any, condition: Any) -> ji.InversionResult:
            denoise = ji.conditioned(network, condition)
            if size.kind.guidable:
                denoise = ji.guided(network, condition, inputs.uncond, scale)
            return ji.invert(sampler, denoise, x0, strategy=strategy(batch))

        return each(one, inputs.x, inputs.conditions)

    arguments = network, sampler, inputs, jnp.float32(guidance)
    cell, result = measured(run, arguments, runs)
    return cell | {
        "evaluations": int(jnp.sum(result.num_evals)),
        "converged": float(jnp.mean(result.converged)),
        "residual": float(jnp.max(result.residual)),
    }

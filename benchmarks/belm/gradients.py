"""Gradients through a whole trajectory: their memory, and how exact they are.

Half of the squared distance of a sample to a target is differentiated, for the noise
and for the prompt's vectors, in three ways: *autodiff* of `sample`, which stores what
every evaluation of the model needs; *checkpoint*, the same with `jax.checkpoint` around
the model, which stores the states and evaluates twice; *reversible*,
`sample(..., arithmetic="compensated")`, which stores the last states only and undoes
the steps on the way back. Memory is what the compiled program asks for beyond arguments
and results (`temp_size_in_bytes`).
"""

import argparse
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.belm import plots
from benchmarks.belm.setting import Setting, alike, make
from benchmarks.report import body, table
from benchmarks.samples import make_samples

TITLE = "Reversible gradients"
WAYS = ("autodiff", "checkpoint", "reversible")
#: The project's target, relative to autodiff.
TARGET = 1e-4


def add_arguments(group: Any) -> None:
    group.add_argument("--gradient-steps", type=int, nargs="+", default=[10, 50, 200])
    group.add_argument(
        "--gradient-samplers",
        nargs="+",
        default=["O-BELM", "O-BELM log-SNR", "EDICT"],
        help="the first at all numbers of steps, the others at the first two",
    )
    group.add_argument(
        "--gradient-gib",
        type=float,
        default=6.0,
        help="compile, but do not run what needs more memory than this",
    )


def cells(arguments: argparse.Namespace) -> list[tuple[Any, ...]]:
    return [
        (sampler, steps)
        for k, sampler in enumerate(arguments.gradient_samplers)
        for steps in arguments.gradient_steps[: None if k == 0 else 2]
    ]


def measure(setting: Setting, what: tuple[Any, ...], found: Any) -> dict[str, Any]:
    name, steps = what
    pipe = setting.pipe
    sampler = make(name, pipe.schedule, steps)
    samples = make_samples(pipe, 2, setting.arguments.seed)
    target = samples.noises[1]
    arguments = pipe, samples.noises[0], samples.conds[0], samples.uncond, target
    outcome: dict[str, Any] = {"bytes": {}, "seconds": {}, "errors": {}}
    gradients = {}
    for way in WAYS:
        program = compiled(alike(sampler), way, arguments)
        size = int(program.memory_analysis().temp_size_in_bytes)
        outcome["bytes"][way] = size
        if size <= setting.arguments.gradient_gib * 2**30:
            began = time.perf_counter()
            gradients[way] = jax.device_get(program(*arguments))
            outcome["seconds"][way] = time.perf_counter() - began
    # Where autodiff does not fit, checkpoints: the same derivative, evaluated anew.
    reference = next(way for way in WAYS if way in gradients)
    outcome["reference"] = reference
    for way, own in gradients.items():
        pairs = zip(own, gradients[reference], strict=True)
        outcome["errors"][way] = [
            float(np.linalg.norm(g - r) / np.linalg.norm(r)) for g, r in pairs
        ]
    return outcome


def compiled(sampler: Any, way: str, arguments: tuple[Any, ...]) -> Any:
    """Return the compiled gradient for the noise and the prompt's vectors."""

    def loss(pipe: Any, noise: Any, cond: Any, uncond: Any, target: Any) -> Any:
        denoise = pipe.denoiser(cond, uncond, 1.0)
        if way == "checkpoint":
            denoise = jax.tree_util.Partial(_call_again, denoise)
        options = {"arithmetic": "compensated"} if way == "reversible" else {}
        x = ji.sample(sampler, denoise, noise, **options)
        return jnp.sum((x - target) ** 2) / 2

    return jax.jit(jax.grad(loss, argnums=(1, 2))).lower(*arguments).compile()


@jax.checkpoint
def _call_again(denoise: Any, x: Any, t: Any) -> Any:
    return denoise(x, t)


def report(arguments: argparse.Namespace, found: dict[Any, Any]) -> str:
    """Return a row per sampler and number of steps."""
    rows = []
    for (sampler, steps), value in found.items():
        rows.append(
            (
                sampler,
                steps,
                *(f"{value['bytes'][way] / 2**20:.0f}" for way in WAYS),
                *(_seconds(value, way) for way in WAYS),
                *(f"{error:.1e}" for error in value["errors"]["reversible"]),
                value["reference"],
            )
        )
    header = (
        "sampler",
        "steps",
        *(f"MiB, {way}" for way in WAYS),
        *(f"s, {way}" for way in WAYS),
        "error, noise",
        "error, prompt",
        "against",
    )
    worst = max(e for v in found.values() for e in v["errors"]["reversible"])
    return f"""{body(__doc__, 1)} Guidance 1. Errors
are relative, of the reversible gradient.

{table(header, rows)}

* Largest relative error of the reversible gradient: {worst:.1e}; target {TARGET:g}.
{growth(found)}

{plots.memory(arguments, found)}"""


def _seconds(value: dict[str, Any], way: str) -> str:
    return f"{value['seconds'][way]:.1f}" if way in value["seconds"] else "not run"


def growth(found: dict[Any, Any]) -> str:
    """Return how memory grows with the number of steps."""
    lines = []
    for sampler in dict.fromkeys(what[0] for what in found):
        steps = sorted(what[1] for what in found if what[0] == sampler)
        first, last = (found[sampler, n]["bytes"] for n in (steps[0], steps[-1]))
        if steps[0] != steps[-1]:
            ratios = ", ".join(f"{way} {last[way] / first[way]:.2f}" for way in WAYS)
            lines.append(
                f"* {sampler}, memory at {steps[-1]} steps over that at {steps[0]}: "
                f"{ratios}."
            )
    return "\n".join(lines)

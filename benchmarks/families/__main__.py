"""Exact inversion of a model of every family: noise, data and certificates.

    python -m benchmarks.families

Noise -> sampler -> data -> inversion -> noise -> sampler -> data, for small networks of
every family with random parameters (seeded), given the family's own condition, both
branches of guidance included. The networks have the layers of the published ones, in
another number and width, and outputs of a third of their size, so that few steps at
guidance 5 do not fold. FLUX.1 is given the guidance as a number, and called once. What
is measured is whether the inverse is as exact for each of them, not what the published
weights do.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.families.models import MODELS, Model
from benchmarks.report import (
    Kept,
    body,
    decibels,
    parse,
    parser,
    provenance,
    save,
    table,
)

EULER = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
STEPS, STARTS = 20, 16


def flow_steps(count: int) -> ji.SamplerTable:
    """Return Euler's steps through the times 1, 1 - 1/N, ..., 1/N."""
    times = np.linspace(1, 1 / count, count)
    return ji.sampler_from_diffusers(EULER, count, sigmas=times)


SAMPLERS: dict[str, Any] = {
    "DDIM": lambda schedule: ji.ddim(ji.time_grid(schedule, STEPS)),
    "2M": lambda schedule: ji.dpmpp_2m(ji.time_grid(schedule, STEPS)),
    "one step": lambda schedule: flow_steps(1),
    "4 steps": lambda schedule: flow_steps(4),
    "Euler, 8 steps": lambda schedule: ji.euler(ji.time_grid(schedule, 8)),
    "Euler, 28 steps": lambda schedule: ji.euler(ji.time_grid(schedule, 28)),
}
DIFFUSION = ("DDIM", "2M")


def measure(model: Model, name: str, guidance: float, samples: int) -> dict[str, Any]:
    """Invert samples of a model, and return their errors in dB."""
    sampler = SAMPLERS[name](model.schedule)

    def one(key: jax.Array) -> tuple[Any, ...]:
        keys = jax.random.split(key, 3)
        network = model.network
        if model.branch is None:
            inner = ji.conditioned(network, None)
        elif model.distilled:
            condition = model.branch(keys[0])._replace(guidance=jnp.float32(guidance))
            inner = ji.conditioned(network, condition)
        elif guidance > 1:
            inner = ji.guided(network, *map(model.branch, keys[:2]), guidance)
        else:
            inner = ji.conditioned(network, model.branch(keys[0]))
        denoise = ji.as_denoiser(inner, model.schedule)
        noise = jax.random.normal(keys[2], model.shape)
        data = ji.sample(sampler, denoise, noise)
        found = ji.invert(sampler, denoise, data)
        again = ji.sample(sampler, denoise, found.noise)
        if name == "one step":
            others.append(ji.preimages(sampler, denoise, data, keys[0], STARTS).found)
        errors = ji.nmse_db(found.noise, noise), ji.nmse_db(again, data)
        return *errors, found.converged, found.num_evals / sampler.num_steps

    others: list[Any] = []
    found = [one(jax.random.key(k)) for k in range(samples)]
    noise, data, good, evals = map(np.asarray, zip(*found, strict=True))
    return {
        "noise": noise.tolist(),
        "data": data.tolist(),
        "converged": good.tolist(),
        "evals": evals.tolist(),
        "preimages": [int(each) for each in others],
    }


def row(title: str, name: str, guidance: float | None, found: Any) -> list[str]:
    """Return a row of the table."""
    return [
        title,
        name,
        "none" if guidance is None else f"{guidance:g}",
        f"{sum(found['converged'])} of {len(found['converged'])}",
        decibels(found["noise"]),
        decibels(found["data"]),
        f"{np.median(found['evals']):.1f}",
        ", ".join(map(str, found["preimages"])) or "-",
    ]


def report(arguments: argparse.Namespace, rows: Sequence[Sequence[str]]) -> str:
    """Return the report."""
    head = "family | sampler | guidance | converged | noise [dB] | data [dB] | calls"
    return f"""# Exact inversion of every family

{body(__doc__)}

{provenance(arguments.command)}

Float32, {arguments.samples} samples, the default strategy, {STEPS} steps on the log-SNR
grid for DDIM and DPM-Solver++(2M). Errors: median and worst NMSE; calls: median number
of evaluations of the (guided) network per step, the verification included; noises: how
many lead to each sample, found from {STARTS} starts (`ji.preimages`).

{table(f"{head} | noises", rows)}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all cells and write the report."""
    found = parser("families", __doc__)
    add = found.add_argument
    add("--samples", type=int, default=4)
    add("--guidance", type=float, nargs="+", default=[1.0, 5.0])
    add("--families", nargs="+", choices=MODELS, default=[*MODELS])
    add("--resume", type=Path, help="JSON lines to continue from")
    arguments = parse(found, argv)
    kept, rows = Kept(arguments.resume, "cell", samples=arguments.samples), []
    for family in arguments.families:
        model = MODELS[family]()
        scales = [1.0] if model.branch is None else arguments.guidance
        for name in model.samplers or DIFFUSION:
            for scale in scales:
                cell = kept(
                    [family, name, scale],
                    lambda model=model, name=name, scale=scale: measure(
                        model, name, scale, arguments.samples
                    ),
                )
                shown = None if model.branch is None else scale
                rows.append(row(model.title, name, shown, cell))
    save(arguments.out, report(arguments, rows))


if __name__ == "__main__":
    main()

"""How exactly samples of the embedded model are inverted, by guidance and sampler."""

import argparse
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import samples
from benchmarks.report import Kept, table
from benchmarks.samples import Samples, inverter, make_sampler

PROMPTS = (
    *samples.PROMPTS,
    "sunflower on a dark blue background",
    "penguin on an orange background",
    "rocket on a black background",
    "strawberry on a light green background",
    "small butterfly on a white to pink gradient background",
    "large panda face in twemoji style on a red background",
    "christmas tree at the bottom right",
    "light bulb",
)
SAMPLERS = ("DDIM", "2M")
METHODS = {"naive": "naive", "exact": "auto"}
#: A noise is recovered if its NMSE is at most this, in dB.
RECOVERED_DB = -60.0


class Cell(NamedTuple):
    """One inversion.

    Attributes:
        sampler: Name of the sampler.
        guidance: Guidance scale.
        method: Key of ``METHODS``.
        prompt: Index of the prompt.
    """

    sampler: str
    guidance: float
    method: str
    prompt: int


def plan(arguments: argparse.Namespace) -> list[Cell]:
    """Return all cells, the ones that the targets name first."""
    order = sorted(arguments.guidance, key=lambda w: (w < 5, w))
    return [
        Cell(*cell)
        for cell in itertools.product(
            arguments.samplers, order, arguments.methods, range(arguments.prompts)
        )
    ]


def measure(pipe: Any, arguments: argparse.Namespace) -> dict[Cell, dict[str, Any]]:
    """Measure every cell that the file of cells does not hold yet.

    Args:
        pipe: The model.
        arguments: ``model``, ``seed``, ``steps``, ``cells`` and what ``plan`` needs.

    Returns:
        Of each cell ``noise_db``, ``reconstruction_db``, ``converged`` and evaluations
        ``per_step``.
    """
    given = [str(arguments.label or arguments.model), arguments.seed, arguments.steps]
    kept = Kept(arguments.cells, "cell", given=given)
    return {
        cell: kept(cell, lambda cell=cell: _invert(pipe, arguments, cell))
        for cell in plan(arguments)
    }


def _invert(pipe: Any, arguments: argparse.Namespace, cell: Cell) -> dict[str, Any]:
    key = jax.random.fold_in(jax.random.key(arguments.seed), cell.prompt)
    noise = jax.random.normal(key, (1, *pipe.latent_shape))
    cond, empty = (pipe.encode_prompt(text) for text in (PROMPTS[cell.prompt], ""))
    sample = Samples(cond[None], noise, empty)
    sampler = make_sampler(pipe, cell.sampler, "log_snr", arguments.steps)
    scale = jnp.float32(cell.guidance)
    states = samples.true_states(pipe, sampler, sample, scale, 1)
    run = inverter(strategy=METHODS[cell.method])
    outcome = samples.run_all(run, pipe, sampler, sample, scale, states, 1)
    return {
        "noise_db": round(float(outcome.noise_db[0]), 2),
        "reconstruction_db": round(float(outcome.reconstruction_db[0]), 2),
        "converged": bool(outcome.converged[0]),
        "per_step": round(float(outcome.evals[0]) / arguments.steps, 2),
    }


def report(found: dict[Cell, dict[str, Any]]) -> str:
    """Return a Markdown table: one row for each sampler, guidance and method."""
    rows = []
    for key in sorted({cell[:3] for cell in found}):
        runs = [result for cell, result in found.items() if cell[:3] == key]
        noise = np.array([run["noise_db"] for run in runs])
        recovered = int(np.sum(noise <= RECOVERED_DB))
        rows.append(
            [
                key[0],
                f"{key[1]:g}",
                key[2],
                f"{recovered} of {len(runs)}",
                f"{np.median(noise):.1f}",
                f"{np.max(noise):.1f}",
                f"{sum(run['converged'] for run in runs)} of {len(runs)}",
                f"{np.mean([run['per_step'] for run in runs]):.1f}",
            ]
        )
    header = (
        f"sampler | guidance | inversion | noise at {RECOVERED_DB:.0f} dB or better | "
        "median [dB] | worst [dB] | converged | evaluations a step"
    )
    return table(header, rows)

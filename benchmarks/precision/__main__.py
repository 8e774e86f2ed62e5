"""What 16 bits do to an exact inversion: networks in bfloat16 beside float32.

    python -m benchmarks.precision [--models emoji64] [--resume FILE]

Noise -> sampler -> latent -> stepwise inversion -> noise -> sampler -> latent, with the
network's parameters and computation in one type, and states, coefficients and solvers
in float32. A network in bfloat16 is another function than in float32, a step function
of its input, and it has an inverse of its own: each type inverts what it sampled.

First, whether the network is one function: the relative change of a call when it is
repeated, when it is one of a batch, and when it is part of another program (the steps
of a sampled trajectory, measured 8 at a time). Then how much a step's map contracts:
the change of the fixed-point map over the change of the state, for changes of several
sizes relative to the state.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.precision.models import DTYPES, MODELS, Model
from benchmarks.report import Kept, body, parse, parser, provenance, save, table

BATCHES = (2, 4, 8)
CHANGES = (1e-1, 1e-2, 1e-3, 1e-4)
#: A tolerance of the reconstruction that networks in bfloat16 can meet (-34 dB).
LOOSE = 2e-2


def repeated(model: Model, steps: int, scale: float) -> dict[str, float]:
    """Return the relative changes of a call under repetition, batches and programs."""
    sampler = model.sampler(steps)
    denoise, noise = model.denoiser(0, scale), model.noise(0)
    time = jnp.float32(sampler.model_time[len(sampler.model_time) // 2])
    single = call(denoise, noise, time)
    found = {"again": difference(call(denoise, noise, time), single)}
    for size in BATCHES:
        states = jnp.stack([noise, *(model.noise(k) for k in range(1, size))])
        found[f"batch of {size}"] = difference(calls(denoise, states, time)[0], single)
    states = ji.sample_trajectory(sampler, denoise, noise)
    found["program"] = float(jnp.max(ji.certify(sampler, denoise, states)))
    return found


@jax.jit
def call(denoise: Any, x: Any, t: Any) -> Any:
    """Call a model once."""
    return denoise(x, t)


@jax.jit
def calls(denoise: Any, xs: Any, t: Any) -> Any:
    """Call a model for a batch."""
    return jax.vmap(lambda x: denoise(x, t))(xs)


def difference(a: Any, b: Any) -> float:
    """Return a relative difference."""
    return float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))


def contraction(model: Model, steps: int, scale: float) -> list[float]:
    """Return the slopes of the fixed-point map of the middle step, by change."""
    sampler, denoise = model.sampler(steps), model.denoiser(0, scale)
    states = ji.sample_trajectory(sampler, denoise, model.noise(0))
    i = steps // 2
    # The map's change is the output's, times the row's weights: b / a.
    a, b = (float(np.asarray(c)[i - 1, 0]) for c in (sampler.a, sampler.b))
    time = jnp.float32(sampler.model_time[i])
    signs = jax.random.rademacher(jax.random.key(0), states[i].shape, jnp.float32)
    at, found = call(denoise, states[i], time), []
    for change in CHANGES:
        moved = states[i] * (1 + change * signs)
        output = jnp.linalg.norm(call(denoise, moved, time) - at)
        found.append(abs(b / a) * float(output / jnp.linalg.norm(moved - states[i])))
    return found


def inverted(
    model: Model, steps: int, scale: float, samples: int
) -> dict[str, list[float]]:
    """Sample and invert, and return what the certificates say."""
    sampler = model.sampler(steps)
    found: dict[str, list[float]] = {}
    for k in range(samples):
        denoise, noise = model.denoiser(k, scale), model.noise(k)
        x0 = ji.sample(sampler, denoise, noise)
        result = ji.invert(sampler, denoise, x0, strategy="stepwise")
        loose = bool(result.solved) and float(result.reconstruction) <= LOOSE / 4
        for key, value in {
            "residual": result.residual,
            "rounding": result.rounding,
            "reconstruction": result.reconstruction,
            "noise": ji.nmse_db(result.noise, noise),
            "evals": result.num_evals / steps,
            "solved": result.solved,
            "converged": result.converged,
            "loose": loose,
        }.items():
            found.setdefault(key, []).append(float(value))
    return found


def row(cell: Sequence[Any], found: dict[str, list[float]]) -> list[str]:
    """Return a row of the table of inversions."""
    middle = {key: float(np.median(values)) for key, values in found.items()}
    count = len(found["noise"])
    verdicts = (f"{sum(found[k]):.0f}" for k in ("solved", "converged", "loose"))
    return [
        *map(str, cell[:3]),
        f"{cell[3]:g}",
        *(f"{middle[key]:.1e}" for key in ("rounding", "residual", "reconstruction")),
        f"{middle['noise']:.0f}",
        f"{middle['evals']:.1f}",
        f"{', '.join(verdicts)} of {count}",
    ]


def report(
    arguments: argparse.Namespace,
    functions: Sequence[Sequence[str]],
    slopes: Sequence[Sequence[str]],
    rows: Sequence[Sequence[str]],
) -> str:
    """Return the report."""
    header = ["model", "type", "again", *(f"batch of {n}" for n in BATCHES), "program"]
    sizes = ["model", "type", *(f"{change:g}" for change in CHANGES)]
    cells = "model | type | steps | guidance | rounding | residual | reconstruction"
    return f"""# Networks in 16 bits

{body(__doc__)}

{provenance(arguments.command)} CPUs compute bfloat16 through float32: products are
rounded where the program has a value in bfloat16, as on accelerators, but not in the
same places.

## One function?

{table(header, functions)}

## Contraction of the middle step, by the size of a change

{table(sizes, slopes)}

## Inversions

{arguments.samples} samples; medians. *Rounding* and *residual* are relative, the worst
step's; *rounding* is measured only where a solver stagnates. *Noise* is the NMSE in dB.
*Calls* are evaluations of the guided network per step, the verification included.
Verdicts: samples whose steps are solved (to 1e-6, or to their rounding), that converged
with the default tolerance of the reconstruction (4e-4), and with {LOOSE:g}.

{table(f"{cells} | noise, dB | calls | verdicts", rows)}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all cells and write the report."""
    found = parser("precision", __doc__)
    add = found.add_argument
    add("--models", nargs="+", choices=MODELS, default=[*MODELS])
    add("--dtypes", nargs="+", choices=DTYPES, default=[*DTYPES])
    add("--steps", type=int, nargs="+", default=[8, 20])
    add("--guidance", type=float, nargs="+", default=[1.0, 5.0])
    add("--samples", type=int, default=4)
    add("--resume", type=Path, help="JSON lines to continue from")
    arguments = parse(found, argv)
    kept = Kept(arguments.resume, "cell", samples=arguments.samples)
    functions, slopes, rows = [], [], []
    for name, dtype in itertools.product(arguments.models, arguments.dtypes):
        load = functools.cache(functools.partial(MODELS[name], DTYPES[dtype]))

        def cell(
            measure: Callable[..., Any],
            *given: Any,
            key: Sequence[Any] = (name, dtype),
            load: Any = load,
        ) -> Any:
            what = [measure.__name__, *key, *given]
            return kept(what, lambda: measure(load(), *given))

        largest = max(arguments.steps), max(arguments.guidance)
        same = cell(repeated, *largest)
        functions.append([name, dtype, *(f"{each:.0e}" for each in same.values())])
        change = cell(contraction, *largest)
        slopes.append([name, dtype, *(f"{each:.2f}" for each in change)])
        for given in itertools.product(arguments.steps, arguments.guidance):
            rows.append(
                row((name, dtype, *given), cell(inverted, *given, arguments.samples))
            )
    save(arguments.out, report(arguments, functions, slopes, rows))


if __name__ == "__main__":
    main()

"""How far samples are from the converged solution, at equal evaluations.

The probability-flow ODE from one noise has one solution. A sampler of few steps misses
it; by how much is its quality as a solver, whatever the model. The reference is
DPM-Solver++(2M) with very many steps on the same range of noise levels, and its own
error is estimated by the distance to O-BELM with half as many.
"""

import argparse
from typing import Any

import jax
import numpy as np

import jaxinv as ji
from benchmarks.belm import plots
from benchmarks.belm.setting import (
    NOT_EXACT,
    SAMPLERS,
    Setting,
    make,
    sample_all,
    steps_of,
)
from benchmarks.report import body, decibels, table
from benchmarks.samples import make_samples

TITLE = "Distance to the converged solution"
REFERENCE, CHECK = "2M", "O-BELM"


def add_arguments(group: Any) -> None:
    group.add_argument("--quality-samples", type=int, default=4)
    group.add_argument(
        "--quality-evaluations", type=int, nargs="+", default=[10, 20, 50, 100]
    )
    group.add_argument("--quality-guidance", type=float, nargs="+", default=[1.0, 3.0])
    group.add_argument("--quality-samplers", nargs="+", default=[*SAMPLERS])
    group.add_argument("--reference-steps", type=int, default=2000)


def cells(arguments: argparse.Namespace) -> list[tuple[Any, ...]]:
    found, count = [], arguments.quality_samples
    steps = arguments.reference_steps
    for guidance in arguments.quality_guidance:
        found.append(("reference", guidance, steps, count))
        found.append(("check", guidance, steps // 2, count))
        found += [
            (sampler, guidance, evaluations, steps, count)
            for evaluations in arguments.quality_evaluations
            for sampler in arguments.quality_samplers
        ]
    return found


def measure(setting: Setting, what: tuple[Any, ...], found: Any) -> dict[str, Any]:
    name, guidance, evaluations, *_, count = what
    kind = {"reference": REFERENCE, "check": CHECK}.get(name, name)
    samples = make_samples(setting.pipe, count, setting.arguments.seed)
    if name == "check":
        samples = samples.some(slice(min(2, count)))
    steps = steps_of(kind, evaluations)
    sampler = make(kind, setting.pipe.schedule, steps)
    x = sample_all(setting, sampler, samples, guidance)
    if name == "reference":
        return {"samples": x.tolist()}
    steps = setting.arguments.reference_steps
    known = found.get(("reference", guidance, steps, count))
    if known is None:
        return {"nmse_db": [float("nan")] * len(x)}
    reference = np.array(known["samples"], np.float32)[: len(x)]
    return {"nmse_db": np.asarray(jax.vmap(ji.nmse_db)(x, reference)).tolist()}


def report(arguments: argparse.Namespace, found: dict[Any, Any]) -> str:
    """Return a row per sampler and guidance, a column per number of evaluations."""
    evaluations = arguments.quality_evaluations
    rows, notes = [], []
    for guidance in arguments.quality_guidance:
        own = {(w[0], w[2]): v for w, v in found.items() if w[1] == guidance}
        for sampler in arguments.quality_samplers:
            values = [own.get((sampler, n)) for n in evaluations]
            rows.append(
                (
                    f"{guidance:g}",
                    sampler,
                    "no" if sampler in NOT_EXACT else "yes",
                    *(decibels(v["nmse_db"]) if v else "-" for v in values),
                )
            )
        check = own.get(("check", arguments.reference_steps // 2))
        if check:
            notes.append(
                f"guidance {guidance:g}: {decibels(check['nmse_db'])} dB between the "
                f"reference and {CHECK} with {arguments.reference_steps // 2} steps"
            )
    header = (
        "guidance",
        "sampler",
        "exact inverse",
        *(f"{n} evaluations" for n in evaluations),
    )
    return f"""{body(__doc__, 1)} {REFERENCE} takes
{arguments.reference_steps} steps. {arguments.quality_samples} prompts and noises; NMSE
of the latent to the reference, dB, median / worst.

{table(header, rows)}

The reference's own error: {"; ".join(notes) if notes else "not measured"}.

{facts(arguments, found)}

{plots.quality(arguments, found)}"""


def facts(arguments: argparse.Namespace, found: dict[Any, Any]) -> str:
    """O-BELM against the other exact samplers, and its log-SNR form against 2M."""
    lines = []
    pairs = [("O-BELM", "BDIA"), ("O-BELM", "BDIA(1)"), ("O-BELM", "EDICT")]
    for ours, other in [*pairs, ("O-BELM log-SNR", "2M")]:
        for guidance in arguments.quality_guidance:
            gains = []
            for n in arguments.quality_evaluations:
                both = [
                    value["nmse_db"]
                    for name in (ours, other)
                    for what, value in found.items()
                    if what[:3] == (name, guidance, n)
                ]
                if len(both) == 2:
                    gain = np.median(np.subtract(both[1], both[0]))
                    gains.append(f"{gain:+.1f} dB at {n}")
            if gains:
                lines.append(
                    f"* {ours} is nearer than {other}, guidance {guidance:g}, by "
                    f"{', '.join(gains)} (median over the samples)."
                )
    return "\n".join(lines)

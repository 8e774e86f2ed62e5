"""Inversions of flow models: published ones, and exact ones, at equal steps.

    python -m benchmarks.flows

Noise -> sampler -> data -> inversion -> noise -> sampler -> data, on uniform times from
1 to 0, shifted by s. Two models are guided: the exact velocity of a mixture of 8
Gaussians in 16 dimensions (variance 0.05), whose condition is one of them (s = 3, as in
FLUX's code), and a small Stable Diffusion 3 on the latents of `emoji64`: diffusers'
network with 3.5 million weights, two CLIP encoders, no T5, prompts, classifier-free
guidance, s = 1 for its 16 x 16 latents (`python -m training.train_flow`, 40 minutes of
a core; `training/README.md` says from which drawings). Its training penalized steps of
1/8 that fold at guidance 7: other models need not give these figures.

* *Euler backward* takes Euler's steps from the data to the noise.
* *Uni-Inv* corrects them by an evaluation at the predicted state.
* *AIDI* iterates a fixed point 5 times per step, plainly or with Anderson acceleration.
* *ReNoise* averages the last 2 of 10 iterations (of 5, all, below time 250): the
  defaults of its code, without its regularization of the noise.
* *FireFlow* and *RF-Solver* are inverted by themselves, from the data to the noise.
* *exact* solves the equations of the sampler until they hold to float32, by the
  library's default: Euler's step by step, the others' for the whole trajectory, then by
  Newton's method, within 150 evaluations per row.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.flows import picture
from benchmarks.flows.methods import METHODS, RECOVERED_DB, measure
from benchmarks.flows.problems import Problem, emoji_latents, guided_mixture
from benchmarks.report import (
    RESULTS,
    Kept,
    body,
    parse,
    parser,
    provenance,
    save,
    table,
)
from benchmarks.samples import CONVERGED_DB
from jaxinv.plotting import save_figure

PROBLEMS = {each.__name__: each for each in (emoji_latents, guided_mixture)}
STEPS = (4, 8, 15, 28)
GUIDANCE = (1.0, 3.5, 7.0)
PICTURES = {
    "errors": "Error of the noise against model calls",
    "samples": "Samples",
    "reconstructions": "Euler's samples; reconstructions, 8 steps, guidance 3.5",
}


def text_of(found: dict[str, list[float]] | None, timed: bool) -> str:
    """Return a cell: errors of noise and reconstruction, calls, seconds, verdicts."""
    if found is None:
        return "not run"
    noise, reconstruction, evals = (
        float(np.median(found[key])) for key in ("noise", "reconstruction", "evals")
    )
    text = f"{noise:.0f} / {reconstruction:.0f}, {evals:.0f}"
    if timed:
        text += f", {np.median(found['seconds']):.2g} s"
    good, count = int(sum(found["converged"])), len(found["converged"])
    return f"{text} ({good} of {count})" if good else text


def fate_of(found: dict[str, list[float]]) -> str:
    """Return what became of the samples of a cell of an exact inversion."""
    noise, solved, converged = (
        np.asarray(found[key]) for key in ("noise", "solved", "converged")
    )
    same = noise <= RECOVERED_DB
    counts = {
        "recovered": converged * same,
        "another noise": converged * ~same,
        "amplified": solved * (1 - converged),
        "unsolved": 1 - solved,
    }
    parts = [f"{int(sum(each))} {what}" for what, each in counts.items() if any(each)]
    return ", ".join(parts)


def fates(cells: dict[Any, Any], problem: str) -> str:
    """Return the table of what became of the samples of exact inversions."""
    chosen = {key: found for key, found in cells.items() if key[0] == problem}
    scales = sorted({scale for *_, scale in chosen})
    rows = [
        [n, method.title]
        + [
            fate_of(chosen[problem, name, n, s])
            if (problem, name, n, s) in chosen
            else "not run"
            for s in scales
        ]
        for n in sorted({steps for _, _, steps, _ in chosen})
        for name, method in METHODS.items()
        if method.ours and any((problem, name, n, s) in chosen for s in scales)
    ]
    return table(["steps", "method", *(f"guidance {s:g}" for s in scales)], rows)


def table_of(cells: dict[Any, Any], problem: Problem, steps: Sequence[int]) -> str:
    """Return the table of a model, a row for each number of steps and method."""
    timed = problem.decode is not None
    scales = sorted({scale for *_, scale in cells})
    rows = [
        [n, method.title]
        + [text_of(cells.get((problem.title, name, n, s)), timed) for s in scales]
        for n in steps
        for name, method in METHODS.items()
        if any((problem.title, name, n, scale) in cells for scale in scales)
    ]
    return table(["steps", "method", *(f"guidance {s:g}" for s in scales)], rows)


def report(
    arguments: argparse.Namespace, problems: Sequence[Problem], cells: dict[Any, Any]
) -> str:
    """Return the report, and save its pictures."""
    stem: Path = arguments.out.with_suffix("")
    sections = []
    for problem in problems:
        title = problem.title
        name = title.lower().replace(" ", "-")
        figures = {"errors": picture.errors(cells, title)}
        if problem.decode is not None:
            figures["samples"] = picture.samples(problem, GUIDANCE, arguments.seed)
            figures["reconstructions"] = picture.reconstructions(
                problem, 8, 3.5, arguments.seed
            )
        for what, figure in figures.items():
            save_figure(figure, Path(f"{stem}-{name}-{what}.png"))
        links = [
            f"![{PICTURES[what]}]({stem.name}-{name}-{what}.png)" for what in figures
        ]
        sections += [
            f"## {title[0].upper()}{title[1:]}",
            links[0],
            table_of(cells, problem, arguments.steps),
            "What became of the samples of exact inversion (see above):",
            fates(cells, title),
            *links[1:],
        ]
    text = "\n\n".join(sections)
    return f"""# Inversions of flow models

{body(__doc__)}

{provenance(arguments.command)}

Float32, {arguments.samples} samples, seed {arguments.seed}. Cells: median NMSE of the
noise / of the reconstruction in dB, median number of calls of the guided model by the
inversion (both branches count as one; without those that measure the rows or sample
again) and, of the transformer, median CPU seconds of these calls; in parentheses the
samples that converged, if any did: every row holds to 5e-6 and the reconstruction is at
{CONVERGED_DB:.0f} dB or better. Each error of a reconstruction is against the same
sampler's own sample.

A converged sample is *recovered* if its noise is at {RECOVERED_DB:.0f} dB or better;
else its noise is *another noise* that leads to the same data. *Amplified* means that
all rows hold, but steps amplify their residuals so that the reconstruction is worse
than {CONVERGED_DB:.0f} dB; *unsolved* that some row does not hold after 150 evaluations
per row.

{text}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Measure all cells and write the report."""
    found = parser("flows", __doc__)
    add = found.add_argument
    add("--samples", type=int, default=8)
    add("--seed", type=int, default=0)
    add("--steps", type=int, nargs="+", default=[*STEPS])
    add("--guidance", type=float, nargs="+", default=[*GUIDANCE])
    add("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    add("--problems", nargs="+", choices=PROBLEMS, default=[*PROBLEMS])
    add("--report-only", action="store_true", help="measure nothing")
    add(
        "--resume",
        type=Path,
        default=RESULTS / "flows-cells.jsonl",
        help="JSON lines to continue from",
    )
    arguments = parse(found, argv)
    given = {"seed": arguments.seed, "samples": arguments.samples}
    kept, cells = Kept(arguments.resume, "cell", **given), {}
    problems = [PROBLEMS[name](arguments.samples) for name in arguments.problems]
    with jax.default_matmul_precision("highest"):
        for problem, steps, name, scale in itertools.product(
            problems, arguments.steps, arguments.methods, arguments.guidance
        ):
            cell = problem.title, name, steps, scale
            if arguments.report_only and cell not in kept.found:
                continue
            run = functools.partial(measure, problem, *cell[1:], seed=arguments.seed)
            cells[cell] = kept([*cell], run)
        save(arguments.out, report(arguments, problems, cells))


if __name__ == "__main__":
    main()

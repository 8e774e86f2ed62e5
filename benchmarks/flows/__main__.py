"""Inversions of flow models: published ones, and exact ones, at equal steps.

    python -m benchmarks.flows

Noise -> sampler -> data -> inversion -> noise -> sampler -> data, with the grid of
FLUX's code: uniform times from 1 to 0, shifted by 3. Two models are guided: the exact
velocity of a mixture of 8 Gaussians in 16 dimensions (variance 0.05), whose condition
is one of them, and a small transformer on 16 x 16 pixels of emoji, trained in minutes
(`python -m benchmarks.flows.train`; made from Noto Emoji, Twemoji and Fluent Emoji, of
Google (Apache-2.0), Twitter (CC BY 4.0) and Microsoft (MIT), placed on backgrounds).

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
from benchmarks.flows.methods import METHODS, measure
from benchmarks.flows.problems import Problem, guided_mixture, small_network
from benchmarks.report import Kept, body, parse, parser, provenance, save, table
from benchmarks.samples import CONVERGED_DB
from jaxinv.plotting import save_figure

PROBLEMS = {each.__name__: each for each in (guided_mixture, small_network)}
STEPS = (4, 8, 15, 28)
GUIDANCE = (1.0, 3.5, 7.0)


def text_of(found: dict[str, list[float]] | None) -> str:
    """Return a cell: errors of noise and reconstruction, evaluations, verdicts."""
    if found is None:
        return "not run"
    noise, reconstruction, evals = (
        float(np.median(found[key])) for key in ("noise", "reconstruction", "evals")
    )
    good, count = int(sum(found["converged"])), len(found["converged"])
    verdict = "" if good == 0 else f" ({good} of {count})"
    return f"{noise:.0f} / {reconstruction:.0f}, {evals:.0f}{verdict}"


def table_of(cells: dict[Any, Any], problem: str, steps: Sequence[int]) -> str:
    """Return the table of a model, a row for each number of steps and method."""
    scales = sorted({scale for *_, scale in cells})
    rows = [
        [n, method.title, *(text_of(cells.get((problem, name, n, s))) for s in scales)]
        for n in steps
        for name, method in METHODS.items()
        if any((problem, name, n, scale) in cells for scale in scales)
    ]
    return table(["steps", "method", *(f"guidance {s:g}" for s in scales)], rows)


def report(
    arguments: argparse.Namespace, problems: Sequence[Problem], cells: dict[Any, Any]
) -> str:
    """Return the report, and save its pictures."""
    stem: Path = arguments.out.with_suffix("")
    titles = [problem.title for problem in problems]
    figure = picture.errors(cells, titles, arguments.guidance)
    save_figure(figure, Path(f"{stem}-errors.png"))
    sections = [
        f"## {title.capitalize()}\n\n{table_of(cells, title, arguments.steps)}"
        for title in titles
    ]
    if "small_network" in arguments.problems:
        figure = picture.samples(problems[-1], arguments.guidance, arguments.seed)
        save_figure(figure, Path(f"{stem}-samples.png"))
        sections.append(
            f"## Samples of the small network\n\n![Samples]({stem.name}-samples.png)"
        )
    text = "\n\n".join(sections)
    return f"""# Inversions of flow models

{body(__doc__)}

{provenance(arguments.command)}

Float32, {arguments.samples} samples, seed {arguments.seed}. Cells: median NMSE of the
noise / of the reconstruction in dB, median number of evaluations of the guided model by
the inversion (both branches count as one; without those that measure the rows or
sample again); in parentheses the samples that converged, if any did: every row holds to
5e-6 and the reconstruction is at {CONVERGED_DB:.0f} dB or better.

![Error of the noise against evaluations]({stem.name}-errors.png)

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
    add("--resume", type=Path, help="JSON lines to continue from")
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

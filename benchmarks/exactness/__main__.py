"""How exactly samplers are inverted, on the embedded model, and at what cost.

    python -m benchmarks.exactness

Noise -> sampler -> latent -> inversion -> noise -> sampler -> latent, for DDIM,
DPM-Solver++(2M) and (3M), over steps and guidance, on the grid uniform in log-SNR and
on linspace, with every way to invert: naive DDIM inversion, the paper's algorithms,
the whole trajectory at once, and what the library does by default.
"""

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxinv as ji
from benchmarks.exactness import plots, single_steps, tables
from benchmarks.exactness.plan import (
    METHODS,
    Cell,
    first_method,
    name,
    options,
    planned,
    sample_count,
)
from benchmarks.report import (
    append_line,
    body,
    decibels,
    parse,
    parser,
    provenance,
    read_lines,
    save,
)
from benchmarks.samples import (
    CONVERGED_DB,
    SAMPLERS,
    default_batch,
    inverter,
    make_sampler,
    make_samples,
    run_all,
    true_states,
)


class Run(NamedTuple):
    """One cell of the table, with one entry per sample in every array."""

    cell: Cell
    sample: np.ndarray
    noise_db: np.ndarray
    reconstruction_db: np.ndarray
    converged: np.ndarray
    residual: np.ndarray
    evals: np.ndarray
    depth: np.ndarray


def runs(
    pipe: Any,
    arguments: argparse.Namespace,
    cells: Sequence[Cell],
    done: dict[Cell, Run],
) -> Iterator[Run]:
    """Measure the cells."""
    began = time.monotonic()
    samples = make_samples(pipe, arguments.samples, arguments.seed)
    truths: dict[Any, Any] = {}
    for cell in cells:
        elapsed = time.monotonic() - began
        sampler = make_sampler(pipe, cell.sampler, cell.spacing, cell.steps)
        if cell[:4] not in truths:
            truths[cell[:4]] = true_states(
                pipe, sampler, samples, cell.guidance, arguments.batch
            )
        first = None
        if cell.method == "auto":
            first = done.get(cell._replace(method=first_method(cell.sampler)))
        todo = np.arange(sample_count(cell, arguments))
        if first is not None:
            todo = todo[: len(first.noise_db)][~first.converged]
        parts = []
        if len(todo):
            outcome = run_all(
                inverter(**options(cell, pipe.schedule)),
                pipe,
                sampler,
                samples.some(todo),
                cell.guidance,
                truths[cell[:4]][todo],
                arguments.batch,
                60 * arguments.cell_minutes,
            )
            fields = [getattr(outcome, field) for field in Run._fields[2:]]
            parts = [Run(cell, todo[: len(outcome.evals)], *fields)]
        run = joined(cell, first, parts)
        now = time.monotonic() - began
        evaluations = sum(int(np.sum(part.evals)) for part in parts)
        print(
            f"{now:5.0f} s: {name(cell)}: noise {decibels(run.noise_db)} dB, "
            f"reconstruction {decibels(run.reconstruction_db)} dB, "
            f"{np.mean(run.converged):.0%} of {len(run.converged)} converged, "
            f"{evaluations} evaluations in {now - elapsed:.0f} s with compiling",
            flush=True,
        )
        done[cell] = run
        yield run


def joined(cell: Cell, first: Run | None, parts: Sequence[Run]) -> Run:
    """Auto's run: its first method's where that converged, else its own."""
    if first is not None:
        kept = np.flatnonzero(first.converged)
        parts = [Run(cell, *(field[kept] for field in first[1:])), *parts]
    together = [
        np.concatenate(fields) for fields in zip(*(p[1:] for p in parts), strict=True)
    ]
    order = np.argsort(together[0])
    return Run(cell, *(field[order] for field in together))


def to_line(run: Run, seed: int) -> dict[str, Any]:
    """Return a run as JSON."""
    arrays = {
        field: value.tolist()
        for field, value in run._asdict().items()
        if field != "cell"
    }
    return {**run.cell._asdict(), "seed": seed, **arrays}


def from_line(line: dict[str, Any]) -> Run:
    """Read a run; lines of earlier versions hold whether the steps were solved only."""
    cell = Cell(**{field: line[field] for field in Cell._fields})
    run = Run(cell, *(np.asarray(line[field]) for field in Run._fields[1:]))
    good = run.reconstruction_db <= CONVERGED_DB
    return run._replace(converged=run.converged & good)


def in_order(runs: Iterable[Run]) -> list[Run]:
    """Return the runs in the order of the table."""
    return sorted(
        runs,
        key=lambda run: (
            list(SAMPLERS).index(run.cell.sampler),
            run.cell.spacing != "log_snr",
            run.cell.steps,
            run.cell.guidance,
            METHODS.index(run.cell.method),
        ),
    )


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    found = parser("exactness", __doc__, model=True)
    add = found.add_argument
    add("--report-only", action="store_true", help="measure nothing")
    add("--full", action="store_true", help="the product, 16 samples")
    add("--samples", type=int, help="default 8, with --full 16")
    add("--paper-samples", type=int, default=1, help="twice for DDIM")
    add("--samplers", nargs="+", choices=SAMPLERS, default=[*SAMPLERS])
    add("--methods", nargs="+", choices=METHODS, default=[*METHODS])
    add("--grids", nargs="+", default=["log_snr", "linspace"])
    add("--steps", type=int, nargs="+", help="only these")
    add("--guidance", type=float, nargs="+", help="only these")
    add("--batch", type=int, default=default_batch())
    add("--cell-minutes", type=float, default=4.0, help="then cut short")
    cases = ["linspace:20:5", "log_snr:20:7.5"]
    add("--cases", nargs="*", default=cases, help="grid:steps:guidance, step by step")
    add("--vectors", type=int, default=20, help="of the conditioning")
    arguments = parse(found, argv)
    arguments.samples = arguments.samples or (16 if arguments.full else 8)
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = arguments_of(argv)
    cells = planned(arguments)
    found = [
        from_line(line)
        for line in read_lines(arguments.resume)
        if line["seed"] == arguments.seed
    ]
    done = {run.cell: run for run in found}
    todo = [cell for cell in cells if cell not in done]
    print(f"{len(todo)} cells to measure, {len(done)} found", flush=True)
    # Accelerators may compute float32 products with ten bits; exactness needs all.
    with jax.default_matmul_precision("highest"):
        pipe = ji.load(arguments.model)
        for run in runs(pipe, arguments, [] if arguments.report_only else todo, done):
            append_line(arguments.resume, to_line(run, arguments.seed))
        steps = single_steps.section(pipe, arguments)
    table = in_order(done.values())
    pictures = plots.save_all(table, arguments.out)
    missing = [name(cell) for cell in cells if cell not in done]
    text = f"""# Exact inversion on {arguments.model}

{body(__doc__)}

{provenance(arguments.command, arguments.model)}

{len(found)} of the {len(table)} rows below were read
from the file that it continues, as earlier runs had measured them. Float32,
{arguments.samples} samples (fewer where the
table says so), seed {arguments.seed}, {arguments.batch} at a time. NMSE is
`|x - reference|^2 / |reference|^2`, median and worst of the samples. One evaluation is
one call of the guided model (both branches) for one sample; the depth is how many of
them had to wait for one another. "paper" is Algorithm 1 (DDIM, forward step, published
settings) or Algorithm 2 (2M, 3M). The naive inverse does not measure its residual, and
Algorithm 2 solves an approximate equation: only the reconstruction judges them. Auto
begins as stepwise (DDIM) or trajectory (2M, 3M): its rows repeat theirs for the samples
that converged there, and only the others are run again, from the beginning. Converged
are results whose equations are solved and whose reconstruction is at {CONVERGED_DB:.0f}
dB or better, a quarter of the tolerance of 4e-4. The evaluations are those of the
inversion; the way back that `invert` takes by default adds one per step.

{tables.main_table(table)}

{tables.not_measured(missing)}

## In short

{tables.summary(table)}

{pictures}

{steps}
"""
    save(arguments.out, text)


if __name__ == "__main__":
    main()

"""What the runs of :mod:`benchmarks.exactness` add up to: tables and facts."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.report import decibels, table

#: Reconstruction that counts as exact in float32, dB.
EXACT_DB = -95.0


def main_table(runs: Sequence[Any]) -> str:
    """One row per run."""
    header = (
        "sampler | grid | steps | guidance | method | samples | "
        "noise NMSE, dB (median / worst) | "
        "reconstruction NMSE, dB (median / worst) | converged | "
        "evaluations per step | depth (median / max)"
    )
    rows = [
        (
            run.cell.sampler,
            run.cell.spacing,
            run.cell.steps,
            f"{run.cell.guidance:g}",
            run.cell.method,
            len(run.noise_db),
            decibels(run.noise_db),
            decibels(run.reconstruction_db),
            "-" if run.cell.method == "naive" else f"{np.mean(run.converged):.0%}",
            f"{np.mean(run.evals) / run.cell.steps:.1f}",
            f"{np.median(run.depth):.0f} / {np.max(run.depth)}",
        )
        for run in runs
    ]
    return table(header, rows)


def not_measured(cells: Sequence[str]) -> str:
    """Return a sentence that names what the table lacks."""
    if not cells:
        return "All planned cells were measured."
    return f"Planned and not measured: {'; '.join(cells)}."


def summary(runs: Sequence[Any]) -> str:
    """Return the facts that the targets of the project ask for, as they came out."""
    facts = [
        *_reconstructions(runs),
        *_noises(runs),
        *_depths(runs),
    ]
    lines = "\n".join(f"* {fact}" for fact in facts)
    return f"{lines}\n\n{_against_paper(runs)}".strip()


def _reconstructions(runs: Sequence[Any]) -> list[str]:
    facts = []
    for spacing in ("log_snr", "linspace"):
        values = [
            run.reconstruction_db
            for run in runs
            if run.cell.method == "auto"
            and run.cell.guidance <= 7.5
            and run.cell.spacing == spacing
        ]
        if values:
            every = np.concatenate(values)
            # NaN is not exact: comparing with it is false.
            exact = int(np.sum(every <= EXACT_DB))
            facts.append(
                f"auto, {spacing}, guidance up to 7.5: reconstruction at most "
                f"{EXACT_DB:g} dB for {exact} of {every.size} samples "
                f"({exact / every.size:.1%}); target 95 %."
            )
    return facts


def _noises(runs: Sequence[Any]) -> list[str]:
    chosen = [
        run
        for run in runs
        if run.cell.method == "auto"
        and run.cell.spacing == "log_snr"
        and run.cell.steps in (20, 50)
        and run.cell.guidance <= 7.5
    ]
    return [
        f"auto, {sampler}, log_snr, {steps} steps: noise median "
        + ", ".join(
            f"{np.median(run.noise_db):.1f} dB at guidance {run.cell.guidance:g}"
            for run in chosen
            if (run.cell.sampler, run.cell.steps) == (sampler, steps)
        )
        + "; target -60 dB."
        for sampler, steps in sorted({(r.cell.sampler, r.cell.steps) for r in chosen})
    ]


def _depths(runs: Sequence[Any]) -> list[str]:
    chosen = [
        run
        for run in runs
        if run.cell.method == "trajectory" and run.cell.guidance <= 7.5
    ]
    if not chosen:
        return []
    depth = np.concatenate([run.depth for run in chosen])
    converged = np.concatenate([run.converged for run in chosen])
    within = int(np.sum(depth <= 40))
    good = f", of the converged ones {depth[converged].max()}" if any(converged) else ""
    return [
        f"trajectory, guidance up to 7.5: largest depth {depth.max()}{good}; at most "
        f"40, the target, for {within} of {depth.size} samples."
    ]


def _against_paper(runs: Sequence[Any]) -> str:
    """Auto beside the paper's algorithms, on the samples that both inverted."""
    found = {run.cell: run for run in runs}
    rows = []
    for cell, paper in found.items():
        auto = found.get(cell._replace(method="auto"))
        if cell.method != "paper" or auto is None:
            continue
        same, one, other = np.intersect1d(
            paper.sample, auto.sample, return_indices=True
        )
        if not len(same):
            continue
        mean = [
            np.mean(values)
            for values in (
                paper.noise_db[one],
                auto.noise_db[other],
                paper.reconstruction_db[one],
                auto.reconstruction_db[other],
                paper.evals[one],
                auto.evals[other],
            )
        ]
        rows.append(
            (
                cell.sampler,
                cell.spacing,
                cell.steps,
                f"{cell.guidance:g}",
                len(same),
                f"{mean[0]:.1f} / {mean[1]:.1f}",
                f"{mean[0] - mean[1]:.1f}",
                f"{mean[2]:.1f} / {mean[3]:.1f}",
                f"{mean[2] - mean[3]:.1f}",
                f"{mean[4]:.0f} / {mean[5]:.0f}",
            )
        )
    if not rows:
        return ""
    header = (
        "sampler | grid | steps | guidance | samples | noise, dB: paper / auto | "
        "gained | reconstruction, dB: paper / auto | gained | "
        "evaluations: paper / auto"
    )
    title = "The paper's algorithms beside auto, means over the same samples:"
    return f"{title}\n\n{table(header, rows)}"

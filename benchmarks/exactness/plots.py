"""Pictures of the runs of :mod:`benchmarks.exactness`."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxinv.plotting import save_figure

COLOURS = {
    "naive": "#8a8f9c",
    "paper": "#c8742c",
    "stepwise": "#8e5bb5",
    "trajectory": "#2c6fbb",
    "auto": "#1a7f4e",
}
MARKERS = {"DDIM": "o", "2M": "s", "3M": "^"}
MEASURES = {
    "noise_db": "noise NMSE (dB)",
    "reconstruction_db": "reconstruction NMSE (dB)",
}
#: Where auto is another method's run, both stay visible: the later, thinner line.
WIDTHS = {"naive": 1.6, "paper": 1.6, "stepwise": 4.0, "trajectory": 4.0, "auto": 1.6}


def save_all(runs: Sequence[Any], out: Path) -> str:
    """Save the pictures beside the table; returns the Markdown that shows them."""
    stem = out.with_suffix("")
    pictures = {
        "evaluations": (against_evaluations(runs), "NMSE against evaluations per step"),
    }
    if len({run.cell.guidance for run in runs}) > 1:  # otherwise there are no lines
        guidance = against_guidance(runs), "NMSE against guidance, 20 steps"
        pictures = {"guidance": guidance, **pictures}
    lines = []
    out.parent.mkdir(parents=True, exist_ok=True)
    for name, (figure, title) in pictures.items():
        path = Path(f"{stem}-{name}.png")
        save_figure(figure, path)
        lines.append(f"![{title}]({path.name})")
    return "\n\n".join(lines)


def against_guidance(runs: Sequence[Any]) -> Figure:
    """Median NMSE of every method over guidance: a panel per sampler and measure."""
    samplers = [s for s in MARKERS if any(run.cell.sampler == s for run in runs)]
    figure = Figure(figsize=(3.9 * max(len(samplers), 1) + 1.6, 7.2), dpi=120)
    axes = figure.subplots(
        2, max(len(samplers), 1), sharex=True, sharey=True, squeeze=False
    )
    for (row, measure), (column, sampler) in itertools.product(
        enumerate(MEASURES), enumerate(samplers)
    ):
        panel = axes[row, column]
        for method, colour in COLOURS.items():
            for spacing, style in (("log_snr", "-"), ("linspace", ":")):
                line = sorted(
                    (run.cell.guidance, np.median(getattr(run, measure)))
                    for run in runs
                    if run.cell[:3] == (sampler, spacing, 20)
                    and run.cell.method == method
                )
                if line:
                    panel.plot(
                        *zip(*line, strict=True),
                        style,
                        color=colour,
                        marker=MARKERS[sampler],
                        markersize=4,
                        linewidth=WIDTHS[method],
                        label=f"{method}, {spacing}",
                    )
        panel.grid(alpha=0.3)
        if row == 0:
            panel.set_title(sampler)
        else:
            panel.set_xlabel("guidance")
        if column == 0:
            panel.set_ylabel(f"{MEASURES[measure]}, median")
    _legend(figure, axes)
    figure.suptitle("Exact inversion, 20 steps: error against guidance")
    figure.tight_layout(rect=(0, 0, 1 - 1.6 / figure.get_figwidth(), 1))
    return figure


def against_evaluations(runs: Sequence[Any]) -> Figure:
    """Median NMSE of every run over its cost."""
    figure = Figure(figsize=(12, 5.2), dpi=120)
    axes = figure.subplots(1, 2, squeeze=False)
    for panel, (measure, label) in zip(axes[0], MEASURES.items(), strict=True):
        for run in runs:
            panel.scatter(
                np.mean(run.evals) / run.cell.steps,
                np.median(getattr(run, measure)),
                color=COLOURS[run.cell.method],
                marker=MARKERS[run.cell.sampler],
                # Guidance is what makes an inversion hard.
                s=18 + 10 * run.cell.guidance,
                alpha=0.9 if run.cell.spacing == "log_snr" else 0.4,
                linewidth=0,
                label=f"{run.cell.method}, {run.cell.sampler}",
            )
        panel.set_xscale("log")
        panel.set_xlabel("evaluations per step, mean")
        panel.set_ylabel(f"{label}, median")
        panel.grid(alpha=0.3, which="both")
    _legend(figure, axes)
    figure.suptitle(
        "Exact inversion: error against cost (larger: more guidance; pale: linspace)"
    )
    figure.tight_layout(rect=(0, 0, 1 - 1.6 / figure.get_figwidth(), 1))
    return figure


def _legend(figure: Figure, axes: Any) -> None:
    """One legend for all panels, right of them."""
    handles: dict[str, Any] = {}
    for panel in axes.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    labels = sorted(handles, key=lambda label: list(COLOURS).index(label.split(",")[0]))
    figure.legend(
        [handles[label] for label in labels], labels, loc="center right", fontsize=8
    )

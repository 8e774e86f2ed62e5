"""Pictures of the comparison: error against evaluations, and the network's samples."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxinv as ji
from benchmarks.flows.methods import METHODS
from benchmarks.flows.problems import Problem, flux_grid

#: Color and line of a method: solid for rivals, thick for ours.
COLORS = {
    "euler": "#8a8f9c", "uni_inv": "#c8742c", "aidi": "#d9a520",
    "aidi_anderson": "#a05c20", "renoise": "#b5475b", "euler_exact": "#1a7f4e",
    "fireflow": "#8e5bb5", "fireflow_exact": "#4fae7c", "rf_solver": "#2c6fbb",
    "rf_solver_exact": "#0c4f30",
}  # fmt: skip
MARKERS = {True: "s", False: "o"}
#: Errors beyond are drawn at the edge.
WORST = 10.0


def errors(cells: dict[Any, Any], problems: list[str], guidances: Any) -> Figure:
    """Plot the median NMSE of the noise over evaluations, a line per method."""
    size = (4.2 * len(guidances) + 2.4, 3.7 * len(problems))
    figure = Figure(figsize=size, dpi=110)
    axes = figure.subplots(
        len(problems), len(guidances), sharex=True, sharey=True, squeeze=False
    )
    for row, problem in enumerate(problems):
        for column, guidance in enumerate(guidances):
            panel = axes[row, column]
            for name, method in METHODS.items():
                by_steps = {
                    steps: (np.median(found["evals"]), np.median(found["noise"]))
                    for (title, key, steps, scale), found in cells.items()
                    if (title, key, scale) == (problem, name, guidance)
                }
                if not by_steps:
                    continue
                evals, noise = np.transpose([by_steps[n] for n in sorted(by_steps)])
                panel.plot(
                    evals,
                    np.minimum(noise, WORST),
                    color=COLORS[name],
                    marker=MARKERS[method.ours],
                    markersize=5,
                    linewidth=2.4 if method.ours else 1.3,
                    label=method.title,
                )
            panel.set_xscale("log")
            panel.set_title(f"{problem}, guidance {guidance:g}")
            panel.grid(alpha=0.3, which="both")
            panel.set_xlabel("evaluations of the inversion")
        axes[row, 0].set_ylabel("noise NMSE (dB), median")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="center right", fontsize=9)
    figure.tight_layout(rect=(0, 0, 1 - 2.2 / size[0], 1))
    return figure


def samples(problem: Problem, guidances: Any, seed: int, steps: int = 28) -> Figure:
    """Return the network's samples, a row for each guidance, without smoothing."""
    noises = problem.noises(seed)
    sampler = ji.euler(flux_grid(steps))
    figure = Figure(figsize=(1.1 * len(noises), 1.2 * len(guidances)), dpi=110)
    axes = figure.subplots(len(guidances), len(noises), squeeze=False)
    for row, guidance in enumerate(guidances):
        for k, noise in enumerate(noises):
            image = ji.sample(sampler, problem.denoiser(k, guidance), noise)
            axes[row, k].imshow(np.clip((jax.device_get(image) + 1) / 2, 0, 1))
            axes[row, k].set_axis_off()
    figure.suptitle(
        f"{steps} steps of Euler, guidance {', '.join(f'{s:g}' for s in guidances)}",
        fontsize=9,
    )
    figure.tight_layout()
    return figure

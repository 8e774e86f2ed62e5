"""Pictures of the comparison: errors against model calls, and reconstructions."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxinv as ji
from benchmarks.flows.methods import METHODS, nmse_db
from benchmarks.flows.problems import Problem
from benchmarks.samples import PROMPTS

#: Color of a method.
COLORS = {
    "euler": "#8a8f9c", "uni_inv": "#c8742c", "aidi": "#d9a520",
    "aidi_anderson": "#a05c20", "renoise": "#b5475b", "euler_exact": "#1a7f4e",
    "fireflow": "#8e5bb5", "fireflow_exact": "#4fae7c", "rf_solver": "#2c6fbb",
    "rf_solver_exact": "#0c4f30",
}  # fmt: skip
#: Markers of exact and of other inversions.
MARKERS = {True: "s", False: "o"}
#: Lines whose numbers of steps are written, and where.
LABELS: dict[str, Any] = {
    "euler": {"xytext": (0, 6), "ha": "center"},
    "euler_exact": {"xytext": (0, -13), "ha": "center"},
}
#: Errors beyond are drawn at the edge.
WORST = 10.0
#: Inversions whose reconstructions are shown.
SHOWN = ("euler", "uni_inv", "fireflow", "rf_solver", "euler_exact")


def errors(cells: dict[Any, Any], problem: str) -> Figure:
    """Plot the median NMSE of the noise over evaluations, a line per method."""
    guidances = sorted({scale for title, *_, scale in cells if title == problem})
    size = (4.0 * len(guidances) + 2.3, 4.4)
    figure = Figure(figsize=size, dpi=110)
    axes = figure.subplots(1, len(guidances), sharex=True, sharey=True, squeeze=False)
    for panel, guidance in zip(axes[0], guidances, strict=True):
        for name, method in METHODS.items():
            by_steps = {
                steps: (np.median(found["evals"]), np.median(found["noise"]))
                for (title, key, steps, scale), found in cells.items()
                if (title, key, scale) == (problem, name, guidance)
            }
            if not by_steps:
                continue
            evals, noise = np.transpose([by_steps[n] for n in sorted(by_steps)])
            noise = np.minimum(noise, WORST)
            panel.plot(
                evals,
                noise,
                color=COLORS[name],
                marker=MARKERS[method.ours],
                markersize=5,
                linewidth=2.4 if method.ours else 1.3,
                label=method.title,
            )
            if name in LABELS:
                for steps, *place in zip(sorted(by_steps), evals, noise, strict=True):
                    panel.annotate(
                        f"{steps}",
                        place,
                        textcoords="offset points",
                        fontsize=7,
                        color=COLORS[name],
                        **LABELS[name],
                    )
        panel.set_xscale("log")
        panel.margins(x=0.12, y=0.08)
        panel.set_title(f"guidance {guidance:g}")
        panel.grid(alpha=0.3, which="both")
        panel.set_xlabel("model calls of the inversion")
    axes[0, 0].set_ylabel("error of the noise, NMSE in dB (0 is useless)")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="center right", fontsize=9)
    figure.suptitle(
        f"{problem}: how exactly is the noise recovered? Lower is better, "
        "left is cheaper (numbers: steps)",
        fontsize=11,
    )
    figure.tight_layout(rect=(0, 0, 1 - 2.1 / size[0], 1))
    return figure


def reconstructions(problem: Problem, steps: int, guidance: float, seed: int) -> Figure:
    """Show samples, and what sampling makes of the noises that inversions find."""
    assert problem.decode is not None
    decode, count = jax.jit(problem.decode), min(4, problem.shape[0])
    columns = ("sample", *(METHODS[name].title for name in SHOWN))
    figure = Figure(figsize=(1.5 * len(columns), 1.72 * count + 0.3), dpi=110)
    axes = figure.subplots(count, len(columns), squeeze=False)
    noises = problem.noises(seed)
    for k in range(count):
        denoise = problem.denoiser(k, guidance)
        for column, name in enumerate(("", *SHOWN)):
            method = METHODS[name or SHOWN[0]]
            grid = method.grid(problem, steps)
            sampler = method.make(grid)
            x0 = image = ji.sample(sampler, denoise, noises[k])
            title = columns[column] if k == 0 else ""
            if name:
                found = ji.invert(
                    sampler, denoise, x0, strategy=method.strategy(grid), verify=False
                )
                image = ji.sample(sampler, denoise, found.noise)
                title += f"\n{nmse_db(image, x0):.0f} dB"
            axes[k, column].imshow(jax.device_get(decode(image)))
            axes[k, column].set_title(title.strip(), fontsize=8)
            axes[k, column].set_axis_off()
    figure.tight_layout()
    return figure


def samples(problem: Problem, guidances: Any, seed: int, steps: int = 28) -> Figure:
    """Return the model's samples, a row for each guidance, without smoothing."""
    assert problem.decode is not None
    decode, noises = jax.jit(problem.decode), problem.noises(seed)
    sampler = ji.euler(problem.grid(steps))
    figure = Figure(figsize=(1.3 * len(noises), 1.4 * len(guidances) + 0.4), dpi=110)
    axes = figure.subplots(len(guidances), len(noises), squeeze=False)
    for row, guidance in enumerate(guidances):
        for k, noise in enumerate(noises):
            image = decode(ji.sample(sampler, problem.denoiser(k, guidance), noise))
            axes[row, k].imshow(jax.device_get(image))
            axes[row, k].set_axis_off()
            if row == 0:
                words = PROMPTS[k % len(PROMPTS)].replace(" on ", "\non ", 1)
                axes[row, k].set_title(words, fontsize=5.5)
    figure.suptitle(
        f"{steps} steps of Euler, guidance {', '.join(f'{s:g}' for s in guidances)}",
        fontsize=9,
    )
    figure.tight_layout()
    return figure

"""Plots of what :mod:`benchmarks.belm` measures."""

import argparse
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from jaxinv.plotting import save_figure

COLOURS = {
    "DDIM": "#8a8f9c",
    "2M": "#1f2430",
    "BDIA": "#c8742c",
    "BDIA(1)": "#e0a96d",
    "EDICT": "#8e5bb5",
    "O-BELM": "#2c6fbb",
    "O-BELM log-SNR": "#1a7f4e",
}
LINES = {"autodiff": ":", "checkpoint": "--", "reversible": "-"}


def quality(arguments: argparse.Namespace, found: dict[Any, Any]) -> str:
    """Distance to the converged solution over evaluations, a panel per guidance."""
    guidances = arguments.quality_guidance
    figure = Figure(figsize=(4.6 * len(guidances) + 1.4, 4.0), dpi=120)
    panels = figure.subplots(1, len(guidances), sharey=True, squeeze=False)[0]
    for axes, guidance in zip(panels, guidances, strict=True):
        for name, colour in COLOURS.items():
            line = sorted(
                (what[2], np.median(value["nmse_db"]))
                for what, value in found.items()
                if what[:2] == (name, guidance)
            )
            if line:
                axes.plot(*zip(*line, strict=True), "o-", color=colour, label=name)
        axes.set(xscale="log", xlabel="evaluations", title=f"guidance {guidance:g}")
        ticks = sorted({what[2] for what in found if what[0] in COLOURS})
        axes.set_xticks(ticks, map(str, ticks))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("NMSE to the converged solution (dB), median")
    panels[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return _save(arguments, figure, "quality", "distance against evaluations")


def memory(arguments: argparse.Namespace, found: dict[Any, Any]) -> str:
    """Memory of a gradient over the number of steps."""
    figure = Figure(figsize=(5.6, 4.0), dpi=120)
    axes = figure.subplots()
    for name in dict.fromkeys(what[0] for what in found):
        for way, style in LINES.items():
            line = sorted(
                (what[1], value["bytes"][way] / 2**20)
                for what, value in found.items()
                if what[0] == name
            )
            axes.plot(
                *zip(*line, strict=True),
                f"o{style}",
                color=COLOURS.get(name),
                label=f"{name}, {way}",
            )
    axes.set(xscale="log", yscale="log", xlabel="steps", ylabel="temporary memory, MiB")
    ticks = sorted({what[1] for what in found})
    axes.set_xticks(ticks, map(str, ticks))
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return _save(arguments, figure, "memory", "memory of a gradient")


def _save(arguments: argparse.Namespace, figure: Figure, name: str, title: str) -> str:
    """Save a plot beside the table; returns the Markdown that shows it."""
    path = arguments.out.with_name(f"{arguments.out.stem}-{name}.png")
    figure.tight_layout()
    save_figure(figure, path)
    return f"![{title}]({path.name})"

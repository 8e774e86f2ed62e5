"""Charts: residuals, spectra and confusion matrices."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from matplotlib.ticker import MaxNLocator

_COLORS = ("#2c6fbb", "#c8742c", "#1a7f4e", "#8e5bb5", "#b8a01f", "#b3362a", "#7a8194")


def residual_curves(
    curves: Mapping[str, Float[np.ndarray, "n"]],
    title: str,
    x_label: str = "step",
    y_label: str = "relative residual",
) -> Figure:
    """Plot curves over their index, on a logarithmic scale.

    Args:
        curves: The curves, by name; NaN and values that are not positive are omitted.
        title: Title of the figure.
        x_label: Label of the index.
        y_label: Label of the values.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(7.2, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    for k, (name, values) in enumerate(curves.items()):
        y = np.asarray(values, np.float64)
        y = np.where(y > 0, y, np.nan)
        color = _COLORS[k % len(_COLORS)]
        axes.plot(np.arange(len(y)), y, "-o", markersize=3, color=color, label=name)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=x_label, ylabel=y_label, title=title)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def spectra(
    noises: Mapping[str, Float[np.ndarray, "h w"]], radius: float, title: str
) -> Figure:
    """Plot moduli of Fourier coefficients around zero, with a circle around the key.

    Args:
        noises: One channel of each noise, by name.
        radius: Radius of the circle, in frequencies.
        title: Title of the figure.

    Returns:
        The figure.
    """
    count = len(noises)
    figure = Figure(figsize=(0.6 + 2.6 * count, 3.2), dpi=110, layout="constrained")
    axes = figure.subplots(1, count, squeeze=False)[0]
    for ax, (name, noise) in zip(axes, noises.items(), strict=True):
        moduli = np.abs(np.fft.fftshift(np.fft.fft2(np.asarray(noise), norm="ortho")))
        h, w = moduli.shape
        shown = ax.imshow(np.maximum(moduli, 0.05), norm=LogNorm(0.05, 5), cmap="magma")
        center = (w // 2, h // 2)
        ax.add_patch(Circle(center, radius + 0.5, fill=False, edgecolor="white"))
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, fontsize=9)
    figure.colorbar(shown, ax=list(axes), shrink=0.8, label="modulus")
    figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure


def confusion_matrices(
    matrices: Mapping[str, Int[np.ndarray, "k k"]], title: str
) -> Figure:
    """Plot the keys that were found (columns) in images with each key (rows).

    Args:
        matrices: Counts, by the name of the method.
        title: Title of the figure.

    Returns:
        The figure.
    """
    columns = min(3, len(matrices))
    rows = -(-len(matrices) // columns)
    figure = Figure(
        figsize=(0.4 + 2.5 * columns, 0.6 + 2.6 * rows), dpi=110, layout="constrained"
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes[len(matrices) :]:
        ax.set_axis_off()
    for ax, (name, counts) in zip(axes, matrices.items(), strict=False):
        counts = np.asarray(counts)
        shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        ax.imshow(shares, vmin=0, vmax=1, cmap="Blues")
        for i, j in np.ndindex(*counts.shape):
            ax.text(
                j,
                i,
                str(counts[i, j]),
                ha="center",
                va="center",
                color="white" if shares[i, j] > 0.5 else "#1f2430",
            )
        ticks = range(len(counts))
        ax.set(xticks=ticks, yticks=ticks, xlabel="found", ylabel="embedded")
        ax.set_title(name, fontsize=9)
    figure.suptitle(title, fontsize=11, fontweight="bold")
    return figure

"""Panels of images, noises and their differences."""

import io
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from jaxinv.files import open_atomically

_INK, _FAINT, _GOOD, _BAD = "#1f2430", "#7a8194", "#1a7f4e", "#b3362a"
_FONT = "DejaVu Sans"  # ships with matplotlib, so that figures are reproducible


class Tile(NamedTuple):
    """One picture in a panel.

    Attributes:
        picture: (h, w, 3) in [0, 1].
        title: Title of the picture.
        caption: A number below the picture; may be empty.
        good: Color of the caption: green for true, red for false, gray for None.
    """

    picture: Float[np.ndarray, "h w 3"]
    title: str
    caption: str = ""
    good: bool | None = None


class Row(NamedTuple):
    """One row of a panel.

    Attributes:
        label: Label to the left of the row.
        tiles: The pictures, None for an empty place.
    """

    label: str
    tiles: Sequence[Tile | None]


def latent_picture(
    latent: Float[np.ndarray, "h w c"], *, reach: float = 3.0
) -> Float[np.ndarray, "h w 3"]:
    """Show the first three channels of a latent as red, green and blue.

    Args:
        latent: A latent or a noise; the last channel is repeated if there are fewer
            than three.
        reach: The values ``-reach`` and ``reach`` become 0 and 1; by default three
            standard deviations of unit noise.

    Returns:
        A picture in [0, 1].
    """
    channels = np.minimum(np.arange(3), latent.shape[-1] - 1)
    values = np.asarray(latent, np.float64)[..., channels]
    return np.clip(np.nan_to_num(values) / (2 * reach) + 0.5, 0, 1)


def difference_picture(
    a: Float[np.ndarray, "h w c"], b: Float[np.ndarray, "h w c"], *, gain: float
) -> Float[np.ndarray, "h w 3"]:
    """Show a signed difference around gray.

    Args:
        a: An image or latent.
        b: Another image or latent of the same shape.
        gain: Factor of the difference; half the range is then white.

    Returns:
        A picture in [0, 1]; equal values are mid-gray, NaN is magenta.
    """
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    channels = np.minimum(np.arange(3), difference.shape[-1] - 1)
    shown = gain * difference[..., channels] / 2 + 0.5
    # NaN must not look like a difference of zero.
    magenta = np.array([1.0, 0.0, 1.0])
    return np.where(np.isfinite(shown), np.clip(shown, 0, 1), magenta)


def panel(rows: Sequence[Row], title: str, footnote: str = "") -> Figure:
    """Lay pictures out in rows, with captions.

    Args:
        rows: The rows, from the top.
        title: Title of the figure.
        footnote: Text at the bottom.

    Returns:
        The figure.
    """
    columns = max(len(row.tiles) for row in rows)
    tile, gap_x, gap_y = 1.55, 0.18, 0.62  # inches
    longest = max(len(line) for row in rows for line in f"{row.label}\n".split("\n"))
    left = max(1.25, 0.35 + 0.1 * longest) if longest else 0.2
    top, bottom = 0.95, 0.75 if footnote else 0.4
    width = left + columns * (tile + gap_x) + 0.1
    height = top + len(rows) * (tile + gap_y) - gap_y + bottom
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    # Dollar signs in prompts and file names do not denote mathematics.
    style: dict[str, Any] = {"family": _FONT, "color": _INK, "parse_math": False}
    figure.text(
        0.2 / width, 1 - 0.38 / height, title, fontsize=13, weight="bold", **style
    )
    for r, row in enumerate(rows):
        y = height - top - r * (tile + gap_y) - tile
        middle = (y + tile / 2) / height
        figure.text(
            0.2 / width, middle, row.label, fontsize=10, va="center", weight="bold",
            linespacing=1.4, **style,
        )  # fmt: skip
        for c, content in enumerate(row.tiles):
            if content is None:
                continue
            x = left + c * (tile + gap_x)
            axes = figure.add_axes((x / width, y / height, tile / width, tile / height))
            axes.imshow(np.asarray(content.picture), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set(color="#d5d9e2", linewidth=0.8)
            axes.set_title(content.title, fontsize=8.5, pad=4, **style)
            tone = {None: _FAINT, True: _GOOD, False: _BAD}[content.good]
            axes.set_xlabel(
                content.caption,
                fontsize=8.5,
                labelpad=4,
                family=_FONT,
                color=tone,
                parse_math=False,
            )
    if footnote:
        figure.text(
            0.2 / width,
            0.2 / height,
            footnote,
            fontsize=8,
            family=_FONT,
            color=_FAINT,
            parse_math=False,
        )
    return figure


def film_strip(
    pictures: Sequence[Float[np.ndarray, "h w 3"]],
    title: str,
    labels: Sequence[str] = (),
    *,
    frames: int = 8,
) -> Figure:
    """Lay out evenly spaced pictures of a sequence side by side, both ends included.

    Args:
        pictures: The sequence, such as a trajectory, in [0, 1].
        title: Title of the figure.
        labels: One label for each picture; by default the index.
        frames: Largest number of pictures to show.

    Returns:
        The figure.

    Raises:
        ValueError: If there are no pictures, or not one label for each.
    """
    if not len(pictures) or (labels and len(labels) != len(pictures)):
        raise ValueError(
            f"expected pictures and a label for each, got {len(pictures)} and "
            f"{len(labels)}"
        )
    chosen = np.unique(np.linspace(0, len(pictures) - 1, frames).round().astype(int))
    tiles = [
        Tile(np.asarray(pictures[k]), labels[k] if labels else str(k)) for k in chosen
    ]
    return panel([Row("", tiles)], title)


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure as a PNG file, atomically.

    Args:
        figure: The figure.
        path: Target file.

    Raises:
        OSError: If the file cannot be written.
    """
    encoded = io.BytesIO()
    figure.savefig(encoded, format="png")
    with open_atomically(path) as file:
        file.write(encoded.getvalue())

"""The figure of recovered watermarks: spectra of the noise, and of its error."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np

from benchmarks.papers.dpm.confusion import KEYS
from benchmarks.papers.dpm.watermark import Marked, spectrum
from benchmarks.papers.protocol import Cell, Found
from jaxinv import plotting

#: Modulus of an orthonormal spectrum that is shown in the brightest color.
BRIGHTEST = 2.5
#: Half of the side of the shown part around frequency zero, at most.
REACH = 11


def draw(found: Found, pairs: Sequence[tuple[Cell, Marked]]) -> Any:
    """Draw one row for each key: the mark, the image, and every method's spectrum."""
    setting, rows = found.setting, []
    for key in range(KEYS):
        here = [(cell, marked) for cell, marked in pairs if cell["key"] == key]
        if not here:
            continue
        made = here[0][1].made
        true = spectrum(made.noise)[..., 0]
        image = made.image / 255 if made.image.dtype == np.uint8 else made.image
        tiles: list[Any] = [
            plotting.Tile(_picture(true), "embedded"),
            plotting.Tile(np.clip(image, 0, 1), "image"),
        ]
        for cell, marked in here:
            plane = spectrum(marked.found)[..., 0]
            (one,) = found.of(**cell)[:1]
            caption = "" if one["nmae"] is None else f"NMAE {one['nmae']:.2f}"
            name = f"{cell['inverse']},\n{cell['decoder']}"
            tiles += [
                plotting.Tile(_picture(plane), name),
                plotting.Tile(_picture(plane - true), "error", caption),
            ]
        rows.append(plotting.Row(f"key {key + 1}", tiles))
    return plotting.panel(
        rows,
        f"Watermarks recovered on {setting.label}",
        "Moduli of the spectrum around frequency zero, one channel.",
    )


def _picture(plane: np.ndarray) -> np.ndarray:
    middle = len(plane) // 2
    part = slice(max(0, middle - REACH), middle + REACH + 1)
    shade = np.nan_to_num(np.abs(plane[part, part])) / BRIGHTEST
    return matplotlib.colormaps["viridis"](np.clip(shade, 0, 1))[..., :3]

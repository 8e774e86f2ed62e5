"""What a table of a paper is here: its rows, its measurement of one image, its text.

A :class:`Table` lists *cells* (the settings of its rows and columns) and measures one
image in one cell. The command (:mod:`benchmarks.papers.__main__`) takes every image
through all cells before the next image, and stores each result at once: an interrupted
run continues, and one that is stopped has equally many images in every cell.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.papers.setting import Setting

#: Setting of one cell by name: ``{"sampler": "DDIM", "steps": 50, "method": "naive"}``.
#: Values are text, numbers, booleans or None.
Cell = Mapping[str, Any]
#: What was measured of one image in one cell, by name; None where it is undefined.
Measures = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Found:
    """The results of one table on one model.

    Attributes:
        cells: The cells with their results, in the table's order: pairs of a cell and
            the measures of its images, in the order of the images.
        setting: The setting.
    """

    cells: Sequence[tuple[Cell, Sequence[Measures]]]
    setting: Setting

    def of(self, **values: Any) -> list[Measures]:
        """Return the measures of all cells that have these values."""
        return [
            measures
            for cell, found in self.cells
            if all(cell.get(name) == value for name, value in values.items())
            for measures in found
        ]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table or a figure of a paper.

    Attributes:
        name: On the command line, e.g. ``"dpm-table-1"``.
        where: In the paper, e.g. ``"Table 1"``.
        title: What it shows, in one line.
        images: Number of images behind every cell in the paper; None if it is not
            known.
        cells: Function of the setting that returns the cells: the paper's, and ours.
        measure: Function of a setting, a cell and the number of an image that returns
            what was measured. It is called for image 0 in all cells, then for image 1,
            and so on; what cells share (a latent, an inversion) can be stored with
            ``setting.shared``.
        show: Function of the results that returns Markdown: the table, with intervals
            and the number of images, and in words what else a reader must know.
        published: The paper's own results as Markdown, with their source; or a sentence
            that says what of them is not known here.
        remarks: What is not comparable, and why.
        options: Further arguments of the command for the models of the paper.
        models: Models of the paper, as ``--model`` takes them.
        refuse: Function of a pipeline that returns why the table cannot be measured on
            it, or None.
        fits: Function of a pipeline and a cell that returns whether the cell can be
            measured on it; the others are left out.
        draw: Function of the results that returns a figure, for tables with a picture.
    """

    name: str
    where: str
    title: str
    images: int | None
    cells: Callable[[Setting], Sequence[Cell]]
    measure: Callable[[Setting, Cell, int], Measures]
    show: Callable[[Found], str]
    published: str
    remarks: str
    options: str = ""
    models: tuple[str, ...] = ("stabilityai/stable-diffusion-2-1-base",)
    refuse: Callable[[Any], str | None] = lambda pipe: None
    fits: Callable[[Any, Cell], bool] = lambda pipe, cell: True
    draw: Callable[[Found], Any] | None = None

    def command(self, model: str) -> str:
        """Return the command that measures the table on a model."""
        options = f" {self.options}" if self.options else ""
        return f"python -m benchmarks.papers {self.name} --model {model}{options}"


def needs_prompts(pipe: Any) -> str | None:
    """Refuse models without text encoders."""
    return None if pipe.text_encoders else "it makes images without prompts"


def needs_autoencoder(pipe: Any) -> str | None:
    """Refuse models of pixels."""
    return None if pipe.vae is not None else "it has no autoencoder"


def chosen(cells: Sequence[Cell], only: Mapping[str, Sequence[str]]) -> list[Cell]:
    """Return the cells whose values are among the given ones.

    Args:
        cells: Cells of a table.
        only: Names of settings with the values wanted, as text.

    Raises:
        ValueError: For names or values that no cell has.
    """
    for name, values in only.items():
        known = {str(cell[name]) for cell in cells if name in cell}
        if not known:
            names = sorted({name for cell in cells for name in cell})
            raise ValueError(f"no cell has a {name!r}; cells have {', '.join(names)}")
        if unknown := sorted(set(values) - known):
            raise ValueError(
                f"no cell has {name}={', '.join(unknown)}; there are "
                f"{', '.join(sorted(known))}"
            )
    return [
        cell
        for cell in cells
        if all(str(cell.get(name)) in values for name, values in only.items())
    ]

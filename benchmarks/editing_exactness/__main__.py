"""Editing: what exactness of the inversion buys.

    python -m benchmarks.editing_exactness --data FOLDER

Placeholder.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.belm.setting import NO_DATA
from benchmarks.editing_exactness import tables
from benchmarks.editing_exactness.cells import Bench, Cell
from benchmarks.editing_exactness.setting import MODELS, Drawings
from benchmarks.report import (
    Kept,
    parse,
    parser,
)

#: Steps and guidance of the edits of generated pictures, by model, in their order.
EDITS = {
    "emoflow": (
        (20, 3.0), (8, 3.0), (4, 3.0), (8, 7.5), (20, 7.5), (10, 3.0), (20, 1.0),
    ),
    "emoji64": ((20, 3.0), (8, 3.0), (4, 3.0), (8, 7.5), (10, 3.0)),
}  # fmt: skip
#: Settings of emoji64 in which the published inversion, the costliest, is measured.
PUBLISHED = ((20, 3.0),)
#: Steps and guidance of chains and of drawings.
CHAINS = DRAWN = ((8, 3.0), (20, 3.0))


def plan() -> Iterator[Cell]:
    """Yield all cells, the most telling first."""
    yield from edits("emoflow", 0, 3)
    yield from edits("emoji64", 0, 2)
    for setting in CHAINS[:1]:
        yield from chain("emoflow", "far", *setting)
        yield from drawing("emoflow", *setting)
        yield from drawing("emoji64", *setting)
        yield from chain("emoji64", "far", *setting)
    yield from edits("emoflow", 3, 5)
    yield from edits("emoji64", 2, 3)
    yield from chain("emoflow", "same", *CHAINS[0])
    yield from chain("emoflow", "far", *CHAINS[1])
    yield from edits("emoflow", 5, None)
    yield from edits("emoji64", 3, None)
    for model in MODELS:
        yield from drawing(model, *DRAWN[1])


def edits(model: str, first: int, end: int | None) -> Iterator[Cell]:
    """Yield edits of generated pictures, for some of the settings."""
    for steps, guidance in EDITS[model][first:end]:
        costly = model == "emoji64" and (steps, guidance) not in PUBLISHED
        for kind in ("near", "far"):
            for inversion in tables.INVERSIONS:
                if not (costly and inversion == "published"):
                    yield Cell(model, "edit", kind, steps, guidance, inversion)


def chain(model: str, kind: str, steps: int, guidance: float) -> Iterator[Cell]:
    """Yield the chains of one setting."""
    for inversion in ("naive", "exact", "published"):
        if (model, inversion) != ("emoji64", "published"):
            yield Cell(model, "chain", kind, steps, guidance, inversion)


def drawing(model: str, steps: int, guidance: float) -> Iterator[Cell]:
    """Yield the edits of drawings of one setting."""
    for inversion in ("naive", "exact"):
        yield Cell(model, "drawing", "far", steps, guidance, inversion)


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments."""
    found = parser("editing_exactness", __doc__)
    add = found.add_argument
    add("--seed", type=int, default=0)
    add("--resume", type=Path, help="JSON lines to continue from")
    add("--report-only", action="store_true", help="measure nothing")
    add("--data", type=Path, help="folder of the packages of drawings")
    add("--pictures", type=int, default=16)
    arguments = parse(found, argv)
    if arguments.data is None and not arguments.report_only:
        found.error(NO_DATA)
    return arguments


def measure(cells: Sequence[Cell], kept: Kept, arguments: argparse.Namespace) -> None:
    """Measure what is not known yet, one sampler at a time."""
    models: dict[str, Any] = {}
    drawings = Drawings(arguments.data, arguments.pictures, arguments.seed)
    bench, last = None, None
    for cell in cells:
        wanted = [
            index
            for index in range(arguments.pictures)
            if (*cell, index) not in kept.found
        ]
        if not wanted:
            continue
        if cell.model not in models:
            models[cell.model] = MODELS[cell.model]()
        if bench is None or last != (cell.model, cell.steps):
            model = models[cell.model]
            bench = Bench(model, cell.steps, arguments.seed, drawings)
            last = cell.model, cell.steps
        for index in wanted:
            kept([*cell, index], functools.partial(bench.measure, cell, index))


def by_cell(kept: Kept, cells: Sequence[Cell]) -> dict[Cell, tables.Found]:
    """Return what is known of the cells, by picture."""
    found: dict[Cell, tables.Found] = {}
    for key, value in kept.found.items():
        cell = Cell(*key[:-1])
        if cell in cells:
            found.setdefault(cell, {})[key[-1]] = value
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the report."""
    arguments = arguments_of(argv)
    cells = list(plan())
    kept = Kept(arguments.resume, "cell", given=[arguments.seed])
    with jax.default_matmul_precision("highest"):
        if not arguments.report_only:
            measure(cells, kept, arguments)


if __name__ == "__main__":
    main()

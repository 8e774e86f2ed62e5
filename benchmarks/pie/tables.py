"""The tables of PIE-Bench: means with intervals, and how many pictures are behind them.

One rule for all means. A value that is undefined (a mask that covers the whole picture
or nothing of it), infinite (the PSNR of equal pictures) or of a cell that failed is
left out of the mean, and every mean says of how many pictures it is, where these are
not all of the row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.pie.inversions import INVERSIONS
from benchmarks.pie.layout import TYPES, Entry
from benchmarks.pie.metrics import METRICS
from benchmarks.pie.runs import UNEDITED, Setting
from benchmarks.report import interval, share, table

NO_WEIGHTS = "no weights"
HEADER = [
    "inversion + method",
    "pictures",
    *(metric.title for metric in METRICS.values()),
    "target preferred",
    "reconstruction, dB",
    "converged",
    "evaluations",
]


def mean(values: Sequence[float | None], factor: float = 1.0, digits: int = 1) -> str:
    """Return the mean of the values that are defined and finite, with its interval.

    >>> mean([1.0, 3.0, None, float("inf")])
    '2.0 (1.0 to 3.0) [2 of 4: 1 undefined, 1 infinite]'
    >>> mean([None])
    '- [0 of 1: 1 undefined]'
    >>> mean([1.0, float("nan")])
    '1.0 [1 of 2: 1 not a number]'
    """
    defined = [value for value in values if value is not None]
    finite = [factor * value for value in defined if np.isfinite(value)]
    broken = sum(map(np.isnan, defined))
    undefined = len(values) - len(defined)
    infinite = len(defined) - len(finite) - broken
    text = interval(finite, digits)
    if len(finite) == len(values):
        return text
    counts = [
        (undefined, "undefined"),
        (infinite, "infinite"),
        (broken, "not a number"),
    ]
    why = ", ".join(f"{count} {name}" for count, name in counts if count)
    return f"{text} [{len(finite)} of {len(values)}: {why}]"


def row(
    setting: Setting, cell: tuple[str, str], found: list[tuple[Entry, dict[str, Any]]]
) -> list[object]:
    """Return a row of a table.

    Args:
        setting: The runs.
        cell: Inversion and method.
        found: Its pictures with their results.
    """
    scores = [score for _, score in found if "fault" not in score]
    failed = len(found) - len(scores)
    counted = f"{len(scores)}, {failed} failed" if failed else len(scores)
    cells: list[object] = [title(cell), counted]
    for name, metric in METRICS.items():
        if name not in setting.measures:
            cells.append(NO_WEIGHTS)
            continue
        values = [score[name] for score in scores]
        cells.append(mean(values, metric.factor, metric.digits))
    cells.append(share(sum(score["gain"] > 0 for score in scores), len(scores)))
    if cell == UNEDITED or not scores:
        return [*cells, "-", "-", "-"]
    error = np.median([score["reconstruction"] for score in scores])
    return [
        *cells,
        f"{20 * np.log10(error):.0f}" if error else "exact",
        share(sum(score["converged"] for score in scores), len(scores)),
        f"{np.median([score['evals'] for score in scores]):.0f}",
    ]


def title(cell: tuple[str, str]) -> str:
    """Return a cell as text."""
    if cell == UNEDITED:
        return "not edited: the latent, decoded"
    inversion, method = cell
    return f"{inversion_title(inversion)} + {method.replace('_', ' ')}"


def inversion_title(name: str) -> str:
    """Return an inversion as text, with its guidance if its name has one.

    >>> inversion_title("exact_ddim@7.5")
    'exact DDIM at 7.5'
    """
    base, at, scale = name.partition("@")
    return INVERSIONS[base].title + (f" at {scale}" if at else "")


def sections(setting: Setting) -> str:
    """Return the table of all pictures, and one for each editing type."""
    kinds = sorted({entry.kind for entry in setting.entries})
    parts = [f"## All types\n\n{_of_kinds(setting, kinds)}"]
    parts += [
        f"## Type {kind}: {TYPES[kind]}\n\n{_of_kinds(setting, [kind])}"
        for kind in kinds
    ]
    return "\n\n".join(parts)


def _of_kinds(setting: Setting, kinds: list[str]) -> str:
    rows = []
    for cell in setting.cells():
        found = [pair for pair in setting.found(cell) if pair[0].kind in kinds]
        if found:
            rows.append(row(setting, cell, found))
    return table(HEADER, rows)


def faults(setting: Setting) -> str:
    """Return the section of what could not be used, or nothing."""
    lines = setting.faults + [
        score["fault"]
        for cell in setting.cells()
        for _, score in setting.found(cell)
        if "fault" in score
    ]
    if not lines:
        return "Nothing was left out and nothing failed."
    listed = "\n".join(f"* {line}" for line in lines)
    return f"Left out or failed, {len(lines)}:\n\n{listed}"

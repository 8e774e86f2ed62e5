"""Confusion matrices of watermarks, as a table and as a figure."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.papers.dpm.text import decibels
from benchmarks.papers.keys import INV_DPM
from benchmarks.papers.protocol import Found, Measures
from benchmarks.report import interval, share, table
from jaxinv import plotting

KEYS = len(INV_DPM)


def nearest(distances: Sequence[float | None]) -> int | None:
    """Return the number of the nearest key; None if no distance is finite."""
    known = [np.inf if value is None else value for value in distances]
    return int(np.argmin(known)) if np.isfinite(known).any() else None


def _by_method(found: Found) -> dict[str, list[tuple[int, Measures]]]:
    """Return keys and measures by method, in words."""
    groups: dict[str, list[tuple[int, Measures]]] = {}
    for cell, measures in found.cells:
        made = f"{cell['sampler']} {cell['steps']} {cell['grid']}"
        way = f"prompt {cell['prompt']}, {cell['disc']} disc"
        name = f"{made}, {way}: {cell['inverse']}, {cell['decoder']}"
        groups.setdefault(name, []).extend((cell["key"], one) for one in measures)
    return groups


def confusion(found: Sequence[tuple[int, Measures]], name: str) -> np.ndarray:
    """Return counts by the true key (rows) and the nearest one (columns)."""
    counts = np.zeros((KEYS, KEYS), int)
    for key, one in found:
        column = nearest(one[name])
        if column is not None:
            counts[key, column] += 1
    return counts


def show(found: Found) -> str:
    """Return the table: one row for each method, all keys together."""
    rows = []
    for name, group in _by_method(found).items():
        counts, true = (confusion(group, which) for which in ("distances", "true"))
        rows.append(
            [
                name,
                len(group),
                share(int(np.trace(counts)), len(group)),
                " / ".join(" ".join(map(str, row)) for row in counts),
                share(int(np.trace(true)), len(group)),
                interval([x["nmae"] for _, x in group], 3),
                decibels([x["noise"] for _, x in group]),
            ]
        )
    header = ["sampler, prompt, disc: inverse, decoder", "images", "right key"]
    header += ["confusion (rows: key)", "right key in the true noise", "NMAE in disc"]
    return (
        table([*header, "noise NMSE, dB"], rows)
        + """

The key is the one with the smallest mean modulus of the difference of spectra in its
mask, as published. *Published disc*: as in the authors' code, one row off the center,
where no real noise can contain a key exactly (`benchmarks/papers/keys.py`), so that the
first key can be nearer to another one even in the true noise; *centered*: the same
numbers around frequency zero."""
    )


def draw(found: Found) -> Any:
    """Draw the confusion matrix of every method."""
    return plotting.confusion_matrices(
        {
            name.replace(": ", ":\n").replace(", p", ",\np"): confusion(
                group, "distances"
            )
            for name, group in _by_method(found).items()
        },
        f"Keys found on {found.setting.label}",
    )

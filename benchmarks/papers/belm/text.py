"""How errors are written in BELM's tables."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from benchmarks.papers.protocol import Found
from benchmarks.report import table


def errors(values: Sequence[float | None]) -> str:
    """Return the mean of some squared errors with its interval; failures are counted.

    Args:
        values: One for each image; None or not finite where it failed.
    """
    known = np.array([v for v in values if v is not None and np.isfinite(v)])
    if not known.size:
        return f"failed for {len(values)} of {len(values)}" if values else "-"
    text = _short(float(np.mean(known)))
    if known.size > 1 and np.ptp(known) > 0:
        found = bootstrap(
            (known,), np.mean, method="percentile", rng=0, n_resamples=1000
        ).confidence_interval
        text += f" ({_short(found.low)} to {_short(found.high)})"
    lost = len(values) - known.size
    return f"{text}, failed for {lost} of {len(values)}" if lost else text


def _short(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"


def by_steps(found: Found, names: Sequence[str], measure: str) -> str:
    """Return a table of one measure: a row per setting, a column per steps.

    Args:
        found: The results.
        names: Settings of the cells that make a row.
        measure: Name of the measure.
    """
    steps = sorted({cell["steps"] for cell, _ in found.cells})
    rows: dict[tuple[Any, ...], dict[int, Sequence[Any]]] = {}
    for cell, measures in found.cells:
        values = [one[measure] for one in measures if measure in one]
        if values:
            row = rows.setdefault(tuple(cell[name] for name in names), {})
            row[cell["steps"]] = values
    header = [*names, "images", *(f"{n} steps" for n in steps)]
    return table(
        header,
        [
            [
                *key,
                counts({len(values) for values in row.values()}),
                *(errors(row[n]) if n in row else "-" for n in steps),
            ]
            for key, row in rows.items()
        ],
    )


def counts(numbers: set[int]) -> str:
    """Return a number of images, or the smallest and the largest."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"

"""How results of round trips are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.papers.protocol import Found, Measures
from benchmarks.report import interval, share, table

#: A noise that is nearer than this, in dB, is called recovered.
RECOVERED = -40.0
#: Below it, an NMSE in float32 is rounding.
LEAST = 1e-14


def decibels(values: Sequence[float | None]) -> str:
    """Return the mean NMSE in dB, with its interval; failures are counted."""
    known = [value for value in values if value is not None]
    lost = len(values) - len(known)
    # Two images of 8 bits can be equal.
    exact = known and not np.any(known)
    text = "exact" if exact else interval(known, 1, _db_of_mean)
    return f"{text}, {lost} of {len(values)} not finite" if lost else text


def _db_of_mean(values: Any, axis: int) -> Any:
    return 10 * np.log10(np.maximum(np.mean(values, axis), LEAST))


def recovered(found: Sequence[Measures]) -> str:
    """Return the share of images whose noise was recovered."""
    limit = 10 ** (RECOVERED / 10)
    hits = sum(one["noise"] is not None and one["noise"] <= limit for one in found)
    return share(hits, len(found))


def round_trips(found: Found, columns: Mapping[str, str]) -> str:
    """Return the table of round trips.

    Args:
        found: The results.
        columns: Settings of the cells to show, with their titles.
    """
    header = [*columns.values(), "images", "noise NMSE, dB", "image NMSE, dB"]
    header += ["noise recovered", "evaluations", "seconds"]
    rows = []
    for cell, measures in found.cells:
        row = [_shown(cell[name]) for name in columns]
        row += [len(measures)]
        row += [decibels([x[name] for x in measures]) for name in ("noise", "image")]
        row += [recovered(measures)]
        row += [
            f"{np.median([x['evals'] for x in measures]):.0f}",
            f"{np.median([x['seconds'] for x in measures]):.1f}",
        ]
        rows.append(row)
    return (
        table(header, rows)
        + f"""

NMSE is the mean over the images, in dB, as in the authors' code; in brackets, 95 % by
bootstrap. *Recovered*: share of noises at {RECOVERED:.0f} dB or better, with Wilson's
interval. Evaluations and seconds of the inversion are medians; the first image's
seconds include compiling, and the machine had other work."""
    )


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

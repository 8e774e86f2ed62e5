"""Statistics, tables and pictures of the comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benchmarks.editing_exactness.cells import LINKS, Cell
from benchmarks.report import share, table
from benchmarks.samples import CONVERGED_DB

#: What was found of a cell's pictures, by index.
Found = dict[int, dict[str, Any]]
#: Resamples of a bootstrap.
RESAMPLES = 4000
INVERSIONS = ("naive", "published", "exact", "truth")
COLORS = dict(
    zip(INVERSIONS, ("#8a8f9c", "#c8742c", "#1a7f4e", "#2c6fbb"), strict=True)
)
TITLES = {"emoji64": "emoji64, 2M", "emoflow": "small SD3, Euler"}


class Difference(NamedTuple):
    """Median of paired differences with a 95 % interval (bootstrap of the pairs).

    Attributes:
        middle: The median.
        low: Lower end of the interval.
        high: Upper end.
        pairs: Number of pairs.
    """

    middle: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        """Return the median with its interval; bold if it excludes 0."""
        if not self.pairs:
            return "-"
        text = f"{self.middle:+.1f} ({self.low:+.1f} to {self.high:+.1f})"
        return f"**{text}**" if self.low > 0 or self.high < 0 else text


def difference(pairs: Sequence[tuple[float, float]], seed: int = 0) -> Difference:
    """Return the median of the second less the first of some pairs.

    Args:
        pairs: Figures of the same picture; an infinite one counts as it is.
        seed: Of the bootstrap.
    """
    if not pairs:
        return Difference(np.nan, np.nan, np.nan, 0)
    first, second = np.asarray(pairs, float).T
    gap = np.clip(second - first, -1e3, 1e3)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(gap), size=(RESAMPLES, len(gap)))
    low, high = np.percentile(np.median(gap[drawn], axis=1), (2.5, 97.5))
    return Difference(float(np.median(gap)), float(low), float(high), len(gap))


def paired(first: Found, second: Found, name: str) -> Difference:
    """Return the difference of a figure that both have, over the same pictures."""
    both = sorted(first.keys() & second.keys())
    values = [(first[k].get(name), second[k].get(name)) for k in both]
    return difference([(a, b) for a, b in values if a is not None and b is not None])


def middle(found: Found, name: str, form: str = ".1f") -> str:
    """Return median and quartiles of a figure, and of how many if not of all."""
    values = [v for each in found.values() if (v := each.get(name)) is not None]
    if not values:
        return "-"
    low, mid, high = np.percentile(values, (25, 50, 75))
    text = f"{mid:{form}} ({low:{form}} to {high:{form}})"
    return text if len(values) == len(found) else f"{text} [{len(values)}]"


def preferred(found: Found) -> str:
    """Return the share of pictures for which the model prefers the target."""
    gains = [gain for each in found.values() if (gain := each.get("gain")) is not None]
    return share(sum(gain > 0 for gain in gains), len(found))


def returned(found: Found) -> str:
    """Return the number of pictures that come back to -80 dB or better."""
    known = [each["round_trip"] for each in found.values() if "round_trip" in each]
    good = sum(value <= CONVERGED_DB for value in known)
    return f"{good} of {len(known)}" if known else "-"


def groups(cells: Iterable[Cell], what: str) -> list[Cell]:
    """Return one cell, of the exact inversion, for each group of a kind."""
    found = {c._replace(inversion="exact") for c in cells if c.what == what}
    return sorted(found, key=lambda c: (c.model, c.steps, c.guidance, c.kind))


def edits(found: dict[Cell, Found], what: str) -> str:
    """Return the table of edits: every inversion of every group."""
    rows = []
    for group in groups(found, what):
        for inversion in INVERSIONS:
            cell = group._replace(inversion=inversion)
            if cell not in found:
                continue
            here = found[cell]
            rows.append(
                [
                    f"{TITLES[cell.model]}; {cell.steps} steps, guidance "
                    f"{cell.guidance:g}, {cell.kind}",
                    inversion,
                    len(here),
                    middle(here, "round_trip"),
                    *([middle(here, "noise")] if what == "edit" else []),
                    middle(here, "background"),
                    preferred(here),
                    *([middle(here, "to_truth")] if what == "edit" else []),
                    returned(here),
                    middle(here, "evals", ".0f").split(" ")[0],
                ]
            )
    header = ["setting", "inversion", "pictures", "round trip, dB"]
    header += ["noise, dB"] if what == "edit" else []
    header += ["background PSNR, dB", "target preferred"]
    header += ["to the edit of the true noise, dB"] if what == "edit" else []
    return table([*header, "come back", "evaluations"], rows)


def differences(found: dict[Cell, Found], what: str, rival: str = "naive") -> str:
    """Return the table of paired differences between exact and another inversion."""
    rows = []
    for group in groups(found, what):
        other = group._replace(inversion=rival)
        if other not in found or group not in found:
            continue
        pair = found[other], found[group]
        background = paired(*pair, "background")
        row: list[Any] = [
            f"{TITLES[group.model]}; {group.steps} steps, guidance "
            f"{group.guidance:g}, {group.kind}",
            background.pairs,
            background,
            _gains(*pair),
            paired(*pair, "round_trip"),
        ]
        row += [paired(*pair, "to_truth")] if what == "edit" else []
        rows.append(row)
    header = ["setting", "pairs", "background PSNR", "target preferred by one alone"]
    header += ["round trip"]
    header += ["to the edit of the true noise"] if what == "edit" else []
    return table(header, rows)


def _gains(first: Found, second: Found) -> str:
    """Return how often only the second, and only the first, is preferred as target."""
    both = first.keys() & second.keys()
    wins = [
        ((second[k].get("gain") or 0) > 0, (first[k].get("gain") or 0) > 0)
        for k in both
    ]
    gained, lost = (sum(pair == way for pair in wins) for way in _ONE_ALONE)
    return f"{gained} exact, {lost} other"


_ONE_ALONE = ((True, False), (False, True))


def chains(found: dict[Cell, Found]) -> str:
    """Return the table of chains: distances and backgrounds after every edit."""
    rows = []
    for group in groups(found, "chain"):
        for inversion in INVERSIONS:
            cell = group._replace(inversion=inversion)
            if cell not in found:
                continue
            here = found[cell]
            # Every second picture shows the first prompt again.
            back = range(LINKS) if cell.kind == "same" else range(1, LINKS, 2)
            rows.append(
                [
                    f"{TITLES[cell.model]}; {cell.steps} steps, guidance "
                    f"{cell.guidance:g}, {cell.kind}",
                    inversion,
                    len(here),
                    " / ".join(_at(here, "distance", k) for k in back),
                    " / ".join(_at(here, "background", k) for k in range(LINKS)),
                    middle(here, "evals", ".0f").split(" ")[0],
                ]
            )
    header = [
        "setting", "inversion", "pictures", "to the first picture, dB",
        "background PSNR after each edit, dB", "evaluations",
    ]  # fmt: skip
    return table(header, rows)


def _last(found: Found) -> Found:
    """Return the figures after the last edit of chains."""
    names = ("distance", "background")
    return {k: {name: each[name][-1] for name in names} for k, each in found.items()}


def _at(found: Found, name: str, link: int) -> str:
    values = [each[name][link] for each in found.values()]
    known = [value for value in values if value is not None]
    return f"{np.median(known):.1f}" if known else "-"


def chain_differences(found: dict[Cell, Found]) -> str:
    """Return paired differences at the end of the chains, exact less naive."""
    rows = []
    for group in groups(found, "chain"):
        naive = group._replace(inversion="naive")
        if naive not in found or group not in found:
            continue
        first, second = (_last(found[cell]) for cell in (naive, group))
        distance, kept = (
            paired(first, second, name) for name in ("distance", "background")
        )
        rows.append(
            [
                f"{TITLES[group.model]}; {group.steps} steps, guidance "
                f"{group.guidance:g}, {group.kind}",
                distance.pairs,
                distance,
                kept,
            ]
        )
    return table("setting|pairs|to the first picture, dB|background PSNR, dB", rows)


def drift(found: dict[Cell, Found]) -> Figure:
    """Plot the distance to the first picture over the edits of the chains."""
    panels = [
        group
        for group in groups(found, "chain")
        if {group, group._replace(inversion="naive")} <= found.keys()
    ]
    figure = Figure(figsize=(4.0 * max(len(panels), 1) + 0.6, 3.8), dpi=110)
    axes = figure.subplots(1, max(len(panels), 1), sharey=True, squeeze=False)[0]
    for panel, group in zip(axes, panels, strict=False):
        for inversion in INVERSIONS:
            here = found.get(group._replace(inversion=inversion))
            if not here:
                continue
            links = np.arange(LINKS) if group.kind == "same" else np.arange(1, LINKS, 2)
            values = np.array([each["distance"] for each in here.values()])[:, links]
            low, mid, high = np.percentile(values, (25, 50, 75), axis=0)
            color = COLORS[inversion]
            panel.plot(
                links + 1,
                mid,
                color=color,
                marker="o",
                label=f"{inversion}, {len(here)} pictures",
            )
            panel.fill_between(links + 1, low, high, color=color, alpha=0.2, lw=0)
        what = "reconstructed" if group.kind == "same" else "there and back"
        panel.set_title(
            f"{TITLES[group.model]}\n{group.steps} steps, guidance "
            f"{group.guidance:g}, {what}",
            fontsize=9,
        )
        panel.set_xticks(range(1, LINKS + 1))
        panel.set_xlabel("edits")
        panel.legend(fontsize=8)
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("to the first picture, NMSE in dB")
    figure.tight_layout()
    return figure


def gains(found: dict[Cell, Found]) -> Figure:
    """Plot the paired differences of background PSNR, exact less naive."""
    cells = [
        group
        for what in ("edit", "drawing")
        for group in groups(found, what)
        if {group, group._replace(inversion="naive")} <= found.keys()
    ]
    figure = Figure(figsize=(7.5, 0.26 * len(cells) + 1.2), dpi=110)
    axes = figure.subplots()
    for place, group in enumerate(cells):
        naive = found[group._replace(inversion="naive")]
        gap = paired(naive, found[group], "background")
        color = COLORS["exact"] if group.model == "emoji64" else COLORS["truth"]
        axes.plot([gap.low, gap.high], [place, place], color=color, lw=2)
        axes.plot(gap.middle, place, "o", color=color)
    names = [
        f"{TITLES[g.model]}, {g.steps} steps, guidance {g.guidance:g}, "
        f"{'drawing' if g.what == 'drawing' else g.kind}"
        for g in cells
    ]
    axes.set_yticks(range(len(cells)), names, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="#888888", lw=0.8)
    axes.grid(alpha=0.3, axis="x")
    axes.set_xlabel("background PSNR, exact less naive, dB")
    figure.tight_layout()
    return figure

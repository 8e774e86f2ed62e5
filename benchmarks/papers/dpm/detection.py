"""Detection of every published pattern, mask and channel: marked against unmarked."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import mannwhitneyu

from benchmarks.papers.dpm.reconstruction import (
    COMMAND,
    FAST,
    GUIDANCE,
    NOT_FOUND,
    OTHERS,
    cell_of,
)
from benchmarks.papers.dpm.round_trip import fits, invert, latent_of, make
from benchmarks.papers.dpm.watermark import methods_of
from benchmarks.papers.dpm.watermark_tables import SMALL
from benchmarks.papers.keys import CONST, PATTERNS, RADIUS, PublishedKey, published_key
from benchmarks.papers.protocol import Cell, Found, Measures, Table, needs_prompts
from benchmarks.papers.setting import Setting
from benchmarks.report import share, table

MARKS = (
    *((pattern, "circle", 0) for pattern in PATTERNS),
    ("ring", "square", 0),
    ("ring", "circle", -1),
    ("zeros", "circle", -1),
)


def _cells(setting: Setting) -> Sequence[Cell]:
    return [
        cell_of(FAST, GUIDANCE, inverse, FAST[2], decoder)
        | {"pattern": pattern, "mask": mask, "channel": channel}
        for pattern, mask, channel in MARKS
        for inverse, decoder in methods_of(FAST)
    ]


def key_of(setting: Setting, cell: Cell) -> PublishedKey:
    """Return the key of a cell."""
    shape = setting.pipe.latent_shape
    return published_key(
        cell["pattern"],
        setting.key("detection"),
        shape,
        radius=min(RADIUS, shape[0] // 2 - 1),
        square=cell["mask"] == "square",
        channel=cell["channel"],
        const=CONST,
    )


def measure(setting: Setting, cell: Cell, index: int) -> Measures:
    """Return the distances of an image with the mark, and of the same without it."""
    key, noise = key_of(setting, cell), setting.noise(index)
    mark = tuple(cell[name] for name in ("pattern", "mask", "channel"))
    found = _recovered(setting, cell, index, key.embed(noise), mark)
    plain = setting.shared(
        ("image", "plain", cell["inverse"], cell["decoder"]),
        lambda: _recovered(setting, cell, index, noise, ()),
    )
    distances = {"marked": key.distance(found), "unmarked": key.distance(plain)}
    return {name: float(np.nan_to_num(x, nan=1e9)) for name, x in distances.items()}


def _recovered(
    setting: Setting, cell: Cell, index: int, noise: Any, mark: tuple[Any, ...]
) -> Any:
    prompt = setting.prompt(index)
    made = setting.shared(
        ("image", "made", *mark), lambda: make(setting, cell, noise, prompt)
    )
    latent = setting.shared(
        ("image", "latent", cell["decoder"], *mark),
        lambda: latent_of(setting, made, cell["decoder"]),
    )
    return invert(setting, cell, latent, prompt, cell["guidance"]).noise


def _show(found: Found) -> str:
    rows = []
    for cell, measures in found.cells:
        marked, unmarked = (
            np.array([one[name] for one in measures]) for name in ("marked", "unmarked")
        )
        auc = 1 - mannwhitneyu(marked, unmarked).statistic / len(marked) ** 2
        channel = "all" if cell["channel"] < 0 else cell["channel"]
        rows.append(
            [
                f"{cell['pattern']}, {cell['mask']}, channel {channel}",
                f"{cell['inverse']}, {cell['decoder']}",
                len(measures),
                f"{np.median(marked):.3f}",
                f"{np.median(unmarked):.3f}",
                share(int(np.sum(marked < unmarked)), len(marked)),
                f"{auc:.2f}",
            ]
        )
    header = "mark|inverse, decoder|images|distance, marked|unmarked|nearer than the "
    return (
        table(header + "same unmarked|AUC", rows)
        + """

Distances are the published measure, in orthonormal spectra (the authors' are larger by
the side of the latent); medians. AUC by distance, marked against unmarked images."""
    )


DETECTION = (
    Table(
        "dpm-detection",
        "Patterns of the authors' watermark code (not a table of the paper that we "
        "know)",
        "detection of every published pattern, mask and channel",
        None,
        _cells,
        measure,
        _show,
        f"""{NOT_FOUND} Their code has these patterns and masks
(`src/utils/optim_utils.py`); its experiments use rings in a circle of channel 0.""",
        f"{OTHERS} {SMALL} The constant of *const* is 0 by default in the code, which "
        "is *zeros*; ours is the strength of the published rings, 80.",
        options=COMMAND,
        refuse=needs_prompts,
        fits=fits,
    ),
)

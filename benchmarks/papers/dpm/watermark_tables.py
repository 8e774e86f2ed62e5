"""The paper's tables of watermarks."""

from typing import Any

from benchmarks.papers.dpm import confusion, spectra
from benchmarks.papers.dpm.reconstruction import COMMAND, NOT_FOUND, OTHERS
from benchmarks.papers.dpm.round_trip import fits
from benchmarks.papers.dpm.watermark import cells_of, figure_cells, first, measure
from benchmarks.papers.protocol import Found, Table, needs_prompts

PUBLISHED_NMAE = """NMAE printed in the figure (in the authors' repository,
`scripts/fig4.png`), one image for each key:

| key | naive | naive with decoder inversion | Algorithm 2 |
|---|---:|---:|---:|
| first row | 0.24 | 0.21 | 0.14 |
| second row | 0.28 | 0.25 | 0.17 |
| third row | 0.26 | 0.24 | 0.12 |"""
SMALL = """Their disc has radius 6 of 64; on smaller latents the same six rings (fewer
if they do not fit) are a larger part of the spectrum, and of the noise."""


def _draw_spectra(found: Found) -> Any:
    pairs = [(cell, first(found.setting, cell)) for cell, _ in found.cells]
    return spectra.draw(found, pairs)


WATERMARK = (
    Table(
        "dpm-figure-4",
        "Figure 4",
        "spectra of recovered Tree-Ring watermarks, and their errors",
        None,
        figure_cells,
        measure,
        confusion.show,
        PUBLISHED_NMAE,
        f"{OTHERS} {SMALL} The definition of NMAE was not found here; ours is the sum "
        "of moduli of the difference in the disc over the sum of moduli.",
        options="--prompts FILE --images 1",
        refuse=needs_prompts,
        fits=fits,
        draw=_draw_spectra,
    ),
    Table(
        "dpm-watermark",
        "Classification of three watermarks (number of the table not found here)",
        "which of three published keys an image was made with",
        100,
        cells_of,
        measure,
        confusion.show,
        f"""{NOT_FOUND} The authors' README says that 100 prompts were used, each with
three keys; the confusion matrix there (6 4 0 / 1 9 0 / 0 0 10) is an example of the
output's format.""",
        f"{OTHERS} {SMALL}",
        options=COMMAND,
        refuse=needs_prompts,
        fits=fits,
        draw=confusion.draw,
    ),
)

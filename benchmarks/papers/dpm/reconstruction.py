"""Tables of round trips: the paper's Figure 2, and its errors by setting."""

import itertools
from collections.abc import Sequence
from typing import Any

from benchmarks.papers.dpm.pictures import reconstructions
from benchmarks.papers.dpm.round_trip import fits, measure
from benchmarks.papers.dpm.text import round_trips
from benchmarks.papers.protocol import Cell, Found, Table
from benchmarks.papers.setting import Setting

#: Of the authors' code.
GUIDANCE = 3.0
#: What made the images: sampler, grid, steps. "linspace" is the authors' grid.
DDIM, FAST = ("DDIM", "linspace", 50), ("2M", "linspace", 10)
REGULAR = ("2M", "log_snr", 20)
COMMAND = "--prompts FILE --images 100"
NOT_FOUND = """The paper's tables could not be read here, so their numbers are not
found here."""
PROJECT = "The project page (smhongok.github.io/inv-dpm.html) says"
OTHERS = """The paper's images are 512 x 512 from Stable Diffusion 2.1-base, with the
prompts of Gustavosta/Stable-Diffusion-Prompts, and its pixel model is another."""
STOPPING = """Algorithm 1 stops at a sum of squares of 1e-3, which is a looser bar on a
small latent than on one of 64 x 64: relative to the state it is 16 times higher at
16 x 16."""


def cell_of(
    made: tuple[str, str, int],
    guidance: float,
    inverse: str,
    inverse_steps: int,
    decoder: str,
) -> dict[str, Any]:
    """Return a cell of round trips."""
    sampler, grid, steps = made
    return {
        "sampler": sampler,
        "grid": grid,
        "steps": steps,
        "guidance": guidance,
        "inverse": inverse,
        "inverse_steps": inverse_steps,
        "decoder": decoder,
    }


def _by_setting(setting: Setting) -> Sequence[Cell]:
    cells = []
    for made, guidance in itertools.product((DDIM, FAST, REGULAR), (3.0, 1.0, 7.5)):
        published = ("algorithm 1",) if made == DDIM else ("algorithm 2",)
        for inverse in ("naive", *published, "ours"):
            cells.append(cell_of(made, guidance, inverse, made[2], "none"))
    gradient = "algorithm 1, gradient"
    return [*cells, cell_of(DDIM, GUIDANCE, gradient, DDIM[2], "none")]


def _figure_2(setting: Setting) -> Sequence[Cell]:
    rows = (
        (DDIM, "naive", 1000),
        (DDIM, "algorithm 1", 50),
        (DDIM, "ours", 50),
        (FAST, "naive", 1000),
        (FAST, "algorithm 1", 50),
        (FAST, "algorithm 2", 10),
        (FAST, "ours", 10),
    )
    return [
        cell_of(made, GUIDANCE, inverse, steps, decoder)
        for decoder in ("gradient", "none")
        for made, inverse, steps in rows
    ]


def _orders(setting: Setting) -> Sequence[Cell]:
    cells = []
    for sampler, steps in itertools.product(("DDIM", "2M"), (10, 50)):
        made = (sampler, "linspace", steps)
        for inverse, count in itertools.product(("naive", "algorithm 1"), (10, 50)):
            cells.append(cell_of(made, GUIDANCE, inverse, count, "none"))
        cells.append(cell_of(made, GUIDANCE, "algorithm 2", 10, "none"))
        cells.append(cell_of(made, GUIDANCE, "ours", steps, "none"))
    return cells


def _decoders(setting: Setting) -> Sequence[Cell]:
    pairs = ((DDIM, "algorithm 1"), (FAST, "algorithm 2"), (REGULAR, "algorithm 2"))
    return [
        cell_of(made, GUIDANCE, inverse, made[2], decoder)
        for made, published in pairs
        for inverse in ("naive", published, "ours")
        for decoder in ("encoder", "gradient", "ours", "none")
    ]


MADE = {"sampler": "sampler", "grid": "grid", "steps": "steps"}
WAY = {"inverse": "inverse", "inverse_steps": "its steps"}
DECODER = {"decoder": "decoder inversion"}


def _show_by_setting(found: Found) -> str:
    return round_trips(found, MADE | {"guidance": "guidance", "inverse": "inverse"})


def _show(found: Found) -> str:
    return round_trips(found, MADE | WAY | DECODER)


def _show_orders(found: Found) -> str:
    return round_trips(found, MADE | WAY)


RECONSTRUCTION = (
    Table(
        "dpm-table-1",
        "Reconstruction (number of the table not found here)",
        "errors of noise and image by sampler, steps, guidance and inverse",
        None,
        _by_setting,
        measure,
        _show_by_setting,
        f"""{NOT_FOUND} {PROJECT} that their algorithms "significantly
reduce reconstruction errors, whether it's for images or noise, DDIM or high-order
DPM-solvers, or pixel-space DPM or Stable Diffusion".""",
        f"{OTHERS} {STOPPING} The latent is inverted as it was sampled, without a "
        "decoder; `dpm-decoder` has the decoders. The authors' code and script "
        "(`scripts/run_reconstruction.sh`) have 100 images, guidance 3, 50 "
        "steps of DDIM and 10 of 2M; the other settings are ours.",
        options=COMMAND,
        fits=fits,
    ),
    Table(
        "dpm-figure-2",
        "Figure 2",
        "reconstructions of image and noise by what made the image and its inverse",
        None,
        _figure_2,
        measure,
        _show,
        """The figure (in the authors' repository, `scripts/fig2.png`) has the rows of
the table below without *ours*, and pictures without numbers. As we see
them: with Algorithm 1 the errors of DDIM vanish on the pixel model and are small on
Stable Diffusion; with
Algorithm 2 those of 2M are smaller than with Algorithm 1 on 50 steps, and these than
with naive inversion of 1000 steps.""",
        f"{OTHERS} {STOPPING} On models of pixels there is no decoder and no rounding "
        "to 8 bits.",
        options=COMMAND,
        fits=fits,
        draw=reconstructions,
    ),
    Table(
        "dpm-orders",
        "Sampler and inverse of other orders and steps (number not found here)",
        "what happens if the inverse does not know order and steps of the sampler",
        None,
        _orders,
        measure,
        _show_orders,
        f"""{NOT_FOUND} The authors' script (`scripts/run_reconstruction.sh`) has 2M
with 10 steps inverted by naive inversion and Algorithm 1 on 50 steps, and by Algorithm
2 on 10, 100 images each; their README has these options.""",
        f"{OTHERS} {STOPPING}",
        options=COMMAND,
        fits=fits,
    ),
    Table(
        "dpm-decoder",
        "With and without decoder inversion (number not found here)",
        "errors with the encoder, the paper's decoder inversion, ours, and none needed",
        None,
        _decoders,
        measure,
        _show,
        f"""{NOT_FOUND} The authors' code has the option `--wo_decoder_inv`, the
encoder in place of the decoder's inversion; its script has 100 images.""",
        OTHERS,
        options=COMMAND,
        fits=fits,
    ),
)

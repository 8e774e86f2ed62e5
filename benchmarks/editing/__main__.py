"""Editing: what is kept of a picture, and what the prompt changes in it.

    python -m benchmarks.editing --data FOLDER

Held-out emoji, which no part of the model has seen, are given another background (the
object is to be kept) or become another object (the background is to be kept): inverted
with their own caption, sampled with another, by naive DDIM inversion, by exact DDIM
inversion, and by O-BELM; with and without a mask that keeps the inverted states. With
``--resume FILE`` an interrupted run continues where it was.
"""

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

from benchmarks.belm.setting import NO_DATA
from benchmarks.editing.runs import GUIDANCE, KINDS, METHODS, Run, Setting, plan
from benchmarks.report import parse, parser, provenance, save, share, table
from jaxinv import plotting


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    found = parser("editing", __doc__, model=True)
    add = found.add_argument
    add("--report-only", action="store_true", help="measure nothing")
    add("--data", type=Path, help="folder of the packages of drawings")
    add("--pictures", type=int, default=20)
    add("--shown", type=int, default=3, help="pictures in the panel, of each kind")
    add("--steps", type=int, default=50)
    arguments = parse(found, argv)
    if arguments.data is None:
        found.error(NO_DATA)
    return arguments


def spread(cells: list[dict[str, float]], name: str, form: str) -> str:
    """Median and quartiles."""
    low, middle, high = np.percentile([cell[name] for cell in cells], (25, 50, 75))
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def section(setting: Setting, kind: str) -> str:
    """Return the table of one kind of edits."""
    rows = []
    for method in METHODS:
        for masked in (False, True):
            cells = [
                found
                for run, found in setting.found.items()
                if (run.kind, run.method, run.masked) == (kind, method, masked)
                and run.index < setting.arguments.pictures
            ]
            if not cells:
                continue
            row = [
                f"{method}{', mask' if masked else ''}",
                len(cells),
                spread(cells, "kept_psnr", ".1f"),
                spread(cells, "kept_ssim", ".3f"),
                spread(cells, "changed_rms", ".2f"),
                share(sum(cell["gain"] > 0 for cell in cells), len(cells)),
            ]
            if kind == "background":
                row.append(spread(cells, "colour_after", ".2f"))
            row += [
                f"{np.mean([cell['converged'] for cell in cells]):.0%}",
                f"{np.median([cell['evals'] for cell in cells]):.0f}",
            ]
            rows.append(row)
    header = ["method", "pictures", "kept: PSNR, dB", "SSIM", "changed: RMS"]
    header.append("target preferred")
    if kind == "background":
        header.append("colour, RMS off")
    header += ["converged", "evaluations"]
    any_cells = [
        found
        for run, found in setting.found.items()
        if run.kind == kind and run.index < setting.arguments.pictures
    ]
    ceiling = spread(any_cells, "ceiling_psnr", ".1f")
    ceiling_ssim = spread(any_cells, "ceiling_ssim", ".3f")
    text = f"""Of the latent as it was, without any edit, the kept part is at
{ceiling} dB, SSIM {ceiling_ssim}: the autoencoder's limit on drawings that it has not
seen."""
    if kind == "background":
        text += " The colour was off by " + spread(any_cells, "colour_before", ".2f")
        text += " before the edit."
    title = {
        "background": "Another background, the object kept",
        "object": "Another object, the background kept",
    }[kind]
    return f"## {title}\n\n{table(header, rows)}\n\n{text}"


def pictures(setting: Setting) -> Figure:
    """Draw some edits of either kind, side by side."""
    rows = []
    for kind in KINDS:
        for index in range(setting.arguments.shown):
            task = setting.task(kind, index)
            shown = setting.pixels(task.mask)[..., None]
            tiles = [
                plotting.Tile(task.image / 255, textwrap.fill(task.source, 26)),
                plotting.Tile(np.where(shown, 1.0, 0.3) * (task.image / 255), "mask"),
            ]
            for method in METHODS:
                for masked in (False, True):
                    run = Run(kind, method, masked, index)
                    picture, edit = setting.edited(run)
                    found = setting.score(run, picture, edit)
                    name = f"{method}{', mask' if masked else ''}"
                    kept = f"kept {found['kept_psnr']:.1f} dB"
                    tiles.append(plotting.Tile(picture, name, kept))
            rows.append(plotting.Row("to:\n" + textwrap.fill(task.target, 15), tiles))
    return plotting.panel(
        rows,
        "Held-out emoji, edited",
        "Bright in the mask: what may change. PSNR of the kept part, against the "
        "original picture.",
    )


def main(argv: Sequence[str] | None = None) -> None:
    arguments = arguments_of(argv)
    setting = Setting(arguments)
    panel = Path(f"{arguments.out.with_suffix('')}-panel.png")
    with jax.default_matmul_precision("highest"):
        if not arguments.report_only:
            setting.measure(plan(arguments))
            plotting.save_figure(pictures(setting), panel)
    sections = "\n\n".join(section(setting, kind) for kind in KINDS)
    text = f"""# Editing on {arguments.model}

{provenance(arguments.command, arguments.model)}

Float32, seed {arguments.seed}, {arguments.steps} steps
on the default grid, guidance {GUIDANCE:g} for both prompts; latents from the
inverted decoder (`anderson`). Medians, quartiles in brackets; all runs, converged or
not. The mask is the drawing's own outline, not one that was found. *Kept* and
*changed*: the part outside and inside of the mask, against the original picture, also
where the mask was not used. *Target preferred*: share of edits after which the model
itself, which made them, predicts noise better with the target prompt than with the
source prompt (95 % intervals, Wilson). *Evaluations*: of the inversion; sampling takes
{arguments.steps} more.

{sections}

![Edits]({panel.name})
"""
    save(arguments.out, text)


if __name__ == "__main__":
    main()

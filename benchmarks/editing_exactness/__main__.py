"""Editing: what exactness of the inversion buys.

    python -m benchmarks.editing_exactness --data FOLDER

A picture is inverted with its own prompt, and its noise is sampled with another prompt
that names another object: a *near* one (red heart, blue heart) or a *far* one (red
heart, pizza), on the same background. Sampler, steps and guidance are those of the
picture. Nothing is masked, and no attention is shared. Two models, each with three
inversions:

* *emoji64* with DPM-Solver++(2M) on its default grid: naive DDIM inversion; Algorithm 2
  as published, whose equations are solved by Anderson acceleration (20 iterations);
  exact, the library's default, within 300 evaluations.
* The *small SD3* of `python -m benchmarks.flows` with Euler's method on uniform times:
  Euler backward, as naive; Uni-Inv, as published; exact, within 300 evaluations.

*Truth* is the edit of the noise that the picture was made of, which an inversion should
find. Pictures are *generated*, so that it is known, or *drawings* that no part of the
models has seen (`python -m benchmarks.editing`), with latents from the inverted
decoder. A *chain* edits its own results: to the far object, back, and there and back
again, with an inversion each time; or it reconstructs four times.

* *Round trip*: NMSE of the latent that the noise gives with the picture's own prompt;
  pictures *come back* if it is at most -80 dB.
* *Noise*: NMSE of the noise.
* *To the edit of the true noise*: NMSE of the edited latent.
* *Background PSNR*: edited against unedited, both decoded, where the picture has the
  color of its frame (RMS below 0.15); of drawings, outside of the outline. Where an
  edit puts its new object counts for all inversions alike. Pictures with less than a
  tenth of such pixels have no such figure.
* *Target preferred*: share of edits after which the model itself, without guidance,
  predicts better with the target prompt than with the source prompt.
* *Evaluations*: of the inversion, without sampling; those that a baseline spends on
  measuring its residuals are counted.

Medians with quartiles in brackets, shares with 95 % intervals (Wilson). Differences
are medians over pictures of exact less naive, with 95 % intervals of 4000 bootstrap
resamples of the pictures, bold where they exclude 0; no correction for the number of
rows.
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
from benchmarks.editing_exactness.cells import DRAWS, Bench, Cell
from benchmarks.editing_exactness.setting import MAX_EVALS, MODELS, Drawings
from benchmarks.flows.problems import EMOFLOW
from benchmarks.report import Kept, body, parse, parser, provenance, save
from benchmarks.samples import files_of, weights_of
from jaxinv.plotting import save_figure

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


#: What the tables below say, of seed 0.
FINDINGS = """\
It buys that edits can be undone. It does not buy better single edits in general.

* **Chains: much.** On the small SD3 with 8 steps and guidance 3, editing there and back
  returns the first picture at -100 dB after an exact inversion each time, and at -93 dB
  after the second time; naive inversion is at -5 dB both times, Uni-Inv at -15 and
  -11 dB. It costs 296 evaluations for four edits instead of 64.
* **The edit of the true noise: always, where the noise is unique.** With 8 and 20 steps
  all pictures of all cells come back, and the edits are those of the true noise at
  about -100 dB. Naive edits are other ones (medians of -2 to -13 dB). But another edit
  need not be a worse one:
* **Background of generated pictures: it depends on the model and the sampler.** On
  emoji64 exact inversion keeps 4 to 5 dB more with 8 steps, and 1 to 1.5 dB with 20
  (one of those two intervals touches 0). On the small SD3 near edits do not differ, and
  far edits at guidance 3 keep 0.7 to 3.1 dB *less* than naive ones, as the edits of the
  true noise do with 8 and 20 steps.
* **Background of drawings: no difference found** on either model with 8 steps
  (-0.6 and -2.9 dB, both intervals include 0).
* **Target preferred: a little, with few steps.** Wherever only one of the two edits is
  preferred as the target, it is the exact one: in 1 to 3 of 16 pictures in six of the
  eight cells with 4 or 8 steps, and never with 20 steps or on drawings.
* **Higher guidance does not change that**: 7.5 on the small SD3 with 8 steps.
* **Published inversions suffice for single edits with 20 steps**: Uni-Inv and Algorithm
  2 are within 0.1 dB of the exact one in background, with the same targets. They do not
  come back (-33 and -47 dB).
* **With 4 steps exactness fails in part.** On the small SD3 half of the pictures come
  back within 300 evaluations. The median noise is off by -10 dB: steps that large have
  several preimages, and the edit of another noise is another edit."""


def plan() -> Iterator[Cell]:
    """Yield all cells, the most telling first."""
    yield from edits("emoflow", 0, 3)
    yield from edits("emoji64", 0, 2)
    yield from chain("emoflow", "far", *CHAINS[0])
    yield from drawing("emoflow", *DRAWN[0])
    yield from edits("emoflow", 3, 4)
    yield from drawing("emoji64", *DRAWN[0])
    yield from chain("emoflow", "same", *CHAINS[0])
    yield from edits("emoflow", 4, 5)
    yield from chain("emoji64", "far", *CHAINS[0])
    yield from edits("emoji64", 2, 3)
    yield from chain("emoflow", "far", *CHAINS[1])
    yield from edits("emoflow", 5, None)
    yield from edits("emoji64", 3, None)
    for model in ("emoflow", "emoji64"):
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


def given(seed: int) -> list[Any]:
    """Return what all results depend on."""
    return [seed, weights_of("emoji64"), files_of(EMOFLOW), MAX_EVALS, DRAWS]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the report."""
    arguments = arguments_of(argv)
    cells = list(plan())
    kept = Kept(arguments.resume, "cell", given=given(arguments.seed))
    with jax.default_matmul_precision("highest"):
        if not arguments.report_only:
            measure(cells, kept, arguments)
    found = by_cell(kept, cells)
    stem = arguments.out.with_suffix("")
    pictures = {"gains": tables.gains(found), "drift": tables.drift(found)}
    for name, figure in pictures.items():
        save_figure(figure, Path(f"{stem}-{name}.png"))
    save(arguments.out, report(arguments, found, stem.name))


def report(
    arguments: argparse.Namespace, found: dict[Cell, tables.Found], stem: str
) -> str:
    """Return the report."""
    return f"""# What exactness of the inversion buys in editing

{provenance(arguments.command, "emoji64")} Float32, seed {arguments.seed}.
Measured with `--data FOLDER`, and cut off in the order of the plan: the last line says
what is missing.

{body(__doc__)}

## What comes out

{FINDINGS}

## One edit of generated pictures, exact less naive

{tables.differences(found, "edit")}

![Background PSNR, exact less naive]({stem}-gains.png)

## One edit of generated pictures, exact less published

{tables.differences(found, "edit", "published")}

## Chains of edits

Distances are those of the pictures of the first prompt: after the second and the fourth
edit, or after every reconstruction.

{tables.chains(found)}

After the last edit, exact less naive:

{tables.chain_differences(found)}

![Distance to the first picture]({stem}-drift.png)

## Drawings, exact less naive

{tables.differences(found, "drawing")}

{tables.edits(found, "drawing")}

## All edits of generated pictures

{tables.edits(found, "edit")}

{missing(found, arguments.pictures)}
"""


def missing(found: dict[Cell, tables.Found], pictures: int) -> str:
    """Return what was planned and not measured, or measured on fewer pictures."""
    groups: dict[str, None] = {}
    for cell in plan():
        if len(found.get(cell, {})) < pictures:
            where = f"{tables.TITLES[cell.model]}, {cell.what}, {cell.kind}"
            groups[f"{where}, {cell.steps} steps, guidance {cell.guidance:g}"] = None
    if not groups:
        return f"All cells have {pictures} pictures."
    return f"Planned, and not run on all {pictures} pictures: {'; '.join(groups)}."


if __name__ == "__main__":
    main()

"""Bidirectional samplers: their order, their exactness, their quality.

    python -m benchmarks.belm --data package

Six sections, any of which can be asked for by ``--sections``: the orders of the
samplers on a problem with a known solution (``order``); real pictures turned into noise
and back (``round_trip``); the distance to the converged solution at equal evaluations
(``quality``) and the Frechet distance to the training set (``frechet``); gradients
whose memory does not depend on the number of steps (``gradients``); and pictures
(``pictures``). With ``--resume FILE`` an interrupted run continues where it was. The
defaults take an hour and a half on two CPU cores; on a GPU add ``--frechet-samples 2000
--frechet-training 10000 --frechet-evaluations 20 50 100``.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.belm import frechet, gradients, order, pictures, quality, round_trip
from benchmarks.belm.setting import NO_DATA, Setting, data_folder
from benchmarks.report import Kept, parse, parser, provenance, save
from benchmarks.samples import default_batch

#: Each has ``TITLE``, ``cells``, ``measure`` and ``report``.
SECTIONS: dict[str, Any] = {
    "order": order,
    "round_trip": round_trip,
    "quality": quality,
    "gradients": gradients,
    "pictures": pictures,
    "frechet": frechet,
}
#: Those of real pictures; the contact sheet does without.
NEED_DATA = ("round_trip", "pictures", "frechet")


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    found = parser("belm", __doc__, model=True)
    add = found.add_argument
    add("--report-only", action="store_true", help="measure nothing")
    add("--data", type=Path, help="folder of the packages of drawings")
    add("--sections", nargs="+", choices=SECTIONS, default=[*SECTIONS])
    add("--batch", type=int, default=default_batch())
    for section in SECTIONS.values():
        section.add_arguments(found.add_argument_group(section.TITLE))
    return parse(found, argv)


def planned(name: str, arguments: argparse.Namespace) -> list[tuple[Any, ...]]:
    """Return the cells of a section, without those that lack their pictures."""
    cells = SECTIONS[name].cells(arguments)
    if data_folder(arguments) is not None or name not in NEED_DATA:
        return cells
    return [what for what in cells if what[0] == "contact sheet"]


def read_kept(name: str, arguments: argparse.Namespace) -> Kept:
    """Return what was measured of a section before, and is still there."""
    given = {"section": name, "model": arguments.model, "seed": arguments.seed}
    kept = Kept(arguments.resume, "what", **given)
    for what, found in list(kept.found.items()):
        if not (arguments.out.parent / found.get("file", "")).exists():
            del kept.found[what]
    return kept


def report(name: str, arguments: argparse.Namespace, kept: Kept) -> str:
    """Return a section as Markdown."""
    section, cells = SECTIONS[name], planned(name, arguments)
    chosen = {what: kept.found[what] for what in cells if what in kept.found}
    lacking = [" ".join(map(str, what)) for what in cells if what not in kept.found]
    parts = [f"## {section.TITLE}"]
    if chosen:
        parts.append(section.report(arguments, chosen))
    if lacking:
        parts.append(f"Planned and not measured: {'; '.join(lacking)}.")
    if len(cells) < len(section.cells(arguments)):
        parts.append(NO_DATA)
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = arguments_of(argv)
    kept = {name: read_kept(name, arguments) for name in arguments.sections}
    setting = Setting(arguments)
    # Accelerators may compute float32 products with ten bits; exactness needs all.
    with jax.default_matmul_precision("highest"):
        for name in () if arguments.report_only else arguments.sections:
            for what in planned(name, arguments):
                found, measure = kept[name].found, SECTIONS[name].measure
                kept[name](what, lambda: measure(setting, what, found))  # noqa: B023
    parts = (report(name, arguments, kept[name]) for name in arguments.sections)
    text = f"""# Bidirectional samplers on {arguments.model}

{provenance(arguments.command, arguments.model)}

Float32 unless it says otherwise, seed {arguments.seed},
grids uniform in log-SNR. NMSE is `|x - reference|^2 / |reference|^2` in dB, median and
worst of the samples. One evaluation is one call of the model for one sample (both
branches, with guidance). BDIA has gamma = 0.96 and EDICT p = 0.93, unless they say
otherwise.

{(chr(10) * 2).join(parts)}
"""
    save(arguments.out, text)


if __name__ == "__main__":
    main()

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
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.belm import frechet, gradients, order, pictures, quality, round_trip
from benchmarks.belm.setting import NO_DATA, Cell, Setting, data_folder
from benchmarks.report import RESULTS, provenance, save
from benchmarks.samples import append_line, default_batch, read_lines

#: Each has ``TITLE``, ``NEEDS_DATA``, ``cells``, ``measure`` and ``report``. In the
#: order in which they are measured: what a time limit cuts off comes last.
SECTIONS: dict[str, Any] = {
    "order": order,
    "round_trip": round_trip,
    "quality": quality,
    "gradients": gradients,
    "pictures": pictures,
    "frechet": frechet,
}
Found = dict[tuple[str, tuple[Any, ...]], dict[str, Any]]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="emoji64")
    add("--data", type=Path, help="the unpacked emoji package, for real pictures")
    add("--sections", nargs="+", choices=SECTIONS, default=[*SECTIONS])
    add("--seed", type=int, default=0)
    add("--batch", type=int, default=default_batch())
    add("--minutes", type=float, default=90.0, help="begin nothing that takes longer")
    add(
        "--speed",
        type=float,
        default=1.0 if jax.default_backend() == "cpu" else 50.0,
        help="of this machine, to plan with; 1 is two CPU cores",
    )
    add("--plan", action="store_true", help="print the plan and stop")
    add("--report", action="store_true", help="measure nothing, write what is there")
    add("--out", type=Path, default=RESULTS / "belm.md")
    add("--resume", type=Path, help="JSON lines to continue from")
    for section in SECTIONS.values():
        section.add_arguments(parser.add_argument_group(section.TITLE))
    arguments = parser.parse_args(argv)
    arguments.command = "python -m benchmarks.belm"
    if argv:
        arguments.command += " " + shlex.join(argv)
    return arguments


def planned(arguments: argparse.Namespace) -> list[Cell]:
    """The cells of the chosen sections, without those that lack their pictures."""
    data = data_folder(arguments) is not None
    return [
        cell._replace(seconds=cell.seconds / arguments.speed)
        for name, section in SECTIONS.items()
        if name in arguments.sections
        for cell in section.cells(arguments)
        if data or not section.needs_data(cell.what)
    ]


def read_found(arguments: argparse.Namespace) -> Found:
    """What was measured before, with the same model and seed, and is still there."""
    same = arguments.model, arguments.seed
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    return {
        (line["section"], _hashable(line["what"])): line["found"]
        for line in read_lines(arguments.resume)
        if (line["model"], line["seed"]) == same
        and (arguments.out.parent / line["found"].get("file", "")).exists()
    }


def _hashable(what: Any) -> Any:
    return tuple(map(_hashable, what)) if isinstance(what, list) else what


def print_plan(arguments: argparse.Namespace, cells: Sequence[Cell]) -> None:
    """Minutes by section, of what is left to do."""
    for name in arguments.sections:
        own = [cell for cell in cells if cell.section == name]
        minutes = sum(cell.seconds for cell in own) / 60
        print(f"{name:>10}: {len(own):3d} cells, about {minutes:5.1f} minutes")
    total = sum(cell.seconds for cell in cells) / 60
    print(f"{'together':>10}: {len(cells):3d} cells, about {total:5.1f} minutes, of at")
    print(f"{'':>12}most {arguments.minutes:g}", flush=True)
    if data_folder(arguments) is None:
        print(f"without real pictures. {NO_DATA}", flush=True)


def run(setting: Setting, cells: Sequence[Cell], found: Found) -> None:
    """Measure the cells, as many as there is time for."""
    arguments, began = setting.arguments, time.monotonic()
    for cell in cells:
        elapsed = time.monotonic() - began
        label = f"{cell.section} {' '.join(map(str, cell.what))}"
        if elapsed + cell.seconds > 60 * arguments.minutes:
            print(f"{elapsed:5.0f} s: no time for {label}", flush=True)
            continue
        outcome = SECTIONS[cell.section].measure(setting, cell.what, found)
        found[cell.section, cell.what] = outcome
        line = {
            "section": cell.section,
            "what": cell.what,
            "model": arguments.model,
            "seed": arguments.seed,
            "found": outcome,
        }
        append_line(arguments.resume, line)
        shown = json.dumps(outcome)
        shown = shown if len(shown) < 200 else shown[:197] + "..."
        took = time.monotonic() - began - elapsed
        print(f"{elapsed + took:5.0f} s: {label}: {shown} ({took:.0f} s)", flush=True)


def report(arguments: argparse.Namespace, cells: Sequence[Cell], found: Found) -> str:
    """The sections as Markdown."""
    parts = []
    for name, section in SECTIONS.items():
        if name not in arguments.sections:
            continue
        measured = {what: value for (own, what), value in found.items() if own == name}
        own = [cell for cell in cells if cell.section == name]
        chosen = {c.what: measured[c.what] for c in own if c.what in measured}
        lacking = [
            " ".join(map(str, cell.what)) for cell in own if cell.what not in measured
        ]
        parts.append(f"## {section.TITLE}")
        if chosen:
            parts.append(section.report(arguments, chosen))
        if lacking:
            parts.append(f"Planned and not measured: {'; '.join(lacking)}.")
        if data_folder(arguments) is None and any(
            section.needs_data(cell.what) for cell in section.cells(arguments)
        ):
            parts.append(NO_DATA)
    return "\n\n".join(parts)


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse(sys.argv[1:] if argv is None else argv)
    cells, found = planned(arguments), read_found(arguments)
    todo = [cell for cell in cells if (cell.section, cell.what) not in found]
    print_plan(arguments, todo)
    if arguments.plan:
        return
    setting = Setting(arguments)
    # Accelerators may compute float32 products with ten bits; exactness needs all.
    with jax.default_matmul_precision("highest"):
        if not arguments.report:
            run(setting, todo, found)
    text = f"""# Bidirectional samplers on {arguments.model}

{provenance(arguments.command)} Float32 unless it says otherwise, seed {arguments.seed},
grids uniform in log-SNR. NMSE is `|x - reference|^2 / |reference|^2` in dB, median and
worst of the samples. One evaluation is one call of the model for one sample (both
branches, with guidance). BDIA has gamma = 0.96 and EDICT p = 0.93, unless they say
otherwise.

{report(arguments, cells, found)}
"""
    save(arguments.out, text)


if __name__ == "__main__":
    main()

"""The papers' tables, each as one command.

    python -m benchmarks.papers list
    python -m benchmarks.papers dpm-table-1 --model emoji64 --images 20
    python -m benchmarks.papers dpm-table-1 --prompts FILE --images 100 \
        --model stabilityai/stable-diffusion-2-1-base
    python -m benchmarks.papers report

Every result is stored when it is measured, in results/papers/TABLE-MODEL.jsonl: the
same command continues an interrupted run, and measures nothing twice.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax

from benchmarks.papers import belm, decoder, dpm
from benchmarks.papers.collect import report
from benchmarks.papers.protocol import Found, Table, chosen
from benchmarks.papers.setting import Setting, read_prompts
from benchmarks.papers.store import Store
from benchmarks.report import RESULTS, provenance, save
from benchmarks.samples import PROMPTS
from jaxinv import plotting

FOLDER = RESULTS / "papers"
TABLES: dict[str, Table] = {
    table.name: table for paper in (dpm, decoder, belm) for table in paper.TABLES
}
METRICS = ("inception", "clip", "lpips")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        "python -m benchmarks.papers", description=(__doc__ or "").splitlines()[0]
    )
    add = found.add_argument
    add("table", choices=[*TABLES, "list", "report"], metavar="TABLE")
    add(
        "--model",
        default="emoji64",
        help="what ji.load takes, tiny-sdxl, or sd-autoencoders",
    )
    add("--images", type=int, default=8, help="number of images in every cell")
    add("--prompts", type=Path, help="file with one prompt in each line")
    add("--seed", type=int, default=0)
    add("--only", nargs="+", default=[], metavar="NAME=VALUE[,VALUE]",
        help="measure these cells only, e.g. steps=10,50 sampler=DDIM")  # fmt: skip
    add("--minutes", type=float, help="begin no further image after so long")
    add("--data", type=Path, help="folder of the packages of drawings")
    for name in METRICS:
        add(f"--{name}", type=Path, help=f"folder of local weights for {name}")
    add("--out", type=Path, default=FOLDER, help="folder of the results")
    return found


def setting_of(arguments: argparse.Namespace) -> Setting:
    """Return the setting that the arguments describe."""
    prompts = PROMPTS if arguments.prompts is None else read_prompts(arguments.prompts)
    folders = {name: getattr(arguments, name) for name in METRICS}
    return Setting(
        arguments.model,
        prompts,
        arguments.seed,
        arguments.data,
        folders={name: path for name, path in folders.items() if path is not None},
    )


def measure(
    table: Table,
    setting: Setting,
    store: Store,
    images: int,
    only: Sequence[str] = (),
    minutes: float | None = None,
) -> Found:
    """Measure what is missing of a table and return its results.

    Raises:
        ValueError: If the model or a choice of cells does not fit the table.
    """
    if why := table.refuse(setting.pipe):
        raise ValueError(f"{table.name} cannot be measured on {setting.label}: {why}")
    wanted = dict(text.split("=", 1) for text in only if "=" in text)
    if len(wanted) != len(only):
        raise ValueError(f"expected NAME=VALUE[,VALUE], got {' '.join(only)}")
    values = {name: text.split(",") for name, text in wanted.items()}
    cells, began = chosen(table.cells(setting), values), time.monotonic()
    cells = [cell for cell in cells if table.fits(setting.pipe, cell)]
    with jax.default_matmul_precision("highest"):
        for index in range(images):
            if minutes is not None and time.monotonic() - began > 60 * minutes:
                break
            for cell in cells:
                store(cell, index, lambda c=cell, k=index: table.measure(setting, c, k))
            setting.forget_image()
    return store.found(table, setting)


def command_of(arguments: argparse.Namespace, words: Sequence[str]) -> str:
    """Return the command line without the names of private folders."""
    private = {getattr(arguments, name) for name in ("data", "out", *METRICS)}
    shown = []
    for word in map(str, words):
        option, equals, value = word.rpartition("=")
        hidden = Path(value) in private
        shown.append(f"{option}{equals}FOLDER" if hidden else word)
    return shlex.join(["python", "-m", "benchmarks.papers", *shown])


def main(argv: Sequence[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    if arguments.table == "list":
        for table in TABLES.values():
            print(f"{table.name:24} {table.where}: {table.title}")
        return
    if arguments.table == "report":
        save(RESULTS / "papers.md", report(tuple(TABLES.values()), arguments.out))
        return
    table, setting = TABLES[arguments.table], setting_of(arguments)
    command = command_of(arguments, sys.argv[1:] if argv is None else argv)
    store = Store.of(table, setting, arguments.out, command)
    found = measure(
        table, setting, store, arguments.images, arguments.only, arguments.minutes
    )
    if table.draw is not None:
        plotting.save_figure(table.draw(found), store.path.with_suffix(".png"))
    print(
        f"{table.where}: {table.title}\n\n{provenance(command)}\n\n{table.show(found)}"
    )


if __name__ == "__main__":
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")

"""Measure what full-size programs take to compile, and how much memory they need.

    python -m benchmarks.full_size --models sdxl --dtype float32
    python -m benchmarks.full_size --models flux_dev --devices 2

Models are made of shapes alone, so that no weights are needed and nothing runs.
Programs are compiled for this machine, without the cache of earlier ones. *Trace* is
Python's part, from the call to XLA's input. *Memory* is XLA's report for the device
named in each section: parameters, and everything else of one image of 1024x1024 pixels.
*TFLOP* are XLA's operations of one call. Of a loop XLA counts one step: an inversion's
loops are its walk and those of its certificate, and stacked blocks are a loop, too.

A run replaces the sections of its models and leaves the others as they are.
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax

from benchmarks.full_size import flux, sdxl
from benchmarks.full_size.measure import HEADER, Program, row
from benchmarks.report import body, parse, parser, provenance, save, table

MODELS: dict[str, Any] = {**sdxl.MODELS, **flux.MODELS}


def programs(name: str, dtype: Any) -> Iterator[Program]:
    """Return the programs of a model in one data type."""
    kind = sdxl if name in sdxl.MODELS else flux
    return kind.programs(MODELS[name], dtype)


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Return the arguments."""
    found = parser("full_size", __doc__)
    found.add_argument("--models", nargs="+", choices=MODELS, default=["sdxl"])
    dtypes = ["float32", "bfloat16"]
    found.add_argument("--dtype", nargs="+", choices=dtypes, default=dtypes)
    found.add_argument(
        "--devices", type=int, default=1, help="virtual CPUs, 2 for divided parameters"
    )
    return parse(found, argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the report."""
    arguments = arguments_of(argv)
    if arguments.devices > 1:
        jax.config.update("jax_num_cpu_devices", arguments.devices)
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    sections = read_sections(arguments.out)
    try:
        for name in arguments.models:
            rows = [
                row(program, dtype)
                for dtype in arguments.dtype
                for program in programs(name, dtype)
            ]
            made = provenance(arguments.command)
            sections[name] = f"{made}\n\n{table(HEADER, rows)}"
            save(arguments.out, report(sections))
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def report(sections: dict[str, str]) -> str:
    """Return the report."""
    notes = dict.fromkeys(flux.MODELS, f"{flux.NOTE}\n\n")
    texts = [f"## {k}\n\n{notes.get(k, '')}{text}" for k, text in sections.items()]
    return "\n\n".join(["# Full-size programs", body(__doc__), *texts]) + "\n"


def read_sections(file: Path) -> dict[str, str]:
    """Return the sections of an earlier report by model, without their notes."""
    if not file.exists():
        return {}
    parts = re.split(r"^## (\w+)\n\n", file.read_text(), flags=re.MULTILINE)[1:]
    found = dict(zip(parts[::2], map(str.strip, parts[1::2]), strict=True))
    return {k: text.removeprefix(flux.NOTE).strip() for k, text in found.items()}


if __name__ == "__main__":
    main()

"""Measure the CPU time of commands, with programs of an earlier run and without.

    python -m benchmarks.starting_time

CPU time is that of the process, user and system: it depends less on what else runs than
the time on the clock does. With ``off`` no programs are kept, as by JAX itself.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.report import body, parse, parser, provenance, save, table

PROMPT = "red heart on a light blue background"
HEADER = (
    "command | programs kept | CPU, s | of it system, s | on the clock, s | "
    "programs | of them compiled"
)
# What JAX logs of every program, compiled or found.
_PROGRAM = "Finished XLA compilation of"


def measured(arguments: tuple[str, ...], programs: str) -> tuple[float, float, float]:
    """CPU seconds, those of the system, and seconds on the clock of one command."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    _run(arguments, programs, {})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    system = after.ru_stime - before.ru_stime
    total = after.ru_utime - before.ru_utime + system
    return total, system, time.monotonic() - began


def counted(arguments: tuple[str, ...], programs: str) -> tuple[int, int]:
    """How many programs a command uses, and how many of them it compiles.

    Counted in a run of its own: logging takes time.
    """
    before = _kept(programs)
    used = _run(arguments, programs, {"JAX_LOG_COMPILES": "1"}).count(_PROGRAM)
    return used, used if programs == "off" else _kept(programs) - before


def _kept(programs: str) -> int:
    return len(list(Path(programs).glob("*-cache")))


def _run(arguments: tuple[str, ...], programs: str, more: dict[str, str]) -> str:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("JAX_COMPILATION_CACHE")
    }
    done = subprocess.run(
        (sys.executable, "-m", "jaxinv", "--compilation-cache", programs, *arguments),
        env=environment | more,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stderr


def main() -> None:
    """Measure, print and write the table."""
    arguments = parse(parser("starting_time", __doc__), None)
    rows = []
    with tempfile.TemporaryDirectory(prefix="jaxinv-starting-time-") as name:
        folder = Path(name)
        picture = folder / "heart.png"
        commands = {
            "demo": ("demo", "--out", str(folder / "demo.png")),
            "sample": ("sample", "--prompt", PROMPT, "--out", str(picture)),
            "invert": (
                *("invert", str(picture), "--prompt", PROMPT),
                *("--out", str(folder / "inverted")),
            ),
        }
        _run(commands["sample"], "off", {})
        for name, command in commands.items():
            for kept in ("off", "first run", "second run"):
                place = "off" if kept == "off" else str(folder / f"programs-{name}")
                times = measured(command, place)
                empty = str(folder / f"counted-{name}")
                counts = counted(command, empty if kept == "first run" else place)
                row = [f"`jaxinv {name}`", kept, *(f"{t:.1f}" for t in times), *counts]
                print(row, flush=True)
                rows.append(row)
    text = (
        f"# Starting time\n\n{provenance(arguments.command)}\n\n"
        "emoji64 with the commands' default options. Each first run has an empty "
        "folder of programs, each second run that of the first. "
        f"{body(__doc__)}\n\n{table(HEADER, rows)}\n"
    )
    save(arguments.out, text)


if __name__ == "__main__":
    main()

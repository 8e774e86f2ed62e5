"""What all benchmarks share: arguments, results that are kept, and Markdown tables."""

import argparse
import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from scipy.stats import binomtest, bootstrap

from jaxinv.files import open_atomically

RESULTS = Path(__file__).parent / "results"
TRAINED = """`emoji64` was trained with a penalty on steps that fold at guidance 7.5 and
with a weakened text (`training/README.md`), so that its noises can be recovered: other
models need not give these figures."""


def parser(
    name: str, doc: str | None, *, model: bool = False
) -> argparse.ArgumentParser:
    """Return a parser of the arguments of a benchmark.

    Args:
        name: Of the benchmark.
        doc: Its docstring.
        model: Whether it measures a model, whose results are kept.
    """
    found = argparse.ArgumentParser(
        f"python -m benchmarks.{name}", description=(doc or "").splitlines()[0]
    )
    found.add_argument("--out", type=Path, default=RESULTS / f"{name}.md")
    if model:
        found.add_argument("--model", default="emoji64")
        found.add_argument("--seed", type=int, default=0)
        found.add_argument("--resume", type=Path, help="JSON lines to continue from")
    return found


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Return the arguments, with the command line without private folders."""
    arguments = parser.parse_args(argv)
    given = sys.argv[1:] if argv is None else argv
    folders = {
        str(getattr(arguments, name, None)) for name in ("tiny", "data", "noises")
    }
    shown = [
        "FOLDER" if word in folders else "PATH" if Path(word).is_absolute() else word
        for word in map(str, given)
    ]
    arguments.command = shlex.join([*parser.prog.split(), *shown])
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    return arguments


def print_section(run: Callable[[bool], str], doc: str | None) -> None:
    """Measure and print a section that can be measured at reduced size."""
    found = argparse.ArgumentParser(description=doc)
    found.add_argument("--small", action="store_true", help="in minutes")
    print(run(found.parse_args().small))


def body(doc: str | None, skip: int = 2) -> str:
    """Return a docstring without its first paragraphs: what the report begins with."""
    return (doc or "").split("\n\n", skip)[skip].strip()


def read_lines(path: Path | None) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines that an interrupted run left."""
    if path is None or not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def cut_torn_line(path: Path | None) -> None:
    """Remove the end of a file of JSON lines that a killed run did not finish."""
    if path is None or not path.exists():
        return
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with open_atomically(path) as file:
            file.write(whole)


def append_line(path: Path | None, cell: dict[str, Any]) -> None:
    """Add an object to the file that an interrupted run continues from."""
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps(cell) + "\n")


class Kept:
    """Results by what was measured, continued from a file of JSON lines.

    A line holds what was measured (under ``name``), the result (``found``) and what
    else it depends on. Lines that depend on something else are left alone.

    Args:
        path: The file; None to keep nothing.
        name: Key of what was measured.
        **given: What all results depend on.
    """

    def __init__(self, path: Path | None, name: str, **given: Any) -> None:
        cut_torn_line(path)
        self.path, self.name, self.given = path, name, given
        self.found: dict[Any, Any] = {
            _hashable(line[name]): line["found"]
            for line in read_lines(path)
            if name in line and all(line.get(k) == value for k, value in given.items())
        }

    def __call__(self, what: Any, measure: Callable[[], Any]) -> Any:
        """Return a result from the file, or measured and put there."""
        key = _hashable(what)
        if key not in self.found:
            began = time.monotonic()
            self.found[key] = measure()
            line = {self.name: what, **self.given, "found": self.found[key]}
            append_line(self.path, line)
            print(f"{what}: {time.monotonic() - began:.0f} s", flush=True)
        return self.found[key]


def _hashable(what: Any) -> Any:
    return tuple(map(_hashable, what)) if isinstance(what, list | tuple) else what


def table(header: str | Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table; the first column is text, the others are right-aligned.

    Args:
        header: Names of the columns, in one text with ``|`` between them.
        rows: Its cells.
    """
    names = header.split("|") if isinstance(header, str) else header
    lines = [
        "| " + " | ".join(name.strip() for name in names) + " |",
        "|" + "|".join(["---"] + ["---:"] * (len(names) - 1)) + "|",
    ]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def decibels(values: Sequence[float] | np.ndarray) -> str:
    """Median and worst of some NMSE values, in dB."""
    values = np.asarray(values, np.float64)
    if not np.all(np.isfinite(values)):
        bad = int(np.sum(~np.isfinite(values)))
        return f"{bad} of {values.size} not finite"
    return f"{np.median(values):.1f} / {np.max(values):.1f}"


def share(hits: int, count: int) -> str:
    """Return a share with its 95 % interval (Wilson)."""
    if not count:
        return "-"
    low, high = binomtest(hits, count).proportion_ci(method="wilson")
    return f"{100 * hits / count:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def interval(
    values: Sequence[float | None], digits: int = 1, statistic: Any = np.mean
) -> str:
    """Return a statistic with its 95 % interval (percentile bootstrap over images).

    Args:
        values: One for each image; None where it is undefined. Undefined ones are left
            out, and the text says how many are not.
        digits: After the point.
        statistic: Function of an array and an axis; the mean by default.

    Example:
        >>> interval([1.0, 1.0, None])
        '1.0 [2 of 3]'
    """
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        text = interval(known, digits, statistic)
        return f"{text} [{len(known)} of {len(values)}]"
    found = np.asarray(known, np.float64)
    if not found.size:
        return "-"
    if not np.all(np.isfinite(found)):
        return f"{int(np.sum(~np.isfinite(found)))} of {found.size} not finite"
    middle = f"{statistic(found, axis=0):.{digits}f}"
    if found.size < 2 or np.ptp(found) == 0:
        return middle
    low, high = bootstrap(
        (found,), statistic, method="percentile", rng=0, n_resamples=2000
    ).confidence_interval
    return f"{middle} ({low:.{digits}f} to {high:.{digits}f})"


def commit() -> str:
    """Return the commit of the code that runs."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    return found or "unknown"


def provenance(command: str, model: str | None = None) -> str:
    """Return how a result was made: command, versions, device, and with which model."""
    device = jax.devices()[0]
    made = (
        f"Made by `{command}` at commit {commit()}, jax {jax.__version__}, "
        f"{device.device_kind} ({jax.device_count()} device), "
        f"Python {platform.python_version()}."
    )
    return f"{made}\n{TRAINED}" if model == "emoji64" else made


def save(path: Path, text: str) -> None:
    """Write a result atomically and print it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path) as file:
        file.write(text.encode())
    print(text)

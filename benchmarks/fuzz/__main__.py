"""Damaged inputs end in a result or in one clear line, without hanging or growing.

    python -m benchmarks.fuzz [--tries 2000] [--seed 0] [--only NAME ...] [--workers 2]

Every reader of `tests/fuzz` reads so many inputs that are damaged at random: bytes
(truncated, flipped, inserted, spliced), the structure of JSON (other types, NaN,
Infinity, 1e400, 1e12, deep nesting, long texts, huge arrays, keys that are there twice,
renamed or gone), the headers and numbers of safetensors, and the kind of the file (a
pipe, a folder, a link out of the model's folder, to a device or to nothing). Each
reader runs in a process of its own; an input that takes longer than 30 s is a hang, and
the process may allocate 2 GiB more than it held when it was warm.

"Accepted" inputs have results that were checked: a configuration is the same after it
was written and read again, a scheduler's table is finite, a weight file's tensors are
those that an independent reading of the file finds (a number whose bytes changed is
another number, which safetensors cannot tell; NaN and infinities are refused), of a
checkpoint they are those that were saved. "Raw" is any exception that is not meant for
the user, "unclear" a message of several lines or without the name of the input, "wrong"
a result that is not what it should be.
"""

import collections
import json
import selectors
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.fuzz.worker import readers
from benchmarks.report import (
    body,
    commit,
    parse,
    parser,
    provenance,
    read_lines,
    save,
    table,
)

SECONDS, MIB = 30, 2048
_START = 600  # seconds to import and to warm up in
_FAULTS = ("raw", "unclear", "wrong", "hang", "died")


def run_reader(name: str, tries: int, seed: int) -> dict[str, Any]:
    """Return all attempts of one reader, in as many processes as it takes."""
    counts: collections.Counter[str] = collections.Counter()
    faults: list[Any] = []
    cell = {"reader": name, "tries": tries, "seed": seed, "commit": commit()}
    slowest = peak = grown = 0.0
    start, following = time.perf_counter(), 0
    while following < tries:
        arguments = map(str, (seed, following, tries, MIB))
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.fuzz.worker", name, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=Path(__file__).parents[2],
        )
        begun, verdict = None, "died"
        for line in _lines(process):
            if line is None:
                verdict = "hang"
                process.kill()
                break
            if "begun" in line:
                begun = line["begun"]
                continue
            begun, following = None, line["done"] + 1
            counts[line["verdict"]] += 1
            slowest, peak = max(slowest, line["seconds"]), max(peak, line["peak"])
            grown = max(grown, line["grown"])
            if line["what"]:
                faults.append([line["done"], line["verdict"], *line["what"]])
        process.wait()
        if following < tries:
            if begun is None:
                raise RuntimeError(f"{name}: the worker ends with {process.returncode}")
            counts[verdict] += 1
            faults.append([begun, verdict, f"exit code {process.returncode}", ""])
            following = begun + 1
    took = time.perf_counter() - start
    print(f"{name}: {dict(counts)}, {took:.0f} s", flush=True)
    for fault in faults[:5]:
        print("   ", *(str(part)[-300:] for part in fault), flush=True)
    return cell | {
        "counts": dict(counts),
        "slowest": slowest,
        "peak": peak,
        "grown": grown,
        "took": took,
        "faults": faults[:20],
    }


def _lines(process: subprocess.Popen[bytes]) -> Any:
    """Return a worker's answer, or None if it takes too long and nothing follows."""
    assert process.stdout is not None
    limit = _START
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while selector.select(limit):
            line = process.stdout.readline()
            if not line:
                return
            limit = SECONDS
            yield json.loads(line)
    yield None


def report(cells: list[dict[str, Any]], command: str) -> str:
    """Return the table, and what is wrong."""
    rows = []
    for cell in cells:
        counts = collections.Counter(cell["counts"])
        rows.append(
            [cell["reader"], f"{cell['tries']:,}"]
            + [f"{counts[name]:,}" for name in ("accepted", "refused", *_FAULTS)]
            + [f"{cell['slowest']:.2f}", f"{cell['peak']:.0f}", f"{cell['grown']:.0f}"]
        )
    total: collections.Counter[str] = collections.Counter()
    for cell in cells:
        total.update(cell["counts"])
    rows.append(
        ["**all**", f"{sum(cell['tries'] for cell in cells):,}"]
        + [f"{total[name]:,}" for name in ("accepted", "refused", *_FAULTS)]
        + [f"{max(cell['slowest'] for cell in cells):.2f}"]
        + [f"{max(cell[name] for cell in cells):.0f}" for name in ("peak", "grown")]
    )
    header = (
        "reader | inputs | accepted | refused | raw | unclear | wrong | hangs | died | "
        "slowest, s | peak, MiB | of it grown, MiB"
    )
    about = f"{(__doc__ or '').splitlines()[0]}\n\n{body(__doc__)}"
    text = f"# Damaged inputs\n\n{about}\n\n{table(header, rows)}\n\n"
    text += (
        '"Peak" is the resident memory of the process (Python, JAX and the library '
        'included), "grown" what was added to it once the process was warm.\n\n'
    )
    wrong = [
        f"- {cell['reader']}, {number}: {verdict}: {damage}"
        for cell in cells
        for number, verdict, damage, _ in cell["faults"]
    ]
    if wrong:
        text += "What is wrong:\n\n" + "\n".join(wrong) + "\n\n"
    commits = ", ".join(sorted({cell["commit"] for cell in cells}))
    text += f"Readers are run again where what they read has changed: {commits}.\n"
    return f"{text}{provenance(command)}\n"


def main() -> None:
    options = parser("fuzz", __doc__)
    options.add_argument("--tries", type=int, default=2000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", nargs="*", help="names of readers to run again")
    options.add_argument("--workers", type=int, default=2)
    arguments = parse(options, None)
    kept = arguments.out.with_name(f"{arguments.out.stem}-cells.jsonl")
    cells = {
        cell["reader"]: cell
        for cell in read_lines(kept)
        if (cell["tries"], cell["seed"]) == (arguments.tries, arguments.seed)
    }
    names = [reader.name for reader in readers()]
    again = [
        name
        for name in names
        if name not in cells or any(part in name for part in arguments.only or ())
    ]

    def run(name: str) -> None:
        cells[name] = run_reader(name, arguments.tries, arguments.seed)
        lines = [json.dumps(cells[name]) for name in names if name in cells]
        kept.write_text("\n".join(lines) + "\n")

    with ThreadPoolExecutor(arguments.workers) as pool:
        list(pool.map(run, again))
    save(arguments.out, report([cells[name] for name in names], arguments.command))


if __name__ == "__main__":
    main()

"""Two processes with four virtual devices each, on the loopback interface.

They are joined by JAX's own distributed runtime, and run one job with one output; so
does one process with four devices, alone, for comparison.
"""

import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import print_section, read_lines, table
from benchmarks.scale_job.pictures import write_pictures
from benchmarks.scale_job.process import Job, finish, images_in, parts, start
from jaxinv.scale.jobs import read_array

TITLE = "Processes"
DEVICES = 4
PROCESSES = 2


def run(small: bool) -> str:
    """Return the section."""
    with tempfile.TemporaryDirectory() as folder:
        count = 16 if small else 48
        return section(measure(Path(folder), "emoji64", 64, count))


def measure(
    folder: Path, model: str, size: int, count: int, options: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the results of one process and of two.

    Args:
        folder: For pictures and results.
        model: Name or folder of a model.
        size: Of its images.
        count: pictures.
        options: More options of ``jaxinv batch``.
    """
    write_pictures(folder / "pictures", size, count)
    how = (
        *("--model", model, "--sampler", "ddim", "--steps", "6"),
        *("--strategy", "stepwise"),
        *("--guidance", "1", "--decoder-inversion", "encoder", "--batch-size", "1"),
        *("--chunk-rows", "4", "--compilation-cache", str(folder / "programs")),
    )
    job = Job(folder / "pictures", (*how, *options), folder / "log.txt")
    devices = {"JAX_NUM_CPU_DEVICES": str(DEVICES), "JAX_PLATFORMS": "cpu"}
    # Six steps are few, and not all samples converge.
    finish(start(job, folder / "one", environment=devices), job)
    joined = ("--distributed", "--coordinator", f"127.0.0.1:{_free_port()}")
    joined += ("--processes", str(PROCESSES), "--process")
    started = [
        start(job, folder / "two", *joined, str(k), environment=devices)
        for k in range(PROCESSES)
    ]
    for process in started:
        finish(process, job)
    lines = {name: _certificates(folder / name) for name in ("one", "two")}
    noise = {
        name: read_array(folder / name / "noise.zarr").read().result() for name in lines
    }
    return {
        "count": count,
        "shares": _shares(folder / "two"),
        "once": sorted(line["index"] for line in lines["two"]) == list(range(count)),
        "same certificates": lines["one"] == lines["two"],
        "identical": bool(np.array_equal(noise["one"], noise["two"])),
        "difference": float(np.abs(noise["one"] - noise["two"]).max()),
        "finite": bool(np.all(np.isfinite(noise["two"]))),
    }


def section(found: dict[str, Any]) -> str:
    """Return what was measured, as a table."""
    rows = [
        ["images", found["count"]],
        ["images of each process", ", ".join(map(str, found["shares"].values()))],
        ["every image exactly once", "yes" if found["once"] else "NO"],
        ["certificates equal", "yes" if found["same certificates"] else "NO"],
        ["noises bitwise equal", "yes" if found["identical"] else "no"],
        ["largest difference", f"{found['difference']:.1e}"],
    ]
    return (
        f"`jaxinv batch --distributed` with emoji64: {PROCESSES} processes with "
        f"{DEVICES} virtual devices each, on one machine, against one process with "
        f"{DEVICES} (the same program on every device); DDIM, 6 steps, stepwise, "
        "encoder only.\n\n" + table((" | two processes against one"), rows)
    )


def _certificates(folder: Path) -> list[dict[str, Any]]:
    lines = read_lines(folder / "certificates.jsonl")
    return sorted(lines, key=lambda line: line["index"])


def _shares(folder: Path) -> dict[str, int]:
    """Return how many images each process did."""
    found: dict[str, int] = {}
    for part in parts(folder):
        process = part.name.split("-")[0]
        found[process] = found.get(process, 0) + len(images_in(part))
    return found


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    print_section(run, __doc__)

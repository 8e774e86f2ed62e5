"""Two processes with four virtual devices each, on the loopback interface.

They are joined by JAX's own distributed runtime, and run one job with one output; so
does one process with four devices, alone, for comparison.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import table
from jaxinv.files.images import write_image
from jaxinv.scale.jobs import read_array

TITLE = "Processes"
DEVICES = 4
PROCESSES = 2


def run(small: bool) -> str:
    """The section."""
    with tempfile.TemporaryDirectory() as folder:
        count = 16 if small else 48
        return section(measure(Path(folder), "emoji64", 64, count))


def measure(
    folder: Path, model: str, size: int, count: int, options: Sequence[str] = ()
) -> dict[str, Any]:
    """The results of one process and of two.

    Args:
        folder: for pictures and results.
        model: name or folder of a model.
        size: of its images.
        count: pictures.
        options: more options of ``jaxinv batch``.
    """
    pictures = folder / "pictures"
    pictures.mkdir()
    rng = np.random.default_rng(0)
    for k in range(count):
        coarse = rng.uniform(size=(4, 4, 3))
        blocks = np.ones((size // 4, size // 4, 1))
        write_image(pictures / f"{k:03d}.png", np.kron(coarse, blocks))
    arguments = [
        "-m", "jaxinv", "batch", str(pictures), "OUT", "--model", model,
        "--steps", "6", "--strategy", "stepwise", "--guidance", "1",
        "--decoder-inversion", "encoder", "--batch-size", "1", "--chunk-rows", "4",
        "--compilation-cache", str(folder / "programs"), *options,
    ]  # fmt: skip

    def command(out: Path) -> list[str]:
        return [str(out) if word == "OUT" else word for word in arguments]

    # Exit code 3: six steps are few, and not all samples converge.
    python(command(folder / "one"), devices=DEVICES, allowed=(0, 3))
    coordinator = f"127.0.0.1:{_free_port()}"
    started = [
        start(
            [
                *command(folder / "two"), "--distributed",
                "--coordinator", coordinator,
                "--processes", str(PROCESSES), "--process", str(k),
            ],
            devices=DEVICES,
        )
        for k in range(PROCESSES)
    ]  # fmt: skip
    for process in started:
        _, errors = process.communicate()
        if process.returncode not in (0, 3):
            raise RuntimeError(f"a process ended with {process.returncode}: {errors}")
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
    """What was measured, as a table."""
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
        "encoder only.\n\n" + table(["", "two processes against one"], rows)
    )


def _certificates(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "certificates.jsonl").read_text().splitlines()
    return sorted(map(json.loads, lines), key=lambda line: line["index"])


def _indexes(path: Path) -> list[int]:
    # The first line of a part is about the part.
    return [json.loads(line)["index"] for line in path.read_text().splitlines()[1:]]


def _shares(folder: Path) -> dict[str, int]:
    """How many images each process did."""
    found: dict[str, int] = {}
    for path in sorted((folder / "certificates").glob("*.jsonl")):
        process = path.name.split("-")[0]
        found[process] = found.get(process, 0) + len(_indexes(path))
    return found


def start(
    arguments: Sequence[str], devices: int = 1, environment: Mapping[str, str] = {}
) -> subprocess.Popen[str]:
    """Starts Python with so many virtual devices."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=os.environ
        | {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}
        | dict(environment),
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def python(
    arguments: Sequence[str], devices: int = 1, allowed: Sequence[int] = (0,)
) -> str:
    """Runs Python to its end and returns what it printed.

    Raises:
        RuntimeError: if it ends otherwise than allowed, with what it said.
    """
    process = start(arguments, devices)
    printed, errors = process.communicate()
    if process.returncode not in allowed:
        raise RuntimeError(f"{arguments} ended with {process.returncode}: {errors}")
    return printed


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def main() -> None:
    """Prints the section."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true")
    print(run(parser.parse_args().small))


if __name__ == "__main__":
    main()

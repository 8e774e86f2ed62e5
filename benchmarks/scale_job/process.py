"""``jaxinv batch`` as a program, and what can be seen of its folder from outside."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.report import read_lines
from jaxinv.scale.jobs import read_array

ROOT = Path(__file__).parents[2]
SIZE = 64  # of the embedded model's images
FINISHED = 0, 3  # exit codes: 3 where images failed, or did not converge


class Job(NamedTuple):
    """A command line, without the folder of its results.

    Attributes:
        manifest: The images.
        options: Of ``jaxinv batch``.
        log: Where its starts print to.
    """

    manifest: Path
    options: tuple[str, ...]
    log: Path


class JobFailedError(RuntimeError):
    """A start ended otherwise than by being killed or by finishing."""


def start(
    job: Job,
    out: Path,
    *more: str,
    environment: Mapping[str, str] = {},
    limit: Callable[[], object] | None = None,
) -> subprocess.Popen[bytes]:
    """Start the program, in a process group of its own.

    Args:
        job: The command.
        out: Where results go.
        *more: Further options.
        environment: Variables that differ from this process's.
        limit: Is called in the new process.
    """
    command = (sys.executable, "-m", "jaxinv", "batch", job.manifest, out)
    with open(job.log, "ab") as log:
        return subprocess.Popen(
            [*map(str, command), *job.options, *more],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=os.environ | dict(environment),
            start_new_session=True,
            preexec_fn=limit,
        )


def kill(process: subprocess.Popen[bytes]) -> bool:
    """Kills -9 all processes of a start; whether it was still running."""
    os.killpg(process.pid, signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def finish(process: subprocess.Popen[bytes], job: Job) -> None:
    """Wait for the end.

    Raises:
        JobFailedError: If it failed, with the end of what it printed.
    """
    if process.wait() not in FINISHED:
        end = job.log.read_text(errors="replace")[-2000:]
        raise JobFailedError(f"exit code {process.returncode}: {end}")


def parts(out: Path) -> list[Path]:
    """Return the files of commits, in their order."""
    return sorted((out / "certificates").glob("[0-9]*.jsonl"))


def images_in(part: Path) -> list[int]:
    """Return the images of a commit; its first line is about the commit itself."""
    return [record["index"] for record in read_lines(part)[1:]]


def images_done(out: Path) -> int:
    """Images in the commits that are visible now."""
    return sum(len(images_in(part)) for part in parts(out))


def results_per_image(out: Path, count: int) -> np.ndarray:
    """In how many records of all commits each image is."""
    found = [index for part in parts(out) for index in images_in(part)]
    return np.bincount(found, minlength=count)


def is_temporary(name: str) -> bool:
    """Return whether a name allows partial contents (jaxinv.scale.jobs.folder)."""
    return name.startswith(".") or name.endswith(".__lock")


def files(out: Path) -> Iterator[Path]:
    """Return all files of a job, those of a writer at work too."""
    for parent, _, names in os.walk(out):
        yield from (Path(parent, name) for name in names)


def temporaries(out: Path) -> list[str]:
    """Half-written files, relative to the folder; locks are none."""
    found = (path for path in files(out) if is_temporary(path.name))
    return sorted(
        str(path.relative_to(out))
        for path in found
        if not path.name.startswith(".lock-")
    )


def flaw(path: Path, content: bytes, out: Path) -> str | None:
    """Return what is wrong with a visible file; None if it is whole."""
    name = str(path.relative_to(out))
    if name.startswith("noise.zarr/c/"):
        return _array_flaw(out / "noise.zarr")
    texts = content.splitlines() if name.endswith(".jsonl") else [content]
    try:
        if not texts:
            raise ValueError("it is empty")
        for text in texts:
            json.loads(text)
        if not content.endswith(b"\n") and name.endswith(".jsonl"):
            raise ValueError("its last line does not end")
    except ValueError as error:
        return str(error)
    return None


def _array_flaw(path: Path) -> str | None:
    """Return what is wrong with an array when its readers read all of it."""
    try:
        read_array(path).read().result()
    except (OSError, ValueError) as error:
        return str(error)
    return None


class Looker:
    """Reads every visible file of a folder, if it is new or has changed."""

    def __init__(self, out: Path):
        self.out, self.read = out, 0
        self.flaws: dict[str, str] = {}
        self._known: dict[Path, tuple[int, int, int]] = {}

    def look(self) -> None:
        """Once."""
        for path in files(self.out):
            if is_temporary(path.name):
                continue
            try:
                with open(path, "rb") as file:
                    found = os.fstat(file.fileno())
                    version = found.st_ino, found.st_mtime_ns, found.st_size
                    if self._known.get(path) == version:
                        continue
                    content = file.read()
            except FileNotFoundError:
                continue
            self._known[path] = version
            self.read += 1
            if wrong := flaw(path, content, self.out):
                self.flaws[str(path.relative_to(self.out))] = wrong


class Watcher(threading.Thread):
    """Looks at a folder every few milliseconds while a block runs."""

    def __init__(self, out: Path, pause: float = 0.003):
        super().__init__(daemon=True)
        self.looker, self.looks, self._pause = Looker(out), 0, pause
        self._stop_now = threading.Event()

    def run(self) -> None:
        """As the class says."""
        while not self._stop_now.wait(self._pause):
            self.looker.look()
            self.looks += 1

    def __enter__(self) -> "Watcher":
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        if not self.is_alive():
            raise RuntimeError("the watcher has failed")
        self._stop_now.set()
        self.join()


def wait_until(
    process: subprocess.Popen[bytes], reached: Callable[[], bool], pause: float = 0.002
) -> None:
    """Wait for a condition or the end of a process, whichever is first."""
    while process.poll() is None and not reached():
        time.sleep(pause)


def options(model: str, steps: int, cache: Path) -> tuple[str, ...]:
    """Options of a cheap job."""
    return (
        *("--model", model, "--sampler", "ddim", "--strategy", "naive"),
        *("--steps", str(steps)),
        *("--guidance", "1", "--decoder-inversion", "encoder", "--batch-size", "8"),
        *("--compilation-cache", str(cache)),
    )

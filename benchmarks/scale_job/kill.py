"""A job that is killed -9 again and again, against the same job left alone."""

import contextlib
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.scale_job.pace import Pace, moments_in_order, pace_of
from benchmarks.scale_job.process import (
    Job,
    Looker,
    Progress,
    Watcher,
    finish,
    kill,
    parts,
    processor_seconds,
    read_lines,
    results_per_image,
    start,
    temporaries,
    wait_until,
)
from jaxinv.scale.jobs import read_array

#: Temporary files: of the array, of a commit's records, of the merged certificates.
AIMS = {
    "array": ("noise.zarr", "c/**/*.__lock"),
    "records": ("certificates", ".[0-9]*"),
    "merging": (".", ".certificates.jsonl.*"),
}


class Kill(NamedTuple):
    """What was seen of a start that was to be killed.

    Attributes:
        aim: what it waited for: a moment, or a kind of temporary file.
        seconds: after the start, by the clock.
        processor: seconds of it that the start had.
        before: images with a result at the start.
        done: images with a result after the kill.
        killed: whether it was still running.
        left: temporary files that it left.
        flaws: visible files that were not whole.
    """

    aim: str
    seconds: float
    processor: float
    before: int
    done: int
    killed: bool
    left: list[str]
    flaws: dict[str, str]


def measure(
    job: Job, folder: Path, count: int, plans: Mapping[str, Sequence[float | str]]
) -> dict[str, Any]:
    """Runs a job undisturbed, and again with kills.

    Args:
        job: its programs should be compiled already.
        folder: for results.
        count: images of the job.
        plans: kills by name of the run: shares of the undisturbed run's processor time,
            or a kind of ``AIMS``: as soon as there is such a file, the job is killed.

    Raises:
        AssertionError: unless every image has exactly one result in the end.
    """
    reference = folder / "undisturbed"
    pace = _undisturbed(job, reference)
    runs = {}
    for name, plan in plans.items():
        out = folder / name
        aims = moments_in_order(plan, pace)
        with Watcher(out) as watcher:
            kills = [_kill_once(job, out, count, pace, aim) for aim in aims]
            finish(start(job, out), job)
        looker = watcher.looker
        runs[name] = {
            "kills": kills,
            "looks": watcher.looks,
            "read": looker.read,
            "flaws": looker.flaws,
            **compare(out, reference, count),
        }
    return {"count": count, "pace": pace, "runs": runs}


def _undisturbed(job: Job, out: Path) -> Pace:
    """Runs the job to its end."""
    progress, began = Progress(out), time.monotonic()
    process = start(job, out)
    commits = [(0, 0.0)]  # images, and processor seconds when they were on the disk
    now = 0.0
    while process.poll() is None:
        now = processor_seconds(process) or now
        if (done := progress.done()) > commits[-1][0]:
            commits.append((done, now))
        time.sleep(0.005)
    finish(process, job)
    return pace_of(commits[1:], now, time.monotonic() - began)


def _kill_once(job: Job, out: Path, count: int, pace: Pace, aim: float | str) -> Kill:
    """Starts the job and kills it at a moment of the undisturbed run, or as aimed."""
    progress = Progress(out)
    before = progress.done()
    old = _temporaries(out, aim) if isinstance(aim, str) else set()
    began = time.monotonic()
    process = start(job, out)
    if isinstance(aim, str):
        # A new one is there for some milliseconds.
        wait_until(process, lambda: bool(_temporaries(out, aim) - old), pause=2e-4)
    else:
        _wait_for_moment(process, pace, aim, progress, count)
    processor = processor_seconds(process)
    killed = process.poll() is None and kill(process)
    seconds = time.monotonic() - began
    if not killed:
        finish(process, job)
    looker = Looker(out)
    looker.look_again()
    return Kill(
        aim if isinstance(aim, str) else f"{aim:.1f} s",
        seconds,
        processor,
        before,
        progress.done(),
        killed,
        temporaries(out) if killed else [],
        looker.flaws,
    )


def _wait_for_moment(
    process: subprocess.Popen[bytes],
    pace: Pace,
    moment: float,
    progress: Progress,
    count: int,
) -> None:
    """Waits until this start is where the undisturbed one was at a moment."""
    if moment <= pace.start_up or pace.per_image == 0:
        wait_until(process, lambda: processor_seconds(process) >= moment)
        return
    images = (moment - pace.start_up) / pace.per_image
    ahead = max(moment - pace.start_up - progress.done() * pace.per_image, 0.0)
    until = pace.start_up + ahead

    def reached() -> bool:
        if processor_seconds(process) >= until:
            return True
        # A start that is faster than the undisturbed one was must not get away.
        return ahead > 0 and images < count and progress.done() >= images

    wait_until(process, reached)


def _temporaries(out: Path, aim: str) -> set[tuple[str, int, int]]:
    """The temporary files of a kind, told from others of the same name."""
    folder, pattern = AIMS[aim]
    found = set()
    for path in (out / folder).glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            stat = path.stat()
            found.add((str(path), stat.st_ino, stat.st_ctime_ns))
    return found


def compare(out: Path, reference: Path, count: int) -> dict[str, Any]:
    """What came of a job in the end, against another of the same images.

    Raises:
        AssertionError: unless every image has exactly one result.
    """
    times = results_per_image(out, count)
    ours, theirs = (read_lines(f / "certificates.jsonl") for f in (out, reference))
    merged = np.bincount([line["index"] for line in ours], minlength=count)
    wrong = [int(index) for index in np.flatnonzero((times != 1) | (merged != 1))]
    assert not wrong, (
        f"{len(wrong)} of {count} images have no or several results, {wrong[:5]} first:"
        f" {times[wrong[:5]]} in commits and {merged[wrong[:5]]} in the merged file"
    )
    noise, wanted = (
        np.asarray(read_array(folder / "noise.zarr").read().result())
        for folder in (out, reference)
    )
    difference = np.abs(noise.astype(np.float64) - wanted)
    return {
        "commits": len(parts(out)),
        "different certificates": sum(
            a != b for a, b in zip(ours, theirs, strict=True)
        ),
        "fields": sorted(
            {key for a, b in zip(ours, theirs, strict=True) for key in _unlike(a, b)}
        ),
        "different noises": int(
            np.sum(~np.all(noise == wanted, axis=tuple(range(1, noise.ndim))))
        ),
        "largest difference": float(np.max(difference)),
        "left": temporaries(out),
    }


def _unlike(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[str]:
    """Names of the fields in which two records differ."""
    found: list[str] = []
    for key in a.keys() | b.keys():
        one, other = a.get(key), b.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            found += _unlike(one, other, f"{prefix}{key}.")
        elif one != other:
            found.append(f"{prefix}{key}")
    return found

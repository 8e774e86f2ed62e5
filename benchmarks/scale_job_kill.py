"""A job that is killed -9 again and again, against the same job left alone."""

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.scale_job_process import (
    Job,
    Looker,
    Progress,
    Watcher,
    finish,
    kill,
    parts,
    read_lines,
    results_per_image,
    start,
    temporaries,
    wait_until,
)
from jaxinv.jobs import read_array

#: Temporary files: of the array, of a commit's records, of the merged certificates.
AIMS = {
    "array": ("noise.zarr", "c/**/*.__lock"),
    "records": ("certificates", ".[0-9]*"),
    "merging": (".", ".certificates.jsonl.*"),
}
LONGEST = 1800.0  # seconds; no start takes longer


class Pace(NamedTuple):
    """How fast a job runs that nobody disturbs.

    Attributes:
        whole: seconds from start to end.
        start_up: seconds until it works on images.
        per_image: seconds.
    """

    whole: float
    start_up: float
    per_image: float


class Kill(NamedTuple):
    """What was seen of a start that was to be killed.

    Attributes:
        aim: what it waited for: a moment, or a kind of temporary file.
        seconds: after the start.
        before: images with a result at the start.
        done: images with a result after the kill.
        killed: whether it was still running.
        left: temporary files that it left.
        flaws: visible files that were not whole.
    """

    aim: str
    seconds: float
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
        plans: kills by name of the run: shares of the undisturbed run's time, or a kind
            of ``AIMS``: as soon as there is such a file, the job is killed.

    Raises:
        AssertionError: unless every image has exactly one result in the end.
    """
    reference = folder / "undisturbed"
    began = time.time()
    finish(start(job, reference), job)
    pace = _pace(reference, began, time.time())
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


def moments_in_order(plan: Sequence[float | str], pace: Pace) -> list[float | str]:
    """The moments in seconds, those at work on images in order.

    What is done stays done. A moment in the start-up can meet any start, so those stay
    where they are.
    """
    aims = [aim if isinstance(aim, str) else aim * pace.whole for aim in plan]
    late = [
        k
        for k, aim in enumerate(aims)
        if isinstance(aim, float) and aim > pace.start_up
    ]
    for k, aim in zip(late, sorted(aims[k] for k in late), strict=True):
        aims[k] = aim
    return aims


def _pace(out: Path, began: float, ended: float) -> Pace:
    """From the commits: when they were, and of how many images."""
    times = [part.stat().st_mtime - began for part in parts(out)]
    images = np.cumsum([len(read_lines(part)) - 1 for part in parts(out)])
    if len(times) == 1:
        return Pace(ended - began, times[0], 0.0)
    per_image = (times[-1] - times[0]) / (images[-1] - images[0])
    start_up = max(times[0] - images[0] * per_image, 0.0)
    return Pace(ended - began, start_up, per_image)


def _kill_once(job: Job, out: Path, count: int, pace: Pace, aim: float | str) -> Kill:
    """Starts the job and kills it at a moment of the undisturbed run, or as aimed."""
    progress = Progress(out)
    before = progress.done()
    began = time.monotonic()
    process = start(job, out)
    if isinstance(aim, str):
        # What is waited for is there for some milliseconds.
        wait_until(process, began + LONGEST, lambda: _appeared(out, aim), pause=2e-4)
    else:
        _wait_for_moment(process, began, pace, aim, progress, count)
    seconds = time.monotonic() - began
    killed = process.poll() is None and kill(process)
    if not killed:
        finish(process, job)
    looker = Looker(out)
    looker.look_again()
    return Kill(
        aim if isinstance(aim, str) else f"{aim:.1f} s",
        seconds,
        before,
        progress.done(),
        killed,
        temporaries(out) if killed else [],
        looker.flaws,
    )


def _wait_for_moment(
    process: subprocess.Popen[bytes],
    began: float,
    pace: Pace,
    moment: float,
    progress: Progress,
    count: int,
) -> None:
    """Waits until this start is where the undisturbed one was at a moment."""
    if moment <= pace.start_up or pace.per_image == 0:
        wait_until(process, began + moment)
        return
    images = (moment - pace.start_up) / pace.per_image
    ahead = max(moment - pace.start_up - progress.done() * pace.per_image, 0.0)
    # A start that is faster than the undisturbed one was must not get away.
    wait_until(
        process,
        began + pace.start_up + ahead,
        lambda: ahead > 0 and images < count and progress.done() >= images,
    )


def _appeared(out: Path, aim: str) -> bool:
    """Whether there is a temporary file of a kind."""
    folder, pattern = AIMS[aim]
    return any((out / folder).glob(pattern))


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

"""A job that is killed -9 again and again, against the same job left alone."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.report import read_lines, table
from benchmarks.scale_job.pictures import write_pictures
from benchmarks.scale_job.process import (
    SIZE,
    Job,
    Looker,
    Watcher,
    finish,
    images_done,
    kill,
    options,
    parts,
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
        aim: What it waited for: a number of seconds, or a kind of temporary file.
        seconds: After the start.
        before: Images with a result at the start.
        done: Images with a result after the kill.
        killed: Whether it was still running.
        left: Temporary files that it left.
        flaws: Visible files that were not whole.
    """

    aim: str
    seconds: float
    before: int
    done: int
    killed: bool
    left: list[str]
    flaws: dict[str, str]


def measure(
    folder: Path,
    *,
    images: int,
    plans: Mapping[str, Sequence[float | str]],
    model: str = "emoji64",
    size: int = SIZE,
    compile_first: bool = True,
) -> dict[str, Any]:
    """Run a job undisturbed, and again with kills.

    Args:
        folder: For everything.
        images: Of the job.
        plans: Kills by name of the run: shares of the time that the undisturbed run
            took, or a kind of ``AIMS``: as soon as there is such a file, the job is
            killed.
        model: Name or folder of a model.
        size: Of its images.
        compile_first: In a start of its own, so that the undisturbed run is as fast as
            the others.

    Raises:
        AssertionError: Unless every image has exactly one result in the end.
    """
    how = options(model, 4, folder / "programs")
    folder = folder / "killed"
    job = Job(folder / "pictures", how, folder / "log.txt")
    write_pictures(job.manifest, size, images)
    if compile_first:
        write_pictures(folder / "first", size, 1)
        first = job._replace(manifest=folder / "first")
        finish(start(first, folder / "compiled"), first)
    reference, began = folder / "undisturbed", time.monotonic()
    finish(start(job, reference), job)
    seconds = time.monotonic() - began
    runs = {}
    for name, plan in plans.items():
        out = folder / name
        aims = [aim if isinstance(aim, str) else aim * seconds for aim in plan]
        with Watcher(out) as watcher:
            kills = [_kill_once(job, out, aim) for aim in aims]
            finish(start(job, out), job)
        looker = watcher.looker
        runs[name] = {
            "kills": kills,
            "looks": watcher.looks,
            "read": looker.read,
            "flaws": looker.flaws,
            **compare(out, reference, images),
        }
    return {"count": images, "seconds": seconds, "runs": runs}


def _kill_once(job: Job, out: Path, aim: float | str) -> Kill:
    """Start the job and kill it after some seconds, or as aimed."""
    before = images_done(out)
    old = _temporaries(out, aim) if isinstance(aim, str) else set()
    began = time.monotonic()
    process = start(job, out)
    if isinstance(aim, str):
        # A new one is there for some milliseconds.
        wait_until(process, lambda: bool(_temporaries(out, aim) - old), pause=2e-4)
    else:
        wait_until(process, lambda: time.monotonic() - began >= aim)
    killed = process.poll() is None and kill(process)
    seconds = time.monotonic() - began
    if not killed:
        finish(process, job)
    looker = Looker(out)
    looker.look()
    shown = aim if isinstance(aim, str) else f"{aim:.1f} s"
    left = temporaries(out) if killed else []
    return Kill(shown, seconds, before, images_done(out), killed, left, looker.flaws)


def _temporaries(out: Path, aim: str) -> set[str]:
    """Return the temporary files of a kind, whose names are made up anew for each."""
    folder, pattern = AIMS[aim]
    return {str(path) for path in (out / folder).glob(pattern)}


def compare(out: Path, reference: Path, count: int) -> dict[str, Any]:
    """Return what came of a job in the end, against another of the same images.

    Raises:
        AssertionError: Unless every image has exactly one result.
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
    same = np.all(noise == wanted, axis=tuple(range(1, noise.ndim)))
    difference = np.abs(noise.astype(np.float64) - wanted)
    return {
        "commits": len(parts(out)),
        "different certificates": sum(
            a != b for a, b in zip(ours, theirs, strict=True)
        ),
        "different noises": int(np.sum(~same)),
        "largest difference": float(np.max(difference)),
        "left": temporaries(out),
    }


def section(found: dict[str, Any]) -> str:
    """Return what was measured, as tables."""
    count, runs = found["count"], found["runs"]
    header = (
        "kill | waited for | seconds after its start | still running | "
        "images done before | images done after | temporary files left | "
        "partial files visible"
    )
    kills = [
        [
            *(f"{name}, {number}", each.aim, f"{each.seconds:.1f}"),
            *("yes" if each.killed else "no", each.before, each.done),
            *(len(each.left), len(each.flaws)),
        ]
        for name, run in runs.items()
        for number, each in enumerate(run["kills"], 1)
    ]
    rows: dict[str, Any] = {
        "kills that were planned": lambda r: len(r["kills"]),
        "starts that were killed": lambda r: sum(k.killed for k in r["kills"]),
        "of these, with images still to do": lambda r: sum(
            k.killed and k.before < count for k in r["kills"]
        ),
        "of these, with temporary files left": lambda r: sum(
            bool(k.left) for k in r["kills"]
        ),
        "looks of the watcher": lambda r: r["looks"],
        "new or changed files that it read": lambda r: r["read"],
        "partial files that were visible": lambda r: len(
            set(r["flaws"]).union(*(k.flaws for k in r["kills"]))
        ),
        "commits": lambda r: r["commits"],
        "images with exactly one result": lambda r: f"{count} of {count}",
        "certificates that differ": lambda r: r["different certificates"],
        "noises that differ in any bit": lambda r: r["different noises"],
        "largest difference of noises": lambda r: f"{r['largest difference']:.1e}",
        "temporary files left at the end": lambda r: len(r["left"]),
    }
    outcome = table(
        ["", *(f"killed at {name}" for name in runs)],
        [
            [name, *(value(run) for run in runs.values())]
            for name, value in rows.items()
        ],
    )
    return (
        f"{count} images. Undisturbed, the job takes {found['seconds']:.0f} s with its "
        "programs compiled before. Results are committed every 64 images or 30 s (the "
        "defaults), and a start that is killed before its first commit does those "
        "images again. Random moments are uniform over the undisturbed run's time; the "
        "last ones may come too late, when the job is done. Kills at writing come as "
        "soon as a temporary file is seen, of the array, of a commit's records or of "
        "the merged certificates; one that is too quick is missed.\n\n"
        f"{outcome}\n\n{table(header, kills)}"
    )

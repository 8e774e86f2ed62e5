"""A job of very many images, some of them bad: memory, speed, and what is recorded."""

import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.report import read_lines, table
from benchmarks.scale_job.pictures import BAD, FORBIDDEN, write_job
from benchmarks.scale_job.process import (
    SIZE,
    Job,
    finish,
    images_done,
    options,
    results_per_image,
    start,
)
from jaxinv.scale.jobs import read_array

SHARES = (10, 25, 50, 75, 100)  # percent of the images
MIB = 1024  # in the unit of /proc: KiB


class Sample(NamedTuple):
    """A look at a running job.

    Attributes:
        seconds: Since its start.
        done: Images with a result on the disk.
        resident: Memory, in KiB.
    """

    seconds: float
    done: int
    resident: int


def measure(
    folder: Path,
    *,
    images: int,
    bad: int,
    different: int,
    model: str = "emoji64",
    size: int = SIZE,
) -> dict[str, Any]:
    """Run a job once.

    Args:
        folder: For everything.
        images: Of the job.
        bad: How many of them.
        different: Good pictures; the other good ones are copies.
        model: Name or folder of a model.
        size: Of its images.

    Raises:
        AssertionError: Unless every image has exactly one result.
    """
    # Two steps: as some rows are guided, all have two evaluations in each.
    how = options(model, 2, folder / "programs")
    folder = folder / "many"
    manifest, what = write_job(folder / "pictures", size, images, bad, different)
    job, out = Job(manifest, how, folder / "log.txt"), folder / "out"
    samples = list[Sample]()
    began = time.monotonic()
    process = start(job, out)
    while process.poll() is None:
        if resident := memory(process):
            seconds = time.monotonic() - began
            samples.append(Sample(seconds, images_done(out), resident))
        time.sleep(0.25)
    finish(process, job)
    seconds = time.monotonic() - began
    return {
        "count": len(what),
        "seconds": seconds,
        "samples": samples,
        "peak": max(sample.resident for sample in samples),
        **_recorded(out, what),
        **_copies(out, what),
    }


def memory(process: subprocess.Popen[bytes]) -> int | None:
    """Resident memory in KiB; None if the process has just ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return None
    sizes = [line.split()[1] for line in status.splitlines() if "VmRSS:" in line]
    return int(sizes[0]) if sizes else None


def _recorded(out: Path, what: list[str | int]) -> dict[str, Any]:
    """Return what the records say, against what was planted."""
    lines = read_lines(out / "certificates.jsonl")
    times = results_per_image(out, len(what))
    once = int(np.sum(times == 1))
    assert [line["index"] for line in lines] == list(range(len(what))), (
        f"the merged file has {len(lines)} lines for {len(what)} images, or not by row"
    )
    assert once == len(times) == len(what), (
        f"{once} of {len(what)} images have exactly one result"
    )
    kinds: dict[str, dict[str, Any]] = {
        kind: {"planted": 0, "right": 0, "said": Counter()} for kind in BAD
    }
    good = lost = 0
    for line, kind in zip(lines, what, strict=True):
        failure = line.get("failure")
        if isinstance(kind, str):
            found = kinds[kind]
            found["planted"] += 1
            found["right"] += failure is not None and BAD[kind].reason in failure
            found["said"][failure] += 1
        else:
            good += 1
            lost += failure is not None
    return {"kinds": kinds, "good": good, "lost": lost}


def _copies(out: Path, what: list[str | int]) -> dict[str, Any]:
    """Return whether every row has its own picture's noise, equal in all copies."""
    noise = np.asarray(read_array(out / "noise.zarr").read().result(), np.float64)
    noise = noise.reshape(len(what), -1)
    rows: dict[int, list[int]] = {}
    for index, picture in enumerate(what):
        if isinstance(picture, int):
            rows.setdefault(picture, []).append(index)
    firsts = noise[[copies[0] for copies in rows.values()]]
    squares = np.sum(firsts**2, -1)
    apart = squares[:, None] + squares - 2 * firsts @ firsts.T
    np.fill_diagonal(apart, np.inf)
    within = [np.abs(noise[each] - noise[each[0]]).max() for each in rows.values()]
    bad = noise[[index for index, kind in enumerate(what) if isinstance(kind, str)]]
    return {
        "pictures": len(rows),
        "between copies": float(np.max(within)),
        "between pictures": float(np.sqrt(max(apart.min() / noise.shape[1], 0.0))),
        "rows of failures": len(bad),
        "rows that are all NaN": int(np.sum(np.all(np.isnan(bad), -1))),
    }


def at_share(samples: list[Sample], count: int, percent: int) -> Sample:
    """Return the first look with a number of images done, or the last look."""
    wanted = count * percent / 100
    return next((s for s in samples if s.done >= wanted), samples[-1])


def section(found: dict[str, Any]) -> str:
    """Return what was measured, as tables."""
    samples, count = found["samples"], found["count"]
    looks = [at_share(samples, count, percent) for percent in SHARES]
    first = next((s for s in samples if s.done), samples[-1])
    early, last = looks[SHARES.index(25)], looks[-1]
    spent = last.seconds - first.seconds
    speed = f"{(last.done - first.done) / spent:.1f}" if spent > 0 else "-"
    memories = table(
        ("images | with a result on the disk | seconds | resident memory, MiB"),
        [
            [f"{percent} %", s.done, f"{s.seconds:.0f}", f"{s.resident / MIB:.0f}"]
            for percent, s in zip(SHARES, looks, strict=True)
        ],
    )
    rows = [
        [kind, each["planted"], each["right"], _said(each["said"])]
        for kind, each in found["kinds"].items()
    ]
    if FORBIDDEN not in BAD:
        rows.append([FORBIDDEN, 0, "-", "not planted: root may read every file"])
    failures = table(("planted | files | with their own reason | recorded"), rows)
    growth = (last.resident - early.resident) / MIB
    planted = sum(each["planted"] for each in found["kinds"].values())
    right = sum(each["right"] for each in found["kinds"].values())
    return (
        f"{count} rows: {found['good']} paths of good pictures, hard links to "
        f"{found['pictures']} different ones, and {planted} bad ones among them, in "
        "random order.\n\n"
        f"{memories}\n\n"
        f"From 25 % to 100 % of the images the memory grows by {growth:.1f} MiB, "
        f"{100 * growth / (early.resident / MIB):.1f} %; the highest of "
        f"{len(samples)} samples is {found['peak'] / MIB:.0f} MiB. After the first "
        f"commit {speed} images/s; {found['seconds']:.0f} s in all.\n\n"
        f"{failures}\n\n"
        f"{right} of {planted} failures are recorded with their own reason, and "
        f"{found['rows that are all NaN']} of {found['rows of failures']} have a row "
        f"of NaN; {found['good'] - found['lost']} of {found['good']} good ones have a "
        "result, each image exactly one. Noises of copies of one picture differ by "
        f"{found['between copies']:.1e} at most, whatever was computed beside them; "
        f"those of different pictures by {found['between pictures']:.2f} (RMS) at "
        "least."
    )


def _said(reasons: Counter[str | None]) -> str:
    return "; ".join(str(reason) for reason in reasons) or "-"

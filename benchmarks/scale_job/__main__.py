"""What ``jaxinv batch`` survives: kill -9, bad files, thousands of images.

    python -m benchmarks.scale_job [--small]

The real command line runs in processes of its own, with a model and settings that are
cheap: what is measured is the job, not the inversion.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import print_section
from benchmarks.scale_job import kill, many
from benchmarks.scale_job.pictures import write_job, write_pictures
from benchmarks.scale_job.process import Job, finish, options, start

TITLE = "A job that survives"
MOMENTS = 28  # some come too late: twenty are to meet a job at work
SIZE = 64  # of the embedded model's images
WRITING = ("array", "records", "array", "records", "merging", "merging")


def run(small: bool) -> str:
    """The section, measured.

    Args:
        small: fewer images and kills: minutes.
    """
    with tempfile.TemporaryDirectory(prefix="jaxinv-job-") as name:
        folder, random = Path(name), np.random.default_rng(0)
        killed = killed_job(
            folder,
            images=40 if small else 200,
            plans={
                "random moments": random.uniform(size=3 if small else MOMENTS).tolist(),
                "writing": WRITING[1::2] if small else WRITING,
            },
        )
        found = many_images(
            folder,
            images=300 if small else 5000,
            bad=24 if small else 50,
            different=50 if small else 300,
        )
    cores = len(os.sched_getaffinity(0))
    return (
        "`jaxinv batch` as a program, with emoji64 at 64x64 and settings that make an "
        "image cheap: DDIM, naive inversion, the encoder alone, 8 images at a time. "
        f"{cores} CPU core{'s' if cores > 1 else ''}, shared with what else runs on "
        "the machine, the watcher among it.\n\n"
        f"### Kill -9\n\n{kill.section(killed)}\n\n"
        f"### Many images, some of them bad\n\n{many.section(found)}"
    )


def killed_job(
    folder: Path,
    *,
    images: int,
    plans: Mapping[str, Sequence[float | str]],
    model: str = "emoji64",
    size: int = SIZE,
    compile_first: bool = True,
) -> dict[str, Any]:
    """Runs :func:`benchmarks.kill.measure`.

    Args:
        folder: for everything.
        images: of the job.
        plans: kills.
        model: name or folder of a model.
        size: of its images.
        compile_first: in a start of its own, so that the undisturbed run is as fast as
            the others.
    """
    how = options(model, 4, folder / "programs")
    folder = folder / "killed"
    write_pictures(folder / "first", size, 1)
    write_pictures(folder / "pictures", size, images)
    first, job = (
        Job(folder / name, how, folder / "log.txt") for name in ("first", "pictures")
    )
    if compile_first:
        finish(start(first, folder / "compiled"), first)
    return kill.measure(job, folder, images, plans)


def many_images(
    folder: Path,
    *,
    images: int,
    bad: int,
    different: int,
    model: str = "emoji64",
    size: int = SIZE,
) -> dict[str, Any]:
    """Runs :func:`benchmarks.many.measure`.

    Args:
        folder: for everything.
        images: of the job.
        bad: how many of them.
        different: good pictures; the other good ones are copies.
        model: name or folder of a model.
        size: of its images.
    """
    # Two steps: as some rows are guided, all have two evaluations in each.
    how = options(model, 2, folder / "programs")
    folder = folder / "many"
    manifest, what = write_job(folder / "pictures", size, images, bad, different)
    job = Job(manifest, how, folder / "log.txt")
    return many.measure(job, what, folder / "out")


if __name__ == "__main__":
    print_section(run, __doc__)

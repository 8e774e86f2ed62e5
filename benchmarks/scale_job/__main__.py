"""What ``jaxinv batch`` survives: kill -9, bad files, thousands of images.

    python -m benchmarks.scale_job [--small]

The real command line runs in processes of its own, with a model and settings that are
cheap: what is measured is the job, not the inversion.
"""

import os
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.report import print_section
from benchmarks.scale_job import kill, many

TITLE = "A job that survives"
MOMENTS = 28  # some come too late: twenty are to meet a job at work
WRITING = ("array", "records", "array", "records", "merging", "merging")


def run(small: bool) -> str:
    """Return the section, measured.

    Args:
        small: Fewer images and kills: minutes.
    """
    with tempfile.TemporaryDirectory(prefix="jaxinv-job-") as name:
        folder, random = Path(name), np.random.default_rng(0)
        killed = kill.measure(
            folder,
            images=40 if small else 200,
            plans={
                "random moments": random.uniform(size=3 if small else MOMENTS).tolist(),
                "writing": WRITING[1::2] if small else WRITING,
            },
        )
        found = many.measure(
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


if __name__ == "__main__":
    print_section(run, __doc__)

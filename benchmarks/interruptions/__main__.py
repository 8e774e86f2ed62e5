"""Run ``jaxinv batch`` with the real engine, disturb it, go on, and compare.

    python -m benchmarks.interruptions [--images 24]

The images are inverted with the default strategy and decoder inversion. An undisturbed
job is the reference; each disturbed one has to end with the same bits.
"""

import os
import tempfile
from pathlib import Path

from benchmarks.interruptions.scenarios import (
    SCENARIOS,
    Setting,
    disturbed,
    undisturbed,
)
from benchmarks.report import parse, parser, provenance, save, table
from benchmarks.scale_job.pictures import write_pictures
from benchmarks.scale_job.process import Job

HEADER = (
    "disturbance | exit code | seconds until the end | done then | "
    "done after the next start | noises that differ | records that differ | "
    "what was said"
)


def main() -> None:
    """Measure, print and write the table."""
    options = parser("interruptions", __doc__)
    options.add_argument("--images", type=int, default=24)
    arguments = parse(options, None)
    count = arguments.images
    with tempfile.TemporaryDirectory(prefix="jaxinv-interruptions-") as name:
        folder = Path(name)
        write_pictures(folder / "pictures", 64, count)
        options = (
            *("--steps", "20", "--prompt", "red heart", "--batch-size", "4"),
            *("--compilation-cache", str(folder / "programs")),
        )
        job = Job(folder / "pictures", options, folder / "log")
        setting = Setting(job, folder, count)
        warm = undisturbed(setting, "compiling")
        whole = undisturbed(setting, "reference")
        rows = [[name, *disturbed(setting, whole, name)] for name in SCENARIOS]
    text = (
        "# What ends `jaxinv batch`, and what comes of it\n\n"
        f"{provenance(arguments.command, 'emoji64')}\n\n"
        "emoji64, "
        "DDIM, 20 steps, guidance 3, default strategy and decoder inversion, "
        f"{count} images, 4 at a time, "
        f"{len(os.sched_getaffinity(0))} cores shared with what else ran. Undisturbed: "
        f"{warm.seconds:.0f} s, and {whole.seconds:.0f} s with the compiled programs "
        f"on disk, {whole.seconds_per_image:.2f} s an image once running. Jobs were "
        "disturbed when a third of the images was done, and the same command was given "
        "again.\n\n" + table(HEADER, rows) + "\n"
    )
    save(arguments.out, text)


if __name__ == "__main__":
    main()

"""A job: exactly one result for every image of a manifest, despite interruptions.

An image has a result once its record is on disk, and a start processes the images
without one. There is no other memory, so the way in which an earlier start ended does
not matter. A picture that has changed since then is a new image
(:mod:`jaxinv.scale.jobs.pictures`). Processes take ranges of rows that share no file.
"""

import contextlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxinv.checks import AtLeastOne, Whole, checked
from jaxinv.files.image_reading import MAX_PIXELS
from jaxinv.scale.jobs import array, records
from jaxinv.scale.jobs.detect import Detector
from jaxinv.scale.jobs.folder import (
    check,
    claim,
    prepare,
    remove_temporaries,
    wait_until_prepared,
)
from jaxinv.scale.jobs.interface import Engine
from jaxinv.scale.jobs.manifest import Manifest
from jaxinv.scale.jobs.merge import merge
from jaxinv.scale.jobs.pictures import find_changes
from jaxinv.scale.jobs.reading import read_rows
from jaxinv.scale.jobs.recorder import Counts, Recorder
from jaxinv.scale.jobs.settings import describe_job
from jaxinv.scale.jobs.status import Status
from jaxinv.scale.jobs.work import work


@checked
def run_job(
    manifest: Manifest,
    out: Path,
    engine: Engine,
    *,
    settings: Mapping[str, Any],
    image_size: tuple[int, int],
    row_shape: tuple[int, ...],
    model: str = "the model",
    resize: bool = False,
    max_pixels: int = MAX_PIXELS,
    keep_noise: bool = True,
    detector: Detector | None = None,
    chunk_rows: AtLeastOne = 64,
    commit_every: AtLeastOne = 64,
    commit_seconds: float = 30.0,
    max_failures: Whole | None = None,
    retry_failures: bool = False,
    process_index: int = 0,
    process_count: int = 1,
    wait_seconds: float = 600.0,
    on_progress: Callable[[Counts], None] = lambda counts: None,
    on_note: Callable[[str], None] = warnings.warn,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Invert all images of a manifest that have no result yet.

    A result belongs to the content of the picture. If the content of its file has
    changed, the image is inverted again; if the file was deleted, the result is kept.
    To check this, the files of all finished images are read.

    A job can be stopped at any time and in any way, and resumed. After an exception,
    including KeyboardInterrupt, all answers of the engine are on disk.

    Args:
        manifest: The images; see :func:`jaxinv.scale.jobs.read_manifest`.
        out: Folder of the results: new, empty, or of the same job.
        engine: The engine; see :mod:`jaxinv.scale.jobs.interface`.
        settings: All settings that affect results and are not in the manifest, as
            values for JSON: model, sampler, steps, ... A folder with results of other
            settings is refused.
        image_size: (height, width) of the engine's images.
        row_shape: Shape of the engine's states: (h, w, c), or (k, h, w, c).
        model: Name of the model in messages.
        resize: Whether images of other sizes are cropped and resampled; otherwise they
            fail.
        max_pixels: Limit on the pixels of an image; larger images fail.
        keep_noise: Whether the states are written.
        detector: Keys to look for in the noises.
        chunk_rows: Number of rows in one file of the array.
        commit_every: Number of images after which results are written.
        commit_seconds: Time after which results are written.
        max_failures: Largest number of failures of this start in this process; None for
            no limit.
        retry_failures: Whether images with a recorded failure are tried again.
        process_index: Index of this process, from 0.
        process_count: Number of processes, which may differ between starts.
        wait_seconds: Time limit for other processes to wait for the first to prepare
            the folder. They wait for nothing else.
        on_progress: Function that receives the counts of this process after every
            result.
        on_note: Function that receives notes about changed pictures.
        about: Further information for ``job.json``.

    Returns:
        The summary, that of ``summary.json`` if every image has a result. If other
        processes are still running, it only has ``complete`` (False), ``images``,
        ``done``, ``converged``, ``unconverged``, ``failed`` and ``seconds``.

    Raises:
        ValueError: For a folder with other files or a running job, or for invalid
            numbers. Nothing is written then.
        OSError: If results cannot be written, as on a full disk. Earlier results are
            kept.
        TooManyFailuresError: If there were more failures than allowed.
        EngineError: If the engine fails, or does not answer each request once.
    """
    if not 0 <= process_index < process_count:
        raise ValueError(
            f"process_index must lie in 0 to {process_count - 1}, got {process_index}"
        )
    count = len(manifest.rows)
    chunked = chunk_rows if keep_noise else None
    told = dict(settings) | {
        "resize": resize,
        "detection": None if detector is None else detector.settings(),
    }
    job = describe_job(manifest, told, row_shape, chunked, about or {})
    own = process_rows(count, chunk_rows, process_index, process_count)
    with claim(out, process_index, process_count) as folder:
        if process_index == 0:
            prepare(folder, job, manifest, row_shape, chunked)
        else:
            wait_until_prepared(folder, keep_noise, wait_seconds)
        check(folder, job)
        records.remove_temporaries(folder.parts, process_index, process_count)
        if keep_noise:
            array.remove_temporaries(folder.noise, own, chunk_rows)
        ledger = records.read_ledger(folder.parts, count)
        changes = find_changes(manifest, ledger, own)
        for note in changes.notes():
            on_note(note)
        if changes.outdated:
            number, outdated = ledger.next_number, changes.outdated
            records.write_part(folder.parts, process_index, number, outdated, 0.0)
            ledger = records.read_ledger(folder.parts, count)
        states = ledger.states[own.start : own.stop].copy()
        if retry_failures:
            states[states == records.FAILED] = records.MISSING
        todo = own.start + np.flatnonzero(states == records.MISSING)
        remove_temporaries(folder.status(process_index))
        status = Status(folder.status(process_index), process_index, process_count)

        def progress(counts: Counts) -> None:
            status.update(counts)
            on_progress(counts)

        recorder = Recorder(
            folder.parts,
            array.NoiseArray(folder.noise) if keep_noise and len(todo) else None,
            row_shape,
            process=process_index,
            number=ledger.next_number,
            counts=Counts.of(states),
            commit_every=commit_every,
            commit_seconds=commit_seconds,
            on_progress=progress,
        )
        progress(recorder.counts)
        with status.running(), warnings.catch_warnings():
            # The record of a picture describes its faults.
            warnings.filterwarnings("ignore", module="PIL")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            readings = read_rows(manifest, todo, image_size, model, resize, max_pixels)
            with contextlib.closing(readings):
                work(manifest, engine, readings, recorder, detector, max_failures)
        return merge(folder, count, detector)


def process_rows(rows: int, chunk_rows: int, index: int, count: int) -> range:
    """Return the rows of one process: consecutive whole chunks.

    >>> [process_rows(300, 64, index, 2) for index in range(2)]
    [range(0, 128), range(128, 300)]
    """
    chunks = -(-rows // chunk_rows)
    start, stop = (chunks * each // count for each in (index, index + 1))
    return range(min(start * chunk_rows, rows), min(stop * chunk_rows, rows))

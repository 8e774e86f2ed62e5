"""The loop of a job: from images to results, in any order."""

import contextlib
import logging
from collections.abc import Generator, Iterator
from typing import Any

import numpy as np

from jaxinv.scale.jobs.detect import Detector
from jaxinv.scale.jobs.interface import Answer, Engine, Request
from jaxinv.scale.jobs.manifest import Manifest
from jaxinv.scale.jobs.reading import Reading
from jaxinv.scale.jobs.recorder import Recorder, WriteError

_LOGGER = logging.getLogger("jaxinv.scale.jobs")


class TooManyFailuresError(Exception):
    """Error for more failed images than allowed; finished results are kept."""


class EngineError(RuntimeError):
    """Error for an engine that fails, or does not answer each request once."""


def work(
    manifest: Manifest,
    engine: Engine,
    readings: Iterator[Reading],
    recorder: Recorder,
    detector: Detector | None,
    max_failures: int | None,
) -> None:
    """Invert all images and record the results.

    Args:
        manifest: The images.
        engine: The engine.
        readings: The images without a result.
        recorder: The recorder of results.
        detector: Keys to look for.
        max_failures: See :func:`jaxinv.scale.jobs.run_job`.

    Raises:
        WriteError: If results cannot be written.
        TooManyFailuresError: If there were more failures than allowed.
        EngineError: If the engine does not answer each request once, or raises an error
            that would otherwise look like invalid input.
    """
    asked: dict[int, Reading] = {}

    def given_up() -> bool:
        return max_failures is not None and recorder.counts.new_failed > max_failures

    def requests() -> Iterator[Request]:
        for reading in readings:
            row = manifest.rows[reading.index]
            if reading.failure is not None:
                recorder.add(_record(manifest, reading), None)
                if given_up():
                    return
                continue
            asked[reading.index] = reading._replace(pixels=None)
            assert reading.pixels is not None
            yield Request(
                reading.index,
                reading.pixels,
                row.prompt,
                row.negative_prompt,
                row.guidance,
            )

    answers = _answers(engine, requests())
    try:
        for answer in answers:
            reading = asked.pop(answer.index, None)
            if reading is None:
                raise EngineError(f"the engine answered {answer.index} unasked")
            recorder.add(*_result(manifest, reading, answer, detector))
            if given_up():
                break
        if asked and not given_up():
            raise EngineError(f"the engine left {len(asked)} requests unanswered")
    except BaseException:
        # Finished answers are kept, and the reason for stopping is raised.
        with contextlib.suppress(OSError):
            recorder.commit()
        raise
    finally:
        answers.close()  # its threads may still request images
    recorder.commit()
    if given_up():
        raise TooManyFailuresError(
            f"{recorder.counts.new_failed} images failed, more than the allowed "
            f"{max_failures}"
        )


def _answers(
    engine: Engine, requests: Iterator[Request]
) -> Generator[Answer, None, None]:
    try:
        yield from engine(requests)
    except WriteError:  # raised while recording an image that could not be read
        raise
    except (ValueError, OSError) as error:
        raise EngineError(f"the engine failed: {error}") from error


def _result(
    manifest: Manifest, reading: Reading, answer: Answer, detector: Detector | None
) -> tuple[dict[str, Any], np.ndarray | None]:
    """Return the record of an answer and its row of the array."""
    failure = answer.failure
    if failure is None and not np.all(np.isfinite(answer.state)):
        failure = "the inversion gave values that are NaN or infinite"
    if failure is not None:
        return _record(manifest, reading._replace(failure=failure)), None
    verdict = {} if detector is None else detector.verdict(answer.noise)
    record = _record(manifest, reading) | answer.certificate | verdict
    return record, np.asarray(answer.state, np.float32)


def _record(manifest: Manifest, reading: Reading) -> dict[str, Any]:
    path = manifest.rows[reading.index].path
    record: dict[str, Any] = {
        "index": reading.index,
        "path": path,
        "picture_sha256": reading.digest,
    }
    if reading.changes:
        record["changes"] = reading.changes
    if reading.failure is not None:
        record["failure"] = reading.failure
        _LOGGER.warning("image %d (%s): %s", reading.index, path, reading.failure)
    return record

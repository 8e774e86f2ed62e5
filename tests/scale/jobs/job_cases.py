"""Jobs without a model: small pictures and an engine that computes next to nothing.

As a program it runs one job after the other, each in a process of its own that is
killed at a random moment: ``python job_cases.py MANIFEST OUT KILLS``; or, with 0 kills,
one that comes as far as the tenth image, says so, and waits.
"""

import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from jaxinv.scale.jobs import Answer, certificates, read_manifest, run_job

SIZE = (8, 8)
ROW_SHAPE = (2, 2, 3)
NOT_FINITE = (255, 0, 0)  # of the first pixel: this picture's noise overflows


def one_by_one(pipe, sampler, *, strategy="auto", decoder="anderson", **_of_devices):
    """The simplest engine: one image after the other, as the library does it."""

    def engine(requests):
        for request in requests:
            denoise = pipe.denoiser(
                request.prompt, request.negative_prompt, request.guidance
            )
            found = pipe.invert(
                request.pixels,
                sampler,
                denoise,
                decoder=decoder,
                strategy=strategy,
                schedule=pipe.schedule,
            )
            yield certificates.answer(
                request.index, jax.device_get(found), (strategy,), decoder
            )

    return engine


def write_pictures(folder, count, seed=0):
    """Writes pictures that are all different, 0000.png and on."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        pixels = rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:04d}.png", compress_level=0)
    return folder


def fake_engine(requests, *, pause=0.0, lanes=4, seen=None):
    """A few pixels are the noise; several at once, answered in another order."""
    waiting = []
    for request in requests:
        if seen is not None:
            seen.append(request.index)
        waiting.append(_answer(request))
        time.sleep(pause)
        if len(waiting) == lanes:
            yield from reversed(waiting)
            waiting = []
    yield from reversed(waiting)


def _answer(request):
    state = expected_row(request.pixels, request.guidance)
    if tuple(request.pixels[0, 0]) == NOT_FINITE:
        state = np.full_like(state, np.nan)
    converged = request.prompt != "hard"
    certificate = {"converged": converged, "residual": 1e-7, "num_evals": 10}
    certificate["decoder"] = {"converged": True}
    return Answer(request.index, state, state, certificate)


def expected_row(pixels, guidance=1.0):
    """The noise that the engine answers."""
    return np.float32(guidance) * pixels[::4, ::4].astype(np.float32) / 255


def run(manifest, out, engine=fake_engine, *, settings=None, **options):
    """Runs a job of a manifest, or of its path, with the fake engine."""
    if isinstance(manifest, str | os.PathLike):
        manifest = read_manifest(manifest)
    options = {"image_size": SIZE, "row_shape": ROW_SHAPE, "chunk_rows": 16} | options
    return run_job(
        manifest, Path(out), engine, settings=settings or {"steps": 20}, **options
    )


def read_lines(path):
    """The objects of a JSONL file."""
    return [json.loads(line) for line in Path(path).read_bytes().splitlines()]


def start_killed(manifest, out, seconds):
    """Runs a job in a process of its own, kill -9 after some seconds.

    Returns:
        Whether it came to its end before.
    """
    child = os.fork()
    if child == 0:
        try:
            run(manifest, out, _slow_engine, commit_every=2)
            os._exit(0)
        except BaseException as error:
            print(f"child: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            if status:
                sys.exit("the job failed")
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def _slow_engine(requests):
    return fake_engine(requests, pause=0.004)


def _waiting_engine(requests):
    for number, answer in enumerate(fake_engine(requests)):
        if number == 10:
            print("waiting", flush=True)
            time.sleep(3600)
        yield answer


def kill_again_and_again(manifest, out, kills):
    """Starts a job as often as it takes, and kills it while there are kills left."""
    moments = random.Random(0)
    longest, killed = 0.05, 0
    for _ in range(kills):
        before = count_parts(out)
        killed += not start_killed(manifest, out, moments.uniform(0, longest))
        # So long that there is some progress, and so short that all kills meet work.
        new = count_parts(out) - before
        longest *= 1.5 if new == 0 else 0.7 if new > 2 else 1
    before = count_parts(out)
    start_killed(manifest, out, 600)
    return {"killed": killed, "commits": [before, count_parts(out)]}


def count_parts(out):
    """Commits so far."""
    return len(list(Path(out, "certificates").glob("[0-9]*")))


def main(manifest, out, kills):
    """See the head of this file."""
    # Before the processes part, so that kills meet the job and not an import.
    for name in ("filelock", "grain", "tensorstore"):
        importlib.import_module(name)
    if kills == 0:
        run(manifest, out, _waiting_engine, commit_every=5)
    print(json.dumps(kill_again_and_again(manifest, out, kills)))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

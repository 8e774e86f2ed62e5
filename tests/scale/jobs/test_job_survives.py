"""Jobs that are killed, run twice at once, or find the disk full."""

import contextlib
import errno
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import job_cases
import numpy as np
import pytest
from job_cases import ROW_SHAPE, fake_engine, read_lines, run, write_pictures

from jaxinv.scale.jobs import read_array, read_manifest
from jaxinv.scale.jobs.folder import claim
from jaxinv.scale.jobs.recorder import WriteError

CHUNK_BYTES = 16 * 4 * int(np.prod(ROW_SHAPE))
ROOT = Path(__file__).parents[2]


def start_process(manifest, out, kills):
    """Runs job_cases.py as a program."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, job_cases.__file__, str(manifest), str(out), str(kills)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        stdout=subprocess.PIPE,
        text=True,
    )


def what_is_partial(out):
    """Visible files that are not whole."""
    wrong = []
    for path in out.rglob("*"):
        if path.name.startswith(".") or path.name.endswith(".__lock"):
            continue
        try:
            content = path.read_bytes() if path.is_file() else None
        except FileNotFoundError:
            continue
        if content is None:
            continue
        try:
            if re.fullmatch(r"\d+", path.name):
                assert len(content) == CHUNK_BYTES
            else:
                assert content.endswith((b"\n", b"}"))
                lines = path.suffix == ".jsonl"
                for text in content.splitlines() if lines else [content]:
                    json.loads(text)
        except (AssertionError, ValueError):
            wrong.append((str(path), len(content)))
    return wrong


class Watcher(threading.Thread):
    """Looks at a folder again and again until it is told to stop."""

    def __init__(self, out):
        super().__init__()
        self.out, self.partial, self.looks = out, [], 0
        self.stop = threading.Event()

    def run(self):
        while not self.stop.is_set():
            self.partial += what_is_partial(self.out)
            self.looks += 1
            time.sleep(0.002)


def noise(out):
    return np.asarray(read_array(out / "noise.zarr").read().result())


def test_a_job_killed_twenty_times_gives_what_an_undisturbed_one_gives(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", 200)
    (pictures / "0050.png").write_bytes(b"")
    out, whole = tmp_path / "out", tmp_path / "whole"
    watcher = Watcher(out)
    watcher.start()
    try:
        with start_process(pictures, out, 20) as process:
            said, _ = process.communicate()
    finally:
        watcher.stop.set()
        watcher.join()
    assert process.returncode == 0
    kills = json.loads(said)
    assert kills["killed"] >= 15  # once it has come to its end there is none to kill
    assert kills["commits"][0] > 0
    assert watcher.looks > 100
    assert watcher.partial == []
    run(pictures, whole)
    merged = (out / "certificates.jsonl").read_bytes()
    assert merged == (whole / "certificates.jsonl").read_bytes()
    np.testing.assert_array_equal(noise(out), noise(whole))
    # No image was done twice: what is in one part is in no other.
    parts = sorted((out / "certificates").glob("*.jsonl"))
    done = [line["index"] for part in parts for line in read_lines(part)[1:]]
    assert sorted(done) == list(range(200))
    left = [
        p for p in out.rglob("*") if re.search(r"\.__lock$|\.jsonl\.|json\.", p.name)
    ]
    assert left == []


def test_two_jobs_on_one_output_are_one_too_many_until_the_first_is_killed(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", 40)
    out = tmp_path / "out"
    with start_process(pictures, out, 0) as process:
        try:
            assert process.stdout.readline() == "waiting\n"
            # Ten answers, in commits of five.
            assert len(list((out / "certificates").iterdir())) == 2
            with pytest.raises(ValueError, match="another job is running on"):
                run(pictures, out)
            with pytest.raises(ValueError, match="another number of processes"):
                run(pictures, out, process_count=2)
        finally:
            process.send_signal(signal.SIGKILL)
    seen = []
    run(pictures, out, lambda requests: fake_engine(requests, seen=seen))
    assert len(seen) == 30


def test_processes_of_one_job_run_at_the_same_time(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", 40)
    out = tmp_path / "out"
    run(pictures, out, process_index=0, process_count=2)
    with claim(out, 0, 2):
        assert run(pictures, out, process_index=1, process_count=2)["complete"]
        with pytest.raises(ValueError, match="process 0 of 2"):
            run(pictures, out, process_index=0, process_count=2)


@contextlib.contextmanager
def small_files():
    """Lets no file grow beyond some bytes: writes fail as on a full disk.

    For the whole process, the file that pytest may write to included: not for long.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# The array, or (where there is none) the records: a part of five has some 700 bytes.
@pytest.mark.parametrize("keep_noise", [True, False])
def test_a_full_disk_ends_the_job_with_nothing_half_written(tmp_path, keep_noise):
    pictures = write_pictures(tmp_path / "pictures", 40)
    out = tmp_path / "out"
    manifest = read_manifest(pictures)
    options = {"keep_noise": keep_noise, "commit_every": 5}

    with small_files() as limit:

        def engine(requests):
            for number, answer in enumerate(fake_engine(requests)):
                if number == 12:
                    limit(CHUNK_BYTES - 1 if keep_noise else 400)
                yield answer

        with pytest.raises(WriteError, match="cannot write results") as error:
            run(manifest, out, engine, **options)
    assert error.value.errno == errno.EFBIG
    assert what_is_partial(out) == []
    assert len(list((out / "certificates").glob("[0-9]*"))) == 2

    seen = []
    run(manifest, out, lambda requests: fake_engine(requests, seen=seen), **options)
    assert len(seen) == 30
    run(manifest, tmp_path / "whole", **options)
    merged = (out / "certificates.jsonl").read_bytes()
    assert merged == (tmp_path / "whole" / "certificates.jsonl").read_bytes()
    if keep_noise:
        np.testing.assert_array_equal(noise(out), noise(tmp_path / "whole"))


def test_a_disk_that_is_full_from_the_start_leaves_no_job(tmp_path):
    pictures = write_pictures(tmp_path / "pictures", 40)
    manifest = read_manifest(pictures)
    with small_files() as limit:
        limit(50)
        with pytest.raises(OSError, match="File too large"):
            run(manifest, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").glob("[!.]*")] == []

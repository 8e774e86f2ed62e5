"""The disturbances: signals, a folder that cannot be written, a clock, a place."""

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.scale_job.kill import compare
from benchmarks.scale_job.process import FINISHED, ROOT, Job, JobFailedError

_POLL = 0.02
_DAY = 86400.0
# Linux: what lets root write where permissions forbid it (capabilities.h, prctl.h).
_DAC_CAPABILITIES = 1, 2
_PR_CAPBSET_DROP = 24


class Setting(NamedTuple):
    """What all scenarios share.

    Attributes:
        job: the command.
        folder: where results go.
        images: how many there are.
    """

    job: Job
    folder: Path
    images: int


class Whole(NamedTuple):
    """An undisturbed job.

    Attributes:
        out: its results.
        seconds: from start to end.
        seconds_per_image: once running, as its status file says.
    """

    out: Path
    seconds: float
    seconds_per_image: float


class Outcome(NamedTuple):
    """What became of a disturbed job.

    Attributes:
        code: the exit code; negative for a signal that killed it.
        seconds: from the disturbance to the end.
        before: images done then.
        after: images done in the end.
        noises: of them, those that differ from the reference in any bit.
        records: likewise of the certificates.
        said: the last line that the disturbed start printed.
    """

    code: int
    seconds: float
    before: int
    after: int
    noises: int
    records: int
    said: str

    def cells(self) -> list[object]:
        """Return the cells of its row."""
        code, seconds, *rest = self
        return [code, f"{seconds:.1f}", *rest]


def undisturbed(setting: Setting, name: str) -> Whole:
    """Run a job from start to end."""
    out, begin = setting.folder / name, time.monotonic()
    _finish(setting, out)
    status = json.loads((out / "status-00000.json").read_text())
    return Whole(out, time.monotonic() - begin, status["seconds_per_image"])


def _start(
    setting: Setting, out: Path, bound: bool = False, files: int | None = None
) -> subprocess.Popen[bytes]:
    """Start the job; ``bound`` by permissions even if the user is root."""

    def limit() -> None:
        if bound and os.geteuid() == 0:
            for capability in _DAC_CAPABILITIES:
                ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    command = [sys.executable, "-m", "jaxinv", "batch", setting.job.manifest, out]
    with open(setting.job.log, "wb") as log:
        return subprocess.Popen(
            [*map(str, command), *setting.job.options],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=limit,
        )


def _finish(setting: Setting, out: Path, **options: object) -> None:
    process = _start(setting, out, **options)  # type: ignore[arg-type]
    if process.wait() not in FINISHED:
        raise JobFailedError(f"{process.returncode}: {setting.job.log.read_text()}")


def _done(out: Path) -> int:
    try:
        return int(json.loads((out / "status-00000.json").read_text())["done"])
    except (FileNotFoundError, ValueError):
        return 0


def _wait_for_work(
    setting: Setting, process: subprocess.Popen[bytes], out: Path
) -> None:
    while process.poll() is None and _done(out) < setting.images // 3:
        time.sleep(_POLL)


def _compared(
    setting: Setting, whole: Whole, out: Path, code: int, seconds: float, before: int,
    said: str,
) -> Outcome:  # fmt: skip
    found = compare(out, whole.out, setting.images)
    return Outcome(
        code, seconds, before, _done(out), found["different noises"],
        found["different certificates"], said,
    )  # fmt: skip


def _last_line(setting: Setting) -> str:
    lines = setting.job.log.read_text().strip().splitlines()
    shown = lines[-1].replace(str(setting.folder), "") if lines else ""
    return shown.replace("|", "/")


def _signalled(number: signal.Signals) -> Callable[[Setting, Whole], Outcome]:
    def scenario(setting: Setting, whole: Whole) -> Outcome:
        out = setting.folder / number.name
        process = _start(setting, out)
        _wait_for_work(setting, process, out)
        begin = time.monotonic()
        process.send_signal(number)
        code, seconds = process.wait(), time.monotonic() - begin
        before, said = _done(out), _last_line(setting)
        _finish(setting, out)
        return _compared(setting, whole, out, code, seconds, before, said)

    return scenario


def _read_only(setting: Setting, whole: Whole) -> Outcome:
    """The folder cannot be written any more."""
    out = setting.folder / "read-only"
    process = _start(setting, out, bound=True)
    _wait_for_work(setting, process, out)
    _set_mode(out, 0o555)
    begin = time.monotonic()
    code, seconds = process.wait(), time.monotonic() - begin
    before, said = _done(out), _last_line(setting)
    _set_mode(out, 0o755)
    _finish(setting, out)
    return _compared(setting, whole, out, code, seconds, before, said)


def _set_mode(out: Path, mode: int) -> None:
    for path in [out, *(each for each in out.rglob("*") if each.is_dir())]:
        path.chmod(mode)


def _clock(setting: Setting, whole: Whole) -> Outcome:
    """All files are from tomorrow, as they seem after the clock is set back."""
    out = setting.folder / "clock"
    process = _start(setting, out)
    _wait_for_work(setting, process, out)
    process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    code, seconds = process.wait(), time.monotonic() - begin
    before, said = _done(out), _last_line(setting)
    for each in out.rglob("*"):
        os.utime(each, (time.time() + _DAY,) * 2)
    _finish(setting, out)
    return _compared(setting, whole, out, code, seconds, before, said)


def _moved(setting: Setting, whole: Whole) -> Outcome:
    """The folder is moved between two starts."""
    out = setting.folder / "here"
    process = _start(setting, out)
    _wait_for_work(setting, process, out)
    process.send_signal(signal.SIGINT)
    begin = time.monotonic()
    code, seconds = process.wait(), time.monotonic() - begin
    before, said = _done(out), _last_line(setting)
    there = setting.folder / "elsewhere" / "there"
    there.parent.mkdir()
    shutil.move(out, there)
    _finish(setting, there)
    return _compared(setting, whole, there, code, seconds, before, said)


def _few_files(setting: Setting, whole: Whole) -> Outcome:
    """At most 64 files may be open."""
    out = setting.folder / "files"
    begin = time.monotonic()
    process = _start(setting, out, files=64)
    code = process.wait()
    said, before = _last_line(setting), _done(out)
    seconds = time.monotonic() - begin
    if code not in FINISHED:
        _finish(setting, out)
    return _compared(setting, whole, out, code, seconds, before, said)


SCENARIOS: dict[str, Callable[[Setting, Whole], Outcome]] = {
    "SIGINT": _signalled(signal.SIGINT),
    "SIGTERM": _signalled(signal.SIGTERM),
    "SIGKILL": _signalled(signal.SIGKILL),
    "output becomes read-only": _read_only,
    "files dated tomorrow, as after a clock set back": _clock,
    "output folder moved": _moved,
    "64 file descriptors": _few_files,
}

"""The disturbances: signals, a folder that cannot be written, a clock, a place."""

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks.scale_job.kill import compare
from benchmarks.scale_job.process import (
    FINISHED,
    Job,
    finish,
    images_done,
    start,
    wait_until,
)

_DAY = 86400.0
# Linux: what lets root write where permissions forbid it (capabilities.h, prctl.h).
_DAC_CAPABILITIES = 1, 2
_PR_CAPBSET_DROP = 24


class Setting(NamedTuple):
    """What all scenarios share.

    Attributes:
        job: The command.
        folder: Where results go.
        images: How many there are.
    """

    job: Job
    folder: Path
    images: int


class Whole(NamedTuple):
    """An undisturbed job.

    Attributes:
        out: Its results.
        seconds: From start to end.
        seconds_per_image: Once running, as its status file says.
    """

    out: Path
    seconds: float
    seconds_per_image: float


class Scenario(NamedTuple):
    """What is done to a job that has come a third of its way, and before the next one.

    Attributes:
        disturb: Is given the process and the folder of the results; None to let the job
            run to its end.
        mend: Is given the folder; returns the folder of the next start.
        limit: Is called in the new process.
    """

    disturb: Callable[[subprocess.Popen[bytes], Path], object] | None
    mend: Callable[[Path], Path] = lambda out: out
    limit: Callable[[], object] | None = None


def undisturbed(setting: Setting, name: str) -> Whole:
    """Run a job from start to end."""
    out, begin = setting.folder / name, time.monotonic()
    finish(start(setting.job, out), setting.job)
    status = json.loads((out / "status-00000.json").read_text())
    return Whole(out, time.monotonic() - begin, status["seconds_per_image"])


def disturbed(setting: Setting, whole: Whole, name: str) -> list[object]:
    """Disturb a job, go on, and compare; the cells of its row."""
    scenario = SCENARIOS[name]
    out = setting.folder / name.split(",")[0].replace(" ", "-")
    setting.job.log.unlink(missing_ok=True)
    begin = time.monotonic()
    process = start(setting.job, out, limit=scenario.limit)
    if scenario.disturb is not None:
        wait_until(process, lambda: _done(out) >= setting.images // 3, pause=0.02)
        begin = time.monotonic()
        scenario.disturb(process, out)
    code, seconds = process.wait(), time.monotonic() - begin
    before, said = _done(out), _last_line(setting)
    out = scenario.mend(out)
    if code not in FINISHED or scenario.disturb is not None:
        finish(start(setting.job, out), setting.job)
    found = compare(out, whole.out, setting.images)
    differ = found["different noises"], found["different certificates"]
    return [code, f"{seconds:.1f}", before, images_done(out), *differ, said]


def _done(out: Path) -> int:
    try:
        return int(json.loads((out / "status-00000.json").read_text())["done"])
    except (FileNotFoundError, ValueError):
        return 0


def _last_line(setting: Setting) -> str:
    lines = setting.job.log.read_text().strip().splitlines()
    shown = lines[-1].replace(str(setting.folder), "") if lines else ""
    return shown.replace("|", "/")


def _signal(number: signal.Signals) -> Callable[[subprocess.Popen[bytes], Path], None]:
    return lambda process, out: process.send_signal(number)


def _set_mode(out: Path, mode: int) -> Path:
    for path in [out, *(each for each in out.rglob("*") if each.is_dir())]:
        path.chmod(mode)
    return out


def _obey_permissions() -> None:
    """Take from root what lets it write everywhere."""
    for capability in _DAC_CAPABILITIES if os.geteuid() == 0 else ():
        ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)


def _date_tomorrow(out: Path) -> Path:
    for each in out.rglob("*"):
        os.utime(each, (time.time() + _DAY,) * 2)
    return out


def _move(out: Path) -> Path:
    there = out.parent / "elsewhere" / "there"
    there.parent.mkdir()
    return Path(shutil.move(out, there))


SCENARIOS = {
    "SIGINT": Scenario(_signal(signal.SIGINT)),
    "SIGTERM": Scenario(_signal(signal.SIGTERM)),
    "SIGKILL": Scenario(_signal(signal.SIGKILL)),
    "output becomes read-only": Scenario(
        lambda process, out: _set_mode(out, 0o555),
        lambda out: _set_mode(out, 0o755),
        _obey_permissions,
    ),
    "files dated tomorrow, as after a clock set back": Scenario(
        _signal(signal.SIGTERM), _date_tomorrow
    ),
    "output folder moved": Scenario(_signal(signal.SIGINT), _move),
    "64 file descriptors": Scenario(
        None, limit=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    ),
}

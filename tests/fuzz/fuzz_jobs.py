"""Readers of a job's own files, which a later start reads."""

from pathlib import Path
from typing import Any

from fuzz_harness import Reader

from jaxinv.files import write_json
from jaxinv.scale.jobs.folder import FORMAT, Folder, check
from jaxinv.scale.jobs.merge import merge
from jaxinv.scale.jobs.recorder import Counts
from jaxinv.scale.jobs.records import read_ledger, write_part

_ROWS = 4
_JOB = {
    "format": FORMAT,
    "settings": {"steps": 20, "sampler": "dpmpp_2m", "tolerance": None},
    "manifest": {"rows": _ROWS, "sha256": "0" * 64},
    "noise": {"row_shape": [4, 4, 4], "chunk_rows": 2},
    "about": {"root": "/pictures"},
}
_RECORDS: list[dict[str, Any]] = [
    {"index": 0, "path": "a.png", "converged": True, "num_evals": 80,
     "picture_sha256": "ab", "decoder": {"converged": True}, "changes": ["resized"]},
    {"index": 1, "path": "b.png", "converged": False, "state_converged": True},
    {"index": 2, "path": "c.png", "failure": "no such picture: c.png"},
    {"index": 3, "path": "d.png", "converged": False},
]  # fmt: skip
_PART = "certificates/00000-000000.jsonl"


def _write_job(folder: Path) -> None:
    write_json(folder / "job.json", _JOB)
    (folder / "certificates").mkdir()
    write_part(folder / "certificates", 0, 0, _RECORDS, 1.5)


def _read_records(folder: Path) -> Any:
    ledger = read_ledger(folder / "certificates", _ROWS)
    return Counts.of(ledger.states), merge(Folder(folder), _ROWS, None)


def _counted(folder: Path, found: Any) -> None:
    counts, summary = found
    assert counts.converged + counts.unconverged + counts.failed <= _ROWS
    assert summary["seconds"] >= 0


def _write_merged(folder: Path) -> None:
    _write_job(folder)
    merge(Folder(folder), _ROWS, None)


READERS: list[Reader] = [
    Reader(
        name="job.json",
        make=_write_job,
        damages={"job.json": ("json", "json", "bytes", "kind")},
        read=lambda folder: check(Folder(folder), _JOB),
        follows_links=True,
    ),
    Reader(
        name="records of a job",
        make=_write_job,
        damages={_PART: ("jsonl", "jsonl", "jsonl", "bytes", "kind")},
        read=_read_records,
        holds=_counted,
        follows_links=True,
    ),
    Reader(
        name="summary.json",
        make=_write_merged,
        damages={"summary.json": ("json", "json", "bytes", "kind")},
        read=_read_records,
        follows_links=True,
    ),
]

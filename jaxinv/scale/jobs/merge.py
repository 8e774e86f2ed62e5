"""The end of a job: all certificates in one file by row, and a summary."""

import re
from collections import Counter
from typing import Any

from jaxinv.files import open_atomically, write_json
from jaxinv.files.json_fields import read_json
from jaxinv.scale.jobs.detect import Detector, Tally
from jaxinv.scale.jobs.folder import Folder, remove_temporaries
from jaxinv.scale.jobs.recorder import Counts
from jaxinv.scale.jobs.records import Ledger, parse_record, read_ledger

_KINDS = 50  # limit on the kinds of failures in a summary
_MAX_SUMMARY = 16 * 2**20  # bytes: a summary has a line for each key


def merge(folder: Folder, rows: int, detector: Detector | None) -> dict[str, Any]:
    """Write ``certificates.jsonl`` and ``summary.json`` of a complete job.

    Any process may do this, also several: the last to begin has all records.

    Args:
        folder: The folder of the job.
        rows: Number of rows of the manifest.
        detector: The keys that were looked for.

    Returns:
        The summary. Nothing is written for an incomplete job.

    Raises:
        OSError: If a file cannot be written.
    """
    from filelock import FileLock

    with FileLock(folder.root / ".lock-merge"):
        ledger = read_ledger(folder.parts, rows)
        counts = Counts.of(ledger.states)
        summary: dict[str, Any] = {
            "complete": counts.done == counts.total,
            **counts.record(),
            "seconds": round(ledger.seconds, 3),
        }
        if not summary["complete"]:
            return summary
        if current := _merged(folder, ledger):
            return current
        remove_temporaries(folder.certificates, folder.summary)
        tally = None if detector is None else Tally(detector)
        failures: Counter[str] = Counter()
        evaluations = changed = decoder_unconverged = 0
        with open_atomically(folder.certificates) as file:
            for line in ledger.records():
                file.write(line + b"\n")
                record = parse_record(line, "record")
                if record.get("failure") is not None:
                    failures[_kind(record["failure"])] += 1
                evaluations += record.get("num_evals") or 0
                changed += bool(record.get("changes"))
                decoder = record.get("decoder") or {}
                decoder_unconverged += decoder.get("converged") is False
                if tally is not None:
                    tally.add(record)
        summary |= {
            "decoder_unconverged": decoder_unconverged,
            "changed_images": changed,
            "num_evals": evaluations,
            "failures": dict(failures.most_common(_KINDS)),
            "watermarks": tally and tally.summary(),
            "parts": len(ledger.parts),
        }
        write_json(folder.summary, summary)
        return summary


def _merged(folder: Folder, ledger: Ledger) -> dict[str, Any] | None:
    """Return the summary on disk if it contains all current records, else None."""
    if not (folder.summary.exists() and folder.certificates.exists()):
        return None
    summary = read_json(folder.summary, max_bytes=_MAX_SUMMARY)
    return summary if summary.get("parts") == len(ledger.parts) else None


def _kind(failure: str) -> str:
    """Return the kind of a failure: its message without numbers and details."""
    return re.sub(r"\d+", "N", re.split("[:;(]", failure, maxsplit=1)[0]).strip()

"""Attempts of one reader, in a process of its own that may hang, grow or die.

Every attempt is announced before it starts and told of after it ended, a line of JSON
each, so that whoever watches knows which one it was.
"""

import argparse
import json
import logging
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HARNESS = Path(__file__).parents[2] / "tests" / "fuzz"
_WARM = 20  # attempts whose memory is not counted: what is imported and cached


def readers() -> list[Any]:
    """Return all readers of the harness."""
    if str(HARNESS) not in sys.path:
        sys.path.insert(0, str(HARNESS))
    from fuzz_readers import READERS

    return READERS


def _memory(field: str) -> float:
    """Return a field of /proc/self/status in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _limit_memory(mib: float) -> None:
    """Bound what this process may allocate beyond what it holds now."""
    allowed = int((_memory("VmData") + mib) * 2**20)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))


def attempts(name: str, seed: int, first: int, last: int, mib: float) -> Iterator[Any]:
    """Run attempts; yields the announcements and the outcomes."""
    from fuzz_harness import FAULTS, attempt, make_template

    (reader,) = (each for each in readers() if each.name == name)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder).resolve()
        template = make_template(reader, work)
        for i in range(_WARM):
            attempt(reader, template, work, random.Random(i) if i else None)
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts here
        base = _memory("VmRSS")
        _limit_memory(mib)
        for i in range(first, last):
            yield {"begun": i}
            start = time.perf_counter()
            outcome = attempt(reader, template, work, random.Random(f"{seed}/{i}"))
            peak = _memory("VmHWM")
            yield {
                "done": i,
                "verdict": outcome.verdict,
                "seconds": time.perf_counter() - start,
                "peak": peak,
                "grown": peak - base,
                "what": (outcome.damage, outcome.text[-1000:])
                if outcome.verdict in FAULTS
                else None,
            }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    for name in ("seed", "first", "last", "mib"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    # What the libraries print, also those in other languages, goes nowhere.
    told = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    readers()
    for line in attempts(**vars(options)):
        print(json.dumps(line), file=told, flush=True)


if __name__ == "__main__":
    main()

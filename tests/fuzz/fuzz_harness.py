"""What a damaged input may end in: a result, or one clear line.

A :class:`Reader` says how a valid input is made, what of it may be damaged, and how it
is read. :func:`attempt` damages a copy and reads it. The verdict is

* ``accepted``: there is a result, and what the reader claims of results holds;
* ``refused``: an exception that is meant for the user, one line that names the input;
* ``raw``: any other exception;
* ``unclear``: a refusal of several lines, of no use, or that does not name the input;
* ``wrong``: a result that is not what it should be, or that there should not be.

Only the last three are faults. Hangs are seen from outside (``benchmarks.fuzz``).
"""

import dataclasses
import random
import shutil
import traceback
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fuzz_damage import LEAVING, WAYS

FAULTS = ("raw", "unclear", "wrong")
_LONGEST = 2000  # characters of a clear line, paths included


def _nothing(folder: Path, value: Any) -> None:
    """What holds of every result."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """One way into the library for what somebody else wrote.

    Attributes:
        name: What it reads.
        make: Writes a valid input into an empty folder.
        damages: For each file of it (or pattern of files), relative to the folder, the
            ways (of ``WAYS``) in which it may be damaged.
        read: Reads the input from the folder; returns what was found.
        holds: Raises AssertionError unless a result is right, given the folder as it
            was damaged.
        refusals: The exceptions that are meant for the user.
        follows_links: Whether links out of the folder may be followed, as those of
            files that the user named.
        slow: Whether reading takes so long (compiling, tensors) that the tests leave
            it to the benchmark.
    """

    name: str
    make: Callable[[Path], None]
    damages: Mapping[str, tuple[str, ...]]
    read: Callable[[Path], Any]
    holds: Callable[[Path, Any], None] = _nothing
    refusals: tuple[type[Exception], ...] = (ValueError, OSError)
    follows_links: bool = False
    slow: bool = False


class Outcome(NamedTuple):
    """How an attempt ended.

    Attributes:
        verdict: See the module.
        damage: What was done to the input.
        text: The message, or the end of the traceback.
    """

    verdict: str
    damage: str
    text: str


def make_template(reader: Reader, work: Path) -> Path:
    """Write the valid input of a reader, to be copied for each attempt."""
    template = work / "template"
    template.mkdir(parents=True)
    reader.make(template)
    return template


def attempt(
    reader: Reader,
    template: Path,
    work: Path,
    rng: random.Random | None,
    place: tuple[str, str] | None = None,
) -> Outcome:
    """Damage a copy of the input, and read it.

    Args:
        reader: The reader.
        template: From :func:`make_template`.
        work: A folder for the copy; what was in it is removed.
        rng: Decides the damage; None for none.
        place: The pattern of files and the way of damaging; None to draw them.

    Returns:
        The outcome.
    """
    for name in ("input", "outside"):
        shutil.rmtree(work / name, ignore_errors=True)
    folder = work / "input"
    shutil.copytree(template, folder, symlinks=True)
    damage, leaves = "none", False
    if rng is not None:
        if place is None:
            pattern = rng.choice(sorted(reader.damages))
            path = rng.choice(sorted(folder.glob(pattern)))
            way = rng.choice(reader.damages[pattern])
        else:
            pattern, way = place
            path = rng.choice(sorted(folder.glob(pattern)))
        how = WAYS[way](path, rng)
        file = path.relative_to(folder)
        damage, leaves = f"{file}: {how}", how in LEAVING
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = reader.read(folder)
    except reader.refusals as error:
        return Outcome(_clarity(error, folder), damage, _said(error))
    except Exception:
        return Outcome("raw", damage, traceback.format_exc(limit=-4))
    if leaves and not reader.follows_links:
        return Outcome("wrong", damage, "a link out of the folder was followed")
    try:
        reader.holds(folder, value)
    except AssertionError:
        return Outcome("wrong", damage, traceback.format_exc(limit=-2))
    return Outcome("accepted", damage, "")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:_LONGEST]


def _clarity(error: Exception, folder: Path) -> str:
    """Whether a refusal is one line that names the input."""
    text = str(error)
    # Raised by Python for its own reasons, whatever they derive from.
    if isinstance(error, UnicodeError | BlockingIOError):
        return "raw"
    clear = "\n" not in text and len(text) < _LONGEST and str(folder) in text
    return "refused" if clear else "unclear"

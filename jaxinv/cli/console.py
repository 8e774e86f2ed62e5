"""The console of all commands: output streams, errors and exit codes.

Standard output has the results: a table, or with ``--json`` one JSON object. Standard
error has everything else: progress, notes and errors.
"""

import contextlib
import enum
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape

from jaxinv.checks import unknown
from jaxinv.files import to_json


class ExitCode(enum.IntEnum):
    """Exit codes of the command line; 1 is for unexpected failures."""

    OK = 0
    BAD_INPUT = 2
    NOT_CONVERGED = 3


class Output:
    """The two streams of a command.

    Args:
        as_json: Whether standard output is one JSON object.
    """

    def __init__(self, as_json: bool):
        self.as_json = as_json
        self.results = Console(highlight=False, emoji=False)
        self.messages = Console(stderr=True, highlight=False, emoji=False)

    def note(self, text: str) -> None:
        """Print a note to standard error."""
        self.messages.print(f"[yellow]note:[/] {escape(text)}", soft_wrap=True)

    def done(self, text: str, seconds: float) -> None:
        """Report a finished task on standard error."""
        self.messages.print(f"[green]✓[/] {escape(text)} [dim]{seconds:.1f} s[/]")

    def show(self, *renderables: Any) -> None:
        """Print results, except in JSON mode."""
        if not self.as_json:
            for renderable in renderables:
                # Text, unlike a table, is never wrapped: it may be a path.
                self.results.print(renderable, soft_wrap=isinstance(renderable, str))

    def finish(self, record: Mapping[str, Any], failure: str | None = None) -> None:
        """Print the result as JSON in JSON mode, and exit on failure.

        Args:
            record: The result.
            failure: The reason why the result did not converge, if it did not.

        Raises:
            typer.Exit: With ``NOT_CONVERGED``, if there is a failure.
        """
        if self.as_json:
            print(to_json(record), flush=True)
        if failure is not None:
            self.note(failure)
            raise typer.Exit(ExitCode.NOT_CONVERGED)


@contextlib.contextmanager
def explained(output: Output) -> Iterator[None]:
    """Convert errors about the input to one line and an exit code.

    Only put checks and file access inside: errors of the computation itself are not the
    user's mistakes and should keep their traceback.

    Args:
        output: The output for warnings and errors.

    Yields:
        Nothing.

    Raises:
        typer.Exit: With ``BAD_INPUT``, instead of ValueError and OSError.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default", UserWarning)
        try:
            yield
        except (ValueError, OSError) as error:
            message = " ".join(_said(error).split())
            output.messages.print(
                f"[bold red]error:[/] {escape(message)}", soft_wrap=True
            )
            raise typer.Exit(ExitCode.BAD_INPUT) from None
    for warning in caught:
        if warning.category is UserWarning:
            output.note(str(warning.message))


def _said(error: Exception) -> str:
    """Return an error's message, without the operating system's number."""
    if isinstance(error, OSError) and error.strerror:
        return (
            f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        )
    return str(error)


def check_choice(what: str, value: str, known: Iterable[str]) -> str:
    """Return a name in the library's spelling; hyphens count as underscores.

    Raises:
        ValueError: If the name is not known.
    """
    known = tuple(known)
    name = value.strip().lower().replace("-", "_")
    if name in known:
        return name
    raise ValueError(unknown(what, value, map(as_typed, known)))


def listed(names: Iterable[str], notes: Mapping[str, str] | None = None) -> str:
    """Return names in the spelling of the command line, with notes in parentheses.

    >>> listed(["o_belm", "bdia"], {"bdia": "old"})
    'o-belm or bdia (old)'
    """
    notes = notes or {}
    shown = [
        as_typed(name) + (f" ({notes[name]})" if notes.get(name) else "")
        for name in names
    ]
    return " or ".join([", ".join(shown[:-1]), shown[-1]] if shown[1:] else shown)


def as_typed(name: str) -> str:
    """Return a name of the library in the spelling of the command line."""
    return name.replace("_", "-")


def check_finite_image(image: np.ndarray, what: str) -> None:
    """Raise ValueError for an image with values that are not finite."""
    if not np.all(np.isfinite(image)):
        raise ValueError(
            f"the {what} image is not finite, because sampling overflowed, and is not "
            "written; try less --guidance or more --steps"
        )


def check_guidance(value: float) -> float:
    """Return a guidance scale after checking it.

    Raises:
        ValueError: If it is not a finite number.
    """
    if not math.isfinite(value):
        raise ValueError(f"--guidance must be a finite number, got {value}")
    return value

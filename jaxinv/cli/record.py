"""Results of a command: certificates, tables and images."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import jaxinv as ji
from jaxinv.cli.console import check_finite_image
from jaxinv.cli.prepare import Prepared
from jaxinv.cli.runs import Outcome
from jaxinv.files.images import write_image
from jaxinv.files.videos import write_video


def certificate(outcome: Outcome) -> dict[str, Any]:
    """Return the certificate of a noise, for a JSON file."""
    from jaxinv.scale.jobs.certificates import sampler_record

    result = outcome.result
    return sampler_record(result, outcome.stages) | {
        "step_residuals": np.asarray(result.step_residuals),
        "iterations": np.asarray(result.iterations),
        "evals_per_step": outcome.evals_per_step,
        "seconds": round(outcome.seconds, 3),
    }


def decoder(ready: Prepared, found: ji.DecoderInversion) -> dict[str, Any]:
    """Return the certificate of a latent, for a JSON file."""
    from jaxinv.scale.jobs.certificates import decoder_record

    return decoder_record(found, ready.decoder)


def save_image(path: Path, image: Any, what: str) -> None:
    """Write an image or a video.

    Raises:
        ValueError: If values are not finite; the message contains ``what``.
        OSError: If the file cannot be written.
    """
    image = np.asarray(image)
    check_finite_image(image, what)
    write_picture(path, image)


def write_picture(path: Path, image: np.ndarray) -> None:
    """Write an image, or a video as an animated one."""
    (write_image if image.ndim == 3 else write_video)(path, image)


def table(title: str, rows: Iterable[tuple[str, ...]], *headers: str) -> Table:
    """Return a table of names, one or more numbers, and their meaning.

    Args:
        title: The title.
        rows: The rows.
        *headers: Headers of the columns with numbers, of which the last is bold.
    """
    result = Table(title=title, title_justify="left")
    result.add_column("")
    for header in headers or ("",):
        bold = len(headers) > 1 and header == headers[-1]
        result.add_column(header, justify="right", style="bold" if bold else None)
    result.add_column("", style="dim")
    for row in rows:
        result.add_row(*row)
    return result


def yes_or_no(good: bool) -> str:
    """Return a verdict in color."""
    return "[green]yes[/]" if good else "[red]no[/]"


def decibels(value: Any) -> str:
    """Return a value in dB as text.

    >>> decibels(-103.21), decibels(float("inf"))
    ('-103.2 dB', 'exact')
    """
    value = float(value)
    return "exact" if math.isinf(value) else f"{value:.1f} dB"

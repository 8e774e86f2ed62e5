"""What a command says of its results: certificates, figures, tables, pictures."""

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
    """Write an image.

    Raises:
        ValueError: If it has values that are not finite; ``what`` names it.
        OSError: If it cannot be written.
    """
    image = np.asarray(image)
    check_finite_image(image, what)
    write_image(path, image)


def table(title: str, rows: Iterable[tuple[str, ...]], *headers: str) -> Table:
    """Return a table: what, one or more figures, and what they mean.

    Args:
        title: Its title.
        rows: Its rows.
        *headers: Of the columns with figures; of several the last one is bold.
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
    """Return a value in dB, for people.

    >>> decibels(-103.21), decibels(float("inf"))
    ('-103.2 dB', 'exact')
    """
    value = float(value)
    return "exact" if math.isinf(value) else f"{value:.1f} dB"

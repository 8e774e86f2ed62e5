"""Markdown tables, the machine they were measured on, and where results go."""

import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from scipy.stats import binomtest

from jaxinv.files import open_atomically

RESULTS = Path(__file__).parent / "results"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first column is text, the others are right-aligned."""
    lines = [
        "| " + " | ".join(header) + " |",
        "|" + "|".join(["---"] + ["---:"] * (len(header) - 1)) + "|",
    ]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def decibels(values: Sequence[float] | np.ndarray) -> str:
    """Median and worst of some NMSE values, in dB."""
    values = np.asarray(values, np.float64)
    if not np.all(np.isfinite(values)):
        bad = int(np.sum(~np.isfinite(values)))
        return f"{bad} of {values.size} not finite"
    return f"{np.median(values):.1f} / {np.max(values):.1f}"


def share(hits: int, count: int) -> str:
    """A share with its 95 % interval (Wilson)."""
    if not count:
        return "-"
    low, high = binomtest(hits, count).proportion_ci(method="wilson")
    return f"{100 * hits / count:.0f} % ({100 * low:.0f} to {100 * high:.0f})"


def commit() -> str:
    """The commit of the code that runs."""
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    ).stdout.strip()
    return found or "unknown"


def provenance(command: str) -> str:
    """How a result was made: command, versions, device."""
    device = jax.devices()[0]
    return (
        f"Made by `{command}` at commit {commit()}, jax {jax.__version__}, "
        f"{device.device_kind} ({jax.device_count()} device), "
        f"Python {platform.python_version()}."
    )


def save(path: Path, text: str) -> None:
    """Write a result atomically and print it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_atomically(path) as file:
        file.write(text.encode())
    print(text)

"""The report on all tables: theirs, ours, the command, what is not comparable."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.papers.protocol import Table
from benchmarks.papers.setting import Setting
from benchmarks.papers.store import runs

PAPERS = {
    "dpm": (
        "On Exact Inversion of DPM-Solvers",
        "Hong et al., CVPR 2024, arXiv:2311.18387",
    ),
    "decoder": (
        "Gradient-free Decoder Inversion in Latent Diffusion Models",
        "Hong et al., NeurIPS 2024, arXiv:2409.18442",
    ),
    "belm": (
        "BELM: Bidirectional Explicit Linear Multi-step Sampler for Exact Inversion",
        "Wang et al., NeurIPS 2024, arXiv:2410.07273",
    ),
}
INTRODUCTION = """# The papers' tables

Made by `python -m benchmarks.papers report` from the results in `papers/`, which the
commands below measure: every table and figure of the three papers is one command, on
any model that `jaxinv.load` takes. *Theirs* is what the paper prints, with the place
where we read it. *Ours* is what runs on two CPU cores: the embedded models, and a tiny
SDXL with random weights. These are other models and other images: only the order of the
methods can be compared, never a number with a number. NMSE in dB: lower is better, 0 dB
is useless. Intervals are 95 %."""


def report(tables: Sequence[Table], folder: Path) -> str:
    """Return the report as Markdown.

    Args:
        tables: All tables.
        folder: The folder of their results.
    """
    parts = [INTRODUCTION]
    for paper, (title, source) in PAPERS.items():
        parts.append(f"## {title}\n\n{source}.")
        named = [table for table in tables if table.name.split("-")[0] == paper]
        parts += [_section(table, folder) for table in named]
    return "\n\n".join(parts) + "\n"


def _section(table: Table, folder: Path) -> str:
    images = "" if table.images is None else f" {table.images} images in the paper."
    parts = [
        f"### {table.where}: {table.title}",
        f"`{table.name}`.{images}",
        f"**Theirs.** {table.published}",
    ]
    stores = runs(table, folder)
    for store in stores:
        found = store.found(table, Setting(**store.setting()))
        counted = f"{len(found.cells)} of {len(table.cells(found.setting))} cells."
        parts.append(f"**Ours, {store.given['model']}.** {store.how()} {counted}")
        parts.append(table.show(found))
        picture = store.path.with_suffix(".png")
        if picture.exists():
            parts.append(f"![{table.title}](papers/{picture.name})")
    if not stores:
        parts.append("**Ours.** Not measured yet.")
    commands = "\n".join(table.command(model) for model in table.models)
    parts.append(f"**Models of the paper** (not run here):\n\n```sh\n{commands}\n```")
    parts.append(f"**Not comparable.** {table.remarks}")
    return "\n\n".join(parts)

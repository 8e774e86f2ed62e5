"""The tables and figures of "Gradient-free Decoder Inversion"."""

from benchmarks.papers.decoder import (
    ablations,
    backgrounds,
    cocoercivity,
    cost,
    errors,
    watermarks,
)
from benchmarks.papers.protocol import Table

TABLES: tuple[Table, ...] = (
    *errors.TABLES,
    *cost.TABLES,
    *ablations.TABLES,
    *cocoercivity.TABLES,
    *watermarks.TABLES,
    *backgrounds.TABLES,
)

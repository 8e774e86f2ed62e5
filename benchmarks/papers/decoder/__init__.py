"""The tables and figures of "Gradient-free Decoder Inversion"."""

from benchmarks.papers.decoder import errors
from benchmarks.papers.protocol import Table

TABLES: tuple[Table, ...] = errors.TABLES

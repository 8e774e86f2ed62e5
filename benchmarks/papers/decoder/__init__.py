"""The tables and figures of "Gradient-free Decoder Inversion"."""

from benchmarks.papers.protocol import Table

TABLES: tuple[Table, ...] = ()

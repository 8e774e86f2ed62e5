"""The tables and figures of "BELM"."""

from benchmarks.papers.protocol import Table

TABLES: tuple[Table, ...] = ()

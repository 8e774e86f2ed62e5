"""The tables and figures of "On Exact Inversion of DPM-Solvers"."""

from benchmarks.papers.dpm.reconstruction import RECONSTRUCTION
from benchmarks.papers.protocol import Table

TABLES: tuple[Table, ...] = (*RECONSTRUCTION,)

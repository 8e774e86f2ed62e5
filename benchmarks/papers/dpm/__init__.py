"""The tables and figures of "On Exact Inversion of DPM-Solvers"."""

from benchmarks.papers.dpm.detection import DETECTION
from benchmarks.papers.dpm.editing_table import EDITING
from benchmarks.papers.dpm.reconstruction import RECONSTRUCTION
from benchmarks.papers.dpm.switch import SWITCH
from benchmarks.papers.dpm.watermark_tables import WATERMARK
from benchmarks.papers.protocol import Table

TABLES: tuple[Table, ...] = (
    *RECONSTRUCTION,
    *WATERMARK,
    *DETECTION,
    *EDITING,
    *SWITCH,
)

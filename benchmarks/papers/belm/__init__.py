"""The tables and figures of "BELM"."""

from benchmarks.papers.belm.coefficients import COEFFICIENTS
from benchmarks.papers.belm.editing import EDITING
from benchmarks.papers.belm.generation import GENERATION
from benchmarks.papers.belm.interpolation import INTERPOLATION
from benchmarks.papers.belm.parameters import PARAMETERS
from benchmarks.papers.belm.reconstruction import RECONSTRUCTION
from benchmarks.papers.protocol import Table

TABLES: tuple[Table, ...] = (
    COEFFICIENTS,
    RECONSTRUCTION,
    GENERATION,
    PARAMETERS,
    EDITING,
    INTERPOLATION,
)

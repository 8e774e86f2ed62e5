"""What :mod:`benchmarks.exactness` measures, and in which order."""

import argparse
import itertools
from typing import Any, NamedTuple

import jaxinv as ji
from benchmarks.samples import SAMPLERS
from jaxinv.inversion import auto_strategy

METHODS = ("naive", "paper", "stepwise", "trajectory", "auto")
#: The highest guidance that people use, and that the targets of this benchmark name.
USUAL = 7.5


class Cell(NamedTuple):
    """What is measured: one method on one problem."""

    sampler: str
    spacing: str
    steps: int
    guidance: float
    method: str


def name(cell: Cell) -> str:
    """Return a cell in words."""
    return (
        f"{cell.sampler} {cell.spacing} {cell.steps} steps guidance "
        f"{cell.guidance:g} {cell.method}"
    )


def cross() -> set[tuple[str, int, float]]:
    """Return steps at guidance 5, and guidance at 20 steps, also on linspace."""
    guidances = (1.0, 3.0, 5.0, 7.5, 10.0, 15.0)
    return {
        *(("log_snr", steps, 5.0) for steps in (10, 20, 50)),
        *(("log_snr", 20, guidance) for guidance in guidances),
        *(("linspace", 20, guidance) for guidance in guidances[:4]),
    }


def product() -> set[tuple[str, int, float]]:
    """Every number of steps with every guidance."""
    guidances = {guidance for _, _, guidance in cross()}
    grids = ("log_snr", "linspace")
    return set(itertools.product(grids, (10, 20, 50), guidances))


def planned(arguments: argparse.Namespace) -> list[Cell]:
    """Return the cells to be measured, the most important ones first."""
    problems = product() if arguments.full else cross()
    cells = [
        Cell(sampler, spacing, steps, guidance, method)
        for sampler in arguments.samplers
        for spacing, steps, guidance in problems
        for method in arguments.methods
        if spacing in arguments.grids
        # With a memory, stepwise is the paper's algorithm.
        and (method != "stepwise" or sampler == "DDIM")
        and (not arguments.steps or steps in arguments.steps)
        and (not arguments.guidance or guidance in arguments.guidance)
    ]
    if not arguments.full:
        # 3M on linspace adds little; Algorithm 2 costs minutes per sample.
        cells = [
            cell
            for cell in cells
            if (cell.sampler, cell.spacing) != ("3M", "linspace")
            and (cell.method != "paper" or _affordable(cell))
        ]
    return sorted(cells, key=_importance)


def _affordable(cell: Cell) -> bool:
    if cell.sampler == "DDIM":
        return cell.spacing == "log_snr" and cell.guidance <= USUAL
    where = (cell.spacing, cell.steps, cell.guidance)
    if cell.sampler == "3M":
        return where == ("log_snr", 20, 5.0)
    return where in {
        ("log_snr", 20, 1.0),
        ("log_snr", 20, 5.0),
        ("log_snr", 10, 5.0),
        ("linspace", 20, 5.0),
    }


def _importance(cell: Cell) -> tuple[Any, ...]:
    """Order of the cells: what a time limit cuts off comes last."""
    # Auto then needs nothing but what its first method has left.
    methods = [first_method(cell.sampler), "auto", *METHODS]
    return (
        cell.guidance > USUAL,
        methods.index(cell.method),
        list(SAMPLERS).index(cell.sampler),
        cell.spacing != "log_snr",
        # The centre of the cross first.
        (cell.steps != 20, cell.steps),
        abs(cell.guidance - 5),
    )


def first_method(sampler: str) -> str:
    """Return the method that auto begins with, which others finish."""
    grid = ji.time_grid(ji.scaled_linear(), 20)
    return auto_strategy(SAMPLERS[sampler](grid))


def options(cell: Cell, schedule: ji.NoiseSchedule) -> dict[str, Any]:
    """Return the method as arguments of ``invert``."""
    if cell.method == "auto":
        return {}
    if cell.method != "paper":
        return {"strategy": cell.method}
    if cell.sampler == "DDIM":
        return {"strategy": "stepwise", "solver": ji.ForwardStep.paper}
    return {"strategy": "stepwise", "schedule": schedule}


def sample_count(cell: Cell, arguments: argparse.Namespace) -> int:
    """Slow methods, and what is not the default for a sampler, get fewer samples."""
    if cell.method == "paper":
        few = arguments.paper_samples
        return min(2 * few if cell.sampler == "DDIM" else few, arguments.samples)
    default = cell.method in ("auto", "naive", first_method(cell.sampler))
    return (
        arguments.samples if default or arguments.full else (arguments.samples + 1) // 2
    )

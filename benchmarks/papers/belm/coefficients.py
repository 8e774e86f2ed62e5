"""BELM's error constants: order, constant and stability of every row."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import jaxinv as ji
from benchmarks.belm.order import THEORY
from benchmarks.papers.belm.samplers import GRIDS, STEPS, sampler_of
from benchmarks.papers.protocol import Cell, Found, Measures, Table
from benchmarks.papers.setting import Setting
from benchmarks.report import table

NAMES = ("DDIM", "EDICT(0.93)", "BDIA(0.96)", "BDIA(0.5)", "BDIA(1)", "O-BELM")


def cells(setting: Setting) -> Sequence[Cell]:
    """Return samplers, grids and steps."""
    return [
        {"sampler": name, "grid": grid, "steps": steps}
        for name in NAMES
        for grid in GRIDS
        for steps in STEPS
    ]


def measure(setting: Setting, cell: Cell, index: int) -> Measures:
    """Return what the coefficients say; it is the same for every image."""
    sampler = sampler_of(setting, cell["sampler"], cell["grid"], cell["steps"])
    full = sampler.num_rows + 1 - sampler.history
    order = int(np.min(ji.analysis.row_orders(sampler)[:full]))
    conditions = ji.analysis.order_conditions(sampler)[:full, order + 1]
    constants = np.abs(conditions) / math.factorial(order + 1)
    verdict = ji.analysis.zero_stability(sampler)
    return {
        "order": order,
        "constant": float(np.median(constants)),
        "largest constant": float(np.max(constants)),
        "largest coefficient": float(np.max(np.abs(sampler.a))),
        "growth": _number(verdict.growth),
        "inverse growth": _number(verdict.inverse_growth),
    }


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def show(found: Found) -> str:
    """Return a row per sampler and grid, with the values of all steps."""
    rows: dict[tuple[str, str], list[tuple[int, Measures]]] = {}
    for cell, measures in found.cells:
        key = cell["sampler"], cell["grid"]
        rows.setdefault(key, []).append((cell["steps"], measures[0]))
    lines = []
    for (name, grid), values in rows.items():
        own = [one for _, one in values]
        lines.append(
            [
                name,
                grid,
                ", ".join(str(steps) for steps, _ in values),
                min(one["order"] for one in own),
                _listed(own, "constant"),
                _listed(own, "largest constant"),
                _listed(own, "growth"),
                _listed(own, "inverse growth"),
                _theory(name),
            ]
        )
    header = (
        "sampler | grid | steps | exact to degree | error constant, median row | "
        "largest | growth in sampling | growth in inversion | theory"
    )
    return f"""{table(header, lines)}

From the coefficients alone (`jaxinv.analysis`), in float64, on the model's schedule;
no image. A row that is exact for polynomials of degree p has the local error
`C h^(p+1)` times the derivative of order p + 1 of the solution: *error constant* is C,
with h the row's own step, or the span of EDICT's pair of rows. *Growth*: the largest
norm of a product of the rows without a model, which bounds how much an error made once
can grow; - where it overflows. *Theory*: the global order where steps shrink evenly,
and the roots of a row."""


def _listed(own: Sequence[Measures], name: str) -> str:
    values = (one[name] for one in own)
    return ", ".join("-" if value is None else f"{value:.3g}" for value in values)


def _theory(name: str) -> str:
    known = THEORY["BDIA(1)" if name == "BDIA(1)" else name.split("(")[0]]
    return f"order {known.order}, roots {known.roots}"


COEFFICIENTS = Table(
    "belm-coefficients",
    "Local truncation errors (number of the table not found here)",
    "order, error constant and stability of the samplers",
    None,
    cells,
    measure,
    show,
    """The paper's table could not be read here. The authors' README states the
proposition that it rests on: the local truncation error of a 2-step BELM "can be
accurate up to O((h_i + h_(i+1))^3)" with O-BELM's coefficients; the
abstract says that the samplers before it "yield sub-optimal LTE".""",
    """Coefficients depend on the grid alone, not on the network: for a published model
only its schedule matters.""",
    options="--images 1",
    models=("stable-diffusion-v1-5/stable-diffusion-v1-5",),
)

"""The inversions that are compared, and one cell of the comparison."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

import jaxinv as ji
from benchmarks.flows.problems import Problem
from benchmarks.samples import CONVERGED_DB

#: The grid of a sampler's constructor, of a problem and a number of steps.
Grid = Callable[[Problem, int], ji.TimeGrid]
#: Noises with errors up to here count as recovered, in dB.
RECOVERED_DB = -60.0


def middles(problem: Problem, steps: int) -> ji.TimeGrid:
    """Return the steps with their midpoints."""
    schedule = ji.flow_matching(shift=problem.shift)
    return ji.with_midpoints(schedule, problem.grid(steps))


class Method(NamedTuple):
    """A sampler with an inversion.

    Attributes:
        title: In tables.
        make: The sampler's constructor.
        grid: Function from the problem and the number of steps to the grid.
        strategy: Function from the grid to the strategy.
        measures: Whether it spends an evaluation per row on the certificate, which is
            not counted here.
        ours: Whether it solves the sampler's equations until they hold.
    """

    title: str
    make: Callable[[ji.TimeGrid], ji.SamplerTable]
    grid: Grid
    strategy: Callable[[ji.TimeGrid], Any]
    measures: bool = True
    ours: bool = False


def _backward(make: Any) -> Callable[[ji.TimeGrid], Any]:
    return lambda grid: ji.Backward(make, grid)


def _fixed(strategy: Any) -> Callable[[ji.TimeGrid], Any]:
    return lambda grid: strategy


METHODS = {
    "euler": Method("Euler backward", ji.euler, Problem.grid, _backward(ji.euler)),
    "uni_inv": Method("Euler, Uni-Inv", ji.euler, Problem.grid, _fixed(ji.UniInv())),
    "aidi": Method("Euler, AIDI, 5", ji.euler, Problem.grid, _fixed(ji.AIDI(5))),
    "aidi_anderson": Method(
        "Euler, AIDI, 5, Anderson", ji.euler, Problem.grid, _fixed(ji.AIDI(5, 5))
    ),
    "renoise": Method("Euler, ReNoise", ji.euler, Problem.grid, _fixed(ji.ReNoise())),
    "euler_exact": Method(
        "Euler, exact", ji.euler, Problem.grid, _fixed("auto"), False, True
    ),
    "fireflow": Method("FireFlow", ji.fireflow, middles, _backward(ji.fireflow)),
    "fireflow_exact": Method(
        "FireFlow, exact", ji.fireflow, middles, _fixed("auto"), False, True
    ),
    "rf_solver": Method("RF-Solver", ji.rf_solver, middles, _backward(ji.rf_solver)),
    "rf_solver_exact": Method(
        "RF-Solver, exact", ji.rf_solver, middles, _fixed("auto"), False, True
    ),
}


def measure(
    problem: Problem, name: str, steps: int, guidance: float, seed: int
) -> dict[str, list[float]]:
    """Sample, invert and sample again.

    Args:
        problem: The model and its samples.
        name: Key of :data:`METHODS`.
        steps: Steps of the sampler.
        guidance: The guidance scale.
        seed: Of the noises.

    Returns:
        For every sample: NMSE of the noise and of the reconstruction in dB, evaluations
        and CPU seconds of the inversion (of these evaluations, without compiling),
        whether all rows hold (``solved``), and whether it converged as ``invert``
        defines it.
    """
    method = METHODS[name]
    grid = method.grid(problem, steps)
    sampler, strategy = method.make(grid), method.strategy(grid)
    found: dict[str, list[float]] = {
        key: []
        for key in (
            "noise", "reconstruction", "evals", "seconds", "solved", "converged",
        )
    }  # fmt: skip

    def inverse(denoise: Any, x0: Any) -> ji.InversionResult:
        result = ji.invert(sampler, denoise, x0, strategy=strategy, verify=False)
        return jax.block_until_ready(result)

    for k, noise in enumerate(problem.noises(seed)):
        denoise = problem.denoiser(k, guidance)
        x0 = ji.sample(sampler, denoise, noise)
        if k == 0:
            inverse(denoise, x0)  # compiles
        began = time.process_time()
        result = inverse(denoise, x0)
        seconds = time.process_time() - began
        again = ji.sample(sampler, denoise, result.noise)
        reconstruction = nmse_db(again, x0)
        evals = int(result.num_evals) - sampler.num_rows * method.measures
        # Evaluations take equally long: those that only measure are left out.
        seconds *= evals / int(result.num_evals)
        solved = bool(result.solved)
        values = (
            nmse_db(result.noise, noise), reconstruction, evals, round(seconds, 4),
            float(solved), float(solved and reconstruction <= CONVERGED_DB),
        )  # fmt: skip
        for key, value in zip(found, values, strict=True):
            found[key].append(value)
    return found


def nmse_db(x: jax.Array, reference: jax.Array) -> float:
    """Return the NMSE in dB, where the error is too large to square, as infinite."""
    value = float(ji.nmse_db(x, reference))
    return round(value, 2) if np.isfinite(value) else float("inf")

"""The strategies of :func:`jaxinv.invert`: names and their plans."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxinv.checks import unknown
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.inversion.algorithm_1 import Algorithm1
from jaxinv.inversion.algorithm_2 import Algorithm2
from jaxinv.inversion.explicit import Explicit
from jaxinv.inversion.naive import Naive
from jaxinv.inversion.stages import Stage
from jaxinv.inversion.stepwise import Stepwise
from jaxinv.inversion.trajectory import Trajectory
from jaxinv.inversion.trajectory_newton import NewtonTrajectory
from jaxinv.inversion.walk import Walk
from jaxinv.samplers.table import SamplerTable
from jaxinv.solvers import SOLVERS, Solver

Plan = tuple[Stage, ...]

#: The default limit on evaluations for each row of the table. On the embedded model,
#: samples that converged took up to 127 (10 steps, guidance 12), and 25 in published
#: tables (``benchmarks/results/exactness.md``); those that did not took 280 to 390.
EVALS_PER_ROW = 150

#: Stages of ``auto`` after stepwise inversion, or in place of it.
FINISH: Plan = (Trajectory(), NewtonTrajectory())


def auto_strategy(sampler: SamplerTable) -> str:
    """Return the first strategy of ``"auto"`` for a sampler.

    Args:
        sampler: The sampler.

    Returns:
        ``"explicit"`` for bidirectional samplers, ``"stepwise"`` for a memory of one
        state, else ``"trajectory"``.
    """
    if sampler.bidirectional:
        return "explicit"
    return "stepwise" if sampler.history == 1 else "trajectory"


def make_plan(
    sampler: SamplerTable,
    strategy: Any,
    solver: str | Solver | None,
    schedule: NoiseSchedule | None,
) -> Plan:
    """Return the stages of a strategy, in order.

    Args:
        sampler: The table.
        strategy: A name, a stage or a tuple of stages.
        solver: Solver of the stepwise strategy.
        schedule: The model's schedule.

    Raises:
        ValueError: For unknown names or invalid combinations.
    """
    known = isinstance(strategy, str) and strategy in STRATEGIES
    stages = strategy if isinstance(strategy, tuple) else (strategy,)
    if not known and not (stages and all(isinstance(stage, Stage) for stage in stages)):
        instead = "a value such as Trajectory(chunk=8)"
        raise ValueError(unknown("strategy", strategy, STRATEGIES, instead))
    if solver is not None and strategy != "stepwise":
        raise ValueError(
            f"only strategy 'stepwise' has a solver; {strategy!r} does not use "
            f"solver={solver!r}"
        )
    if known:
        stages = STRATEGIES[strategy].plan(sampler, solver, schedule)
    for stage in stages:
        _check_fits(stage, sampler)
    return stages


def check_max_evals(
    max_evals: int | None, plan: Plan, sampler: SamplerTable
) -> np.integer:
    """Return the limit on the evaluations of a plan.

    Args:
        max_evals: The limit; None for :data:`EVALS_PER_ROW` for each row.
        plan: The stages.
        sampler: The table.

    Raises:
        ValueError: For a limit below the least evaluations of the first stage.
    """
    if max_evals is None:
        return np.int32(EVALS_PER_ROW * sampler.num_rows)
    least = plan[0].least_evals(sampler)
    if max_evals < least:
        raise ValueError(
            f"max_evals must be at least {least}, what the first stage needs to begin "
            f"with the {sampler.num_rows} rows of {sampler.name!r}, got {max_evals}"
        )
    return np.int32(max_evals)


def stage_names(plan: Plan) -> tuple[str, ...]:
    """Return the names of the stages of a plan in certificates."""
    return tuple(type(stage).__name__.lower() for stage in plan)


def _auto(sampler: SamplerTable, *_: Any) -> Plan:
    if sampler.bidirectional:
        return (Explicit(),)
    return (Stepwise(), *FINISH) if sampler.history == 1 else FINISH


def _stepwise(
    sampler: SamplerTable,
    solver: str | Solver | None,
    schedule: NoiseSchedule | None,
) -> Plan:
    if sampler.bidirectional:
        raise ValueError(
            f"strategy 'stepwise' does not invert {sampler.name!r}, which is "
            "bidirectional: use 'explicit' (or 'auto') for its state, 'trajectory' for "
            "one array of noise"
        )
    if sampler.history == 1:
        return (Stepwise(_solver("anderson" if solver is None else solver)),)
    if schedule is None:
        raise ValueError(
            f"strategy 'stepwise' inverts {sampler.name!r}, with a memory of "
            f"{sampler.history} states, by Algorithm 2 of the paper, which visits "
            "noise levels between those of the grid and needs schedule=...; the exact "
            "inverse of this sampler is strategy 'trajectory' (or 'auto')"
        )
    chosen = _solver("forward_step" if solver is None else solver)
    return (Algorithm2(schedule, solver=chosen),)


class Named(NamedTuple):
    """A named strategy.

    Attributes:
        note: A note in help texts.
        plan: Function from a sampler, a solver or None, and the model's schedule or
            None to the stages.
    """

    note: str
    plan: Callable[[SamplerTable, Any, NoiseSchedule | None], Plan]


STRATEGIES: dict[str, Named] = {
    "auto": Named("exact", _auto),
    "explicit": Named(
        "for samplers that are exact by construction; their auto",
        lambda *_: (Explicit(),),
    ),
    "trajectory": Named("exact, all steps together", lambda *_: (Trajectory(),)),
    "stepwise": Named(
        "exact for samplers with a memory of one state; the published Algorithm 2 for "
        "others",
        _stepwise,
    ),
    "naive": Named("DDIM inversion", lambda *_: (Naive(),)),
}


def _check_fits(stage: Stage, sampler: SamplerTable) -> None:
    """Raise ValueError for a stage that does not fit the sampler."""
    if isinstance(stage, Explicit) and not sampler.bidirectional:
        raise ValueError(
            f"{sampler.name!r} is not bidirectional and has no explicit inverse; "
            "use strategy 'auto'"
        )
    known = not isinstance(sampler.tau, jax.core.Tracer)
    infinite = known and np.isinf(sampler.tau[-1])
    if isinstance(stage, Algorithm2) and (sampler.noise is not None or infinite):
        what = "starts at zero terminal SNR" if infinite else "is stochastic"
        raise ValueError(
            f"Algorithm 2 does not invert {sampler.name!r}, which {what}: use strategy "
            "'auto'"
        )
    if isinstance(stage, Algorithm2) and sampler.ends:
        raise ValueError(
            f"Algorithm 2 inverts multistep samplers, but {sampler.name!r} evaluates "
            "the model at stages within its steps: use strategy 'auto'"
        )
    if isinstance(stage, Stepwise | Algorithm1 | Walk) and sampler.history > 1:
        raise ValueError(
            f"{type(stage).__name__} inverts samplers with a memory of one state, but "
            f"{sampler.name!r} has {sampler.history}: use strategy 'auto' or "
            "'trajectory', or 'stepwise' for the published Algorithm 2"
        )


def _solver(solver: str | Solver) -> Solver:
    if isinstance(solver, str) and solver in SOLVERS:
        return SOLVERS[solver]
    if isinstance(solver, str | type) or not callable(solver):
        instead = "a solver value such as Anderson(history=8)"
        raise ValueError(unknown("solver", solver, SOLVERS, instead))
    return solver

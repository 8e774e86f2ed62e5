r"""The entry point: choose a plan, run it, and wrap up its certificate.

Sampling applies the rows of a table from the noise end to the data end. Inverting it
means finding all earlier states from the last one. Each strategy is a plan of stages
(:mod:`jaxinv.inversion.stages`), and there are four by name:

``auto``
    what took fewest evaluations without being less exact in measurements: stepwise for
    samplers with a memory of one state; the whole trajectory for all others and for
    samples that stepwise leaves; Newton's method on it for those that are left then.
``trajectory``
    all rows of the table together, exact at any order, parallel in time
    (:mod:`jaxinv.inversion.trajectory`).
``stepwise``
    step by step from the data end. Exact for samplers with a memory of one state. For
    others it is the published Algorithm 2, which freezes an estimate of the high-order
    term: the baseline to compare with (:mod:`jaxinv.inversion.published`).
``naive``
    DDIM inversion: no solve at all.

The certificate is the residual of every step, relative to the state that the step has
to reproduce. It proves the *reconstruction*: a small residual means that the sampler
turns this noise into this data. Whether it is the *same* noise that once made the data
depends on the grid: a step with a small ratio ``tau[i-1] / tau[i]`` can have several
preimages, or nearly so.

References:
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387.
"""

from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.compilation import check_denoiser, check_finite, split_callable
from jaxinv.denoiser import Denoiser
from jaxinv.inversion.implicit import attach_gradient
from jaxinv.inversion.naive import Naive
from jaxinv.inversion.newton import NewtonTrajectory
from jaxinv.inversion.published import Algorithm2
from jaxinv.inversion.result import InversionResult
from jaxinv.inversion.rows import per_level
from jaxinv.inversion.stages import Solved, Stage, run_plan
from jaxinv.inversion.stepwise import Stepwise
from jaxinv.inversion.trajectory import Trajectory
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling import in_dtype
from jaxinv.schedule import NoiseSchedule
from jaxinv.solvers import (
    Anderson,
    FixedPoint,
    ForwardStep,
    Gradient,
    NewtonKrylov,
    Solver,
)

Strategy = Literal["auto", "trajectory", "stepwise", "naive"]
STRATEGIES: tuple[str, ...] = get_args(Strategy)

SOLVERS: dict[str, Solver] = {
    "anderson": Anderson(),
    "fixed_point": FixedPoint(),
    "forward_step": ForwardStep(),
    "gradient": Gradient(),
    "newton_krylov": NewtonKrylov(),
}


#: What ``auto`` does for samples that stepwise inversion cannot do, or leaves.
FINISH: tuple[Stage, ...] = (Trajectory(), NewtonTrajectory())


def auto_strategy(sampler: LinearMultistep) -> Strategy:
    """What ``strategy="auto"`` begins with for a sampler.

    Args:
        sampler: the table.

    Returns:
        ``"stepwise"`` for a memory of one state, else ``"trajectory"``.
    """
    return "stepwise" if sampler.history == 1 else "trajectory"


def invert(
    sampler: LinearMultistep,
    denoise: Denoiser,
    x0: Float[Array, "*shape"],
    *,
    strategy: Strategy | Stage | tuple[Stage, ...] = "auto",
    solver: str | Solver | None = None,
    schedule: NoiseSchedule | None = None,
    return_trajectory: bool = False,
) -> InversionResult:
    """Find the noise that the sampler turns into ``x0``.

    The noise and the trajectory can be differentiated (reverse mode) with respect to
    the data, the model's parameters and its conditions, by the implicit function
    theorem: the solver's iterations are not differentiated, and cost no memory.

    Args:
        sampler: the table that samples, from :func:`jaxinv.ddim` and its like.
        denoise: callable pytree ``(x, t) -> f`` on one sample.
        x0: the data, one sample of any shape without a batch axis.
        strategy: ``"auto"``, ``"trajectory"``, ``"stepwise"`` or ``"naive"``, or a
            value with settings such as ``Trajectory(chunk=8)``, or a tuple of such
            values, each for the samples that the ones before left unconverged.
        solver: for ``"stepwise"``: ``"anderson"``, ``"fixed_point"``,
            ``"forward_step"``, ``"gradient"``, ``"newton_krylov"`` or a solver value
            such as ``Anderson(history=8)``. By default Anderson for samplers with a
            memory of one state; with more, the forward step method as published.
        schedule: the model's schedule; needed by ``"stepwise"`` for samplers with a
            longer memory only, which visits noise levels between those of the grid.
        return_trajectory: keep the states of all noise levels.

    Returns:
        The noise with its certificate. Failing to converge is not an error: the result
        says so and carries the best that was found.

    Raises:
        ValueError: for data that is not a finite float32 or float64 array, a denoiser
            that does not map its shape to itself, an unknown strategy or solver, or
            options that the strategy does not have.

    Example:
        >>> import jax, jaxinv as ji
        >>> sampler = ji.dpmpp_2m(ji.time_grid(ji.scaled_linear(), 20))
        >>> denoise = lambda x, t: 0.9 * x
        >>> noise = jax.random.normal(jax.random.key(0), (4, 4, 3))
        >>> x0 = ji.sample(sampler, denoise, noise)
        >>> result = ji.invert(sampler, denoise, x0)
        >>> bool(result.converged), float(ji.nmse_db(result.noise, noise)) < -90
        (True, True)

    References:
        Hong et al. 2024, arXiv:2311.18387, Algorithms 1 and 2 (``"stepwise"``).
    """
    plan = _plan(sampler, strategy, solver, schedule)
    x0 = jnp.asarray(x0)
    check_finite(x0, "data x0")
    arrays, rebuild = split_callable(denoise)
    if len(plan) > 1 and _concrete((sampler, arrays, x0)):
        solved = _on_demand(sampler, arrays, rebuild, x0, plan)
        if solved is not None:
            return _wrap_up(sampler, x0, solved, return_trajectory)
    return _invert(sampler, arrays, rebuild, x0, plan, return_trajectory)


def _concrete(tree: Any) -> bool:
    return not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(tree))


def _on_demand(
    sampler: LinearMultistep,
    arrays: list[Any],
    rebuild: Any,
    x0: Array,
    plan: tuple[Stage, ...],
) -> Solved | None:
    """Run the stages as programs of their own, each compiled only if it is needed.

    A stage takes longer to compile than to run, and most samples need the first only.
    Inside of a caller's ``jit``, ``vmap`` or ``grad`` nothing is known yet and the plan
    is one program: None if the denoiser closes over values of such a caller.
    """
    solved: Solved | None = None
    for stage in plan:
        solved = _solve(sampler, arrays, rebuild, x0, stage, solved)
        if not _concrete(solved.converged):
            return None
        if bool(solved.converged):
            break
    return solved


def _plan(
    sampler: LinearMultistep,
    strategy: Any,
    solver: str | Solver | None,
    schedule: NoiseSchedule | None,
) -> tuple[Stage, ...]:
    """The stages of a strategy; raises ValueError for what cannot be combined."""
    known = isinstance(strategy, str) and strategy in STRATEGIES
    stages = strategy if isinstance(strategy, tuple) else (strategy,)
    if not known and not (stages and all(_is_stage(stage) for stage in stages)):
        raise ValueError(
            f"unknown strategy {strategy!r}; expected one of {', '.join(STRATEGIES)}, "
            "or a value such as Trajectory(chunk=8)"
        )
    if solver is not None and strategy != "stepwise":
        raise ValueError(
            f"a solver is for strategy 'stepwise'; {strategy!r} does not use "
            f"solver={solver!r}"
        )
    if not known:
        return stages
    if strategy == "naive":
        return (Naive(),)
    if strategy == "trajectory":
        return (Trajectory(),)
    if strategy == "auto":
        return (Stepwise(), *FINISH) if sampler.history == 1 else FINISH
    if sampler.history == 1:
        return (Stepwise(_solver("anderson" if solver is None else solver)),)
    if schedule is None:
        raise ValueError(
            f"strategy 'stepwise' inverts {sampler.name!r}, which remembers "
            f"{sampler.history} states, by Algorithm 2 of the paper: it visits noise "
            "levels between those of the grid and needs schedule=...; the exact "
            "inverse of this sampler is strategy 'trajectory' (or 'auto')"
        )
    chosen = _solver("forward_step" if solver is None else solver)
    return (Algorithm2(schedule, solver=chosen),)


def _is_stage(value: Any) -> bool:
    return not isinstance(value, str | type) and callable(getattr(value, "solve", None))


def _solver(solver: str | Solver) -> Solver:
    if isinstance(solver, str) and solver in SOLVERS:
        return SOLVERS[solver]
    if isinstance(solver, str | type) or not callable(solver):
        raise ValueError(
            f"unknown solver {solver!r}; expected one of {', '.join(SOLVERS)}, or a "
            "solver value such as Anderson(history=8)"
        )
    return solver


@jax.jit(static_argnames=("rebuild", "stage"))
def _solve(
    sampler: LinearMultistep,
    arrays: list[Any],
    rebuild: Any,
    x0: Array,
    stage: Stage,
    known: Solved | None,
) -> Solved:
    """One stage of a plan, on demand."""
    denoise = rebuild(arrays)
    check_denoiser(denoise, x0)
    table = in_dtype(sampler, x0.dtype)
    return run_plan((stage,), table, denoise, x0 / table.scale[0], known)


@jax.jit(static_argnames="keep")
def _wrap_up(
    sampler: LinearMultistep, x0: Array, solved: Solved, keep: bool
) -> InversionResult:
    return _result(in_dtype(sampler, x0.dtype), x0, solved.states, solved, keep)


@jax.jit(static_argnames=("rebuild", "plan", "keep"))
def _invert(
    sampler: LinearMultistep,
    arrays: list[Any],
    rebuild: Any,
    x0: Array,
    plan: tuple[Stage, ...],
    keep: bool,
) -> InversionResult:
    check_denoiser(rebuild(arrays), x0)
    table = in_dtype(sampler, x0.dtype)
    start = x0 / table.scale[0]
    if plan == (Naive(),):  # an explicit formula: ordinary differentiation
        solved = run_plan(plan, table, rebuild(arrays), start)
        return _result(table, x0, solved.states, solved, keep)
    # Solvers are not differentiated; the implicit function theorem is applied to what
    # they found.
    fixed_table, fixed_arrays, fixed_start = jax.lax.stop_gradient(
        (table, arrays, start)
    )
    solved = run_plan(plan, fixed_table, rebuild(fixed_arrays), fixed_start)
    states = attach_gradient(table, arrays, rebuild, start, solved.states)
    return _result(table, x0, states, solved, keep)


def _result(
    table: LinearMultistep, x0: Array, states: Array, solved: Solved, keep: bool
) -> InversionResult:
    noise = table.scale[-1] * states[-1] / table.init_noise_scale
    trajectory = None
    if keep:
        xs = per_level(table.scale[1:], states) * states
        trajectory = jnp.concatenate([x0[None], xs])
    return InversionResult(
        noise=noise,
        state=noise,
        trajectory=trajectory,
        residual=jnp.max(solved.errors),
        step_residuals=solved.errors,
        iterations=solved.iterations,
        num_evals=solved.num_evals,
        depth=solved.depth,
        converged=solved.converged,
    )

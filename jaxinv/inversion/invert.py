r"""The entry point: choose a plan, run it, and return its result with a certificate.

Sampling applies the rows of a table from the noise end to the data end. Inversion finds
all earlier states from the last one. Each strategy is a plan of stages
(:mod:`jaxinv.inversion.stages`), and five have names:

``auto``
    the most exact strategy with the fewest evaluations in measurements: explicit for
    bidirectional samplers; stepwise for samplers with a memory of one state; the whole
    trajectory for all others and for samples that do not converge stepwise; then
    Newton's method on the whole trajectory.
``explicit``
    undo the rows, which only bidirectional samplers allow
    (:mod:`jaxinv.inversion.explicit`). The result's ``state`` makes the round trip
    exact; its ``noise`` alone does not.
``trajectory``
    solve all rows of the table together, exact at any order, parallel in time
    (:mod:`jaxinv.inversion.trajectory`).
``stepwise``
    solve step by step from the data end, exact for samplers with a memory of one state.
    For others it is the published Algorithm 2, which freezes an estimate of the
    high-order term: a baseline (:mod:`jaxinv.inversion.algorithm_2`).
``naive``
    DDIM inversion, without solving equations.

The certificate has two parts. The residual of every step, relative to the state that
the step should reproduce, shows whether the equations are solved. This alone proves
nothing about the whole trajectory, because steps amplify errors. The sampler's own loop
therefore samples from the noise, and the relative error of the resulting data is the
``reconstruction`` (:mod:`jaxinv.inversion.verification`). ``converged`` requires both.
Whether the noise is the *original* one depends on the grid: a step with a small ratio
``tau[i-1] / tau[i]`` can have several preimages (states with the same result), or
almost so.

References:
    Hong et al. 2024, "On Exact Inversion of DPM-Solvers", arXiv:2311.18387.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import get_opaque_trace_state
from jaxtyping import Array, Float

from jaxinv.callables import Function, check_denoiser, check_finite
from jaxinv.checks import AtLeastOne, checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.inversion.explicit import Explicit, unwind, unwind_exactly
from jaxinv.inversion.implicit_gradient import attach_gradient
from jaxinv.inversion.machine import Sample, StageMachine
from jaxinv.inversion.naive import Naive, walked
from jaxinv.inversion.result import InversionResult, wrap_up
from jaxinv.inversion.row_residuals import per_level
from jaxinv.inversion.stages import Solved, Stage, Task, run_stage
from jaxinv.inversion.strategies import check_max_evals, make_plan, stage_names
from jaxinv.inversion.verification import (
    Verified,
    default_reconstruction_rtol,
    refines,
    run_plan,
    start_of_next,
    unverified,
    verify,
    verify_in_place,
    weigh,
)
from jaxinv.loops import Report, run_in_turns
from jaxinv.samplers.table import SamplerTable
from jaxinv.samplers.units import matched
from jaxinv.sampling.lossless import Arithmetic, check_arithmetic
from jaxinv.sampling.sample import draw, in_dtype
from jaxinv.sampling.state import SamplerState, check_state, labeled, unlabeled
from jaxinv.solvers import Solver

#: A function that receives the name of a stage that is about to run.
OnStage = Callable[[str], None]

# What JAX traces where a module is imported. (Inside of a caller's trace, too, results
# would be right: all stages are one program then.)
_NOTHING_TRACED = get_opaque_trace_state()


@checked
def invert(
    sampler: SamplerTable,
    denoise: Denoiser,
    x0: Float[Array, "*shape"] | SamplerState,
    *,
    strategy: str | Stage | tuple[Stage, ...] = "auto",
    solver: str | Solver | None = None,
    schedule: NoiseSchedule | None = None,
    return_trajectory: bool = False,
    arithmetic: Arithmetic = "float",
    verify: bool = True,
    reconstruction_rtol: float | None = None,
    max_evals: AtLeastOne | None = None,
    report: Report | None = None,
    on_stage: OnStage | None = None,
) -> InversionResult:
    """Find the noise from which the sampler generates ``x0``.

    The sampler's own loop verifies the result: it samples from the recovered noise,
    which costs N more evaluations, included in the count (2 N to confirm an error close
    to the tolerance; 3 N for bidirectional samplers, whose state is sampled from
    twice).

    The noise and the trajectory are differentiable (once, in reverse mode) with respect
    to the data, the model's parameters and its conditions, by the implicit function
    theorem: the solver's iterations are not differentiated and need no memory. Second
    derivatives raise a ValueError. The certificate is a constant.

    Args:
        sampler: The sampler, from :func:`jaxinv.ddim` or another constructor.
        denoise: Callable pytree ``(x, t) -> f`` on one sample.
        x0: The data, one sample of any shape without a batch axis; or the state of a
            bidirectional sampler at the data end, which can only be inverted
            explicitly.
        strategy: ``"auto"``, ``"explicit"``, ``"trajectory"``, ``"stepwise"`` or
            ``"naive"``, or a value with settings such as ``Trajectory(chunk=8)``, or a
            tuple of such values, each for samples that did not converge before.
        solver: For ``"stepwise"``: ``"anderson"``, ``"fixed_point"``,
            ``"forward_step"``, ``"gradient"``, ``"newton_krylov"`` or a solver value
            such as ``Anderson(history=8)``. By default Anderson for samplers with a
            memory of one state, and otherwise the forward step method as published.
        schedule: The model's schedule, which ``"stepwise"`` needs for samplers with a
            longer memory, to visit noise levels between those of the grid.
        return_trajectory: Whether to return the states of all noise levels.
        arithmetic: Arithmetic for the explicit inversion of bidirectional samplers, as
            for :func:`jaxinv.sample`: ``"compensated"`` or ``"bits"``.
        verify: Whether to sample from the result. Otherwise ``reconstruction`` is NaN
            and ``converged`` False, and only ``solved`` is known.
        reconstruction_rtol: Relative error of the data that ``converged`` guarantees
            for sampling from the noise, in any precision; the measured error must be at
            most a quarter of it. None for 4e-4 (-68 dB) in float32 and 4e-10 in float64
            (:func:`~jaxinv.inversion.verification.default_reconstruction_rtol`).
        max_evals: Largest number of evaluations of the denoiser; None for
            :data:`~jaxinv.inversion.strategies.EVALS_PER_ROW` for each row of the
            sampler's table. A running stage stops at it, and no stage is started
            without enough for its first iteration. Only the verification of the last
            stage comes on top. Naive and explicit inversion and the published
            algorithms cannot be stopped; a solver that is not a loop of single
            evaluations (``NewtonKrylov`` in ``"stepwise"``) finishes its iteration.
        report: Function that receives the number of solved steps, or of steps of the
            verification, while the computation runs in turns of one iteration. Not
            allowed inside ``jax.jit`` and other transformations.
        on_stage: Function that receives the name of each stage before it is compiled
            and run, which can take minutes for ``"newtontrajectory"``. Not allowed
            inside ``jax.jit`` and other transformations.

    Returns:
        The noise with its certificate. Failing to converge is not an error: the result
        has ``converged=False`` and is the best that was found.

    Raises:
        ValueError: For data that is not a finite float32 or float64 array, a state of
            another sampler or of the noise end, a denoiser that does not map its shape
            to itself, an unknown strategy or solver, options that the strategy does not
            have, a strategy that the sampler does not have, a tolerance that is not a
            positive number, or ``max_evals`` too small for any iteration.

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
    check_arithmetic(arithmetic, sampler)
    if isinstance(x0, SamplerState):
        check_state(x0, sampler, "data")
    else:
        x0 = jnp.asarray(x0)
        check_finite(x0, "data x0")
    if isinstance(x0, SamplerState) or arithmetic != "float":
        check_explicit(strategy, solver)
        if report is not None or on_stage is not None:
            name = "report" if report is not None else "on_stage"
            raise ValueError(
                f"{name} needs data and arithmetic='float': a state, and data with "
                "another arithmetic, are inverted by one program without turns"
            )
    dtype = x0.values.dtype if isinstance(x0, SamplerState) else x0.dtype
    rtol = check_rtol(verify, reconstruction_rtol, dtype)
    shape = x0.x.shape if isinstance(x0, SamplerState) else x0.shape
    sampler, model = matched(sampler, denoise, shape)
    if arithmetic != "float":
        if return_trajectory:
            raise ValueError("return_trajectory needs arithmetic='float'")
        return unwind_exactly(sampler, model, x0, arithmetic, rtol)
    program = unlabeled(sampler, counted=report is not None)
    if isinstance(x0, SamplerState):
        start = unlabeled(x0)
        found = _unwind(program, model, start, return_trajectory, rtol)
        return labeled(found, sampler)
    plan = make_plan(sampler, strategy, solver, schedule)
    limit = check_max_evals(max_evals, plan, sampler)
    # A denoiser may close over values that a caller differentiates or batches. Only the
    # absence of all transformations excludes that.
    alone = get_opaque_trace_state() == _NOTHING_TRACED
    if alone and _concrete((sampler, model, x0)):
        verified = _on_demand(program, model, x0, plan, rtol, limit, report, on_stage)
        found = _wrap_up(program, x0, verified, return_trajectory)
        return labeled(found, sampler)
    if report is not None or on_stage is not None:
        name = "report" if report is not None else "on_stage"
        raise ValueError(f"{name} needs values: call invert outside of jax.jit")
    found = _invert(program, model, x0, plan, return_trajectory, rtol, limit)
    return labeled(found, sampler)


def check_rtol(verify: bool, rtol: float | None, dtype: Any) -> float | None:
    """Return the tolerance of the reconstruction, or None to skip its measurement.

    Raises:
        ValueError: For a tolerance that is not a positive number, or is not used.
    """
    if not verify:
        if rtol is not None:
            raise ValueError(
                f"reconstruction_rtol={rtol!r} has no meaning with verify=False"
            )
        return None
    if rtol is None:
        return default_reconstruction_rtol(dtype)
    if isinstance(rtol, bool) or not (isinstance(rtol, int | float) and rtol > 0):
        raise ValueError(f"reconstruction_rtol must be a positive number, got {rtol!r}")
    return float(rtol)


def check_explicit(strategy: Any, solver: Any) -> None:
    """Raise ValueError for a strategy or solver that is not explicit inversion."""
    if strategy not in ("auto", "explicit") or solver is not None:
        raise ValueError(
            "a state, and data with an arithmetic, can only be inverted explicitly; "
            f"got strategy={strategy!r}, solver={solver!r}"
        )


def _concrete(tree: Any) -> bool:
    return not any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(tree))


def _on_demand(
    sampler: SamplerTable,
    denoise: Function,
    x0: Array,
    plan: tuple[Stage, ...],
    rtol: float | None,
    max_evals: np.integer,
    report: Report | None,
    on_stage: OnStage | None,
) -> Verified:
    """Run the stages as separate programs, each compiled only if needed.

    A stage takes longer to compile than to run, and most samples only need the first.
    The verification uses the program of :func:`jaxinv.sample`. Inside a caller's
    ``jit``, ``vmap`` or ``grad`` the plan is one program (:func:`_invert`).
    """
    refining = tuple(refines(stage) for stage in plan)
    least = tuple(stage.least_evals(sampler) for stage in plan)
    best: Verified | None = None
    runs: Any = [True, *[False] * (len(plan) - 1)]
    names = stage_names(plan)
    for k, stage in enumerate(plan):
        if on_stage is not None and bool(runs[k]):
            on_stage(names[k])
        while bool(runs[k]):
            found = _solve(sampler, denoise, x0, stage, best, max_evals, report)
            new = _verify(sampler, denoise, x0, found, rtol, any(refining), report)
            best, runs = _weigh(best, new, k, refining, least, max_evals)
    assert best is not None, "a plan has at least one stage"
    return best


def _solve(
    sampler: SamplerTable,
    denoise: Function,
    x0: Array,
    stage: Stage,
    known: Verified | None,
    max_evals: np.integer,
    report: Report | None,
) -> Solved:
    """Run one stage of a plan as a program of its own."""
    if report is None or type(stage).loop is Stage.loop:
        return _solved(sampler, denoise, x0, stage, known, max_evals)
    if isinstance(stage, Naive):
        up = stage.upwards(sampler, x0.dtype)
        return _walked(sampler, draw(up, denoise, x0, True, report))
    given = (sampler, denoise), Sample(x0, known=known, max_evals=max_evals)
    return run_in_turns(StageMachine(stage), given, report=report)


@jax.jit
def _walked(sampler: SamplerTable, xs: Array) -> Solved:
    """Return the trajectory of naive inversion from its states, noise first."""
    scale = jnp.asarray(sampler.scale, xs.dtype)[1:]
    return walked(xs[-2::-1] / per_level(scale, xs))


@jax.jit(static_argnames="stage")
def _solved(
    sampler: SamplerTable,
    denoise: Function,
    x0: Array,
    stage: Stage,
    known: Verified | None,
    max_evals: Array,
) -> Solved:
    check_denoiser(denoise, x0)
    table = in_dtype(sampler, x0.dtype)
    before = None if known is None else start_of_next(known)
    task = Task.of(table, denoise, x0, before, max_evals=max_evals)
    return run_stage(stage, task)


def _verify(
    sampler: SamplerTable,
    denoise: Function,
    x0: Array,
    found: Solved,
    rtol: float | None,
    keep: bool,
    report: Report | None,
) -> Verified:
    """Verify a result, first without keeping states, which most samples do not need."""
    if rtol is None:
        return unverified(found)
    way = functools.partial(draw, sampler, denoise, report=report)
    ends = lambda start: way(start, keep=False)  # noqa: E731
    verified = verify(sampler, x0, found, rtol, ends)
    if not keep:
        return verified
    if bool(verified.converged) or not bool(found.solved):
        # No later stage uses the states of this verification.
        return verified._replace(retraced=found.states)
    whole = lambda start: way(start, keep=True)  # noqa: E731
    return verify(sampler, x0, verified.solved, rtol, whole)


_weigh = jax.jit(weigh, static_argnames=("refining", "least"))


@jax.jit(static_argnames="keep")
def _wrap_up(
    sampler: SamplerTable, x0: Array, verified: Verified, keep: bool
) -> InversionResult:
    table = in_dtype(sampler, x0.dtype)
    return wrap_up(table, x0, verified.solved.states, verified, keep)


@jax.jit(static_argnames=("plan", "keep", "rtol"))
def _invert(
    sampler: SamplerTable,
    denoise: Function,
    x0: Array,
    plan: tuple[Stage, ...],
    keep: bool,
    rtol: float | None,
    max_evals: Array,
) -> InversionResult:
    """Run all stages as a part of a caller's program."""
    check_denoiser(denoise, x0)
    table = in_dtype(sampler, x0.dtype)
    fixed_table, fixed, fixed_x0 = jax.lax.stop_gradient((table, denoise, x0))
    if len(plan) == 1 and isinstance(plan[0], Naive | Explicit):
        # Explicit formulas use ordinary differentiation.
        found = run_stage(plan[0], Task.of(table, denoise, x0))
        known = jax.lax.stop_gradient(found)
        verified = verify_in_place(
            fixed_table, fixed, fixed_x0, known, rtol, keep=False
        )
        return wrap_up(table, x0, found.states, verified, keep)
    # Solvers are not differentiated: the implicit function theorem applies to their
    # results.
    verified = run_plan(plan, fixed_table, fixed, fixed_x0, rtol, max_evals)
    start, states = x0 / table.scale[0], verified.solved.states
    states = attach_gradient(table, denoise, start, states)
    return wrap_up(table, x0, states, jax.lax.stop_gradient(verified), keep)


@jax.jit(static_argnames=("keep", "rtol"))
def _unwind(
    sampler: SamplerTable,
    denoise: Function,
    start: SamplerState,
    keep: bool,
    rtol: float | None,
) -> InversionResult:
    return unwind(sampler, denoise, start, keep, rtol)

r"""The entry point: choose a plan, run it, and wrap up its certificate.

Sampling applies the rows of a table from the noise end to the data end. Inverting it
means finding all earlier states from the last one. Each strategy is a plan of stages
(:mod:`jaxinv.inversion.stages`), and there are five by name:

``auto``
    what took fewest evaluations without being less exact in measurements: explicit for
    bidirectional samplers; stepwise for samplers with a memory of one state; the whole
    trajectory for all others and for samples that stepwise leaves; Newton's method on
    it for those that are left then.
``explicit``
    the rows read backwards, which only bidirectional samplers allow
    (:mod:`jaxinv.inversion.explicit`). The result's ``state`` makes the round trip
    exact; its ``noise`` alone does not.
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

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.compilation import check_denoiser, check_finite, split_callable
from jaxinv.denoiser import Denoiser
from jaxinv.exact import Arithmetic, check_arithmetic, exact_table
from jaxinv.inversion.explicit import Explicit, unwind, unwind_exactly
from jaxinv.inversion.implicit import attach_gradient
from jaxinv.inversion.naive import Naive
from jaxinv.inversion.result import InversionResult, wrap_up
from jaxinv.inversion.stages import Solved, Stage, run_plan
from jaxinv.inversion.strategies import Strategy, make_plan
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling import Sampler, in_dtype
from jaxinv.schedule import NoiseSchedule
from jaxinv.solvers import Solver
from jaxinv.state import SamplerState, check_state


def invert(
    sampler: Sampler,
    denoise: Denoiser,
    x0: Float[Array, "*shape"] | SamplerState,
    *,
    strategy: Strategy | Stage | tuple[Stage, ...] = "auto",
    solver: str | Solver | None = None,
    schedule: NoiseSchedule | None = None,
    return_trajectory: bool = False,
    arithmetic: Arithmetic = "float",
) -> InversionResult:
    """Find the noise that the sampler turns into ``x0``.

    The noise and the trajectory can be differentiated (reverse mode) with respect to
    the data, the model's parameters and its conditions, by the implicit function
    theorem: the solver's iterations are not differentiated, and cost no memory.

    Args:
        sampler: the sampler, from :func:`jaxinv.ddim` and its like.
        denoise: callable pytree ``(x, t) -> f`` on one sample.
        x0: the data, one sample of any shape without a batch axis; or the state of a
            bidirectional sampler at the data end, which can only be inverted
            explicitly, as EDICT can.
        strategy: ``"auto"``, ``"explicit"``, ``"trajectory"``, ``"stepwise"`` or
            ``"naive"``, or a value with settings such as ``Trajectory(chunk=8)``, or a
            tuple of such values, each for the samples that the ones before left
            unconverged.
        solver: for ``"stepwise"``: ``"anderson"``, ``"fixed_point"``,
            ``"forward_step"``, ``"gradient"``, ``"newton_krylov"`` or a solver value
            such as ``Anderson(history=8)``. By default Anderson for samplers with a
            memory of one state; with more, the forward step method as published.
        schedule: the model's schedule; needed by ``"stepwise"`` for samplers with a
            longer memory only, which visits noise levels between those of the grid.
        return_trajectory: keep the states of all noise levels.
        arithmetic: for the explicit inversion of bidirectional samplers, as of
            :func:`jaxinv.sample`: ``"compensated"`` or ``"bits"``. EDICT is then run
            as its rows, two for each of its steps.

    Returns:
        The noise with its certificate. Failing to converge is not an error: the result
        says so and carries the best that was found.

    Raises:
        ValueError: for data that is not a finite float32 or float64 array, a state of
            another sampler or of the noise end, a denoiser that does not map its shape
            to itself, an unknown strategy or solver, options that the strategy does not
            have, or a strategy that the sampler does not have.

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
    check_arithmetic(arithmetic)
    if arithmetic != "float":
        sampler = exact_table(sampler, arithmetic)
    if isinstance(x0, SamplerState):
        check_state(x0, sampler, "data")
    else:
        x0 = jnp.asarray(x0)
        check_finite(x0, "data x0")
    arrays, rebuild = split_callable(denoise)
    if arithmetic != "float":
        check_explicit(sampler, strategy, solver)
        if return_trajectory:
            raise ValueError("return_trajectory needs arithmetic='float'")
        assert isinstance(sampler, LinearMultistep)
        return unwind_exactly(sampler, arrays, rebuild, x0, arithmetic)
    if isinstance(x0, SamplerState) or not isinstance(sampler, LinearMultistep):
        check_explicit(sampler, strategy, solver)
        return _unwind(sampler, arrays, rebuild, x0, return_trajectory)
    plan = make_plan(sampler, strategy, solver, schedule)
    if len(plan) > 1 and _concrete((sampler, arrays, x0)):
        solved = _on_demand(sampler, arrays, rebuild, x0, plan)
        if solved is not None:
            return _wrap_up(sampler, x0, solved, return_trajectory)
    return _invert(sampler, arrays, rebuild, x0, plan, return_trajectory)


def check_explicit(sampler: Sampler, strategy: Any, solver: Any) -> None:
    """Raise ValueError for what a state, and EDICT, cannot be inverted by."""
    if strategy not in ("auto", "explicit") or solver is not None:
        raise ValueError(
            f"a state, or {sampler.name!r} itself, is inverted explicitly; got "
            f"strategy={strategy!r}, solver={solver!r}"
        )


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
    return wrap_up(sampler, x0, solved.states, solved, keep)


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
    if len(plan) == 1 and isinstance(plan[0], Naive | Explicit):
        # Explicit formulas: ordinary differentiation.
        solved = run_plan(plan, table, rebuild(arrays), start)
        return wrap_up(table, x0, solved.states, solved, keep)
    # Solvers are not differentiated; the implicit function theorem is applied to what
    # they found.
    fixed_table, fixed_arrays, fixed_start = jax.lax.stop_gradient(
        (table, arrays, start)
    )
    solved = run_plan(plan, fixed_table, rebuild(fixed_arrays), fixed_start)
    states = attach_gradient(table, arrays, rebuild, start, solved.states)
    return wrap_up(table, x0, states, solved, keep)


@jax.jit(static_argnames=("rebuild", "keep"))
def _unwind(
    sampler: Sampler,
    arrays: list[Any],
    rebuild: Any,
    start: Array | SamplerState,
    keep: bool,
) -> InversionResult:
    return unwind(sampler, rebuild(arrays), start, keep)

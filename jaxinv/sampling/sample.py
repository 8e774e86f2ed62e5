r"""Sampling: from noise to data, with any sampler.

The loop applies the rows of a table (:class:`~jaxinv.sampling.steps.Rows`) to one
sample, from the noise end (i = N) to the data end (i = 1). Use ``jax.vmap`` for more
samples.

A sampler starts from one array of noise; tables with a memory have start-up rows of
lower order. A bidirectional sampler can also resume from a
:class:`~jaxinv.sampling.state.SamplerState` without start-up rows:
:func:`jaxinv.invert` undoes this map exactly.
"""

import dataclasses
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.callables import Function, check_denoiser, check_finite
from jaxinv.checks import checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.loops import Loop, Report, run, run_in_turns
from jaxinv.samplers.table import SamplerTable
from jaxinv.samplers.units import matched
from jaxinv.sampling.lossless import Arithmetic, check_arithmetic, sample_exactly
from jaxinv.sampling.state import (
    SamplerState,
    check_state,
    labeled,
    state_of,
    unlabeled,
)
from jaxinv.sampling.steps import Rows, Window, apply_row, evaluate, in_dtype

__all__ = ["apply_row", "evaluate", "in_dtype", "sample", "sample_trajectory"]


@overload
def sample(
    sampler: SamplerTable,
    denoise: Denoiser,
    noise: Float[Array, "*shape"] | SamplerState,
    *,
    return_state: Literal[False] = ...,
    arithmetic: Arithmetic = ...,
    report: Report | None = ...,
) -> Float[Array, "*shape"]: ...


@overload
def sample(
    sampler: SamplerTable,
    denoise: Denoiser,
    noise: Float[Array, "*shape"] | SamplerState,
    *,
    return_state: Literal[True],
    arithmetic: Arithmetic = ...,
    report: Report | None = ...,
) -> SamplerState: ...


@checked
def sample(
    sampler: SamplerTable,
    denoise: Denoiser,
    noise: Float[Array, "*shape"] | SamplerState,
    *,
    return_state: bool = False,
    arithmetic: Arithmetic = "float",
    report: Report | None = None,
) -> Float[Array, "*shape"] | SamplerState:
    """Generate data from noise.

    Args:
        sampler: The sampler, from :func:`jaxinv.ddim` or another constructor.
        denoise: Callable pytree ``(x, t) -> f`` on one sample.
        noise: One sample of unit noise, any shape without a batch axis; or, for a
            bidirectional sampler, its state at the noise end.
        return_state: Whether to return the state of a bidirectional sampler at the data
            end; the sample is its ``x``.
        arithmetic: Arithmetic of bidirectional samplers: ``"compensated"`` stores
            states with twice the digits, ``"bits"`` as integers, from which
            :func:`jaxinv.invert` with the same argument returns the identical bits
            (outside of any ``jax.jit``, on the same device). Gradients of both need
            memory independent of the number of steps, and one more evaluation per row.
        report: Function that receives the number of finished steps after each step. The
            loop then runs on the host, one compiled step at a time, which is not
            allowed inside ``jax.jit`` and other transformations, and only for
            ``arithmetic="float"``.

    Returns:
        The state ``x[0]`` at the data end, of the noise's shape and dtype.

    Raises:
        ValueError: If the noise is not a finite float32 or float64 array, if a state is
            another sampler's or at the other end, or if the denoiser does not map the
            noise's shape to itself.

    Example:
        If the data are always 0, the model predicts the noise itself:

        >>> import jax, jaxinv as ji
        >>> sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
        >>> denoise = lambda x, t: x
        >>> noise = jax.random.normal(jax.random.key(0), (4, 4, 3))
        >>> ji.sample(sampler, denoise, noise).shape
        (4, 4, 3)
    """
    check_arithmetic(arithmetic, sampler)
    start = _checked_start(sampler, noise)
    shape = start.x.shape if isinstance(start, SamplerState) else start.shape
    sampler, model = matched(sampler, denoise, shape)
    if report is not None and arithmetic != "float":
        raise ValueError("report needs arithmetic='float'")
    if arithmetic != "float":
        end = sample_exactly(sampler, model, start, arithmetic)
        return end if return_state else end.x
    if not return_state:
        program = unlabeled(sampler, counted=report is not None)
        return draw(program, model, start, False, report)[0]
    if not sampler.bidirectional:
        raise ValueError(
            f"{sampler.name!r} is not bidirectional, so its state is the sample: omit "
            "return_state"
        )
    program = unlabeled(sampler)
    if report is None:
        found = _sample_state(program, model, start)
    else:
        xs = draw(program, model, start, True, report)
        found = state_of(program, xs[: sampler.history], "data")
    return labeled(found, sampler)


@checked
def sample_trajectory(
    sampler: SamplerTable,
    denoise: Denoiser,
    noise: Float[Array, "*shape"] | SamplerState,
) -> Float[Array, "n+1 *shape"]:
    """Generate data from noise and return every state.

    Args:
        sampler: The sampler.
        denoise: Callable pytree ``(x, t) -> f`` on one sample.
        noise: One sample of unit noise, or a state; see :func:`sample`.

    Returns:
        The states x, data first: index 0 is the sample, index N the (scaled) noise. N
        is the table's number of rows (twice the number of steps for EDICT).

    Raises:
        ValueError: If :func:`sample` raises it.
    """
    start = _checked_start(sampler, noise)
    shape = start.x.shape if isinstance(start, SamplerState) else start.shape
    sampler, model = matched(sampler, denoise, shape)
    return draw(unlabeled(sampler), model, start, keep=True)


def _checked_start(sampler: SamplerTable, noise: Any) -> Array | SamplerState:
    """Return the noise, or the state without its label, or raise ValueError."""
    if isinstance(noise, SamplerState):
        check_state(noise, sampler, "noise")
        return unlabeled(noise)
    noise = jnp.asarray(noise)
    check_finite(noise, "noise")
    return noise


def draw(
    sampler: SamplerTable,
    denoise: Function,
    start: Array | SamplerState,
    keep: bool,
    report: Report | None = None,
) -> Array:
    """Run the programs of :func:`sample` and :func:`sample_trajectory`.

    Args:
        sampler: The sampler, without its labels
            (:func:`jaxinv.sampling.state.unlabeled`).
        denoise: The denoiser.
        start: The noise, or the state at the noise end, without its label.
        keep: Whether to return all states.
        report: Function that receives the number of finished steps; None for one
            program.

    Returns:
        The states x, data first: all states, or only the last, x[0], with an axis.
    """
    if report is None:
        return _draw(sampler, denoise, start, keep)
    machine = Descent(_dtype(start))
    xs = run_in_turns(machine, (sampler, denoise), start, report=report)
    return xs if keep else xs[:1]


@jax.jit(static_argnames="keep")
def _draw(
    sampler: SamplerTable,
    denoise: Function,
    start: Array | SamplerState,
    keep: bool,
) -> Array:
    end, earlier = descend(sampler, denoise, start, keep)
    return end[:1] if earlier is None else earlier


@jax.jit
def _sample_state(
    sampler: SamplerTable, denoise: Function, start: Array | SamplerState
) -> SamplerState:
    end, _ = descend(sampler, denoise, start, keep=False)
    return state_of(sampler, end, "data")


def descend(
    sampler: SamplerTable, denoise: Denoiser, start: Array | SamplerState, keep: bool
) -> tuple[Array, Array | None]:
    """Apply all steps, as a part of a caller's program.

    Args:
        sampler: The sampler.
        denoise: The denoiser.
        start: The noise, or the state at the noise end.
        keep: Whether to keep all states.

    Returns:
        The states x of the window at level 0, and the states of the whole trajectory,
        data first, or None.
    """
    rows = Rows(sampler, denoise, _dtype(start))
    level = rows.top if isinstance(start, SamplerState) else sampler.num_rows
    return run(descent(rows, level, keep), start)


def _dtype(start: Array | SamplerState) -> Any:
    return (start.values if isinstance(start, SamplerState) else start).dtype


@dataclasses.dataclass(frozen=True)
class Descent:
    """Factory of the loop of sampling (:data:`jaxinv.loops.Machine`).

    It starts from noise or a state and keeps all states, so that there is one program.

    Attributes:
        dtype: Data type of the states.
    """

    dtype: Any

    def __call__(self, sampler: SamplerTable, denoise: Function) -> Loop:
        """Return the loop, whose result is the states x, data first."""
        rows = Rows(sampler, denoise, self.dtype)
        loop = descent(rows, sampler.num_rows, keep=True)
        return loop._replace(finish=lambda state: state[2])


def descent(rows: Rows, level: int, keep: bool) -> Loop:
    """Return the loop over all rows, which starts from noise or a state.

    Args:
        rows: The rows of a sampler.
        level: The first level: N for noise.
        keep: Whether to keep all states.

    Returns:
        A loop with the result of :func:`descend`.
    """
    table = rows.table

    def begin(start: Array | SamplerState) -> tuple[Array, Window, Array | None]:
        if isinstance(start, SamplerState):
            check_denoiser(rows.denoise, start.values[0])
            i, first = rows.top, start.values
            window = rows.resume(first, i)
        else:
            check_denoiser(rows.denoise, start)
            scale = jnp.asarray(table.init_noise_scale, start.dtype)
            i, first = table.num_rows, (start * scale)[None]
            window = rows.begin(start)
        below = jnp.zeros((i, *first.shape[1:]), first.dtype)
        xs = jnp.concatenate([below, first]) if keep else None
        return jnp.asarray(i), window, xs

    def advance(
        state: tuple[Array, Window, Array | None],
    ) -> tuple[Array, Window, Array | None]:
        i, window, xs = state
        window = rows.down(i, window)
        if xs is not None:
            xs = xs.at[i - 1].set(table.scale[i - 1] * window.states[0])
        return i - 1, window, xs

    return Loop(
        begin,
        running=lambda state: state[0] > 0,
        advance=advance,
        finish=lambda state: (rows.values(state[1], 0), state[2]),
        length=level,
        steps=lambda state: table.steps_above(state[0]),
    )

r"""Sampling: from noise to data, with any sampler.

The loop is written once, for one sample: apply the rows of a table
(:class:`~jaxinv.sampling.steps.Rows`) from the noise end (i = N) to the data end (i =
1). Use ``jax.vmap`` for more samples.

A sampler starts from one array of noise: tables with a memory have start-up rows of
lower order for that. A bidirectional sampler can also go on from a
:class:`~jaxinv.sampling.state.SamplerState`, where there is nothing to start up: that
is the map which :func:`jaxinv.invert` undoes exactly.
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
from jaxinv.samplers.table import LinearMultistep
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
    sampler: LinearMultistep,
    denoise: Denoiser,
    noise: Float[Array, "*shape"] | SamplerState,
    *,
    return_state: Literal[False] = ...,
    arithmetic: Arithmetic = ...,
    report: Report | None = ...,
) -> Float[Array, "*shape"]: ...


@overload
def sample(
    sampler: LinearMultistep,
    denoise: Denoiser,
    noise: Float[Array, "*shape"] | SamplerState,
    *,
    return_state: Literal[True],
    arithmetic: Arithmetic = ...,
    report: Report | None = ...,
) -> SamplerState: ...


@checked
def sample(
    sampler: LinearMultistep,
    denoise: Denoiser,
    noise: Float[Array, "*shape"] | SamplerState,
    *,
    return_state: bool = False,
    arithmetic: Arithmetic = "float",
    report: Report | None = None,
) -> Float[Array, "*shape"] | SamplerState:
    """Turn noise into data.

    Args:
        sampler: the sampler, from :func:`jaxinv.ddim` and its like.
        denoise: callable pytree ``(x, t) -> f`` on one sample.
        noise: one sample of unit noise, any shape without a batch axis; or, for a
            bidirectional sampler, its state at the noise end.
        return_state: return the state at the data end, of a bidirectional sampler;
            the sample is its ``x``.
        arithmetic: for bidirectional samplers: ``"compensated"`` holds the states in
            twice the digits, ``"bits"`` in integers, from which :func:`jaxinv.invert`
            with the same argument returns the identical bits (outside of any
            ``jax.jit``, on the same device). Gradients of both need memory that does
            not depend on the number of steps, and one more evaluation per row.
        report: called with the number of steps taken, after each; the loop then runs on
            the host, one compiled step at a time. Not inside of ``jax.jit`` and its
            like, and for ``arithmetic="float"`` only.

    Returns:
        The state ``x[0]`` at the data end, of the noise's shape and dtype.

    Raises:
        ValueError: if the noise is not a finite float32 or float64 array, if a state is
            another sampler's or at the other end, or if the denoiser does not map the
            noise's shape to itself.

    Example:
        A model of data that is always 0 predicts the noise itself:

        >>> import jax, jaxinv as ji
        >>> sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
        >>> denoise = lambda x, t: x
        >>> noise = jax.random.normal(jax.random.key(0), (4, 4, 3))
        >>> ji.sample(sampler, denoise, noise).shape
        (4, 4, 3)
    """
    check_arithmetic(arithmetic, sampler)
    start, model = _checked_start(sampler, noise), Function.of(denoise)
    if report is not None and arithmetic != "float":
        raise ValueError("report needs arithmetic='float'")
    if arithmetic != "float":
        end = sample_exactly(sampler, model, start, arithmetic)
        return end if return_state else end.x
    if not return_state:
        return draw(unlabeled(sampler), model, start, False, report)[0]
    if not sampler.bidirectional:
        raise ValueError(
            f"{sampler.name!r} is not bidirectional: its sample is all the state there "
            "is; leave out return_state"
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
    sampler: LinearMultistep,
    denoise: Denoiser,
    noise: Float[Array, "*shape"] | SamplerState,
) -> Float[Array, "n+1 *shape"]:
    """Turn noise into data and keep every state.

    Args:
        sampler: the sampler.
        denoise: callable pytree ``(x, t) -> f`` on one sample.
        noise: one sample of unit noise, or a state, as for :func:`sample`.

    Returns:
        The states x, data first: index 0 is the sample, index N the (scaled) noise. N
        is the table's number of rows (of EDICT twice its number of steps).

    Raises:
        ValueError: as :func:`sample`.
    """
    start = _checked_start(sampler, noise)
    return draw(unlabeled(sampler), Function.of(denoise), start, keep=True)


def _checked_start(sampler: LinearMultistep, noise: Any) -> Array | SamplerState:
    """The noise, or the state without its label; ValueError for what is neither."""
    if isinstance(noise, SamplerState):
        check_state(noise, sampler, "noise")
        return unlabeled(noise)
    noise = jnp.asarray(noise)
    check_finite(noise, "noise")
    return noise


def draw(
    sampler: LinearMultistep,
    denoise: Function,
    start: Array | SamplerState,
    keep: bool,
    report: Report | None = None,
) -> Array:
    """Sample: the programs of :func:`sample` and :func:`sample_trajectory`.

    Args:
        sampler: the sampler, without its labels
            (:func:`jaxinv.sampling.state.unlabeled`).
        denoise: the denoiser.
        start: the noise, or the state at the noise end, without its label.
        keep: whether to return all states.
        report: told how many steps are taken, in between; None for one program.

    Returns:
        The states x, data first: all of them, or only the last, x[0], with an axis.
    """
    if report is None:
        return _draw(sampler, denoise, start, keep)
    machine = Descent(_dtype(start))
    xs = run_in_turns(machine, (sampler, denoise), start, report=report)
    return xs if keep else xs[:1]


@jax.jit(static_argnames="keep")
def _draw(
    sampler: LinearMultistep,
    denoise: Function,
    start: Array | SamplerState,
    keep: bool,
) -> Array:
    end, earlier = descend(sampler, denoise, start, keep)
    return end[:1] if earlier is None else earlier


@jax.jit
def _sample_state(
    sampler: LinearMultistep, denoise: Function, start: Array | SamplerState
) -> SamplerState:
    end, _ = descend(sampler, denoise, start, keep=False)
    return state_of(sampler, end, "data")


def descend(
    sampler: LinearMultistep, denoise: Denoiser, start: Array | SamplerState, keep: bool
) -> tuple[Array, Array | None]:
    """Apply all steps, as a part of a caller's program.

    Args:
        sampler: the sampler.
        denoise: the denoiser.
        start: the noise, or the state at the noise end.
        keep: whether to keep all states.

    Returns:
        The states x of the window at level 0; and the states of the whole trajectory,
        data first, or None.
    """
    rows = Rows(sampler, denoise, _dtype(start))
    level = rows.top if isinstance(start, SamplerState) else sampler.num_rows
    return run(descent(rows, level, keep), start)


def _dtype(start: Array | SamplerState) -> Any:
    return (start.values if isinstance(start, SamplerState) else start).dtype


@dataclasses.dataclass(frozen=True)
class Descent:
    """Makes the loop of sampling (:data:`jaxinv.loops.Machine`).

    It begins with noise or with a state, and keeps all states: there is one program.

    Attributes:
        dtype: of the states.
    """

    dtype: Any

    def __call__(self, sampler: LinearMultistep, denoise: Function) -> Loop:
        """Return the loop, whose result is the states x, data first."""
        rows = Rows(sampler, denoise, self.dtype)
        loop = descent(rows, sampler.num_rows, keep=True)
        return loop._replace(finish=lambda state: state[2])


def descent(rows: Rows, level: int, keep: bool) -> Loop:
    """Return the loop over all rows, which begins with noise or with a state.

    Args:
        rows: of a sampler.
        level: where it begins: N for noise.
        keep: whether to keep all states.

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
        steps=lambda state: (table.num_rows - state[0]) // table.rows_per_step,
    )

r"""Sampling: from noise to data, with any sampler.

The loop is written once, for one sample: apply the rows of a table
(:class:`~jaxinv.sampling.steps.Rows`) from the noise end (i = N) to the data end (i =
1). Use ``jax.vmap`` for more samples.

A sampler starts from one array of noise: tables with a memory have start-up rows of
lower order for that. A bidirectional sampler can also go on from a
:class:`~jaxinv.sampling.state.SamplerState`, where there is nothing to start up: that
is the map which :func:`jaxinv.invert` undoes exactly.
"""

from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.callables import check_denoiser, check_finite, split_callable
from jaxinv.checks import checked
from jaxinv.diffusion.denoiser import Denoiser
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
) -> Float[Array, "*shape"]: ...


@overload
def sample(
    sampler: LinearMultistep,
    denoise: Denoiser,
    noise: Float[Array, "*shape"] | SamplerState,
    *,
    return_state: Literal[True],
    arithmetic: Arithmetic = ...,
) -> SamplerState: ...


@checked
def sample(
    sampler: LinearMultistep,
    denoise: Denoiser,
    noise: Float[Array, "*shape"] | SamplerState,
    *,
    return_state: bool = False,
    arithmetic: Arithmetic = "float",
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
    arrays, rebuild, start = _checked(sampler, denoise, noise)
    if arithmetic != "float":
        end = sample_exactly(sampler, arrays, rebuild, start, arithmetic)
        return end if return_state else end.x
    if not return_state:
        return draw(unlabeled(sampler), arrays, rebuild, start, keep=False)[0]
    if not sampler.bidirectional:
        raise ValueError(
            f"{sampler.name!r} is not bidirectional: its sample is all the state there "
            "is; leave out return_state"
        )
    found = _sample_state(unlabeled(sampler), arrays, rebuild, start)
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
    arrays, rebuild, start = _checked(sampler, denoise, noise)
    return draw(unlabeled(sampler), arrays, rebuild, start, keep=True)


def _checked(
    sampler: LinearMultistep, denoise: Denoiser, noise: Any
) -> tuple[list[Any], Any, Array | SamplerState]:
    """The denoiser in parts, and where to start."""
    if isinstance(noise, SamplerState):
        check_state(noise, sampler, "noise")
    else:
        noise = jnp.asarray(noise)
        check_finite(noise, "noise")
    start = unlabeled(noise) if isinstance(noise, SamplerState) else noise
    return *split_callable(denoise), start


@jax.jit(static_argnames=("rebuild", "keep"))
def draw(
    sampler: LinearMultistep,
    arrays: list[Any],
    rebuild: Any,
    start: Array | SamplerState,
    keep: bool,
) -> Array:
    """Sample: the program of :func:`sample` and :func:`sample_trajectory`.

    Args:
        sampler: the sampler, without its labels
            (:func:`jaxinv.sampling.state.unlabeled`).
        arrays: the denoiser's arrays.
        rebuild: makes the denoiser from them.
        start: the noise, or the state at the noise end, without its label.
        keep: whether to return all states.

    Returns:
        The states x, data first: all of them, or only the last, x[0], with an axis.
    """
    end, earlier = descend(sampler, rebuild(arrays), start, keep)
    return end[:1] if earlier is None else earlier


@jax.jit(static_argnames="rebuild")
def _sample_state(
    sampler: LinearMultistep,
    arrays: list[Any],
    rebuild: Any,
    start: Array | SamplerState,
) -> SamplerState:
    end, _ = descend(sampler, rebuild(arrays), start, keep=False)
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
    if isinstance(start, SamplerState):
        check_denoiser(denoise, start.values[0])
        rows = Rows(sampler, denoise, start.values.dtype)
        level, first = rows.top, start.values
        window = rows.resume(first, level)
    else:
        check_denoiser(denoise, start)
        rows = Rows(sampler, denoise, start.dtype)
        level = sampler.num_rows
        first = (start * jnp.asarray(sampler.init_noise_scale, start.dtype))[None]
        window = rows.begin(start)

    def step(window: Window, i: Array) -> tuple[Window, Array | None]:
        window = rows.down(i, window)
        return window, rows.table.scale[i - 1] * window.states[0] if keep else None

    window, xs = jax.lax.scan(step, window, jnp.arange(level, 0, -1))
    states = None if xs is None else jnp.concatenate([xs[::-1], first])
    return rows.values(window, 0), states

r"""Sampling and inversion of bidirectional tables in lossless arithmetic.

This module connects :func:`jaxinv.sample` and :func:`jaxinv.invert` with an
``arithmetic`` to their common loop (:mod:`jaxinv.sampling.lossless_rows`): one compiled
function, with the direction as an argument, and its gradient in the direction of
sampling, which reconstructs the states instead of storing them.
"""

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxinv.callables import Function, check_denoiser, first_order_only
from jaxinv.checks import unknown
from jaxinv.samplers.table import SamplerTable
from jaxinv.sampling.lossless_numbers import COMPENSATED, Words
from jaxinv.sampling.lossless_numbers import Arithmetic as Numbers
from jaxinv.sampling.lossless_rows import (
    UnitRows,
    integers,
    pull_back,
    unit_rows,
    walk,
)
from jaxinv.sampling.state import SamplerState
from jaxinv.sampling.steps import Rows

Arithmetic = Literal["float", "compensated", "bits"]
ARITHMETICS: tuple[str, ...] = get_args(Arithmetic)


def check_arithmetic(arithmetic: str, sampler: SamplerTable) -> None:
    """Raise ValueError unless an arithmetic is known and available for the sampler.

    Args:
        arithmetic: The name of the arithmetic.
        sampler: The sampler.
    """
    if arithmetic not in ARITHMETICS:
        raise ValueError(unknown("arithmetic", arithmetic, ARITHMETICS))
    if arithmetic != "float" and not sampler.bidirectional:
        raise ValueError(
            f"arithmetic={arithmetic!r} is for bidirectional samplers such as o_belm, "
            f"bdia and edict; {sampler.name!r} only has arithmetic='float'"
        )


def numbers(arithmetic: str, sampler: SamplerTable) -> Numbers:
    """Return the representation of a table's states."""
    return COMPENSATED if arithmetic == "compensated" else integers(sampler)


def sample_exactly(
    sampler: SamplerTable,
    denoise: Function,
    start: Array | SamplerState,
    arithmetic: Arithmetic,
) -> SamplerState:
    """Sample from noise, or from a state at the noise end.

    Args:
        sampler: A bidirectional table.
        denoise: The denoiser.
        start: The noise, or the state.
        arithmetic: ``"compensated"`` or ``"bits"``.

    Returns:
        The state at the data end; all NaN if a value was out of range.
    """
    if not isinstance(start, SamplerState):
        values = _start_up(sampler, denoise, start)
        start = SamplerState(values, sampler.name, sampler.num_steps, "noise")
    return _run(sampler, denoise, start, arithmetic)[0]


def invert_exactly(
    sampler: SamplerTable,
    denoise: Function,
    state: SamplerState,
    arithmetic: Arithmetic,
) -> tuple[SamplerState, Bool[Array, ""]]:
    """Undo :func:`sample_exactly`, from a state at the data end.

    Returns:
        The state at the noise end, and whether all values were in range.
    """
    return _run(sampler, denoise, state, arithmetic)


def _run(
    sampler: SamplerTable,
    denoise: Function,
    state: SamplerState,
    arithmetic: Arithmetic,
) -> tuple[SamplerState, Bool[Array, ""]]:
    """Run from one end of the table to the other."""
    held = numbers(arithmetic, sampler)
    down = state.end == "noise"
    dtype = state.values.dtype
    k = sampler.history
    rows = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), unit_rows(sampler))
    near = slice(-k, None) if down else slice(0, k)
    values = state.values / _column(rows.to_x[near], state.values)
    words = _encode(jax.lax.stop_gradient(values), held)
    if state.words is not None and state.arithmetic == arithmetic:
        # The values define a state. If the words do not match them (a state can be
        # changed, or mixed with another), the words are computed again.
        known = _decode(state.words, held, dtype)
        same = known * _column(rows.to_x[near], known) == state.values
        words = (
            jnp.where(same, state.words[0], words[0]),
            jnp.where(same, state.words[1], words[1]),
        )
    # A denoiser may close over differentiated values.
    x, t = state.values[0], rows.model_time[0]
    converted, hidden = jax.closure_convert(
        lambda x, t, *arrays: denoise.rebuild(list(arrays))(x, t), x, t, *denoise.arrays
    )
    # Otherwise, values that do not change between calls select the program.
    if hidden:
        denoise = Function(
            [*denoise.arrays, *hidden],
            lambda arrays: lambda x, t: converted(x, t, *arrays),
        )
    run = _sample if down else _undo
    values, words, ok = run(held, denoise, rows, words, values)
    far = slice(0, k) if down else slice(-k, None)
    values = values * _column(rows.to_x[far], values)
    values = jnp.where(ok, values, jnp.nan)
    end: Literal["data", "noise"] = "data" if down else "noise"
    return SamplerState(
        values,
        sampler.name,
        sampler.num_steps,
        end,
        words=words,
        arithmetic=arithmetic,
    ), ok


@jax.jit(static_argnames="held")
def _walk(
    held: Numbers, denoise: Function, rows: UnitRows, words: Words, down: Array
) -> tuple[Words, Bool[Array, ""]]:
    """Run the common program of both directions."""
    like = jnp.zeros(words[0].shape[1:], jnp.asarray(rows.to_x).dtype)
    check_denoiser(denoise, like)
    return walk(rows, lambda i, u: _model(denoise, rows, i, u), words, down, held)


def _model(denoise: Function, rows: UnitRows, i: Array, u: Array) -> Array:
    x = jnp.asarray(rows.to_x)[i] * u
    return denoise(x, jnp.asarray(rows.model_time)[i]).astype(u.dtype)


def _undo(
    held: Numbers, denoise: Function, rows: UnitRows, words: Words, values: Array
) -> tuple[Array, Words, Bool[Array, ""]]:
    words, ok = _walk(held, denoise, rows, words, jnp.asarray(False))
    return _decode(words, held, values.dtype), words, ok


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sample(
    held: Numbers,
    denoise: Function,
    rows: UnitRows,
    words: Words,
    values: Float[Array, "k *shape"],
) -> tuple[Float[Array, "k *shape"], Words, Bool[Array, ""]]:
    words, ok = _walk(held, denoise, rows, words, jnp.asarray(True))
    return _decode(words, held, values.dtype), words, ok


def _sample_forward(
    held: Numbers, denoise: Function, rows: Any, words: Any, values: Any
) -> tuple[Any, Any]:
    outcome: Any = _sample(held, denoise, rows, words, values)
    return outcome, (denoise, rows, outcome[1], outcome[2])


def _sample_backward(
    held: Numbers, saved: Any, cotangents: Any
) -> tuple[Any, None, None, Array]:
    (denoise, rows, words, ok), cotangents = first_order_only(
        (saved, cotangents), "jaxinv.sample with an arithmetic"
    )
    parted = denoise.parted()

    def model(floats: list[Array], i: Array, u: Array) -> Array:
        return _model(parted.join(floats, parted.others), rows, i, u)

    floats = list(map(jnp.asarray, parted.floats))
    of_floats, of_values = pull_back(rows, model, floats, words, cotangents[0], held)
    of_floats = jax.tree.map(lambda g: jnp.where(ok, g, jnp.nan), of_floats)
    of_model = parted.join(of_floats, [None] * len(parted.others))
    return of_model, None, None, jnp.where(ok, of_values, jnp.nan)


_sample.defvjp(_sample_forward, _sample_backward)


@jax.jit(static_argnames="held")
def _encode(values: Array, held: Numbers) -> Words:
    return held.encode(values)


@jax.jit(static_argnames=("held", "dtype"))
def _decode(words: Words, held: Numbers, dtype: Any) -> Array:
    return held.decode(words, dtype)


@jax.jit
def _start_up(
    sampler: SamplerTable, denoise: Function, noise: Array
) -> Float[Array, "k *shape"]:
    """Return the states x at the noise end for a start from one array."""
    check_denoiser(denoise, noise)
    steps = Rows(sampler, denoise, noise.dtype)
    window = steps.begin(noise)
    for i in range(sampler.num_rows, steps.top, -1):
        window = steps.down(jnp.asarray(i), window)
    return steps.values(window, steps.top)


def _column(numbers: Array, like: Array) -> Array:
    return numbers.reshape((-1,) + (1,) * (like.ndim - 1))

r"""Bidirectional rows in lossless arithmetic, and gradients without stored states.

Divide the states of a bidirectional table by units ``c[i]`` with ``c[i-1] = a[i,k-1]
c[i+k-1]``. For the quotients u the oldest state of every row has the weight 1,

    u[i-1] = u[i+k-1] + sum_{j<k-1} A[i,j] u[i+j] + B[i,j] f[i+j],

so a step *adds an increment* to one number, and undoing it subtracts the same
increment, which depends on states that both directions have. It remains to represent u
such that additions can be undone (:mod:`jaxinv.sampling.lossless_numbers`): with twice
the digits, or as integers, which give identical bits.

Identical bits require identical increments, which compilers guarantee only within one
program. Both directions therefore share a program, with the direction as an argument.

**Gradients.** Reverse mode needs the states of all steps, last first. A reversible
sampler does not need to store them: the backward pass undoes the steps one by one from
the end, in the same representation, and pulls the cotangent back through each. Memory
does not depend on the number of steps; the cost is one more evaluation per step.

References:
    Wang et al. 2024, arXiv:2410.07273 (the rows).
    Gomez et al. 2017, "The Reversible Residual Network", arXiv:1707.04585, and
    Maclaurin et al. 2015, arXiv:1502.03492 (states reconstructed from exact integers).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxinv.samplers.table import Coefficients, SamplerTable
from jaxinv.sampling.lossless_numbers import LARGEST_BITS, Arithmetic, Bits, Words

#: Size of data and noise that integers leave room for, in standard deviations.
LARGEST_VALUE = 64.0
#: Largest unit of an integer state, relative to unit data.
COARSEST_UNIT = 2.0**-24

# A function from (level, state u) to the model's output there.
Model = Callable[[Array, Array], Array]


class UnitRows(NamedTuple):
    """The rows of a bidirectional table between states u; a pytree.

    Attributes:
        a: A, shape (N, k - 1).
        b: B, shape (N, k - 1).
        to_x: ``x[i] = to_x[i] * u[i]``, shape (N + 1,); 1 for the first k levels.
        model_time: Times given to the model at each level, shape (N + 1,).
    """

    a: Coefficients
    b: Coefficients
    to_x: Coefficients
    model_time: Coefficients

    @property
    def history(self) -> int:
        """Number of states of a row, k."""
        return self.a.shape[1] + 1

    @property
    def num_rows(self) -> int:
        """Number of rows with all k states."""
        return self.a.shape[0] - self.a.shape[1]


def unit_rows(table: SamplerTable) -> UnitRows:
    """Scale the states of a bidirectional table such that the oldest has weight 1.

    Args:
        table: A bidirectional table, with concrete coefficients.

    Returns:
        The rows, in float64. At the data end u equals the state x.

    Raises:
        ValueError: If the coefficients are not known yet (inside ``jax.jit``).
    """
    a, b, scale, model_time = map(
        concrete, (table.a, table.b, table.scale, table.model_time)
    )
    n, k = a.shape
    units = np.empty(n + 1)
    units[:k] = 1 / scale[:k]
    for i in range(1, n + 2 - k):
        units[i + k - 1] = units[i - 1] / a[i - 1, k - 1]
    weights = np.zeros((n, k - 1))
    slopes = np.zeros((n, k - 1))
    for i in range(1, n + 2 - k):
        weights[i - 1] = a[i - 1, : k - 1] * units[i : i + k - 1] / units[i - 1]
        slopes[i - 1] = b[i - 1, : k - 1] / units[i - 1]
    return UnitRows(weights, slopes, scale * units, model_time)


def concrete(values: Coefficients) -> np.ndarray:
    """Return float64 coefficients on the host, or raise ValueError in ``jax.jit``."""
    if isinstance(values, jax.core.Tracer):
        raise ValueError(
            "exact arithmetic needs the sampler's coefficients in double precision: "
            "make the sampler outside of jax.jit and close over it"
        )
    return np.asarray(values, np.float64)


def integers(table: SamplerTable) -> Bits:
    """Return integers with the finest unit that holds every state of a table.

    Args:
        table: A bidirectional table.

    Returns:
        The arithmetic.

    Raises:
        ValueError: If the states of two levels differ in size, in their shared units,
            by more than 64 bits can hold.
    """
    rows = unit_rows(table)
    # States u have the size of one.
    typical = np.abs(np.asarray(table.scale, np.float64) / rows.to_x)
    places = LARGEST_BITS - math.ceil(math.log2(LARGEST_VALUE * typical.max()))
    unit = 2.0**-places / typical.min()
    if not unit <= COARSEST_UNIT:
        needed = LARGEST_BITS + math.ceil(math.log2(unit / COARSEST_UNIT))
        raise ValueError(
            f"{table.name!r} with {table.num_steps} steps shrinks its states so much "
            f"that identical bits would need integers of {needed} bits; the available "
            f"{LARGEST_BITS} suffice for fewer steps, or rows that shrink less "
            "(o_belm, or bdia with gamma closer to 1)"
        )
    return Bits(places)


def walk(
    rows: UnitRows,
    model: Model,
    words: Words,
    down: Array,
    arithmetic: Arithmetic,
) -> tuple[Words, Array]:
    """Apply all full rows, or undo them.

    Args:
        rows: The rows, in the dtype of the increments.
        model: Function that returns the model's outputs.
        words: The k states u at one end, data side first.
        down: Whether to sample (noise to data) or to invert; a traced boolean, so that
            one program does both.
        arithmetic: Representation of the states.

    Returns:
        The k states at the other end, data side first, and whether all were in range.
    """
    k, dtype = rows.history, jnp.asarray(rows.a).dtype
    last = rows.num_rows
    # A window is the k - 1 states between the outer two, data side first, followed by
    # the available outer state: the oldest (sampling) or the newest (inverting).
    words = jax.tree.map(lambda w: jnp.where(down, w, jnp.roll(w, -1, axis=0)), words)
    outputs = jnp.zeros((k - 1, *words[0].shape[1:]), dtype)

    def body(t: Array, carry: Any) -> Any:
        words, outputs, ok = carry
        # The first k - 2 iterations only evaluate the model at the inner states, with
        # the same instructions as later iterations.
        step = jnp.maximum(t - (k - 2), 0)
        i = jnp.where(down, last - step, 1 + step)
        place = jnp.where(down, jnp.maximum(k - 2 - t, 0), jnp.minimum(t, k - 2))
        inner = arithmetic.decode(jax.tree.map(lambda w: w[:-1], words), dtype)
        outputs = outputs.at[place].set(model(i + place, inner[place]))
        increment = weighted(rows, i, inner, outputs)
        edge = jax.tree.map(lambda w: w[-1], words)
        new = arithmetic.add(edge, jnp.where(down, increment, -increment))
        moved = jax.tree.map(lambda w, x: _move(w, x, down), words, new)
        shifted = jnp.where(
            down, jnp.roll(outputs, 1, axis=0), jnp.roll(outputs, -1, axis=0)
        )
        go = t >= k - 2
        words = jax.tree.map(lambda a, b: jnp.where(go, a, b), moved, words)
        ok = ok & (arithmetic.holds(new) | ~go)
        return words, jnp.where(go, shifted, outputs), ok

    start = (words, outputs, arithmetic.holds(words))
    words, _, ok = jax.lax.fori_loop(0, last + k - 2, body, start)
    words = jax.tree.map(lambda w: jnp.where(down, w, jnp.roll(w, 1, axis=0)), words)
    return words, ok


def weighted(rows: UnitRows, i: Array, states: Array, outputs: Array) -> Array:
    """Return the increment of row i, a sum of products in a fixed order."""
    a, b = jnp.asarray(rows.a)[i - 1], jnp.asarray(rows.b)[i - 1]
    terms = [a[j] * states[j] + b[j] * outputs[j] for j in range(states.shape[0])]
    return _settled(sum(terms[1:], start=terms[0]))


def _settled(value: Array) -> Array:
    """Return a value that is computed and rounded once before its uses.

    Compilers recompute a cheap expression for each use, and may fuse its products and
    sums differently each time: the high word of a state would get another increment
    than the low word. A loop of unknown length prevents that on every backend
    (``optimization_barrier`` is removed before the fusion passes of some backends).
    """
    trips = jnp.where(value.reshape(-1)[0] == 0, 2, 1)
    return jax.lax.fori_loop(0, trips, lambda _, __: value, jnp.zeros_like(value))


def _move(window: Array, new: Array, down: Array) -> Array:
    """Return the window of the next step: the inner states, then the outer one."""
    sampling = jnp.concatenate([new[None], window[:-1]])
    inverting = jnp.concatenate([window[1:-1], new[None], window[:1]])
    return jnp.where(down, sampling, inverting)


def pull_back(
    rows: UnitRows,
    model: Callable[[Any, Array, Array], Array],
    parameters: Any,
    words: Words,
    cotangent: Float[Array, "k *shape"],
    arithmetic: Arithmetic,
) -> tuple[Any, Float[Array, "k *shape"]]:
    """Pull cotangents back through sampling, undoing the steps from the data end.

    Args:
        rows: The rows.
        model: Function from (parameters, level, state u) to the output.
        parameters: Parameters to differentiate, a pytree of floats.
        words: The k states u at the data end.
        cotangent: Cotangent of the values of the states.
        arithmetic: Representation of the states.

    Returns:
        The cotangents of the parameters and of the k states at the noise end.
    """
    k = rows.history
    zeros = jnp.zeros((k - 1, *cotangent.shape[1:]), cotangent.dtype)
    nothing = jax.tree.map(jnp.zeros_like, parameters)
    dtype = cotangent.dtype

    def through(level: Array, u: Array, of_output: Array) -> tuple[Any, Array]:
        _, pull = jax.vjp(lambda p, u: model(p, level, u), parameters, u)
        return pull(of_output)

    def body(i: Array, carry: Any) -> Any:
        words, outputs, total, of_states, of_outputs = carry
        # Undo row i with the outputs at the inner levels i .. i + k - 2, of which the
        # last is new.
        inner_words = jax.tree.map(lambda w: w[1:], words)
        inner = arithmetic.decode(inner_words, dtype)
        f = model(parameters, i + k - 2, inner[-1])
        outputs = jnp.concatenate([outputs[1:], f[None]])
        increment = weighted(rows, i, inner, outputs)
        oldest = arithmetic.add(jax.tree.map(lambda w: w[0], words), -increment)
        words = jax.tree.map(
            lambda w, x: jnp.concatenate([w, x[None]]), inner_words, oldest
        )
        # Transpose row i. Level i appears in no later row.
        a, b = jnp.asarray(rows.a)[i - 1], jnp.asarray(rows.b)[i - 1]
        g = of_states[0]
        column = (-1,) + (1,) * g.ndim
        inner_states = of_states[1:] + a.reshape(column) * g
        of_outputs = jnp.concatenate([of_outputs[1:], jnp.zeros_like(g)[None]])
        of_outputs = of_outputs + b.reshape(column) * g
        more, back = through(i, inner[0], of_outputs[0])
        total = jax.tree.map(jnp.add, total, more)
        of_states = jnp.concatenate([inner_states.at[0].add(back), g[None]])
        return words, outputs, total, of_states, of_outputs

    # Outputs at the inner levels except the last: levels 1 .. k - 2.
    outputs = zeros
    for j in range(1, k - 1):
        u = arithmetic.decode((words[0][j], words[1][j]), dtype)
        outputs = outputs.at[j].set(model(parameters, jnp.asarray(j), u))
    start = (words, outputs, nothing, cotangent, zeros)
    words, _, total, of_states, of_outputs = jax.lax.fori_loop(
        1, rows.num_rows + 1, body, start
    )
    # Outputs at levels beyond the last row.
    for j in range(1, k - 1):
        u = arithmetic.decode((words[0][j], words[1][j]), dtype)
        level = jnp.asarray(rows.num_rows + j)
        more, back = through(level, u, of_outputs[j])
        total = jax.tree.map(jnp.add, total, more)
        of_states = of_states.at[j].add(back)
    return total, of_states

r"""One step of a sampler, in either direction, on the window of its last states.

A row of a table with a memory of k states maps one *window* of a trajectory to the
next: ``(u[i], .., u[i+k-1])`` to ``(u[i-1], .., u[i+k-2])``. :class:`Rows` is this map,
and for bidirectional samplers its inverse, for all loops over the rows (sampling,
explicit inversion). Both directions of a row use the same sum of the terms between its
two outer states (:func:`row_sum`), from the same evaluation of the model.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.norms import relative
from jaxinv.samplers.table import SamplerTable


class Window(NamedTuple):
    """The last k states of a table, data side first.

    Attributes:
        states: ``u[i] .. u[i+k-1]`` at level i, shape (k, ...); zeros for missing
            states.
        outputs: The model's outputs at those states between the outer two that were
            evaluated, shape (k, ...).
    """

    states: Float[Array, "k *shape"]
    outputs: Float[Array, "k *shape"]


class Rows:
    """The rows of a table with one denoiser, in both directions.

    A window is *at level i* if its newest state (closest to the data) is ``u[i]``.

    Args:
        table: The table.
        denoise: The denoiser.
        dtype: Data type of the states; None if the table has it already.

    Attributes:
        top: The highest level when undoing rows: that of the window of a state at the
            noise end.
        undo_evals: Number of evaluations to undo all rows, and to measure the error of
            a start from one array.
    """

    def __init__(
        self, table: SamplerTable, denoise: Denoiser, dtype: Any = None
    ) -> None:
        self.table = table if dtype is None else in_dtype(table, dtype)
        self.denoise = denoise
        self.top = table.num_rows + 1 - table.history
        # One per row, one per state between the first two, one for the start-up rows.
        self.undo_evals = self.top + (table.history - 2) + 1

    def begin(self, noise: Array) -> Window:
        """Return the window at the noise end of one array of unit noise.

        It has zeros for missing history, which the table weighs by zero.
        """
        table = self.table
        zeros = jnp.zeros((table.history, *noise.shape), noise.dtype)
        start = noise * table.init_noise_scale / table.scale[-1]
        return Window(zeros.at[0].set(start), zeros)

    def resume(self, values: Array, level: int) -> Window:
        """Return the window at a level, 0 or ``top``, of the states x of a state.

        This costs one evaluation for each state between the outer two.
        """
        k = self.table.history
        scale = jnp.asarray(self.table.scale)[level : level + k]
        states = values / scale.reshape((-1,) + (1,) * (values.ndim - 1))
        return self.known(states, level)

    def known(self, states: Array, level: int) -> Window:
        """Return the window at a level of states u."""
        inner = jnp.arange(1, self.table.history - 1)
        outputs = jnp.zeros_like(states)
        if len(inner):
            found = jax.lax.map(
                lambda j: evaluate(self.table, self.denoise, level + j, states[j]),
                inner,
            )
            outputs = outputs.at[inner].set(found)
        return Window(states, outputs)

    def values(self, window: Window, level: int) -> Array:
        """Return the states x of a window at a level, data side first."""
        scale = jnp.asarray(self.table.scale)[level : level + len(window.states)]
        return scale.reshape((-1,) + (1,) * (window.states.ndim - 1)) * window.states

    def down(self, i: Array, window: Window) -> Window:
        """Apply row i, and return the window at level i - 1 (one evaluation)."""
        states, outputs = window
        f = evaluate(self.table, self.denoise, i, states[0])
        outputs = outputs.at[0].set(f)
        y = apply_row(self.table, i, states, outputs)
        return Window(_push(states, y), _push(outputs, jnp.zeros_like(f)))

    def up(self, i: Array, window: Window) -> tuple[Window, Array]:
        """Undo row i, and return the window at level i and the row's relative residual.

        This costs one evaluation at the oldest state; the row then gives the next
        state.
        """
        table, k = self.table, self.table.history
        after, states = window.states[0], window.states[1:]
        f = evaluate(table, self.denoise, i + k - 2, states[-1])
        outputs = jnp.concatenate([window.outputs[1:-1], f[None]])
        inner = row_sum(table, i, states, outputs)
        weight = table.a[i - 1, k - 1]
        oldest = (after - inner) / weight
        error = relative(inner + weight * oldest - after, after)
        padding = jnp.zeros_like(f)[None]
        window = Window(
            jnp.concatenate([states, oldest[None]]),
            jnp.concatenate([outputs, padding]),
        )
        return window, error

    def start_up(self, window: Window, errors: Array) -> Array:
        """Append the residuals of the start-up rows, the last k - 1.

        They need one more evaluation, at the noise end.

        Args:
            window: The window at level ``top``.
            errors: Residuals of the rows up to that level.
        """
        table, states = self.table, window.states
        last = evaluate(table, self.denoise, jnp.asarray(table.num_rows), states[-1])
        outputs = window.outputs.at[-1].set(last)
        found = []
        for m in range(1, table.history):
            i = jnp.asarray(self.top + m)
            made = row_sum(table, i, states[m:], outputs[m:])
            found.append(relative(made - states[m - 1], states[m - 1]))
        return jnp.concatenate([errors, jnp.stack(found)])


def in_dtype(table: SamplerTable, dtype: Any) -> SamplerTable:
    """Return a table with its coefficients in the dtype of the states."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(dtype), table)


def evaluate(table: SamplerTable, denoise: Denoiser, i: Array, u: Array) -> Array:
    """Evaluate the model at the state ``u[i]``, in the dtype of the state."""
    return denoise(table.scale[i] * u, table.model_time[i]).astype(u.dtype)


def apply_row(table: SamplerTable, i: Array, states: Array, outputs: Array) -> Array:
    """Return ``u[i-1]`` from the k newest states and outputs, newest first."""
    if not table.bidirectional:
        total = row_sum(table, i, states, outputs)
        return total if table.shift is None else total + table.shift[i - 1]
    # Rows do not weigh the output of the oldest state.
    inner = row_sum(table, i, states[:-1], outputs[:-1])
    return inner + table.a[i - 1, -1] * states[-1]


def row_sum(table: SamplerTable, i: Array, states: Array, outputs: Array) -> Array:
    """Return the weighted sum of the given newest states and outputs of a row.

    It is a sum of products, because accelerators may run matrix products in reduced
    precision.
    """
    a, b = table.a[i - 1], table.b[i - 1]
    terms = [a[j] * states[j] + b[j] * outputs[j] for j in range(len(states))]
    return sum(terms[1:], start=terms[0])


def _push(history: Array, newest: Array) -> Array:
    return jnp.concatenate([newest[None], history[:-1]])


def step_of_one_state(
    table: SamplerTable, denoise: Denoiser, i: Array, x: Array
) -> Array:
    """Take a step of a one-state sampler in the state x: ``x[i] -> x[i-1]``."""
    u = x / table.scale[i]
    o = evaluate(table, denoise, i, u)
    return table.scale[i - 1] * apply_row(table, i, u[None], o[None])


def slope_of_one_state(table: SamplerTable, i: Array) -> Array:
    """Return the derivative of :func:`step_of_one_state` for a constant output.

    A step that is all data prediction does not weigh the state: then f is constant.
    """
    a = table.a[i - 1, 0]
    a = jnp.where(a == 0, 1 / table.ode.naive[i - 1, 0], a)
    return a * table.scale[i - 1] / table.scale[i]

r"""One step of a sampler, in either direction, from the window of its last states.

A step of a sampler with a memory of k states maps one *window* of a trajectory to the
next: ``(y[i], .., y[i+k-1])`` to ``(y[i-1], .., y[i+k-2])``. A :class:`Stepper` is that
map, and for bidirectional samplers its inverse. All loops over the steps (sampling,
explicit inversion) are written once, over steppers; a new kind of sampler is a new
stepper. Both directions of a row use the very same sum of what lies between its two
outer states (:func:`row_sum`), from the same evaluation of the model.
"""

import functools
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.norms import relative
from jaxinv.samplers.table import LinearMultistep


class Stepper(Protocol):
    """The steps of one sampler with one denoiser, in one dtype.

    A window is any pytree. It is *at level i* if the newest state in it (nearest to the
    data) is the one of level i.

    Attributes:
        num_steps: N.
        top: the highest level that undoing steps leads to: that of the window of a
            state at the noise end.
        undo_evals: evaluations of the model that undoing all steps takes, and measuring
            how far what it leads to is off for a start from one array.
    """

    num_steps: int
    top: int
    undo_evals: int

    def begin(self, noise: Float[Array, "*shape"]) -> Any:
        """The window at level N of one array of unit noise."""
        ...

    def resume(self, values: Float[Array, "k *shape"], level: int) -> Any:
        """The window at a level, 0 or ``top``, of the states x of a sampler's state."""
        ...

    def values(self, window: Any, level: int) -> Float[Array, "k *shape"]:
        """The states x of a window at a level, data side first."""
        ...

    def newest(self, window: Any) -> Float[Array, "*shape"]:
        """The state y of a window's own level."""
        ...

    def older(self, window: Any) -> Float[Array, "m *shape"]:
        """The states y of the levels beyond, as many as the window has."""
        ...

    def down(self, i: Array, window: Any) -> Any:
        """The step from level i to i - 1."""
        ...

    def up(self, i: Array, window: Any) -> tuple[Any, Float[Array, ""]]:
        """Undo that step: the window at level i, and the step's relative residual."""
        ...

    def start_up(self, window: Any, errors: Float[Array, "top"]) -> Float[Array, "n"]:
        """Residuals of all N steps of a start from one array, that of the noise end.

        Args:
            window: the window at level ``top``.
            errors: residuals of the steps up to there.
        """
        ...


@functools.singledispatch
def stepper(sampler: Any, denoise: Denoiser, dtype: Any) -> Stepper:
    """The stepper of a sampler; each kind of sampler registers its own.

    Args:
        sampler: a table, or another sampler.
        denoise: the denoiser.
        dtype: of the states.

    Returns:
        The steps.

    Raises:
        ValueError: for what is no sampler.
    """
    raise ValueError(
        "expected a sampler such as jaxinv.ddim(grid), got an object of type "
        f"{type(sampler).__name__}"
    )


class Window(NamedTuple):
    """The last k states of a table, data side first.

    Attributes:
        states: shape (k, ...). ``y[i] .. y[i+k-1]`` at level i; zeros stand for what is
            not there yet.
        outputs: shape (k, ...). The model's outputs there, for as many of the states
            between the outer two as have been evaluated.
    """

    states: Float[Array, "k *shape"]
    outputs: Float[Array, "k *shape"]


class Rows:
    """The rows of a table; see :class:`Stepper`."""

    def __init__(
        self, table: LinearMultistep, denoise: Denoiser, dtype: Any = None
    ) -> None:
        self.table = table if dtype is None else in_dtype(table, dtype)
        self.denoise = denoise
        self.num_steps = table.num_steps
        self.top = table.num_steps + 1 - table.history
        # One per step, those between the first states, one more for the start-up rows.
        self.undo_evals = self.top + (table.history - 2) + 1

    def begin(self, noise: Array) -> Window:
        """Zeros where there is no history: the table's zeros keep them out."""
        table = self.table
        zeros = jnp.zeros((table.history, *noise.shape), noise.dtype)
        start = noise * table.init_noise_scale / table.scale[-1]
        return Window(zeros.at[0].set(start), zeros)

    def resume(self, values: Array, level: int) -> Window:
        """Evaluates the model at all states between the outer two."""
        k = self.table.history
        scale = jnp.asarray(self.table.scale)[level : level + k]
        states = values / scale.reshape((-1,) + (1,) * (values.ndim - 1))
        return self.known(states, level)

    def known(self, states: Array, level: int) -> Window:
        """The window of states y."""
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
        """In the state x."""
        scale = jnp.asarray(self.table.scale)[level : level + len(window.states)]
        return scale.reshape((-1,) + (1,) * (window.states.ndim - 1)) * window.states

    def newest(self, window: Window) -> Array:
        """The first of the states."""
        return window.states[0]

    def older(self, window: Window) -> Array:
        """All but the first of the states."""
        return window.states[1:]

    def down(self, i: Array, window: Window) -> Window:
        """Evaluates the model at level i and applies the row."""
        states, outputs = window
        f = evaluate(self.table, self.denoise, i, states[0])
        outputs = outputs.at[0].set(f)
        y = apply_row(self.table, i, states, outputs)
        return Window(_push(states, y), _push(outputs, jnp.zeros_like(f)))

    def up(self, i: Array, window: Window) -> tuple[Window, Array]:
        """Evaluates the model at the oldest state and solves the row for the next."""
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
        """Appends the residuals of the start-up rows, the last k - 1.

        Of the outputs that they need, only that of level N is not known yet.
        """
        table, states = self.table, window.states
        last = evaluate(table, self.denoise, jnp.asarray(self.num_steps), states[-1])
        outputs = window.outputs.at[-1].set(last)
        found = []
        for m in range(1, table.history):
            i = jnp.asarray(self.top + m)
            made = row_sum(table, i, states[m:], outputs[m:])
            found.append(relative(made - states[m - 1], states[m - 1]))
        return jnp.concatenate([errors, jnp.stack(found)])


@stepper.register
def _(sampler: LinearMultistep, denoise: Denoiser, dtype: Any) -> Stepper:
    return Rows(sampler, denoise, dtype)


def in_dtype(sampler: Any, dtype: Any) -> Any:
    """The sampler's coefficients in the dtype of the states."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf).astype(dtype), sampler)


def evaluate(table: LinearMultistep, denoise: Denoiser, i: Array, y: Array) -> Array:
    """F at the state ``y[i]``, in the state's dtype whatever the network's is."""
    return denoise(table.scale[i] * y, table.model_time[i]).astype(y.dtype)


def apply_row(table: LinearMultistep, i: Array, states: Array, outputs: Array) -> Array:
    """``y[i-1]`` from the k newest states and outputs, newest first."""
    if not table.bidirectional:
        return row_sum(table, i, states, outputs)
    # No row has a weight for the output of the oldest state.
    inner = row_sum(table, i, states[:-1], outputs[:-1])
    return inner + table.a[i - 1, -1] * states[-1]


def row_sum(table: LinearMultistep, i: Array, states: Array, outputs: Array) -> Array:
    """The weighted sum of the newest states and outputs of a row, as many as given.

    Written as sums of products, not as a matrix product: accelerators may run those in
    reduced precision.
    """
    a, b = table.a[i - 1], table.b[i - 1]
    terms = [a[j] * states[j] + b[j] * outputs[j] for j in range(len(states))]
    return sum(terms[1:], start=terms[0])


def _push(history: Array, newest: Array) -> Array:
    return jnp.concatenate([newest[None], history[:-1]])

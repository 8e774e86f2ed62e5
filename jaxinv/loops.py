r"""A loop as a value: four functions, and the ways to run them.

Whatever iterates in this library (solvers, stages of an inversion, decoder inversion,
what runs in a lane) is

    state = begin()
    while running(state):
        state = advance(state)
    result = finish(state)

and a :class:`Loop` is these four functions, of one sample. A loop can be run to its end
as a part of a compiled program (:func:`run`) or advanced by some iterations
(:func:`advance_at_most`), which is what continuous batching does with many at a time.
A plain function is a loop of one iteration (:func:`once`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree


class Loop(NamedTuple):
    """A loop that can be left after any iteration and taken up again.

    Attributes:
        begin: ``() -> state`` before the first iteration, a pytree of arrays.
        running: ``state -> bool``, whether there is more to do.
        advance: ``state -> state``, one iteration.
        finish: ``state -> result``, what is found up to here.
    """

    begin: Callable[[], PyTree]
    running: Callable[[Any], Bool[Array, ""]]
    advance: Callable[[Any], PyTree]
    finish: Callable[[Any], PyTree]


def run(loop: Loop) -> PyTree:
    """Run a loop to its end and return its result."""
    return loop.finish(jax.lax.while_loop(loop.running, loop.advance, loop.begin()))


def advance_at_most(
    loop: Loop, state: PyTree, iterations: int | Int[Array, ""]
) -> tuple[Int[Array, ""], PyTree]:
    """Advance a loop by so many iterations, or fewer if it ends before.

    Args:
        loop: The loop.
        state: Where it is.
        iterations: How many at most.

    Returns:
        The number of iterations, and the state after them.
    """
    return jax.lax.while_loop(
        lambda c: (c[0] < iterations) & loop.running(c[1]),
        lambda c: (c[0] + 1, loop.advance(c[1])),
        (jnp.zeros((), jnp.int32), state),
    )


def once(function: Callable[[], PyTree], active: bool | Bool[Array, ""] = True) -> Loop:
    """Return a plain function as a loop of one iteration.

    Args:
        function: Makes the result, a pytree of arrays.
        active: Whether to call it at all; the result is zeros if not.
    """

    def begin() -> tuple[Array, PyTree]:
        shapes = jax.eval_shape(function)
        nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jnp.asarray(active), nothing

    return Loop(
        begin,
        running=lambda state: state[0],
        advance=lambda state: (jnp.zeros_like(state[0]), function()),
        finish=lambda state: state[1],
    )

r"""A loop as a value: four functions, and the ways to run them.

All iterations of this library (sampling, solvers, stages of an inversion, decoder
inversion) have the form

    state = begin()
    while running(state):
        state = advance(state)
    result = finish(state)

and a :class:`Loop` is these four functions, for one sample. A loop can run

* to its end, as a part of a compiled program (:func:`run`);
* in turns from the host (:func:`run_in_turns`): a compiled program advances it by some
  iterations, and the host reports the progress in between. No program calls back, so
  that JAX's persistent cache can store all of them;
* in many lanes (:mod:`jaxinv.scale.lanes`), by :func:`advance_at_most`.

A plain function is a loop of one iteration (:func:`once`).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PyTree


class Loop(NamedTuple):
    """A loop that can be interrupted after any iteration and resumed.

    Attributes:
        begin: ``(*start) -> state`` before the first iteration, a pytree of arrays.
            Most loops need no start; the iterations of others do not depend on it.
        running: ``state -> bool``, whether to continue.
        advance: ``state -> state``, one iteration.
        finish: ``state -> result``, the result so far.
        length: The number of iterations, if it is known in advance: such a loop can be
            differentiated in reverse mode. Otherwise None.
        steps: ``state -> int``, the number of finished sampler steps, for reports; None
            if unknown.
    """

    begin: Callable[..., PyTree]
    running: Callable[[Any], Bool[Array, ""]]
    advance: Callable[[Any], PyTree]
    finish: Callable[[Any], PyTree]
    length: int | None = None
    steps: Callable[[Any], Int[Array, ""]] | None = None


#: A function from pytrees of arrays to a loop. It is hashable and selects the program.
Machine = Callable[..., Loop]

#: A function that receives the number of finished sampler steps.
Report = Callable[[int], None]


def run(loop: Loop, *start: PyTree) -> PyTree:
    """Run a loop to its end, as a part of a program, and return its result."""
    state = loop.begin(*start)
    if loop.length is None:
        state = jax.lax.while_loop(loop.running, loop.advance, state)
    elif loop.length:  # a loop of no iterations would be compiled all the same
        state = jax.lax.fori_loop(0, loop.length, lambda _, s: loop.advance(s), state)
    return loop.finish(state)


def advance_at_most(
    loop: Loop, state: PyTree, iterations: int | Int[Array, ""]
) -> tuple[Int[Array, ""], PyTree]:
    """Advance a loop by a number of iterations, or fewer if it ends.

    Args:
        loop: The loop.
        state: The state of the loop.
        iterations: Largest number of iterations.

    Returns:
        The number of iterations, and the new state.
    """
    return jax.lax.while_loop(
        lambda c: (c[0] < iterations) & loop.running(c[1]),
        lambda c: (c[0] + 1, loop.advance(c[1])),
        (jnp.zeros((), jnp.int32), state),
    )


def once(function: Callable[[], PyTree], active: bool | Bool[Array, ""] = True) -> Loop:
    """Return a plain function as a loop of one iteration.

    Args:
        function: Function that returns the result, a pytree of arrays.
        active: Whether to call the function; otherwise the result is zeros.
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


def run_in_turns(
    machine: Machine,
    given: tuple[PyTree, ...],
    *start: PyTree,
    report: Report,
    amend: Callable[[PyTree], PyTree] = lambda state: state,
    iterations: int = 1,
) -> PyTree:
    """Run a loop from the host, in turns of a compiled program.

    Args:
        machine: Function that makes the loop.
        given: Arguments of the machine.
        *start: Start of the loop; the program of the turns does not depend on it.
        report: Function to call after each turn, if the loop knows its steps.
        amend: ``state -> state``, to apply before each turn.
        iterations: Number of iterations in a turn; one program serves any number.

    Returns:
        The loop's result.
    """
    state, goes_on = _begin(machine, given, start)
    while goes_on:
        state, goes_on, steps = _turn(machine, given, amend(state), iterations)
        if steps is not None:
            report(int(steps))
    return _finish(machine, given, state)


@functools.partial(jax.jit, static_argnames="machine")
def _begin(
    machine: Machine, given: tuple[PyTree, ...], start: tuple[PyTree, ...]
) -> tuple[PyTree, Array]:
    loop = machine(*given)
    state = loop.begin(*start)
    return state, loop.running(state)


@functools.partial(jax.jit, static_argnames="machine")
def _turn(
    machine: Machine, given: tuple[PyTree, ...], state: PyTree, iterations: Array
) -> tuple[PyTree, Array, Array | None]:
    loop = machine(*given)
    _, state = advance_at_most(loop, state, iterations)
    steps = None if loop.steps is None else loop.steps(state)
    return state, loop.running(state), steps


@functools.partial(jax.jit, static_argnames="machine")
def _finish(machine: Machine, given: tuple[PyTree, ...], state: PyTree) -> PyTree:
    return machine(*given).finish(state)

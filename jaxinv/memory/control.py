"""Loops and branches of a jaxpr, as operations with bodies."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxinv.memory.program import Body, Kind, Value, base

if TYPE_CHECKING:
    from jaxinv.memory.builder import Builder


def while_loop(
    builder: "Builder", params: Any, inputs: list[Value], _: Any
) -> list[Value]:
    """A loop with a condition."""
    n, m = params["cond_nconsts"], params["body_nconsts"]
    test, constants, start = inputs[:n], inputs[n : n + m], inputs[n + m :]
    body = params["body_jaxpr"]
    avals = body.in_avals[m:]

    def build(carry: list[Value]) -> list[Value]:
        (goes_on,) = builder.call(params["cond_jaxpr"], [*test, *carry])
        results = builder.call(body, [*constants, *carry])
        if not goes_on.shape:
            return results
        # A batch goes on until its last lane stops; the others keep what they have.
        return [
            old
            if base(new) is old
            else builder.emit(Kind.CHEAP, "select_n", [goes_on, old, new], [aval])[0]
            for old, new, aval in zip(carry, results, avals, strict=True)
        ]

    return _loop(builder, start, avals, build)


def scan(
    builder: "Builder", params: Any, inputs: list[Value], avals: Any
) -> list[Value]:
    """A scan is a loop that carries a counter and the stacks of its results."""
    n, m = params["num_consts"], params["num_carry"]
    body = params["jaxpr"]
    constants, start, xs = inputs[:n], inputs[n : n + m], inputs[n + m :]
    depth, stacked = len(builder.levels) - 1, avals[m:]
    empty = [
        builder.emit(Kind.LIGHT, "broadcast_in_dim", [], [a], depth=depth)[0]
        for a in stacked
    ]
    counter = jax.ShapeDtypeStruct((), np.int32)

    def build(carry: list[Value]) -> list[Value]:
        i, carry, stacks = carry[0], carry[1 : 1 + m], carry[1 + m :]
        rows = [
            builder.emit(Kind.CHEAP, "dynamic_slice", [x, i], [row], key="row")[0]
            for x, row in zip(xs, body.in_avals[n + m :], strict=True)
        ]
        results = builder.call(body, [*constants, *carry, *rows])
        written = [
            builder.emit(Kind.UPDATE, "dynamic_update_slice", [s, y, i], [a])[0]
            for s, y, a in zip(stacks, results[m:], stacked, strict=True)
        ]
        return [
            *builder.emit(Kind.CHEAP, "add", [i], [counter]),
            *results[:m],
            *written,
        ]

    zero = Value((), np.int32, 0, 0)
    carried = [counter, *body.in_avals[n : n + m], *stacked]
    return _loop(builder, [zero, *start, *empty], carried, build)[1:]


def branch(
    builder: "Builder", params: Any, inputs: list[Value], avals: Any
) -> list[Value]:
    """A choice among bodies, all of which may need memory."""
    branches, platforms = params["branches"], params.get("branches_platforms")
    if platforms is not None:  # no branch: known when compiled
        here = jax.default_backend()
        chosen = [i for i, p in enumerate(platforms) if p is None or here in p]
        return builder.call(branches[chosen[0]], inputs[1:])
    bodies, outer, lowest = [], len(builder.levels) - 1, builder.lowest
    for case in branches:
        builder.open()
        builder.lowest = outer + 1
        results = builder.call(case, inputs[1:])
        builder.lowest = lowest
        bodies.append(Body([], builder.close(), results))
    return builder.emit(
        Kind.CONTROL, "branch", inputs[:1], avals, bodies=bodies, depth=outer
    )


def _loop(
    builder: "Builder",
    start: list[Value],
    avals: Sequence[Any],
    build: Callable[[list[Value]], list[Value]],
) -> list[Value]:
    """A loop that carries what changes in it and reads the rest from outside."""
    outer = len(builder.levels) - 1
    fixed = [False] * len(start)
    while True:
        lengths = [len(level) for level in builder.levels]
        known = [dict(level) for level in builder.known]
        builder.open()
        params = [
            s if f else builder.value(a, outer + 1)
            for s, f, a in zip(start, fixed, avals, strict=True)
        ]
        results = build(params)
        operations = builder.close()
        found = [base(r) is p for r, p in zip(results, params, strict=True)]
        found = [f or g for f, g in zip(fixed, found, strict=True)]
        if found == fixed:
            break
        # What turned out not to change is an operand from outside: once more.
        fixed, builder.known = found, known
        for level, length in zip(builder.levels, lengths, strict=True):
            del level[length:]
    moving = [i for i, f in enumerate(fixed) if not f]
    body = Body([params[i] for i in moving], operations, [results[i] for i in moving])
    ends = builder.emit(
        Kind.CONTROL,
        "loop",
        [start[i] for i in moving],
        [avals[i] for i in moving],
        bodies=[body],
        depth=outer,
    )
    by_index = dict(zip(moving, ends, strict=True))
    return [by_index.get(i, s) for i, s in enumerate(start)]

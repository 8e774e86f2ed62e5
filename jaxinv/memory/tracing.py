"""From a jaxpr to operations as XLA arranges them.

Calls are inlined. Equal operations are one. An operation in a loop whose operands do
not change there stands before the loop, and what a loop carries without changing it is
not carried. What nobody reads is left out.
"""

from typing import Any

from jax.extend import core
from jax.interpreters import partial_eval

from jaxinv.memory.builder import Builder
from jaxinv.memory.program import Body, Value


def traced(jaxpr: core.ClosedJaxpr) -> tuple[list[Value | None], Body]:
    """The operations of a program.

    Args:
        jaxpr: as of ``jax.make_jaxpr``.

    Returns:
        The arguments, None for those that are not used, and the operations with the
        results.
    """
    inner: Any = jaxpr.jaxpr
    live, used = partial_eval.dce_jaxpr(inner, [True] * len(inner.outvars))
    builder = Builder()
    arguments = [
        builder.value(v.aval, 0) if u else None
        for v, u in zip(inner.invars, used, strict=True)
    ]
    constants = [builder.value(v.aval, 0) for v in live.constvars]
    given = [a for a in arguments if a is not None]
    results = builder.inline(live, constants, given)
    body = Body([], builder.levels[0], results)
    _prune(body, {id(v) for v in results})
    return arguments, body


def _prune(body: Body, needed: set[int]) -> None:
    kept = []
    for op in reversed(body.operations):
        if not any(id(v) in needed for v in op.outputs):
            continue
        for inner in op.bodies:
            needed.update(id(v) for v in inner.results)
            _prune(inner, needed)
        needed.update(id(v) for v in op.inputs)
        kept.append(op)
    body.operations = kept[::-1]

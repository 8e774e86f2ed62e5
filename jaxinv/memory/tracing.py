"""From a jaxpr to operations as XLA arranges them.

Calls are inlined. Equal operations are one. An operation in a loop whose operands do
not change there stands before the loop, and what a loop carries without changing it is
not carried. What nobody reads is left out.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

from jaxinv.memory.program import (
    Body,
    Kind,
    Operation,
    Value,
    base,
    keeps_order,
    kind_of,
    piece_of,
    scaled_product,
    softmax_operands,
)


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
    builder = _Builder()
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


class _Builder:
    """Writes operations down, each on the outermost level that it can be on."""

    def __init__(self) -> None:
        self.levels: list[list[Operation]] = [[]]
        self.known: list[dict[Any, Operation]] = [{}]
        self.lowest = 0  # nothing moves out of a branch

    def value(self, aval: Any, depth: int) -> Value:
        size = math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 4)
        return Value(tuple(aval.shape), aval.dtype, size, depth)

    def emit(
        self,
        kind: Kind,
        name: str,
        inputs: Sequence[Value],
        avals: Sequence[Any],
        *,
        key: str | None = None,
        depth: int | None = None,
        bodies: Sequence[Body] = (),
    ) -> list[Value]:
        """Add an operation, or find the equal one where a key says what equal is."""
        if depth is None:
            depth = max([self.lowest, *(v.depth for v in inputs)])
        full = (name, tuple(map(id, inputs)), key)
        if key is not None and full in self.known[depth]:
            return self.known[depth][full].outputs
        outputs = [self.value(a, depth) for a in avals]
        op = Operation(kind, name, list(inputs), outputs, list(bodies))
        for output in outputs:
            output.origin = op
        self.levels[depth].append(op)
        if key is not None:
            self.known[depth][full] = op
        return outputs

    def inline(
        self, jaxpr: Any, constants: Sequence[Value], arguments: Sequence[Value]
    ) -> list[Value]:
        """Add all equations of a jaxpr."""
        env = dict(zip(jaxpr.constvars, constants, strict=True))
        env.update(zip(jaxpr.invars, arguments, strict=True))

        def read(atom: Any) -> Value:
            if isinstance(atom, core.Literal):
                return Value(np.shape(atom.val), None, 0, 0)
            return env[atom]

        for eqn in jaxpr.eqns:
            outputs = self.equation(eqn, [read(atom) for atom in eqn.invars])
            env.update(zip(eqn.outvars, outputs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def call(self, closed: Any, arguments: Sequence[Value]) -> list[Value]:
        """Add all equations of a jaxpr with its constants."""
        inner = getattr(closed, "jaxpr", closed)
        return self.inline(
            inner, [self.value(v.aval, 0) for v in inner.constvars], arguments
        )

    def equation(self, eqn: Any, inputs: list[Value]) -> list[Value]:
        """Add one equation."""
        name, params = eqn.primitive.name, eqn.params
        avals = [v.aval for v in eqn.outvars]
        control = {"while": self._while, "scan": self._scan, "cond": self._branch}
        if name in control:
            return control[name](params, inputs, avals)
        if name == "custom_linear_solve":
            lengths = params["const_lengths"]
            begin = lengths.matvec + lengths.vecmat
            constants = inputs[begin : begin + lengths.solve]
            return self.call(
                params["jaxprs"].solve, [*constants, *inputs[sum(lengths) :]]
            )
        inner = params.get("jaxpr", params.get("call_jaxpr"))
        if hasattr(getattr(inner, "jaxpr", inner), "eqns"):
            return self.call(inner, inputs)
        if name == "select_n" and all(v is inputs[1] for v in inputs[2:]):
            return [inputs[1]]
        if name == "slice":
            inputs, params = piece_of(inputs, params)
        if name == "dot_general":
            inputs = self._in_order(params["dimension_numbers"], inputs)
        if name == "exp" and (operands := softmax_operands(inputs[0])) is not None:
            return self._softmax(*operands, avals)
        if name == "scatter" and math.prod(inputs[1].shape[:-1]) == 1:
            name = "dynamic_update_slice"  # one place, one slice
        kind = kind_of(name, params, inputs, avals)
        key = None if kind in (Kind.KERNEL, Kind.UPDATE) else str(params)
        return self.emit(kind, name, inputs, avals, key=key)

    def _in_order(self, numbers: Any, inputs: list[Value]) -> list[Value]:
        """The operands of a product of stacks of matrices, as XLA's kernels take them.

        The axes of the stack come first, the summed axes last (left) or next (right).
        A matrix that is no stack may also come transposed.
        """
        ordered = []
        for side, value in enumerate(inputs):
            summed, stack = (tuple(map(int, axes[side])) for axes in numbers)
            rest = [i for i in range(len(value.shape)) if i not in summed + stack]
            orders = [(*stack, *rest, *summed), (*stack, *summed, *rest)]
            wanted = orders[side : side + 1] if stack else orders
            if not any(keeps_order(value.shape, order) for order in wanted):
                shape = tuple(value.shape[i] for i in wanted[0])
                moved = jax.ShapeDtypeStruct(shape, value.dtype)
                key = str(wanted[0])
                value = self.emit(Kind.LIGHT, "transpose", [value], [moved], key=key)[0]
            ordered.append(value)
        return ordered

    def _softmax(self, shifted: Value, largest: Value, avals: Any) -> list[Value]:
        """The numerators of a softmax.

        On CPUs one kernel does it, together with the matrix product before it. It takes
        the number by which the product is scaled as an array of the product's shape.
        """
        found = scaled_product(shifted)
        if found is None:
            return self.emit(Kind.KERNEL, "softmax", [shifted, largest], avals)
        product, scaled = found
        inputs = list(product.inputs)
        if scaled:
            depth = max(v.depth for v in inputs)
            factors = self.emit(
                Kind.KERNEL, "factor", [], avals, key=str(avals), depth=depth
            )
            inputs += factors
        return self.emit(Kind.KERNEL, "softmax", inputs, avals)

    def _while(self, params: Any, inputs: list[Value], _: Any) -> list[Value]:
        n, m = params["cond_nconsts"], params["body_nconsts"]
        test, constants, start = inputs[:n], inputs[n : n + m], inputs[n + m :]
        body = params["body_jaxpr"]
        avals = body.in_avals[m:]

        def build(carry: list[Value]) -> list[Value]:
            (goes_on,) = self.call(params["cond_jaxpr"], [*test, *carry])
            results = self.call(body, [*constants, *carry])
            if not goes_on.shape:
                return results
            # A batch goes on until its last lane stops; the others keep what they have.
            return [
                old
                if base(new) is old
                else self.emit(Kind.CHEAP, "select_n", [goes_on, old, new], [aval])[0]
                for old, new, aval in zip(carry, results, avals, strict=True)
            ]

        return self._loop(start, avals, build)

    def _scan(self, params: Any, inputs: list[Value], avals: Any) -> list[Value]:
        """A scan is a loop that carries a counter and the stacks of its results."""
        n, m = params["num_consts"], params["num_carry"]
        body = params["jaxpr"]
        constants, start, xs = inputs[:n], inputs[n : n + m], inputs[n + m :]
        depth, stacked = len(self.levels) - 1, avals[m:]
        empty = [
            self.emit(Kind.LIGHT, "broadcast_in_dim", [], [a], depth=depth)[0]
            for a in stacked
        ]
        counter = jax.ShapeDtypeStruct((), np.int32)

        def build(carry: list[Value]) -> list[Value]:
            i, carry, stacks = carry[0], carry[1 : 1 + m], carry[1 + m :]
            rows = [
                self.emit(Kind.CHEAP, "dynamic_slice", [x, i], [row], key="row")[0]
                for x, row in zip(xs, body.in_avals[n + m :], strict=True)
            ]
            results = self.call(body, [*constants, *carry, *rows])
            written = [
                self.emit(Kind.UPDATE, "dynamic_update_slice", [s, y, i], [a])[0]
                for s, y, a in zip(stacks, results[m:], stacked, strict=True)
            ]
            return [
                *self.emit(Kind.CHEAP, "add", [i], [counter]),
                *results[:m],
                *written,
            ]

        zero = Value((), np.int32, 0, 0)
        carried = [counter, *body.in_avals[n : n + m], *stacked]
        return self._loop([zero, *start, *empty], carried, build)[1:]

    def _loop(
        self,
        start: list[Value],
        avals: Sequence[Any],
        build: Callable[[list[Value]], list[Value]],
    ) -> list[Value]:
        """A loop that carries what changes in it and reads the rest from outside."""
        outer = len(self.levels) - 1
        fixed = [False] * len(start)
        while True:
            lengths = [len(level) for level in self.levels]
            known = [dict(level) for level in self.known]
            self._open()
            params = [
                s if f else self.value(a, outer + 1)
                for s, f, a in zip(start, fixed, avals, strict=True)
            ]
            results = build(params)
            operations = self._close()
            found = [base(r) is p for r, p in zip(results, params, strict=True)]
            found = [f or g for f, g in zip(fixed, found, strict=True)]
            if found == fixed:
                break
            # What turned out not to change is an operand from outside: once more.
            fixed, self.known = found, known
            for level, length in zip(self.levels, lengths, strict=True):
                del level[length:]
        moving = [i for i, f in enumerate(fixed) if not f]
        body = Body(
            [params[i] for i in moving], operations, [results[i] for i in moving]
        )
        ends = self.emit(
            Kind.CONTROL,
            "loop",
            [start[i] for i in moving],
            [avals[i] for i in moving],
            bodies=[body],
            depth=outer,
        )
        by_index = dict(zip(moving, ends, strict=True))
        return [by_index.get(i, s) for i, s in enumerate(start)]

    def _branch(self, params: Any, inputs: list[Value], avals: Any) -> list[Value]:
        branches, platforms = params["branches"], params.get("branches_platforms")
        if platforms is not None:  # no branch: known when compiled
            here = jax.default_backend()
            chosen = [i for i, p in enumerate(platforms) if p is None or here in p]
            return self.call(branches[chosen[0]], inputs[1:])
        bodies, outer, lowest = [], len(self.levels) - 1, self.lowest
        for branch in branches:
            self._open()
            self.lowest = outer + 1
            results = self.call(branch, inputs[1:])
            self.lowest = lowest
            bodies.append(Body([], self._close(), results))
        return self.emit(
            Kind.CONTROL, "branch", inputs[:1], avals, bodies=bodies, depth=outer
        )

    def _open(self) -> None:
        self.levels.append([])
        self.known.append({})

    def _close(self) -> list[Operation]:
        self.known.pop()
        return self.levels.pop()

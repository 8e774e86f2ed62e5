"""Equations of jaxprs, written down as operations."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from jaxinv.memory import control
from jaxinv.memory.program import (
    Body,
    Kind,
    Operation,
    Value,
    keeps_order,
    kind_of,
    piece_of,
    scaled_product,
    softmax_operands,
)

_PRODUCTS = ("dot_general", "conv_general_dilated")
_CONTROL: dict[str, Callable[..., list[Value]]] = {
    "while": control.while_loop,
    "scan": control.scan,
    "cond": control.branch,
}


class Builder:
    """Writes operations down, each on the outermost level that it can be on."""

    def __init__(self) -> None:
        self.levels: list[list[Operation]] = [[]]
        self.known: list[dict[Any, Operation]] = [{}]
        self.lowest = 0  # nothing moves out of a branch

    def value(self, aval: Any, depth: int) -> Value:
        """An array of a shape and data type."""
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

        if name in _CONTROL:
            return _CONTROL[name](self, params, inputs, avals)
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
        if name in _PRODUCTS and jax.default_backend() == "cpu":
            return self._in_32_bits(name, inputs, avals)
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

    def _in_32_bits(self, name: str, inputs: list[Value], avals: Any) -> list[Value]:
        """A product, which XLA's CPU compiler makes of 32-bit numbers at least.

        Converted parameters are arrays like others, and live from the start.
        """
        wide = []
        for value in inputs:
            if value.dtype is not None and value.dtype.itemsize == 2:
                aval = jax.ShapeDtypeStruct(value.shape, np.float32)
                value = self.emit(
                    Kind.CHEAP, "convert_element_type", [value], [aval], key="32"
                )[0]
            wide.append(value)
        if avals[0].dtype.itemsize != 2:
            return self.emit(Kind.KERNEL, name, wide, avals)
        aval = jax.ShapeDtypeStruct(avals[0].shape, np.float32)
        product = self.emit(Kind.KERNEL, name, wide, [aval])
        return self.emit(Kind.CHEAP, "convert_element_type", product, avals, key="16")

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

    def open(self) -> None:
        """Begin a body."""
        self.levels.append([])
        self.known.append({})

    def close(self) -> list[Operation]:
        """End a body: its operations."""
        self.known.pop()
        return self.levels.pop()

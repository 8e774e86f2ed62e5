"""The operations of a program, by what they mean for memory.

XLA fuses: most operations have no array of their own, because whatever reads their
result computes it. So each operation is of one of a few kinds, from the one that only
renames bytes to the one that needs all of its operands and results in memory.
"""

import dataclasses
import enum
import math
from collections.abc import Sequence
from typing import Any


class Kind(enum.Enum):
    """What an operation means for memory."""

    VIEW = "the same bytes under another shape"
    LIGHT = "fused into whatever reads it, also across the border of a loop"
    CHEAP = "elementwise, fused, and rather computed again than stored"
    COSTLY = "elementwise, fused, never computed twice"
    KERNEL = "reads arrays and writes arrays"
    UPDATE = "writes a part of its first operand, in place if nobody else reads that"
    CONTROL = "a loop or a branch"


#: The kinds that need no array.
FUSED = (Kind.VIEW, Kind.LIGHT, Kind.CHEAP, Kind.COSTLY)

_VIEWS = {
    "reshape", "squeeze", "expand_dims", "stop_gradient", "copy", "copy_p", "name",
    "optimization_barrier", "sharding_constraint", "device_put", "pvary",
}  # fmt: skip
_LIGHT = {"broadcast_in_dim", "iota", "slice", "split", "transpose", "rev"}
_COSTLY = {
    "exp", "exp2", "expm1", "log", "log1p", "logistic", "tanh", "tan", "sin", "cos",
    "erf", "erfc", "erf_inv", "sqrt", "rsqrt", "cbrt", "pow", "atan2", "sinh", "cosh",
}  # fmt: skip
_CHEAP = {
    "add", "sub", "mul", "div", "rem", "neg", "abs", "sign", "max", "min", "add_any",
    "square", "integer_pow", "select_n", "clamp", "convert_element_type", "eq", "ne",
    "lt", "le", "gt", "ge", "and", "or", "xor", "not", "is_finite", "floor", "ceil",
    "round", "nextafter", "pad", "dynamic_slice", "bitcast_convert_type",
    "shift_left", "shift_right_logical", "shift_right_arithmetic", "population_count",
    "reduce_precision", "real", "imag", "complex",
}  # fmt: skip
_UPDATES = {"dynamic_update_slice", "scatter", "scatter-add", "scatter_add"}


@dataclasses.dataclass(eq=False)
class Value:
    """An array of the program.

    Attributes:
        shape: its shape.
        dtype: its data type; None for a constant in the program's text.
        size: bytes.
        depth: how many loops are around its definition.
        origin: the operation that makes it; None for arguments and what loops carry.
    """

    shape: tuple[int, ...]
    dtype: Any
    size: int
    depth: int
    origin: "Operation | None" = None


@dataclasses.dataclass(eq=False)
class Operation:
    """One operation; a loop has one body, a branch as many as there are cases."""

    kind: Kind
    name: str
    inputs: list[Value]
    outputs: list[Value]
    bodies: list["Body"] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Body:
    """Operations in order; in a loop, ``results`` are the next ``params``.

    Values from outside are read where they are, and no parameters.
    """

    params: list[Value]
    operations: list[Operation]
    results: list[Value]


def base(value: Value) -> Value:
    """What a view is a view of; the value itself if it is none."""
    while value.origin is not None and value.origin.kind is Kind.VIEW:
        value = value.origin.inputs[0]
    return value


def keeps_order(shape: Sequence[int], order: Sequence[int]) -> bool:
    """Whether a transposition moves no axes but those of length one."""
    longer = [i for i in order if shape[i] != 1]
    return longer == sorted(longer)


def kind_of(
    name: str, params: Any, inputs: Sequence[Value], outputs: Sequence[Any]
) -> Kind:
    """The kind of an operation.

    Args:
        name: of the JAX primitive.
        params: of the equation.
        inputs: the operands.
        outputs: shapes and dtypes of the results.
    """
    stored = bool(inputs) and inputs[0].dtype is not None
    if name in _VIEWS:
        return Kind.VIEW
    if name == "transpose" and keeps_order(inputs[0].shape, params["permutation"]):
        return Kind.VIEW
    if name in ("broadcast_in_dim", "slice") and stored:
        same = math.prod(inputs[0].shape) == math.prod(outputs[0].shape)
        return Kind.VIEW if same else Kind.LIGHT
    if name == "convert_element_type" and stored:
        return Kind.VIEW if inputs[0].dtype == outputs[0].dtype else Kind.CHEAP
    for names, kind in (
        (_LIGHT, Kind.LIGHT),
        (_COSTLY, Kind.COSTLY),
        (_CHEAP, Kind.CHEAP),
        (_UPDATES, Kind.UPDATE),
    ):
        if name in names:
            return kind
    return Kind.KERNEL


def softmax_operands(exponent: Value) -> tuple[Value, Value] | None:
    """The ``x`` and ``max(x)`` of an exponent ``x - max(x)``; None if it is none."""
    op = exponent.origin
    if op is None or op.name != "sub" or len(op.inputs) != 2:
        return None
    shifted, largest = op.inputs
    while (made := largest.origin) is not None and made.kind in FUSED and made.inputs:
        largest = max(made.inputs, key=lambda v: v.size)
    if made is None or made.name != "reduce_max":
        return None
    return (shifted, largest) if base(made.inputs[0]) is base(shifted) else None


def scaled_product(value: Value) -> tuple[Operation, bool] | None:
    """The matrix product that a value is, and whether it is scaled by a number."""
    value = base(value)
    scaled = value.origin is not None and value.origin.name in ("mul", "div")
    if scaled:
        assert value.origin is not None
        factors = [v for v in value.origin.inputs if v.shape]
        if len(factors) != 1:
            return None
        value = base(factors[0])
    product = value.origin
    if product is None or product.name != "dot_general":
        return None
    return product, scaled


def piece_of(inputs: list[Value], params: Any) -> tuple[list[Value], Any]:
    """A slice's operand and limits: of a part, where it is one of a concatenation."""
    whole = inputs[0]
    op = whole.origin
    if op is None or op.name != "concatenate":
        return inputs, params
    starts, limits = list(params["start_indices"]), list(params["limit_indices"])
    for axis, size in enumerate(whole.shape):
        if op.inputs[0].shape[axis] == size:
            continue
        begin = 0
        for part in op.inputs:
            end = begin + part.shape[axis]
            if begin <= starts[axis] and limits[axis] <= end:
                starts[axis] -= begin
                limits[axis] -= begin
                moved = {"start_indices": tuple(starts), "limit_indices": tuple(limits)}
                return [part], {**params, **moved}
            begin = end
    return inputs, params

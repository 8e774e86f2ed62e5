"""Which values of a program are arrays in memory.

Kernels (convolutions, matrix products, reductions, concatenations) read arrays and
write arrays. What lies between is fused, by the rules of XLA's ``InstructionFusion``:

* what reads at most one array of its own rank is computed again by every reader, and
  stored only for the kernels among them;
* what reads more is stored as soon as one of its readers is a kernel;
* what is costly is stored as soon as it has two readers;
* an array of which one slice is replaced is stored once for every shape under which it
  is read.
"""

from typing import NamedTuple

from jaxinv.memory.program import FUSED, Body, Kind, Operation, Value, base

#: Fused, but not element by element: what they make cannot replace what they read.
_MOVING = ("pad", "dynamic_slice")


class _Reader(NamedTuple):
    operation: Operation | None  # None for the results of a body
    depth: int


class Storage:
    """Where every value of a program is.

    Args:
        body: the program.
    """

    def __init__(self, body: Body) -> None:
        self._readers: dict[int, list[_Reader]] = {}
        self._array: dict[int, Value] = {}
        self._own: set[int] = set()
        self._leaves: dict[int, frozenset[int]] = {}
        self._read(body, 0)
        self._decide(body)

    def stored(self, value: Value) -> bool:
        """Whether a value is an array of its own."""
        return id(value) in self._own

    def readable(self, value: Value) -> bool:
        """Whether fused operations read a value from memory."""
        return id(value) in self._array or value.origin is None

    def array(self, value: Value) -> Value:
        """The array that holds a value that kernels and loops read."""
        if self.stored(value):
            return value
        return self._array.get(id(value), value)

    def leaves(self, value: Value) -> frozenset[int]:
        """The arrays that are read to compute a value."""
        if self.readable(value):
            return frozenset([id(self._array.get(id(value), value))])
        if id(value) not in self._leaves:
            assert value.origin is not None
            parts = [self.leaves(v) for v in value.origin.inputs]
            self._leaves[id(value)] = frozenset[int]().union(*parts)
        return self._leaves[id(value)]

    def operand(self, value: Value) -> frozenset[int]:
        """The arrays that a kernel reads for an operand."""
        return frozenset([id(value)]) if self.stored(value) else self.leaves(value)

    def replaceable(self, op: Operation, result: Value) -> list[Value]:
        """The arrays that an elementwise result may be written over."""
        return [v for v in self._elementwise(op) if v.size == result.size]

    def _elementwise(self, op: Operation) -> list[Value]:
        """The arrays that a result is computed from, element by element."""
        if op.kind is Kind.LIGHT or op.name in _MOVING:
            return []
        found = []
        for value in op.inputs:
            if value.shape != op.outputs[0].shape:
                continue
            if not self.readable(value):
                assert value.origin is not None
                found += self._elementwise(value.origin)
            elif (array := self._array.get(id(value), value)).shape == value.shape:
                found.append(array)
        return found

    def _read(self, body: Body, depth: int) -> None:
        for op in body.operations:
            for value in op.inputs:
                self._readers.setdefault(id(value), []).append(_Reader(op, depth))
            for inner in op.bodies:
                self._read(inner, depth + 1)
        for value in body.results:
            self._readers.setdefault(id(value), []).append(_Reader(None, depth))

    def _decide(self, body: Body) -> None:
        for param in body.params:
            self._store(param)
        for op in body.operations:
            for inner in op.bodies:
                self._decide(inner)
            for value in op.outputs:
                if _is_slice_update(base(value).origin):
                    self._decide_updated(value)
                elif op.kind in FUSED:
                    self._decide_fused(op, value)
                else:
                    self._store(value)
        for value in body.results:
            if id(value) not in self._array:
                self._own.add(id(value))

    def _decide_fused(self, op: Operation, value: Value) -> None:
        if op.kind is Kind.VIEW and self.readable(op.inputs[0]):
            source = op.inputs[0]
            self._array[id(value)] = self._array.get(id(source), source)
            return
        readers = self._behind_views(value)
        if op.kind is Kind.COSTLY and len(readers) > 1:
            self._store(value)
        elif not any(_needs_array(op, reader) for reader in readers):
            return
        elif not _reads_one(op):
            self._store(value)
        elif any(_needs_array(op, r) for r in self._readers.get(id(value), [])):
            self._own.add(id(value))

    def _decide_updated(self, value: Value) -> None:
        readers = (r.operation for r in self._readers.get(id(value), []))
        if any(by is None or by.kind is not Kind.VIEW for by in readers):
            self._store(value)

    def _behind_views(self, value: Value) -> list[_Reader]:
        found: list[_Reader] = []
        for reader in self._readers.get(id(value), []):
            if reader.operation is not None and reader.operation.kind is Kind.VIEW:
                found += self._behind_views(reader.operation.outputs[0])
            else:
                found.append(reader)
        return found

    def _store(self, value: Value) -> None:
        self._array[id(value)] = value
        self._own.add(id(value))


def _is_slice_update(op: Operation | None) -> bool:
    return op is not None and op.name == "dynamic_update_slice"


def _needs_array(op: Operation, reader: _Reader) -> bool:
    """Whether a reader cannot compute for itself what an operation makes."""
    by = reader.operation
    if by is None:
        return True
    if by.kind in FUSED or by.kind is Kind.UPDATE:
        outside = reader.depth > op.outputs[0].depth
        return outside and op.kind not in (Kind.VIEW, Kind.LIGHT)
    return True


def _reads_one(op: Operation) -> bool:
    """XLA's ``EffectivelyAtMostUnary``, or no more bytes read than written."""
    rank = len(op.outputs[0].shape)
    large = [
        v
        for v in op.inputs
        if v.dtype is not None
        and len(v.shape) >= rank
        and not (v.origin and v.origin.name in ("broadcast_in_dim", "iota"))
    ]
    return len(large) <= 1 or sum(v.size for v in op.inputs) <= op.outputs[0].size

"""When the arrays of a program are in memory.

The order is the one in which XLA's CPU compiler starts what it can: breadth first. An
array lives from the operation that writes it to the last that reads it. An elementwise
operation may write over an operand that nobody reads any more. What a loop carries has
one array for the whole loop; the new value is written into it, unless the old one is
still needed then.
"""

import dataclasses
from collections.abc import Iterable

from jaxinv.memory.program import FUSED, Body, Kind, Operation, Value, base
from jaxinv.memory.storage import Storage


@dataclasses.dataclass
class Life:
    """Bytes of memory from one moment to another, both included."""

    size: int
    start: int
    end: int
    value: Value


@dataclasses.dataclass(frozen=True)
class _Step:
    """An operation that writes arrays."""

    operation: Operation
    writes: list[Value]
    reads: frozenset[int]
    over: list[Value]  # arrays that the result may be written over


def lives(body: Body, arguments: Iterable[Value]) -> list[Life]:
    """The lives of all arrays of a program, but for its arguments and results.

    Args:
        body: the program.
        arguments: its arguments.
    """
    storage = Storage(body)
    given = {id(a) for a in arguments}
    given |= {id(storage.array(r)) for r in body.results}
    timeline = _Timeline(storage)
    timeline.run(body, given)
    return timeline.lives


class _Timeline:
    """Runs a program step by step, loops once, on one clock."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.lives: list[Life] = []
        self.clock = 0

    def run(self, body: Body, given: set[int]) -> None:
        """Add the lives of a body's arrays, but for those that are ``given``."""
        steps = _breadth_first(self._steps(body))
        last: dict[int, int] = {}
        for index, step in enumerate(steps):
            last.update(dict.fromkeys(step.reads, index))
        given = given | self._into_carry(body, steps, last)
        alive: dict[int, Life] = {}
        for index, step in enumerate(steps):
            begin = self.clock
            for inner in step.operation.bodies:
                self.run(inner, {id(p) for p in inner.params})
            self.clock += 1
            for position, value in enumerate(step.writes):
                if id(value) in given:
                    continue
                life = self._inherited(step, position, index, last, alive)
                if life is None:
                    life = Life(value.size, begin, begin, value)
                    self.lives.append(life)
                alive[id(value)] = life
            for key in list(alive):
                alive[key].end = self.clock - 1
                if last.get(key, -1) <= index:
                    del alive[key]
        for life in alive.values():
            life.end = self.clock

    def _inherited(
        self,
        step: _Step,
        position: int,
        index: int,
        last: dict[int, int],
        alive: dict[int, Life],
    ) -> Life | None:
        """The memory of an operand that ends here and may be written over."""
        candidates = step.over
        if step.operation.kind is Kind.CONTROL:
            inputs = step.operation.inputs
            loops = len(inputs) == len(step.writes)
            candidates = [self.storage.array(inputs[position])] if loops else []
            inside = [self._read_inside(body) for body in step.operation.bodies]
            candidates = [
                v for v in candidates if not any(id(v) in reads for reads in inside)
            ]
        size = step.writes[position].size
        for old in candidates:
            if old.size == size and id(old) in alive and last[id(old)] == index:
                return alive.pop(id(old))
        return None

    def _into_carry(
        self, body: Body, steps: list[_Step], last: dict[int, int]
    ) -> set[int]:
        """The results that are written where the loop keeps what it carries.

        Those that are not live to the end of the body, as do the results of the
        program; ``last`` is told.
        """
        made = {id(v): i for i, step in enumerate(steps) for v in step.writes}
        results = [id(self.storage.array(v)) for v in body.results]
        into: set[int] = set()
        if not body.params:
            last.update(dict.fromkeys(results, len(steps)))
            return into
        for param, key in zip(body.params, results, strict=True):
            free = last.get(id(param), -1)
            if key not in made or key in into:
                # A copy of another array, made as soon as there is room for it.
                last[key] = max(last.get(key, -1), free, made.get(key, -1))
                continue
            over = any(v is param for v in steps[made[key]].over)
            if free < made[key] or (free == made[key] and over):
                into.add(key)
            else:
                last[key] = len(steps)
        return into

    def _steps(self, body: Body) -> list[_Step]:
        """What is written, in the order of the program, with the copies it takes.

        An array of which a part is replaced is copied before, as soon as it is there,
        if its old contents are read later.
        """
        steps: list[_Step] = []
        read_later = {key for v in body.results for key in self.storage.operand(v)}
        for op in reversed(body.operations):
            if op.kind in FUSED or op.kind is Kind.UPDATE:
                writes = [[v] for v in op.outputs if self.storage.stored(v)]
            else:
                writes = [op.outputs]
            for values in reversed(writes):
                step = self._step(op, values)
                steps.append(step)
                old = step.over[0] if _replaces_part(values[0]) else None
                if old is not None and id(old) in read_later:
                    copy = Value(old.shape, old.dtype, old.size, values[0].depth)
                    reads = step.reads - {id(old)} | {id(copy)}
                    steps[-1] = _Step(op, values, reads, [copy])
                    steps.append(_Step(op, [copy], frozenset([id(old)]), []))
                read_later |= step.reads
        return steps[::-1]

    def _step(self, op: Operation, writes: list[Value]) -> _Step:
        storage = self.storage
        if _replaces_part(writes[0]):
            update = base(writes[0]).origin
            assert update is not None
            old = storage.array(update.inputs[0])
            reads = [frozenset([id(old)]), *map(storage.leaves, update.inputs[1:])]
            return _Step(op, writes, frozenset[int]().union(*reads), [old])
        if op.kind in FUSED:
            reads = [storage.leaves(v) for v in op.inputs]
            over = storage.replaceable(op, writes[0])
            return _Step(op, writes, frozenset[int]().union(*reads), over)
        reads = [storage.operand(v) for v in op.inputs]
        reads += [self._read_inside(inner) for inner in op.bodies]
        return _Step(op, writes, frozenset[int]().union(*reads), [])

    def _read_inside(self, body: Body) -> frozenset[int]:
        reads = [step.reads for step in self._steps(body)]
        reads += [self.storage.operand(v) for v in body.results]
        return frozenset[int]().union(*reads)


def _replaces_part(value: Value) -> bool:
    origin = base(value).origin
    return origin is not None and origin.kind is Kind.UPDATE


def _breadth_first(steps: list[_Step]) -> list[_Step]:
    """Each step as soon as what it reads is there, first come, first served."""
    made = {id(v): i for i, step in enumerate(steps) for v in step.writes}
    readers: dict[int, list[int]] = {}
    missing = []
    for index, step in enumerate(steps):
        needed = {made[key] for key in step.reads if key in made} - {index}
        missing.append(len(needed))
        for other in needed:
            readers.setdefault(other, []).append(index)
    order = [index for index, count in enumerate(missing) if not count]
    for index in order:  # grows while it is read
        for reader in readers.get(index, []):
            missing[reader] -= 1
            if not missing[reader]:
                order.append(reader)
    return [steps[index] for index in order]

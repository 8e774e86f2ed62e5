"""Samples on their way through several machines, each with lanes of its own.

An image, for instance, goes through decoder inversion, then the step by step inverse,
and what that leaves unconverged goes on to the whole trajectory. Nobody waits for it:
each station has a turn when its lanes can be full.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from jaxtyping import PyTree

from jaxinv.scale.lanes import Lanes


class Onward(NamedTuple):
    """A sample that goes on to another station.

    Attributes:
        station: which.
        item: as what.
    """

    station: int
    item: PyTree


@dataclasses.dataclass(frozen=True)
class Station:
    """Lanes, and where their samples go from there.

    Attributes:
        lanes: makes the lanes, when the first sample arrives: what no sample needs is
            never compiled.
        route: of a sample's key, item and result: the next station, or what it leaves
            the flow with.
    """

    lanes: Callable[[], Lanes]
    route: Callable[[Any, PyTree, PyTree], Onward | Any]


def flow(
    stations: Sequence[Station],
    source: Iterable[tuple[Any, Onward]],
) -> Iterator[tuple[Any, Any]]:
    """Passes samples through stations, each as soon as there is a lane for it.

    A station has a turn when its lanes can be full, the last one first, and before
    that only if there is nothing else to do: what waits stays a handful.

    Args:
        stations: where samples can be.
        source: pairs of a key and where the sample enters. Pulled as lanes get free.

    Yields:
        The key of each sample and what it left with, in the order in which they leave.
    """
    opened: list[Lanes | None] = [None] * len(stations)
    queues: list[deque[tuple[Any, PyTree]]] = [deque() for _ in stations]
    incoming = iter(source)
    exhausted = False

    def lanes(s: int) -> Lanes:
        found = opened[s] = opened[s] or stations[s].lanes()
        return found

    def load(s: int) -> int:
        inside = opened[s]
        return len(queues[s]) + (inside.count - inside.free if inside else 0)

    def full(s: int) -> bool:
        return load(s) > 0 and load(s) >= lanes(s).count

    while True:
        while not exhausted and not any(full(s) for s in range(len(stations))):
            entering = next(incoming, None)
            if entering is None:
                exhausted = True
                break
            key, onward = entering
            queues[onward.station].append((key, onward.item))
        loaded = [s for s in range(len(stations)) if load(s)]
        if not loaded:
            return
        # Where none is full no more come in, and upstream first fills what follows.
        s = ([s for s in loaded if full(s)] or loaded[:1])[-1]
        count = min(lanes(s).free, len(queues[s]))
        arriving = [queues[s].popleft() for _ in range(count)]
        for key, item, result in lanes(s).turn(arriving):
            where = stations[s].route(key, item, result)
            if isinstance(where, Onward):
                queues[where.station].append((key, where.item))
            else:
                yield key, where

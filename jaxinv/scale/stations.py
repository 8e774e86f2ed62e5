"""Flow of samples through several stations, each with its own lanes.

An image, for example, passes through decoder inversion and stepwise inversion, and if
it did not converge, through the inversion of the whole trajectory. No other image waits
for it: each station runs when its lanes can be full.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from jaxtyping import PyTree

from jaxinv.scale.lanes import Lanes


class NextStage(NamedTuple):
    """The next stage of a sample.

    Attributes:
        station: Index of the station.
        item: The item for its lanes.
    """

    station: int
    item: PyTree


@dataclasses.dataclass(frozen=True)
class Station:
    """Lanes, and the route of their samples.

    Attributes:
        lanes: Function that makes the lanes when the first sample arrives, so that
            unused stations are never compiled.
        route: Function of a sample's key, item and result that returns the next stage,
            or the final result.
    """

    lanes: Callable[[], Lanes]
    route: Callable[[Any, PyTree, PyTree], NextStage | Any]


def flow(
    stations: Sequence[Station],
    source: Iterable[tuple[Any, NextStage]],
) -> Iterator[tuple[Any, Any]]:
    """Pass samples through stations, each as soon as a lane is free.

    A station runs when its lanes can be full, the last station first, and otherwise
    only if there is nothing else to do. This keeps the queues short.

    Args:
        stations: The stations.
        source: Pairs of a key and the first stage of a sample, pulled as lanes become
            free.

    Yields:
        The key of each sample and its result, in the order of completion.
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
        # At the end of the source, earlier stations run first to fill later ones.
        s = ([s for s in loaded if full(s)] or loaded[:1])[-1]
        count = min(lanes(s).free, len(queues[s]))
        arriving = [queues[s].popleft() for _ in range(count)]
        for key, item, result in lanes(s).turn(arriving):
            where = stations[s].route(key, item, result)
            if isinstance(where, NextStage):
                queues[where.station].append((key, where.item))
            else:
                yield key, where

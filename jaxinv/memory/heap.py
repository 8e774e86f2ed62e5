"""How much memory arrays need that live at different times.

At least what is alive at once; more, because arrays do not move and leave gaps. XLA
places the largest array first (or the one that lives longest), each into the smallest
gap that it fits, and takes the better of the two.

References:
    XLA, ``GlobalDecreasingSizeBestFitHeap`` and ``ChooseBestHeapAlgorithm`` in
    ``xla/service/heap_simulator``.
"""

from collections.abc import Sequence

import numpy as np

from jaxinv.memory.liveness import Life

_ALIGNMENT = 64


def heap_size(lives: Sequence[Life]) -> int:
    """Bytes of a heap that holds all arrays.

    Args:
        lives: sizes, and when they are needed.
    """
    kept = [life for life in lives if life.size]
    if not kept:
        return 0
    spans = np.array([(x.size, x.start, x.end) for x in kept], np.int64)
    spans[:, 0] = -(-spans[:, 0] // _ALIGNMENT) * _ALIGNMENT
    sizes, lengths = spans[:, 0], spans[:, 2] - spans[:, 1]
    orders = np.lexsort([-sizes]), np.lexsort([-sizes, -lengths])
    return min(_packed(spans[order]) for order in orders)


def most_alive(lives: Sequence[Life]) -> list[Life]:
    """The arrays at the moment at which most bytes are alive."""
    if not lives:
        return []
    clock = np.zeros(max(life.end for life in lives) + 2, np.int64)
    for life in lives:
        clock[life.start] += life.size
        clock[life.end + 1] -= life.size
    moment = int(np.argmax(np.cumsum(clock)))
    return [life for life in lives if life.start <= moment <= life.end]


def _packed(spans: np.ndarray) -> int:
    offsets = np.zeros(len(spans), np.int64)
    for i, (size, start, end) in enumerate(spans):
        before = spans[:i]
        meets = np.flatnonzero((before[:, 1] <= end) & (before[:, 2] >= start))
        meets = meets[np.argsort(offsets[meets], kind="stable")]
        floor, best, chosen = 0, None, 0
        for j in meets:
            gap = int(offsets[j]) - floor
            if gap >= size and (best is None or gap < best):
                best, chosen = gap, floor
            floor = max(floor, int(offsets[j] + before[j, 0]))
        offsets[i] = floor if best is None else chosen
    return int(np.max(offsets + spans[:, 0]))

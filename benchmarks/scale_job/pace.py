"""How far a start has come by its processor time, and when to kill it."""

from collections.abc import Sequence
from typing import NamedTuple


class Pace(NamedTuple):
    """What a job takes that nobody disturbs.

    Attributes:
        seconds: from start to end, by the clock.
        whole: processor seconds, from start to end.
        start_up: of these, until it works on images.
        per_image: of these, for each image.
    """

    seconds: float
    whole: float
    start_up: float
    per_image: float


def pace_of(commits: list[tuple[int, float]], whole: float, seconds: float) -> Pace:
    """The pace between the first commit and the last, and what was before."""
    if len(commits) < 2:
        return Pace(seconds, whole, min((at for _, at in commits), default=whole), 0.0)
    (first, early), (last, late) = commits[0], commits[-1]
    per_image = (late - early) / (last - first)
    return Pace(seconds, whole, max(early - first * per_image, 0.0), per_image)


def moments_in_order(plan: Sequence[float | str], pace: Pace) -> list[float | str]:
    """The moments in processor seconds, those at work on images in order.

    What is done stays done. A moment in the start-up can meet any start, so those stay
    where they are.
    """
    aims = [aim if isinstance(aim, str) else aim * pace.whole for aim in plan]
    late = [
        k
        for k, aim in enumerate(aims)
        if isinstance(aim, float) and aim > pace.start_up
    ]
    for k, aim in zip(late, sorted(aims[k] for k in late), strict=True):
        aims[k] = aim
    return aims

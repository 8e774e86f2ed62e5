"""Limits that an annotation puts on a value: ranges and lengths."""

import dataclasses
from typing import Annotated, Any, NamedTuple


@dataclasses.dataclass(frozen=True)
class Range:
    """Allowed numbers, in an annotation: ``Annotated[float, Range(0, above=True)]``.

    Attributes:
        least: The smallest number; None for no limit.
        most: The largest number; None for no limit.
        above: Whether ``least`` itself is excluded.
        below: Whether ``most`` itself is excluded.
    """

    least: float | None = None
    most: float | None = None
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Return whether a number is allowed."""
        if self.least is not None and not (
            value > self.least if self.above else value >= self.least
        ):
            return False
        return self.most is None or (
            value < self.most if self.below else value <= self.most
        )

    def __str__(self) -> str:
        """Return the limits in words that follow "a number"."""
        words = []
        if self.least is not None:
            words.append(f"{'above' if self.above else 'of at least'} {self.least:g}")
        if self.most is not None:
            words.append(f"{'below' if self.below else 'at most'} {self.most:g}")
        return " and ".join(words)


class Length(NamedTuple):
    """Allowed lengths of a text, a list or an object, in an annotation.

    Attributes:
        least: The smallest length.
        most: The largest length.
    """

    least: int
    most: int

    def holds(self, value: Any) -> bool:
        """Return whether a length is allowed."""
        return self.least <= len(value) <= self.most

    def __str__(self) -> str:
        return f"{self.least}" + (f" to {self.most}" if self.most > self.least else "")


AtLeastOne = Annotated[int, Range(1, 10**9)]
"""A count of at least one."""

Whole = Annotated[int, Range(0, 10**9)]
"""A count of at least zero."""

Tolerance = Annotated[float, Range(0)]
"""A number that is not negative."""

Positive = Annotated[float, Range(0, above=True)]
"""A number above zero."""

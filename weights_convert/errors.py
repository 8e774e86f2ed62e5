"""The one exception of this package."""

import contextlib
from collections.abc import Iterator


class WeightsError(ValueError):
    """Weights that cannot be used; the message names the file or tensor and why."""


@contextlib.contextmanager
def as_weights_errors() -> Iterator[None]:
    """Raise what is wrong with somebody's file as :class:`WeightsError`."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise WeightsError(str(error)) from None

"""The exception of this package."""

import contextlib
from collections.abc import Iterator


class WeightsError(ValueError):
    """Error for unusable weights, which names the file or tensor and the reason."""


@contextlib.contextmanager
def as_weights_errors() -> Iterator[None]:
    """Raise the errors of a block about files as :class:`WeightsError`."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise WeightsError(str(error)) from None

"""The one exception of this package."""


class WeightsError(ValueError):
    """Weights that cannot be used; the message names the file or tensor and why."""

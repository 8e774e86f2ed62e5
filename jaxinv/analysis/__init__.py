"""What can be said about a sampler: conditioning, order and stability.

* :mod:`jaxinv.analysis.conditioning`: which step of a trajectory loses the noise.
"""

from jaxinv.analysis.conditioning import (
    Conditioning,
    bidiagonalise,
    step_conditioning,
    trajectory_conditioning,
)

__all__ = [
    "Conditioning",
    "bidiagonalise",
    "step_conditioning",
    "trajectory_conditioning",
]

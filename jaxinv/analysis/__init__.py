"""What can be said about a sampler or decoder: conditioning, order and stability.

* :mod:`jaxinv.analysis.conditioning`: which step of a trajectory loses the noise;
* :mod:`jaxinv.analysis.tables`: order conditions and zero-stability of a table;
* :mod:`jaxinv.analysis.convergence`: local and global order, measured;
* :mod:`jaxinv.analysis.decoder`: whether a decoder can be inverted.
"""

from jaxinv.analysis.conditioning import (
    Conditioning,
    bidiagonalise,
    step_conditioning,
    trajectory_conditioning,
)
from jaxinv.analysis.convergence import (
    Convergence,
    convergence_order,
    local_error,
    local_order,
)
from jaxinv.analysis.decoder import Cocoercivity, cocoercivity, decoder_conditioning
from jaxinv.analysis.tables import (
    ZeroStability,
    companion_matrices,
    order_conditions,
    row_orders,
    zero_stability,
)

__all__ = [
    "Cocoercivity",
    "Conditioning",
    "Convergence",
    "ZeroStability",
    "bidiagonalise",
    "cocoercivity",
    "companion_matrices",
    "convergence_order",
    "decoder_conditioning",
    "local_error",
    "local_order",
    "order_conditions",
    "row_orders",
    "step_conditioning",
    "trajectory_conditioning",
    "zero_stability",
]

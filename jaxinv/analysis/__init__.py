"""Analysis of samplers and decoders: conditioning, order and stability.

* :mod:`jaxinv.analysis.conditioning`: the steps of a trajectory that lose the noise;
* :mod:`jaxinv.analysis.tables`: order conditions and zero-stability of a table;
* :mod:`jaxinv.analysis.convergence`: measured local and global order;
* :mod:`jaxinv.analysis.decoder`: invertibility of a decoder;
* :mod:`jaxinv.analysis.plausibility`: whether a noise can be a draw from N(0, I);
* :mod:`jaxinv.analysis.preimages`: how many noises lead to the same data.
"""

from jaxinv.analysis.conditioning import (
    Conditioning,
    bidiagonalize,
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
from jaxinv.analysis.plausibility import NoisePlausibility, noise_plausibility
from jaxinv.analysis.preimages import Preimages, preimages
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
    "NoisePlausibility",
    "Preimages",
    "ZeroStability",
    "bidiagonalize",
    "cocoercivity",
    "companion_matrices",
    "convergence_order",
    "decoder_conditioning",
    "local_error",
    "local_order",
    "noise_plausibility",
    "order_conditions",
    "preimages",
    "row_orders",
    "step_conditioning",
    "trajectory_conditioning",
    "zero_stability",
]

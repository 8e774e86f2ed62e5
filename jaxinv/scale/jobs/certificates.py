"""What files say of an inversion: its certificate as what JSON can hold."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxinv.decoder_inversion import DecoderInversion
from jaxinv.inversion import InversionResult

_SAMPLER = (
    "converged",
    "reconstruction",
    "state_converged",
    "state_reconstruction",
    "solved",
    "residual",
    "num_evals",
    "depth",
)
_DECODER = (
    "converged",
    "residual",
    "encoder_residual",
    "latent_change",
    "iterations",
    "best_iteration",
    "num_decodes",
    "num_encodes",
    "num_products",
)


def sampler_record(found: InversionResult, stages: Sequence[str]) -> dict[str, Any]:
    """Return the certificate of a noise, without what it says of single steps."""
    return _scalars(found, _SAMPLER) | {"stages": list(stages)}


def decoder_record(found: DecoderInversion, method: str) -> dict[str, Any]:
    """Return the certificate of a latent that was found by a method."""
    return {"method": method, **_scalars(found, _DECODER)}


def _scalars(found: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: np.asarray(getattr(found, name)).item() for name in names}

"""The certificate of an inversion as what JSON can hold, and the answer it is in."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxinv.analysis.plausibility import noise_plausibility
from jaxinv.decoder_inversion import DecoderInversion
from jaxinv.inversion import InversionResult
from jaxinv.pipeline.images import ImageInversion
from jaxinv.sampling.state import SamplerState
from jaxinv.scale.jobs.interface import Answer

_SAMPLER = (
    "converged",
    "reconstruction",
    "state_converged",
    "state_reconstruction",
    "solved",
    "residual",
    "num_evals",
    "depth",
    "stopped",
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


def answer(
    index: int, found: ImageInversion, stages: Sequence[str], decoder: str
) -> Answer:
    """Return the answer of an engine for an image that was inverted.

    Args:
        index: Index of the request.
        found: The inversion, with arrays on the host.
        stages: The stages that ran.
        decoder: Name of the method of decoder inversion.

    Returns:
        The answer; a failure if the noise is not finite.
    """
    state = found.state
    kept = state.values if isinstance(state, SamplerState) else state
    values = np.asarray(kept, np.float32)
    failure = None
    if not np.all(np.isfinite(values)):
        failure = "the inversion overflowed: there is no noise that is finite"
    return Answer(
        index,
        values,
        np.asarray(found.noise, np.float32),
        sampler_record(found.sampler, stages)
        | {"decoder": decoder_record(found.decoder, decoder)},
        failure,
    )


def sampler_record(found: InversionResult, stages: Sequence[str]) -> dict[str, Any]:
    """Return the certificate of a noise, without values of single steps."""
    p_values = _p_values(found.noise)
    plausibility = _scalars(p_values, p_values._fields)
    return _scalars(found, _SAMPLER) | {
        "stages": list(stages),
        "noise_plausibility": plausibility,
    }


def decoder_record(found: DecoderInversion, method: str) -> dict[str, Any]:
    """Return the certificate of a latent that was found by a method."""
    return {"method": method, **_scalars(found, _DECODER)}


_p_values = jax.jit(noise_plausibility)


def _scalars(found: Any, names: Sequence[str]) -> dict[str, Any]:
    return {name: np.asarray(getattr(found, name)).item() for name in names}

"""The simplest engine: one image at a time, the reference for faster engines."""

from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np

from jaxinv.pipeline.latent_diffusion import ImageInversion, LatentDiffusion
from jaxinv.samplers.table import LinearMultistep
from jaxinv.sampling.state import SamplerState
from jaxinv.scale.jobs.certificates import decoder_record, sampler_record
from jaxinv.scale.jobs.interface import Answer, Engine, Request


def one_by_one(
    pipe: LatentDiffusion,
    sampler: LinearMultistep,
    *,
    strategy: str = "auto",
    decoder: str = "anderson",
) -> Engine:
    """Make an engine of :meth:`jaxinv.LatentDiffusion.invert`.

    Args:
        pipe: The model.
        sampler: The sampler.
        strategy: See :func:`jaxinv.invert`.
        decoder: Name of a method of decoder inversion.

    Returns:
        The engine. It compiles once with guidance and once without.
    """

    def engine(requests: Iterable[Request]) -> Iterator[Answer]:
        for request in requests:
            denoise = pipe.denoiser(
                request.prompt, request.negative_prompt, request.guidance
            )
            found = pipe.invert(
                request.pixels,
                sampler,
                denoise,
                decoder=decoder,
                strategy=strategy,
                schedule=pipe.schedule,
            )
            yield answer(request.index, jax.device_get(found), (strategy,), decoder)

    return engine


def answer(
    index: int, found: ImageInversion, stages: Sequence[str], decoder: str
) -> Answer:
    """Return the answer of an engine for an inverted image.

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

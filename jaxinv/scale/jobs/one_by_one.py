"""The simplest engine: one image after the other, as the library does it.

What faster engines do is compared with it.
"""

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
    """Makes an engine of :meth:`jaxinv.LatentDiffusion.invert`.

    Args:
        pipe: The model.
        sampler: The sampler.
        strategy: As of :func:`jaxinv.invert`.
        decoder: Name of a decoder inversion.

    Returns:
        The engine. It compiles once for guidance scales of at most 1 (none) and once
        for those above.
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
    """What an engine says of an image that was inverted.

    Args:
        index: Of the request.
        found: With arrays on the host.
        stages: That ran.
        decoder: Name of the decoder inversion.

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

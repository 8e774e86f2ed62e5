"""The interface between a job and an engine: requests and answers.

An engine inverts images and does not access files; a job reads images, records results
and resumes, and does not access devices. An engine pulls requests when it has room and
yields answers in any order: it may run many images at once, and images that need more
iterations finish later.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8


class Request(NamedTuple):
    """An image to invert, with its own settings.

    Attributes:
        index: Row of the manifest, from 0.
        pixels: 8-bit RGB values of the model's size, shape (h, w, 3).
        prompt: Prompt that describes the image.
        negative_prompt: Prompt from which guidance pushes away.
        guidance: Finite classifier-free guidance scale; at most 1 disables guidance.
    """

    index: int  # type: ignore[assignment]  # tuples have a method of that name
    pixels: UInt8[np.ndarray, "h w 3"]
    prompt: str
    negative_prompt: str
    guidance: float


class Answer(NamedTuple):
    """The result of a request.

    Attributes:
        index: The index of the request.
        state: Noise or state from which :func:`jaxinv.sample` reproduces the latent,
            float32: (h, w, c), or (k, h, w, c) for samplers with k states.
        noise: The noise alone, float32, shape (h, w, c).
        certificate: Values for JSON: ``converged`` and ``reconstruction`` of the noise,
            ``state_converged`` and ``state_reconstruction`` of the state, ``solved``,
            ``residual``, ``num_evals``, ``depth``, ``stopped``, ``stages``, and the
            objects ``noise_plausibility`` (p-values) and ``decoder``.
        failure: The reason for a failure, or None. The arrays of a failed request are
            ignored.
    """

    index: int  # type: ignore[assignment]  # tuples have a method of that name
    state: Float[np.ndarray, "*k h w c"]
    noise: Float[np.ndarray, "h w c"]
    certificate: dict[str, Any]
    failure: str | None = None


Engine = Callable[[Iterable[Request]], Iterator[Answer]]
"""An engine answers every request exactly once, in any order.

It pulls requests lazily, as many as it has room for: images that were pulled but not
yet answered are in memory.
"""

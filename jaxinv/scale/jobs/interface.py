"""What a job and an engine say to each other: requests in, answers out.

An engine inverts images and knows nothing of files; a job reads, records and resumes,
and knows nothing of devices. An engine pulls requests when it has room for them and
yields answers when it has them, so the order is its own affair: it may run many images
at once, and those that need more iterations come later.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8


class Request(NamedTuple):
    """An image to invert, with its own settings.

    Attributes:
        index: row of the manifest, from 0.
        pixels: 8-bit RGB values of the model's size, shape (h, w, 3).
        prompt: what the image shows.
        negative_prompt: what guidance pushes away from.
        guidance: classifier-free guidance scale; finite; at most 1 is none.
    """

    index: int  # type: ignore[assignment]  # tuples have a method of that name
    pixels: UInt8[np.ndarray, "h w 3"]
    prompt: str
    negative_prompt: str
    guidance: float


class Answer(NamedTuple):
    """What became of a request.

    Attributes:
        index: of the request.
        state: what :func:`jaxinv.sample` makes the latent from again, float32:
            (h, w, c), or (k, h, w, c) for samplers whose state is k arrays.
        noise: the noise alone, float32, shape (h, w, c).
        certificate: scalars that JSON can hold: ``converged`` and ``reconstruction`` of
            the noise, ``state_converged`` and ``state_reconstruction`` of the values,
            ``solved``, ``residual``, ``num_evals``, ``depth``, ``stages`` and, as an
            object, ``decoder``.
        failure: why there is no usable answer; None if there is one. The arrays of a
            failed request are not looked at.
    """

    index: int  # type: ignore[assignment]  # tuples have a method of that name
    state: Float[np.ndarray, "*k h w c"]
    noise: Float[np.ndarray, "h w c"]
    certificate: dict[str, Any]
    failure: str | None = None


Engine = Callable[[Iterable[Request]], Iterator[Answer]]
"""Inverts: every request is answered exactly once, in any order.

Requests are pulled lazily, as many as the engine has room for: an image that was pulled
and not yet answered is in memory.
"""

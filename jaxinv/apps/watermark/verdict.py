"""Verdicts: one of three answers to a score: found, not found, cannot judge."""

from typing import Annotated, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxinv.apps.watermark.gaussian_shading import (
    GaussianShadingScore,
    false_positive_rate,
)
from jaxinv.apps.watermark.plausibility import doubts
from jaxinv.apps.watermark.prc import PRCScore
from jaxinv.apps.watermark.ring_id import RingIDScore
from jaxinv.apps.watermark.tree_ring import TreeRingScore
from jaxinv.checks import Range, checked

Score = TreeRingScore | RingIDScore | GaussianShadingScore | PRCScore
Rate = Annotated[float, Range(0, 1, above=True, below=True)]
Answer = Literal["found", "not found", "cannot judge"]


class Verdict(NamedTuple):
    """The meaning of a score.

    Attributes:
        answer: ``"found"``, ``"not found"``, or ``"cannot judge"`` for a latent that is
            not plausible as the noise of an image.
        p_value: See :func:`p_value`.
        reason: The reason why the latent cannot be judged, or None.
    """

    answer: Answer
    p_value: float
    reason: str | None


def p_value(score: Score) -> Float[np.ndarray, "..."]:
    """Return the probability that another key comes as close to this noise.

    It is computed on the host, in float64. For keys that were drawn at random (all
    patterns except zeros), it is exact for any latent that does not depend on the key
    (for PRC, a bound), and meaningless for a latent that was copied from a marked one.
    For a key of zeros
    it is only exact for white noise, of any variance; :func:`judge` checks the noise
    first.

    Args:
        score: The result of a key's ``score``, or a batch of results.

    Returns:
        The p-value: the probability of a value of at most p is at most p. It is uniform
        on [0, 1] for white noise and ``"random"`` keys.

    References:
        Wen et al. 2023, arXiv:2305.20030, Eq. 5, with a random key instead of a random
        noise (:mod:`jaxinv.apps.watermark.laws`); Yang et al. 2024, arXiv:2404.04956,
        Eq. 8.
    """
    if isinstance(score, GaussianShadingScore):
        return false_positive_rate(score.matches, score.bits.shape[-1])
    return score.law.p_value()


@checked
def judge(score: Score, rate: Rate = 1e-3) -> Verdict:
    """Decide whether a noise carries a key's mark.

    Args:
        score: The score of one noise.
        rate: The largest p-value of a mark, between 0 and 1. About this fraction of
            unmarked latents is called marked.

    Returns:
        The verdict. Latents that are not plausible as the noise of an image
        (:mod:`jaxinv.apps.watermark.plausibility`) are not judged.

    Raises:
        ValueError: For another rate, or a batch of scores.

    Example:
        >>> import jax
        >>> from jaxinv.apps import watermark
        >>> key = watermark.tree_ring_key(jax.random.key(0), (16, 16, 4), radius=3)
        >>> noise = jax.random.normal(jax.random.key(1), (16, 16, 4))
        >>> for latent in (key.embed(noise), noise, 10 * noise):
        ...     print(watermark.judge(key.score(latent)).answer)
        found
        not found
        cannot judge
    """
    if np.ndim(score.figures.band):
        raise ValueError("expected the score of one noise, got a batch of scores")
    p = float(p_value(score))
    reason = next(
        (text for text, holds in doubts(score.figures).items() if holds), None
    )
    if reason is not None:
        return Verdict("cannot judge", p, reason)
    return Verdict("found" if p <= rate else "not found", p, None)

"""From a score to one of three answers: found, not found, cannot judge."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxinv.apps.watermark.gaussian_shading import (
    GaussianShadingScore,
    false_positive_rate,
)
from jaxinv.apps.watermark.plausibility import doubts
from jaxinv.apps.watermark.tree_ring import TreeRingScore

Score = TreeRingScore | GaussianShadingScore
Answer = Literal["found", "not found", "cannot judge"]


class Verdict(NamedTuple):
    """What a score means.

    Attributes:
        answer: ``"found"``, ``"not found"``, or ``"cannot judge"`` of a latent that is
            not plausible as the noise of a picture.
        p_value: see :func:`p_value`.
        reason: why it cannot be judged; None if it can.
    """

    answer: Answer
    p_value: float
    reason: str | None


def p_value(score: Score) -> Float[np.ndarray, "..."]:
    """Return how often another key comes as near to this noise.

    Computed on the host, in float64. For keys that were drawn at random, which are all
    but those of zeros, it is exact for any latent that does not depend on the key. Of a
    latent that was copied from a marked one it says nothing. For a key of zeros it is
    exact for white noise of any variance only: :func:`judge` looks at the noise first.

    Args:
        score: of a key's ``score``; a batch of them, too.

    Returns:
        The p-value: a given value or less has at most that probability. Of white noise
        and ``"random"`` keys it is uniform on [0, 1].

    References:
        Wen et al. 2023, arXiv:2305.20030, Eq. 5, with the key random in place of the
        noise (:mod:`jaxinv.apps.watermark.laws`); Yang et al. 2024, arXiv:2404.04956,
        Eq. 8.
    """
    if isinstance(score, GaussianShadingScore):
        return false_positive_rate(score.matches, score.bits.shape[-1])
    return score.law.p_value()


def judge(score: Score, rate: float = 1e-3) -> Verdict:
    """Say whether a noise carries a key's mark.

    Args:
        score: of one noise.
        rate: the largest p-value of a mark, between 0 and 1: about this share of
            unmarked latents is called marked.

    Returns:
        The verdict. A latent that does not look like the noise of any picture (see
        :mod:`jaxinv.apps.watermark.plausibility`) is not judged, whatever its p-value.

    Raises:
        ValueError: for another rate, or a batch of scores.

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
    if not 0 < rate < 1:
        raise ValueError(f"the rate must lie between 0 and 1, got {rate}")
    if np.ndim(score.figures.band):
        raise ValueError("expected the score of one noise, got a batch of scores")
    p = float(p_value(score))
    reason = next(
        (text for text, holds in doubts(score.figures).items() if holds), None
    )
    if reason is not None:
        return Verdict("cannot judge", p, reason)
    return Verdict("found" if p <= rate else "not found", p, None)

"""Captions: what is drawn, and now and then the rest.

Every caption names the kind. Background, style, size and place are each named in some
captions only: what a caption fixes, guidance amplifies, and what every caption fixes
cannot be left to the noise. All lower case, letters and spaces only.
"""

from __future__ import annotations

import numpy as np

from training.drawings import phrases
from training.placements import Placement

#: Probability that a caption names each of them.
BACKGROUND_SHARE, STYLE_SHARE, SIZE_SHARE, PLACE_SHARE = 0.5, 0.25, 0.25, 0.25

#: A drawing below the first is "small", above the second "large".
SMALL, LARGE = 0.62, 0.86
#: Distance of the center from the middle that counts as a place.
OFF_CENTER = 0.06


def article(words: str) -> str:
    """Return "an" before a vowel and "a" before anything else."""
    return "an" if words[0] in "aeiou" else "a"


def size_word(size: float) -> str:
    """Return "small", "large" or nothing."""
    return "small" if size < SMALL else "large" if size > LARGE else ""


def place_phrase(x: float, y: float) -> str:
    """Return words such as "at the top left", or nothing near the middle."""
    row = "top" if y < 0.5 - OFF_CENTER else "bottom" if y > 0.5 + OFF_CENTER else ""
    column = "left" if x < 0.5 - OFF_CENTER else "right" if x > 0.5 + OFF_CENTER else ""
    words = f"{row} {column}".strip()
    return f"at the {words}" if words else ""


def background_phrase(words: str) -> str:
    """Return words such as "on a red to blue gradient background"."""
    return f"on {article(words)} {words} background"


def caption(
    kind: str,
    style: str,
    placement: Placement,
    background: str,
    rng: np.random.Generator,
    background_share: float = BACKGROUND_SHARE,
) -> str:
    """Draw a caption of a picture.

    Args:
        kind: Icon name of what is drawn.
        style: Name of the drawing style.
        placement: Where it lies.
        background: The background's words.
        rng: Source of randomness.
        background_share: Probability that the background is named.
    """
    names = phrases(kind)
    parts = [
        (SIZE_SHARE, size_word(placement.size)),
        (1.0, names[rng.integers(len(names))]),
        (STYLE_SHARE, f"in {style} style"),
        (PLACE_SHARE, place_phrase(placement.x, placement.y)),
        (background_share, background_phrase(background)),
    ]
    return " ".join(w for share, w in parts if w and rng.random() < share)

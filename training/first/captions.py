"""Captions: what is drawn, in which skin tone, on which background.

One subject phrase (the Unicode name or a short name), sometimes an article or the
category, the skin tone, and in four captions of five the background. All lower case,
letters and digits only, so that the small tokenizer keeps most words whole.
"""

from __future__ import annotations

import numpy as np

from training.first.emoji import Emoji, clean_words

#: Unicode names that mislead ("heavy black heart" is red), by first short name.
SUBJECTS: dict[str, tuple[str, ...]] = {
    "heart": ("red heart", "heart", "red heart"),
    "sunny": ("sun", "sun with rays"),
    "star": ("star", "yellow star"),
    "star2": ("glowing star",),
    "car": ("car", "red car"),
    "thumbsup": ("thumbs up",),
    "1": ("thumbs up", "thumbs up sign"),
    "joy": ("face with tears of joy", "laughing face"),
    "smiley": ("smiling face with open mouth", "smiley face", "smiley"),
    "smile": ("smiling face with smiling eyes", "smile"),
    "grinning": ("grinning face", "smiling face"),
    "sunglasses": ("smiling face with sunglasses", "face with sunglasses"),
    "heart eyes": ("smiling face with heart eyes", "face with heart eyes"),
    "hankey": ("pile of poo", "poop"),
    "100": ("hundred points", "100"),
    "pizza": ("pizza", "slice of pizza"),
    "apple": ("red apple", "apple"),
    "house": ("house", "house building"),
    "fire": ("fire", "flame"),
    "soccer": ("soccer ball", "soccer"),
    "dog": ("dog face", "dog"),
    "cat": ("cat face", "cat"),
    "deciduous tree": ("tree", "deciduous tree"),
    "snowman": ("snowman",),
    "zap": ("lightning bolt", "high voltage"),
    "snowflake": ("snowflake",),
    "umbrella": ("umbrella",),
    "cloud": ("cloud",),
    "airplane": ("airplane",),
    "beer": ("beer mug", "beer"),
    "coffee": ("hot beverage", "coffee"),
    "cake": ("shortcake", "cake"),
    "sob": ("crying face", "loudly crying face"),
    "rage": ("angry face", "pouting face"),
    "gem": ("gem stone", "diamond"),
    "bulb": ("light bulb", "bulb"),
    "red circle": ("red circle",),
    "large blue circle": ("blue circle",),
}


def subject_phrases(emoji: Emoji) -> tuple[str, ...]:
    """Return the phrases that may name an emoji, without skin tone.

    Args:
        emoji: The emoji.

    Returns:
        At least one phrase; a repeated phrase is drawn more often.
    """
    first = emoji.short_names[0]
    if first in SUBJECTS:
        return SUBJECTS[first]
    if emoji.category == "flags" and first.startswith("flag "):
        country = emoji.name.removesuffix(" flag").removeprefix("flag ")
        return (f"flag of {country}", f"{country} flag")
    phrases = [emoji.name]
    if len(first) > 2 and first != emoji.name:
        phrases.append(first)
    return tuple(phrases)


def background_phrase(colours: tuple[str, ...]) -> str:
    """Words for a background: one colour name, or two for a gradient."""
    if len(colours) == 1:
        article = "an" if colours[0][0] in "aeiou" else "a"
        return f"on {article} {colours[0]} background"
    article = "an" if colours[0][0] in "aeiou" else "a"
    return f"on {article} {colours[0]} to {colours[1]} gradient background"


def tone_phrase(tones: tuple[str, ...]) -> str:
    """Words for skin tones, empty for none."""
    return f"with {' and '.join(tones)}" if tones else ""


def caption(
    emoji: Emoji,
    colours: tuple[str, ...],
    rng: np.random.Generator,
    background_share: float = 0.8,
) -> str:
    """Return a random caption of a picture.

    Args:
        emoji: What is drawn.
        colours: Colour names of the background.
        rng: Source of randomness.
        background_share: Probability that the background is mentioned.

    Returns:
        Lower-case words.
    """
    phrases = subject_phrases(emoji)
    subject = phrases[rng.integers(len(phrases))]
    prefix = "a" if rng.random() < 0.1 else ""
    category = emoji.category if rng.random() < 0.08 else ""
    background = background_phrase(colours) if rng.random() < background_share else ""
    parts = (prefix, subject, category, tone_phrase(emoji.tones), background)
    return clean_words(" ".join(parts))

"""The emoji data set: read the npm package, weigh it, split it.

The source is ``npm pack emoji-datasource-google@16.0.0`` (metadata MIT; images from
Noto Emoji, Apache-2.0). A skin-tone variant belongs to its base emoji: both are on
the same side of the split, so that "held out" means a drawing never seen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

TONES = {
    "1F3FB": "light skin tone",
    "1F3FC": "medium light skin tone",
    "1F3FD": "medium skin tone",
    "1F3FE": "medium dark skin tone",
    "1F3FF": "dark skin tone",
}

_ICONIC_SHORT_NAMES = """
heart pizza soccer basketball tennis football dog cat sunny apple banana star
fire car red_car house deciduous_tree evergreen_tree palm_tree cactus sunflower
rose tulip smile smiley grinning heart_eyes sunglasses joy sob rage
thinking_face kissing_heart blush wink yum sleeping nerd_face star2 full_moon
crescent_moon rainbow cloud zap snowflake snowman umbrella rocket airplane bus
bike ship strawberry grapes watermelon tangerine lemon cherries pineapple peach
tomato carrot corn avocado hamburger hotdog fries cake birthday ice_cream
doughnut cookie egg coffee beer wine_glass panda_face pig frog tiger lion_face
bear rabbit mouse fox_face monkey_face unicorn_face penguin chicken octopus fish
whale turtle bee ladybug butterfly snail crab skull ghost alien robot_face
jack_o_lantern christmas_tree gift balloon crown gem key lock bell book bulb
camera tv computer iphone guitar blue_heart green_heart yellow_heart
purple_heart orange_heart black_heart broken_heart thumbsup clap eyes mushroom
four_leaf_clover maple_leaf earth_americas large_blue_circle red_circle hankey
100 checkered_flag game_die dart cow hamster wolf koala elephant owl baby_chick
dragon_face
"""

#: Sampling weight of an iconic emoji, against 1 for an ordinary one.
ICONIC_WEIGHT = 8.0
#: Emoji that everybody knows: never held out, and sampled more often.
ICONIC = frozenset(_ICONIC_SHORT_NAMES.split())


@dataclass(frozen=True)
class Emoji:
    """One picture and its words.

    Attributes:
        base: Code points of the base emoji, e.g. ``"1F44B"``; the split is by this.
        image: File name in ``img/google/64``.
        name: Lower-case Unicode name.
        short_names: Short names, as words.
        category: Lower-case category.
        tones: Skin tones as words, empty for the base picture.
        iconic: Whether it is sampled more often.
        weight: Sampling weight.
    """

    base: str
    image: str
    name: str
    short_names: tuple[str, ...]
    category: str
    tones: tuple[str, ...]
    iconic: bool
    weight: float


def clean_words(text: str) -> str:
    """Lower-case words of letters and digits only, single spaces."""
    kept = "".join(c if c.isalnum() and c.isascii() else " " for c in text.lower())
    return " ".join(kept.split())


def read_metadata(folder: Path) -> list[Emoji]:
    """Read ``emoji.json``: base emoji and their skin-tone variants.

    Args:
        folder: The unpacked npm package.

    Returns:
        All emoji that have a Google image, in the order of the file.
    """
    entries = json.loads((folder / "emoji.json").read_text())
    result = []
    for entry in entries:
        if not entry["has_img_google"]:
            continue
        variants = [
            (code, v)
            for code, v in entry.get("skin_variations", {}).items()
            if v["has_img_google"]
        ]
        iconic = bool(ICONIC & set(entry["short_names"]))
        total = (
            ICONIC_WEIGHT if iconic else 0.3 if entry["category"] == "Flags" else 1.0
        )
        common = {
            "base": entry["unified"],
            "name": clean_words(entry["name"] or entry["short_name"]),
            "short_names": tuple(clean_words(s) for s in entry["short_names"]),
            "category": clean_words(entry["category"].replace("&", "and")),
            "iconic": iconic,
        }
        if variants:
            # Half of the weight to the base picture, the rest shared by variants.
            total = max(total, 1.25)
        own = total / 2 if variants else total
        result.append(Emoji(image=entry["image"], tones=(), weight=own, **common))
        for code, variant in variants:
            # A repeated tone (both people alike) is named once.
            tones = tuple(dict.fromkeys(TONES[c] for c in code.split("-")))
            weight = total / 2 / len(variants)
            result.append(
                Emoji(image=variant["image"], tones=tones, weight=weight, **common)
            )
    return result


@dataclass(frozen=True)
class EmojiSet:
    """Metadata and pixels.

    Attributes:
        entries: One per picture.
        rgba: uint8 array of shape (n, 64, 64, 4).
        held_out: Boolean array of shape (n,): True for the 5 % kept for evaluation.
    """

    entries: list[Emoji]
    rgba: np.ndarray
    held_out: np.ndarray

    @cached_property
    def train_indices(self) -> np.ndarray:
        """Indices of the pictures to train on."""
        return np.flatnonzero(~self.held_out)

    @cached_property
    def test_indices(self) -> np.ndarray:
        """Indices of the held-out base pictures (no skin-tone variants)."""
        base = np.array([not e.tones for e in self.entries])
        return np.flatnonzero(self.held_out & base)

    @cached_property
    def train_probabilities(self) -> np.ndarray:
        """Sampling probabilities over ``train_indices``."""
        weights = np.array([self.entries[i].weight for i in self.train_indices])
        return weights / weights.sum()


def split(entries: list[Emoji], share: float = 0.05, seed: int = 0) -> np.ndarray:
    """Choose held-out emoji by base emoji; iconic ones are never held out.

    Args:
        entries: All emoji.
        share: Share of base emoji to hold out.
        seed: Seed of the choice.

    Returns:
        Boolean array of shape (n,), True where held out.
    """
    bases = sorted({e.base for e in entries})
    iconic = {e.base for e in entries if e.iconic}
    candidates = [b for b in bases if b not in iconic]
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(candidates), round(share * len(bases)), replace=False)
    held = {candidates[i] for i in chosen}
    return np.array([e.base in held for e in entries])


def load_emoji(folder: str | Path) -> EmojiSet:
    """Load the whole set into memory (62 MB).

    Args:
        folder: The unpacked npm package, with ``emoji.json`` and ``img/google/64``.

    Returns:
        The data set.

    Raises:
        FileNotFoundError: If the folder is not that package.
    """
    folder = Path(folder)
    if not (folder / "emoji.json").exists():
        raise FileNotFoundError(
            f"{folder} holds no emoji.json: run `npm pack "
            "emoji-datasource-google@16.0.0`, unpack it, and give its `package` folder"
        )
    entries = read_metadata(folder)
    images = []
    for entry in entries:
        with Image.open(folder / "img" / "google" / "64" / entry.image) as file:
            images.append(np.asarray(file.convert("RGBA")))
    return EmojiSet(entries, np.stack(images), split(entries))

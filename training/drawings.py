"""The drawings: a hundred kinds of emoji, each drawn in three openly licensed styles.

Three designers' drawings of one emoji differ in color, shading and outline, so that
a name alone leaves the picture open. All three sets come as SVG from the npm registry,
and their licenses allow a model that is made from them to be redistributed:

* ``noto``: Noto Emoji, copyright Google, Apache-2.0 (state the license and changes).
* ``twemoji``: Twemoji, copyright Twitter and contributors, CC BY 4.0 (give credit, link
  the license, say what was changed).
* ``fluent``: Fluent Emoji Flat, copyright Microsoft, MIT (keep the notice).

Sets under other terms were left out: OpenMoji is CC BY-SA 4.0, whose share-alike could
reach the weights; JoyPixels and Apple's drawings may not be redistributed.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

#: Style -> npm package, unpacked into ``<folder>/<style>/package``.
PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "fluent": "@iconify-json/fluent-emoji-flat@1.2.6",
}
STYLES = tuple(PACKAGES)

#: How to get them all.
HOW_TO_GET = (
    f"run `npm pack {' '.join(PACKAGES.values())}` and unpack each archive into "
    f"<folder>/<style>, the styles being {', '.join(PACKAGES)}"
)

#: Width and height of a rendered drawing in pixels.
RESOLUTION = 128

#: Icon name -> the phrases that name it, for each kind that the model learns. The
#: phrase "=" stands for the icon's own name with spaces.
KINDS: dict[str, tuple[str, ...]] = {
    "red-heart": ("=", "heart"),
    "blue-heart": ("=",),
    "broken-heart": ("=",),
    "pizza": ("=", "slice of pizza"),
    "soccer-ball": ("=", "soccer"),
    "basketball": ("=",),
    "tennis": ("=", "tennis racket"),
    "dog-face": ("=", "dog"),
    "cat-face": ("=", "cat"),
    "mouse-face": ("=", "mouse"),
    "rabbit-face": ("=", "rabbit"),
    "fox": ("fox face", "fox"),
    "panda": ("panda face", "panda"),
    "koala": ("=",),
    "tiger-face": ("=", "tiger"),
    "lion": ("lion face", "lion"),
    "cow-face": ("=", "cow"),
    "pig-face": ("=", "pig"),
    "frog": ("frog face", "frog"),
    "monkey-face": ("=", "monkey"),
    "penguin": ("=",),
    "owl": ("=",),
    "butterfly": ("=",),
    "honeybee": ("=", "bee"),
    "lady-beetle": ("ladybug",),
    "snail": ("=",),
    "turtle": ("=",),
    "octopus": ("=",),
    "crab": ("=",),
    "tropical-fish": ("=", "fish"),
    "spouting-whale": ("=", "whale"),
    "sun": ("=", "sun with rays"),
    "sun-with-face": ("=",),
    "crescent-moon": ("=",),
    "full-moon": ("=",),
    "star": ("=", "yellow star"),
    "cloud": ("=",),
    "rainbow": ("=",),
    "snowflake": ("=",),
    "fire": ("=", "flame"),
    "droplet": ("=", "drop of water"),
    "high-voltage": ("lightning bolt", "="),
    "umbrella": ("=",),
    "deciduous-tree": ("tree", "="),
    "evergreen-tree": ("=",),
    "palm-tree": ("=",),
    "cactus": ("=",),
    "christmas-tree": ("=",),
    "sunflower": ("=",),
    "tulip": ("=",),
    "rose": ("=",),
    "four-leaf-clover": ("=",),
    "maple-leaf": ("=",),
    "mushroom": ("=",),
    "red-apple": ("=", "apple"),
    "green-apple": ("=",),
    "banana": ("=",),
    "grapes": ("=",),
    "watermelon": ("=",),
    "tangerine": ("=", "orange fruit"),
    "lemon": ("=",),
    "cherries": ("=",),
    "strawberry": ("=",),
    "pineapple": ("=",),
    "tomato": ("=",),
    "carrot": ("=",),
    "avocado": ("=",),
    "hamburger": ("=",),
    "french-fries": ("=", "fries"),
    "doughnut": ("=", "donut"),
    "cookie": ("=",),
    "birthday-cake": ("=",),
    "shortcake": ("=", "cake"),
    "soft-ice-cream": ("=", "ice cream"),
    "hot-beverage": ("coffee", "="),
    "beer-mug": ("=", "beer"),
    "egg": ("=",),
    "cheese-wedge": ("=", "cheese"),
    "grinning-face": ("=", "smiling face"),
    "smiling-face-with-sunglasses": ("=", "face with sunglasses"),
    "smiling-face-with-heart-eyes": ("=", "face with heart eyes"),
    "face-with-tears-of-joy": ("=", "laughing face"),
    "loudly-crying-face": ("=", "crying face"),
    "angry-face": ("=",),
    "pile-of-poo": ("=", "poop"),
    "ghost": ("=",),
    "alien": ("=",),
    "robot": ("robot face", "robot"),
    "skull": ("=",),
    "jack-o-lantern": ("=", "pumpkin"),
    "house": ("=", "house building"),
    "house-with-garden": ("=",),
    "automobile": ("car", "red car"),
    "bus": ("=",),
    "rocket": ("=",),
    "balloon": ("=", "red balloon"),
    "wrapped-gift": ("=", "gift"),
    "crown": ("=",),
    "gem-stone": ("=", "diamond"),
    "bell": ("=",),
    "light-bulb": ("=",),
    "globe-showing-americas": ("earth globe americas", "globe"),
}

#: Icons that no part of the model is trained on, for the autoencoder's figures.
HELD_OUT: tuple[str, ...] = (
    "green-heart",
    "purple-heart",
    "glowing-star",
    "cherry-blossom",
    "peach",
    "pear",
    "eggplant",
    "broccoli",
    "hot-dog",
    "taco",
    "cupcake",
    "lollipop",
    "wine-glass",
    "bread",
    "winking-face",
    "thinking-face",
    "sleeping-face",
    "castle",
    "locomotive",
    "sailboat",
    "key",
    "camera",
    "guitar",
    "trophy",
    "anchor",
    "chicken",
    "unicorn",
    "bear",
    "volleyball",
    "airplane",
    "bicycle",
    "books",
)

#: Drawings that read wrongly in a mirror.
NOT_MIRRORED = frozenset({"globe-showing-americas"})


def phrases(kind: str) -> tuple[str, ...]:
    """Return the phrases that name a kind or a held-out icon, the most usual first."""
    name = kind.replace("-", " ")
    known = KINDS.get(kind, ("=",))
    return tuple(name if phrase == "=" else phrase for phrase in known)


class Drawings(NamedTuple):
    """Rendered drawings.

    Attributes:
        kinds: Icon names.
        rgba: uint8 array of shape (kinds, styles, resolution, resolution, 4), straight
            alpha, cropped to the drawing's bounding square.
    """

    kinds: tuple[str, ...]
    rgba: np.ndarray


def crop_to_square(rgba: np.ndarray) -> tuple[int, int, int, int]:
    """Return the smallest centered square (left, top, right, bottom) around a drawing.

    Args:
        rgba: uint8 array of shape (height, width, 4).
    """
    rows, columns = np.nonzero(rgba[..., 3] > 8)
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    side = max(bottom - top, right - left)
    middle_row, middle_column = (top + bottom) / 2, (left + right) / 2
    left, top = round(middle_column - side / 2), round(middle_row - side / 2)
    return left, top, left + side, top + side


def render(pack: dict, icon: str) -> np.ndarray:
    """Render one icon of an Iconify package.

    Args:
        pack: The content of the package's ``icons.json``.
        icon: Name of an icon, or an alias of one.

    Returns:
        uint8 array of shape (resolution, resolution, 4).
    """
    import resvg_py

    while icon in pack.get("aliases", {}):
        icon = pack["aliases"][icon]["parent"]
    entry = pack["icons"][icon]
    width, height = (entry.get(k, pack.get(k, 16)) for k in ("width", "height"))
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        'xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}">{entry["body"]}</svg>'
    )
    png = resvg_py.svg_to_bytes(
        svg_string=svg, width=2 * RESOLUTION, skip_system_fonts=True
    )
    picture = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
    picture = picture.crop(crop_to_square(np.asarray(picture)))
    size = (RESOLUTION, RESOLUTION)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))


def read_drawings(folder: str | Path, kinds: tuple[str, ...]) -> Drawings:
    """Render the named kinds in all styles.

    Args:
        folder: Holds the unpacked npm packages, ``<folder>/<style>/package``.
        kinds: Icon names.

    Raises:
        FileNotFoundError: If a package is missing.
    """
    packs = []
    for style, package in PACKAGES.items():
        file = Path(folder) / style / "package" / "icons.json"
        if not file.exists():
            raise FileNotFoundError(
                f"{file} is missing: run `npm pack {package}` and unpack it into "
                f"{Path(folder) / style}"
            )
        packs.append(json.loads(file.read_text(encoding="utf-8")))
    rgba = [[render(pack, kind) for pack in packs] for kind in kinds]
    return Drawings(tuple(kinds), np.array(rgba))

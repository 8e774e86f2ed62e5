"""A folder in PIE-Bench's layout, made of emoji.

    python -m benchmarks.pie.emoji --data FOLDER --out FOLDER

Four types of edits in turn, under PIE-Bench's own numbers: changed color, object,
background and style of drawing. Pictures are drawn as those that ``emoji64`` was
trained on (:mod:`training.scenes`), half of them of drawings that no part of the model
has seen. Masks are the drawings' own outlines: that of the source for color and object,
all else for the background, and that of both drawings for the style. Prompts are in the
language of :mod:`training.captions`, and their targets are words that the model knows.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.belm.setting import NO_DATA
from benchmarks.pie import layout, masks
from jaxinv.files.atomic import atomic_folder, write_json
from jaxinv.files.images import write_image
from training.backgrounds import COLORS, composite, random_background, random_light
from training.captions import article
from training.drawings import (
    HELD_OUT,
    KINDS,
    PACKAGES,
    STYLES,
    Drawings,
    phrases,
    read_drawings,
)
from training.placements import place, random_placement, tint

#: Editing type -> folder of its pictures.
FOLDERS = {
    "6": "6_change_attribute_color",
    "1": "1_change_object",
    "8": "8_change_background",
    "9": "9_change_style",
}
#: Of one object in several colors: kinds that are known, and held-out ones.
COLORED = {
    "heart": (("red", "blue"), ("green", "purple")),
    "apple": (("red", "green"), ()),
}
#: At least so much of a picture may change, and so much is kept.
LEAST = 0.1
#: Colors closer than this, in sRGB, are no edit of the background.
CLOSE = 0.6
LICENSES = """The pictures of this folder are made of drawings of three sets of emoji,
placed, turned, tinted and laid over backgrounds:

* noto: Noto Emoji, copyright Google, Apache License 2.0
* twemoji: Twemoji, copyright Twitter and contributors, CC BY 4.0
* fluent: Fluent Emoji Flat, copyright Microsoft, MIT License

The field "drawing" of mapping_file.json names the set, its package and the icon.
"""


class Words(NamedTuple):
    """The words of a picture and of its edit.

    Attributes:
        source: The prompt, the words that differ in brackets.
        target: The edit's prompt, the words that differ in brackets.
        blended: One word of either that is edited, with a space between.
        instruction: The edit as an instruction.
    """

    source: str
    target: str
    blended: str
    instruction: str


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.pie.emoji", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--data", type=Path, help="folder of the packages of drawings")
    add("--out", type=Path, required=True, help="the new folder")
    add("--each", type=int, default=50, help="pictures of each of four types")
    add("--size", type=int, default=64, help="height and width in pixels")
    add("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    if arguments.data is None:
        parser.error(NO_DATA)
    if arguments.each < 1 or arguments.size < 16:
        parser.error("expected --each of at least 1 and --size of at least 16")
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists; give a new folder")
    return arguments


def main(argv: Sequence[str] | None = None) -> None:
    arguments = arguments_of(argv)
    icons = (*KINDS, *HELD_OUT)
    drawings = read_drawings(arguments.data, icons)
    with atomic_folder(arguments.out) as folder:
        mapping = {}
        for number in range(4 * arguments.each):
            kind = list(FOLDERS)[number % 4]
            rng = np.random.default_rng([arguments.seed, number])
            index = number // 4
            name = f"{kind}{index:011d}"
            path = f"{FOLDERS[kind]}_{arguments.each}/{name}.png"
            held_out = index % 2 == 1
            pixels, fields = picture(kind, held_out, drawings, arguments.size, rng)
            file = folder / layout.IMAGES / path
            file.parent.mkdir(parents=True, exist_ok=True)
            write_image(file, pixels)
            mapping[name] = {"image_path": path, **fields}
        (folder / "LICENSES.txt").write_text(LICENSES)
        write_json(folder / layout.MAPPING, mapping)
    print(f"{len(mapping)} pictures in {arguments.out}")


def picture(
    kind: str,
    held_out: bool,
    drawings: Drawings,
    size: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Draw a picture of which enough may change and enough is kept.

    Args:
        kind: The editing type.
        held_out: Whether the drawing is one that no part of the model has seen, if
            there is one.
        drawings: All of them.
        size: Height and width in pixels.
        rng: Source of randomness.

    Returns:
        8-bit pixels (size, size, 3), and the entry in the mapping file without path.
    """
    while True:
        icon = _icon(kind, held_out, rng)
        styles = rng.permutation(len(STYLES))[:2]
        placement = random_placement(rng)
        of_icon = drawings.rgba[drawings.kinds.index(icon)]
        drawn = [place(of_icon[style], placement, size) for style in styles]
        opaque = drawn[0][..., 3]
        changes = opaque < 0.99 if kind == "8" else opaque > 0.01
        if kind == "9":
            changes = changes | (drawn[1][..., 3] > 0.01)
        if LEAST <= changes.mean() <= 1 - LEAST:
            break
    ground = random_background(rng, size, gradient_share=0, halves_share=0)
    light = random_light(rng, size)
    image = composite(tint(drawn[0], rng), ground.pixels, light, rng)
    words = _words(kind, icon, [STYLES[style] for style in styles], ground.words, rng)
    style = STYLES[styles[0]]
    fields = {
        "original_prompt": words.source,
        "editing_prompt": words.target,
        "editing_instruction": words.instruction,
        "editing_type_id": kind,
        "blended_word": words.blended,
        "mask": masks.encode(changes),
        "mask_size": [size, size],
        "drawing": {
            "set": style,
            "package": PACKAGES[style],
            "icon": icon,
            "held_out": icon in HELD_OUT,
        },
    }
    return np.round(255 * image).astype(np.uint8), fields


def _icon(kind: str, held_out: bool, rng: np.random.Generator) -> str:
    """Draw an icon; of one of several colors for edits of the color."""
    if kind != "6":
        return str(rng.choice(HELD_OUT if held_out else list(KINDS)))
    return str(
        rng.choice(
            [
                f"{color}-{noun}"
                for noun, colors in COLORED.items()
                for color in colors[held_out]
            ]
        )
    )


def _words(
    kind: str, icon: str, styles: list[str], ground: str, rng: np.random.Generator
) -> Words:
    """Return the prompts of an edit."""
    subject = phrases(icon)[0]
    where = f"on {article(ground)} {ground} background"
    if kind == "6":
        color, noun = icon.split("-")
        others = [name for name in COLORED[noun][0] if name != color]
        new = str(rng.choice(others))
        before, after = f"[{color}] {noun} {where}", f"[{new}] {noun} {where}"
        return Words(before, after, f"{color} {new}", f"make the {noun} {new}")
    if kind == "1":
        new = phrases(str(rng.choice([name for name in KINDS if name != icon])))[0]
        edited = f"{subject.split()[-1]} {new.split()[-1]}"
        said = f"change the {subject} to {article(new)} {new}"
        return Words(f"[{subject}] {where}", f"[{new}] {where}", edited, said)
    if kind == "8":
        here = np.asarray(COLORS[ground])
        far = [name for name, c in COLORS.items() if np.linalg.norm(c - here) > CLOSE]
        new = str(rng.choice(far))
        before = f"{subject} on {article(ground)} [{ground}] background"
        after = f"{subject} on {article(new)} [{new}] background"
        edited = f"{ground.split()[-1]} {new.split()[-1]}"
        return Words(before, after, edited, f"make the background {new}")
    old, new = styles
    before = f"{subject} in [{old}] style {where}"
    after = f"{subject} in [{new}] style {where}"
    return Words(before, after, f"{old} {new}", f"draw it in {new} style")


if __name__ == "__main__":
    main()

"""The contact sheet: pictures of each type, and what every cell made of them."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.pie.layout import TYPES, Entry
from benchmarks.pie.runs import UNEDITED, Setting
from benchmarks.pie.tables import inversion_title
from jaxinv.files.image_reading import read_image

#: Side of a picture, space between two, height of the titles, width of the labels.
SIDE, GAP, TOP, LEFT = 96, 4, 150, 300
INK = (31, 36, 48)


def sheet(setting: Setting, of_each: int = 2) -> np.ndarray:
    """Lay out pictures of each type, those in the most cells, a column for each cell.

    Args:
        setting: The runs.
        of_each: Pictures of each editing type.

    Returns:
        8-bit RGB pixels.
    """
    cells = setting.cells()
    made = {entry.name: _made(setting, entry) for entry in setting.entries}
    rows = [entry for entry in setting.entries if made[entry.name]]
    rows.sort(key=lambda entry: -made[entry.name])
    of_kind = {kind: [e for e in rows if e.kind == kind][:of_each] for kind in TYPES}
    rows = [entry for found in of_kind.values() for entry in found]
    step = SIDE + GAP
    width, height = LEFT + (len(cells) + 2) * step, TOP + len(rows) * step
    canvas = Image.new("RGB", (width, height), "white")
    font = ImageFont.load_default(13)
    titles = ["picture", "mask", *map(_title, cells)]
    for column, title in enumerate(titles):
        canvas.paste(_upright(title, font), (LEFT + column * step, 0))
    draw = ImageDraw.Draw(canvas)
    for row, entry in enumerate(rows):
        y = TOP + row * step
        label = f"{TYPES[entry.kind]}\n{_wrapped(entry.source)}\nto: " + _wrapped(
            entry.target
        )
        draw.multiline_text((6, y + 4), label, INK, font)
        shown = [entry.image, entry.image * np.where(entry.mask, 1.0, 0.3)[..., None]]
        shown += [_picture(setting, entry, cell) for cell in cells]
        for column, pixels in enumerate(shown):
            tile = Image.fromarray(np.uint8(pixels)).resize((SIDE, SIDE))
            canvas.paste(tile, (LEFT + column * step, y))
    return np.asarray(canvas)


def _made(setting: Setting, entry: Entry) -> int:
    """Return in how many cells a picture is."""
    found = setting.kept.found
    return sum((entry.name, *cell) in found for cell in setting.cells())


def _picture(setting: Setting, entry: Entry, cell: tuple[str, str]) -> np.ndarray:
    """Return the picture of a cell; gray where there is none."""
    file = setting.path(entry, cell)
    found = setting.kept.found.get((entry.name, *cell), {"fault": "not run"})
    if "fault" in found or not file.exists():
        return np.full_like(entry.image, 128)
    return read_image(file).pixels


def _title(cell: tuple[str, str]) -> str:
    if cell == UNEDITED:
        return "not edited"
    return f"{inversion_title(cell[0])}\n{cell[1].replace('_', ' ')}"


def _upright(title: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """Return a title that reads upward."""
    lying = Image.new("RGB", (TOP, SIDE), "white")
    ImageDraw.Draw(lying).multiline_text((6, SIDE / 2 - 16), title, INK, font)
    return lying.rotate(90, expand=True)


def _wrapped(prompt: str, most: int = 42) -> str:
    words, lines = prompt.split(), [""]
    for word in words:
        if len(lines[-1]) + len(word) > most:
            lines.append("")
        lines[-1] += f"{word} "
    return "\n".join(lines)

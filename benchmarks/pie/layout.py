"""The published layout of PIE-Bench: a mapping file, pictures, prompts in brackets.

    FOLDER/mapping_file.json     {id: {image_path, original_prompt, ...}}
    FOLDER/annotation_images/    the pictures, by ``image_path``

Square brackets in the prompts enclose the words that differ. An entry that cannot be
used is left out with one line that says why; the others go on.

References:
    Ju et al. 2023, "PnP Inversion", arXiv:2310.01506, and its repository (README).
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from benchmarks.pie import masks
from jaxinv.checks import one_line, shown
from jaxinv.files.image_reading import read_image
from jaxinv.files.json_fields import read_json

MAPPING, IMAGES = "mapping_file.json", "annotation_images"
EXPECTED = f"""expected a folder of PIE-Bench's layout: {MAPPING} with an object of
entries, and the folder {IMAGES} with their pictures (a folder made of emoji:
python -m benchmarks.pie.emoji --data FOLDER --out FOLDER)""".replace("\n", " ")
#: The masks of 700 pictures of 512 x 512 pixels are some megabytes.
MAX_BYTES = 256 * 2**20
#: Names of the editing types, by ``editing_type_id``.
TYPES = {
    "0": "random",
    "1": "change object",
    "2": "add object",
    "3": "delete object",
    "4": "change content",
    "5": "change pose",
    "6": "change color",
    "7": "change material",
    "8": "change background",
    "9": "change style",
}
#: The fields of an entry that are texts.
TEXTS = (
    "image_path",
    "original_prompt",
    "editing_prompt",
    "editing_instruction",
    "editing_type_id",
    "blended_word",
)


class Entry(NamedTuple):
    """One picture and its edit.

    Attributes:
        name: Its key in the mapping file.
        path: Of the picture, inside of ``annotation_images``.
        image: (h, w, 3), 8 bits.
        source: The picture's prompt, without brackets.
        target: The edit's prompt, without brackets.
        kind: ``editing_type_id``.
        blended: The word of the source and that of the target which are edited, or
            nothing.
        mask: (h, w), True where the edit should change the picture.
    """

    name: str
    path: str
    image: np.ndarray
    source: str
    target: str
    kind: str
    blended: tuple[str, ...]
    mask: np.ndarray


def read_folder(folder: Path) -> tuple[list[Entry], list[str]]:
    """Read all entries that can be used.

    Args:
        folder: The benchmark's folder.

    Returns:
        The entries in the order of the mapping file, and one line for each of the
        others.

    Raises:
        ValueError: If the folder is not of this layout at all.
    """
    if not (folder / MAPPING).is_file() or not (folder / IMAGES).is_dir():
        raise ValueError(f"{folder} has no {MAPPING} or no {IMAGES}; {EXPECTED}")
    mapping = read_json(folder / MAPPING, max_bytes=MAX_BYTES)
    entries, faults = list[Entry](), list[str]()
    for name, fields in mapping.items():
        try:
            entries.append(read_entry(folder, name, fields))
        except (ValueError, OSError) as error:
            faults.append(f"{name}: {one_line(error)}")
    if not entries:
        raise ValueError(
            f"{folder / MAPPING} has no entry that can be used; "
            + "; ".join([*faults[:3], EXPECTED])
        )
    return entries, faults


def read_entry(folder: Path, name: str, fields: Any) -> Entry:
    """Read one entry.

    Args:
        folder: The benchmark's folder.
        name: Its key in the mapping file.
        fields: Its value there.

    Raises:
        ValueError: If it lacks a field, if a field is of another type, or if picture
            and mask do not fit each other.
        FileNotFoundError: If there is no such picture.
    """
    if not isinstance(fields, dict):
        raise ValueError(f"expected an object, got {shown(fields)}")
    missing = [field for field in (*TEXTS, "mask") if field not in fields]
    if missing:
        raise ValueError(f"lacks {', '.join(missing)}")
    for field in TEXTS:
        if not isinstance(fields[field], str):
            raise ValueError(f"{field} must be a text, got {shown(fields[field])}")
    if fields["editing_type_id"] not in TYPES:
        raise ValueError(
            f"editing_type_id must be one of {', '.join(TYPES)}, got "
            f"{shown(fields['editing_type_id'])}"
        )
    if not isinstance(fields["mask"], list):
        raise ValueError(f"mask must be a list, got {shown(fields['mask'])}")
    path = PurePosixPath(fields["image_path"])
    if path.is_absolute() or ".." in path.parts or not path.name:
        raise ValueError(f"image_path {shown(str(path))} leaves {IMAGES}")
    image = read_image(folder / IMAGES / path).pixels
    stated = fields.get("mask_size", list(image.shape[:2]))
    if stated != list(image.shape[:2]):
        raise ValueError(
            f"the mask is of size {shown(stated)}, the picture of size "
            f"{list(image.shape[:2])}"
        )
    return Entry(
        name,
        str(path),
        image,
        without_brackets(fields["original_prompt"]),
        without_brackets(fields["editing_prompt"]),
        fields["editing_type_id"],
        tuple(fields["blended_word"].split()),
        masks.decode(fields["mask"], image.shape[:2]),
    )


def without_brackets(prompt: str) -> str:
    """Return a prompt without square brackets.

    >>> without_brackets("a [red] heart")
    'a red heart'
    """
    return prompt.replace("[", "").replace("]", "")


def balanced(entries: list[Entry], count: int | None) -> list[Entry]:
    """Return so many entries, the editing types in turn, each in its own order.

    Args:
        entries: All of them.
        count: How many at most; None for all.
    """
    of_type: dict[str, int] = {}
    places = []
    for place, entry in enumerate(entries):
        turn = of_type[entry.kind] = of_type.get(entry.kind, -1) + 1
        places.append((turn, entry.kind, place))
    return [entries[place] for *_, place in sorted(places)][:count]

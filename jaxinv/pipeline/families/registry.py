"""The implemented families, and the choice of one for a ``model_index.json``.

A pipeline is judged by its parts, not by its class name: dozens of classes in diffusers
run Stable Diffusion's parts, and as many use other parts. All checks read only the
configurations, so that an unsupported model is refused before its weights are read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxinv.checks import shown
from jaxinv.files.json_fields import check_field, shown_text
from jaxinv.pipeline.families.controlnet import (
    StableDiffusionControlNet,
    StableDiffusionXLControlNet,
)
from jaxinv.pipeline.families.family import Family
from jaxinv.pipeline.families.flux import Flux
from jaxinv.pipeline.families.instaflow import InstaFlow
from jaxinv.pipeline.families.pixart import PixArt, PixArtAlpha
from jaxinv.pipeline.families.pixels import Pixels
from jaxinv.pipeline.families.stable_diffusion import StableDiffusion
from jaxinv.pipeline.families.stable_diffusion_3 import StableDiffusion3
from jaxinv.pipeline.families.stable_diffusion_xl import StableDiffusionXL
from jaxinv.pipeline.families.video import AnimateDiff, JoinedAnimateDiff, LaVie
from jaxinv.pipeline.families.wan import Wan

#: Of two families with the same parts, the first one with the pipeline's class counts.
FAMILIES: tuple[Family, ...] = (
    InstaFlow(),
    StableDiffusion(),
    StableDiffusionXL(),
    StableDiffusion3(),
    Flux(),
    AnimateDiff(),
    JoinedAnimateDiff(),
    LaVie(),
    Wan(),
    Pixels(),
    PixArtAlpha(),
    PixArt(),
    StableDiffusionControlNet(),
    StableDiffusionXLControlNet(),
)

#: Parts that generation and inversion do not use.
UNUSED = ("safety_checker", "feature_extractor", "image_encoder", "inverse_scheduler")
_IGNORED_FLAGS = ("requires_safety_checker",)
_SHOWN = 5  # number of parts that an error names
# What an entry of model_index.json may be: a part's library and class.
_Part = tuple[str | None, str | None]


class Index(NamedTuple):
    """What a ``model_index.json`` says.

    Attributes:
        family: The family that has these parts.
        classes: The class of each of its parts, without optional ones that are absent.
        flags: The values of the options that the family reads.
        pipeline: Class of the diffusers pipeline.
    """

    family: Family
    classes: dict[str, str]
    flags: dict[str, bool]
    pipeline: str

    @property
    def networks(self) -> tuple[str, ...]:
        """The parts that have weights."""
        without = {"scheduler", *self.family.text_encoders.values()}
        return tuple(part for part in self.classes if part not in without)


def read_index(path: Path | str, index: Mapping[str, Any]) -> Index:
    """Return the family that a ``model_index.json`` describes.

    Args:
        path: The file, for messages.
        index: The content of the file.

    Returns:
        The family and its parts.

    Raises:
        ValueError: If the parts are not those of any family.
    """
    kind = index.get("_class_name", "pipeline of unknown class")
    kind = kind if isinstance(kind, str) and len(kind) < 100 else shown(kind)
    named, flags = _entries(path, index)
    pipeline = str(index.get("_class_name", ""))
    families = [f for f in FAMILIES if not f.pipelines or pipeline in f.pipelines]
    complaints = {family: _complaint(family, named, flags) for family in families}
    for family, complaint in complaints.items():
        if complaint is None:
            return Index(
                family,
                {part: named[part] for part in family.needed(named)},
                {
                    name: bool(flags.get(name, own))
                    for name, own in family.flags.items()
                },
                pipeline,
            )
    closest = max(families, key=lambda family: _overlap(family, named))
    supported = "; ".join(
        f"{family.name} ({', '.join(family.parts)})"
        for family in FAMILIES
        if not family.pipelines
    )
    raise ValueError(
        f"{path} {complaints[closest]}, so this {kind} is not implemented. Implemented "
        f"are, with their parts: {supported}"
    )


def _entries(
    path: Path | str, index: Mapping[str, Any]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the classes of the parts that an index names, and its options."""
    named, flags = {}, {}
    for name, entry in index.items():
        if name.startswith("_") or name in _IGNORED_FLAGS:
            continue
        if not isinstance(entry, list):
            flags[name] = entry
            continue
        try:
            check_field(name, entry, _Part)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        if entry[1] is not None:
            named[name] = entry[1]
        else:
            flags[name] = None
    return named, flags


def _complaint(
    family: Family, named: Mapping[str, str], flags: Mapping[str, Any]
) -> str | None:
    """Return why parts are not those of a family; None if they are."""
    for name, value in flags.items():
        if value and name not in family.flags:
            reason = f" ({family.refused[name]})" if name in family.refused else ""
            return f"sets the option {shown_text(name)}={shown(value)}{reason}"
        if name in family.flags and not isinstance(value, bool | None):
            return (
                f"sets the option {shown_text(name)}={shown(value)}, not true or false"
            )
    for name in family.needed(named):
        if name not in named:
            null = " (null)" if name in flags else ""
            return f"names no {name}{null}" + _others(family, named)
    for name, found in named.items():
        if name not in (*family.parts, *family.unused, *UNUSED):
            return f"names an extra part, {shown(name)} ({shown_text(found)})"
        known = family.parts.get(name)
        if known and found not in known:
            return (
                f"names a {name} of class {shown_text(found)} (implemented: "
                f"{', '.join(known)})"
            )
    return None


def _overlap(family: Family, named: Mapping[str, str]) -> int:
    """Return how many parts are a family's, less those that are not."""
    parts = family.parts.items()
    right = sum(name in named and named[name] in known for name, known in parts)
    needed = family.needed(named)
    present = sum(name in named for name in needed)
    known = (*family.parts, *family.unused, *UNUSED)
    extra = sum(name not in known for name in named)
    return 2 * present + right - 2 * extra - len(needed)


def _others(family: Family, named: Mapping[str, Any]) -> str:
    others = [
        f"{shown_text(name)} ({shown_text(kind)})"
        for name, kind in named.items()
        if name not in family.parts and name not in UNUSED
    ]
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    return f" and has {', '.join(others[:_SHOWN])}{more}" if others else ""

"""Where a model is read from: its configurations, and functions that read its parts.

:func:`jaxinv.load` does not know whether the parts are folders, in one file, or come
from several places. Everything in a :class:`Source` has been checked, and no weights
have been read.
"""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxinv.loading.vae import ChosenVae
from jaxinv.pipeline.families import Index
from jaxinv.pipeline.families.instaflow import InstaFlow, is_instaflow
from jaxinv.pipeline.families.stable_diffusion import StableDiffusion


@dataclasses.dataclass(frozen=True)
class Parts:
    """The configurations of a model's parts, which fit one another.

    Attributes:
        index: The family, and the classes of its parts.
        configs: The configuration of each part that has weights.
        image_size: (height, width), pixels, that the network was trained on.
    """

    index: Index
    configs: dict[str, Any]
    image_size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Source:
    """A model that can be read.

    Attributes:
        place: The folder or file, for messages.
        parts: The configurations of the parts.
        scheduler: The configuration of the scheduler.
        scheduler_file: The file that holds it, for messages.
        tokenizer: Map from the part's name to a tokenizer.
        read: Map from the name of a part with weights, and options of
            :func:`weights_convert.load_component`, to the part.
    """

    place: Path
    parts: Parts
    scheduler: Mapping[str, Any]
    scheduler_file: Path
    tokenizer: Callable[[str], Any]
    read: Callable[..., Any]


def as_named(index: Index, name: str) -> Index:
    """Return what a model is by its index and, if it is an InstaFlow, its name.

    InstaFlow has the parts of Stable Diffusion, so folders and files of it may say no
    more than that. The name counts, with a warning.

    Args:
        index: What the model's folder or file says.
        name: The model's name; the empty one says nothing.
    """
    if index.family != StableDiffusion() or not is_instaflow(name):
        return index
    warnings.warn(
        f"{name} is InstaFlow by its name: it is taken for a rectified flow, and no "
        "other scheduler is used; for another model of that name, pass the schedule "
        "that it was trained with",
        stacklevel=4,
    )
    return index._replace(family=InstaFlow(), pipeline=InstaFlow.pipelines[0])


def with_vae(source: Source, vae: ChosenVae) -> Source:
    """Return a model with another autoencoder, which fits its network.

    Raises:
        ValueError: If it does not fit, or the model has none.
    """
    parts = source.parts
    if "vae" not in parts.configs:
        raise ValueError(
            f"{source.place} has no autoencoder that vae= could replace: it is a "
            f"{parts.index.family} model"
        )
    configs = {**parts.configs, "vae": vae.config}
    size = parts.index.family.check(source.place, configs)
    return dataclasses.replace(
        source,
        parts=Parts(parts.index, configs, size),
        read=lambda part, **options: (
            vae.read(**options) if part == "vae" else source.read(part, **options)
        ),
    )

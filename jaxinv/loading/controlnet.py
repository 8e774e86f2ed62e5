"""ControlNets from folders of their own, or the hub, for models that have none."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, Unpack

import weights_convert
from jaxinv.loading.find import Hub, find_part
from jaxinv.models import ControlNetConfig, ControlNetModel
from jaxinv.pipeline.families import Family
from jaxinv.pipeline.families.controlnet import check_controlnet, controlled_family
from weights_convert.reader import read_config, weight_files

_FILES = r"config\.json|diffusion_pytorch_model(\.fp16)?\.safetensors"

#: Folder or hub name of a ControlNet, or several.
ControlNets: TypeAlias = (
    str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None
)


def controlnet_folders(
    controlnet: ControlNets,
    family: Family,
    configs: Mapping[str, Any],
    **hub: Unpack[Hub],
) -> list[Path]:
    """Return the folders of ControlNets, if they fit a model.

    Args:
        controlnet: What the user gave.
        family: The model's family.
        configs: The configuration of each part that has weights.
        **hub: Options of the hub.

    Returns:
        The folders, none of whose weights have been read.

    Raises:
        ValueError: If a folder does not hold a ControlNet, or one that does not fit.
        FileNotFoundError: If it does not exist.
    """
    if controlnet is None:
        return []
    single = isinstance(controlnet, str | os.PathLike)
    given: Any = [controlnet] if single else controlnet
    if not given:
        raise ValueError("controlnet must name at least one ControlNet, or be None")
    controlled_family(family)
    folders = [find_part(each, "ControlNet", _FILES, **hub) for each in given]
    for folder in folders:
        config = read_config(folder)
        if not isinstance(config, ControlNetConfig):
            raise ValueError(f"{folder} holds a {config.class_name}, no ControlNet")
        check_controlnet(f"{folder}: ", configs["unet"], configs["vae"], config)
    return folders


def controlnet_files(name: str, **hub: Unpack[Hub]) -> dict[str, Path]:
    """Return the files that are read of a ControlNet, by their names.

    Args:
        name: Its folder or hub name.
        **hub: Options of the hub.
    """
    folder = find_part(name, "ControlNet", _FILES, **hub)
    return {file.name: file for file in (folder / "config.json", *weight_files(folder))}


def load_controlnet(folder: Path, **options: Any) -> ControlNetModel:
    """Load one; the options are those of :func:`weights_convert.load_component`."""
    module = weights_convert.load_component(folder, **options)
    assert isinstance(module, ControlNetModel)
    return module

"""The autoencoder that a user chooses in place of a model's own.

Autoencoders of one latent space have the same shapes as those of another. As far as
configurations tell them apart, the scale and the shift of their latents do.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, Unpack

import weights_convert
from jaxinv.files.folders import check_inside, model_root
from jaxinv.loading.find import Hub, find_part
from jaxinv.models import AutoencoderKL, AutoencoderKLWan, AutoencoderTiny
from jaxinv.models.autoencoders.kl_config import AutoencoderKLConfig
from jaxinv.models.registry import Component
from weights_convert.reader import read_config, weight_files
from weights_convert.single_file import open_single_file

#: A component, or the folder, file or hub name of one.
Vae: TypeAlias = (
    str | os.PathLike[str] | AutoencoderKL | AutoencoderTiny | AutoencoderKLWan
)

_FILES = r"config\.json|diffusion_pytorch_model(\.fp16)?\.safetensors"


class ChosenVae(NamedTuple):
    """An autoencoder that can be read.

    Attributes:
        config: Its configuration.
        read: Function of the options of :func:`weights_convert.load_component` that
            returns it. They do not apply to a component, which is used as it is.
    """

    config: Any
    read: Callable[..., Component]


def choose_vae(vae: Vae, configs: Mapping[str, Any], **hub: Unpack[Hub]) -> ChosenVae:
    """Return the autoencoder that a user chose; no weights are read.

    Args:
        vae: The choice.
        configs: Configurations of the model's parts. A file, which has no configuration
            of its own, has that of the autoencoder that it replaces.
        **hub: Options of the hub.

    Raises:
        ValueError: If it is no autoencoder, or one of another latent space.
        FileNotFoundError: If it does not exist.
    """
    if isinstance(vae, AutoencoderKL | AutoencoderTiny | AutoencoderKLWan):
        return ChosenVae(vae.config, lambda **options: vae)
    own = configs.get("vae")
    path = find_part(vae, "autoencoder", _FILES, **hub)
    if path.is_file():
        given = {"vae": own} if isinstance(own, AutoencoderKLConfig) else {}
        opened = open_single_file(path, given, like=configs.get("unet"))
        if list(opened.configs) != ["vae"]:
            raise ValueError(
                f"{path} is not an autoencoder: it holds " + ", ".join(opened.configs)
            )
        return ChosenVae(
            opened.configs["vae"], lambda **options: opened.load("vae", **options)
        )
    folder = _part_folder(path)
    config = read_config(folder)
    kinds = ("AutoencoderKL", "AutoencoderTiny", "AutoencoderKLWan")
    if config.class_name not in kinds:
        raise ValueError(f"{folder} holds a {config.class_name}, not an autoencoder")
    _check_latents(folder, config, own)
    return ChosenVae(
        config, lambda **options: weights_convert.load_component(folder, **options)
    )


def vae_files(vae: str, **hub: Unpack[Hub]) -> dict[str, Path]:
    """Return the files that :func:`choose_vae` reads, by their names.

    Args:
        vae: The folder, file or hub name.
        **hub: Options of the hub.
    """
    path = find_part(vae, "autoencoder", _FILES, **hub)
    if path.is_file():
        return {"vae.safetensors": path}
    folder = _part_folder(path)
    return {file.name: file for file in (folder / "config.json", *weight_files(folder))}


def _part_folder(path: Path) -> Path:
    """Return the autoencoder's folder, of a model that the user named or its own."""
    if not (path / "model_index.json").is_file():
        return path
    check_inside(path / "vae", model_root(path))
    return path / "vae"


def _check_latents(folder: Path, config: Any, own: Any) -> None:
    """Raise ValueError if two autoencoders scale their latents differently."""
    if not isinstance(config, AutoencoderKLConfig) or not isinstance(
        own, AutoencoderKLConfig
    ):
        return
    for name in ("scaling_factor", "shift_factor"):
        found, wanted = getattr(config, name) or 0, getattr(own, name) or 0
        if found != wanted:
            raise ValueError(
                f"{folder} belongs to another latent space: its {name} is {found}, and "
                f"that of the model's own autoencoder is {wanted}. If it fits all the "
                "same, pass the component: vae=weights_convert.load_component(folder)"
            )

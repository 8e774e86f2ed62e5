"""Checks that the configurations of a model's parts fit one another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxinv.models.autoencoders.kl_config import AutoencoderKLConfig
from jaxinv.models.autoencoders.tiny_config import AutoencoderTinyConfig
from jaxinv.models.autoencoders.wan_config import AutoencoderKLWanConfig

AutoencoderConfig = AutoencoderKLConfig | AutoencoderTinyConfig | AutoencoderKLWanConfig

# Purpose of UNets with more than 4 input channels, for latents of 4 channels.
_EXTRA_CHANNELS = {
    5: "latents and a depth map (depth-to-image)",
    7: "latents and an image of low resolution (upscaling)",
    8: "latents and those of a second image (editing by instruction, upscaling, depth)",
    9: "latents, a mask and those of the masked image (inpainting)",
}


def check_classes(
    where: Path,
    configs: Mapping[str, Any],
    classes: Mapping[str, tuple[str, ...]],
) -> None:
    """Raise ValueError unless each part has the configuration of one of its classes.

    Args:
        where: The model's folder, for the message.
        configs: The configuration of each part.
        classes: The implemented classes of each part.
    """
    for part, config in configs.items():
        if config.class_name not in classes[part]:
            raise ValueError(f"{where}: the folder {part} holds a {config.class_name}")


def check_latents(where: Path, network: Any, vae: AutoencoderConfig) -> None:
    """Raise ValueError unless a network maps an autoencoder's latents to latents.

    Args:
        where: The model's folder, for the message.
        network: Configuration of the network.
        vae: Configuration of the autoencoder.
    """
    channels = vae.latent_channels
    if (vae.in_channels, vae.out_channels) != (3, 3):
        raise ValueError(
            f"{where}: the autoencoder takes {vae.in_channels} channels and returns "
            f"{vae.out_channels}; images have 3"
        )
    kind = network.class_name
    if network.in_channels != channels:
        made_for = _EXTRA_CHANNELS.get(network.in_channels, "") if channels == 4 else ""
        made_for = f", as UNets that take {made_for}" if made_for else ""
        raise ValueError(
            f"{where}: the {kind} has {network.in_channels} input channels "
            f"(in_channels){made_for}; the autoencoder's latents have {channels}, "
            "which is all that a text-to-image network takes"
        )
    outputs = network.out_channels
    outputs = network.in_channels if outputs is None else outputs
    if outputs != channels:
        learned = " (a learned variance is not implemented)"
        raise ValueError(
            f"{where}: the {kind} has {outputs} output channels "
            f"(out_channels), but the autoencoder's latents have {channels}"
            + (learned if outputs == 2 * channels else "")
        )


def check_text(where: Path, wanted: set[int], width: int) -> None:
    """Raise ValueError unless a network attends to vectors of the encoders' size.

    Args:
        where: The model's folder, for the message.
        wanted: Sizes of the vectors that the network attends to.
        width: Size of the text encoders' vectors.
    """
    if wanted - {width}:
        sizes = ", ".join(map(str, sorted(wanted - {width})))
        raise ValueError(
            f"{where}: the UNet attends to text vectors of size {sizes} "
            f"(cross_attention_dim), but the text encoder's have {width} (hidden_size)"
        )


def latent_image_size(
    where: Path, network: Any, vae: AutoencoderConfig
) -> tuple[int, int]:
    """Return (height, width) in pixels of the images that a network was trained on.

    Args:
        where: The model's folder, for messages.
        network: Configuration of the network, whose ``sample_size`` is the latents'.
        vae: Configuration of the autoencoder.

    Raises:
        ValueError: If no configuration states it, or if it does not fit the latents.
    """
    factor = vae.downsampling_factor
    if network.sample_size is not None:
        rows, columns = size_pair(where, network.sample_size)
        return factor * rows, factor * columns
    pixels = getattr(vae, "sample_size", None)
    if pixels is None:
        raise ValueError(
            f"{where}: neither the UNet's configuration nor the autoencoder's states "
            "the size that the model was trained on (sample_size)"
        )
    height, width = size_pair(where, pixels)
    if height % factor or width % factor:
        raise ValueError(
            f"{where}: the autoencoder's sample_size, {height} by {width}, is not a "
            f"multiple of {factor}, the factor between images and latents"
        )
    return height, width


def size_pair(where: Path, size: Any) -> tuple[int, int]:
    """Return a ``sample_size`` as (height, width), or raise ValueError."""
    pair = size if isinstance(size, tuple) else (size, size)
    if len(pair) != 2 or not all(type(each) is int and each > 0 for each in pair):
        raise ValueError(f"{where}: sample_size={size!r} is not a height and width")
    return pair

"""Checks that a pipeline's parts are implemented and fit each other.

A pipeline is judged by its parts, not by its class name: dozens of classes in diffusers
run Stable Diffusion's parts, and as many use other parts. All checks read only the
configurations, so that an unsupported model is refused before its weights are read.
"""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxinv.checks import shown
from jaxinv.files.json_fields import check_field, shown_text
from jaxinv.models.autoencoders.kl_config import AutoencoderKLConfig
from jaxinv.models.autoencoders.tiny_config import AutoencoderTinyConfig
from jaxinv.models.registry import ComponentConfig
from jaxinv.models.text_encoders.clip import CLIPTextConfig
from jaxinv.models.unet.config import UNet2DConditionConfig

#: The parts of a pipeline, and the implemented classes.
PARTS: dict[str, tuple[str, ...]] = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL", "AutoencoderTiny"),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "scheduler": (),  # checked by jaxinv.schedule_from_diffusers
}
NETWORKS = ("unet", "vae", "text_encoder")  # the parts that have weights
#: Parts that generation and inversion do not use.
UNUSED = ("safety_checker", "feature_extractor", "image_encoder", "inverse_scheduler")
_FLAGS = ("requires_safety_checker",)
_SUPPORTED = (
    "only text-to-image latent diffusion with Stable Diffusion's parts is (unet, vae, "
    "one text_encoder, tokenizer and scheduler)"
)
# What an entry of model_index.json may be: a part's library and class, or an option.
_SHOWN = 5  # number of parts that an error names
_Part = tuple[str | None, str | None]
# Purpose of UNets with more than 4 input channels, for latents of 4 channels.
_EXTRA_CHANNELS = {
    5: "latents and a depth map (depth-to-image)",
    7: "latents and an image of low resolution (upscaling)",
    8: "latents and those of a second image (editing by instruction, upscaling, depth)",
    9: "latents, a mask and those of the masked image (inpainting)",
}


def check_index(path: str | os.PathLike[str], index: Mapping[str, Any]) -> None:
    """Raise ValueError unless a ``model_index.json`` names exactly the known parts.

    Args:
        path: The file, for the message.
        index: The content of the file.
    """
    kind = index.get("_class_name", "pipeline of unknown class")
    kind = kind if isinstance(kind, str) and len(kind) < 100 else shown(kind)

    def refuse(reason: str) -> ValueError:
        return ValueError(
            f"{path} {reason}, so this {kind} is not implemented: {_SUPPORTED}"
        )

    named = {}
    for name, entry in index.items():
        if name.startswith("_") or name in _FLAGS:
            continue
        if isinstance(entry, list):
            try:
                check_field(name, entry, _Part)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            if entry[1] is not None:
                named[name] = entry[1]
        elif entry:
            raise refuse(f"sets the option {shown_text(name)}={shown(entry)}")
    for name in PARTS:
        if name not in named:
            null = " (null)" if name in index else ""
            raise refuse(f"names no {name}{null}" + _others(named))
    for name, found in named.items():
        if name not in PARTS and name not in UNUSED:
            raise refuse(f"names an extra part, {shown(name)} ({shown_text(found)})")
        if PARTS.get(name) and found not in PARTS[name]:
            raise refuse(
                f"names a {name} of class {shown_text(found)} (implemented: "
                f"{', '.join(PARTS[name])})"
            )


def _others(named: Mapping[str, Any]) -> str:
    others = [
        f"{shown_text(name)} ({shown_text(kind)})"
        for name, kind in named.items()
        if name not in PARTS and name not in UNUSED
    ]
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    return f" and has {', '.join(others[:_SHOWN])}{more}" if others else ""


class Parts(NamedTuple):
    """The configurations of a pipeline's networks, which fit one another.

    Attributes:
        unet: Configuration of the UNet.
        vae: Configuration of the autoencoder.
        text_encoder: Configuration of the text encoder.
        image_size: (height, width), pixels, that the UNet was trained on.
    """

    unet: UNet2DConditionConfig
    vae: AutoencoderKLConfig | AutoencoderTinyConfig
    text_encoder: CLIPTextConfig
    image_size: tuple[int, int]


def check_components(
    where: str | os.PathLike[str],
    unet: ComponentConfig,
    vae: ComponentConfig,
    text_encoder: ComponentConfig,
) -> Parts:
    """Return the parts of a pipeline, or raise ValueError if they do not fit.

    Args:
        where: The pipeline's folder, for the message.
        unet: Configuration of the UNet.
        vae: Configuration of the autoencoder.
        text_encoder: Configuration of the text encoder.
    """
    for name, config, kinds in (
        ("unet", unet, UNet2DConditionConfig),
        ("vae", vae, AutoencoderKLConfig | AutoencoderTinyConfig),
        ("text_encoder", text_encoder, CLIPTextConfig),
    ):
        if not isinstance(config, kinds):
            kind = type(config).__name__.removesuffix("Config")
            raise ValueError(f"{where}: the folder {name} holds a {kind}")
    assert isinstance(unet, UNet2DConditionConfig)
    assert isinstance(vae, AutoencoderKLConfig | AutoencoderTinyConfig)
    assert isinstance(text_encoder, CLIPTextConfig)

    channels = vae.latent_channels
    if (vae.in_channels, vae.out_channels) != (3, 3):
        raise ValueError(
            f"{where}: the autoencoder takes {vae.in_channels} channels and returns "
            f"{vae.out_channels}; images have 3"
        )
    if unet.in_channels != channels:
        made_for = _EXTRA_CHANNELS.get(unet.in_channels, "") if channels == 4 else ""
        made_for = f", as UNets that take {made_for}" if made_for else ""
        raise ValueError(
            f"{where}: the UNet has {unet.in_channels} input channels (in_channels)"
            f"{made_for}; the autoencoder's latents have {channels}, which is all that "
            "a text-to-image UNet takes"
        )
    if unet.out_channels != channels:
        learned = " (a learned variance is not implemented)"
        raise ValueError(
            f"{where}: the UNet has {unet.out_channels} output channels "
            f"(out_channels), but the autoencoder's latents have {channels}"
            + (learned if unet.out_channels == 2 * channels else "")
        )
    widths = unet.context_widths - {text_encoder.hidden_size}
    if widths:
        raise ValueError(
            f"{where}: the UNet attends to text vectors of size "
            f"{', '.join(map(str, sorted(widths)))} (cross_attention_dim), but the "
            f"text encoder's have {text_encoder.hidden_size} (hidden_size)"
        )
    return Parts(unet, vae, text_encoder, _image_size(where, unet, vae))


def _image_size(
    where: str | os.PathLike[str],
    unet: UNet2DConditionConfig,
    vae: AutoencoderKLConfig | AutoencoderTinyConfig,
) -> tuple[int, int]:
    """Return (height, width) in pixels of the images that a UNet was trained on.

    Raises:
        ValueError: If no configuration states it, or if it does not fit the latents.
    """
    factor = vae.downsampling_factor
    if unet.sample_size is not None:
        height, width = (factor * each for each in _pair(where, unet.sample_size))
        return height, width
    pixels = getattr(vae, "sample_size", None)
    if pixels is None:
        raise ValueError(
            f"{where}: neither the UNet's configuration nor the autoencoder's states "
            "the size that the model was trained on (sample_size)"
        )
    height, width = _pair(where, pixels)
    if height % factor or width % factor:
        raise ValueError(
            f"{where}: the autoencoder's sample_size, {height} by {width}, is not a "
            f"multiple of {factor}, the factor between images and latents"
        )
    return height, width


def _pair(where: str | os.PathLike[str], size: Any) -> tuple[int, int]:
    pair = size if isinstance(size, tuple) else (size, size)
    if len(pair) != 2 or not all(type(each) is int and each > 0 for each in pair):
        raise ValueError(f"{where}: sample_size={size!r} is not a height and width")
    return pair


def check_dtypes(dtype: DTypeLike, param_dtype: DTypeLike, platform: str) -> None:
    """Raise ValueError for data types in which a platform cannot compute a model.

    XLA has no float16 attention for CPUs: compilation fails at the precision of the
    product (``F16_F16_F32``). A model that computes in float32 may store its parameters
    in float16.

    Args:
        dtype: Data type of the computation.
        param_dtype: Data type of the parameters.
        platform: ``"cpu"``, ``"gpu"``, ``"tpu"``, ...
    """
    known = ("float32", "bfloat16", "float16", "float64")
    for name, value in (("dtype", dtype), ("param_dtype", param_dtype)):
        if jnp.dtype(value).name not in known:
            raise ValueError(
                f"{name}={jnp.dtype(value).name} is not a data type for models; "
                f"expected one of {', '.join(known)}"
            )
        if jnp.dtype(value) != jax.dtypes.canonicalize_dtype(value):
            raise ValueError(
                f"{name}=float64 needs jax.config.update('jax_enable_x64', True)"
            )
    if np.dtype(dtype) == np.float16 and platform == "cpu":
        raise ValueError(
            "dtype=float16 is not supported on CPUs (XLA has no float16 attention "
            "there): pass dtype=jnp.float32 or dtype=jnp.bfloat16; "
            "param_dtype=jnp.float16 keeps the parameters in 16 bits"
        )

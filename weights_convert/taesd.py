"""The tiny autoencoders' original files: two safetensors and no configuration.

In the original, encoder and decoder are plain sequences of layers, and tensors are
named by their places in them: ``3.conv.0.weight`` belongs to the first convolution of
the block in place 3. diffusers adds the prefix ``encoder.layers.``; the original
decoder begins with an additional layer without weights. The configuration follows from
the names and shapes.
"""

import itertools
import os
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxinv.checks import shown
from jaxinv.models import AutoencoderTiny, AutoencoderTinyConfig
from jaxinv.models.parameters import parameters, with_parameters
from jaxinv.models.registry import abstract_component
from weights_convert.errors import WeightsError
from weights_convert.reader import StoredTensor, open_file, read_tensor, require_floats
from weights_convert.rules import from_torch, tensor_name, torch_shape

# Place of a layer in the original's decoder minus its place in diffusers'.
_DECODER_OFFSET = 1
_NAME = re.compile(r"(\d{1,3})\.(.+)")


def load_taesd(
    encoder: str | os.PathLike,
    decoder: str | os.PathLike,
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike = jnp.float32,
) -> AutoencoderTiny:
    """Load a tiny autoencoder from its published files.

    Args:
        encoder: ``taesd_encoder.safetensors``, or the file of another version (SDXL,
            Stable Diffusion 3, FLUX).
        decoder: The file of the decoder.
        dtype: Data type of the computation.
        param_dtype: Data type of the parameters.

    Returns:
        The autoencoder.

    Raises:
        WeightsError: If a file is missing, broken, or not such a network.
    """
    sides = {"encoder": Path(encoder), "decoder": Path(decoder)}
    tensors = {side: _places(side, path) for side, path in sides.items()}
    config = _config(tensors, " and ".join(map(str, sides.values())))
    module = abstract_component(config, dtype=dtype, param_dtype=param_dtype)
    assert isinstance(module, AutoencoderTiny)
    wanted = parameters(module)
    found = {
        f"{side}.layers.{place}.{rest}": tensor
        for side, all_of in tensors.items()
        for (place, rest), tensor in all_of.items()
    }
    values = {}
    for path, parameter in wanted.items():
        name = tensor_name(path, config)
        shape = torch_shape(path, parameter.shape)
        if name not in found or found[name].shape != shape:
            has = found[name].shape if name in found else "nothing"
            raise WeightsError(
                f"{sides[name.split('.')[0]]}: expected a tensor of shape {shape} for "
                f"{name}, found {has}"
            )
        side = sides[name.split(".")[0]]
        value = from_torch(path, read_tensor(side, found.pop(name)))
        values[path] = jax.device_put(value.astype(parameter.dtype, order="C"))
    if found:
        name = next(iter(found))
        raise WeightsError(
            f"{sides[name.split('.')[0]]}: tensor {shown(found[name].name)} has no "
            "place in this architecture"
        )
    return with_parameters(module, values)


_Places = Mapping[tuple[int, str], StoredTensor]


def _places(side: str, path: Path) -> _Places:
    """Return the tensors of a file by their places in diffusers' sequence of layers."""
    places = {}
    for tensor in open_file(path):
        match = _NAME.fullmatch(tensor.name)
        if not match:
            raise WeightsError(
                f"{path}: tensor {shown(tensor.name)} is not named by its place, such "
                "as '3.conv.0.weight': not a tiny autoencoder's original file"
            )
        require_floats(path, tensor)
        place = int(match[1]) - (_DECODER_OFFSET if side == "decoder" else 0)
        places[place, match[2]] = tensor
    return places


def _config(tensors: Mapping[str, _Places], files: str) -> AutoencoderTinyConfig:
    """Derive the configuration from the names and shapes of tensors."""
    encoder, decoder = tensors["encoder"], tensors["decoder"]
    stages = {side: _blocks(side, places) for side, places in tensors.items()}
    try:
        width, colors = encoder[0, "weight"].shape[:2]
        channels = decoder[0, "weight"].shape[1]
        last = max(place for place, _ in decoder)
        return AutoencoderTinyConfig(
            in_channels=colors,
            out_channels=decoder[last, "weight"].shape[0],
            encoder_block_out_channels=(width,) * len(stages["encoder"]),
            decoder_block_out_channels=(decoder[0, "weight"].shape[0],)
            * len(stages["decoder"]),
            latent_channels=channels,
            num_encoder_blocks=stages["encoder"],
            num_decoder_blocks=stages["decoder"],
            pooled_blocks=any(rest.startswith("pool.") for _, rest in encoder),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(
            f"the tensors of {files} do not form a tiny autoencoder: {error}"
        ) from error


def _blocks(side: str, places: _Places) -> tuple[int, ...]:
    """Return the number of residual blocks between the convolutions."""
    blocks = sorted({place for place, rest in places if rest.startswith("conv.")})
    plain = sorted({place for place, rest in places if rest == "weight"})
    return tuple(
        sum(a < place < b for place in blocks) for a, b in itertools.pairwise(plain)
    )

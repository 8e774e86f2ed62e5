"""Reading a model, or a part of one, from one file in the original layout.

The file's header is enough to tell the parts, to infer their configurations and to
match every tensor. The parts are then filled like those of a diffusers folder.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxinv.mesh import ShardingRule
from jaxinv.models import AutoencoderKLConfig
from jaxinv.models.registry import Component, ComponentConfig, component_config
from weights_convert.component import filled_component
from weights_convert.errors import WeightsError
from weights_convert.reader import (
    CONVERSION,
    StoredTensor,
    open_file,
    read_tensor,
    refuse_pickle,
    require_floats,
)
from weights_convert.rules import canonical_name, tensor_shapes
from weights_convert.single_file import infer, layout, names
from weights_convert.single_file.schedulers import scheduler_config

# The classes of parts that files in the original layout hold.
_CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
}


class SingleFile(NamedTuple):
    """A file in the original layout, of which only the header has been read.

    Attributes:
        path: The file.
        configs: Configurations of its parts, by their names in a diffusers folder.
        tensors: The tensors of each part, with their names in diffusers.
        scheduler: Configuration of the scheduler that diffusers uses with such a file.
    """

    path: Path
    configs: Mapping[str, ComponentConfig]
    tensors: Mapping[str, list[StoredTensor]]
    scheduler: dict[str, Any]

    def load(
        self,
        part: str,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        sharding: ShardingRule | None = None,
    ) -> Component:
        """Load a part.

        Args:
            part: Its name in a diffusers folder, such as ``"unet"``.
            dtype: See :func:`weights_convert.load_component`.
            param_dtype: See :func:`weights_convert.load_component`.
            sharding: See :func:`weights_convert.load_component`.

        Returns:
            The model.

        Raises:
            WeightsError: If the file has no such part, or its weights are damaged.
        """
        if part not in self.configs:
            raise WeightsError(
                f"{self.path} has no {part} (it has {', '.join(self.configs)})"
            )
        return filled_component(
            self.path,
            self.configs[part],
            self.tensors[part],
            dtype=dtype,
            param_dtype=param_dtype,
            sharding=sharding,
        )


def open_single_file(
    path: Path,
    configs: Mapping[str, ComponentConfig] | None = None,
    *,
    like: ComponentConfig | None = None,
) -> SingleFile:
    """Open a file in the original layout of Stable Diffusion 1, 2 or XL.

    Args:
        path: A safetensors file that holds a whole model, or one part of one.
        configs: Configurations of parts that shall not be inferred, by name.
        like: Configuration of a UNet whose generation an autoencoder has that is alone
            in its file; None for Stable Diffusion 1, as in diffusers.

    Returns:
        The file, whose parts have all of their tensors.

    Raises:
        WeightsError: If the file is a pickle, broken, or another kind of model; if a
            tensor is missing, has the wrong shape, or is not known.
    """
    refuse_pickle(path, f"{CONVERSION} model.ckpt model.safetensors")
    return from_tensors(path, open_file(path), configs or {}, like)


def from_tensors(
    path: Path,
    stored: list[StoredTensor],
    configs: Mapping[str, ComponentConfig],
    like: ComponentConfig | None = None,
) -> SingleFile:
    """Return the model that a file's tensors form; see :func:`open_single_file`."""
    parts = layout.parts(path, stored)
    for name, given in configs.items():
        if given.class_name != _CLASSES.get(name):
            raise WeightsError(
                f"{path}: the configuration for the {name} is that of a "
                f"{given.class_name}, but such files hold a {_CLASSES.get(name)}"
            )
    shapes = {
        name: {key: tensor.shape for key, tensor in part.tensors.items()}
        for name, part in parts.items()
    }
    latents = _latents(path, stored)
    generation = infer.PLAYGROUND if latents else _generation(parts, shapes, like)
    found: dict[str, ComponentConfig] = {}
    tensors: dict[str, list[StoredTensor]] = {}
    for name, part in parts.items():
        config = configs.get(name)
        if config is None:
            config = _inferred(
                path, name, part.place, shapes[name], generation, latents
            )
        found[name] = config
        tensors[name] = _renamed(path, part, found[name])
    return SingleFile(path, found, tensors, scheduler_config(generation, stored))


def _latents(path: Path, stored: list[StoredTensor]) -> dict[str, Any]:
    """Return the mean and the deviation of latents, which Playground's files have."""
    tensors = {tensor.name: tensor for tensor in stored}
    options = {"latents_mean": "edm_mean", "latents_std": "edm_std"}
    if not tensors.keys() >= set(options.values()):
        return {}
    found = {}
    for option, name in options.items():
        require_floats(path, tensors[name])
        value = read_tensor(path, tensors[name]).reshape(-1).astype(float)
        found[option] = tuple(value.tolist())
    return found


def _generation(
    parts: Mapping[str, layout.Part],
    shapes: Mapping[str, infer.Shapes],
    like: ComponentConfig | None,
) -> infer.Generation:
    """Return the generation of a model, or the one that diffusers assumes of a part."""
    if "text_encoder_2" in parts:
        return infer.SDXL
    text = parts.get("text_encoder")
    if text is not None and text.place.layout == "original":
        return infer.SD2
    if like is not None and getattr(like, "addition_embed_type", None) is not None:
        return infer.SDXL
    return infer.unet_generation(shapes.get("unet", {}))


def _inferred(
    path: Path,
    part: str,
    place: layout.Place,
    shapes: infer.Shapes,
    generation: infer.Generation,
    latents: Mapping[str, Any],
) -> ComponentConfig:
    try:
        if part == "unet" and place.layout == "original":
            config = infer.unet_config(shapes, generation)
        elif part == "vae" and place.layout == "original":
            config = infer.autoencoder_config(shapes, generation, latents)
        elif part == "text_encoder" and place.layout == "diffusers":
            config = infer.clip_config(shapes)
        elif part.startswith("text_encoder"):
            config = infer.open_clip_config(shapes, projected=part.endswith("_2"))
        else:
            raise WeightsError(
                f"{path}: the {part} has diffusers' names, and its configuration is "
                "not known: put the file in a folder with its config.json"
            )
        return component_config(config)
    except KeyError as error:
        raise WeightsError(
            f"{path}: the {part} is incomplete: no tensor {place.prefix}{error.args[0]}"
        ) from None
    except (ValueError, IndexError) as error:
        raise WeightsError(
            f"{path}: the shapes of the {part}'s tensors do not describe a model that "
            f"is implemented: {error}"
        ) from None


def _renamed(
    path: Path, part: layout.Part, config: ComponentConfig
) -> list[StoredTensor]:
    """Return a part's tensors under the names that diffusers gives them."""
    shapes = tensor_shapes(config)
    if part.place.layout == "diffusers":
        current = [(canonical_name(name, config), name) for name in part.tensors]
        return [
            part.tensors[name]._replace(name=key, original=part.tensors[name].name)
            for key, name in current
            if key in shapes or (key is not None and not layout.is_unused(name))
        ]
    renamed, used = [], set()
    for name, shape in shapes.items():
        try:
            source = names.original(name, config)
        except KeyError:
            raise WeightsError(
                f"{path}: with the given configuration, the {part.place.part} has a "
                f"tensor {name}, which the original layout does not have"
            ) from None
        if source.name not in part.tensors:
            raise WeightsError(
                f"{path}: tensor {part.place.prefix + source.name!r} is missing, which "
                f"is {name} of shape {shape} in diffusers"
            )
        used.add(source.name)
        renamed.append(_view(name, shape, part.tensors[source.name], source, config))
    for name, tensor in part.tensors.items():
        if name not in used and not layout.is_unused(name):
            raise WeightsError(
                f"{path}: tensor {tensor.shown} of shape {tensor.shape} has no place "
                f"in the {part.place.part}"
            )
    return renamed


def _view(
    name: str,
    shape: tuple[int, ...],
    tensor: StoredTensor,
    source: names.Original,
    config: ComponentConfig,
) -> StoredTensor:
    """Return a tensor, or a third of one, in diffusers' layout."""
    stored = tensor.shape
    if source.third is not None and stored[:1] == (3 * shape[0],):
        stored = (shape[0], *stored[1:])
    if source.transposed:
        stored = stored[::-1]
    if isinstance(config, AutoencoderKLConfig) and len(shape) == 2:
        # Attention projections were convolutions of size 1.
        while len(stored) > 2 and stored[-1] == 1:
            stored = stored[:-1]
    read = functools.partial(_read_view, tensor, source, stored)
    return StoredTensor(name, stored, tensor.dtype, read, tensor.name)


def _read_view(
    tensor: StoredTensor, source: names.Original, shape: tuple[int, ...]
) -> np.ndarray:
    value = tensor.read()
    if source.third is not None:
        value = value[source.third * shape[0] : (source.third + 1) * shape[0]]
    if source.transposed:
        value = value.T
    return value.reshape(shape)

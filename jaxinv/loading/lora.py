"""LoRA files, added to the parameters of a pipeline and taken out again.

The files are read by :mod:`weights_convert.lora`, where the formula is. A pipeline
records what was added to it in ``lora``, because results depend on it.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import weights_convert
from jaxinv.checks import checked
from jaxinv.files.digests import file_digests
from jaxinv.models import ControlledUNet
from jaxinv.models.registry import abstract_component
from jaxinv.pipeline import Pipeline
from jaxinv.pipeline.families import Family
from jaxinv.pipeline.pipeline import MergedLora

# A sum of scales such as 0.1 + 0.2 - 0.3 is zero to rounding.
_TAKEN_OUT = 1e-9
#: LoRA files, each with its scale.
LoraFiles: TypeAlias = Sequence[tuple[str | os.PathLike[str], float]]


@checked
def merge_lora(pipe: Pipeline, files: LoraFiles) -> Pipeline:
    """Add LoRA files to the parameters of a model's network and text encoders.

    The model that is passed stays as it is. To take a LoRA out of a merged model whose
    original is gone, merge it again with the negative scale: this restores the
    parameters to rounding.

    Args:
        pipe: The model.
        files: Safetensors files as PEFT, diffusers and Kohya write them, each with its
            scale; 1 is that of training.

    Returns:
        The model with other parameters of the same types, which share the unchanged
        ones. Its ``lora`` lists the files, their digests and their scales.

    Raises:
        ValueError: If a file is missing, broken or a pickle; if one of its tensors has
            no place in the model or another shape; if it holds another kind of change,
            such as DoRA; or if a scale is not finite. Nothing is computed in these
            cases.

    Example:
        ::

            styled = ji.merge_lora(pipe, [("style.safetensors", 0.8)])
            plain = ji.merge_lora(styled, [("style.safetensors", -0.8)])
    """
    return merge_into(pipe, files, {})


def merge_into(pipe: Pipeline, files: LoraFiles, absent: Mapping[str, Any]) -> Pipeline:
    """Add LoRA files to a model, some of whose parts may not be loaded.

    Args:
        pipe: The model.
        files: See :func:`merge_lora`.
        absent: Abstract modules by part. Changes of parts that are not loaded have no
            effect.
    """
    part, network = pipe.family.network_part, pipe.network
    controlled = isinstance(network, ControlledUNet)
    present = {
        part: network.unet if controlled else network,
        **pipe.present_text_encoders,
    }
    modules = weights_convert.merge_lora({**absent, **present}, files)
    modules = {part: modules[part] for part in present}
    network = modules[part]
    if controlled:
        network = ControlledUNet(network, pipe.network.controlnets)
    return dataclasses.replace(
        pipe,
        network=network,
        text_encoders=tuple(modules.get(part) for part in pipe.family.text_encoders),
        lora=merged(pipe.lora, files),
    )


def changeable(family: Family, configs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parts of a model that LoRA files can change, abstract.

    Args:
        family: The model's family.
        configs: The configuration of each part that has weights.
    """
    modules = {part: abstract_component(configs[part]) for part in configs}
    network = family.network(modules)
    if isinstance(network, ControlledUNet):
        network = network.unet
    encoders = {name: modules[name] for name in family.text_encoders if name in modules}
    return {family.network_part: network, **encoders}


def merged(before: Sequence[MergedLora], files: LoraFiles) -> tuple[MergedLora, ...]:
    """Return what has been merged in total, without what was taken out again."""
    paths = [Path(file) for file, _ in files]
    totals = {(each.sha256, each.file): each.scale for each in before}
    names = {each.sha256: each.file for each in before}
    for path, (_, scale), digest in zip(paths, files, file_digests(paths), strict=True):
        key = digest, names.setdefault(digest, path.name)
        totals[key] = totals.get(key, 0.0) + scale
    return tuple(
        MergedLora(file, digest, total)
        for (digest, file), total in totals.items()
        if abs(total) > _TAKEN_OUT
    )

"""Models that are folders: diffusers' layout, or what ``jaxinv convert`` wrote.

``model_index.json`` names the parts, and each part has its own folder. The weights are
either diffusers' safetensors, converted while reading, or Orbax checkpoints.
"""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import weights_convert
from jaxinv.files.folders import (
    check_inside,
    check_regular,
    files_below,
    model_root,
    part_folder,
)
from jaxinv.loading import checkpoint
from jaxinv.loading.source import Parts, Source, as_named
from jaxinv.loading.tokenizers import (
    TOKENIZER_FILES,
    load_tokenizer,
)
from jaxinv.pipeline.families import read_index
from weights_convert.reader import (
    has_variant,
    read_config,
    read_json,
    weight_files,
)


def model_name(given: str, folder: Path) -> str:
    """Return the name of a model, for reports; that on the hub for what is cached."""
    if not Path(given).expanduser().exists():
        return given
    if folder.is_file():
        return folder.name
    real = folder.resolve()
    repository = real.parent.parent.name
    if real.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return real.name


def read_parts(folder: Path, name: str = "") -> Parts:
    """Read and check the configurations of a model's networks.

    Args:
        folder: A folder in diffusers' layout, or written by ``jaxinv convert``.
        name: Name of the model. That of an InstaFlow makes it one, with a warning: its
            folder may say Stable Diffusion.

    Returns:
        The configurations, which fit each other.

    Raises:
        ValueError: If a part is missing, not implemented, or does not fit.
    """
    root = model_root(folder)
    index = read_index(folder / "model_index.json", model_index(folder))
    index = as_named(index, name)
    for part in index.classes:
        check_inside(folder / part, root)
        if not part_folder(folder, part).is_dir():
            raise ValueError(f"{folder} is incomplete: the folder {part} is missing")
    configs = {part: read_config(part_folder(folder, part)) for part in index.networks}
    return Parts(index, configs, index.family.check(folder, configs))


def folder_source(folder: Path, variant: str | None, name: str = "") -> Source:
    """Return the model of a folder.

    Args:
        folder: See :func:`read_parts`.
        variant: See :func:`jaxinv.load`.
        name: See :func:`read_parts`.

    Raises:
        ValueError: If :func:`read_parts` raises it, or there is no such variant.
    """
    parts = read_parts(folder, name)
    path = part_folder(folder, "scheduler") / "scheduler_config.json"
    root = model_root(folder)
    read = _reader(folder, variant, parts.index.networks)
    return Source(
        place=folder,
        parts=parts,
        scheduler=read_json(path),
        scheduler_file=path,
        tokenizer=lambda part: load_tokenizer(
            folder / part, root, parts.index.classes[part]
        ),
        read=lambda part, **options: read(part_folder(folder, part), **options),
    )


def model_index(folder: Path) -> dict[str, Any]:
    """Return the content of a model's ``model_index.json``.

    A folder with the network and the scheduler of ``google/ddpm-*`` in it does not need
    one.

    Raises:
        ValueError: If there is none, or it cannot be read.
    """
    path = folder / "model_index.json"
    if path.exists():
        return read_json(path)
    unet, scheduler = (part_folder(folder, part) for part in ("unet", "scheduler"))
    if unet != folder or scheduler != folder:
        hint = ""
        if any(folder.glob("lavie_base.*")):
            hint = "; jaxinv.loading.lavie.lavie_folder makes a model of LaVie's files"
        raise ValueError(f"{folder} is not a model: it has no model_index.json{hint}")
    named = read_json(folder / "config.json").get("_class_name")
    return {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", named],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }


def loaded_files(
    folder: Path, variant: str | None = None, *, text_encoders: bool = True
) -> dict[str, Path]:
    """Return all files that :func:`jaxinv.load` reads, by their names in the folder.

    Links to files (the hub's cache) and to folders are followed if they stay in the
    model's folder (:mod:`jaxinv.files.folders`).

    Args:
        folder: A folder in diffusers' layout, or written by ``jaxinv convert``; or a
            single file.
        variant: The variant of the weights.
        text_encoders: Whether the text encoders are loaded, with their tokenizers.

    Returns:
        The files, sorted by name.

    Raises:
        ValueError: If a part has no weights, or a link leads out of the folder.
    """
    if folder.is_file():
        return {"model.safetensors": folder}
    root, path = model_root(folder), folder / "model_index.json"
    index = read_index(path, model_index(folder))
    found = [path, part_folder(folder, "scheduler") / "scheduler_config.json"]
    encoders = index.family.text_encoders
    tokenizers = encoders.values() if text_encoders else ()
    for tokenizer in (part for part in tokenizers if part in index.classes):
        found += [folder / tokenizer / name for name in TOKENIZER_FILES]
        found += (folder / tokenizer).glob("tokenizer.*.json")  # for later versions
    if checkpoint.is_checkpoint(folder):
        found.append(folder / checkpoint.MARKER)
    for part in index.networks:
        check_inside(folder / part, root)
        if not part_folder(folder, part).is_dir():
            continue
        if part in encoders and not text_encoders:
            continue
        found.append(part_folder(folder, part) / "config.json")
        if not checkpoint.is_checkpoint(folder):
            found += weight_files(part_folder(folder, part), variant)
            continue
        found.append(folder / part / checkpoint.DIGESTS)
        found += files_below(folder / part / "params", root)
    found = [path for path in sorted(found) if os.path.lexists(path)]
    for path in found:
        check_regular(path, root)
    return {path.relative_to(folder).as_posix(): path for path in found}


def _reader(
    folder: Path, variant: str | None, networks: Sequence[str]
) -> Callable[..., Any]:
    """Return the function that reads components in the folder's format."""
    if checkpoint.is_checkpoint(folder):
        checkpoint.check_marker(folder)
        if variant is not None:
            raise ValueError(
                f"{folder} was written by jaxinv convert and has no variants; got "
                f"variant={variant!r}"
            )
        return checkpoint.load_component

    if variant is not None and not any(
        has_variant(part_folder(folder, part), variant) for part in networks
    ):
        raise ValueError(
            f"no part of {folder} has weights of variant={variant!r} "
            f"(*.{variant}.safetensors)"
        )
    return functools.partial(weights_convert.load_component, variant=variant)

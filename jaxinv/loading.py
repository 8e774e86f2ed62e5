"""Loading a model from its folder: checks first, then weights."""

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh, Sharding

from jaxinv.models.registry import ComponentConfig, component_config
from jaxinv.models.supported import (
    PARTS,
    check_components,
    check_dtypes,
    check_index,
    image_size,
)
from jaxinv.pipeline import LatentDiffusion
from jaxinv.schedule import NoiseSchedule
from jaxinv.schedule_from_diffusers import schedule_from_diffusers
from jaxinv.sharding import ShardingRule

NETWORKS = ("unet", "vae", "text_encoder")
_VOCABULARY = ("vocab.json", "merges.txt")
_TOKENIZER_FILES = (
    *_VOCABULARY, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja",
)  # fmt: skip


def load_folder(
    folder: Path,
    name: str,
    dtype: jnp.dtype,
    param_dtype: jnp.dtype,
    schedule: NoiseSchedule | None,
    sharding: ShardingRule | None,
    variant: str | None = None,
) -> LatentDiffusion:
    """Load a model; see :func:`jaxinv.load`.

    Args:
        folder: In diffusers' layout, or written by ``jaxinv convert``.
        name: What the model is called.
        dtype: Data type of the computation.
        param_dtype: Data type of the parameters.
        schedule: The model's schedule; as its scheduler says if None.
        sharding: Where the parameters go.
        variant: Which weights to read.

    Returns:
        The model.

    Raises:
        ValueError: If it cannot work, with the reason. Only damaged weights are found
            after the configurations were checked.
    """
    check_dtypes(dtype, param_dtype, _platform(sharding))
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"{folder} is not a model: it has no model_index.json")
    check_index(index, _parse(index))
    for part in PARTS:
        if not (folder / part).is_dir():
            raise ValueError(f"{folder} is incomplete: the folder {part} is missing")
    unet, vae, text_encoder = configs = [_config(folder / part) for part in NETWORKS]
    check_components(folder, *configs)
    if schedule is None:
        schedule = schedule_from_diffusers(_read_json(folder / "scheduler"))
    load_component = functools.partial(_loader(folder, variant), sharding=sharding)
    tokenizer = _load_tokenizer(folder / "tokenizer")
    vocabulary = text_encoder.vocab_size  # type: ignore[union-attr]
    if len(tokenizer) > vocabulary:
        raise ValueError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, but the text "
            f"encoder only {vocabulary} (vocab_size)"
        )
    wide = dtype == jnp.float16 and getattr(vae, "force_upcast", False)
    full = jnp.dtype(jnp.float32)
    modules = {
        part: load_component(
            folder / part,
            dtype=full if wide and part == "vae" else dtype,
            param_dtype=full if wide and part == "vae" else param_dtype,
        )
        for part in NETWORKS
    }
    return LatentDiffusion(
        **modules,
        tokenizer=tokenizer,
        schedule=schedule,
        image_size=image_size(folder, unet, vae),  # type: ignore[arg-type]
        name=name,
    )


def loaded_files(folder: Path, variant: str | None = None) -> dict[str, Path]:
    """Return all files that :func:`load_folder` reads, by their names in the folder.

    Links are followed, to files (the hub's cache) and to folders.

    Args:
        folder: In diffusers' layout, or written by ``jaxinv convert``.
        variant: Which weights are read.

    Returns:
        The files, in the order of their names.

    Raises:
        ValueError: If a part has no weights.
    """
    from jaxinv import checkpoint
    from weights_convert.reader import weight_files

    found = [folder / "model_index.json", folder / "scheduler/scheduler_config.json"]
    found += [folder / "tokenizer" / name for name in _TOKENIZER_FILES]
    found += (folder / "tokenizer").glob("tokenizer.*.json")  # for later versions
    if checkpoint.is_checkpoint(folder):
        found.append(folder / checkpoint.MARKER)
    for part in NETWORKS:
        if not (folder / part).is_dir():
            continue
        found.append(folder / part / "config.json")
        if not checkpoint.is_checkpoint(folder):
            found += weight_files(folder / part, variant)
            continue
        for parent, _, names in os.walk(folder / part / "params", followlinks=True):
            found += [Path(parent, name) for name in names]
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(found)
        if path.is_file()
    }


def _platform(sharding: ShardingRule | None) -> str:
    """Return the kind of the devices that a model will run on."""
    device: Any
    if isinstance(sharding, Mesh):
        device = sharding.devices.flat[0]
        return device.platform
    if isinstance(sharding, Sharding):
        device = next(iter(sharding.device_set))
        return device.platform
    return next(iter(jnp.zeros(()).devices())).platform


def _config(folder: Path) -> ComponentConfig:
    try:
        return component_config(_read_json(folder))
    except (ValueError, TypeError) as error:
        text = str(error)
        where = "" if str(folder) in text else f"{folder / 'config.json'}: "
        raise ValueError(f"{where}{text}") from None


def _read_json(folder: Path) -> dict[str, Any]:
    name = "scheduler_config.json" if folder.name == "scheduler" else "config.json"
    if not (folder / name).is_file():
        raise ValueError(f"{folder} is incomplete: {name} is missing")
    return _parse(folder / name)


def _parse(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return value


def _load_tokenizer(folder: Path) -> Any:
    missing = [name for name in _VOCABULARY if not (folder / name).is_file()]
    if missing and not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} is incomplete: {', '.join(missing)} missing")
    return _tokenizer_class().from_pretrained(folder, local_files_only=True)


def _tokenizer_class() -> Any:
    # transformers advises on import that PyTorch was not found: here, it is not needed.
    variable = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    before = os.environ.get(variable)
    os.environ[variable] = "1"
    try:
        from transformers import CLIPTokenizer
    finally:
        if before is None:
            del os.environ[variable]
        else:
            os.environ[variable] = before
    return CLIPTokenizer


def _loader(folder: Path, variant: str | None) -> Callable[..., Any]:
    """Return what reads a component, in the format that the folder has."""
    from jaxinv import checkpoint

    if checkpoint.is_checkpoint(folder):
        if variant is not None:
            raise ValueError(
                f"{folder} was written by jaxinv convert and has no variants; got "
                f"variant={variant!r}"
            )
        return checkpoint.load_component

    import weights_convert
    from weights_convert.reader import has_variant

    if variant is not None and not any(
        has_variant(folder / part, variant) for part in NETWORKS
    ):
        raise ValueError(
            f"no part of {folder} has weights of variant={variant!r} "
            f"(*.{variant}.safetensors)"
        )
    return functools.partial(weights_convert.load_component, variant=variant)

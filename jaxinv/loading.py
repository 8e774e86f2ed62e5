"""Loading a model from its folder: checks first, then weights."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
from jax.sharding import Mesh, Sharding

from jaxinv.checks import Range
from jaxinv.diffusion.diffusers_schedule import schedule_from_diffusers
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.files.folders import (
    check_inside,
    check_regular,
    files_below,
    model_root,
)
from jaxinv.files.json_fields import check_field, naming, read_json
from jaxinv.mesh import ShardingRule
from jaxinv.models.registry import ComponentConfig, component_config
from jaxinv.models.supported import (
    PARTS,
    check_components,
    check_dtypes,
    check_index,
    image_size,
)
from jaxinv.pipeline import LatentDiffusion

NETWORKS = ("unet", "vae", "text_encoder")
_VOCABULARY = ("vocab.json", "merges.txt")
_TOKENIZER_BYTES = 16 * 2**20  # of one of its files
# transformers writes 1e30 where there is no limit.
_MaxLength = (
    Annotated[int, Range(1, 10**31)] | Annotated[float, Range(1e20, 1e31)] | None
)
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
    index, root = folder / "model_index.json", model_root(folder)
    if not index.exists():
        raise ValueError(f"{folder} is not a model: it has no model_index.json")
    check_index(index, read_json(index, root=root))
    for part in PARTS:
        check_inside(folder / part, root)
        if not (folder / part).is_dir():
            raise ValueError(f"{folder} is incomplete: the folder {part} is missing")
    unet, vae, text_encoder = configs = [
        _config(folder / part, root) for part in NETWORKS
    ]
    check_components(folder, *configs)
    if schedule is None:
        path = _part_config(folder / "scheduler")
        with naming(path):
            schedule = schedule_from_diffusers(read_json(path, root=root))
    load_component = functools.partial(_loader(folder, variant), sharding=sharding)
    tokenizer = _load_tokenizer(folder / "tokenizer", root)
    vocabulary = text_encoder.vocab_size  # type: ignore[union-attr]
    if len(tokenizer) > vocabulary:
        raise ValueError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens, but the text "
            f"encoder only {vocabulary} (vocab_size)"
        )
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= vocabulary:
        raise ValueError(
            f"{folder}: the tokenizer has the token id {largest}, but the text encoder "
            f"only {vocabulary} tokens (vocab_size)"
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

    Links are followed, to files (the hub's cache) and to folders, as far as they stay
    in the model's folder (:mod:`jaxinv.files.folders`).

    Args:
        folder: In diffusers' layout, or written by ``jaxinv convert``.
        variant: Which weights are read.

    Returns:
        The files, in the order of their names.

    Raises:
        ValueError: If a part has no weights, or a link leads out of the folder.
    """
    from jaxinv import checkpoint
    from weights_convert.reader import weight_files

    root = model_root(folder)
    found = [folder / "model_index.json", folder / "scheduler/scheduler_config.json"]
    found += [folder / "tokenizer" / name for name in _TOKENIZER_FILES]
    found += (folder / "tokenizer").glob("tokenizer.*.json")  # for later versions
    if checkpoint.is_checkpoint(folder):
        found.append(folder / checkpoint.MARKER)
    for part in NETWORKS:
        check_inside(folder / part, root)
        if not (folder / part).is_dir():
            continue
        found.append(folder / part / "config.json")
        if not checkpoint.is_checkpoint(folder):
            found += weight_files(folder / part, variant)
            continue
        found.append(folder / part / checkpoint.DIGESTS)
        found += files_below(folder / part / "params", root)
    found = [path for path in sorted(found) if os.path.lexists(path)]
    for path in found:
        check_regular(path, root)
    return {path.relative_to(folder).as_posix(): path for path in found}


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


def _config(folder: Path, root: Path) -> ComponentConfig:
    path = _part_config(folder)
    with naming(path):
        return component_config(read_json(path, root=root))


def _part_config(folder: Path) -> Path:
    name = "scheduler_config.json" if folder.name == "scheduler" else "config.json"
    if not (folder / name).exists():
        raise ValueError(f"{folder} is incomplete: {name} is missing")
    return folder / name


def _load_tokenizer(folder: Path, root: Path) -> Any:
    missing = [name for name in _VOCABULARY if not (folder / name).is_file()]
    if missing and not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} is incomplete: {', '.join(missing)} missing")
    for path in files_below(folder, root):
        if path.suffix == ".json":
            options = read_json(path, root=root, max_bytes=_TOKENIZER_BYTES)
            if path.name == "tokenizer_config.json":
                with naming(path):
                    key = "model_max_length"
                    check_field(key, options.get(key), _MaxLength)
    try:
        tokenizer = _tokenizer_class().from_pretrained(folder, local_files_only=True)
        tokenizer("a")
        return tokenizer
    except Exception as error:  # transformers' and its Rust parser's have no base class
        raise ValueError(
            f"{folder} holds no readable tokenizer ({type(error).__name__}: "
            f"{' '.join(str(error).split())})"
        ) from None


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
        checkpoint.check_marker(folder)
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

"""Finding a model by name and loading it: embedded, a folder, or the Hugging Face hub.

A model is a folder in diffusers' layout: ``model_index.json`` names the parts, and each
part has a folder of its own (``unet``, ``vae``, ``text_encoder``, ``tokenizer``,
``scheduler``). The weights in it are either diffusers' own safetensors, converted while
reading, or an Orbax checkpoint that ``jaxinv convert`` wrote. Nothing here needs
PyTorch, and only hub names need a network, the first time.
"""

import dataclasses
import functools
import importlib.resources
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxinv.models.attention import Implementation
from jaxinv.models.options import check_options, with_options
from jaxinv.models.remat import Remat
from jaxinv.pipeline import LatentDiffusion
from jaxinv.schedule import NoiseSchedule
from jaxinv.schedule_from_diffusers import schedule_from_diffusers
from jaxinv.sharding import ShardingRule

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def load(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike | None = None,
    revision: str | None = None,
    schedule: NoiseSchedule | None = None,
    attention: Implementation = None,
    remat: Remat = "none",
    sharding: ShardingRule | None = None,
) -> LatentDiffusion:
    """Loads a text-to-image latent diffusion model.

    Args:
        name_or_path: ``"emoji64"``, the model inside this package; a folder in
            diffusers' layout; a folder that ``jaxinv convert`` wrote; or a name on the
            Hugging Face hub such as ``"stabilityai/stable-diffusion-2-1"``, which is
            downloaded once and then read from the cache. Embedded names win over
            folders, folders over the hub.
        dtype: Data type that the networks compute in. States between them, and so the
            solvers, stay in float32. float16 overflows in most autoencoders: those
            that say so (``force_upcast``) compute in float32 then.
        param_dtype: Data type of the parameters in memory; ``dtype`` if None.
        revision: Branch, tag or commit on the hub.
        schedule: The schedule that the model was trained with, for folders whose
            scheduler does not say it: InstaFlow's names a diffusion sampler, and is
            ``flow_matching(prediction_type="rectified_flow")``.
        attention: Who computes attention: ``"xla"``, ``"cudnn"`` (NVIDIA GPUs, 16
            bits) or None for JAX's own choice; see
            :func:`jaxinv.models.with_options`.
        remat: What reverse-mode derivatives keep of each block: ``"none"`` computes
            nothing twice, ``"dots"`` norms and attention, ``"blocks"`` everything.
        sharding: Where the parameters go, usually a mesh from
            :func:`jaxinv.sharding.make_mesh`: each array's largest divisible dimension
            over its axis ``model``. The first local device if None. Checkpoints of
            ``jaxinv convert`` are read straight into the parts; of diffusers' folders,
            one tensor at a time is whole on the host.

    Returns:
        The model.

    Raises:
        ValueError: If the folder holds no model, or one that is not implemented, or
            damaged weights; or if an option is unknown or cannot be had here.
        FileNotFoundError: If there is no such model anywhere; says what was tried.

    Example:
        >>> import jaxinv as ji
        >>> pipe = ji.load("emoji64")
        >>> pipe.image_size, pipe.latent_shape
        ((64, 64), (16, 16, 4))
    """
    check_options(attention, remat, dtype)
    folder = find_model(name_or_path, revision=revision)
    given = os.fspath(name_or_path)
    name = folder.resolve().name if Path(given).expanduser().is_dir() else given
    kinds = jnp.dtype(dtype), jnp.dtype(param_dtype or dtype)
    pipe = _load_folder(folder, name, *kinds, schedule, sharding)
    return dataclasses.replace(
        pipe,
        unet=with_options(pipe.unet, attention=attention, remat=remat),
        text_encoder=with_options(pipe.text_encoder, attention=attention, remat=remat),
        # cuDNN's heads are smaller than the autoencoder's one.
        vae=with_options(
            pipe.vae,
            attention=None if attention == "cudnn" else attention,
            remat=remat,
        ),
    )


def embedded_models() -> tuple[str, ...]:
    """Returns the names of the models inside this package."""
    zoo = _zoo()
    if not zoo.is_dir():
        return ()
    return tuple(
        sorted(p.name for p in zoo.iterdir() if (p / "model_index.json").is_file())
    )


def _zoo() -> Path:
    return Path(str(importlib.resources.files("jaxinv"))) / "zoo"


def find_model(
    name_or_path: str | os.PathLike[str], *, revision: str | None = None
) -> Path:
    """Finds a model's folder as :func:`load` does, downloading it if need be.

    Args:
        name_or_path: As for :func:`load`.
        revision: Branch, tag or commit on the hub.

    Returns:
        The folder.

    Raises:
        ValueError: If there is a file of that name.
        FileNotFoundError: If there is no such model anywhere; says what was tried.
    """
    name = os.fspath(name_or_path)
    embedded = embedded_models()
    if name in embedded:
        return _zoo() / name
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(
            f"{name} is a file; a model is a folder with a model_index.json "
            "(single-file checkpoints must be saved as a folder with diffusers first)"
        )
    tried = [f"an embedded model ({', '.join(embedded) or 'none'})", f"a folder {path}"]
    if not _HUB_NAME.fullmatch(name):
        raise FileNotFoundError(
            f"no model {name!r}: tried {' and '.join(tried)}; it is not a hub name "
            "(owner/name) either"
        )
    try:
        return _download(name, revision)
    except (OSError, ValueError) as error:
        # All of the hub's errors are one of the two; their texts run over many lines.
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise FileNotFoundError(
            f"no model {name!r}: tried {', '.join(tried)}, and the Hugging Face hub "
            f"and its local cache ({reason[0]})"
        ) from error


def _download(name: str, revision: str | None) -> Path:
    """Fetches the parts of a model that are needed, or finds them in the cache."""
    import huggingface_hub

    from weights_convert.pipeline import wanted_files

    try:
        files = huggingface_hub.HfApi().list_repo_files(name, revision=revision)
    except (OSError, ValueError) as error:
        try:
            folder = huggingface_hub.snapshot_download(
                name, revision=revision, local_files_only=True
            )
        except (OSError, ValueError):
            raise error from None
    else:
        folder = huggingface_hub.snapshot_download(
            name, revision=revision, allow_patterns=wanted_files(files)
        )
    return Path(folder)


def _load_folder(
    folder: Path,
    name: str,
    dtype: jnp.dtype,
    param_dtype: jnp.dtype,
    schedule: NoiseSchedule | None,
    sharding: ShardingRule | None,
) -> LatentDiffusion:
    _check_index(folder)
    if schedule is None:
        schedule = schedule_from_diffusers(_read_json(folder / "scheduler"))
    tokenizer = _load_tokenizer(folder / "tokenizer")
    load_component = functools.partial(_component_loader(folder), sharding=sharding)
    unet = load_component(folder / "unet", dtype=dtype, param_dtype=param_dtype)
    text_encoder = load_component(
        folder / "text_encoder", dtype=dtype, param_dtype=param_dtype
    )
    if dtype == jnp.float16 and _read_json(folder / "vae").get("force_upcast", True):
        dtype = param_dtype = jnp.dtype(jnp.float32)
    vae = load_component(folder / "vae", dtype=dtype, param_dtype=param_dtype)
    return LatentDiffusion(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        schedule=schedule,
        image_size=_image_size(unet, vae),
        name=name,
    )


def _check_index(folder: Path) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"{folder} is not a model: it has no model_index.json")
    parts = _parse(index)
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        if not parts.get(part):
            raise ValueError(
                f"{index} names no {part}; only text-to-image latent diffusion models "
                f"with a UNet are implemented, and this is a "
                f"{parts.get('_class_name', 'pipeline of unknown class')}"
            )
        if not (folder / part).is_dir():
            raise ValueError(f"{folder} is incomplete: the folder {part} is missing")


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
    missing = [n for n in ("vocab.json", "merges.txt") if not (folder / n).is_file()]
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


def _component_loader(folder: Path) -> Callable[..., Any]:
    from jaxinv import checkpoint

    if checkpoint.is_checkpoint(folder):
        return checkpoint.load_component

    import weights_convert

    return weights_convert.load_component


def _image_size(unet: Any, vae: Any) -> tuple[int, int]:
    """Pixels of the images that the UNet was trained on, from the configurations."""
    factor = vae.config.downsampling_factor
    latent = unet.config.sample_size
    if latent is None:
        pixels = vae.config.sample_size
        return tuple(pixels) if isinstance(pixels, tuple) else (pixels, pixels)
    height, width = latent if isinstance(latent, tuple) else (latent, latent)
    return height * factor, width * factor

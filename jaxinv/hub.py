"""Finding a model by name and loading it: embedded, a folder, or the Hugging Face hub.

A model is a folder in diffusers' layout: ``model_index.json`` names the parts, and each
part has a folder of its own (``unet``, ``vae``, ``text_encoder``, ``tokenizer``,
``scheduler``). The weights in it are either diffusers' own safetensors, converted while
reading, or an Orbax checkpoint that ``jaxinv convert`` wrote. Nothing here needs
PyTorch, and only hub names need a network, the first time.
"""

import dataclasses
import importlib.resources
import os
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxinv.checks import checked
from jaxinv.diffusion.schedule import NoiseSchedule
from jaxinv.loading import load_folder
from jaxinv.mesh import ShardingRule
from jaxinv.models.layers.attention import Implementation
from jaxinv.models.layers.remat import Remat
from jaxinv.models.options import check_options, with_options
from jaxinv.pipeline import LatentDiffusion


@checked
def load(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: DTypeLike = jnp.float32,
    param_dtype: DTypeLike | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    variant: str | None = None,
    subfolder: str | None = None,
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
            that say so (``force_upcast``) compute in float32 then. CPUs do not compute
            in float16.
        param_dtype: Data type of the parameters in memory; ``dtype`` if None.
        revision: Branch, tag or commit on the hub.
        token: Of the hub, for models that are private or gated; None or True for the
            one that ``hf auth login`` keeps, False for none.
        cache_dir: Folder that the hub's models are kept in; the hub's own if None.
        local_files_only: Whether the hub is not asked, and only its cache looked at.
            Where the hub does not answer, that is done anyway, with a warning.
        variant: Which weights to read where a part is stored in several: ``"fp16"`` for
            ``*.fp16.safetensors``. Parts without it are read from the plain files.
        subfolder: Folder inside the repository or folder that holds the model.
        schedule: The schedule that the model was trained with, for folders whose
            scheduler does not say it: InstaFlow's names a diffusion sampler, and is
            ``flow_matching(prediction_type="rectified_flow")``.
        attention: Who computes attention: ``"xla"``, ``"cudnn"`` (NVIDIA GPUs, 16
            bits) or None for JAX's own choice; see
            :func:`jaxinv.models.with_options`.
        remat: What reverse-mode derivatives keep of each block: ``"none"`` computes
            nothing twice, ``"dots"`` norms and attention, ``"blocks"`` everything.
        sharding: Where the parameters go, usually a mesh from
            :func:`jaxinv.mesh.make_mesh`: each array's largest divisible dimension
            over its axis ``model``. The first local device if None. Checkpoints of
            ``jaxinv convert`` are read straight into the parts; of diffusers' folders,
            one tensor at a time is whole on the host.

    Returns:
        The model.

    Raises:
        ValueError: If the folder holds no model, or one that is not implemented, or
            parts that do not fit one another, or damaged weights; or if an option is
            unknown or cannot be had here. All but the weights is checked before
            anything is read of them, and nothing is compiled.
        FileNotFoundError: If there is no such model anywhere; says what was tried.

    Example:
        >>> import jaxinv as ji
        >>> pipe = ji.load("emoji64")
        >>> pipe.image_size, pipe.latent_shape
        ((64, 64), (16, 16, 4))
    """
    check_options(attention, remat, dtype)
    folder = find_model(
        name_or_path,
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        variant=variant,
        subfolder=subfolder,
    )
    given = os.fspath(name_or_path)
    name = folder.resolve().name if Path(given).expanduser().is_dir() else given
    kinds = jnp.dtype(dtype), jnp.dtype(param_dtype or dtype)
    pipe = load_folder(folder, name, *kinds, schedule, sharding, variant)
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
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    variant: str | None = None,
    subfolder: str | None = None,
) -> Path:
    """Finds a model's folder as :func:`load` does, downloading it if need be.

    Args:
        name_or_path: As for :func:`load`.
        revision: As for :func:`load`.
        token: As for :func:`load`.
        cache_dir: As for :func:`load`.
        local_files_only: As for :func:`load`.
        variant: As for :func:`load`; which files are downloaded depends on it.
        subfolder: As for :func:`load`.

    Returns:
        The folder.

    Raises:
        ValueError: If there is a file of that name, or no such subfolder.
        FileNotFoundError: If there is no such model anywhere; says what was tried.
    """
    if subfolder is not None and (
        Path(subfolder).is_absolute() or ".." in Path(subfolder).parts
    ):
        raise ValueError(f"subfolder={subfolder!r} is no folder inside of a model's")
    found = _find_root(
        os.fspath(name_or_path),
        revision=revision,
        token=token,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        variant=variant,
        subfolder=subfolder,
    )
    folder = found if subfolder is None else found / subfolder
    if not folder.is_dir():
        raise ValueError(f"{found} has no folder {subfolder}")
    return folder


def _find_root(name: str, **of_the_hub: Any) -> Path:
    """Return the folder of a repository, or a folder itself."""
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
    from weights_convert.download import HUB_NAME, download, one_line

    tried = [f"an embedded model ({', '.join(embedded) or 'none'})", f"a folder {path}"]
    if not HUB_NAME.fullmatch(name):
        raise FileNotFoundError(
            f"no model {name!r}: tried {' and '.join(tried)}; it is not a hub name "
            "(owner/name) either"
        )
    try:
        return download(name, **of_the_hub)
    except Exception as error:  # the hub's errors have no base class in common
        raise FileNotFoundError(
            f"no model {name!r}: tried {', '.join(tried)}, and the Hugging Face hub "
            f"and its local cache ({one_line(error)})"
        ) from error

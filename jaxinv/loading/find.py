"""Finding a model's folder by name: in this package, on disk, or on the hub.

Only the necessary files are downloaded from the Hugging Face hub, and no pickles.
Downloads are stored in the hub's local cache. PyTorch is not needed, and a network only
for the first use of a hub name.
"""

import importlib.resources
import os
import re
import warnings
from pathlib import Path, PurePosixPath
from typing import Any

from jaxinv.checks import one_line
from jaxinv.pipeline.families import FAMILIES

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def embedded_models() -> tuple[str, ...]:
    """Return the names of the models inside this package."""
    return tuple(sorted(p.parent.name for p in _zoo().glob("*/model_index.json")))


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
    """Return a model's folder, downloading it if necessary.

    The arguments are those of :func:`jaxinv.load`.

    Args:
        name_or_path: An embedded name, a folder, or ``owner/name`` on the hub.
        revision: Branch, tag or commit on the hub.
        token: Token of the hub.
        cache_dir: Folder of the hub's cache.
        local_files_only: Whether to use only the hub's cache.
        variant: The set of weights to download, if there are several.
        subfolder: Folder inside the repository or folder that holds the model.

    Returns:
        The folder.

    Raises:
        ValueError: If the path is a file, or the subfolder does not exist.
        FileNotFoundError: If the model is not found; the message lists the places.
    """
    name, embedded = os.fspath(name_or_path), embedded_models()
    inner = Path(subfolder or "")
    if inner.is_absolute() or ".." in inner.parts:
        raise ValueError(f"subfolder={subfolder!r} is not a folder inside a model's")
    path = Path(name).expanduser()
    if name in embedded:
        found = _zoo() / name
    elif path.is_dir():
        found = path
    elif path.exists():
        raise ValueError(
            f"{name} is a file; a model is a folder with a model_index.json "
            "(single-file checkpoints must be saved as a folder with diffusers first)"
        )
    else:
        tried = f"an embedded model ({', '.join(embedded) or 'none'}), a folder {path}"
        if not _HUB_NAME.fullmatch(name):
            raise FileNotFoundError(
                f"no model {name!r}: tried {tried}; it is not a hub name (owner/name) "
                "either"
            )
        try:
            found = _download(
                name, revision, token, cache_dir, local_files_only, variant, subfolder
            )
        except Exception as error:  # the hub's errors have no common base class
            raise FileNotFoundError(
                f"no model {name!r}: tried {tried}, and the Hugging Face hub and its "
                f"local cache ({one_line(error)})"
            ) from error
    folder = found / inner
    if not folder.is_dir():
        raise ValueError(f"{found} has no folder {subfolder}")
    return folder


def _download(
    name: str,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
    variant: str | None,
    subfolder: str | None,
) -> Path:
    """Fetch a snapshot of a repository, or use the cache if the hub does not answer.

    Raises:
        Exception: Errors of ``huggingface_hub`` and its HTTP client, which have no
            common base class, if the cache has no snapshot either.
    """
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    which, who = _given(revision=revision), _given(token=token)

    def snapshot(patterns: list[str], **options: Any) -> Path:
        options |= {"allow_patterns": patterns, **which, **who}
        options |= _given(cache_dir=cache_dir)
        return Path(huggingface_hub.snapshot_download(name, **options))

    # Only this file is required of a cached snapshot: loading the model names other
    # missing files.
    least = [_inside(subfolder, "model_index.json")]
    if local_files_only:
        return snapshot(least, local_files_only=True)
    try:
        # A single request without retries: it fails at once without a network.
        info = huggingface_hub.HfApi(**who).model_info(name, **which)
    except Exception as error:
        try:
            folder = snapshot(least, local_files_only=True)
        except Exception:
            raise error from None
        if not isinstance(error, OfflineModeIsEnabled):
            warnings.warn(
                f"the Hugging Face hub did not answer for {name} ({one_line(error)}): "
                "using the local cache's last snapshot",
                stacklevel=2,
            )
        return folder
    files = [file.rfilename for file in info.siblings or ()]
    return snapshot(wanted_files(files, variant=variant, subfolder=subfolder))


def wanted_files(
    files: list[str], *, variant: str | None = None, subfolder: str | None = None
) -> list[str]:
    """Return the files of a hub repository that a pipeline needs.

    These are configurations, vocabularies, and one set of safetensors per component:
    the variant if it exists, otherwise the plain one, or the half-precision variant if
    there is no plain one.

    Args:
        files: Paths of all files in the repository.
        variant: The variant, such as ``"fp16"`` for ``model.fp16.safetensors``.
        subfolder: Folder inside the repository that holds the pipeline.

    Returns:
        Paths of the files to download.
    """
    wanted = [_inside(subfolder, "model_index.json")]
    for part in dict.fromkeys(part for family in FAMILIES for part in family.parts):
        folder = _inside(subfolder, part)
        inside = [f for f in files if f.rpartition("/")[0] == folder]
        wanted += [f for f in inside if f.endswith((".json", ".txt"))]
        weights = [f for f in inside if f.endswith(".safetensors")]
        if variant != "non_ema":
            weights = [f for f in weights if not _is_variant(f, "non_ema")]
        wanted += (
            [f for f in weights if variant is not None and _is_variant(f, variant)]
            or [f for f in weights if "." not in Path(f).stem]
            or [f for f in weights if _is_variant(f, "fp16")]
            or weights
        )
    return wanted


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _is_variant(file: str, variant: str) -> bool:
    return bool(re.search(rf"\.{re.escape(variant)}[.-]", Path(file).name))


def _inside(subfolder: str | None, name: str) -> str:
    return PurePosixPath(subfolder or "", name).as_posix()

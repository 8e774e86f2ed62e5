"""Finding a model's folder by name: in this package, on disk, or on the hub.

Only the necessary files are downloaded from the Hugging Face hub, and no pickles.
Downloads are stored in the hub's local cache. PyTorch is not needed, and a network only
for the first use of a hub name.
"""

import importlib.resources
import os
import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypedDict, Unpack

from jaxinv.checks import one_line
from jaxinv.pipeline.families import FAMILIES


class Hub(TypedDict, total=False):
    """Options of the hub that are the same for all repositories; see :func:`load`."""

    token: str | bool | None
    cache_dir: str | os.PathLike[str] | None
    local_files_only: bool


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
    text_encoders: bool | Sequence[str] = True,
    network: bool = True,
) -> Path:
    """Return a model's folder or file, downloading it if necessary.

    The arguments are those of :func:`jaxinv.load`.

    Args:
        name_or_path: An embedded name, a folder, a file, or ``owner/name`` on the hub.
        revision: Branch, tag or commit on the hub.
        token: Token of the hub.
        cache_dir: Folder of the hub's cache.
        local_files_only: Whether to use only the hub's cache.
        variant: The set of weights to download, if there are several.
        subfolder: Folder inside the repository or folder that holds the model.
        text_encoders: The text encoders whose weights to download.
        network: Whether to download the network's weights.

    Returns:
        The folder or file.

    Raises:
        ValueError: If the subfolder does not exist.
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
    elif path.is_file() and subfolder is None:
        return path
    elif path.exists():
        raise ValueError(
            f"{name} is not a folder" + (f" with {subfolder}" if subfolder else "")
        )
    else:
        known = ", ".join(embedded) or "none"
        tried = f"an embedded model ({known}), a file or folder {path}"
        found = _from_hub(
            name,
            f"model {name!r}: tried {tried}",
            # Only this file is required of a cached snapshot: loading the model names
            # other missing files.
            least=_inside(subfolder, "model_index.json"),
            choose=lambda files: wanted_files(
                files,
                variant=variant,
                subfolder=subfolder,
                text_encoders=text_encoders,
                network=network,
            ),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
        )
    folder = found / inner
    if not folder.is_dir():
        raise ValueError(f"{found} has no folder {subfolder}")
    return folder


def find_part(
    name_or_path: str | os.PathLike[str], what: str, pattern: str, **hub: Unpack[Hub]
) -> Path:
    """Return a file, or the folder of a part of a model, downloading it if necessary.

    Args:
        name_or_path: A file, a folder, or ``owner/name`` on the hub.
        what: The kind of part, for messages.
        pattern: Regular expression of the files to download, which have no folder.
        **hub: Options of the hub.

    Returns:
        The file or folder.

    Raises:
        FileNotFoundError: If there is none; the message lists the places.
    """
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    if path.exists():
        return path
    return _from_hub(
        name,
        f"{what} {name!r}: tried a file or folder {path}",
        least="*.json",
        choose=lambda files: [file for file in files if re.fullmatch(pattern, file)],
        **hub,
    )


def _from_hub(
    name: str,
    tried: str,
    *,
    least: str,
    choose: Callable[[list[str]], list[str]],
    revision: str | None = None,
    **hub: Unpack[Hub],
) -> Path:
    """Return the snapshot of a repository, or raise FileNotFoundError.

    Args:
        name: ``owner/name``.
        tried: What was looked for, and where, for the message.
        least: Pattern of the file that a cached snapshot must have.
        choose: Map from all files of the repository to those to download.
        revision: Branch, tag or commit.
        **hub: Options of the hub.
    """
    if not _HUB_NAME.fullmatch(name):
        raise FileNotFoundError(f"no {tried}; it is not a hub name (owner/name) either")
    try:
        return _download(name, least, choose, revision, **hub)
    except Exception as error:  # the hub's errors have no common base class
        raise FileNotFoundError(
            f"no {tried}, and the Hugging Face hub and its local cache "
            f"({one_line(error)})"
        ) from error


def _download(
    name: str,
    least: str,
    choose: Callable[[list[str]], list[str]],
    revision: str | None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
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

    if local_files_only:
        return snapshot([least], local_files_only=True)
    try:
        # A single request without retries: it fails at once without a network.
        info = huggingface_hub.HfApi(**who).model_info(name, **which)
    except Exception as error:
        try:
            folder = snapshot([least], local_files_only=True)
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
    return snapshot(choose(files))


def wanted_files(
    files: list[str],
    *,
    variant: str | None = None,
    subfolder: str | None = None,
    text_encoders: bool | Sequence[str] = True,
    network: bool = True,
) -> list[str]:
    """Return the files of a hub repository that a pipeline needs.

    These are configurations, vocabularies, and one set of safetensors per component:
    the variant if it exists, otherwise the plain one, or the half-precision variant if
    there is no plain one.

    Args:
        files: Paths of all files in the repository.
        variant: The variant, such as ``"fp16"`` for ``model.fp16.safetensors``.
        subfolder: Folder inside the repository that holds the pipeline.
        text_encoders: The text encoders whose weights are needed; True for all.
        network: Whether the network's weights are needed.

    Returns:
        Paths of the files to download.
    """
    wanted = [_inside(subfolder, "model_index.json"), *_flat(files, subfolder)]
    encoders = {part for family in FAMILIES for part in family.text_encoders}
    for part in dict.fromkeys(part for family in FAMILIES for part in family.parts):
        folder = _inside(subfolder, part)
        inside = [f for f in files if f.rpartition("/")[0] == folder]
        wanted += [f for f in inside if f.endswith((".json", ".txt", ".model"))]
        if not (
            _wanted(part, text_encoders)
            if part in encoders
            else network or part == "vae"
        ):
            continue
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


def _wanted(part: str, chosen: bool | Sequence[str]) -> bool:
    return chosen if isinstance(chosen, bool) else part in chosen


def _flat(files: list[str], subfolder: str | None) -> list[str]:
    """Return the files in the model's own folder, if its network lies there.

    Its weights have the usual name; those of single-file checkpoints have others.
    """
    names = ("config.json", "scheduler_config.json")
    found = [_inside(subfolder, name) for name in names]
    if not set(found) <= set(files):
        return []
    weights = _inside(subfolder, "diffusion_pytorch_model")
    return found + [
        f for f in files if f.startswith(weights) and f.endswith(".safetensors")
    ]


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _is_variant(file: str, variant: str) -> bool:
    return bool(re.search(rf"\.{re.escape(variant)}[.-]", Path(file).name))


def _inside(subfolder: str | None, name: str) -> str:
    return PurePosixPath(subfolder or "", name).as_posix()

"""Fetching a pipeline from the Hugging Face hub, or from the hub's local cache."""

import os
import re
import warnings
from pathlib import Path
from typing import Any

COMPONENTS = ("unet", "vae", "text_encoder")
COPIED = ("tokenizer", "scheduler")

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def download(
    name: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    variant: str | None = None,
    subfolder: str | None = None,
) -> Path:
    """Fetch the parts of a pipeline that are needed, and no pickles.

    Without a network (or an answer of the hub), the snapshot in the local cache is
    taken, with a warning unless that was asked for.

    Args:
        name: ``owner/name`` on the hub.
        revision: Branch, tag or commit; the main branch if None.
        token: Of the hub; True for the one that ``hf auth login`` keeps, False for
            none, None for that one if there is one.
        cache_dir: Folder of the cache; the hub's own if None.
        local_files_only: Whether only the cache is looked at.
        variant: As of :func:`wanted_files`.
        subfolder: As of :func:`wanted_files`.

    Returns:
        The folder of the snapshot, without ``subfolder``.

    Raises:
        Exception: What ``huggingface_hub`` and the HTTP client under it raise, which
            have no base class in common, if the pipeline is neither on the hub nor in
            the cache.
    """
    import huggingface_hub
    from huggingface_hub.errors import OfflineModeIsEnabled

    which: dict[str, Any] = {} if revision is None else {"revision": revision}
    who: dict[str, Any] = {} if token is None else {"token": token}
    where: dict[str, Any] = {} if cache_dir is None else {"cache_dir": cache_dir}

    def snapshot(patterns: list[str], **options: Any) -> Path:
        options |= {"allow_patterns": patterns, **which, **who, **where}
        return Path(huggingface_hub.snapshot_download(name, **options))

    # Of a snapshot in the cache only this has to be there: what else is missing is
    # named when the model is loaded.
    least = [_inside(subfolder, "model_index.json")]
    if local_files_only:
        return snapshot(least, local_files_only=True)
    try:
        # One request that is not repeated: without a network it fails at once.
        info = huggingface_hub.HfApi(**who).model_info(name, **which)
    except Exception as error:
        try:
            folder = snapshot(least, local_files_only=True)
        except Exception:
            raise error from None
        if not isinstance(error, OfflineModeIsEnabled):
            warnings.warn(
                f"the Hugging Face hub did not answer for {name} ({one_line(error)}): "
                "taking the local cache's last snapshot",
                stacklevel=2,
            )
        return folder
    files = [file.rfilename for file in info.siblings or ()]
    return snapshot(wanted_files(files, variant=variant, subfolder=subfolder))


def one_line(error: BaseException) -> str:
    """Return the text of an error without line breaks, or its kind if it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def wanted_files(
    files: list[str], *, variant: str | None = None, subfolder: str | None = None
) -> list[str]:
    """Returns which of a hub repository's files a pipeline needs.

    Configurations and vocabularies, and one set of safetensors per component: that of
    the variant where there is one, or the plain one, or the half-precision variant
    where there is no plain one.

    Args:
        files: Paths of all files in the repository.
        variant: Such as ``"fp16"``, for ``model.fp16.safetensors``.
        subfolder: Folder inside the repository that holds the pipeline.

    Returns:
        Paths of the files to download.
    """
    wanted = [_inside(subfolder, "model_index.json")]
    for component in COMPONENTS + COPIED:
        folder = _inside(subfolder, component)
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


def _is_variant(file: str, variant: str) -> bool:
    return bool(re.search(rf"\.{re.escape(variant)}[.-]", Path(file).name))


def _inside(subfolder: str | None, name: str) -> str:
    parts = [] if subfolder is None else [p for p in subfolder.split("/") if p]
    return "/".join([*parts, name])

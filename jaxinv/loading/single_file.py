"""Models that are one file in the original layout, as sources of :func:`jaxinv.load`.

The file has the weights. Tokenizers come from a folder or the hub. As in diffusers, the
configurations and the scheduler are those of the model's generation
(:mod:`weights_convert.single_file`), or of a folder that the user names.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Unpack

from jaxinv.files.folders import check_inside, model_root
from jaxinv.loading.find import Hub, find_part
from jaxinv.loading.source import Parts, Source, as_named, with_vae
from jaxinv.loading.tokenizers import TOKENIZER_FILES, load_tokenizer
from jaxinv.loading.vae import Vae, choose_vae
from jaxinv.pipeline.families import Family, read_index
from weights_convert.reader import read_config, read_json
from weights_convert.single_file import open_single_file

# CLIP text encoders have the vocabulary of OpenAI's first one.
_VOCABULARY = "openai/clip-vit-large-patch14"
_PATTERN = "|".join(name.replace(".", r"\.") for name in TOKENIZER_FILES)
_TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}


def single_file_source(
    path: Path,
    *,
    config: str | os.PathLike[str] | None = None,
    tokenizer: str | os.PathLike[str] | None = None,
    vae: Vae | None = None,
    name: str = "",
    **hub: Unpack[Hub],
) -> Source:
    """Return the model of a file; its header is read, and no weights.

    Args:
        path: The file.
        config: See :func:`jaxinv.load`.
        tokenizer: See :func:`jaxinv.load`.
        vae: See :func:`jaxinv.load`.
        name: Name of the model; see :func:`jaxinv.loading.source.as_named`.
        **hub: Options of the hub.

    Raises:
        ValueError: If the file is not such a model, or lacks a part of it.
        FileNotFoundError: If there is no tokenizer.
    """
    folder = None if config is None else _config_folder(config)
    opened = open_single_file(path, {} if folder is None else _configs(folder))
    chosen = None if vae is None else choose_vae(vae, opened.configs, **hub)
    configs = dict(opened.configs)
    if chosen is not None:
        configs["vae"] = chosen.config
    for part in ("unet", "vae", "text_encoder"):
        if part not in configs:
            hint = ": pass another one as vae=" if part == "vae" else ""
            raise ValueError(f"{path} holds no {part}, only {', '.join(configs)}{hint}")
    scheduler_file, scheduler = path, opened.scheduler
    if folder is None:
        index = read_index(path, _index(configs))
    else:
        scheduler_file = folder / "scheduler" / "scheduler_config.json"
        scheduler = read_json(scheduler_file)
        index = read_index(folder, read_json(folder / "model_index.json"))
    index = as_named(index, name)
    for part in index.networks:
        if part not in configs:
            raise ValueError(
                f"{folder} has a {part} ({index.family}), which {path} does not hold"
            )
    configs = {part: configs[part] for part in index.networks}
    vocabulary = folder if tokenizer is None else tokenizer
    found = find_part(vocabulary or _VOCABULARY, "tokenizer", _PATTERN, **hub)
    source = Source(
        place=path,
        parts=Parts(index, configs, index.family.check(path, configs)),
        scheduler=scheduler,
        scheduler_file=scheduler_file,
        tokenizer=_tokenizer_reader(found, index.family, configs),
        read=opened.load,
    )
    return source if chosen is None else with_vae(source, chosen)


def _tokenizer_reader(
    folder: Path, family: Family, configs: Mapping[str, Any]
) -> Callable[[str], Any]:
    """Return the function that reads the tokenizer of a part's name."""
    encoders = {
        part: configs[name]
        for name, part in family.text_encoders.items()
        if name in configs
    }

    def read(part: str) -> Any:
        if (folder / part).is_dir():
            return load_tokenizer(folder / part, model_root(folder))
        # OpenCLIP, which has another activation than OpenAI's CLIP, pads with token 0.
        first = encoders[part].hidden_act == "gelu"
        return load_tokenizer(folder, model_root(folder), pad_first=first)

    return read


def _config_folder(config: str | os.PathLike[str]) -> Path:
    folder = Path(config).expanduser()
    if not (folder / "model_index.json").is_file():
        raise ValueError(
            f"config={str(config)!r} is not a folder in diffusers' layout: it has no "
            "model_index.json"
        )
    return folder


def _configs(folder: Path) -> dict[str, Any]:
    """Return the configurations of the parts that a folder has."""
    root = model_root(folder)
    parts = [part for part in ("unet", "vae", *_TOKENIZERS) if (folder / part).is_dir()]
    for part in parts:
        check_inside(folder / part, root)
    return {part: read_config(folder / part) for part in parts}


def _index(configs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``model_index.json`` that diffusers has for such a file."""
    found: dict[str, Any] = {
        part: ["", config.class_name] for part, config in configs.items()
    }
    for part, tokenizer in _TOKENIZERS.items():
        if part in configs:
            found[tokenizer] = ["", "CLIPTokenizer"]
    found |= {"scheduler": ["", ""], "_class_name": "StableDiffusionPipeline"}
    if "text_encoder_2" in configs:
        found["_class_name"] = "StableDiffusionXLPipeline"
        found["force_zeros_for_empty_prompt"] = True
    return found

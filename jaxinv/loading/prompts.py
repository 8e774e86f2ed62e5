"""Files of encoded prompts: safetensors with the structure of a model's condition.

Tensors are named by the prompt's number and, where a condition has several, by the
field: ``0.text``, ``0.pooled``. The metadata has one entry, ``jaxinv_prompts``, with
the JSON text of :class:`_Header`.
"""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from safetensors.numpy import save

import jaxinv.models
from jaxinv.checks import Length, Range, checked, shown
from jaxinv.files import check_writable_file
from jaxinv.files.atomic import open_atomically
from jaxinv.files.digests import file_digests
from jaxinv.files.json_fields import check_record, naming, parse_json
from jaxinv.loading.lora import LoraFiles, merged
from jaxinv.pipeline import Pipeline
from jaxinv.pipeline.prompts import is_abstract
from jaxinv.pipeline.saved_prompts import SavedPrompt, SavedPrompts
from weights_convert.reader import (
    StoredTensor,
    file_metadata,
    open_file,
    read_tensor,
    require_floats,
)

_KEY, _FORMAT = "jaxinv_prompts", 1
_ARRAY = "array"  # the structure of a condition that is one array
_Text = Annotated[str, Length(0, 100_000)]
_Pixels = Annotated[int, Range(1, 2**20)]
# Conditions with several arrays, by the names of their classes.
_STRUCTURES: dict[str, Any] = {
    name: kind
    for name, kind in vars(jaxinv.models).items()
    if isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")
}


@dataclasses.dataclass(frozen=True)
class _Header:
    """The metadata of a file of prompts.

    Attributes:
        format: Version of the format.
        family: Name of the model's family.
        model: Name of the model.
        image_size: (height, width) in pixels that the prompts were encoded for.
        structure: Class of the condition, or ``"array"``.
        texts: The prompts.
        negative: Whether each is a negative prompt.
        lora: Digests and scales of the LoRA files that were in the model.
    """

    format: int
    family: Annotated[str, Length(1, 200)]
    model: _Text
    image_size: tuple[_Pixels, _Pixels]
    structure: Annotated[str, Length(1, 200)]
    texts: Annotated[tuple[_Text, ...], Length(1, 100_000)]
    negative: Annotated[tuple[bool, ...], Length(1, 100_000)]
    lora: Annotated[
        tuple[tuple[Annotated[str, Length(64, 64)], float], ...], Length(0, 1000)
    ] = ()


@checked
def save_prompts(
    pipe: Pipeline,
    path: str | os.PathLike[str],
    prompts: Sequence[str],
    negative_prompts: Sequence[str] = ("",),
    **options: Any,
) -> None:
    """Encode prompts and write them to a file, for models without text encoders.

    Args:
        pipe: A model with its text encoders; it needs no network.
        path: The safetensors file to write. It appears only when it is complete.
        prompts: The texts.
        negative_prompts: Texts from which guidance pushes away.
        **options: Options of :meth:`jaxinv.Pipeline.encode_prompt`.

    Raises:
        ValueError: If there is no prompt, the model takes none,
            :meth:`~jaxinv.Pipeline.encode_prompt` raises it, or the file cannot be
            written.

    Example:
        ::

            pipe = ji.load("black-forest-labs/FLUX.1-dev", network=False)
            ji.save_prompts(pipe, "prompts.safetensors", ["a red cat", "a blue dog"])
            pipe = ji.load("black-forest-labs/FLUX.1-dev", text_encoders=False,
                           prompts="prompts.safetensors")
            denoise = pipe.denoiser("a red cat")
    """
    wanted = [SavedPrompt(text, False) for text in prompts]
    if pipe.family.guidable:
        wanted += [SavedPrompt(text, True) for text in negative_prompts]
    wanted = list(dict.fromkeys(wanted))
    if not prompts or not pipe.text_encoders:
        raise ValueError(
            "there must be at least one prompt"
            if pipe.text_encoders
            else f"{pipe.name} has no text encoder, and so no prompts"
        )
    check_writable_file(path)
    encodings = {
        each: pipe.encode_prompt(each.text, negative=each.negative, **options)
        for each in wanted
    }
    structures = {_structure(encoding) for encoding in encodings.values()}
    (structure,) = structures
    header = _Header(
        format=_FORMAT,
        family=pipe.family.name,
        model=pipe.name,
        image_size=pipe.image_size,
        structure=structure,
        texts=tuple(each.text for each in wanted),
        negative=tuple(each.negative for each in wanted),
        lora=tuple((each.sha256, each.scale) for each in pipe.lora),
    )
    tensors = {
        name: np.ascontiguousarray(array)
        for number, encoding in enumerate(encodings.values())
        for name, array in _named(number, encoding).items()
    }
    metadata = {_KEY: json.dumps(dataclasses.asdict(header))}
    with open_atomically(path) as file:
        file.write(save(tensors, metadata=metadata))


def read_prompts(path: str | os.PathLike[str]) -> SavedPrompts:
    """Read a file of :func:`save_prompts`.

    Raises:
        ValueError: If the file is missing, damaged, or of another kind.
    """
    path = Path(path).expanduser()
    tensors = {tensor.name: tensor for tensor in open_file(path)}
    text = file_metadata(path).get(_KEY)
    if text is None:
        raise ValueError(f"{path} holds no prompts: jaxinv.save_prompts writes them")
    with naming(path):
        found = parse_json(text, path)
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise ValueError(f"the prompts must have format {_FORMAT}")
        header = check_record(_Header, found)
        if len(header.texts) != len(header.negative):
            raise ValueError("there must be as many texts as marks of negative ones")
        if header.structure != _ARRAY and header.structure not in _STRUCTURES:
            raise ValueError(f"the structure {shown(header.structure)} is not known")
        pairs = zip(header.texts, header.negative, strict=True)
        encodings = {
            SavedPrompt(text, negative): _encoding(path, number, header, tensors)
            for number, (text, negative) in enumerate(pairs)
        }
    (sha256,) = file_digests([path])
    return SavedPrompts(
        encodings, header.family, header.model, header.image_size, sha256, header.lora
    )


def check_prompts_lora(
    path: str | os.PathLike[str], saved: SavedPrompts, lora: LoraFiles, texts: LoraFiles
) -> None:
    """Raise ValueError unless prompts were encoded with a model's LoRA files.

    Args:
        path: The file of the prompts, for messages.
        saved: The prompts.
        lora: The LoRA files of the model.
        texts: Those of them that change text encoders. The others are as good for
            prompts that were encoded without them.
    """

    def named(files: LoraFiles) -> set[tuple[str, float]]:
        return {(each.sha256, each.scale) for each in merged((), files)}

    theirs = set(saved.lora)
    if named(texts) <= theirs <= named(lora):
        return
    raise ValueError(
        f"{path} holds prompts that were encoded with other LoRA files or scales than "
        f"{[f'{os.fspath(file)}:{scale:g}' for file, scale in lora]}, which change "
        "text encoders: encode the prompts again with these"
    )


def check_prompts(path: str | os.PathLike[str], pipe: Pipeline) -> None:
    """Raise ValueError unless the saved prompts of a model are for such a model."""
    saved = pipe.prompts
    assert saved is not None
    if saved.family != pipe.family.name:
        raise ValueError(
            f"{path} holds prompts of {saved.family} ({saved.model}), but {pipe.name} "
            f"is a model of {pipe.family}"
        )
    encoding = next(iter(saved.encodings.values()))
    if is_abstract(pipe.network):
        return

    def evaluated(pipe: Pipeline, encoding: PyTree) -> Any:
        denoise = pipe.denoiser(encoding, guidance_scale=1.0)
        return denoise(jnp.zeros(pipe.latent_shape), jnp.float32(0.5))

    try:
        jax.eval_shape(evaluated, pipe, encoding)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} holds prompts of {saved.model} that do not fit the network of "
            f"{pipe.name}: {str(error).splitlines()[0]}"
        ) from None


def _structure(encoding: PyTree) -> str:
    """Return the name of an encoding's structure."""
    if isinstance(encoding, jax.Array | np.ndarray):
        return _ARRAY
    name = type(encoding).__name__
    fields: dict[str, Any] = getattr(encoding, "_asdict", dict)()
    arrays = (jax.Array, np.ndarray, type(None))
    if name not in _STRUCTURES or not all(
        isinstance(each, arrays) for each in fields.values()
    ):
        raise ValueError(f"conditions of the kind {name} cannot be saved")
    return name


def _named(number: int, encoding: PyTree) -> dict[str, Any]:
    """Return the arrays of an encoding by the names of their tensors."""
    if _structure(encoding) == _ARRAY:
        return {str(number): encoding}
    fields = encoding._asdict().items()
    return {f"{number}.{name}": each for name, each in fields if each is not None}


def _encoding(
    path: Path, number: int, header: _Header, tensors: Mapping[str, StoredTensor]
) -> PyTree:
    """Return an encoding of its tensors.

    Raises:
        ValueError: If a tensor is missing or not of floating-point numbers.
    """

    def read(name: str) -> jax.Array:
        require_floats(path, tensors[name])
        return jnp.asarray(read_tensor(path, tensors[name]))

    if header.structure == _ARRAY:
        if str(number) not in tensors:
            raise ValueError(f"tensor {str(number)!r} is missing")
        return read(str(number))
    kind = _STRUCTURES[header.structure]
    fields = {name: f"{number}.{name}" for name in kind._fields}
    present = {field: read(name) for field, name in fields.items() if name in tensors}
    lacking = [
        name
        for field, name in fields.items()
        if field not in present and field not in kind._field_defaults
    ]
    if lacking:
        raise ValueError(f"tensor {lacking[0]!r} is missing")
    return kind(**present)

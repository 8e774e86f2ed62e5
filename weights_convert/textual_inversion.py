"""Textual inversion: files with vectors for new words of a text encoder.

A file holds one matrix of n vectors, or one for each text encoder:

    =============  ==================================  ====================
    writer         tensors                             word
    =============  ==================================  ====================
    diffusers      one, named by the word              the tensor's name
    AUTOMATIC1111  ``emb_params``, ``string_to_param`` chosen by the user
    for SDXL       ``clip_l`` and ``clip_g``           chosen by the user
    =============  ==================================  ====================

References:
    Gal et al., "An Image is Worth One Word: Personalizing Text-to-Image Generation
    using Textual Inversion", 2022. https://arxiv.org/abs/2208.01618
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxinv.checks import shown
from weights_convert.errors import WeightsError
from weights_convert.reader import (
    StoredTensor,
    open_file,
    read_tensor,
    refuse_pickle,
    require_floats,
)

# SDXL's names of its text encoders.
_OF_ENCODERS = {"clip_l": "text_encoder", "clip_g": "text_encoder_2"}
# Names of a single tensor that are no words.
_NO_WORDS = ("emb_params", "string_to_param", "string_to_param.*", "*")
_CONVERSION = (
    "load it with torch.load(path, weights_only=True) and write its matrix (n, d) with "
    "safetensors.torch.save_file({'emb_params': matrix}, 'word.safetensors'); it is at "
    "['string_to_param']['*'], or the only entry"
)


class Word(NamedTuple):
    """A new word.

    Attributes:
        token: The word in prompts.
        vectors: For each text encoder, by its name in diffusers, what its token
            embedding is for the word: (n, d), float32.
    """

    token: str
    vectors: dict[str, np.ndarray]


def read_textual_inversion(
    file: str | os.PathLike[str], token: str | None, widths: Mapping[str, int]
) -> Word:
    """Read a file of textual inversion.

    Args:
        file: A safetensors file.
        token: The word, or None for the one in the file.
        widths: Size of the vectors of the model's text encoders, by their names in
            diffusers. A single matrix belongs to the first one.

    Returns:
        The word and its vectors.

    Raises:
        WeightsError: If the file is missing, broken, a pickle, or not of this kind, if
            it names no word and none is given, or if a matrix fits no text encoder.
    """
    file = Path(file)
    refuse_pickle(file, _CONVERSION)
    tensors = open_file(file)
    names = {tensor.name for tensor in tensors}
    if names & _OF_ENCODERS.keys():
        places = {tensor: _OF_ENCODERS.get(tensor.name) for tensor in tensors}
    elif len(tensors) == 1:
        places = {tensors[0]: next(iter(widths), None)}
        token = tensors[0].name if token is None else token
        token = None if token in _NO_WORDS else token
    else:
        raise WeightsError(
            f"{file} is not a textual inversion: it must hold one tensor, or clip_l "
            f"and clip_g, but holds {len(tensors)}"
        )
    if not token:
        raise WeightsError(f"{file} names no word: pass the token for it")
    text = token.encode(errors="replace").decode()
    if text != token or not token.strip():
        raise WeightsError(
            f"the word for {file} must be Unicode text that is not blank, got "
            f"{shown(token)}"
        )
    vectors = {}
    for tensor, part in places.items():
        if part is None or part not in widths:
            raise WeightsError(
                f"{file}: tensor {shown(tensor.name)} has no place in this model, "
                f"whose text encoders are {', '.join(widths) or 'none'}"
            )
        vectors[part] = _vectors(file, tensor, widths[part])
    counts = sorted({len(each) for each in vectors.values()})
    if len(counts) > 1:
        raise WeightsError(
            f"{file} must have as many vectors in clip_l as in clip_g, got {counts}"
        )
    return Word(token, vectors)


def _vectors(file: Path, tensor: StoredTensor, width: int) -> np.ndarray:
    require_floats(file, tensor)
    shape = tensor.shape if len(tensor.shape) == 2 else (1, *tensor.shape)
    if len(shape) != 2 or shape[1] != width or not shape[0]:
        raise WeightsError(
            f"{file}: tensor {shown(tensor.name)} has shape {tensor.shape}, but the "
            f"text encoder requires (n, {width})"
        )
    return read_tensor(file, tensor).astype(np.float32).reshape(shape)

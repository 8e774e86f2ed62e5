"""New words of textual inversion, added to tokenizers and text encoders.

A word of n vectors becomes n tokens, ``<cat>``, ``<cat>_1``, ..., as in diffusers. In
prompts it is written once (:func:`jaxinv.pipeline.text.with_all_tokens`).
"""

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxinv.checks import checked, shown
from jaxinv.files.digests import file_digests
from jaxinv.models import CLIPTextConfig, CLIPTextModel
from jaxinv.pipeline import Pipeline
from jaxinv.pipeline.pipeline import AddedWord
from weights_convert.textual_inversion import read_textual_inversion

#: Files of textual inversion, each with its word (None for the one in the file).
Words: TypeAlias = Sequence[tuple[str | os.PathLike[str], str | None]]


class Additions(NamedTuple):
    """What new words add to a model.

    Attributes:
        tokenizers: The tokenizers with the new tokens, by the text encoders' names.
        rows: For each text encoder, the embeddings of new token ids.
        words: The record of the words.
    """

    tokenizers: dict[str, Any]
    rows: dict[str, dict[int, np.ndarray]]
    words: tuple[AddedWord, ...]


@checked
def add_textual_inversion(pipe: Pipeline, files: Words) -> Pipeline:
    """Add words of textual inversion to a model's vocabulary.

    The model that is passed stays as it is. As in transformers, a text encoder whose
    configuration has the old ``eos_token_id`` 2 takes its pooled vector at the largest
    token id, which is then a new word's; of published models this concerns SDXL's.

    Args:
        pipe: The model.
        files: Safetensors files as diffusers and AUTOMATIC1111 write them, or with
            ``clip_l`` and ``clip_g`` for SDXL; each with its word, such as ``"<cat>"``,
            or None for the word in the file.

    Returns:
        The model with longer token embeddings and other tokenizers. Its ``words`` lists
        the words and the digests of the files.

    Raises:
        ValueError: If a file is missing, broken, a pickle, or does not fit the model's
            text encoders; or if a word is missing or known already.

    Example:
        ::

            pipe = ji.add_textual_inversion(pipe, [("cat.safetensors", "<cat>")])
            denoise = pipe.denoiser("a photo of <cat>")
    """
    tokenizers = dict(zip(pipe.family.text_encoders, pipe.tokenizers, strict=True))
    encoders = pipe.present_text_encoders
    configs = {part: encoder.config for part, encoder in encoders.items()}
    added = read_additions(files, configs, tokenizers)
    longer = {
        part: _with_rows(encoders[part], rows) for part, rows in added.rows.items()
    }
    return dataclasses.replace(
        pipe,
        tokenizers=tuple((tokenizers | added.tokenizers).values()),
        text_encoders=tuple(
            longer.get(part, encoder)
            for part, encoder in zip(tokenizers, pipe.text_encoders, strict=True)
        ),
        words=pipe.words + added.words,
    )


def read_additions(
    files: Words, configs: Mapping[str, Any], tokenizers: Mapping[str, Any]
) -> Additions:
    """Read files of textual inversion and make the tokenizers with their words.

    Args:
        files: See :func:`add_textual_inversion`.
        configs: The configurations of the model's parts, by their names in diffusers.
            Only CLIP's text encoders take words.
        tokenizers: The tokenizers by the text encoders' names. They are not changed.

    Raises:
        ValueError: See :func:`add_textual_inversion`.
    """
    widths = {
        part: config.hidden_size
        for part, config in configs.items()
        if isinstance(config, CLIPTextConfig)
    }
    words = [read_textual_inversion(file, token, widths) for file, token in files]
    longer = {part: copy.deepcopy(tokenizers[part]) for part in widths}
    rows: dict[str, dict[int, np.ndarray]] = {part: {} for part in widths}
    for word in words:
        for part, vectors in word.vectors.items():
            rows[part] |= _add_tokens(longer[part], word.token, vectors)
    digests = file_digests(Path(file) for file, _ in files)
    record = tuple(
        AddedWord(word.token, digest)
        for word, digest in zip(words, digests, strict=True)
    )
    return Additions(longer, rows, record)


def _add_tokens(
    tokenizer: Any, token: str, vectors: np.ndarray
) -> dict[int, np.ndarray]:
    """Add a word to a tokenizer, and return the vectors by token id."""
    known = tokenizer.get_vocab()
    tokens = [token, *(f"{token}_{i}" for i in range(1, len(vectors)))]
    # A word that ends like a further vector of a known one would be read as that.
    word, _, number = token.rpartition("_")
    further = [word] if word and number.isdecimal() else []
    for each in [*tokens, f"{token}_1", *further]:
        if each in known:
            raise ValueError(
                f"the token {shown(each)} is in the tokenizer's vocabulary already: "
                "pass another one"
            )
    if tokenizer.add_tokens(tokens) != len(tokens):
        raise ValueError(f"the tokenizer cannot take {shown(token)} as a token")
    ids = tokenizer.convert_tokens_to_ids(tokens)
    return dict(zip(ids, vectors, strict=True))


def _with_rows(encoder: CLIPTextModel, rows: Mapping[int, np.ndarray]) -> CLIPTextModel:
    """Return a text encoder with embeddings of further token ids."""
    if not rows:
        return encoder
    new = jax.tree.map(lambda x: x, encoder)  # new objects, same arrays
    layer = new.embeddings.token_embedding
    table = layer.embedding.get_value()
    size = max(len(table), 1 + max(rows))
    table = jnp.pad(table, ((0, size - len(table)), (0, 0)))
    ids = np.array(list(rows))
    with np.errstate(over="ignore"):
        values = np.stack(list(rows.values())).astype(table.dtype)
    if not np.isfinite(values).all():
        raise ValueError(
            f"the vectors of a new word have values too large for {table.dtype}: load "
            "the model with param_dtype=float32 or bfloat16"
        )
    layer.embedding.set_value(table.at[ids].set(values))
    layer.num_embeddings = size
    new.config = dataclasses.replace(encoder.config, vocab_size=size)
    return new

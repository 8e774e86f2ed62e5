"""From a prompt to token ids, and from those to the vectors of a text encoder.

A text encoder reads a fixed number of tokens, 77 with start and end. Longer prompts are
cut, or read in chunks: each has its own start and end, the encoder reads one after the
other, and the network attends to the vectors of all. The pooled vector is the first
chunk's. This is common practice; the models were trained on one chunk. Weights of
words, written ``(cat:1.3)``, are text like any other: the library that is kept for them
(compel) needs PyTorch and has another syntax.
"""

import functools
import warnings
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxinv.checks import shown
from jaxinv.models import CLIPTextModel, CLIPTextOutput, T5EncoderModel

#: Classes of T5's tokenizers, for the parts of a family.
T5_TOKENIZERS = ("T5Tokenizer", "T5TokenizerFast")
_ENDS = 2  # tokens of a chunk that are not the prompt's: start and end


def token_ids(
    tokenizer: Any,
    longest: int,
    prompt: str,
    chunks: int = 1,
    *,
    beside_t5: bool = False,
) -> Int[np.ndarray, " l"]:
    """Convert a prompt to token ids, padded to a text encoder's length.

    Args:
        tokenizer: Any callable with the interface of transformers' tokenizers.
        longest: Number of tokens that the text encoder reads.
        prompt: The text. A text that is too long is cut, with a warning.
        chunks: Number of chunks. Those that the text does not fill are padded.
        beside_t5: Whether T5 also reads the text, and whole: then there are no chunks.

    Returns:
        The ids of all chunks in order, int32.
    """
    prompt = with_all_tokens(tokenizer, prompt)
    length = _length(tokenizer, longest)
    whole = _ids(tokenizer, prompt)
    needed = _chunks_of(whole, length)
    if needed > chunks:
        count = len(whole)
        times = f"{chunks} chunks of " if chunks > 1 else ""
        rest = (
            "only T5 reads the rest"
            if beside_t5
            else f"the rest has no effect ({needed} chunks would read it; see "
            "Pipeline.with_chunks and --prompt-chunks)"
        )
        warnings.warn(
            f"the prompt has {count} tokens, but the text encoder reads only "
            f"{times}{length}: {rest}",
            stacklevel=2,
        )
    pad = functools.partial(
        tokenizer, padding="max_length", max_length=length, truncation=True
    )
    if chunks == 1:
        return np.asarray(pad(prompt)["input_ids"], np.int32)
    start, *words, end = whole
    ids = np.tile(np.asarray(pad("")["input_ids"], np.int32), (chunks, 1))
    size = length - _ENDS
    for i in range(min(chunks, needed)):
        chunk = [start, *words[i * size : (i + 1) * size], end]
        ids[i, : len(chunk)] = chunk
    return ids.reshape(-1)


def padded_ids(tokenizer: Any, length: int, prompt: str) -> Int[np.ndarray, " l"]:
    """Convert a prompt to a chosen number of token ids, for text encoders such as T5.

    Args:
        tokenizer: Any callable with the interface of transformers' tokenizers.
        length: Number of tokens.
        prompt: The text. A text that is too long is cut, with a warning.

    Returns:
        The ids with the end token, padded on the right, int32.
    """
    check_unicode(prompt)
    count = len(_ids(tokenizer, prompt))
    if count > length:
        warnings.warn(
            f"the prompt has {count} tokens, of which the text encoder reads {length}: "
            "the rest has no effect",
            stacklevel=2,
        )
    found = tokenizer(prompt, padding="max_length", max_length=length, truncation=True)
    return np.asarray(found["input_ids"], np.int32)


def num_chunks(tokenizer: Any, longest: int, prompt: str) -> int:
    """Return the number of chunks in which a prompt is read whole, at least 1."""
    whole = _ids(tokenizer, with_all_tokens(tokenizer, prompt))
    return _chunks_of(whole, _length(tokenizer, longest))


def _chunks_of(ids: list[int], length: int) -> int:
    return max(1, -(-(len(ids) - _ENDS) // max(length - _ENDS, 1)))


def _ids(tokenizer: Any, prompt: str) -> list[int]:
    """Return all token ids of a prompt, without transformers' warning about many."""
    ids: list[int] = tokenizer(prompt, verbose=False)["input_ids"]
    return ids


def _length(tokenizer: Any, longest: int) -> int:
    return int(min(longest, tokenizer.model_max_length))


def with_all_tokens(tokenizer: Any, prompt: str) -> str:
    """Return a prompt with all tokens of the words of textual inversion in it.

    A word of n vectors has the tokens ``word``, ``word_1``, ..., of which prompts name
    the first.

    Args:
        tokenizer: The tokenizer.
        prompt: The text.

    Returns:
        The text, as ``maybe_convert_prompt`` of diffusers returns it.

    Raises:
        ValueError: If the text has a surrogate, which is half a character.
    """
    check_unicode(prompt)
    added = getattr(tokenizer, "added_tokens_encoder", {})
    if not any(f"{token}_1" in added for token in added):
        return prompt
    for token in dict.fromkeys(tokenizer.tokenize(prompt)):
        if token in added:
            every = [token]
            while f"{token}_{len(every)}" in added:
                every.append(f"{token}_{len(every)}")
            prompt = prompt.replace(token, " ".join(every))
    return prompt


def check_unicode(prompt: str) -> None:
    """Raise ValueError for a text with a surrogate, which is half a character."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"a prompt must be Unicode text, got {shown(prompt)}, with a part of a "
            "character"
        ) from None


@jax.jit
def encode_tokens(
    text_encoder: T5EncoderModel,
    ids: Int[Array, " l"],
    attention_mask: Bool[Array, " l"] | None = None,
) -> Float[Array, "l d"]:
    """Return T5's vectors of one prompt; see :class:`T5EncoderModel`."""
    return text_encoder(ids, attention_mask)


@functools.partial(jax.jit, static_argnames="chunks")
def encode_text(
    text_encoder: CLIPTextModel, ids: Int[Array, " l"], chunks: int = 1
) -> CLIPTextOutput:
    """Return a text encoder's output for one prompt.

    Args:
        text_encoder: The text encoder.
        ids: From :func:`token_ids`.
        chunks: Number of chunks in ``ids``.

    Returns:
        The vectors of all chunks in order, and the pooled vector of the first.
    """
    if chunks == 1:
        return text_encoder(ids)
    found = jax.vmap(text_encoder)(ids.reshape(chunks, -1))
    return CLIPTextOutput(
        found.last_hidden_state.reshape(len(ids), -1),
        found.penultimate_hidden_state.reshape(len(ids), -1),
        found.pooled[0],
    )

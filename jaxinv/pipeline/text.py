"""From a prompt to token ids, and from those to the vectors of a text encoder."""

import warnings
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int

from jaxinv.models import CLIPTextModel, CLIPTextOutput


def token_ids(tokenizer: Any, longest: int, prompt: str) -> Int[np.ndarray, " l"]:
    """Convert a prompt to token ids, padded to a text encoder's length.

    Args:
        tokenizer: Any callable with the interface of transformers' tokenizers.
        longest: Number of tokens that the text encoder reads.
        prompt: The text. A text that is too long is cut, with a warning.

    Returns:
        The ids, int32.
    """
    prompt = with_all_tokens(tokenizer, prompt)
    length = min(longest, tokenizer.model_max_length)
    ids = tokenizer(prompt, padding="max_length", max_length=length, truncation=True)
    needed = len(tokenizer(prompt)["input_ids"])
    if needed > length:
        warnings.warn(
            f"the prompt has {needed} tokens, but the text encoder reads only "
            f"{length}: the rest has no effect",
            stacklevel=2,
        )
    return np.asarray(ids["input_ids"], np.int32)


def with_all_tokens(tokenizer: Any, prompt: str) -> str:
    """Return a prompt with all tokens of the words of textual inversion in it.

    A word of n vectors has the tokens ``word``, ``word_1``, ..., of which prompts name
    the first.

    Args:
        tokenizer: The tokenizer.
        prompt: The text.

    Returns:
        The text, as ``maybe_convert_prompt`` of diffusers returns it.
    """
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


@jax.jit
def encode_text(text_encoder: CLIPTextModel, ids: Int[Array, " l"]) -> CLIPTextOutput:
    """Return a text encoder's output for one prompt."""
    return text_encoder(ids)

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


@jax.jit
def encode_text(text_encoder: CLIPTextModel, ids: Int[Array, " l"]) -> CLIPTextOutput:
    """Return a text encoder's output for one prompt."""
    return text_encoder(ids)

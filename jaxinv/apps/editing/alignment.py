"""Which token of a target prompt corresponds to which token of the source prompt."""

import difflib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from jaxinv.checks import unknown

#: What corresponds: replaced words as well, or words that both prompts have.
Kind = Literal["replace", "refine"]


def alignment(
    source: Int[np.ndarray, " l"], target: Int[np.ndarray, " m"], kind: Kind
) -> Float[np.ndarray, "l m"]:
    """Return the weights of the source's tokens for each token of the target.

    Tokens that both prompts have in the same order correspond to each other. A run of
    tokens that replaces another run corresponds to it, one by one if the numbers are
    equal; otherwise every token to all with equal weights.

    Args:
        source: Token ids of the source prompt, padded.
        target: Token ids of the target prompt.
        kind: Whether replaced tokens correspond to each other.

    Returns:
        A column of zeros for every token without a counterpart.

    Example:
        >>> source, target = np.array([1, 7, 2]), np.array([1, 8, 2])
        >>> alignment(source, target, "refine").sum(0).tolist()
        [1.0, 0.0, 1.0]
    """
    found = np.zeros((len(source), len(target)))
    matcher = difflib.SequenceMatcher(None, source.tolist(), target.tolist(), False)
    for tag, i, i_end, j, j_end in matcher.get_opcodes():
        if tag not in ("equal", kind):
            continue
        block = found[i:i_end, j:j_end]
        same = block.shape[0] == block.shape[1]
        block[:] = np.eye(*block.shape) if same else 1 / block.shape[1]
    return found


def factors(
    tokenizer: Any, target: Int[np.ndarray, " m"], words: Mapping[str, float]
) -> Float[np.ndarray, " m"]:
    """Return a factor for every token of a prompt: those of its words, or 1.

    Args:
        tokenizer: A tokenizer with the interface of transformers'.
        target: Token ids of the prompt.
        words: Words of the prompt with their factors.

    Raises:
        ValueError: If a word is not in the prompt.
    """
    found = np.ones(len(target))
    for word, factor in words.items():
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        places = [
            i
            for i in range(len(target) - len(ids) + 1)
            if ids and target[i : i + len(ids)].tolist() == list(ids)
        ]
        if not places:
            present = tokenizer.decode(target.tolist(), skip_special_tokens=True)
            raise ValueError(unknown("word to reweight", word, present.split()))
        for i in places:
            found[i : i + len(ids)] = factor
    return found

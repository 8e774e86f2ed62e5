"""Prompts that were encoded once, for models without their text encoders.

The text encoder T5-XXL has 4.8 billion parameters. A model with saved encodings looks
its prompts up by their texts, and does not need the text encoder.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from jaxtyping import PyTree

from jaxinv.checks import shown

if TYPE_CHECKING:
    from jaxinv.pipeline.pipeline import Pipeline

_SHOWN = 3  # number of texts that an error names


class SavedPrompt(NamedTuple):
    """A prompt in a file of saved prompts.

    Attributes:
        text: The text.
        negative: Whether it is a negative prompt. Some models encode an empty one as
            zeros.
    """

    text: str
    negative: bool


@dataclasses.dataclass(frozen=True, eq=False)
class SavedPrompts:
    """Encoded prompts, from :func:`jaxinv.save_prompts`.

    Attributes:
        encodings: What ``encode_prompt`` returned, by prompt.
        family: Name of the model's family.
        model: Name of the model that encoded them, for reports.
        image_size: (height, width) in pixels of the images that they were encoded for.
        sha256: Digest of the file, hexadecimal.
        lora: Digests and scales of the LoRA files of the model that encoded them.
    """

    encodings: Mapping[SavedPrompt, PyTree]
    family: str
    model: str
    image_size: tuple[int, int]
    sha256: str
    lora: tuple[tuple[str, float], ...] = ()

    def texts(self, negative: bool) -> list[str]:
        """Return the texts of the prompts, or of the negative ones."""
        return [each.text for each in self.encodings if each.negative == negative]

    def shown(self, negative: bool) -> str:
        """Return the first texts of the prompts, or of the negative ones."""
        texts = [shown(text) for text in self.texts(negative)]
        more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
        return (", ".join(texts[:_SHOWN]) or "none") + more

    def find(self, prompt: SavedPrompt, pipe: "Pipeline") -> PyTree:
        """Return the encoding of a prompt.

        Raises:
            ValueError: If it is not among these prompts, or was encoded for images of
                another size by a model to which the size matters.
        """
        if prompt not in self.encodings:
            kind = "negative prompt" if prompt.negative else "prompt"
            raise ValueError(
                f"the {kind} {shown(prompt.text)} is not among the saved ones "
                f"({self.shown(prompt.negative)}), and {pipe.name} was loaded without "
                "text encoders"
            )
        if pipe.family.sized_prompts and pipe.image_size != self.image_size:
            (height, width), (rows, columns) = self.image_size, pipe.image_size
            raise ValueError(
                f"the saved prompts were encoded for images of {width}x{height} "
                f"pixels, which {pipe.name} reads with the text; encode them again for "
                f"{columns}x{rows}"
            )
        return self.encodings[prompt]

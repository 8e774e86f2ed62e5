"""The model, its prompts, its noises: what the papers' tables have in common."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

import jaxinv as ji
from benchmarks.samples import PROMPTS, named_key

_T = TypeVar("_T")
#: Models with random weights, which no folder holds.
RANDOM = ("tiny-sdxl", "sd-autoencoders")


@dataclasses.dataclass(eq=False)
class Setting:
    """A model and the samples that it makes.

    Attributes:
        model: What ``ji.load`` takes, or a name of ``RANDOM``.
        prompts: Prompts, in turn for the images.
        seed: Of the noises; image k has the noise of ``fold_in(key(seed), k)``.
        data: Folder of the packages of drawings, for tables of real pictures.
        negative: The negative prompt.
        folders: Local weights of metrics by name (``"inception"``, ``"clip"``, ...).
    """

    model: str = "emoji64"
    prompts: tuple[str, ...] = PROMPTS
    seed: int = 0
    data: Path | None = None
    negative: str = ""
    folders: dict[str, Path] = dataclasses.field(default_factory=dict)
    _shared: dict[Any, Any] = dataclasses.field(default_factory=dict, repr=False)

    @functools.cached_property
    def pipe(self) -> Any:
        """The model, in float32."""
        return load(self.model)

    @functools.cached_property
    def label(self) -> str:
        """The model's name in file names and tables."""
        return Path(self.model).name if Path(self.model).exists() else self.model

    def prompt(self, index: int) -> str:
        """Return the prompt of an image."""
        return self.prompts[index % len(self.prompts)]

    def condition(self, prompt: str) -> Any:
        """Return a prompt's condition, encoded once."""
        return self.shared(
            ("condition", prompt), lambda: self.pipe.encode_prompt(prompt)
        )

    def noise(self, index: int) -> Any:
        """Return the unit noise of an image; shape (h, w, c)."""
        key = jax.random.fold_in(jax.random.key(self.seed), index)
        return jax.random.normal(key, self.pipe.latent_shape)

    def denoiser(self, prompt: str, guidance: float) -> Any:
        """Return the model with a prompt; models without text ignore both."""
        if not self.pipe.text_encoders:
            return self.pipe.denoiser()
        cond, empty = self.condition(prompt), self.condition(self.negative)
        return self.pipe.denoiser(cond, empty, jnp.float32(guidance))

    def key(self, *names: Any) -> Any:
        """Return a random key of its own for named uses (text and integers)."""
        return named_key(self.seed, *names)

    def shared(self, name: Any, make: Callable[[], _T]) -> _T:
        """Return what is stored under a name, made when it is first asked for.

        The command empties the store of what was made for an image (names that are
        tuples beginning with ``"image"``) before the next image.
        """
        if name not in self._shared:
            self._shared[name] = make()
        return self._shared[name]  # type: ignore[no-any-return]

    def forget_image(self) -> None:
        """Empty the store of what was made for an image."""
        for name in [name for name in self._shared if name[0] == "image"]:
            del self._shared[name]


def load(model: str, **options: Any) -> Any:
    """Load a model by its name, those of ``RANDOM`` too, with options of ji.load."""
    if model == "sd-autoencoders":
        from benchmarks.papers.decoder.full_size import FullSize

        return FullSize()
    if model != "tiny-sdxl":
        return ji.load(model, **options)
    from benchmarks.papers.tiny_sdxl import write

    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        return ji.load(folder, **options)


def read_prompts(path: Path) -> tuple[str, ...]:
    """Return the prompts of a file, one a line.

    Raises:
        ValueError: If it has none.
    """
    lines = (line.strip() for line in path.read_text().splitlines())
    found = tuple(line for line in lines if line)
    if not found:
        raise ValueError(f"{path} has no prompts; expected one in each line")
    return found

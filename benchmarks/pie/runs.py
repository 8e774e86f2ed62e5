"""The runs of :mod:`benchmarks.pie`: every picture through all cells before the next.

A cell is an inversion with an editing method. What several cells of a picture need, its
latent and each inversion, is computed once.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxinv as ji
from benchmarks.editing.preference import preference
from benchmarks.pie import layout, weights
from benchmarks.pie.inversions import INVERSIONS, Inverted, invert, prepare
from benchmarks.pie.layout import Entry
from benchmarks.pie.metrics import OF_PIXELS
from benchmarks.report import Kept
from benchmarks.samples import files_of, named_key, weights_of
from jaxinv.apps.editing import METHODS
from jaxinv.checks import one_line
from jaxinv.files.image_reading import read_image
from jaxinv.files.images import write_image

#: The default inverse of the decoder.
DECODER = "anderson"
#: The cell of the picture's own latent: what the autoencoder alone changes.
UNEDITED = ("none", "none")


class Setting:
    """The model, the pictures, and what was measured before.

    Args:
        arguments: Of the command.

    Raises:
        ValueError: If the folder, the model or a folder of weights cannot be used, or
            if no inversion or no method is known.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        entries, self.faults = layout.read_folder(arguments.folder)
        self.inversions = self.known("inversion", arguments.inversions, INVERSIONS)
        self.methods = self.known("method", arguments.methods, METHODS)
        self.pipe = ji.load(arguments.model)
        self.methods = [name for name in self.methods if self.takes(name)]
        entries = [entry for entry in entries if self.fits(entry)]
        if not self.methods or not entries:
            raise ValueError("; ".join(self.faults[-3:]))
        self.entries = layout.balanced(entries, arguments.images)
        digest = hashlib.sha256((arguments.folder / layout.MAPPING).read_bytes())
        for entry in entries:
            digest.update(entry.image.tobytes())
        self.measures = OF_PIXELS | weights.measures(
            arguments.lpips, arguments.clip, arguments.dino
        )
        folders = [getattr(arguments, name) for name in weights.FOLDERS]
        self.of_inversion = {
            name: split(name, arguments.inversion_guidance) for name in self.inversions
        }
        self.prepared = {
            name: prepare(name, self.pipe.schedule, arguments.steps)
            for name, _ in self.of_inversion.values()
        }
        settings = [
            str(arguments.model),
            weights_of(arguments.model),
            arguments.seed,
            arguments.steps,
            arguments.guidance,
            arguments.inversion_guidance,
            sorted(self.measures),
            [files_of(folder) if folder else None for folder in folders],
            digest.hexdigest()[:16],
            arguments.decoder,
        ]
        self.kept = Kept(arguments.resume, "cell", given=settings)
        for fault in self.faults:
            print(fault, file=sys.stderr)

    def fits(self, entry: Entry) -> bool:
        """Return whether the model takes a picture, or note why not."""
        height, width = entry.image.shape[:2]
        factor = self.pipe.factor
        if height % factor or width % factor:
            self.faults.append(
                f"{entry.name}: the picture is {width}x{height}; the model takes "
                f"multiples of {factor}"
            )
        return not (height % factor or width % factor)

    def takes(self, name: str) -> bool:
        """Return whether a method takes the model's network, or note why not."""
        try:
            METHODS[name].check(self.pipe)
        except ValueError as error:
            self.faults.append(one_line(error))
            return False
        return True

    def known(self, what: str, names: list[str], registry: Any) -> list[str]:
        """Return the names that a registry has, and note the others."""
        found = []
        for name in names:
            try:
                known = split(name, 1.0)[0] in registry
            except ValueError:
                known = False
            if known and (what == "inversion" or "@" not in name):
                found.append(name)
                continue
            self.faults.append(
                f"unknown {what} {name!r}; expected one of {', '.join(registry)}"
            )
        if not found:
            raise ValueError(self.faults[-1])
        return found

    def cells(self) -> list[tuple[str, str]]:
        """Return all inversions with all methods."""
        return [UNEDITED] + [(i, m) for i in self.inversions for m in self.methods]

    def measure(self) -> None:
        """Measure all that is not known yet, picture by picture."""
        for number, entry in enumerate(self.entries):
            edits = Edits(self, entry)
            for cell in self.cells():
                self.kept([entry.name, *cell], functools.partial(edits.score, cell))
            print(f"{number + 1} of {len(self.entries)} pictures", flush=True)

    def found(self, cell: tuple[str, str]) -> list[tuple[Entry, dict[str, Any]]]:
        """Return what is known of a cell."""
        return [
            (entry, self.kept.found[key])
            for entry in self.entries
            if (key := (entry.name, *cell)) in self.kept.found
        ]

    def complete(self) -> list[Entry]:
        """Return the pictures that have gone through all cells."""
        found = self.kept.found
        return [
            entry
            for entry in self.entries
            if all((entry.name, *cell) in found for cell in self.cells())
        ]

    def path(self, entry: Entry, cell: tuple[str, str]) -> Path:
        """Return the file of an edited picture, where the published evaluator reads."""
        out = self.arguments.pictures / "+".join(cell) / layout.IMAGES
        return out / entry.path


class Edits:
    """All edits of one picture."""

    def __init__(self, setting: Setting, entry: Entry) -> None:
        self.setting, self.entry = setting, entry
        self.pipe = setting.pipe

    @functools.cached_property
    def latent(self) -> jax.Array:
        """Return the latent whose decoding matches the picture."""
        method = self.setting.arguments.decoder
        return _latent(self.pipe, self.entry.image, method)

    @functools.cache  # noqa: B019
    def vectors(self, prompt: str) -> Any:
        """Return a prompt's encoding."""
        return self.pipe.encode_prompt(prompt)

    @functools.cache  # noqa: B019
    def inverted(self, name: str) -> Inverted:
        """Return an inversion with the source prompt."""
        base, guidance = self.setting.of_inversion[name]
        source, empty = self.vectors(self.entry.source), self.vectors("")
        denoise = self.pipe.denoiser(source, empty, guidance)
        prepared = self.setting.prepared[base]
        return invert(prepared, denoise, self.latent, self.key("inversion"))

    def key(self, what: str) -> jax.Array:
        """Return a random key of this picture."""
        return named_key(self.setting.arguments.seed, what, self.entry.name)

    def edited(self, cell: tuple[str, str]) -> jax.Array:
        """Return the edited latent of a cell."""
        if cell == UNEDITED:
            return self.latent
        inversion, method = cell
        found = self.inverted(inversion)
        return METHODS[method](
            self.pipe,
            found.sampler,
            found.result,
            self.entry.source,
            self.entry.target,
            guidance_scale=self.setting.arguments.guidance,
        )

    def score(self, cell: tuple[str, str]) -> dict[str, Any]:
        """Return the metrics of one cell, as they are of the written picture."""
        try:
            latent = self.edited(cell)
            decoded = np.asarray(self.pipe.decode(latent))
            if not np.isfinite(decoded).all():
                raise ValueError("the edited picture is not finite")
        except ValueError as error:
            fault = f"{self.entry.name}, {'+'.join(cell)}: {one_line(error)}"
            print(fault, file=sys.stderr)
            return {"fault": fault}
        file = self.setting.path(self.entry, cell)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_image(file, decoded)
        picture = read_image(file).pixels
        found: dict[str, Any] = {
            name: measure(self.entry, picture)
            for name, measure in self.setting.measures.items()
        }
        ways = map(self.vectors, (self.entry.source, self.entry.target))
        gain = preference(self.pipe, latent, *ways, self.key("preference"))
        found["gain"] = float(gain)
        if cell != UNEDITED:
            result = self.inverted(cell[0]).result
            found["converged"] = bool(result.state_converged)
            found["reconstruction"] = float(result.state_reconstruction)
            found["evals"] = int(result.num_evals)
        return found


def split(name: str, guidance: float) -> tuple[str, float]:
    """Return an inversion's name and its guidance, which may follow ``@``.

    >>> split("exact_ddim@7.5", 1.0)
    ('exact_ddim', 7.5)
    """
    base, at, scale = name.partition("@")
    return base, float(scale) if at else guidance


@functools.partial(jax.jit, static_argnames="method")
def _latent(pipe: Any, image: Any, method: str) -> Any:
    return pipe.invert_decoder(image, method).latent

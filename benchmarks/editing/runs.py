"""The pictures, edits and single runs of :mod:`benchmarks.editing`."""

import argparse
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from skimage.metrics import structural_similarity

import jaxinv as ji
from benchmarks.editing.preference import preference
from benchmarks.report import Kept
from jaxinv.apps import editing, masks
from training.backgrounds import COLORS, composite
from training.captions import background_phrase
from training.drawings import HELD_OUT, phrases, read_drawings
from training.placements import Placement, place

GUIDANCE = 3.0
#: Samplers with the way that they are inverted.
METHODS: dict[str, tuple[Callable[[ji.TimeGrid], ji.SamplerTable], str]] = {
    "DDIM, naive": (ji.ddim, "naive"),
    "DDIM, exact": (ji.ddim, "stepwise"),
    "O-BELM": (ji.o_belm, "auto"),
}
KINDS = ("background", "object")
OBJECTS = (
    "red heart",
    "pizza",
    "dog face",
    "soccer ball",
    "red apple",
    "sun with face",
)
#: Where the drawings lie.
PLACEMENT = Placement(0.8, 0.5, 0.5, 0.0, mirrored=False)
#: A picture is used if at least so much of it is kept, and so much may change.
LEAST = 0.1


class Run(NamedTuple):
    """One edit.

    Attributes:
        kind: What the target prompt changes: the background or the object.
        method: Sampler and inverse.
        masked: Whether the states outside of the mask are kept.
        index: Which picture.
    """

    kind: str
    method: str
    masked: bool
    index: int


class Task(NamedTuple):
    """A picture and what to make of it.

    Attributes:
        image: (h, w, 3), 8 bits.
        source: Its caption.
        target: The other caption.
        mask: (h / f, w / f, 1): 1 where the latent may change.
        colour: The target's background, of a background edit.
    """

    image: np.ndarray
    source: str
    target: str
    mask: np.ndarray
    colour: np.ndarray | None


def plan(arguments: argparse.Namespace) -> list[Run]:
    """Return all runs that are wanted, picture by picture."""
    return [
        Run(kind, method, masked, index)
        for index in range(arguments.pictures)
        for kind in KINDS
        for method in METHODS
        for masked in (False, True)
    ]


class Setting:
    """The model, the pictures, and what was measured before."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.pipe = ji.load(arguments.model)
        given = [arguments.model, arguments.seed, arguments.steps]
        self.kept = Kept(arguments.resume, "run", given=given)

    @property
    def found(self) -> dict[Run, dict[str, Any]]:
        """What is known of the runs."""
        return {Run(*run): found for run, found in self.kept.found.items()}

    @functools.cached_property
    def drawings(self) -> list[tuple[str, np.ndarray]]:
        """Held-out ones, placed, of which enough is kept whatever is edited.

        A phrase and RGBA in [0, 1], premultiplied, for each.
        """
        drawn = read_drawings(self.arguments.data, HELD_OUT)
        rng = np.random.default_rng(self.arguments.seed)
        chosen = []
        for index in rng.permutation(len(HELD_OUT)):
            style = rng.integers(drawn.rgba.shape[1])
            rgba = place(drawn.rgba[index, style], PLACEMENT)
            shares = [self._mask(rgba, kind).mean() for kind in KINDS]
            if all(LEAST <= share <= 1 - LEAST for share in shares):
                chosen.append((phrases(HELD_OUT[index])[0], rgba))
        if len(chosen) < self.arguments.pictures:
            raise ValueError(f"only {len(chosen)} held-out drawings can be used")
        return chosen

    def _mask(self, rgba: np.ndarray, kind: str) -> np.ndarray:
        alpha = rgba[..., 3]
        changes = alpha < 0.99 if kind == "background" else alpha > 0.01
        return masks.latent_mask(changes, self.pipe.factor)

    @functools.cache  # noqa: B019
    def task(self, kind: str, index: int) -> Task:
        """Return the picture with its captions and its mask."""
        seed = [self.arguments.seed, index]
        rng = np.random.default_rng(seed)
        subject, rgba = self.drawings[index]
        names = sorted(COLORS)
        here = names[rng.integers(len(names))]
        plain = np.broadcast_to(np.float32(COLORS[here]), (*rgba.shape[:2], 3))
        image = composite(rgba, plain, np.zeros((1, 1, 1), np.float32), rng)
        where = background_phrase(here)
        colour = None
        if kind == "background":
            far = [
                name
                for name in names
                if np.linalg.norm(np.subtract(COLORS[name], COLORS[here])) > 0.6
            ]
            chosen = far[rng.integers(len(far))]
            target = f"{subject} {background_phrase(chosen)}"
            colour = np.float32(COLORS[chosen])
        else:
            target = f"{OBJECTS[index % len(OBJECTS)]} {where}"
        pixels = np.round(255 * image).astype(np.uint8)
        return Task(
            pixels, f"{subject} {where}", target, self._mask(rgba, kind), colour
        )

    @functools.cache  # noqa: B019
    def vectors(self, prompt: str) -> Any:
        """Of a prompt."""
        return self.pipe.encode_prompt(prompt)

    def denoiser(self, prompt: str) -> Any:
        """Of a prompt, guided."""
        empty = self.vectors("")
        return self.pipe.denoiser(self.vectors(prompt), empty, jnp.float32(GUIDANCE))

    @functools.lru_cache(maxsize=4)  # noqa: B019
    def latent(self, index: int) -> Any:
        """Of a picture; both kinds of edits begin with the same one."""
        image = self.task(KINDS[0], index).image
        return _latent(self.pipe, image)

    @functools.cache  # noqa: B019
    def sampler(self, method: str) -> ji.SamplerTable:
        """On the default grid."""
        grid = ji.time_grid(self.pipe.schedule, self.arguments.steps)
        return METHODS[method][0](grid)

    def measure(self, runs: list[Run]) -> None:
        """Return all that is not known yet."""
        for run in runs:
            self.kept(run, lambda run=run: self.score(run, *self.edited(run)))

    def edited(self, run: Run) -> tuple[np.ndarray, editing.Edit]:
        """Return the picture after the edit, and the edit."""
        task = self.task(run.kind, run.index)
        edit = editing.edit(
            self.sampler(run.method),
            self.denoiser(task.source),
            self.denoiser(task.target),
            self.latent(run.index),
            mask=task.mask if run.masked else None,
            strategy=METHODS[run.method][1],
        )
        return np.asarray(self.pipe.decode(edit.latent)), edit

    def score(
        self, run: Run, picture: np.ndarray, edit: editing.Edit
    ) -> dict[str, Any]:
        """Return how much was kept, and how much changed."""
        task = self.task(run.kind, run.index)
        before = task.image.astype(np.float32) / 255
        ways = [self.vectors(prompt) for prompt in (task.source, task.target)]
        gain = preference(self.pipe, edit.latent, *ways, jax.random.key(run.index))
        changes = self.pixels(task.mask)
        kept = ~changes[..., None]
        ceiling = np.asarray(self.pipe.decode(self.latent(run.index)))
        found = {
            "kept_psnr": float(ji.psnr(picture, before, where=kept)),
            "kept_ssim": _ssim(picture, before, ~changes),
            "ceiling_psnr": float(ji.psnr(ceiling, before, where=kept)),
            "ceiling_ssim": _ssim(ceiling, before, ~changes),
            "changed_rms": float(np.sqrt(np.mean((picture - before)[changes] ** 2))),
            "gain": float(gain),
            "converged": bool(edit.inversion.converged),
            "evals": int(edit.inversion.num_evals),
        }
        if task.colour is not None:
            clear = changes & (self.drawings[run.index][1][..., 3] == 0)
            for name, pixels in (("before", before), ("after", picture)):
                off = pixels[clear] - task.colour
                found[f"colour_{name}"] = float(np.sqrt(np.mean(off**2)))
        return found

    def pixels(self, mask: np.ndarray) -> np.ndarray:
        """Return a latent's mask in pixels, as booleans."""
        return np.kron(mask[..., 0], np.ones((self.pipe.factor,) * 2)) > 0


@jax.jit
def _latent(pipe: Any, image: Any) -> Any:
    return pipe.invert_decoder(image).latent


def _ssim(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float:
    _, full = structural_similarity(a, b, channel_axis=-1, data_range=1.0, full=True)
    return float(full[where].mean())

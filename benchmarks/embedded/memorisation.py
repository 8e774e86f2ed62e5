"""What the embedded model has memorised, and where its steps come close to folding.

Three measures. How far apart the pictures of one prompt are, beside how far apart those
of different prompts are: a model that has memorised gives one picture for each prompt.
How many of a prompt's pictures have the same nearest training picture. The smallest
singular value of every sampler step: at zero a step folds, and two states lead to one.
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.embedded.inversion import PROMPTS
from benchmarks.report import table
from benchmarks.samples import make_sampler


def latents(
    pipe: Any, prompts: int, seeds: int, guidance: float, seed: int
) -> np.ndarray:
    """Return samples of the first prompts, (prompts, seeds, h, w, c).

    Every prompt begins with the same noises, so that a distance between seeds and one
    between prompts differ in nothing else.
    """
    sampler = make_sampler(pipe, "DDIM", "log_snr", 20)
    noises = jax.random.normal(jax.random.key(seed), (seeds, *pipe.latent_shape))
    empty, scale = pipe.encode_prompt(""), jnp.float32(guidance)
    rows = []
    for prompt in PROMPTS[:prompts]:
        cond = pipe.encode_prompt(prompt)
        rows.append([_sample(pipe, sampler, cond, empty, scale, z) for z in noises])
    return np.array(rows)


@jax.jit
def _sample(
    pipe: Any, sampler: Any, cond: Any, empty: Any, scale: Any, noise: Any
) -> Any:
    return ji.sample(sampler, pipe.denoiser(cond, empty, scale), noise)


def distances(found: np.ndarray) -> tuple[float, float]:
    """Return RMS distances: two seeds of one prompt, one seed of two prompts.

    Args:
        found: Samples, shape (prompts, seeds, ...).
    """
    flat = found.reshape(*found.shape[:2], -1)

    def between(rows: np.ndarray) -> float:
        """Over all pairs along the second axis."""
        count = rows.shape[1]
        squares = np.mean((rows[:, :, None] - rows[:, None]) ** 2, -1)
        return float(np.sqrt(squares.sum() / (len(rows) * count * (count - 1))))

    return between(flat), between(flat.swapaxes(0, 1))


def nearest(found: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Return the index of each sample's nearest training picture, (prompts, seeds).

    Args:
        found: Samples, shape (prompts, seeds, ...).
        training: Training latents, shape (n, ...).
    """
    rows = training.reshape(len(training), -1)
    flat = found.reshape(-1, rows.shape[1])
    squares = np.sum(rows**2, 1) - 2 * flat @ rows.T
    return np.argmin(squares, 1).reshape(found.shape[:2])


def read_training(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return scaled training latents (n, h, w, c) and their kinds from a cache."""
    import torch

    cache = torch.load(path)
    means = cache["mean"].float().permute(0, 2, 3, 1).numpy()
    return means / float(cache["latent_std"]), cache["kind"].numpy()


def same_for_all(indices: np.ndarray) -> float:
    """Return the share of prompts all of whose seeds have one nearest picture."""
    return float(np.mean([len(set(row)) == 1 for row in indices]))


def singular_values(
    pipe: Any, name: str, guidance: float, prompts: int, seed: int, vectors: int
) -> np.ndarray:
    """Return a bound of every step's smallest singular value, (prompts, steps)."""
    sampler = make_sampler(pipe, name, "log_snr", 20)
    empty = pipe.encode_prompt("")
    rows = []
    for index, prompt in enumerate(PROMPTS[:prompts]):
        key = jax.random.fold_in(jax.random.key(seed), index)
        noise = jax.random.normal(key, pipe.latent_shape)
        denoise = pipe.denoiser(
            pipe.encode_prompt(prompt), empty, jnp.float32(guidance)
        )
        states = ji.sample_trajectory(sampler, denoise, noise)
        result = ji.analysis.step_conditioning(
            sampler, denoise, states, num_vectors=vectors
        )
        rows.append(np.asarray(result.smallest))
    return np.array(rows)


def report(pipe: Any, arguments: argparse.Namespace, seeds: int = 6) -> str:
    """Return the tables of all three measures."""
    prompts, seed, training = arguments.prompts, arguments.seed, arguments.training
    rows = []
    for guidance in (1.0, 3.0, 7.5):
        found = latents(pipe, prompts, seeds, guidance, seed)
        of_seeds, of_prompts = distances(found)
        row = [
            f"{guidance:g}",
            f"{of_seeds:.2f}",
            f"{of_prompts:.2f}",
            f"{of_seeds / of_prompts:.2f}",
        ]
        if training:
            known, kinds = read_training(training)
            indices = nearest(found, known)
            different = np.mean([len(set(line)) for line in indices])
            kind = same_for_all(kinds[indices])
            row += [f"{100 * same_for_all(indices):.0f} %", f"{different:.1f}"]
            row += [f"{100 * kind:.0f} %"]
        rows.append(row)
    header = ["guidance", "between seeds", "between prompts", "ratio"]
    if training:
        header += [
            "prompts with one nearest training picture for all seeds",
            f"different ones among {seeds} seeds",
            "prompts with one nearest kind for all seeds",
        ]
    parts = [
        f"DDIM, 20 steps, {prompts} prompts with the same {seeds} noises each: RMS "
        "distances of latents.",
        table(header, rows),
    ]
    rows, count = [], arguments.fold_prompts
    for guidance in (1.0, 3.0, 5.0, 7.5):
        smallest = singular_values(
            pipe, "DDIM", guidance, count, seed, arguments.vectors
        )
        rows.append(
            [
                f"{guidance:g}",
                f"{np.median(smallest.min(1)):.3f}",
                f"{smallest.min():.3f}",
                int(np.median(smallest.argmin(1))) + 1,
            ]
        )
    header = [
        "guidance",
        "smallest singular value, median prompt",
        "worst prompt",
        "at step (from the data)",
    ]
    parts += [
        f"The steps that come closest to folding: DDIM, 20 steps, the first {count} "
        f"prompts, upper bounds from {arguments.vectors} Lanczos vectors.",
        table(header, rows),
    ]
    return "\n\n".join(parts)

r"""Frechet distance of samples to the training set, at equal evaluations, guidance 1.

With means m and covariances C of some features of both sets,

    |m_1 - m_2|^2 + tr(C_1 + C_2 - 2 (C_1^{1/2} C_2 C_1^{1/2})^{1/2}).

The features are the latents of the model's own autoencoder (samples of its posterior,
which the UNet was trained on), projected onto the first principal components of the
training set: so few that the covariances have full rank. They need no
network from elsewhere, and see colours, shapes and layout; they do not see what an
Inception network would call an object. All samplers get the same captions and noises,
drawn as in training. The smallest distance that so many samples can have is that of
other pictures of the training distribution, which is given beside. Standard errors are
those of a bootstrap over the samples, paired where samplers are compared.
"""

import argparse
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.belm.setting import SAMPLERS, Setting, make, sample_all, steps_of
from benchmarks.report import body, table
from benchmarks.samples import Samples

TITLE = "Frechet distance to the training set"
RESAMPLES = 100


def add_arguments(group: Any) -> None:
    group.add_argument("--frechet-samples", type=int, default=500)
    group.add_argument("--frechet-training", type=int, default=2000)
    group.add_argument("--frechet-evaluations", type=int, nargs="+", default=[20, 50])
    group.add_argument("--frechet-components", type=int, default=64)
    group.add_argument(
        "--frechet-samplers",
        nargs="+",
        choices=SAMPLERS,
        default=["DDIM", "2M", "BDIA", "EDICT", "O-BELM"],
    )


def cells(arguments: argparse.Namespace) -> list[tuple[Any, ...]]:
    sizes = (
        arguments.frechet_samples,
        arguments.frechet_training,
        arguments.frechet_components,
    )
    return [
        ("training set", 0, *sizes),
        *(
            (sampler, evaluations, *sizes)
            for evaluations in arguments.frechet_evaluations
            for sampler in arguments.frechet_samplers
        ),
    ]


class Features(NamedTuple):
    """The training set in its principal components.

    Attributes:
        mean: Of the latents, shape (d,).
        axes: Shape (d, m).
        values: Features of the training set, shape (n, m).
        share: Of the latents' variance that the components hold.
    """

    mean: np.ndarray
    axes: np.ndarray
    values: np.ndarray
    share: float

    def of(self, latents: np.ndarray) -> np.ndarray:
        """Features of latents, (b, m)."""
        flat = np.asarray(latents, np.float64).reshape(len(latents), -1)
        return (flat - self.mean) @ self.axes


def measure(setting: Setting, what: tuple[Any, ...], found: Any) -> dict[str, Any]:
    name, evaluations, count, training, components = what
    features = training_features(setting, training, components)
    if name == "training set":
        latents = encoded(setting, count, seed=1)
    else:
        samples = captioned_noises(setting, count)
        steps = steps_of(name, evaluations)
        sampler = make(name, setting.pipe.schedule, steps)
        latents = sample_all(setting, sampler, samples, 1.0)
    own = features.of(latents)
    # The same resamples for all cells: differences are paired.
    rng = np.random.default_rng(setting.arguments.seed)
    draws = rng.integers(0, count, (RESAMPLES, count))
    again = [frechet(own[draw], features.values) for draw in draws]
    return {
        "distance": frechet(own, features.values),
        "bootstrap": again,
        "share": features.share,
    }


@functools.cache
def training_features(setting: Setting, count: int, components: int) -> Features:
    """Encode the training set, once per run."""
    latents = encoded(setting, count, seed=0).astype(np.float64).reshape(count, -1)
    mean = latents.mean(0)
    _, sizes, axes = np.linalg.svd(latents - mean, full_matrices=False)
    axes = axes[:components].T
    share = float(np.sum(sizes[:components] ** 2) / np.sum(sizes**2))
    return Features(mean, axes, (latents - mean) @ axes, share)


def encoded(setting: Setting, count: int, seed: int) -> np.ndarray:
    """Latents of training pictures, sampled from the posterior."""
    images = setting.training_set(count, seed).images
    keys = jax.random.split(jax.random.key(seed), count)
    return np.stack(
        [
            np.asarray(posterior_sample(setting.pipe, image, key))
            for image, key in zip(images, keys, strict=True)
        ]
    )


@jax.jit
def posterior_sample(pipe: Any, image: Any, key: Any) -> Any:
    """Return a latent of an image, from the autoencoder's posterior."""
    config = pipe.vae.config
    latent = pipe.vae.encode(2 * image - 1).sample(key)
    return (latent - (config.shift_factor or 0.0)) * config.scaling_factor


@functools.cache
def captioned_noises(setting: Setting, count: int) -> Samples:
    """Captions as in training (one in five empty), and noises."""
    captions = setting.training_set(count, seed=2).captions
    rng = np.random.default_rng([setting.arguments.seed, 3])
    dropped = rng.random(count) < 0.2
    texts = ["" if drop else c for c, drop in zip(captions, dropped, strict=True)]
    conds = jnp.stack([setting.pipe.encode_prompt(text) for text in texts])
    key = jax.random.key(setting.arguments.seed)
    like = jax.eval_shape(setting.pipe.encode, setting.training_set(1, 0).images[0])
    noises = jax.random.normal(key, (count, *like.shape))
    return Samples(conds, noises, setting.empty)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of two sets of features, (n, m) and (k, m)."""
    root = _root(np.cov(a, rowvar=False))
    other = np.cov(b, rowvar=False)
    cross = np.linalg.eigvalsh(root @ other @ root)
    shift = np.sum((a.mean(0) - b.mean(0)) ** 2)
    spread = np.sum(root**2) + np.trace(other)
    return float(shift + spread - 2 * np.sum(np.sqrt(np.maximum(cross, 0))))


def _root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def report(arguments: argparse.Namespace, found: dict[Any, Any]) -> str:
    """Return a row per sampler, a column per number of evaluations."""
    budgets = arguments.frechet_evaluations
    floor = next((v for w, v in found.items() if w[0] == "training set"), None)
    rows = []
    for sampler in arguments.frechet_samplers:
        own = [_find(found, sampler, n) for n in budgets]
        ours = [_find(found, "O-BELM", n) for n in budgets]
        rows.append(
            (
                sampler,
                *(
                    _with_error(v["distance"], v["bootstrap"]) if v else "-"
                    for v in own
                ),
                *(
                    _with_error(
                        v["distance"] - o["distance"],
                        np.subtract(v["bootstrap"], o["bootstrap"]),
                        "+",
                    )
                    if v and o and sampler != "O-BELM"
                    else "-"
                    for v, o in zip(own, ours, strict=True)
                ),
            )
        )
    if floor:
        shown = _with_error(floor["distance"], floor["bootstrap"])
        rows.append(("other training pictures", *[shown] * len(budgets)))
        rows[-1] += ("-",) * len(budgets)
    header = (
        "sampler",
        *(f"{n} evaluations" for n in budgets),
        *(f"above O-BELM, {n}" for n in budgets),
    )
    share = next(iter(found.values()))["share"]
    return f"""{body(__doc__, 1)}

{arguments.frechet_samples} samples, {arguments.frechet_training} training pictures,
{arguments.frechet_components} components with {share:.1%} of the latents' variance.

{table(header, rows)}"""


def _find(found: dict[Any, Any], sampler: str, evaluations: int) -> Any:
    own = [v for w, v in found.items() if w[:2] == (sampler, evaluations)]
    return own[0] if own else None


def _with_error(value: float, again: Any, sign: str = "") -> str:
    return f"{value:{sign}.2f} ± {np.std(again):.2f}"

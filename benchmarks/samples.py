"""The samples, samplers and single runs that the benchmarks share.

A sample is a prompt and a noise; its latents at all noise levels are what the sampler
makes of them, and these are inverted as they are: no image, no decoder. One evaluation
is one call of the guided model for one sample, with both branches.

On a CPU samples run one after another: a batch of eight is no faster there, and no
sample then pays for the iterations of another. On an accelerator they are one batch.
"""

import functools
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from jaxinv.loading.find import find_model
from jaxinv.scale.jobs import files_fingerprint, model_fingerprint

PROMPTS = (
    "red heart on a light blue background",
    "pizza on a white background",
    "dog face on a green background",
    "soccer ball on a yellow background",
    "red apple on a light gray background",
    "sun with face on a blue background",
    "grinning face on a purple background",
    "house with garden on a pink background",
)
# A quarter of the tolerance of ``invert``'s reconstruction in float32, 4e-4.
CONVERGED_DB = -80.0

SAMPLERS = {"2M": ji.dpmpp_2m, "DDIM": ji.ddim, "3M": ji.dpmpp_3m}


class Samples(NamedTuple):
    """What is inverted.

    Attributes:
        conds: Text vectors, shape (b, l, d); (b, 0) for models without text.
        noises: Unit noise, shape (b, h, w, c).
        uncond: Text vectors of the empty prompt, shape (l, d).
    """

    conds: Any
    noises: Any
    uncond: Any

    def some(self, part: slice | np.ndarray) -> "Samples":
        """Return some of the samples, by a slice or by indices."""
        return Samples(self.conds[part], self.noises[part], self.uncond)


class Outcome(NamedTuple):
    """Inverting some samples: the certificate, and the truth.

    Attributes:
        noise_db: NMSE of the noise.
        reconstruction_db: NMSE of the latent that the found noise leads to.
        state_db: NMSE of the states of all levels, data first.
        converged: Steps solved, and the reconstruction within ``invert``'s tolerance.
        residual: The result's own largest residual.
        evals: evaluations.
        depth: Those that had to wait for one another.
        iterations: Of each step.
    """

    noise_db: Any
    reconstruction_db: Any
    state_db: Any
    converged: Any
    residual: Any
    evals: Any
    depth: Any
    iterations: Any


def named_key(seed: int, *names: Any) -> Any:
    """Return a random key of its own for named uses (text and integers)."""
    key = jax.random.key(seed)
    for name in names:
        number = name if isinstance(name, int) else zlib.crc32(str(name).encode())
        key = jax.random.fold_in(key, number)
    return key


def weights_of(model: str) -> str:
    """Return a digest of the weights and configurations of a model of ``ji.load``."""
    return model_fingerprint(find_model(model))[:16]


def files_of(folder: Path) -> str:
    """Return a digest of all files of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    named = {str(path.relative_to(folder)): path for path in files}
    return files_fingerprint(named)[:16]


def make_samples(pipe: Any, count: int, seed: int) -> Samples:
    """Prompts in turn, each sample with a noise of its own."""
    if not pipe.text_encoders:
        noises = jax.random.normal(jax.random.key(seed), (count, *pipe.latent_shape))
        return Samples(jnp.zeros((count, 0)), noises, jnp.zeros(0))
    prompts = [PROMPTS[k % len(PROMPTS)] for k in range(count)]
    vectors = {prompt: pipe.encode_prompt(prompt) for prompt in set(prompts)}
    noises = jax.random.normal(jax.random.key(seed), (count, *pipe.latent_shape))
    conds = jnp.stack([vectors[prompt] for prompt in prompts])
    return Samples(conds, noises, pipe.encode_prompt(""))


def denoiser(pipe: Any, samples: Samples, cond: Any, scale: Any) -> Any:
    """Return the model with the condition of one sample, if it takes one."""
    if not pipe.text_encoders:
        return pipe.denoiser()
    return pipe.denoiser(cond, samples.uncond, scale)


def make_sampler(pipe: Any, name: str, spacing: Any, steps: int) -> ji.SamplerTable:
    """Return a sampler by its name in the tables; lossy grids are tested on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ji.LossyGridWarning)
        return SAMPLERS[name](ji.time_grid(pipe.schedule, steps, spacing))


def true_states(
    pipe: Any, sampler: Any, samples: Samples, guidance: float, batch: int
) -> Any:
    """Return the states of all noise levels, for every sample; (b, N + 1, h, w, c)."""
    scale = jnp.float32(guidance)
    parts = [
        _sample_group(pipe, sampler, samples.some(part), scale)
        for part in groups(len(samples.conds), batch)
    ]
    return jnp.concatenate(parts)


@jax.jit
def _sample_group(pipe: Any, sampler: Any, samples: Samples, scale: Any) -> Any:
    def one(cond: Any, noise: Any) -> Any:
        denoise = denoiser(pipe, samples, cond, scale)
        return ji.sample_trajectory(sampler, denoise, noise)

    return each(one, samples.conds, samples.noises)


def each(one: Callable[..., Any], *trees: Any) -> Any:
    """``vmap``; but a batch of one runs as a single sample does, with real branches."""
    if len(jax.tree.leaves(trees)[0]) > 1:
        return jax.vmap(one)(*trees)
    first = jax.tree.map(lambda x: x[0], trees)
    return jax.tree.map(lambda x: x[None], one(*first))


def groups(count: int, batch: int) -> list[slice]:
    """Batches of consecutive samples."""
    return [slice(k, k + batch) for k in range(0, count, batch)]


@functools.cache
def inverter(**options: Any) -> Callable[..., tuple[ji.InversionResult, Any]]:
    """Return a compiled function that inverts a batch of samples.

    Args:
        options: Of :func:`jaxinv.invert`. Equal ones give the same function, so that
            nothing is compiled twice.

    Returns:
        ``(pipe, sampler, samples, scale, states) -> (result, NMSE of every state)``.
    """

    @jax.jit
    def run(pipe: Any, sampler: Any, samples: Samples, scale: Any, truth: Any) -> Any:
        def one(cond: Any, states: Any) -> Any:
            denoise = denoiser(pipe, samples, cond, scale)
            result = ji.invert(
                sampler,
                denoise,
                states[0],
                return_trajectory=True,
                verify=False,
                **options,
            )
            return result, jax.vmap(ji.nmse_db)(result.trajectory, states)

        return each(one, samples.conds, truth)

    return run


def run_all(
    run: Callable[..., tuple[ji.InversionResult, Any]],
    pipe: Any,
    sampler: Any,
    samples: Samples,
    guidance: float,
    truth: Any,
    batch: int,
    seconds: float = np.inf,
) -> Outcome:
    """Invert all samples by an :func:`inverter`, some at a time, and reconstruct them.

    After so many seconds no further batch is begun: the outcome then has fewer samples.
    Reconstructions run in the program that made the states: the way back is here, and
    not among the evaluations.
    """
    scale = jnp.float32(guidance)
    began, parts = time.monotonic(), []
    for part in groups(len(samples.conds), batch):
        if parts and time.monotonic() - began > seconds:
            break
        some, states = samples.some(part), truth[part]
        result, state_db = run(pipe, sampler, some, scale, states)
        again = _sample_group(pipe, sampler, some._replace(noises=result.state), scale)
        reconstruction_db = jax.vmap(ji.nmse_db)(again[:, 0], states[:, 0])
        outcome = Outcome(
            state_db[:, -1],
            reconstruction_db,
            state_db,
            result.solved & (reconstruction_db <= CONVERGED_DB),
            result.residual,
            result.num_evals,
            result.depth,
            result.iterations,
        )
        parts.append(jax.device_get(outcome))
    return jax.tree.map(lambda *x: np.concatenate(x), *parts)


def default_batch() -> int:
    """One sample at a time on a CPU, all together elsewhere."""
    return 1 if jax.default_backend() == "cpu" else 1_000

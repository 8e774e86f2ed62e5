"""``jaxinv sample``: generate an image from a prompt, or from a recovered noise."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.markup import escape

import jaxinv as ji
from jaxinv.cli import options, record, runs
from jaxinv.cli.console import Output, explained
from jaxinv.cli.options import option
from jaxinv.cli.prepare import prepare
from jaxinv.files import check_writable_file, read_array
from jaxinv.files.images import image_suffix
from jaxinv.files.videos import check_video_suffix
from jaxinv.sampling.state import state_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``jaxinv sample``."""

    prompt: str | None = option(None)
    sampling: options.Sampling
    seed: int | None = option(
        None, "Seed of the noise (default 0).", min=0, max=options.MAX_SEED
    )
    noise: Path | None = option(
        None,
        "noise.npy of 'jaxinv invert' with the same sampler and steps, instead of a "
        "seed.",
    )
    control: options.Control
    size: options.Size
    frames: int | None = option(
        None, "Number of frames of a video [16, or the model's limit].", min=1
    )
    out: Path = option(Path("sample.png"))
    as_json: bool = option(False)


@options.unfold
def sample(asked: Options) -> None:
    """Generate an image from a prompt, deterministically for a given noise.

    Models of videos write an animated PNG.
    """
    output = Output(asked.as_json)
    with explained(output):
        if asked.seed is not None and asked.noise is not None:
            raise ValueError("--seed and --noise exclude each other")
        image_suffix(asked.out)
        check_writable_file(asked.out, make=False)
        given = None if asked.noise is None else read_array(asked.noise)
        ready = prepare(
            asked.sampling,
            size=asked.size,
            control=asked.control,
            videos=True,
            frames=asked.frames,
        )
        if ready.pipe.frames is not None:
            check_video_suffix(asked.out)
        start = _start(given, asked.seed, ready.pipe, ready.sampler.table)
        denoise = ready.denoiser(asked.prompt)
        check_writable_file(asked.out)
    done = f"sampled in {ready.sampler.table.num_steps} steps"
    latent, seconds = runs.draw(output, ready, denoise, start, done=done)
    image = ready.pipe.decode(latent)
    with explained(output):
        record.save_image(asked.out, image, "sampled")
    output.show(f"{escape(str(asked.out))}: {escape(ready.sampler.description)}")
    output.finish(
        ready.record()
        | {
            "image": asked.out,
            "prompt": asked.prompt,
            "seed": None if asked.noise is not None else asked.seed or 0,
            "noise": asked.noise,
            "seconds": round(seconds, 3),
        }
    )


def _start(
    given: np.ndarray | None,
    seed: int | None,
    pipe: "ji.Pipeline",
    sampler: ji.SamplerTable,
) -> Any:
    """Return the noise or state to start from.

    Raises:
        ValueError: If a given noise or state does not fit the model and sampler.
    """
    shape = pipe.latent_shape
    if given is None:
        return jax.random.normal(jax.random.key(seed or 0), shape)
    whole = (sampler.history, *shape) if sampler.bidirectional else shape
    if given.shape not in (shape, whole):
        raise ValueError(
            f"the noise has shape {given.shape}, but this model's is {shape}"
            + ("" if whole == shape else f", and {sampler.name}'s state has {whole}")
            + _size_of(given, pipe)
        )
    if not np.all(np.isfinite(given)):
        raise ValueError("the noise has values that are NaN or infinite")
    noise = jnp.asarray(given.astype(np.float32))
    return noise if given.shape == shape else state_of(sampler, noise, "noise")


def _size_of(noise: np.ndarray, pipe: "ji.Pipeline") -> str:
    """Return a hint about the size of the image of a noise, if that is what differs."""
    size, channels = noise.shape[-3:-1], noise.shape[-1:]
    if noise.ndim not in (3, 4, 5) or channels != pipe.latent_shape[-1:]:
        return ""
    if size == pipe.latent_shape[-3:-1]:
        return ""
    height, width = (each * pipe.factor for each in size)
    return f"; pass --height {height} --width {width} for this noise"

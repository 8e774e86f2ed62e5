"""``jaxinv interpolate``: interpolate between two images."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.markup import escape

import jaxinv as ji
from jaxinv.cli import options, record
from jaxinv.cli.console import Output, explained, listed
from jaxinv.cli.options import argument, option
from jaxinv.cli.prepare import prepare
from jaxinv.cli.progress import phase
from jaxinv.cli.samplers import EXACT_NAMES
from jaxinv.files import check_writable_folder, write_json
from jaxinv.files.image_reading import read_image
from jaxinv.files.images import write_image


@dataclasses.dataclass(frozen=True)
class Sampling(options.Sampling):
    """Sampling options with a sampler that is exact by construction, unguided."""

    steps: int = option(50)
    guidance: float = option(1.0)
    sampler: str | None = option(
        None, f"{listed(EXACT_NAMES)} (exact by construction) [o-belm]."
    )
    scheduler: str | None = option(
        None, "Does not fit this command: no scheduler is exact.", hidden=True
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``jaxinv interpolate``."""

    first: Path = argument("The image at the start.")
    second: Path = argument("The image at the end.")
    prompt: str | None = option(None)
    second_prompt: str | None = option(None, "Prompt of the second image [--prompt].")
    points: int = option(7, "Number of images, including both ends.")
    sampling: Sampling
    decoder_inversion: str = option("anderson")
    reading: options.Reading
    out: Path = option(Path("between"), "Folder for the results.", "-o")
    as_json: bool = option(False)


@options.unfold
def interpolate(asked: Options) -> None:
    """Interpolate between two images through their states.

    Writes 00.png, 01.png, ..., strip.png and result.json.
    """
    output = Output(asked.as_json)
    with explained(output):
        check_writable_folder(asked.out, make=False)
        if asked.points < 2:
            raise ValueError(f"--points must be at least 2, got {asked.points}")
        paths, reading = (asked.first, asked.second), asked.reading
        reads = [read_image(path, reading.max_pixels) for path in paths]
        ready = prepare(
            asked.sampling,
            samplers=EXACT_NAMES,
            sampler="o_belm",
            decoder=asked.decoder_inversion,
            image=None if reading.resize else reads[0],
        )
        reads = [
            ready.fit(output, path, read, reading.resize)
            for path, read in zip(paths, reads, strict=True)
        ]
        prompt = ready.prompt(asked.prompt)
        second = prompt if asked.second_prompt is None else asked.second_prompt
        prompts = (prompt, second)
        vectors = [ready.pipe.encode_prompt(text) for text in prompts]
        negative = ready.pipe.encode_prompt(
            asked.sampling.negative_prompt, negative=True
        )
        check_writable_folder(asked.out)

    table, guidance = ready.sampler.table, jnp.float32(ready.asked.guidance)

    @jax.jit
    def invert(pipe: ji.Pipeline, vector: Any, latent: jax.Array) -> Any:
        return ji.invert(table, pipe.denoiser(vector, negative, guidance), latent)

    @jax.jit
    def draw(pipe: ji.Pipeline, ends: Any, t: jax.Array) -> jax.Array:
        # Vectors of prompts are mixed linearly: each end has its own.
        vector = jax.tree.map(lambda a, b: (1 - t) * a + t * b, *vectors)
        denoise = pipe.denoiser(vector, negative, guidance)
        return pipe.generate(table, denoise, ji.interpolate(ends[0], ends[1], t))

    pipe = ready.pipe
    title = "inversion of both"
    with phase(output.messages, title) as running:
        decoders = [pipe.invert_decoder(read.pixels, ready.decoder) for read in reads]
        results: list[Any] = [
            invert(pipe, vector, decoder.latent)
            for vector, decoder in zip(vectors, decoders, strict=True)
        ]
        jax.block_until_ready(results)
    output.done(title, running.seconds)
    places = np.linspace(0, 1, asked.points)
    with phase(output.messages, "sampling") as running:
        ends = [result.state for result in results]
        frames = [np.asarray(draw(pipe, ends, jnp.float32(t))) for t in places]
    output.done(f"sampled {asked.points} images", running.seconds)

    finite = [bool(np.all(np.isfinite(result.noise))) for result in results]
    errors = [float(result.state_reconstruction) for result in results]
    strip, result_file = asked.out / "strip.png", asked.out / "result.json"
    files = [asked.out / f"{k:02d}.png" for k in range(asked.points)]
    report = ready.record() | {
        "images": paths,
        "changes": [read.changes for read in reads],
        "prompts": prompts,
        "decoder_inversion": [record.decoder(ready, found) for found in decoders],
        "finite": finite,
        "state_converged": [bool(result.state_converged) for result in results],
        "state_reconstruction": errors,
        "ends_psnr_db": [
            float(ji.psnr(jnp.asarray(frame), jnp.asarray(read.pixels / 255)))
            for frame, read in zip((frames[0], frames[-1]), reads, strict=True)
        ],
        "files": [*files, strip, result_file],
    }
    with explained(output):
        for path, frame in zip(files, frames, strict=True):
            if all(finite):
                record.save_image(path, frame, "interpolated")
            else:
                write_image(path, frame)
        _draw_strip(strip, places, frames)
        write_json(result_file, report)
    shown = ", ".join(record.decibels(value) for value in report["ends_psnr_db"])
    shown = f"PSNR of the ends: {shown}; {escape(ready.sampler.description)}"
    output.show(f"{escape(str(strip))}; {shown}")
    failure = None
    if not all(finite):
        failure = "the inversion overflowed; try less --guidance or more --steps"
    elif not all(report["state_converged"]):
        failure = (
            "the inversion did not converge: sampling from the ends misses the latent "
            f"of an image by {max(errors):.1e}; try less --guidance or more --steps"
        )
    output.finish(report, failure)


def _draw_strip(path: Path, places: np.ndarray, frames: list[np.ndarray]) -> None:
    from jaxinv.plotting import Row, Tile, panel, save_figure

    tiles = [Tile(f, f"{t:.2f}") for f, t in zip(frames, places, strict=True)]
    save_figure(panel([Row("", tiles)], "Between two images"), path)

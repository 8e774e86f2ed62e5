"""``jaxinv interpolate``: what lies between two images."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape

from jaxinv.cli import options
from jaxinv.cli.console import (
    ExitCode,
    Output,
    check_choice,
    check_finite_image,
    check_guidance,
    explained,
)
from jaxinv.files import check_writable_folder, write_json
from jaxinv.files.image_reading import MAX_PIXELS, read_image
from jaxinv.files.images import fit_image, write_image

# Samplers that are exact by construction: both ends come back, whatever the guidance.
_SAMPLERS = ("o_belm", "bdia")


def interpolate(
    first: Annotated[Path, typer.Argument(help="The image at the start.")],
    second: Annotated[Path, typer.Argument(help="The image at the end.")],
    prompt: options.Prompt,
    second_prompt: Annotated[
        str | None,
        typer.Option("--second-prompt", help="Of the second image, if another."),
    ] = None,
    points: Annotated[
        int, typer.Option("--points", help="Images, both ends included.")
    ] = 7,
    negative_prompt: options.NegativePrompt = "",
    model: options.Model = "emoji64",
    revision: options.Revision = None,
    steps: options.Steps = 50,
    guidance: options.Guidance = 1.0,
    sampler: Annotated[
        str, typer.Option("--sampler", help="o-belm or bdia: exact by construction.")
    ] = "o-belm",
    spacing: options.Grid = "log_snr",
    decoder_inversion: options.DecoderInversion = "anderson",
    resize: options.Resize = False,
    max_pixels: options.MaxPixels = MAX_PIXELS,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results.")
    ] = Path("between"),
    as_json: options.AsJson = False,
) -> None:
    """Walk from one image to another through the states that made them.

    Writes 00.png, 01.png, ..., strip.png and result.json.
    """
    output = Output(as_json)
    with explained(output):
        check_guidance(guidance)
        check_writable_folder(out, make=False)
        if points < 2:
            raise ValueError(f"--points must be at least 2, got {points}")
        paths = (first, second)
        reads = [read_image(path, max_pixels) for path in paths]

        import jax
        import jax.numpy as jnp

        import jaxinv as ji
        from jaxinv import plotting
        from jaxinv.cli import runs, samplers
        from jaxinv.cli.progress import Progress
        from jaxinv.decoder_inversion import METHODS
        from jaxinv.scale.jobs.one_by_one import decoder_record

        sampler = check_choice("sampler", sampler, _SAMPLERS)
        spacing = check_choice("spacing", spacing, samplers.SPACINGS)
        method = check_choice("decoder inversion", decoder_inversion, METHODS)
        pipe = ji.load(model, revision=revision)
        table = samplers.make_sampler(pipe.schedule, sampler, steps, spacing).table
        reads = [
            fit_image(read, path, pipe.image_size, pipe.name, resize)
            for read, path in zip(reads, paths, strict=True)
        ]
        for read, path in zip(reads, paths, strict=True):
            for change in read.changes:
                output.note(f"{path}: {change}")
        prompts = (prompt, prompt if second_prompt is None else second_prompt)
        vectors = [pipe.encode_prompt(text) for text in prompts]
        negative = pipe.encode_prompt(negative_prompt)
        check_writable_folder(out)

    @jax.jit
    def invert(pipe: ji.LatentDiffusion, vector: jax.Array, latent: jax.Array) -> Any:
        denoise = pipe.denoiser(vector, negative, jnp.float32(guidance))
        return ji.invert(table, denoise, latent)

    @jax.jit
    def draw(pipe: ji.LatentDiffusion, ends: Any, t: jax.Array) -> jax.Array:
        # Vectors of prompts are mixed on a line: at either end each is its own.
        vector = (1 - t) * vectors[0] + t * vectors[1]
        denoise = pipe.denoiser(vector, negative, jnp.float32(guidance))
        return pipe.generate(table, denoise, ji.interpolate(ends[0], ends[1], t))

    progress = Progress(output.messages)
    results: list[Any] = []
    decoders, frames = [], []
    with progress.phase("inversion of both", None) as phase:
        for read, vector in zip(reads, vectors, strict=True):
            found = pipe.invert_decoder(read.pixels, method)
            decoders.append(decoder_record(method, found))
            results.append(invert(pipe, vector, found.latent))
        jax.block_until_ready(results)
    ends = [result.state for result in results]
    finite = [bool(np.all(np.isfinite(result.noise))) for result in results]
    output.done("inversion of both", phase.seconds)
    with progress.phase("sampling", None) as phase:
        for t in np.linspace(0, 1, points):
            frames.append(np.asarray(draw(pipe, ends, jnp.float32(t))))
    output.done(f"sampled {points} images", phase.seconds)

    good = [bool(result.state_converged) for result in results]
    errors = [float(result.state_reconstruction) for result in results]
    originals = [read.pixels / 255 for read in reads]
    ends_psnr = [
        float(ji.psnr(jnp.asarray(frame), jnp.asarray(original)))
        for frame, original in zip((frames[0], frames[-1]), originals, strict=True)
    ]
    files = [out / f"{k:02d}.png" for k in range(points)]
    record = {
        "images": paths,
        "changes": [read.changes for read in reads],
        "model": pipe.name,
        "prompts": prompts,
        "negative_prompt": negative_prompt,
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "spacing": spacing,
        "decoder_inversion": decoders,
        "finite": finite,
        "state_converged": good,
        "state_reconstruction": errors,
        "ends_psnr_db": ends_psnr,
        "files": [*files, out / "strip.png", out / "result.json"],
    }
    tiles = [
        plotting.Tile(frame, f"{t:.2f}")
        for frame, t in zip(frames, np.linspace(0, 1, points), strict=True)
    ]
    figure = plotting.panel([plotting.Row("", tiles)], "Between two images")
    with explained(output):
        for frame in frames if all(finite) else ():
            check_finite_image(frame, "interpolated")
        for path, frame in zip(files, frames, strict=True):
            write_image(path, frame)
        plotting.save_figure(figure, out / "strip.png")
        write_json(out / "result.json", record)
    shown = ", ".join(runs.decibels(value) for value in ends_psnr)
    output.show(f"{escape(str(out / 'strip.png'))}; PSNR of the ends: {shown}")
    output.finish(record)
    if not all(finite):
        output.note("the inversion overflowed; try less --guidance or more --steps")
        raise typer.Exit(ExitCode.NOT_CONVERGED)
    if not all(good):
        output.note(
            "the inversion did not converge: sampling from the ends misses the latent "
            f"of an image by {max(errors):.1e}; try less --guidance or more --steps"
        )
        raise typer.Exit(ExitCode.NOT_CONVERGED)

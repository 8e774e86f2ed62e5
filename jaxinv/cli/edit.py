"""``jaxinv edit``: an image as another prompt would have made it."""

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


def edit(
    image: Annotated[Path, typer.Argument(help="The image to edit.")],
    prompt: options.Prompt,
    target: Annotated[
        str, typer.Option("--target", "-t", help="What the image shall show instead.")
    ],
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask",
            help="A picture of the image's size, white where it may change; or 'auto': "
            "where the two prompts disagree. Without one, all may change.",
        ),
    ] = None,
    freeze: Annotated[
        int,
        typer.Option(
            "--freeze", help="First steps that still follow the old prompt.", min=0
        ),
    ] = 0,
    negative_prompt: options.NegativePrompt = "",
    model: options.Model = "emoji64",
    revision: options.Revision = None,
    steps: options.Steps = 50,
    guidance: options.Guidance = 3.0,
    sampler: options.SamplerName = "o-belm",
    spacing: options.Grid = "log_snr",
    decoder_inversion: options.DecoderInversion = "anderson",
    resize: options.Resize = False,
    max_pixels: options.MaxPixels = MAX_PIXELS,
    seed: options.Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the results [IMAGE-edited]."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Edit an image: invert it with one prompt, sample it with another.

    Writes edited.png, mask.png (if there is one), panel.png and result.json. The exit
    code is 3 if the inversion did not converge.
    """
    output = Output(as_json)
    folder = out or Path(f"{image.stem}-edited")
    with explained(output):
        check_guidance(guidance)
        check_writable_folder(folder, make=False)
        read = read_image(image, max_pixels)
        given = None if mask in (None, "auto") else read_image(str(mask), max_pixels)

        import jax

        import jaxinv as ji
        from jaxinv.apps import editing, masks
        from jaxinv.cli import runs, samplers
        from jaxinv.cli.progress import Progress
        from jaxinv.decoder_inversion import METHODS
        from jaxinv.scale.jobs.one_by_one import decoder_record

        sampler = check_choice("sampler", sampler, samplers.SAMPLER_NAMES)
        spacing = check_choice("spacing", spacing, samplers.SPACINGS)
        method = check_choice("decoder inversion", decoder_inversion, METHODS)
        pipe = ji.load(model, revision=revision)
        chosen = samplers.make_sampler(pipe.schedule, sampler, steps, spacing)
        if not isinstance(chosen.table, ji.LinearMultistep):
            raise ValueError(f"{sampler} cannot be edited with; use o-belm")
        if freeze > steps:
            raise ValueError(f"--freeze {freeze} is more than {steps} steps")
        before = read.pixels.shape
        read = fit_image(read, image, pipe.image_size, pipe.name, resize)
        for change in read.changes:
            output.note(f"{image}: {change}")
        for change in () if given is None else given.changes:
            output.note(f"{mask}: {change}")
        weights: Any = None
        if given is not None:
            if resize and given.pixels.shape == before:
                size, name = pipe.image_size, pipe.name
                given = fit_image(given, Path(str(mask)), size, name, True)
            if given.pixels.shape != read.pixels.shape:
                raise ValueError(
                    f"the mask {mask} is {given.pixels.shape[1]}x"
                    f"{given.pixels.shape[0]}, the image {read.pixels.shape[1]}x"
                    f"{read.pixels.shape[0]}"
                )
            weights = masks.latent_mask(given.pixels.mean(-1) / 255, pipe.factor)
        source = pipe.denoiser(prompt, negative_prompt, guidance)
        changed = pipe.denoiser(target, negative_prompt, guidance)
        check_writable_folder(folder)

    progress = Progress(output.messages)
    decoder, seconds = runs.find_latent(progress, pipe, read.pixels, method)
    output.done("decoder inversion", seconds)
    latent = decoder.latent
    with progress.phase("inversion and editing", None) as phase:
        if mask == "auto":
            key = jax.random.key(seed)
            weights = masks.prediction_mask(pipe.schedule, source, changed, latent, key)
        found = editing.edit(
            chosen.table, source, changed, latent, mask=weights, freeze=freeze
        )
        edited = jax.block_until_ready(pipe.decode(found.latent))
    output.done("inversion and editing", phase.seconds)

    original = np.asarray(read.pixels) / 255
    edited = np.asarray(edited)
    with explained(output):
        check_finite_image(edited, "edited")
    if weights is not None and not np.any(np.asarray(weights)):
        output.note("the mask is empty: nothing was allowed to change")
    white = np.ones(pipe.latent_shape[:2]) if weights is None else np.asarray(weights)
    pixels = white.reshape(pipe.latent_shape[:2])
    pixels = pixels.repeat(pipe.factor, 0).repeat(pipe.factor, 1)
    inside = pixels > 0.5
    measures = {
        "changed_share": float(inside.mean()),
        "background_psnr_db": _psnr(edited, original, ~inside),
        "edited_psnr_db": _psnr(edited, original, inside),
    }
    files = {name: folder / f"{name}.png" for name in ("edited", "panel")}
    if weights is not None:
        files["mask"] = folder / "mask.png"
    files["result"] = folder / "result.json"
    converged = bool(found.inversion.state_converged)
    record = {
        "image": image,
        "changes": read.changes,
        "model": pipe.name,
        "prompt": prompt,
        "target": target,
        "negative_prompt": negative_prompt,
        "mask": mask,
        "freeze": freeze,
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "spacing": spacing,
        "decoder_inversion": decoder_record(method, decoder),
        "converged": converged,
        "latent_change_db": float(ji.nmse_db(found.latent, latent)),
        "measures": measures,
        "files": files,
    }
    with explained(output):
        write_image(files["edited"], edited)
        if weights is not None:
            write_image(files["mask"], np.repeat(pixels[..., None], 3, -1))
        _draw_panel(files["panel"], record, original, edited, pixels)
        write_json(files["result"], record)
    shown = measures["background_psnr_db"]
    kept = "" if shown is None else f"; what had to stay: {runs.decibels(shown)} PSNR"
    output.show(f"{escape(str(files['edited']))}{kept}")
    output.finish(record)
    if not converged:
        output.note(
            "the inversion did not converge, so that the edit starts from another "
            "noise than the image's; try --sampler o-belm"
        )
        raise typer.Exit(ExitCode.NOT_CONVERGED)


def _psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float | None:
    """PSNR over some pixels; None if there are none."""
    import jaxinv as ji

    return float(ji.psnr(a[where], b[where])) if where.any() else None


def _draw_panel(
    path: Path, record: dict[str, Any], original: Any, edited: Any, mask: Any
) -> None:
    from jaxinv import plotting
    from jaxinv.cli.runs import decibels

    psnr = record["measures"]["background_psnr_db"]
    tiles = [
        plotting.Tile(original, "image", record["prompt"]),
        plotting.Tile(np.repeat(mask[..., None], 3, -1), "may change"),
        plotting.Tile(edited, "edited", record["target"]),
        plotting.Tile(
            plotting.difference_picture(edited, original, gain=2.0),
            "difference x2",
            "" if psnr is None else f"outside: {decibels(psnr)}",
        ),
    ]
    figure = plotting.panel(
        [plotting.Row("", tiles)],
        "Edited",
        f"{record['model']}, {record['sampler']}, {record['steps']} steps, guidance "
        f"{record['guidance']:g}",
    )
    plotting.save_figure(figure, path)

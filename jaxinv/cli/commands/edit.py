"""``jaxinv edit``: edit an image from a source prompt to a target prompt."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.markup import escape

import jaxinv as ji
from jaxinv.apps import editing, masks
from jaxinv.cli import options, record, runs
from jaxinv.cli.console import Output, check_choice, explained, listed
from jaxinv.cli.options import argument, option
from jaxinv.cli.prepare import Prepared, prepare
from jaxinv.cli.progress import phase
from jaxinv.cli.samplers import EXACT_NAMES, ONE_ARRAY_NAMES
from jaxinv.files import check_writable_folder, write_json
from jaxinv.files.image_reading import ReadImage, read_image
from jaxinv.files.images import fit_image, write_image


@dataclasses.dataclass(frozen=True)
class Sampling(options.Sampling):
    """Sampling options with a sampler that is exact by construction and more steps."""

    steps: int = option(50)
    sampler: str | None = option(
        None,
        f"{listed(ONE_ARRAY_NAMES)}; or one that is exact by construction: "
        f"{listed(EXACT_NAMES)} [o-belm, whatever made the image: its edit starts from "
        "a noise that reproduces the image; for flows such as SD3 and FLUX, the "
        "model's own scheduler].",
    )
    scheduler: str | None = option(
        None,
        "Take the steps of a diffusers scheduler, in place of --sampler and --spacing: "
        "a scheduler_config.json, the folder that holds it, or 'own' for the model's.",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``jaxinv edit``."""

    image: Path = argument("The image to edit.")
    prompt: str = option()
    target: str = option(..., "Prompt that describes the edited image.", "-t")
    mask: str | None = option(
        None,
        "Picture of the image's size, white where the image may change; or 'auto', "
        "where the two prompts disagree. By default everything may change.",
    )
    method: str = option(
        "prompt-swap",
        f"How the edit follows the image: {listed(editing.METHODS)}. All but "
        "prompt-swap share attention or features, and have no --mask and --freeze.",
    )
    freeze: int = option(0, "Number of first steps with the source prompt.", min=0)
    sampling: Sampling
    decoder_inversion: str = option("anderson")
    reading: options.Reading
    seed: int = option(0, min=0, max=options.MAX_SEED)
    out: Path | None = option(None, "Folder for the results [IMAGE-edited].", "-o")
    as_json: bool = option(False)


@options.unfold
def edit(asked: Options) -> None:
    """Edit an image: invert it with one prompt, sample it with another.

    Writes edited.png, mask.png (with --mask), panel.png and result.json. The exit code
    is 3 if the inversion did not converge.
    """
    output = Output(asked.as_json)
    folder = asked.out or Path(f"{asked.image.stem}-edited")
    with explained(output):
        method = _method(asked)
        check_writable_folder(folder, make=False)
        largest = asked.reading.max_pixels
        read, given = read_image(asked.image, largest), None
        if asked.mask not in (None, "auto"):
            given = read_image(str(asked.mask), largest)
        ready = prepare(
            asked.sampling,
            sampler="o_belm",
            decoder=asked.decoder_inversion,
            image=None if asked.reading.resize else read,
        )
        if not ready.pipe.text_encoders:
            raise ValueError(
                f"{ready.pipe.name} makes images without prompts, and an edit goes "
                "from one prompt to another"
            )
        method.check(ready.pipe)
        if asked.freeze > asked.sampling.steps:
            raise ValueError(
                f"--freeze {asked.freeze} is more than {asked.sampling.steps} steps"
            )
        fitted = ready.fit(output, asked.image, read, asked.reading.resize)
        weights: Any = None
        if given is not None:
            for change in given.changes:
                output.note(f"{asked.mask}: {change}")
            weights = _weights(asked, ready, read, fitted, given)
        source, changed = ready.denoiser(asked.prompt), ready.denoiser(asked.target)
        check_writable_folder(folder)

    decoder = runs.find_latent(output, ready, fitted.pixels)
    title = "inversion and editing"
    with phase(output.messages, title) as running:
        if asked.mask == "auto":
            weights = masks.prediction_mask(
                ready.pipe.schedule,
                source,
                changed,
                decoder.latent,
                jax.random.key(asked.seed),
            )
        if method is editing.prompt_swap:
            found = editing.edit(
                ready.sampler.table,
                source,
                changed,
                decoder.latent,
                mask=weights,
                freeze=asked.freeze,
            )
        else:
            found = _shared(asked, ready, method, source, decoder.latent)
        edited = np.asarray(ready.pipe.decode(found.latent))
    output.done(title, running.seconds)

    original = np.asarray(fitted.pixels) / 255
    if weights is not None and not np.any(np.asarray(weights)):
        output.note("the mask is empty: nothing may change")
    may_change = _in_pixels(weights, ready.pipe)
    inside = may_change > 0.5
    names = ["edited", "panel"] + (["mask"] if weights is not None else [])
    files = {name: folder / f"{name}.png" for name in names}
    report = ready.record() | {
        "image": asked.image,
        "changes": fitted.changes,
        "prompt": asked.prompt,
        "target": asked.target,
        "method": method.name,
        "mask": asked.mask,
        "freeze": asked.freeze,
        "decoder_inversion": record.decoder(ready, decoder),
        "converged": bool(found.inversion.state_converged),
        "latent_change_db": float(ji.nmse_db(found.latent, decoder.latent)),
        "measures": {
            "changed_share": float(inside.mean()),
            "background_psnr_db": _psnr(edited, original, ~inside),
            "edited_psnr_db": _psnr(edited, original, inside),
        },
        "files": files | {"result": folder / "result.json"},
    }
    with explained(output):
        record.save_image(files["edited"], edited, "edited")
        shown = np.repeat(may_change[..., None], 3, -1)
        if weights is not None:
            write_image(files["mask"], shown)
        _draw_panel(report, original, edited, shown)
        write_json(folder / "result.json", report)
    psnr = report["measures"]["background_psnr_db"]
    kept = "" if psnr is None else f"; outside the mask: {record.decibels(psnr)} PSNR"
    said = f"{escape(str(files['edited']))}{kept}"
    output.show(f"{said}; {escape(ready.sampler.description)}")
    flow = ready.pipe.schedule.family == "flow"
    failure = (
        "the inversion did not converge, so the edit starts from a noise other than "
        f"the image's; try --sampler o-belm{' --spacing linspace' if flow else ''} or "
        "more --steps"
    )
    output.finish(report, None if report["converged"] else failure)


def _method(asked: Options) -> editing.Method:
    """Return the method that was asked for.

    Raises:
        ValueError: If there is none of this name, or other options do not fit it.
    """
    name = check_choice("editing method", asked.method, editing.METHODS)
    for what, given in (("mask", asked.mask), ("freeze", asked.freeze)):
        if given and name != "prompt_swap":
            raise ValueError(
                f"--{what} needs --method prompt-swap; {asked.method} has no {what}"
            )
    return editing.METHODS[name]


def _shared(
    asked: Options, ready: Prepared, method: editing.Method, source: Any, latent: Any
) -> editing.Edit:
    """Invert a latent, and edit it by a method that shares what the source computes."""
    table, given = ready.sampler.table, ready.asked
    inversion = ji.invert(table, source, latent, return_trajectory=True)
    assert given.guidance is not None, "prepare() fills it in"
    edited = method(
        ready.pipe,
        table,
        inversion,
        ready.prompt(asked.prompt),
        asked.target,
        guidance_scale=given.guidance,
        negative_prompt=given.negative_prompt,
    )
    return editing.Edit(edited, inversion)


def _weights(
    asked: Options, ready: Prepared, read: ReadImage, fitted: ReadImage, mask: ReadImage
) -> np.ndarray:
    """Convert a mask that was read with the image to a mask of latents.

    Raises:
        ValueError: If image and mask differ in size.
    """
    pipe, path = ready.pipe, Path(str(asked.mask))
    if asked.reading.resize and mask.pixels.shape == read.pixels.shape:
        mask = fit_image(mask, path, pipe.image_size, pipe.name, True)
    if mask.pixels.shape != fitted.pixels.shape:
        (height, width, _), (rows, columns, _) = mask.pixels.shape, fitted.pixels.shape
        raise ValueError(
            f"the mask {path} is {width}x{height}, but the image is {columns}x{rows}"
        )
    return masks.latent_mask(mask.pixels.mean(-1) / 255, pipe.factor)


def _in_pixels(weights: Any, pipe: "ji.Pipeline") -> np.ndarray:
    """Return a mask of latents in pixels, or ones without a mask."""
    shape, factor = pipe.latent_shape[:2], pipe.factor
    mask = np.ones(shape) if weights is None else np.asarray(weights).reshape(shape)
    return mask.repeat(factor, 0).repeat(factor, 1)


def _psnr(a: np.ndarray, b: np.ndarray, where: np.ndarray) -> float | None:
    """Return the PSNR over selected pixels, or None if there are none."""
    return float(ji.psnr(a[where], b[where])) if where.any() else None


def _draw_panel(report: dict[str, Any], original: Any, edited: Any, mask: Any) -> None:
    from jaxinv.plotting import Row, Tile, difference_picture, panel, save_figure

    psnr = report["measures"]["background_psnr_db"]
    difference = difference_picture(edited, original, gain=2.0)
    outside = "" if psnr is None else f"outside: {record.decibels(psnr)}"
    tiles = [
        Tile(original, "image", report["prompt"]),
        Tile(mask, "may change"),
        Tile(edited, "edited", report["target"]),
        Tile(difference, "difference x2", outside),
    ]
    figure = panel(
        [Row("", tiles)],
        "Edited",
        f"{report['model']}, {report['sampler']}, {report['steps']} steps, guidance "
        f"{report['guidance']:g}",
    )
    save_figure(figure, report["files"]["panel"])

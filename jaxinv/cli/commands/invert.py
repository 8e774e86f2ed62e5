"""``jaxinv invert``: find the noise of an image, with a certificate."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.markup import escape
from rich.table import Table

import jaxinv as ji
from jaxinv.cli import options, record, runs
from jaxinv.cli.console import Output, explained, listed
from jaxinv.cli.options import argument, option
from jaxinv.cli.prepare import Prepared, prepare
from jaxinv.cli.progress import phase
from jaxinv.cli.record import decibels
from jaxinv.cli.samplers import lossy_note
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.files import check_writable_folder, write_array, write_json
from jaxinv.files.image_reading import ReadImage, read_image
from jaxinv.files.videos import read_video
from jaxinv.inversion import STRATEGIES
from jaxinv.solvers import SOLVERS

# Magnification of the difference between two images in the panel.
_GAIN = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``jaxinv invert``."""

    image: Path = argument(
        "The image to invert; for models of videos an animated image, or a folder of "
        "frames."
    )
    prompt: str | None = option(None)
    sampling: options.Sampling
    control: options.Control
    strategy: str = option(
        "auto",
        f"{listed(STRATEGIES, {k: named.note for k, named in STRATEGIES.items()})}.",
    )
    solver: str | None = option(
        None,
        f"For stepwise only: {listed(SOLVERS)} [anderson; in Algorithm 2 "
        "forward-step].",
    )
    max_evals: int | None = option(None, min=1)
    decoder_inversion: str = option("anderson")
    starts: int = option(
        0,
        "Search from this many starts for noises that lead to the same latent, and "
        "report how many different ones are found: of use for models of one or few "
        "steps.",
        min=0,
    )
    reading: options.Reading
    out: Path | None = option(None, "Folder for the results [IMAGE-inverted].", "-o")
    as_json: bool = option(False)


@options.unfold
def invert(asked: Options) -> None:
    """Find the noise from which the model's sampler generates an image.

    Writes noise.npy (the state, two arrays, for a sampler that is exact by
    construction), reconstruction.png, panel.png and result.json. The exit code is 0 if
    every step is solved and sampling from noise.npy reproduces the latent, 3 if not
    (the files are written in either case; naive inversion and Algorithm 2 solve no
    equation to a tolerance), 2 for invalid input.
    """
    output = Output(asked.as_json)
    folder = asked.out or Path(f"{asked.image.stem}-inverted")
    with explained(output):
        check_writable_folder(folder, make=False)
        whole = read_video if asked.image.is_dir() else read_image
        read = whole(asked.image, asked.reading.max_pixels)
        ready = prepare(
            asked.sampling,
            strategy=asked.strategy,
            solver=asked.solver,
            decoder=asked.decoder_inversion,
            max_evals=asked.max_evals,
            image=None if asked.reading.resize else read,
            videos=True,
            control=asked.control,
        )
        ready, read = _frames(ready, read, asked)
        read = ready.fit(output, asked.image, read, asked.reading.resize)
        denoise = ready.denoiser(asked.prompt)
        if asked.starts and ready.sampler.table.bidirectional:
            raise ValueError(
                f"--starts does not fit {ready.sampler.name}, which has one state for "
                "each image by construction"
            )
        check_writable_folder(folder)

    decoder = runs.find_latent(output, ready, read.pixels)
    title, back = _title(ready.strategy, " "), "reconstruction"
    outcome = runs.find_noise(output, ready, denoise, decoder.latent, title=title)
    state = outcome.result.state
    others = _preimages(output, asked.starts, ready, denoise, decoder.latent)
    again, _ = runs.draw(output, ready, denoise, state, title=back, done=back)
    pictures = {
        "original": jnp.asarray(read.pixels) / 255,
        "decoded": ready.pipe.decode(decoder.latent),
        "rebuilt": ready.pipe.decode(again),
    }

    names = ("noise.npy", "reconstruction.png", "panel.png", "result.json")
    files = {name.split(".")[0]: folder / name for name in names}
    report = ready.record() | {
        "image": asked.image,
        "changes": read.changes,
        "prompt": asked.prompt,
        "strategy": ready.strategy,
        "solver": ready.solver,
        "decoder_inversion": record.decoder(ready, decoder),
        "certificate": record.certificate(outcome),
        "worst_noise_level_ratio": ready.sampler.worst_ratio,
        "noise": _moments(outcome.result),
        "preimages": others,
        "reconstruction": {
            "latent_nmse_db": float(ji.nmse_db(again, decoder.latent)),
            **_psnr(**pictures),
        },
        "files": files,
    }
    with explained(output):
        write_array(files["noise"], _values(state))
        record.write_picture(files["reconstruction"], np.asarray(pictures["rebuilt"]))
        noise = outcome.result.noise
        if ready.pipe.frames is not None:  # show the frame in the middle
            middle = ready.pipe.frames // 2
            noise = noise[middle]
            pictures = {name: each[middle] for name, each in pictures.items()}
        _draw_panel(report, ready.sampler.title, noise, **pictures)
        write_json(files["result"], report)
    output.show(
        _table(report),
        f"[dim]sampler:[/] {escape(ready.sampler.description)}",
        f"[dim]results in[/] {escape(str(folder))}",
    )
    if note := lossy_note(ready.sampler, ready.pipe.schedule):
        output.note(note)
    output.finish(report, _why_not(report, ready.sampler.table.history))


def _frames(
    ready: Prepared, read: ReadImage, asked: Options
) -> tuple[Prepared, ReadImage]:
    """Read all frames for a model of videos, and set its number of frames."""
    if ready.pipe.frames is None:
        if read.pixels.ndim > 3:
            raise ValueError(
                f"{asked.image} is a folder, which is read as the frames of a video, "
                f"but {ready.pipe.name} makes images"
            )
        return ready, read
    read = read_video(asked.image, asked.reading.max_pixels)
    pipe = ready.pipe.at_frames(len(read.pixels))
    return ready._replace(pipe=pipe), read


def _preimages(
    output: Output, starts: int, ready: Prepared, denoise: Denoiser, latent: Any
) -> dict[str, Any] | None:
    """Count the noises that lead to a latent, from a number of starts."""
    if not starts:
        return None
    title = f"search from {starts} starts"
    with phase(output.messages, title) as running:
        key = jax.random.key(0)
        found = ji.preimages(ready.sampler.table, denoise, latent, key, starts)
        jax.block_until_ready(found)
    output.done(title, running.seconds)
    return {
        "starts": starts,
        "converged": int(found.converged.sum()),
        "found": int(found.found),
        "num_evals": int(found.num_evals),
    }


def _values(state: jax.Array | ji.SamplerState) -> np.ndarray:
    return np.asarray(state.values if isinstance(state, ji.SamplerState) else state)


def _moments(result: ji.InversionResult) -> dict[str, Any]:
    noise, values = np.asarray(result.noise), _values(result.state)
    arrays = len(values) if values.ndim > noise.ndim else 1
    return {"mean": float(noise.mean()), "std": float(noise.std()), "arrays": arrays}


def _psnr(original: Any, decoded: Any, rebuilt: Any) -> dict[str, float]:
    return {
        "psnr_to_autoencoder_db": float(ji.psnr(rebuilt, decoded)),
        "psnr_to_image_db": float(ji.psnr(rebuilt, original)),
        "autoencoder_psnr_db": float(ji.psnr(decoded, original)),
    }


def _title(strategy: str, space: str) -> str:
    return "inversion" if strategy == "auto" else f"{strategy}{space}inversion"


def _why_not(report: dict[str, Any], history: int) -> str | None:
    """Return why the inversion did not converge and what to try, or None if it did."""
    strategy, certificate = report["strategy"], report["certificate"]
    error = f"{certificate['state_reconstruction']:.1e}"
    if certificate["state_converged"]:
        return None
    if strategy == "naive":
        return (
            "naive inversion solves no equation; sampling from its noise misses the "
            f"latent by {error}; use --strategy auto"
        )
    if strategy == "stepwise" and history > 1:
        return (
            "stepwise inversion of a sampler with a memory is the published Algorithm "
            "2, which estimates the earlier states; sampling from its noise misses the "
            f"latent by {error}; use --strategy auto"
        )
    also = "" if strategy == "auto" else "--strategy auto, "
    if certificate["stopped"]:
        also += "more --max-evals, "
    if certificate["solved"]:
        return (
            "not converged: every step is solved, but the steps amplify the remaining "
            f"errors, and sampling from the noise misses the latent by {error}; try "
            f"{also}more --steps or less --guidance"
        )
    return (
        "not converged: the worst step has a residual of "
        f"{certificate['residual']:.1e}, and sampling from the noise misses the latent "
        f"by {error}; try {also}more --steps or less --guidance"
    )


def _table(report: dict[str, Any]) -> Table:
    certificate, rebuilt = report["certificate"], report["reconstruction"]
    decoder, noise = report["decoder_inversion"], report["noise"]
    rows = (
        *_verdicts(certificate, noise["arrays"]),
        ("worst residual", f"{certificate['residual']:.1e}", "relative, of one step"),
        (
            "evaluations per step",
            f"{certificate['evals_per_step']:.1f}",
            f"{certificate['num_evals']} in total, {certificate['depth']} of them "
            "sequential",
        ),
        (
            "reconstruction NMSE",
            decibels(rebuilt["latent_nmse_db"]),
            "of the latent sampled from the noise",
        ),
        (
            "decoder's misfit",
            f"{decoder['residual']:.4f}",
            "root mean square of a pixel in 0 to 1; "
            f"{decoder['encoder_residual']:.4f} by the encoder alone",
        ),
        (
            "image PSNR",
            decibels(rebuilt["psnr_to_image_db"]),
            f"{decibels(rebuilt['autoencoder_psnr_db'])} is the autoencoder's limit",
        ),
        (
            "noise mean, std",
            f"{noise['mean']:.2f}, {noise['std']:.2f}",
            "0 and 1 for a typical image",
        ),
        (
            "noise plausibility",
            f"{certificate['noise_plausibility']['p_value']:.2g}",
            "p-value as white noise; if tiny, another noise made the image",
        ),
    )
    if (others := report["preimages"]) is not None:
        found = (
            "noises found",
            str(others["found"]),
            f"that lead to this latent, from {others['starts']} starts, of which "
            f"{others['converged']} converged; there may be more",
        )
        rows = (*rows, found)
    return record.table(f"{escape(str(report['image']))} → noise", rows)


def _verdicts(certificate: dict[str, Any], arrays: int) -> list[tuple[str, str, str]]:
    """Return the rows of the table with the verdict on each result."""

    def row(title: str, prefix: str, what: str) -> tuple[str, str, str]:
        error = certificate[f"{prefix}reconstruction"]
        return (
            title,
            record.yes_or_no(certificate[f"{prefix}converged"]),
            f"sampling from {what} reproduces the latent with an error of {error:.1e}",
        )

    if arrays == 1:
        return [row("converged", "", "the noise")]
    return [
        row("state converged", "state_", f"the {arrays} arrays in noise.npy"),
        row("noise alone converged", "", "one array"),
    ]


def _draw_panel(
    report: dict[str, Any],
    sampler: str,
    noise: Any,
    original: Any,
    decoded: Any,
    rebuilt: Any,
) -> None:
    from jaxinv.plotting import (
        Row,
        Tile,
        difference_picture,
        latent_picture,
        panel,
        save_figure,
    )

    certificate, measures = report["certificate"], report["reconstruction"]
    good = certificate["state_converged"]
    decibels = {name: record.decibels(value) for name, value in measures.items()}
    found = f"residual {certificate['residual']:.0e}"
    if report["noise"]["arrays"] > 1:
        found = "the second of two arrays"
    left = difference_picture(rebuilt, decoded, gain=_GAIN)
    tiles = [
        Tile(original, "image"),
        Tile(decoded, "autoencoder alone", f"PSNR {decibels['autoencoder_psnr_db']}"),
        Tile(latent_picture(noise), "noise found", found, good),
        Tile(
            rebuilt,
            "sampled from that noise",
            f"NMSE {decibels['latent_nmse_db']}",
            good,
        ),
        Tile(
            left,
            f"difference × {_GAIN:.0f}",
            f"PSNR {decibels['psnr_to_autoencoder_db']}",
            good,
        ),
    ]
    prompt = report["prompt"]
    figure = panel(
        [Row(_title(report["strategy"], "\n"), tiles)],
        Path(report["image"]).name + (f": “{prompt}”" if prompt else ""),
        f"{report['model']}, {sampler} with {report['steps']} steps, "
        f"guidance {report['guidance']:g}. Difference: to the autoencoder's image.",
    )
    save_figure(figure, report["files"]["panel"])

"""``jaxinv invert``: an image to its noise, with a certificate, and back."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from jaxinv.cli import options
from jaxinv.cli.console import (
    ExitCode,
    Output,
    check_choice,
    check_guidance,
    explained,
)
from jaxinv.files import check_writable_folder, write_array, write_json
from jaxinv.files.image_reading import MAX_PIXELS, read_image
from jaxinv.files.images import fit_image, write_image

# How much the panel magnifies what is left between two images.
_GAIN = 10.0


def invert(
    image: Annotated[Path, typer.Argument(help="The image to invert.")],
    prompt: options.Prompt,
    negative_prompt: options.NegativePrompt = "",
    model: options.Model = "emoji64",
    revision: options.Revision = None,
    steps: options.Steps = 20,
    guidance: options.Guidance = 3.0,
    sampler: options.SamplerName = "ddim",
    spacing: options.Grid = "log_snr",
    strategy: Annotated[
        str,
        typer.Option(
            "--strategy",
            help="auto (exact), explicit (samplers that are exact by construction; "
            "their auto), trajectory (exact, all steps together), stepwise "
            "(exact for ddim and euler; for other samplers the published Algorithm 2), "
            "or naive (DDIM inversion).",
        ),
    ] = "auto",
    solver: Annotated[
        str | None,
        typer.Option(
            "--solver",
            help="For stepwise only: anderson, fixed-point, forward-step, gradient or "
            "newton-krylov. By default anderson, and forward-step in Algorithm 2.",
        ),
    ] = None,
    decoder_inversion: options.DecoderInversion = "anderson",
    resize: options.Resize = False,
    max_pixels: options.MaxPixels = MAX_PIXELS,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for the results [IMAGE-inverted]."),
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Find the noise that the model's own sampler turns into an image.

    Writes noise.npy (of a sampler that is exact by construction its state, two arrays),
    reconstruction.png, panel.png and result.json. The exit code is 0 if every step is
    solved and sampling from what noise.npy holds leads back to the latent, 3 if not
    (the files are written all the same; naive inversion and Algorithm 2 solve no
    equation to a tolerance), 2 for bad input.
    """
    output = Output(as_json)
    folder = out or Path(f"{image.stem}-inverted")
    with explained(output):
        check_guidance(guidance)
        check_writable_folder(folder, make=False)
        read = read_image(image, max_pixels)

        import jax.numpy as jnp

        import jaxinv as ji
        from jaxinv.cli import runs, samplers
        from jaxinv.cli.progress import Observed, Progress
        from jaxinv.decoder_inversion import METHODS
        from jaxinv.inversion import STRATEGIES
        from jaxinv.scale.jobs.one_by_one import decoder_record

        sampler = check_choice("sampler", sampler, samplers.SAMPLER_NAMES)
        spacing = check_choice("spacing", spacing, samplers.SPACINGS)
        strategy = check_choice("strategy", strategy, STRATEGIES)
        method = check_choice("decoder inversion", decoder_inversion, METHODS)
        if solver is not None:
            solver = check_choice("solver", solver, runs.SOLVER_NAMES)
            if strategy != "stepwise":
                raise ValueError(
                    f"--solver goes with --strategy stepwise; {strategy} has no choice "
                    "of solvers"
                )
        pipe = ji.load(model, revision=revision)
        chosen = samplers.make_sampler(pipe.schedule, sampler, steps, spacing)
        read = fit_image(read, image, pipe.image_size, pipe.name, resize)
        for change in read.changes:
            output.note(f"{image}: {change}")
        runs.check_strategy(chosen, strategy, solver, pipe.schedule)
        denoise = pipe.denoiser(prompt, negative_prompt, guidance)
        check_writable_folder(folder)

    progress = Progress(output.messages)
    decoder, seconds = runs.find_latent(progress, pipe, read.pixels, method)
    output.done("decoder inversion", seconds)
    latent = decoder.latent
    watched = Observed(denoise)
    title = _title(strategy, " ")
    outcome = runs.find_noise(
        progress,
        title,
        chosen,
        watched,
        latent,
        schedule=pipe.schedule,
        strategy=strategy,
        solver=solver,
    )
    output.done(title, outcome.seconds)
    noise, state = outcome.result.noise, outcome.result.state
    kept = state.values if isinstance(state, ji.SamplerState) else noise
    arrays = len(kept) if isinstance(state, ji.SamplerState) else 1
    again, seconds = runs.draw(progress, "reconstruction", chosen, watched, state)
    output.done("reconstruction", seconds)

    decoded, rebuilt = pipe.decode(latent), pipe.decode(again)
    original = jnp.asarray(read.pixels) / 255
    measures = {
        "latent_nmse_db": float(ji.nmse_db(again, latent)),
        "psnr_to_autoencoder_db": float(ji.psnr(rebuilt, decoded)),
        "psnr_to_image_db": float(ji.psnr(rebuilt, original)),
        "autoencoder_psnr_db": float(ji.psnr(decoded, original)),
    }
    files = {
        name: folder / file
        for name, file in (
            ("noise", "noise.npy"),
            ("reconstruction", "reconstruction.png"),
            ("panel", "panel.png"),
            ("result", "result.json"),
        )
    }
    record = {
        "image": image,
        "changes": read.changes,
        "model": pipe.name,
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "spacing": spacing,
        "strategy": strategy,
        "solver": solver,
        "decoder_inversion": decoder_record(method, decoder),
        "certificate": outcome.record(),
        "worst_noise_level_ratio": chosen.worst_ratio,
        "noise": {
            "mean": float(noise.mean()),
            "std": float(noise.std()),
            "arrays": arrays,
        },
        "reconstruction": measures,
        "files": files,
    }
    with explained(output):
        write_array(files["noise"], np.asarray(kept))
        write_image(files["reconstruction"], np.asarray(rebuilt))
        _draw_panel(
            files["panel"], record, chosen.title, original, decoded, rebuilt, noise
        )
        write_json(files["result"], record)

    output.show(_table(record), f"[dim]results in[/] {escape(str(folder))}")
    if note := samplers.lossy_note(chosen, pipe.schedule):
        output.note(note)
    output.finish(record)
    if not bool(outcome.result.state_converged):
        output.note(_why_not(strategy, chosen.table.history, outcome.record()))
        raise typer.Exit(ExitCode.NOT_CONVERGED)


def _title(strategy: str, space: str) -> str:
    return "inversion" if strategy == "auto" else f"{strategy}{space}inversion"


def _why_not(strategy: str, history: int, certificate: dict[str, Any]) -> str:
    """Why the verdict is not good, and what to try."""
    error = f"{certificate['state_reconstruction']:.1e}"
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
    if certificate["solved"]:
        return (
            "not converged: every step is solved, but the steps amplify what is left "
            f"over, and sampling from the noise misses the latent by {error}; try "
            f"{also}more --steps or less --guidance"
        )
    return (
        "not converged: the worst step is left with a residual of "
        f"{certificate['residual']:.1e}, and sampling from the noise misses the latent "
        f"by {error}; try {also}more --steps or less --guidance"
    )


def _table(record: dict[str, Any]) -> Table:
    from jaxinv.cli.runs import decibels

    certificate, rebuilt = record["certificate"], record["reconstruction"]
    table = Table(title=f"{escape(str(record['image']))} → noise", title_justify="left")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("", style="dim")
    rows = (
        *_verdicts(certificate, record["noise"]["arrays"]),
        ("worst residual", f"{certificate['residual']:.1e}", "relative, of one step"),
        (
            "evaluations per step",
            f"{certificate['evals_per_step']:.1f}",
            f"{certificate['num_evals']} in all, {certificate['depth']} of them one "
            "after another",
        ),
        (
            "reconstruction NMSE",
            decibels(rebuilt["latent_nmse_db"]),
            "of the latent, sampled again from the noise",
        ),
        (
            "decoder's misfit",
            f"{record['decoder_inversion']['residual']:.4f}",
            "root mean square of a pixel in 0 to 1; "
            f"{record['decoder_inversion']['encoder_residual']:.4f} by the encoder "
            "alone",
        ),
        (
            "image PSNR",
            decibels(rebuilt["psnr_to_image_db"]),
            f"{decibels(rebuilt['autoencoder_psnr_db'])} is the autoencoder's limit",
        ),
        (
            "noise mean, std",
            f"{record['noise']['mean']:.2f}, {record['noise']['std']:.2f}",
            "0 and 1 for a typical image",
        ),
    )
    for row in rows:
        table.add_row(*row)
    return table


def _verdicts(certificate: dict[str, Any], arrays: int) -> list[tuple[str, str, str]]:
    """The rows of the table that say how exact each answer is."""

    def row(title: str, prefix: str, what: str) -> tuple[str, str, str]:
        error = certificate[f"{prefix}reconstruction"]
        good = certificate[f"{prefix}converged"]
        return (
            title,
            "[green]yes[/]" if good else "[red]no[/]",
            f"sampling from {what} leads back to the latent with an error of "
            f"{error:.1e}",
        )

    if arrays == 1:
        return [row("converged", "", "the noise")]
    return [
        row("state converged", "state_", f"the {arrays} arrays in noise.npy"),
        row("noise alone converged", "", "one array"),
    ]


def _draw_panel(
    path: Path,
    record: dict[str, Any],
    sampler: str,
    original: Any,
    decoded: Any,
    rebuilt: Any,
    noise: Any,
) -> None:
    from jaxinv import plotting
    from jaxinv.cli.runs import decibels

    certificate, measures = record["certificate"], record["reconstruction"]
    good = certificate["state_converged"]
    tiles = [
        plotting.Tile(original, "image"),
        plotting.Tile(
            decoded,
            "autoencoder alone",
            f"PSNR {decibels(measures['autoencoder_psnr_db'])}",
        ),
        plotting.Tile(
            plotting.latent_picture(noise),
            "noise found",
            "the second of two arrays"
            if record["noise"]["arrays"] > 1
            else f"residual {certificate['residual']:.0e}",
            good,
        ),
        plotting.Tile(
            rebuilt,
            "sampled from that noise",
            f"NMSE {decibels(measures['latent_nmse_db'])}",
            good,
        ),
        plotting.Tile(
            plotting.difference_picture(rebuilt, decoded, gain=_GAIN),
            f"difference × {_GAIN:.0f}",
            f"PSNR {decibels(measures['psnr_to_autoencoder_db'])}",
            good,
        ),
    ]
    figure = plotting.panel(
        [plotting.Row(_title(record["strategy"], "\n"), tiles)],
        f"{Path(record['image']).name}: “{record['prompt']}”",
        f"{record['model']}, {sampler} with {record['steps']} steps, "
        f"guidance {record['guidance']:g}. Difference: to the autoencoder's image.",
    )
    plotting.save_figure(figure, path)

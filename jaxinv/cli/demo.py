"""``jaxinv demo``: the whole claim on one page, with the model inside this package.

An image is sampled, so that its noise is known. Then the noise is forgotten and looked
for, by the usual naive inversion and by exact inversion, and the image is made again
from what each of them found.
"""

from pathlib import Path
from typing import Any, NamedTuple

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
from jaxinv.files import check_writable_file
from jaxinv.files.images import image_suffix

_GAIN = 10.0
_MODEL = "emoji64"


class Found(NamedTuple):
    """One inversion in the demo, measured; a JSON-ready record beside the pictures.

    Attributes:
        noise: the noise found.
        image: the image sampled from it, (h, w, 3).
        record: its figures.
    """

    noise: Any
    image: Any
    record: dict[str, Any]


def demo(
    prompt: options.Prompt = "red heart on a light blue background",
    steps: options.Steps = 20,
    guidance: options.Guidance = 3.0,
    sampler: options.SamplerName = "ddim",
    seed: options.Seed = 0,
    out: options.ImageFile = Path("jaxinv-demo.png"),
    as_json: options.AsJson = False,
) -> None:
    """Sample an image, find its noise again, naively and exactly, and compare.

    Needs no network and no arguments. Writes one picture. The exit code is 0 if the
    exact inversions converged, 3 if not, 2 for bad input.
    """
    output = Output(as_json)
    with explained(output):
        check_guidance(guidance)
        if image_suffix(out) != ".png":
            raise ValueError(f"{out}: the picture is a PNG; use a name ending in .png")
        check_writable_file(out, make=False)

        import jax

        import jaxinv as ji
        from jaxinv.cli import runs, samplers
        from jaxinv.cli.progress import Observed, Progress

        sampler = check_choice("sampler", sampler, samplers.ONE_ARRAY_NAMES)
        pipe = ji.load(_MODEL)
        chosen = samplers.make_sampler(pipe.schedule, sampler, steps, "log_snr")
        denoise = pipe.denoiser(prompt, guidance_scale=guidance)
        check_writable_file(out)

    progress = Progress(output.messages)
    watched = Observed(denoise)
    true_noise = jax.random.normal(jax.random.key(seed), pipe.latent_shape)
    latent, seconds = runs.draw(progress, "sampling", chosen, watched, true_noise)
    output.done("sampled an image from known noise", seconds)
    image = pipe.decode(latent)

    def find(title: str, strategy: str) -> Found:
        outcome = runs.find_noise(
            progress,
            title,
            chosen,
            watched,
            latent,
            schedule=pipe.schedule,
            strategy=strategy,
        )
        output.done(title, outcome.seconds)
        noise = outcome.result.noise
        again, _ = runs.draw(progress, "reconstruction", chosen, watched, noise)
        rebuilt = pipe.decode(again)
        record = {
            **outcome.record(),
            "reconstruction_nmse_db": float(ji.nmse_db(again, latent)),
            "image_psnr_db": float(ji.psnr(rebuilt, image)),
            "noise_nmse_db": float(ji.nmse_db(noise, true_noise)),
        }
        return Found(noise, rebuilt, record)

    naive = find("naive inversion", "naive")
    exact = find("exact inversion", "auto")

    record = {
        "model": pipe.name,
        "prompt": prompt,
        "steps": steps,
        "guidance": guidance,
        "sampler": sampler,
        "seed": seed,
        "worst_noise_level_ratio": chosen.worst_ratio,
        "naive": naive.record,
        "exact": exact.record,
        "picture": out,
    }
    with explained(output):
        _draw(out, record, chosen.title, image, true_noise, naive, exact)
    output.show(_table(record, chosen.title), f"[dim]picture in[/] {escape(str(out))}")
    if note := samplers.lossy_note(chosen, pipe.schedule):
        output.note(note)
    output.finish(record)
    if not exact.record["converged"]:
        output.note(
            "the exact inversion did not converge: sampling from its noise misses the "
            f"latent by {exact.record['reconstruction']:.1e}"
        )
        raise typer.Exit(ExitCode.NOT_CONVERGED)


def _table(record: dict[str, Any], sampler: str) -> Table:
    from jaxinv.cli.runs import decibels

    naive, exact = record["naive"], record["exact"]
    table = Table(
        title=f"“{escape(record['prompt'])}” and back: {sampler}, "
        f"{record['steps']} steps, guidance {record['guidance']:g}",
        title_justify="left",
    )
    table.add_column("")
    table.add_column("naive", justify="right")
    table.add_column("exact", justify="right", style="bold")
    table.add_column("", style="dim")

    def row(name: str, cell: Any, meaning: str) -> None:
        table.add_row(name, cell(naive), cell(exact), meaning)

    row(
        "noise NMSE", lambda r: decibels(r["noise_nmse_db"]), "found against true noise"
    )
    row(
        "reconstruction NMSE",
        lambda r: decibels(r["reconstruction_nmse_db"]),
        "latent sampled again from it",
    )
    row("image PSNR", lambda r: decibels(r["image_psnr_db"]), "that latent, decoded")
    row(
        "evaluations per step",
        lambda r: f"{r['evals_per_step']:.1f}",
        "model calls to find it",
    )
    row("certificate", lambda r: f"{r['residual']:.0e}", "worst relative residual")
    row(
        "converged",
        lambda r: "[green]yes[/]" if r["converged"] else "[red]no[/]",
        "solved, and sampled back",
    )
    row("seconds", lambda r: f"{r['seconds']:.1f}", "compilation included")
    return table


def _draw(
    path: Path,
    record: dict[str, Any],
    sampler: str,
    image: Any,
    true_noise: Any,
    naive: Found,
    exact: Found,
) -> None:
    from jaxinv import plotting
    from jaxinv.cli.runs import decibels

    def row(label: str, found: Found, start: list[plotting.Tile | None]) -> Any:
        r = found.record
        good = r["converged"]
        error = plotting.difference_picture(found.noise, true_noise, gain=1.0)
        rest = plotting.difference_picture(found.image, image, gain=_GAIN)
        return plotting.Row(
            label,
            [
                *start,
                plotting.Tile(
                    plotting.latent_picture(found.noise),
                    "noise found",
                    f"residual {r['residual']:.0e}",
                    good,
                ),
                plotting.Tile(
                    error, "its error", f"NMSE {decibels(r['noise_nmse_db'])}", good
                ),
                plotting.Tile(
                    found.image,
                    "image from it",
                    f"NMSE {decibels(r['reconstruction_nmse_db'])}",
                    good,
                ),
                plotting.Tile(
                    rest,
                    f"its error × {_GAIN:.0f}",
                    f"PSNR {decibels(r['image_psnr_db'])}",
                    good,
                ),
            ],
        )

    given: list[plotting.Tile | None] = [
        plotting.Tile(image, "image, sampled"),
        plotting.Tile(plotting.latent_picture(true_noise), "from this noise"),
    ]
    rows = [
        row("naive\ninversion", naive, given),
        row("exact\ninversion", exact, [None, None]),
    ]
    figure = plotting.panel(
        rows,
        f"“{record['prompt']}”: the noise behind an image, found again",
        f"{record['model']}, {sampler} with {record['steps']} steps, guidance "
        f"{record['guidance']:g}. Grey is no error. Of noises, three of the latent's "
        "four channels are shown.",
    )
    plotting.save_figure(figure, path)

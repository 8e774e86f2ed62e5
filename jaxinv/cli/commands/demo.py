"""``jaxinv demo``: a demonstration with the embedded model.

An image is sampled, so that its noise is known. Naive and exact inversion then recover
the noise from the image, and the image is sampled again from both results.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.markup import escape
from rich.table import Table

import jaxinv as ji
from jaxinv.cli import options, record, runs
from jaxinv.cli.console import Output, explained
from jaxinv.cli.options import option
from jaxinv.cli.prepare import prepare
from jaxinv.cli.record import decibels
from jaxinv.cli.samplers import ONE_ARRAY_NAMES, lossy_note
from jaxinv.files import check_writable_file
from jaxinv.files.images import image_suffix

_GAIN = 10.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """The options of ``jaxinv demo``."""

    prompt: str = option("red heart on a light blue background")
    steps: int = option(20)
    guidance: float = option(3.0)
    sampler: str = option("ddim")
    seed: int = option(0, min=0, max=options.MAX_SEED)
    out: Path = option(Path("jaxinv-demo.png"))
    as_json: bool = option(False)


class Found(NamedTuple):
    """One inversion in the demo.

    Attributes:
        noise: The recovered noise.
        image: The image sampled from it, (h, w, 3).
        record: Metrics of the inversion, for a JSON file.
    """

    noise: Any
    image: Any
    record: dict[str, Any]


@options.unfold
def demo(asked: Options) -> None:
    """Sample an image, and compare naive and exact inversion of it.

    Needs no network and no arguments, and writes one picture. The exit code is 0 if the
    exact inversion converged, 3 if not, 2 for invalid input.
    """
    output = Output(asked.as_json)
    with explained(output):
        if image_suffix(asked.out) != ".png":
            raise ValueError(
                f"{asked.out}: the picture is a PNG; use a name that ends in .png"
            )
        check_writable_file(asked.out, make=False)
        sampling = options.Sampling(
            steps=asked.steps, guidance=asked.guidance, sampler=asked.sampler
        )
        ready = prepare(sampling, samplers=ONE_ARRAY_NAMES)
        denoise = ready.denoiser(asked.prompt)
        check_writable_file(asked.out)

    true_noise = jax.random.normal(jax.random.key(asked.seed), ready.pipe.latent_shape)
    done = "sampled an image from known noise"
    latent, _ = runs.draw(output, ready, denoise, true_noise, done=done)
    image = ready.pipe.decode(latent)

    def find(title: str, strategy: str) -> Found:
        outcome = runs.find_noise(
            output, ready._replace(strategy=strategy), denoise, latent, title=title
        )
        noise = outcome.result.noise
        again, _ = runs.draw(output, ready, denoise, noise, title="reconstruction")
        rebuilt = ready.pipe.decode(again)
        return Found(
            noise,
            rebuilt,
            record.certificate(outcome)
            | {
                "reconstruction_nmse_db": float(ji.nmse_db(again, latent)),
                "image_psnr_db": float(ji.psnr(rebuilt, image)),
                "noise_nmse_db": float(ji.nmse_db(noise, true_noise)),
            },
        )

    naive = find("naive inversion", "naive")
    exact = find("exact inversion", "auto")

    report = {
        "model": ready.pipe.name,
        "prompt": asked.prompt,
        "steps": asked.steps,
        "guidance": asked.guidance,
        "sampler": ready.asked.sampler,
        "sampler_description": ready.sampler.description,
        "seed": asked.seed,
        "worst_noise_level_ratio": ready.sampler.worst_ratio,
        "naive": naive.record,
        "exact": exact.record,
        "picture": asked.out,
    }
    title = ready.sampler.title
    with explained(output):
        _draw(report, title, image, true_noise, naive, exact)
    shown = f"[dim]picture in[/] {escape(str(asked.out))}"
    output.show(_table(report, title), shown)
    if note := lossy_note(ready.sampler, ready.pipe.schedule):
        output.note(note)
    output.finish(
        report,
        None
        if exact.record["converged"]
        else "the exact inversion did not converge: sampling from its noise misses the "
        f"latent by {exact.record['reconstruction']:.1e}",
    )


def _table(report: dict[str, Any], sampler: str) -> Table:
    def row(name: str, key: str, shown: Any, meaning: str) -> tuple[str, ...]:
        found = (report[kind][key] for kind in ("naive", "exact"))
        return (name, *map(shown, found), meaning)

    seconds, verdict = "{:.1f}".format, record.yes_or_no
    rows = [
        row("noise NMSE", "noise_nmse_db", decibels, "recovered vs. true noise"),
        row(
            "reconstruction NMSE",
            "reconstruction_nmse_db",
            decibels,
            "latent sampled again from it",
        ),
        row("image PSNR", "image_psnr_db", decibels, "that latent, decoded"),
        row(
            "evaluations per step", "evals_per_step", seconds, "model calls to find it"
        ),
        row("certificate", "residual", "{:.0e}".format, "worst relative residual"),
        row("converged", "converged", verdict, "solved, and sampled back"),
        row("seconds", "seconds", seconds, "compilation included"),
    ]
    title = (
        f"“{escape(report['prompt'])}” and back: {sampler}, {report['steps']} steps, "
        f"guidance {report['guidance']:g}"
    )
    return record.table(title, rows, "naive", "exact")


def _draw(
    report: dict[str, Any],
    sampler: str,
    image: Any,
    true_noise: Any,
    naive: Found,
    exact: Found,
) -> None:
    from jaxinv import plotting
    from jaxinv.plotting import Row, Tile, difference_picture, latent_picture

    def row(label: str, found: Found, start: list[Tile | None]) -> Row:
        good, residual = found.record["converged"], found.record["residual"]
        noise_error, latent_error, psnr = (
            decibels(found.record[f"{name}_db"])
            for name in ("noise_nmse", "reconstruction_nmse", "image_psnr")
        )
        noise = latent_picture(found.noise)
        error = difference_picture(found.noise, true_noise, gain=1.0)
        rest = difference_picture(found.image, image, gain=_GAIN)
        tiles = [
            Tile(noise, "noise found", f"residual {residual:.0e}", good),
            Tile(error, "its error", f"NMSE {noise_error}", good),
            Tile(found.image, "image from it", f"NMSE {latent_error}", good),
            Tile(rest, f"its error × {_GAIN:.0f}", f"PSNR {psnr}", good),
        ]
        return Row(label, [*start, *tiles])

    given: list[Tile | None] = [
        Tile(image, "image, sampled"),
        Tile(latent_picture(true_noise), "from this noise"),
    ]
    rows = [
        row("naive\ninversion", naive, given),
        row("exact\ninversion", exact, [None, None]),
    ]
    figure = plotting.panel(
        rows,
        f"“{report['prompt']}”: the noise behind an image, found again",
        f"{report['model']}, {sampler} with {report['steps']} steps, guidance "
        f"{report['guidance']:g}. Gray is no error. Noises are shown by three of the "
        "latent's four channels.",
    )
    plotting.save_figure(figure, report["picture"])

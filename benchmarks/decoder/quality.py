r"""How near each method comes to the latent, by iterations and by time.

The floor is what rounding takes away: an 8-bit image does not determine the latent. It
is measured by Gauss-Newton from the true latent itself, in at most 8 iterations of 60
inner ones: the latent whose decoding is nearest to the image, in the neighbourhood of
the truth. A method that stops before that can end a little below it.
"""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

import jaxinv as ji
from benchmarks.decoder.setting import (
    Setting,
    compiled,
    pair,
    rounded_psnr,
    with_iterations,
)
from benchmarks.report import body, table
from jaxinv.decoder_inversion import METHODS, GaussNewton
from jaxinv.plotting import save_figure

TITLE = "How near, and at what cost"
COLOURS = {
    "encoder": "#8a8f9c",
    "gradient": "#c8742c",
    "forward_step": "#8e5bb5",
    "inertial_km": "#b0508a",
    "adam": "#b8a01f",
    "anderson": "#1a7f4e",
    "gauss_newton": "#2c6fbb",
}
# Gauss-Newton does twenty inner iterations' work in each: fewer are enough to see.
GAUSS_NEWTON_ITERATIONS = (2, 5)
FEW = (3, 5, 10)


def budgets(name: str, setting: Setting) -> tuple[int, ...]:
    """Return the numbers of iterations that a method is run for."""
    if name == "encoder":
        return (0,)
    if name == "gauss_newton":
        return GAUSS_NEWTON_ITERATIONS
    few = FEW if name in ("anderson", "forward_step", "inertial_km") else ()
    return (*few, *setting.arguments.iterations)


def measure(setting: Setting, name: str, iterations: int | None) -> dict[str, Any]:
    """Return all samples by one method; ``None`` for its own rule when to stop."""
    method = METHODS[name]
    if iterations:
        method = with_iterations(method, iterations)
    samples = setting.samples
    run = compiled(setting.pipe, samples.images[0], method)
    found: dict[str, Any] = {
        "nmse": [],
        "last": [],
        "psnr": [],
        "seconds": [],
        "decodes": [],
        "encodes": [],
        "products": [],
        "residual": [],
        "converged": [],
        "bytes": int(run.memory_analysis().temp_size_in_bytes),
    }
    for latent, image in zip(samples.latents, samples.images, strict=True):
        began = time.perf_counter()
        result = jax.block_until_ready(run(setting.pipe, image))
        found["seconds"].append(time.perf_counter() - began)
        found["nmse"].append(float(ji.nmse_db(result.latent, latent)))
        found["psnr"].append(rounded_psnr(setting.pipe, result.latent, image))
        found["decodes"].append(int(result.num_decodes))
        found["encodes"].append(int(result.num_encodes))
        found["products"].append(int(result.num_products))
        found["residual"].append(float(result.residual))
        found["converged"].append(bool(result.converged))
    return found


def floor(setting: Setting) -> dict[str, Any]:
    """Return the latents nearest to the truth whose decodings fit best."""
    method = GaussNewton(iterations=8, inner=60, patience=2)
    found: dict[str, Any] = {"nmse": [], "psnr": []}

    @jax.jit
    def run(pipe: Any, latent: Any, image: Any) -> Any:
        return ji.invert_decoder(
            lambda x: latent, lambda z: pipe.decode_unclipped(z), image, method
        ).latent

    for latent, image in zip(
        setting.samples.latents, setting.samples.images, strict=True
    ):
        nearest = run(setting.pipe, latent, image)
        found["nmse"].append(float(ji.nmse_db(nearest, latent)))
        found["psnr"].append(rounded_psnr(setting.pipe, nearest, image))
    return found


def run(setting: Setting) -> str:
    """Return the table, the picture and what follows from them."""
    count = setting.arguments.samples
    lowest = setting.remembered(f"floor {count}", lambda: floor(setting))
    rows, measured = [], {}
    for name in METHODS:
        for iterations in (*budgets(name, setting), None):
            if name == "encoder" and iterations is None:
                continue
            key = f"quality {name} {iterations} {count}"
            found = setting.remembered(
                key, lambda n=name, i=iterations: measure(setting, n, i)
            )
            measured[name, iterations] = found
            rows.append(_row(name, iterations, found))
    header = (
        "method | iterations | latent NMSE, dB | image PSNR, dB | converged | D | "
        "E | products | seconds | memory, MiB"
    )
    path = Path(f"{setting.arguments.out.with_suffix('')}-pareto.png")
    save_figure(_picture(measured, lowest), path)
    return f"""{body(__doc__, 1)}

{table(header, rows)}

D, E: evaluations of decoder and encoder; products: of vectors with the decoder's
Jacobian or its transpose; all means. Seconds are medians of one image each, compiled.
Memory is what the compiled program needs beside the weights (XLA's report). The last
row of each method stops by itself. Floor: NMSE {pair(lowest["nmse"])} dB, PSNR
{pair(lowest["psnr"], np.min)} dB.

![Latent NMSE against time]({path.name})

{_verdict(measured, lowest, setting)}"""


def _row(name: str, iterations: int | None, found: dict[str, Any]) -> tuple[Any, ...]:
    return (
        name,
        "until it stops" if iterations is None else iterations,
        pair(found["nmse"]),
        pair(found["psnr"], np.min),
        f"{np.mean(found['converged']):.0%}",
        f"{np.mean(found['decodes']):.1f}",
        f"{np.mean(found['encodes']):.1f}",
        f"{np.mean(found['products']):.0f}",
        f"{np.median(found['seconds']):.3f}",
        f"{found['bytes'] / 2**20:.1f}",
    )


def _verdict(measured: Any, lowest: Any, setting: Setting) -> str:
    """Return the targets beside what was reached."""

    def median(name: str, iterations: int | None) -> float:
        return float(np.median(measured[name, iterations]["nmse"]))

    target = median("adam", 100) if ("adam", 100) in measured else float("nan")
    reach = {
        name: min(
            (i for n, i in measured if n == name and i and median(n, i) <= target),
            default=None,
        )
        for name in METHODS
        if name not in ("encoder", "adam")
    }
    best = min(METHODS, key=lambda name: median(name, 0 if name == "encoder" else None))
    end = 0 if best == "encoder" else None
    above = median(best, end) - float(np.median(lowest["nmse"]))
    longest = max(setting.arguments.iterations)
    drift = {
        name: median(name, longest)
        - min(median(n, i) for n, i in measured if n == name and i)
        for name in METHODS
        if (name, longest) in measured
    }
    encoder = np.array(measured["encoder", 0]["residual"])
    worse = [
        name
        for (name, _), found in measured.items()
        if np.any(np.array(found["residual"]) > encoder * (1 + 1e-6))
    ]
    lines = [
        f"Gradient-free Adam reaches {target:.1f} dB in 100 iterations; the others "
        "reach that in "
        + ", ".join(f"{n}: {i if i else 'not at all'}" for n, i in reach.items())
        + ".",
        f"Best of those that stop by themselves: {best}, {above:.2f} dB above the "
        "floor.",
        f"Run on to {longest} iterations, the median is above its best by "
        + ", ".join(f"{n}: {d:.2f}" for n, d in drift.items())
        + " dB.",
        f"Worse image residual than the encoder's: {', '.join(worse) or 'none'}.",
    ]
    return "\n".join(f"* {line}" for line in lines)


def _picture(measured: Any, lowest: Any) -> Figure:
    """Median NMSE over median time."""
    figure = Figure(figsize=(8.4, 5.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    for name in METHODS:
        points = [
            (np.median(found["seconds"]), np.median(found["nmse"]), iterations)
            for (n, iterations), found in measured.items()
            if n == name and iterations is not None
        ]
        points.sort()
        axes.plot(
            [p[0] for p in points],
            [p[1] for p in points],
            "-o",
            color=COLOURS[name],
            markersize=4,
            label=name.replace("_", " "),
        )
        for x, y, iterations in points:
            if iterations:
                axes.annotate(
                    str(iterations),
                    (x, y),
                    textcoords="offset points",
                    xytext=(3, 4),
                    fontsize=7,
                    color=COLOURS[name],
                )
    axes.axhline(
        float(np.median(lowest["nmse"])), color="#444", linestyle=":", linewidth=1
    )
    axes.text(
        0.01,
        float(np.median(lowest["nmse"])),
        "floor of 8-bit rounding",
        transform=axes.get_yaxis_transform(),
        ha="left",
        va="bottom",
        fontsize=8,
    )
    axes.set_xscale("log")
    axes.set_xlabel("seconds per image, compiled (numbers: iterations)")
    axes.set_ylabel("latent NMSE, dB, median")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure

r"""Image to noise: how much of the error is the decoder's.

Each way of inverting the decoder is followed by the same exact inversion of DDIM. The
last row starts from the true latent: what is left there is the sampler's.

Cocoercivity, in the picture: one point for each sample and method, the least quotient
``<T(z) - T(z*), z - z*> / |T(z) - T(z*)|^2`` along the iteration and the error that it
ends with, relative to where it began; ``T = E(D(.))``. Left of the dashed line the
step size is too long for the theorem.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxinv as ji
from benchmarks.decoder.setting import GUIDANCE, STEPS, Setting, pair
from benchmarks.report import body, table
from jaxinv.decoder_inversion import METHODS, ForwardStep, InertialKM
from jaxinv.plotting import save_figure

TITLE = "The whole way, and cocoercivity"
WAYS = ("encoder", "gradient", "adam", "anderson", "gauss_newton")
# The last is longer than the theorem allows.
STEP_SIZES = (0.1, 1.0, 3.0)


def measure(setting: Setting, way: str) -> dict[str, Any]:
    """NMSE of latent and noise for all samples."""
    samples = setting.samples

    @jax.jit
    def latent_of(pipe: Any, image: Any) -> Any:
        return pipe.invert_decoder(image, METHODS[way]).latent

    found: dict[str, Any] = {"latent": [], "noise": [], "image": []}
    for k in range(len(samples.images)):
        z = samples.latents[k]
        if way != "the true latent":
            z = latent_of(setting.pipe, samples.images[k])
        denoise = setting.pipe.denoiser(
            samples.conds[k], samples.uncond, jnp.float32(GUIDANCE)
        )
        result = ji.invert(setting.sampler, denoise, z)
        again = setting.pipe.generate(setting.sampler, denoise, result.noise)
        found["latent"].append(float(ji.nmse_db(z, samples.latents[k])))
        found["noise"].append(float(ji.nmse_db(result.noise, samples.noises[k])))
        original = jnp.asarray(samples.images[k], jnp.float32) / 255
        found["image"].append(float(ji.psnr(again, original)))
    return found


def along(setting: Setting, method: ForwardStep | InertialKM) -> dict[str, Any]:
    """Cocoercivity of all samples."""
    samples = setting.samples

    @jax.jit
    def one(pipe: Any, image: Any, latent: Any) -> Any:
        return ji.analysis.cocoercivity(
            lambda x: pipe.encode(x),
            lambda z: pipe.decode_unclipped(z),
            image,
            latent,
            method,
        )

    found: dict[str, Any] = {"smallest": [], "error": [], "satisfied": []}
    for image, latent in zip(samples.images, samples.latents, strict=True):
        report = one(setting.pipe, image, latent)
        found["smallest"].append(float(report.smallest))
        found["error"].append(float(report.errors[-1] / report.errors[0]))
        found["satisfied"].append(bool(report.satisfied))
    return found


def run(setting: Setting) -> str:
    """Return the table and the picture."""
    count = setting.arguments.samples
    rows = []
    for way in (*WAYS, "the true latent"):
        found = setting.remembered(
            f"end to end {way} {count}", lambda w=way: measure(setting, w)
        )
        rows.append(
            (
                way,
                *(pair(found[key]) for key in ("latent", "noise")),
                pair(found["image"], np.min),
            )
        )
    methods = {
        f"{name}, step {step:g}": kind(step, iterations=50)
        for name, kind in (("forward step", ForwardStep), ("inertial KM", InertialKM))
        for step in STEP_SIZES
    }
    points = {
        label: setting.remembered(
            f"cocoercivity {label} {count}", lambda m=method: along(setting, m)
        )
        for label, method in methods.items()
    }
    path = Path(f"{setting.arguments.out.with_suffix('')}-cocoercivity.png")
    save_figure(_picture(points), path)
    satisfied = ", ".join(
        f"{label}: {np.sum(found['satisfied'])} of {count}"
        for label, found in points.items()
    )
    header = (
        "decoder inverted by | latent NMSE, dB | noise NMSE, dB | "
        "PSNR of the image made again, dB"
    )
    return f"""{body(__doc__, 1)}

DDIM, {STEPS} steps on the default grid, guidance {GUIDANCE:g}.

{table(header, rows)}

Samples whose step size meets the condition along all of the iteration: {satisfied}.

![Cocoercivity against convergence]({path.name})"""


def _picture(points: dict[str, dict[str, Any]]) -> Figure:
    """Return the error that is left over the least quotient."""
    figure = Figure(figsize=(8.4, 4.8), dpi=120, layout="constrained")
    axes = figure.subplots()
    colours = ("#c9a6e0", "#8e5bb5", "#4b2a66", "#8fc7a6", "#1a7f4e", "#0c3d26")
    for (label, found), colour in zip(points.items(), colours, strict=True):
        axes.scatter(
            found["smallest"],
            20 * np.log10(found["error"]),
            s=26,
            color=colour,
            alpha=0.8,
            label=label,
        )
    for step in STEP_SIZES:
        axes.axvline(step / 2, color="#666", linestyle="--", linewidth=1)
    axes.axvline(0, color="#bbb", linewidth=1)
    axes.axhline(0, color="#bbb", linewidth=1)
    axes.set_xlabel("least cocoercivity along the iteration (dashed: step size / 2)")
    axes.set_ylabel("latent error after 50 iterations, dB of the first")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure

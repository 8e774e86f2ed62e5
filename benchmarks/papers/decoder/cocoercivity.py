r"""Figures 2, 5 and S3: cocoercivity along the iteration, and convergence.

The quotient of an iterate z_k and the last one, ``z_inf = z_300``, is

    <T(z_inf) - T(z_k), z_inf - z_k> / |T(z_inf) - T(z_k)|^2,    T(z) = E(D(z)),

and its minimum over k up to some m stands over ``|z_m - z_inf|``, one point for each
image, in the color of the NMSE of ``z_inf``. It is taken at every fifth k.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import linregress

import jaxinv as ji
from benchmarks.papers.decoder.errors import fixed_gradient
from benchmarks.papers.decoder.iterates import iterates, networks
from benchmarks.papers.decoder.pictures import GUIDANCE, STEPS, autoencoder, picture
from benchmarks.papers.protocol import Cell, Found, Table, needs_autoencoder
from benchmarks.report import share, table
from jaxinv.decoder_inversion import Adam, ForwardStep, InertialKM
from jaxinv.norms import norm
from jaxinv.solvers.iteration import dot

#: What stands for infinity, and the distance of the iterates that are looked at.
LAST, EVERY = 300, 5
#: Method, number of iterates m, and bits, by figure and name.
FIGURES: dict[str, dict[str, tuple[Any, int, int]]] = {
    "2": {
        "forward step 0.001": (ForwardStep(0.001), 100, 32),
        "inertial KM 0.001 momentum 0.9": (InertialKM(0.001, 0.9), 100, 32),
        "forward step 1 (ours)": (ForwardStep(1.0), 100, 32),
        "inertial KM 1 momentum 0.3 (ours)": (InertialKM(), 100, 32),
    },
    # The rate of 50 iterations, which is held from the 40th on.
    "5": {
        "Adam 16 bits": (Adam(iterations=50), 50, 16),
        "Adam 32 bits (ours)": (Adam(iterations=50), 50, 32),
    },
    "S3": {"gradient 0.01 fixed": (fixed_gradient(LAST), 50, 32)},
}


@functools.partial(jax.jit, static_argnames=("method", "last", "count"))
def along(
    vae: Any, pixels: Any, latent: Any, method: Any, count: int, last: int = LAST
) -> dict[str, Any]:
    """Return the least quotient, the convergence and the error of one image."""
    encode, decode = networks(vae)
    found = iterates(vae, pixels, method, last)
    some = found[: count + 1 : EVERY]

    def both(z: Any) -> Any:
        return encode(decode(z)).astype(z.dtype)

    end = both(found[-1])

    def quotient(z: Any) -> Any:
        moved, error = end - both(z), found[-1] - z
        return dot(moved, error) / dot(moved, moved)

    return {
        "cocoercivity": jnp.min(jax.lax.map(quotient, some)),
        "distance": norm(found[count] - found[-1]),
        "nmse": ji.nmse_db(found[-1], latent),
        "first": ji.nmse_db(found[0], latent),
    }


def one(figure: str, setting: Any, cell: Cell, index: int) -> dict[str, Any]:
    method, count, bits = FIGURES[figure][cell["method"]]
    shown = picture(setting, index)
    vae = autoencoder(setting, bits)
    found = along(vae, shown.pixels, shown.latent, method, count)
    return {name: float(value) for name, value in found.items()}


def cells(figure: str, setting: Any) -> list[Cell]:
    return [{"method": name} for name in FIGURES[figure]]


def show(figure: str, found: Found) -> str:
    rows = []
    for name in FIGURES[figure]:
        all_ = found.of(method=name)
        if not all_:
            continue
        least = np.array([x["cocoercivity"] for x in all_])
        distance = np.array([x["distance"] for x in all_])
        positive = int(np.sum(least > 0))
        slope = "-"
        if np.ptp(least) > 0 and len(all_) > 2:
            fit = linregress(least, distance)
            slope = f"{fit.slope:.2f} (p = {fit.pvalue:.2g})"
        rows.append(
            (
                name,
                share(positive, len(all_)),
                f"{np.median(least):.2f} ({least.min():.2f} to {least.max():.2f})",
                f"{np.median(distance):.2f}",
                slope,
                f"{np.median([x['first'] for x in all_]):.1f}",
                f"{np.median([x['nmse'] for x in all_]):.1f}",
            )
        )
    header = (
        "method | cocoercive | least quotient | distance to z_300 | slope of the fit | "
        "NMSE of E(x), dB | NMSE of z_300, dB"
    )
    count = max(len(x) for _, x in found.cells) if found.cells else 0
    return f"""{table(header, rows)}

{count} images; medians, with the extremes of the quotient. *Cocoercive*: the quotient
is positive at all iterates looked at (95 % interval, Wilson). DDIM, {STEPS} steps,
guidance {GUIDANCE:g}. Decodings are not clipped, as published. *Ours*: settings that
are not in the paper."""


def draw(figure: str, found: Found) -> Figure:
    """Draw one plot for each method: convergence over the least quotient."""
    names = [name for name in FIGURES[figure] if found.of(method=name)]
    drawn = Figure(figsize=(4.2 * len(names), 3.8), dpi=110, layout="constrained")
    for ax, name in zip(drawn.subplots(1, len(names), squeeze=False)[0], names,
                        strict=True):  # fmt: skip
        all_ = found.of(method=name)
        x, y, color = (
            np.array([one[key] for one in all_])
            for key in ("cocoercivity", "distance", "nmse")
        )
        points = ax.scatter(x, y, c=color, cmap="viridis", s=28)
        if np.ptp(x) > 0 and len(x) > 2:
            fit = linregress(x, y)
            ends = np.array([x.min(), x.max()])
            ax.plot(ends, fit.intercept + fit.slope * ends, color="red", linewidth=1)
        ax.axvline(0, color="#bbb", linewidth=1)
        ax.set_title(name, fontsize=8)
        ax.set_xlabel("least quotient", fontsize=8)
        ax.set_ylabel("distance of the iterate to z_300", fontsize=8)
        drawn.colorbar(points, ax=ax).set_label("NMSE of z_300, dB", fontsize=8)
    return drawn


PUBLISHED = {
    "2": """A picture of 100 points for each of SD 2.1, LaVie and InstaFlow, forward
step and inertial KM (rate 0.001, momentum 0.9). In words (Section 3.4): most instances
have a positive quotient at all k; fitted lines have negative slopes; the instances that
converge are nearest to the truth. Read off the axes: least quotients between about 0
(SD 2.1 with KM: -0.5) and 0.6, distances up to 3 (SD 2.1, forward step) and 60 (LaVie,
KM).""",
    "5": """A picture of 100 points for each of SD 2.1, LaVie and InstaFlow, in 16 bits,
m = 50. In words (Section 6.1): cocoercivity holds in many cases, and the fitted lines
have negative slopes.""",
    "S3": """A picture of 100 points for each of SD 2.1, LaVie and InstaFlow, m = 50. In
words (Section A.2.4): most instances are cocoercive, but convergence does not depend on
it.""",
}
REMARKS = """Another autoencoder, and far fewer images. z_300 stands for the limit, as
published; with the rate 0.001, the forward step method goes only a quarter of the way
in 300 iterations, so that its distances measure the rate, not convergence."""
TITLES = {
    "2": "cocoercivity and convergence, forward step and inertial KM",
    "5": "cocoercivity and convergence, Adam",
    "S3": "cocoercivity and convergence, gradient-based",
}
TABLES = tuple(
    Table(
        f"decoder-figure-{name.lower()}", f"Figure {name}", TITLES[name], 100,
        functools.partial(cells, name), functools.partial(one, name),
        functools.partial(show, name), PUBLISHED[name], REMARKS,
        "--prompts FILE --images 100", refuse=needs_autoencoder,
        draw=functools.partial(draw, name),
    )
    for name in FIGURES
)  # fmt: skip

"""Real pictures to noise and back: how much of them returns.

Held-out pictures are encoded to latents, inverted, and sampled from what the inversion
returns: its state, which makes the round trip exact but for rounding, or its one array
of noise, which does not. Inversion and sampling run in one of three arithmetics: plain
float32, compensated sums, and integers whose additions undo one another bit by bit.
DDIM is inverted naively.
"""

import argparse
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.belm.setting import Setting, alike, make
from benchmarks.report import body, table
from jaxinv.sampling.lossless import ARITHMETICS

TITLE = "Round trip of real pictures"
SAMPLERS = ("O-BELM", "O-BELM log-SNR", "BDIA", "EDICT", "DDIM")
#: The project's target for O-BELM with compensated updates.
TARGET_DB = -100.0
#: In place of a number of differing bits.
NOT_FITTING = -1


def add_arguments(group: Any) -> None:
    group.add_argument("--trip-steps", type=int, nargs="+", default=[50, 200])
    group.add_argument(
        "--trip-guidance", type=float, nargs="+", default=[1.0, 3.0, 7.5]
    )
    group.add_argument(
        "--trip-images",
        type=int,
        nargs="+",
        default=[2, 2],
        help="pictures, for each of the numbers of steps",
    )
    group.add_argument(
        "--trip-arithmetics", nargs="+", choices=ARITHMETICS, default=[*ARITHMETICS]
    )
    group.add_argument(
        "--trip-samplers", nargs="+", choices=SAMPLERS, default=[*SAMPLERS]
    )


def cells(arguments: argparse.Namespace) -> list[tuple[Any, ...]]:
    pairs = zip(arguments.trip_steps, arguments.trip_images, strict=True)
    return [
        (steps, guidance, sampler, arithmetic, images)
        for steps, images in pairs
        for guidance in arguments.trip_guidance
        for sampler in arguments.trip_samplers
        for arithmetic in _arithmetics(sampler, arguments)
    ]


def _arithmetics(sampler: str, arguments: argparse.Namespace) -> Sequence[str]:
    """Return the arithmetics that a sampler is run in."""
    exact = sampler in ("O-BELM", "BDIA", "EDICT")
    return [a for a in arguments.trip_arithmetics if exact or a == "float"]


def measure(setting: Setting, what: tuple[Any, ...], found: Any) -> dict[str, Any]:
    steps, guidance, name, arithmetic, images = what
    pipe = setting.pipe
    sampler = make(name, pipe.schedule, steps)
    pictures = setting.held_out(images)
    outcome: dict[str, list[Any]] = {"state_db": [], "bits": [], "array_db": []}
    for image, caption in zip(pictures.images, pictures.captions, strict=True):
        # An array as the weight: one program for all guidances, 1 included.
        weight = jnp.float32(guidance)
        denoise = pipe.denoiser(caption, setting.empty, weight)
        x0 = pipe.encode(image)
        trip = round_trip(alike(sampler), denoise, x0, arithmetic)
        for key, value in trip.items():
            outcome[key].append(value)
    return outcome


def round_trip(
    sampler: Any, denoise: Any, x0: Any, arithmetic: str
) -> dict[str, float | int]:
    """Return what comes back of one latent.

    Args:
        sampler: A bidirectional sampler, or DDIM.
        denoise: The denoiser.
        x0: The latent.
        arithmetic: See :func:`jaxinv.sample`.

    Returns:
        ``state_db`` and ``bits``, NMSE and number of differing bits after a round trip
        by the state; ``array_db``, in floats only, the NMSE by one array. NaN and
        :data:`NOT_FITTING` where the inverse left the range of the numbers.
    """
    result, again = there_and_back(sampler, denoise, x0, arithmetic)
    if again is None:
        return {"state_db": math.nan, "bits": NOT_FITTING}
    found: dict[str, float | int] = {
        "state_db": float(ji.nmse_db(again, x0)),
        "bits": differing_bits(again, x0),
    }
    if arithmetic == "float":
        again = ji.sample(sampler, denoise, result.noise)
        found["array_db"] = float(ji.nmse_db(again, x0))
    return found


def there_and_back(
    sampler: Any, denoise: Any, x0: Any, arithmetic: str, **options: Any
) -> tuple[ji.InversionResult, Any]:
    """Return the inversion of a latent and the latent that its state leads to.

    Args:
        sampler: A bidirectional sampler, or any other, inverted naively by default.
        denoise: The denoiser.
        x0: The latent.
        arithmetic: See :func:`jaxinv.sample`.
        **options: Of :func:`jaxinv.invert`.

    Returns:
        The inversion; the latent, or None where the state is not finite.
    """
    exact = {} if arithmetic == "float" else {"arithmetic": arithmetic}
    options.setdefault("strategy", "auto" if sampler.bidirectional else "naive")
    result = ji.invert(sampler, denoise, x0, **options, **exact)
    if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(result.state)):
        return result, None
    return result, ji.sample(sampler, denoise, result.state, **exact)


def differing_bits(a: Any, b: Any) -> int:
    """Return how many bits of two arrays of floats differ."""
    a, b = (np.asarray(x) for x in jax.device_get((a, b)))
    assert a.dtype == b.dtype
    differ = np.bitwise_xor(a.view(np.uint8), b.view(np.uint8))
    return int(np.bitwise_count(differ).sum())


def report(arguments: argparse.Namespace, found: dict[Any, Any]) -> str:
    """Return a row per sampler, steps and guidance."""
    rows = []
    for problem in dict.fromkeys(what[:3] for what in found):
        steps, guidance, sampler = problem
        own = {w[3]: (w[4], v) for w, v in found.items() if w[:3] == problem}
        row = [steps, f"{guidance:g}", sampler, next(iter(own.values()))[0]]
        for arithmetic in ("float", "compensated"):
            row.append(
                _decibels(own[arithmetic][1]["state_db"]) if arithmetic in own else "-"
            )
        row.append(_bits(own["bits"][1]["bits"]) if "bits" in own else "-")
        row.append(_decibels(own["float"][1]["array_db"]) if "float" in own else "-")
        rows.append(row)
    rows.sort(key=lambda row: (row[0], float(row[1])))
    header = (
        "steps | guidance | sampler | pictures | state, float32 | "
        "state, compensated | state, integers: differing bits | one array, float32"
    )
    return f"""{body(__doc__, 1)}

Reconstruction NMSE of the latent, dB. For DDIM the state is the array. -inf is equality
in all bits.

{table(header, rows)}

{facts(found)}"""


def _decibels(values: Sequence[float]) -> str:
    """Median and worst; -inf, equality, is as good as any."""
    lost = sum(math.isnan(value) for value in values)
    if lost:
        return f"out of range for {lost} of {len(values)}"
    return f"{np.median(values):.1f} / {np.max(values):.1f}"


def _bits(differing: Sequence[int]) -> str:
    lost = sum(bits == NOT_FITTING for bits in differing)
    if lost:
        return f"out of range for {lost} of {len(differing)}"
    worst = max(differing)
    return "0, identical" if worst == 0 else f"{worst} in the worst picture"


def facts(found: dict[Any, Any]) -> str:
    """Return the targets, as they came out."""
    lines = []
    compensated = [
        value
        for what, outcome in found.items()
        if what[2:4] == ("O-BELM", "compensated")
        for value in outcome["state_db"]
    ]
    if compensated:
        met = sum(value <= TARGET_DB for value in compensated)
        lines.append(
            f"* O-BELM, compensated: at most {TARGET_DB:g} dB for {met} of "
            f"{len(compensated)} round trips; worst {max(compensated):.1f} dB."
        )
    for sampler in SAMPLERS:
        bits = [
            value
            for what, outcome in found.items()
            if what[2:4] == (sampler, "bits")
            for value in outcome["bits"]
        ]
        if bits:
            same = sum(value == 0 for value in bits)
            lines.append(
                f"* {sampler}, integers: identical bits in {same} of {len(bits)} round "
                "trips."
            )
    return "\n".join(lines)

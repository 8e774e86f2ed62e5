"""Watermarks: what is called marked, what is not, and what cannot be judged.

    python -m benchmarks.watermark_judgement

First latents without the key's mark, 2,000 of each kind, each held against a key of its
own: false positives. Then marked latents with white noise, and noises that were
recovered from pictures of ``emoji64`` (kept in ``--noises``; ``--recover`` makes those
that are missing, which takes an hour): true positives, and forgeries. Beside the
verdict is that of the test of the paper (the key fixed, the latent white noise), which
was the library's before.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxinv as ji
from benchmarks.report import parse, parser, provenance, save, table
from benchmarks.samples import PROMPTS
from benchmarks.watermark.paper import paper_p_values
from benchmarks.watermark_judgement.latents import (
    CHANNEL,
    RADIUS,
    SHAPE,
    all_kinds,
    white,
)
from benchmarks.watermark_judgement.recovered import (
    SCHEMES,
    Recovered,
    make_key,
    recover_all,
)
from jaxinv.apps import watermark
from jaxinv.apps.watermark.plausibility import doubts

RATE = 1e-3
MARKS = ("ring", "random", "zeros", "shading")
#: What nothing but a secret can tell from the mark of a key without one.
NOT_FALSE = {
    ("empty band, plausible rest", "zeros"): "is this mark",
}


def arguments_of(argv: Sequence[str] | None) -> argparse.Namespace:
    found = parser("watermark_judgement", __doc__)
    add = found.add_argument
    add("--count", type=int, default=2_000, help="latents of each kind")
    add("--seed", type=int, default=0)
    add("--noises", type=Path, help="folder of noises recovered from pictures")
    add("--recover", action="store_true", help="make those that are missing")
    add("--naive", type=int, default=16, help="pictures of each scheme")
    add("--exact", type=int, default=8, help="likewise, for the exact inverse")
    return parse(found, argv)


# --- keys and verdicts ---------------------------------------------------------------


@functools.cache
def keys(scheme: str, count: int) -> Any:
    """Keys of one scheme, stacked."""
    if scheme == "shading":
        made = [make_key(scheme, 10_000 + index) for index in range(count)]
        return jax.tree.map(lambda *parts: jnp.stack(parts), *made)
    seeds = jax.random.split(jax.random.key(4), count)

    def one(seed: Any) -> Any:
        return watermark.tree_ring_key(seed, SHAPE, radius=RADIUS, pattern=scheme)  # type: ignore[arg-type]

    return jax.jit(jax.vmap(one))(seeds)


@jax.jit
def scores(keys: Any, latents: Any) -> Any:
    return jax.vmap(lambda key, latent: key.score(latent))(keys, latents)


@jax.jit
def embedded(keys: Any, latents: Any) -> Any:
    return jax.vmap(lambda key, latent: key.embed(latent))(keys, latents)


def verdicts(keys: Any, latents: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which latents are found, and which cannot be judged."""
    found = scores(keys, jnp.asarray(latents))
    doubtful = np.any([*doubts(found.figures).values()], axis=0)
    p = watermark.p_value(found)
    return (p <= RATE) & ~doubtful, doubtful


def before(keys: Any, latents: Any, scheme: str) -> np.ndarray:
    """p-values of the test before: the paper's, whatever the latent is."""
    if scheme == "shading":
        return watermark.p_value(scores(keys, jnp.asarray(latents)))
    return np.asarray(paper_p_values(keys, jnp.asarray(latents)))


# --- pictures as latents -------------------------------------------------------------


def pictures(count: int = 64) -> dict[str, np.ndarray]:
    """Unmarked pictures in the shape of latents: their pixels, and their encodings."""
    pipe = ji.load("emoji64")
    sampler = ji.ddim(ji.time_grid(pipe.schedule, 20, "log_snr"))
    vectors = jnp.stack([pipe.encode_prompt(text) for text in PROMPTS])
    noises = jax.random.normal(jax.random.key(9), (count, *SHAPE))

    @jax.jit
    def draw(pipe: Any, noises: Any) -> Any:
        def one(pair: Any) -> Any:
            noise, vector = pair
            denoise = pipe.denoiser(vector, vectors[0] * 0, jnp.float32(1.0))
            latent = ji.sample(sampler, denoise, noise)
            return latent, pipe.decode(latent)

        return jax.lax.map(one, (noises, vectors[jnp.arange(count) % len(vectors)]))

    latents, images = (np.asarray(x) for x in draw(pipe, noises))
    small = images.reshape(count, 16, 4, 16, 4, 3).mean((2, 4))
    gray = small.mean(-1, keepdims=True)
    return {
        "pictures": 2 * np.concatenate([small, gray], -1) - 1,
        "their encodings": latents,
    }


# --- the tables ----------------------------------------------------------------------


def percent(values: np.ndarray) -> str:
    return f"{100 * np.mean(values):.2f}".rstrip("0").rstrip(".") or "0"


def false_positives(count: int, seed: int) -> tuple[str, dict[tuple[str, str], float]]:
    """Return the table of unmarked latents, and the shares that are called marked."""
    rows, shares = [], {}
    for name, latents in unmarked(count, seed):
        row = [name]
        for scheme in MARKS:
            own = keys(scheme, count)
            text, shares[name, scheme] = cell(own, latents, scheme)
            if note := NOT_FALSE.get((name, scheme)):
                text += f" ({note})"
            row.append(text)
        rows.append(row)
    return table(("latents", *MARKS), rows), shares


def unmarked(count: int, seed: int) -> Any:
    """Return all kinds, and latents that other keys have marked."""
    yield from all_kinds(seed, count, pictures())
    rng = np.random.default_rng([seed, 2_000])
    for scheme in ("ring", "random", "shading"):
        noise = white(rng, count).astype(np.float32)
        others = jax.tree.map(lambda x: jnp.roll(x, 1, 0), keys(scheme, count))
        marked = np.asarray(embedded(others, noise))
        yield f"another {scheme} key", marked
        if scheme != "shading":
            factors = np.exp(rng.uniform(np.log(0.1), np.log(10), (count, 1, 1, 1)))
            yield f"another {scheme} key, 0.1 to 10", marked * factors.astype("f")
            yield f"another {scheme} key, 8 bits", np.round(marked * 16) / 16


def true_positives(count: int, seed: int) -> str:
    """Return the table of marked latents in white noise."""
    rows = []
    rng = np.random.default_rng([seed, 3_000])
    for decibel in (None, -20, -15, -10, -5, 0):
        row = ["none" if decibel is None else f"{decibel} dB"]
        for scheme in MARKS:
            own = keys(scheme, count)
            noise = white(rng, count).astype(np.float32)
            marked = np.array(embedded(own, noise))
            if decibel is not None:
                marked += 10 ** (decibel / 20) * white(rng, count).astype(np.float32)
            row.append(cell(own, marked, scheme)[0])
        rows.append(row)
    return table(("noise added", *MARKS), rows)


def cell(own: Any, latents: Any, scheme: str) -> tuple[str, float]:
    """Return the shares found, not judged, and found before, and the first of them."""
    found, doubtful = verdicts(own, latents)
    shares = (found, doubtful, before(own, latents, scheme) <= RATE)
    return ", ".join(map(percent, shares)), float(np.mean(found))


def of_pictures(all_noises: Sequence[Recovered]) -> str:
    """Return the table of noises that were recovered from pictures."""
    rows = []
    for noises in all_noises:
        error = np.sum((noises.noises - noises.truth) ** 2, (1, 2, 3))
        decibel = 10 * np.log10(error / np.sum(noises.truth**2, (1, 2, 3)))
        row = [f"{noises.inverse}: {noises.hardship}", f"{np.nanmedian(decibel):.1f}"]
        plain = noises.noises[noises.schemes == "plain"]
        for scheme in MARKS:
            chosen = noises.schemes == scheme
            own = recovered_keys(scheme, tuple(noises.indices[chosen]))
            row.append(cell(own, noises.noises[chosen], scheme)[0])
        false, doubtful = [], []
        for scheme in MARKS:
            own = recovered_keys(scheme, tuple(range(len(plain))))
            found, doubt = verdicts(own, plain)
            false.append(found)
            doubtful.append(doubt)
        row.append(f"{percent(np.array(false))}, {percent(np.array(doubtful))}")
        rows.append(row)
    return table(("inverse: hardship", "noise, dB", *MARKS, "unmarked"), rows)


@functools.cache
def recovered_keys(scheme: str, indices: tuple[int, ...]) -> Any:
    made = [make_key(scheme, int(index)) for index in indices]
    return jax.tree.map(lambda *parts: jnp.stack(parts), *made)


def report(arguments: argparse.Namespace) -> str:
    false, shares = false_positives(arguments.count, arguments.seed)
    counted = {pair: share for pair, share in shares.items() if pair not in NOT_FALSE}
    worst = max(counted, key=lambda pair: counted[pair])
    text = f"""# Watermarks: found, not found, cannot judge

{provenance(arguments.command, "emoji64")}
Noise of {SHAPE}, Tree-Ring keys of radius {RADIUS} in channel {CHANNEL}, Gaussian
Shading of 64 bits in blocks of 4x4; found means p <= {RATE:g}. In each cell: % found, %
that cannot be judged, and % found by the test that was this library's before, the
paper's: for Tree-Rings it takes the latent as white noise, for Gaussian Shading it is
the same, but nothing is refused.

## Latents without the key's mark

{arguments.count:,} of each kind, each held against a key of its own. The largest share
of false positives is {100 * counted[worst]:.2f} % ({worst[0]}, {worst[1]}).

{false}

With a key of zeros the row of empty bands in plausible surroundings is no false
positive but what the mark is: it has no secret, and who knows its place can make it.

## Marked latents in white noise

{arguments.count:,} of each.

{true_positives(arguments.count, arguments.seed)}

A ring key of radius {RADIUS} is {RADIUS} numbers: in noise of -10 dB and more they tell
it from other ring keys in a part of the cases only, whatever the test (the paper's
finds these marks, and many latents with other ring keys with them).
"""
    if arguments.noises is None:
        return text
    counts = {"naive": arguments.naive, "naive, encoder": arguments.naive}
    counts["auto"] = arguments.exact
    noises = recover_all(arguments.noises, counts, missing=arguments.recover)
    return f"""{text}
## Noises recovered from pictures of emoji64

DDIM, 20 steps, log-SNR grid, guidance 3, 8 bits; {len(SCHEMES)} times {arguments.naive}
pictures for the naive inverse, {arguments.exact} for the exact one (`auto`). *Prompt
unknown*: the empty prompt without guidance. *Prompt, guidance 1*: the right prompt, but
the default guidance of `jaxinv watermark detect`. *Disc copied*: a forger inverts the
marked picture, copies the disc of the marked channel into noise of his own, and makes a
picture with another prompt of it; *noise copied*: he makes it of the recovered noise as
it is. *Unmarked*: held against a key of every scheme.

{of_pictures(noises)}
"""


def main(argv: Sequence[str] | None = None) -> None:
    arguments = arguments_of(argv)
    with jax.default_matmul_precision("highest"):
        save(arguments.out, report(arguments))


if __name__ == "__main__":
    main()

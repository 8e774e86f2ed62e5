"""The tables and the picture of :mod:`benchmarks.watermark_attacks`."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import binomtest

from benchmarks.report import interval, provenance, share, table
from benchmarks.watermark_attacks.runs import ATTACKS, GUIDANCE, MARKS, Setting
from benchmarks.watermark_attacks.scores import RATES, Condition, Scored, score_all

Scores = Mapping[tuple[Condition, str], Scored]


def report(setting: Setting) -> tuple[str, Figure]:
    """Return the text and the figure."""
    arguments = setting.arguments
    scores = score_all(setting)
    plain = Condition(arguments.few_steps, "naive", "encoder", False, "none")
    side = arguments.side * setting.pipe.factor
    text = f"""# Watermarks after attacks, on {arguments.model}

{provenance(arguments.command, arguments.model)}

Latents of {arguments.side} x {arguments.side} (images of {side} px, 8 bits), seed
{arguments.seed}, DPM-Solver++(2M) on log-SNR grids, guidance {GUIDANCE:g}; every image
has a key of its own, and all schemes mark the same noises. Parameters are the
published ones as shares of 64 x 64: Tree-Ring keys of rings, RingID with two channels
of rings (12, where one published channel has 11), Gaussian Shading in blocks of
8 x 8, PRC with
{int(np.prod(setting.shape)) // 32} bits and t = 3.
The attacks are MarkDiffusion's with its default parameters (rotation 30 degrees, crop
to 0.8, blur of 2 pixels, noise of 25/255, brightness 1.2, five black masks of 0.1, ten
strokes of 5 pixels, adaptive noise 0.5, purification 0.3), JPEG at 50 and 25, a median
of 3 pixels and half of the size and back. Sizes in pixels are not scaled: a blur of 2
pixels of {side} is one of 8 of 512. Its learned codec needs weights that are not here.

*Found* is a share of the marked images with p <= 0.01 or 0.001, by p-values that are
valid for any latent that does not depend on the key (for PRC a bound, for RingID and
Tree-Ring with few rings coarse: they hold their rate but find less than a threshold
from negatives would). *Empirical*: below the p-value that 1 % (0.1 %) of the negatives
pass. Negatives cost no image: all noises of a condition, of all schemes, are held
against {arguments.other_keys} keys that no image carries, which is valid because a key
does not depend on the image: to it, every one of them is unmarked. But pairs of one
key and the noises of one image, which resemble each other after all attacks and with
all marks, count for little more than one: shares of negatives have no interval, and
the rates are tested with independent noises in `tests/apps`.
In brackets: 95 % intervals of marked images (Wilson; bootstrap for dB).

## After attacks, without the prompt

Naive inversion as the published detectors do it: {arguments.few_steps} steps,
encoder's latent, empty prompt, guidance 1.

{_attacks(scores, plain)}

{_false(scores)}

## Inverse by inverse

Rows have different images and schemes, as many as there was time for: only the next
section compares inverses on the same ones.

{_inverses(scores)}

## Does exactness buy detection

The same images by the naive and the exact inverse, from the same latents. *Gain*:
by how much the noise is closer, dB. *Log10 p*: medians.

{_paired(scores)}
"""
    return text, _figure(scores, plain)


def _attacks(scores: Scores, plain: Condition) -> str:
    rows = []
    for attack in ATTACKS:
        for mark in MARKS:
            found = scores.get((plain._replace(attack=attack), mark))
            if found is None:
                continue
            count = len(found.own)
            empirical = [found.found_empirically(rate) for rate in RATES]
            decoded = found.decoded
            rows.append(
                (
                    attack,
                    mark,
                    count,
                    *(share(found.found(rate), count) for rate in RATES),
                    *(
                        "-" if hits is None else share(hits, count)
                        for hits in empirical
                    ),
                    "" if decoded is None else share(int(np.sum(decoded)), count),
                    int(np.sum(~found.plausible)),
                    f"{np.median(np.log10(np.maximum(found.own, 1e-300))):.1f}",
                    interval(found.noise_db, statistic=np.median),
                )
            )
    header = (
        *("attack", "scheme", "images", "found at 1 %", "at 0.1 %"),
        *("empirical, 1 %", "empirical, 0.1 %", "message read", "implausible"),
        *("median log10 p", "noise, dB"),
    )
    return table(header, rows)


def _false(scores: Scores) -> str:
    rows = []
    for mark in MARKS:
        others = [found.others for (_, of), found in scores.items() if of == mark]
        if not others:
            continue
        pooled = np.concatenate(others)
        worst = max(np.mean(part <= RATES[0]) for part in others)
        cells = [f"{100 * np.mean(pooled <= rate):.2f} %" for rate in RATES]
        rows.append((mark, len(pooled), *cells, f"{100 * worst:.1f} %"))
    header = ("scheme", "negatives", "p <= 0.01", "p <= 0.001", "worst condition, 0.01")
    return f"Negatives of all conditions of this page:\n\n{table(header, rows)}"


def _inverses(scores: Scores) -> str:
    """Return a table of all conditions, pooled over schemes."""
    rows = []
    compared = {where.attack for where, _ in scores if where.inverse != "naive"}
    for where in sorted({where for where, _ in scores}, key=str):
        plain = (where.inverse, where.latent, where.known)
        if plain == ("naive", "encoder", False) and where.attack not in compared:
            continue
        parts = [found for (of, _), found in scores.items() if of == where]
        count = sum(len(part.own) for part in parts)
        decibels = np.concatenate([part.noise_db for part in parts])
        evaluations = np.concatenate([part.evals for part in parts])
        converged = sum(int(np.sum(part.converged)) for part in parts)
        rows.append(
            (
                f"{where.steps} steps, {where.attack}",
                "known" if where.known else "unknown",
                f"{where.inverse}, {where.latent}",
                count,
                *(share(sum(p.found(rate) for p in parts), count) for rate in RATES),
                "-" if where.inverse == "naive" else f"{converged} of {count}",
                interval(decibels, statistic=np.median),
                f"{np.median(evaluations):.0f}",
            )
        )
    header = (
        *("steps, attack", "prompt", "inverse, latent", "images", "found at 1 %"),
        *("at 0.1 %", "converged", "noise, dB", "evaluations"),
    )
    return table(header, rows)


def _paired(scores: Scores) -> str:
    rows = []
    wheres = {where for where, _ in scores if where.inverse != "naive"}
    for where in sorted(wheres, key=str):
        pairs: list[tuple[Any, ...]] = []
        for mark in MARKS:
            exact = scores.get((where, mark))
            naive = scores.get((where._replace(inverse="naive"), mark))
            if exact is None or naive is None:
                continue
            for n, image in enumerate(exact.images):
                for m in np.flatnonzero(naive.images == image):
                    pairs.append(
                        (
                            naive.noise_db[m] - exact.noise_db[n],
                            naive.own[m],
                            exact.own[n],
                            exact.converged[n],
                        )
                    )
        if not pairs:
            continue
        gain, naive_p, exact_p, converged = (
            np.array(x) for x in zip(*pairs, strict=True)
        )
        logs = [np.log10(np.maximum(p, 1e-300)) for p in (naive_p, exact_p)]
        rows.append(
            (
                f"{where.steps} steps, {where.attack}",
                "known" if where.known else "unknown",
                where.inverse,
                len(pairs),
                f"{int(np.sum(converged))} of {len(pairs)}",
                interval(gain, statistic=np.median),
                *(f"{np.median(values):.1f}" for values in logs),
                *(
                    f"{int(np.sum(naive_p <= rate))}, {int(np.sum(exact_p <= rate))}"
                    for rate in RATES
                ),
            )
        )
    header = (
        *("steps, attack", "prompt", "inverse", "images", "converged", "gain, dB"),
        *("log10 p, naive", "log10 p, exact", "found at 1 %: naive, exact"),
        "at 0.1 %: naive, exact",
    )
    return table(header, rows) if rows else "Not measured."


def _figure(scores: Scores, plain: Condition) -> Figure:
    """Plot the share found at 0.1 % by attack and scheme."""
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    attacks = [
        attack
        for attack in ATTACKS
        if any((plain._replace(attack=attack), mark) in scores for mark in MARKS)
    ]
    width = 0.8 / len(MARKS)
    for n, mark in enumerate(MARKS):
        places, heights, errors = [], [], []
        for m, attack in enumerate(attacks):
            found = scores.get((plain._replace(attack=attack), mark))
            if found is None:
                continue
            hits, count = found.found(RATES[1]), len(found.own)
            low, high = binomtest(hits, count).proportion_ci(method="wilson")
            places.append(m + (n - 1.5) * width)
            heights.append(hits / count)
            errors.append((max(hits / count - low, 0), max(high - hits / count, 0)))
        if places:
            axes.bar(places, heights, width, label=mark)
            axes.errorbar(
                places, heights, np.array(errors).T, fmt="none", ecolor="0.3", lw=0.8
            )
    axes.set_xticks(range(len(attacks)), attacks, rotation=35, ha="right")
    axes.set_ylabel("found at p <= 0.001")
    axes.set_ylim(0, 1.05)
    axes.legend(ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    return figure

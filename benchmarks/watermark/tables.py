"""The tables and pictures of :mod:`benchmarks.watermark`."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure
from scipy.stats import kstest, mannwhitneyu

from benchmarks.report import provenance, share, table
from benchmarks.watermark.runs import (
    CASES,
    DECODERS,
    FOREIGN,
    HARDSHIPS,
    KEYS,
    METHODS,
    Setting,
)
from jaxinv.apps import watermark
from jaxinv.plotting import confusion_matrices, save_figure

__all__ = ["report", "save_figure"]

RATE = 0.01
SHADING_RATE = 1e-6
SIMULATED = 200_000
NAMES = {
    (method, decoder): f"{method}, {'encoder' if decoder == 'encoder' else 'decoder'}"
    for method in METHODS
    for decoder in DECODERS
}


def chosen(setting: Setting, **wanted: Any) -> list[tuple[Any, dict[str, Any]]]:
    """Return the runs with these values."""
    return [
        (run, found)
        for run, found in setting.found.items()
        if all(getattr(run, name) == value for name, value in wanted.items())
    ]


def verdict(cells: list[tuple[Any, dict[str, Any]]]) -> dict[str, Any]:
    """Confusion matrix and detection of one method."""
    confusion = np.zeros((KEYS, KEYS), int)
    own, others, wrong = [], [], []
    for run, found in cells:
        # What overflowed is near to no key.
        distances = np.nan_to_num(found["distances"], nan=np.inf)
        p = np.nan_to_num(found["p"], nan=1.0)
        # Unmarked images are held against each of the keys in turn.
        key = run.index % KEYS if run.key < 0 else run.key
        score = (distances[key], p[key])
        if run.key < 0:
            others.append(score)
            continue
        own.append(score)
        wrong.append(p[(run.key + 1 + run.index % (KEYS - 1)) % KEYS])
        if np.isfinite(distances).any():
            confusion[run.key, int(np.argmin(distances))] += 1
    own_d, own_p = np.array(own).reshape(-1, 2).T
    other_d, other_p = np.array(others).reshape(-1, 2).T
    auc, near = np.nan, None
    if own and others:
        auc = 1 - mannwhitneyu(own_d, other_d).statistic / (len(own) * len(others))
    if own and len(others) * RATE >= 1:
        # The threshold that at most 1 % of the unmarked images pass, by distance.
        near = int(np.sum(own_d < np.sort(other_d)[int(RATE * len(others))]))
    return {
        "confusion": confusion,
        "marked": len(own),
        "unmarked": len(others),
        "right": int(np.trace(confusion)),
        "auc": auc,
        "near": near,
        "wrong": int(np.sum(np.array(wrong) <= RATE)),
        "true": int(np.sum(own_p <= RATE)),
        "false": int(np.sum(other_p <= RATE)),
        "ks": kstest(other_p, "uniform").pvalue if len(others) > 4 else np.nan,
        "noise": np.median([found["noise_db"] for _, found in cells]),
        "converged": np.mean([found["converged"] for _, found in cells]),
        "evals": np.median([found["evals"] for _, found in cells]),
        "seconds": np.median([found["seconds"] for _, found in cells]),
    }


def report(setting: Setting) -> tuple[str, dict[Path, Figure]]:
    """Text, and figures by file."""
    arguments = setting.arguments
    parts, figures = [], {}
    for case in CASES:
        rows, matrices = [], {}
        for (method, decoder), name in NAMES.items():
            settings = {"case": case, "decoder": decoder, "attack": "none"}
            settings["scheme"] = "tree ring"
            cells = chosen(setting, method=method, **settings)
            if not cells:
                continue
            found = verdict(cells)
            images = {(run.key, run.index) for run, _ in cells}
            same = verdict(
                [
                    (run, of_naive)
                    for run, of_naive in chosen(setting, method="naive", **settings)
                    if (run.key, run.index) in images
                ]
            )
            matrices[name] = found["confusion"]
            rows.append(
                (
                    name,
                    f"{found['marked']}, {found['unmarked']}",
                    share(found["right"], found["marked"]),
                    "" if method == "naive" else share(same["right"], same["marked"]),
                    f"{found['auc']:.3f}",
                    "-"
                    if found["near"] is None
                    else share(found["near"], found["marked"]),
                    share(found["true"], found["marked"]),
                    share(found["false"], found["unmarked"]),
                    share(found["wrong"], found["marked"]),
                    f"{found['ks']:.2g}",
                    f"{found['noise']:.1f}",
                    f"{found['converged']:.0%}",
                    f"{found['evals']:.0f}",
                    f"{found['seconds']:.1f}",
                )
            )
        if not rows:
            continue
        path = Path(f"{arguments.out.with_suffix('')}-{case.split(',')[0]}.png")
        path = path.with_name(path.name.replace(" ", "-"))
        figures[path] = confusion_matrices(matrices, f"DPM-Solver++(2M), {case}")
        header = (
            "inversion, latent",
            "marked, unmarked",
            "right key",
            "naive, same images",
            "AUC",
            f"found at {RATE:.0%} FPR",
            f"found, p <= {RATE:g}",
            "unmarked, same p",
            "another's key, same p",
            "KS p",
            "noise NMSE, dB",
            "converged",
            "evaluations",
            "seconds",
        )
        parts.append(
            f"## DPM-Solver++(2M), {case}\n\n{table(header, rows)}\n\n"
            f"![Confusion matrices]({path.name})"
        )
    parts += [_attacked(setting), _foreign(setting), _shaded(setting)]
    radius = setting.keys[0].radius
    text = f"""# Watermarks on {arguments.model}

{provenance(arguments.command, arguments.model)}

Float32, seed {arguments.seed}, guidance 3, prompt
known. Tree-Ring keys of rings in the last channel, radius {radius}: the published 10
of 64, as a share of {setting.pipe.latent_shape[0]}, rounded up. *Encoder* starts from
the encoder's latent, *decoder* from the inverted decoder's (`anderson`). *Right key*:
nearest of {KEYS}, and what the naive inverse does with those same images. *AUC* and
*found at {RATE:.0%} FPR*: by distance, marked images (to their key) against unmarked
ones (to one of the keys), the threshold such that at most {RATE:.0%} of these pass;
"-" for less than {1 / RATE:.0f}. *p*: by the paper's formula, without unmarked images,
for the image's own key, for unmarked images, and for another's key: two rings of this
radius are much alike, which the formula, made for white noise, does not know (the
library's own verdicts, by a test that does, are in `watermark_judgement.md`). *KS p*:
Kolmogorov-Smirnov test of the unmarked images' p-values against the uniform
distribution. In brackets, 95 % intervals (Wilson). *Trajectory* is the first stage of
`auto`, whose second tries on where no noise leads to an image of 8 bits.

{(chr(10) * 2).join(part for part in parts if part)}
"""
    return text, figures


def _attacked(setting: Setting) -> str:
    """Both inverses on the same images, each hardship by itself."""
    rows = []
    methods = ("naive", "trajectory")
    for case in CASES:
        for attack in ("none", *HARDSHIPS):
            cells = {
                method: {
                    (run.key, run.index): (run, found)
                    for run, found in chosen(
                        setting,
                        case=case,
                        method=method,
                        attack=attack,
                        scheme="tree ring",
                        decoder="anderson",
                    )
                    if run.index < setting.arguments.attacked
                }
                for method in methods
            }
            both = [image for image in cells[methods[0]] if image in cells[methods[1]]]
            if not both:
                continue
            row: list[object] = [case, attack]
            for method in methods:
                found = verdict([cells[method][image] for image in both])
                if method == methods[0]:
                    row.append(f"{found['marked']}, {found['unmarked']}")
                row += [
                    share(found["right"], found["marked"]),
                    share(found["true"], found["marked"]),
                    share(found["false"], found["unmarked"]),
                    f"{found['noise']:.1f}",
                ]
            rows.append(tuple(row))
    rows = [
        row
        for row in rows
        if row[1] != "none"
        or any(other[0] == row[0] and other[1] != "none" for other in rows)
    ]
    if not rows:
        return ""
    header = ["case", "attack", "marked, unmarked"]
    for method in methods:
        header += [
            f"{method}: right key",
            f"found, p <= {RATE:g}",
            "unmarked, same p",
            "noise, dB",
        ]
    return (
        "## After attacks\n\nInverted decoder; the same images for both inverses. "
        "*Prompt unknown*: no attack, but\ninverted with the empty prompt and without "
        f"guidance.\n\n{table(header, rows)}"
    )


def _foreign(setting: Setting) -> str:
    rows = []
    for method in METHODS:
        cells = chosen(setting, method=method, attack=FOREIGN)
        if not cells:
            continue
        p = np.array([found["p"][run.index % KEYS] for run, found in cells])
        rows.append(
            (
                method,
                len(p),
                share(int(np.sum(p <= RATE)), len(p)),
                share(int(np.sum(p <= RATE / 10)), len(p)),
                f"{kstest(p, 'uniform').pvalue:.2g}",
                f"{np.median(p):.2g}",
                f"{np.mean([found['converged'] for _, found in cells]):.0%}",
            )
        )
    if not rows:
        return ""
    header = ("inversion", "pictures", f"p <= {RATE:g}", f"p <= {RATE / 10:g}")
    header += ("KS p", "median p", "converged")
    return (
        "## Pictures that the model never made\n\nHeld-out drawings, held against one "
        "of the keys each; empty prompt, no guidance,\ninverted decoder.\n\n"
        f"{table(header, rows)}"
    )


def _shaded(setting: Setting) -> str:
    bits = len(setting.shading.message)
    needed = watermark.matches_for(SHADING_RATE, bits)
    rows = []
    for (method, decoder), name in NAMES.items():
        cells = chosen(setting, method=method, decoder=decoder, scheme="shading")
        if not cells:
            continue
        matches = np.array([found["matches"] for _, found in cells])
        rows.append(
            (
                name,
                len(cells),
                f"{100 * matches.mean() / bits:.1f} %",
                share(int(np.sum(matches >= needed)), len(cells)),
            )
        )
    if not rows:
        return ""
    # The formula against the library's own score of noise without a message.
    keys = jax.random.split(jax.random.key(0), SIMULATED)
    shape = setting.pipe.latent_shape

    def score(key: jax.Array) -> jax.Array:
        return setting.shading.score(jax.random.normal(key, shape)).matches

    counted = np.asarray(jax.lax.map(score, keys, batch_size=1000))
    checks = ", ".join(
        f"{m} of {bits}: {watermark.false_positive_rate(m, bits):.2e} "
        f"(simulated {np.mean(counted >= m):.2e})"
        for m in (int(0.6 * bits), int(0.7 * bits), int(0.75 * bits))
    )
    header = ("inversion, latent", "images", "bits right", f"found at {SHADING_RATE:g}")
    return f"""## Gaussian Shading

{bits} bits, each in {np.prod(setting.shading.blocks)} numbers; found means at least
{needed} matches, the false positive rate {SHADING_RATE:g}. The formula at other counts,
against the scores of {SIMULATED:,} noises without a message: {checks}.

{table(header, rows)}"""

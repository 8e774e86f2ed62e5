"""From 8-bit pictures to the noise, by three inverses of the decoder."""

import argparse

import numpy as np

from benchmarks.decoder import end_to_end as decoder_end_to_end
from benchmarks.decoder.setting import GUIDANCE, STEPS, Setting, pair
from benchmarks.report import table

WAYS = ("encoder", "anderson", "gauss_newton", "the true latent")


def report(arguments: argparse.Namespace) -> str:
    """Return the table; results are appended to ``whole_way_cells`` one by one."""
    setting = Setting(
        argparse.Namespace(
            model=arguments.model,
            seed=arguments.seed,
            samples=arguments.samples,
            resume=arguments.whole_way_cells,
        )
    )
    rows = []
    for way in WAYS:
        found = setting.remembered(
            f"end to end {way} {arguments.samples}",
            lambda way=way: decoder_end_to_end.measure(setting, way),
        )
        image = pair(found["image"], np.min)
        rows.append([way, pair(found["latent"]), pair(found["noise"]), image])
    header = "decoder inverted by | latent [dB] | noise [dB] | image again [dB]"
    return (
        f"DDIM, {STEPS} steps, guidance {GUIDANCE:g}, {arguments.samples} pictures; "
        f"median / worst.\n\n{table(header, rows)}"
    )

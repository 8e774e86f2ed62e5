"""The published metrics of PIE-Bench: what was kept, and what was changed.

With a picture p, the edited picture q, both in [0, 1], and the mask m (1: to be
changed), the published evaluator compares the *masked pictures* ``(1 - m) p`` and
``(1 - m) q``, over all pixels and channels:

    MSE   mean of the squared difference, also over the pixels under the mask,
    PSNR  10 log10(1 / MSE),
    SSIM  with a Gaussian window of 11 pixels, sigma 1.5, the picture reflected at its
          border, mean over all pixels and channels (torchmetrics 1.9; the published
          code does not say which version it used),
    LPIPS of the masked pictures,

so that a large mask alone makes all of them better. CLIP similarity is of the edited
picture with the target prompt: whole, and times m. The structure distance is of the
whole pictures. Metrics of weights are in :mod:`benchmarks.pie.weights`.

Undefined values: with a mask that covers the whole picture, what compares the kept part
is undefined; with a mask that covers nothing, what judges the edited region. Equal
masked pictures have an infinite PSNR.

References:
    Ju et al. 2023, arXiv:2310.01506, and its repository, ``evaluation/evaluate.py``
    and ``evaluation/matrics_calculator.py``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)
from torchmetrics.functional.regression import mean_squared_error

from benchmarks.pie.layout import Entry

#: What a metric is measured on: entry and edited picture (h, w, 3), 8 bits.
Measure = Callable[[Entry, np.ndarray], float | None]


class Metric(NamedTuple):
    """A column of the table.

    Attributes:
        title: With its unit.
        factor: Factor of the shown values, as in the paper's tables.
        digits: Shown behind the point.
        better: ``"up"`` or ``"down"``.
    """

    title: str
    factor: float
    digits: int
    better: str


METRICS = {
    "structure": Metric("structure distance, 1e-3", 1e3, 1, "down"),
    "psnr": Metric("PSNR, dB", 1, 2, "up"),
    "lpips": Metric("LPIPS, 1e-3", 1e3, 1, "down"),
    "mse": Metric("MSE, 1e-4", 1e4, 1, "down"),
    "ssim": Metric("SSIM, 1e-2", 1e2, 1, "up"),
    "clip_whole": Metric("CLIP, whole", 1, 2, "up"),
    "clip_edited": Metric("CLIP, edited region", 1, 2, "up"),
}


def masked(pixels: np.ndarray, mask: np.ndarray) -> torch.Tensor:
    """Return a picture in [0, 1] times a mask, (1, 3, h, w)."""
    values = np.float32(pixels) / 255 * mask[..., None]
    return torch.from_numpy(values).permute(2, 0, 1)[None]


def kept_part(compare: Callable[[Any, Any], Any]) -> Measure:
    """Return a metric of the part that should be kept, from one of two pictures."""

    def measure(entry: Entry, edited: np.ndarray) -> float | None:
        if entry.mask.all():
            return None
        kept = np.float32(~entry.mask)
        pair = (masked(pixels, kept) for pixels in (entry.image, edited))
        return float(compare(*pair))

    return measure


#: The metrics that need no weights.
OF_PIXELS: dict[str, Measure] = {
    "psnr": kept_part(functools.partial(peak_signal_noise_ratio, data_range=1.0)),
    "mse": kept_part(lambda p, q: mean_squared_error(q.contiguous(), p.contiguous())),
    "ssim": kept_part(
        functools.partial(structural_similarity_index_measure, data_range=1.0)
    ),
}

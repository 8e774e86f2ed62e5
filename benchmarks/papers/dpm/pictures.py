"""Figures of round trips."""

from typing import Any

import numpy as np

from benchmarks.papers.dpm.round_trip import Made, first_trip
from benchmarks.papers.protocol import Cell, Found
from jaxinv import plotting

#: Of the errors, as in the paper's figure.
GAIN = 2.0


def reconstructions(found: Found) -> Any:
    """Draw image 0 of every cell: reconstruction and error of image and noise."""
    setting = found.setting
    rows = [
        _row(cell, measures[0], *first_trip(setting, cell)[:2])
        for cell, measures in found.cells
    ]
    return plotting.panel(
        rows,
        f"There and back on {setting.label}: {setting.prompt(0)}",
        f"Errors times {GAIN:g}. Latent noises: three of their channels.",
    )


def _row(cell: Cell, measures: Any, made: Made, again: Made) -> plotting.Row:
    before, after = _shown(made.image), _shown(again.image)
    label = f"{cell['sampler']} {cell['steps']}\n{cell['inverse']}\n"
    label += f"{cell['inverse_steps']} steps\n{cell['decoder']}"
    tiles = [
        plotting.Tile(before, "image"),
        plotting.Tile(after, "again", _decibels(measures["image"])),
        plotting.Tile(plotting.difference_picture(after, before, gain=GAIN), "error"),
        plotting.Tile(plotting.latent_picture(again.noise), "its noise"),
        plotting.Tile(
            plotting.difference_picture(again.noise, made.noise, gain=GAIN / 3),
            "error",
            _decibels(measures["noise"]),
        ),
    ]
    return plotting.Row(label, tiles)


def _shown(image: np.ndarray) -> np.ndarray:
    if image.dtype == np.uint8:
        return image / 255
    return np.clip(image / 2 + 0.5, 0, 1)


def _decibels(value: float | None) -> str:
    if value is None:
        return "not finite"
    return "exact" if value == 0 else f"{10 * np.log10(value):.1f} dB"

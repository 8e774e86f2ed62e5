"""Figures of inversions, without pyplot: no global state, and no display needed."""

from jaxinv.plotting.charts import confusion_matrices, residual_curves, spectra
from jaxinv.plotting.panel import (
    Row,
    Tile,
    difference_picture,
    film_strip,
    latent_picture,
    panel,
    save_figure,
)

__all__ = [
    "Row",
    "Tile",
    "confusion_matrices",
    "difference_picture",
    "film_strip",
    "latent_picture",
    "panel",
    "residual_curves",
    "save_figure",
    "spectra",
]

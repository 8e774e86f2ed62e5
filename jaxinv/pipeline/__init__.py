"""Pipelines: a network joined with its encoders of conditions and data."""

from jaxinv.pipeline.pipeline import Pipeline

#: Another name of :class:`Pipeline`.
LatentDiffusion = Pipeline

__all__ = ["LatentDiffusion", "Pipeline"]

"""Pipelines: a network joined with its encoders of conditions and data."""

from jaxinv.pipeline.latent_diffusion import LatentDiffusion

__all__ = ["LatentDiffusion"]

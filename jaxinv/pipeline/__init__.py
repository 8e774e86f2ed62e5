"""Pipelines: a network with what makes its conditions and its data."""

from jaxinv.pipeline.latent_diffusion import LatentDiffusion

__all__ = ["LatentDiffusion"]

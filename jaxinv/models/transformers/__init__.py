"""Transformers of diffusion and flow models."""

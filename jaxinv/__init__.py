"""jaxinv: exact inversion of diffusion models in JAX."""

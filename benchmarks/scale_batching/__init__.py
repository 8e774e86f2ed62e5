"""Continuous batching against plain vmap."""

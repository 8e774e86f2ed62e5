"""Sampling with a table, in floating-point or lossless arithmetic."""

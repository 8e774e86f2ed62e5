"""Sampling with a table, in floating point and without loss."""

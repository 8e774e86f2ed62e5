"""Measure other preimages: starts of the inversion, and p-values of its noises."""

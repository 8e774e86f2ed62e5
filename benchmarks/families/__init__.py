"""Measure exact inversion for a model of every implemented family."""

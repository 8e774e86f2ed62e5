"""Families of models: which parts a pipeline has, and how they work together.

A family is a subclass of :class:`~jaxinv.pipeline.families.family.Family` in a file of
its own, and a line in :mod:`jaxinv.pipeline.families.registry`.
"""

from jaxinv.pipeline.families.family import Family
from jaxinv.pipeline.families.registry import FAMILIES, Index, read_index

__all__ = ["FAMILIES", "Family", "Index", "read_index"]

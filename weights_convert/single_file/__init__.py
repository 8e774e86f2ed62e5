"""Models in one file, in the layout in which Stable Diffusion was published.

Names are formulas of the configuration (:mod:`weights_convert.single_file.names`), the
configuration follows from the tensors (:mod:`weights_convert.single_file.infer`).
"""

from weights_convert.single_file.open import SingleFile, open_single_file

__all__ = ["SingleFile", "open_single_file"]

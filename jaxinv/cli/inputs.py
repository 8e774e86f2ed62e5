"""Images as commands take them."""

from jaxinv.images import fit_image as fit

__all__ = ["fit"]

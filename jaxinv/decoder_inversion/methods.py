"""The methods of decoder inversion, by name."""

from jaxinv.checks import by_name
from jaxinv.decoder_inversion.gradient_based import GaussNewton, Gradient
from jaxinv.decoder_inversion.gradient_free import (
    Adam,
    Anderson,
    Encoder,
    ForwardStep,
    InertialKM,
)
from jaxinv.decoder_inversion.method import Method

#: What ``jaxinv.decoder`` has of methods.
__all__ = [
    "METHODS",
    "Adam",
    "Anderson",
    "Encoder",
    "ForwardStep",
    "GaussNewton",
    "Gradient",
    "InertialKM",
    "Method",
]

#: The methods that have names, with their default settings.
METHODS: dict[str, Method] = by_name(
    Encoder(),
    Gradient(),
    ForwardStep(),
    InertialKM(),
    Adam(),
    Anderson(),
    GaussNewton(),
)

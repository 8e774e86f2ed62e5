"""Decoder inversion: the latent that decodes to an image."""

from jaxinv.decoder.frames import framewise
from jaxinv.decoder.invert import QUANTISATION, invert_decoder
from jaxinv.decoder.loop import DecoderInversion
from jaxinv.decoder.methods import (
    METHODS,
    Adam,
    Anderson,
    Encoder,
    ForwardStep,
    GaussNewton,
    Gradient,
    InertialKM,
    Method,
)

__all__ = [
    "METHODS",
    "QUANTISATION",
    "Adam",
    "Anderson",
    "DecoderInversion",
    "Encoder",
    "ForwardStep",
    "GaussNewton",
    "Gradient",
    "InertialKM",
    "Method",
    "framewise",
    "invert_decoder",
]

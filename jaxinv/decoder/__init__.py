"""Decoder inversion: the latent that decodes to an image."""

from jaxinv.decoder.frames import framewise
from jaxinv.decoder.gradient_based import GaussNewton, Gradient
from jaxinv.decoder.gradient_free import (
    Adam,
    Anderson,
    Encoder,
    ForwardStep,
    InertialKM,
)
from jaxinv.decoder.invert import invert_decoder
from jaxinv.decoder.loop import DecoderInversion
from jaxinv.decoder.method import Method
from jaxinv.decoder.methods import METHODS
from jaxinv.decoder.problem import QUANTISATION
from jaxinv.decoder.tiles import tilewise

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
    "tilewise",
]

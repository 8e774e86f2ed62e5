"""Decoder inversion: the latent that decodes to an image."""

from jaxinv.decoder_inversion.frames import framewise
from jaxinv.decoder_inversion.gradient_based import GaussNewton, Gradient
from jaxinv.decoder_inversion.gradient_free import (
    Adam,
    Anderson,
    Encoder,
    ForwardStep,
    InertialKM,
)
from jaxinv.decoder_inversion.invert import invert_decoder
from jaxinv.decoder_inversion.loop import DecoderInversion
from jaxinv.decoder_inversion.method import Method
from jaxinv.decoder_inversion.methods import METHODS
from jaxinv.decoder_inversion.problem import QUANTISATION
from jaxinv.decoder_inversion.tiles import tilewise

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

"""Decoder inversion: find a latent whose decoding matches an image."""

from jaxinv.decoder_inversion import methods as _methods
from jaxinv.decoder_inversion.frames import framewise
from jaxinv.decoder_inversion.invert import invert_decoder
from jaxinv.decoder_inversion.loop import DecoderInversion
from jaxinv.decoder_inversion.methods import *  # noqa: F403
from jaxinv.decoder_inversion.problem import QUANTIZATION
from jaxinv.decoder_inversion.tiles import tilewise

__all__ = [
    "QUANTIZATION",
    "DecoderInversion",
    "framewise",
    "invert_decoder",
    "tilewise",
]
__all__ += _methods.__all__

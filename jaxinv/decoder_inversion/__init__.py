"""Decoder inversion: the latent that decodes to an image."""

from jaxinv.decoder_inversion import methods as _methods
from jaxinv.decoder_inversion.frames import framewise
from jaxinv.decoder_inversion.invert import invert_decoder
from jaxinv.decoder_inversion.loop import DecoderInversion
from jaxinv.decoder_inversion.methods import *  # noqa: F403
from jaxinv.decoder_inversion.problem import QUANTISATION
from jaxinv.decoder_inversion.tiles import tilewise

__all__ = [
    "QUANTISATION",
    "DecoderInversion",
    "framewise",
    "invert_decoder",
    "tilewise",
]
__all__ += _methods.__all__

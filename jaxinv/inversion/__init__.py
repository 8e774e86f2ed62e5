"""Inversion: from data to the noise from which a sampler generates them."""

from jaxinv.inversion.aidi import AIDI
from jaxinv.inversion.algorithm_1 import Algorithm1
from jaxinv.inversion.algorithm_2 import Algorithm2
from jaxinv.inversion.backward import Backward
from jaxinv.inversion.certificate import certify
from jaxinv.inversion.explicit import Explicit
from jaxinv.inversion.invert import invert
from jaxinv.inversion.naive import Naive
from jaxinv.inversion.renoise import ReNoise
from jaxinv.inversion.result import InversionResult
from jaxinv.inversion.stepwise import Stepwise
from jaxinv.inversion.strategies import STRATEGIES, auto_strategy
from jaxinv.inversion.trajectory import Trajectory
from jaxinv.inversion.trajectory_newton import NewtonTrajectory
from jaxinv.inversion.uni_inv import UniInv

__all__ = [
    "AIDI",
    "STRATEGIES",
    "Algorithm1",
    "Algorithm2",
    "Backward",
    "Explicit",
    "InversionResult",
    "Naive",
    "NewtonTrajectory",
    "ReNoise",
    "Stepwise",
    "Trajectory",
    "UniInv",
    "auto_strategy",
    "certify",
    "invert",
]

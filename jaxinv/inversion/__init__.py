"""Inversion: from data to the noise from which a sampler generates them."""

from jaxinv.inversion.algorithm_1 import Algorithm1
from jaxinv.inversion.algorithm_2 import Algorithm2
from jaxinv.inversion.certificate import certify
from jaxinv.inversion.explicit import Explicit
from jaxinv.inversion.invert import invert
from jaxinv.inversion.naive import Naive
from jaxinv.inversion.result import InversionResult
from jaxinv.inversion.stepwise import Stepwise
from jaxinv.inversion.strategies import STRATEGIES, auto_strategy
from jaxinv.inversion.trajectory import Trajectory
from jaxinv.inversion.trajectory_newton import NewtonTrajectory

__all__ = [
    "STRATEGIES",
    "Algorithm1",
    "Algorithm2",
    "Explicit",
    "InversionResult",
    "Naive",
    "NewtonTrajectory",
    "Stepwise",
    "Trajectory",
    "auto_strategy",
    "certify",
    "invert",
]

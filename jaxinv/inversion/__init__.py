"""Inversion: from data back to the noise that the sampler turns into it."""

from jaxinv.inversion.certificate import certify
from jaxinv.inversion.invert import (
    SOLVERS,
    STRATEGIES,
    Strategy,
    auto_strategy,
    invert,
)
from jaxinv.inversion.newton import NewtonTrajectory
from jaxinv.inversion.result import InversionResult
from jaxinv.inversion.trajectory import Trajectory

__all__ = [
    "SOLVERS",
    "STRATEGIES",
    "InversionResult",
    "NewtonTrajectory",
    "Strategy",
    "Trajectory",
    "auto_strategy",
    "certify",
    "invert",
]

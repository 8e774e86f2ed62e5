"""Inversion: from data back to the noise that the sampler turns into it."""

from jaxinv.inversion.certificate import certify
from jaxinv.inversion.explicit import Explicit
from jaxinv.inversion.invert import invert
from jaxinv.inversion.newton import NewtonTrajectory
from jaxinv.inversion.result import InversionResult
from jaxinv.inversion.strategies import (
    SOLVERS,
    STRATEGIES,
    Strategy,
    auto_strategy,
)
from jaxinv.inversion.trajectory import Trajectory

__all__ = [
    "SOLVERS",
    "STRATEGIES",
    "Explicit",
    "InversionResult",
    "NewtonTrajectory",
    "Strategy",
    "Trajectory",
    "auto_strategy",
    "certify",
    "invert",
]

"""Implicit solvers: hashable values that solve ``R(z) = 0`` for one sample."""

from jaxinv.checks import by_name
from jaxinv.solvers.anderson import Anderson
from jaxinv.solvers.fixed_point import FixedPoint, ForwardStep
from jaxinv.solvers.gradient import Gradient
from jaxinv.solvers.iteration import Solution, Solver
from jaxinv.solvers.newton_krylov import NewtonKrylov

#: The names that ``jaxinv`` exports.
__all__ = [
    "Anderson",
    "FixedPoint",
    "ForwardStep",
    "Gradient",
    "NewtonKrylov",
    "Solution",
    "Solver",
]

#: The named solvers, with their default settings.
SOLVERS: dict[str, Solver] = by_name(
    Anderson(), FixedPoint(), ForwardStep(), Gradient(), NewtonKrylov()
)

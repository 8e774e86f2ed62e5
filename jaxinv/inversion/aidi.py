r"""AIDI: accelerated iterative diffusion inversion, a fixed number of iterations.

The state before a step is a fixed point: evaluate the model at a guess and solve the
row for the state (:mod:`jaxinv.inversion.walk`). AIDI iterates this map from the state
after the step, which is the previous iterate of the walk, plainly or with Anderson
acceleration, and continues from the last iterate.

``strategy="stepwise"`` solves the same equations, but begins with an extrapolation of
earlier outputs and iterates until the residual is below a tolerance.
"""

import dataclasses

import jax
from jaxtyping import Array, Float

from jaxinv.checks import AtLeastOne, Whole, checked
from jaxinv.inversion.walk import Row, Walk
from jaxinv.solvers.anderson import mix, no_history


@checked
@dataclasses.dataclass(frozen=True)
class AIDI(Walk):
    """AIDI, with the plain and the Anderson-accelerated iteration.

    The paper's empirical acceleration (AIDI_E) and its guidance for editing are not
    here, and the default number of iterations is this library's.

    Attributes:
        iterations: Evaluations of the model per step; 1 is naive inversion.
        history: Number of earlier differences in Anderson acceleration; 0 for the plain
            fixed-point iteration.

    References:
        Pan et al. 2023, "Effective Real Image Editing with Accelerated Iterative
        Diffusion Inversion", arXiv:2309.04907, Section 3.
    """

    iterations: AtLeastOne = 5
    history: Whole = 0

    @property
    def level_evals(self) -> int:
        """Return the number of iterations."""
        return self.iterations

    def rule(self, row: Row, carry: tuple) -> tuple[Float[Array, "*shape"], tuple, int]:
        """Iterate; see :class:`jaxinv.inversion.walk.Walk`."""
        memory = no_history(row.start, self.history) if self.history else None

        def iterate(k: Array, state: tuple) -> tuple:
            y, memory = state
            image = row.solved(row.f(y))
            return (image, None) if memory is None else mix(k, y, image - y, memory)

        start = (row.start, memory)
        y, _ = jax.lax.fori_loop(0, self.iterations, iterate, start)
        return y, carry, self.iterations

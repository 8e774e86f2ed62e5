"""What a method of decoder inversion is: one rule for the next latent.

A method looks at an iterate z, which costs one evaluation of D and whatever else it
needs, and proposes the next. The loop around it is the same for all
(:mod:`jaxinv.decoder_inversion.loop`): it keeps the best iterate by image misfit,
stops, counts.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float, Int

from jaxinv.decoder_inversion.problem import Count, Memory, Problem

Latent = Float[Array, "*latent"]
Image = Float[Array, "*image"]


@runtime_checkable
class Method(Protocol):
    """A hashable value.

    A method that ends at a solution of an equation ``F(z) = 0`` may have a method
    ``equation(problem, z) -> F(z)``: its result is then differentiable
    (:mod:`jaxinv.decoder_inversion.derivative`).
    """

    @property
    def iterations(self) -> int:
        """How many iterations at most."""
        ...

    @property
    def patience(self) -> int | None:
        """Iterations without a better iterate after which to stop; None for never."""
        ...

    @property
    def count(self) -> Count:
        """What one iteration evaluates."""
        ...

    def begin(self, problem: Problem, z: Latent) -> Memory:
        """What there is to remember before the first iterate."""
        ...

    def step(
        self, problem: Problem, k: Int[Array, ""], z: Latent, memory: Memory
    ) -> tuple[Image, Latent, Memory]:
        """D(z), the next iterate and what to remember, at iterate k = 0, 1, .. ."""
        ...

"""Methods of decoder inversion: rules for the next latent.

A method evaluates an iterate z, with at least one evaluation of D, and proposes the
next iterate. All methods share one loop (:mod:`jaxinv.decoder_inversion.loop`), which
keeps the best iterate by image misfit, stops, and counts evaluations.
"""

from typing import Protocol, runtime_checkable

from jaxtyping import Array, Float, Int

from jaxinv.decoder_inversion.problem import Count, Memory, Problem

Latent = Float[Array, "*latent"]
Image = Float[Array, "*image"]


@runtime_checkable
class Method(Protocol):
    """A method of decoder inversion: a hashable value.

    If its result solves an equation ``F(z) = 0``, it may have a method
    ``equation(problem, z) -> F(z)``, which makes the result differentiable
    (:mod:`jaxinv.decoder_inversion.derivative`).
    """

    @property
    def iterations(self) -> int:
        """Largest number of iterations."""
        ...

    @property
    def patience(self) -> int | None:
        """Number of iterations without improvement after which to stop, or None."""
        ...

    @property
    def count(self) -> Count:
        """Numbers of evaluations in one iteration."""
        ...

    def begin(self, problem: Problem, z: Latent) -> Memory:
        """Return the memory before the first iterate."""
        ...

    def step(
        self, problem: Problem, k: Int[Array, ""], z: Latent, memory: Memory
    ) -> tuple[Image, Latent, Memory]:
        """Return D(z), the next iterate and the memory, at iterate k = 0, 1, .. ."""
        ...

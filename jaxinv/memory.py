"""Peak memory of batched inversion and sampling, as the compiler reports it.

A program is compiled from shapes alone and not run: parameters may be
``jax.ShapeDtypeStruct``, and nothing is allocated on the device. What XLA reports of it
(``memory_analysis``) holds for the backend that it was compiled for. Compiling takes as
long as it would for running the same program, which JAX's compilation cache then finds.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxinv.checks import AtLeastOne, checked
from jaxinv.denoiser import Denoiser
from jaxinv.inversion import Strategy, Trajectory, invert
from jaxinv.inversion.stages import Stage
from jaxinv.sampling import Sampler, sample
from jaxinv.schedule import NoiseSchedule
from jaxinv.solvers import Solver


class Memory(NamedTuple):
    """Bytes that a compiled program needs on one device.

    Attributes:
        parameters: of the model, as far as the program uses them.
        arguments: all other arguments.
        results: what it returns.
        temporaries: what it needs in between.
    """

    parameters: int
    arguments: int
    results: int
    temporaries: int

    @property
    def total(self) -> int:
        """All of them: the peak."""
        return sum(self)

    def __str__(self) -> str:
        parts = ", ".join(f"{k} {in_units(v)}" for k, v in self._asdict().items())
        return f"{in_units(self.total)} ({parts})"


class Fit(NamedTuple):
    """The largest number that fits.

    Attributes:
        number: of samples, or of levels.
        memory: what is needed for so many.
    """

    number: int
    memory: Memory


def program_memory(
    function: Callable[..., Any], parameters: Any, *arguments: Any
) -> Memory:
    """Return the memory of any function, compiled by ``jax.jit``.

    Args:
        function: the function.
        parameters: its first argument, a pytree of arrays or ``jax.ShapeDtypeStruct``
            (:func:`jaxinv.models.abstract_component` makes such models); leaves that
            are neither arrays nor numbers stay as they are.
        *arguments: its other arguments, likewise. All of them are used.

    Returns:
        XLA's report.

    Raises:
        ValueError: if XLA reports nothing on this backend.
    """
    leaves, tree = jax.tree.flatten((parameters, *arguments))
    first = len(jax.tree.leaves(parameters))
    places = [i for i, leaf in enumerate(leaves) if _is_array(leaf)]
    shapes = [
        jax.ShapeDtypeStruct(np.shape(leaves[i]), jnp.result_type(leaves[i]))
        for i in places
    ]

    def call(*arrays: jax.Array) -> Any:
        filled = list(leaves)
        for i, array in zip(places, arrays, strict=True):
            filled[i] = array
        return function(*jax.tree.unflatten(tree, filled))

    report: Any = jax.jit(call).lower(*shapes).compile().memory_analysis()
    if report is None:
        raise ValueError(f"XLA reports no memory on backend {jax.default_backend()!r}")
    given = sum(
        shape.size * shape.dtype.itemsize
        for i, shape in zip(places, shapes, strict=True)
        if i >= first
    )
    return Memory(
        max(int(report.argument_size_in_bytes) - given, 0),
        given,
        int(report.output_size_in_bytes),
        int(report.temp_size_in_bytes),
    )


@checked
def predict_memory(
    sampler: Sampler,
    denoise: Denoiser,
    shape: Sequence[int],
    *,
    batch: AtLeastOne = 1,
    dtype: DTypeLike = jnp.float32,
    **options: Any,
) -> Memory:
    """Return the peak memory of inverting a batch on one device.

    That of ``jax.jit(jax.vmap(...))`` of :func:`jaxinv.invert`, which is compiled for
    it and not run. Of a plan with several stages, ``"auto"`` for instance, all are in
    the program, and the largest counts.

    Args:
        sampler: the sampler.
        denoise: callable pytree ``(x, t) -> f`` on one sample, of arrays or of
            ``jax.ShapeDtypeStruct``.
        shape: of one sample, without a batch axis.
        batch: samples at a time on the device.
        dtype: of the samples, float32 or float64.
        **options: of :func:`jaxinv.invert`.

    Returns:
        XLA's report.

    Raises:
        ValueError: for a batch or shape that is not positive, and as
            :func:`jaxinv.invert`.

    Example:
        >>> import jaxinv as ji
        >>> sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
        >>> denoise = lambda x, t: 0.9 * x
        >>> one = ji.predict_memory(sampler, denoise, (64, 64, 4), strategy="naive")
        >>> one.arguments == 64 * 64 * 4 * 4
        True
    """

    def inverse(denoise: Denoiser, xs: jax.Array) -> Any:
        return jax.vmap(lambda x: invert(sampler, denoise, x, **options))(xs)

    return program_memory(inverse, denoise, _samples(shape, batch, dtype))


def predict_sampling_memory(
    sampler: Sampler,
    denoise: Denoiser,
    shape: Sequence[int],
    *,
    batch: AtLeastOne = 1,
    dtype: DTypeLike = jnp.float32,
) -> Memory:
    """Return the peak memory of sampling a batch on one device.

    Args:
        sampler: the sampler.
        denoise: as of :func:`predict_memory`.
        shape: of one sample.
        batch: samples at a time on the device.
        dtype: of the samples.

    Returns:
        XLA's report.

    Raises:
        ValueError: as :func:`predict_memory`.
    """

    def forward(denoise: Denoiser, xs: jax.Array) -> jax.Array:
        return jax.vmap(lambda x: sample(sampler, denoise, x))(xs)

    return program_memory(forward, denoise, _samples(shape, batch, dtype))


@checked
def largest_batch(
    limit_bytes: int,
    sampler: Sampler,
    denoise: Denoiser,
    shape: Sequence[int],
    *,
    dtype: DTypeLike = jnp.float32,
    strategy: Strategy | Stage | tuple[Stage, ...] = "auto",
    solver: str | Solver | None = None,
    schedule: NoiseSchedule | None = None,
    at_most: int = 1024,
) -> Fit:
    """Return the largest batch that fits in ``limit_bytes``.

    Each batch that is tried is compiled: about five of them, where memory grows evenly.

    Args:
        limit_bytes: memory of one device, in bytes. Leave a margin for what the report
            does not see: the runtime, and scratch memory of libraries.
        sampler: as of :func:`predict_memory`.
        denoise: the denoiser.
        shape: of one sample.
        dtype: of the samples.
        strategy: of the inversion.
        solver: of the stepwise strategy.
        schedule: the model's schedule.
        at_most: the largest batch that is wanted.

    Returns:
        The batch, with its memory.

    Raises:
        ValueError: if not even one fits, and as :func:`predict_memory`.
    """

    def memory(batch: AtLeastOne) -> Memory:
        return predict_memory(
            sampler,
            denoise,
            shape,
            batch=batch,
            dtype=dtype,
            strategy=strategy,
            solver=solver,
            schedule=schedule,
        )

    return _largest(limit_bytes, memory, at_most, "sample")


def largest_chunk(
    limit_bytes: int,
    sampler: Sampler,
    denoise: Denoiser,
    shape: Sequence[int],
    *,
    batch: AtLeastOne = 1,
    dtype: DTypeLike = jnp.float32,
    trajectory: Trajectory | None = None,
) -> Fit:
    """Return the most levels that ``Trajectory(chunk=...)`` can evaluate at a time.

    Args:
        limit_bytes: as of :func:`largest_batch`.
        sampler: as of :func:`predict_memory`.
        denoise: the denoiser.
        shape: of one sample.
        batch: samples at a time on the device.
        dtype: of the samples.
        trajectory: all other settings.

    Returns:
        The chunk, with its memory.

    Raises:
        ValueError: if not even one level fits, and as :func:`predict_memory`.
    """
    settings = trajectory or Trajectory()

    def memory(chunk: int) -> Memory:
        return predict_memory(
            sampler,
            denoise,
            shape,
            batch=batch,
            dtype=dtype,
            strategy=dataclasses.replace(settings, chunk=chunk),
        )

    return _largest(limit_bytes, memory, sampler.num_steps, "level")


def _largest(
    limit_bytes: int, memory: Callable[[int], Memory], at_most: int, what: str
) -> Fit:
    """Bisection, each step where the straight line between its ends meets the limit."""
    if limit_bytes <= 0 or at_most < 1:
        raise ValueError(
            "the limit in bytes and the largest number must be positive, got "
            f"{limit_bytes} and {at_most}"
        )
    low, high = 1, at_most + 1
    fit, above = Fit(1, memory(1)), None
    if fit.memory.total > limit_bytes:
        raise ValueError(
            f"not even one {what} at a time fits into {in_units(limit_bytes)}: it "
            f"needs {fit.memory}"
        )
    slope: float = fit.memory.total - fit.memory.parameters
    while high - low > 1:
        if above is not None:
            slope = (above.memory.total - fit.memory.total) / (high - low)
        guess = low + int((limit_bytes - fit.memory.total) / max(slope, 1))
        guess = min(max(guess, low + 1), high - 1)
        found = Fit(guess, memory(guess))
        if found.memory.total <= limit_bytes:
            slope = (found.memory.total - fit.memory.total) / (guess - low)
            low, fit = guess, found
        else:
            high, above = guess, found
    return fit


def _is_array(leaf: Any) -> bool:
    numbers = jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic
    return isinstance(leaf, numbers | float | complex)


def _samples(
    shape: Sequence[int], batch: AtLeastOne, dtype: DTypeLike
) -> jax.ShapeDtypeStruct:
    if batch < 1 or any(size < 1 for size in shape):
        raise ValueError(
            "the batch and the shape of one sample must be positive, got "
            f"batch={batch}, shape={tuple(shape)}"
        )
    return jax.ShapeDtypeStruct((batch, *shape), dtype)


def in_units(size: float) -> str:
    """Return bytes as text, in B, KiB, MiB or GiB."""
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"

"""Peak memory of batched inversion, from the compiler's report.

The program is compiled from shapes and not run: parameters may be
``jax.ShapeDtypeStruct``, and nothing is allocated on the device. XLA's report
(``memory_analysis``) is valid for the backend of the compilation. JAX's compilation
cache stores the program for later runs.
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxinv.callables import Function
from jaxinv.checks import AtLeastOne, Range, checked
from jaxinv.diffusion.denoiser import Denoiser
from jaxinv.inversion import invert
from jaxinv.samplers.table import SamplerTable
from jaxinv.samplers.units import matched


class Memory(NamedTuple):
    """Bytes that a compiled program needs on one device.

    Attributes:
        parameters: Parameters of the model.
        arguments: All other arguments.
        results: Return values.
        temporaries: Intermediate values.
    """

    parameters: int
    arguments: int
    results: int
    temporaries: int

    @property
    def total(self) -> int:
        """Total memory, the peak."""
        return sum(self)

    def __str__(self) -> str:
        parts = ", ".join(f"{k} {_in_units(v)}" for k, v in self._asdict().items())
        return f"{_in_units(self.total)} ({parts})"


class Fit(NamedTuple):
    """The largest batch that fits.

    Attributes:
        number: Number of samples.
        memory: Memory of the batch.
    """

    number: int
    memory: Memory


@checked
def predict_memory(
    sampler: SamplerTable,
    denoise: Denoiser,
    shape: Sequence[AtLeastOne],
    *,
    batch: AtLeastOne = 1,
    dtype: DTypeLike = jnp.float32,
    **options: Any,
) -> Memory:
    """Return the peak memory of inverting a batch on one device.

    The program is ``jax.jit(jax.vmap(...))`` of :func:`jaxinv.invert`. If its plan has
    several stages, as for ``"auto"``, the largest stage counts.

    Args:
        sampler: The sampler.
        denoise: Callable pytree ``(x, t) -> f`` on one sample, of arrays or of
            ``jax.ShapeDtypeStruct``.
        shape: Shape of one sample, without a batch axis.
        batch: Number of samples at a time on the device.
        dtype: Data type of the samples, float32 or float64.
        **options: Options of :func:`jaxinv.invert`.

    Returns:
        XLA's report.

    Raises:
        ValueError: If :func:`jaxinv.invert` raises it, or if XLA reports nothing on
            this backend.

    Example:
        >>> import jaxinv as ji
        >>> sampler = ji.ddim(ji.time_grid(ji.scaled_linear(), 20))
        >>> denoise = lambda x, t: 0.9 * x
        >>> one = ji.predict_memory(sampler, denoise, (64, 64, 4), strategy="naive")
        >>> one.arguments == 64 * 64 * 4 * 4
        True
    """
    sampler, model = matched(sampler, denoise, tuple(shape))
    kind = jax.dtypes.canonicalize_dtype(dtype)  # float32 unless JAX has 64 bits
    samples = jax.ShapeDtypeStruct((batch, *shape), kind)

    def inverse(model: Function, xs: jax.Array) -> Any:
        return jax.vmap(lambda x: invert(sampler, model, x, **options))(xs)

    compiled = jax.jit(inverse).lower(model, samples).compile()
    return memory_of(compiled, samples.size * samples.dtype.itemsize)


def memory_of(compiled: Any, given: int) -> Memory:
    """Return the memory of a compiled program.

    Args:
        compiled: From ``jax.jit(...).lower(...).compile()``.
        given: Bytes of the arguments that are not parameters of a model.

    Raises:
        ValueError: If XLA reports nothing on this backend.
    """
    report = compiled.memory_analysis()
    if report is None:
        raise ValueError(f"XLA reports no memory on backend {jax.default_backend()!r}")
    return Memory(
        max(int(report.argument_size_in_bytes) - given, 0),
        given,
        int(report.output_size_in_bytes),
        int(report.temp_size_in_bytes),
    )


@checked
def largest_batch(
    limit_bytes: Annotated[int, Range(1)],
    sampler: SamplerTable,
    denoise: Denoiser,
    shape: Sequence[AtLeastOne],
    *,
    at_most: AtLeastOne = 1024,
    **options: Any,
) -> Fit:
    """Return the largest batch that fits in ``limit_bytes``.

    Each candidate is compiled: about five if memory grows evenly.

    Args:
        limit_bytes: Memory of one device, in bytes. Leave a margin for memory outside
            the report: the runtime, and scratch memory of libraries.
        sampler: The sampler.
        denoise: The denoiser; see :func:`predict_memory`.
        shape: Shape of one sample.
        at_most: The largest batch to consider.
        **options: Options of :func:`predict_memory`.

    Returns:
        The batch, with its memory.

    Raises:
        ValueError: If :func:`predict_memory` raises it, or if one sample does not fit.
    """

    def tried(number: int) -> Fit:
        found = predict_memory(sampler, denoise, shape, batch=number, **options)
        return Fit(number, found)

    fit, too_many = tried(1), at_most + 1
    if fit.memory.total > limit_bytes:
        raise ValueError(
            f"one sample does not fit in {_in_units(limit_bytes)}: it needs "
            f"{fit.memory}"
        )
    # Interpolation search: the line through two batches meets the limit at the next
    # one.
    slope: float = fit.memory.total - fit.memory.parameters
    while too_many - fit.number > 1:
        guess = fit.number + int((limit_bytes - fit.memory.total) / max(slope, 1))
        found = tried(min(max(guess, fit.number + 1), too_many - 1))
        growth = found.memory.total - fit.memory.total
        slope = growth / (found.number - fit.number)
        if found.memory.total <= limit_bytes:
            fit = found
        else:
            too_many = found.number
    return fit


def _in_units(size: float) -> str:
    """Return bytes as text, in B, KiB, MiB or GiB."""
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"

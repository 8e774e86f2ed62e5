"""Peak memory of batched inversion and sampling, before anything is compiled."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxinv.denoiser import Denoiser
from jaxinv.inversion import Strategy, invert
from jaxinv.inversion.stages import Stage
from jaxinv.memory.heap import heap_size
from jaxinv.memory.liveness import lives
from jaxinv.memory.tracing import traced
from jaxinv.sampling import Sampler, sample
from jaxinv.schedule import NoiseSchedule
from jaxinv.solvers import Solver


class Memory(NamedTuple):
    """Bytes that a compiled program needs on one device.

    Attributes:
        parameters: of the model, as far as the program uses them.
        arguments: all other arguments that it uses.
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


def program_memory(
    function: Callable[..., Any], parameters: Any, *arguments: Any
) -> Memory:
    """Predict the memory of any function, compiled by ``jax.jit``.

    Nothing is compiled, run or allocated: the function is traced. For the whole way of
    images, say, it is ``lambda pipe, xs: jax.vmap(lambda x: pipe.invert(x, ...))(xs)``.

    Args:
        function: the function.
        parameters: its first argument, a pytree of arrays or ``jax.ShapeDtypeStruct``
            (:func:`jaxinv.models.abstract_component` makes such models); leaves that
            are neither arrays nor numbers stay as they are.
        *arguments: its other arguments, likewise.

    Returns:
        The prediction. It follows XLA's CPU compiler (:mod:`jaxinv.memory`).
    """
    call, leaves, count = _in_leaves(function, parameters, arguments)
    jaxpr = jax.make_jaxpr(call)(*leaves)
    used, body = traced(jaxpr)
    sizes = [0 if value is None else value.size for value in used]
    results = sum(_size(aval) for aval in jaxpr.out_avals)
    given = [value for value in used if value is not None]
    temporaries = heap_size(lives(body, given))
    return Memory(sum(sizes[:count]), sum(sizes[count:]), results, temporaries)


def compiled_memory(
    function: Callable[..., Any], parameters: Any, *arguments: Any
) -> Memory:
    """What XLA reports of the compiled program: the truth, after minutes of compiling.

    Args:
        function: as of :func:`program_memory`, as are the others.
        parameters: its first argument.
        *arguments: its other arguments.

    Returns:
        XLA's numbers, the parameters being those that are used.

    Raises:
        ValueError: if XLA reports nothing on this backend.
    """
    call, leaves, count = _in_leaves(function, parameters, arguments)
    lowered = jax.jit(call).lower(*leaves)
    report: Any = lowered.compile().memory_analysis()
    if report is None:
        raise ValueError(f"XLA reports no memory on backend {jax.default_backend()!r}")
    used, _ = traced(jax.make_jaxpr(call)(*leaves))
    known = sum(value.size for value in used[:count] if value is not None)
    return Memory(
        known,
        int(report.argument_size_in_bytes) - known,
        int(report.output_size_in_bytes),
        int(report.temp_size_in_bytes),
    )


def batched_inverse(
    sampler: Sampler,
    *,
    strategy: Strategy | Stage | tuple[Stage, ...] = "auto",
    solver: str | Solver | None = None,
    schedule: NoiseSchedule | None = None,
) -> Callable[[Denoiser, jax.Array], Any]:
    """The program whose memory :func:`predict_memory` predicts.

    Args:
        sampler: the sampler.
        strategy: as of :func:`jaxinv.invert`, as are the others.
        solver: of the stepwise strategy.
        schedule: the model's schedule.

    Returns:
        ``(denoise, batch of data) -> InversionResult``, to be compiled.
    """

    def inverse(denoise: Denoiser, xs: jax.Array) -> Any:
        def one(x: jax.Array) -> Any:
            return invert(
                sampler, denoise, x, strategy=strategy, solver=solver, schedule=schedule
            )

        return jax.vmap(one)(xs)

    return inverse


def predict_memory(
    sampler: Sampler,
    denoise: Denoiser,
    shape: Sequence[int],
    *,
    batch: int = 1,
    dtype: DTypeLike = jnp.float32,
    strategy: Strategy | Stage | tuple[Stage, ...] = "auto",
    solver: str | Solver | None = None,
    schedule: NoiseSchedule | None = None,
) -> Memory:
    """Predict the peak memory of inverting a batch on one device.

    That of ``jax.jit(jax.vmap(...))`` of :func:`jaxinv.invert`. Of a plan with several
    stages, ``"auto"`` for instance, all are in the program, and the largest counts.

    Args:
        sampler: the sampler.
        denoise: callable pytree ``(x, t) -> f`` on one sample, of arrays or of
            ``jax.ShapeDtypeStruct``.
        shape: of one sample, without a batch axis.
        batch: samples at a time on the device.
        dtype: of the samples, float32 or float64.
        strategy: as of :func:`jaxinv.invert`, as are the others.
        solver: of the stepwise strategy.
        schedule: the model's schedule.

    Returns:
        The prediction.

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
    inverse = batched_inverse(
        sampler, strategy=strategy, solver=solver, schedule=schedule
    )
    return program_memory(inverse, denoise, _samples(shape, batch, dtype))


def predict_sampling_memory(
    sampler: Sampler,
    denoise: Denoiser,
    shape: Sequence[int],
    *,
    batch: int = 1,
    dtype: DTypeLike = jnp.float32,
) -> Memory:
    """Predict the peak memory of sampling a batch on one device.

    Args:
        sampler: the sampler.
        denoise: as of :func:`predict_memory`, as are the others.
        shape: of one sample.
        batch: samples at a time on the device.
        dtype: of the samples.

    Returns:
        The prediction.

    Raises:
        ValueError: as :func:`predict_memory`.
    """

    def forward(denoise: Denoiser, xs: jax.Array) -> jax.Array:
        return jax.vmap(lambda x: sample(sampler, denoise, x))(xs)

    return program_memory(forward, denoise, _samples(shape, batch, dtype))


def _in_leaves(
    function: Callable[..., Any], parameters: Any, arguments: tuple[Any, ...]
) -> tuple[Callable[..., Any], list[jax.ShapeDtypeStruct], int]:
    """The function of its arrays alone, and how many of them are parameters."""
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

    return call, shapes, sum(i < first for i in places)


def _is_array(leaf: Any) -> bool:
    numbers = jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic
    return isinstance(leaf, numbers | float | complex)


def _samples(
    shape: Sequence[int], batch: int, dtype: DTypeLike
) -> jax.ShapeDtypeStruct:
    if batch < 1 or any(size < 1 for size in shape):
        raise ValueError(
            "the batch and the shape of one sample must be positive, got "
            f"batch={batch}, shape={tuple(shape)}"
        )
    return jax.ShapeDtypeStruct((batch, *shape), dtype)


def _size(aval: Any) -> int:
    return int(np.prod(aval.shape, dtype=np.int64)) * aval.dtype.itemsize


def in_units(size: float) -> str:
    """Bytes as text, in B, KiB, MiB or GiB."""
    for unit in ("B", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"

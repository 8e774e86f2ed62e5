r"""The step from a user's call to a compiled program.

Public functions are ordinary Python: they check their arguments on the host, with
errors that state what was expected, and then call a jitted function. This works for
*any* callable:

* :class:`Function` turns a denoiser into an ordinary argument: its arrays are arguments
  of the compiled program, and the rest selects the program. One program serves all
  parameters.
* values are checked only if they are known: under the caller's ``jax.jit`` or
  ``jax.vmap``, only shapes and dtypes are checked.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree


@dataclasses.dataclass(frozen=True)
class _Rebuild:
    """The part of a callable without arrays, hashable as a static argument."""

    treedef: Any
    static: tuple[Any, ...]

    def __call__(self, arrays: list[Any]) -> Callable[..., Any]:
        remaining = iter(arrays)
        leaves = [next(remaining) if s is _ARRAY else s for s in self.static]
        return jax.tree.unflatten(self.treedef, leaves)


class _Marker:
    """A placeholder for an array among the static leaves."""


_ARRAY = _Marker()

#: Name of the layer outputs that rematerialization should store.
LAYER = "jaxinv.layer"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Function:
    """Any callable as an argument of compiled programs: a pytree, and itself callable.

    Attributes:
        arrays: The arrays, in the order of the leaves.
        rebuild: Hashable function from such a list to the callable (static).
        output: A label of what the callable returns (static).
    """

    arrays: list[Any]
    rebuild: Callable[[list[Any]], Callable[..., Any]] = dataclasses.field(
        metadata={"static": True}
    )
    output: Any = dataclasses.field(default=None, metadata={"static": True})

    @classmethod
    def of(cls, fn: Callable[..., Any], output: Any = None) -> "Function":
        """Split a callable pytree into its arrays and everything else.

        Args:
            fn: A Flax NNX or Equinox module, a ``jax.tree_util.Partial``, a plain
                function, or any pytree of these.
            output: A label of what the callable returns.
        """
        leaves, treedef = jax.tree.flatten(fn)
        arrays_are = jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic
        is_array = [isinstance(x, arrays_are | float | complex) for x in leaves]
        both = list(zip(is_array, leaves, strict=True))
        static = tuple(_ARRAY if a else x for a, x in both)
        return cls([x for a, x in both if a], _Rebuild(treedef, static), output)

    def __call__(self, *args: Any) -> Any:
        """Rebuild the callable and call it.

        JAX traces it once for all programs that call it with the same shapes: tracing a
        network takes long.
        """
        return _call(self, *args)

    def parted(self) -> "Parted":
        """Split the arrays into those with derivatives and those without."""
        kinds = [jnp.issubdtype(jnp.result_type(x), jnp.inexact) for x in self.arrays]

        def join(floats: Sequence[Any], others: Sequence[Any]) -> Function:
            sources = {True: iter(floats), False: iter(others)}
            arrays = [next(sources[kind]) for kind in kinds]
            return Function(arrays, self.rebuild, self.output)

        both = list(zip(kinds, self.arrays, strict=True))
        return Parted([x for k, x in both if k], [x for k, x in both if not k], join)


@jax.jit
def _call(function: Function, *args: Any) -> Any:
    return function.rebuild(function.arrays)(*args)


class Parted(NamedTuple):
    """The arrays of a :class:`Function` with and without derivatives.

    Attributes:
        floats: Arrays of real or complex numbers.
        others: Arrays of integers, which have no derivative.
        join: Function from two such lists to the :class:`Function`.
    """

    floats: list[Any]
    others: list[Any]
    join: Callable[[Sequence[Any], Sequence[Any]], Function]


def check_finite(x: Array, what: str) -> None:
    """Raise ValueError unless x is a float32 or float64 array of finite values."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"the {what} must be a floating-point array, got dtype {x.dtype}"
        )
    if x.dtype.itemsize < 4:
        raise ValueError(
            f"the {what} must be float32 or float64, got {x.dtype}: 16-bit states are "
            "too imprecise to invert; pass float32 (the network may run in any dtype)"
        )
    if x.size == 0:
        raise ValueError(f"the {what} must not be empty, got shape {x.shape}")
    if isinstance(x, jax.core.Tracer):
        return
    with jax.ensure_compile_time_eval():  # x may be a constant of a caller's jit
        bad = int(_not_finite(x))
    if bad:
        raise ValueError(
            f"the {what} must be finite, but {bad} of its {x.size} values are NaN or "
            "infinite"
        )


@jax.jit
def _not_finite(x: Array) -> Array:
    return jnp.sum(~jnp.isfinite(x))


def check_denoiser(denoise: Callable[..., Any], x: Array) -> None:
    """Raise ValueError unless ``denoise(x, t)`` maps x's shape to itself."""
    t = jax.ShapeDtypeStruct((), x.dtype)
    try:
        out = jax.eval_shape(denoise, jax.ShapeDtypeStruct(x.shape, x.dtype), t)
    except Exception as error:
        raise ValueError(
            f"the denoiser does not accept one sample of shape {x.shape} (no batch "
            f"axis: use jax.vmap for more) and a scalar time: {first_line(error)}"
        ) from error
    if getattr(out, "shape", None) != x.shape:
        raise ValueError(
            f"the denoiser must return the shape of its input, {x.shape}; it returned "
            f"{getattr(out, 'shape', type(out).__name__)}"
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(
            f"the denoiser must return real floating-point numbers, got {out.dtype}"
        )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def first_order_only(tree: PyTree, what: str) -> PyTree:
    """Return a pytree of arrays whose derivative is an error.

    Apply it to the inputs of a gradient to make second derivatives an error. Otherwise,
    the constant parts of a gradient, such as the solution of an implicit equation,
    would contribute zeros to them.

    Args:
        tree: The inputs of a backward pass.
        what: Name of the function with a first derivative only, for the error.

    Returns:
        The same values. Differentiating them raises ValueError while tracing.
    """

    @jax.custom_jvp
    def same(tree: PyTree) -> PyTree:
        return tree

    @same.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        raise ValueError(
            f"{what} can be differentiated once, in reverse mode: jax.hessian, or a "
            "jax.grad of a jax.grad, through it is not supported (its implicit "
            "solution would count as a constant). For curvature along a direction, "
            "take differences of two gradients"
        )

    return same(tree)

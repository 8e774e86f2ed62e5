r"""The step from a user's call to a compiled program.

Public functions are ordinary Python: they check their arguments on the host, with
errors that state what was expected, and then call a jitted function. This works for
*any* callable:

* :func:`split_callable` splits a denoiser into its arrays, which become arguments of
the
  compiled program, and the rest, which selects the program. One program serves all
  parameters.
* values are checked only if they are known: under the caller's ``jax.jit`` or
  ``jax.vmap``, only shapes and dtypes are checked.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


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


def split_callable(fn: Callable[..., Any]) -> tuple[list[Any], _Rebuild]:
    """Split a callable pytree into its arrays and everything else.

    Args:
        fn: a Flax NNX or Equinox module, a ``jax.tree_util.Partial``, a plain
            function, or any pytree of these.

    Returns:
        The list of array leaves, and a hashable value that rebuilds the callable from
        such a list.
    """
    leaves, treedef = jax.tree.flatten(fn)
    arrays_are = jax.Array | jax.ShapeDtypeStruct | np.ndarray | np.generic
    is_array = [isinstance(x, arrays_are | float | complex) for x in leaves]
    static = tuple(_ARRAY if a else x for a, x in zip(is_array, leaves, strict=True))
    arrays = [x for a, x in zip(is_array, leaves, strict=True) if a]
    return arrays, _Rebuild(treedef, static)


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
    if not callable(denoise):
        raise ValueError(
            "the denoiser must be callable as denoise(x, t); got "
            f"{type(denoise).__name__}"
        )
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

r"""What stands between a user's call and the compiled program.

The public functions are ordinary Python: they check what can be checked on the host,
with errors that say what was expected, and then call a jitted function. Two things make
that work for *any* callable:

* :func:`split_callable` parts a denoiser into its arrays, which become arguments of the
  compiled program, and the rest, which selects it. One program serves all parameters.
* the checks look at values only when there are values: under the caller's ``jax.jit``
  or ``jax.vmap`` only shapes and dtypes are known, and only they are checked.
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
    """The part of a callable that is not arrays: hashable, a static argument."""

    treedef: Any
    static: tuple[Any, ...]

    def __call__(self, arrays: list[Any]) -> Callable[..., Any]:
        remaining = iter(arrays)
        leaves = [next(remaining) if s is _ARRAY else s for s in self.static]
        return jax.tree.unflatten(self.treedef, leaves)


class _Marker:
    """Stands for an array among the static leaves."""


_ARRAY = _Marker()

#: What the outputs of layers are called that rematerialisation should keep.
LAYER = "jaxinv.layer"


def split_callable(fn: Callable[..., Any]) -> tuple[list[Any], _Rebuild]:
    """Part a callable pytree into its arrays and everything else.

    Args:
        fn: a Flax NNX or Equinox module, a ``jax.tree_util.Partial``, a plain
            function, or any pytree of these.

    Returns:
        The list of array leaves, and a hashable value that makes the callable again
        from such a list.
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
            f"the {what} must be float32 or float64, got {x.dtype}: 16 bits hold no "
            "state exactly enough to be found again (the network may run in any dtype)"
        )
    if x.size == 0:
        raise ValueError(f"the {what} must have values, got an empty shape {x.shape}")
    if isinstance(x, jax.core.Tracer):
        return
    with jax.ensure_compile_time_eval():  # x may be a constant of a caller's jit
        bad = int(jnp.sum(~jnp.isfinite(x)))
    if bad:
        raise ValueError(
            f"the {what} must be finite, but {bad} of its {x.size} values are NaN or "
            "infinite"
        )


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
            f"the denoiser must return the shape that it is given, {x.shape}; it "
            f"returned {getattr(out, 'shape', type(out).__name__)}"
        )
    if not jnp.issubdtype(out.dtype, jnp.floating):
        raise ValueError(
            f"the denoiser must return real floating-point numbers, got {out.dtype}"
        )


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)

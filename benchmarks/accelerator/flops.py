"""Floating-point operations of a program, and how many the chip could do.

Counted are the products: convolutions, dense layers and attention, two operations for
each multiplication with its addition. XLA's own count (``cost_analysis``) has all
elementwise operations too, and nothing of what runs inside of a library's kernel.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params

from benchmarks.timing import seconds

#: Peak dense TFLOP/s by ``device_kind``: of bfloat16, and of float32 as XLA computes
#: products of it by default (TF32 on NVIDIA GPUs, one bfloat16 pass on TPUs).
PEAKS: dict[str, tuple[float, float]] = {
    # NVIDIA A100 datasheet, 2021: BF16 312, TF32 156.
    "NVIDIA A100-SXM4-40GB": (312, 156),
    "NVIDIA A100-SXM4-80GB": (312, 156),
    # NVIDIA H100 and H200 datasheets, SXM: 1,979 and 989 with sparsity, half without.
    "NVIDIA H100 80GB HBM3": (989.5, 494.5),
    "NVIDIA H200": (989.5, 494.5),
    # NVIDIA L4 datasheet: 242 and 120 with sparsity, half without.
    "NVIDIA L4": (121, 60),
    # NVIDIA L40S datasheet: 362.05 and 183 without sparsity.
    "NVIDIA L40S": (362, 183),
    # Google Cloud TPU documentation, "System architecture", peak compute per chip.
    "TPU v4": (275, 275),
    "TPU v5 lite": (197, 197),
    "TPU v5": (459, 459),
    "TPU v5p": (459, 459),
    "TPU v6 lite": (918, 918),
}


def product_flops(function: Callable[..., Any], *arguments: Any) -> int:
    """Operations of all products in a program.

    Args:
        function: What is to be traced; nothing is computed.
        *arguments: Arrays or ``jax.ShapeDtypeStruct``.

    Returns:
        Floating-point operations; of branches the larger one.

    Raises:
        ValueError: For a loop of unknown length that has products in it.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> int:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    size = math.prod(getattr(equation.outvars[0].aval, "shape", ()))
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        out_features = params["dimension_numbers"].rhs_spec[0]
        return 2 * size * math.prod(kernel) // kernel[out_features]
    inner = [_count(jaxpr) for jaxpr in jaxprs_in_params(params)]
    if name == "cond":
        return max(inner)
    if name == "while" and any(inner):
        raise ValueError("the products of a loop of unknown length cannot be counted")
    return sum(inner) * (params["length"] if name == "scan" else 1)


def peak_flops(dtype: Any) -> tuple[float, str]:
    """Operations per second that the first device could do, and where that is from.

    Args:
        dtype: Data type of the products.

    Returns:
        FLOP/s; "datasheet" or, for kinds of device that are not in :data:`PEAKS`,
        "measured": the fastest of some products of large matrices.
    """
    known = PEAKS.get(jax.devices()[0].device_kind)
    if known is not None:
        return 1e12 * known[jnp.dtype(dtype).itemsize > 2], "datasheet"
    size = 2048 if jax.default_backend() == "cpu" else 8192
    matrix = jnp.asarray(np.random.default_rng(0).random((size, size)), dtype)
    product = jax.jit(jnp.matmul)
    times = [seconds(lambda: product(matrix, matrix), 3) for _ in range(3)]
    return 2 * size**3 / min(times), "measured"

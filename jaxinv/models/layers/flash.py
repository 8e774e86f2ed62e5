r"""Attention without stored weights: cuDNN's fused kernel on NVIDIA GPUs.

The weights of attention, ``softmax(Q K^T / sqrt(d))``, are the largest array of a UNet:
4096 x 4096 for each head and image at 512 x 512 pixels. A fused ("flash") kernel
computes them piece by piece in registers, with logits and softmax in float32, and
accumulates the output. It supports only 16-bit queries, keys and values, and certain
head sizes.

``jax.nn.dot_product_attention(implementation="cudnn")`` is that kernel. It lacks two
features that this library needs. It can be vmapped only if queries, keys and values all
have the mapped axis, but classifier-free guidance combines one image with two prompts.
It has no forward-mode derivative, which Newton's method needs. This module adds both.
Derivatives of either mode are computed by XLA from the same formula, with XLA's memory.

References:
    Dao et al., "FlashAttention: Fast and Memory-Efficient Exact Attention with
    IO-Awareness", 2022. https://arxiv.org/abs/2205.14135
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import backend
from jaxtyping import Array, Float

# jax/_src/cudnn/fused_attention_stablehlo.py, check_is_flash_attention: heads of a
# multiple of 8, at most 128, or 256 from Hopper on (compute capability 9.0).
_HEAD_MULTIPLE = 8
_LARGEST_HEAD = {False: 128, True: 256}
_HOPPER = (9, 0)


def has_cudnn() -> bool:
    """Return whether the default backend is an NVIDIA GPU."""
    return "cuda" in getattr(backend.get_backend(), "platform_version", "")


def flash_takes(size: int, dtype: Any) -> bool:
    """Return whether the kernel supports heads of this size and dtype here.

    Args:
        size: Features of one head.
        dtype: Data type of queries, keys and values.
    """
    largest = _LARGEST_HEAD[_compute_capability() >= _HOPPER]
    half = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16)
    return half and size % _HEAD_MULTIPLE == 0 and size <= largest


def _compute_capability() -> tuple[int, ...]:
    found = getattr(jax.local_devices()[0], "compute_capability", "0.0")
    return tuple(int(part) for part in str(found).split("."))


@functools.partial(jax.custom_jvp, nondiff_argnums=(3,))
def flash_attention(
    query: Float[Array, "q n d"],
    key: Float[Array, "k n d"],
    value: Float[Array, "k n d"],
    is_causal: bool,
) -> Float[Array, "q n d"]:
    """Compute scaled dot-product attention with cuDNN's kernel.

    Args:
        query: One vector per head and query, bfloat16 or float16.
        key: One vector per head and key, same dtype.
        value: One vector per head and key, same dtype.
        is_causal: Whether query i sees only the keys up to i.

    Returns:
        One vector per head and query, in the same dtype.

    Raises:
        RuntimeError: If there is no cuDNN (raised while tracing).
    """
    # If a caller's vmap maps any of the three, all are mapped after this. XLA's
    # simplifier turns slices of a concatenation back into its parts.
    joined = jnp.concatenate([query, key, value])
    ends = query.shape[0], query.shape[0] + key.shape[0]
    query, key, value = jnp.split(joined, ends)
    return jax.nn.dot_product_attention(
        query, key, value, is_causal=is_causal, implementation="cudnn"
    )


@flash_attention.defjvp
def _jvp(
    is_causal: bool,
    primals: tuple[Array, Array, Array],
    tangents: tuple[Array, Array, Array],
) -> tuple[Array, Array]:
    xla = functools.partial(
        jax.nn.dot_product_attention, is_causal=is_causal, implementation="xla"
    )
    _, tangent = jax.jvp(xla, primals, tangents)
    return flash_attention(*primals, is_causal), tangent
